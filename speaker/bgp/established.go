package bgp

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
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
	// refresh has a value when the peer has asked for refreshFamilies.
	refresh         chan struct{}
	refreshFamilies atomic.Uint32
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
	for _, task := range []func(context.Context) error{t.listen, t.beat, t.advertise, t.receive} {
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
			t.refreshFamilies.Or(refreshedFamilies(body))
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
	if len(body) < 7 || binary.BigEndian.Uint16(body) != 0 || body[5] != mpUnreachNLRI {
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

// advertise keeps the peer at the desired routes. The first of them are followed
// by an End-of-RIB for each family (RFC 4724 section 2).
func (t *talk) advertise(ctx context.Context) error {
	sent, err := t.update(ctx, adjRIBOut{})
	if err != nil {
		return err
	}
	var markers [][]byte
	if t.p.IPv4 && t.peer.IPv4 {
		markers = append(markers, endOfRIB(false))
	}
	if t.p.IPv6 && t.peer.IPv6 {
		markers = append(markers, endOfRIB(true))
	}
	if err := t.send(ctx, markers); err != nil {
		return err
	}
	tick := time.NewTicker(hopsEvery)
	defer tick.Stop()
	var refreshed time.Time
	var due <-chan time.Time
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
			due, refreshed = nil, time.Now()
			sent = sent.without(t.refreshFamilies.Swap(0))
		case <-t.wake:
		case <-tick.C:
		}
		if sent, err = t.update(ctx, sent); err != nil {
			return err
		}
	}
}

// update sends the peer what it lacks of the desired routes, and withdraws what
// it has too many. It returns what the peer has then.
func (t *talk) update(ctx context.Context, sent adjRIBOut) (adjRIBOut, error) {
	local := addrPort(t.w.LocalAddr()).Addr()
	h, withheld := chooseHops(t.p, t.peer, local, linkAddrs(local))
	t.mu.Lock()
	desired := t.want.Routes
	t.mu.Unlock()
	e := encoder{t.p.LocalASN, t.peer.ASN, t.peer.FourOctetASN}
	messages, now, invalid := e.updates(sent, desired, h)
	if err := t.send(ctx, messages); err != nil {
		return sent, err
	}
	if len(invalid) > 0 {
		first := slices.SortedFunc(maps.Keys(invalid), netip.Prefix.Compare)[0]
		unfit := fmt.Sprintf("%d routes, such as %s: %s", len(invalid), first, invalid[first])
		withheld = strings.TrimPrefix(withheld+"; "+unfit, "; ")
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	v4, v6 := h.v4.IsValid(), h.v6.IsValid()
	if t.status.Routes != now.size || t.status.Withheld != withheld || t.status.IPv4 != v4 || t.status.IPv6 != v6 {
		if withheld != t.status.Withheld && withheld != "" {
			t.log.Warn("routes withheld", "reason", withheld)
		}
		t.status.Routes, t.status.Withheld, t.status.IPv4, t.status.IPv6 = now.size, withheld, v4, v6
		t.poke()
	}
	return now, nil
}

// send writes messages. It blocks while the peer does not read, so that changes
// of the desired routes do not pile up: the next update has them all.
func (t *talk) send(ctx context.Context, messages [][]byte) error {
	for i, m := range messages {
		if err := t.w.write(m, i == len(messages)-1); err != nil {
			return t.unread(ctx, err)
		}
	}
	return nil
}
