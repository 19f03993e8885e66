package allocator

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"go4.org/netipx"
	"pgregory.net/rapid"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// Everything is drawn from a few addresses, keys and ports, so that requests
// collide often. Two of the addresses are those that old devices refuse.
var (
	someAddrs = rapid.Custom(func(t *rapid.T) netip.Addr {
		i := rapid.IntRange(0, 11).Draw(t, "host")
		if rapid.Bool().Draw(t, "v6") {
			return netip.AddrFrom16([16]byte{0x20, 0x01, 0xd, 0xb8, 15: byte(i)})
		}
		return netip.AddrFrom4([4]byte{192, 0, byte((i + 510) >> 8), byte(i + 510)})
	})
	somePorts = rapid.SampledFrom([]Port{{"TCP", 80}, {"TCP", 443}, {"UDP", 443}, {"TCP", 53}})
	poolNames = []string{"p", "q", "r", "gone"}
)

// seldom is true once in n draws.
func seldom(t *rapid.T, n int, what string) bool {
	return rapid.IntRange(1, n).Draw(t, what) == n
}

func somePools(t *rapid.T) (pools []Pool) {
	// Disjoint, as config.Parse makes them: the pools share out a few blocks.
	blocks := []string{"192.0.1.254-192.0.2.0", "192.0.2.2/31", "192.0.2.4-192.0.2.7", "2001:db8::/127", "2001:db8::4/126", "2001:db8::9/128"}
	owned := map[string][]string{}
	for _, b := range blocks {
		name := rapid.SampledFrom(append(poolNames, "nobody")).Draw(t, "owner of "+b)
		owned[name] = append(owned[name], b)
	}
	for _, name := range poolNames[:3] {
		p := pool(name, owned[name]...)
		p.Auto = !seldom(t, 4, "manual")
		p.Closed = seldom(t, 6, "closed")
		p.Advertised = !seldom(t, 3, "not advertised")
		p.AvoidBuggyIPs = seldom(t, 3, "avoids buggy addresses")
		for range rapid.IntRange(0, 2).Draw(t, "reserved") {
			a := someAddrs.Draw(t, "reserved")
			p.Reserved = append(p.Reserved, Reserved{netipx.IPRangeFrom(a, a), "is an address of Node n", seldom(t, 2, "used")})
		}
		pools = append(pools, p)
	}
	return rapid.Permutation(pools).Draw(t, "pools")
}

func someTerms(t *rapid.T) Terms {
	return Terms{
		Key:      rapid.SampledFrom([]string{"", "", "k", "k", "l"}).Draw(t, "key"),
		Cluster:  !seldom(t, 3, "local"),
		Backends: rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "backends"),
		Ports:    slices.SortedFunc(slices.Values(rapid.SliceOfNDistinct(somePorts, 0, 2, rapid.ID[Port]).Draw(t, "ports")), Port.Compare),
	}
}

// wishes draws what the owner of a Service may write, and how pools select it.
func (r *Request) wishes(t *rapid.T) {
	r.Frozen = seldom(t, 10, "frozen")
	r.Families = rapid.SampledFrom([][]Want{
		{{IPv4, false}},
		{{IPv6, false}},
		{{IPv4, false}, {IPv6, true}},
		{{IPv6, false}, {IPv4, false}},
		{{IPv4, true}, {IPv6, true}},
	}).Draw(t, "families")
	pools := rapid.Permutation(poolNames).Draw(t, "pools")
	allowed, known := rapid.IntRange(0, 4).Draw(t, "pools"), rapid.IntRange(0, 4).Draw(t, "barred")
	r.Pools, r.Barred, r.Pinned = pools[:allowed], pools[allowed:max(allowed, known)], false
	if seldom(t, 4, "pinned") {
		r.Pools, r.Barred, r.Pinned = pools[:1], nil, true
		if seldom(t, 3, "to one that does not select it") {
			r.Pools, r.Barred = nil, pools[:1]
		}
	}
	r.Addrs, r.Release = nil, nil
	if seldom(t, 4, "asks") {
		r.Addrs = rapid.SliceOfNDistinct(someAddrs, 1, 2, FamilyOf).Draw(t, "addrs")
	}
	if seldom(t, 5, "releases") {
		r.Release = rapid.SliceOfN(someAddrs, 1, 3).Draw(t, "release")
	}
	r.Renumber = seldom(t, 3, "renumbers")
	r.Share = someTerms(t)
}

// someRequest has a status that anybody may have written.
func someRequest(t *rapid.T, i int) Request {
	r := Request{
		Key:      key(fmt.Sprintf("s%02d", i)),
		Since:    time.Unix(rapid.Int64Range(0, 3).Draw(t, "since"), 0),
		Role:     rapid.SampledFrom([]Role{Owner, Owner, Owner, Owner, Owner, Stranger, Deleted, ExternalIPs}).Draw(t, "role"),
		Departed: seldom(t, 4, "departed"),
	}
	r.wishes(t)
	for _, a := range rapid.SliceOfNDistinct(someAddrs, 0, 4, rapid.ID[netip.Addr]).Draw(t, "have") {
		r.Have = append(r.Have, Have{
			a, rapid.SampledFrom(append(poolNames, "")).Draw(t, "recorded"), seldom(t, 4, "leaving"),
			rapid.SampledFrom([]Evidence{RecordedAndShown, RecordedAndShown, Recorded, ShownByController, Shown}).Draw(t, "evidence"),
		})
	}
	if seldom(t, 3, "adopted") {
		for i := range r.Have {
			r.Have[i].Evidence = Shown
		}
	}
	if seldom(t, 4, "restored") {
		r.Prefer = rapid.SliceOfN(someAddrs, 1, 2).Draw(t, "prefer")
	}
	return r
}

func someRequests(t *rapid.T) (requests []Request) {
	for i := range rapid.IntRange(0, 12).Draw(t, "n") {
		requests = append(requests, someRequest(t, i))
	}
	return requests
}

// someCrowd are requests that fill a few small pools, and want to change places.
func someCrowd(t *rapid.T) (pools []Pool, requests []Request) {
	pools = []Pool{pool("p", "192.0.2.0/31"), pool("q", "192.0.2.2/31"), pool("r", "192.0.2.4/32")}
	addr := rapid.Map(rapid.IntRange(0, 4), func(i int) netip.Addr { return netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}) })
	for i := range rapid.IntRange(3, 12).Draw(t, "n") {
		r := Request{Key: key(fmt.Sprintf("s%02d", i)), Families: []Want{{Family: IPv4}}, Pools: []string{"p", "q", "r"}}
		if !seldom(t, 4, "alone") {
			r.Share = Terms{
				Key: "k", Cluster: !seldom(t, 6, "local"),
				Backends: rapid.SampledFrom([]string{"", "a", "a", "b"}).Draw(t, "backends"),
				Ports:    crowdPorts(t),
			}
		}
		requests = append(requests, r)
	}
	requests = written(requests, Allocate(NewPools(pools, nil), requests))
	for i := range requests {
		r := &requests[i]
		r.Pools = rapid.Permutation(r.Pools).Draw(t, "pools")[:rapid.IntRange(1, 3).Draw(t, "pools")]
		r.Pinned = !seldom(t, 3, "unpinned")
		r.Since = time.Unix(rapid.Int64Range(0, 9).Draw(t, "since"), 0)
		if r.Renumber = seldom(t, 4, "renumbers"); r.Renumber && seldom(t, 2, "has begun to") {
			r.Have = append(r.Have, Have{Addr: netip.AddrFrom4([4]byte{192, 0, 2, byte(10 + i)}), Pool: "p", Leaving: true})
		}
		if seldom(t, 3, "asks") {
			r.Addrs = []netip.Addr{addr.Draw(t, "addr")}
		}
		if seldom(t, 6, "releases") {
			r.Release = []netip.Addr{addr.Draw(t, "release")}
		}
		if seldom(t, 6, "changes its ports") {
			r.Share.Ports, r.Departed = crowdPorts(t), true
		}
	}
	return pools, requests
}

func crowdPorts(t *rapid.T) (ports []Port) {
	for _, n := range rapid.SliceOfNDistinct(rapid.Int32Range(1, 4), 1, 2, rapid.ID).Draw(t, "ports") {
		ports = append(ports, Port{"TCP", n})
	}
	slices.SortFunc(ports, Port.Compare)
	return ports
}

// written are the requests once the answer is in the statuses.
func written(requests []Request, result Result) []Request {
	next := slices.Clone(requests)
	for i, a := range result.Assignments {
		if next[i].Role != Owner || foreign(a) {
			continue // their status is not ours to write
		}
		next[i].Departed, next[i].Have = false, nil
		for _, h := range a.Held {
			next[i].Have = append(next[i].Have, Have{Addr: h.Addr, Pool: h.Pool, Leaving: h.Leaving})
		}
	}
	return next
}

func foreign(a Assignment) bool {
	return slices.ContainsFunc(a.Missing, func(m Missing) bool { return m.Reason == v1alpha1.ForeignStatus })
}

// edited are the requests after the owners of some Services changed their
// mind. Whoever changes the terms of sharing departs from what is recorded.
func edited(t *rapid.T, requests []Request) (next []Request, changed []bool) {
	next, changed = slices.Clone(requests), make([]bool, len(requests))
	for i := range next {
		if changed[i] = seldom(t, 3, "edited"); !changed[i] {
			continue
		}
		was := next[i].Share
		next[i].wishes(t)
		if seldom(t, 2, "under the same terms") {
			next[i].Share = was
		}
		next[i].Departed = !slices.Equal(was.Ports, next[i].Share.Ports) || was.Key != next[i].Share.Key ||
			was.Cluster != next[i].Share.Cluster || was.Backends != next[i].Share.Backends
	}
	return next, changed
}

// checkWorlds checks a law on statuses that anybody may have written, on those
// that Allocate has written before pools and requests changed, and where many
// want to move at once.
func checkWorlds(t *testing.T, law func(t *rapid.T, pools []Pool, requests []Request)) {
	t.Run("any status", func(t *testing.T) {
		rapid.Check(t, func(t *rapid.T) { law(t, somePools(t), someRequests(t)) })
	})
	t.Run("many who move", func(t *testing.T) {
		rapid.Check(t, func(t *rapid.T) {
			pools, requests := someCrowd(t)
			law(t, pools, requests)
		})
	})
	t.Run("our status", func(t *testing.T) {
		rapid.Check(t, func(t *rapid.T) {
			requests := someRequests(t)
			requests = written(requests, Allocate(NewPools(somePools(t), nil), requests))
			requests, _ = edited(t, requests)
			law(t, somePools(t), requests)
		})
	})
}
