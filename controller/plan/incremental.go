package plan

import (
	"net/netip"
	"slices"
	"sort"
	"strings"
	"time"

	"go4.org/netipx"
	corev1 "k8s.io/api/core/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/memo"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/providers"
)

// Incremental is what a full sync leaves for incremental syncs, each of which
// plans for the few Services that have changed since. Beside 10,000 Services a
// full sync takes longer than the write that follows from it.
//
// An incremental plan is made by the same code. The Services that are left out
// keep what they have, whatever the changed ones ask for, so that it is enough to
// reserve their addresses. It only ever assigns: where a Service loses, shares or
// is refused anything, a full sync is needed; and one follows in any case.
type Incremental struct {
	planner *Planner
	world   Snapshot // without Services
	addrs   map[types.NamespacedName][]netip.Addr
	taken   []netipx.IPRange // all addresses in addrs
	inUse   map[string]bool  // pools with the finalizer that keeps them from being removed
}

// Incremental returns the state after the plan for the snapshot: all addresses
// that the Services show, or will show once the plan has been written.
func (p *Planner) Incremental(s Snapshot, plan Plan) *Incremental {
	w := &Incremental{planner: p, world: s, addrs: make(map[types.NamespacedName][]netip.Addr, len(s.Services)), inUse: map[string]bool{}}
	w.world.Services = nil
	for name, pool := range plan.Pools {
		w.inUse[name] = pool.InUse
	}
	var all []netip.Addr
	observed := func(svc *corev1.Service, ingress []corev1.LoadBalancerIngress) {
		key := KeyOf(svc)
		for _, a := range shownBy(ingress) {
			if !slices.Contains(w.addrs[key], a) {
				w.addrs[key], all = append(w.addrs[key], a), append(all, a)
			}
		}
	}
	for _, svc := range s.Services {
		observed(svc, svc.Status.LoadBalancer.Ingress)
	}
	for _, change := range plan.Changes {
		observed(change.Service, change.Plan.Ingress)
	}
	slices.SortFunc(all, netip.Addr.Compare)
	for _, a := range all {
		if last := len(w.taken) - 1; last >= 0 && (w.taken[last].To() == a || w.taken[last].To().Next() == a) {
			w.taken[last] = netipx.IPRangeFrom(w.taken[last].From(), a)
		} else {
			w.taken = append(w.taken, netipx.IPRangeFrom(a, a))
		}
	}
	return w
}

func shownBy(ingress []corev1.LoadBalancerIngress) (addrs []netip.Addr) {
	for _, in := range ingress {
		if a, err := config.ParseAddr(in.IP); err == nil {
			addrs = append(addrs, a)
		}
	}
	return addrs
}

// Decide plans for Services that have changed, or reports that a full decision
// must.
func (w *Incremental) Decide(services []*corev1.Service, now time.Time) (planned []Planned, ok bool) {
	for _, svc := range services {
		if !w.plain(svc) {
			return nil, false
		}
	}
	s := w.world
	s.Services, s.Taken, s.Now = services, w.taken, now
	plan := w.planner.Decide(s)
	if len(plan.Cloud) > 0 || len(plan.Live) > 0 || !plan.Wake.IsZero() {
		return nil, false
	}
	for _, service := range plan.Services {
		p := service.Plan
		provisioned := apimeta.FindStatusCondition(p.Conditions, v1alpha1.ConditionProvisioned)
		if !p.Serves || provisioned == nil || provisioned.Reason != string(v1alpha1.Assigned) {
			return nil, false
		}
		for record := range strings.SplitSeq(p.AllocatedFrom, ",") {
			if _, pool, _ := strings.Cut(record, "="); !w.inUse[pool] {
				return nil, false
			}
		}
	}
	return plan.Services, true
}

// involved are the annotations by which a Service depends on others, or gives
// something up.
var involved = slices.Concat(v1alpha1.AllowSharedIPAnnotations, []string{
	v1alpha1.AnnotationSharedAs, v1alpha1.AnnotationRelease, v1alpha1.AnnotationRenumber, v1alpha1.AnnotationLeaving,
})

// plain reports whether nothing about the Service can matter to another one.
func (w *Incremental) plain(svc *corev1.Service) bool {
	if svc.DeletionTimestamp != nil || has(svc, v1alpha1.FinalizerAWS) {
		return false
	}
	for _, name := range involved {
		if _, set := svc.Annotations[name]; set {
			return false
		}
	}
	shown := shownBy(svc.Status.LoadBalancer.Ingress)
	if !owned(svc) && len(shown) > 0 { // another implementation's, or one to adopt
		return providers.NewChooser(w.world.Policy, w.world.Nodes).Choose(svc).Verdict == providers.NotOurs
	}
	known := w.addrs[KeyOf(svc)]
	return !slices.ContainsFunc(shown, func(a netip.Addr) bool { return !slices.Contains(known, a) })
}

// Record takes in what the Services show, and what has been planned for them. An
// address that a Service gives up stays reserved until the next full sync.
func (w *Incremental) Record(services []*corev1.Service, planned []Planned) {
	add := func(svc *corev1.Service, ingress []corev1.LoadBalancerIngress) {
		key := KeyOf(svc)
		for _, a := range shownBy(ingress) {
			if !slices.Contains(w.addrs[key], a) {
				w.addrs[key] = append(w.addrs[key], a)
				w.take(a)
			}
		}
	}
	for _, svc := range services {
		add(svc, svc.Status.LoadBalancer.Ingress)
	}
	for _, p := range planned {
		add(p.Service, p.Plan.Ingress)
	}
}

// take adds the address, unless another Service has it already.
func (w *Incremental) take(a netip.Addr) {
	i := sort.Search(len(w.taken), func(i int) bool { return a.Less(w.taken[i].From()) })
	if i == 0 || !w.taken[i-1].Contains(a) {
		w.taken = slices.Insert(w.taken, i, netipx.IPRangeFrom(a, a))
	}
}

// AffectsAllocation reports whether a change of an object other than a Service
// can change the address or the provider of a Service. A status that the
// controller itself writes cannot, nor can a kubelet's heartbeat.
func AffectsAllocation(was, is metav1.Object) bool {
	if a, isNode := was.(*corev1.Node); isNode {
		return !config.SameNode(a, is.(*corev1.Node))
	}
	return !memo.SameGeneration(was, is)
}
