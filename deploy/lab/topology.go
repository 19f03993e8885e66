package lab

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The lab's addresses. The control plane is the first address of the LAN. A
// machine with an IPv4 address has its twin, too.
var (
	lanPrefix        = netip.MustParsePrefix("10.13.242.0/24")
	controlPlaneAddr = netip.MustParseAddr("10.13.242.1")
	podPrefix        = dualStack("10.244.0.0/16", "fd13:244::/32")
	svcPrefix        = dualStack("10.97.0.0/16", "fd13:97::/112")
)

// dualStack is the list of both where the kernel has both families.
func dualStack(v4, v6 string) string {
	if hasIPv6() {
		return v4 + "," + v6
	}
	return v4
}

// addresses are the host's addresses, of the families that the kernel has.
func (h *Host) addresses() []netip.Addr {
	if hasIPv6() {
		return []netip.Addr{h.Addr, h.Addr6}
	}
	return []netip.Addr{h.Addr}
}

// pairedIPv6 is the IPv6 address that goes with an IPv4 address of the lab:
// fd13:242::11 with 10.13.242.11, fd13:244:1::2 with 10.244.1.2.
func pairedIPv6(addr netip.Addr) netip.Addr {
	b := addr.As4()
	if b[1] == 244 {
		return netip.MustParseAddr(fmt.Sprintf("fd13:244:%d::%d", b[2], b[3]))
	}
	return netip.MustParseAddr(fmt.Sprintf("fd13:%d::%d", b[2], b[3]))
}

// prefix6 is the length of all IPv6 subnets.
const prefix6 = 64

// hasIPv6 reports whether the kernel does.
func hasIPv6() bool {
	_, err := os.Stat("/proc/sys/net/ipv6")
	return err == nil
}

// createLAN makes the bridge that is the LAN, in the sandbox's own namespace, which
// is also where the control plane runs.
func createLAN() (*netlink.Bridge, error) {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return nil, fmt.Errorf("make the LAN: %w", err)
	}
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "lan"}}
	for _, step := range []func() error{
		func() error { return netlink.LinkSetUp(lo) },
		func() error { return netlink.LinkAdd(bridge) },
		func() error { return addAddresses(bridge, netip.PrefixFrom(controlPlaneAddr, lanPrefix.Bits())) },
		func() error { return netlink.LinkSetUp(bridge) },
	} {
		if err := step(); err != nil {
			return nil, fmt.Errorf("make the LAN: %w", err)
		}
	}
	return bridge, nil
}

// joinLAN puts the host on the LAN: its eth0 is one end of a cable to the bridge.
func joinLAN(bridge *netlink.Bridge, h *Host, addr netip.Addr) error {
	h.Addr, h.Addr6 = addr, pairedIPv6(addr)
	if err := connectBridge(bridge, h, "eth0"); err != nil {
		return err
	}
	return h.configureLink("eth0", netip.PrefixFrom(addr, lanPrefix.Bits()), controlPlaneAddr)
}

// connectBridge connects a link of the host with the bridge.
func connectBridge(bridge *netlink.Bridge, h *Host, name string) error {
	port := fmt.Sprintf("%.3s-%.11s", bridge.Name, h.Name) // names have 15 characters at most
	cable := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: port, MasterIndex: bridge.Index},
		PeerName:  name, PeerNamespace: netlink.NsFd(h.ns),
	}
	if err := netlink.LinkAdd(cable); err != nil {
		return fmt.Errorf("cable to %s: %w", h.Name, err)
	}
	link, err := netlink.LinkByName(port)
	if err != nil {
		return fmt.Errorf("cable to %s: %w", h.Name, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("cable to %s: %w", h.Name, err)
	}
	return nil
}

// addAddresses gives a link an address and its twin, usable at once.
func addAddresses(link netlink.Link, p netip.Prefix) error {
	if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: ipNet(p)}); err != nil {
		return fmt.Errorf("address %s: %w", p, err)
	}
	if !hasIPv6() {
		return nil
	}
	p = netip.PrefixFrom(pairedIPv6(p.Addr()), prefix6)
	if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: ipNet(p), Flags: unix.IFA_F_NODAD}); err != nil {
		return fmt.Errorf("address %s: %w", p, err)
	}
	return nil
}

// configureLink gives the host's link an address and its twin, takes it up, and, if
// a gateway is named, routes everything else there.
func (h *Host) configureLink(link string, p netip.Prefix, gateway netip.Addr) error {
	return h.Do(func() error {
		l, err := netlink.LinkByName(link)
		if err != nil {
			return fmt.Errorf("host %s: %s: %w", h.Name, link, err)
		}
		if err := addAddresses(l, p); err != nil {
			return fmt.Errorf("host %s: %s: %w", h.Name, link, err)
		}
		if err := netlink.LinkSetUp(l); err != nil {
			return fmt.Errorf("host %s: %s up: %w", h.Name, link, err)
		}
		if !gateway.IsValid() {
			return nil
		}
		return setDefault(gateway)
	})
}

// setDefault makes the gateways share the packets that the thread's network has
// no other route for, and their twins those of IPv6.
func setDefault(gateways ...netip.Addr) error {
	v4 := &netlink.Route{Dst: ipNet(netip.MustParsePrefix("0.0.0.0/0"))}
	v6 := &netlink.Route{Dst: ipNet(netip.MustParsePrefix("::/0"))}
	for _, g := range gateways {
		v4.MultiPath = append(v4.MultiPath, &netlink.NexthopInfo{Gw: g.AsSlice()})
		v6.MultiPath = append(v6.MultiPath, &netlink.NexthopInfo{Gw: pairedIPv6(g).AsSlice()})
	}
	if err := netlink.RouteReplace(v4); err != nil {
		return fmt.Errorf("default route by %v: %w", gateways, err)
	}
	if !hasIPv6() {
		return nil
	}
	if err := netlink.RouteReplace(v6); err != nil {
		return fmt.Errorf("default route by the twins of %v: %w", gateways, err)
	}
	return nil
}

// addPod puts a namespace behind the node, as a container runtime would.
func addPod(node, pod *Host, addr netip.Addr) error {
	gateway := netip.PrefixFrom(addr, 24).Masked().Addr().Next()
	pod.Addr, pod.Addr6 = addr, pairedIPv6(addr)
	err := node.Do(func() error {
		return netlink.LinkAdd(&netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: "pod0"}, PeerName: "eth0", PeerNamespace: netlink.NsFd(pod.ns),
		})
	})
	if err != nil {
		return fmt.Errorf("pod %s: %w", pod.Name, err)
	}
	if err := node.configureLink("pod0", netip.PrefixFrom(gateway, 24), netip.Addr{}); err != nil {
		return err
	}
	return pod.configureLink("eth0", netip.PrefixFrom(addr, 24), gateway)
}

// routePods tells a node the way to another node's pods.
func routePods(from, to *Host, pods netip.Prefix) error {
	return from.Do(func() error {
		if err := netlink.RouteReplace(&netlink.Route{Dst: ipNet(pods), Gw: to.Addr.AsSlice()}); err != nil {
			return fmt.Errorf("route from %s to the pods of %s: %w", from.Name, to.Name, err)
		}
		if !hasIPv6() {
			return nil
		}
		pods := netip.PrefixFrom(pairedIPv6(pods.Addr()), prefix6)
		if err := netlink.RouteReplace(&netlink.Route{Dst: ipNet(pods), Gw: to.Addr6.AsSlice()}); err != nil {
			return fmt.Errorf("route from %s to the pods of %s: %w", from.Name, to.Name, err)
		}
		return nil
	})
}

// echoHandler answers like an application that says who it is and whom it sees.
func echoHandler(name string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, _ := net.SplitHostPort(r.RemoteAddr)
		fmt.Fprintf(w, "pong from %s to %s\n", name, host)
	})
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// RestoreRoutes gives a node whose link was down its routes back.
func (c *Cluster) RestoreRoutes(node int) error {
	gateways := c.gateways
	if len(gateways) == 0 {
		gateways = []netip.Addr{controlPlaneAddr}
	}
	if err := c.Nodes[node].SetGateways(gateways...); err != nil {
		return err
	}
	for j, to := range c.Nodes {
		if j != node {
			if err := routePods(c.Nodes[node], to, netip.PrefixFrom(podAddr(j), 24).Masked()); err != nil {
				return err
			}
		}
	}
	return nil
}
