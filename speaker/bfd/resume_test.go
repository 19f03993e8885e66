package bfd

import (
	"log/slog"
	"slices"
	"testing"
	"time"
)

var secret = []byte("01234567890123456789012345678901")

// TestResume checks that a peer does not notice that a session was paused and
// resumed, but does if the next Engine has another identity or starts too late: it
// then goes Down at the end of the 255 intervals.
func TestResume(t *testing.T) {
	for _, tt := range []struct {
		name, next string
		away       time.Duration
		forged     controlPacket // arrives as the first packet, from the peer's address
		flaps      int
	}{
		{"soon", "node-1", 2 * time.Second, controlPacket{}, 0},
		{"at the last moment", "node-1", 254*fastProfile.Transmit - resumeTimeout, controlPacket{}, 0},
		{"forged packet", "node-1", 2 * time.Second, controlPacket{state: AdminDown, multiplier: 3, myDiscriminator: 7}, 0},
		{"another identity", "node-2", 2 * time.Second, controlPacket{}, 1},
		{"too late", "node-1", 300 * fastProfile.Transmit, controlPacket{}, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			simulate(t, func(t *testing.T, l *lan, a, b *end) {
				a.Identify("node-1", secret)
				establish(t, a, b)
				a.Pause(t.Context())
				a.kill()
				time.Sleep(tt.away)
				again := l.newEnd(addrA, addrB)
				defer again.kill()
				again.Identify(tt.next, secret)
				again.set(t, fastProfile)
				if tt.forged.multiplier > 0 {
					payload := tt.forged.appendTo(nil)
					again.deliverAfter(receivedPacket{remoteEnd: remoteEnd{addrB, false}, destination: addrA, ttl: maxTTL, payload: payload}, 5*ms)
				}
				time.Sleep(40 * time.Second)
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

// TestNoPauseWithoutIdentity checks that a session that the next Engine cannot resume
// is not paused: the peer would expect its packets for 255 intervals.
func TestNoPauseWithoutIdentity(t *testing.T) {
	simulate(t, func(t *testing.T, _ *lan, a, b *end) {
		establish(t, a, b)
		a.Pause(t.Context())
		a.kill()
		time.Sleep(time.Second)
		if s := b.status(); s.State != Down {
			t.Errorf("%+v", s)
		}
	})
}

// TestDiscriminators checks that discriminators depend on the secret, the node and the
// path, and on nothing else, and that they are distinct in a node.
func TestDiscriminators(t *testing.T) {
	derive := func(node, secret string, keys ...Key) (all []uint32) {
		e := New(slog.New(slog.DiscardHandler), func(Key, Status) {})
		e.Identify(node, []byte(secret))
		sessions := map[Key]Profile{}
		for _, k := range keys {
			sessions[k] = fastProfile
		}
		must(t, e.Set(sessions))
		for _, k := range keys {
			all = append(all, e.sessions[k].discriminator)
		}
		return all
	}
	single, bound, multihop := Key{Peer: addrB}, Key{Peer: addrB, Interface: "eth0"}, Key{Peer: addrB, Local: addrA, Multihop: true}
	first := derive("node-1", "secret", single, bound, multihop)
	if again := derive("node-1", "secret", multihop, single, bound); !slices.Equal(again, []uint32{first[2], first[0], first[1]}) {
		t.Errorf("%v, and in another order %v", first, again)
	}
	all := slices.Concat(first, derive("node-2", "secret", single), derive("node-1", "other", single))
	for range 2 { // without a secret of its own, the discriminators of an Engine are random
		e := New(slog.New(slog.DiscardHandler), func(Key, Status) {})
		must(t, e.Set(map[Key]Profile{single: fastProfile}))
		all = append(all, e.sessions[single].discriminator)
	}
	slices.Sort(all)
	if n := len(all); len(slices.Compact(all)) != n || all[0] == 0 {
		t.Errorf("%v", all)
	}
	// The first value is in use: the second one is the same in each Engine.
	var second []uint32
	for range 2 {
		e := New(slog.New(slog.DiscardHandler), func(Key, Status) {})
		e.Identify("node-1", []byte("secret"))
		e.byDiscriminator[first[0]] = &runningSession{session: newSession(first[0], fastProfile, 0)}
		second = append(second, e.newDiscriminator(single))
	}
	if second[0] != second[1] || second[0] == first[0] {
		t.Errorf("%v after %d", second, first[0])
	}
}

// TestPeerFailsDuringPause checks that a resumed Engine notices that its peer has
// failed during the pause, and that the session comes up again with a new peer.
func TestPeerFailsDuringPause(t *testing.T) {
	simulate(t, func(t *testing.T, l *lan, a, b *end) {
		a.Identify("node-1", secret)
		a.set(t, fastProfile)
		b.set(t, fastProfile)
		time.Sleep(5 * time.Second)
		a.Pause(t.Context())
		a.kill()
		b.kill()
		again := l.newEnd(addrA, addrB)
		defer again.kill()
		again.Identify("node-1", secret)
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
