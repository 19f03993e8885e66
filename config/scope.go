package config

import (
	"fmt"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// Nodes are those that an object is for.
type Nodes struct {
	AllNodes      bool
	NodeSelectors []labels.Selector
}

// SelectsNode reports whether a node with these labels takes part.
func (n Nodes) SelectsNode(node labels.Set) bool {
	return n.AllNodes || slices.ContainsFunc(n.NodeSelectors, func(s labels.Selector) bool { return s.Matches(node) })
}

// Scope is which addresses an advertisement announces, and by which nodes.
type Scope struct {
	AllPools bool
	Pools    []string // sorted: named or selected, existing or not
	Nodes
}

// Covers reports whether addresses recorded as the pool's are announced. The
// pool need not exist any more.
func (s Scope) Covers(pool string) bool {
	_, named := slices.BinarySearch(s.Pools, pool)
	return s.AllPools || named
}

// L2Advertisement is the usable part of an L2Advertisement.
type L2Advertisement struct {
	Name string
	Scope
	Interfaces []string // none: the links whose subnet contains the address
}

func parseL2Advertisement(object *v1alpha1.L2Advertisement, refs references, report reporter) L2Advertisement {
	spec := object.Spec
	r := report.about("L2Advertisement", object.Name)
	return L2Advertisement{
		Name: object.Name,
		Scope: Scope{
			len(spec.IPAddressPools) == 0 && len(spec.IPAddressPoolSelectors) == 0,
			refs.selectPools(spec.IPAddressPools, spec.IPAddressPoolSelectors, r), parseNodes(spec.NodeSelectors, r),
		},
		Interfaces: slices.Compact(slices.Sorted(slices.Values(spec.Interfaces))),
	}
}

// reporter takes Problems.
type reporter func(...Problem)

// complaint is about a field of one object.
type complaint func(field string, reason v1alpha1.Reason, format string, args ...any)

func (r reporter) about(kind, name string) complaint {
	return func(field string, reason v1alpha1.Reason, format string, args ...any) {
		r(Problem{Kind: kind, Name: name, Field: field, Reason: reason, Message: fmt.Sprintf(format, args...)})
	}
}

// selectPools returns the pools that are named, existing or not, and those that
// the selectors select, sorted.
func (refs references) selectPools(names []string, selectors []metav1.LabelSelector, report complaint) []string {
	all := slices.Clone(names)
	for i, name := range names {
		if !refs.poolNames[name] {
			report(fmt.Sprintf("spec.ipAddressPools[%d]", i), v1alpha1.UnknownPool, "there is no IPAddressPool %q", name)
		}
	}
	for _, s := range parseSelectors("ipAddressPoolSelectors", selectors, report) {
		for _, p := range refs.pools {
			if s.Matches(labels.Set(p.Labels)) {
				all = append(all, p.Name)
			}
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func parseNodes(selectors []metav1.LabelSelector, report complaint) Nodes {
	return Nodes{len(selectors) == 0, parseSelectors("nodeSelectors", selectors, report)}
}

func parseSelectors(field string, from []metav1.LabelSelector, report complaint) (out []labels.Selector) {
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
