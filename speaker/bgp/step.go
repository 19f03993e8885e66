package bgp

import "errors"

// SessionStep is how far an attempt at a session got.
type SessionStep string

// Steps, in the order in which they are taken.
const (
	StepReach    SessionStep = "reach"    // there is a route to the peer, and the last hop resolves its address
	StepAnswer   SessionStep = "answer"   // the peer's host answers: no filter, the TTL suffices, the passwords are equal
	StepConnect  SessionStep = "connect"  // the peer listens
	StepOpen     SessionStep = "open"     // OPENs are exchanged
	StepASN      SessionStep = "asn"      // each end is in the AS that the other one expects
	StepFamilies SessionStep = "families" // both ends have a family in common
	StepAccept   SessionStep = "accept"   // the peer keeps the session, and accepts the routes
)

// stepOf returns the step at which an attempt, or an established session, has failed.
func stepOf(err error, established bool) SessionStep {
	var s *stepError
	var peer *notificationError
	var end *sessionEnd
	switch {
	case errors.As(err, &s):
		return s.at
	case errors.As(err, &peer):
		return stepOfNotification(peer.Notification, established)
	case errors.As(err, &end) && end.notification != nil:
		return stepOfNotification(*end.notification, established)
	case established:
		return StepAccept
	}
	return StepOpen
}

func stepOfNotification(n Notification, established bool) SessionStep {
	switch {
	case established:
		return StepAccept
	case n.Code == codeOpen && n.Subcode == badPeerAS:
		return StepASN
	case n.Code == codeOpen && n.Subcode == badCapability:
		return StepFamilies
	}
	return StepOpen
}
