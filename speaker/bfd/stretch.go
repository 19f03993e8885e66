package bfd

import "time"

const (
	// stretchAbove is the number of sessions up to which intervals are not stretched.
	stretchAbove = 100

	// maxPacketRate is the packets that more sessions than these send in a second.
	maxPacketRate = 2000
)

// Stretch returns the interval for each of a number of sessions, for Transmit and
// Receive of their profiles: interval for at most 100 sessions, and for more at least
// the one at which all of them together send 2,000 packets in a second, before jitter,
// which raises the rate by at most a third (RFC 5880 section 6.8.7).
func Stretch(sessions int, interval time.Duration) time.Duration {
	if sessions <= stretchAbove {
		return interval
	}
	return max(interval, time.Duration(sessions)*(time.Second/maxPacketRate))
}
