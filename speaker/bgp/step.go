package bgp

import "errors"

// Step is how far an attempt at a session got.
type Step string

// Steps, in the order in which they are taken.
const (
	StepReach    Step = "reach"    // the kernel knows a way, and the last hop the peer
	StepAnswer   Step = "answer"   // something answers: no filter, the TTL is enough, the password is the same
	StepConnect  Step = "connect"  // BGP listens
	StepOpen     Step = "open"     // OPENs are exchanged
	StepASN      Step = "asn"      // each end is in the AS that the other one expects
	StepFamilies Step = "families" // there is a family that both speak
	StepAccept   Step = "accept"   // the peer stays, and takes the routes
)

// stumble is an error at a known step.
type stumble struct {
	error
	at Step
}

// stepOf says at which step an attempt, or an established session, has failed.
func stepOf(err error, established bool) Step {
	var s *stumble
	var peer *dismissed
	var own *leave
	switch {
	case errors.As(err, &s):
		return s.at
	case errors.As(err, &peer):
		return stepFor(peer.Notification, established)
	case errors.As(err, &own) && own.note != nil:
		return stepFor(*own.note, established)
	case established:
		return StepAccept
	}
	return StepOpen
}

func stepFor(n Notification, established bool) Step {
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
