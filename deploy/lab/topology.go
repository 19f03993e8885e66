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

// The addresses of the lab. The control plane has the first address of the LAN. Each
// machine has an IPv4 address and the paired IPv6 address.
var (
	lanPrefix        = netip.MustParsePrefix("10.13.242.0/24")
	controlPlaneAddr = netip.MustParseAddr("10.13.242.1")
	podPrefix        = dualStack("10.244.0.0/16", "fd13:244::/32")
	svcPrefix        = dualStack("10.97.0.0/16", "fd13:97::/112")
)

// dualStack returns both, comma-separated, if the kernel supports IPv6, otherwise v4.
func dualStack(v4, v6 string) string {
	if hasIPv6() {
		return v4 + "," + v6
	}
	return v4
}

// addresses returns the addresses of the host in the families of the kernel.
func (h *Host) addresses() []netip.Addr {
	if hasIPv6() {
		return []netip.Addr{h.Addr, h.Addr6}
	}
	return []netip.Addr{h.Addr}
}

// pairedIPv6 returns the IPv6 address paired with an IPv4 address of the lab:
// fd13:242::11 for 10.13.242.11, fd13:244:1::2 for 10.244.1.2.
func pairedIPv6(addr netip.Addr) netip.Addr {
	b := addr.As4()
	if b[1] == 244 {
		return netip.MustParseAddr(fmt.Sprintf("fd13:244:%d::%d", b[2], b[3]))
	}
	return netip.MustParseAddr(fmt.Sprintf("fd13:%d::%d", b[2], b[3]))
}

// prefix6 is the prefix length of all IPv6 subnets.
const prefix6 = 64

// hasIPv6 reports whether the kernel supports IPv6.
func hasIPv6() bool {
	_, err := os.Stat("/proc/sys/net/ipv6")
	return err == nil
}

// createLAN creates the bridge of the LAN in the network namespace of the sandbox, in
// which the control plane runs as well.
func createLAN() (*netlink.Bridge, error) {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return nil, fmt.Errorf("create the LAN: %w", err)
	}
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "lan"}}
	for _, step := range []func() error{
		func() error { return netlink.LinkSetUp(lo) },
		func() error { return netlink.LinkAdd(bridge) },
		func() error { return addAddresses(bridge, netip.PrefixFrom(controlPlaneAddr, lanPrefix.Bits())) },
		func() error { return netlink.LinkSetUp(bridge) },
	} {
		if err := step(); err != nil {
			return nil, fmt.Errorf("create the LAN: %w", err)
		}
	}
	return bridge, nil
}

// joinLAN connects the host's eth0 with the bridge of the LAN.
func joinLAN(bridge *netlink.Bridge, h *Host, addr netip.Addr) error {
	h.Addr, h.Addr6 = addr, pairedIPv6(addr)
	if err := connectBridge(bridge, h, "eth0"); err != nil {
		return err
	}
	return h.configureLink("eth0", netip.PrefixFrom(addr, lanPrefix.Bits()), controlPlaneAddr)
}

// connectBridge connects an interface of the host with the bridge.
func connectBridge(bridge *netlink.Bridge, h *Host, name string) error {
	port := portName(bridge, h)
	cable := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: port, MasterIndex: bridge.Index},
		PeerName:  name, PeerNamespace: netlink.NsFd(h.ns),
	}
	if err := netlink.LinkAdd(cable); err != nil {
		return fmt.Errorf("connect %s: %w", h.Name, err)
	}
	link, err := netlink.LinkByName(port)
	if err != nil {
		return fmt.Errorf("connect %s: %w", h.Name, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("connect %s: %w", h.Name, err)
	}
	return nil
}

// addAddresses adds an address and the paired IPv6 address to an interface, usable
// immediately.
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

// configureLink adds an address and the paired IPv6 address to an interface of the
// host, sets it up, and sets the default gateway, if there is one.
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

// setDefault sets the default gateways, and the paired IPv6 gateways, of the network
// namespace of the thread (ECMP).
func setDefault(gateways ...netip.Addr) error {
	v4 := &netlink.Route{Dst: ipNet(netip.MustParsePrefix("0.0.0.0/0"))}
	v6 := &netlink.Route{Dst: ipNet(netip.MustParsePrefix("::/0"))}
	for _, g := range gateways {
		v4.MultiPath = append(v4.MultiPath, &netlink.NexthopInfo{Gw: g.AsSlice()})
		v6.MultiPath = append(v6.MultiPath, &netlink.NexthopInfo{Gw: pairedIPv6(g).AsSlice()})
	}
	if err := netlink.RouteReplace(v4); err != nil {
		return fmt.Errorf("default route via %v: %w", gateways, err)
	}
	if !hasIPv6() {
		return nil
	}
	if err := netlink.RouteReplace(v6); err != nil {
		return fmt.Errorf("IPv6 default route via the addresses paired with %v: %w", gateways, err)
	}
	return nil
}

// addPod connects the network namespace of a pod with the node, as a CNI plugin would.
func addPod(node, pod *Host, addr netip.Addr) error {
	err := node.Do(func() error {
		return netlink.LinkAdd(&netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: "pod0"}, PeerName: "eth0", PeerNamespace: netlink.NsFd(pod.ns),
		})
	})
	if err != nil {
		return fmt.Errorf("pod %s: %w", pod.Name, err)
	}
	if err := node.configureLink("pod0", netip.PrefixFrom(podGateway(addr), podBits), netip.Addr{}); err != nil {
		return err
	}
	return pod.addPodAddresses(addr)
}

// podBits is the prefix length of the pods of a node.
const podBits = 24

// podGateway returns the address of the node in the subnet of a pod.
func podGateway(pod netip.Addr) netip.Addr {
	return netip.PrefixFrom(pod, podBits).Masked().Addr().Next()
}

// addPodAddresses sets the addresses of a pod that has none.
func (h *Host) addPodAddresses(addr netip.Addr) error {
	h.Addr, h.Addr6 = addr, pairedIPv6(addr)
	return h.configureLink("eth0", netip.PrefixFrom(addr, podBits), podGateway(addr))
}

// removePodAddresses removes the addresses of a pod, so that packets to them are lost, as those
// to a pod that does not exist any more.
func (h *Host) removePodAddresses() error {
	for _, addr := range h.addresses() {
		bits := podBits
		if addr.Is6() {
			bits = prefix6
		}
		if err := h.RemoveAddress(netip.PrefixFrom(addr, bits)); err != nil {
			return err
		}
	}
	return nil
}

// routePods adds routes from one node to the pods of another one.
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

// echoHandler responds with the name of the pod and the address of the client.
func echoHandler(name string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, _ := net.SplitHostPort(r.RemoteAddr)
		fmt.Fprintf(w, "pong from %s to %s\n", name, host)
	})
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// RestoreRoutes adds the routes of a node again, which the kernel removes while its
// link is down.
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
