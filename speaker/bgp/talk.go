package bgp

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// refreshEvery is the shortest time between two answers to ROUTE-REFRESH.
	refreshEvery = time.Second
	// hopsEvery is how often the interface's addresses are looked at.
	hopsEvery = 10 * time.Second
	// lastWords is how long a peer is listened to after a write has failed.
	lastWords = time.Second
)

// greet exchanges OPENs and the first KEEPALIVEs (RFC 4271 section 8.2.2).
func (s *session) greet(ctx context.Context, w *wire, p Peer) (Open, error) {
	stop := context.AfterFunc(ctx, func() { _ = w.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	open, err := encodeOpen(p)
	if err != nil {
		return Open{}, err
	}
	s.enter(OpenSent)
	_ = w.write(open, true) // if that fails, reading tells why
	body, err := s.expect(ctx, w, p, OpenSent, s.openWait)
	if err != nil {
		return Open{}, err
	}
	peer, err := decodeOpen(body)
	if err != nil {
		var l *leave
		if !errors.As(err, &l) {
			err = &leave{note: &Notification{codeOpen, 0, nil}, why: "the peer's OPEN is malformed: " + err.Error()}
		}
		return Open{}, err
	}
	if err := peer.check(p); err != nil {
		return Open{}, err
	}
	s.enter(OpenConfirm)
	_ = w.write(keepalive, true) // as above
	wait := min(p.HoldTime, peer.HoldTime)
	if wait == 0 {
		wait = s.openWait
	}
	_, err = s.expect(ctx, w, p, OpenConfirm, wait)
	return peer, err
}

// expect reads the message that a state waits for.
func (s *session) expect(ctx context.Context, w *wire, p Peer, state SessionState, wait time.Duration) ([]byte, error) {
	_ = w.SetReadDeadline(time.Now().Add(wait)) // if that fails, reading does
	if ctx.Err() != nil {                       // asked after the deadline was set: what ends ctx sets another
		return nil, context.Cause(ctx)
	}
	want, subcode := uint8(msgOpen), uint8(inOpenSent)
	if state == OpenConfirm {
		want, subcode = msgKeepalive, inOpenConfirm
	}
	kind, body, err := w.read()
	var malformed *leave
	switch {
	case errors.As(err, &malformed):
		return nil, err
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case isTimeout(err):
		return nil, &leave{
			note: &Notification{codeHoldTimer, 0, nil},
			why:  fmt.Sprintf("the peer accepted the connection but was silent for %s in %s", wait, state),
		}
	case err != nil:
		return nil, lost(p, state, err)
	case kind == msgNotification:
		return nil, &dismissed{decodeNotification(body)}
	case kind != want:
		return nil, &leave{
			note: &Notification{codeStateMachine, subcode, nil},
			why:  fmt.Sprintf("the peer sent a message of type %d in %s", kind, state),
		}
	}
	return body, nil
}

// talk is an established session.
type talk struct {
	*session
	w        *wire
	p        Peer
	peer     Open
	graceful bool          // the peer keeps the routes if the connection ends without a NOTIFICATION
	hold     time.Duration // 0: the peer need not be heard
	refresh  chan struct{}
	owed     atomic.Int32 // End-of-RIB markers that GoBGP has yet to send
}

// converse is the life of an established session. It returns why it ended.
func (s *session) converse(ctx context.Context, w *wire, p Peer, peer Open) error {
	t := &talk{
		session: s, w: w, p: p, peer: peer,
		graceful: p.RestartTime > 0 && peer.GracefulRestart,
		hold:     min(p.HoldTime, peer.HoldTime),
		refresh:  make(chan struct{}, 1),
	}
	s.established(w, p, peer)
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	var tasks sync.WaitGroup
	for _, task := range []func(context.Context) error{t.listen, t.beat, t.tell, t.receive} {
		tasks.Go(func() { end(task(ctx)) })
	}
	<-ctx.Done()
	err := context.Cause(ctx)
	note := noteOf(err)
	var l *leave
	if errors.As(err, &l) && l.keep && t.graceful {
		note = nil
	}
	w.farewell(note)
	tasks.Wait()
	return err
}

// listen hears the peer. What it announces is dropped: this node learns no routes.
func (t *talk) listen(ctx context.Context) error {
	for {
		deadline := time.Time{}
		if t.hold > 0 {
			deadline = time.Now().Add(t.hold)
		}
		if err := t.w.SetReadDeadline(deadline); err != nil {
			return lost(t.p, Established, err)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		kind, body, err := t.w.read()
		var malformed *leave
		switch {
		case errors.As(err, &malformed):
			return err
		case isTimeout(err):
			return &leave{
				note: &Notification{codeHoldTimer, 0, nil},
				why:  fmt.Sprintf("hold timer expired: the peer was silent for %s", t.hold),
			}
		case err != nil:
			return lost(t.p, Established, err)
		case kind == msgNotification:
			return &dismissed{decodeNotification(body)}
		case kind == msgOpen:
			return &leave{note: &Notification{codeStateMachine, inEstablished, nil}, why: "the peer sent an OPEN in Established"}
		case kind == msgUpdate && !isEndOfRIB(body):
			t.ignored.Add(1)
		case kind == msgRouteRefresh:
			select {
			case t.refresh <- struct{}{}:
			default: // one waits already
			}
		}
	}
}

// isEndOfRIB recognizes an UPDATE's body that says only that (RFC 4724 section 2).
func isEndOfRIB(body []byte) bool {
	if len(body) == 4 {
		return bytes.Equal(body, []byte{0, 0, 0, 0})
	}
	const unreach, extendedLength = 15, 0x10 // MP_UNREACH_NLRI, RFC 4760 section 4
	if len(body) < 7 || binary.BigEndian.Uint16(body) != 0 || body[5] != unreach {
		return false
	}
	if body[4]&extendedLength != 0 {
		return len(body) == 11
	}
	return len(body) == 10
}

// beat sends KEEPALIVEs.
func (t *talk) beat(ctx context.Context) error {
	if t.hold == 0 {
		<-ctx.Done()
		return ctx.Err()
	}
	every := t.hold / 3
	if t.p.KeepaliveTime > 0 {
		every = min(every, t.p.KeepaliveTime)
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
			if err := t.w.write(keepalive, true); err != nil {
				return t.unread(ctx, err)
			}
		}
	}
}

// unread is the error of a write that failed. What the peer said before it
// closed the connection may still have to be read, and says more.
func (t *talk) unread(ctx context.Context, err error) error {
	if isTimeout(err) {
		return fmt.Errorf("send hold timer expired: the peer read nothing for %s (RFC 9687)", sendHoldTime)
	}
	sleep(ctx, lastWords, nil)
	return lost(t.p, Established, err)
}

// receive meets a passive peer that connects anew. Where it knows graceful
// restart it has restarted, and the new connection takes the old one's place
// (RFC 4724 section 4.2); otherwise the old one stays (RFC 4271 section 6.8).
func (t *talk) receive(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case conn := <-t.visits:
			w := newWire(conn)
			if !t.graceful {
				w.farewell(&Notification{codeCease, ceaseCollision, nil})
				continue
			}
			peer, err := t.greet(ctx, w, t.p)
			if err != nil {
				w.farewell(noteOf(err))
				continue
			}
			t.next = &meeting{w, peer}
			return &leave{why: "the peer connected anew", anew: true, keep: true}
		}
	}
}

// tell keeps the peer's knowledge of our routes at what is wanted.
func (t *talk) tell(ctx context.Context) error {
	r, err := t.ribs.get(t.log)
	if err != nil {
		return err
	}
	defer t.ribs.put(r)
	if err := t.update(ctx, r); err != nil { // before GoBGP has a peer: the End-of-RIB must not come first
		return err
	}
	t.owed.Store(int32(len(routeFamilies(t.p.IPv4 && t.peer.IPv4, t.p.IPv6 && t.peer.IPv6))))
	inner, err := r.join(ctx, t.p, t.peer)
	if err != nil {
		return err
	}
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	var pump sync.WaitGroup
	pump.Go(func() { end(t.pump(ctx, inner)) })
	defer pump.Wait()
	defer r.leave(inner)
	return t.follow(ctx, r)
}

// follow tells changes until ctx ends.
func (t *talk) follow(ctx context.Context, r *rib) error {
	tick := time.NewTicker(hopsEvery)
	defer tick.Stop()
	var refreshed time.Time
	var due, retry <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-t.refresh:
			if due == nil {
				due = time.After(time.Until(refreshed.Add(refreshEvery)))
			}
			continue
		case <-due:
			if t.owed.Load() > 0 { // the last answer is not out yet
				due = time.After(refreshEvery)
				continue
			}
			due, refreshed = nil, time.Now()
			t.owed.Add(int32(len(routeFamilies(t.p.IPv4 && t.peer.IPv4, t.p.IPv6 && t.peer.IPv6))))
			if err := r.refresh(ctx); err != nil {
				return err
			}
			continue
		case <-t.wake:
		case <-tick.C:
		case <-retry:
		}
		retry = nil
		if t.w.stuck() { // what would pile up is told when the peer reads again
			retry = time.After(stuckAfter)
			continue
		}
		if err := t.update(ctx, r); err != nil {
			return err
		}
	}
}

// update gives the rib the routes that are wanted now.
func (t *talk) update(ctx context.Context, r *rib) error {
	local := addrPort(t.w.LocalAddr()).Addr()
	h, withheld := chooseHops(t.p, t.peer, local, linkAddrs(local))
	t.mu.Lock()
	routes := t.want.Routes
	t.mu.Unlock()
	unfit, err := r.set(ctx, routes, telling{t.p.LocalASN, t.peer.ASN, h})
	if err != nil {
		return err
	}
	if unfit != "" {
		withheld = strings.TrimPrefix(withheld+"; "+unfit, "; ")
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	v4, v6 := h.v4.IsValid(), h.v6.IsValid()
	if t.status.Routes != len(r.have) || t.status.Withheld != withheld || t.status.IPv4 != v4 || t.status.IPv6 != v6 {
		if withheld != t.status.Withheld && withheld != "" {
			t.log.Warn("routes withheld", "reason", withheld)
		}
		t.status.Routes, t.status.Withheld, t.status.IPv4, t.status.IPv6 = len(r.have), withheld, v4, v6
		t.poke()
	}
	return nil
}

// pump carries GoBGP's UPDATEs to the peer. Nothing else of it leaves the node.
func (t *talk) pump(ctx context.Context, inner *wire) error {
	for {
		kind, body, err := inner.read()
		if err != nil {
			return fmt.Errorf("read from GoBGP: %w", err)
		}
		switch kind {
		case msgUpdate:
			if isEndOfRIB(body) {
				t.owed.Add(-1)
			}
			if err := t.w.write(inner.buf[:headerLen+len(body)], inner.in.Buffered() == 0); err != nil {
				return t.unread(ctx, err)
			}
		case msgKeepalive:
			if err := inner.write(keepalive, true); err != nil {
				return fmt.Errorf("write to GoBGP: %w", err)
			}
		default:
			return fmt.Errorf("GoBGP ended its session: %s", decodeNotification(body))
		}
	}
}
