package plan

import (
	"maps"
	"net/netip"
	"slices"
	"sort"
	"strings"
	"time"

	"go4.org/netipx"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/providers"
)

// settled is what a full decision leaves behind, for quick ones about the few
// Services that have changed since. Beside 10,000 Services a full decision
// takes longer than the write that follows from it.
//
// A quick decision is made by Decide as well. The Services that are left out
// keep what they have whatever the changed ones ask for, so that it is enough
// to reserve their addresses. It only ever grants: where a Service loses, shares
// or is refused anything, only a full decision will do; and one follows anyway.
type Incremental struct {
	world Snapshot // without Services
	addrs map[types.NamespacedName][]netip.Addr
	taken []netipx.IPRange // all addresses in addrs
	inUse map[string]bool  // pools that are kept from vanishing
}

// settledBy takes in what the Services show, and what the plan gives them.
func NewIncremental(s Snapshot, p Plan) *Incremental {
	w := &Incremental{world: s, addrs: make(map[types.NamespacedName][]netip.Addr, len(s.Services)), inUse: map[string]bool{}}
	w.world.Services, w.world.reports = nil, p.reports
	for name, pool := range p.Pools {
		w.inUse[name] = pool.InUse
	}
	var taken netipx.IPSetBuilder
	for _, svc := range s.Services {
		key := KeyOf(svc)
		shown := shownBy(svc.Status.LoadBalancer.Ingress)
		for _, a := range shownBy(p.Services[key].Ingress) {
			if !slices.Contains(shown, a) {
				shown = append(shown, a)
			}
		}
		if len(shown) > 0 {
			w.addrs[key] = shown
		}
		for _, a := range shown {
			taken.Add(a)
		}
	}
	set, err := taken.IPSet()
	if err != nil {
		panic("valid addresses make no set: " + err.Error())
	}
	w.taken = set.Ranges()
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
func (w *Incremental) Decide(services []*corev1.Service, now time.Time) (plans map[types.NamespacedName]ServicePlan, ok bool) {
	for _, svc := range services {
		if !w.plain(svc) {
			return nil, false
		}
	}
	s := w.world
	s.Services, s.Taken, s.Now = services, w.taken, now
	plan := Decide(s)
	if len(plan.Cloud) > 0 || len(plan.Live) > 0 || !plan.Wake.IsZero() {
		return nil, false
	}
	for _, p := range plan.Services {
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

// Record takes in what the Services show, and what has been planned for them. What
// a Service gives up stays taken until the next full decision.
func (w *Incremental) Record(services []*corev1.Service, plans map[types.NamespacedName]ServicePlan) {
	for _, svc := range services {
		key := KeyOf(svc)
		for _, a := range slices.Concat(shownBy(svc.Status.LoadBalancer.Ingress), shownBy(plans[key].Ingress)) {
			if !slices.Contains(w.addrs[key], a) {
				w.addrs[key] = append(w.addrs[key], a)
				w.take(a)
			}
		}
	}
}

// take adds the address, unless another Service has it already.
func (w *Incremental) take(a netip.Addr) {
	i := sort.Search(len(w.taken), func(i int) bool { return a.Less(w.taken[i].From()) })
	if i == 0 || !w.taken[i-1].Contains(a) {
		w.taken = slices.Insert(w.taken, i, netipx.IPRangeFrom(a, a))
	}
}

// AffectsAllocation reports whether a change of an object that is no Service can matter to
// who gets which address. What the controller itself says about a pool does
// not, nor does a node's heartbeat.
func AffectsAllocation(was, is metav1.Object) bool {
	if (was.GetDeletionTimestamp() == nil) != (is.GetDeletionTimestamp() == nil) || was.GetUID() != is.GetUID() {
		return true
	}
	if was.GetGeneration() != is.GetGeneration() || !maps.Equal(was.GetLabels(), is.GetLabels()) {
		return true
	}
	a, isNode := was.(*corev1.Node)
	if !isNode {
		return false
	}
	b := is.(*corev1.Node)
	return config.NodeReady(a) != config.NodeReady(b) || !equality.Semantic.DeepEqual(a.Spec, b.Spec) ||
		!equality.Semantic.DeepEqual(a.Status.Addresses, b.Status.Addresses)
}
