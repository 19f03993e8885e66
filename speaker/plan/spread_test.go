package plan

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-io/fairlead/config"
)

// owned has the owner of each address.
type owned map[netip.Addr]string

// spreadRule chooses the owners of addresses among nodes. A rule with state keeps the owners
// before, as far as these nodes are left.
type spreadRule struct {
	name   string
	owners func(nodes []string, addrs []netip.Addr, before owned, random *rand.Rand) owned
}

// spreadRules are Fairlead's rule, and those of others as their documentation and code
// describe them, simulated.
var spreadRules = []spreadRule{
	{"Fairlead: its plan", planOwners},
	{"MetalLB: the lowest SHA-256 of NODE#ADDRESS", func(nodes []string, addrs []netip.Addr, _ owned, _ *rand.Rand) owned {
		is := owned{}
		for _, a := range addrs {
			var lowest [sha256.Size]byte
			for _, n := range nodes {
				if sum := sha256.Sum256([]byte(n + "#" + a.String())); is[a] == "" || bytes.Compare(sum[:], lowest[:]) < 0 {
					is[a], lowest = n, sum
				}
			}
		}
		return is
	}},
	{
		"Cilium, and kube-vip with svc_election: a lease for each Service, of a random node",
		keepOwners(func(nodes []string, _ owned, random *rand.Rand) string { return nodes[random.IntN(len(nodes))] }),
	},
	{"kube-vip: one lease", keepOwners(func(nodes []string, is owned, random *rand.Rand) string {
		for _, n := range is {
			return n
		}
		return nodes[random.IntN(len(nodes))]
	})},
	{"the least loaded node, with state", keepOwners(func(nodes []string, is owned, _ *rand.Rand) string {
		load := loadOf(nodes, is)
		return slices.MinFunc(nodes, func(x, y string) int { return load[x] - load[y] })
	})},
	{"rendezvous hashing with a load of at most 1.25 times the mean", boundedOwners},
}

// spreadServices are the Services with the addresses of planOwners.
var spreadServices = map[netip.Addr]*corev1.Service{}

func planOwners(nodes []string, addrs []netip.Addr, _ owned, _ *rand.Rand) owned {
	var all []*corev1.Node
	for _, n := range nodes {
		all = append(all, node(n))
	}
	s := weightedSnapshot(all, 0)
	for _, a := range addrs {
		if spreadServices[a] == nil {
			spreadServices[a] = service(a.String(), a.String(), "p")
		}
		s.Services = append(s.Services, spreadServices[a])
	}
	is, d := owned{}, newDecision(s)
	for _, h := range heldAddresses(s.Services) {
		segments, _ := d.rankNodes(d.resolveAddress(h), nil)
		is[h.addr] = segments[0][0].name
	}
	return is
}

// keepOwners returns a rule that chooses the owner of an address without one.
func keepOwners(choose func(nodes []string, is owned, random *rand.Rand) string) func([]string, []netip.Addr, owned, *rand.Rand) owned {
	return func(nodes []string, addrs []netip.Addr, before owned, random *rand.Rand) owned {
		is := owned{}
		for _, a := range addrs {
			if slices.Contains(nodes, before[a]) {
				is[a] = before[a]
			}
		}
		for _, a := range addrs {
			if is[a] == "" {
				is[a] = choose(nodes, is, random)
			}
		}
		return is
	}
}

// boundedOwners passes over nodes that have their share already, in the order of the
// addresses (consistent hashing with bounded loads, Mirrokni, Thorup and Zadimoghaddam 2016).
func boundedOwners(nodes []string, addrs []netip.Addr, _ owned, _ *rand.Rand) owned {
	is, load := owned{}, map[string]int{}
	most := (5*len(addrs) + 4*len(nodes) - 1) / (4 * len(nodes))
	for _, a := range addrs {
		score := map[string]uint64{}
		for _, n := range nodes {
			score[n] = config.RendezvousScore(config.RankSeed(n), a)
		}
		open := slices.DeleteFunc(slices.Clone(nodes), func(n string) bool { return load[n] >= most })
		is[a] = slices.MaxFunc(open, func(x, y string) int {
			if score[x] < score[y] {
				return -1
			}
			return 1
		})
		load[is[a]]++
	}
	return is
}

func loadOf(nodes []string, is owned) map[string]int {
	load := make(map[string]int, len(nodes))
	for _, n := range is {
		load[n]++
	}
	return load
}

// moved counts the addresses of both that have another owner.
func moved(before, after owned) (n int) {
	for a, owner := range after {
		if was, held := before[a]; held && was != owner {
			n++
		}
	}
	return n
}

// spreadFigures are means and largest values of several clusters.
type spreadFigures struct {
	maxLoad, worstLoad    float64 // relative to the mean load
	joined, left          float64 // moved addresses
	owned                 float64 // addresses of the node that left
	deleted, worstDeleted float64 // moved addresses of other Services
}

// simulate lets a rule choose owners in clusters with different names of nodes; then a node
// joins, one leaves, and single Services are deleted.
func (r spreadRule) simulate(clusters, nodes, services int) (f spreadFigures) {
	const deletions = 5
	var addrs []netip.Addr
	for a := netip.MustParseAddr("10.1.0.0"); len(addrs) < services; a = a.Next() {
		addrs = append(addrs, a)
	}
	for c := range clusters {
		random := rand.New(rand.NewPCG(uint64(c), 1))
		var names []string
		for n := range nodes + 1 {
			names = append(names, fmt.Sprintf("cluster-%d-node-%d", c, n))
		}
		is := r.owners(names[:nodes], addrs, nil, random)
		load := loadOf(names, is)
		most := float64(slices.Max(slices.Collect(maps.Values(load)))) * float64(nodes) / float64(services)
		f.maxLoad, f.worstLoad = f.maxLoad+most/float64(clusters), max(f.worstLoad, most)
		f.joined += float64(moved(is, r.owners(names, addrs, is, random))) / float64(clusters)
		f.left += float64(moved(is, r.owners(names[1:nodes], addrs, is, random))) / float64(clusters)
		f.owned += float64(load[names[0]]) / float64(clusters)
		for range deletions {
			i := random.IntN(services)
			n := float64(moved(is, r.owners(names[:nodes], slices.Delete(slices.Clone(addrs), i, i+1), is, random)))
			f.deleted, f.worstDeleted = f.deleted+n/float64(clusters*deletions), max(f.worstDeleted, n)
		}
	}
	return f
}

// BenchmarkSpread prints how evenly rules spread addresses over nodes, and how many move
// when a node joins or leaves, or another Service is deleted. The time is that of all.
func BenchmarkSpread(b *testing.B) {
	for _, r := range spreadRules {
		b.Run(strings.ReplaceAll(r.name, " ", "_"), func(b *testing.B) {
			var table strings.Builder
			for b.Loop() {
				table.Reset()
				for _, services := range []int{16, 100, 1000} {
					for _, nodes := range []int{3, 10, 50} {
						f, least := r.simulate(100, nodes, services), (services+nodes-1)/nodes
						fmt.Fprintf(&table, "%4d addresses, %2d nodes: max/mean %5.2f, at most %5.2f, least possible %4.2f; "+
							"moved: join %6.1f (least %5.1f), leave %6.1f (owned %6.1f), another Service deleted %5.2f, at most %3.0f\n",
							services, nodes, f.maxLoad, f.worstLoad, float64(least*nodes)/float64(services),
							f.joined, float64(services)/float64(nodes+1), f.left, f.owned, f.deleted, f.worstDeleted)
					}
				}
			}
			b.Log(strings.TrimSpace(table.String()))
		})
	}
}
