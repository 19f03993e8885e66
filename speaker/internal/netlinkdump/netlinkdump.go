// Package netlinkdump reads the tables of the kernel by netlink. It repeats dumps that the
// kernel has interrupted, and keeps nothing in memory.
package netlinkdump

import (
	"errors"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// maxAttempts bounds the attempts for one dump, so that a caller does not wait forever
// while the kernel's tables change all the time.
const maxAttempts = 5

// Repeat calls dump until it is not interrupted, at most five times, and returns the
// last result and error. The kernel sets NLM_F_DUMP_INTR in a dump of a table that
// changed meanwhile: entries may be missing or duplicate. Each call of dump must
// therefore return a result of its own.
func Repeat[T any](dump func() (T, error)) (result T, err error) {
	for range maxAttempts {
		if result, err = dump(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return result, err
}

// Address is an address of an interface.
type Address struct {
	netip.Addr
	LinkIndex int
	Flags     int // IFA_F_… of linux/if_addr.h
}

// Addresses returns the addresses of all interfaces in the network namespace of the calling
// thread, IPv4 and IPv6.
func Addresses() (addrs []Address, err error) {
	all, err := Repeat(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, err
	}
	for _, a := range all {
		if addr, ok := netip.AddrFromSlice(a.IP); ok {
			addrs = append(addrs, Address{addr.Unmap(), a.LinkIndex, a.Flags})
		}
	}
	return addrs, nil
}

// OnLinkSubnet returns the subnet of the route to an address, and the interface of the route,
// if no router is between the address and this host. linkIndex, unless it is 0, is the
// interface by which the address is reached.
func OnLinkSubnet(addr netip.Addr, linkIndex int) (subnet netip.Prefix, onLink int, ok bool) {
	routes, err := netlink.RouteGetWithOptions(addr.AsSlice(), &netlink.RouteGetOptions{OifIndex: linkIndex, FIBMatch: true})
	if err != nil || len(routes) != 1 {
		return netip.Prefix{}, 0, false
	}
	r := routes[0]
	if r.Type != unix.RTN_UNICAST || r.Gw != nil || r.Via != nil || len(r.MultiPath) > 0 || r.LinkIndex == 0 {
		return netip.Prefix{}, 0, false
	}
	subnet = netip.PrefixFrom(addr.WithZone(""), 0).Masked() // of a default route without a gateway
	if r.Dst != nil {
		ip, valid := netip.AddrFromSlice(r.Dst.IP)
		bits, _ := r.Dst.Mask.Size()
		if subnet = netip.PrefixFrom(ip.Unmap(), bits); !valid || !subnet.IsValid() {
			return netip.Prefix{}, 0, false
		}
	}
	return subnet, r.LinkIndex, true
}
