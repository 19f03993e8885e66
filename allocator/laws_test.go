package allocator

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// Everything is drawn from a few addresses, so that requests collide often.
var (
	someAddrs = rapid.Custom(func(t *rapid.T) netip.Addr {
		i := rapid.IntRange(0, 11).Draw(t, "host")
		if rapid.Bool().Draw(t, "v6") {
			return netip.AddrFrom16([16]byte{0x20, 0x01, 0xd, 0xb8, 15: byte(i)})
		}
		return netip.AddrFrom4([4]byte{192, 0, 2, byte(i)})
	})
	poolNames = []string{"p", "q", "r", "gone"}
)

func somePools(t *rapid.T) (pools []Pool) {
	// Disjoint, as config.Parse makes them: the pools share out a few blocks.
	blocks := []string{"192.0.2.0-192.0.2.2", "192.0.2.4/31", "192.0.2.6-192.0.2.9", "2001:db8::/127", "2001:db8::4/126", "2001:db8::9/128"}
	owned := map[string][]string{}
	for _, b := range blocks {
		name := rapid.SampledFrom(append(poolNames, "nobody")).Draw(t, "owner of "+b)
		owned[name] = append(owned[name], b)
	}
	for _, name := range poolNames[:3] {
		p := pool(name, owned[name]...)
		p.Auto = rapid.IntRange(0, 3).Draw(t, "auto") > 0
		p.Closed = rapid.IntRange(0, 5).Draw(t, "closed") == 0
		pools = append(pools, p)
	}
	return rapid.Permutation(pools).Draw(t, "pools")
}

func someRequest(t *rapid.T, i int) Request {
	r := Request{
		Key:      key(fmt.Sprintf("s%02d", i)),
		Since:    time.Unix(rapid.Int64Range(0, 3).Draw(t, "since"), 0),
		Standing: rapid.SampledFrom([]Standing{Owner, Owner, Owner, Adopter, Stranger}).Draw(t, "standing"),
		Frozen:   rapid.IntRange(0, 9).Draw(t, "frozen") == 0,
		Families: rapid.SampledFrom([][]Want{{{IPv4, false}}, {{IPv6, false}}, {{IPv4, false}, {IPv6, true}}, {{IPv6, false}, {IPv4, false}}}).Draw(t, "families"),
		Pools:    rapid.Permutation(poolNames).Draw(t, "pools")[:rapid.IntRange(0, 4).Draw(t, "pools")],
	}
	kinds := FamilyOf // one address of a family, as we write it
	if r.Standing != Owner {
		kinds = func(netip.Addr) Family { return Family(rapid.Byte().Draw(t, "kind")) }
	}
	for _, a := range rapid.SliceOfNDistinct(someAddrs, 0, 2, kinds).Draw(t, "have") {
		r.Have = append(r.Have, Have{a, rapid.SampledFrom(append(poolNames, "")).Draw(t, "recorded")})
	}
	if rapid.IntRange(0, 3).Draw(t, "asks") == 0 {
		r.Addrs = rapid.SliceOfNDistinct(someAddrs, 1, 2, FamilyOf).Draw(t, "addrs")
	}
	if len(r.Pools) > 0 && rapid.IntRange(0, 4).Draw(t, "pinned") == 0 {
		r.Pools, r.Pinned = r.Pools[:1], true
	}
	return r
}

func someRequests(t *rapid.T) (requests []Request) {
	for i := range rapid.IntRange(0, 12).Draw(t, "n") {
		requests = append(requests, someRequest(t, i))
	}
	return requests
}

// Law 1: an address belongs to one request at most.
func TestLawUnique(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		owners := map[netip.Addr]types.NamespacedName{}
		for k, a := range Allocate(somePools(t), someRequests(t)) {
			for _, h := range a.Held {
				if other, taken := owners[h.Addr]; taken {
					t.Fatalf("%s belongs to %s and %s", h.Addr, other, k)
				}
				owners[h.Addr] = k
			}
		}
	})
}

// Law 2: an owner's address changes only because its own request asks for
// another address, pool or family; nothing in the pools or in other requests
// moves it, unless an older owner shows the same address.
func TestLawSticky(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pools, requests := somePools(t), someRequests(t)
		got := Allocate(pools, requests)
		for _, r := range requests {
			for _, h := range r.Have {
				asks := r.Pinned && !slices.Contains(r.Pools, heldPool(pools, h)) ||
					slices.ContainsFunc(r.Addrs, func(a netip.Addr) bool { return FamilyOf(a) == FamilyOf(h.Addr) && a != h.Addr })
				wanted := r.Frozen || slices.ContainsFunc(r.Families, func(w Want) bool { return w.Family == FamilyOf(h.Addr) })
				disputed := slices.ContainsFunc(requests, func(o Request) bool {
					return o.Key != r.Key && o.Standing == Owner && slices.ContainsFunc(o.Have, func(x Have) bool { return x.Addr == h.Addr })
				})
				if r.Standing != Owner || (asks && !r.Frozen) || !wanted || disputed {
					continue
				}
				if !slices.ContainsFunc(got[r.Key].Held, func(x Held) bool { return x.Addr == h.Addr }) {
					t.Fatalf("%s lost %s: %+v", r.Key, h.Addr, got[r.Key])
				}
			}
		}
	})
}

// heldPool is the pool that a held address counts to.
func heldPool(pools []Pool, h Have) string {
	if h.Pool != "" {
		return h.Pool
	}
	for i := range pools {
		if enumerate(pools[i])[h.Addr] {
			return pools[i].Name
		}
	}
	return ""
}

// Law 3: every new address is one that the request may have, and every "no" is true.
func TestLawHonest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pools, requests := somePools(t), someRequests(t)
		got := Allocate(pools, requests)
		owner := map[netip.Addr]types.NamespacedName{}
		for k, a := range got {
			for _, h := range a.Held {
				owner[h.Addr] = k
			}
		}
		shown := map[netip.Addr][]types.NamespacedName{}
		for _, r := range requests {
			lost := slices.ContainsFunc(got[r.Key].Missing, func(m Refusal) bool { return m.Reason == v1alpha1.ForeignStatus })
			for _, h := range r.Have {
				if r.Standing == Stranger || lost {
					shown[h.Addr] = append(shown[h.Addr], r.Key)
				}
			}
		}
		byName := map[string]Pool{}
		for _, p := range pools {
			byName[p.Name] = p
		}
		for _, r := range requests {
			for _, h := range got[r.Key].Held {
				had := slices.ContainsFunc(r.Have, func(x Have) bool { return x.Addr == h.Addr })
				p := byName[h.Pool]
				mayHave := slices.Contains(r.Pools, h.Pool) && !p.Closed && enumerate(p)[h.Addr] &&
					(p.Auto || r.Pinned || slices.Contains(r.Addrs, h.Addr))
				if !had && (!mayHave || r.Frozen || r.Standing == Stranger || shown[h.Addr] != nil) {
					t.Fatalf("%s may not have %s of %s", r.Key, h.Addr, h.Pool)
				}
			}
			for _, m := range got[r.Key].Missing {
				asked := slices.IndexFunc(r.Addrs, func(a netip.Addr) bool { return FamilyOf(a) == m.Family })
				switch m.Reason {
				case v1alpha1.AddressTaken:
					others := shown[r.Addrs[asked]]
					if o, taken := owner[r.Addrs[asked]]; taken {
						others = []types.NamespacedName{o}
					}
					if !slices.ContainsFunc(others, func(o types.NamespacedName) bool { return o != r.Key && strings.Contains(m.Message, o.String()) }) {
						t.Fatalf("%s: %q, but it belongs to %v", r.Key, m.Message, others)
					}
				case v1alpha1.AddressNotInPool:
					for _, name := range r.Pools {
						if p := byName[name]; !p.Closed && enumerate(p)[r.Addrs[asked]] {
							t.Fatalf("%s: %q, but pool %s has it", r.Key, m.Message, name)
						}
					}
				case v1alpha1.PoolExhausted, v1alpha1.NoMatchingPool:
					for _, name := range r.Pools {
						for a := range enumerate(byName[name]) {
							if _, taken := owner[a]; !taken && shown[a] == nil && FamilyOf(a) == m.Family && !byName[name].Closed && (byName[name].Auto || r.Pinned) {
								t.Fatalf("%s: %q, but %s is free", r.Key, m.Message, a)
							}
						}
					}
				case v1alpha1.ForeignStatus:
					if r.Standing != Adopter || len(got[r.Key].Held) > 0 {
						t.Fatalf("%s: %q, standing %d, holds %v", r.Key, m.Message, r.Standing, got[r.Key].Held)
					}
				default:
					t.Fatalf("%s: unexpected reason %s", r.Key, m.Reason)
				}
			}
		}
	})
}

// Law 4: the answer depends on the set of requests only, and is final.
func TestLawFinal(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pools, requests := somePools(t), someRequests(t)
		got := Allocate(pools, requests)
		if again := Allocate(pools, rapid.Permutation(requests).Draw(t, "order")); !reflect.DeepEqual(got, again) {
			t.Fatalf("another order, another answer:\n%v\n%v", got, again)
		}
		next := slices.Clone(requests)
		for i, r := range next {
			lost := slices.ContainsFunc(got[r.Key].Missing, func(m Refusal) bool { return m.Reason == v1alpha1.ForeignStatus })
			if r.Standing == Stranger || lost {
				continue // their status is not ours to write
			}
			next[i].Standing, next[i].Have = Owner, nil
			for _, h := range got[r.Key].Held {
				next[i].Have = append(next[i].Have, Have{h.Addr, h.Pool})
			}
		}
		again := Allocate(pools, next)
		for _, r := range next {
			if r.Standing == Owner && !reflect.DeepEqual(got[r.Key].Held, again[r.Key].Held) {
				t.Fatalf("%s held %v, then %v", r.Key, got[r.Key].Held, again[r.Key].Held)
			}
		}
	})
}

// TestOracle compares with the plainest allocator that obeys the same rules.
func TestOracle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pools, requests := somePools(t), someRequests(t)
		got := Allocate(pools, requests)
		want := oracle(pools, requests)
		for _, r := range requests {
			var addrs []netip.Addr
			lost := slices.ContainsFunc(got[r.Key].Missing, func(m Refusal) bool { return m.Reason == v1alpha1.ForeignStatus })
			if r.Standing == Stranger || lost {
				continue // the oracle has it hold what it shows
			}
			for _, h := range got[r.Key].Held {
				addrs = append(addrs, h.Addr)
			}
			slices.SortFunc(want[r.Key], netip.Addr.Compare)
			if !slices.Equal(addrs, want[r.Key]) {
				t.Fatalf("%s: got %v, the oracle says %v", r.Key, addrs, want[r.Key])
			}
		}
	})
}

func enumerate(p Pool) map[netip.Addr]bool {
	all := map[netip.Addr]bool{}
	for _, r := range p.Ranges {
		for a := r.From(); a.IsValid() && !r.To().Less(a); a = a.Next() {
			all[a] = true
		}
	}
	return all
}

// oracle lists every address, looks at every request for every question, and
// starts over after every single move.
func oracle(pools []Pool, requests []Request) map[types.NamespacedName][]netip.Addr {
	requests = slices.Clone(requests)
	slices.SortFunc(requests, func(a, b Request) int {
		return cmp.Or(a.Since.Compare(b.Since), strings.Compare(a.Key.String(), b.Key.String()))
	})
	holder := map[netip.Addr]types.NamespacedName{}
	from := map[netip.Addr]string{}
	foreign := map[types.NamespacedName]bool{}
	shown := map[netip.Addr]types.NamespacedName{}
	anyPool := func(a netip.Addr) string { return heldPool(pools, Have{a, ""}) }
	of := func(k types.NamespacedName, f Family) (netip.Addr, bool) {
		for a, o := range holder {
			if o == k && FamilyOf(a) == f {
				return a, true
			}
		}
		return netip.Addr{}, false
	}
	for _, standing := range []Standing{Owner, Adopter} {
		for _, r := range requests {
			if r.Standing != standing {
				continue
			}
			families := map[Family]bool{}
			for _, w := range r.Families {
				families[w.Family] = true
			}
			seen := map[Family]bool{}
			for _, h := range r.Have {
				f := FamilyOf(h.Addr)
				_, taken := holder[h.Addr]
				if standing == Adopter && (taken || anyPool(h.Addr) == "" || !families[f] || seen[f]) {
					foreign[r.Key] = true
				}
				seen[f] = true
			}
			for _, h := range r.Have {
				if _, taken := holder[h.Addr]; !taken && !foreign[r.Key] && (families[FamilyOf(h.Addr)] || r.Frozen) {
					holder[h.Addr], from[h.Addr] = r.Key, cmp.Or(h.Pool, anyPool(h.Addr))
				}
			}
		}
	}
	for _, r := range requests {
		for _, h := range r.Have {
			if r.Standing != Stranger && !foreign[r.Key] {
				continue
			}
			if _, taken := holder[h.Addr]; !taken {
				holder[h.Addr] = r.Key
			} else if _, taken := shown[h.Addr]; !taken {
				shown[h.Addr] = r.Key
			}
		}
	}
	step := func(byName bool) bool {
		for _, r := range requests {
			if r.Frozen || r.Standing == Stranger || foreign[r.Key] {
				continue
			}
			for _, w := range r.Families {
				have, held := of(r.Key, w.Family)
				i := slices.IndexFunc(r.Addrs, func(a netip.Addr) bool { return FamilyOf(a) == w.Family })
				if byName != (i >= 0) || !byName && held && (!r.Pinned || slices.Contains(r.Pools, from[have])) {
					continue
				}
				for _, name := range r.Pools {
					p := slices.IndexFunc(pools, func(p Pool) bool { return p.Name == name })
					if p < 0 || pools[p].Closed || !byName && !pools[p].Auto && !r.Pinned {
						continue
					}
					for _, a := range slices.SortedFunc(maps.Keys(enumerate(pools[p])), netip.Addr.Compare) {
						if _, taken := holder[a]; taken || FamilyOf(a) != w.Family || byName && a != r.Addrs[i] {
							continue
						}
						if held {
							delete(holder, have)
							if k, waits := shown[have]; waits {
								holder[have] = k
							}
						}
						holder[a], from[a] = r.Key, name
						return true
					}
				}
			}
		}
		return false
	}
	for step(true) || step(false) {
	}
	result := map[types.NamespacedName][]netip.Addr{}
	for a, k := range holder {
		result[k] = append(result[k], a)
	}
	return result
}
