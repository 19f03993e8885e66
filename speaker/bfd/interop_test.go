package bfd

import (
	"fmt"
	"net/netip"
	"testing"
	"time"
)

// interopTest is an Engine and another implementation that are directly connected,
// with a session of each kind.
type interopTest struct {
	peerDaemon
	host       *runningEngine
	here       *node
	localKeys  []Key // the sessions of the Engine
	remoteKeys []Key
}

func newInterop(t *testing.T, r peerDaemon) *interopTest {
	addr := netip.MustParseAddr
	here, other := newNode(t), newNode(t)
	connectNodes(t, "eth0", here, other,
		"192.0.2.1/24", "192.0.2.2/24", "198.51.100.1/24", "198.51.100.2/24", "2001:db8::1/64", "2001:db8::2/64")
	llHere, llOther := here.linkLocal(t), other.linkLocal(t)
	i := &interopTest{
		peerDaemon: r, here: here, host: here.newEngine(t),
		localKeys: []Key{
			{Peer: addr("192.0.2.2"), Interface: "eth0"},
			{Peer: addr("2001:db8::2"), Local: addr("2001:db8::1")},
			{Peer: llOther, Local: llHere},
			{Peer: addr("198.51.100.2"), Local: addr("198.51.100.1"), Multihop: true},
		},
		remoteKeys: []Key{
			{Peer: addr("192.0.2.1")},
			{Peer: addr("2001:db8::1"), Local: addr("2001:db8::2")},
			{Peer: llHere, Local: llOther},
			{Peer: addr("198.51.100.1"), Local: addr("198.51.100.2"), Multihop: true},
		},
	}
	r.start(t, other, i.remoteKeys)
	return i
}

func (i *interopTest) setProfiles(t *testing.T, interval time.Duration) {
	all := uniformProfiles(i.localKeys, interval)
	for k, p := range all {
		if k.Multihop {
			p.MinTTL = 64 // BIRD sends multihop packets with this TTL
			all[k] = p
		}
	}
	i.host.setProfiles(t, all)
}

// waitUp waits until all sessions are up at both ends.
func (i *interopTest) waitUp(t *testing.T) {
	t.Helper()
	for n, k := range i.localKeys {
		i.host.waitFor(t, k, Up)
		eventually(t, func() string { return fmt.Sprintf("%s does not have %s up", i.name(), i.remoteKeys[n].Peer) }, func() bool {
			up, _ := i.sessionState(t, i.remoteKeys[n].Peer)
			return up
		})
	}
}

// sessionRecords returns the state of each session, and how often it has flapped or
// gone up, at both ends.
func (i *interopTest) sessionRecords(t *testing.T) (all []string) {
	for n, k := range i.localKeys {
		up, ups := i.sessionState(t, i.remoteKeys[n].Peer)
		s := i.host.Status()[k]
		all = append(all, fmt.Sprintf("%s: %s, %d flaps; %t, %s", k.Peer, s.State, s.Flaps, up, ups))
	}
	return all
}

// waitForInterval waits until the sessions use an interval, and checks that no
// session flapped.
func (i *interopTest) waitForInterval(t *testing.T, before []string, interval time.Duration) {
	t.Helper()
	for _, k := range i.localKeys {
		status := func() Status { return i.host.Status()[k] }
		eventually(t, func() string { return fmt.Sprintf("the interval is not %s: %+v", interval, status()) },
			func() bool { return status().Interval == interval && status().Detection == 3*interval })
	}
	time.Sleep(4 * interval) // longer than the detection time
	for n, now := range i.sessionRecords(t) {
		if now != before[n] {
			t.Errorf("%s became %s", before[n], now)
		}
	}
}

// waitDown waits until all sessions are Down, and checks the diagnostic.
func (i *interopTest) waitDown(t *testing.T, what string, begun time.Time, want Status) {
	t.Helper()
	for _, k := range i.localKeys {
		s, at := i.host.waitFor(t, k, Down)
		if s.Diagnostic != want.Diagnostic || s.RemoteState != want.RemoteState {
			t.Errorf("%s: %+v", what, s)
		}
		t.Logf("%s, %s: Down after %s", what, k.Peer, at.Sub(begun).Round(ms))
	}
}

// waitRemoteDown waits until all sessions are down in the other implementation.
func (i *interopTest) waitRemoteDown(t *testing.T, what string, begun time.Time) {
	t.Helper()
	for _, k := range i.remoteKeys {
		eventually(t, func() string { return fmt.Sprintf("%s has %s up", i.name(), k.Peer) }, func() bool {
			up, _ := i.sessionState(t, k.Peer)
			return !up
		})
	}
	t.Logf("%s: %s has all sessions down after at most %s", what, i.name(), time.Since(begun).Round(ms))
}

// TestInterop runs sessions with other implementations through changes of the
// intervals, shutdown and failure at both ends.
func TestInterop(t *testing.T) {
	for _, r := range []peerDaemon{&frr{}, &bird{}} {
		t.Run(r.name(), func(t *testing.T) {
			i := newInterop(t, r)
			i.setProfiles(t, 100*ms)
			i.waitUp(t)
			before := i.sessionRecords(t)
			i.waitForInterval(t, before, 100*ms)

			i.setProfiles(t, 300*ms)
			i.waitForInterval(t, before, 300*ms)
			i.setProfiles(t, 50*ms) // the peer stays at 100 ms
			i.waitForInterval(t, before, 100*ms)
			i.configure(t, 50*ms, false)
			i.waitForInterval(t, before, 50*ms)
			i.configure(t, 200*ms, false)
			i.waitForInterval(t, before, 200*ms)
			i.configure(t, 50*ms, false)
			i.waitForInterval(t, before, 50*ms)

			begun := time.Now()
			i.configure(t, 50*ms, true)
			i.waitDown(t, "the peer is shut down", begun, i.statusAfterShutdown())
			i.configure(t, 50*ms, false)
			i.waitUp(t)

			begun = time.Now()
			i.host.setProfiles(t, nil)
			i.waitRemoteDown(t, "the engine has no sessions", begun)
			i.setProfiles(t, 50*ms)
			i.waitUp(t)

			begun = time.Now()
			i.host.kill()
			i.waitRemoteDown(t, "the engine is killed", begun)
			i.host = i.here.newEngine(t)
			i.setProfiles(t, 50*ms)
			i.waitUp(t)

			begun = time.Now()
			i.kill()
			i.waitDown(t, "the peer is killed", begun, Status{Diagnostic: DetectionTimeExpired, RemoteState: Down})
		})
	}
}
