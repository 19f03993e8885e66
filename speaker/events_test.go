package speaker

import (
	"log/slog"
	"reflect"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/rest"

	"github.com/fairlead-io/fairlead/config/client"
	"github.com/fairlead-io/fairlead/config/fixture"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/speaker/plan"
)

// TestAffectsPlan lists the events for which a speaker syncs.
func TestAffectsPlan(t *testing.T) {
	s := &Speaker{services: client.Source[*corev1.Service]{SharedIndexInformer: newServiceInformer(fake.NewClientset())}}
	fairlead, err := client.New(&rest.Config{})
	if err != nil {
		t.Fatal(err)
	}
	s.kinds = fairlead.Informers(slog.New(slog.DiscardHandler), func() {}, "n")
	for _, svc := range []*corev1.Service{
		service("local", "203.0.113.5", "p", local), service("cluster", "203.0.113.6", "p"), fixture.Service("pending", local),
	} {
		if err := s.services.GetStore().Add(svc); err != nil {
			t.Fatal(err)
		}
	}

	svc := func(change ...func(*corev1.Service)) *corev1.Service {
		return service("s", "203.0.113.5", "p", change...)
	}
	managed := fixture.IngressManagedBy(v1alpha1.FieldManager)
	replaced := func(s *corev1.Service) { s.Annotations = nil }
	namespace := func(change ...func(*corev1.Namespace)) *corev1.Namespace {
		n := &corev1.Namespace{}
		for _, c := range change {
			c(n)
		}
		return n
	}
	without := svc(func(s *corev1.Service) { s.Status = corev1.ServiceStatus{} })
	for _, tt := range []struct {
		name          string
		before, after any
		want          bool
	}{
		{"a Service without an address", nil, without, false},
		{"one with an address", nil, svc(), true},
		{"an address is added", without, svc(), true},
		{"an address is removed", svc(), without, true},
		{"a condition", svc(), svc(func(s *corev1.Service) { s.Status.Conditions = []metav1.Condition{{Type: "x"}} }), false},
		{"a record of a pool", svc(), svc(func(s *corev1.Service) { s.Annotations[v1alpha1.AnnotationAllocatedFrom] = "x" }), true},
		{"a traffic policy", svc(), svc(local), true},
		{"another Service of the same name", svc(), svc(func(s *corev1.Service) { s.UID = "2" }), true},
		{"a second address", svc(), svc(func(s *corev1.Service) {
			s.Status.LoadBalancer.Ingress = append(s.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: "203.0.113.6"})
		}), true},
		{"a finalizer is removed", svc(), svc(func(s *corev1.Service) { s.Finalizers = nil }), false},
		{"a Service is replaced", svc(managed), svc(managed, replaced), true},
		{"a Service without a record is foreign", svc(managed, replaced), svc(replaced), true},
		{"a foreign Service", svc(replaced), svc(replaced, local), false},
		{"managed fields that are emptied", svc(managed), svc(), true},
		{"managed fields of other fields", svc(managed), svc(managed, func(s *corev1.Service) {
			s.ManagedFields = append(s.ManagedFields, metav1.ManagedFieldsEntry{Manager: "kubectl"})
		}), false},
		{"a label of a Service", svc(), svc(func(s *corev1.Service) { s.Labels = map[string]string{"a": "b"} }), true},
		{"a deletion", svc(), svc(func(s *corev1.Service) { s.DeletionTimestamp = &metav1.Time{} }), true},
		{"a node's heartbeat", node("n"), node("n", func(n *corev1.Node) {
			n.ResourceVersion = "2"
			n.Status.Conditions[0].Reason = "x"
		}), false},
		{"a node that is not Ready", node("n"), node("n", notReady), true},
		{"a node's label", node("n"), node("n", labelled("a", "b")), true},
		{"a node's address", node("n"), node("n", fixture.WithNodeAddresses("203.0.113.5")), true},
		{"a node that is cordoned", node("n"), node("n", func(n *corev1.Node) { n.Spec.Unschedulable = true }), true},
		{"the own report", nil, &v1alpha1.Speaker{}, false},
		{"a node's interfaces", fixture.L2Node("n"), fixture.L2Node("n", v1alpha1.Interface{Name: "eth0"}), true},
		{"a node's kube-proxy", fixture.L2Node("n"), &v1alpha1.L2Node{
			ObjectMeta: metav1.ObjectMeta{Name: "n"}, Status: v1alpha1.L2NodeStatus{ProxyNotReady: true},
		}, true},
		{"a node's speaker", fixture.L2Node("n"), &v1alpha1.L2Node{
			ObjectMeta: metav1.ObjectMeta{Name: "n"}, Status: v1alpha1.L2NodeStatus{Version: "v2"},
		}, false},
		{"an endpoint of a Service with policy Local", endpoints("local", "n ready"), endpoints("local", "n serving"), true},
		{"the same endpoints again", endpoints("local", "n ready"), endpoints("local", "n ready"), false},
		{"a slice of a Service with policy Local", nil, endpoints("local", "n ready"), true},
		{"an endpoint of a Service with policy Cluster", endpoints("cluster", "n ready"), endpoints("cluster", "n serving"), false},
		{"another endpoint of it", endpoints("cluster", "n ready"), endpoints("cluster", "n ready", "m ready"), false},
		{"its last endpoint is lost", endpoints("cluster", "n ready"), endpoints("cluster", "n down"), true},
		{"its first endpoint is ready", endpoints("cluster", "n down"), endpoints("cluster", "n ready"), true},
		{"a slice with an endpoint of it", nil, endpoints("cluster", "n ready"), true},
		{"a slice without an endpoint of it", nil, endpoints("cluster", "n down"), false},
		{"its slice moves to another Service", endpoints("cluster", "n ready"), endpoints("other", "n ready"), true},
		{"the last endpoint of a Service without an address", endpoints("pending", "n ready"), endpoints("pending"), false},
		{"an endpoint of a Service without an address", endpoints("pending", "n ready"), endpoints("pending", "n serving"), false},
		{"an endpoint of a Service that is not a LoadBalancer", nil, endpoints("other", "n ready"), false},
		{"a slice that moves to another Service", endpoints("local", "n ready"), endpoints("other", "n ready"), true},
		{"a namespace, and no pool that selects namespaces", nil, namespace(), false},
		{"anything else", &v1alpha1.BGPPeer{}, &v1alpha1.BGPPeer{}, true},
	} {
		if got := s.affectsPlan(tt.before, tt.after); got != tt.want {
			t.Errorf("%s: %t, want %t", tt.name, got, tt.want)
		}
	}

	pool := fixture.Pool("p")
	pool.Spec.ServiceAllocation = &v1alpha1.ServiceAllocation{NamespaceSelectors: []metav1.LabelSelector{{}}}
	if err := s.kinds.Pools.GetStore().Add(pool); err != nil {
		t.Fatal(err)
	}
	labelled := func(n *corev1.Namespace) { n.Labels = map[string]string{"team": "a"} }
	annotated := func(n *corev1.Namespace) { n.Annotations = map[string]string{"a": "b"} }
	if !s.affectsPlan(nil, namespace()) || !s.affectsPlan(namespace(), namespace(labelled)) ||
		s.affectsPlan(namespace(), namespace(annotated)) {
		t.Error("with a pool that selects namespaces, a sync depends on their labels only")
	}
}

// TestStripObject checks that the cache has what the plans read of Services and
// Namespaces, and not much more.
func TestStripObject(t *testing.T) {
	strip := func(o any) any {
		stripped, err := stripObject(o)
		if err != nil {
			t.Fatal(err)
		}
		return stripped
	}
	for manager, want := range map[string]int{v1alpha1.FieldManager: 1, "kube-vip": 0} {
		svc := service("s", "203.0.113.5", "p", fixture.IngressManagedBy(manager), func(s *corev1.Service) {
			s.Annotations = nil
			s.ManagedFields = append(s.ManagedFields, metav1.ManagedFieldsEntry{Manager: "kubectl"})
		})
		stripped := strip(svc).(*corev1.Service)
		if got := len(plan.AnnounceableAddresses(stripped)); got != want || len(stripped.ManagedFields) != want {
			t.Errorf("%s: %d addresses and %d managed fields in the cache, want %d", manager, got, len(stripped.ManagedFields), want)
		}
	}
	n := &corev1.Namespace{
		ObjectMeta: metav1.ObjectMeta{
			Name: "ns", Labels: map[string]string{"team": "a"}, Annotations: map[string]string{"a": "b"},
			ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "kubectl"}},
		},
		Spec: corev1.NamespaceSpec{Finalizers: []corev1.FinalizerName{corev1.FinalizerKubernetes}},
	}
	want := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ns", Labels: map[string]string{"team": "a"}}}
	if got := strip(n); !reflect.DeepEqual(got, want) {
		t.Errorf("a Namespace is cached as %+v", got)
	}
}

// TestSnapshotNamespaces checks that a snapshot has the Namespaces of the cache, and that
// the speaker waits for the cache.
func TestSnapshotNamespaces(t *testing.T) {
	fairlead, err := client.New(&rest.Config{})
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(Options{Node: "n", Namespace: "fairlead-system", Client: fake.NewClientset(), Fairlead: fairlead, Log: slog.Default()})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(s.allInformers(), s.namespaces.SharedIndexInformer) {
		t.Error("the speaker does not wait for the Namespaces")
	}
	if err := s.namespaces.GetStore().Add(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ns"}}); err != nil {
		t.Fatal(err)
	}
	snapshot, err := s.takeSnapshot(t.Context(), nil)
	if err != nil || len(snapshot.Namespaces) != 1 || snapshot.Namespaces[0].Name != "ns" {
		t.Errorf("got %+v, %v", snapshot.Namespaces, err)
	}
}
