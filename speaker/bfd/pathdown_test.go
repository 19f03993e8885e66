package bfd

import (
	"net/netip"
	"testing"
	"time"
)

// TestPathDown checks that Profile.PathDown is signaled to the peer at once and in all
// packets in Up, that the peer reports each change once, and that no state changes.
func TestPathDown(t *testing.T) {
	simulate(t, func(t *testing.T, l *lan, a, b *end) {
		signaling := fastProfile
		signaling.PathDown = true
		a.set(t, signaling)
		b.set(t, fastProfile)
		time.Sleep(2 * time.Second)
		requireUp(t, a, b)
		if s := b.status(); s.RemoteDiagnostic != ConcatenatedPathDown {
			t.Errorf("signaled before the session was Up: %+v", s)
		}
		if s := a.status(); s.Diagnostic != NoDiagnostic || s.RemoteDiagnostic != NoDiagnostic {
			t.Errorf("%+v", s)
		}
		countChanges := func(e *end) int {
			e.mu.Lock()
			defer e.mu.Unlock()
			return len(e.changes)
		}
		before := countChanges(a)
		for _, want := range []Diagnostic{NoDiagnostic, ConcatenatedPathDown, NoDiagnostic} {
			time.Sleep(10 * time.Second)
			changes := countChanges(b)
			profile := fastProfile
			profile.PathDown = want == ConcatenatedPathDown
			a.set(t, profile)
			time.Sleep(2 * timerGranularity)
			if s := b.lastChange(); s.State != Up || s.RemoteDiagnostic != want || s.Flaps != 0 || countChanges(b) != changes+1 {
				t.Errorf("want %s in one change: %+v", want, s)
			}
			time.Sleep(10 * time.Second)
			if s := b.status(); s.RemoteDiagnostic != want || countChanges(b) != changes+1 {
				t.Errorf("want %s: %+v, %d changes", want, s, countChanges(b)-changes)
			}
			requireUp(t, a, b)
		}
		if n := countChanges(a); n != before {
			t.Errorf("%d changes at the end that signals", n-before)
		}
		// Outside of Up the diagnostic is why the session left it.
		a.set(t, signaling)
		time.Sleep(time.Second)
		l.mu.Lock()
		l.drop = func(from, _ netip.Addr) bool { return from == addrB }
		l.mu.Unlock()
		time.Sleep(2 * time.Second)
		if s := b.status(); s.State == Up || s.RemoteDiagnostic != DetectionTimeExpired {
			t.Errorf("%+v", s)
		}
	})
}

// TestDetectionChange checks that both ends report a detection time that has been negotiated
// in Up, once.
func TestDetectionChange(t *testing.T) {
	simulate(t, func(t *testing.T, _ *lan, a, b *end) {
		a.set(t, fastProfile)
		b.set(t, fastProfile)
		time.Sleep(10 * time.Second)
		requireUp(t, a, b)
		for _, e := range []*end{a, b} {
			if s, want := e.lastChange(), e.status().Detection; s.Detection != want || want == 0 {
				t.Errorf("reported %s after the session was Up, want %s", s.Detection, want)
			}
		}
		slow := fastProfile
		slow.Transmit *= 7
		a.set(t, slow)
		time.Sleep(10 * time.Second)
		requireUp(t, a, b)
		if s, want := b.lastChange(), time.Duration(slow.Multiplier)*slow.Transmit; s.Detection != want || s.State != Up || s.Flaps != 0 {
			t.Errorf("reported %+v, want the detection time %s", s, want)
		}
	})
}
