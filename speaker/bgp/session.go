package bgp

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

const (
	connectWait = 10 * time.Second
	// firstRetry is the first wait after a failure. It doubles up to RetryTime.
	firstRetry   = 200 * time.Millisecond
	defaultRetry = 30 * time.Second
	// visitRetry is the longest wait before a passive peer is let in again.
	visitRetry = 5 * time.Second
	// stableAfter is how long a session must have held for its loss not to count as a failure.
	stableAfter = 10 * time.Second
	// openWait is the "large" hold time of OpenSent, for which RFC 4271 section
	// 8.2.2 suggests 4 minutes. A peer that accepts connections but does not
	// speak is shown sooner.
	openWait = 30 * time.Second
)

// session is the work for one peer: connect, speak, and begin again.
type session struct {
	log   *slog.Logger
	doors *doors
	poke  func() // says that the status changed
	// For tests; see the constants.
	connectWait, openWait time.Duration

	wake    chan struct{} // routes or timers changed
	visits  chan net.Conn // of a passive peer
	ignored atomic.Uint64

	// Of run's goroutine and those that it waits for.
	guest *guest   // expected at a door
	next  *meeting // came while another session was established

	mu     sync.Mutex
	want   Peer // what was asked for last
	using  Peer // what the attempt or session under way was made for
	end    context.CancelCauseFunc
	gone   *leave // no further attempt
	status PeerStatus
}

// meeting is a connection over which both ends have agreed.
type meeting struct {
	wire *wire
	peer Open
}

// set is what the peer shall be from now on.
func (s *session) set(p Peer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.want = p
	if e := compare(s.using, p); e.reset != "" && s.end != nil {
		note := Notification{codeCease, ceaseReset, shutdownData("configuration was changed")}
		s.end(&leave{note: &note, why: e.reset, anew: true, keep: !e.moved})
	}
	s.nudge()
}

func (s *session) nudge() {
	select {
	case s.wake <- struct{}{}:
	default: // it will look anyway
	}
}

// stop ends the session; with l.gone there is no further one.
func (s *session) stop(l *leave) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l.gone {
		s.gone = l
	}
	if s.end != nil {
		s.end(l)
	}
}

// run keeps a session up until ctx ends or it is stopped for good.
func (s *session) run(ctx context.Context) {
	defer s.close()
	failures := 0
	for {
		attempt, end := context.WithCancelCause(ctx)
		if !s.begin(end) {
			end(nil)
			return
		}
		err := s.attempt(attempt, failures)
		if cause := context.Cause(attempt); cause != nil {
			err = cause
		}
		end(nil)
		if ctx.Err() != nil {
			return // Run's end is no failure, and nobody is left to be told
		}
		failures = s.ended(err, failures)
	}
}

// begin prepares an attempt, unless there shall be none.
func (s *session) begin(end context.CancelCauseFunc) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.end, s.using = end, s.want
	return s.gone == nil
}

// current is the peer as it is wanted now. Where that differs from using in
// what takes a reset, the attempt has been ended already.
func (s *session) current() Peer {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.using = s.want
	return s.using
}

// attempt waits its turn, connects, and speaks with the peer until that ends.
func (s *session) attempt(ctx context.Context, failures int) error {
	m := s.next
	s.next = nil
	if m == nil {
		s.pause(ctx, failures)
		w, err := s.meet(ctx)
		if err != nil {
			return err
		}
		p := s.current()
		peer, err := s.greet(ctx, w, p)
		if err != nil {
			w.farewell(noteOf(err))
			return err
		}
		m = &meeting{w, peer}
	}
	return s.converse(ctx, m.wire, s.current(), m.peer)
}

// pause waits after failures: at once after none, then 200 ms, doubled up to
// RetryTime, each by chance up to a quarter shorter or longer, so that a router
// that comes back is not met by all nodes in the same moment.
func (s *session) pause(ctx context.Context, failures int) {
	if failures == 0 {
		return
	}
	s.enter(Idle)
	started, chance := time.Now(), 0.75+rand.Float64()/2
	for {
		d := min(firstRetry<<min(failures-1, 20), s.longestRetry())
		left := time.Duration(float64(d)*chance) - time.Since(started)
		if left <= 0 || sleep(ctx, left, s.wake) || ctx.Err() != nil {
			return
		}
	}
}

func (s *session) longestRetry() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	longest := s.want.RetryTime
	if longest <= 0 {
		longest = defaultRetry
	}
	if s.want.Passive {
		return min(longest, visitRetry)
	}
	return longest
}

// meet connects to the peer, or waits for it to connect.
func (s *session) meet(ctx context.Context) (*wire, error) {
	p := s.current()
	if !p.Passive {
		s.closeDoor()
		s.enter(Connect)
		ctx, cancel := context.WithTimeout(ctx, s.connectWait)
		defer cancel()
		conn, err := dial(ctx, p)
		if err != nil {
			return nil, dialError(p, err)
		}
		return newWire(conn), nil
	}
	if s.guest != nil && (place(s.guest.Peer) != place(p) || s.guest.Address != p.Address) {
		s.closeDoor()
	}
	g := guest{p, s.visits}
	if err := s.doors.expect(ctx, g); err != nil {
		return nil, err
	}
	s.guest = &g
	s.enter(Active)
	select {
	case conn := <-s.visits:
		return newWire(conn), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (s *session) closeDoor() {
	if s.guest != nil {
		s.doors.forget(*s.guest)
		s.guest = nil
	}
	select {
	case conn := <-s.visits:
		_ = conn.Close() // nobody waits for it any more
	default:
	}
}

// close lets go of what an attempt leaves to the next one.
func (s *session) close() {
	s.closeDoor()
	if s.next != nil {
		s.next.wire.farewell(nil)
	}
}

// enter notes a state on the way to Established. A peer that connects anew is
// greeted while the old session is still that.
func (s *session) enter(state SessionState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.status.State != Established && s.status.State != state {
		s.status.State = state
		s.poke()
	}
}

// established notes a new session.
func (s *session) established(w *wire, p Peer, peer Open) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := &s.status
	st.State, st.Since, st.Sessions = Established, time.Now(), st.Sessions+1
	st.LocalAddr, st.RemoteAddr = addrPort(w.LocalAddr()), addrPort(w.RemoteAddr())
	st.Remote = peer
	st.IPv4, st.IPv6, st.HoldTime = p.IPv4 && peer.IPv4, p.IPv6 && peer.IPv6, min(p.HoldTime, peer.HoldTime)
	st.Routes, st.Withheld, st.FailedAt = 0, "", ""
	s.ignored.Store(0)
	s.log.Info("session established", "local", st.LocalAddr, "remote", st.RemoteAddr, "asn", peer.ASN,
		"families", families(st.IPv4, st.IPv6), "hold", min(p.HoldTime, peer.HoldTime))
	s.poke()
}

func addrPort(a net.Addr) netip.AddrPort {
	ap := a.(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// ended notes how an attempt ended, and returns how many have failed in a row.
func (s *session) ended(err error, failures int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := &s.status
	was, since := st.State, st.Since
	if was == Established {
		st.Lost++
		st.Since = time.Now()
	}
	st.State, st.Routes = Idle, 0
	var own *leave
	anew := errors.As(err, &own) && own.anew
	if was == Established || !anew {
		switch {
		case was == Established:
			s.log.Warn("session lost", "reason", err)
		case err.Error() != st.LastError:
			s.log.Warn("session not established", "reason", err)
		}
		st.LastError, st.LastErrorAt, st.FailedAt = err.Error(), time.Now(), stepOf(err, was == Established)
	}
	s.poke()
	if anew || was == Established && time.Since(since) >= stableAfter {
		return 0
	}
	return failures + 1
}

// report is the status as it is now.
func (s *session) report() PeerStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.status
	st.Name = s.want.Name
	st.IgnoredUpdates = s.ignored.Load()
	if st.State == Established {
		st.Pending = compare(s.using, s.want).pending
	}
	return st
}

// noteOf is what the peer is told about an error, if anything.
func noteOf(err error) *Notification {
	var l *leave
	if errors.As(err, &l) {
		return l.note
	}
	return nil
}
