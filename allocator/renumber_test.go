package allocator

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"go4.org/netipx"
)

func reserving(addrs ...string) func(*Pool) {
	return func(p *Pool) {
		for _, a := range addrs {
			addr := netip.MustParseAddr(a)
			p.Reserved = append(p.Reserved, Reserved{IPRange: netipx.IPRangeFrom(addr, addr), Why: "is an address of Node n1"})
		}
	}
}

// rule is a row about one request, a.
type rule struct {
	name  string
	pools []Pool
	a     Request
	want  []string
	says  string // in the message of its refusal
}

func checkRules(t *testing.T, rules []rule) {
	for _, row := range rules {
		t.Run(row.name, func(t *testing.T) {
			a := allocate(row.pools, []Request{row.a})[key("a")]
			var got []string
			for _, h := range a.Held {
				got = append(got, h.Addr.String()+"="+h.Pool+word(h.OutOfPool, " out")+word(h.Unselected, " unselected")+word(h.Leaving, " leaving"))
			}
			said := ""
			for _, m := range a.Missing {
				got, said = append(got, string(m.Reason)+word(m.Optional, " optional")), said+m.Message
			}
			if !slices.Equal(got, row.want) {
				t.Errorf("got %q, want %q", got, row.want)
			}
			if !strings.Contains(said, row.says) {
				t.Errorf("is told %q, want %q", said, row.says)
			}
		})
	}
}

func word(is bool, word string) string {
	if is {
		return word
	}
	return ""
}

func advertised(p Pool) Pool { p.Advertised = true; return p }

func TestRenumber(t *testing.T) {
	closed := func(p *Pool) { p.Closed = true }
	pinned := func(r *Request) { r.Pinned = true }
	renumbering := func(r *Request) { r.Renumber = true }
	leaving := func(r *Request) { r.Have[0].Leaving = true }
	p, q := pool("p", "192.0.2.0/24"), pool("q", "198.51.100.0/24")
	both := having(having(request("a", "q"), "192.0.2.9", "p"), "198.51.100.9", "q") // the first one is leaving
	both = with(with(both, renumbering), leaving)
	lost := func(i int) func(*Request) {
		return func(r *Request) { r.Have = slices.Clone(r.Have); r.Have[i].Evidence = Recorded }
	}

	checkRules(t, []rule{
		{
			"another pool: beside the old one",
			[]Pool{p, q},
			with(with(having(request("a", "q"), "192.0.2.9", "p"), pinned), renumbering),
			[]string{"192.0.2.9=p leaving", "198.51.100.0=q"},
			"",
		},
		{
			"the pool asked for has other addresses now",
			[]Pool{pool("p", "203.0.113.0/24"), q},
			with(with(having(request("a", "p"), "192.0.2.9", "p"), pinned), renumbering),
			[]string{"192.0.2.9=p out leaving", "203.0.113.0=p"},
			"",
		},
		{
			"another address: beside the old one",
			[]Pool{p, q},
			with(asking(having(request("a", "p", "q"), "192.0.2.9", "p"), "198.51.100.7"), renumbering),
			[]string{"192.0.2.9=p leaving", "198.51.100.7=q"},
			"",
		},
		{
			"nothing else asked for: nothing new",
			[]Pool{p, q},
			with(having(request("a", "p", "q"), "192.0.2.9", "p"), renumbering),
			[]string{"192.0.2.9=p"},
			"",
		},
		{
			"both stay",
			[]Pool{p, q},
			with(both, pinned),
			[]string{"192.0.2.9=p leaving", "198.51.100.9=q"},
			"",
		},
		{
			"a third is not given",
			[]Pool{p, q},
			asking(both, "198.51.100.7"),
			[]string{"192.0.2.9=p leaving", "198.51.100.9=q", "Renumbering"},
			"198.51.100.7 is available, but 192.0.2.9 has not been released yet",
		},
		{
			"asked for again, the old one leads and the new one leaves",
			[]Pool{p, q},
			asking(with(both, func(r *Request) { r.Pools = []string{"p"} }), "192.0.2.9"),
			[]string{"198.51.100.9=q leaving", "192.0.2.9=p"},
			"",
		},
		{
			"the old one released",
			[]Pool{p, q},
			with(with(both, pinned), releasing("192.0.2.9")),
			[]string{"198.51.100.9=q"},
			"",
		},
		{
			"the new one released: the old one stays, and another new one comes",
			[]Pool{p, q},
			with(with(both, pinned), releasing("198.51.100.9")),
			[]string{"192.0.2.9=p leaving", "198.51.100.0=q"},
			"",
		},
		{
			"the status has lost the new one: it is assigned again",
			[]Pool{p, q},
			with(both, lost(1)),
			[]string{"192.0.2.9=p leaving", "198.51.100.9=q"},
			"",
		},
		{
			"the annotation goes after the status has lost the new one: the old one goes",
			[]Pool{p, q},
			with(with(both, lost(1)), func(r *Request) { r.Renumber = false }),
			[]string{"198.51.100.9=q"},
			"",
		},
		{
			"the annotation goes after the status has lost the new one, which no pool selects: the old one stays",
			[]Pool{p, q},
			with(with(both, lost(1)), func(r *Request) { r.Renumber, r.Pools = false, []string{"p"} }),
			[]string{"192.0.2.9=p"},
			"",
		},
		{
			"the annotation goes: the old one goes",
			[]Pool{p, q},
			with(with(both, pinned), func(r *Request) { r.Renumber = false }),
			[]string{"198.51.100.9=q"},
			"",
		},
		{
			"out of its pool",
			[]Pool{p, q},
			with(having(request("a", "p", "q"), "203.0.113.1", "p"), renumbering),
			[]string{"203.0.113.1=p out leaving", "192.0.2.0=p"},
			"",
		},
		{
			"its pool is gone",
			[]Pool{q},
			with(having(request("a", "q"), "192.0.2.9", "p"), renumbering),
			[]string{"192.0.2.9=p out leaving", "198.51.100.0=q"},
			"",
		},
		{
			"its pool is being deleted",
			[]Pool{with(p, closed), q},
			with(having(request("a", "p", "q"), "192.0.2.9", "p"), renumbering),
			[]string{"192.0.2.9=p leaving", "198.51.100.0=q"},
			"",
		},
		{
			"its pool does not select it any more",
			[]Pool{p, q},
			with(with(having(request("a", "q"), "192.0.2.9", "p"), renumbering), func(r *Request) { r.Barred = []string{"p"} }),
			[]string{"192.0.2.9=p unselected leaving", "198.51.100.0=q"},
			"",
		},
		{
			"nowhere to go: nothing is lost",
			[]Pool{p},
			with(with(having(request("a", "q"), "192.0.2.9", "p"), pinned), renumbering),
			[]string{"192.0.2.9=p", "NoMatchingPool"},
			"pool q does not exist; 192.0.2.9 is kept until then",
		},
		{
			"another pool contains its own address: the record follows",
			[]Pool{advertised(p)},
			with(having(ports(request("a", "p"), 80), "192.0.2.9", "old"), renumbering),
			[]string{"192.0.2.9=p"},
			"",
		},
	})
}

func TestRules(t *testing.T) {
	pinned := func(r *Request) { r.Pinned = true }
	prefer := func(r *Request) { r.Families = []Want{{IPv4, true}, {IPv6, true}} }
	p := pool("p", "192.0.2.0/24")
	guarded := with(p, reserving("192.0.2.0", "192.0.2.2"))
	avoiding := pool("p", "192.0.2.254-192.0.3.1")
	avoiding.AvoidBuggyIPs = true

	checkRules(t, []rule{
		{
			"a released address goes, and is not given again",
			[]Pool{p},
			with(having(request("a", "p"), "192.0.2.0", "p"), releasing("192.0.2.0")),
			[]string{"192.0.2.1=p"},
			"",
		},
		{
			"released and nothing else is free",
			[]Pool{pool("p", "192.0.2.0/32")},
			with(having(request("a", "p"), "192.0.2.0", "p"), releasing("192.0.2.0")),
			[]string{"PoolExhausted"},
			"",
		},
		{
			"released and asked for",
			[]Pool{p},
			with(asking(request("a", "p"), "192.0.2.7"), releasing("192.0.2.7")),
			[]string{"ConflictingRequest"},
			"192.0.2.7 is requested, but is also to be released",
		},
		{
			"an adopter's release",
			[]Pool{p},
			with(with(having(having(request("a", "p"), "192.0.2.5", ""), "203.0.113.1", ""), releasing("203.0.113.1")), adopted),
			[]string{"192.0.2.5=p"},
			"",
		},
		{"reserved addresses are not given", []Pool{guarded}, request("a", "p"), []string{"192.0.2.1=p"}, ""},
		{
			"not by name either",
			[]Pool{guarded},
			asking(request("a", "p"), "192.0.2.2"),
			[]string{"AddressReserved"},
			"192.0.2.2 is an address of Node n1",
		},
		{"one that is held is kept", []Pool{guarded}, having(request("a", "p"), "192.0.2.2", "p"), []string{"192.0.2.2=p"}, ""},
		{"buggy addresses are not given", []Pool{avoiding}, with(request("a", "p"), releasing("192.0.2.254")), []string{"192.0.3.1=p"}, ""},
		{
			"not by name either: .255",
			[]Pool{avoiding},
			asking(request("a", "p"), "192.0.2.255"),
			[]string{"AddressReserved"},
			"192.0.2.255 ends in .0 or .255, which pool p avoids",
		},
		{
			"not by name either: .0",
			[]Pool{avoiding},
			asking(request("a", "p"), "192.0.3.0"),
			[]string{"AddressReserved"},
			"192.0.3.0 ends in .0 or .255",
		},
		{"one that is held is kept, too", []Pool{avoiding}, having(request("a", "p"), "192.0.3.0", "p"), []string{"192.0.3.0=p"}, ""},
		{
			"a pool that does not select it",
			[]Pool{p},
			with(request("a"), func(r *Request) { r.Barred = []string{"p"} }),
			[]string{"NoMatchingPool"},
			"pool p does not select this Service",
		},
		{
			"its address stays when the pool does not select it any more",
			[]Pool{p},
			with(having(request("a"), "192.0.2.5", "p"), func(r *Request) { r.Barred = []string{"p"} }),
			[]string{"192.0.2.5=p unselected"},
			"",
		},
		{
			"an address of a pool that does not select it",
			[]Pool{p},
			asking(with(request("a"), func(r *Request) { r.Barred = []string{"p"} }), "192.0.2.5"),
			[]string{"AddressNotInPool"},
			"192.0.2.5 is in pool p, which does not select this Service",
		},
		{
			"an address and another pool",
			[]Pool{p, pool("q", "198.51.100.0/24")},
			with(asking(request("a", "q"), "192.0.2.5"), pinned),
			[]string{"ConflictingRequest"},
			"192.0.2.5 is in pool p, but the Service requests pool q",
		},
		{"an address and its pool", []Pool{p}, with(asking(request("a", "p"), "192.0.2.5"), pinned), []string{"192.0.2.5=p"}, ""},
		{
			"either family will do: IPv4",
			[]Pool{p},
			with(request("a", "p"), prefer),
			[]string{"192.0.2.0=p", "NoMatchingPool optional"},
			"pool p has no IPv6 addresses",
		},
		{
			"either family will do: IPv6",
			[]Pool{pool("p", "2001:db8::/64")},
			with(request("a", "p"), prefer),
			[]string{"2001:db8::=p", "NoMatchingPool optional"},
			"pool p has no IPv4 addresses",
		},
		{"either family will do, but not neither", nil, with(request("a", "p"), prefer), []string{"NoMatchingPool", "NoMatchingPool"}, ""},
		{
			"who asks for the pool that contains its address gets that recorded",
			[]Pool{p},
			with(having(request("a", "p"), "192.0.2.5", "old"), pinned),
			[]string{"192.0.2.5=p"},
			"",
		},
		{
			"so does who asks for the address",
			[]Pool{p},
			asking(having(request("a", "p"), "192.0.2.5", "old"), "192.0.2.5"),
			[]string{"192.0.2.5=p"},
			"",
		},
		{"the record follows to the pool that selects it", []Pool{advertised(p)}, having(request("a", "p"), "192.0.2.5", "old"), []string{"192.0.2.5=p"}, ""},
		{
			"the record stays, if no advertisement covers the pool that contains it",
			[]Pool{p},
			having(request("a", "p"), "192.0.2.5", "old"),
			[]string{"192.0.2.5=old out"},
			"",
		},
		{
			"the record stays, if the pool that contains it does not select it",
			[]Pool{p, pool("q")},
			with(having(request("a", "q"), "192.0.2.5", "q"), func(r *Request) { r.Barred = []string{"p"} }),
			[]string{"192.0.2.5=q out"},
			"",
		},
		{
			"the recorded pool is gone",
			[]Pool{p, pool("q")},
			with(having(request("a", "q"), "192.0.2.5", "old"), func(r *Request) { r.Barred = []string{"p"} }),
			[]string{"192.0.2.5=old out"},
			"",
		},
		{
			"the recorded pool does not select it either: it may be forged",
			[]Pool{p, pool("q")},
			with(having(request("a"), "192.0.2.5", "q"), func(r *Request) { r.Barred = []string{"p", "q"} }),
			[]string{"192.0.2.5=p unselected"},
			"",
		},
		{
			"a request for another pool does not hide which pool selects it",
			[]Pool{advertised(p), pool("q")},
			with(having(request("a", "q"), "192.0.2.5", "old"), func(r *Request) { r.Pinned, r.Selected = true, []string{"p", "q"} }),
			[]string{"192.0.2.5=p", "NoMatchingPool"},
			"",
		},
		{
			"the pool that is requested stays recorded, although another one contains the address",
			[]Pool{advertised(p), pool("q", "198.51.100.0/24")},
			with(having(request("a", "q"), "192.0.2.5", "q"), func(r *Request) { r.Pinned, r.Selected = true, []string{"p", "q"} }),
			[]string{"192.0.2.5=q out"},
			"",
		},
	})
}
