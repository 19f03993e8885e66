package guard

import (
	"maps"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func TestDecide(t *testing.T) {
	lan := mainTable{
		connected:    parsePrefixes("10.1.0.0/24", "10.244.1.0/24"),
		destinations: parsePrefixes("10.1.0.0/24", "10.244.1.0/24", "10.244.2.0/24"),
	}
	for _, tt := range []struct {
		name         string
		prefix       string
		refuse, pass []netip.Prefix
	}{
		{"a host route", "203.0.113.1/32", parsePrefixes("203.0.113.1/32"), nil},
		{"a host route in a subnet", "10.1.0.9/32", parsePrefixes("10.1.0.9/32"), nil},
		{"an aggregate elsewhere", "203.0.113.0/24", parsePrefixes("203.0.113.0/24"), nil},
		{"an aggregate not masked", "203.0.113.9/24", parsePrefixes("203.0.113.0/24"), nil},
		{"an aggregate around subnets", "10.0.0.0/8", parsePrefixes("10.0.0.0/8"), lan.destinations},
		{"an aggregate around a routed prefix", "10.244.2.0/23", parsePrefixes("10.244.2.0/23"), parsePrefixes("10.244.2.0/24")},
		{"an aggregate that is routed", "10.244.2.0/24", parsePrefixes("10.244.2.0/24"), nil},
		{"an aggregate that is a subnet", "10.1.0.0/24", nil, nil},
		{"an aggregate in a subnet", "10.1.0.128/25", nil, nil},
		{"a default route", "0.0.0.0/0", nil, nil},
	} {
		want := guardTables{routes: map[netip.Prefix]routeAction{}, rules: map[interfaceRule]bool{}}
		for _, p := range tt.refuse {
			want.routes[p] = actionUnreachable
			want.rules[interfaceRule{iface: "eth0"}] = true
		}
		for _, p := range tt.pass {
			want.routes[p] = actionThrow
		}
		got := desiredTables(parsePrefixes(tt.prefix), []string{"eth0"}, lan)
		if !maps.Equal(got.routes, want.routes) || !maps.Equal(got.rules, want.rules) {
			t.Errorf("%s: %v, want %v", tt.name, got, want)
		}
	}
}

func drawPrefix(t *rapid.T) netip.Prefix {
	addr := netip.AddrFrom4([4]byte{10, rapid.Byte().Draw(t, "a") & 0xc0, rapid.Byte().Draw(t, "b") & 0xc0, 0})
	if rapid.Bool().Draw(t, "v6") {
		addr = netip.AddrFrom16([16]byte{0xfd, rapid.Byte().Draw(t, "a") & 0xc0})
	}
	return netip.PrefixFrom(addr, rapid.IntRange(0, addr.BitLen()).Draw(t, "bits")).Masked()
}

func drawTables(t *rapid.T) guardTables {
	ruleGenerator := rapid.Custom(func(t *rapid.T) interfaceRule {
		return interfaceRule{rapid.SampledFrom([]string{"eth0", "eth1", "bond0"}).Draw(t, "interface"), rapid.Bool().Draw(t, "v6")}
	})
	return guardTables{
		routes: rapid.MapOf(rapid.Custom(drawPrefix), rapid.SampledFrom([]routeAction{actionThrow, actionUnreachable})).Draw(t, "routes"),
		rules:  rapid.MapOf(ruleGenerator, rapid.Just(true)).Draw(t, "rules"),
	}
}

// TestDiffLaws checks that the changes lead from any state to any other, and that
// there are none between equal states.
func TestDiffLaws(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		observed, want := drawTables(t), drawTables(t)
		if c := diffTables(observed, observed); c.count() != 0 {
			t.Fatalf("from a state to itself: %+v", c)
		}
		c := diffTables(observed, want)
		for _, r := range c.addRoutes {
			if observed.routes[r.dst] != 0 {
				t.Fatalf("adds %v, which is there", r)
			}
			observed.routes[r.dst] = r.action
		}
		for _, r := range c.replaceRoutes {
			if observed.routes[r.dst] == 0 {
				t.Fatalf("replaces %v, which is not there", r)
			}
			observed.routes[r.dst] = r.action
		}
		for _, r := range c.addRules {
			observed.rules[r] = true
		}
		for _, r := range c.dropRules {
			delete(observed.rules, r)
		}
		for _, r := range c.dropRoutes {
			delete(observed.routes, r.dst)
		}
		if !maps.Equal(observed.routes, want.routes) || !maps.Equal(observed.rules, want.rules) {
			t.Fatalf("led to %v, want %v", observed, want)
		}
	})
}

// TestRoutesStayReachable checks that after each single change no destination of the
// node's routes is unreachable, unless it is announced itself.
func TestRoutesStayReachable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := mainTable{destinations: rapid.SliceOfN(rapid.Custom(drawPrefix), 0, 8).Draw(t, "others")}
		n.destinations = slices.DeleteFunc(n.destinations, func(p netip.Prefix) bool { return p.Bits() == 0 })
		n.connected = n.destinations[:rapid.IntRange(0, len(n.destinations)).Draw(t, "subnets")]
		draw := func(what string) []netip.Prefix {
			return rapid.SliceOfN(rapid.Custom(drawPrefix), 0, 6).Draw(t, what)
		}
		before, after := draw("before"), draw("after")
		observed := desiredTables(before, []string{"eth0"}, n)
		check := func() {
			for _, p := range n.destinations {
				announced := slices.Contains(before, p) || slices.Contains(after, p)
				if !announced && longestMatch(observed.routes, p) == actionUnreachable {
					t.Fatalf("%s is unreachable in %v", p, observed.routes)
				}
			}
		}
		c := diffTables(observed, desiredTables(after, []string{"eth0"}, n))
		for _, r := range append(c.addRoutes, c.replaceRoutes...) {
			observed.routes[r.dst] = r.action
			check()
		}
		for _, r := range c.dropRoutes {
			delete(observed.routes, r.dst)
			check()
		}
	})
}

// longestMatch returns the action of the route with the longest matching prefix.
func longestMatch(routes map[netip.Prefix]routeAction, to netip.Prefix) (do routeAction) {
	best := -1
	for p, a := range routes {
		if containsPrefix(p, to) && p.Bits() > best {
			best, do = p.Bits(), a
		}
	}
	return do
}
