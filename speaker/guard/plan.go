package guard

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// action is what one of the guard's routes does with a packet. Routes that are
// added in the order of the constants, and removed in the reverse order, never
// cut off for a moment what shall stay reachable.
type action uint8

const (
	pass   action = iota + 1 // leave it to the tables that come after
	refuse                   // answer with an ICMP error
)

// route is an entry of the guard's table.
type route struct {
	to netip.Prefix
	do action
}

func (r route) String() string { return "route to " + r.to.String() }

// rule makes packets of a family that arrive by a link look up the guard's table.
type rule struct {
	link string
	v6   bool
}

func (r rule) String() string { return "rule for link " + r.link }

// tables are all that is the guard's in the kernel.
type tables struct {
	routes map[netip.Prefix]action
	rules  map[rule]bool
}

// node is what the guard must know of the kernel's main table.
type node struct {
	subnets []netip.Prefix // of the node's links
	others  []netip.Prefix // all destinations but the default ones, subnets included
}

// decide says what the tables shall be to guard the prefixes on the links.
func decide(prefixes []netip.Prefix, links []string, n node) tables {
	want := tables{routes: make(map[netip.Prefix]action), rules: make(map[rule]bool)}
	for _, p := range prefixes {
		p = p.Masked()
		onInterface := slices.ContainsFunc(n.subnets, func(s netip.Prefix) bool { return covers(s, p) })
		if p.Bits() == 0 || onInterface && !p.IsSingleIP() {
			continue // without a default route or neighbours the node would be cut off itself
		}
		for _, link := range links {
			want.rules[rule{link, p.Addr().Is6()}] = true
		}
		want.routes[p] = refuse
		for _, other := range n.others {
			if p != other && covers(p, other) && want.routes[other] == 0 {
				want.routes[other] = pass // unless it is announced itself
			}
		}
	}
	return want
}

// covers reports whether all of b's addresses are in a.
func covers(a, b netip.Prefix) bool { return a.Bits() <= b.Bits() && a.Contains(b.Addr()) }

// changes lead from one state of the tables to another, in this order.
type changes struct {
	addRoutes     []route
	replaceRoutes []route // with another action
	addRules      []rule
	dropRules     []rule
	dropRoutes    []route
}

func (c changes) count() int {
	return len(c.addRoutes) + len(c.replaceRoutes) + len(c.addRules) + len(c.dropRules) + len(c.dropRoutes)
}

func diff(have, want tables) (c changes) {
	for to, do := range want.routes {
		switch have.routes[to] {
		case do:
		case 0:
			c.addRoutes = append(c.addRoutes, route{to, do})
		default:
			c.replaceRoutes = append(c.replaceRoutes, route{to, do})
		}
	}
	for to, do := range have.routes {
		if want.routes[to] == 0 {
			c.dropRoutes = append(c.dropRoutes, route{to, do})
		}
	}
	slices.SortFunc(c.addRoutes, compareRoutes)
	slices.SortFunc(c.replaceRoutes, compareRoutes)
	slices.SortFunc(c.dropRoutes, func(a, b route) int { return compareRoutes(b, a) })
	c.addRules = without(want.rules, have.rules)
	c.dropRules = without(have.rules, want.rules)
	return c
}

func compareRoutes(a, b route) int { return cmp.Or(cmp.Compare(a.do, b.do), a.to.Compare(b.to)) }

// without are the rules that are in a and not in b, sorted.
func without(a, b map[rule]bool) []rule {
	rest := slices.DeleteFunc(slices.Collect(maps.Keys(a)), func(r rule) bool { return b[r] })
	slices.SortFunc(rest, func(a, b rule) int {
		if a.link == b.link && b.v6 {
			return -1
		}
		return strings.Compare(a.link, b.link)
	})
	return rest
}
