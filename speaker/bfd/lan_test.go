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
	hosts map[netip.Addr]*simulatedTransport
	drop  func(from, to netip.Addr) bool // nil drops no packet
	ttl   uint8
}

// simulatedTransport is the transport of one host.
type simulatedTransport struct {
	lan             *lan
	addr            netip.Addr
	wakeup          chan struct{} // a packet has arrived, or wake was called
	mu              sync.Mutex
	inFlight, inbox []receivedPacket
	socketError     error // of openSender and of send
	// Until frozen the process is not scheduled; until stopped the machine receives
	// no packets either.
	frozen, stopped time.Time
}

func newLAN() *lan { return &lan{hosts: make(map[netip.Addr]*simulatedTransport), ttl: maxTTL} }

func (l *lan) newTransport(addr netip.Addr) *simulatedTransport {
	s := &simulatedTransport{lan: l, addr: addr, wakeup: make(chan struct{}, 1)}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.hosts[addr] = s
	return s
}

func (s *simulatedTransport) openSender(k Key, _ netip.Addr) (packetSender, int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.socketError != nil {
		return nil, 0, s.socketError
	}
	return &simulatedSender{s, k}, 0, nil
}

func (s *simulatedTransport) nextPacket() (receivedPacket, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.inbox) == 0 {
		return receivedPacket{}, false
	}
	a := s.inbox[0]
	s.inbox = s.inbox[1:]
	return a, true
}

func (s *simulatedTransport) wait(minimum, timeout time.Duration) {
	time.Sleep(min(minimum, timeout))
	timeout -= minimum
	s.mu.Lock()
	full := len(s.inbox) > 0
	s.mu.Unlock()
	if !full {
		select {
		case <-s.wakeup:
		case <-time.After(timeout):
		}
	}
	s.mu.Lock()
	frozen := time.Until(s.frozen)
	s.mu.Unlock()
	time.Sleep(frozen)
}

func (s *simulatedTransport) wake() {
	select {
	case s.wakeup <- struct{}{}:
	default:
	}
}

// deliverAfter delivers packets after a time, in the order in which they were sent,
// although timers of one instant fire in any order.
func (s *simulatedTransport) deliverAfter(a receivedPacket, d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.inFlight = append(s.inFlight, a)
	time.AfterFunc(d, s.deliver)
}

func (s *simulatedTransport) deliver() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if rest := time.Until(s.stopped); rest > 0 {
		time.AfterFunc(rest+ms, s.deliver)
		return
	}
	s.inbox = append(s.inbox, s.inFlight[0])
	s.inFlight = s.inFlight[1:]
	s.wake()
}

type simulatedSender struct {
	from *simulatedTransport
	key  Key
}

func (l *simulatedSender) close() {}

func (l *simulatedSender) send(b []byte) error {
	l.from.mu.Lock()
	fault := l.from.socketError
	l.from.mu.Unlock()
	if fault != nil {
		return fault
	}
	lan := l.from.lan
	lan.mu.Lock()
	defer lan.mu.Unlock()
	to := lan.hosts[l.key.Peer]
	if to == nil || lan.drop != nil && lan.drop(l.from.addr, to.addr) {
		return nil
	}
	a := receivedPacket{remoteEnd: remoteEnd{l.from.addr, l.key.Multihop}, destination: to.addr, ttl: lan.ttl, payload: slices.Clone(b)}
	to.deliverAfter(a, ms)
	return nil
}

// end is an Engine with one session to the other end of the LAN.
type end struct {
	*Engine
	*simulatedTransport
	key  Key
	kill func() // returns when it has stopped

	mu      sync.Mutex
	changes []timedStatus
}

type timedStatus struct {
	at time.Time
	Status
}

var (
	addrA = netip.MustParseAddr("192.0.2.1")
	addrB = netip.MustParseAddr("192.0.2.2")
)

// newEnd runs an end without a session.
func (l *lan) newEnd(addr, peer netip.Addr) *end {
	e := &end{key: Key{Peer: peer}, simulatedTransport: l.newTransport(addr)}
	e.Engine = New(slog.New(slog.DiscardHandler), func(_ Key, s Status) {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.changes = append(e.changes, timedStatus{time.Now(), s})
	})
	ctx, cancel := context.WithCancel(context.Background())
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		e.runLoop(ctx, e.simulatedTransport)
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

func (e *end) status() Status { return e.Status()[e.key] }

func (e *end) lastChange() timedStatus {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.changes) == 0 {
		return timedStatus{}
	}
	return e.changes[len(e.changes)-1]
}

// simulate runs f with a simulated clock and two ends, which it stops when f returns.
func simulate(t *testing.T, f func(t *testing.T, l *lan, a, b *end)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		l := newLAN()
		a, b := l.newEnd(addrA, addrB), l.newEnd(addrB, addrA)
		defer b.kill()
		defer a.kill()
		f(t, l, a, b)
	})
}

// establish makes a session between the ends, with the fast profile.
func establish(t *testing.T, a, b *end) {
	a.set(t, fastProfile)
	b.set(t, fastProfile)
	time.Sleep(5 * time.Second)
	requireUp(t, a, b)
}

func requireUp(t *testing.T, ends ...*end) {
	for _, e := range ends {
		if s := e.status(); s.State != Up || s.RemoteState != Up || s.Flaps != 0 {
			t.Fatalf("session to %s: %+v", e.key.Peer, s)
		}
	}
}
