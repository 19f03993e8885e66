package bgp

import (
	"net/netip"
	"strings"
)

// hops are the next hops of each family; the zero Addr where there is none.
type hops struct{ v4, v6 netip.Addr }

func (h hops) of(prefix netip.Prefix) netip.Addr {
	if prefix.Addr().Is4() {
		return h.v4
	}
	return h.v6
}

// chooseHops finds the next hop for each family that both ends speak, and says
// which family of p has none and why. local is the session's own address, link
// are the addresses of the interface that has it.
func chooseHops(p Peer, peer Open, local netip.Addr, link []netip.Addr) (h hops, withheld string) {
	local = local.WithZone("")
	var no []string
	if p.IPv4 && !peer.IPv4 {
		no = append(no, "IPv4: the peer does not have the family enabled")
	} else if p.IPv4 {
		h.v4 = hopIPv4(local, link, peer.ExtendedNextHop)
		if !h.v4.IsValid() {
			no = append(no, "IPv4: no next hop: the interface of "+local.String()+" has no IPv4 address, and the peer does not accept IPv6 next hops for IPv4 (RFC 8950)")
		}
	}
	if p.IPv6 && !peer.IPv6 {
		no = append(no, "IPv6: the peer does not have the family enabled")
	} else if p.IPv6 {
		h.v6 = hopIPv6(local, link)
		if !h.v6.IsValid() {
			no = append(no, "IPv6: no next hop: the interface of "+local.String()+" has no IPv6 address")
		}
	}
	return h, strings.Join(no, "; ")
}

// hopIPv4 over an IPv6 session is the session's address where the peer takes it:
// the peer reaches that in any case.
func hopIPv4(local netip.Addr, link []netip.Addr, extended bool) netip.Addr {
	if local.Is4() || extended {
		return local
	}
	return firstOf(link, netip.Addr.Is4, netip.Addr.IsGlobalUnicast)
}

func hopIPv6(local netip.Addr, link []netip.Addr) netip.Addr {
	if local.Is6() {
		return local
	}
	if global := firstOf(link, netip.Addr.Is6, netip.Addr.IsGlobalUnicast); global.IsValid() {
		return global
	}
	return firstOf(link, netip.Addr.Is6, netip.Addr.IsLinkLocalUnicast)
}

func firstOf(addrs []netip.Addr, family, scope func(netip.Addr) bool) netip.Addr {
	for _, a := range addrs {
		if family(a) && scope(a) {
			return a.WithZone("")
		}
	}
	return netip.Addr{}
}

// edit is what a change of a peer takes. A peer that is the same afterwards in
// all but its routes needs nothing.
type edit struct {
	// reset says which changes take another session now.
	reset string
	// moved: the router would not know the next session for the same one, so it
	// must not keep the routes of this one.
	moved bool
	// pending: the fields that wait for the next session.
	pending []string
}

func compare(have, want Peer) (e edit) {
	var reset []string
	for _, f := range []struct {
		name           string
		changed, moved bool
	}{
		{"address", have.Address != want.Address, true},
		{"port", have.Port != want.Port, true},
		{"passive", have.Passive != want.Passive, true},
		{"source", have.Source != want.Source, true},
		{"local ASN", have.LocalASN != want.LocalASN, true},
		{"peer ASN", have.PeerASN != want.PeerASN || have.Kind != want.Kind, true},
		{"router ID", have.RouterID != want.RouterID, true},
		{"set of families", have.IPv4 != want.IPv4 || have.IPv6 != want.IPv6, false},
		{"restart time", have.RestartTime != want.RestartTime, false},
		{"number of hops", have.Hops != want.Hops, false},
		{"TTL security", have.TTLSecurity != want.TTLSecurity, false},
		{"password", have.Password != want.Password, false},
	} {
		if f.changed {
			reset = append(reset, f.name)
			e.moved = e.moved || f.moved
		}
	}
	switch len(reset) {
	case 0:
	case 1:
		e.reset = "reset: " + reset[0] + " was changed"
	default:
		e.reset = "reset: " + strings.Join(reset, ", ") + " were changed"
	}
	if have.HoldTime != want.HoldTime {
		e.pending = append(e.pending, "holdTime")
	}
	if have.KeepaliveTime != want.KeepaliveTime {
		e.pending = append(e.pending, "keepaliveTime")
	}
	return e
}
