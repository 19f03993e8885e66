package plan

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/providers"
)

// serviceChange is one change of a Service.
type serviceChange string

const (
	addressReleased    serviceChange = "released"    // an address is released without a replacement
	addressReassigned  serviceChange = "reassigned"  // an address is released and another one is assigned at once
	addressUnannounced serviceChange = "unannounced" // no advertisement selects the pool of an address any more
	addressOutOfPool   serviceChange = "outOfPool"   // an address is kept, although its pool would no longer assign it
	requestRefused     serviceChange = "refused"     // a request is refused, or refused for another reason
	renumberingStarts  serviceChange = "renumbering" // a new address is assigned alongside the old one for a while
	renumberingEnds    serviceChange = "renumbered"  // the old one of two addresses is released
	sharingStarts      serviceChange = "shared"      // more Services hold an address
	sharingEnds        serviceChange = "unshared"    // no other Service holds an address any more
	addressBackInPool  serviceChange = "backInPool"  // a pool contains an address again
	addressAssigned    serviceChange = "assigned"    // an address is newly assigned
	addressKept        serviceChange = "kept"        // no change
	addressUnassigned  serviceChange = "unassigned"  // without an address before and after
)

// serviceChanges are all changes, the most severe first.
var serviceChanges = []serviceChange{
	addressReleased, addressReassigned, addressUnannounced, addressOutOfPool, requestRefused, renumberingStarts, renumberingEnds,
	sharingStarts, sharingEnds, addressBackInPool, addressAssigned, addressKept, addressUnassigned,
}

func compareSeverity(a, b serviceChange) int {
	return cmp.Compare(slices.Index(serviceChanges, a), slices.Index(serviceChanges, b))
}

// heldAddress is an address, or a cloud's host name, in the status of a Service.
type heldAddress struct {
	Address    string   `json:"address"`
	Pool       string   `json:"pool,omitempty"`
	Leaving    bool     `json:"leaving,omitempty"`
	OutOfPool  bool     `json:"outOfPool,omitempty"`
	SharedWith []string `json:"sharedWith,omitempty"`
}

// serviceState is the status of a Service as the controller writes it.
type serviceState struct {
	Addresses []heldAddress          `json:"addresses"`
	Status    metav1.ConditionStatus `json:"status,omitempty"` // of the condition Provisioned
	Reason    v1alpha1.Reason        `json:"reason,omitempty"`
	Message   string                 `json:"message,omitempty"`
}

// serviceResult compares a Service before and after.
type serviceResult struct {
	Service string          `json:"service"`
	Changes []serviceChange `json:"changes"` // at least one, the most severe first
	Before  *serviceState   `json:"before"`  // null: Fairlead does not serve the Service
	After   *serviceState   `json:"after"`
	Why     string          `json:"why"`
}

// compareServices returns a result for each Service that Fairlead serves or refuses
// before or after, the most severe change first.
func compareServices(before, after convergence) []serviceResult {
	was, is := serviceStates(before), serviceStates(after)
	c := serviceComparison{
		scopesBefore: advertisedScopes(before.cluster.Objects), scopesAfter: advertisedScopes(after.cluster.Objects),
		services: servicesByKey(after.cluster.Services), chooser: providers.NewChooser(after.cluster.Policy, after.cluster.Nodes),
	}
	all := []serviceResult{}
	for key := range unionOfKeys(was, is) {
		all = append(all, c.compareService(key, was[key], is[key]))
	}
	slices.SortFunc(all, func(a, b serviceResult) int {
		return cmp.Or(compareSeverity(a.Changes[0], b.Changes[0]), strings.Compare(a.Service, b.Service))
	})
	return all
}

// serviceStates returns the states of the Services that Fairlead serves or refuses.
func serviceStates(c convergence) map[types.NamespacedName]*serviceState {
	all := make(map[types.NamespacedName]*serviceState, len(c.cluster.Services))
	holders := map[string][]string{}
	desired := c.plan.ByKey()
	for _, svc := range c.cluster.Services {
		provisioned := apimeta.FindStatusCondition(svc.Status.Conditions, v1alpha1.ConditionProvisioned)
		// Without the condition the Service is not Fairlead's; one that is being
		// deleted counts as released.
		if provisioned == nil || svc.DeletionTimestamp != nil || provisioned.Reason == string(v1alpha1.Deleting) {
			continue
		}
		s := &serviceState{
			Addresses: []heldAddress{}, Status: provisioned.Status,
			Reason: v1alpha1.Reason(provisioned.Reason), Message: provisioned.Message,
		}
		for _, in := range svc.Status.LoadBalancer.Ingress {
			h := heldAddress{Address: cmp.Or(in.IP, in.Hostname)}
			// The host name of a cloud is not from a pool.
			if a, err := config.ParseAddr(in.IP); err == nil {
				h.Pool = config.RecordedPool(svc, a)
				_, h.Leaving = config.ReadRecords(svc.Annotations[v1alpha1.AnnotationLeaving]).Of(a)
				p := desired[keyOf(svc)]
				h.OutOfPool = p != nil && slices.Contains(p.OutOfPool, a)
			}
			s.Addresses = append(s.Addresses, h)
			holders[h.Address] = append(holders[h.Address], keyOf(svc).String())
		}
		all[keyOf(svc)] = s
	}
	for key, s := range all {
		for i := range s.Addresses {
			others := slices.DeleteFunc(slices.Clone(holders[s.Addresses[i].Address]), func(o string) bool { return o == key.String() })
			slices.Sort(others)
			s.Addresses[i].SharedWith = others
		}
	}
	return all
}

// advertisedScopes returns the scopes of all advertisements.
func advertisedScopes(objects config.Objects) (all []config.Scope) {
	c, _ := config.Parse(objects)
	for _, ad := range c.L2Advertisements {
		all = append(all, ad.Scope)
	}
	for _, ad := range c.BGPAdvertisements {
		all = append(all, ad.Scope)
	}
	return all
}

// isCovered reports whether an advertisement selects the pool, which may have been
// deleted.
func isCovered(scopes []config.Scope, pool string) bool {
	return slices.ContainsFunc(scopes, func(s config.Scope) bool { return s.Covers(pool) })
}

// serviceComparison holds the context of the comparison of Services.
type serviceComparison struct {
	scopesBefore, scopesAfter []config.Scope
	services                  map[types.NamespacedName]*corev1.Service // after
	chooser                   providers.Chooser                        // after
}

// compareService returns the result for one Service. At most one of the states is
// nil.
func (c serviceComparison) compareService(key types.NamespacedName, before, after *serviceState) serviceResult {
	var was, is serviceState
	if before != nil {
		was = *before
	}
	if after != nil {
		is = *after
	}
	changes := append(addressChanges(was.Addresses, is.Addresses), reasonChanges(was, is)...)
	var why []string
	// The Service lost its condition, so the reason is found in the cluster after the
	// request.
	if after == nil {
		why = append(why, c.releaseMessage(key))
	} else if is.Reason != "" {
		why = append(why, string(is.Reason)+": "+is.Message)
	}
	for _, h := range is.Addresses {
		if h.Pool != "" && !isCovered(c.scopesAfter, h.Pool) {
			why = append(why, "no advertisement selects pool "+h.Pool)
			if i := indexOf(was.Addresses, h.Address); i >= 0 && isCovered(c.scopesBefore, was.Addresses[i].Pool) {
				changes = append(changes, addressUnannounced)
			}
		}
		if len(h.SharedWith) > 0 {
			why = append(why, h.Address+" is shared with "+strings.Join(h.SharedWith, ", "))
		}
	}
	slices.SortFunc(changes, compareSeverity)
	switch {
	case len(changes) > 0:
	case len(was.Addresses) > 0:
		changes = []serviceChange{addressKept}
	default:
		changes = []serviceChange{addressUnassigned}
	}
	return serviceResult{
		Service: key.String(), Changes: slices.Compact(changes), Before: before, After: after,
		Why: strings.Join(why, "; "),
	}
}

// releaseMessage returns the reason why Fairlead no longer serves the Service.
func (c serviceComparison) releaseMessage(key types.NamespacedName) string {
	svc := c.services[key]
	if svc == nil || svc.DeletionTimestamp != nil {
		return "the Service is deleted"
	}
	return c.chooser.Choose(svc).Message
}

func indexOf(all []heldAddress, address string) int {
	return slices.IndexFunc(all, func(h heldAddress) bool { return h.Address == address })
}

// addressChanges returns the changes of the addresses of a Service.
func addressChanges(was, is []heldAddress) (found []serviceChange) {
	for _, h := range was {
		i := indexOf(is, h.Address)
		// A change of the pool is reported in addition to the other changes.
		if i >= 0 && !h.OutOfPool && is[i].OutOfPool {
			found = append(found, addressOutOfPool)
		} else if i >= 0 && h.OutOfPool && !is[i].OutOfPool {
			found = append(found, addressBackInPool)
		}
		switch {
		// The address is kept: one change, the most specific one, is reported.
		case i >= 0 && !h.Leaving && is[i].Leaving:
			found = append(found, renumberingStarts)
		case i >= 0 && len(is[i].SharedWith) > len(h.SharedWith):
			found = append(found, sharingStarts)
		case i >= 0 && len(is[i].SharedWith) == 0 && len(h.SharedWith) > 0:
			found = append(found, sharingEnds)
		case i >= 0:
		// The address is released: at the end of a renumbering, for a replacement of its
		// family, or without a replacement.
		case h.Leaving:
			found = append(found, renumberingEnds)
		case slices.ContainsFunc(is, func(n heldAddress) bool { return indexOf(was, n.Address) < 0 && sameFamily(n.Address, h.Address) }):
			found = append(found, addressReassigned)
		default:
			found = append(found, addressReleased)
		}
	}
	for _, h := range is {
		alongside := func(o heldAddress) bool { return o.Address != h.Address && sameFamily(o.Address, h.Address) }
		if indexOf(was, h.Address) >= 0 || slices.ContainsFunc(was, alongside) {
			continue // kept, or a replacement, which the loop above has classified
		}
		found = append(found, addressAssigned)
		if len(h.SharedWith) > 0 {
			found = append(found, sharingStarts)
		}
	}
	return found
}

// sameFamily reports whether the addresses are of one IP family. Host names are a
// family of their own.
func sameFamily(a, b string) bool {
	x, _ := netip.ParseAddr(a)
	y, _ := netip.ParseAddr(b)
	return x.BitLen() == y.BitLen()
}

// reasonChanges returns the changes of the condition Provisioned of a Service.
func reasonChanges(was, is serviceState) (found []serviceChange) {
	switch {
	case was.Reason == is.Reason && was.Status == is.Status:
	case is.Reason == v1alpha1.Provisioning:
		found = append(found, addressAssigned) // the cloud assigns it later
	case is.Status == metav1.ConditionFalse:
		found = append(found, requestRefused)
	}
	return found
}
