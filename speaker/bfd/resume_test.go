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
		{"at the last moment", "node-1", 254*fast.Transmit - patience, 0},
		{"under another name", "node-2", 2 * time.Second, 1},
		{"too late", "node-1", 300 * fast.Transmit, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, l *lan, a, b *end) {
				a.name = "node-1"
				a.set(t, fast)
				b.set(t, fast)
				time.Sleep(5 * time.Second)
				bothUp(t, a, b)
				a.Pause(t.Context())
				a.kill()
				time.Sleep(tt.away)
				again := l.join(addrA, addrB)
				defer again.kill()
				again.name = tt.next
				again.set(t, fast)
				time.Sleep(10 * time.Second)
				if s := b.now(); s.State != Up || s.Flaps != tt.flaps || s.Detection != 300*ms {
					t.Errorf("the peer: %+v, want %d flaps", s, tt.flaps)
				}
				if s := again.now(); s.State != Up || s.Flaps != 0 || s.Detection != 300*ms {
					t.Errorf("again: %+v", s)
				}
			})
		})
	}
}

// TestPauseOfTheDead: a peer that dies during a pause is noticed afterwards, and
// a session that has not come up is begun as ever.
func TestPauseOfTheDead(t *testing.T) {
	bubble(t, func(t *testing.T, l *lan, a, b *end) {
		a.name = "node-1"
		a.set(t, fast)
		b.set(t, fast)
		time.Sleep(5 * time.Second)
		a.Pause(t.Context())
		a.kill()
		b.kill()
		again := l.join(addrA, addrB)
		defer again.kill()
		again.name = "node-1"
		again.set(t, fast)
		time.Sleep(5 * time.Second)
		if s := again.now(); s.State != Down {
			t.Errorf("%+v", s)
		}
		peer := l.join(addrB, addrA)
		defer peer.kill()
		peer.set(t, fast)
		time.Sleep(5 * time.Second)
		bothUp(t, again, peer)
	})
}
