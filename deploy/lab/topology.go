package lab

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// The lab's addresses. The control plane is the first address of the LAN.
var (
	lanPrefix = netip.MustParsePrefix("10.13.242.0/24")
	planeAddr = netip.MustParseAddr("10.13.242.1")
	podPrefix = "10.244.0.0/16"
	svcPrefix = "10.97.0.0/16"
)

// lan makes the bridge that is the LAN, in the sandbox's own namespace, which
// is also where the control plane runs.
func lan() (*netlink.Bridge, error) {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return nil, fmt.Errorf("make the LAN: %w", err)
	}
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "lan"}}
	address := &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(planeAddr, lanPrefix.Bits()))}
	for _, step := range []func() error{
		func() error { return netlink.LinkSetUp(lo) },
		func() error { return netlink.LinkAdd(bridge) },
		func() error { return netlink.AddrAdd(bridge, address) },
		func() error { return netlink.LinkSetUp(bridge) },
	} {
		if err := step(); err != nil {
			return nil, fmt.Errorf("make the LAN: %w", err)
		}
	}
	return bridge, nil
}

// join puts the host on the LAN: its eth0 is one end of a cable to the bridge.
func join(bridge *netlink.Bridge, h *Host, addr netip.Addr) error {
	h.Addr = addr
	port := "port-" + h.Name
	cable := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: port, MasterIndex: bridge.Index},
		PeerName:  "eth0", PeerNamespace: netlink.NsFd(h.ns),
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
	return h.configure("eth0", netip.PrefixFrom(addr, lanPrefix.Bits()), planeAddr)
}

// configure gives the host's link an address, takes it up, and, if a gateway
// is named, routes everything else there.
func (h *Host) configure(link string, p netip.Prefix, gateway netip.Addr) error {
	return h.Do(func() error {
		l, err := netlink.LinkByName(link)
		if err != nil {
			return fmt.Errorf("host %s: %s: %w", h.Name, link, err)
		}
		if err := netlink.AddrAdd(l, &netlink.Addr{IPNet: ipNet(p)}); err != nil {
			return fmt.Errorf("host %s: address %s: %w", h.Name, p, err)
		}
		if err := netlink.LinkSetUp(l); err != nil {
			return fmt.Errorf("host %s: %s up: %w", h.Name, link, err)
		}
		if !gateway.IsValid() {
			return nil
		}
		if err := netlink.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Gw: gateway.AsSlice()}); err != nil {
			return fmt.Errorf("host %s: route by %s: %w", h.Name, gateway, err)
		}
		return nil
	})
}

// addPod puts a namespace behind the node, as a container runtime would.
func addPod(node, pod *Host, addr netip.Addr) error {
	gateway := netip.PrefixFrom(addr, 24).Masked().Addr().Next()
	pod.Addr = addr
	err := node.Do(func() error {
		return netlink.LinkAdd(&netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: "pod0"}, PeerName: "eth0", PeerNamespace: netlink.NsFd(pod.ns),
		})
	})
	if err != nil {
		return fmt.Errorf("pod %s: %w", pod.Name, err)
	}
	if err := node.configure("pod0", netip.PrefixFrom(gateway, 24), netip.Addr{}); err != nil {
		return err
	}
	return pod.configure("eth0", netip.PrefixFrom(addr, 24), gateway)
}

// routePods tells a node the way to another node's pods.
func routePods(from, to *Host, pods netip.Prefix) error {
	return from.Do(func() error {
		if err := netlink.RouteAdd(&netlink.Route{Dst: ipNet(pods), Gw: to.Addr.AsSlice()}); err != nil {
			return fmt.Errorf("route from %s to the pods of %s: %w", from.Name, to.Name, err)
		}
		return nil
	})
}

// backend answers like an application that says who it is and whom it sees.
func backend(name string) http.Handler {
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
	err := c.Nodes[node].Do(func() error { return netlink.RouteAdd(&netlink.Route{Gw: planeAddr.AsSlice()}) })
	if err != nil {
		return fmt.Errorf("route from %s: %w", c.Nodes[node].Name, err)
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
