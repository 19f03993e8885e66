package allocator

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// TestOracle compares with the plainest allocator that obeys the same rules. It
// says who holds which address, under which pool's name, and which of two is
// leaving; the refusals and the counts have laws of their own.
func TestOracle(t *testing.T) {
	checkWorlds(t, func(t *rapid.T, pools []Pool, requests []Request) {
		got, want := Allocate(NewPools(pools, nil), requests).Assignments, oracle(pools, requests)
		for i, r := range requests {
			var held []holding
			for _, h := range got[i].Held {
				held = append(held, holding{i, h.Addr, h.Pool, h.Leaving})
			}
			if !slices.Equal(held, want[i]) {
				t.Fatalf("%s: got %v, the oracle says %v: %+v", r.Key, held, want[i], r)
			}
		}
	})
}

// holding is one row of the oracle's only list.
type holding struct {
	request int
	addr    netip.Addr
	pool    string
	leaving bool
}

// book is the oracle: it lists every address, looks at every row for every
// question, and starts over after every single move.
type book struct {
	pools    []Pool
	requests []Request
	order    []int // oldest first
	rows     []holding
	foreign  map[int]bool // not served by us: their statuses block what nobody holds
	prefers  map[int]bool // an address that it prefers was free after the first step
}

func oracle(pools []Pool, requests []Request) [][]holding {
	b := &book{pools: pools, requests: requests, foreign: map[int]bool{}, prefers: map[int]bool{}}
	for i := range requests {
		b.order = append(b.order, i)
		b.foreign[i] = requests[i].Role != Owner
	}
	slices.SortFunc(b.order, func(i, j int) int {
		return cmp.Or(requests[i].Since.Compare(requests[j].Since), strings.Compare(requests[i].Key.String(), requests[j].Key.String()))
	})
	for _, e := range []Evidence{RecordedAndShown, Recorded, ShownByController, Shown} {
		for _, departed := range []bool{false, true} {
			for _, i := range b.order {
				if requests[i].Role == Owner && (requests[i].Departed == departed || e != RecordedAndShown) {
					b.keep(i, e)
				}
			}
			if e != RecordedAndShown {
				break
			}
		}
	}
	for i, r := range requests {
		for _, w := range r.Families {
			if _, asks := b.asks(i, w.Family); !asks && b.preferred(i, w.Family).IsValid() {
				b.prefers[familyKey(i, w.Family)] = true
			}
		}
	}
	for b.step(0) || b.step(1) || b.step(2) {
	}
	result := make([][]holding, len(requests))
	for _, h := range b.rows {
		result[h.request] = append(result[h.request], h)
	}
	for _, held := range result {
		slices.SortFunc(held, func(a, b holding) int {
			return cmp.Or(cmp.Compare(FamilyOf(a.addr), FamilyOf(b.addr)), cmp.Compare(later(b.leaving), later(a.leaving)))
		})
	}
	return result
}

func familyKey(i int, f Family) int { return 10*i + int(f) }

// preferred is the first address of the family that the request prefers and could have.
func (b *book) preferred(i int, f Family) (addr netip.Addr) {
	r := b.requests[i]
	for _, a := range r.Prefer {
		home := containing(b.pools, a)
		if FamilyOf(a) == f && len(b.of(i, f)) == 0 && accepting(b.pools, home, &r, true) && slices.Contains(given(b.pools, home), a) &&
			b.may(i, a) && !b.blocked(a) && !slices.Contains(r.Release, a) {
			return a
		}
	}
	return addr
}

// used reports whether the cluster itself uses the address.
func (b *book) used(addr netip.Addr) bool {
	return slices.ContainsFunc(b.pools, func(p Pool) bool {
		return containing(b.pools, addr) == p.Name && slices.ContainsFunc(p.Reserved, func(r Reserved) bool { return r.Used && r.Contains(addr) })
	})
}

func (b *book) keep(i int, e Evidence) {
	r := b.requests[i]
	ofClass := func(h Have) bool { return h.Evidence == e }
	if !slices.ContainsFunc(r.Have, ofClass) {
		return
	}
	wanted := func(a netip.Addr) bool {
		return slices.ContainsFunc(r.Families, func(w Want) bool { return w.Family == FamilyOf(a) })
	}
	if e == Shown {
		seen := map[Family]bool{}
		for _, h := range r.Have {
			if slices.Contains(r.Release, h.Addr) || !ofClass(h) {
				continue
			}
			if home := containing(b.pools, h.Addr); !slices.Contains(r.Pools, home) || b.used(h.Addr) ||
				!wanted(h.Addr) || seen[FamilyOf(h.Addr)] || !b.may(i, h.Addr) || b.blocked(h.Addr) {
				b.foreign[i] = !slices.ContainsFunc(r.Have, func(h Have) bool { return h.Evidence != Shown })
				return
			}
			seen[FamilyOf(h.Addr)] = true
		}
	}
	have := slices.Clone(r.Have)
	slices.SortStableFunc(have, func(a, b Have) int { return later(a.Leaving) - later(b.Leaving) })
	for _, h := range have {
		held := b.of(i, FamilyOf(h.Addr))
		room := len(held) == 0 || len(held) == 1 && (r.Renumber || r.Frozen) && e != Shown
		switch {
		case !ofClass(h):
			continue
		case e == Recorded && (!b.canRestore(i, h) || b.blockedBy(h.Addr, Stranger)):
			continue
		case h.Leaving && !r.Renumber && !r.Frozen && slices.ContainsFunc(have, func(o Have) bool {
			return isReplacement(&r, o, h) && b.canRestore(i, o) && b.may(i, o.Addr)
		}):
			continue // its replacement is restored
		case e == ShownByController && (b.used(h.Addr) || b.blocked(h.Addr)):
			continue
		}
		if room && (wanted(h.Addr) || r.Frozen) && !slices.Contains(r.Release, h.Addr) && b.may(i, h.Addr) {
			b.rows = append(b.rows, holding{i, h.Addr, b.record(i, h), len(held) == 1})
		}
	}
	replaced := func(addr netip.Addr) bool {
		return slices.ContainsFunc(have, func(h Have) bool { return h.Addr == addr && h.Leaving })
	}
	for _, f := range []Family{IPv4, IPv6} {
		if held := b.of(i, f); len(held) == 2 && replaced(held[0].addr) && !replaced(held[1].addr) {
			held[0].leaving, held[1].leaving = true, false
		}
		if held := b.of(i, f); len(held) == 2 && !r.Frozen && !b.content(held[0]) && b.content(held[1]) {
			held[0].leaving, held[1].leaving = true, false
		}
	}
}

// canRestore reports whether a pool may assign an address again that is only recorded.
func (b *book) canRestore(i int, h Have) bool {
	return slices.Contains(b.requests[i].Pools, containing(b.pools, h.Addr)) && !b.used(h.Addr)
}

// isReplacement reports whether the status has lost the address that replaces another.
func isReplacement(r *Request, h, replaced Have) bool {
	return h.Evidence == Recorded && !h.Leaving && replaced.Leaving && FamilyOf(h.Addr) == FamilyOf(replaced.Addr) &&
		!slices.Contains(r.Release, h.Addr)
}

// of are the rows of a request and a family, the one that is leaving last.
func (b *book) of(i int, f Family) (rows []*holding) {
	for n := range b.rows {
		if b.rows[n].request == i && FamilyOf(b.rows[n].addr) == f {
			rows = append(rows, &b.rows[n])
		}
	}
	slices.SortFunc(rows, func(a, b *holding) int { return later(a.leaving) - later(b.leaving) })
	return rows
}

// may reports whether everybody who holds the address allows the request beside it.
func (b *book) may(i int, addr netip.Addr) bool {
	return !slices.ContainsFunc(b.rows, func(h holding) bool {
		return h.addr == addr && (h.request == i || !mayShare(b.requests[i].Share, b.requests[h.request].Share))
	})
}

// open reports whether the pool of the name may give addresses.
func (b *book) open(name string) bool {
	return slices.ContainsFunc(b.pools, func(p Pool) bool { return p.Name == name && !p.Closed })
}

func (b *book) asks(i int, f Family) (addr netip.Addr, asks bool) {
	for _, a := range b.requests[i].Addrs {
		if FamilyOf(a) == f {
			return a, true
		}
	}
	return addr, false
}

// record is the pool whose name a kept address goes under: the one that contains it,
// if that selects the request or the recorded one exists and does not.
func (b *book) record(i int, h Have) string {
	r, home := b.requests[i], containing(b.pools, h.Addr)
	exists := slices.ContainsFunc(b.pools, func(p Pool) bool { return p.Name == h.Pool })
	known := len(r.Pools)+len(r.Barred) > 0
	addr, asks := b.asks(i, FamilyOf(h.Addr))
	follows := r.Pinned || asks && addr == h.Addr || slices.ContainsFunc(b.pools, func(p Pool) bool { return p.Name == home && p.Advertised })
	if home != "" && known && (slices.Contains(r.Pools, home) && follows ||
		!slices.Contains(r.Pools, home) && exists && !slices.Contains(r.Pools, h.Pool)) {
		return home
	}
	if h.Pool == "" && home == "" && len(r.Pools) == 1 {
		return r.Pools[0]
	}
	return cmp.Or(h.Pool, home)
}

// content reports whether the request needs no other address in place of the one it holds.
func (b *book) content(h *holding) bool {
	r := b.requests[h.request]
	if addr, asks := b.asks(h.request, FamilyOf(h.addr)); asks {
		return h.addr == addr
	}
	if r.Pinned && !slices.Contains(slices.Concat(r.Pools, r.Barred), h.pool) {
		return false
	}
	return !r.Renumber || b.open(h.pool) && h.pool == containing(b.pools, h.addr) && !slices.Contains(r.Barred, h.pool)
}

// step makes the first move that anybody can make, for an address by name (0), for one
// that was preferred and free (1), or for any (2).
func (b *book) step(rank int) bool {
	byName := rank == 0
	for _, i := range b.order {
		r := b.requests[i]
		if r.Frozen || b.foreign[i] {
			continue
		}
		for _, w := range r.Families {
			named, asks := b.asks(i, w.Family)
			held := b.of(i, w.Family)
			if byName != asks || !asks && b.prefers[familyKey(i, w.Family)] != (rank == 1) || len(held) > 0 && b.content(held[0]) || len(held) == 2 {
				continue
			}
			if rank == 1 && !b.preferred(i, w.Family).IsValid() { // taken by name, or by another that prefers it
				delete(b.prefers, familyKey(i, w.Family))
				continue
			}
			for _, a := range b.choices(i, w.Family) {
				if !byName || a == named {
					b.move(i, held, a)
					return true
				}
			}
		}
	}
	return false
}

func (b *book) move(i int, held []*holding, to netip.Addr) {
	if len(held) == 1 && b.requests[i].Renumber {
		held[0].leaving = true
	} else if len(held) == 1 {
		old := *held[0]
		b.rows = slices.DeleteFunc(b.rows, func(h holding) bool { return h == old })
	}
	b.rows = append(b.rows, holding{i, to, containing(b.pools, to), false})
}

// choices are the addresses that the request could have now, the best first:
// those that it would share, and then the others.
func (b *book) choices(i int, f Family) (choices []netip.Addr) {
	r := b.requests[i]
	if a := b.preferred(i, f); a.IsValid() && !slices.ContainsFunc(r.Addrs, func(a netip.Addr) bool { return FamilyOf(a) == f }) {
		choices = append(choices, a)
	}
	external := func(addr netip.Addr) bool {
		return slices.ContainsFunc(b.requests, func(r Request) bool {
			return r.Role == ExternalIPs && slices.ContainsFunc(r.Have, func(h Have) bool { return h.Addr == addr })
		})
	}
	for pass := range 3 {
		shared := pass == 0
		for _, name := range r.Pools {
			for _, a := range given(b.pools, name) {
				byName := slices.Contains(r.Addrs, a)
				taken := slices.ContainsFunc(b.rows, func(h holding) bool { return h.addr == a })
				if FamilyOf(a) == f && taken == shared && (shared || external(a) == (pass == 2)) && accepting(b.pools, name, &r, byName) &&
					b.may(i, a) && !b.blocked(a) && !slices.Contains(r.Release, a) {
					choices = append(choices, a)
				}
			}
		}
	}
	return choices
}

// blocked reports whether a status that is not ours to write shows the address.
func (b *book) blocked(addr netip.Addr) bool {
	return b.blockedBy(addr, Stranger, Deleted, Owner)
}

func (b *book) blockedBy(addr netip.Addr, roles ...Role) bool {
	for i, r := range b.requests {
		if b.foreign[i] && slices.Contains(roles, r.Role) && slices.ContainsFunc(r.Have, func(h Have) bool { return h.Addr == addr }) {
			return true
		}
	}
	return false
}
