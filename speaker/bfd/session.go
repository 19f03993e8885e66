package bfd

import (
	"math"
	"time"
)

const (
	// slowest is the shortest DesiredMinTxInterval of a session that is not Up
	// (RFC 5880 section 6.8.3): paths that lead nowhere cost next to nothing.
	minSlowInterval = time.Second

	// beat is what the clock of all sessions goes by, where it may: one look at
	// what has come and what is due costs more than either.
	timerGranularity = 2 * time.Millisecond

	// farewells is how many packets say AdminDown before a session falls silent,
	// and partingPace the time between two of them.
	adminDownPackets  = 3
	adminDownInterval = 50 * time.Millisecond

	// never is the instant that does not come. Instants are durations since the
	// engine was made.
	never time.Duration = math.MaxInt64
)

// timing is what one end says of its timers: its DesiredMinTxInterval and its
// RequiredMinRxInterval.
type timerValues struct{ transmit, receive time.Duration }

// sequence is where a Poll Sequence stands (RFC 5880 section 6.5).
type pollState uint8

const (
	pollIdle pollState = iota
	pollSent
	// settling: the answer has come, but only a packet without the F bit proves
	// that no other answer to the same question is still on its way (RFC 5880
	// section 6.8.3).
	pollAnswered
)

// stranger is the peer before its first packet and after its silence, with the
// initial values of RFC 5880 section 6.8.1.
var unknownPeer = controlPacket{state: Down, receive: time.Microsecond}

// session is one end of a session: the variables and rules of RFC 5880 section
// 6.8, without a clock and without sockets. It says when it wants to act (due);
// whoever runs it sends what it says.
type session struct {
	profile       Profile
	discriminator uint32 // bfd.LocalDiscr
	state         State
	diagnostic    Diagnostic
	since         time.Duration // when it entered the state
	flaps         int           // how often it left Up

	peer         controlPacket // the last one accepted: all bfd.Remote… variables
	lastReceived time.Duration // when that came; never: not for a detection time

	advertised, inUse timerValues // used differs from told while a Poll Sequence is under way
	poll              pollState
	finalPending      bool // a packet with the F bit

	lastSent        time.Duration // the last packet
	sendNow         bool          // what the peer knows is outdated: send without waiting
	jitter          float64       // of the interval until the next packet, a factor
	adminDownLeft   int           // packets still to be sent in AdminDown
	resumeUntil     time.Duration // until then it waits for a peer that takes it for Up; 0: no more
	expiryPostponed bool          // its expiry was put off once
}

func newSession(id uint32, p Profile, now time.Duration) *session {
	s := &session{profile: p, discriminator: id, state: Down, since: now, peer: unknownPeer, lastReceived: never, sendNow: true, jitter: 1}
	s.negotiateTimers()
	return s
}

// interval is the time between two packets before jitter (RFC 5880 section 6.8.2).
func (s *session) transmitInterval() time.Duration {
	if s.state == AdminDown {
		return adminDownInterval
	}
	return max(s.inUse.transmit, s.peer.receive)
}

// detection is the time without packets after which the peer is gone (RFC 5880
// section 6.8.4); 0 if none has come.
func (s *session) detectionTime() time.Duration {
	return time.Duration(s.peer.multiplier) * max(s.inUse.receive, s.peer.transmit)
}

// sendAt is when the next periodic packet is due (RFC 5880 section 6.8.7). It
// is derived from the parameters of this moment, so that a changed interval
// takes effect at once (section 6.8.3).
func (s *session) nextSend() time.Duration {
	switch {
	case s.state == AdminDown && s.adminDownLeft == 0, s.profile.Passive && s.peer.myDiscriminator == 0:
		return never
	case s.resumeUntil > 0:
		return s.resumeUntil
	case s.sendNow:
		return 0
	case s.peer.receive == 0: // the peer wants no periodic packets
		return never
	}
	interval := s.transmitInterval()
	at := s.lastSent + time.Duration(s.jitter*float64(interval))
	if sooner := at.Truncate(timerGranularity); sooner >= s.lastSent+interval*3/4 {
		return sooner
	}
	return at
}

// expireAt is when the peer is taken for gone if nothing comes from it.
func (s *session) nextExpiry() time.Duration {
	if s.lastReceived == never || s.state == AdminDown {
		return never
	}
	return s.lastReceived + s.detectionTime()
}

// receive follows RFC 5880 section 6.8.6 from where the session is found.
func (s *session) receivePacket(p controlPacket, now time.Duration) {
	s.peer, s.lastReceived, s.expiryPostponed = p, now, false
	resumes := s.resumeUntil > 0 && p.state == Up && p.yourDiscriminator == s.discriminator
	s.resumeUntil = 0
	switch {
	case s.poll == pollSent && p.final:
		s.inUse, s.poll = s.advertised, pollAnswered
	case s.poll == pollAnswered && !p.final:
		s.poll = pollIdle
	}
	if s.state == AdminDown {
		return
	}
	s.finalPending = s.finalPending || p.poll
	switch {
	case resumes:
		s.resumeUp(now)
	case p.state == AdminDown && s.state != Down, p.state == Down && s.state == Up:
		s.setState(Down, NeighborSignaledDown, now)
	case p.state == Down && s.state == Down:
		s.setState(Init, NoDiagnostic, now)
	case p.state == Init && s.state == Down, p.state >= Init && s.state == Init:
		s.setState(Up, NoDiagnostic, now)
	}
	s.negotiateTimers()
}

// expire forgets a peer that was silent for the detection time.
func (s *session) expirePeer(now time.Duration) {
	last := s.peer
	s.peer, s.lastReceived, s.expiryPostponed = unknownPeer, never, false
	// Of use to operators, and to whom RFC 5882 section 4.3.2 concerns.
	s.peer.diagnostic, s.peer.controlPlaneIndependent = last.diagnostic, last.controlPlaneIndependent
	if s.state == Init || s.state == Up {
		s.setState(Down, DetectionTimeExpired, now)
	}
}

// spare puts off the expiry once, for a moment.
func (s *session) postponeExpiry(now, moment time.Duration) {
	s.expiryPostponed, s.lastReceived = true, now+moment-s.detectionTime()
}

// configure changes the profile and begins to tell the peer.
func (s *session) setProfile(p Profile) {
	s.sendNow = s.sendNow || p.Multiplier != s.profile.Multiplier
	s.profile = p
	s.negotiateTimers()
}

// shut takes the session down for good. It says so a few times, and nothing to
// a peer that a passive session has never heard (RFC 5880 section 6.8.16).
func (s *session) setAdminDown(now time.Duration) {
	if s.state == AdminDown {
		return
	}
	s.adminDownLeft = 1
	if s.state == Up {
		s.adminDownLeft = adminDownPackets
	}
	if s.profile.Passive && s.peer.myDiscriminator == 0 {
		s.adminDownLeft = 0
	}
	s.setState(AdminDown, AdministrativelyDown, now)
}

// enter changes the state. The peer hears of it at once, unless it said so
// itself: if that too were answered at once, two ends that one late packet has
// put out of step would take each other down for ever.
func (s *session) setState(state State, d Diagnostic, now time.Duration) {
	if s.state == Up {
		s.flaps++
	}
	s.state, s.diagnostic, s.since = state, d, now
	s.sendNow = s.sendNow || d != NeighborSignaledDown
	s.negotiateTimers()
}

// negotiate makes what the peer is told follow the profile and the state (RFC
// 5880 section 6.8.3). In Up a change takes a Poll Sequence, and until it has
// ended packets go at the shorter interval and are expected at the longer one.
// In other states there is nothing that could break.
func (s *session) negotiateTimers() {
	want := timerValues{s.profile.Transmit, s.profile.Receive}
	if s.state != Up {
		want.transmit = max(want.transmit, minSlowInterval)
		s.advertised, s.inUse, s.poll = want, want, pollIdle
		return
	}
	if want == s.advertised || s.poll != pollIdle {
		return
	}
	s.advertised, s.poll, s.sendNow = want, pollSent, true
	s.inUse = timerValues{min(s.inUse.transmit, want.transmit), max(s.inUse.receive, want.receive)}
}

// packet is what the session has to say now.
func (s *session) nextPacket() controlPacket {
	return controlPacket{
		state: s.state, diagnostic: s.diagnostic, poll: s.poll == pollSent, multiplier: s.profile.Multiplier,
		myDiscriminator: s.discriminator, yourDiscriminator: s.peer.myDiscriminator, transmit: s.advertised.transmit, receive: s.advertised.receive,
	}
}

// answer is the reply to a packet with the P bit. It is no periodic packet.
func (s *session) finalPacket() controlPacket {
	s.finalPending = false
	p := s.nextPacket()
	p.poll, p.final = false, true
	return p
}

// departed notes that a periodic packet was sent. random is in [0, 1) and makes
// the jitter: the interval is shortened by up to a quarter, with a multiplier
// of 1 by at least a tenth, so that one packet that is a little late does not
// end the session (RFC 5880 section 6.8.7).
func (s *session) packetSent(now time.Duration, random float64) {
	s.lastSent, s.sendNow, s.resumeUntil = now, false, 0
	s.jitter = 1 - random/4
	if s.profile.Multiplier == 1 {
		s.jitter = 0.9 - random*0.15
	}
	if s.state == AdminDown {
		s.adminDownLeft--
	}
}
