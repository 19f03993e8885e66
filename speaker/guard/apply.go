package guard

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/fairlead-io/fairlead/speaker/internal/netlinkdump"
)

// All routes and rules of the guard have all three numbers, and no others are ever
// changed. According to their sources and manuals, other programs use:
//
//	            tables                            priorities of rules     protocol
//	Calico      1-250 (to be configured)          99-101                  80
//	Cilium      10 and up, 200-202, 2004, 2005    1-20, 100-112           2
//	kube-vip    198                               -                       248
//	kube-router 77-79                             32764, 32765            17
//	Tailscale   52                                5210-5270               -
//	AWS VPC CNI 2 and up                          512, 1024, 1536         -
//	WireGuard   51820                             32764, 32765            -
//
// The rule must follow the rules of all other programs and precede the main table's,
// at 32766. It leaves room below that, because the kernel gives a rule without a
// priority the next smaller one.
const (
	tableID      = 17996 // 0x464c, "FL"
	rulePriority = 32460
	protocolID   = 70
)

// allTables is the filter for the routes of all tables.
var allTables = &netlink.Route{Table: unix.RT_TABLE_UNSPEC}

// kernelState is the kernel's routing in the thread's network namespace.
type kernelState struct {
	*netlink.Handle
	observed          guardTables
	main              mainTable
	defaultInterfaces []int // their indexes, by the default routes
}

// apply changes the kernel's tables to the desired state; nil removes everything.
func (g *Guard) apply(ctx context.Context, desired *State) error {
	handle, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink socket: %w", err)
	}
	defer handle.Close()
	k, err := netlinkdump.Repeat(func() (*kernelState, error) { return readKernelState(handle) })
	if err != nil {
		return err
	}
	var (
		want       guardTables
		interfaces []string
		unknown    error
	)
	if desired != nil {
		interfaces, unknown = k.guardedInterfaces(*desired)
		want = desiredTables(desired.Prefixes, interfaces, k.main)
	}
	c := diffTables(k.observed, want)
	if err := errors.Join(k.applyChanges(ctx, c), unknown); err != nil {
		return err
	}
	if c.count() > 0 {
		g.log.Info("loop guard changed", "prefixes", len(want.routes), "interfaces", interfaces)
	}
	return nil
}

// readKernelState reads the rules and routes of both families.
func readKernelState(handle *netlink.Handle) (*kernelState, error) {
	k := &kernelState{
		Handle:   handle,
		observed: guardTables{routes: make(map[netip.Prefix]routeAction), rules: make(map[interfaceRule]bool)},
	}
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		// EAFNOSUPPORT: a kernel without IPv6 has neither routes nor rules for it.
		if err := k.readFamily(family); err != nil && !errors.Is(err, unix.EAFNOSUPPORT) {
			return nil, err
		}
	}
	return k, nil
}

// readFamily reads the rules and routes of a family.
func (k *kernelState) readFamily(family int) error {
	rules, err := k.RuleList(family)
	if err != nil {
		return fmt.Errorf("list routing rules: %w", err)
	}
	for _, r := range rules {
		if r.Priority == rulePriority && r.Table == tableID && r.Protocol == protocolID && r.IifName != "" {
			k.observed.rules[interfaceRule{r.IifName, family == unix.AF_INET6}] = true
		}
	}
	err = k.RouteListFilteredIter(family, allTables, netlink.RT_FILTER_TABLE, func(r netlink.Route) bool {
		k.addRoute(r)
		return true
	})
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	return nil
}

// addRoute adds a route that was read to where it belongs.
func (k *kernelState) addRoute(r netlink.Route) {
	to := netip.Prefix{} // stays so for a default route
	if r.Dst != nil {
		addr, _ := netip.AddrFromSlice(r.Dst.IP)
		bits, _ := r.Dst.Mask.Size()
		to = netip.PrefixFrom(addr, bits)
	}
	isDefault := to.Bits() <= 0
	switch {
	case r.Table == tableID && r.Protocol == protocolID && r.Type == unix.RTN_UNREACHABLE:
		k.observed.routes[to] = actionUnreachable
	case r.Table == tableID && r.Protocol == protocolID && r.Type == unix.RTN_THROW:
		k.observed.routes[to] = actionThrow
	case r.Table != unix.RT_TABLE_MAIN:
	case isDefault:
		k.defaultInterfaces = append(k.defaultInterfaces, routeInterfaces(r)...)
	default:
		k.main.destinations = append(k.main.destinations, to)
		if r.Type == unix.RTN_UNICAST && r.Gw == nil && r.Via == nil && len(r.MultiPath) == 0 {
			k.main.connected = append(k.main.connected, to)
		}
	}
}

// routeInterfaces returns the indexes of the interfaces that a route uses.
func routeInterfaces(r netlink.Route) (indexes []int) {
	if r.LinkIndex > 0 {
		indexes = append(indexes, r.LinkIndex)
	}
	for _, hop := range r.MultiPath {
		indexes = append(indexes, hop.LinkIndex)
	}
	return indexes
}

// guardedInterfaces returns the names of the interfaces to guard, sorted. The error
// names those that do not exist.
func (k *kernelState) guardedInterfaces(want State) (names []string, err error) {
	indexes := slices.Clone(k.defaultInterfaces)
	named := slices.Clone(want.Interfaces)
	for _, addr := range want.Peers {
		if addr.Zone() != "" {
			named = append(named, addr.Zone())
			continue
		}
		routes, err := k.RouteGetWithOptions(addr.AsSlice(), &netlink.RouteGetOptions{FIBMatch: true})
		if err != nil {
			continue // without a route to the peer, no packets arrive from it
		}
		for _, r := range routes {
			indexes = append(indexes, routeInterfaces(r)...)
		}
	}
	for _, index := range indexes {
		link, err := k.LinkByIndex(index)
		// A rule for the loopback would affect what the node itself sends. A peer
		// on the node itself does not send packets from outside.
		if err == nil && link.Attrs().Flags&net.FlagLoopback == 0 {
			names = append(names, link.Attrs().Name)
		}
	}
	var unknown []error
	for _, name := range named {
		link, err := k.LinkByName(name)
		switch {
		case err != nil:
			unknown = append(unknown, fmt.Errorf("guard interface %s: %w", name, err))
		case link.Attrs().Flags&net.FlagLoopback != 0:
			unknown = append(unknown, fmt.Errorf("guard interface %s: must not be the loopback", name))
		default:
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names), errors.Join(unknown...)
}

// applyChanges makes the changes. A failed change does not prevent the others, except
// that it stops when the permission is missing or ctx has ended.
func (k *kernelState) applyChanges(ctx context.Context, c tableChanges) error {
	var failures []error
	for _, step := range []func() error{
		func() error { return applyEach(ctx, "add", c.addRoutes, convertAnd(k.RouteAdd, tableRoute.toNetlink)) },
		func() error {
			return applyEach(ctx, "replace", c.replaceRoutes, convertAnd(k.RouteReplace, tableRoute.toNetlink))
		},
		func() error { return applyEach(ctx, "add", c.addRules, convertAnd(k.RuleAdd, interfaceRule.toNetlink)) },
		func() error {
			return applyEach(ctx, "remove", c.dropRules, convertAnd(k.RuleDel, interfaceRule.toNetlink))
		},
		func() error {
			return applyEach(ctx, "remove", c.dropRoutes, convertAnd(k.RouteDel, tableRoute.toNetlink))
		},
	} {
		err := step()
		failures = append(failures, err)
		if ctx.Err() != nil || errors.Is(err, unix.EPERM) {
			break
		}
	}
	return errors.Join(failures...)
}

// convertAnd returns a function that converts its argument and calls do.
func convertAnd[T, N any](do func(*N) error, convert func(T) *N) func(T) error {
	return func(t T) error { return do(convert(t)) }
}

// applyEach calls do for all items and joins the errors.
func applyEach[T fmt.Stringer](ctx context.Context, what string, items []T, do func(T) error) error {
	var failures []error
	for _, item := range items {
		err := do(item)
		switch {
		case ctx.Err() != nil:
			return errors.Join(append(failures, ctx.Err())...)
		case errors.Is(err, unix.EPERM):
			return fmt.Errorf("%s %s (needs CAP_NET_ADMIN): %w", what, item, err)
		case err != nil:
			failures = append(failures, fmt.Errorf("%s %s: %w", what, item, err))
		}
	}
	return errors.Join(failures...)
}

func (r tableRoute) toNetlink() *netlink.Route {
	kind := unix.RTN_UNREACHABLE
	if r.action == actionThrow {
		kind = unix.RTN_THROW
	}
	return &netlink.Route{
		Dst:   &net.IPNet{IP: r.dst.Addr().AsSlice(), Mask: net.CIDRMask(r.dst.Bits(), r.dst.Addr().BitLen())},
		Table: tableID, Protocol: protocolID, Type: kind,
	}
}

func (r interfaceRule) toNetlink() *netlink.Rule {
	n := netlink.NewRule()
	n.Family, n.IifName, n.Table, n.Priority, n.Protocol = unix.AF_INET, r.iface, tableID, rulePriority, protocolID
	if r.v6 {
		n.Family = unix.AF_INET6
	}
	return n
}
