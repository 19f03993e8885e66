package l2

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/fairlead-io/fairlead/speaker/internal/netlinkdump"
)

// Interface is an Ethernet interface that is up and running.
type Interface struct {
	Name     string
	Prefixes []netip.Prefix // addresses with their prefix lengths, without link-local ones; sorted
	MAC      string         // as net.HardwareAddr formats it
	// KernelAnswers is whether the kernel answers ARP requests on the interface for the
	// IPv4 addresses of Services: kube-proxy in IPVS mode assigns them to an interface,
	// and arp_ignore permits answers for the addresses of other interfaces.
	KernelAnswers bool
	// Answered are the addresses of all interfaces of the node for which the kernel answers
	// ARP requests or Neighbor Solicitations on this one, except those that kube-proxy in IPVS
	// mode assigns; sorted. Only interfaces of the own node have them.
	Answered []LocalAddress
	// VRF is the name of the VRF device that the interface is a port of, "" if it is in none.
	// Nothing is announced on it: the kernel would look up the packets in another table.
	VRF string
}

// LocalAddress is an address of an interface of the node, link-local ones excepted.
type LocalAddress struct {
	netip.Prefix        // the address with its prefix length
	Interface    string // that has the address
	vrf          string // of the interface, or its own name if it is a VRF device
	isHostScope  bool
}

func (a LocalAddress) compare(b LocalAddress) int {
	return cmp.Or(a.Prefix.Compare(b.Prefix), strings.Compare(a.Interface, b.Interface))
}

// Contains reports whether the address is in one of the interface's subnets.
func (i Interface) Contains(addr netip.Addr) bool {
	return slices.ContainsFunc(i.Prefixes, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// Interfaces returns the usable interfaces of the node, sorted by name: not the loopback
// interface, tunnels, members of a bridge or bond, which are reached through it, or
// interfaces that lead to pods.
func Interfaces() ([]Interface, error) {
	all, err := netlinkdump.Repeat(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	addrs, err := netlinkdump.Repeat(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list addresses of interfaces: %w", err)
	}
	ipvs := slices.ContainsFunc(all, func(l netlink.Link) bool { return l.Attrs().Name == ipvsInterface })
	local := localAddresses(all, addrs)
	ignoreOnAll := readARPIgnore("all")
	var interfaces []Interface
	for _, l := range all {
		vrf := vrfOf(l, all)
		if !isUsable(l, vrf) {
			continue
		}
		a := l.Attrs()
		iface := Interface{Name: a.Name, MAC: a.HardwareAddr.String(), Prefixes: prefixesOf(a.Index, addrs), VRF: vrf}
		hasSubnet := slices.ContainsFunc(iface.Prefixes, func(p netip.Prefix) bool { return !p.IsSingleIP() })
		if !hasSubnet && slices.Contains(podKinds, l.Type()) {
			continue
		}
		ignore := max(ignoreOnAll, readARPIgnore(a.Name))
		for _, addr := range local {
			if kernelAnswers(iface, ignore, addr) {
				iface.Answered = append(iface.Answered, addr)
			}
		}
		iface.KernelAnswers = ipvs && kernelAnswers(iface, ignore, LocalAddress{Prefix: anyIPv4, Interface: ipvsInterface})
		interfaces = append(interfaces, iface)
	}
	slices.SortFunc(interfaces, func(a, b Interface) int { return strings.Compare(a.Name, b.Name) })
	return interfaces, nil
}

// tunnelKinds are the kinds of interfaces (IFLA_INFO_KIND) that look like Ethernet but lead
// through a tunnel, for example to the pods of other nodes.
var tunnelKinds = []string{"vxlan", "geneve", "gretap", "ip6gretap", "erspan", "ip6erspan", "amt"}

// podKinds are the kinds of interfaces that lead to pods, unless they have a subnet as the
// interface of a node that is itself a container.
var podKinds = []string{"veth", "netkit"}

// isUsable reports whether addresses can be announced on an interface, apart from podKinds:
// it is up, and a segment is behind it. The members of a bridge or bond are not usable
// themselves. The ports of a VRF count, so that it can be reported that they are not used.
func isUsable(l netlink.Link, vrf string) bool {
	a := l.Attrs()
	return len(a.HardwareAddr) == 6 && a.Flags&net.FlagLoopback == 0 && a.RawFlags&unix.IFF_NOARP == 0 &&
		a.Flags&net.FlagUp != 0 && a.RawFlags&unix.IFF_LOWER_UP != 0 && (a.MasterIndex == 0 || vrf != "") &&
		!slices.Contains(tunnelKinds, l.Type())
}

// vrfOf returns the name of the VRF device that is the master of the interface, "" if there is
// none.
func vrfOf(l netlink.Link, all []netlink.Link) string {
	i := slices.IndexFunc(all, func(master netlink.Link) bool { return master.Attrs().Index == l.Attrs().MasterIndex })
	if i < 0 || all[i].Type() != "vrf" {
		return ""
	}
	return all[i].Attrs().Name
}

// prefixesOf returns the addresses of the interface with the index, sorted. Temporary ones (RFC
// 8981), which are replaced each day, are left out if there is another one in the subnet.
func prefixesOf(index int, addrs []netlink.Addr) (prefixes []netip.Prefix) {
	var temporary []netip.Prefix
	for _, addr := range addrs {
		ip, ok := netip.AddrFromSlice(addr.IP)
		ones, _ := addr.Mask.Size()
		prefix := netip.PrefixFrom(ip.Unmap(), ones)
		switch {
		case addr.LinkIndex != index || !ok || prefix.Addr().IsLinkLocalUnicast():
		case prefix.Addr().Is6() && addr.Flags&unix.IFA_F_TEMPORARY != 0:
			temporary = append(temporary, prefix)
		default:
			prefixes = append(prefixes, prefix)
		}
	}
	for _, prefix := range temporary {
		if !slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Masked() == prefix.Masked() }) {
			prefixes = append(prefixes, prefix)
		}
	}
	slices.SortFunc(prefixes, netip.Prefix.Compare)
	return prefixes
}

// ipvsInterface is the interface to which kube-proxy in IPVS mode assigns the addresses of
// Services.
const ipvsInterface = "kube-ipvs0"

// anyIPv4 stands for the address of any Service.
var anyIPv4 = netip.PrefixFrom(netip.IPv4Unspecified(), 32)

// localAddresses returns the addresses of all interfaces, sorted: not loopback and link-local
// ones, those of ipvsInterface, and IPv6 addresses whose duplicate address detection has not
// succeeded, for which the kernel does not answer.
func localAddresses(all []netlink.Link, addrs []netlink.Addr) (local []LocalAddress) {
	byIndex := make(map[int]LocalAddress, len(all)) // without the address
	for _, l := range all {
		a := LocalAddress{Interface: l.Attrs().Name, vrf: vrfOf(l, all)}
		if l.Type() == "vrf" {
			a.vrf = a.Interface
		}
		byIndex[l.Attrs().Index] = a
	}
	for _, addr := range addrs {
		a, known := byIndex[addr.LinkIndex]
		ip, ok := netip.AddrFromSlice(addr.IP)
		ip = ip.Unmap()
		isTentative := addr.Flags&unix.IFA_F_TENTATIVE != 0 && addr.Flags&unix.IFA_F_OPTIMISTIC == 0
		if !known || a.Interface == ipvsInterface || !ok || ip.IsLoopback() || ip.IsLinkLocalUnicast() || isTentative {
			continue
		}
		ones, _ := addr.Mask.Size()
		a.Prefix, a.isHostScope = netip.PrefixFrom(ip, ones), addr.Scope == unix.RT_SCOPE_HOST
		local = append(local, a)
	}
	slices.SortFunc(local, LocalAddress.compare)
	return local
}

// arpIgnoreAll is the value of arp_ignore with which the kernel answers no ARP request.
const arpIgnoreAll = 8

// readARPIgnore returns the sysctl arp_ignore of an interface. The larger one of this and that
// of "all" applies.
func readARPIgnore(iface string) int {
	text, err := os.ReadFile("/proc/sys/net/ipv4/conf/" + iface + "/arp_ignore")
	if err != nil {
		return arpIgnoreAll // the interface is gone, or IPv4 is not enabled
	}
	value, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return arpIgnoreAll
	}
	return value
}

// kernelAnswers reports whether the kernel answers on the interface for the address: for
// IPv6 if the interface itself has the address, for IPv4 depending on the effective arp_ignore
// (Documentation/networking/ip-sysctl.rst). Values that are not defined there have the effect
// of 0. The kernel answers for an IPv4 address also while the interface that has it is down.
func kernelAnswers(i Interface, arpIgnore int, a LocalAddress) bool {
	has := a.Interface == i.Name
	switch {
	case a.vrf != i.VRF: // another routing table has the address
		return false
	case a.Addr().Is6():
		return has
	}
	switch arpIgnore {
	case 1:
		return has
	case 2: // and the sender, as the other hosts of the segment, is in the subnet
		return has && slices.ContainsFunc(i.Prefixes, func(p netip.Prefix) bool { return !p.IsSingleIP() && p.Contains(a.Addr()) })
	case 3:
		return !a.isHostScope
	case arpIgnoreAll:
		return false
	}
	return true
}

// rewatchDelay is the wait before a failed watch is restarted.
const rewatchDelay = time.Second

// WatchInterfaces calls changed whenever an interface or an address of an interface
// changes, until ctx ends. It restarts a watch that fails, for example because the
// socket's buffer is full, and calls changed for the events that were missed.
func WatchInterfaces(ctx context.Context, log *slog.Logger, changed func()) {
	for ctx.Err() == nil {
		if err := watchOnce(ctx, changed); err != nil && ctx.Err() == nil {
			log.Warn("watch of interfaces failed, restarting", "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(rewatchDelay):
				changed()
			}
		}
	}
}

// watchOnce watches until ctx ends or a subscription fails.
func watchOnce(ctx context.Context, changed func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	interfaces, addrs := make(chan netlink.LinkUpdate, 16), make(chan netlink.AddrUpdate, 16)
	lost := make(chan error, 2)
	onError := func(err error) {
		select {
		case lost <- err:
		default:
		}
	}
	if err := netlink.LinkSubscribeWithOptions(interfaces, ctx.Done(), netlink.LinkSubscribeOptions{ErrorCallback: onError}); err != nil {
		return fmt.Errorf("subscribe to interfaces: %w", err)
	}
	// A subscription that is ending may block on its channel until it is read.
	defer func() { go drainChannel(interfaces) }()
	if err := netlink.AddrSubscribeWithOptions(addrs, ctx.Done(), netlink.AddrSubscribeOptions{ErrorCallback: onError}); err != nil {
		return fmt.Errorf("subscribe to addresses: %w", err)
	}
	defer func() { go drainChannel(addrs) }()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-lost:
			return err
		case _, open := <-interfaces:
			if !open {
				return errors.New("the subscription to interfaces ended")
			}
		case _, open := <-addrs:
			if !open {
				return errors.New("the subscription to addresses ended")
			}
		}
		changed()
	}
}

func drainChannel[T any](c <-chan T) {
	for range c {
	}
}
