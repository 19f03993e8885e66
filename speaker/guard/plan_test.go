package guard

import (
	"maps"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func TestDecide(t *testing.T) {
	lan := node{subnets: prefixes("10.1.0.0/24", "10.244.1.0/24"), others: prefixes("10.1.0.0/24", "10.244.1.0/24", "10.244.2.0/24")}
	for _, tt := range []struct {
		name         string
		prefix       string
		refuse, pass []netip.Prefix
	}{
		{"a host route", "203.0.113.1/32", prefixes("203.0.113.1/32"), nil},
		{"a host route in a subnet", "10.1.0.9/32", prefixes("10.1.0.9/32"), nil},
		{"an aggregate elsewhere", "203.0.113.0/24", prefixes("203.0.113.0/24"), nil},
		{"an aggregate not masked", "203.0.113.9/24", prefixes("203.0.113.0/24"), nil},
		{"an aggregate around subnets", "10.0.0.0/8", prefixes("10.0.0.0/8"), lan.others},
		{"an aggregate around a routed prefix", "10.244.2.0/23", prefixes("10.244.2.0/23"), prefixes("10.244.2.0/24")},
		{"an aggregate that is routed", "10.244.2.0/24", prefixes("10.244.2.0/24"), nil},
		{"an aggregate that is a subnet", "10.1.0.0/24", nil, nil},
		{"an aggregate in a subnet", "10.1.0.128/25", nil, nil},
		{"everything", "0.0.0.0/0", nil, nil},
	} {
		want := tables{routes: map[netip.Prefix]action{}, rules: map[rule]bool{}}
		for _, p := range tt.refuse {
			want.routes[p] = refuse
			want.rules[rule{link: "eth0"}] = true
		}
		for _, p := range tt.pass {
			want.routes[p] = pass
		}
		got := decide(prefixes(tt.prefix), []string{"eth0"}, lan)
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

func drawTables(t *rapid.T) tables {
	drawRule := rapid.Custom(func(t *rapid.T) rule {
		return rule{rapid.SampledFrom([]string{"eth0", "eth1", "bond0"}).Draw(t, "link"), rapid.Bool().Draw(t, "v6")}
	})
	return tables{
		routes: rapid.MapOf(rapid.Custom(drawPrefix), rapid.SampledFrom([]action{pass, refuse})).Draw(t, "routes"),
		rules:  rapid.MapOf(drawRule, rapid.Just(true)).Draw(t, "rules"),
	}
}

// TestDiffLaws: the changes lead where they should, whatever was there, and
// where nothing is to be changed there are none.
func TestDiffLaws(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		have, want := drawTables(t), drawTables(t)
		if c := diff(have, have); c.count() != 0 {
			t.Fatalf("from a state to itself: %+v", c)
		}
		c := diff(have, want)
		for _, r := range c.addRoutes {
			if have.routes[r.to] != 0 {
				t.Fatalf("adds %v, which is there", r)
			}
			have.routes[r.to] = r.do
		}
		for _, r := range c.replaceRoutes {
			if have.routes[r.to] == 0 {
				t.Fatalf("replaces %v, which is not there", r)
			}
			have.routes[r.to] = r.do
		}
		for _, r := range c.addRules {
			have.rules[r] = true
		}
		for _, r := range c.dropRules {
			delete(have.rules, r)
		}
		for _, r := range c.dropRoutes {
			delete(have.routes, r.to)
		}
		if !maps.Equal(have.routes, want.routes) || !maps.Equal(have.rules, want.rules) {
			t.Fatalf("led to %v, want %v", have, want)
		}
	})
}

// TestRoutesAreNeverCutOff: after each single change, nothing is refused that the
// node has a route to, unless it is announced itself.
func TestRoutesAreNeverCutOff(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := node{others: rapid.SliceOfN(rapid.Custom(drawPrefix), 0, 8).Draw(t, "others")}
		n.others = slices.DeleteFunc(n.others, func(p netip.Prefix) bool { return p.Bits() == 0 })
		n.subnets = n.others[:rapid.IntRange(0, len(n.others)).Draw(t, "subnets")]
		draw := func(what string) []netip.Prefix {
			return rapid.SliceOfN(rapid.Custom(drawPrefix), 0, 6).Draw(t, what)
		}
		before, after := draw("before"), draw("after")
		have := decide(before, []string{"eth0"}, n)
		check := func() {
			for _, p := range n.others {
				announced := slices.Contains(before, p) || slices.Contains(after, p)
				if !announced && lookup(have.routes, p) == refuse {
					t.Fatalf("%s is refused by %v", p, have.routes)
				}
			}
		}
		c := diff(have, decide(after, []string{"eth0"}, n))
		for _, r := range append(c.addRoutes, c.replaceRoutes...) {
			have.routes[r.to] = r.do
			check()
		}
		for _, r := range c.dropRoutes {
			delete(have.routes, r.to)
			check()
		}
	})
}

// lookup finds the route of the longest prefix, as the kernel does.
func lookup(routes map[netip.Prefix]action, to netip.Prefix) (do action) {
	best := -1
	for p, a := range routes {
		if covers(p, to) && p.Bits() > best {
			best, do = p.Bits(), a
		}
	}
	return do
}
