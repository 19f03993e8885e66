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
	Pools    []string // named, selected or deleted, sorted; they may not exist
	// SelectedPools are the pools that the label selectors match. DeletedPools are those
	// of status.selectedPools that no longer exist. Both are sorted.
	SelectedPools, DeletedPools []string
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
	Interfaces  []string // empty: those with a subnet that contains the address
	NodeWeights []NodeWeight
	// NeverFailsBack is whether nodes that have recovered do not take addresses back.
	NeverFailsBack bool
	// BFD is the profile of the sessions between nodes. MinTTL and Passive do not apply.
	BFD BFDProfile
}

// NodeWeight is the weight of the nodes that a selector matches, from 0 to
// v1alpha1.MaxNodeWeight.
type NodeWeight struct {
	labels.Selector
	Weight int32
}

// NodeWeight returns the largest weight of a node with these labels, -1 if it has none.
func (ad L2Advertisement) NodeWeight(node labels.Set) int32 {
	largest := int32(-1)
	for _, w := range ad.NodeWeights {
		if w.Matches(node) {
			largest = max(largest, w.Weight)
		}
	}
	return largest
}

func parseL2Advertisement(object *v1alpha1.L2Advertisement, refs objectReferences, report problemReporter) L2Advertisement {
	spec := object.Spec
	r := report.forObject("L2Advertisement", object.Name)
	ad := L2Advertisement{
		Name: object.Name,
		Scope: refs.parseScope(scopeFields{
			spec.IPAddressPools, spec.IPAddressPoolSelectors, spec.NodeSelectors, object.Status.SelectedPools,
		}, r),
		Interfaces:     slices.Compact(slices.Sorted(slices.Values(spec.Interfaces))),
		NodeWeights:    parseNodeWeights(spec.NodeWeights, r),
		NeverFailsBack: spec.Failback == v1alpha1.FailbackNever,
		BFD:            nodeSession,
	}
	if spec.BFDProfile != "" {
		if p := refs.parseBFDProfile(spec.BFDProfile, "the default of 50 ms × 3 applies", r); p != nil {
			ad.BFD = *p
		}
	}
	return ad
}

func parseNodeWeights(from []v1alpha1.NodeWeight, report fieldReporter) (out []NodeWeight) {
	for i, w := range from {
		s, err := metav1.LabelSelectorAsSelector(&w.NodeSelector)
		if err != nil {
			report(fmt.Sprintf("spec.nodeWeights[%d].nodeSelector", i), v1alpha1.InvalidSelector, "%v", err)
			continue
		}
		out = append(out, NodeWeight{s, min(max(w.Weight, 0), v1alpha1.MaxNodeWeight)})
	}
	return out
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

// scopeFields are the fields of an advertisement that its Scope depends on.
type scopeFields struct {
	pools                        []string
	poolSelectors, nodeSelectors []metav1.LabelSelector
	selectedPools                []string // of the status
}

// parseScope returns the scope of an advertisement. A pool that exists is selected by
// its labels, whatever the status contains.
func (refs objectReferences) parseScope(f scopeFields, report fieldReporter) Scope {
	s := Scope{AllPools: len(f.pools) == 0 && len(f.poolSelectors) == 0}
	for i, name := range f.pools {
		if !refs.poolNames[name] {
			report(fmt.Sprintf("spec.ipAddressPools[%d]", i), v1alpha1.UnknownPool, "IPAddressPool %q does not exist", name)
		}
	}
	for _, selector := range parseSelectors("ipAddressPoolSelectors", f.poolSelectors, report) {
		for _, p := range refs.pools {
			if selector.Matches(labels.Set(p.Labels)) {
				s.SelectedPools = append(s.SelectedPools, p.Name)
			}
		}
	}
	// Without selectors, what the status contains is of an earlier spec.
	if len(f.poolSelectors) > 0 {
		s.DeletedPools = slices.DeleteFunc(slices.Clone(f.selectedPools), func(name string) bool { return refs.poolNames[name] })
	}
	s.SelectedPools, s.DeletedPools = sortedSet(s.SelectedPools), sortedSet(s.DeletedPools)
	s.Pools = sortedSet(slices.Concat(f.pools, s.SelectedPools, s.DeletedPools))
	s.Nodes = parseNodes(f.nodeSelectors, report)
	return s
}

// sortedSet sorts the names in place and returns them without duplicates.
func sortedSet(names []string) []string {
	slices.Sort(names)
	return slices.Compact(names)
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
