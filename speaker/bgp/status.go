package bgp

import (
	"net/netip"
	"time"
)

// SessionState is a state of RFC 4271 section 8.2.2.
type SessionState uint8

// States. A passive session waits in Active, another connects in Connect.
const (
	Idle SessionState = iota
	Connect
	Active
	OpenSent
	OpenConfirm
	Established
)

// String is the RFC's word.
func (s SessionState) String() string {
	return [...]string{"Idle", "Connect", "Active", "OpenSent", "OpenConfirm", "Established"}[s]
}

// PeerStatus is how a session is.
type PeerStatus struct {
	Name  string
	State SessionState
	// Since when the session is established, or is not.
	Since time.Time
	// Sessions that were established so far, and those of them that were Lost.
	Sessions, Lost int
	// LastError is why there is no session, or why the last one ended, in an
	// operator's words. It stays while there is another session.
	LastError   string
	LastErrorAt time.Time
	// FailedAt is the step at which the last attempt failed; "" while established.
	FailedAt Step

	// The rest is about the session that is established, or else the last one.

	LocalAddr, RemoteAddr netip.AddrPort
	Remote                Open
	// IPv4, IPv6: families that are told: both ends speak them, and there is a
	// next hop.
	IPv4, IPv6 bool
	// HoldTime that was agreed upon.
	HoldTime time.Duration
	// Routes told.
	Routes int
	// IgnoredUpdates are UPDATEs of the peer that were dropped unread.
	IgnoredUpdates uint64
	// Withheld says which family is not told and why.
	Withheld string
	// Pending are the fields of the BGPPeer whose change waits for the next
	// session: "holdTime", "keepaliveTime".
	Pending []string
}
