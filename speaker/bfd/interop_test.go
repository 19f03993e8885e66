package bfd

import (
	"fmt"
	"net/netip"
	"testing"
	"time"
)

// interop is an engine and another implementation on one cable, with a session
// of each kind.
type interop struct {
	router
	host   *host
	here   *node
	ours   []Key // as we name the sessions
	theirs []Key
}

func newInterop(t *testing.T, r router) *interop {
	addr := netip.MustParseAddr
	here, other := newNode(t), newNode(t)
	cable(t, "eth0", here, other, "192.0.2.1/24", "192.0.2.2/24", "198.51.100.1/24", "198.51.100.2/24", "2001:db8::1/64", "2001:db8::2/64")
	llHere, llOther := here.linkLocal(t), other.linkLocal(t)
	i := &interop{
		router: r, here: here, host: here.host(t),
		ours: []Key{
			{Peer: addr("192.0.2.2"), Interface: "eth0"},
			{Peer: addr("2001:db8::2"), Local: addr("2001:db8::1")},
			{Peer: llOther, Local: llHere},
			{Peer: addr("198.51.100.2"), Local: addr("198.51.100.1"), Multihop: true},
		},
		theirs: []Key{
			{Peer: addr("192.0.2.1")},
			{Peer: addr("2001:db8::1"), Local: addr("2001:db8::2")},
			{Peer: llHere, Local: llOther},
			{Peer: addr("198.51.100.1"), Local: addr("198.51.100.2"), Multihop: true},
		},
	}
	r.start(t, other, i.theirs)
	return i
}

func (i *interop) want(t *testing.T, pace time.Duration) {
	all := alike(i.ours, pace)
	for k, p := range all {
		if k.Multihop {
			p.MinTTL = 64 // BIRD sends no more over several hops
			all[k] = p
		}
	}
	i.host.want(t, all)
}

// up waits until both ends have all sessions up.
func (i *interop) up(t *testing.T) {
	t.Helper()
	for n, k := range i.ours {
		i.host.becomes(t, k, Up)
		eventually(t, func() string { return fmt.Sprintf("%s does not see %s up", i.name(), i.theirs[n].Peer) }, func() bool {
			up, _ := i.sees(t, i.theirs[n].Peer)
			return up
		})
	}
}

// record is how often sessions came up, as both ends see it.
func (i *interop) record(t *testing.T) (all []string) {
	for n, k := range i.ours {
		up, ups := i.sees(t, i.theirs[n].Peer)
		s := i.host.Status()[k]
		all = append(all, fmt.Sprintf("%s: %s, %d flaps; %t, %s", k.Peer, s.State, s.Flaps, up, ups))
	}
	return all
}

// settles waits until the sessions run at a pace, and shows that no session
// flapped for it.
func (i *interop) settles(t *testing.T, before []string, pace time.Duration) {
	t.Helper()
	for _, k := range i.ours {
		status := func() Status { return i.host.Status()[k] }
		eventually(t, func() string { return fmt.Sprintf("the pace is not %s: %+v", pace, status()) },
			func() bool { return status().Interval == pace && status().Detection == 3*pace })
	}
	time.Sleep(4 * pace) // a flap would come now
	for n, now := range i.record(t) {
		if now != before[n] {
			t.Errorf("%s became %s", before[n], now)
		}
	}
}

// down waits until all sessions are Down for the reason given.
func (i *interop) down(t *testing.T, what string, begun time.Time, want Status) {
	t.Helper()
	for _, k := range i.ours {
		s, at := i.host.becomes(t, k, Down)
		if s.Diagnostic != want.Diagnostic || s.RemoteState != want.RemoteState {
			t.Errorf("%s: %+v", what, s)
		}
		t.Logf("%s, %s: Down after %s", what, k.Peer, at.Sub(begun).Round(ms))
	}
}

// theyNotice waits until the other sees no session up.
func (i *interop) theyNotice(t *testing.T, what string, begun time.Time) {
	t.Helper()
	for _, k := range i.theirs {
		eventually(t, func() string { return fmt.Sprintf("%s sees %s up", i.name(), k.Peer) }, func() bool {
			up, _ := i.sees(t, k.Peer)
			return !up
		})
	}
	t.Logf("%s: %s sees all down after at most %s", what, i.name(), time.Since(begun).Round(ms))
}

// TestInterop: everything that happens to a session, against other
// implementations.
func TestInterop(t *testing.T) {
	for _, r := range []router{&frr{}, &bird{}} {
		t.Run(r.name(), func(t *testing.T) {
			i := newInterop(t, r)
			i.want(t, 100*ms)
			i.up(t)
			before := i.record(t)
			i.settles(t, before, 100*ms)

			i.want(t, 300*ms)
			i.settles(t, before, 300*ms)
			i.want(t, 50*ms) // they do not go below 100 ms
			i.settles(t, before, 100*ms)
			i.configure(t, 50*ms, false)
			i.settles(t, before, 50*ms)
			i.configure(t, 200*ms, false)
			i.settles(t, before, 200*ms)
			i.configure(t, 50*ms, false)
			i.settles(t, before, 50*ms)

			begun := time.Now()
			i.configure(t, 50*ms, true)
			i.down(t, "they are shut", begun, i.parting())
			i.configure(t, 50*ms, false)
			i.up(t)

			begun = time.Now()
			i.host.want(t, nil)
			i.theyNotice(t, "we are shut", begun)
			i.want(t, 50*ms)
			i.up(t)

			begun = time.Now()
			i.host.kill()
			i.theyNotice(t, "we are dead", begun)
			i.host = i.here.host(t)
			i.want(t, 50*ms)
			i.up(t)

			begun = time.Now()
			i.kill()
			i.down(t, "they are killed", begun, Status{Diagnostic: DetectionTimeExpired, RemoteState: Down})
		})
	}
}
