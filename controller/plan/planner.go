package plan

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-io/fairlead/allocator"
	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/memo"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/providers"
)

// Planner makes plans like Decide, and keeps what it derived from objects that
// have not changed since its last plan. Objects must not be modified after they
// were part of a snapshot: a new version is a new object, as in an informer's
// cache. The zero value is ready for use. It must not be used concurrently.
type Planner struct {
	// The inputs of a decision, except the Services. Each numbers its states, which
	// are the keys below.
	parser       config.Parser
	nodes        memo.List[*corev1.Node]
	addresses    memo.List[*corev1.Node] // of the same nodes; changes with the addresses of nodes and Pods only
	namespaces   memo.List[*corev1.Namespace]
	serviceCIDRs memo.List[*networkingv1.ServiceCIDR]
	speakers     memo.List[*v1alpha1.Speaker]
	l2nodes      memo.List[*v1alpha1.L2Node]

	// Derived values. Each is invalidated when a part of its key changes.
	pools          memo.Value[poolStates, allocatorPools]
	poolSelections memo.Value[selectionStates, poolSelections]
	reports        memo.Value[reportStates, *speakerReports]
	sortedNodes    memo.Value[uint64, []*corev1.Node]
	ads            memo.Value[adStates, advertisementPlans]

	// Most changes of nodes do not change the provider of any Service: the state
	// number of the chooser increases only when its value changes.
	chooser      providers.Chooser
	chooserState uint64

	states map[*corev1.Service]*serviceState
	run    uint64 // the number of the last full decision

	allocator allocator.Allocator
	last      *decision // the last full one; nil if an incremental one is not possible
	// latest are the versions of the Services in the decision with this number, and
	// those of Services that have changed since.
	latest    map[types.NamespacedName]*serviceState
	latestRun uint64

	order    []*serviceState     // of the last full decision, oldest first
	added    []*serviceState     // to be merged into order
	requests []allocator.Request // of the last full decision, in the same order
}

// The keys of the derived values: the numbers of the states that they depend on.
type (
	poolStates struct {
		config                  config.State
		addresses, serviceCIDRs uint64
	}
	selectionStates struct {
		config     config.State
		namespaces uint64
	}
	reportStates struct {
		config                   config.State
		nodes, speakers, l2nodes uint64
	}
	adStates struct {
		pools   poolStates
		reports reportStates // and the nodes
		held    string       // the heldDeletedPools
	}
	requestStates struct {
		selections selectionStates
		chooser    uint64
	}
)

// allocatorPools are the pools in the form that the allocator needs.
type allocatorPools struct {
	pools      *allocator.Pools
	problems   []config.Problem // of all objects
	problemsOf map[objectKey][]config.Problem
}

type objectKey struct{ kind, name string }

// advertisementPlans are the statuses of the kinds that assign no addresses.
type advertisementPlans struct {
	l2ads       map[string]v1alpha1.L2AdvertisementStatus
	peers       map[string]v1alpha1.BGPPeerStatus
	bgpads      map[string]v1alpha1.BGPAdvertisementStatus
	communities map[string]v1alpha1.CommunityStatus
}

// decision is a Snapshot with everything that was derived from it.
type decision struct {
	Snapshot
	allocatorPools
	config         config.Config
	poolSelections poolSelections
	chooser        providers.Chooser
	reports        *speakerReports
	sortedNodes    []*corev1.Node
	services       []*serviceState // in the order of the Services
	requests       []allocator.Request
	externalIPs    map[netip.Addr][]types.NamespacedName // Services with the address in spec.externalIPs, by name
	chosenPorts    map[types.NamespacedName][]NodePort   // of Services that lack node ports; empty if none is free
	// heldDeletedPools are pools that no longer exist and that Services hold addresses of.
	heldDeletedPools []string
	sharedPools      map[netip.Addr][]string // see newSharedPools; nil before the allocation
	requeueAt        time.Time

	poolStates    poolStates
	requestStates requestStates
	reportStates  reportStates
}

// serviceState is a Service with what was derived from it.
type serviceState struct {
	*corev1.Service
	key     types.NamespacedName
	run     uint64 // the number of the last full decision that it was part of
	ordered bool   // it is in the planner's order
	// volatile: the plan also depends on the time or on the cloud, and is not kept.
	volatile bool

	// Derived from the Service and the states.
	states       requestStates
	choice       providers.Choice
	refusal      v1alpha1.Refusal // if set, no new addresses are assigned
	terms        string           // the record of the terms under which it shares addresses
	request      allocator.Request
	hasRequest   bool
	requestIndex int // in the requests of the decision

	// Derived from all of the above, the assignment and the reports. The plan is
	// kept for the next decision if planned is true.
	planned    bool
	assignment allocator.Assignment
	reports    reportStates
	external   string       // see externalIPNote
	reverted   string       // see revertNote
	plan       *ServicePlan // nil: no state of Fairlead's is observed or desired
	changed    bool         // the plan differs from the observed state
}

// assignmentIn returns what the allocator assigned to the Service.
func (s *serviceState) assignmentIn(r allocator.Result) allocator.Assignment {
	if !s.hasRequest {
		return allocator.Assignment{}
	}
	return r.Assignments[s.requestIndex]
}

// Decide returns what the function Decide returns. Parts of the plan are shared
// with later plans and must not be changed.
func (p *Planner) Decide(s Snapshot) Plan {
	d := p.decision(s)
	result := p.allocator.Allocate(d.allocatorPools.pools, d.requests)
	d.sharedPools = newSharedPools(d.services, result)
	d.heldDeletedPools = d.findHeldDeletedPools()
	ads := p.ads.Get(adStates{d.poolStates, d.reportStates, strings.Join(d.heldDeletedPools, ",")}, d.advertisementPlans)
	plan := Plan{
		Services: make([]PlannedService, 0, len(d.services)), Pools: d.poolStatuses(result),
		L2Advertisements: ads.l2ads, BGPPeers: ads.peers, BGPAdvertisements: ads.bgpads, Communities: ads.communities,
		Cloud: make(map[types.UID]CloudRequest), LiveServices: make(map[types.UID]bool),
		Problems: slices.Concat(d.problems, d.reports.problems), RequeueAt: d.requeueAt,
	}
	for _, svc := range d.services {
		d.planService(svc, svc.assignmentIn(result))
		if svc.plan != nil {
			plan.Services = append(plan.Services, PlannedService{svc.Service, svc.plan})
		}
		if svc.changed {
			plan.Changes = append(plan.Changes, PlannedService{svc.Service, svc.plan})
		}
		if v1alpha1.MayHaveLoadBalancer(svc.Service) || svc.choice.Verdict == providers.OnAWS {
			plan.LiveServices[svc.UID] = true
		}
		if action := d.cloudAction(svc); action != NoAction {
			plan.Cloud[svc.UID] = CloudRequest{svc.Service, action}
		}
	}
	// Most of these are versions of Services that no snapshot contains any more.
	if len(p.states) > 2*len(d.services)+1000 {
		maps.DeleteFunc(p.states, func(_ *corev1.Service, svc *serviceState) bool { return svc.run != p.run })
	}
	p.last = d
	return plan
}

// planService sets the Service's plan, unless the kept one is still current.
func (d *decision) planService(svc *serviceState, a allocator.Assignment) {
	if svc.planned && d.planIsCurrent(svc, a) {
		return
	}
	p, reverted := d.servicePlan(svc, a), d.revertNote(svc)
	p.noteRevert(reverted)
	svc.plan, svc.changed = nil, false
	// A Service that has nothing to add and nothing to remove is not part of the plan.
	if !p.IsZero() || hasOwnState(svc.Service) {
		svc.plan, svc.changed = &p, !p.Matches(svc.Service)
	}
	// A volatile plan is made again in every decision, and so is one that records the
	// time at which an address was replaced.
	svc.planned = !svc.volatile && p.Leaving == ""
	// The addresses of one allocation share an array, which must not be kept for one Service.
	a.Held = slices.Clone(a.Held)
	svc.assignment, svc.reports, svc.external, svc.reverted = a, d.reportStates, d.externalIPNote(svc, a.Held), reverted
}

// servicesByAddress returns the Services of the requests by address, sorted by name.
func servicesByAddress(requests []allocator.Request) map[netip.Addr][]types.NamespacedName {
	if len(requests) == 0 {
		return nil
	}
	slices.SortFunc(requests, func(a, b allocator.Request) int { return strings.Compare(a.Key.String(), b.Key.String()) })
	services := make(map[netip.Addr][]types.NamespacedName, len(requests))
	for _, r := range requests {
		for _, h := range r.Have {
			services[h.Addr] = append(services[h.Addr], r.Key)
		}
	}
	return services
}

// planIsCurrent reports whether the kept plan is still the one that the assignment
// and the reports lead to.
func (d *decision) planIsCurrent(svc *serviceState, a allocator.Assignment) bool {
	k := svc.assignment
	if !slices.Equal(a.Held, k.Held) || !slices.Equal(a.Missing, k.Missing) || !slices.Equal(a.GivesUp, k.GivesUp) {
		return false
	}
	if svc.external != d.externalIPNote(svc, a.Held) || svc.reverted != d.revertNote(svc) {
		return false
	}
	shared := slices.ContainsFunc(a.Held, func(h allocator.Held) bool { return d.sharedPools[h.Addr] != nil })
	// Most reports that change concern other Services: only the condition is compared.
	if svc.reports == d.reportStates && !shared || svc.plan == nil {
		return true
	}
	shown := apimeta.FindStatusCondition(svc.plan.Conditions, v1alpha1.ConditionAnnounced)
	if shown != nil && *shown != d.announcedCondition(a.Held) {
		return false
	}
	svc.reports = d.reportStates
	return true
}

// decision derives from the snapshot what planning needs, or reuses it.
func (p *Planner) decision(s Snapshot) *decision {
	p.run++ // states of an older run are not part of this decision
	if p.states == nil {
		p.states = make(map[*corev1.Service]*serviceState, len(s.Services))
	}
	d := &decision{Snapshot: s}
	var problems []config.Problem
	var parsed config.State
	d.config, problems, parsed = p.parser.Parse(s.Objects)
	nodes, namespaces := p.nodes.Observe(s.Nodes, config.SameNode), p.namespaces.Observe(s.Namespaces, sameNamespace)
	d.poolStates = poolStates{parsed, p.addresses.Observe(s.Nodes, sameAddresses), p.serviceCIDRs.Observe(s.ServiceCIDRs, sameServiceCIDR)}
	d.allocatorPools = p.pools.Get(d.poolStates, func() allocatorPools {
		return newAllocatorPools(d.config, problems, s.Nodes, s.ServiceCIDRs)
	})
	d.reportStates = reportStates{
		parsed, nodes, p.speakers.Observe(s.Speakers, memo.SameVersion), p.l2nodes.Observe(s.L2Nodes, memo.SameVersion),
	}
	d.reports = p.reports.Get(d.reportStates, func() *speakerReports {
		return newSpeakerReports(d.config, s.Nodes, s.Speakers, s.L2Nodes)
	})
	d.sortedNodes = p.sortedNodes.Get(nodes, func() []*corev1.Node {
		return slices.SortedFunc(slices.Values(s.Nodes), func(a, b *corev1.Node) int { return strings.Compare(a.Name, b.Name) })
	})
	// The chooser is a comparable value: an equal one leaves all requests valid.
	if chooser := providers.NewChooser(s.Policy, d.sortedNodes); p.chooserState == 0 || chooser != p.chooser {
		p.chooser = chooser
		p.chooserState++
	}
	d.chooser = p.chooser
	d.requestStates = requestStates{selectionStates{parsed, namespaces}, p.chooserState}
	d.poolSelections = p.poolSelections.Get(d.requestStates.selections, func() poolSelections {
		return newPoolSelections(d.config.Pools, s.Namespaces)
	})
	for _, svc := range s.Services {
		if state := p.serviceState(d, svc); !state.ordered {
			p.added = append(p.added, state)
		}
	}
	p.mergeOrder()
	p.requests = p.requests[:0] // the memory of the last decision is reused
	for _, state := range p.order {
		if state.hasRequest {
			state.requestIndex = len(p.requests)
			p.requests = append(p.requests, state.request)
		}
	}
	external := append(externalIPRequests(s.Services), externalIPRequests(s.Unmanaged)...)
	d.externalIPs = servicesByAddress(external)
	p.requests = append(p.requests, external...)
	d.services, d.requests = p.order, p.requests
	d.chosenPorts = d.chooseNodePorts()
	return d
}

// serviceState returns the state of the Service for this decision. It is derived
// again if an input has changed or if it is volatile.
func (p *Planner) serviceState(d *decision, svc *corev1.Service) *serviceState {
	known := p.states[svc]
	if known == nil {
		known = &serviceState{Service: svc, key: KeyOf(svc)}
		p.states[svc] = known
	}
	known.run = p.run
	if known.states != d.requestStates || known.volatile {
		*known = serviceState{
			Service: svc, key: known.key, run: p.run, ordered: known.ordered, states: d.requestStates, choice: d.chooser.Choose(svc),
		}
		known.volatile = hasVolatilePlan(svc) || known.choice.Verdict == providers.OnAWS
		known.request, known.hasRequest = d.buildRequest(known)
	}
	return known
}

// hasVolatilePlan reports whether the plan of the Service depends on the time or on
// the cloud.
func hasVolatilePlan(svc *corev1.Service) bool {
	_, renumbers := svc.Annotations[v1alpha1.AnnotationRenumber]
	_, leaving := svc.Annotations[v1alpha1.AnnotationLeaving]
	return renumbers || leaving || v1alpha1.MayHaveLoadBalancer(svc)
}

// mergeOrder updates the order by age: it removes Services that are not part of this
// decision, and merges the added ones. That is cheaper than sorting all of them.
func (p *Planner) mergeOrder() {
	byAge := func(a, b *serviceState) int {
		return cmp.Or(
			a.CreationTimestamp.Compare(b.CreationTimestamp.Time),
			strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name),
		)
	}
	slices.SortFunc(p.added, byAge)
	added := p.added
	order := make([]*serviceState, 0, len(p.order)+len(added))
	for _, svc := range p.order {
		if svc.ordered = svc.run == p.run; !svc.ordered {
			continue
		}
		// Added Services that are older than the next kept one precede it.
		for len(added) > 0 && byAge(added[0], svc) < 0 {
			order, added = append(order, added[0]), added[1:]
		}
		order = append(order, svc)
	}
	p.order = append(order, added...)
	for _, svc := range p.added {
		svc.ordered = true
	}
	clear(p.added)
	p.added = p.added[:0]
}

func sameNamespace(a, b *corev1.Namespace) bool {
	return a.UID == b.UID && maps.Equal(a.Labels, b.Labels)
}

// sameAddresses reports whether the node reserves the same addresses as before.
func sameAddresses(a, b *corev1.Node) bool {
	return slices.Equal(a.Status.Addresses, b.Status.Addresses) &&
		a.Spec.PodCIDR == b.Spec.PodCIDR && slices.Equal(a.Spec.PodCIDRs, b.Spec.PodCIDRs)
}

func sameServiceCIDR(a, b *networkingv1.ServiceCIDR) bool {
	return a.UID == b.UID && slices.Equal(a.Spec.CIDRs, b.Spec.CIDRs)
}

// newAllocatorPools adds the reserved ranges to the pools, and their problems to
// those of the configuration.
func newAllocatorPools(
	c config.Config, problems []config.Problem, nodes []*corev1.Node, cidrs []*networkingv1.ServiceCIDR,
) allocatorPools {
	never, ofNodes := nodeAddresses(nodes)
	p := allocatorPools{problems: slices.Concat(problems, ofNodes), problemsOf: map[objectKey][]config.Problem{}}
	cluster := newClusterRanges(nodes, cidrs)
	prepared := make([]allocator.Pool, 0, len(c.Pools))
	for _, pool := range c.Pools {
		reserved, problems := cluster.reservedIn(pool)
		p.problems = append(p.problems, problems...)
		prepared = append(prepared, allocator.Pool{
			Name: pool.Name, Ranges: pool.Ranges, Reserved: reserved, AvoidBuggyIPs: pool.AvoidBuggyIPs,
			Auto: pool.AutoAssign, Closed: pool.Terminating, Advertised: c.Advertised(&pool),
		})
	}
	p.pools = allocator.NewPools(prepared, never)
	for _, problem := range p.problems {
		key := objectKey{problem.Kind, problem.Name}
		p.problemsOf[key] = append(p.problemsOf[key], problem)
	}
	return p
}

func (d *decision) advertisementPlans() advertisementPlans {
	return advertisementPlans{
		l2ads: d.l2AdvertisementStatuses(), peers: d.bgpPeerStatuses(),
		bgpads: d.bgpAdvertisementStatuses(), communities: d.communityStatuses(),
	}
}
