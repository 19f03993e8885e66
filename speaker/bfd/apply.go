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
	retryAfter = time.Second

	// glut is how many packets are read before timers have their turn, so that
	// a flood does not silence the sessions.
	glut = 4096

	// tardy is how late the loop may wake and still trust that what the peers
	// have sent can be read. Later than that the whole machine may have stood
	// still, and packets are given a reprieve to come up from the network card.
	tardy    = 10 * time.Millisecond
	reprieve = 5 * time.Millisecond
)

// wire is what the engine needs of the network.
type wire interface {
	// open makes a way to send to the key's peer and begins to receive on its
	// port. link is the index of the link that it is bound to, 0 if none.
	open(Key) (s sender, link int, err error)
	// receive takes the next packet that has arrived. It does not wait.
	receive() (arrival, bool)
	// wait returns after wake, after a time, and when a packet has arrived, but
	// not for that alone while it is deaf, at first.
	wait(deaf, d time.Duration)
	wake()
}

// sender sends to one peer.
type sender interface {
	send([]byte) error
	close()
}

// arrival is a packet that has come.
type arrival struct {
	origin
	to      netip.Addr // without a zone
	link    int
	ttl     uint8
	payload []byte // until the next receive
}

// path is a session in the engine.
type path struct {
	*session
	key Key
	log *slog.Logger

	sender  sender // nil if it could not be opened
	link    int
	retry   time.Duration // when to open it, if it is nil or fails
	failure string        // of the socket
	refusal string        // of what the peer sends

	reported State
	leaving  bool
	wakeAt   time.Duration // at which time the queue has it; its due time is not before
	place    int           // in the queue
}

type event struct {
	path   *path
	status Status
}

func (p *path) problem() string { return cmp.Or(p.failure, p.refusal) }

// due is when something has to be done for the path.
func (p *path) due() time.Duration {
	at := p.expireAt()
	if p.leaving && (p.left == 0 || p.sender == nil) {
		return 0
	}
	if p.sender != nil {
		at = min(at, p.sendAt())
	}
	if p.sender == nil || p.failure != "" {
		at = min(at, p.retry)
	}
	return at
}

// Run runs the sessions until ctx ends. It then falls silent at once: a planned
// exit calls AdminDown first. It fails if the kernel refuses even an empty
// engine; whatever concerns one session is that session's Problem.
func (e *Engine) Run(ctx context.Context) error {
	k, err := newKernel()
	if err != nil {
		return fmt.Errorf("run BFD: %w", err)
	}
	defer k.close()
	e.run(ctx, k)
	return nil
}

// run is Run over any wire.
func (e *Engine) run(ctx context.Context, w wire) {
	defer raisePriority()()
	e.mu.Lock()
	e.wire = w
	e.mu.Unlock()
	defer e.stop()
	defer context.AfterFunc(ctx, e.wake)()
	next := e.now()
	for ctx.Err() == nil {
		next = e.round(next)
		now := e.now()
		w.wait(now.Truncate(beat)+beat-now, next-now)
	}
}

// stop closes all sockets. The sessions stay, for another Run.
func (e *Engine) stop() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, p := range e.ids {
		p.hangUp()
		if p.leaving {
			e.forget(p)
		}
	}
	e.wire = nil
	e.farewell()
}

func (e *Engine) now() time.Duration { return time.Since(e.start) }

func (e *Engine) wake() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.wakeLocked()
}

func (e *Engine) wakeLocked() {
	if e.wire != nil {
		e.wire.wake()
	}
}

// round does all that there is to do and returns when the next round is due.
// planned is when this one was.
func (e *Engine) round(planned time.Duration) time.Duration {
	e.mu.Lock()
	// The order matters: what has arrived before now is read before anybody is
	// found silent at now.
	now := e.now()
	e.drain(now)
	late := now > planned+tardy
	for len(e.queue) > 0 && e.queue[0].wakeAt <= now {
		e.act(e.queue[0], now, late)
	}
	next := never
	if len(e.queue) > 0 {
		next = e.queue[0].wakeAt
	}
	e.farewell()
	events := e.events
	e.events = nil
	e.mu.Unlock()
	for _, ev := range events {
		report(ev.path, ev.status)
		e.changed(ev.path.key, ev.status)
	}
	return next
}

// drain takes what has arrived.
func (e *Engine) drain(now time.Duration) {
	for range glut {
		a, ok := e.wire.receive()
		if !ok {
			return
		}
		if p, ok := decode(a.payload); ok {
			e.hear(a, p, now)
		}
	}
}

// hear finds the packet's session and tells it (RFC 5880 section 6.8.6; RFC
// 5881 section 3). Packets for nobody leave no trace.
func (e *Engine) hear(a arrival, p packet, now time.Duration) {
	to := e.find(a, p.yours)
	if to == nil {
		return
	}
	to.refusal = to.refuse(a, p)
	if to.refusal != "" {
		return
	}
	to.receive(p, now)
	e.send(to, now)
	if to.due() < to.wakeAt {
		e.schedule(to) // later ones find their place when their time has come
	}
}

// find follows the discriminator if the packet names one, and addresses and
// links only if not.
func (e *Engine) find(a arrival, id uint32) *path {
	if id != 0 {
		if p := e.ids[id]; p != nil && p.key.Multihop == a.multihop && p.isOn(a.link) {
			return p
		}
		return nil
	}
	for _, p := range e.peers[a.origin] {
		if p.isOn(a.link) && (!p.key.Local.IsValid() || p.key.Local.WithZone("") == a.to) {
			return p
		}
	}
	return nil
}

func (p *path) isOn(link int) bool { return p.sender != nil && (p.link == 0 || p.link == link) }

// refuse says why the packet is not believed, "" if it is.
func (p *path) refuse(a arrival, got packet) string {
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
func (e *Engine) act(p *path, now time.Duration, late bool) {
	if (p.sender == nil || p.failure != "") && p.retry <= now && !p.leaving {
		e.open(p, now)
	}
	if p.expireAt() <= now {
		if late && !p.spared {
			p.spare(now, reprieve)
		} else {
			p.expire(now)
		}
	}
	e.send(p, now)
	if p.leaving && (p.left == 0 || p.sender == nil) {
		p.hangUp()
		e.forget(p)
		return
	}
	e.schedule(p)
}

// open opens the path's socket, or another one in its place.
func (e *Engine) open(p *path, now time.Duration) {
	again := p.sender != nil
	p.hangUp()
	s, link, err := e.wire.open(p.key)
	p.retry = now + retryAfter
	if err == nil {
		p.sender, p.link = s, link
	}
	if err != nil || !again { // a socket that could not send has yet to prove itself
		p.fail(err)
	}
}

// send sends what is due, and notes if the session has changed.
func (e *Engine) send(p *path, now time.Duration) {
	e.note(p)
	if p.sender == nil {
		p.owed = false
		return
	}
	if p.owed {
		p.fail(p.sender.send(p.answer().append(e.buf[:0])))
	}
	if p.sendAt() <= now {
		err := p.sender.send(p.packet().append(e.buf[:0]))
		p.departed(now, rand.Float64())
		if err != nil && p.failure == "" {
			p.retry = now + retryAfter
		}
		p.fail(err)
	}
}

// note remembers to report a change of state.
func (e *Engine) note(p *path) {
	if p.state != p.reported && !p.leaving {
		p.reported = p.state
		e.events = append(e.events, event{p, e.status(p)})
	}
}

// farewell releases AdminDown when nobody has anything left to say.
func (e *Engine) farewell() {
	if e.parting == nil {
		return
	}
	for _, p := range e.ids {
		if p.left > 0 && p.sender != nil {
			return
		}
	}
	select {
	case <-e.parting:
	default:
		close(e.parting)
	}
}

// schedule puts the path where it belongs in the queue.
func (e *Engine) schedule(p *path) {
	p.wakeAt = p.due()
	if p.place < 0 {
		heap.Push(&e.queue, p)
		return
	}
	heap.Fix(&e.queue, p.place)
}

func (e *Engine) forget(p *path) {
	delete(e.ids, p.id)
	heap.Remove(&e.queue, p.place)
}

func (p *path) hangUp() {
	if p.sender != nil {
		p.sender.close()
		p.sender = nil
	}
}

// fail notes whether the socket works. A packet that was not sent is not sent
// again: the next one follows soon.
func (p *path) fail(err error) {
	if err == nil {
		p.failure = ""
		return
	}
	if p.failure == "" {
		p.log.Warn("BFD socket failed", "error", err)
	}
	p.failure = err.Error()
}

func report(p *path, s Status) {
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
