// Package config turns what the user asked for, Fairlead's custom resources,
// into one immutable Config and a list of Problems. It keeps everything that is
// valid: a broken entry hurts only itself.
package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"go4.org/netipx"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// Objects is every custom resource that Parse reads.
type Objects struct {
	Pools            []*v1alpha1.IPAddressPool
	L2Advertisements []*v1alpha1.L2Advertisement
}

// Config is the valid part of Objects. It is never changed once made.
type Config struct {
	// Pools in the order in which they are used: by priority, then by name.
	Pools []Pool
	// L2Advertisements by name.
	L2Advertisements []L2Advertisement
}

// Pool is the usable part of an IPAddressPool.
type Pool struct {
	Name        string
	Ranges      []netipx.IPRange // sorted, disjoint, not adjacent
	AutoAssign  bool
	Priority    int32 // 0 is last
	Terminating bool  // keeps what it gave, gives nothing more
}

// L2Advertisement is the usable part of an L2Advertisement.
type L2Advertisement struct {
	Name          string
	AllPools      bool
	Pools         []string // sorted: named or selected, existing or not
	AllNodes      bool
	NodeSelectors []labels.Selector
	Interfaces    []string // none: the links whose subnet contains the address
}

// Covers reports whether addresses recorded as the pool's are announced. The
// pool need not exist any more.
func (a L2Advertisement) Covers(pool string) bool {
	_, named := slices.BinarySearch(a.Pools, pool)
	return a.AllPools || named
}

// SelectsNode reports whether a node with these labels takes part.
func (a L2Advertisement) SelectsNode(node labels.Set) bool {
	return a.AllNodes || slices.ContainsFunc(a.NodeSelectors, func(s labels.Selector) bool { return s.Matches(node) })
}

// Problem is one thing in one object that cannot be used, in words for the
// object's owner.
type Problem struct {
	Kind    string // "IPAddressPool"
	Name    string
	Field   string // "spec.addresses[3]"
	Reason  v1alpha1.Reason
	Message string // without object and field
}

// String names the object, the field and the reason.
func (p Problem) String() string {
	return fmt.Sprintf("%s %s: %s: %s", p.Kind, p.Name, p.Field, p.Message)
}

// maxListed bounds how many problems a condition spells out: a condition's
// message may have 32768 characters.
const maxListed = 20

// ReadyCondition is the condition Ready of an object with these problems. Its
// time is for the writer to set.
func ReadyCondition(problems []Problem, whenReady string) metav1.Condition {
	if len(problems) == 0 {
		return metav1.Condition{
			Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue,
			Reason: string(v1alpha1.Ready), Message: whenReady,
		}
	}
	var lines []string
	for i, p := range problems {
		if i == maxListed {
			lines = append(lines, fmt.Sprintf("and %d more", len(problems)-maxListed))
			break
		}
		lines = append(lines, p.Field+": "+p.Message)
	}
	return metav1.Condition{
		Type: v1alpha1.ConditionReady, Status: metav1.ConditionFalse,
		Reason: string(problems[0].Reason), Message: strings.Join(lines, "; "),
	}
}

// Parse keeps every object, and every entry of an object, that is valid, and
// reports the rest. Equal input gives equal output, in whatever order it comes.
func Parse(objects Objects) (Config, []Problem) {
	var c Config
	var problems []Problem

	taken := &claims{}
	for _, object := range byAge(objects.Pools) {
		pool, ps := parsePool(object, taken)
		c.Pools = append(c.Pools, pool)
		problems = append(problems, ps...)
	}
	slices.SortFunc(c.Pools, func(a, b Pool) int {
		// Seen as unsigned, 0 - 1 is the largest number: no priority comes last.
		return cmp.Or(cmp.Compare(uint32(a.Priority)-1, uint32(b.Priority)-1), strings.Compare(a.Name, b.Name))
	})

	for _, object := range byAge(objects.L2Advertisements) {
		ad, ps := parseL2Advertisement(object, objects.Pools)
		c.L2Advertisements = append(c.L2Advertisements, ad)
		problems = append(problems, ps...)
	}
	slices.SortFunc(c.L2Advertisements, func(a, b L2Advertisement) int { return strings.Compare(a.Name, b.Name) })
	return c, problems
}

// byAge sorts objects oldest first, so that the newcomer of a conflict is the
// one that is reported.
func byAge[T metav1.Object](objects []T) []T {
	return slices.SortedFunc(slices.Values(objects), func(a, b T) int {
		return cmp.Or(a.GetCreationTimestamp().Compare(b.GetCreationTimestamp().Time), strings.Compare(a.GetName(), b.GetName()))
	})
}

func parseL2Advertisement(object *v1alpha1.L2Advertisement, pools []*v1alpha1.IPAddressPool) (L2Advertisement, []Problem) {
	spec := object.Spec
	ad := L2Advertisement{
		Name:       object.Name,
		AllPools:   len(spec.IPAddressPools) == 0 && len(spec.IPAddressPoolSelectors) == 0,
		AllNodes:   len(spec.NodeSelectors) == 0,
		Interfaces: slices.Compact(slices.Sorted(slices.Values(spec.Interfaces))),
	}
	var problems []Problem
	report := func(field string, reason v1alpha1.Reason, format string, args ...any) {
		problems = append(problems, Problem{
			Kind: "L2Advertisement", Name: object.Name,
			Field: field, Reason: reason, Message: fmt.Sprintf(format, args...),
		})
	}
	selectors := func(field string, from []metav1.LabelSelector) []labels.Selector {
		var out []labels.Selector
		for i := range from {
			s, err := metav1.LabelSelectorAsSelector(&from[i])
			if err != nil {
				report(fmt.Sprintf("spec.%s[%d]", field, i), v1alpha1.InvalidSelector, "%v", err)
				continue
			}
			out = append(out, s)
		}
		return out
	}

	for i, name := range spec.IPAddressPools {
		if !slices.ContainsFunc(pools, func(p *v1alpha1.IPAddressPool) bool { return p.Name == name }) {
			report(fmt.Sprintf("spec.ipAddressPools[%d]", i), v1alpha1.UnknownPool, "there is no IPAddressPool %q", name)
		}
		ad.Pools = append(ad.Pools, name)
	}
	for _, s := range selectors("ipAddressPoolSelectors", spec.IPAddressPoolSelectors) {
		for _, p := range pools {
			if s.Matches(labels.Set(p.Labels)) {
				ad.Pools = append(ad.Pools, p.Name)
			}
		}
	}
	slices.Sort(ad.Pools)
	ad.Pools = slices.Compact(ad.Pools)
	ad.NodeSelectors = selectors("nodeSelectors", spec.NodeSelectors)
	return ad, problems
}
