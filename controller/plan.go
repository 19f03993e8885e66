package controller

import (
	"slices"
	"time"

	"go4.org/netipx"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-io/fairlead/allocator"
	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/providers"
)

// Snapshot is everything that a decision depends on.
type Snapshot struct {
	Policy   providers.Policy
	Objects  config.Objects
	Services []*corev1.Service
	Nodes    []*corev1.Node
	Speakers []*v1alpha1.Speaker
	// Namespaces, for the labels that pools select; ServiceCIDRs, whose addresses no pool gives.
	Namespaces   []*corev1.Namespace
	ServiceCIDRs []*networkingv1.ServiceCIDR
	Now          time.Time
	// Cloud is what the cloud has answered since the process began.
	Cloud     map[types.UID]Outcome
	NodePorts PortRange
	// Taken are held by Services that are left out (see settled): sorted, disjoint.
	Taken []netipx.IPRange
	// reports are those of the Speakers, if they have been read already.
	reports *reports
}

// Plan is what the objects that Fairlead writes should say. An object that is
// not in it is not touched.
type Plan struct {
	Services map[types.NamespacedName]ServicePlan
	Pools    map[string]PoolPlan
	// The statuses' conditions are without times.
	L2Advertisements  map[string]v1alpha1.L2AdvertisementStatus
	BGPPeers          map[string]v1alpha1.BGPPeerStatus
	BGPAdvertisements map[string]v1alpha1.BGPAdvertisementStatus
	Communities       map[string]v1alpha1.CommunityStatus
	// Cloud is what the cloud shall do, for each Service that carries its finalizer.
	Cloud map[types.UID]Work
	// Live are the Services that may have something in the cloud.
	Live map[types.UID]bool
	// Problems are those of all objects, which their conditions show.
	Problems []config.Problem
	// Wake is when to decide again although nothing has happened; zero is never.
	Wake time.Time
}

// PoolPlan is what the controller says on a pool.
type PoolPlan struct {
	InUse  bool // keeps a deleted pool terminating
	Status v1alpha1.IPAddressPoolStatus
}

// Decide plans for everything at once. Equal snapshots give equal plans.
func Decide(s Snapshot) Plan {
	d := newDecision(s)
	result := allocator.Allocate(allocator.NewPools(d.pools), d.requests)
	plan := Plan{
		Services:         make(map[types.NamespacedName]ServicePlan, len(s.Services)),
		Pools:            d.poolPlans(result),
		L2Advertisements: d.l2AdvertisementStatuses(),
		BGPPeers:         d.bgpPeerStatuses(), BGPAdvertisements: d.bgpAdvertisementStatuses(), Communities: d.communityStatuses(),
		Cloud: make(map[types.UID]Work), Live: make(map[types.UID]bool),
		Problems: d.problems, Wake: d.wake,
	}
	for i := range d.subjects {
		svc := &d.subjects[i]
		p := d.servicePlan(svc, svc.assignment(result))
		if p.says() || touched(svc.Service) {
			plan.Services[svc.key] = p
		}
		if has(svc.Service, v1alpha1.FinalizerAWS) || svc.choice.Verdict == providers.OnAWS {
			plan.Live[svc.UID] = true
		}
		if do := d.work(svc); do != Nothing {
			plan.Cloud[svc.UID] = Work{svc.Service, do}
		}
	}
	return plan
}

// Trace is how the plan for one Service came about.
type Trace struct {
	Choice   providers.Choice
	Verdicts []allocator.TraceEntry
	Plan     ServicePlan
}

// Explain is Decide, watched from one Service, which must be in the snapshot.
func Explain(s Snapshot, service types.NamespacedName) Trace {
	d := newDecision(s)
	i := slices.IndexFunc(d.subjects, func(svc subject) bool { return svc.key == service })
	svc := &d.subjects[i]
	pools := allocator.NewPools(d.pools)
	result := allocator.Allocate(pools, d.requests)
	return Trace{Choice: svc.choice, Verdicts: allocator.Explain(pools, d.requests, service), Plan: d.servicePlan(svc, svc.assignment(result))}
}

// refusal is why a Service does not get what it asks for.
type refusal struct {
	reason  v1alpha1.Reason
	message string
}

// decision is a Snapshot, understood.
type decision struct {
	Snapshot
	config   config.Config
	problems []config.Problem
	// problemsBy are the problems by kind and name of the object.
	problemsBy map[[2]string][]config.Problem
	subjects   []subject // as the Services came
	pools      []allocator.Pool
	menus      menus
	requests   []allocator.Request
	reports    *reports
	ports      map[types.NamespacedName][]NodePort // lacking ones, chosen; none if none is free
	wake       time.Time
}

// subject is a Service, understood.
type subject struct {
	*corev1.Service
	key    types.NamespacedName
	choice providers.Choice
	why    refusal // set: it gets nothing new
	terms  string  // under which it shares addresses, as they are recorded
	ask    int     // its request; none is -1
}

// assignment is what the Service's request came to.
func (s *subject) assignment(r allocator.Result) allocator.Assignment {
	if s.ask < 0 {
		return allocator.Assignment{}
	}
	return r.Assignments[s.ask]
}

func newDecision(s Snapshot) *decision {
	d := &decision{
		Snapshot: s,
		subjects: make([]subject, len(s.Services)),
		requests: make([]allocator.Request, 0, len(s.Services)),
	}
	if s.reports == nil {
		s.reports = newReports(s.Nodes, s.Speakers)
	}
	d.reports = s.reports
	d.config, d.problems = config.Parse(s.Objects)
	guards := guardsOf(s.Nodes, s.ServiceCIDRs)
	for _, p := range d.config.Pools {
		reserved, problems := guards.of(p)
		d.problems = append(d.problems, problems...)
		for _, r := range p.Ranges {
			for _, t := range overlapping(s.Taken, r) {
				reserved = append(reserved, allocator.Reserved{IPRange: t, Why: "is held by another Service"})
			}
		}
		d.pools = append(d.pools, allocator.Pool{
			Name: p.Name, Ranges: p.Ranges, Reserved: reserved, AvoidBuggyIPs: p.AvoidBuggyIPs,
			Auto: p.AutoAssign, Closed: p.Terminating,
		})
	}
	d.problemsBy = make(map[[2]string][]config.Problem)
	for _, p := range d.problems {
		object := [2]string{p.Kind, p.Name}
		d.problemsBy[object] = append(d.problemsBy[object], p)
	}
	d.menus = newMenus(d.config.Pools, s.Namespaces)
	chooser := providers.NewChooser(s.Policy, s.Nodes)
	for i, svc := range s.Services {
		d.subjects[i] = subject{Service: svc, key: keyOf(svc), choice: chooser.Choose(svc), ask: -1}
		if r, asks := d.request(&d.subjects[i]); asks {
			d.subjects[i].ask = len(d.requests)
			d.requests = append(d.requests, r)
		}
	}
	d.ports = d.lackingPorts()
	return d
}

func (d *decision) l2AdvertisementStatuses() map[string]v1alpha1.L2AdvertisementStatus {
	statuses := make(map[string]v1alpha1.L2AdvertisementStatus, len(d.config.L2Advertisements))
	for _, ad := range d.config.L2Advertisements {
		var status v1alpha1.L2AdvertisementStatus
		status.Pools, status.Nodes = d.reach(ad.Scope)
		status.Conditions = d.ready("L2Advertisement", ad.Name, inUse)
		statuses[ad.Name] = status
	}
	return statuses
}

func (d *decision) ready(kind, name, whenReady string) []metav1.Condition {
	return []metav1.Condition{config.ReadyCondition(d.problemsOf(kind, name), whenReady)}
}

func (d *decision) problemsOf(kind, name string) []config.Problem {
	return d.problemsBy[[2]string{kind, name}]
}

func condition(kind string, status metav1.ConditionStatus, reason v1alpha1.Reason, message string) metav1.Condition {
	return metav1.Condition{Type: kind, Status: status, Reason: string(reason), Message: config.Message(message)}
}

func keyOf(svc *corev1.Service) types.NamespacedName {
	return types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}
}
