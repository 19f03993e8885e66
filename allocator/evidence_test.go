package allocator

import (
	"net/netip"
	"slices"
	"testing"

	"go4.org/netipx"
)

// TestEvidence checks what keeps an address, and which of two requests keeps it.
func TestEvidence(t *testing.T) {
	const x, y, node = "192.0.2.5", "198.51.100.5", "192.0.2.7"
	by := func(e Evidence) func(*Request) { return func(r *Request) { r.Have[len(r.Have)-1].Evidence = e } }
	have := func(r Request, addr, pool string, e Evidence) Request { return with(having(r, addr, pool), by(e)) }
	younger := func(r Request) Request { r.Since = r.Since.Add(1e9); return r }
	barred := func(r *Request) { r.Pools, r.Barred = nil, []string{"p"} }
	prefers := func(r *Request) { r.Prefer = []netip.Addr{netip.MustParseAddr(x)} }
	for _, row := range []struct {
		name     string
		requests []Request
		want     map[string][]string
	}{
		{"a lost status", []Request{have(request("a", "p"), x, "p", Recorded)}, map[string][]string{"a": {x}}},
		{"a lost status, the pool does not select it: another address", []Request{with(have(request("a"), x, "p", Recorded), barred)}, map[string][]string{"a": {"NoMatchingPool"}}},
		{"a lost status outside of the pools: another address", []Request{have(request("a", "p"), y, "p", Recorded)}, map[string][]string{"a": {"192.0.2.0"}}},
		{"a record of a node's address", []Request{have(request("a", "p"), node, "p", Recorded)}, map[string][]string{"a": {"192.0.2.0"}}},
		{"a lost status, released", []Request{with(have(request("a", "p"), x, "p", Recorded), func(r *Request) {
			r.Release = []netip.Addr{netip.MustParseAddr(x)}
		})}, map[string][]string{"a": {"192.0.2.0"}}},
		{"overwritten: the record wins", []Request{have(have(request("a", "p"), "192.0.2.9", "", Shown), x, "p", Recorded)}, map[string][]string{"a": {x}}},
		{"overwritten while it renumbers", []Request{with(have(have(request("a", "p"), "192.0.2.9", "", Shown), x, "p", Recorded), func(r *Request) {
			r.Renumber = true
		})}, map[string][]string{"a": {x}}},
		{"overwritten while its request is invalid", []Request{with(have(have(request("a", "p"), "192.0.2.9", "", Shown), x, "p", Recorded), func(r *Request) {
			r.Frozen = true
		})}, map[string][]string{"a": {x}}},
		{"overwritten by a node's address", []Request{have(have(request("a", "p"), node, "", Shown), x, "p", Recorded)}, map[string][]string{"a": {x}}},
		{"overwritten by the address of another one", []Request{
			have(have(request("a", "p"), "192.0.2.9", "", Shown), x, "p", Recorded), younger(having(request("b", "p"), "192.0.2.9", "p")),
		}, map[string][]string{"a": {x}, "b": {"192.0.2.9"}}},
		{"a lost record", []Request{have(request("a", "p"), x, "", Shown)}, map[string][]string{"a": {x}}},
		{"a lost record, the pool does not select it", []Request{with(have(request("a"), x, "", Shown), barred)}, map[string][]string{"a": {"ForeignStatus"}}},
		{"a lost record outside of the pools", []Request{have(request("a", "p"), y, "", Shown)}, map[string][]string{"a": {"ForeignStatus"}}},
		{"a lost record outside of the pools, written by the controller", []Request{have(request("a", "p"), y, "", ShownByController)}, map[string][]string{"a": {y}}},
		{"a node's address", []Request{have(request("a", "p"), node, "", Shown)}, map[string][]string{"a": {"ForeignStatus"}}},
		{"a node's address, by a forged manager", []Request{have(request("a", "p"), node, "", ShownByController)}, map[string][]string{"a": {"192.0.2.0"}}},
		{"a node joins on a held address", []Request{having(request("a", "p"), node, "p")}, map[string][]string{"a": {node}}},
		{"two records of one address, one is shown", []Request{
			have(request("a", "p"), x, "p", Recorded), younger(having(request("b", "p"), x, "p")),
		}, map[string][]string{"a": {"192.0.2.0"}, "b": {x}}},
		{"a record precedes a status without", []Request{
			have(request("a", "p"), x, "", ShownByController), younger(have(request("b", "p"), x, "p", Recorded)),
		}, map[string][]string{"a": {"192.0.2.0"}, "b": {x}}},
		{"the status of another controller's Service precedes a record alone", []Request{
			younger(with(having(request("a"), x, ""), func(r *Request) { r.Role = Stranger })), have(request("b", "p"), x, "p", Recorded),
		}, map[string][]string{"a": nil, "b": {"192.0.2.0"}}},
		{"the status of another controller's Service precedes a status without a record", []Request{
			with(having(request("a"), x, ""), func(r *Request) { r.Role = Stranger }), have(request("b", "p"), x, "", ShownByController),
		}, map[string][]string{"a": nil, "b": {"192.0.2.0"}}},
		{"a copy gets the address of its original, if that is free", []Request{with(request("a", "p"), prefers)}, map[string][]string{"a": {x}}},
		{
			"a copy gets another address, if it is not",
			[]Request{with(request("a", "p"), prefers), younger(having(request("b", "p"), x, "p"))},
			map[string][]string{"a": {"192.0.2.0"}, "b": {x}},
		},
		{"a copy does not displace another one, if its own address is requested by name", []Request{
			with(request("a", "small"), func(r *Request) { r.Prefer = []netip.Addr{netip.MustParseAddr("203.0.113.1")} }),
			younger(asking(request("b", "small"), "203.0.113.1")),
			younger(with(request("c", "small"), func(r *Request) { r.Prefer = []netip.Addr{netip.MustParseAddr("203.0.113.0")} })),
		}, map[string][]string{"a": {"PoolExhausted"}, "b": {"203.0.113.1"}, "c": {"203.0.113.0"}}},
		{"a copy precedes older requests for any address", []Request{
			request("a", "small"), younger(with(request("b", "small"), func(r *Request) { r.Prefer = []netip.Addr{netip.MustParseAddr("203.0.113.0")} })),
		}, map[string][]string{"a": {"203.0.113.1"}, "b": {"203.0.113.0"}}},
	} {
		t.Run(row.name, func(t *testing.T) {
			p := pool("p", "192.0.2.0/24")
			at := netip.MustParseAddr(node)
			p.Reserved = []Reserved{{IPRange: netipx.IPRangeFrom(at, at), Why: "is an address of Node n", Used: true}}
			pools := NewPools([]Pool{p, pool("small", "203.0.113.0/31")}, map[netip.Addr]string{at: "is an address of Node n"})
			for i, a := range Allocate(pools, row.requests).Assignments {
				var got []string
				for _, h := range a.Held {
					got = append(got, h.Addr.String())
				}
				for _, m := range a.Missing {
					got = append(got, string(m.Reason))
				}
				if want := row.want[row.requests[i].Key.Name]; !slices.Equal(got, want) {
					t.Errorf("%s: got %q, want %q", row.requests[i].Key.Name, got, want)
				}
			}
		})
	}
}

// TestExternalIPs checks that addresses in spec.externalIPs are the last ones that are
// assigned automatically, and that they cannot exhaust a pool.
func TestExternalIPs(t *testing.T) {
	external := with(having(having(having(request("x"), "192.0.2.0", ""), "192.0.2.1", ""), "192.0.2.9", ""), func(r *Request) { r.Role = ExternalIPs })
	all := func(pools []Pool, requests ...Request) (got []string) {
		for _, a := range Allocate(NewPools(pools, nil), append(requests, external)).Assignments {
			for _, h := range a.Held {
				got = append(got, h.Addr.String())
			}
		}
		return got
	}
	p := []Pool{pool("p", "192.0.2.0/30")}
	a, b, c, d, e := request("a", "p"), request("b", "p"), request("c", "p"), request("d", "p"), request("e", "p")
	if got := all(p, a, b, c, d, e); !slices.Equal(got, []string{"192.0.2.2", "192.0.2.3", "192.0.2.0", "192.0.2.1"}) {
		t.Errorf("automatically: got %v", got)
	}
	if got := all(p, asking(a, "192.0.2.1"), having(b, "192.0.2.0", "p"), c); !slices.Equal(got, []string{"192.0.2.1", "192.0.2.0", "192.0.2.2"}) {
		t.Errorf("by name, and held: got %v", got)
	}
	moves := with(asking(having(a, "192.0.2.1", "p"), "192.0.2.0"), func(r *Request) { r.Since = r.Since.Add(1e9) })
	if got := all([]Pool{pool("p", "192.0.2.0/31")}, moves, b); !slices.Equal(got, []string{"192.0.2.0", "192.0.2.1"}) {
		t.Errorf("released: got %v", got)
	}
}

// TestOverlappingReservations: an address that the cluster uses is not assigned again,
// although a range that is only avoided contains it as well.
func TestOverlappingReservations(t *testing.T) {
	p, r := pool("p", "192.0.2.0/24"), having(request("a", "p"), "192.0.2.9", "p")
	r.Have[0].Evidence = Recorded
	at := r.Have[0].Addr
	p.Reserved = []Reserved{
		{IPRange: netipx.IPRangeFrom(at.Prev(), at), Why: "is avoided"},
		{IPRange: netipx.IPRangeFrom(at, at), Why: "is an address of Node n", Used: true},
	}
	if held := Allocate(NewPools([]Pool{p}, nil), []Request{r}).Assignments[0].Held; len(held) != 1 || held[0].Addr == at {
		t.Errorf("holds %v", held)
	}
}
