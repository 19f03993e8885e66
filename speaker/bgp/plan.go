package bgp

import (
	"net/netip"
	"slices"
	"strings"
)

// nextHops has the next hop of each family, or the zero Addr.
type nextHops struct{ v4, v6 netip.Addr }

func (h nextHops) nextHopOf(prefix netip.Prefix) netip.Addr {
	if prefix.Addr().Is4() {
		return h.v4
	}
	return h.v6
}

// linkAddr is an address of an interface.
type linkAddr struct {
	netip.Addr
	unstable  bool // temporary, deprecated, or not assigned yet
	secondary bool // IPv4: not the first one of its subnet; IPv6: with a lifetime
}

// chooseNextHops returns the next hop of each family that both ends have enabled,
// and why a family of p has none. local is the session's own address, all are
// those of its interface, and last are the next hops so far.
func chooseNextHops(p Peer, peer Open, local netip.Addr, all []linkAddr, last nextHops) (h nextHops, withheld string) {
	local = local.WithZone("")
	var no []string
	if p.IPv4 && !peer.IPv4 {
		no = append(no, "IPv4: the peer does not have the family enabled")
	} else if p.IPv4 {
		h.v4 = p.nextHopIPv4(local, all, peer.ExtendedNextHop, last.v4)
		if !h.v4.IsValid() {
			no = append(no, "IPv4: no next hop: the interface of "+local.String()+
				" does not have an IPv4 address, and the peer does not accept IPv6 next hops for IPv4 (RFC 8950)")
		}
	}
	if p.IPv6 && !peer.IPv6 {
		no = append(no, "IPv6: the peer does not have the family enabled")
	} else if p.IPv6 {
		h.v6 = p.nextHopIPv6(local, all, last.v6)
		if !h.v6.IsValid() {
			no = append(no, "IPv6: no next hop: the interface of "+local.String()+" does not have an IPv6 address")
		}
	}
	return h, strings.Join(no, "; ")
}

// nextHopIPv4 returns the session's address if the peer accepts it, even an IPv6
// address, because the peer can reach it in any case.
func (p Peer) nextHopIPv4(local netip.Addr, all []linkAddr, extended bool, last netip.Addr) netip.Addr {
	if local.Is4() || extended {
		return local
	}
	return p.selectAddr(all, netip.Addr.Is4, netip.Addr.IsGlobalUnicast, last)
}

func (p Peer) nextHopIPv6(local netip.Addr, all []linkAddr, last netip.Addr) netip.Addr {
	if local.Is6() {
		return local
	}
	if global := p.selectAddr(all, netip.Addr.Is6, netip.Addr.IsGlobalUnicast, last); global.IsValid() {
		return global
	}
	return p.selectAddr(all, netip.Addr.Is6, netip.Addr.IsLinkLocalUnicast, last)
}

// selectSource returns the source of connections to a directly connected peer, or the zero
// Addr if the kernel selects it. onLink are the node's addresses in the peer's subnet, and
// last is the source of the last session, as which the router is configured with this node.
func (p Peer) selectSource(onLink []linkAddr, last netip.Addr) netip.Addr {
	family, scope := netip.Addr.Is6, netip.Addr.IsGlobalUnicast
	if p.Address.Is4() {
		family = netip.Addr.Is4
	}
	if p.Address.IsLinkLocalUnicast() {
		scope = netip.Addr.IsLinkLocalUnicast
	}
	return p.selectAddr(onLink, family, scope, last.WithZone(""))
}

// selectAddr returns the last address, which is a next hop or a source, as long as the
// interface has it: routers that do not reach another next hop, or are not configured with
// another source, would drop the routes. Otherwise it returns the first of the node's addresses that the interface has, or the
// lowest of its stable addresses. It is never one of a Service.
func (p Peer) selectAddr(all []linkAddr, family, scope func(netip.Addr) bool, last netip.Addr) (best netip.Addr) {
	rank := func(a linkAddr) int {
		node := slices.Index(p.NodeAddresses, a.Addr)
		switch {
		case a.Addr == last:
			return 0
		case a.unstable:
			return -1
		case node >= 0:
			return 1 + node
		case !a.secondary:
			return 1 + len(p.NodeAddresses)
		}
		return 2 + len(p.NodeAddresses)
	}
	bestRank := -1
	for _, a := range all {
		a.Addr = a.WithZone("")
		r := rank(a)
		if !family(a.Addr) || !scope(a.Addr) || slices.Contains(p.ServiceAddresses, a.Addr) || r < 0 {
			continue
		}
		if bestRank < 0 || r < bestRank || r == bestRank && a.Less(best) {
			best, bestRank = a.Addr, r
		}
	}
	return best
}

// peerChange describes how a change of a Peer is applied. Changes of Routes and
// RetryTime require neither a reset nor a new session.
type peerChange struct {
	// reset names the changes that require a new session now.
	reset string
	// newIdentity: the router would not recognize the next session as the same
	// speaker's, so that it must not preserve the routes of this one.
	newIdentity bool
	// pending are the fields that wait for the next session.
	pending []string
}

func comparePeers(applied, desired Peer) (c peerChange) {
	var reset []string
	for _, f := range []struct {
		name                 string
		changed, newIdentity bool
	}{
		{"address", applied.Address != desired.Address, true},
		{"port", applied.Port != desired.Port, true},
		{"passive", applied.Passive != desired.Passive, true},
		{"source", applied.Source != desired.Source, true},
		{"local ASN", applied.LocalASN != desired.LocalASN, true},
		{"peer ASN", applied.PeerASN != desired.PeerASN || applied.Kind != desired.Kind, true},
		{"router ID", applied.RouterID != desired.RouterID, true},
		{"set of families", applied.IPv4 != desired.IPv4 || applied.IPv6 != desired.IPv6, false},
		{"restart time", applied.RestartTime != desired.RestartTime, false},
		{"number of hops", applied.Hops != desired.Hops, false},
		{"TTL security", applied.TTLSecurity != desired.TTLSecurity, false},
		{"password", applied.Password != desired.Password, false},
	} {
		if f.changed {
			reset = append(reset, f.name)
			c.newIdentity = c.newIdentity || f.newIdentity
		}
	}
	switch len(reset) {
	case 0:
	case 1:
		c.reset = "reset: " + reset[0] + " was changed"
	default:
		c.reset = "reset: " + strings.Join(reset, ", ") + " were changed"
	}
	if applied.HoldTime != desired.HoldTime {
		c.pending = append(c.pending, "holdTime")
	}
	if applied.KeepaliveTime != desired.KeepaliveTime {
		c.pending = append(c.pending, "keepaliveTime")
	}
	return c
}
