package controller

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"

	"github.com/fairlead-io/fairlead/config/client"
	"github.com/fairlead-io/fairlead/config/fixture"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// TestEventFilter lists which events request which sync.
func TestEventFilter(t *testing.T) {
	clusterIP := func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeClusterIP }
	nodePort := func(s *corev1.Service) {
		s.Spec.Type = corev1.ServiceTypeNodePort
		s.Spec.Ports = []corev1.ServicePort{{Port: 80, NodePort: 30080}}
	}
	heartbeat := func(n *corev1.Node) { n.Status.Conditions[0].LastHeartbeatTime = metav1.Now() }
	speaker := func(version string) *v1alpha1.Speaker {
		return &v1alpha1.Speaker{ObjectMeta: metav1.ObjectMeta{Name: "n"}, Status: v1alpha1.SpeakerStatus{Version: version}}
	}
	generation := func(o metav1.Object, n int64) { o.SetGeneration(n) }
	edited := pool("p")
	generation(edited, 2)
	used := pool("p")
	used.Status.Services = 1
	none, incremental, full := "", incrementalSync, fullSync
	for _, row := range []struct {
		name    string
		was, is runtime.Object // nil: added, deleted
		sync    string
		delayed bool
	}{
		{"a LoadBalancer is added", nil, service("a"), incremental, false},
		{"a LoadBalancer changes", service("a"), service("a", annotated("x", "y")), incremental, false},
		{"a LoadBalancer is deleted", service("a"), nil, full, false},
		{"a LoadBalancer becomes a ClusterIP", service("a"), service("a", clusterIP), incremental, false},
		{"a ClusterIP is added", nil, service("a", clusterIP), none, false},
		{"a ClusterIP changes", service("a", clusterIP), service("a", clusterIP, annotated("x", "y")), none, false},
		{"a ClusterIP is deleted", service("a", clusterIP), nil, none, false},
		{
			"a ClusterIP with records changes", fixture.Assigned("a", "192.0.2.1", "p", clusterIP),
			fixture.Assigned("a", "192.0.2.1", "p", clusterIP, annotated("x", "y")), incremental, false,
		},
		{"a NodePort is deleted, without a cloud", service("a", nodePort), nil, none, false},
		{"a node's heartbeat", readyNode("n"), fixture.Node("n", heartbeat), none, false},
		{"a node's label", readyNode("n"), fixture.Node("n", fixture.Labelled("x", "y")), full, false},
		{"a node is not Ready", readyNode("n"), fixture.Node("n", fixture.NotReady), full, false},
		{"a pool's spec", pool("p"), edited, full, false},
		{"a pool's status", pool("p"), used, full, true},
		{"a speaker's report", speaker("v1"), speaker("v2"), full, false},
		{"a speaker's metadata", speaker("v1"), speaker("v1"), none, false},
		{"a node's interfaces", fixture.L2Node("n"), fixture.L2Node("n", v1alpha1.Interface{Name: "eth0"}), full, false},
		{"a node's interfaces, unchanged", fixture.L2Node("n"), fixture.L2Node("n"), none, false},
		{
			"a namespace's annotations", &corev1.Namespace{},
			&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{"x": "y"}}}, none, false,
		},
		{
			"a namespace's labels", &corev1.Namespace{},
			&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"x": "y"}}}, full, false,
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			c := newTestController(t)
			queued := &recordingQueue{TypedRateLimitingInterface: c.queue}
			c.queue = queued
			object := row.is
			if object == nil {
				object = row.was
			}
			handler := c.handler(informerOf(c, object))
			switch {
			case row.was == nil:
				handler.OnAdd(row.is, false)
			case row.is == nil:
				handler.OnDelete(row.was)
			default:
				handler.OnUpdate(row.was, row.is)
			}
			if queued.key != row.sync || queued.delayed != row.delayed {
				t.Errorf("requested %q, delayed %t", queued.key, queued.delayed)
			}
		})
	}
}

func informerOf(c *Controller, o runtime.Object) cache.SharedIndexInformer {
	switch o.(type) {
	case *corev1.Service:
		return c.services
	case *corev1.Node:
		return c.nodes
	case *corev1.Namespace:
		return c.namespaces
	case *v1alpha1.Speaker:
		return c.kinds.Speakers.SharedIndexInformer
	case *v1alpha1.L2Node:
		return c.kinds.L2Nodes.SharedIndexInformer
	}
	return c.kinds.Pools.SharedIndexInformer
}

// recordingQueue records the last key instead of queueing it.
type recordingQueue struct {
	workqueue.TypedRateLimitingInterface[string]
	key     string
	delayed bool
}

func (q *recordingQueue) Add(key string) { q.key = key }

func (q *recordingQueue) AddAfter(key string, d time.Duration) { q.key, q.delayed = key, d > 0 }

// newTestController returns a Controller with informers that do not run.
func newTestController(t testing.TB) *Controller {
	t.Helper()
	clientset := fake.NewClientset()
	clientset.Resources = []*metav1.APIResourceList{{GroupVersion: "networking.k8s.io/v1"}}
	kinds, err := client.New(&rest.Config{})
	if err != nil {
		t.Fatal(err)
	}
	c, err := New(Options{Client: clientset, Fairlead: kinds, Informers: informers.NewSharedInformerFactory(clientset, 0)})
	if err != nil {
		t.Fatal(err)
	}
	return c
}
