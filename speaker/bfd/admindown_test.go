package bfd

import (
	"context"
	"net/netip"
	"sync"
	"testing"
	"time"
)

// TestAdminDownSessions checks that AdminDownSessions returns when the peers of its
// sessions have all packets, that the sessions stay in AdminDown until a Set omits them,
// and that it concerns no other session.
func TestAdminDownSessions(t *testing.T) {
	simulate(t, func(t *testing.T, l *lan, a, b *end) {
		addrC := netip.MustParseAddr("192.0.2.3")
		c := l.newEnd(addrC, addrA)
		defer c.kill()
		toC := Key{Peer: addrC}
		both := map[Key]Profile{a.key: fastProfile, toC: fastProfile}
		if err := a.Set(both); err != nil {
			t.Fatal(err)
		}
		b.set(t, fastProfile)
		c.set(t, fastProfile)
		time.Sleep(2 * time.Second)
		requireUp(t, b, c)
		n := 0
		l.mu.Lock()
		l.drop = func(from, to netip.Addr) bool {
			if from == addrA && to == addrB {
				n++
			}
			return to == addrB && n < adminDownPackets // only the last one arrives
		}
		l.mu.Unlock()
		unknown := Key{Peer: netip.MustParseAddr("192.0.2.99")}
		a.AdminDownSessions(t.Context(), nil)
		a.AdminDownSessions(t.Context(), []Key{unknown})
		if s := a.status(); s.State != Up {
			t.Fatalf("without a session of its own: %+v", s)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if a.AdminDownSessions(ctx, []Key{a.key, unknown}); ctx.Err() != nil {
			t.Fatal("did not return")
		}
		if n != adminDownPackets {
			t.Errorf("returned after %d packets, want %d", n, adminDownPackets)
		}
		time.Sleep(2 * timerGranularity)
		if s := b.status(); s.State != Down || s.RemoteState != AdminDown {
			t.Errorf("%+v", s)
		}
		if err := a.Set(both); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		if s, other := a.status(), a.Status()[toC]; s.State != AdminDown || other.State != Up || other.Flaps != 0 {
			t.Errorf("%+v, the other %+v", s, other)
		}
		if err := a.Set(map[Key]Profile{toC: fastProfile}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if err := a.Set(both); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Second)
		if s, other := a.status(), a.Status()[toC]; s.State != Up || other.State != Up || other.Flaps != 0 {
			t.Errorf("after it was omitted: %+v, the other %+v", s, other)
		}
	})
}

// TestAdminDownOfRemovedSession checks that AdminDownSessions waits for sessions that Set
// has removed: Run may end when it returns.
func TestAdminDownOfRemovedSession(t *testing.T) {
	simulate(t, func(t *testing.T, l *lan, a, b *end) {
		establish(t, a, b)
		n := 0
		l.mu.Lock()
		l.drop = func(from, _ netip.Addr) bool {
			if from == addrA {
				n++
			}
			return from == addrA && n < adminDownPackets
		}
		l.mu.Unlock()
		if err := a.Set(nil); err != nil {
			t.Fatal(err)
		}
		a.AdminDownSessions(t.Context(), []Key{a.key})
		a.kill()
		time.Sleep(2 * timerGranularity)
		if s := b.status(); s.State != Down || s.RemoteState != AdminDown {
			t.Errorf("%+v after %d packets", s, n)
		}
	})
}

// TestAdminDownConcurrently checks that several calls for different sessions all return.
func TestAdminDownConcurrently(t *testing.T) {
	simulate(t, func(t *testing.T, _ *lan, a, b *end) {
		establish(t, a, b)
		var calls sync.WaitGroup
		for range 3 {
			calls.Go(func() { a.AdminDownSessions(t.Context(), []Key{a.key}) })
			calls.Go(func() { a.AdminDown(t.Context()) })
			calls.Go(func() { b.AdminDown(t.Context()) })
		}
		calls.Wait()
		if len(a.adminDowns)+len(b.adminDowns) != 0 {
			t.Error("calls are left")
		}
	})
}

// TestAdminDownToSilentPeer checks that AdminDown is signaled to a peer that does not
// accept periodic packets, and that the removed session is deleted.
func TestAdminDownToSilentPeer(t *testing.T) {
	s := newUpSession(fastProfile)
	p := packetFrom(s, Up)
	p.receive = 0
	s.receivePacket(p, 0)
	s.setAdminDown(0)
	for range adminDownPackets {
		at := s.nextSend()
		if at == never {
			t.Fatalf("%d packets are never sent", s.adminDownLeft)
		}
		s.packetSent(at, 0)
	}
	if at := s.nextSend(); at != never {
		t.Errorf("one more packet at %s", at)
	}
}
