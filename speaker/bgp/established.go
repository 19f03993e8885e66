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
	// refreshEvery is the minimum time between two replies to ROUTE-REFRESH: a rate
	// limit.
	refreshEvery = time.Second
	// nextHopsEvery is how often the addresses of the interface are read.
	nextHopsEvery = 10 * time.Second
	// notificationWait is how long a NOTIFICATION may take to be read after a write
	// has failed.
	notificationWait = time.Second
)

// establishedSession is a session in Established, until it ends.
type establishedSession struct {
	*peerSession
	conn     *messageConn
	p        Peer
	peer     Open
	graceful bool          // the peer preserves the routes if the connection ends without a NOTIFICATION
	hold     time.Duration // 0: no hold timer
	hops     nextHops      // of the last update; before the first one, those of the last session
	// refresh has a value when the peer has requested refreshFamilies.
	refresh         chan struct{}
	refreshFamilies atomic.Uint32
}

// runEstablished runs a session in Established, and returns why it ended.
func (s *peerSession) runEstablished(ctx context.Context, conn *messageConn, p Peer, peer Open) error {
	t := &establishedSession{
		peerSession: s, conn: conn, p: p, peer: peer,
		graceful: p.RestartTime > 0 && peer.GracefulRestart,
		hold:     min(p.HoldTime, peer.HoldTime),
		refresh:  make(chan struct{}, 1),
	}
	last := s.peerStatus()
	t.hops = nextHops{last.NextHopIPv4, last.NextHopIPv6}
	s.setEstablished(conn, p, peer)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var tasks sync.WaitGroup
	for _, task := range []func(context.Context) error{t.receiveMessages, t.sendKeepalives, t.advertiseRoutes, t.acceptReconnects} {
		tasks.Go(func() { cancel(task(ctx)) })
	}
	<-ctx.Done()
	err := context.Cause(ctx)
	notification := notificationOf(err)
	var end *sessionEnd
	if errors.As(err, &end) && end.keepRoutes && t.graceful {
		notification = nil
	}
	conn.closeWith(notification)
	tasks.Wait()
	return err
}

// receiveMessages reads the peer's messages, and returns when the hold timer expires
// (RFC 4271 section 6.5), which each message restarts. It ignores UPDATEs: a speaker
// learns no routes.
func (t *establishedSession) receiveMessages(ctx context.Context) error {
	for {
		deadline := time.Time{}
		if t.hold > 0 {
			deadline = time.Now().Add(t.hold)
		}
		if err := t.conn.SetReadDeadline(deadline); err != nil {
			return connectionLost(t.p, Established, err)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		kind, body, err := t.conn.readMessage()
		var malformed *sessionEnd
		switch {
		case errors.As(err, &malformed):
			return err
		case isTimeout(err):
			return &sessionEnd{
				notification: &Notification{codeHoldTimer, 0, nil},
				reason:       fmt.Sprintf("hold timer expired: the peer sent nothing for %s", t.hold),
			}
		case err != nil:
			return connectionLost(t.p, Established, err)
		case kind == msgNotification:
			return &notificationError{decodeNotification(body)}
		case kind == msgOpen:
			return &sessionEnd{notification: &Notification{codeStateMachine, inEstablished, nil}, reason: "the peer sent an OPEN in Established"}
		case kind == msgUpdate && !isEndOfRIB(body):
			t.ignored.Add(1)
		case kind == msgRouteRefresh:
			t.refreshFamilies.Or(refreshedFamilies(body))
			select {
			case t.refresh <- struct{}{}:
			default: // a value is pending already
			}
		}
	}
}

// isEndOfRIB reports whether the body of an UPDATE is an End-of-RIB (RFC 4724
// section 2).
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

// sendKeepalives sends KEEPALIVEs.
func (t *establishedSession) sendKeepalives(ctx context.Context) error {
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
			if err := t.conn.writeMessage(keepalive, true); err != nil {
				return t.writeError(ctx, err)
			}
		}
	}
}

// writeError returns the error of a write that failed. A NOTIFICATION that the
// peer sent before it closed the connection may still have to be read, and ends
// the session first.
func (t *establishedSession) writeError(ctx context.Context, err error) error {
	if isTimeout(err) {
		return fmt.Errorf("send hold timer expired: the peer read nothing for %s (RFC 9687)", sendHoldTime)
	}
	waitOrWake(ctx, notificationWait, nil)
	return connectionLost(t.p, Established, err)
}

// acceptReconnects accepts further connections of a passive peer. If the peer has
// graceful restart, it has restarted, and the new connection replaces the old one
// (RFC 4724 section 4.2); otherwise the old one stays (RFC 4271 section 6.8).
func (t *establishedSession) acceptReconnects(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case conn := <-t.inbound:
			reconnected := newMessageConn(conn)
			if !t.graceful {
				reconnected.closeWith(&Notification{codeCease, ceaseCollision, nil})
				continue
			}
			peer, err := t.exchangeOpens(ctx, reconnected, t.p)
			if err != nil {
				reconnected.closeWith(notificationOf(err))
				continue
			}
			t.reconnected = &openedConn{reconnected, peer}
			return &sessionEnd{reason: "the peer reconnected", retryNow: true, keepRoutes: true}
		}
	}
}

// advertiseRoutes keeps the peer's routes equal to the desired ones. It sends an
// End-of-RIB for each family after the first of them (RFC 4724 section 2).
func (t *establishedSession) advertiseRoutes(ctx context.Context) error {
	sent, err := t.updateRoutes(ctx, adjRIBOut{})
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
	if err := t.sendMessages(ctx, markers); err != nil {
		return err
	}
	tick := time.NewTicker(nextHopsEvery)
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
			sent = sent.withoutFamilies(t.refreshFamilies.Swap(0))
		case <-t.wake:
		case <-tick.C:
		}
		if sent, err = t.updateRoutes(ctx, sent); err != nil {
			return err
		}
	}
}

// updateRoutes sends the difference between the routes that the peer has been sent
// and the desired ones, and returns the routes that it has been sent afterwards.
func (t *establishedSession) updateRoutes(ctx context.Context, sent adjRIBOut) (adjRIBOut, error) {
	local := addrPort(t.conn.LocalAddr()).Addr()
	t.mu.Lock()
	p := t.p
	p.NodeAddresses, p.ServiceAddresses, p.Routes = t.desired.NodeAddresses, t.desired.ServiceAddresses, t.desired.Routes
	t.mu.Unlock()
	h, withheld := chooseNextHops(p, t.peer, local, interfaceAddrs(local), t.hops)
	t.hops = h
	e := routeEncoder{t.p.LocalASN, t.peer.ASN, t.peer.FourOctetASN}
	messages, now, invalid := e.planUpdates(sent, p.Routes, h)
	if err := t.sendMessages(ctx, messages); err != nil {
		return sent, err
	}
	if len(invalid) > 0 {
		first := slices.SortedFunc(maps.Keys(invalid), netip.Prefix.Compare)[0]
		reason := fmt.Sprintf("%d routes, such as %s: %s", len(invalid), first, invalid[first])
		withheld = strings.TrimPrefix(withheld+"; "+reason, "; ")
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	v4, v6 := h.v4.IsValid(), h.v6.IsValid()
	was := nextHops{t.status.NextHopIPv4, t.status.NextHopIPv6}
	if t.status.Routes != now.size || t.status.Withheld != withheld || t.status.IPv4 != v4 || t.status.IPv6 != v6 || was != h {
		if withheld != t.status.Withheld && withheld != "" {
			t.log.Warn("routes not advertised", "reason", withheld)
		}
		t.status.Routes, t.status.Withheld, t.status.IPv4, t.status.IPv6 = now.size, withheld, v4, v6
		t.status.NextHopIPv4, t.status.NextHopIPv6 = h.v4, h.v6
		t.notify()
	}
	return now, nil
}

// sendMessages sends messages. It blocks while the peer does not read. Changes of
// the desired routes are not queued meanwhile: the next update contains all.
func (t *establishedSession) sendMessages(ctx context.Context, messages [][]byte) error {
	for i, m := range messages {
		if err := t.conn.writeMessage(m, i == len(messages)-1); err != nil {
			return t.writeError(ctx, err)
		}
	}
	return nil
}
