package config

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"go4.org/netipx"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// somePools overlap often: their entries are of 40 addresses of each family.
func somePools(t *rapid.T) (pools []*v1alpha1.IPAddressPool) {
	for i := range rapid.IntRange(1, 6).Draw(t, "pools") {
		p := pool(fmt.Sprintf("p%d", i), rapid.Int64Range(1, 3).Draw(t, "age"))
		if rapid.IntRange(1, 4).Draw(t, "deleted") == 4 {
			p.DeletionTimestamp = &metav1.Time{}
		}
		p.Spec.AvoidBuggyIPs = rapid.Bool().Draw(t, "avoid")
		for range rapid.IntRange(0, 12).Draw(t, "entries") {
			prefix := rapid.SampledFrom([]string{"192.0.2.", "2001:db8::"}).Draw(t, "family")
			from := rapid.IntRange(0, 39).Draw(t, "from")
			entry := fmt.Sprintf("%s%d-%s%d", prefix, from, prefix, min(39, from+rapid.IntRange(-1, 6).Draw(t, "length")))
			if rapid.IntRange(1, 4).Draw(t, "CIDR") == 4 {
				entry = fmt.Sprintf("%s%d/%d", prefix, from, rapid.IntRange(27, 33).Draw(t, "bits"))
			}
			p.Spec.Addresses = append(p.Spec.Addresses, v1alpha1.AddressRange(entry))
		}
		pools = append(pools, p)
	}
	return pools
}

// TestOverlapsOracle compares with the plainest code that obeys the same rules.
func TestOverlapsOracle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pools := somePools(t)
		var o oracle
		for _, deleted := range []bool{false, true} {
			for _, p := range byAge(pools) {
				if (p.DeletionTimestamp != nil) == deleted {
					o.parse(p)
				}
			}
		}
		c, problems := Parse(Objects{Pools: pools})
		if !slices.Equal(problems, o.problems) {
			t.Fatalf("problems\n%v\nwant\n%v", problems, o.problems)
		}
		for _, p := range c.Pools {
			want := o.pool(p.Name)
			if got := fmt.Sprint(p.Ranges, p.Overlaps, p.Edges); got != want {
				t.Fatalf("pool %s: %s, want %s", p.Name, got, want)
			}
		}
	})
}

// oracle compares each entry with every other one.
type oracle struct {
	all      []oracleEntry
	problems []Problem
}

type oracleEntry struct {
	netipx.IPRange
	pool, text string
	used       bool
	avoid      bool
}

func (o *oracle) parse(p *v1alpha1.IPAddressPool) {
	problem := func(field string, reason v1alpha1.Reason, message string) {
		o.problems = append(o.problems, Problem{Kind: "IPAddressPool", Name: p.Name, Field: field, Reason: reason, Message: message})
	}
	if p.DeletionTimestamp != nil {
		problem("metadata.deletionTimestamp", v1alpha1.PoolTerminating,
			"the pool is being deleted: Services keep its addresses, and no new ones are assigned")
	}
	for i, entry := range p.Spec.Addresses {
		field := fmt.Sprintf("spec.addresses[%d]", i)
		r, err := ParseRange(string(entry))
		if err != nil {
			problem(field, err.(*InvalidRangeError).Reason, err.Error())
			continue
		}
		var lowest *oracleEntry
		for j := range o.all {
			if other := &o.all[j]; other.used && other.Overlaps(r) && (lowest == nil || other.From().Less(lowest.From())) {
				lowest = other
			}
		}
		switch {
		case lowest == nil:
		case lowest.pool == p.Name:
			problem(field, v1alpha1.OverlappingAddresses, fmt.Sprintf("%q overlaps an earlier entry %q", entry, lowest.text))
		case p.DeletionTimestamp != nil:
			problem(field, v1alpha1.OverlappingAddresses, fmt.Sprintf("%q overlaps IPAddressPool %q with %q", entry, lowest.pool, lowest.text))
		default:
			problem(field, v1alpha1.OverlappingAddresses,
				fmt.Sprintf("%q overlaps the older IPAddressPool %q with %q", entry, lowest.pool, lowest.text))
		}
		o.all = append(o.all, oracleEntry{r, p.Name, string(entry), lowest == nil, p.Spec.AvoidBuggyIPs})
	}
}

// pool returns the ranges, the overlapping pools and the edges of one pool.
func (o *oracle) pool(name string) string {
	var ranges netipx.IPSetBuilder
	var overlaps []string
	var avoided []netip.Addr
	for _, e := range o.all {
		if e.pool != name {
			continue
		}
		if e.used {
			ranges.AddRange(e.IPRange)
			if e.avoid {
				avoided = append(avoided, edgeAddresses(e.text)...)
			}
		}
		for _, other := range o.all {
			if other.pool != name && other.Overlaps(e.IPRange) {
				overlaps = append(overlaps, other.pool)
			}
		}
	}
	set, err := ranges.IPSet()
	if err != nil {
		panic(err)
	}
	slices.Sort(overlaps)
	return fmt.Sprint(set.Ranges(), slices.Compact(overlaps), avoided)
}
