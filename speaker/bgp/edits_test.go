package bgp

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// TestPeerChanges makes every kind of change to a peer, and counts the resets
// of its session and of another.
func TestPeerChanges(t *testing.T) {
	for _, edit := range []struct {
		name    string
		change  func(p *Peer)
		resets  int
		error   string
		pending []string
	}{
		{name: "nothing", change: func(*Peer) {}},
		{name: "routes", change: func(p *Peer) { p.Routes = routesTo(prefixes(5, false)...) }},
		{name: "attributes", change: func(p *Peer) {
			p.Routes = Routes{prefixes(1, false)[0]: {MED: 3, HasMED: true}}
		}},
		{name: "retry time", change: func(p *Peer) { p.RetryTime = 2 * time.Second }},
		{name: "hold time", change: func(p *Peer) { p.HoldTime = time.Minute }, pending: []string{"holdTime"}},
		{name: "keepalive time", change: func(p *Peer) { p.KeepaliveTime = time.Second }, pending: []string{"keepaliveTime"}},
		{name: "port", change: func(p *Peer) { p.Port++ }, resets: 1, error: "reset: port was changed"},
		{name: "password", change: func(p *Peer) { p.Password = "new" }, resets: 1, error: "reset: password was changed"},
		{name: "source", change: func(p *Peer) { p.Source = netip.MustParseAddr("127.0.0.3") }, resets: 1, error: "reset: source was changed"},
		{
			name: "router ID", change: func(p *Peer) { p.RouterID = netip.MustParseAddr("1.2.3.4") }, resets: 1,
			error: "reset: router ID was changed",
		},
		{name: "local ASN", change: func(p *Peer) { p.LocalASN++ }, resets: 1, error: "reset: local ASN was changed"},
		{name: "families", change: func(p *Peer) { p.IPv6 = true }, resets: 1, error: "reset: set of families was changed"},
		{name: "restart time", change: func(p *Peer) { p.RestartTime = time.Minute }, resets: 1, error: "reset: restart time was changed"},
		{name: "hops", change: func(p *Peer) { p.Hops = 3 }, resets: 1, error: "reset: number of hops was changed"},
		{name: "TTL security", change: func(p *Peer) { p.TTLSecurity = true }, resets: 1, error: "reset: TTL security was changed"},
		{
			name: "two things", change: func(p *Peer) { p.Hops, p.RestartTime = 3, time.Minute }, resets: 1,
			error: "reset: restart time, number of hops were changed",
		},
	} {
		t.Run(edit.name, func(t *testing.T) {
			edited, other := newRouter(t), newRouter(t)
			before := []Peer{edited.peer("edited", routesTo(prefixes(1, false)...)), other.peer("other", nil)}
			s, _ := runSpeaker(t, Config{before})
			awaitState(t, s, "edited", Established)
			awaitState(t, s, "other", Established)

			after := slices.Clone(before)
			edit.change(&after[0])
			s.Set(Config{after})
			eventually(t, func() string {
				if st := statusOf(t, s, "edited"); st.Lost != edit.resets {
					return fmt.Sprintf("%d sessions lost", st.Lost)
				}
				return ""
			})
			if edit.resets == 0 {
				edited.awaitRoutes(after[0].Routes)
			}
			st := statusOf(t, s, "edited")
			if edit.error != "" {
				edited.awaitNotification(reset)
			}
			if st.Lost != edit.resets || !slices.Equal(st.Pending, edit.pending) {
				t.Errorf("status %+v", st)
			}
			if edit.error != "" && st.State == Established && st.LastError != edit.error {
				t.Errorf("error %q, not %q", st.LastError, edit.error)
			}
			if st := statusOf(t, s, "other"); st.State != Established || st.Sessions != 1 || st.Lost != 0 {
				t.Errorf("the other peer's status %+v", st)
			}
		})
	}
}

const reset = `Cease: administrative reset ("configuration was changed")`

func TestPendingTimersComeWithTheNextSession(t *testing.T) {
	r := newRouter(t)
	p := r.peer("tor", nil)
	s, _ := runSpeaker(t, Config{[]Peer{p}})
	awaitState(t, s, "tor", Established)
	p.HoldTime = time.Minute
	s.Set(Config{[]Peer{p}})
	s.Reset("tor", "BFD down", false)
	s.PathUp("tor")
	r.awaitNotification("Cease: BFD down")
	eventually(t, func() string {
		if st := statusOf(t, s, "tor"); st.Sessions != 2 || st.Pending != nil {
			return fmt.Sprintf("status %+v", st)
		}
		return ""
	})
	if st := statusOf(t, s, "tor"); st.LastError != "reset: BFD down (the next attempt waits for BFD, at most 30s)" {
		t.Errorf("error %q", st.LastError)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if got := r.opens[len(r.opens)-1].HoldTime; got != time.Minute {
		t.Errorf("the second OPEN offers a hold time of %s", got)
	}
}
