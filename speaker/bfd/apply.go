package bfd

import (
	"cmp"
	"container/heap"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"
)

const (
	// socketRetryInterval is the time between two attempts to open a socket.
	socketRetryInterval = time.Second

	// maxPacketsPerRound limits the packets that are read before timers are
	// processed, so that a flood does not delay the sessions' own packets.
	maxPacketsPerRound = 4096

	// maxWakeupDelay is how late the loop may wake and still assume that all
	// packets the peers have sent can be read. After a longer delay the whole
	// machine may have been suspended; sessions then expire expiryGrace later, so
	// that packets can arrive from the network card first.
	maxWakeupDelay = 10 * time.Millisecond
	expiryGrace    = 5 * time.Millisecond
)

// transport is the network interface of the Engine.
type transport interface {
	// openSender opens a sender to the key's peer, from the source if the key has no
	// Local, and starts receiving on the session's port. ifIndex is the index of the
	// interface that the sender is bound to, or 0.
	openSender(key Key, source netip.Addr) (s packetSender, ifIndex int, err error)
	// nextPacket returns the next packet that has arrived. It does not block.
	nextPacket() (receivedPacket, bool)
	// wait blocks until wake is called, timeout has passed or a packet has
	// arrived. During the first minimum of the time it ignores packets.
	wait(minimum, timeout time.Duration)
	// wake makes the current or the next wait return.
	wake()
}

// packetSender sends to one peer.
type packetSender interface {
	send([]byte) error
	close()
}

// receivedPacket is a packet with its addresses.
type receivedPacket struct {
	remoteEnd
	destination netip.Addr // without a zone
	ifIndex     int
	ttl         uint8
	payload     []byte // valid until the next call of nextPacket
}

// runningSession is a session with its sender and its place in the queue.
type runningSession struct {
	*session
	key Key
	log *slog.Logger

	sender      packetSender  // nil if it could not be opened
	ifIndex     int           // of the sender's interface; 0: it is not bound to one
	upIfIndex   int           // of the interface that the session went Up on
	retryAt     time.Duration // when to open the sender, if it is nil or fails
	socketError string        // the last error of the socket, "" if it works
	rejection   string        // why the last packet of the peer was rejected, "" if it was not

	reported          State
	reportedPathDown  bool          // the peer signals ConcatenatedPathDown in Up
	reportedDetection time.Duration // in Up
	removed           bool
	wakeAt            time.Duration // the time it has in the queue, not after nextDeadline
	queueIndex        int
}

// stateChange is a change of a session's state, or in Up of the peer's diagnostic only.
type stateChange struct {
	session   *runningSession
	status    Status
	sameState bool
}

func (p *runningSession) problem() string { return cmp.Or(p.socketError, p.rejection) }

// nextDeadline returns when the session has to send, to expire or to retry.
func (p *runningSession) nextDeadline() time.Duration {
	at := p.nextExpiry()
	if p.removed && (p.adminDownLeft == 0 || p.sender == nil) {
		return 0
	}
	if p.sender != nil {
		at = min(at, p.nextSend())
	}
	if p.sender == nil || p.socketError != "" {
		at = min(at, p.retryAt)
	}
	return at
}

// Run runs the sessions until ctx ends, and then stops sending at once: callers
// that stop for good call AdminDown first, callers that restart call Pause. Run
// returns an error only if it cannot start; errors of one session are in its
// Status.Problem.
func (e *Engine) Run(ctx context.Context) error {
	t, err := newSocketTransport()
	if err != nil {
		return fmt.Errorf("run BFD: %w", err)
	}
	defer t.close()
	e.runLoop(ctx, t)
	return nil
}

// runLoop implements Run over any transport.
func (e *Engine) runLoop(ctx context.Context, t transport) {
	defer raisePriority()()
	e.mu.Lock()
	e.transport = t
	e.mu.Unlock()
	defer e.closeSenders()
	defer context.AfterFunc(ctx, e.wake)()
	next := e.elapsed()
	for ctx.Err() == nil {
		next = e.runOnce(next)
		now := e.elapsed()
		t.wait(now.Truncate(timerGranularity)+timerGranularity-now, next-now)
	}
}

// closeSenders closes all sockets. The sessions stay for the next Run.
func (e *Engine) closeSenders() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, p := range e.byDiscriminator {
		p.closeSender()
		if p.removed {
			e.deleteSession(p)
		}
	}
	e.transport = nil
	e.finishAdminDown()
}

func (e *Engine) elapsed() time.Duration { return time.Since(e.start) }

func (e *Engine) wake() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.wakeLocked()
}

// wakeLocked wakes the loop. The caller holds the lock.
func (e *Engine) wakeLocked() {
	if e.transport != nil {
		e.transport.wake()
	}
}

// runOnce processes all received packets and expired timers, and returns when
// the next round is due. planned is when this one was due.
func (e *Engine) runOnce(planned time.Duration) time.Duration {
	e.mu.Lock()
	// Packets that arrived before now must be processed before sessions expire
	// at now.
	now := e.elapsed()
	e.receivePackets(now)
	late := now > planned+maxWakeupDelay
	for len(e.queue) > 0 && e.queue[0].wakeAt <= now {
		e.runDue(e.queue[0], now, late)
	}
	next := never
	if len(e.queue) > 0 {
		next = e.queue[0].wakeAt
	}
	e.finishAdminDown()
	events := e.changes
	e.changes = nil
	e.mu.Unlock()
	for _, ev := range events {
		logChange(ev)
		e.changed(ev.session.key, ev.status)
	}
	return next
}

// receivePackets processes the packets that have arrived.
func (e *Engine) receivePackets(now time.Duration) {
	for range maxPacketsPerRound {
		a, ok := e.transport.nextPacket()
		if !ok {
			return
		}
		if p, ok := decodePacket(a.payload); ok {
			e.processPacket(a, p, now)
		}
	}
}

// processPacket passes a packet to its session (RFC 5880 section 6.8.6; RFC
// 5881 section 3). Packets without a session are dropped.
func (e *Engine) processPacket(a receivedPacket, p controlPacket, now time.Duration) {
	to := e.findSession(a, p.yourDiscriminator)
	if to == nil {
		return
	}
	rejection := to.rejectionOf(a, p)
	if to.state != Up { // anyone can send packets that are rejected
		to.rejection = rejection
	}
	if rejection != "" {
		return
	}
	was := to.state
	to.receivePacket(p, now)
	if was != Up && to.state == Up {
		to.upIfIndex, to.rejection = a.ifIndex, ""
	}
	e.sendDue(to, now)
	if to.nextDeadline() < to.wakeAt {
		e.schedule(to) // a later deadline is scheduled when wakeAt has passed
	}
}

// findSession selects the session by Your Discriminator if it is not zero,
// otherwise by addresses and interface. It returns nil if there is none.
func (e *Engine) findSession(a receivedPacket, id uint32) *runningSession {
	if id != 0 {
		if p := e.byDiscriminator[id]; p != nil && p.sender != nil && p.key.Multihop == a.multihop {
			return p
		}
		return nil
	}
	for _, p := range e.byRemoteEnd[a.remoteEnd] {
		if p.sender != nil && p.receivesOn(a.ifIndex) && p.receivesAt(a.destination) {
			return p
		}
	}
	return nil
}

// receivesOn reports whether the session accepts packets from an interface. A
// single-hop session accepts those of one interface only: that of its key, or the
// one that it went Up on.
func (p *runningSession) receivesOn(ifIndex int) bool {
	switch {
	case p.ifIndex != 0:
		return p.ifIndex == ifIndex
	case !p.key.Multihop && p.state == Up:
		return p.upIfIndex == ifIndex
	}
	return true
}

// receivesAt reports whether the session accepts packets to an address of this end.
func (p *runningSession) receivesAt(destination netip.Addr) bool {
	return !p.key.Local.IsValid() || p.key.Local.WithZone("") == destination
}

// rejectionOf returns why the session must not accept the packet, or "".
func (p *runningSession) rejectionOf(a receivedPacket, got controlPacket) string {
	switch {
	case p.key.remoteEnd() != a.remoteEnd:
		return fmt.Sprintf("packets of the session have the source address %s instead of %s", a.addr, p.key.Peer)
	case !p.receivesAt(a.destination):
		return fmt.Sprintf("packets of the session have the destination address %s instead of %s", a.destination, p.key.Local)
	case !p.receivesOn(a.ifIndex):
		return fmt.Sprintf("packets of the session arrive on the interface with index %d instead of %s", a.ifIndex, p.key.boundInterface())
	case !p.key.Multihop && a.ttl != maxTTL:
		return fmt.Sprintf("packets from the peer have TTL %d instead of %d: the peer is not directly connected", a.ttl, maxTTL)
	case p.key.Multihop && a.ttl < p.profile.MinTTL:
		return fmt.Sprintf("packets from the peer have TTL %d, below the minimum of %d: lower minimumTtl of the BFDProfile"+
			" if the peer is more hops away, or sends packets with a lower TTL", a.ttl, p.profile.MinTTL)
	case got.authenticated:
		return "the peer requires BFD authentication, which is not supported"
	}
	return ""
}

// runDue does what is due for a session: it opens the sender, expires the peer,
// sends packets and deletes a removed session.
func (e *Engine) runDue(p *runningSession, now time.Duration, late bool) {
	if (p.sender == nil || p.socketError != "") && p.retryAt <= now && !p.removed {
		e.openSender(p, now)
	}
	if p.nextExpiry() <= now {
		if late && !p.expiryPostponed {
			p.postponeExpiry(now, expiryGrace)
		} else {
			p.expirePeer(now)
		}
	}
	e.sendDue(p, now)
	if p.removed && (p.adminDownLeft == 0 || p.sender == nil) {
		p.closeSender()
		e.deleteSession(p)
		return
	}
	e.schedule(p)
}

// openSender opens the session's sender, or replaces one that fails.
func (e *Engine) openSender(p *runningSession, now time.Duration) {
	again := p.sender != nil
	p.closeSender()
	s, ifIndex, err := e.transport.openSender(p.key, p.profile.Source)
	p.retryAt = now + socketRetryInterval
	if err == nil {
		p.sender, p.ifIndex = s, ifIndex
	}
	if err != nil || !again { // the error of a replaced sender stays until a packet was sent
		p.setSocketError(err)
	}
}

// sendDue sends the packets that are due, and records a change of state.
func (e *Engine) sendDue(p *runningSession, now time.Duration) {
	e.recordChange(p)
	if p.sender == nil {
		p.finalPending = false
		return
	}
	if p.finalPending {
		p.setSocketError(p.sender.send(p.finalPacket().appendTo(e.buf[:0])))
	}
	if p.nextSend() <= now {
		err := p.sender.send(p.nextPacket().appendTo(e.buf[:0]))
		p.packetSent(now, rand.Float64())
		if err != nil && p.socketError == "" {
			p.retryAt = now + socketRetryInterval
		}
		p.setSocketError(err)
	}
}

// recordChange queues a change for the changed callback.
func (e *Engine) recordChange(p *runningSession) {
	pathDown, detection := false, time.Duration(0)
	if p.state == Up {
		pathDown, detection = p.peer.diagnostic == ConcatenatedPathDown, p.detectionTime()
	}
	sameState := p.state == p.reported
	if p.removed || sameState && pathDown == p.reportedPathDown && detection == p.reportedDetection {
		return
	}
	p.reported, p.reportedPathDown, p.reportedDetection = p.state, pathDown, detection
	e.changes = append(e.changes, stateChange{p, e.statusOf(p), sameState})
}

// finishAdminDown makes the calls of AdminDown return whose sessions have sent their
// last AdminDown packet.
func (e *Engine) finishAdminDown() {
	e.adminDowns = slices.DeleteFunc(e.adminDowns, func(c adminDownCall) bool {
		if slices.ContainsFunc(c.sessions, func(p *runningSession) bool { return p.adminDownLeft > 0 && p.sender != nil }) {
			return false
		}
		close(c.done)
		return true
	})
}

// schedule updates the session's position in the queue.
func (e *Engine) schedule(p *runningSession) {
	p.wakeAt = p.nextDeadline()
	if p.queueIndex < 0 {
		heap.Push(&e.queue, p)
		return
	}
	heap.Fix(&e.queue, p.queueIndex)
}

func (e *Engine) deleteSession(p *runningSession) {
	delete(e.byDiscriminator, p.discriminator)
	heap.Remove(&e.queue, p.queueIndex)
}

func (p *runningSession) closeSender() {
	if p.sender != nil {
		p.sender.close()
		p.sender = nil
	}
}

// setSocketError records whether the socket works. A packet that could not be
// sent is not retransmitted: the next one follows soon.
func (p *runningSession) setSocketError(err error) {
	if err == nil {
		p.socketError = ""
		return
	}
	if p.socketError == "" {
		p.log.Warn("BFD socket failed", "error", err)
	}
	p.socketError = err.Error()
}

// logChange logs a change.
func logChange(c stateChange) {
	s := c.status
	level, message := slog.LevelDebug, "BFD session changed"
	switch {
	case c.sameState: // a peer can change its diagnostic in each packet
	case s.State == Up:
		level, message = slog.LevelInfo, "BFD session established"
	case s.State == AdminDown:
		level, message = slog.LevelInfo, "BFD session was taken down"
	case s.State == Down && s.Diagnostic != NoDiagnostic:
		level, message = slog.LevelWarn, "BFD session went down"
	}
	c.session.log.Log(context.Background(), level, message,
		"state", s.State, "diagnostic", s.Diagnostic, "remoteDiagnostic", s.RemoteDiagnostic, "flaps", s.Flaps)
}
