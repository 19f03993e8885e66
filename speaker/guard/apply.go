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
)

// What is ours in the kernel carries all three numbers, and only that is ever
// changed. Others use, as far as their sources and manuals tell:
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
// Just before the main table, at 32766, would be best for the rule: whoever
// routes on purpose comes first. The kernel itself gives the next smaller
// priority to rules without one, so that there must be room.
const (
	table    = 17996 // 0x464c, "FL"
	priority = 32460
	protocol = 70
)

// allTables asks for the routes of all tables.
var allTables = &netlink.Route{Table: unix.RT_TABLE_UNSPEC}

// kernel is the kernel's routing in the thread's network namespace.
type kernel struct {
	*netlink.Handle
	have    tables
	node    node
	uplinks []int // indexes of the links of default routes
}

// apply makes the kernel's tables what the state wants, and without a state
// leaves nothing.
func (g *Guard) apply(ctx context.Context, want *State) error {
	handle, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open a netlink socket: %w", err)
	}
	defer handle.Close()
	k := kernel{Handle: handle, have: tables{routes: make(map[netip.Prefix]action), rules: make(map[rule]bool)}}
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		if err := k.read(family); err != nil && !errors.Is(err, unix.EAFNOSUPPORT) {
			return err // a kernel without IPv6 has nothing of it
		}
	}
	var (
		wanted  tables
		links   []string
		unknown error
	)
	if want != nil {
		links, unknown = k.links(*want)
		wanted = decide(want.Prefixes, links, k.node)
	}
	c := diff(k.have, wanted)
	if err := errors.Join(k.change(ctx, c), unknown); err != nil {
		return err
	}
	if c.count() > 0 {
		g.log.Info("loop guard changed", "prefixes", len(wanted.routes), "links", links)
	}
	return nil
}

// read finds what there is of a family.
func (k *kernel) read(family int) error {
	rules, err := k.RuleList(family)
	if err != nil {
		return fmt.Errorf("list the routing rules: %w", err)
	}
	for _, r := range rules {
		if r.Priority == priority && r.Table == table && r.Protocol == protocol && r.IifName != "" {
			k.have.rules[rule{r.IifName, family == unix.AF_INET6}] = true
		}
	}
	err = k.RouteListFilteredIter(family, allTables, netlink.RT_FILTER_TABLE, func(r netlink.Route) bool {
		k.note(r)
		return true
	})
	if err != nil {
		return fmt.Errorf("list the routes: %w", err)
	}
	return nil
}

// note sorts a route in.
func (k *kernel) note(r netlink.Route) {
	to := netip.Prefix{} // stays so for a default route
	if r.Dst != nil {
		addr, _ := netip.AddrFromSlice(r.Dst.IP)
		bits, _ := r.Dst.Mask.Size()
		to = netip.PrefixFrom(addr, bits)
	}
	isDefault := to.Bits() <= 0
	switch {
	case r.Table == table && r.Protocol == protocol && r.Type == unix.RTN_UNREACHABLE:
		k.have.routes[to] = refuse
	case r.Table == table && r.Protocol == protocol && r.Type == unix.RTN_THROW:
		k.have.routes[to] = pass
	case r.Table != unix.RT_TABLE_MAIN:
	case isDefault:
		k.uplinks = append(k.uplinks, linksOf(r)...)
	default:
		k.node.others = append(k.node.others, to)
		if r.Type == unix.RTN_UNICAST && r.Gw == nil && r.Via == nil && len(r.MultiPath) == 0 {
			k.node.subnets = append(k.node.subnets, to)
		}
	}
}

// linksOf are the links that a route sends packets to.
func linksOf(r netlink.Route) (indexes []int) {
	if r.LinkIndex > 0 {
		indexes = append(indexes, r.LinkIndex)
	}
	for _, hop := range r.MultiPath {
		indexes = append(indexes, hop.LinkIndex)
	}
	return indexes
}

// links are the names of the links to guard, sorted. Those that are not there
// are named in the error.
func (k *kernel) links(want State) (names []string, err error) {
	indexes := slices.Clone(k.uplinks)
	named := slices.Clone(want.Interfaces)
	for _, addr := range want.Toward {
		if addr.Zone() != "" {
			named = append(named, addr.Zone())
			continue
		}
		routes, err := k.RouteGetWithOptions(addr.AsSlice(), &netlink.RouteGetOptions{FIBMatch: true})
		if err != nil {
			continue // no way there, so none back
		}
		for _, r := range routes {
			indexes = append(indexes, linksOf(r)...)
		}
	}
	for _, index := range indexes {
		link, err := k.LinkByIndex(index)
		// Rules for the loopback are about what the node itself sends: a peer
		// on the node itself sends nothing in from outside.
		if err == nil && link.Attrs().Flags&net.FlagLoopback == 0 {
			names = append(names, link.Attrs().Name)
		}
	}
	var unknown []error
	for _, name := range named {
		link, err := k.LinkByName(name)
		switch {
		case err != nil:
			unknown = append(unknown, fmt.Errorf("guard link %s: %w", name, err))
		case link.Attrs().Flags&net.FlagLoopback != 0:
			unknown = append(unknown, fmt.Errorf("guard link %s: it is the loopback", name))
		default:
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names), errors.Join(unknown...)
}

// change carries the changes out. What fails does not keep the rest from being
// tried, except where everything would fail.
func (k *kernel) change(ctx context.Context, c changes) error {
	var failures []error
	for _, step := range []func() error{
		func() error { return each(ctx, "add", c.addRoutes, with(k.RouteAdd, route.netlink)) },
		func() error { return each(ctx, "replace", c.replaceRoutes, with(k.RouteReplace, route.netlink)) },
		func() error { return each(ctx, "add", c.addRules, with(k.RuleAdd, rule.netlink)) },
		func() error { return each(ctx, "remove", c.dropRules, with(k.RuleDel, rule.netlink)) },
		func() error { return each(ctx, "remove", c.dropRoutes, with(k.RouteDel, route.netlink)) },
	} {
		err := step()
		failures = append(failures, err)
		if ctx.Err() != nil || errors.Is(err, unix.EPERM) {
			break
		}
	}
	return errors.Join(failures...)
}

func with[T, N any](do func(*N) error, convert func(T) *N) func(T) error {
	return func(t T) error { return do(convert(t)) }
}

// each does something with all of the items.
func each[T fmt.Stringer](ctx context.Context, what string, items []T, do func(T) error) error {
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

func (r route) netlink() *netlink.Route {
	kind := unix.RTN_UNREACHABLE
	if r.do == pass {
		kind = unix.RTN_THROW
	}
	return &netlink.Route{
		Dst:   &net.IPNet{IP: r.to.Addr().AsSlice(), Mask: net.CIDRMask(r.to.Bits(), r.to.Addr().BitLen())},
		Table: table, Protocol: protocol, Type: kind,
	}
}

func (r rule) netlink() *netlink.Rule {
	n := netlink.NewRule()
	n.Family, n.IifName, n.Table, n.Priority, n.Protocol = unix.AF_INET, r.link, table, priority, protocol
	if r.v6 {
		n.Family = unix.AF_INET6
	}
	return n
}
