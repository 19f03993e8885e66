package bfd

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// lan is a simulated network on which every packet takes a millisecond. It is
// for synctest bubbles.
type lan struct {
	mu    sync.Mutex
	hosts map[netip.Addr]*simulated
	lost  func(from, to netip.Addr) bool // nil loses nothing
	ttl   uint8
}

// simulated is the wire of one host.
type simulated struct {
	lan           *lan
	addr          netip.Addr
	some          chan struct{} // something came, or wake
	mu            sync.Mutex
	flying, inbox []arrival
	fault         error // of open and of send
	// frozen is until when the process is not scheduled, stopped until when the
	// machine receives nothing either. Instants of the bubble's clock.
	frozen, stopped time.Time
}

func newLAN() *lan { return &lan{hosts: make(map[netip.Addr]*simulated), ttl: maxTTL} }

func (l *lan) host(addr netip.Addr) *simulated {
	s := &simulated{lan: l, addr: addr, some: make(chan struct{}, 1)}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.hosts[addr] = s
	return s
}

func (s *simulated) open(k Key) (sender, int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fault != nil {
		return nil, 0, s.fault
	}
	return &simulatedLine{s, k}, 0, nil
}

func (s *simulated) receive() (arrival, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.inbox) == 0 {
		return arrival{}, false
	}
	a := s.inbox[0]
	s.inbox = s.inbox[1:]
	return a, true
}

func (s *simulated) wait(deaf, d time.Duration) {
	time.Sleep(min(deaf, d))
	d -= deaf
	s.mu.Lock()
	full := len(s.inbox) > 0
	s.mu.Unlock()
	if !full {
		select {
		case <-s.some:
		case <-time.After(d):
		}
	}
	s.mu.Lock()
	frozen := time.Until(s.frozen)
	s.mu.Unlock()
	time.Sleep(frozen)
}

func (s *simulated) wake() {
	select {
	case s.some <- struct{}{}:
	default:
	}
}

// carry delivers packets after a time, in the order in which they were sent:
// timers of one instant fire in any order.
func (s *simulated) carry(a arrival, d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.flying = append(s.flying, a)
	time.AfterFunc(d, s.deliver)
}

func (s *simulated) deliver() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if rest := time.Until(s.stopped); rest > 0 {
		time.AfterFunc(rest+ms, s.deliver)
		return
	}
	s.inbox = append(s.inbox, s.flying[0])
	s.flying = s.flying[1:]
	s.wake()
}

type simulatedLine struct {
	from *simulated
	key  Key
}

func (l *simulatedLine) close() {}

func (l *simulatedLine) send(b []byte) error {
	l.from.mu.Lock()
	fault := l.from.fault
	l.from.mu.Unlock()
	if fault != nil {
		return fault
	}
	lan := l.from.lan
	lan.mu.Lock()
	defer lan.mu.Unlock()
	to := lan.hosts[l.key.Peer]
	if to == nil || lan.lost != nil && lan.lost(l.from.addr, to.addr) {
		return nil
	}
	a := arrival{origin: origin{l.from.addr, l.key.Multihop}, to: to.addr, ttl: lan.ttl, payload: slices.Clone(b)}
	to.carry(a, ms)
	return nil
}

// end is an engine with one session to the other end of the LAN.
type end struct {
	*Engine
	*simulated
	key  Key
	kill func() // returns when it has stopped

	mu   sync.Mutex
	past []change
}

type change struct {
	at time.Time
	Status
}

var (
	addrA = netip.MustParseAddr("192.0.2.1")
	addrB = netip.MustParseAddr("192.0.2.2")
)

// join makes a running end without a session.
func (l *lan) join(addr, peer netip.Addr) *end {
	e := &end{key: Key{Peer: peer}, simulated: l.host(addr)}
	e.Engine = New(slog.New(slog.DiscardHandler), "", func(_ Key, s Status) {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.past = append(e.past, change{time.Now(), s})
	})
	ctx, cancel := context.WithCancel(context.Background())
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		e.run(ctx, e.simulated)
	}()
	e.kill = func() {
		cancel()
		<-stopped
	}
	return e
}

func (e *end) set(t *testing.T, p Profile) {
	if err := e.Set(map[Key]Profile{e.key: p}); err != nil {
		t.Fatal(err)
	}
}

func (e *end) now() Status { return e.Status()[e.key] }

func (e *end) last() change {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.past) == 0 {
		return change{}
	}
	return e.past[len(e.past)-1]
}

// bubble runs a simulation whose ends are all gone when it returns.
func bubble(t *testing.T, f func(t *testing.T, l *lan, a, b *end)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		l := newLAN()
		a, b := l.join(addrA, addrB), l.join(addrB, addrA)
		defer b.kill()
		defer a.kill()
		f(t, l, a, b)
	})
}

func bothUp(t *testing.T, ends ...*end) {
	for _, e := range ends {
		if s := e.now(); s.State != Up || s.RemoteState != Up || s.Flaps != 0 {
			t.Fatalf("session to %s: %+v", e.key.Peer, s)
		}
	}
}
