package bfd

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

func TestPeerFails(t *testing.T) {
	simulate(t, func(t *testing.T, _ *lan, a, b *end) {
		a.set(t, fastProfile)
		time.Sleep(10 * time.Second) // b starts later
		b.set(t, fastProfile)
		time.Sleep(1500 * ms)
		requireUp(t, a, b)
		if s := a.status(); s.Detection != 300*ms || s.Interval != 100*ms || s.Problem != "" {
			t.Errorf("%+v", s)
		}
		failed := time.Now()
		b.kill()
		time.Sleep(time.Second)
		down := a.lastChange()
		if down.State != Down || down.Diagnostic != DetectionTimeExpired || down.Flaps != 1 {
			t.Errorf("%+v", down)
		}
		if took := down.at.Sub(failed); took < 200*ms || took > 300*ms+2*timerGranularity {
			t.Errorf("took %s", took)
		}
	})
}

// TestPeerRestart checks that the restart of a peer with another discriminator is
// noticed within the detection time, that it is not mistaken for a failure of the
// path, and that the session comes up again.
func TestPeerRestart(t *testing.T) {
	simulate(t, func(t *testing.T, l *lan, a, b *end) {
		a.set(t, fastProfile)
		b.set(t, fastProfile)
		time.Sleep(time.Second)
		b.kill()
		again := l.newEnd(addrB, addrA)
		defer again.kill()
		again.set(t, fastProfile)
		time.Sleep(300 * ms)
		if s := a.status(); s.State == Up || s.Diagnostic != NeighborSignaledDown || s.RemoteDiagnostic != NoDiagnostic {
			t.Errorf("%+v", s)
		}
		time.Sleep(3 * time.Second)
		if s := a.status(); s.State != Up || s.Flaps != 1 {
			t.Errorf("%+v", s)
		}
	})
}

func TestPassive(t *testing.T) {
	passive := fastProfile
	passive.Passive = true
	simulate(t, func(t *testing.T, l *lan, a, b *end) {
		packets := 0
		l.drop = func(netip.Addr, netip.Addr) bool { packets++; return false }
		a.set(t, passive)
		b.set(t, passive)
		time.Sleep(time.Minute)
		if packets != 0 {
			t.Errorf("%d packets between passive ends", packets)
		}
		b.set(t, fastProfile)
		time.Sleep(2 * time.Second)
		requireUp(t, a, b)
	})
}

// TestAdminDown checks that the peers have received AdminDown when it returns, even
// if only one packet in three arrives.
func TestAdminDown(t *testing.T) {
	simulate(t, func(t *testing.T, l *lan, a, b *end) {
		a.set(t, fastProfile)
		b.set(t, fastProfile)
		time.Sleep(2 * time.Second)
		n := 0
		l.mu.Lock()
		l.drop = func(from, _ netip.Addr) bool { n++; return from == addrA && n < adminDownPackets }
		l.mu.Unlock()
		begun := time.Now()
		a.AdminDown(t.Context())
		if took := time.Since(begun); took > adminDownPackets*adminDownInterval {
			t.Errorf("took %s", took)
		}
		time.Sleep(2 * timerGranularity)
		if s := b.status(); s.State != Down || s.Diagnostic != NeighborSignaledDown || s.RemoteState != AdminDown {
			t.Errorf("%+v", s)
		}
		if s := a.lastChange(); s.State != AdminDown {
			t.Errorf("%+v", s)
		}
		a.AdminDown(t.Context())
		a.set(t, Profile{Transmit: 50 * ms, Receive: 50 * ms, Multiplier: 3})
		time.Sleep(10 * time.Second)
		if s := a.status(); s.State != AdminDown {
			t.Errorf("%+v", s)
		}
	})
}

// TestSessionRemoved checks that a session that is not desired any more signals
// AdminDown and is deleted, and that it comes up again when it is desired again.
func TestSessionRemoved(t *testing.T) {
	simulate(t, func(t *testing.T, _ *lan, a, b *end) {
		a.set(t, fastProfile)
		b.set(t, fastProfile)
		time.Sleep(2 * time.Second)
		if err := a.Set(nil); err != nil {
			t.Fatal(err)
		}
		time.Sleep(200 * ms)
		if s := b.status(); s.RemoteState != AdminDown || len(a.Status()) != 0 || len(a.byDiscriminator)+len(a.queue)+len(a.byRemoteEnd) != 0 {
			t.Errorf("%+v, left: %v %v %v", s, a.byDiscriminator, a.queue, a.byRemoteEnd)
		}
		a.set(t, fastProfile)
		if err := a.Set(nil); err != nil { // it is desired again while it still signals AdminDown
			t.Fatal(err)
		}
		a.set(t, fastProfile)
		time.Sleep(3 * time.Second)
		requireUp(t, a)
		if len(a.byDiscriminator) != 1 || len(a.queue) != 1 {
			t.Errorf("left: %v %v", a.byDiscriminator, a.queue)
		}
	})
}

// TestProcessNotScheduled checks that a process that was not scheduled reads all
// packets before it expires peers, and after a pause of the whole machine waits for
// packets that have yet to arrive.
func TestProcessNotScheduled(t *testing.T) {
	for name, stop := range map[string]func(s *simulatedTransport, until time.Time){
		"process": func(s *simulatedTransport, until time.Time) { s.frozen = until },
		"machine": func(s *simulatedTransport, until time.Time) { s.frozen, s.stopped = until, until },
	} {
		t.Run(name, func(t *testing.T) {
			simulate(t, func(t *testing.T, _ *lan, a, b *end) {
				tolerant := fastProfile
				tolerant.Multiplier = 200 // b tolerates the pause of a
				a.set(t, tolerant)
				b.set(t, fastProfile)
				time.Sleep(2 * time.Second)
				for range 20 {
					a.simulatedTransport.mu.Lock()
					stop(a.simulatedTransport, time.Now().Add(10*time.Second))
					a.simulatedTransport.mu.Unlock()
					time.Sleep(11 * time.Second)
				}
				requireUp(t, a, b)
				b.kill()
				time.Sleep(time.Second)
				if s := a.status(); s.State != Down {
					t.Errorf("%+v", s)
				}
			})
		})
	}
}

// TestProblem checks that Status.Problem names what keeps a session from working,
// and that the session retries.
func TestProblem(t *testing.T) {
	simulate(t, func(t *testing.T, l *lan, a, b *end) {
		fault := func(err error) {
			a.simulatedTransport.mu.Lock()
			defer a.simulatedTransport.mu.Unlock()
			a.socketError = err
		}
		expect := func(problem string, up bool) {
			t.Helper()
			time.Sleep(3 * time.Second)
			if s := a.status(); s.Problem != problem || (s.State == Up) != up {
				t.Errorf("%+v, want %q, up %t", s, problem, up)
			}
		}
		fault(errors.New("port taken"))
		a.set(t, fastProfile)
		b.set(t, fastProfile)
		expect("port taken", false)
		fault(nil)
		expect("", true)
		fault(errors.New("no route"))
		expect("no route", false)
		fault(nil)
		expect("", true)
		l.mu.Lock()
		l.ttl = 254
		l.mu.Unlock()
		expect("packets from the peer have TTL 254 instead of 255: the peer is not directly connected", false)
		l.mu.Lock()
		l.ttl = 255
		l.mu.Unlock()
		expect("", true)
		p := controlPacket{state: Up, multiplier: 3, myDiscriminator: 7, yourDiscriminator: a.sessions[a.key].discriminator, authenticated: true}
		raw := append(p.appendTo(nil), 0, 0)
		raw[3] += 2
		b.kill()
		time.Sleep(time.Second) // the problem of a session that is Up is not recorded: anyone can send such packets
		a.deliverAfter(receivedPacket{remoteEnd: remoteEnd{addrB, false}, destination: addrA, ttl: 255, payload: raw}, ms)
		expect("the peer requires BFD authentication, which is not supported", false)
	})
}

// scenario is a session of two ends under packet loss and changes of its profiles.
type scenario struct {
	Seed       uint64
	MaxLossRun int // the number of successive packets that may be lost
	Begin      [2]Profile
	Changes    []profileChange
}

type profileChange struct {
	End     int
	Profile Profile
	After   time.Duration // the time until the next change
}

func drawScenario(t *rapid.T) scenario {
	row := rapid.IntRange(0, 3).Draw(t, "row")
	profile := rapid.Custom(func(t *rapid.T) Profile {
		interval := rapid.SampledFrom([]time.Duration{10 * ms, 50 * ms, 100 * ms, 300 * ms, 2 * time.Second})
		return Profile{
			Transmit: interval.Draw(t, "transmit"), Receive: interval.Draw(t, "receive"),
			Multiplier: rapid.Uint8Range(uint8(row)+2, 6).Draw(t, "multiplier"),
		}
	})
	change := rapid.Custom(func(t *rapid.T) profileChange {
		after := time.Duration(rapid.IntRange(0, 5000).Draw(t, "ms")) * ms
		return profileChange{rapid.IntRange(0, 1).Draw(t, "end"), profile.Draw(t, "to"), after}
	})
	return scenario{
		rapid.Uint64().Draw(t, "seed"), row,
		[2]Profile{profile.Draw(t, "a"), profile.Draw(t, "b")},
		rapid.SliceOfN(change, 0, 10).Draw(t, "changes"),
	}
}

// failure runs the scenario and returns what failed, or "".
func (s scenario) failure() string {
	l := newLAN()
	random, row := rand.New(rand.NewPCG(s.Seed, 1)), map[netip.Addr]int{}
	ends := []*end{l.newEnd(addrA, addrB), l.newEnd(addrB, addrA)}
	for i, e := range ends {
		defer e.kill()
		_ = e.Set(map[Key]Profile{e.key: s.Begin[i]})
	}
	time.Sleep(3 * time.Second)
	l.mu.Lock()
	l.drop = func(from, _ netip.Addr) bool {
		row[from]++
		if row[from] > s.MaxLossRun || random.IntN(3) == 0 {
			row[from] = 0
		}
		return row[from] > 0
	}
	l.mu.Unlock()
	for _, c := range s.Changes {
		_ = ends[c.End].Set(map[Key]Profile{ends[c.End].key: c.Profile})
		time.Sleep(c.After)
	}
	time.Sleep(10 * time.Second)
	for _, e := range ends {
		if h := e.status(); h.State != Up || h.Flaps != 0 {
			return fmt.Sprintf("%s: %+v", e.addr, h)
		}
	}
	detection := ends[0].status().Detection
	ends[1].kill()
	time.Sleep(detection + 2*timerGranularity)
	if h := ends[0].lastChange(); h.State != Down {
		return fmt.Sprintf("not Down after the peer failed: %+v", h)
	}
	return ""
}

// TestLossAndChange checks that no session flaps if fewer successive packets are
// lost than every multiplier in use tolerates and profiles change at any time, and
// that a failure is still detected within the detection time.
func TestLossAndChange(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		s, failure := drawScenario(r), ""
		synctest.Test(t, func(*testing.T) { failure = s.failure() })
		if failure != "" {
			r.Fatalf("%s\nin %+v", failure, s)
		}
	})
}

// TestInvalidSessions checks that Set returns an error for a session that can never
// work, and runs the others.
func TestInvalidSessions(t *testing.T) {
	simulate(t, func(t *testing.T, _ *lan, a, b *end) {
		addr := netip.MustParseAddr
		bad := map[Key]Profile{
			{}:                      fastProfile,
			{Peer: addr("fe80::1")}: fastProfile,
			{Peer: addr("fe80::1%eth0"), Multihop: true}:                        fastProfile,
			{Peer: addr("fe80::1%eth0"), Interface: "eth1"}:                     fastProfile,
			{Peer: addr("::ffff:192.0.2.1")}:                                    fastProfile,
			{Peer: addr("192.0.2.9"), Local: addr("2001:db8::1")}:               fastProfile,
			{Peer: addr("192.0.2.7")}:                                           {Transmit: ms, Receive: ms},
			{Peer: addr("192.0.2.8")}:                                           {Transmit: ms / 2, Receive: ms, Multiplier: 3},
			{Peer: addr("192.0.2.8"), Interface: "eth0"}:                        {Transmit: ms, Receive: 2 * time.Hour, Multiplier: 3},
			{Peer: addr("224.0.0.1"), Local: addr("192.0.2.1"), Multihop: true}: fastProfile,
		}
		for key, profile := range bad {
			if err := a.Set(map[Key]Profile{key: profile, a.key: fastProfile}); err == nil {
				t.Errorf("%v %v was accepted", key, profile)
			}
		}
		b.set(t, fastProfile)
		time.Sleep(3 * time.Second)
		requireUp(t, a, b)
	})
}
