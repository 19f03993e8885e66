package allocator

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"go4.org/netipx"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

func pool(name string, ranges ...string) Pool {
	var b netipx.IPSetBuilder
	for _, r := range ranges {
		if p, err := netip.ParsePrefix(r); err == nil {
			b.AddPrefix(p)
		} else {
			b.AddRange(netipx.MustParseIPRange(r))
		}
	}
	set, err := b.IPSet()
	if err != nil {
		panic(err)
	}
	return Pool{Name: name, Ranges: set.Ranges(), Auto: true}
}

// allocate is Allocate, by key.
func allocate(pools []Pool, requests []Request) map[types.NamespacedName]Assignment {
	got := make(map[types.NamespacedName]Assignment, len(requests))
	for i, a := range Allocate(NewPools(pools, nil), requests).Assignments {
		got[requests[i].Key] = a
	}
	return got
}

func key(name string) types.NamespacedName {
	return types.NamespacedName{Namespace: "ns", Name: name}
}

// request is an IPv4 request, the older the earlier its name is in the alphabet.
func request(name string, pools ...string) Request {
	return Request{
		Key: key(name), Since: time.Unix(int64(name[0]), 0),
		Families: []Want{{Family: IPv4}}, Pools: pools,
	}
}

func having(r Request, addr, pool string) Request {
	r.Have = append(slices.Clone(r.Have), Have{Addr: netip.MustParseAddr(addr), Pool: pool})
	return r
}

func asking(r Request, addrs ...string) Request {
	for _, a := range addrs {
		r.Addrs = append(r.Addrs, netip.MustParseAddr(a))
	}
	return r
}

// with is a changed copy.
func with[T any](x T, change func(*T)) T {
	change(&x)
	return x
}

// summary is "ADDRESS=POOL" for what is held and the Reason for what is missing.
func summary(a Assignment) (s []string) {
	for _, h := range a.Held {
		out := ""
		if h.OutOfPool {
			out = " (out)"
		}
		s = append(s, h.Addr.String()+"="+h.Pool+out)
	}
	for _, m := range a.Missing {
		if !m.Optional {
			s = append(s, string(m.Reason))
		}
	}
	return s
}

func TestAllocate(t *testing.T) {
	closed := func(p Pool) Pool { p.Closed = true; return p }
	manual := func(p Pool) Pool { p.Auto = false; return p }
	dual := func(r *Request) { r.Families = []Want{{Family: IPv4}, {Family: IPv6}} }

	for _, row := range []struct {
		name     string
		pools    []Pool
		requests []Request
		want     map[string][]string
	}{
		{
			"lowest first, oldest first",
			[]Pool{pool("p", "192.0.2.0/30")},
			[]Request{request("b", "p"), request("a", "p")},
			map[string][]string{"a": {"192.0.2.0=p"}, "b": {"192.0.2.1=p"}},
		},
		{
			"the preferred pool first, then the next",
			[]Pool{pool("p", "192.0.2.0/32"), pool("q", "198.51.100.0/24")},
			[]Request{request("a", "p", "q"), request("b", "p", "q"), request("c", "q", "p")},
			map[string][]string{"a": {"192.0.2.0=p"}, "b": {"198.51.100.0=q"}, "c": {"198.51.100.1=q"}},
		},
		{
			"exhausted, and no pool at all",
			[]Pool{pool("p", "192.0.2.0/32")},
			[]Request{request("a", "p"), request("b", "p"), request("c")},
			map[string][]string{"a": {"192.0.2.0=p"}, "b": {"PoolExhausted"}, "c": {"NoMatchingPool"}},
		},
		{
			"no pool of the family",
			[]Pool{pool("p", "2001:db8::/64")},
			[]Request{request("a", "p")},
			map[string][]string{"a": {"NoMatchingPool"}},
		},
		{
			"a young holder keeps its address before an old newcomer",
			[]Pool{pool("p", "192.0.2.0/32")},
			[]Request{request("a", "p"), having(request("b", "p"), "192.0.2.0", "p")},
			map[string][]string{"a": {"PoolExhausted"}, "b": {"192.0.2.0=p"}},
		},
		{
			"a holder keeps its address when the pool shrinks, closes or goes",
			[]Pool{pool("p", "192.0.2.0/32"), closed(pool("q", "198.51.100.0/24"))},
			[]Request{
				having(request("a", "p"), "192.0.2.77", "p"), having(request("b", "q"), "198.51.100.9", "q"),
				having(request("c"), "203.0.113.1", "gone"), request("d", "q"),
			},
			map[string][]string{
				"a": {"192.0.2.77=p (out)"}, "b": {"198.51.100.9=q"},
				"c": {"203.0.113.1=gone (out)"}, "d": {"NoMatchingPool"},
			},
		},
		{
			"autoAssign false needs a name: the pool's or the address's",
			[]Pool{manual(pool("p", "192.0.2.0/24"))},
			[]Request{
				request("a", "p"), with(request("b", "p"), func(r *Request) { r.Pinned = true }),
				asking(request("c", "p"), "192.0.2.9"),
			},
			map[string][]string{"a": {"NoMatchingPool"}, "b": {"192.0.2.0=p"}, "c": {"192.0.2.9=p"}},
		},
		{
			"an address asked for by name: the older gets it, the younger learns who has it",
			[]Pool{pool("p", "192.0.2.0/24")},
			[]Request{
				asking(request("a", "p"), "192.0.2.9"), asking(request("b", "p"), "192.0.2.9"),
				asking(request("c", "p"), "198.51.100.1"),
			},
			map[string][]string{"a": {"192.0.2.9=p"}, "b": {"AddressTaken"}, "c": {"AddressNotInPool"}},
		},
		{
			"a wish that cannot be granted costs nothing",
			[]Pool{pool("p", "192.0.2.0/24")},
			[]Request{having(request("a", "p"), "192.0.2.1", "p"), having(asking(request("b", "p"), "192.0.2.1"), "192.0.2.2", "p")},
			map[string][]string{"a": {"192.0.2.1=p"}, "b": {"192.0.2.2=p", "AddressTaken"}},
		},
		{
			"a chain of moves ends in one decision",
			[]Pool{pool("p", "192.0.2.0/30")},
			[]Request{
				having(asking(request("a", "p"), "192.0.2.2"), "192.0.2.1", "p"),
				having(asking(request("b", "p"), "192.0.2.3"), "192.0.2.2", "p"), asking(request("c", "p"), "192.0.2.1"),
			},
			map[string][]string{"a": {"192.0.2.2=p"}, "b": {"192.0.2.3=p"}, "c": {"192.0.2.1=p"}},
		},
		{
			"asking for another pool by name moves, if there is room",
			[]Pool{pool("p", "192.0.2.0/24"), pool("q", "198.51.100.0/32"), pool("r")},
			[]Request{
				having(with(request("a", "q"), func(r *Request) { r.Pinned = true }), "192.0.2.1", "p"),
				having(with(request("b", "q"), func(r *Request) { r.Pinned = true }), "192.0.2.2", "p"),
				request("c", "p"),
			},
			map[string][]string{"a": {"198.51.100.0=q"}, "b": {"192.0.2.2=p", "PoolExhausted"}, "c": {"192.0.2.0=p"}},
		},
		{
			"the freed address serves who was refused before",
			[]Pool{pool("p", "192.0.2.0/32"), pool("q", "198.51.100.0/32")},
			[]Request{
				request("a", "p"),
				having(with(request("b", "q"), func(r *Request) { r.Pinned = true }), "192.0.2.0", "p"),
			},
			map[string][]string{"a": {"192.0.2.0=p"}, "b": {"198.51.100.0=q"}},
		},
		{
			"dual stack from two pools; an optional family is no refusal",
			[]Pool{pool("p", "192.0.2.0/24"), pool("q", "2001:db8::/64")},
			[]Request{
				with(request("a", "p", "q"), dual), with(request("b", "p"), dual),
				with(request("c", "p"), func(r *Request) { r.Families = []Want{{IPv4, false}, {IPv6, true}} }),
			},
			map[string][]string{
				"a": {"192.0.2.0=p", "2001:db8::=q"}, "b": {"192.0.2.1=p", "NoMatchingPool"}, "c": {"192.0.2.2=p"},
			},
		},
		{
			"a family that is no longer wanted is given back",
			[]Pool{pool("p", "192.0.2.0/24", "2001:db8::/64")},
			[]Request{having(having(request("a", "p"), "192.0.2.5", "p"), "2001:db8::5", "p")},
			map[string][]string{"a": {"192.0.2.5=p"}},
		},
		{
			"adopted if a pool has it and nobody else",
			[]Pool{pool("p", "192.0.2.0/24")},
			[]Request{
				with(having(request("a", "p"), "192.0.2.5", ""), adopted),
				with(having(request("b", "p"), "203.0.113.5", ""), adopted),
				with(having(request("c", "p"), "192.0.2.6", ""), adopted),
				having(request("d", "p"), "192.0.2.6", "p"),
				with(having(having(request("e", "p"), "192.0.2.8", ""), "192.0.2.9", ""), adopted),
			},
			map[string][]string{
				"a": {"192.0.2.5=p"}, "b": {"ForeignStatus"}, "c": {"ForeignStatus"},
				"d": {"192.0.2.6=p"}, "e": {"ForeignStatus"},
			},
		},
		{
			"a stranger's address is nobody's",
			[]Pool{pool("p", "192.0.2.0/24")},
			[]Request{
				request("a", "p"), asking(request("b", "p"), "192.0.2.0"),
				with(having(request("c"), "192.0.2.0", ""), func(r *Request) { r.Role = Stranger }),
			},
			map[string][]string{"a": {"192.0.2.1=p"}, "b": {"AddressTaken"}, "c": nil},
		},
		{
			"neither are those that a refused adopter or a stranger shows beside its first",
			[]Pool{pool("p", "192.0.2.0/29")},
			[]Request{
				with(having(having(request("a", "p"), "192.0.2.0", ""), "203.0.113.9", ""), adopted),
				with(having(having(request("b"), "192.0.2.2", ""), "192.0.2.1", ""), func(r *Request) { r.Role = Stranger }),
				request("c", "p"),
			},
			map[string][]string{"a": {"ForeignStatus"}, "b": nil, "c": {"192.0.2.3=p"}},
		},
		{
			"frozen keeps what it has and gets nothing",
			[]Pool{pool("p", "192.0.2.0/24")},
			[]Request{
				with(having(request("a", "p"), "192.0.2.5", "p"), func(r *Request) { r.Frozen = true }),
				with(request("b", "p"), func(r *Request) { r.Frozen = true }),
			},
			map[string][]string{"a": {"192.0.2.5=p"}, "b": nil},
		},
		{
			"the last addresses of both families",
			[]Pool{pool("p", "255.255.255.254/31", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128")},
			[]Request{with(request("a", "p"), dual), with(request("b", "p"), dual), request("c", "p")},
			map[string][]string{
				"a": {"255.255.255.254=p", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff=p"},
				"b": {"255.255.255.255=p", "PoolExhausted"}, "c": {"PoolExhausted"},
			},
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			got := allocate(row.pools, row.requests)
			for name, want := range row.want {
				if s := summary(got[key(name)]); !slices.Equal(s, want) {
					t.Errorf("%s: got %v, want %v", name, s, want)
				}
			}
			if len(got) != len(row.requests) {
				t.Errorf("%d assignments for %d requests", len(got), len(row.requests))
			}
		})
	}
}

func TestMessagesNameTheOther(t *testing.T) {
	got := allocate([]Pool{pool("p", "192.0.2.0/24")},
		[]Request{asking(request("a", "p"), "192.0.2.9"), asking(request("b", "p"), "192.0.2.9")})
	want := Missing{IPv4, v1alpha1.Refusal{Reason: v1alpha1.AddressTaken, Message: "192.0.2.9 is assigned to Service ns/a"}, false}
	if m := got[key("b")].Missing; len(m) != 1 || m[0] != want {
		t.Errorf("got %v, want %v", m, want)
	}
}

// TestMessagesOfMany: a message names three of many holders, and of many pools.
func TestMessagesOfMany(t *testing.T) {
	var requests []Request
	for i, name := range []string{"a", "b", "c", "d", "e"} {
		requests = append(requests, having(ports(request(name, "p"), int32(80+i)), "192.0.2.9", "p"))
	}
	requests = append(requests,
		asking(request("f", "p"), "192.0.2.9"), asking(ports(request("g", "p"), 84, 7, 80), "192.0.2.9"),
		request("h", "v", "w", "x", "y"), request("i", "v", "w", "x", "y", "z"),
	)
	got := allocate([]Pool{pool("p", "192.0.2.0/24")}, requests)
	for name, want := range map[string]string{
		"f": "192.0.2.9 is assigned to Services ns/a, ns/b, ns/c … and 2 more: this Service does not share its addresses",
		"g": "192.0.2.9 is assigned to Services ns/e, ns/a: both use port 84/TCP",
		"h": "pool v does not exist; pool w does not exist; pool x does not exist; pool y does not exist",
		"i": "pool v does not exist; pool w does not exist; pool x does not exist; and 2 more pools",
	} {
		if m := got[key(name)].Missing; len(m) != 1 || m[0].Message != want {
			t.Errorf("%s: got %v, want %q", name, m, want)
		}
	}
}

// TestResultsAreIndependent: a later decision does not change an earlier result.
func TestResultsAreIndependent(t *testing.T) {
	pools := NewPools([]Pool{pool("p", "192.0.2.0/24"), pool("q", "2001:db8::/64")}, nil)
	requests := []Request{
		with(request("a", "p", "q"), func(r *Request) { r.Families = []Want{{IPv4, false}, {IPv6, false}} }),
		asking(having(request("b", "p"), "192.0.2.7", "p"), "198.51.100.1"), request("c", "q"),
	}
	first := fmt.Sprintf("%+v", Allocate(pools, requests))
	result := Allocate(pools, requests)
	slices.Reverse(requests)
	Allocate(pools, requests[:2])
	if now := fmt.Sprintf("%+v", result); now != first {
		t.Errorf("first\n%s\nnow\n%s", first, now)
	}
}

func TestExplainIsAllocateWatched(t *testing.T) {
	pools := []Pool{pool("p", "192.0.2.0/32"), {Name: "m", Ranges: pool("", "198.51.100.0/24").Ranges}, pool("q", "203.0.113.0/24")}
	requests := []Request{request("a", "p", "m", "q"), request("b", "p", "m", "q")}
	verdicts := Explain(NewPools(pools, nil), requests, key("b"))
	if s := summary(allocate(pools, requests)[key("b")]); !slices.Equal(s, []string{"203.0.113.0=q"}) {
		t.Errorf("got %v", s)
	}
	want := []TraceEntry{
		{IPv4, "p", false, "pool p has no free IPv4 address"},
		{IPv4, "m", false, "pool m has autoAssign: false"},
		{IPv4, "q", true, "assigns 203.0.113.0"},
	}
	if !slices.Equal(verdicts, want) {
		t.Errorf("got %v\nwant %v", verdicts, want)
	}
}
