package plan

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/speaker/bgp"
	"github.com/fairlead-io/fairlead/speaker/l2"
)

// Peering is this node's session with one peer.
type Peering struct {
	Config config.BGPPeer
	// Peer is the desired session with its routes.
	Peer bgp.Peer
	// Multihop is whether the router is not a neighbor on an interface of the
	// node. Its BFD session is then a multihop one, too.
	Multihop bool
	// Interface is the only interface with the subnet of a neighbor; "" if there are
	// several or none.
	Interface string
	// Problem, if set, is why there must be no session.
	Problem v1alpha1.Refusal
}

// newPeerings returns the node's sessions, in the order of the configuration. The
// first of two that lead to the same router is used. Parameter routes is about the
// number of routes to allocate memory for.
func newPeerings(c config.Config, node *corev1.Node, local LocalFacts, routes int) (all []Peering) {
	type end struct {
		addr    netip.AddrPort
		passive bool // a passive session is identified by the peer's address only
	}
	taken := map[end]string{}
	addrs := internalAddresses(node)
	for _, p := range c.BGPPeers {
		if !p.SelectsNode(node.Labels) {
			continue
		}
		peering := Peering{Config: p, Peer: bgp.Peer{
			Name: p.Name, Session: newSession(p, node), NodeAddresses: addrs, Routes: make(bgp.Routes, routes),
		}}
		transport, problem := newTransport(p, local)
		peering.Peer.Transport, peering.Problem = transport, problem
		peering.Multihop = !transport.Address.IsLinkLocalUnicast() &&
			(p.EBGPMultiHop || p.TTLSecurity > 1 || p.Internal() && !isOnLink(transport.Address, local.Interfaces))
		if !peering.Multihop {
			peering.Interface = interfaceOf(transport.Address, local.Interfaces)
		}
		if problem.Reason == "" {
			e := end{netip.AddrPortFrom(transport.Address, transport.Port), p.Passive}
			if other, clashes := taken[e]; clashes {
				peering.Problem = v1alpha1.Refusal{
					Reason: v1alpha1.DuplicatePeer, Message: fmt.Sprintf("older BGPPeer %q connects to %s, too", other, e.addr),
				}
			} else {
				taken[e] = p.Name
			}
		}
		all = append(all, peering)
	}
	return all
}

// isOnLink reports whether the address is in a subnet of an interface, so that there
// is no router between it and the node.
func isOnLink(addr netip.Addr, interfaces []l2.Interface) bool {
	return slices.ContainsFunc(interfaces, func(i l2.Interface) bool { return i.VRF == "" && i.Contains(addr) })
}

// isOnInterface reports whether an interface has the address.
func isOnInterface(addr netip.Addr, interfaces []l2.Interface) bool {
	return slices.ContainsFunc(interfaces, func(i l2.Interface) bool {
		return slices.ContainsFunc(i.Prefixes, func(p netip.Prefix) bool { return p.Addr() == addr })
	})
}

// interfaceOf returns the only interface that has a subnet with the address, or "".
func interfaceOf(addr netip.Addr, interfaces []l2.Interface) (name string) {
	for _, i := range interfaces {
		switch {
		case i.VRF != "" || !i.Contains(addr):
		case name != "":
			return ""
		default:
			name = i.Name
		}
	}
	return name
}

// newSession returns the parameters of the BGP OPEN message for the peer.
func newSession(p config.BGPPeer, node *corev1.Node) bgp.Session {
	s := bgp.Session{
		LocalASN: p.MyASN, PeerASN: p.PeerASN, RouterID: p.RouterID, IPv4: p.IPv4, IPv6: p.IPv6,
		HoldTime: p.HoldTime, KeepaliveTime: p.KeepaliveTime, RestartTime: p.RestartTime,
	}
	switch p.Dynamic {
	case "internal":
		s.Kind = bgp.Internal
	case "external":
		s.Kind = bgp.External
	}
	if !s.RouterID.IsValid() {
		s.RouterID = routerID(node)
	}
	return s
}

// internalAddresses returns the InternalIPs of the Node.
func internalAddresses(node *corev1.Node) (addrs []netip.Addr) {
	for _, a := range node.Status.Addresses {
		if ip, err := config.ParseAddr(a.Address); err == nil && a.Type == corev1.NodeInternalIP {
			addrs = append(addrs, ip)
		}
	}
	return addrs
}

// routerID returns the node's IPv4 address or, in a cluster without IPv4, a hash of
// its name. RFC 6286 requires only that it is unique in the AS and not 0.
func routerID(node *corev1.Node) netip.Addr {
	if addrs := internalAddresses(node); slices.ContainsFunc(addrs, netip.Addr.Is4) {
		return addrs[slices.IndexFunc(addrs, netip.Addr.Is4)]
	}
	h := fnv.New32a()
	h.Write([]byte(node.Name))
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, h.Sum32()|1)))
}

// multihopTTL is the TTL of sessions over several hops.
const multihopTTL = 255

// newTransport returns how to reach the peer, or why that is not known yet.
func newTransport(p config.BGPPeer, local LocalFacts) (bgp.Transport, v1alpha1.Refusal) {
	t := bgp.Transport{Address: p.Address, Port: p.Port, Passive: p.Passive, Source: p.Source, Hops: 1, RetryTime: p.ConnectTime}
	if vrf := vrfOf(p, local.Interfaces); vrf.VRF != "" {
		return t, v1alpha1.Refusal{
			Reason: v1alpha1.UnsupportedVRF, Message: fmt.Sprintf("the router is on interface %s of VRF %s: BGP in a VRF is not supported", vrf.Name, vrf.VRF),
		}
	}
	switch {
	case p.Interface != "":
		if t.Address = local.Routers[p.Interface]; !t.Address.IsValid() {
			return t, v1alpha1.Refusal{
				Reason:  v1alpha1.NoRouter,
				Message: fmt.Sprintf("no router found on interface %s: none has sent a router advertisement, or it no longer answers", p.Interface),
			}
		}
	case p.DefaultGateway != "":
		if t.Address = local.Gateways[p.DefaultGateway]; !t.Address.IsValid() {
			return t, v1alpha1.Refusal{Reason: v1alpha1.NoRouter, Message: fmt.Sprintf("no %s default gateway found on the node", p.DefaultGateway)}
		}
	}
	switch {
	case p.TTLSecurity > 0:
		t.Hops, t.TTLSecurity = p.TTLSecurity, true
	case p.EBGPMultiHop || p.Internal():
		t.Hops = multihopTTL
	}
	if p.PasswordSecret != "" {
		password := local.Passwords[p.PasswordSecret]
		if password == "" {
			return t, v1alpha1.Refusal{
				Reason:  v1alpha1.NoSecret,
				Message: fmt.Sprintf("Secret %q with the key \"password\" not found in Fairlead's namespace", p.PasswordSecret),
			}
		}
		t.Password = password
	}
	return t, v1alpha1.Refusal{}
}

// vrfOf returns the interface in a VRF by which alone the peer would be reached, if any.
func vrfOf(p config.BGPPeer, interfaces []l2.Interface) (vrf l2.Interface) {
	for _, i := range interfaces {
		switch {
		case i.Name != p.Interface && !i.Contains(p.Address):
		case i.VRF == "":
			return l2.Interface{}
		default:
			vrf = i
		}
	}
	return vrf
}
