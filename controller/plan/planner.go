package plan

import (
	"cmp"
	"maps"
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
	// Everything that a decision reads, except the Services, and the numbers of
	// the states that it was in last.
	parser       config.Parser
	nodes        memo.List[*corev1.Node]
	addresses    memo.List[*corev1.Node] // those of the nodes and their pods
	namespaces   memo.List[*corev1.Namespace]
	serviceCIDRs memo.List[*networkingv1.ServiceCIDR]
	speakers     memo.List[*v1alpha1.Speaker]

	// Each value is computed again when a part of its key changes.
	pools       memo.Value[poolStates, pools]
	menus       memo.Value[menuStates, menus]
	reports     memo.Value[reportStates, *reports]
	sortedNodes memo.Value[uint64, []*corev1.Node]
	ads         memo.Value[adStates, advertisementPlans]

	// Most changes of nodes do not change the provider of any Service, so that
	// the chooser's states are those of its value.
	chooser      providers.Chooser
	chooserState uint64

	subjects map[*corev1.Service]*subject
	run      uint64 // the number of the last full decision

	allocator allocator.Allocator
	last      *decision       // the last full one; nil if only another one will do
	inUse     map[string]bool // by it: pools that have, or are to get, their finalizer
	// latest are the versions of the Services that the decision with this number,
	// and those of changed Services since, were about.
	latest    map[types.NamespacedName]*subject
	latestRun uint64

	order    []*subject          // of the last full decision, oldest first
	added    []*subject          // to be merged into order
	requests []allocator.Request // of the last full decision, in the same order
}

type (
	poolStates struct {
		config                  config.State
		addresses, serviceCIDRs uint64
	}
	menuStates struct {
		config     config.State
		namespaces uint64
	}
	reportStates struct{ nodes, speakers uint64 }
	adStates     struct {
		pools   poolStates
		reports reportStates // and the nodes
	}
	requestStates struct {
		menus   menuStates
		chooser uint64
	}
)

// pools are the pools as the allocator needs them.
type pools struct {
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
	pools
	config      config.Config
	menus       menus
	chooser     providers.Chooser
	reports     *reports
	sortedNodes []*corev1.Node
	subjects    []*subject // in the order of the Services
	requests    []allocator.Request
	ports       map[types.NamespacedName][]NodePort // of Services that lack node ports; none if none is free
	wake        time.Time

	poolStates    poolStates
	requestStates requestStates
	reportStates  reportStates
}

// subject is a Service with what was derived from it.
type subject struct {
	*corev1.Service
	key     types.NamespacedName
	run     uint64 // the number of the last full decision that it was part of
	ordered bool   // it is in the planner's order
	// volatile: more than the Service, the configuration, the nodes and the reports
	// decide its plan: the time, or the cloud.
	volatile bool

	// Derived from the Service and the states.
	states  requestStates
	choice  providers.Choice
	why     v1alpha1.Refusal // set: it gets nothing new
	terms   string           // under which it shares addresses, as they are recorded
	request allocator.Request
	asks    bool // whether it has a request
	ask     int  // the index of the request

	// Derived from all that, the assignment and the reports. No plan is kept
	// unless planned is true.
	planned    bool
	assignment allocator.Assignment
	reports    reportStates
	plan       *ServicePlan // nil: the Service has nothing of Fairlead's
	differs    bool         // the plan from the Service
}

// assigned is what the allocator assigned to the Service.
func (s *subject) assigned(r allocator.Result) allocator.Assignment {
	if !s.asks {
		return allocator.Assignment{}
	}
	return r.Assignments[s.ask]
}

// Decide returns what the function Decide returns. Parts of the plan are shared
// with later plans and must not be changed.
func (p *Planner) Decide(s Snapshot) Plan {
	d := p.decision(s)
	result := p.allocator.Allocate(d.pools.pools, d.requests)
	ads := p.ads.Get(adStates{d.poolStates, d.reportStates}, d.advertisementPlans)
	plan := Plan{
		Services: make([]Planned, 0, len(d.subjects)), Pools: d.poolPlans(result),
		L2Advertisements: ads.l2ads, BGPPeers: ads.peers, BGPAdvertisements: ads.bgpads, Communities: ads.communities,
		Cloud: make(map[types.UID]Work), Live: make(map[types.UID]bool),
		Problems: d.problems, Wake: d.wake,
	}
	for _, svc := range d.subjects {
		d.planService(svc, svc.assigned(result))
		if svc.plan != nil {
			plan.Services = append(plan.Services, Planned{svc.Service, svc.plan})
		}
		if svc.differs {
			plan.Changes = append(plan.Changes, Planned{svc.Service, svc.plan})
		}
		if has(svc.Service, v1alpha1.FinalizerAWS) || svc.choice.Verdict == providers.OnAWS {
			plan.Live[svc.UID] = true
		}
		if do := d.work(svc); do != Nothing {
			plan.Cloud[svc.UID] = Work{svc.Service, do}
		}
	}
	if len(p.subjects) > 2*len(d.subjects)+1000 { // most are of versions that nothing refers to any more
		maps.DeleteFunc(p.subjects, func(_ *corev1.Service, svc *subject) bool { return svc.run != p.run })
	}
	p.last, p.inUse = d, make(map[string]bool, len(plan.Pools))
	for name, pool := range plan.Pools {
		p.inUse[name] = pool.InUse
	}
	return plan
}

// planService sets the Service's plan, unless the kept one still holds.
func (d *decision) planService(svc *subject, a allocator.Assignment) {
	if svc.planned && d.holds(svc, a) {
		return
	}
	p := d.servicePlan(svc, a)
	svc.plan, svc.differs = nil, false
	if !p.IsZero() || touched(svc.Service) {
		svc.plan, svc.differs = &p, !p.Matches(svc.Service)
	}
	svc.planned = !svc.volatile && p.Leaving == "" // the record of a leaving address has the time
	svc.assignment, svc.reports = a, d.reportStates
}

// holds reports whether the kept plan is what the assignment leads to.
func (d *decision) holds(svc *subject, a allocator.Assignment) bool {
	k := svc.assignment
	if !slices.Equal(a.Held, k.Held) || !slices.Equal(a.Missing, k.Missing) || !slices.Equal(a.GivesUp, k.GivesUp) {
		return false
	}
	if svc.reports == d.reportStates || svc.plan == nil {
		return true
	}
	shown := apimeta.FindStatusCondition(svc.plan.Conditions, v1alpha1.ConditionAnnounced)
	if shown != nil && *shown != d.reports.announced(a.Held) {
		return false
	}
	svc.reports = d.reportStates
	return true
}

// decision derives everything from the snapshot that planning needs.
func (p *Planner) decision(s Snapshot) *decision {
	p.run++
	if p.subjects == nil {
		p.subjects = make(map[*corev1.Service]*subject, len(s.Services))
	}
	d := &decision{Snapshot: s}
	var problems []config.Problem
	var parsed config.State
	d.config, problems, parsed = p.parser.Parse(s.Objects)
	nodes, namespaces := p.nodes.Observe(s.Nodes, config.SameNode), p.namespaces.Observe(s.Namespaces, sameNamespace)
	d.poolStates = poolStates{parsed, p.addresses.Observe(s.Nodes, sameAddresses), p.serviceCIDRs.Observe(s.ServiceCIDRs, sameServiceCIDR)}
	d.pools = p.pools.Get(d.poolStates, func() pools { return newPools(d.config.Pools, problems, guardsOf(s.Nodes, s.ServiceCIDRs)) })
	d.reportStates = reportStates{nodes, p.speakers.Observe(s.Speakers, memo.SameVersion)}
	d.reports = p.reports.Get(d.reportStates, func() *reports { return newReports(s.Nodes, s.Speakers) })
	d.sortedNodes = p.sortedNodes.Get(nodes, func() []*corev1.Node {
		return slices.SortedFunc(slices.Values(s.Nodes), func(a, b *corev1.Node) int { return strings.Compare(a.Name, b.Name) })
	})
	if chooser := providers.NewChooser(s.Policy, d.sortedNodes); p.chooserState == 0 || chooser != p.chooser {
		p.chooser = chooser
		p.chooserState++
	}
	d.chooser = p.chooser
	d.requestStates = requestStates{menuStates{parsed, namespaces}, p.chooserState}
	d.menus = p.menus.Get(d.requestStates.menus, func() menus { return newMenus(d.config.Pools, s.Namespaces) })
	for _, svc := range s.Services {
		if subject := p.subject(d, svc); !subject.ordered {
			p.added = append(p.added, subject)
		}
	}
	p.sort()
	p.requests = p.requests[:0]
	for _, subject := range p.order {
		if subject.asks {
			subject.ask = len(p.requests)
			p.requests = append(p.requests, subject.request)
		}
	}
	d.subjects, d.requests = p.order, p.requests
	d.ports = d.lackingPorts()
	return d
}

// subject returns what was derived from the Service, from now on also for this
// decision.
func (p *Planner) subject(d *decision, svc *corev1.Service) *subject {
	known := p.subjects[svc]
	if known == nil {
		known = &subject{Service: svc, key: KeyOf(svc)}
		p.subjects[svc] = known
	}
	known.run = p.run
	if known.states != d.requestStates || known.volatile {
		*known = subject{
			Service: svc, key: known.key, run: p.run, ordered: known.ordered, states: d.requestStates, choice: d.chooser.Choose(svc),
		}
		known.volatile = isVolatile(svc) || known.choice.Verdict == providers.OnAWS
		known.request, known.asks = d.request(known)
	}
	return known
}

func isVolatile(svc *corev1.Service) bool {
	_, renumbers := svc.Annotations[v1alpha1.AnnotationRenumber]
	_, leaving := svc.Annotations[v1alpha1.AnnotationLeaving]
	return renumbers || leaving || has(svc, v1alpha1.FinalizerAWS)
}

// sort removes from the order what is not part of this decision, and merges what
// was added. Most of the order is that of the last decision.
func (p *Planner) sort() {
	byAge := func(a, b *subject) int {
		return cmp.Or(
			a.CreationTimestamp.Compare(b.CreationTimestamp.Time),
			strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name),
		)
	}
	slices.SortFunc(p.added, byAge)
	added := p.added
	order := make([]*subject, 0, len(p.order)+len(added))
	for _, svc := range p.order {
		if svc.ordered = svc.run == p.run; !svc.ordered {
			continue
		}
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

// sameAddresses reports whether no pool is guarded differently for the node.
func sameAddresses(a, b *corev1.Node) bool {
	return slices.Equal(a.Status.Addresses, b.Status.Addresses) && a.Spec.PodCIDR == b.Spec.PodCIDR && slices.Equal(a.Spec.PodCIDRs, b.Spec.PodCIDRs)
}

func sameServiceCIDR(a, b *networkingv1.ServiceCIDR) bool {
	return a.UID == b.UID && slices.Equal(a.Spec.CIDRs, b.Spec.CIDRs)
}

func newPools(all []config.Pool, problems []config.Problem, guards guards) pools {
	p := pools{problems: slices.Clip(problems), problemsOf: map[objectKey][]config.Problem{}}
	prepared := make([]allocator.Pool, 0, len(all))
	for _, pool := range all {
		reserved, problems := guards.of(pool)
		p.problems = append(p.problems, problems...)
		prepared = append(prepared, allocator.Pool{
			Name: pool.Name, Ranges: pool.Ranges, Reserved: reserved, AvoidBuggyIPs: pool.AvoidBuggyIPs,
			Auto: pool.AutoAssign, Closed: pool.Terminating,
		})
	}
	p.pools = allocator.NewPools(prepared)
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
