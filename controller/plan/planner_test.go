package plan

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/fixture"
	"github.com/fairlead-io/fairlead/config/fuzzed"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/providers"
)

// versions numbers objects as the API server does.
type versions struct{ now int }

// created returns the object as a new one.
func created[T metav1.Object](v *versions, o T) T {
	v.now++
	o.SetUID(types.UID(fmt.Sprintf("uid-%d", v.now)))
	o.SetResourceVersion(fmt.Sprint(v.now))
	o.SetGeneration(1)
	return o
}

// updated returns a new version of the object: with the spec of other, or with
// its status and metadata only.
func updated[T metav1.Object](v *versions, o, other T, spec bool) T {
	v.now++
	other.SetUID(o.GetUID())
	other.SetResourceVersion(fmt.Sprint(v.now))
	other.SetGeneration(o.GetGeneration())
	if spec {
		other.SetGeneration(o.GetGeneration() + 1)
	}
	return other
}

type object interface {
	metav1.Object
	runtime.Object
}

// mutate returns the list after a few random changes; status changes only the
// status of an object, or what else does not increment the generation.
func mutate[T object](t *rapid.T, v *versions, list []T, another func(i int) T, status func(T)) []T {
	list = slices.Clone(list)
	for range rapid.IntRange(0, 2).Draw(t, "changes") {
		i := rapid.IntRange(0, len(list)).Draw(t, "which")
		if i == len(list) {
			taken := func(o T) bool {
				return slices.ContainsFunc(list, func(l T) bool { return l.GetName() == o.GetName() && l.GetNamespace() == o.GetNamespace() })
			}
			for j := range 5 {
				if o := another(j); !taken(o) {
					list = append(list, created(v, o))
					break
				}
			}
			continue
		}
		same := func(o T) T { o.SetName(list[i].GetName()); o.SetNamespace(list[i].GetNamespace()); return o }
		switch rapid.IntRange(0, 4).Draw(t, "change") {
		case 0:
			list = slices.Delete(list, i, i+1)
		case 1: // deleted and created again between two snapshots: generation 1 again
			list[i] = created(v, same(another(i)))
		case 2:
			list[i] = updated(v, list[i], same(another(i)), true)
		case 3:
			o := list[i].DeepCopyObject().(T)
			status(o)
			list[i] = updated(v, list[i], o, false)
		case 4:
			o := list[i].DeepCopyObject().(T)
			o.SetLabels(map[string]string{"a": rapid.SampledFrom([]string{"b", "c"}).Draw(t, "label")})
			list[i] = updated(v, list[i], o, false)
		}
	}
	// Informers list in any order.
	return rapid.Permutation(list).Draw(t, "order")
}

// TestPlannerKeepsNothingStale: over random histories, with objects that are
// deleted and created again, a Planner plans what a fresh decision plans.
func TestPlannerKeepsNothingStale(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		random := rand.NewChaCha8([32]byte{rapid.Uint8().Draw(t, "seed"), rapid.Uint8().Draw(t, "seed")})
		data := make([]byte, 1<<16)
		random.Read(data)
		b := &bytesIn{fuzzed.Bytes{Rest: data}}
		var v versions
		var planner Planner
		s := Snapshot{
			Policy: providers.Policy{Mode: rapid.SampledFrom(providers.Modes).Draw(t, "mode")},
			Now:    time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC),
		}
		kinds := []func(){
			func() {
				s.Objects.Pools = mutate(t, &v, s.Objects.Pools, b.pool, func(p *v1alpha1.IPAddressPool) { p.Status.Services++ })
			},
			func() {
				s.Objects.L2Advertisements = mutate(
					t, &v, s.Objects.L2Advertisements, b.l2Advertisement, b.changeStatus,
				)
			},
			func() {
				s.Objects.BGPPeers = mutate(t, &v, s.Objects.BGPPeers, b.bgpPeer, func(p *v1alpha1.BGPPeer) { p.Status.Nodes++ })
			},
			func() { s.Nodes = mutate(t, &v, s.Nodes, b.node, func(n *corev1.Node) { b.changeNode(n, v.now) }) },
			func() {
				s.Namespaces = mutate(t, &v, s.Namespaces, func(i int) *corev1.Namespace {
					meta := metav1.ObjectMeta{Name: []string{"ns", "other", "x", "y", "z", "w"}[i%6], Labels: map[string]string{b.Text("a"): b.Text("b")}}
					return &corev1.Namespace{ObjectMeta: meta}
				}, func(*corev1.Namespace) {})
			},
			func() {
				s.ServiceCIDRs = mutate(t, &v, s.ServiceCIDRs, func(i int) *networkingv1.ServiceCIDR {
					spec := networkingv1.ServiceCIDRSpec{CIDRs: []string{b.one("10.96.0.0/12", "192.0.2.0/31")}}
					return &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("c%d", i)}, Spec: spec}
				}, func(*networkingv1.ServiceCIDR) {})
			},
			func() {
				s.Speakers = mutate(t, &v, s.Speakers, b.speaker, func(s *v1alpha1.Speaker) { s.Status.Announcing = nil })
			},
			func() {
				s.L2Nodes = mutate(t, &v, s.L2Nodes, b.l2node, func(n *v1alpha1.L2Node) { n.Status.Interfaces = nil })
			},
			func() {
				s.Services = mutate(t, &v, s.Services, b.service, func(svc *corev1.Service) { svc.Status.Conditions = nil })
			},
		}
		for _, change := range kinds {
			change()
		}
		for range rapid.IntRange(2, 16).Draw(t, "steps") {
			// One kind at a time: a change of another one would invalidate the same values.
			rapid.SampledFrom(kinds).Draw(t, "kind")()
			s.Now = s.Now.Add(time.Duration(rapid.IntRange(0, 5000).Draw(t, "seconds")) * time.Second)
			got, want := planner.Decide(s), Decide(s)
			if !reflect.DeepEqual(got, want) {
				t.Fatalf("got, want:\n%s\n%+v\n%+v", difference(got, want), got, want)
			}
			// Most of what was planned is written.
			s.Services = slices.Clone(s.Services)
			for _, change := range got.Changes {
				if i := slices.Index(s.Services, change.Service); b.Below(4) > 0 {
					s.Services[i] = updated(&v, change.Service, change.Plan.Written(change.Service), false)
				}
			}
		}
	})
}

// changeNode changes one thing in a node, after a heartbeat.
func (b *bytesIn) changeNode(n *corev1.Node, now int) {
	n.Status.Conditions[0].LastHeartbeatTime = metav1.Unix(int64(now), 0)
	switch b.Below(6) {
	case 1:
		n.Status.Conditions[0].Status = corev1.ConditionUnknown
	case 2:
		n.Spec.Unschedulable = !n.Spec.Unschedulable
	case 3:
		n.Spec.ProviderID = b.one("", "aws:///a/i-1")
	case 4:
		n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: b.one("192.0.2.1", "192.0.2.2")}}
	case 5:
		n.Spec.PodCIDRs = []string{b.one("192.0.2.0/31", "192.0.2.2/31")}
	}
}

func (b *bytesIn) selectors() []metav1.LabelSelector {
	return []metav1.LabelSelector{{MatchLabels: map[string]string{"a": b.Text("b", "c")}}}[:b.Below(2)]
}

func (b *bytesIn) l2Advertisement(i int) *v1alpha1.L2Advertisement {
	a := &v1alpha1.L2Advertisement{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("a%d", i)}}
	a.Spec.IPAddressPools = []string{b.Text("p0", "p1")}[:b.Below(2)]
	a.Spec.IPAddressPoolSelectors, a.Spec.NodeSelectors = b.selectors(), b.selectors()
	return a
}

// changeStatus changes a count, and sometimes what the plan depends on.
func (b *bytesIn) changeStatus(a *v1alpha1.L2Advertisement) {
	a.Status.Nodes++
	a.Status.SelectedPools = [][]string{a.Status.SelectedPools, nil, {"p0"}, {"p0", "p1"}}[b.Below(4)]
}

func (b *bytesIn) bgpPeer(i int) *v1alpha1.BGPPeer {
	p := &v1alpha1.BGPPeer{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("b%d", i)}}
	p.Spec = v1alpha1.BGPPeerSpec{MyASN: 64512, PeerASN: 64513, PeerAddress: b.Text("192.0.2.1", "2001:db8::1"), NodeSelectors: b.selectors()}
	return p
}

// TestPlannerReplansRefusals: a refusal that names another Service is planned
// again when that is another one, although nothing else has changed.
func TestPlannerReplansRefusals(t *testing.T) {
	asks := service("m", annotated(v1alpha1.AnnotationLoadBalancerIPs, "192.0.2.1"))
	s := testSnapshot(fixture.Assigned("a", "192.0.2.1", "p"), asks)
	var planner Planner
	for _, holder := range []string{"a", "b"} {
		s.Services[0] = fixture.Assigned(holder, "192.0.2.1", "p")
		if got := planner.Decide(s).planOf(key("m")).Conditions[0].Message; !strings.Contains(got, "ns/"+holder) {
			t.Errorf("held by %s: %s", holder, got)
		}
	}
}

// TestReverted: the condition names the writer that reverts the Service, as long as the
// snapshot has it, and keeps the reason of a refusal.
func TestReverted(t *testing.T) {
	s := Snapshot{
		Policy:   providers.Policy{Mode: providers.BareMetal},
		Objects:  config.Objects{Pools: []*v1alpha1.IPAddressPool{pool("p", "192.0.2.1")}},
		Services: []*corev1.Service{service("a"), service("b")},
	}
	var p Planner
	for _, step := range []struct {
		reverted   map[types.NamespacedName]string
		a, b, text string
	}{
		{nil, "Assigned", "PoolExhausted", "192.0.2.1 from pool p"},
		{
			map[types.NamespacedName]string{key("a"): "x", key("b"): "x"},
			"Reverted", "PoolExhausted",
			`field manager "x" repeatedly reverts what the controller writes to this Service; 192.0.2.1 from pool p`,
		},
		{
			map[types.NamespacedName]string{key("a"): ""},
			"Reverted", "PoolExhausted",
			"another writer repeatedly reverts what the controller writes to this Service; 192.0.2.1 from pool p",
		},
		{nil, "Assigned", "PoolExhausted", "192.0.2.1 from pool p"},
	} {
		s.Reverted = step.reverted
		plan := p.Decide(s)
		a, b := plan.planOf(key("a")).Conditions[0], plan.planOf(key("b")).Conditions[0]
		if a.Reason != step.a || b.Reason != step.b || a.Message != step.text {
			t.Errorf("got %v, %v", a, b)
		}
		if noted := strings.Contains(b.Message, "reverts"); noted != (len(step.reverted) == 2) {
			t.Errorf("b: %s", b.Message)
		}
	}
}
