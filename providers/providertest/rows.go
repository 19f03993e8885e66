package providertest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	cloudprovider "k8s.io/cloud-provider"
)

// rows is the contract.
var rows = []struct {
	name, why string
	test      func(t *testing.T, c Cloud)
}{
	{"get of a Service that never had one", "a controller calls get before it cleans up, and an error would keep the finalizer", getNever},
	{
		"delete of a Service that never had one",
		"the finalizer is written before the first call, so deletion may precede creation", deleteNever,
	},
	{"create", "the load balancer exists after ensure, and get returns it", createLoadBalancer},
	{"ensure again", "for an unchanged Service nothing must be written, neither to the cloud nor to the API server", ensureAgain},
	{"ensure after a restart", "a new process syncs all Services, and must not write anything for unchanged ones", ensureAfterRestart},
	{"names", "a new process must find existing objects by name, and clouds allow 32 characters", namesDiffer},
	{"two Services", "the deletion of a Service must not affect another one", twoServices},
	{"same name, new UID", "a Service that was deleted and recreated is a different one", newUID},
	{"nodes are added and removed", "removed nodes must not receive traffic, and new ones must", nodesChange},
	{"update of a Service without a balancer", "a node event may be handled before the event of the Service", updateNever},
	{"no nodes", "an empty list is more often a mistake than a cluster without nodes", noNodes},
	{"nodes of another cloud", "a node that is not in the cloud must not prevent the others from serving", foreignNodes},
	{"ports are added and removed", "a port that did not change keeps its connections", portsChange},
	{"delete", "remaining objects cost money, or block the deletion of a VPC", deleteAll},
	{"delete twice", "deletion is retried until it succeeds, and repeated after a crash", deleteTwice},
	{"delete after a change of type", "when the type changes, nodePorts and annotations are removed before the load balancer", deleteStripped},
	{"delete after a restart", "deletion must not depend on a cache", deleteAfterRestart},
	{"delete after manual deletion", "the other objects of the Service must be deleted as well", deleteAfterManualDeletion},
	{"ensure after manual deletion", "the load balancer must be recreated", ensureAfterManualDeletion},
	{"cancelled", "leadership may be lost at any time, and the next leader must be able to continue", cancelledContext},
	{"concurrent calls for one Service", "the workers for nodes and for Services run concurrently", concurrentCalls},
	{"concurrent calls for many Services", "the workers for Services run concurrently", manyServices},
}

func getNever(t *testing.T, c Cloud) {
	_, exists, err := c.LoadBalancer.GetLoadBalancer(t.Context(), Cluster, Service("never", 80))
	if exists || err != nil {
		t.Errorf("exists %t, error %v", exists, err)
	}
}

func deleteNever(t *testing.T, c Cloud) {
	deleteLoadBalancer(t, c.LoadBalancer, Service("never", 80))
	expectNothingRemains(t, c)
}

func createLoadBalancer(t *testing.T, c Cloud) {
	s := Service("web", 80, 443)
	status := ensureLoadBalancer(t, c.LoadBalancer, s, c.Nodes)
	expectTargets(t, c, s, c.Nodes)
	expectGet(t, c.LoadBalancer, s, status)
}

func ensureAgain(t *testing.T, c Cloud) {
	s := Service("web", 80, 443)
	first := ensureLoadBalancer(t, c.LoadBalancer, s, c.Nodes)
	before := c.Writes()
	expectStatus(t, ensureLoadBalancer(t, c.LoadBalancer, s, c.Nodes), first)
	if n := c.Writes() - before; n != 0 {
		t.Errorf("%d writes for an unchanged Service", n)
	}
}

func ensureAfterRestart(t *testing.T, c Cloud) {
	s := Service("web", 80, 443)
	first := ensureLoadBalancer(t, c.LoadBalancer, s, c.Nodes)
	before := c.Writes()
	expectStatus(t, ensureLoadBalancer(t, c.Restart(), s, c.Nodes), first)
	if n := c.Writes() - before; n != 0 {
		t.Errorf("%d writes for an unchanged Service", n)
	}
	expectTargets(t, c, s, c.Nodes)
}

func namesDiffer(t *testing.T, c Cloud) {
	a, b := Service("a", 80), Service("b", 80)
	name := func(s *corev1.Service) string { return c.LoadBalancer.GetLoadBalancerName(t.Context(), Cluster, s) }
	switch {
	case name(a) != c.Restart().GetLoadBalancerName(t.Context(), Cluster, a):
		t.Error("the name of the load balancer of a Service changes")
	case name(a) == name(b):
		t.Errorf("two Services have the name %s", name(a))
	case name(a) == "" || len(name(a)) > 32:
		t.Errorf("the name %q has %d characters", name(a), len(name(a)))
	}
}

func twoServices(t *testing.T, c Cloud) {
	a, b := Service("a", 80), Service("b", 80)
	ensureLoadBalancer(t, c.LoadBalancer, a, c.Nodes)
	status := ensureLoadBalancer(t, c.LoadBalancer, b, c.Nodes)
	deleteLoadBalancer(t, c.LoadBalancer, a)
	expectTargets(t, c, b, c.Nodes)
	expectGet(t, c.LoadBalancer, b, status)
	deleteLoadBalancer(t, c.LoadBalancer, b)
	expectNothingRemains(t, c)
}

func newUID(t *testing.T, c Cloud) {
	before, after := Service("web", 80), Service("web", 80)
	after.UID = serviceUID("another")
	ensureLoadBalancer(t, c.LoadBalancer, before, c.Nodes)
	if _, exists, err := c.LoadBalancer.GetLoadBalancer(t.Context(), Cluster, after); exists || err != nil {
		t.Errorf("the new Service's balancer exists: %t, %v", exists, err)
	}
	status := ensureLoadBalancer(t, c.LoadBalancer, after, c.Nodes[:1])
	deleteLoadBalancer(t, c.LoadBalancer, before)
	expectTargets(t, c, after, c.Nodes[:1])
	expectGet(t, c.LoadBalancer, after, status)
}

func nodesChange(t *testing.T, c Cloud) {
	s := Service("web", 80, 443)
	ensureLoadBalancer(t, c.LoadBalancer, s, c.Nodes[:1])
	for _, nodes := range [][]*corev1.Node{c.Nodes, c.Nodes[1:], c.Nodes[:2]} {
		updateLoadBalancer(t, c, s, nodes)
		expectTargets(t, c, s, nodes)
	}
}

func updateNever(t *testing.T, c Cloud) {
	// An error is allowed, but not a load balancer: there is no finalizer yet.
	_ = c.LoadBalancer.UpdateLoadBalancer(t.Context(), Cluster, Service("never", 80), c.Nodes)
	expectNothingRemains(t, c)
}

func noNodes(t *testing.T, c Cloud) {
	s := Service("web", 80)
	ensureLoadBalancer(t, c.LoadBalancer, s, c.Nodes)
	mustSucceed(t, "update", func() error { return c.LoadBalancer.UpdateLoadBalancer(t.Context(), Cluster, s, nil) })
	expectTargets(t, c, s, c.Nodes)
	ensureLoadBalancer(t, c.LoadBalancer, s, nil)
	expectTargets(t, c, s, c.Nodes)
	ensureLoadBalancer(t, c.Restart(), s, nil)
	expectTargets(t, c, s, c.Nodes)
}

func foreignNodes(t *testing.T, c Cloud) {
	s := Service("web", 80)
	strange := func(providerID string) *corev1.Node {
		n := c.Nodes[0].DeepCopy()
		n.Name, n.Spec.ProviderID = "strange", providerID
		return n
	}
	for _, id := range []string{"", "elsewhere://rack-7/unit-3", "://"} {
		ensureLoadBalancer(t, c.LoadBalancer, s, append([]*corev1.Node{strange(id)}, c.Nodes...))
		expectTargets(t, c, s, c.Nodes)
		updateLoadBalancer(t, c, s, append([]*corev1.Node{strange(id)}, c.Nodes[1:]...))
		expectTargets(t, c, s, c.Nodes[1:])
	}
}

func portsChange(t *testing.T, c Cloud) {
	s := Service("web", 80)
	status := ensureLoadBalancer(t, c.LoadBalancer, s, c.Nodes)
	kept := c.Parts(t, s)[80]
	change := func(what string, ports ...int32) *corev1.Service {
		t.Helper()
		changed := Service("web", ports...)
		expectStatus(t, ensureLoadBalancer(t, c.LoadBalancer, changed, c.Nodes), status)
		expectTargets(t, c, changed, c.Nodes)
		if have := c.Parts(t, changed)[80]; have != kept {
			t.Errorf("%s: port 80 was %s, is now %s", what, kept, have)
		}
		return changed
	}
	change("a port was added", 80, 443)
	change("a port changed", 80, 8443)
	change("the order changed", 8443, 80)
	moved := change("a port was removed", 80)
	moved.Spec.Ports[0].NodePort++
	expectStatus(t, ensureLoadBalancer(t, c.LoadBalancer, moved, c.Nodes), status)
	expectTargets(t, c, moved, c.Nodes)
	deleteLoadBalancer(t, c.LoadBalancer, moved)
	expectNothingRemains(t, c)
}

func deleteAll(t *testing.T, c Cloud) {
	s := Service("web", 80, 443)
	ensureLoadBalancer(t, c.LoadBalancer, s, c.Nodes)
	deleteLoadBalancer(t, c.LoadBalancer, s)
	expectNothingRemains(t, c)
	if _, exists, err := c.LoadBalancer.GetLoadBalancer(t.Context(), Cluster, s); exists || err != nil {
		t.Errorf("after deletion: exists %t, error %v", exists, err)
	}
}

func deleteTwice(t *testing.T, c Cloud) {
	s := Service("web", 80)
	ensureLoadBalancer(t, c.LoadBalancer, s, c.Nodes)
	deleteLoadBalancer(t, c.LoadBalancer, s)
	deleteLoadBalancer(t, c.LoadBalancer, s)
	expectNothingRemains(t, c)
	ensureLoadBalancer(t, c.LoadBalancer, s, c.Nodes)
	expectTargets(t, c, s, c.Nodes)
}

func deleteStripped(t *testing.T, c Cloud) {
	s := Service("web", 80, 443)
	ensureLoadBalancer(t, c.LoadBalancer, s, c.Nodes)
	stripped := s.DeepCopy()
	stripped.Annotations = nil
	stripped.Spec = corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP}
	if _, exists, err := c.LoadBalancer.GetLoadBalancer(t.Context(), Cluster, stripped); !exists || err != nil {
		t.Errorf("before deletion: exists %t, error %v", exists, err)
	}
	deleteLoadBalancer(t, c.Restart(), stripped)
	expectNothingRemains(t, c)
}

func deleteAfterRestart(t *testing.T, c Cloud) {
	s := Service("web", 80)
	ensureLoadBalancer(t, c.LoadBalancer, s, c.Nodes)
	deleteLoadBalancer(t, c.Restart(), s)
	expectNothingRemains(t, c)
}

func deleteAfterManualDeletion(t *testing.T, c Cloud) {
	s := Service("web", 80, 443)
	ensureLoadBalancer(t, c.LoadBalancer, s, c.Nodes)
	c.DeleteManually(t, s)
	deleteLoadBalancer(t, c.LoadBalancer, s)
	expectNothingRemains(t, c)
}

func ensureAfterManualDeletion(t *testing.T, c Cloud) {
	s := Service("web", 80, 443)
	ensureLoadBalancer(t, c.LoadBalancer, s, c.Nodes)
	c.DeleteManually(t, s)
	ensureLoadBalancer(t, c.Restart(), s, c.Nodes)
	expectTargets(t, c, s, c.Nodes)
}

func cancelledContext(t *testing.T, c Cloud) {
	s := Service("web", 80)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.LoadBalancer.EnsureLoadBalancer(ctx, Cluster, s, c.Nodes); err == nil {
		t.Error("ensuring with a cancelled context succeeded")
	}
	ensureLoadBalancer(t, c.LoadBalancer, s, c.Nodes)
	expectTargets(t, c, s, c.Nodes)
	if err := c.LoadBalancer.EnsureLoadBalancerDeleted(ctx, Cluster, s); err == nil {
		t.Error("deleting with a cancelled context succeeded")
	}
	deleteLoadBalancer(t, c.LoadBalancer, s)
	expectNothingRemains(t, c)
}

func concurrentCalls(t *testing.T, c Cloud) {
	s := Service("web", 80, 443)
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() { _, _ = c.LoadBalancer.EnsureLoadBalancer(t.Context(), Cluster, s, c.Nodes[i%2:]) })
		all.Go(func() { _ = c.LoadBalancer.UpdateLoadBalancer(t.Context(), Cluster, s, c.Nodes[i%2:]) })
	}
	all.Wait()
	ensureLoadBalancer(t, c.LoadBalancer, s, c.Nodes)
	expectTargets(t, c, s, c.Nodes)
	deleteLoadBalancer(t, c.LoadBalancer, s)
	expectNothingRemains(t, c)
}

func manyServices(t *testing.T, c Cloud) {
	var services []*corev1.Service
	for i := range 10 {
		services = append(services, Service(fmt.Sprint("web-", i), 80, int32(8000+i)))
	}
	each := func(do func(s *corev1.Service) error) {
		t.Helper()
		var all sync.WaitGroup
		for _, s := range services {
			all.Go(func() {
				if err := callWithRetry(func() error { return do(s) }); err != nil {
					t.Errorf("%s: %v", s.Name, err)
				}
			})
		}
		all.Wait()
	}
	var mu sync.Mutex
	owner := map[string]string{}
	each(func(s *corev1.Service) error {
		status, err := c.LoadBalancer.EnsureLoadBalancer(t.Context(), Cluster, s, c.Nodes)
		if err != nil || len(status.Ingress) == 0 {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		owner[status.Ingress[0].Hostname+status.Ingress[0].IP] = s.Name
		return nil
	})
	if len(owner) != len(services) {
		t.Errorf("%d Services share %d ingresses: %v", len(services), len(owner), owner)
	}
	for _, s := range services {
		expectTargets(t, c, s, c.Nodes)
	}
	each(func(s *corev1.Service) error {
		return c.LoadBalancer.EnsureLoadBalancerDeleted(t.Context(), Cluster, s)
	})
	expectNothingRemains(t, c)
}

func updateLoadBalancer(t *testing.T, c Cloud, s *corev1.Service, nodes []*corev1.Node) {
	t.Helper()
	mustSucceed(t, "update "+s.Name, func() error { return c.LoadBalancer.UpdateLoadBalancer(t.Context(), Cluster, s, nodes) })
}

// expectTargets checks that the ports of the Service, and no others, have these nodes
// as targets.
func expectTargets(t *testing.T, c Cloud, s *corev1.Service, nodes []*corev1.Node) {
	t.Helper()
	want := map[int32][]string{}
	for _, p := range s.Spec.Ports {
		for _, n := range nodes {
			want[p.Port] = append(want[p.Port], fmt.Sprintf("%s:%d", n.Name, p.NodePort))
		}
		slices.Sort(want[p.Port])
	}
	have := c.Targets(t, s)
	for _, targets := range have {
		slices.Sort(targets)
	}
	if !maps.EqualFunc(have, want, slices.Equal) {
		t.Errorf("%s: got targets %v, want %v", s.Name, have, want)
	}
}

func expectNothingRemains(t *testing.T, c Cloud) {
	t.Helper()
	if left := c.Remains(t); len(left) > 0 {
		t.Errorf("remaining objects: %v", left)
	}
}

func expectStatus(t *testing.T, have, want *corev1.LoadBalancerStatus) {
	t.Helper()
	if !equality.Semantic.DeepEqual(have, want) {
		t.Errorf("got status %+v, want %+v", have, want)
	}
}

// expectGet checks that GetLoadBalancer returns the status.
func expectGet(t *testing.T, lb cloudprovider.LoadBalancer, s *corev1.Service, want *corev1.LoadBalancerStatus) {
	t.Helper()
	have, exists, err := lb.GetLoadBalancer(t.Context(), Cluster, s)
	if !exists || err != nil {
		t.Fatalf("get %s: exists %t, error %v", s.Name, exists, err)
	}
	expectStatus(t, have, want)
}
