// Package bgp keeps BGP sessions, and the routes advertised over them, at a
// desired Config. Sockets, sessions and the packing of UPDATE messages are its
// own; GoBGP's packet library encodes capabilities and path attributes.
//
// A session records the routes that were sent to its peer, until the session ends: a
// peer that connects again is sent all routes. Routes of peers are ignored.
package bgp

import (
	"log/slog"
	"net/netip"
	"time"
)

// Config is the desired configuration of a Speaker.
type Config struct {
	// Peers have distinct names.
	Peers []Peer
}

// Peer is one session, and the routes advertised over it.
type Peer struct {
	// Name of the BGPPeer.
	Name string
	Session
	Transport
	// NodeAddresses are the addresses of the Node, its InternalIPs, which are preferred as next
	// hops and as the source of connections.
	NodeAddresses []netip.Addr
	// ServiceAddresses are the addresses of Services that interfaces of the node have. They are
	// never next hops or the source of connections: they move to other nodes.
	ServiceAddresses []netip.Addr
	// Routes to advertise to the peer.
	Routes Routes
}

// Routes are prefixes with the attributes they carry. The next hop is the
// session's local address; for the other family, a stable address of that family on the
// same interface (RFC 4760 section 3, RFC 8950), which stays the same as long as the interface
// has it.
type Routes map[netip.Prefix]Attributes

// Session is what the two ends agree on in their OPEN messages (RFC 4271
// section 4.2). A change takes a new session.
type Session struct {
	LocalASN uint32
	// PeerASN is the only ASN accepted; 0 accepts those that Kind allows.
	PeerASN uint32
	Kind    PeerKind
	// RouterID is the BGP Identifier, an IPv4 address (RFC 6286).
	RouterID netip.Addr
	// Families of the advertised routes, whatever family the session runs over.
	IPv4, IPv6 bool
	// HoldTime is 0 (no keepalives) or at least 3 s; KeepaliveTime 0 is a third of it.
	HoldTime, KeepaliveTime time.Duration
	// RestartTime is how long the peer preserves the routes of a speaker that
	// restarts (RFC 4724); 0 disables graceful restart.
	RestartTime time.Duration
}

// PeerKind is which ASNs a peer may have if PeerASN is 0.
type PeerKind uint8

// Kinds of peers.
const (
	AnyASN   PeerKind = iota
	External          // any but LocalASN
	Internal          // LocalASN
)

// Transport is how the TCP connection is made.
type Transport struct {
	// Address of the peer. A link-local one carries its zone.
	Address netip.Addr
	Port    uint16
	// Passive waits for the peer to connect to Port.
	Passive bool
	// Source address of the connection; the address to listen on, if Passive. Without one, the
	// source of connections to a peer without a router in between is a stable address in its
	// subnet, which stays the same as long as the interface has it; otherwise the kernel
	// selects it.
	Source netip.Addr
	// Hops is the largest distance of the peer. 1 is a neighbor. Packets leave with
	// this TTL; with TTLSecurity they leave with 255 at both ends, and must arrive
	// with at least 256-Hops (GTSM, RFC 5082). iBGP is not limited.
	Hops        uint8
	TTLSecurity bool
	// Password of TCP MD5 (RFC 2385), which is off if it is empty.
	Password Secret
	// RetryTime is the longest wait between two attempts to connect.
	RetryTime time.Duration
}

// Secret is a text that is hidden in logs and formatted output.
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
	// LocalPref is advertised to internal peers only.
	LocalPref uint32
	// MED is advertised if HasMED.
	MED    uint32
	HasMED bool
	// Prepend is how many more times LocalASN is in the AS path, for external
	// peers only.
	Prepend uint8
	// Communities, standard ("64512:100", "65535:0") and large
	// ("64512:1:2"), sorted and separated by one space.
	Communities string
}
