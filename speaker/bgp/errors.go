package bgp

import (
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
)

// sessionEnd is the error of a session, or of an attempt, that the speaker ends.
type sessionEnd struct {
	// notification for the peer. Without one the connection is closed silently.
	notification *Notification
	reason       string
	// retryNow: it is not a failure, and the next attempt follows at once.
	retryNow bool
	// keepRoutes: a peer that has agreed to graceful restart gets no NOTIFICATION,
	// so that it preserves the routes until the next session (RFC 4724).
	keepRoutes bool
	// final: no attempt follows.
	final bool
}

func (e *sessionEnd) Error() string { return e.reason }

// notificationOf returns the NOTIFICATION that a peer gets for an error, or nil.
func notificationOf(err error) *Notification {
	var end *sessionEnd
	if errors.As(err, &end) {
		return end.notification
	}
	return nil
}

// notificationError is the error of a session that the peer ended with a
// NOTIFICATION.
type notificationError struct{ Notification }

func (e *notificationError) Error() string { return "the peer sent a NOTIFICATION: " + e.String() }

// stepError is an error at a known step.
type stepError struct {
	error
	at SessionStep
}

// isTimeout reports whether an error is a deadline that has passed.
func isTimeout(err error) bool {
	var t net.Error
	return errors.As(err, &t) && t.Timeout()
}

// dialError returns the error of a connection that could not be made, with the
// likely causes.
func dialError(p Peer, err error) error {
	at := func(step SessionStep, format string, args ...any) error {
		return &stepError{fmt.Errorf(format, args...), step}
	}
	to := fmt.Sprintf("%s port %d", p.Address, p.Port)
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return at(StepConnect, "connection refused by %s (is BGP running there, and is this node one of its neighbors?)", to)
	case isTimeout(err) || errors.Is(err, syscall.ETIMEDOUT):
		causes := "it is down or filtered, or it expects a password"
		if p.Password != "" {
			causes = "it is down or filtered, or its password differs"
		}
		if p.TTLSecurity || p.Hops == 1 {
			causes += ", or it is more hops away than allowed"
		}
		return at(StepAnswer, "no answer from %s (%s)", to, causes)
	case errors.Is(err, syscall.EHOSTUNREACH):
		return at(StepReach, "no route to host %s (it does not answer ARP or NDP, or a router does not have a route)", to)
	case errors.Is(err, syscall.ENETUNREACH):
		return at(StepReach, "no route to %s from this node", to)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return at(StepReach, "this node does not have the source address %s", p.Source)
	case errors.Is(err, errNoInterface):
		return at(StepReach, "interface %q not found on this node", p.Address.Zone())
	}
	return at(StepConnect, "connect to %s: %w", to, err)
}

// connectionLost returns the error of a connection that ended without a
// NOTIFICATION in a state.
func connectionLost(p Peer, state SessionState, err error) error {
	closed := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
	switch {
	case !closed:
		return fmt.Errorf("connection lost: %w", err)
	case state == OpenSent:
		hint := "is this node one of its neighbors?"
		if p.TTLSecurity || p.Hops == 1 {
			hint = "is this node one of its neighbors, at the same distance?"
		}
		return fmt.Errorf("the peer closed the connection after our OPEN without a NOTIFICATION (%s)", hint)
	case state == OpenConfirm:
		return errors.New("the peer closed the connection after its OPEN without a NOTIFICATION")
	}
	return errors.New("the peer closed the connection without a NOTIFICATION")
}
