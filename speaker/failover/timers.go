package failover

import (
	"cmp"
	"time"
)

// MinPollDetection is the shortest time without answers after which a peer without a
// session is suspected. A node that did not run for less was not taken over by one that
// polls it.
const MinPollDetection = (maxMisses - 1) * missInterval

// Timers are the parameters of a BFD session (RFC 5880 section 6.8.1). The zero value stands
// for a session that is not needed.
type Timers struct {
	Transmit, Receive time.Duration // the shortest intervals between packets
	Multiplier        uint8
}

// Interval returns the time between two packets if both ends have these timers.
func (t Timers) Interval() time.Duration { return max(t.Transmit, t.Receive) }

// Detection returns the detection time if both ends have these timers (RFC 5880 section
// 6.8.4).
func (t Timers) Detection() time.Duration { return time.Duration(t.Multiplier) * t.Interval() }

// Compare orders timers by the detection time, and equal ones by the intervals. The order is
// total, so that all nodes choose the same ones of several.
func (t Timers) Compare(o Timers) int {
	return cmp.Or(cmp.Compare(t.Detection(), o.Detection()), cmp.Compare(t.Transmit, o.Transmit), cmp.Compare(t.Receive, o.Receive))
}

// addTimers makes the session as fast as an address requires it.
func (t *Target) addTimers(timers Timers) {
	if t.Timers == (Timers{}) || timers.Compare(t.Timers) < 0 {
		t.Timers = timers
	}
	t.LongestDetection = max(t.LongestDetection, timers.Detection())
}

// detectionSpread returns by how much later than this node another one may detect that the
// peer has failed: it may have received a packet almost an interval later, over a session
// that needs to be as fast only as the slowest of the addresses.
func (t Target) detectionSpread() time.Duration {
	return t.Timers.Interval() + max(0, t.LongestDetection-t.Timers.Detection())
}
