package bfd

import (
	"testing"
	"time"
)

// TestResume: to the peer, a session that was paused and taken up again has
// never gone. One whose other end comes back under another name, or too late, has.
func TestResume(t *testing.T) {
	for _, tt := range []struct {
		name, next string
		away       time.Duration
		flaps      int
	}{
		{"soon", "node-1", 2 * time.Second, 0},
		{"at the last moment", "node-1", 254*fastProfile.Transmit - resumeTimeout, 0},
		{"under another name", "node-2", 2 * time.Second, 1},
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

// TestPauseOfTheDead: a peer that dies during a pause is noticed afterwards, and
// a session that has not come up is begun as ever.
func TestPauseOfTheDead(t *testing.T) {
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
