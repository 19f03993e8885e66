package allocator

import (
	"fmt"
	"math/big"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// mayShare says it in other words than Terms.against.
func mayShare(a, b Terms) bool {
	ports := map[Port]int{}
	for _, p := range slices.Concat(a.Ports, b.Ports) {
		if ports[p]++; ports[p] > 1 {
			return false
		}
	}
	everywhere := a.Cluster && b.Cluster
	samePods := a.Backends != "" && a.Backends == b.Backends
	return a.Key != "" && a.Key == b.Key && (everywhere || samePods)
}

// holders are the places of the requests that hold an address, and of those
// that show one in a status which is not ours to write.
func holders(requests []Request, got []Assignment) (holding, showing map[netip.Addr][]int) {
	holding, showing = map[netip.Addr][]int{}, map[netip.Addr][]int{}
	for i, a := range got {
		for _, h := range a.Held {
			holding[h.Addr] = append(holding[h.Addr], i)
		}
		for _, h := range requests[i].Have {
			if requests[i].Role == Stranger || requests[i].Role == Deleted || requests[i].Role == Owner && foreign(a) {
				showing[h.Addr] = append(showing[h.Addr], i)
			}
		}
	}
	return holding, showing
}

// Law 1: an address belongs to several requests only if their terms allow
// each other, all of them.
func TestLawUnique(t *testing.T) {
	checkWorlds(t, func(t *rapid.T, pools []Pool, requests []Request) {
		holding, _ := holders(requests, Allocate(NewPools(pools, nil), requests).Assignments)
		for addr, all := range holding {
			for n, i := range all {
				for _, j := range all[:n] {
					if !mayShare(requests[i].Share, requests[j].Share) {
						t.Fatalf("%s belongs to %s and %s", addr, requests[i].Key, requests[j].Key)
					}
				}
			}
		}
	})
}

// Law 2: an owner's address changes only because its own request asks for
// another address, pool or family, releases it, or departs from the terms under
// which it is shared. Neither pools nor other requests move it, unless an owner
// shows the same address whose terms are no newer and do not allow it. Who
// renumbers keeps two of a family.
func TestLawSticky(t *testing.T) {
	checkWorlds(t, func(t *rapid.T, pools []Pool, requests []Request) {
		got := Allocate(NewPools(pools, nil), requests).Assignments
		for i, r := range requests {
			if r.Role != Owner {
				continue
			}
			for _, f := range []Family{IPv4, IPv6} {
				for _, h := range mustKeep(pools, requests, i, f) {
					if !slices.ContainsFunc(got[i].Held, func(x Held) bool { return x.Addr == h.Addr }) {
						t.Fatalf("%s lost %s: %+v", r.Key, h.Addr, got[i])
					}
				}
			}
		}
	})
}

// mustKeep are the addresses of the family that nothing can take from the i-th request.
func mustKeep(pools []Pool, requests []Request, i int, f Family) (keep []Have) {
	r := requests[i]
	wanted := r.Frozen || slices.ContainsFunc(r.Families, func(w Want) bool { return w.Family == f })
	for _, h := range r.Have {
		if FamilyOf(h.Addr) != f || h.Evidence != RecordedAndShown || !wanted || slices.Contains(r.Release, h.Addr) {
			continue
		}
		if disputed(requests, i, h.Addr) {
			return nil // whatever becomes of it, it may stand in the others' place
		}
		keep = append(keep, h)
	}
	slices.SortStableFunc(keep, func(a, b Have) int { return later(a.Leaving) - later(b.Leaving) })
	if r.Frozen || r.Renumber {
		return keep[:min(2, len(keep))]
	}
	keep = keep[:min(1, len(keep))]
	return slices.DeleteFunc(keep, func(h Have) bool {
		if slices.ContainsFunc(r.Have, func(o Have) bool { return isReplacement(&r, o, h) }) {
			return true // it may be assigned again
		}
		asksOther := slices.ContainsFunc(r.Addrs, func(a netip.Addr) bool { return FamilyOf(a) == f && a != h.Addr })
		asks := slices.Contains(r.Addrs, h.Addr)
		named := slices.Concat(r.Pools, r.Barred)
		return asksOther || !asks && r.Pinned && !slices.Contains(named, h.Pool) && !slices.Contains(named, containing(pools, h.Addr))
	})
}

// later sorts the addresses that are leaving behind the others.
func later(leaving bool) int {
	if leaving {
		return 1
	}
	return 0
}

// disputed reports whether another owner shows the address too, and has a
// right to it that is no worse.
func disputed(requests []Request, i int, addr netip.Addr) bool {
	for j, o := range requests {
		shows := slices.ContainsFunc(o.Have, func(h Have) bool { return h.Addr == addr })
		if j != i && shows && o.Role == Owner && !mayShare(requests[i].Share, o.Share) && (requests[i].Departed || !o.Departed) {
			return true
		}
	}
	return false
}

// containing is the name of the pool that contains the address.
func containing(pools []Pool, addr netip.Addr) string {
	for _, p := range pools {
		if slices.Contains(enumerate(p), addr) {
			return p.Name
		}
	}
	return ""
}

// Law 3: who does not change its request keeps what it has, and the roles and
// records of what it has, whatever the pools and the other requests become.
func TestLawInnocent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pools, requests := somePools(t), someRequests(t)
		first := Allocate(NewPools(pools, nil), requests)
		settled := written(requests, first)
		next, changed := edited(t, settled)
		second := Allocate(NewPools(somePools(t), nil), next)
		for i, a := range first.Assignments {
			if changed[i] || settled[i].Role != Owner {
				continue
			}
			had, has := addrs(a.Held), addrs(second.Assignments[i].Held)
			pending := len(a.Missing) > 0 || next[i].Renumber // is still to get something
			if !pending && !slices.Equal(had, has) ||
				slices.ContainsFunc(had, func(x netip.Addr) bool { return !pending && !slices.Contains(has, x) }) {
				// A pool that the Service asks for may have become another one.
				if next[i].Pinned || len(next[i].Addrs) > 0 {
					continue
				}
				t.Fatalf("%s held %v, then %v", next[i].Key, had, has)
			}
		}
	})
}

func addrs(held []Held) (addrs []netip.Addr) {
	for _, h := range held {
		addrs = append(addrs, h.Addr)
	}
	return addrs
}

// Law 4: who renumbers holds two of a family at most, one of them leaving;
// everybody else one, unless it is frozen with what it has.
func TestLawRenumber(t *testing.T) {
	checkWorlds(t, func(t *rapid.T, pools []Pool, requests []Request) {
		for i, a := range Allocate(NewPools(pools, nil), requests).Assignments {
			r := requests[i]
			for _, f := range []Family{IPv4, IPv6} {
				var staying, leaving int
				for _, h := range a.Held {
					switch {
					case FamilyOf(h.Addr) != f:
					case h.Leaving && staying == 0:
						leaving++
					case !h.Leaving:
						staying++
					default:
						t.Fatalf("%s: the one that leaves comes last: %v", r.Key, a.Held)
					}
				}
				if staying > 1 || leaving > staying || leaving > 0 && !r.Renumber && !r.Frozen {
					t.Fatalf("%s holds %v", r.Key, a.Held)
				}
			}
		}
	})
}

// Law 5: every new address is one that the request may have.
func TestLawNewAddresses(t *testing.T) {
	checkWorlds(t, func(t *rapid.T, pools []Pool, requests []Request) {
		got := Allocate(NewPools(pools, nil), requests).Assignments
		_, showing := holders(requests, got)
		for i, r := range requests {
			for _, h := range got[i].Held {
				if slices.ContainsFunc(r.Have, func(x Have) bool { return x.Addr == h.Addr }) {
					continue
				}
				asked := slices.Contains(r.Addrs, h.Addr) || slices.Contains(r.Prefer, h.Addr)
				if h.OutOfPool || h.Unselected || r.Frozen || r.Role != Owner || slices.Contains(r.Release, h.Addr) || showing[h.Addr] != nil ||
					!accepting(pools, h.Pool, &r, asked) || !slices.Contains(given(pools, h.Pool), h.Addr) {
					t.Fatalf("%s may not have %s of %s: %+v", r.Key, h.Addr, h.Pool, r)
				}
			}
		}
	})
}

// accepting reports whether the pool of the name gives something to the request.
func accepting(pools []Pool, name string, r *Request, byName bool) bool {
	i := slices.IndexFunc(pools, func(p Pool) bool { return p.Name == name })
	return i >= 0 && slices.Contains(r.Pools, name) && !pools[i].Closed && (pools[i].Auto || r.Pinned || byName)
}

// given are the addresses that the pool of the name gives.
func given(pools []Pool, name string) (all []netip.Addr) {
	for _, p := range pools {
		for _, a := range enumerate(p) {
			reserved := slices.ContainsFunc(p.Reserved, func(r Reserved) bool { return r.Contains(a) })
			avoided := p.AvoidBuggyIPs && (strings.HasSuffix(a.String(), ".0") || strings.HasSuffix(a.String(), ".255"))
			if p.Name == name && !reserved && !avoided {
				all = append(all, a)
			}
		}
	}
	return all
}

// enumerate lists what a pool contains.
func enumerate(p Pool) (all []netip.Addr) {
	for _, r := range p.Ranges {
		for a := r.From(); a.IsValid() && !r.To().Less(a); a = a.Next() {
			all = append(all, a)
		}
	}
	return all
}

// Law 6: every "no" is true, and who gets nothing is told so.
func TestLawHonest(t *testing.T) {
	checkWorlds(t, func(t *rapid.T, pools []Pool, requests []Request) {
		got := Allocate(NewPools(pools, nil), requests).Assignments
		for i, r := range requests {
			for _, m := range got[i].Missing {
				if lie := untrue(pools, requests, got, i, m); lie != "" {
					t.Fatalf("%s: %s %q, but %s", r.Key, m.Reason, m.Message, lie)
				}
			}
			for _, w := range r.Families {
				holds := slices.ContainsFunc(got[i].Held, func(h Held) bool { return FamilyOf(h.Addr) == w.Family })
				told := slices.ContainsFunc(got[i].Missing, func(m Missing) bool { return m.Family == w.Family })
				if !holds && !told && !r.Frozen && r.Role == Owner && !foreign(got[i]) {
					t.Fatalf("%s has no %s address and does not know why", r.Key, w.Family)
				}
			}
			required := func(m Missing) bool { return !m.Optional }
			if len(got[i].Held) == 0 && len(got[i].Missing) > 0 && !slices.ContainsFunc(got[i].Missing, required) {
				t.Fatalf("%s can do without everything", r.Key)
			}
		}
	})
}

// untrue says what is wrong with a refusal.
func untrue(pools []Pool, requests []Request, got []Assignment, i int, m Missing) string {
	r := requests[i]
	var asked netip.Addr
	for _, a := range r.Addrs {
		if FamilyOf(a) == m.Family {
			asked = a
		}
	}
	home := containing(pools, asked)
	holding, showing := holders(requests, got)
	if _, kept, found := strings.Cut(m.Message, "; "); found && strings.HasSuffix(kept, " is kept until then") {
		a, _, _ := strings.Cut(kept[strings.LastIndex(kept, "; ")+1:], " is kept")
		if !slices.Contains(addrs(got[i].Held), netip.MustParseAddr(strings.TrimSpace(a))) {
			return a + " is not kept"
		}
	}
	switch m.Reason {
	case v1alpha1.AddressTaken:
		about := []netip.Addr{asked}
		for _, h := range r.Have {
			if r.Frozen { // it asks for nothing, and may have lost what it shows
				about = append(about, h.Addr)
			}
		}
		for _, a := range about {
			for _, j := range holding[a] {
				if j != i && !mayShare(r.Share, requests[j].Share) && strings.Contains(m.Message, requests[j].Key.String()) {
					return ""
				}
			}
			for _, j := range showing[a] {
				if strings.Contains(m.Message, requests[j].Key.String()) {
					return ""
				}
			}
		}
		return fmt.Sprintf("it belongs to %v and is shown by %v", holding[asked], showing[asked])
	case v1alpha1.AddressNotInPool:
		if accepting(pools, home, &r, true) {
			return "pool " + home + " has it"
		}
	case v1alpha1.ConflictingRequest:
		if !slices.Contains(r.Release, asked) && (!r.Pinned || slices.Contains(r.Pools, home)) {
			return "nothing conflicts"
		}
	case v1alpha1.AddressReserved:
		if slices.Contains(given(pools, home), asked) {
			return "pool " + home + " gives it"
		}
	case v1alpha1.Renumbering:
		if n := len(slices.DeleteFunc(addrs(got[i].Held), func(a netip.Addr) bool { return FamilyOf(a) != m.Family })); n != 2 || !r.Renumber {
			return fmt.Sprintf("it holds %d", n)
		}
	case v1alpha1.PoolExhausted, v1alpha1.NoMatchingPool:
		return notExhausted(pools, requests, got, i, m)
	case v1alpha1.ForeignStatus:
		if slices.ContainsFunc(r.Have, func(h Have) bool { return h.Evidence != Shown }) || len(got[i].Held) > 0 {
			return fmt.Sprintf("it has role %d and holds %v", r.Role, got[i].Held)
		}
	default:
		return "there is no such reason"
	}
	return ""
}

// notExhausted names an address that the request could have.
func notExhausted(pools []Pool, requests []Request, got []Assignment, i int, m Missing) string {
	r := requests[i]
	holding, showing := holders(requests, got)
	gives := false
	for _, p := range pools {
		if !accepting(pools, p.Name, &r, false) {
			continue
		}
		gives = gives || slices.ContainsFunc(enumerate(p), func(a netip.Addr) bool { return FamilyOf(a) == m.Family })
		for _, a := range given(pools, p.Name) {
			inTheWay := func(j int) bool { return j == i || !mayShare(r.Share, requests[j].Share) }
			if FamilyOf(a) == m.Family && showing[a] == nil && !slices.Contains(r.Release, a) && !slices.ContainsFunc(holding[a], inTheWay) {
				return a.String() + " would do"
			}
		}
	}
	if gives != (m.Reason == v1alpha1.PoolExhausted) {
		return fmt.Sprintf("that some pool could give one is %v", gives)
	}
	return ""
}

// Law 7: the answer depends on the set of requests only, and is final. The
// question is not changed.
func TestLawFinal(t *testing.T) {
	checkWorlds(t, func(t *rapid.T, pools []Pool, requests []Request) {
		asked := fmt.Sprintf("%+v %+v", pools, requests)
		got := allocate(pools, requests)
		if now := fmt.Sprintf("%+v %+v", pools, requests); now != asked {
			t.Fatalf("the question has changed:\n%s\n%s", asked, now)
		}
		otherPools, otherRequests := rapid.Permutation(pools).Draw(t, "order"), rapid.Permutation(requests).Draw(t, "order")
		if again := allocate(otherPools, otherRequests); !reflect.DeepEqual(got, again) {
			t.Fatalf("another order, another answer:\n%v\n%v", got, again)
		}
		next := written(requests, Allocate(NewPools(pools, nil), requests))
		again := allocate(pools, next)
		for _, r := range next {
			// The address in a status that was left to another controller may be free by now.
			if r.Role == Owner && !foreign(got[r.Key]) && !reflect.DeepEqual(got[r.Key].Held, again[r.Key].Held) {
				t.Fatalf("%s held %v, then %v", r.Key, got[r.Key].Held, again[r.Key].Held)
			}
		}
	})
}

// Law 8: the counts of a pool are those that one gets by counting.
func TestLawUsage(t *testing.T) {
	checkWorlds(t, func(t *rapid.T, pools []Pool, requests []Request) {
		got := Allocate(NewPools(pools, nil), requests)
		holding, showing := holders(requests, got.Assignments)
		for i, p := range pools {
			want := Usage{Capacity: [2]*big.Int{new(big.Int), new(big.Int)}, Free: [2]*big.Int{new(big.Int), new(big.Int)}}
			gives := given(pools, p.Name)
			for _, a := range enumerate(p) {
				f, taken := familyIndex(FamilyOf(a)), holding[a] != nil || showing[a] != nil
				if taken {
					want.Used[f]++
				}
				if slices.Contains(gives, a) {
					want.Capacity[f].Add(want.Capacity[f], big.NewInt(1))
				}
				if slices.Contains(gives, a) && !taken && !p.Closed {
					want.Free[f].Add(want.Free[f], big.NewInt(1))
				}
			}
			if a, b := fmt.Sprint(got.Pools[i]), fmt.Sprint(want); a != b {
				t.Fatalf("pool %s: %s, counted %s", p.Name, a, b)
			}
		}
	})
}
