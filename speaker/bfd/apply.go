package bfd

import (
	"cmp"
	"container/heap"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"time"
)

const (
	// retryAfter is the wait before a socket is opened again.
	socketRetryInterval = time.Second

	// glut is how many packets are read before timers have their turn, so that
	// a flood does not silence the sessions.
	maxPacketsPerRound = 4096

	// tardy is how late the loop may wake and still trust that what the peers
	// have sent can be read. Later than that the whole machine may have stood
	// still, and packets are given a reprieve to come up from the network card.
	maxWakeupDelay = 10 * time.Millisecond
	expiryGrace    = 5 * time.Millisecond
)

// wire is what the engine needs of the network.
type transport interface {
	// open makes a way to send to the key's peer and begins to receive on its
	// port. link is the index of the link that it is bound to, 0 if none.
	openSender(Key) (s packetSender, link int, err error)
	// receive takes the next packet that has arrived. It does not wait.
	nextPacket() (receivedPacket, bool)
	// wait returns after wake, after a time, and when a packet has arrived, but
	// not for that alone while it is deaf, at first.
	wait(deaf, d time.Duration)
	wake()
}

// sender sends to one peer.
type packetSender interface {
	send([]byte) error
	close()
}

// arrival is a packet that has come.
type receivedPacket struct {
	remoteEnd
	destination netip.Addr // without a zone
	ifIndex     int
	ttl         uint8
	payload     []byte // until the next receive
}

// path is a session in the engine.
type runningSession struct {
	*session
	key Key
	log *slog.Logger

	sender      packetSender // nil if it could not be opened
	ifIndex     int
	retryAt     time.Duration // when to open it, if it is nil or fails
	socketError string        // of the socket
	rejection   string        // of what the peer sends

	reported   State
	removed    bool
	wakeAt     time.Duration // at which time the queue has it; its due time is not before
	queueIndex int           // in the queue
}

type stateChange struct {
	session *runningSession
	status  Status
}

func (p *runningSession) problem() string { return cmp.Or(p.socketError, p.rejection) }

// due is when something has to be done for the path.
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

// Run runs the sessions until ctx ends. It then falls silent at once: a planned
// exit calls AdminDown first. It fails if the kernel refuses even an empty
// engine; whatever concerns one session is that session's Problem.
func (e *Engine) Run(ctx context.Context) error {
	k, err := newSocketTransport()
	if err != nil {
		return fmt.Errorf("run BFD: %w", err)
	}
	defer k.close()
	e.runLoop(ctx, k)
	return nil
}

// run is Run over any wire.
func (e *Engine) runLoop(ctx context.Context, w transport) {
	defer raisePriority()()
	e.mu.Lock()
	e.transport = w
	e.mu.Unlock()
	defer e.closeSenders()
	defer context.AfterFunc(ctx, e.wake)()
	next := e.elapsed()
	for ctx.Err() == nil {
		next = e.runOnce(next)
		now := e.elapsed()
		w.wait(now.Truncate(timerGranularity)+timerGranularity-now, next-now)
	}
}

// stop closes all sockets. The sessions stay, for another Run.
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

func (e *Engine) wakeLocked() {
	if e.transport != nil {
		e.transport.wake()
	}
}

// round does all that there is to do and returns when the next round is due.
// planned is when this one was.
func (e *Engine) runOnce(planned time.Duration) time.Duration {
	e.mu.Lock()
	// The order matters: what has arrived before now is read before anybody is
	// found silent at now.
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
		logChange(ev.session, ev.status)
		e.changed(ev.session.key, ev.status)
	}
	return next
}

// drain takes what has arrived.
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

// hear finds the packet's session and tells it (RFC 5880 section 6.8.6; RFC
// 5881 section 3). Packets for nobody leave no trace.
func (e *Engine) processPacket(a receivedPacket, p controlPacket, now time.Duration) {
	to := e.findSession(a, p.yourDiscriminator)
	if to == nil {
		return
	}
	to.rejection = to.rejectionOf(a, p)
	if to.rejection != "" {
		return
	}
	to.receivePacket(p, now)
	e.sendDue(to, now)
	if to.nextDeadline() < to.wakeAt {
		e.schedule(to) // later ones find their place when their time has come
	}
}

// find follows the discriminator if the packet names one, and addresses and
// links only if not.
func (e *Engine) findSession(a receivedPacket, id uint32) *runningSession {
	if id != 0 {
		if p := e.byDiscriminator[id]; p != nil && p.key.Multihop == a.multihop && p.receivesOn(a.ifIndex) {
			return p
		}
		return nil
	}
	for _, p := range e.byRemoteEnd[a.remoteEnd] {
		if p.receivesOn(a.ifIndex) && (!p.key.Local.IsValid() || p.key.Local.WithZone("") == a.destination) {
			return p
		}
	}
	return nil
}

func (p *runningSession) receivesOn(link int) bool {
	return p.sender != nil && (p.ifIndex == 0 || p.ifIndex == link)
}

// refuse says why the packet is not believed, "" if it is.
func (p *runningSession) rejectionOf(a receivedPacket, got controlPacket) string {
	switch {
	case !p.key.Multihop && a.ttl != maxTTL:
		return fmt.Sprintf("the peer's packets arrive with TTL %d instead of %d: a router is between", a.ttl, maxTTL)
	case p.key.Multihop && a.ttl < p.profile.MinTTL:
		return fmt.Sprintf("the peer's packets arrive with TTL %d, below the minimum of %d", a.ttl, p.profile.MinTTL)
	case got.authenticated:
		return "the peer demands authentication, which is not supported"
	}
	return ""
}

// act does what is due for a path.
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

// open opens the path's socket, or another one in its place.
func (e *Engine) openSender(p *runningSession, now time.Duration) {
	again := p.sender != nil
	p.closeSender()
	s, link, err := e.transport.openSender(p.key)
	p.retryAt = now + socketRetryInterval
	if err == nil {
		p.sender, p.ifIndex = s, link
	}
	if err != nil || !again { // a socket that could not send has yet to prove itself
		p.setSocketError(err)
	}
}

// send sends what is due, and notes if the session has changed.
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

// note remembers to report a change of state.
func (e *Engine) recordChange(p *runningSession) {
	if p.state != p.reported && !p.removed {
		p.reported = p.state
		e.changes = append(e.changes, stateChange{p, e.statusOf(p)})
	}
}

// farewell releases AdminDown when nobody has anything left to say.
func (e *Engine) finishAdminDown() {
	if e.adminDownDone == nil {
		return
	}
	for _, p := range e.byDiscriminator {
		if p.adminDownLeft > 0 && p.sender != nil {
			return
		}
	}
	select {
	case <-e.adminDownDone:
	default:
		close(e.adminDownDone)
	}
}

// schedule puts the path where it belongs in the queue.
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

// fail notes whether the socket works. A packet that was not sent is not sent
// again: the next one follows soon.
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

func logChange(p *runningSession, s Status) {
	level, message := slog.LevelDebug, "BFD session changed"
	switch {
	case s.State == Up:
		level, message = slog.LevelInfo, "BFD session came up"
	case s.State == AdminDown:
		level, message = slog.LevelInfo, "BFD session was taken down"
	case s.State == Down && s.Diagnostic != NoDiagnostic:
		level, message = slog.LevelWarn, "BFD session went down"
	}
	p.log.Log(context.Background(), level, message, "state", s.State, "diagnostic", s.Diagnostic, "flaps", s.Flaps)
}
