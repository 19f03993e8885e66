package speaker

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/speaker/bfd"
	"github.com/fairlead-io/fairlead/speaker/failover"
	"github.com/fairlead-io/fairlead/speaker/l2"
	"github.com/fairlead-io/fairlead/speaker/plan"
)

const neighborMAC = "02:00:00:00:00:0b"

var (
	neighborB  = failover.Peer{Interface: "eth0", Node: "b"}
	neighborC  = failover.Peer{Interface: "eth0", Node: "c"}
	sessionOfB = bfd.Key{Peer: netip.MustParseAddr("192.0.2.2"), Local: netip.MustParseAddr("192.0.2.1"), Interface: "eth0"}
	sessionOfC = bfd.Key{Peer: netip.MustParseAddr("192.0.2.3"), Local: netip.MustParseAddr("192.0.2.1"), Interface: "eth0"}
)

var sessionTimers = failover.Timers{Transmit: 50 * time.Millisecond, Receive: 60 * time.Millisecond, Multiplier: 4}

func announcing(mac string, key bfd.Key, addr string) plan.Neighbor {
	target := failover.Target{Announces: []netip.Addr{netip.MustParseAddr(addr)}, Timers: sessionTimers}
	return plan.Neighbor{Target: target, MAC: mac, Local: key.Local, Remote: key.Peer}
}

// startNeighborMonitor runs a monitor of two neighbors, whose sessions have been Up and are
// Down.
func startNeighborMonitor(t *testing.T, mac string, ask func(context.Context) ([]netip.Addr, error)) *neighborMonitor {
	ignoring := func(ctx context.Context, _ string, _ net.HardwareAddr, _ []netip.Addr) ([]netip.Addr, error) {
		return ask(ctx)
	}
	m := newNeighborMonitor(slog.New(slog.DiscardHandler), ignoring, func(bool) {}, func(bool) {})
	m.Set(map[failover.Peer]plan.Neighbor{
		neighborB: announcing(mac, sessionOfB, "192.0.2.100"), neighborC: announcing(mac, sessionOfC, "192.0.2.101"),
	}, failover.View{}, false)
	for _, key := range []bfd.Key{sessionOfB, sessionOfC} {
		m.SessionChanged(key, bfd.Status{State: bfd.Up})
		m.SessionChanged(key, bfd.Status{State: bfd.Down, RemoteState: bfd.Down})
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); m.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return m
}

func awaitNeighbor(t *testing.T, m *neighborMonitor, want failover.State) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); m.View().Peers[neighborB].State != want; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("state %v, want %v", m.View().Peers[neighborB].State, want)
		}
	}
}

func TestNeighborSessions(t *testing.T) {
	for _, tt := range []struct {
		status bfd.Status
		want   failover.State
	}{
		{bfd.Status{State: bfd.Up, RemoteState: bfd.Up}, failover.Live},
		{bfd.Status{State: bfd.Down, RemoteState: bfd.AdminDown, RemoteDiagnostic: bfd.AdministrativelyDown}, failover.Leaving},
		{bfd.Status{State: bfd.Down, RemoteState: bfd.AdminDown}, failover.Unknown}, // the session is not needed
		{bfd.Status{State: bfd.Down, RemoteState: bfd.Down}, failover.Unknown},
		{bfd.Status{State: bfd.Init, RemoteState: bfd.Down}, failover.Unknown},
	} {
		changes := 0
		m := newNeighborMonitor(slog.New(slog.DiscardHandler), nil, func(bool) {}, func(bool) { changes++ })
		m.Set(map[failover.Peer]plan.Neighbor{neighborB: announcing(neighborMAC, sessionOfB, "192.0.2.100")}, m.View(), false)
		m.SessionChanged(sessionOfC, bfd.Status{State: bfd.Up}) // not a neighbor
		m.SessionChanged(sessionOfB, tt.status)
		if got := m.View().Peers[neighborB].State; got != tt.want || (changes > 0) != (got != failover.Unknown) {
			t.Errorf("%+v: got %v and %d changes, want %v", tt.status, got, changes, tt.want)
		}
	}
}

// TestNeighborsAreAskedConcurrently: a neighbor that does not answer does not delay the
// questions to another one.
func TestNeighborsAreAskedConcurrently(t *testing.T) {
	var asked atomic.Int32
	both := make(chan struct{})
	m := startNeighborMonitor(t, neighborMAC, func(ctx context.Context) ([]netip.Addr, error) {
		if asked.Add(1) == 2 {
			close(both)
		}
		select {
		case <-both:
		case <-ctx.Done():
		}
		return nil, nil
	})
	awaitNeighbor(t, m, failover.Gone)
}

// TestFailedQuestionsProveNothing: a neighbor is not gone because it could not be asked. It
// is asked again.
func TestFailedQuestionsProveNothing(t *testing.T) {
	var asked atomic.Int32
	var works atomic.Bool
	m := startNeighborMonitor(t, neighborMAC, func(context.Context) ([]netip.Addr, error) {
		asked.Add(1)
		if works.Load() {
			return nil, nil
		}
		return nil, errors.New("the interface is down")
	})
	for deadline := time.Now().Add(10 * time.Second); asked.Load() < 6; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("asked %d times", asked.Load())
		}
	}
	if got := m.View().Peers[neighborB].State; got != failover.Live {
		t.Errorf("state %v after questions that failed", got)
	}
	works.Store(true)
	awaitNeighbor(t, m, failover.Gone)
}

// TestNeighborWithAnotherSession: if the address of a neighbor changes, its session is another
// one. Until that is Up, the neighbor is polled, so that its end is noticed.
func TestNeighborWithAnotherSession(t *testing.T) {
	t.Parallel()
	m := startNeighborMonitor(t, neighborMAC, func(context.Context) ([]netip.Addr, error) {
		return []netip.Addr{netip.MustParseAddr("192.0.2.100")}, nil
	})
	m.SessionChanged(sessionOfB, bfd.Status{State: bfd.Up})
	awaitNeighbor(t, m, failover.Live)
	other := sessionOfB
	other.Peer = other.Peer.Next().Next()
	m.Set(map[failover.Peer]plan.Neighbor{neighborB: announcing(neighborMAC, other, "192.0.2.100")}, m.View(), false)
	for deadline := time.Now().Add(30 * time.Second); !m.View().Peers[neighborB].Filtered; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the neighbor was not polled")
		}
	}
}

// TestHoldAnswers checks that this node stops to answer before Stalled returns, but not when the
// session with a first successor fails, and that it goes on without another sync if the
// successor has taken over none of its addresses.
func TestHoldAnswers(t *testing.T) {
	addr := netip.MustParseAddr("192.0.2.100")
	n := announcing(neighborMAC, sessionOfB, "192.0.2.100")
	n.Target = failover.Target{Succeeds: []netip.Addr{addr}}
	for _, answered := range [][]netip.Addr{nil, {addr}} {
		var held atomic.Bool
		changes := make(chan struct{}, 10)
		m := newNeighborMonitor(slog.New(slog.DiscardHandler), func(context.Context, string, net.HardwareAddr, []netip.Addr) ([]netip.Addr, error) {
			return answered, nil
		}, held.Store, func(bool) { changes <- struct{}{} })
		set := func() { m.Set(map[failover.Peer]plan.Neighbor{neighborB: n}, m.View(), false) }
		set()
		m.SessionChanged(sessionOfB, bfd.Status{State: bfd.Up})
		<-changes
		m.SessionChanged(sessionOfB, bfd.Status{State: bfd.AdminDown, RemoteState: bfd.Up})
		if held.Load() {
			t.Error("answers are held while this node leaves")
		}
		m.SessionChanged(sessionOfB, bfd.Status{State: bfd.Down, RemoteState: bfd.Down})
		if held.Load() {
			t.Error("answers are held because of the session only")
		}
		m.Stalled()
		if !held.Load() {
			t.Error("answers are not held after a stall")
		}
		ctx, cancel := context.WithCancel(t.Context())
		go m.Run(ctx)
		takenOver := len(answered) > 0
		if takenOver {
			<-changes // by the question
			<-changes // and by the verification
		}
		for deadline := time.Now().Add(10 * time.Second); held.Load() != takenOver; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("taken over %v: held %v", takenOver, held.Load())
			}
		}
		if set(); held.Load() {
			t.Errorf("taken over %v: held after the next plan", takenOver)
		}
		cancel()
	}
}

// TestNeighborWithoutMAC: without a MAC no question is sent, and nothing is known.
func TestNeighborWithoutMAC(t *testing.T) {
	for _, mac := range []string{"", "no MAC"} {
		m := startNeighborMonitor(t, mac, func(context.Context) ([]netip.Addr, error) {
			t.Error("a question was sent")
			return nil, nil
		})
		time.Sleep(50 * time.Millisecond)
		if got := m.View().Peers[neighborB].State; got != failover.Live {
			t.Errorf("MAC %q: state %v", mac, got)
		}
	}
}

// TestNeighborProfiles checks that sessions have the timers of their neighbors, stretched if
// there are many, and what follows for the detection of stalls.
func TestNeighborProfiles(t *testing.T) {
	const ms = time.Millisecond
	slow := failover.Timers{Transmit: 300 * ms, Receive: 200 * ms, Multiplier: 5}
	for _, tt := range []struct {
		sessions    int
		slow        bool // all but the first
		first, rest time.Duration
		threshold   time.Duration
	}{
		{0, false, 0, 0, failover.MinPollDetection},
		{1, false, 50 * ms, 0, 200 * ms},
		{100, true, 50 * ms, 300 * ms, 200 * ms},
		{200, false, 100 * ms, 100 * ms, 400 * ms},
		{200, true, 100 * ms, 300 * ms, 400 * ms},
		{750, false, 375 * ms, 375 * ms, 1500 * ms},
		{1000, true, 500 * ms, 500 * ms, failover.MinPollDetection},
		{2000, true, time.Second, time.Second, failover.MinPollDetection},
	} {
		m := newNeighborMonitor(slog.New(slog.DiscardHandler), nil, func(bool) {}, func(bool) {})
		many := map[failover.Peer]plan.Neighbor{{Interface: "eth0", Node: "no subnet"}: {MAC: neighborMAC}}
		var first bfd.Key
		for i := range tt.sessions {
			key := bfd.Key{Peer: netip.AddrFrom4([4]byte{192, 0, byte(i / 250), byte(i%250 + 2)}), Local: sessionOfB.Local, Interface: "eth0"}
			n := announcing(neighborMAC, key, "198.51.100.1")
			if i == 0 {
				first = key
			} else if tt.slow {
				n.Timers = slow
			}
			many[failover.Peer{Interface: "eth0", Node: key.Peer.String()}] = n
		}
		for _, stale := range []bool{false, true} {
			profiles := m.Set(many, failover.View{}, stale)
			if len(profiles) != tt.sessions {
				t.Errorf("%d sessions, want %d", len(profiles), tt.sessions)
			}
			for key, p := range profiles {
				want := bfd.Profile{Transmit: tt.first, Receive: 60 * ms, Multiplier: 4, PathDown: stale}
				if key != first {
					want.Transmit = tt.rest
					if tt.slow {
						want.Receive, want.Multiplier = slow.Receive, slow.Multiplier
					}
				}
				if p != want {
					t.Fatalf("%d sessions: %v has %+v, want %+v", tt.sessions, key, p, want)
				}
			}
			if got := stallThreshold(profiles); got != tt.threshold {
				t.Errorf("%d sessions: a stall takes %s, want %s", tt.sessions, got, tt.threshold)
			}
		}
	}
}

func TestPeerFresh(t *testing.T) {
	m := newNeighborMonitor(slog.New(slog.DiscardHandler), nil, func(bool) {}, func(bool) {})
	m.Set(map[failover.Peer]plan.Neighbor{
		neighborB: announcing(neighborMAC, sessionOfB, "192.0.2.100"), neighborC: announcing(neighborMAC, sessionOfC, "192.0.2.101"),
	}, failover.View{}, false)
	fresh := m.PeerFresh(map[bfd.Key]bfd.Status{
		sessionOfB: {State: bfd.Up}, sessionOfC: {State: bfd.Up, RemoteDiagnostic: bfd.ConcatenatedPathDown},
		{Interface: "eth1"}: {State: bfd.Up},
	})
	if len(fresh) != 2 || !fresh[neighborB] || fresh[neighborC] {
		t.Errorf("got %v, want b fresh and c not", fresh)
	}
	if fresh := m.PeerFresh(map[bfd.Key]bfd.Status{sessionOfB: {State: bfd.Down}}); len(fresh) != 0 {
		t.Errorf("got %v without a session that is Up", fresh)
	}
}

// TestClaimsOfSeveralHosts checks that a later claim of a stranger does not hide that of a
// neighbor, and that each claim is verified once.
func TestClaimsOfSeveralHosts(t *testing.T) {
	addr, now := netip.MustParseAddr("192.0.2.100"), time.Now()
	mac, err := net.ParseMAC(neighborMAC)
	if err != nil {
		t.Fatal(err)
	}
	m := newNeighborMonitor(slog.New(slog.DiscardHandler), nil, func(bool) {}, func(bool) {})
	m.Set(map[failover.Peer]plan.Neighbor{neighborB: {MAC: neighborMAC}}, m.View(), false)
	m.Claimed(addr, l2.Claimant{Interface: neighborB.Interface, MAC: net.HardwareAddr{2, 0, 0, 0, 0, 0x99}, Last: now})
	if len(m.claimed) != 0 {
		t.Errorf("the claim of a stranger is kept: %v", m.claimed)
	}
	for want := 1; want >= 0; want-- {
		m.Claimed(addr, l2.Claimant{Interface: neighborB.Interface, MAC: mac, Last: now.Add(-time.Second)})
		questions, _ := m.tracker.Advance(now.Add(time.Hour * time.Duration(2-want)))
		for _, q := range questions {
			m.tracker.Answered(now, q.ID, nil)
		}
		if len(questions) != want {
			t.Errorf("%d questions, want %d", len(questions), want)
		}
	}
}

// TestTakeoverWithManySessions checks that with stretched intervals the first successor of a
// neighbor that is gone gets the time of one interval to notice it.
func TestTakeoverWithManySessions(t *testing.T) {
	m := newNeighborMonitor(slog.New(slog.DiscardHandler), nil, func(bool) {}, func(bool) {})
	many := map[failover.Peer]plan.Neighbor{
		neighborB: announcing(neighborMAC, sessionOfB, "192.0.2.100"), neighborC: announcing(neighborMAC, sessionOfC, "192.0.2.101"),
	}
	for i := range 1998 { // each has an interval of one second
		key := bfd.Key{Peer: netip.AddrFrom4([4]byte{198, 51, byte(i / 250), byte(i%250 + 1)}), Local: sessionOfB.Local, Interface: "eth0"}
		many[failover.Peer{Interface: "eth0", Node: key.Peer.String()}] = announcing(neighborMAC, key, "198.51.100.1")
	}
	m.Set(many, m.View(), false)
	m.SessionChanged(sessionOfB, bfd.Status{State: bfd.Up})
	m.SessionChanged(sessionOfB, bfd.Status{State: bfd.Down, RemoteState: bfd.Down})
	answer := func(now time.Time) {
		questions, _ := m.tracker.Advance(now)
		for _, q := range questions {
			if q.Peer == neighborC {
				m.tracker.Answered(now, q.ID, q.Addresses)
			} else {
				m.tracker.Answered(now, q.ID, nil)
			}
		}
	}
	answer(time.Now())
	if got := m.View().Peers[neighborB].State; got != failover.Gone {
		t.Fatalf("state %v after a question without an answer", got)
	}
	many[neighborC] = announcing(neighborMAC, sessionOfC, "192.0.2.100")
	before := time.Now()
	m.Set(many, m.View(), false)
	answer(before.Add(800 * time.Millisecond)) // whether it announces the address
	for _, tt := range []struct {
		at   time.Time
		want int
	}{{before.Add(900 * time.Millisecond), 0}, {time.Now().Add(time.Second), 1}} {
		questions, _ := m.tracker.Advance(tt.at)
		asked := 0
		for _, q := range questions {
			if q.Peer == neighborC {
				asked++
			}
		}
		if asked != tt.want {
			t.Errorf("asked %d times after %s, want %d", asked, tt.at.Sub(before), tt.want)
		}
	}
}
