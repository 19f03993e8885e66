package lab

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// BGP is the configuration of a router, independent of the daemon.
type BGP struct {
	ASN      uint32
	RouterID netip.Addr // an IPv4 address, usually the Addr of the router
	// Announce are prefixes that the router originates, although it has no route to
	// them.
	Announce  []netip.Prefix
	Neighbors []Neighbor
	// Extra is appended unchanged, in the syntax of the daemon.
	Extra string
}

// Neighbor is a BGP neighbor, or a group of dynamic neighbors.
type Neighbor struct {
	// Exactly one of Address, Range and Link must be set. An Address may be
	// link-local, with the interface as its zone (BIRD only). Range accepts dynamic
	// neighbors from the prefix. Link accepts the neighbor on the interface
	// (unnumbered): BIRD waits for its connection, FRR for its router advertisement.
	Address netip.Addr
	Range   netip.Prefix
	Link    string

	ASN                uint32 // 0 is any external ASN
	OnlyIPv4, OnlyIPv6 bool   // without both, IPv4 and IPv6 are exchanged
	// ExtendedNextHop allows IPv6 next hops of IPv4 routes (RFC 8950). It is implied
	// by a session over a link-local address.
	ExtendedNextHop bool
	Passive         bool
	Password        string        // TCP MD5 (RFC 2385)
	BFD             time.Duration // interval, with a detect multiplier of 3; 0 disables BFD
	Hold            time.Duration // 0 is 9 s
	Hops            uint8         // to the neighbor; 0 is 1
	Local           netip.Addr    // source address, required for multihop BFD in BIRD
	TTLSecurity     bool          // RFC 5082; FRR then uses multihop BFD (port 4784)
	Client          bool          // route reflector client
	NoRestart       bool          // disables graceful restart (RFC 4724)
	NextHopSelf     bool
}

// NodeNeighbors returns a neighbor for the IPv4 address of each node, modified by the
// changes.
func NodeNeighbors(nodes []*Host, asn uint32, changes ...func(*Neighbor, *Host)) (all []Neighbor) {
	for _, node := range nodes {
		n := Neighbor{Address: node.Addr, ASN: asn}
		for _, change := range changes {
			change(&n, node)
		}
		all = append(all, n)
	}
	return all
}

func (n Neighbor) holdSeconds() int {
	if n.Hold == 0 {
		return 9
	}
	return int(n.Hold.Seconds())
}

// configText builds a configuration.
type configText struct{ strings.Builder }

func (t *configText) add(format string, args ...any) { fmt.Fprintf(t, format+"\n", args...) }

func (t *configText) addIf(condition bool, format string, args ...any) {
	if condition {
		t.add(format, args...)
	}
}

// BIRD returns the configuration in the syntax of BIRD 2. Routes learned from
// neighbors are exported to the kernel; originated routes are not.
func (c BGP) BIRD() string {
	t := &configText{}
	t.add("log stderr all;\nrouter id %s;", c.RouterID)
	t.add("protocol device { scan time 5; }\nprotocol direct { ipv4; ipv6; interface -\"lo\", \"*\"; }\nprotocol bfd { }")
	for _, family := range []string{"ipv4", "ipv6"} {
		t.add("protocol kernel {\n  learn; scan time 2; merge paths on limit 16;")
		t.add("  %s { import all; export where source = RTS_BGP; };\n}", family)
	}
	for _, p := range c.Announce {
		t.add("protocol static { %s; route %s unreachable; }", familyName(p.Addr().Is6()), p)
	}
	for i, n := range c.Neighbors {
		t.add("protocol bgp neighbor%d {\n  local as %d;", i, c.ASN)
		n.birdSession(t, i)
		for _, family := range []struct {
			name     string
			left     bool
			extended bool
		}{
			{"ipv4", n.OnlyIPv6, n.ExtendedNextHop || n.Link != "" || n.Address.IsLinkLocalUnicast()},
			{"ipv6", n.OnlyIPv4, false},
		} {
			if family.left {
				continue
			}
			t.add("  %s {\n    import all; export where source ~ [ RTS_BGP, RTS_STATIC ];", family.name)
			t.addIf(family.extended, "    extended next hop;")
			t.addIf(n.NextHopSelf, "    next hop self;")
			t.addIf(n.Hops > 1, "    gateway recursive;")
			t.add("  };")
		}
		t.add("}")
	}
	return t.String() + c.Extra
}

func familyName(v6 bool) string {
	if v6 {
		return "ipv6"
	}
	return "ipv4"
}

// birdSession adds the settings that do not depend on the address family.
func (n Neighbor) birdSession(t *configText, i int) {
	as := "external"
	if n.ASN != 0 {
		as = fmt.Sprintf("as %d", n.ASN)
	}
	switch {
	case n.Range.IsValid():
		t.add("  neighbor range %s %s;\n  dynamic name \"range%d_\";", n.Range, as, i)
	case n.Link != "":
		t.add("  neighbor range fe80::/10 %s;\n  interface %q;\n  dynamic name \"link%d_\";", as, n.Link, i)
	case n.Address.Zone() != "":
		t.add("  neighbor %s%%'%s' %s;", n.Address.WithZone(""), n.Address.Zone(), as)
	default:
		t.add("  neighbor %s %s;", n.Address, as)
	}
	if n.Hops > 1 {
		t.add("  multihop %d;", n.Hops)
		t.addIf(n.Local.IsValid(), "  source address %s;", n.Local)
	} else {
		t.add("  direct;")
	}
	t.add("  hold time %d;\n  connect delay time 1; connect retry time 1; error wait time 1, 2;", n.holdSeconds())
	t.addIf(n.NoRestart, "  graceful restart off;")
	t.addIf(n.Passive, "  passive;")
	t.addIf(n.Password != "", "  password %q;", n.Password)
	t.addIf(n.TTLSecurity, "  ttl security;")
	t.addIf(n.Client, "  rr client;")
	ms := n.BFD.Milliseconds()
	t.addIf(ms > 0, "  bfd { min rx interval %d ms; min tx interval %d ms; idle tx interval %d ms; multiplier 3; };", ms, ms, ms)
}

// FRR returns the configuration in the syntax of FRR.
func (c BGP) FRR() string {
	t := &configText{}
	t.add("log stdout informational")
	profiles := make(map[int64]bool)
	for _, n := range c.Neighbors {
		if n.BFD > 0 {
			profiles[n.BFD.Milliseconds()] = true
		}
	}
	for _, ms := range slices.Sorted(maps.Keys(profiles)) {
		t.add("bfd\n profile every%d\n  detect-multiplier 3\n  receive-interval %d\n  transmit-interval %d\n exit\nexit", ms, ms, ms)
	}
	t.add("ip nht resolve-via-default\nipv6 nht resolve-via-default")
	t.add("router bgp %d\n bgp router-id %s\n bgp log-neighbor-changes", c.ASN, c.RouterID)
	t.add(" no bgp ebgp-requires-policy\n no bgp default ipv4-unicast\n no bgp network import-check")
	t.add(" bgp bestpath as-path multipath-relax")
	for _, n := range c.Neighbors {
		n.frrSession(t)
	}
	for _, v6 := range []bool{false, true} {
		t.add(" address-family %s unicast\n  maximum-paths 16\n  maximum-paths ibgp 16", familyName(v6))
		for _, p := range c.Announce {
			t.addIf(p.Addr().Is6() == v6, "  network %s", p)
		}
		for _, n := range c.Neighbors {
			if v6 && n.OnlyIPv4 || !v6 && n.OnlyIPv6 {
				continue
			}
			t.add("  neighbor %s activate", n.frrName())
			t.addIf(n.Client, "  neighbor %s route-reflector-client", n.frrName())
			t.addIf(n.NextHopSelf, "  neighbor %s next-hop-self", n.frrName())
		}
		t.add(" exit-address-family")
	}
	t.add("exit")
	return t.String() + c.Extra
}

// frrSession adds the settings that do not depend on the address family.
func (n Neighbor) frrSession(t *configText) {
	name, as := n.frrName(), "external"
	if n.ASN != 0 {
		as = fmt.Sprint(n.ASN)
	}
	switch {
	case n.Range.IsValid():
		t.add(" neighbor %s peer-group\n neighbor %s remote-as %s", name, name, as)
		t.add(" bgp listen range %s peer-group %s", n.Range, name)
	case n.Link != "":
		t.add(" neighbor %s interface remote-as %s", name, as)
	default:
		t.add(" neighbor %s remote-as %s", name, as)
	}
	t.add(" neighbor %s timers %d %d\n neighbor %s timers connect 1", name, max(1, n.holdSeconds()/3), n.holdSeconds(), name)
	t.add(" neighbor %s advertisement-interval 0", name)
	t.addIf(n.ExtendedNextHop, " neighbor %s capability extended-nexthop", name)
	t.addIf(n.Passive, " neighbor %s passive", name)
	t.addIf(n.Password != "", " neighbor %s password %s", name, n.Password)
	switch {
	case n.TTLSecurity:
		t.add(" neighbor %s ttl-security hops %d", name, max(1, n.Hops))
	case n.Hops > 1:
		t.add(" neighbor %s ebgp-multihop %d", name, n.Hops)
	}
	t.addIf(n.BFD > 0, " neighbor %s bfd profile every%d", name, n.BFD.Milliseconds())
	t.addIf(n.NoRestart, " neighbor %s graceful-restart-disable", name)
}

// frrName returns the name of the neighbor in the configuration of FRR.
func (n Neighbor) frrName() string {
	switch {
	case n.Link != "":
		return n.Link
	case n.Range.IsValid():
		return "range-" + strings.NewReplacer(".", "-", ":", "-", "/", "-").Replace(n.Range.String())
	}
	return n.Address.WithZone("").String()
}
