package plan

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"go4.org/netipx"
	corev1 "k8s.io/api/core/v1"
	"pgregory.net/rapid"

	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// simulatedView is what a controller knew when it decided: the laws about evidence
// cannot depend on more.
type simulatedView struct {
	pools    []config.Pool
	nodes    map[netip.Addr]bool // their own addresses
	services []*corev1.Service
}

func newSimulatedView(pools []*v1alpha1.IPAddressPool, nodes []*corev1.Node, services []*corev1.Service) simulatedView {
	parsed, _ := config.Parse(config.Objects{Pools: pools})
	v := simulatedView{pools: parsed.Pools, nodes: map[netip.Addr]bool{}, services: services}
	for _, n := range nodes {
		addrs, _ := config.NodeAddresses(n)
		for _, a := range addrs {
			v.nodes[a] = true
		}
	}
	return v
}

// with returns the view with a newer version of a Service.
func (v simulatedView) with(svc *corev1.Service) simulatedView {
	v.services = slices.DeleteFunc(slices.Clone(v.services), func(o *corev1.Service) bool { return KeyOf(o) == KeyOf(svc) })
	v.services = append(v.services, svc)
	return v
}

// assumes reports whether the controller took the Service for one with addresses that a
// write with an unknown outcome may have added, to the status or to the record.
func (v simulatedView) assumes(svc *corev1.Service) bool {
	return slices.ContainsFunc(v.services, func(o *corev1.Service) bool {
		sameAddrs := slices.Equal(ingressAddrs(o.Status.LoadBalancer.Ingress), ingressAddrs(svc.Status.LoadBalancer.Ingress))
		return KeyOf(o) == KeyOf(svc) && o.ResourceVersion == svc.ResourceVersion &&
			!(sameAddrs && slices.Equal(config.OwnAllocation(o), config.OwnAllocation(svc)))
	})
}

// selects reports whether a pool that contains the address selects the Service.
func (v simulatedView) selects(svc *corev1.Service, addr netip.Addr) bool {
	return slices.ContainsFunc(v.pools, func(p config.Pool) bool {
		return p.SelectsNamespace(svc.Namespace, nil) && slices.ContainsFunc(p.Ranges, func(r netipx.IPRange) bool { return r.Contains(addr) })
	})
}

// contains reports whether the pool with the name, if any, contains the address.
func (v simulatedView) contains(addr netip.Addr, pool string) bool {
	return pool == "" || slices.ContainsFunc(v.pools, func(p config.Pool) bool {
		return p.Name == pool && slices.ContainsFunc(p.Ranges, func(r netipx.IPRange) bool { return r.Contains(addr) })
	})
}

// evidence is what the Service itself has of an address.
type evidence struct{ recorded, shown, managed bool }

func evidenceOf(svc *corev1.Service, addr netip.Addr) evidence {
	e := evidence{recorded: config.Recorded(svc, addr), shown: slices.Contains(ingressAddrs(svc.Status.LoadBalancer.Ingress), addr)}
	e.managed = e.shown && v1alpha1.OwnsIngress(svc)
	return e
}

// rival reports whether another Service has evidence for the address that meets the
// condition, and may not share it.
func (v simulatedView) rival(svc *corev1.Service, addr netip.Addr, meets func(evidence) bool) bool {
	return slices.ContainsFunc(v.services, func(o *corev1.Service) bool {
		return KeyOf(o) != KeyOf(svc) && meets(evidenceOf(o, addr)) && !termsAllowSharing(currentTerms(o), currentTerms(svc))
	})
}

// mustKeep reports whether the Service must keep, or be assigned again, an address that
// the controllers assigned to it, whatever others have done.
func (s *simulatedAPIServer) mustKeep(svc *corev1.Service, addr netip.Addr, v simulatedView) bool {
	e := evidenceOf(svc, addr)
	switch {
	case !servedByPools(svc) || s.forged[KeyOf(svc)]:
		return false
	// A forged record together with a status that another controller wrote cannot be
	// distinguished from what the controller writes: the older Service keeps the address.
	case e.recorded && e.shown:
		v.services = slices.DeleteFunc(slices.Clone(v.services), func(o *corev1.Service) bool {
			return s.written[KeyOf(o)].SharedAs != currentTerms(o) // it has changed the terms of sharing
		})
		return !v.rival(svc, addr, func(o evidence) bool { return o.recorded && o.shown })
	case v.nodes[addr] || v.rival(svc, addr, func(o evidence) bool { return o.recorded }):
		return false
	case e.recorded:
		return v.selects(svc, addr) && !v.shownElsewhere(addr, false)
	// Without a record, the pool that contains the address counts as the one that it was
	// assigned from.
	case !e.recorded && !v.contains(addr, svc.Annotations[v1alpha1.AnnotationAddressPool]):
		return false
	case e.managed:
		// What a Service shows that is deleted or that another controller serves precedes
		// a status without a record, even if the two shared the address.
		return !v.shownElsewhere(addr, true) && !v.rival(svc, addr, func(o evidence) bool { return o.managed })
	case e.shown:
		return v.selects(svc, addr) && !v.rival(svc, addr, func(o evidence) bool { return o.shown })
	}
	return false
}

// shownElsewhere reports whether a Service that another controller serves, or also one
// that is being deleted, shows the address.
func (v simulatedView) shownElsewhere(addr netip.Addr, deleted bool) bool {
	return slices.ContainsFunc(v.services, func(o *corev1.Service) bool {
		return !servedByPools(o) && (deleted || o.DeletionTimestamp == nil || hasOtherClass(o)) && evidenceOf(o, addr).shown
	})
}

func hasOtherClass(svc *corev1.Service) bool {
	return svc.Spec.Type != corev1.ServiceTypeLoadBalancer || svc.Spec.LoadBalancerClass != nil && *svc.Spec.LoadBalancerClass != v1alpha1.ClassBareMetal
}

// assignedAddresses are the addresses that the controllers wrote last, with their pools.
func (s *simulatedAPIServer) assignedAddresses(svc *corev1.Service) config.Records {
	return config.ReadRecords(s.written[KeyOf(svc)].AllocatedFrom)
}

// lostAddress describes an address that the Service must keep, does not have after the
// write of the plan, and has not requested to be replaced; "" if there is none.
func (s *simulatedAPIServer) lostAddress(svc, after *corev1.Service, p ServicePlan, v simulatedView) string {
	if v.assumes(svc) {
		return "" // an earlier write, with an unknown outcome, may have replaced its address
	}
	for _, r := range s.assignedAddresses(svc) {
		was, is := evidenceOf(svc, r.Addr), evidenceOf(after, r.Addr)
		// A Service that waits for others keeps the record.
		kept := is.shown || is.recorded && !was.shown
		if kept || !s.mustKeep(svc, r.Addr, v) || s.requestsOther(svc, r, len(p.Ingress) > 0) {
			continue
		}
		return fmt.Sprintf("%s (%+v) loses %s of pool %s, shows %v then, and asked for pool %q, address %q",
			svc.Name, was, r.Addr, r.Value, p.AllocatedFrom,
			svc.Annotations[v1alpha1.AnnotationAddressPool], svc.Annotations[v1alpha1.AnnotationLoadBalancerIPs])
	}
	return ""
}

// requestsOther reports whether the Service itself has requested to release the address.
func (s *simulatedAPIServer) requestsOther(svc *corev1.Service, r config.Record, assigned bool) bool {
	known := s.written[KeyOf(svc)]
	_, leaving := config.ReadRecords(known.Leaving).Of(r.Addr)
	pool, ip := svc.Annotations[v1alpha1.AnnotationAddressPool], svc.Annotations[v1alpha1.AnnotationLoadBalancerIPs]
	renumbers := svc.Annotations[v1alpha1.AnnotationRenumber] != ""
	return strings.Contains(svc.Annotations[v1alpha1.AnnotationRelease], r.Addr.String()) ||
		known.SharedAs != currentTerms(svc) || // it has changed the terms of sharing
		leaving && !renumbers ||
		assigned && !renumbers && (pool != "" && pool != r.Value || ip != "" && ip != r.Addr.String())
}

// wrongAddress describes an address that the Service has after a write of the
// controller, and must not have been assigned; "" if there is none.
func wrongAddress(svc, after *corev1.Service, v simulatedView) string {
	// What an earlier write with an unknown outcome may have assigned counts as assigned.
	if i := slices.IndexFunc(v.services, func(o *corev1.Service) bool { return o.UID == svc.UID }); i >= 0 {
		svc = v.services[i]
	}
	for _, addr := range ingressAddrs(after.Status.LoadBalancer.Ingress) {
		before := evidenceOf(svc, addr)
		switch {
		case !config.Recorded(after, addr): // left to another controller
		case v.nodes[addr] && !(before.recorded && before.shown):
			return fmt.Sprintf("%s (%+v) is assigned %s, which is an address of a node", svc.Name, before, addr)
		case before.shown && (before.recorded || before.managed):
		case !v.selects(svc, addr):
			return fmt.Sprintf("%s (%+v) is assigned %s, which is in no pool that selects it", svc.Name, before, addr)
		// It may have been assigned by name, or by a renumbering.
		case before.shown && svc.Annotations[v1alpha1.AnnotationRenumber] == "" &&
			!strings.Contains(svc.Annotations[v1alpha1.AnnotationLoadBalancerIPs], addr.String()) &&
			slices.ContainsFunc(config.OwnAllocation(svc), func(r config.Record) bool { return evidenceOf(after, r.Addr).shown }):
			return fmt.Sprintf("%s (%+v) adopts %s, although it has a record of another address", svc.Name, before, addr)
		}
	}
	return ""
}

// ignoredCopy describes an address that a Service requests because it was copied or
// restored with the record of another one, and that it is not assigned although it is
// free; "" if there is none.
func (s *simulatedAPIServer) ignoredCopy(svc, after *corev1.Service, v simulatedView) string {
	records, own := config.ReadAllocation(svc)
	shown, shows := svc.Status.LoadBalancer.Ingress, after.Status.LoadBalancer.Ingress
	if v.assumes(svc) || own || len(records) == 0 || len(shown) > 0 || len(shows) == 0 || !hasDefaultRequest(svc) {
		return ""
	}
	addr := records[0].Addr
	granting := slices.ContainsFunc(v.pools, func(p config.Pool) bool {
		return !p.Terminating && !p.AvoidBuggyIPs && v.selects(svc, addr) && v.contains(addr, p.Name)
	})
	requested := slices.ContainsFunc(v.services, func(o *corev1.Service) bool {
		return KeyOf(o) != KeyOf(svc) && (strings.Contains(o.Annotations[v1alpha1.AnnotationLoadBalancerIPs], addr.String()) ||
			strings.Contains(o.Annotations[v1alpha1.AnnotationAllocatedFrom], addr.String()))
	})
	taken := v.nodes[addr] || requested || v.rival(svc, addr, func(o evidence) bool { return o.shown })
	if !granting || taken || evidenceOf(after, addr).shown {
		return ""
	}
	return fmt.Sprintf("%s is assigned %s, although its record requests %s", svc.Name, shows[0].IP, addr)
}

// maxSyncs is the number of syncs that lead to a fixed point, if nothing else happens.
const maxSyncs = 6

// reachFixedPoint brings everything to the leader, which reconciles until it has
// nothing to write. It returns what is wrong then.
func (r *simulatedController) reachFixedPoint(t *rapid.T, server *simulatedAPIServer, lax disabledRules) string {
	r.reliable = true
	defer func() { r.reliable = false }()
	for range maxSyncs {
		before, statuses := server.now, len(server.selected)
		r.seen, r.pools, r.nodes, r.status = server.now, len(server.pools)-1, len(server.nodes)-1, len(server.selected)-1
		r.reconcile(t, server, lax)
		if server.violation != "" {
			return server.violation
		}
		if wrong := server.sharedWrongly(); wrong != "" {
			return wrong
		}
		if server.now == before && len(server.selected) == statuses {
			return server.missingAddress(r.view)
		}
	}
	return fmt.Sprintf("no fixed point after %d syncs", maxSyncs)
}

// missingAddress describes an address that a Service does not have, or has no record of,
// although it must have it; "" if there is none.
func (s *simulatedAPIServer) missingAddress(v simulatedView) string {
	for _, svc := range sorted(s.objects) {
		for _, r := range s.assignedAddresses(svc) {
			e := evidenceOf(svc, r.Addr)
			if s.mustKeep(svc, r.Addr, v) && !(e.shown && e.recorded) {
				return fmt.Sprintf("%s (%+v) is not assigned %s again", svc.Name, e, r.Addr)
			}
		}
	}
	return ""
}

// rulesOfEvidence are disabled by changing what a controller sees.
type rulesOfEvidence struct {
	noUID         bool // a record of another Service proves as much as the own one
	noSelection   bool // a record without status proves as much as one with it
	managersWin   bool // managed fields prove as much as a record
	noManagers    bool // managed fields prove nothing
	statusWins    bool // the status proves as much as a record
	noGivingBack  bool // a record without status proves nothing
	noCopies      bool // a record of another Service is not a request
	adoptsOnNodes bool // addresses of nodes are not known
}

func (l rulesOfEvidence) seenNodes(nodes []*corev1.Node) []*corev1.Node {
	if l.adoptsOnNodes {
		return nil
	}
	return nodes
}

// seenService returns the Service as the leader without the rules sees it.
func (r *simulatedController) seenService(svc *corev1.Service, lax disabledRules) *corev1.Service {
	l := lax.rulesOfEvidence
	if l == (rulesOfEvidence{}) {
		return svc
	}
	if seen := r.altered[svc]; seen != nil {
		return seen
	}
	seen := svc.DeepCopy()
	records, own := config.ReadAllocation(svc)
	record := func(records config.Records) {
		seen.Annotations[v1alpha1.AnnotationAllocatedFrom] = config.FormatAllocation(records, svc.UID)
	}
	if l.noUID && len(records) > 0 {
		record(records)
	}
	shown := ingressAddrs(svc.Status.LoadBalancer.Ingress)
	if l.statusWins || l.managersWin && v1alpha1.OwnsIngress(svc) && !own {
		records = nil
		for _, a := range shown {
			records = append(records, config.Record{Addr: a, Value: config.RecordedPool(svc, a)})
		}
		record(records)
	}
	if l.noCopies && !own {
		delete(seen.Annotations, v1alpha1.AnnotationAllocatedFrom)
	}
	if l.noManagers {
		seen.ManagedFields = nil
	}
	if own {
		lost := slices.DeleteFunc(slices.Clone(records), func(r config.Record) bool { return slices.Contains(shown, r.Addr) })
		if l.noSelection && len(lost) > 0 {
			seen.Status.LoadBalancer.Ingress = nil
			for _, r := range records {
				seen.Status.LoadBalancer.Ingress = append(seen.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: r.Addr.String()})
			}
		}
		if l.noGivingBack && len(lost) > 0 {
			delete(seen.Annotations, v1alpha1.AnnotationAllocatedFrom)
		}
	}
	if r.altered == nil {
		r.altered, r.originals = map[*corev1.Service]*corev1.Service{}, map[*corev1.Service]*corev1.Service{}
	}
	r.altered[svc], r.originals[seen] = seen, svc
	return seen
}
