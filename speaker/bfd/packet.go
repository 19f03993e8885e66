package bfd

import (
	"encoding/binary"
	"fmt"
	"time"
)

// State of a session (RFC 5880 section 4.1).
type State uint8

// The states in the order of the protocol's numbers.
const (
	AdminDown State = iota // set down by an administrator: does not indicate a failure of the path
	Down
	Init // packets from the peer arrive, but the peer does not confirm ours yet
	Up
)

// String returns the state's name in the RFC.
func (s State) String() string {
	if s > Up {
		return fmt.Sprintf("State(%d)", uint8(s))
	}
	return [...]string{"AdminDown", "Down", "Init", "Up"}[s]
}

// Diagnostic is why a session last left Up (RFC 5880 section 4.1).
type Diagnostic uint8

// The diagnostics in the order of the protocol's numbers.
const (
	NoDiagnostic Diagnostic = iota
	DetectionTimeExpired
	EchoFailed
	NeighborSignaledDown
	ForwardingPlaneReset
	PathDown
	ConcatenatedPathDown
	AdministrativelyDown
	ReverseConcatenatedPathDown
)

var diagnostics = [...]string{
	"no diagnostic", "control detection time expired", "echo function failed",
	"neighbor signaled session down", "forwarding plane reset", "path down",
	"concatenated path down", "administratively down", "reverse concatenated path down",
}

// String returns the diagnostic's name in the RFC.
func (d Diagnostic) String() string {
	if int(d) >= len(diagnostics) {
		return fmt.Sprintf("Diagnostic(%d)", uint8(d))
	}
	return diagnostics[d]
}

// controlPacket is a BFD Control packet (RFC 5880 section 4.1) without the fields
// that never differ in this implementation.
type controlPacket struct {
	state                              State
	diagnostic                         Diagnostic
	poll, final                        bool
	controlPlaneIndependent            bool // C: the sender's data plane keeps the session up without its control plane
	authenticated                      bool // A: an authentication section follows
	demand                             bool // D
	multiplier                         uint8
	myDiscriminator, yourDiscriminator uint32        // of the sender and of the receiver
	transmit                           time.Duration // Desired Min TX Interval
	receive                            time.Duration // Required Min RX Interval
}

const (
	version = 1

	// packetLength is the length of a packet without authentication; a packet with
	// authentication has at least two more bytes.
	packetLength = 24

	bitPoll          = 1 << 5
	bitFinal         = 1 << 4
	bitIndependent   = 1 << 3
	bitAuthenticated = 1 << 2
	bitDemand        = 1 << 1
	bitMultipoint    = 1 << 0
)

// appendTo appends the encoded packet to b. Intervals are truncated to whole
// microseconds.
func (p controlPacket) appendTo(b []byte) []byte {
	flags := uint8(p.state)<<6 | flagBit(p.poll, bitPoll) | flagBit(p.final, bitFinal) | flagBit(p.controlPlaneIndependent, bitIndependent) |
		flagBit(p.authenticated, bitAuthenticated) | flagBit(p.demand, bitDemand)
	b = append(b, version<<5|uint8(p.diagnostic), flags, p.multiplier, packetLength)
	b = binary.BigEndian.AppendUint32(b, p.myDiscriminator)
	b = binary.BigEndian.AppendUint32(b, p.yourDiscriminator)
	b = binary.BigEndian.AppendUint32(b, uint32(p.transmit/time.Microsecond))
	b = binary.BigEndian.AppendUint32(b, uint32(p.receive/time.Microsecond))
	return binary.BigEndian.AppendUint32(b, 0) // Required Min Echo RX Interval: send no echo
}

func flagBit(set bool, bit uint8) uint8 {
	if set {
		return bit
	}
	return 0
}

// decodePacket decodes a packet. It is not ok if one of the rules of RFC 5880
// section 6.8.6 that do not depend on a session discards it.
func decodePacket(b []byte) (p controlPacket, ok bool) {
	if len(b) < packetLength || b[0]>>5 != version {
		return controlPacket{}, false
	}
	flags, length := b[1], int(b[3])
	p = controlPacket{
		state:                   State(flags >> 6),
		diagnostic:              Diagnostic(b[0] & 0x1f),
		poll:                    flags&bitPoll != 0,
		final:                   flags&bitFinal != 0,
		controlPlaneIndependent: flags&bitIndependent != 0,
		authenticated:           flags&bitAuthenticated != 0,
		demand:                  flags&bitDemand != 0,
		multiplier:              b[2],
		myDiscriminator:         binary.BigEndian.Uint32(b[4:]),
		yourDiscriminator:       binary.BigEndian.Uint32(b[8:]),
		transmit:                time.Duration(binary.BigEndian.Uint32(b[12:])) * time.Microsecond,
		receive:                 time.Duration(binary.BigEndian.Uint32(b[16:])) * time.Microsecond,
	}
	least := packetLength
	if p.authenticated {
		least += 2
	}
	switch {
	case length < least, length > len(b), p.multiplier == 0, flags&bitMultipoint != 0, p.myDiscriminator == 0:
		return controlPacket{}, false
	case p.yourDiscriminator == 0 && p.state != Down && p.state != AdminDown:
		return controlPacket{}, false // Your Discriminator may be 0 only in Down and AdminDown
	}
	return p, true
}
