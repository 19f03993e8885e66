package allocator

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"go4.org/netipx"
)

// shape makes an input of about n requests. Its cost must grow with n log n.
type shape struct {
	name string
	make func(n int) ([]Pool, []Request)
}

var shapes = []shape{
	{"settled", func(n int) ([]Pool, []Request) { return settled(singles(50, 1024), plain(n)) }},
	{"settled, in random order", func(n int) ([]Pool, []Request) {
		pools, requests := settled(singles(50, 1024), plain(n))
		return pools, shuffled(requests)
	}},
	{"settled, pools by selectors", func(n int) ([]Pool, []Request) {
		pools := singles(50, 1024)
		return settled(pools, selected(pools, plain(n)))
	}},
	{"new", func(n int) ([]Pool, []Request) { return singles(50, 1024), from(singles(50, 0), plain(n)) }},
	{"new, pools by selectors", func(n int) ([]Pool, []Request) {
		pools := singles(50, 1024)
		return pools, selected(pools, plain(n))
	}},
	{"new, n ranges", func(n int) ([]Pool, []Request) { return singles(1, n), from(singles(1, 0), plain(n)) }},
	{"refused by 50 exhausted pools", func(n int) ([]Pool, []Request) {
		pools, requests := settled(singles(50, 1), plain(50))
		return pools, append(requests, younger("r", from(pools, plain(n)))...)
	}},
	{"refused, while one moves", func(n int) ([]Pool, []Request) {
		pools, requests := settled(singles(50, 1), plain(50))
		moving := pinned([]Pool{pool("q", "192.0.2.0/24")}, requests[49:])
		return append(pools, pool("q", "192.0.2.0/24")), slices.Concat(requests[:49], moving, younger("r", from(pools, plain(n))))
	}},
	{"one address asked for by all", func(n int) ([]Pool, []Request) {
		return wide("p"), asked(from(wide("p"), plain(n)), func(int) int { return 7 })
	}},
	{"reserved addresses asked for", func(n int) ([]Pool, []Request) {
		p := wide("p")
		for i := range n {
			p[0].Reserved = append(p[0].Reserved, Reserved{IPRange: netipx.IPRangeFrom(at(i), at(i)), Why: "is an address of Node n"})
		}
		return p, asked(from(p, plain(n)), func(i int) int { return i })
	}},
	{"sharing one address", func(n int) ([]Pool, []Request) { return wide("p"), sharing(from(wide("p"), plain(n)), distinct) }},
	{"sharing one address, settled", func(n int) ([]Pool, []Request) {
		return settled(wide("p"), sharing(plain(n), distinct))
	}},
	{"sharing one address, adopted", func(n int) ([]Pool, []Request) {
		pools, requests := settled(wide("p"), sharing(plain(n), distinct))
		for i := range requests {
			adopted(&requests[i])
		}
		return pools, requests
	}},
	{"sharing one address, all ask for it without a key", func(n int) ([]Pool, []Request) {
		pools, requests := settled(wide("p"), sharing(plain(n), distinct))
		return pools, append(requests, younger("r", asked(from(pools, plain(n)), func(int) int { return 0 }))...)
	}},
	{"sharing one address, all ask for it with one port", func(n int) ([]Pool, []Request) {
		pools, requests := settled(wide("p"), sharing(plain(n), distinct))
		return pools, append(requests, younger("r", sharing(asked(from(pools, plain(n)), func(int) int { return 0 }), onePort))...)
	}},
	{"sharing one address, all move, all wait", func(n int) ([]Pool, []Request) {
		pools, requests := settled([]Pool{pool("p", "10.0.0.0/32")}, sharing(plain(n), distinct))
		waiting := older("r", from(pools, plain(n)))
		return append(pools, pool("q", "192.0.2.0/24")), append(pinned([]Pool{pool("q")}, requests), waiting...)
	}},
	{"sharing one address, all move, all wait for it by name", func(n int) ([]Pool, []Request) {
		pools, requests := settled([]Pool{pool("p", "10.0.0.0/32")}, sharing(plain(n), distinct))
		waiting := older("r", sharing(asked(from(pools, plain(n)), func(int) int { return 0 }), onePort))
		return append(pools, pool("q", "192.0.2.0/24")), append(pinned([]Pool{pool("q")}, requests), waiting...)
	}},
	{"one port of one key", func(n int) ([]Pool, []Request) { return wide("p"), sharing(from(wide("p"), plain(n)), onePort) }},
	{"one port of one key, settled", func(n int) ([]Pool, []Request) { return settled(wide("p"), sharing(plain(n), onePort)) }},
	{"one port of one key, refused", func(n int) ([]Pool, []Request) {
		small := []Pool{pool("p", "10.0.0.0/27")}
		return small, sharing(from(small, plain(n)), onePort)
	}},
	{"one port of one key, refused after n", func(n int) ([]Pool, []Request) {
		p := pool("p")
		p.Ranges = []netipx.IPRange{netipx.IPRangeFrom(at(0), at(n-1))}
		pools, requests := settled([]Pool{p}, sharing(plain(n), onePort))
		return pools, append(requests, younger("r", sharing(from(pools, plain(n)), onePort))...)
	}},
	{"one port in common, one of its own", func(n int) ([]Pool, []Request) {
		return wide("p"), sharing(from(wide("p"), plain(n)), func(i int) []int32 { return []int32{80, int32(1000 + i)} })
	}},
	{"n addresses with room", func(n int) ([]Pool, []Request) {
		pools, requests := settled(wide("p"), sharing(plain(n), onePort))
		return pools, append(requests, younger("r", sharing(from(pools, plain(n)), func(int) []int32 { return []int32{443} }))...)
	}},
	{"one key, local with pods of its own", func(n int) ([]Pool, []Request) {
		requests := sharing(from(wide("p"), plain(n)), distinct)
		for i := range requests {
			requests[i].Share.Cluster, requests[i].Share.Backends = false, fmt.Sprint("ns/app=", i)
		}
		return wide("p"), requests
	}},
	{"chain, the oldest moves first", func(n int) ([]Pool, []Request) {
		pools, requests := settled(wide("p"), plain(n))
		return pools, asked(requests, func(i int) int { return max(i-1, 0) + n*((n-i)/n) })
	}},
	{"chain, the youngest moves first", func(n int) ([]Pool, []Request) {
		pools, requests := settled(wide("p"), plain(n))
		return pools, asked(requests, func(i int) int { return i + 1 })
	}},
	{"moving to another pool, all wait", func(n int) ([]Pool, []Request) {
		p := pool("p")
		p.Ranges = []netipx.IPRange{netipx.IPRangeFrom(at(0), at(n-1))}
		pools, requests := settled([]Pool{p}, plain(n))
		waiting := older("r", from(pools, plain(n)))
		return append(pools, pool("q", "11.0.0.0/8")), append(reaged(pinned([]Pool{pool("q")}, requests)), waiting...)
	}},
	{"moving to another pool, all wait with one port of one key", func(n int) ([]Pool, []Request) {
		p := pool("p")
		p.Ranges = []netipx.IPRange{netipx.IPRangeFrom(at(0), at(n-1))}
		pools, requests := settled([]Pool{p}, plain(n))
		waiting := older("r", sharing(from(pools, plain(2*n)), func(i int) []int32 { return []int32{80, int32(1000 + i)} }))
		return append(pools, pool("q", "11.0.0.0/8")), append(reaged(pinned([]Pool{pool("q")}, requests)), waiting...)
	}},
	{"moving away from one address, all wait with ports of their own", func(n int) ([]Pool, []Request) {
		pools, requests := settled([]Pool{pool("p", "10.0.0.0/32")}, plain(1))
		waiting := older("r", sharing(asked(from(pools, plain(n)), func(int) int { return 0 }), distinct))
		waiting = append(waiting, older("x", sharing(from(pools, plain(n)), func(i int) []int32 { return []int32{int32(1 + n + i)} }))...)
		return append(pools, pool("q", "11.0.0.0/8")), append(pinned([]Pool{pool("q")}, requests), waiting...)
	}},
	{"moving to another pool, some wait in vain", func(n int) ([]Pool, []Request) {
		p := pool("p")
		p.Ranges = []netipx.IPRange{netipx.IPRangeFrom(at(0), at(n-1))}
		pools, requests := settled([]Pool{p}, plain(n))
		waiting := older("r", from(pools, plain(n)))
		for i := range waiting {
			waiting[i].Pools = []string{"p", "full"}
		}
		moving := reaged(pinned([]Pool{pool("q")}, requests[:n/2]))
		return append(pools, pool("q", "11.0.0.0/8"), pool("full")), slices.Concat(moving, requests[n/2:], waiting)
	}},
	{"renumbering begins", func(n int) ([]Pool, []Request) {
		pools, requests := settled(wide("p"), plain(n))
		return append(pools, pool("q", "11.0.0.0/8")), renumbering(pinned([]Pool{pool("q")}, requests))
	}},
	{"renumbering, two addresses each", func(n int) ([]Pool, []Request) {
		pools, requests := settled(wide("p"), plain(n))
		pools, requests = append(pools, pool("q", "11.0.0.0/8")), renumbering(pinned([]Pool{pool("q")}, requests))
		return settled(pools, requests)
	}},
	{"renumbering, a third address is refused", func(n int) ([]Pool, []Request) {
		pools, requests := settled(wide("p"), plain(n))
		pools, requests = append(pools, pool("q", "11.0.0.0/8")), renumbering(pinned([]Pool{pool("q")}, requests))
		pools, requests = settled(pools, requests)
		return append(pools, pool("r", "12.0.0.0/8")), pinned([]Pool{pool("r")}, requests)
	}},
	{"frozen, all show one address", func(n int) ([]Pool, []Request) {
		pools, requests := settled(wide("p"), plain(n))
		for i := range requests {
			requests[i].Have[0].Addr, requests[i].Frozen = at(0), true
		}
		return pools, requests
	}},
	{"strangers, all show one address", func(n int) ([]Pool, []Request) {
		pools, requests := settled(wide("p"), plain(n))
		for i := range requests {
			requests[i].Have[0].Addr, requests[i].Role = at(0), Stranger
		}
		return pools, append(requests, younger("r", asked(from(pools, plain(n)), func(int) int { return 0 }))...)
	}},
}

// at is the i-th address of pool 10.0.0.0/8.
func at(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}) }

// wide is one large pool.
func wide(name string) []Pool { return []Pool{pool(name, "10.0.0.0/8")} }

// singles are pools of ranges of one address each.
func singles(pools, ranges int) (all []Pool) {
	for i := range pools {
		p := Pool{Name: fmt.Sprintf("pool-%02d", i), Auto: true}
		for j := range ranges {
			a := at(2 * (i*ranges + j))
			p.Ranges = append(p.Ranges, netipx.IPRangeFrom(a, a))
		}
		all = append(all, p)
	}
	return all
}

// plain are n requests for an IPv4 address, oldest first.
func plain(n int) []Request {
	requests := make([]Request, n)
	for i := range requests {
		requests[i] = Request{Key: key(fmt.Sprintf("s%06d", i)), Since: time.Unix(int64(i), 0), Families: []Want{{Family: IPv4}}}
	}
	return requests
}

// from has all requests use all pools.
func from(pools []Pool, requests []Request) []Request {
	var names []string
	for _, p := range pools {
		names = append(names, p.Name)
	}
	for i := range requests {
		requests[i].Pools = names
	}
	return requests
}

// selected has each request use two pools of its own choice, and barred from the others.
func selected(pools []Pool, requests []Request) []Request {
	for i := range requests {
		for j, p := range pools {
			if (i+j)%(len(pools)/2) == 0 {
				requests[i].Pools = append(requests[i].Pools, p.Name)
			} else {
				requests[i].Barred = append(requests[i].Barred, p.Name)
			}
		}
	}
	return requests
}

func pinned(pools []Pool, requests []Request) []Request {
	for i := range requests {
		requests[i].Pinned = true
	}
	return from(pools, requests)
}

func renumbering(requests []Request) []Request {
	for i := range requests {
		requests[i].Renumber = true
	}
	return requests
}

// asked has the i-th request ask for the addr(i)-th address.
func asked(requests []Request, addr func(i int) int) []Request {
	for i := range requests {
		requests[i].Addrs = []netip.Addr{at(addr(i))}
	}
	return requests
}

func sharing(requests []Request, of func(i int) []int32) []Request {
	for i := range requests {
		requests[i] = ports(requests[i], of(i)...)
	}
	return requests
}

func distinct(i int) []int32 { return []int32{int32(1 + i)} }
func onePort(int) []int32    { return []int32{80} }

// settled are the requests once they hold what they asked for.
func settled(pools []Pool, requests []Request) ([]Pool, []Request) {
	if requests[0].Pools == nil {
		requests = from(pools, requests)
	}
	return pools, written(requests, Allocate(NewPools(pools, nil), requests))
}

// younger are tried after all others.
func younger(prefix string, requests []Request) []Request {
	for i := range requests {
		requests[i].Key.Name = prefix + requests[i].Key.Name
		requests[i].Since = requests[i].Since.Add(time.Hour * 24 * 365)
	}
	return requests
}

// older are tried before all others, and wait.
func older(prefix string, requests []Request) []Request {
	for i := range requests {
		requests[i].Key.Name = prefix + requests[i].Key.Name
		requests[i].Since = requests[i].Since.Add(-time.Hour * 24 * 365)
	}
	return requests
}

func shuffled(requests []Request) []Request {
	rand.New(rand.NewPCG(1, 2)).Shuffle(len(requests), func(i, j int) { requests[i], requests[j] = requests[j], requests[i] })
	return requests
}

// reaged are the requests in a random order of age.
func reaged(requests []Request) []Request {
	for i, age := range rand.New(rand.NewPCG(1, 2)).Perm(len(requests)) {
		requests[i].Since = time.Unix(int64(age), 0)
	}
	return requests
}
