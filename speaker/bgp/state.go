// Package bgp keeps BGP sessions, and the routes advertised over them, at a
// desired State. Sockets, sessions and the packing of UPDATE messages are its
// own; GoBGP's packet library encodes capabilities and path attributes.
//
// A session remembers what its peer has been sent, until the session ends: a
// peer that connects again is sent everything. Nothing is learned from peers.
package bgp

import (
	"log/slog"
	"net/netip"
	"time"
)

// State is everything that the speaker shall do.
type State struct {
	// Peers are the sessions, each with a name of its own.
	Peers []Peer
}

// Peer is one session and what is told over it.
type Peer struct {
	// Name of the BGPPeer.
	Name string
	Session
	Transport
	// Routes that the peer shall know.
	Routes Routes
}

// Routes are prefixes with the attributes they carry. The next hop is the
// session's local address; for another family than the session's, the address
// of that family on the same link (RFC 4760 section 3, RFC 8950).
type Routes map[netip.Prefix]Attributes

// Session is what the two ends agree on in their OPEN messages (RFC 4271
// section 4.2). A change takes a new session.
type Session struct {
	LocalASN uint32
	// PeerASN is the only ASN accepted; 0 accepts those that Kind allows.
	PeerASN uint32
	Kind    Kind
	// RouterID is the BGP Identifier, an IPv4 address (RFC 6286).
	RouterID netip.Addr
	// Families told over the session, whatever family it runs over.
	IPv4, IPv6 bool
	// HoldTime is 0 (no keepalives) or at least 3 s; KeepaliveTime 0 is a third of it.
	HoldTime, KeepaliveTime time.Duration
	// RestartTime for which the peer keeps the routes of a speaker that is
	// being restarted (RFC 4724); 0 is no graceful restart.
	RestartTime time.Duration
}

// Kind says which ASNs a peer may have if its own is not fixed.
type Kind uint8

// Kinds of peers.
const (
	AnyASN   Kind = iota
	External      // any but LocalASN
	Internal      // LocalASN
)

// Transport is how the TCP connection comes about.
type Transport struct {
	// Address of the peer. A link-local one carries its zone.
	Address netip.Addr
	Port    uint16
	// Passive waits for the peer to connect to Port.
	Passive bool
	// Source address of the connection, if set; where to listen, if Passive.
	Source netip.Addr
	// Hops to the peer at most. 1 is a neighbour: packets leave with TTL 1,
	// or with TTLSecurity both leave with 255 and must arrive with at least
	// 256-Hops (GTSM, RFC 5082). iBGP is not limited.
	Hops        uint8
	TTLSecurity bool
	// Password of TCP MD5 (RFC 2385); none if empty.
	Password Secret
	// RetryTime is the longest wait between two attempts to connect.
	RetryTime time.Duration
}

// Secret is text that no log shows.
type Secret string

// String hides the secret.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return "(hidden)"
}

// GoString hides the secret.
func (s Secret) GoString() string { return s.String() }

// LogValue hides the secret.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText hides the secret.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Attributes of a route (RFC 4271 section 5). Equal ones are ==.
type Attributes struct {
	// LocalPref is told to internal peers only.
	LocalPref uint32
	// MED is told if HasMED.
	MED    uint32
	HasMED bool
	// Prepend is how many more times the own ASN is in the AS path, for
	// external peers only.
	Prepend uint8
	// Communities, standard ("64512:100", "65535:0") and large
	// ("64512:1:2"), sorted and separated by one space.
	Communities string
}
