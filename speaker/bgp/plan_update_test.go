package bgp

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/osrg/gobgp/v3/pkg/packet/bgp"
	"pgregory.net/rapid"
)

// decodedRoute is a route as an independent decoder reads it.
type decodedRoute struct {
	asPath    string
	hop       netip.Addr
	med       string
	localPref string
	standard  string
	large     string
}

// peerTable is the table of a peer, with counters since the last reset.
type peerTable struct {
	table              map[netip.Prefix]decodedRoute
	reached, withdrawn map[netip.Prefix]int
}

func newReceiver() *peerTable { return &peerTable{table: make(map[netip.Prefix]decodedRoute)} }

// applyMessages decodes messages, and applies them to the table.
func (r *peerTable) applyMessages(t *rapid.T, messages [][]byte) {
	r.reached, r.withdrawn = make(map[netip.Prefix]int), make(map[netip.Prefix]int)
	for _, m := range messages {
		if len(m) > maxMessage {
			t.Fatalf("a message of %d bytes", len(m))
		}
		parsed, err := bgp.ParseBGPMessage(m)
		if err != nil {
			t.Fatalf("decode % x: %v", m, err)
		}
		u := parsed.Body.(*bgp.BGPUpdate)
		checkOrder(t, u.PathAttributes)
		reached, withdrawn, route := readUpdate(t, u)
		if len(reached)+len(withdrawn) == 0 {
			t.Fatalf("a message without routes, which is an End-of-RIB: % x", m)
		}
		for _, prefix := range withdrawn {
			r.withdrawn[prefix]++
			delete(r.table, prefix)
		}
		for _, prefix := range reached {
			r.reached[prefix]++
			r.table[prefix] = route
		}
	}
}

// checkOrder fails unless MP_REACH_NLRI or MP_UNREACH_NLRI comes first (RFC 7606
// section 5.1), and the rest in ascending order.
func checkOrder(t *rapid.T, attributes []bgp.PathAttributeInterface) {
	var types []bgp.BGPAttrType
	for i, a := range attributes {
		if kind := a.GetType(); i > 0 || kind != bgp.BGP_ATTR_TYPE_MP_REACH_NLRI && kind != bgp.BGP_ATTR_TYPE_MP_UNREACH_NLRI {
			types = append(types, kind)
		}
	}
	if !slices.IsSorted(types) || len(slices.Compact(slices.Clone(types))) != len(types) {
		t.Fatalf("attributes in the order %v", types)
	}
}

func readUpdate(t *rapid.T, u *bgp.BGPUpdate) (reached, withdrawn []netip.Prefix, route decodedRoute) {
	for _, n := range u.WithdrawnRoutes {
		withdrawn = append(withdrawn, netip.MustParsePrefix(n.String()))
	}
	for _, n := range u.NLRI {
		reached = append(reached, netip.MustParsePrefix(n.String()))
	}
	var long []string // AS4_PATH
	for _, a := range u.PathAttributes {
		switch a := a.(type) {
		case *bgp.PathAttributeMpReachNLRI:
			for _, n := range a.Value {
				reached = append(reached, netip.MustParsePrefix(n.String()))
			}
			route.hop, _ = netip.AddrFromSlice(a.Nexthop)
		case *bgp.PathAttributeMpUnreachNLRI:
			for _, n := range a.Value {
				withdrawn = append(withdrawn, netip.MustParsePrefix(n.String()))
			}
		case *bgp.PathAttributeOrigin:
			if a.Value != bgp.BGP_ORIGIN_ATTR_TYPE_IGP {
				t.Fatalf("origin %s", a)
			}
		case *bgp.PathAttributeAsPath:
			var asns []string
			for _, segment := range a.Value {
				if len(segment.GetAS()) > maxSegment {
					t.Fatalf("a segment of %d ASNs", len(segment.GetAS()))
				}
				asns = append(asns, segment.String())
			}
			route.asPath = strings.Join(asns, " ")
		case *bgp.PathAttributeAs4Path:
			long = append(long, a.String())
		case *bgp.PathAttributeNextHop:
			route.hop, _ = netip.AddrFromSlice(a.Value)
		case *bgp.PathAttributeMultiExitDisc:
			route.med = fmt.Sprint(a.Value)
		case *bgp.PathAttributeLocalPref:
			route.localPref = fmt.Sprint(a.Value)
		case *bgp.PathAttributeCommunities:
			for _, c := range a.Value {
				route.standard += fmt.Sprintf("%d:%d ", c>>16, c&0xffff)
			}
		case *bgp.PathAttributeLargeCommunities:
			for _, c := range a.Values {
				route.large += c.String() + " "
			}
		default:
			t.Fatalf("an attribute of type %s", a.GetType())
		}
	}
	if long != nil { // RFC 6793 section 4.2.3: of equal length, it replaces AS_PATH
		path := strings.Join(long, " ")
		if strings.Trim(route.asPath, "2 3456") != "" || strings.Count(path, " ") != strings.Count(route.asPath, " ") {
			t.Fatalf("AS4_PATH %q with AS_PATH %q", path, route.asPath)
		}
		route.asPath = path
	}
	return reached, withdrawn, route
}

// expectedRoute returns the route that a peer must decode, or false if it does
// not fit in a message.
func (e routeEncoder) expectedRoute(a Attributes, hop netip.Addr) (decodedRoute, bool) {
	r := decodedRoute{hop: hop}
	if e.isInternal() {
		r.localPref = fmt.Sprint(a.LocalPref)
	} else {
		r.asPath = strings.TrimSpace(strings.Repeat(fmt.Sprint(e.localASN, " "), 1+int(a.Prepend)))
	}
	if a.HasMED {
		r.med = fmt.Sprint(a.MED)
	}
	for c := range strings.FieldsSeq(a.Communities) {
		switch strings.Count(c, ":") {
		case 1:
			r.standard += c + " "
		case 2:
			r.large += c + " "
		default:
			return r, false
		}
	}
	return r, len(a.Communities) < len(tooManyCommunities)
}

// tooManyCommunities do not fit in a message.
var tooManyCommunities = strings.TrimSpace(strings.Repeat("1:2:3 ", 400))

func drawAttributes(t *rapid.T) Attributes {
	a := Attributes{
		LocalPref: uint32(rapid.IntRange(0, 2).Draw(t, "LOCAL_PREF")),
		HasMED:    rapid.Bool().Draw(t, "has MED"),
		Prepend:   rapid.SampledFrom([]uint8{0, 0, 1, 254, 255}).Draw(t, "prepend"),
		Communities: rapid.SampledFrom([]string{
			"", "64512:100", "64512:100 65535:0 64512:1:2", "4294967295:4294967295:4294967295",
			strings.TrimSpace(strings.Repeat("1:2 ", 500)), "no-export", tooManyCommunities,
		}).Draw(t, "communities"),
	}
	if a.HasMED {
		a.MED = uint32(rapid.IntRange(0, 2).Draw(t, "MED"))
	}
	return a
}

// drawRoutes draws up to some thousands of routes with few different attributes.
func drawRoutes(t *rapid.T) Routes {
	routes := make(Routes)
	attributes := rapid.SliceOfN(rapid.Custom(drawAttributes), 1, 4).Draw(t, "attributes")
	n := rapid.SampledFrom([]int{0, 1, 5, 300, 2000}).Draw(t, "routes")
	first, step := rapid.IntRange(0, 50).Draw(t, "first"), rapid.IntRange(1, 3).Draw(t, "step")
	bits4, bits6 := rapid.IntRange(20, 32).Draw(t, "bits of IPv4"), rapid.IntRange(100, 128).Draw(t, "bits of IPv6")
	for i := range n {
		at := uint32(first + i*step)
		addr := netip.AddrFrom4([4]byte{10, byte(at >> 16), byte(at >> 8), byte(at)})
		bits := bits4
		if i%2 == 1 {
			addr, bits = netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 13: byte(at >> 16), 14: byte(at >> 8), 15: byte(at)}), bits6
		}
		routes[netip.PrefixFrom(addr, bits).Masked()] = attributes[i%len(attributes)]
	}
	if rapid.Bool().Draw(t, "default routes") {
		routes[netip.MustParsePrefix("0.0.0.0/0")] = attributes[0]
		routes[netip.MustParsePrefix("::/0")] = attributes[0]
	}
	return routes
}

func drawHops(t *rapid.T) nextHops {
	addrs := func(all ...string) (parsed []netip.Addr) {
		for _, a := range all {
			addr, _ := netip.ParseAddr(a)
			parsed = append(parsed, addr)
		}
		return parsed
	}
	return nextHops{
		v4: rapid.SampledFrom(addrs("192.0.2.1", "192.0.2.2", "2001:db8::1", "fe80::1", "")).Draw(t, "IPv4 next hop"),
		v6: rapid.SampledFrom(addrs("2001:db8::1", "fe80::1", "")).Draw(t, "IPv6 next hop"),
	}
}

// TestUpdates changes the routes of a peer from any set to any other, several
// times, and checks that it has the desired ones afterwards and that each
// message was necessary.
func TestUpdates(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e := rapid.SampledFrom([]routeEncoder{
			{64512, 64513, true}, {64512, 64512, true}, {4200000001, 64513, true}, {4200000001, 64513, false}, {64512, 64513, false},
		}).Draw(t, "session")
		peer := newReceiver()
		var sent adjRIBOut
		for range rapid.IntRange(1, 3).Draw(t, "steps") {
			desired, h := drawRoutes(t), drawHops(t)
			before := maps.Clone(peer.table)
			if rapid.Bool().Draw(t, "refresh") {
				families := uint32(rapid.IntRange(1, 3).Draw(t, "families"))
				sent = sent.withoutFamilies(families)
				maps.DeleteFunc(before, func(p netip.Prefix, _ decodedRoute) bool { return families&(1<<afiOf(p)>>1) != 0 })
				maps.DeleteFunc(peer.table, func(p netip.Prefix, _ decodedRoute) bool { return families&(1<<afiOf(p)>>1) != 0 })
			}
			messages, now, invalid := e.planUpdates(sent, desired, h)
			peer.applyMessages(t, messages)
			for prefix := range peer.reached {
				if a, ok := sent.attributesOf(prefix); ok && a == desired[prefix] && sent.hops.nextHopOf(prefix) == h.nextHopOf(prefix) {
					t.Fatalf("%s is sent again", prefix)
				}
			}
			peer.checkTable(t, before, e.expectedTable(t, desired, h, invalid))
			if now.size != len(peer.table) {
				t.Fatalf("%d routes counted, not %d", now.size, len(peer.table))
			}
			if again, same, _ := e.planUpdates(now, desired, h); len(again) != 0 || same.size != now.size {
				t.Fatalf("%d messages for no change", len(again))
			}
			sent = now
		}
	})
}

// expectedTable returns the table that a peer must have, and checks which
// routes are invalid.
func (e routeEncoder) expectedTable(t *rapid.T, desired Routes, h nextHops, invalid map[netip.Prefix]error) map[netip.Prefix]decodedRoute {
	want := make(map[netip.Prefix]decodedRoute)
	for prefix, attributes := range desired {
		hop := h.nextHopOf(prefix)
		route, fits := e.expectedRoute(attributes, hop)
		if hop.IsValid() && fits {
			want[prefix] = route
		}
		if (invalid[prefix] != nil) != (hop.IsValid() && !fits) {
			t.Fatalf("%s with %+v: %v", prefix, attributes, invalid[prefix])
		}
	}
	return want
}

// checkTable fails unless the table is the expected one, and each of the
// messages that were applied last was necessary.
func (r *peerTable) checkTable(t *rapid.T, before, want map[netip.Prefix]decodedRoute) {
	if !maps.Equal(r.table, want) {
		t.Fatalf("the peer has %.2000s\nnot          %.2000s", fmt.Sprint(r.table), fmt.Sprint(want))
	}
	for prefix, n := range r.reached {
		if _, ok := want[prefix]; n != 1 || !ok {
			t.Fatalf("%s is in %d messages, desired: %t", prefix, n, ok)
		}
	}
	for prefix, n := range r.withdrawn {
		if _, had := before[prefix]; n != 1 || !had || r.reached[prefix] != 0 {
			t.Fatalf("%s is withdrawn %d times, had: %t", prefix, n, had)
		}
	}
}

// TestUpdatesAreFull counts the messages of many routes with equal attributes.
func TestUpdatesAreFull(t *testing.T) {
	const n = 50_000
	e := routeEncoder{64512, 64513, true}
	h := nextHops{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}
	for _, row := range []struct {
		name                 string
		v6                   bool
		announced, withdrawn int
	}{
		// 4096 - 23 - 20 bytes of attributes have room for 810 prefixes of 5 bytes, 4096 - 23 for 814.
		{"IPv4", false, 62, 62},
		// 4096 - 23 - 13 - 25 bytes have room for 237 prefixes of 17 bytes, 4096 - 23 - 7 for 239.
		{"IPv6", true, 211, 210},
	} {
		messages, now, _ := e.planUpdates(adjRIBOut{}, routesTo(prefixes(n, row.v6)...), h)
		if len(messages) != row.announced || now.size != n {
			t.Errorf("%s: %d messages for %d routes", row.name, len(messages), now.size)
		}
		messages, now, _ = e.planUpdates(now, nil, h)
		if len(messages) != row.withdrawn || now.size != 0 {
			t.Errorf("%s: %d messages to withdraw all but %d", row.name, len(messages), now.size)
		}
	}
}

// BenchmarkUpdates measures the time to find and encode one change among n
// routes.
func BenchmarkUpdates(b *testing.B) {
	for _, n := range []int{1000, 10_000, 50_000} {
		b.Run(fmt.Sprint("one of ", n), func(b *testing.B) {
			e := routeEncoder{64512, 64513, true}
			h := nextHops{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}
			few := routesTo(prefixes(n, false)...)
			more := maps.Clone(few)
			more[netip.MustParsePrefix("203.0.113.7/32")] = Attributes{}
			_, sent, _ := e.planUpdates(adjRIBOut{}, few, h)
			for b.Loop() {
				if messages, _, _ := e.planUpdates(sent, more, h); len(messages) != 1 {
					b.Fatal(len(messages))
				}
			}
		})
		b.Run(fmt.Sprint("all of ", n), func(b *testing.B) {
			e := routeEncoder{64512, 64513, true}
			h := nextHops{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}
			all := routesTo(append(prefixes(n/2, false), prefixes(n/2, true)...)...)
			for b.Loop() {
				e.planUpdates(adjRIBOut{}, all, h)
			}
		})
	}
}
