package main

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

// change is what would become of one Service, the worst first.
type change string

const (
	loses       change = "loses"       // an address, without a new one in its place
	moves       change = "moves"       // an address is replaced at once by another one
	unannounced change = "unannounced" // keeps an address that no advertisement covers any more
	outOfPool   change = "outOfPool"   // keeps an address that its pool would not give any more
	refused     change = "refused"     // is told no, or no for another reason
	renumbers   change = "renumbers"   // has a new address beside the old one for a while
	renumbered  change = "renumbered"  // lets go of the old address, and has the new one
	shares      change = "shares"      // holds an address together with more Services
	alone       change = "alone"       // shares no more
	backInPool  change = "backInPool"  // a pool contains its address again
	gets        change = "gets"        // an address that it did not have
	keeps       change = "keeps"       // all that it has
	lacks       change = "lacks"       // an address, before and after
)

var changes = []change{loses, moves, unannounced, outOfPool, refused, renumbers, renumbered, shares, alone, backInPool, gets, keeps, lacks}

// held is an address, or a cloud's host name, that a Service shows.
type held struct {
	Address    string   `json:"address"`
	Pool       string   `json:"pool,omitempty"`
	Leaving    bool     `json:"leaving,omitempty"`
	OutOfPool  bool     `json:"outOfPool,omitempty"`
	SharedWith []string `json:"sharedWith,omitempty"`
}

// standing is how a Service stands.
type standing struct {
	Addresses []held                 `json:"addresses"`
	Status    metav1.ConditionStatus `json:"status,omitempty"` // of the condition Provisioned
	Reason    v1alpha1.Reason        `json:"reason,omitempty"`
	Message   string                 `json:"message,omitempty"`
}

// servicePreview is what would become of a Service.
type servicePreview struct {
	Service string    `json:"service"`
	Changes []change  `json:"changes"`
	Before  *standing `json:"before"` // null: the Service is not Fairlead's
	After   *standing `json:"after"`
	Why     string    `json:"why"`
}

// compareServices says what becomes of each Service, the worst first.
func compareServices(before, after outcome) []servicePreview {
	was, is := standings(before), standings(after)
	c := comparison{
		was: scopes(before.cluster.Objects), is: scopes(after.cluster.Objects),
		services: byKey(after.cluster.Services), chooser: providers.NewChooser(after.cluster.Policy, after.cluster.Nodes),
	}
	all := []servicePreview{}
	for key, w := range was {
		all = append(all, c.service(key, w, is[key]))
	}
	for key, i := range is {
		if was[key] == nil {
			all = append(all, c.service(key, nil, i))
		}
	}
	rank := func(p servicePreview) int { return slices.Index(changes, p.Changes[0]) }
	slices.SortFunc(all, func(a, b servicePreview) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), strings.Compare(a.Service, b.Service))
	})
	return all
}

// standings are those of the Services that Fairlead serves, or refuses.
func standings(o outcome) map[types.NamespacedName]*standing {
	all := make(map[types.NamespacedName]*standing, len(o.cluster.Services))
	holders := map[string][]string{}
	for _, svc := range o.cluster.Services {
		provisioned := apimeta.FindStatusCondition(svc.Status.Conditions, v1alpha1.ConditionProvisioned)
		if provisioned == nil || svc.DeletionTimestamp != nil || provisioned.Reason == string(v1alpha1.Deleting) {
			continue
		}
		s := &standing{Addresses: []held{}, Status: provisioned.Status, Reason: v1alpha1.Reason(provisioned.Reason), Message: provisioned.Message}
		for _, in := range svc.Status.LoadBalancer.Ingress {
			h := held{Address: cmp.Or(in.IP, in.Hostname)}
			if a, err := config.ParseAddr(in.IP); err == nil {
				h.Pool = config.RecordedPool(svc, a)
				_, h.Leaving = config.ReadRecords(svc.Annotations[v1alpha1.AnnotationLeaving]).Of(a)
				h.OutOfPool = slices.Contains(o.plan.Services[keyOf(svc)].OutOfPool, a)
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

// scopes are those of all advertisements.
func scopes(objects config.Objects) (all []config.Scope) {
	c, _ := config.Parse(objects)
	for _, ad := range c.L2Advertisements {
		all = append(all, ad.Scope)
	}
	for _, ad := range c.BGPAdvertisements {
		all = append(all, ad.Scope)
	}
	return all
}

func covers(all []config.Scope, pool string) bool {
	return slices.ContainsFunc(all, func(s config.Scope) bool { return s.Covers(pool) })
}

// comparison is what the comparison of a Service needs to know of the clusters.
type comparison struct {
	was, is  []config.Scope // of all advertisements, before and after
	services map[types.NamespacedName]*corev1.Service
	chooser  providers.Chooser
}

// service says what becomes of one Service, of which there is a standing on one
// side at least.
func (c comparison) service(key types.NamespacedName, was, is *standing) servicePreview {
	p := servicePreview{Service: key.String(), Before: was, After: is}
	var now standing
	if is != nil {
		now = *is
	}
	var then standing
	if was != nil {
		then = *was
	}
	p.Changes = append(addressChanges(then.Addresses, now.Addresses), reasonChanges(then, now)...)
	var why []string
	if is == nil {
		why = append(why, c.leftTo(key))
	} else if now.Reason != "" {
		why = append(why, string(now.Reason)+": "+now.Message)
	}
	for _, h := range now.Addresses {
		if h.Pool != "" && !covers(c.is, h.Pool) {
			why = append(why, "no advertisement covers pool "+h.Pool)
			if i := find(then.Addresses, h.Address); i >= 0 && covers(c.was, then.Addresses[i].Pool) {
				p.Changes = append(p.Changes, unannounced)
			}
		}
		if len(h.SharedWith) > 0 {
			why = append(why, h.Address+" is shared with "+strings.Join(h.SharedWith, ", "))
		}
	}
	p.Why = strings.Join(why, "; ")
	slices.SortFunc(p.Changes, func(a, b change) int { return cmp.Compare(slices.Index(changes, a), slices.Index(changes, b)) })
	p.Changes = slices.Compact(p.Changes)
	switch {
	case len(p.Changes) > 0:
	case len(then.Addresses) > 0:
		p.Changes = []change{keeps}
	default:
		p.Changes = []change{lacks}
	}
	return p
}

// leftTo says why Fairlead serves a Service no more.
func (c comparison) leftTo(key types.NamespacedName) string {
	svc := c.services[key]
	if svc == nil || svc.DeletionTimestamp != nil {
		return "the Service is deleted"
	}
	return c.chooser.Choose(svc).Message
}

func find(all []held, address string) int {
	return slices.IndexFunc(all, func(h held) bool { return h.Address == address })
}

// addressChanges compares what a Service shows.
func addressChanges(was, is []held) (found []change) {
	for _, h := range was {
		i := find(is, h.Address)
		if i >= 0 && !h.OutOfPool && is[i].OutOfPool {
			found = append(found, outOfPool)
		} else if i >= 0 && h.OutOfPool && !is[i].OutOfPool {
			found = append(found, backInPool)
		}
		switch {
		case i >= 0 && !h.Leaving && is[i].Leaving:
			found = append(found, renumbers)
		case i >= 0 && len(is[i].SharedWith) > len(h.SharedWith):
			found = append(found, shares)
		case i >= 0 && len(is[i].SharedWith) == 0 && len(h.SharedWith) > 0:
			found = append(found, alone)
		case i >= 0:
		case h.Leaving:
			found = append(found, renumbered)
		case slices.ContainsFunc(is, func(n held) bool { return find(was, n.Address) < 0 && sameFamily(n.Address, h.Address) }):
			found = append(found, moves)
		default:
			found = append(found, loses)
		}
	}
	for _, h := range is {
		beside := func(o held) bool { return o.Address != h.Address && sameFamily(o.Address, h.Address) }
		if find(was, h.Address) >= 0 || slices.ContainsFunc(was, beside) {
			continue // or it replaces another one, which has been looked at
		}
		found = append(found, gets)
		if len(h.SharedWith) > 0 {
			found = append(found, shares)
		}
	}
	return found
}

// sameFamily reports whether one address can take the place of the other. All
// host names are one family.
func sameFamily(a, b string) bool {
	x, _ := netip.ParseAddr(a)
	y, _ := netip.ParseAddr(b)
	return x.BitLen() == y.BitLen()
}

// reasonChanges compares what a Service is told.
func reasonChanges(was, is standing) (found []change) {
	switch {
	case was.Reason == is.Reason && was.Status == is.Status:
	case is.Reason == v1alpha1.Provisioning:
		found = append(found, gets) // from a cloud, which takes its time
	case is.Status == metav1.ConditionFalse:
		found = append(found, refused)
	}
	return found
}

func keyOf(svc *corev1.Service) types.NamespacedName {
	return types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}
}
