package controller

import (
	"fmt"
	"math/big"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
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
	// Cloud is what the cloud has answered since the process began.
	Cloud     map[types.UID]Outcome
	NodePorts PortRange
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
}

// PoolPlan is what the controller says on a pool.
type PoolPlan struct {
	InUse  bool // keeps a deleted pool terminating
	Status v1alpha1.IPAddressPoolStatus
}

// Decide plans for everything at once. Equal snapshots give equal plans.
func Decide(s Snapshot) Plan {
	d := newDecision(s)
	assignments := allocator.Allocate(d.pools, d.requests)
	plan := Plan{
		Services:         make(map[types.NamespacedName]ServicePlan),
		Pools:            d.poolPlans(assignments),
		L2Advertisements: d.l2AdvertisementStatuses(),
		BGPPeers:         d.bgpPeerStatuses(), BGPAdvertisements: d.bgpAdvertisementStatuses(), Communities: d.communityStatuses(),
		Cloud: make(map[types.UID]Work), Live: make(map[types.UID]bool),
	}
	for _, svc := range s.Services {
		p := d.servicePlan(svc, assignments[keyOf(svc)])
		if p.says() || touched(svc) {
			plan.Services[keyOf(svc)] = p
		}
		if has(svc, v1alpha1.FinalizerAWS) || d.choices[keyOf(svc)].Verdict == providers.OnAWS {
			plan.Live[svc.UID] = true
		}
		if do := d.work(svc); do != Nothing {
			plan.Cloud[svc.UID] = Work{svc, do}
		}
	}
	return plan
}

// Trace is how the plan for one Service came about.
type Trace struct {
	Choice   providers.Choice
	Verdicts []allocator.Verdict
	Plan     ServicePlan
}

// Explain is Decide, watched from one Service, which must be in the snapshot.
func Explain(s Snapshot, service types.NamespacedName) Trace {
	d := newDecision(s)
	assignment, verdicts := allocator.Explain(d.pools, d.requests, service)
	i := slices.IndexFunc(s.Services, func(svc *corev1.Service) bool { return keyOf(svc) == service })
	svc := s.Services[i]
	return Trace{Choice: d.choices[service], Verdicts: verdicts, Plan: d.servicePlan(svc, assignment)}
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
	choices  map[types.NamespacedName]providers.Choice
	frozen   map[types.NamespacedName]refusal // why a Service gets nothing new
	pools    []allocator.Pool
	requests []allocator.Request
	reports  reports
	ports    map[types.NamespacedName][]NodePort // lacking ones, chosen; none if none is free
}

func newDecision(s Snapshot) *decision {
	d := &decision{
		Snapshot: s,
		choices:  make(map[types.NamespacedName]providers.Choice, len(s.Services)),
		frozen:   make(map[types.NamespacedName]refusal),
		requests: make([]allocator.Request, 0, len(s.Services)),
	}
	d.config, d.problems = config.Parse(s.Objects)
	for _, p := range d.config.Pools {
		d.pools = append(d.pools, allocator.Pool{Name: p.Name, Ranges: p.Ranges, Auto: p.AutoAssign, Closed: p.Terminating})
	}
	chooser := providers.NewChooser(s.Policy, s.Nodes)
	for _, svc := range s.Services {
		d.choices[keyOf(svc)] = chooser.Choose(svc)
		if r, asks := d.request(svc); asks {
			d.requests = append(d.requests, r)
		}
	}
	d.reports = newReports(s.Nodes, s.Speakers)
	d.ports = d.lackingPorts()
	return d
}

// request is what a Service asks of the pools: an address, or just to be left
// with those that it shows.
func (d *decision) request(svc *corev1.Service) (r allocator.Request, asks bool) {
	key := keyOf(svc)
	choice := d.choices[key]
	r = allocator.Request{Key: key, Since: svc.CreationTimestamp.Time, Have: have(svc)}
	if choice.Verdict == providers.OnAWS && has(svc, v1alpha1.FinalizerBareMetal) && svc.DeletionTimestamp == nil {
		r.Frozen = true // holds its addresses until the balancer answers
		return r, len(r.Have) > 0
	}
	if choice.Verdict != providers.OnBareMetal || svc.DeletionTimestamp != nil || foreignHostname(svc) {
		r.Standing = allocator.Stranger
		return r, len(r.Have) > 0
	}
	if !owned(svc) && len(r.Have) > 0 {
		r.Standing = allocator.Adopter
	}
	for i, f := range svc.Spec.IPFamilies {
		optional := i > 0 && svc.Spec.IPFamilyPolicy != nil && *svc.Spec.IPFamilyPolicy == corev1.IPFamilyPolicyPreferDualStack
		family := allocator.IPv4
		if f == corev1.IPv6Protocol {
			family = allocator.IPv6
		}
		r.Families = append(r.Families, allocator.Want{Family: family, Optional: optional})
	}
	addrs, err := wishes(svc, r.Families)
	if err != nil {
		d.frozen[key], r.Frozen = refusal{v1alpha1.InvalidRequest, err.Error()}, true
		return r, true
	}
	if choice.Reason != "" {
		d.frozen[key], r.Frozen = refusal{choice.Reason, choice.Message}, true
		return r, true
	}
	r.Addrs = addrs
	if name := svc.Annotations[v1alpha1.AnnotationAddressPool]; name != "" {
		r.Pools, r.Pinned = []string{name}, true
		return r, true
	}
	for _, p := range d.pools {
		r.Pools = append(r.Pools, p.Name)
	}
	return r, true
}

// wishes are the addresses that a Service asks for by name.
func wishes(svc *corev1.Service, families []allocator.Want) (addrs []netip.Addr, err error) {
	field, text := "annotation "+v1alpha1.AnnotationLoadBalancerIPs, svc.Annotations[v1alpha1.AnnotationLoadBalancerIPs]
	if ip := svc.Spec.LoadBalancerIP; ip != "" {
		if text != "" && strings.TrimSpace(text) != ip {
			return nil, fmt.Errorf("%s is %q and spec.loadBalancerIP is %q: they contradict each other", field, text, ip)
		}
		field, text = "spec.loadBalancerIP", ip
	}
	if text == "" {
		return nil, nil
	}
	for part := range strings.SplitSeq(text, ",") {
		a, err := config.ParseAddr(strings.TrimSpace(part))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", field, err)
		}
		f := allocator.FamilyOf(a)
		if !slices.ContainsFunc(families, func(w allocator.Want) bool { return w.Family == f }) {
			return nil, fmt.Errorf("%s: %s is %s, but the Service's spec.ipFamilies has no %s", field, a, f, f)
		}
		if slices.ContainsFunc(addrs, func(o netip.Addr) bool { return allocator.FamilyOf(o) == f }) {
			return nil, fmt.Errorf("%s: more than one %s address", field, f)
		}
		addrs = append(addrs, a)
	}
	return addrs, nil
}

func (d *decision) poolPlans(assignments map[types.NamespacedName]allocator.Assignment) map[string]PoolPlan {
	type count struct{ services, v4, v6 int64 }
	used := map[string]*count{}
	for _, p := range d.config.Pools {
		used[p.Name] = &count{}
	}
	for _, r := range d.requests {
		if r.Standing == allocator.Stranger {
			continue
		}
		last := ""
		for _, h := range assignments[r.Key].Held {
			c := used[h.Pool]
			if c == nil {
				continue
			}
			if h.Addr.Is4() {
				c.v4++
			} else {
				c.v6++
			}
			if h.Pool != last {
				c.services++
			}
			last = h.Pool
		}
	}
	plans := make(map[string]PoolPlan, len(d.config.Pools))
	for _, p := range d.config.Pools {
		v4, v6 := p.Size()
		c := used[p.Name]
		plans[p.Name] = PoolPlan{
			InUse: c.services > 0,
			Status: v1alpha1.IPAddressPoolStatus{
				Services: c.services, IPv4: usage(c.v4, v4), IPv6: usage(c.v6, v6),
				Conditions: d.ready("IPAddressPool", p.Name, inUse),
			},
		}
	}
	return plans
}

// usage counts a family of a pool.
func usage(assigned int64, total *big.Int) v1alpha1.FamilyUsage {
	u := v1alpha1.FamilyUsage{Used: assigned, Capacity: total.String(), Free: new(big.Int).Sub(total, big.NewInt(assigned)).String()}
	short := u.Capacity
	if len(short) > 10 {
		short = new(big.Float).SetInt(total).Text('g', 3)
	}
	if assigned > 0 || total.Sign() > 0 {
		u.Usage = fmt.Sprintf("%d/%s", assigned, short)
	}
	return u
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

func (d *decision) problemsOf(kind, name string) (problems []config.Problem) {
	for _, p := range d.problems {
		if p.Kind == kind && p.Name == name {
			problems = append(problems, p)
		}
	}
	return problems
}

func condition(kind string, status metav1.ConditionStatus, reason v1alpha1.Reason, message string) metav1.Condition {
	return metav1.Condition{Type: kind, Status: status, Reason: string(reason), Message: message}
}

func keyOf(svc *corev1.Service) types.NamespacedName {
	return types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}
}
