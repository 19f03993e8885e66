package guard

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// routeAction is what one of the guard's routes does with a packet. Routes are added
// in the order of the constants, and removed in the reverse order, so that what must
// stay reachable is never unreachable for a moment.
type routeAction uint8

const (
	actionThrow       routeAction = iota + 1 // continue with the next rule's table
	actionUnreachable                        // reply with an ICMP error
)

// tableRoute is an entry of the guard's table.
type tableRoute struct {
	dst    netip.Prefix
	action routeAction
}

func (r tableRoute) String() string { return "route to " + r.dst.String() }

// interfaceRule is the rule that packets of a family that arrive on an interface look
// up the guard's table.
type interfaceRule struct {
	iface string
	v6    bool
}

func (r interfaceRule) String() string { return "rule for interface " + r.iface }

// guardTables are all routes and rules of the guard in the kernel.
type guardTables struct {
	routes map[netip.Prefix]routeAction
	rules  map[interfaceRule]bool
}

// mainTable is the part of the kernel's main table that the guard depends on.
type mainTable struct {
	connected    []netip.Prefix // subnets of the node's interfaces
	destinations []netip.Prefix // of all routes except default ones, connected included
}

// desiredTables returns the tables that guard the prefixes on the interfaces.
func desiredTables(prefixes []netip.Prefix, interfaces []string, n mainTable) guardTables {
	desired := guardTables{routes: make(map[netip.Prefix]routeAction), rules: make(map[interfaceRule]bool)}
	for _, p := range prefixes {
		p = p.Masked()
		onLink := slices.ContainsFunc(n.connected, func(s netip.Prefix) bool { return containsPrefix(s, p) })
		if p.Bits() == 0 || onLink && !p.IsSingleIP() {
			continue // the node itself needs its default route and its neighbors
		}
		for _, iface := range interfaces {
			desired.rules[interfaceRule{iface, p.Addr().Is6()}] = true
		}
		desired.routes[p] = actionUnreachable
		for _, other := range n.destinations {
			if p != other && containsPrefix(p, other) && desired.routes[other] == 0 {
				desired.routes[other] = actionThrow // unless it is announced itself
			}
		}
	}
	return desired
}

// containsPrefix reports whether all of b's addresses are in a.
func containsPrefix(a, b netip.Prefix) bool { return a.Bits() <= b.Bits() && a.Contains(b.Addr()) }

// tableChanges are the changes from one state of the tables to another, in the order
// in which they must be made.
type tableChanges struct {
	addRoutes     []tableRoute
	replaceRoutes []tableRoute // with another action
	addRules      []interfaceRule
	dropRules     []interfaceRule
	dropRoutes    []tableRoute
}

// count returns the number of changes.
func (c tableChanges) count() int {
	return len(c.addRoutes) + len(c.replaceRoutes) + len(c.addRules) + len(c.dropRules) + len(c.dropRoutes)
}

// diffTables returns the changes from the observed tables to the desired ones.
func diffTables(observed, desired guardTables) (c tableChanges) {
	for to, do := range desired.routes {
		switch observed.routes[to] {
		case do:
		case 0:
			c.addRoutes = append(c.addRoutes, tableRoute{to, do})
		default:
			c.replaceRoutes = append(c.replaceRoutes, tableRoute{to, do})
		}
	}
	for to, do := range observed.routes {
		if desired.routes[to] == 0 {
			c.dropRoutes = append(c.dropRoutes, tableRoute{to, do})
		}
	}
	slices.SortFunc(c.addRoutes, compareRoutes)
	slices.SortFunc(c.replaceRoutes, compareRoutes)
	slices.SortFunc(c.dropRoutes, func(a, b tableRoute) int { return compareRoutes(b, a) })
	c.addRules = missingRules(desired.rules, observed.rules)
	c.dropRules = missingRules(observed.rules, desired.rules)
	return c
}

func compareRoutes(a, b tableRoute) int {
	return cmp.Or(cmp.Compare(a.action, b.action), a.dst.Compare(b.dst))
}

// missingRules returns the rules that are in a and not in b, sorted.
func missingRules(a, b map[interfaceRule]bool) []interfaceRule {
	rest := slices.DeleteFunc(slices.Collect(maps.Keys(a)), func(r interfaceRule) bool { return b[r] })
	slices.SortFunc(rest, func(a, b interfaceRule) int {
		if a.iface == b.iface && b.v6 {
			return -1
		}
		return strings.Compare(a.iface, b.iface)
	})
	return rest
}
