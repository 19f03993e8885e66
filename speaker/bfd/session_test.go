package bfd

import (
	"encoding/binary"
	"fmt"
	"strings"
	"testing"
	"time"
)

const ms = time.Millisecond

var fastProfile = Profile{Transmit: 100 * ms, Receive: 100 * ms, Multiplier: 3}

// newUpSession returns a session that is Up since 0 with a peer of the same
// profile, after the end of its Poll Sequence.
func newUpSession(p Profile) *session {
	s := newSession(1, p, 0)
	peer := controlPacket{state: Down, multiplier: p.Multiplier, myDiscriminator: 2, transmit: time.Second, receive: p.Receive}
	s.receivePacket(peer, 0)
	peer.state, peer.yourDiscriminator = Up, 1
	s.receivePacket(peer, 0)
	s.packetSent(0, 0)
	peer.transmit, peer.final = p.Transmit, true
	s.receivePacket(peer, 0)
	peer.final = false
	s.receivePacket(peer, 0)
	return s
}

// packetFrom returns a packet of the peer of a session of newUpSession.
func packetFrom(s *session, state State) controlPacket {
	p := s.peer
	p.state, p.poll, p.final = state, false, false
	return p
}

// TestTransitions covers the state machine of RFC 5880 section 6.2, with the
// diagnostics of section 6.8.6.
func TestTransitions(t *testing.T) {
	const same = NoDiagnostic
	for _, test := range []struct {
		have, got, want State
		diagnostic      Diagnostic
	}{
		{AdminDown, AdminDown, AdminDown, AdministrativelyDown},
		{AdminDown, Down, AdminDown, AdministrativelyDown},
		{AdminDown, Init, AdminDown, AdministrativelyDown},
		{AdminDown, Up, AdminDown, AdministrativelyDown},
		{Down, AdminDown, Down, same},
		{Down, Down, Init, same},
		{Down, Init, Up, same},
		{Down, Up, Down, same},
		{Init, AdminDown, Down, NeighborSignaledDown},
		{Init, Down, Init, same},
		{Init, Init, Up, same},
		{Init, Up, Up, same},
		{Up, AdminDown, Down, NeighborSignaledDown},
		{Up, Down, Down, NeighborSignaledDown},
		{Up, Init, Up, same},
		{Up, Up, Up, same},
	} {
		s := newSession(1, fastProfile, 0)
		if test.have == AdminDown {
			s.setAdminDown(0)
		} else {
			s.state, s.peer.myDiscriminator = test.have, 2
		}
		s.receivePacket(controlPacket{
			state: test.got, multiplier: 3, myDiscriminator: 2, yourDiscriminator: 1, transmit: 100 * ms, receive: 100 * ms,
		}, 5)
		if s.state != test.want || s.diagnostic != test.diagnostic {
			t.Errorf("%s receives %s: %s (%s), want %s (%s)", test.have, test.got, s.state, s.diagnostic,
				test.want, test.diagnostic)
		}
		if moved := test.have != test.want; moved != (s.since == 5) {
			t.Errorf("%s receives %s: since %d, sendNow is %t", test.have, test.got, s.since, s.sendNow)
		}
	}
}

// TestForgedPackets checks that a session that is Up ignores all packets from the
// peer's address that do not have both discriminators.
func TestForgedPackets(t *testing.T) {
	for _, state := range []State{AdminDown, Down, Init, Up} {
		for _, discriminators := range [][2]uint32{{2, 0}, {3, 0}, {3, 1}} {
			s := newUpSession(fastProfile)
			p := packetFrom(s, state)
			p.myDiscriminator, p.yourDiscriminator = discriminators[0], discriminators[1]
			p.poll, p.multiplier, p.transmit = true, 255, time.Hour
			if _, ok := decodePacket(p.appendTo(nil)); !ok {
				continue
			}
			before := s.peer
			s.receivePacket(p, 200*ms)
			if s.state != Up || s.peer != before || s.nextExpiry() != 300*ms || s.finalPending {
				t.Errorf("%s %v: %s, expires at %s, %+v", state, discriminators, s.state, s.nextExpiry(), s.peer)
			}
		}
	}
}

// TestHandshakeTimers checks that packets without this end's discriminator, which
// anyone can forge, do not delay the handshake.
func TestHandshakeTimers(t *testing.T) {
	s := newSession(1, fastProfile, 0)
	s.receivePacket(controlPacket{state: Down, multiplier: 255, myDiscriminator: 7, transmit: time.Hour, receive: 0}, 0)
	if s.packetSent(0, 0); s.state != Init || s.nextSend() != time.Second || s.nextExpiry() != 3*time.Second {
		t.Errorf("%s, sends at %s, expires at %s", s.state, s.nextSend(), s.nextExpiry())
	}
	// The peer is the one that answers with this end's discriminator.
	s.receivePacket(controlPacket{state: Down, multiplier: 3, myDiscriminator: 2, transmit: time.Second, receive: 1}, 0)
	s.receivePacket(controlPacket{state: Init, multiplier: 3, myDiscriminator: 2, yourDiscriminator: 1, transmit: time.Second, receive: 1}, 0)
	if p := s.nextPacket(); s.state != Up || p.yourDiscriminator != 2 {
		t.Errorf("%s, sends %+v", s.state, p)
	}
}

func TestExpiry(t *testing.T) {
	s := newUpSession(fastProfile)
	if at := s.nextExpiry(); at != 300*ms {
		t.Fatalf("expires at %s", at)
	}
	s.expirePeer(300 * ms)
	if s.state != Down || s.diagnostic != DetectionTimeExpired || s.flaps != 1 || s.nextExpiry() != never {
		t.Errorf("%s (%s), %d flaps, expires at %s", s.state, s.diagnostic, s.flaps, s.nextExpiry())
	}
	// The session sends slowly, and without the peer's discriminator, after expiry.
	if p := s.nextPacket(); p.yourDiscriminator != 0 || p.transmit != time.Second || p.poll {
		t.Errorf("sends %+v", p)
	}
	s.packetSent(300*ms, 0)
	if at := s.nextSend(); at != 1300*ms {
		t.Errorf("sends the next packet at %s", at)
	}
}

// TestTransmitInterval checks when a packet is sent, and when none is (RFC 5880
// sections 6.8.2, 6.8.3 and 6.8.7).
func TestTransmitInterval(t *testing.T) {
	up := func(change func(*controlPacket)) *session {
		s := newUpSession(fastProfile)
		p := packetFrom(s, Up)
		change(&p)
		s.packetSent(50*ms, 0)
		s.receivePacket(p, 60*ms)
		return s
	}
	passive := fastProfile
	passive.Passive = true
	answering := newSession(1, passive, 0)
	answering.receivePacket(controlPacket{state: Down, multiplier: 3, myDiscriminator: 2, receive: 1}, 0)
	adminDown := up(func(p *controlPacket) { p.receive = 0 })
	adminDown.setAdminDown(0)
	for name, test := range map[string]struct {
		s    *session
		want time.Duration
	}{
		"a new session sends at once":                {newSession(1, fastProfile, 0), 0},
		"a passive session waits":                    {newSession(1, passive, 0), never},
		"a passive session answers":                  {answering, 0},
		"own interval":                               {up(func(*controlPacket) {}), 150 * ms},
		"the peer requires a longer interval":        {up(func(p *controlPacket) { p.receive = 400 * ms }), 450 * ms},
		"the peer accepts a shorter interval":        {up(func(p *controlPacket) { p.receive = 1 }), 150 * ms},
		"the peer accepts no periodic packets":       {up(func(p *controlPacket) { p.receive = 0 }), never},
		"a change is sent to it nevertheless":        {adminDown, 0},
		"demand mode is not honored":                 {up(func(p *controlPacket) { p.demand = true }), 150 * ms},
		"the peer's transmit interval has no effect": {up(func(p *controlPacket) { p.transmit = time.Hour }), 150 * ms},
		"a reply does not change the schedule":       {up(func(p *controlPacket) { p.poll = true }), 150 * ms},
	} {
		if have := test.s.nextSend(); have != test.want {
			t.Errorf("%s: sends at %s, want %s", name, have, test.want)
		}
	}
	// A shorter interval of the peer applies to the next packet.
	s := up(func(p *controlPacket) { p.receive = time.Hour })
	s.receivePacket(packetFrom(newUpSession(fastProfile), Up), 10*time.Second)
	if at := s.nextSend(); at != 150*ms {
		t.Errorf("after the peer's interval fell: sends at %s", at)
	}
}

func TestJitter(t *testing.T) {
	for _, test := range []struct {
		multiplier uint8
		random     float64
		want       time.Duration
	}{{3, 0, 100 * ms}, {3, 1, 75 * ms}, {1, 0, 90 * ms}, {1, 1, 75 * ms}} {
		p := fastProfile
		p.Multiplier = test.multiplier
		s := newUpSession(p)
		s.packetSent(0, test.random)
		if at := s.nextSend().Round(time.Microsecond); at != test.want {
			t.Errorf("multiplier %d, random %v: sends after %s, want %s", test.multiplier, test.random, at, test.want)
		}
	}
}

// TestPoll checks that a changed profile is advertised at once, and that each new
// interval takes effect when the session cannot expire because of it (RFC 5880
// sections 6.5 and 6.8.3).
func TestPoll(t *testing.T) {
	type times struct{ interval, detection time.Duration }
	for _, test := range []struct {
		name          string
		to            Profile
		during, after times
	}{
		{"slower", Profile{Transmit: 400 * ms, Receive: 400 * ms, Multiplier: 3}, times{100 * ms, 1200 * ms}, times{400 * ms, 1200 * ms}},
		{"faster", Profile{Transmit: 100 * ms, Receive: 50 * ms, Multiplier: 3}, times{100 * ms, 300 * ms}, times{100 * ms, 300 * ms}},
	} {
		s := newUpSession(fastProfile)
		s.packetSent(0, 0)
		s.setProfile(test.to)
		if p := s.nextPacket(); !p.poll || p.transmit != test.to.Transmit || p.receive != test.to.Receive || s.nextSend() != 0 {
			t.Errorf("%s: sends %+v at %s", test.name, p, s.nextSend())
		}
		s.packetSent(10*ms, 0)
		if have := (times{s.transmitInterval(), s.detectionTime()}); have != test.during {
			t.Errorf("%s: during the Poll Sequence %v, want %v", test.name, have, test.during)
		}
		p := packetFrom(s, Up)
		s.receivePacket(p, 20*ms)
		if !s.nextPacket().poll {
			t.Errorf("%s: a packet without the F bit ended the Poll Sequence", test.name)
		}
		p.final = true
		s.receivePacket(p, 30*ms)
		if have := (times{s.transmitInterval(), s.detectionTime()}); have != test.after || s.nextPacket().poll || s.sendNow {
			t.Errorf("%s: after the Poll Sequence %v, want %v", test.name, have, test.after)
		}
	}
}

// TestChangeDuringPoll checks that a change during a Poll Sequence waits for a
// packet without the F bit, because the replies to two Polls do not differ.
func TestChangeDuringPoll(t *testing.T) {
	s := newUpSession(fastProfile)
	second, third := fastProfile, fastProfile
	second.Transmit, third.Transmit = 200*ms, 300*ms
	s.setProfile(second)
	s.setProfile(third)
	if p := s.nextPacket(); p.transmit != 200*ms {
		t.Errorf("advertises %s during a Poll Sequence", p.transmit)
	}
	answer := packetFrom(s, Up)
	answer.final = true
	s.receivePacket(answer, 10*ms)
	s.receivePacket(answer, 20*ms) // a second reply to the same Poll
	if p := s.nextPacket(); p.transmit != 200*ms || p.poll {
		t.Errorf("sends %+v before a packet without the F bit", p)
	}
	s.receivePacket(packetFrom(s, Up), 30*ms)
	if p := s.nextPacket(); p.transmit != 300*ms || !p.poll {
		t.Errorf("sends %+v after a packet without the F bit", p)
	}
	s.receivePacket(packetFrom(s, Down), 40*ms)
	if p := s.nextPacket(); p.poll || p.transmit != time.Second {
		t.Errorf("sends %+v in %s", p, s.state)
	}
}

// TestFinalPacket checks that the reply to a Poll has no P bit itself.
func TestFinalPacket(t *testing.T) {
	s := newUpSession(fastProfile)
	slower := fastProfile
	slower.Transmit = time.Second
	s.setProfile(slower)
	poll := packetFrom(s, Up)
	poll.poll = true
	s.receivePacket(poll, 0)
	if !s.finalPending {
		t.Fatal("no reply to a Poll")
	}
	if p := s.finalPacket(); !p.final || p.poll || p.yourDiscriminator != 2 || s.finalPending {
		t.Errorf("replies %+v", p)
	}
	s.setAdminDown(0)
	s.receivePacket(poll, 0)
	if s.finalPending {
		t.Error("replies in AdminDown")
	}
}

func TestSetAdminDown(t *testing.T) {
	passive := fastProfile
	passive.Passive = true
	for name, test := range map[string]struct {
		s       *session
		packets int
	}{
		"up":               {newUpSession(fastProfile), adminDownPackets},
		"not up":           {newSession(1, fastProfile, 0), 1},
		"passive, no peer": {newSession(1, passive, 0), 0},
		"passive and up":   {newUpSession(passive), adminDownPackets},
	} {
		s, packets, now := test.s, 0, time.Duration(0)
		s.setAdminDown(0)
		s.setAdminDown(0)
		for ; s.nextSend() != never; packets++ {
			now = max(now, s.nextSend())
			if p := s.nextPacket(); p.state != AdminDown || p.diagnostic != AdministrativelyDown {
				t.Errorf("%s: sends %+v", name, p)
			}
			s.packetSent(now, 0)
		}
		if packets != test.packets || now > adminDownPackets*adminDownInterval || s.nextExpiry() != never {
			t.Errorf("%s: %d packets in %s, want %d", name, packets, now, test.packets)
		}
	}
}

// TestTranscript shows all packets of a session: it comes up, b gets longer
// intervals, and b is set to AdminDown.
func TestTranscript(t *testing.T) {
	const want = `
0.000 a sends Down ...... id=1 to=0 tx=1s rx=100ms
0.001 b sends Init ...... id=2 to=1 tx=1s rx=50ms
0.002 a sends Up   P..... id=1 to=2 tx=100ms rx=100ms
0.003 b sends Up   .F.... id=2 to=1 tx=50ms rx=50ms
0.003 b sends Up   P..... id=2 to=1 tx=50ms rx=50ms
0.004 a sends Up   .F.... id=1 to=2 tx=100ms rx=100ms
0.102 a sends Up   ...... id=1 to=2 tx=100ms rx=100ms
0.102 b sends Up   ...... id=2 to=1 tx=50ms rx=50ms
0.120 b sends Up   P..... id=2 to=1 tx=300ms rx=300ms
0.121 a sends Up   .F.... id=1 to=2 tx=100ms rx=100ms
0.402 a sends Up   ...... id=1 to=2 tx=100ms rx=100ms
0.420 b sends Up   ...... id=2 to=1 tx=300ms rx=300ms
0.500 b sends AdminDown ...... id=2 to=1 tx=1s rx=300ms
0.550 b sends AdminDown ...... id=2 to=1 tx=1s rx=300ms
0.600 b sends AdminDown ...... id=2 to=1 tx=1s rx=300ms
`
	b := Profile{Transmit: 50 * ms, Receive: 50 * ms, Multiplier: 3}
	var out strings.Builder
	out.WriteString("\n")
	ends := [2]*session{newSession(1, fastProfile, 0), newSession(2, b, 0)}
	inFlight := [2][]controlPacket{} // to each end; packets take 1 ms
	for now := time.Duration(0); now < 700*ms; now += ms {
		switch now {
		case 120 * ms:
			ends[1].setProfile(Profile{Transmit: 300 * ms, Receive: 300 * ms, Multiplier: 3})
		case 500 * ms:
			ends[1].setAdminDown(now)
		}
		arrived := inFlight
		inFlight = [2][]controlPacket{}
		for i, s := range ends {
			send := func(p controlPacket) {
				fmt.Fprintf(&out, "%.3f %c sends %-4s %s id=%d to=%d tx=%s rx=%s\n", now.Seconds(), 'a'+i, p.state,
					flags(p), p.myDiscriminator, p.yourDiscriminator, p.transmit, p.receive)
				inFlight[1-i] = append(inFlight[1-i], p)
			}
			for _, p := range arrived[i] {
				s.receivePacket(p, now)
			}
			if s.finalPending {
				send(s.finalPacket())
			}
			if (i == 0 || now > 0) && s.nextSend() <= now { // b starts 1 ms later
				send(s.nextPacket())
				s.packetSent(now, 0)
			}
		}
	}
	if out.String() != want {
		t.Errorf("have:%s", out.String())
	}
}

func flags(p controlPacket) string {
	text := []byte("......")
	for i, set := range []bool{p.poll, p.final, p.controlPlaneIndependent, p.authenticated, p.demand} {
		if set {
			text[i] = "PFCAD"[i]
		}
	}
	return string(text)
}

// FuzzSession checks that no sequence of packets makes a session panic, enter Up
// without a handshake (a packet in Init or Up with its discriminator), send faster
// than its profile, or expire earlier.
func FuzzSession(f *testing.F) {
	f.Add([]byte("0123456789"))
	f.Fuzz(func(t *testing.T, script []byte) {
		s, now, handshake := newSession(1, fastProfile, 0), time.Duration(0), false
		for len(script) >= 8 {
			n := binary.BigEndian.Uint64(script)
			script = script[8:]
			now += time.Duration(n>>16&0xff) * ms
			switch n & 7 {
			case 0:
				if s.nextExpiry() <= now {
					s.expirePeer(now)
				}
			case 1:
				s.packetSent(now, float64(n>>8&0xff)/256)
			case 2:
				s.setProfile(Profile{
					Transmit: time.Duration(n>>24&0xff+1) * ms, Receive: time.Duration(n>>32&0xff+1) * ms,
					Multiplier: uint8(n>>40) | 1, Passive: n>>48&1 == 1,
				})
			case 3:
				s.finalPacket()
			default:
				raw := controlPacket{
					state: State(n >> 24 & 3), poll: n>>26&1 == 1, final: n>>27&1 == 1, multiplier: uint8(n >> 28), myDiscriminator: uint32(n >> 32 & 3),
					yourDiscriminator: uint32(n >> 34 & 1), transmit: time.Duration(n>>35&0xff) * ms, receive: time.Duration(n>>43) * time.Microsecond,
				}
				p, ok := decodePacket(raw.appendTo(nil))
				if !ok {
					continue
				}
				handshake = p.state >= Init && p.yourDiscriminator == 1 || handshake && s.state == Up
				s.receivePacket(p, now)
			}
			if s.state == Up && !handshake {
				t.Fatal("Up without a handshake")
			}
			slowest := min(s.profile.Transmit, s.advertised.transmit, s.inUse.transmit)
			if s.transmitInterval() < slowest || s.lastReceived != never && s.detectionTime() < min(s.inUse.receive, s.advertised.receive) {
				t.Fatalf("interval %s, detection %s", s.transmitInterval(), s.detectionTime())
			}
		}
	})
}
