package config

import (
	"fmt"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// Nodes selects the nodes that an object applies to.
type Nodes struct {
	AllNodes      bool
	NodeSelectors []labels.Selector
}

// SelectsNode reports whether a node with these labels is selected.
func (n Nodes) SelectsNode(node labels.Set) bool {
	return n.AllNodes || slices.ContainsFunc(n.NodeSelectors, func(s labels.Selector) bool { return s.Matches(node) })
}

// Scope selects the pools and nodes of an advertisement.
type Scope struct {
	AllPools bool
	Pools    []string // named or selected, sorted; they may not exist
	Nodes
}

// Covers reports whether addresses that were assigned from the pool are announced.
// The pool may have been deleted.
func (s Scope) Covers(pool string) bool {
	_, named := slices.BinarySearch(s.Pools, pool)
	return s.AllPools || named
}

// L2Advertisement is the valid part of an L2Advertisement.
type L2Advertisement struct {
	Name string
	Scope
	Interfaces []string // empty: those with a subnet that contains the address
}

func parseL2Advertisement(object *v1alpha1.L2Advertisement, refs objectReferences, report problemReporter) L2Advertisement {
	spec := object.Spec
	r := report.forObject("L2Advertisement", object.Name)
	return L2Advertisement{
		Name: object.Name,
		Scope: Scope{
			len(spec.IPAddressPools) == 0 && len(spec.IPAddressPoolSelectors) == 0,
			refs.selectPools(spec.IPAddressPools, spec.IPAddressPoolSelectors, r), parseNodes(spec.NodeSelectors, r),
		},
		Interfaces: slices.Compact(slices.Sorted(slices.Values(spec.Interfaces))),
	}
}

// problemReporter records Problems.
type problemReporter func(...Problem)

// fieldReporter records a Problem about a field of an object.
type fieldReporter func(field string, reason v1alpha1.Reason, format string, args ...any)

func (r problemReporter) forObject(kind, name string) fieldReporter {
	return func(field string, reason v1alpha1.Reason, format string, args ...any) {
		r(Problem{Kind: kind, Name: name, Field: field, Reason: reason, Message: fmt.Sprintf(format, args...)})
	}
}

// selectPools returns the named pools, which may not exist, and those that the
// selectors select, sorted.
func (refs objectReferences) selectPools(names []string, selectors []metav1.LabelSelector, report fieldReporter) []string {
	all := slices.Clone(names)
	for i, name := range names {
		if !refs.poolNames[name] {
			report(fmt.Sprintf("spec.ipAddressPools[%d]", i), v1alpha1.UnknownPool, "IPAddressPool %q does not exist", name)
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

func parseNodes(selectors []metav1.LabelSelector, report fieldReporter) Nodes {
	return Nodes{len(selectors) == 0, parseSelectors("nodeSelectors", selectors, report)}
}

func parseSelectors(field string, from []metav1.LabelSelector, report fieldReporter) (out []labels.Selector) {
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
