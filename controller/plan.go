package controller

import (
	"fmt"
	"math/big"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-io/fairlead/allocator"
	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/providers"
)

// Snapshot is everything that a decision depends on.
type Snapshot struct {
	Provider providers.Mode
	Objects  config.Objects
	Services []*corev1.Service
	Nodes    []*corev1.Node
	Speakers []*v1alpha1.Speaker
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
}

// ServicePlan is all that Fairlead says on a Service. The zero value says
// nothing: it releases the Service.
type ServicePlan struct {
	Finalizers    []string
	AllocatedFrom string // the annotation's value; "" is none
	// Ingress is written where Serves is true; otherwise status.loadBalancer
	// is left to whoever wrote it.
	Serves     bool
	Ingress    []corev1.LoadBalancerIngress
	Conditions []metav1.Condition // without times
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
	}
	for _, svc := range s.Services {
		p := d.servicePlan(svc, assignments[keyOf(svc)])
		if p.says() || touched(svc) {
			plan.Services[keyOf(svc)] = p
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

// decision is a Snapshot, understood.
type decision struct {
	Snapshot
	config   config.Config
	problems []config.Problem
	choices  map[types.NamespacedName]providers.Choice
	invalid  map[types.NamespacedName]string // why the request cannot be understood
	pools    []allocator.Pool
	requests []allocator.Request
	reports  reports
}

func newDecision(s Snapshot) *decision {
	d := &decision{
		Snapshot: s,
		choices:  make(map[types.NamespacedName]providers.Choice, len(s.Services)),
		invalid:  make(map[types.NamespacedName]string),
		requests: make([]allocator.Request, 0, len(s.Services)),
	}
	d.config, d.problems = config.Parse(s.Objects)
	for _, p := range d.config.Pools {
		d.pools = append(d.pools, allocator.Pool{Name: p.Name, Ranges: p.Ranges, Auto: p.AutoAssign, Closed: p.Terminating})
	}
	byDefault := providers.Default(s.Provider, s.Nodes)
	for _, svc := range s.Services {
		d.choices[keyOf(svc)] = providers.Choose(svc, byDefault)
		if r, asks := d.request(svc); asks {
			d.requests = append(d.requests, r)
		}
	}
	d.reports = newReports(s.Nodes, s.Speakers)
	return d
}

// request is what a Service asks of the pools: an address, or just to be left
// with those that it shows.
func (d *decision) request(svc *corev1.Service) (r allocator.Request, asks bool) {
	key := keyOf(svc)
	r = allocator.Request{Key: key, Since: svc.CreationTimestamp.Time, Have: have(svc)}
	if d.choices[key].Verdict != providers.OnBareMetal || svc.DeletionTimestamp != nil || foreignHostname(svc) {
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
		d.invalid[key], r.Frozen = err.Error(), true
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

func (d *decision) servicePlan(svc *corev1.Service, a allocator.Assignment) ServicePlan {
	choice := d.choices[keyOf(svc)]
	if choice.Verdict == providers.NotOurs || svc.DeletionTimestamp != nil {
		return ServicePlan{}
	}
	refused := func(reason v1alpha1.Reason, message string) ServicePlan {
		return ServicePlan{Conditions: []metav1.Condition{condition(v1alpha1.ConditionProvisioned, metav1.ConditionFalse, reason, message)}}
	}
	if choice.Verdict == providers.Undecided {
		return refused(choice.Reason, choice.Message)
	}
	if foreignHostname(svc) {
		return refused(v1alpha1.ForeignStatus, "the status holds a host name, which is no address of a pool: it is left to whoever wrote it")
	}
	for _, m := range a.Missing {
		if m.Reason == v1alpha1.ForeignStatus {
			return refused(m.Reason, m.Message)
		}
	}

	p := ServicePlan{Serves: true, Finalizers: []string{v1alpha1.FinalizerBareMetal}}
	if svc.Spec.LoadBalancerClass == nil {
		p.Finalizers = append(p.Finalizers, finalizerStandard)
	}
	mode := corev1.LoadBalancerIPModeVIP
	var records []string
	for _, h := range a.Held {
		p.Ingress = append(p.Ingress, corev1.LoadBalancerIngress{IP: h.Addr.String(), IPMode: &mode})
		records = append(records, h.Addr.String()+"="+h.Pool)
	}
	p.AllocatedFrom = strings.Join(records, ",")
	p.Conditions = []metav1.Condition{d.provisioned(keyOf(svc), a), d.reports.announced(a.Held)}
	return p
}

// finalizerStandard is the finalizer of the upstream service controller
// (k8s.io/cloud-provider/service/helpers.LoadBalancerCleanupFinalizer), which
// other tools look for on Services without a class.
const finalizerStandard = "service.kubernetes.io/load-balancer-cleanup"

func (d *decision) provisioned(key types.NamespacedName, a allocator.Assignment) metav1.Condition {
	refuse := func(reason v1alpha1.Reason, message string) metav1.Condition {
		return condition(v1alpha1.ConditionProvisioned, metav1.ConditionFalse, reason, message)
	}
	if why := d.invalid[key]; why != "" {
		return refuse(v1alpha1.InvalidRequest, why)
	}
	if len(a.Missing) > 0 {
		var why []string
		for _, m := range a.Missing {
			why = append(why, m.Message)
		}
		return refuse(a.Missing[0].Reason, strings.Join(why, "; "))
	}
	reason := v1alpha1.Assigned
	var what []string
	for _, h := range a.Held {
		if h.OutOfPool {
			reason = v1alpha1.OutOfPool
			what = append(what, fmt.Sprintf("%s is kept, although no pool contains it any more", h.Addr))
			continue
		}
		what = append(what, fmt.Sprintf("%s from pool %s", h.Addr, h.Pool))
	}
	return condition(v1alpha1.ConditionProvisioned, metav1.ConditionTrue, reason, strings.Join(what, "; "))
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
	u := v1alpha1.FamilyUsage{Assigned: assigned, Total: total.String()}
	short := u.Total
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

// owned reports whether the Service's ingress is ours: the finalizer is the record.
func owned(svc *corev1.Service) bool {
	return slices.Contains(svc.Finalizers, v1alpha1.FinalizerBareMetal)
}

// have are the addresses in the Service's status, with the recorded pools.
func have(svc *corev1.Service) (have []allocator.Have) {
	for _, in := range svc.Status.LoadBalancer.Ingress {
		a, err := config.ParseAddr(in.IP)
		if err != nil {
			continue
		}
		have = append(have, allocator.Have{Addr: a, Pool: config.RecordedPool(svc, a)})
	}
	return have
}

// foreignHostname reports whether another implementation has put a host name
// into the status.
func foreignHostname(svc *corev1.Service) bool {
	return !owned(svc) && slices.ContainsFunc(svc.Status.LoadBalancer.Ingress, func(in corev1.LoadBalancerIngress) bool { return in.IP == "" })
}

// allRecorded reports whether every address in the status was given by us.
func allRecorded(svc *corev1.Service) bool {
	return !slices.ContainsFunc(svc.Status.LoadBalancer.Ingress, func(in corev1.LoadBalancerIngress) bool {
		a, err := config.ParseAddr(in.IP)
		return err != nil || !config.Recorded(svc, a)
	})
}

func (p ServicePlan) says() bool {
	return p.Serves || len(p.Finalizers) > 0 || len(p.Conditions) > 0
}

// touched reports whether the Service carries anything that only Fairlead writes.
func touched(svc *corev1.Service) bool {
	_, recorded := svc.Annotations[v1alpha1.AnnotationAllocatedFrom]
	return owned(svc) || recorded || slices.ContainsFunc(svc.Status.Conditions, ours)
}

func ours(c metav1.Condition) bool {
	return c.Type == v1alpha1.ConditionProvisioned || c.Type == v1alpha1.ConditionAnnounced
}

// matches reports whether the Service says what the plan wants it to say.
func (p ServicePlan) matches(svc *corev1.Service) bool {
	missing := slices.ContainsFunc(p.Finalizers, func(f string) bool { return !slices.Contains(svc.Finalizers, f) })
	if missing || owned(svc) && !slices.Contains(p.Finalizers, v1alpha1.FinalizerBareMetal) {
		return false
	}
	if p.AllocatedFrom != svc.Annotations[v1alpha1.AnnotationAllocatedFrom] {
		return false
	}
	sameIngress := func(a, b corev1.LoadBalancerIngress) bool {
		return a.IP == b.IP && a.Hostname == b.Hostname && a.IPMode != nil && b.IPMode != nil && *a.IPMode == *b.IPMode
	}
	if p.Serves && !slices.EqualFunc(p.Ingress, svc.Status.LoadBalancer.Ingress, sameIngress) {
		return false
	}
	var have []metav1.Condition
	for _, c := range svc.Status.Conditions {
		if ours(c) {
			have = append(have, c)
		}
	}
	return sameConditions(have, p.Conditions)
}

// sameConditions compares all but the times, in any order.
func sameConditions(have, want []metav1.Condition) bool {
	return len(have) == len(want) && !slices.ContainsFunc(want, func(w metav1.Condition) bool {
		h := apimeta.FindStatusCondition(have, w.Type)
		return h == nil || h.Status != w.Status || h.Reason != w.Reason || h.Message != w.Message
	})
}
