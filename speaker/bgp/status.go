package bgp

import (
	"net/netip"
	"time"
)

// SessionState is a state of RFC 4271 section 8.2.2.
type SessionState uint8

// States. A passive session waits for its peer in Active; others connect in Connect.
const (
	Idle SessionState = iota
	Connect
	Active
	OpenSent
	OpenConfirm
	Established
)

// String returns the name in the RFC.
func (s SessionState) String() string {
	return [...]string{"Idle", "Connect", "Active", "OpenSent", "OpenConfirm", "Established"}[s]
}

// PeerStatus is the status of a session.
type PeerStatus struct {
	Name  string
	State SessionState
	// Since when the session is established, or is not.
	Since time.Time
	// Sessions counts the sessions established so far, Lost those that have ended.
	Sessions, Lost int
	// LastError describes for an operator why the session is not established, or why
	// the last one ended. It stays when the next session is established.
	LastError   string
	LastErrorAt time.Time
	// FailedAt is the step at which the last attempt failed; "" while established.
	FailedAt SessionStep

	// The rest is of the session that is established, or else of the last one.

	LocalAddr, RemoteAddr netip.AddrPort
	Remote                Open
	// IPv4, IPv6: families of the advertised routes: both ends have them enabled,
	// and there is a next hop.
	IPv4, IPv6 bool
	// NextHopIPv4 and NextHopIPv6 are the next hops of the routes of the families.
	NextHopIPv4, NextHopIPv6 netip.Addr
	// HoldTime of the session: the lesser of both ends'.
	HoldTime time.Duration
	// Routes advertised.
	Routes int
	// IgnoredUpdates are UPDATEs of the peer that were dropped unread.
	IgnoredUpdates uint64
	// Withheld is which families or routes are not advertised, and why.
	Withheld string
	// Pending are the fields of the BGPPeer with a change that applies to the next
	// session: "holdTime", "keepaliveTime".
	Pending []string
}
