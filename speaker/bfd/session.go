package bfd

import (
	"math"
	"time"
)

const (
	// slowest is the shortest DesiredMinTxInterval of a session that is not Up
	// (RFC 5880 section 6.8.3): paths that lead nowhere cost next to nothing.
	slowest = time.Second

	// beat is what the clock of all sessions goes by, where it may: one look at
	// what has come and what is due costs more than either.
	beat = 2 * time.Millisecond

	// farewells is how many packets say AdminDown before a session falls silent,
	// and partingPace the time between two of them.
	farewells   = 3
	partingPace = 50 * time.Millisecond

	// never is the instant that does not come. Instants are durations since the
	// engine was made.
	never time.Duration = math.MaxInt64
)

// timing is what one end says of its timers: its DesiredMinTxInterval and its
// RequiredMinRxInterval.
type timing struct{ transmit, receive time.Duration }

// sequence is where a Poll Sequence stands (RFC 5880 section 6.5).
type sequence uint8

const (
	idle sequence = iota
	asking
	// settling: the answer has come, but only a packet without the F bit proves
	// that no other answer to the same question is still on its way (RFC 5880
	// section 6.8.3).
	settling
)

// stranger is the peer before its first packet and after its silence, with the
// initial values of RFC 5880 section 6.8.1.
var stranger = packet{state: Down, receive: time.Microsecond}

// session is one end of a session: the variables and rules of RFC 5880 section
// 6.8, without a clock and without sockets. It says when it wants to act (due);
// whoever runs it sends what it says.
type session struct {
	profile    Profile
	id         uint32 // bfd.LocalDiscr
	state      State
	diagnostic Diagnostic
	since      time.Duration // when it entered the state
	flaps      int           // how often it left Up

	peer  packet        // the last one accepted: all bfd.Remote… variables
	heard time.Duration // when that came; never: not for a detection time

	told, used timing // used differs from told while a Poll Sequence is under way
	poll       sequence
	owed       bool // a packet with the F bit

	sent   time.Duration // the last packet
	urgent bool          // what the peer knows is outdated: send without waiting
	jitter float64       // of the interval until the next packet, a factor
	left   int           // packets still to be sent in AdminDown
	listen time.Duration // until then it waits for a peer that takes it for Up; 0: no more
	spared bool          // its expiry was put off once
}

func newSession(id uint32, p Profile, now time.Duration) *session {
	s := &session{profile: p, id: id, state: Down, since: now, peer: stranger, heard: never, urgent: true, jitter: 1}
	s.negotiate()
	return s
}

// interval is the time between two packets before jitter (RFC 5880 section 6.8.2).
func (s *session) interval() time.Duration {
	if s.state == AdminDown {
		return partingPace
	}
	return max(s.used.transmit, s.peer.receive)
}

// detection is the time without packets after which the peer is gone (RFC 5880
// section 6.8.4); 0 if none has come.
func (s *session) detection() time.Duration {
	return time.Duration(s.peer.multiplier) * max(s.used.receive, s.peer.transmit)
}

// sendAt is when the next periodic packet is due (RFC 5880 section 6.8.7). It
// is derived from the parameters of this moment, so that a changed interval
// takes effect at once (section 6.8.3).
func (s *session) sendAt() time.Duration {
	switch {
	case s.state == AdminDown && s.left == 0, s.profile.Passive && s.peer.mine == 0:
		return never
	case s.listen > 0:
		return s.listen
	case s.urgent:
		return 0
	case s.peer.receive == 0: // the peer wants no periodic packets
		return never
	}
	interval := s.interval()
	at := s.sent + time.Duration(s.jitter*float64(interval))
	if sooner := at.Truncate(beat); sooner >= s.sent+interval*3/4 {
		return sooner
	}
	return at
}

// expireAt is when the peer is taken for gone if nothing comes from it.
func (s *session) expireAt() time.Duration {
	if s.heard == never || s.state == AdminDown {
		return never
	}
	return s.heard + s.detection()
}

// receive follows RFC 5880 section 6.8.6 from where the session is found.
func (s *session) receive(p packet, now time.Duration) {
	s.peer, s.heard, s.spared = p, now, false
	resumes := s.listen > 0 && p.state == Up && p.yours == s.id
	s.listen = 0
	switch {
	case s.poll == asking && p.final:
		s.used, s.poll = s.told, settling
	case s.poll == settling && !p.final:
		s.poll = idle
	}
	if s.state == AdminDown {
		return
	}
	s.owed = s.owed || p.poll
	switch {
	case resumes:
		s.resume(now)
	case p.state == AdminDown && s.state != Down, p.state == Down && s.state == Up:
		s.enter(Down, NeighborSignaledDown, now)
	case p.state == Down && s.state == Down:
		s.enter(Init, NoDiagnostic, now)
	case p.state == Init && s.state == Down, p.state >= Init && s.state == Init:
		s.enter(Up, NoDiagnostic, now)
	}
	s.negotiate()
}

// expire forgets a peer that was silent for the detection time.
func (s *session) expire(now time.Duration) {
	last := s.peer
	s.peer, s.heard, s.spared = stranger, never, false
	// Of use to operators, and to whom RFC 5882 section 4.3.2 concerns.
	s.peer.diagnostic, s.peer.independent = last.diagnostic, last.independent
	if s.state == Init || s.state == Up {
		s.enter(Down, DetectionTimeExpired, now)
	}
}

// spare puts off the expiry once, for a moment.
func (s *session) spare(now, moment time.Duration) {
	s.spared, s.heard = true, now+moment-s.detection()
}

// configure changes the profile and begins to tell the peer.
func (s *session) configure(p Profile) {
	s.urgent = s.urgent || p.Multiplier != s.profile.Multiplier
	s.profile = p
	s.negotiate()
}

// shut takes the session down for good. It says so a few times, and nothing to
// a peer that a passive session has never heard (RFC 5880 section 6.8.16).
func (s *session) shut(now time.Duration) {
	if s.state == AdminDown {
		return
	}
	s.left = 1
	if s.state == Up {
		s.left = farewells
	}
	if s.profile.Passive && s.peer.mine == 0 {
		s.left = 0
	}
	s.enter(AdminDown, AdministrativelyDown, now)
}

// enter changes the state. The peer hears of it at once, unless it said so
// itself: if that too were answered at once, two ends that one late packet has
// put out of step would take each other down for ever.
func (s *session) enter(state State, d Diagnostic, now time.Duration) {
	if s.state == Up {
		s.flaps++
	}
	s.state, s.diagnostic, s.since = state, d, now
	s.urgent = s.urgent || d != NeighborSignaledDown
	s.negotiate()
}

// negotiate makes what the peer is told follow the profile and the state (RFC
// 5880 section 6.8.3). In Up a change takes a Poll Sequence, and until it has
// ended packets go at the shorter interval and are expected at the longer one.
// In other states there is nothing that could break.
func (s *session) negotiate() {
	want := timing{s.profile.Transmit, s.profile.Receive}
	if s.state != Up {
		want.transmit = max(want.transmit, slowest)
		s.told, s.used, s.poll = want, want, idle
		return
	}
	if want == s.told || s.poll != idle {
		return
	}
	s.told, s.poll, s.urgent = want, asking, true
	s.used = timing{min(s.used.transmit, want.transmit), max(s.used.receive, want.receive)}
}

// packet is what the session has to say now.
func (s *session) packet() packet {
	return packet{
		state: s.state, diagnostic: s.diagnostic, poll: s.poll == asking, multiplier: s.profile.Multiplier,
		mine: s.id, yours: s.peer.mine, transmit: s.told.transmit, receive: s.told.receive,
	}
}

// answer is the reply to a packet with the P bit. It is no periodic packet.
func (s *session) answer() packet {
	s.owed = false
	p := s.packet()
	p.poll, p.final = false, true
	return p
}

// departed notes that a periodic packet was sent. random is in [0, 1) and makes
// the jitter: the interval is shortened by up to a quarter, with a multiplier
// of 1 by at least a tenth, so that one packet that is a little late does not
// end the session (RFC 5880 section 6.8.7).
func (s *session) departed(now time.Duration, random float64) {
	s.sent, s.urgent, s.listen = now, false, 0
	s.jitter = 1 - random/4
	if s.profile.Multiplier == 1 {
		s.jitter = 0.9 - random*0.15
	}
	if s.state == AdminDown {
		s.left--
	}
}
