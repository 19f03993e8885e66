package config

import (
	"slices"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// Selection selects the Services that may use a pool, by namespace and labels.
type Selection struct {
	AnyNamespace       bool
	Namespaces         []string
	NamespaceSelectors []labels.Selector
	AnyService         bool
	ServiceSelectors   []labels.Selector
}

func parseSelection(a *v1alpha1.ServiceAllocation, report fieldReporter) Selection {
	if a == nil {
		return Selection{AnyNamespace: true, AnyService: true}
	}
	return Selection{
		AnyNamespace:       len(a.Namespaces) == 0 && len(a.NamespaceSelectors) == 0,
		Namespaces:         a.Namespaces,
		NamespaceSelectors: parseSelectors("serviceAllocation.namespaceSelectors", a.NamespaceSelectors, report),
		AnyService:         len(a.ServiceSelectors) == 0,
		ServiceSelectors:   parseSelectors("serviceAllocation.serviceSelectors", a.ServiceSelectors, report),
	}
}

// SelectsNamespace reports whether Services of the namespace may be selected.
func (s Selection) SelectsNamespace(name string, has labels.Set) bool {
	return s.AnyNamespace || slices.Contains(s.Namespaces, name) ||
		slices.ContainsFunc(s.NamespaceSelectors, func(l labels.Selector) bool { return l.Matches(has) })
}

// SelectsService reports whether a Service with these labels, in a selected
// namespace, may use the pool.
func (s Selection) SelectsService(has labels.Set) bool {
	return s.AnyService || slices.ContainsFunc(s.ServiceSelectors, func(l labels.Selector) bool { return l.Matches(has) })
}

// selectionRank orders pools that select Services before those that serve all.
func (s Selection) selectionRank() int {
	if s.AnyNamespace && s.AnyService {
		return 1
	}
	return 0
}
