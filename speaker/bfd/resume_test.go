package bfd

import (
	"testing"
	"time"
)

// TestResume checks that a peer does not notice that a session was paused and
// resumed, but does if the next Engine has another identity or starts too late.
func TestResume(t *testing.T) {
	for _, tt := range []struct {
		name, next string
		away       time.Duration
		flaps      int
	}{
		{"soon", "node-1", 2 * time.Second, 0},
		{"at the last moment", "node-1", 254*fastProfile.Transmit - resumeTimeout, 0},
		{"another identity", "node-2", 2 * time.Second, 1},
		{"too late", "node-1", 300 * fastProfile.Transmit, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			simulate(t, func(t *testing.T, l *lan, a, b *end) {
				a.identity = "node-1"
				a.set(t, fastProfile)
				b.set(t, fastProfile)
				time.Sleep(5 * time.Second)
				requireUp(t, a, b)
				a.Pause(t.Context())
				a.kill()
				time.Sleep(tt.away)
				again := l.newEnd(addrA, addrB)
				defer again.kill()
				again.identity = tt.next
				again.set(t, fastProfile)
				time.Sleep(10 * time.Second)
				if s := b.status(); s.State != Up || s.Flaps != tt.flaps || s.Detection != 300*ms {
					t.Errorf("the peer: %+v, want %d flaps", s, tt.flaps)
				}
				if s := again.status(); s.State != Up || s.Flaps != 0 || s.Detection != 300*ms {
					t.Errorf("again: %+v", s)
				}
			})
		})
	}
}

// TestPeerFailsDuringPause checks that a resumed Engine notices that its peer has
// failed during the pause, and that the session comes up again with a new peer.
func TestPeerFailsDuringPause(t *testing.T) {
	simulate(t, func(t *testing.T, l *lan, a, b *end) {
		a.identity = "node-1"
		a.set(t, fastProfile)
		b.set(t, fastProfile)
		time.Sleep(5 * time.Second)
		a.Pause(t.Context())
		a.kill()
		b.kill()
		again := l.newEnd(addrA, addrB)
		defer again.kill()
		again.identity = "node-1"
		again.set(t, fastProfile)
		time.Sleep(5 * time.Second)
		if s := again.status(); s.State != Down {
			t.Errorf("%+v", s)
		}
		peer := l.newEnd(addrB, addrA)
		defer peer.kill()
		peer.set(t, fastProfile)
		time.Sleep(5 * time.Second)
		requireUp(t, again, peer)
	})
}
