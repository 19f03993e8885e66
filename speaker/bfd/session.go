package bfd

import (
	"math"
	"time"
)

const (
	// minSlowInterval is the shortest DesiredMinTxInterval of a session that is not
	// Up (RFC 5880 section 6.8.3), which limits the load of paths that do not work.
	minSlowInterval = time.Second

	// timerGranularity is the unit that deadlines are rounded down to where the
	// jitter allows it, so that one wakeup serves the timers of many sessions.
	timerGranularity = 2 * time.Millisecond

	// adminDownPackets is the number of packets that signal AdminDown before a
	// session stops sending, and adminDownInterval the time between two of them.
	adminDownPackets  = 3
	adminDownInterval = 50 * time.Millisecond

	// handshakeMultiplier is assumed for peers that do not know this end's
	// discriminator yet.
	handshakeMultiplier = 3

	// never is an instant that is never reached. Instants are durations since the
	// Engine was created.
	never time.Duration = math.MaxInt64
)

// timerValues are the DesiredMinTxInterval and the RequiredMinRxInterval of one end.
type timerValues struct{ transmit, receive time.Duration }

// pollState is the state of a Poll Sequence (RFC 5880 section 6.5).
type pollState uint8

const (
	pollIdle pollState = iota
	pollSent
	// pollAnswered: a packet with the F bit has arrived, but only a packet without
	// it proves that no other answer to the same Poll is still in transit (RFC 5880
	// section 6.8.3).
	pollAnswered
)

// unknownPeer has the initial values of RFC 5880 section 6.8.1. They apply before
// the peer's first packet and after the session has expired.
var unknownPeer = controlPacket{state: Down, receive: time.Microsecond}

// session is one end of a session: the variables and rules of RFC 5880 section
// 6.8, without a clock and without sockets. nextSend and nextExpiry return its
// deadlines; the caller sends the packets that nextPacket and finalPacket return.
type session struct {
	profile       Profile
	discriminator uint32 // bfd.LocalDiscr
	state         State
	diagnostic    Diagnostic
	since         time.Duration // when it entered the state
	flaps         int           // how often it left Up

	peer         controlPacket // the last accepted packet: all bfd.Remote… variables
	restarted    controlPacket // in Up: a packet in Down since then of a peer that does not know the session any more
	lastReceived time.Duration // when peer arrived; never: none within the detection time

	advertised, inUse timerValues // they differ while a Poll Sequence is in progress
	poll              pollState
	finalPending      bool // a packet with the F bit has to be sent

	lastSent        time.Duration // when the last periodic packet was sent
	sendNow         bool          // the state or the timers have changed since the last packet
	jitter          float64       // the factor of the interval until the next packet
	adminDownLeft   int           // packets still to be sent in AdminDown
	resumeUntil     time.Duration // until then it waits for a peer that considers it Up; 0: it does not wait
	expiryPostponed bool          // since the last received packet
}

func newSession(id uint32, p Profile, now time.Duration) *session {
	s := &session{profile: p, discriminator: id, state: Down, since: now, peer: unknownPeer, lastReceived: never, sendNow: true, jitter: 1}
	s.negotiateTimers()
	return s
}

// transmitInterval returns the time between two packets before jitter (RFC 5880
// section 6.8.2).
func (s *session) transmitInterval() time.Duration {
	if s.state == AdminDown {
		return adminDownInterval
	}
	return max(s.inUse.transmit, s.peer.receive)
}

// detectionTime returns the time without packets after which the session goes
// Down (RFC 5880 section 6.8.4), or 0 before the first packet.
func (s *session) detectionTime() time.Duration {
	return time.Duration(s.peer.multiplier) * max(s.inUse.receive, s.peer.transmit)
}

// nextSend returns when the next periodic packet is due (RFC 5880 section 6.8.7).
// It uses the current parameters, so that a changed interval takes effect at once
// (section 6.8.3).
func (s *session) nextSend() time.Duration {
	switch {
	case s.state == AdminDown && s.adminDownLeft == 0, s.profile.Passive && s.peer.myDiscriminator == 0:
		return never
	case s.resumeUntil > 0:
		return s.resumeUntil
	case s.sendNow:
		return 0
	case s.peer.receive == 0 && s.state != AdminDown: // the peer does not accept periodic packets
		return never
	}
	interval := s.transmitInterval()
	at := s.lastSent + time.Duration(s.jitter*float64(interval))
	if sooner := at.Truncate(timerGranularity); sooner >= s.lastSent+interval*3/4 {
		return sooner
	}
	return at
}

// nextExpiry returns when the detection time ends if no packet arrives.
func (s *session) nextExpiry() time.Duration {
	if s.lastReceived == never || s.state == AdminDown {
		return never
	}
	return s.lastReceived + s.detectionTime()
}

// accepts reports whether a packet from the peer's address belongs to the session.
// Only the peer can know this end's discriminator, because it is random to others,
// and the packets of one session of the peer have one My Discriminator. A session
// that is Up, or that may be resumed, therefore ignores all others: anyone who can
// forge the source address could send them. A peer that has restarted and does not
// know the session any more is accepted when the detection time has passed.
//
// RFC 5880 section 6.8.6 accepts packets without Your Discriminator in every state.
// FRR ignores them in Init and Up as well.
func (s *session) accepts(p controlPacket) bool {
	handshake := s.state == Down || s.state == Init
	if p.yourDiscriminator == 0 {
		return handshake && s.resumeUntil == 0
	}
	return handshake || p.myDiscriminator == s.peer.myDiscriminator
}

// withoutTimers returns a packet that anyone could have sent, because it does not
// have this end's discriminator, with the slowest timer values of the protocol's
// handshake. Otherwise one packet could stop this end from sending for hours.
func (p controlPacket) withoutTimers() controlPacket {
	p.multiplier, p.transmit, p.receive = handshakeMultiplier, minSlowInterval, unknownPeer.receive
	return p
}

// receivePacket processes a packet as in RFC 5880 section 6.8.6, from the step at
// which the session is known.
func (s *session) receivePacket(p controlPacket, now time.Duration) {
	if !s.accepts(p) {
		if s.state == Up && p.state == Down && p.yourDiscriminator == 0 {
			s.restarted = p
		}
		return
	}
	if p.yourDiscriminator == 0 {
		p = p.withoutTimers()
	}
	s.peer, s.restarted, s.lastReceived, s.expiryPostponed = p, controlPacket{}, now, false
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

// expirePeer resets the variables of a peer that sent no packet for the detection
// time, and takes the session down. If the peer has sent packets of a new session
// meanwhile, it was restarted, and the path works.
func (s *session) expirePeer(now time.Duration) {
	last := s.peer
	if s.restarted.myDiscriminator != 0 {
		s.peer, s.restarted, s.lastReceived = s.restarted.withoutTimers(), controlPacket{}, now
		s.setState(Down, NeighborSignaledDown, now)
		return
	}
	s.peer, s.lastReceived, s.expiryPostponed = unknownPeer, never, false
	// Operators need the diagnostic, and BGP graceful restart the C bit (RFC 5882
	// section 4.3.2).
	s.peer.diagnostic, s.peer.controlPlaneIndependent = last.diagnostic, last.controlPlaneIndependent
	if s.state == Init || s.state == Up {
		s.setState(Down, DetectionTimeExpired, now)
	}
}

// postponeExpiry moves the expiry to the end of a grace period that begins now.
func (s *session) postponeExpiry(now, grace time.Duration) {
	s.expiryPostponed, s.lastReceived = true, now+grace-s.detectionTime()
}

// setProfile changes the profile, and starts a Poll Sequence if one is required.
func (s *session) setProfile(p Profile) {
	s.sendNow = s.sendNow || p.Multiplier != s.profile.Multiplier || p.PathDown != s.profile.PathDown && s.state == Up
	s.profile = p
	s.negotiateTimers()
}

// setAdminDown takes the session down permanently (RFC 5880 section 6.8.16). The
// session signals it in a few packets; a passive session that has received no
// packet sends none.
func (s *session) setAdminDown(now time.Duration) { s.setDownFor(now, AdministrativelyDown) }

// setDownFor is setAdminDown with a diagnostic.
func (s *session) setDownFor(now time.Duration, d Diagnostic) {
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
	s.setState(AdminDown, d, now)
}

// setState changes the state. The session sends a packet at once, except where the
// peer has signaled the change: if both ends answered such packets at once, one
// late packet could make them take each other down forever.
func (s *session) setState(state State, d Diagnostic, now time.Duration) {
	if s.state == Up {
		s.flaps++
	}
	s.state, s.diagnostic, s.since = state, d, now
	s.sendNow = s.sendNow || d != NeighborSignaledDown
	s.negotiateTimers()
}

// negotiateTimers derives the advertised timer values from the profile and the
// state (RFC 5880 section 6.8.3). In Up a change requires a Poll Sequence; until
// it ends, the session sends at the shorter interval and expects packets at the
// longer one. In other states a change takes effect at once.
func (s *session) negotiateTimers() {
	desired := timerValues{s.profile.Transmit, s.profile.Receive}
	if s.state != Up {
		desired.transmit = max(desired.transmit, minSlowInterval)
		s.advertised, s.inUse, s.poll = desired, desired, pollIdle
		return
	}
	if desired == s.advertised || s.poll != pollIdle {
		return
	}
	s.advertised, s.poll, s.sendNow = desired, pollSent, true
	s.inUse = timerValues{min(s.inUse.transmit, desired.transmit), max(s.inUse.receive, desired.receive)}
}

// nextPacket returns the next periodic packet.
func (s *session) nextPacket() controlPacket {
	diagnostic := s.diagnostic
	if s.state == Up && s.profile.PathDown {
		diagnostic = ConcatenatedPathDown
	}
	return controlPacket{
		state: s.state, diagnostic: diagnostic, poll: s.poll == pollSent, multiplier: s.profile.Multiplier,
		myDiscriminator: s.discriminator, yourDiscriminator: s.peer.myDiscriminator,
		transmit: s.advertised.transmit, receive: s.advertised.receive,
	}
}

// finalPacket returns the reply to a packet with the P bit. It is not a periodic
// packet.
func (s *session) finalPacket() controlPacket {
	s.finalPending = false
	p := s.nextPacket()
	p.poll, p.final = false, true
	return p
}

// packetSent records that a periodic packet was sent. random is in [0, 1) and
// selects the jitter (RFC 5880 section 6.8.7): the interval is reduced by up to a
// quarter; with a multiplier of 1 by at least a tenth, so that one packet that is
// slightly late does not end the session.
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
