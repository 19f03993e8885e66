package bgp

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// exchangeOpens exchanges OPENs and the first KEEPALIVEs (RFC 4271 section 8.2.2).
func (s *peerSession) exchangeOpens(ctx context.Context, conn *messageConn, p Peer) (Open, error) {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	open, err := encodeOpen(p)
	if err != nil {
		return Open{}, err
	}
	s.setState(OpenSent)
	_ = conn.writeMessage(open, true) // if it fails, the next read returns the cause
	body, err := s.readExpected(ctx, conn, p, OpenSent, s.openWait)
	if err != nil {
		return Open{}, err
	}
	peer, err := decodeOpen(body)
	if err != nil {
		var end *sessionEnd
		if !errors.As(err, &end) {
			err = &sessionEnd{notification: &Notification{codeOpen, 0, nil}, reason: "the peer's OPEN is malformed: " + err.Error()}
		}
		return Open{}, err
	}
	if err := peer.validate(p); err != nil {
		return Open{}, err
	}
	s.setState(OpenConfirm)
	_ = conn.writeMessage(keepalive, true) // as above
	wait := min(p.HoldTime, peer.HoldTime)
	if wait == 0 {
		wait = s.openWait
	}
	_, err = s.readExpected(ctx, conn, p, OpenConfirm, wait)
	return peer, err
}

// readExpected reads the message that is expected in a state, and returns its body. wait
// is the hold timer of the state.
func (s *peerSession) readExpected(ctx context.Context, conn *messageConn, p Peer, state SessionState, wait time.Duration) ([]byte, error) {
	_ = conn.SetReadDeadline(time.Now().Add(wait)) // if it fails, the next read fails
	if ctx.Err() != nil {                          // checked after the deadline was set: the end of ctx sets another one
		return nil, context.Cause(ctx)
	}
	expected, subcode := uint8(msgOpen), uint8(inOpenSent)
	if state == OpenConfirm {
		expected, subcode = msgKeepalive, inOpenConfirm
	}
	kind, body, err := conn.readMessage()
	var malformed *sessionEnd
	switch {
	case errors.As(err, &malformed):
		return nil, err
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case isTimeout(err):
		return nil, &sessionEnd{
			notification: &Notification{codeHoldTimer, 0, nil},
			reason:       fmt.Sprintf("the peer accepted the connection but sent nothing for %s in %s", wait, state),
		}
	case err != nil:
		return nil, connectionLost(p, state, err)
	case kind == msgNotification:
		return nil, &notificationError{decodeNotification(body)}
	case kind != expected:
		return nil, &sessionEnd{
			notification: &Notification{codeStateMachine, subcode, nil},
			reason:       fmt.Sprintf("the peer sent a message of type %d in %s", kind, state),
		}
	}
	return body, nil
}
