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
	// minBackoff is the backoff after the first failure. It doubles up to RetryTime.
	minBackoff        = 200 * time.Millisecond
	defaultMaxBackoff = 30 * time.Second
	// passiveMaxBackoff is the longest backoff before a passive peer is accepted again.
	passiveMaxBackoff = 5 * time.Second
	// stableAfter is how long a session must have lasted for its loss not to count as a failure.
	stableAfter = 10 * time.Second
	// openWait is the "large" hold time of OpenSent, for which RFC 4271 section
	// 8.2.2 suggests 4 minutes. A peer that accepts connections but sends nothing
	// is reported sooner.
	openWait = 30 * time.Second
	// pathWait is how long a session that BFD has reset waits for BFD to be Up. It is
	// limited, because BGP may work on a path that drops the packets of BFD.
	pathWait = 30 * time.Second
)

// peerSession keeps the session with one peer established: it connects, exchanges
// messages until the session ends, and connects again.
type peerSession struct {
	log       *slog.Logger
	listeners *listenerSet
	notify    func() // called when the status has changed
	// For tests; see the constants.
	connectWait, openWait, pathWait time.Duration

	wake    chan struct{} // has a value after a change of the desired Peer
	inbound chan net.Conn // connections of a passive peer
	ignored atomic.Uint64 // UPDATEs

	// Used by the goroutine of runLoop and those that it waits for.
	expected    *expectedPeer // at a listener
	reconnected *openedConn   // accepted while another session was established

	mu      sync.Mutex
	desired Peer
	applied Peer // of the current attempt or session
	cancel  context.CancelCauseFunc
	final   *sessionEnd // no further attempt
	waiting bool        // for the next attempt
	// pathUntil is until when the next attempt waits for BFD; zero: BFD has not
	// detected a failure since the last attempt.
	pathUntil time.Time
	status    PeerStatus
}

// openedConn is a connection over which both ends have accepted the other's OPEN.
type openedConn struct {
	conn *messageConn
	peer Open
}

// setDesired sets the desired Peer.
func (s *peerSession) setDesired(p Peer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.desired = p
	if c := comparePeers(s.applied, p); c.reset != "" && s.cancel != nil {
		notification := Notification{codeCease, ceaseReset, shutdownData("configuration was changed")}
		s.cancel(&sessionEnd{notification: &notification, reason: c.reset, retryNow: true, keepRoutes: !c.newIdentity})
	}
	select {
	case s.wake <- struct{}{}:
	default: // it will read the desired Peer in any case
	}
}

// endSession ends the session; with end.final no attempt follows.
func (s *peerSession) endSession(end *sessionEnd) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if end.final {
		s.final = end
	}
	if s.cancel != nil {
		s.cancel(end)
	}
}

// resetPath ends the session because its path has failed. Further attempts wait for
// pathUp.
func (s *peerSession) resetPath(end *sessionEnd) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pathUntil.IsZero() {
		s.pathUntil = time.Now().Add(s.pathWait)
	}
	// An attempt that has not begun goes on waiting: if every failure started another
	// backoff, a path that fails often would never get a session.
	if s.cancel != nil && !s.waiting {
		s.cancel(end)
	}
}

// pathUp lets attempts begin that wait for the path.
func (s *peerSession) pathUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pathUntil = time.Time{}
	select {
	case s.wake <- struct{}{}:
	default: // it will read pathUntil in any case
	}
}

// runLoop keeps the session established until ctx ends or stop ends it for good.
func (s *peerSession) runLoop(ctx context.Context) {
	defer s.cleanUp()
	failures := 0
	for {
		attemptCtx, cancel := context.WithCancelCause(ctx)
		if !s.beginAttempt(cancel) {
			cancel(nil)
			return
		}
		err := s.runAttempt(attemptCtx, failures)
		if cause := context.Cause(attemptCtx); cause != nil {
			err = cause
		}
		cancel(nil)
		if ctx.Err() != nil {
			return // the end of Run is not a failure, and is not reported
		}
		failures = s.recordEnd(err, failures)
	}
}

// beginAttempt prepares an attempt, and returns false if there must be none.
func (s *peerSession) beginAttempt(cancel context.CancelCauseFunc) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cancel, s.applied = cancel, s.desired
	return s.final == nil
}

// applyDesired returns the desired Peer, which is the applied one from then on.
// If a difference requires a reset, setDesired has already ended the attempt.
func (s *peerSession) applyDesired() Peer {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.applied = s.desired
	return s.applied
}

// runAttempt waits after failures, connects, exchanges OPENs, and runs the session
// until it ends.
func (s *peerSession) runAttempt(ctx context.Context, failures int) error {
	opened := s.reconnected
	s.reconnected = nil
	if opened == nil {
		s.waitBackoff(ctx, failures)
		conn, err := s.connectPeer(ctx)
		if err != nil {
			return err
		}
		peer, err := s.exchangeOpens(ctx, conn, s.applyDesired())
		if err != nil {
			conn.closeWith(notificationOf(err))
			return err
		}
		opened = &openedConn{conn, peer}
	}
	return s.runEstablished(ctx, opened.conn, s.applyDesired(), opened.peer)
}

// waitBackoff waits after failures: 200 ms, doubled up to RetryTime, each up to a
// quarter shorter or longer at random, so that a router that restarts does not
// receive the connections of all nodes at the same time. After a reset by BFD, it
// also waits for BFD.
func (s *peerSession) waitBackoff(ctx context.Context, failures int) {
	started, jitter := time.Now(), 0.75+rand.Float64()/2
	for ctx.Err() == nil {
		left := s.waitLeft(failures, started, jitter)
		if left <= 0 {
			return
		}
		s.setState(Idle)
		waitOrWake(ctx, left, s.wake)
	}
}

// waitLeft returns how long the next attempt has to wait. If that is 0 or less, the
// attempt has begun, and a failure of the path ends it.
func (s *peerSession) waitLeft(failures int, started time.Time, jitter float64) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	left := time.Until(s.pathUntil)
	if failures > 0 {
		backoff := min(minBackoff<<min(failures-1, 20), s.maxBackoff())
		left = max(left, time.Duration(float64(backoff)*jitter)-time.Since(started))
	}
	if s.waiting = left > 0; !s.waiting {
		s.pathUntil = time.Time{}
	}
	return left
}

// maxBackoff returns the longest backoff. The caller holds the lock.
func (s *peerSession) maxBackoff() time.Duration {
	d := s.desired.RetryTime
	if d <= 0 {
		d = defaultMaxBackoff
	}
	if s.desired.Passive {
		return min(d, passiveMaxBackoff)
	}
	return d
}

// connectPeer connects to the peer, or waits for it to connect.
func (s *peerSession) connectPeer(ctx context.Context) (*messageConn, error) {
	p := s.applyDesired()
	if !p.Passive {
		s.stopListening()
		s.setState(Connect)
		if !p.Source.IsValid() {
			p.Source = p.selectSource(onLinkAddrs(p.Address), s.peerStatus().LocalAddr.Addr())
		}
		ctx, cancel := context.WithTimeout(ctx, s.connectWait)
		defer cancel()
		conn, err := dialPeer(ctx, p)
		if err != nil {
			return nil, dialError(p, err)
		}
		return newMessageConn(conn), nil
	}
	if s.expected != nil && (listenAddr(s.expected.Peer) != listenAddr(p) || s.expected.Address != p.Address) {
		s.stopListening()
	}
	e := expectedPeer{p, s.inbound}
	if err := s.listeners.addPeer(ctx, e); err != nil {
		return nil, err
	}
	s.expected = &e
	s.setState(Active)
	select {
	case conn := <-s.inbound:
		return newMessageConn(conn), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (s *peerSession) stopListening() {
	if s.expected != nil {
		s.listeners.removePeer(*s.expected)
		s.expected = nil
	}
	select {
	case conn := <-s.inbound:
		_ = conn.Close() // too late
	default:
	}
}

// cleanUp releases the resources that attempts share.
func (s *peerSession) cleanUp() {
	s.stopListening()
	if s.reconnected != nil {
		s.reconnected.conn.closeWith(nil)
	}
}

// setState reports a state before Established. An existing session stays Established
// while OPENs are exchanged over a new connection of its peer.
func (s *peerSession) setState(state SessionState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.status.State != Established && s.status.State != state {
		s.status.State = state
		s.notify()
	}
}

// setEstablished reports a new session.
func (s *peerSession) setEstablished(conn *messageConn, p Peer, peer Open) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := &s.status
	st.State, st.Since, st.Sessions = Established, time.Now(), st.Sessions+1
	st.LocalAddr, st.RemoteAddr = addrPort(conn.LocalAddr()), addrPort(conn.RemoteAddr())
	st.Remote = peer
	st.IPv4, st.IPv6, st.HoldTime = p.IPv4 && peer.IPv4, p.IPv6 && peer.IPv6, min(p.HoldTime, peer.HoldTime)
	st.Routes, st.Withheld, st.FailedAt, st.NextHopIPv4, st.NextHopIPv6 = 0, "", "", netip.Addr{}, netip.Addr{}
	s.ignored.Store(0)
	s.log.Info("session established", "local", st.LocalAddr, "remote", st.RemoteAddr, "asn", peer.ASN,
		"families", familyNames(st.IPv4, st.IPv6), "hold", st.HoldTime)
	s.notify()
}

func addrPort(a net.Addr) netip.AddrPort {
	ap := a.(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// recordEnd reports how an attempt ended, and returns how many have failed in a row.
func (s *peerSession) recordEnd(err error, failures int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := &s.status
	was, since := st.State, st.Since
	if was == Established {
		st.Lost++
		st.Since = time.Now()
	}
	st.State, st.Routes = Idle, 0
	var end *sessionEnd
	retryNow := errors.As(err, &end) && end.retryNow
	if was == Established || !retryNow {
		switch {
		case was == Established:
			s.log.Warn("session lost", "reason", err)
		case err.Error() != st.LastError:
			s.log.Warn("session not established", "reason", err)
		}
		st.LastError, st.LastErrorAt, st.FailedAt = err.Error(), time.Now(), stepOf(err, was == Established)
	}
	s.notify()
	if retryNow || was == Established && time.Since(since) >= stableAfter {
		return 0
	}
	return failures + 1
}

// peerStatus returns the status.
func (s *peerSession) peerStatus() PeerStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.status
	st.Name = s.desired.Name
	st.IgnoredUpdates = s.ignored.Load()
	if st.State == Established {
		st.Pending = comparePeers(s.applied, s.desired).pending
	}
	return st
}
