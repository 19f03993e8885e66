package aws

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// newProvider returns a Cloud without state on the account.
func (a *account) newProvider(t *testing.T, change ...func(*Options)) *Cloud {
	t.Helper()
	o := Options{
		Cluster: a.cluster, Nodes: func() []*corev1.Node { return a.nodes }, ManageNodeSecurityGroups: true,
		Load: a.loadOptions(),
	}
	for _, c := range change {
		c(&o)
	}
	if a.fake != nil {
		a.fake.mu.Lock()
		a.fake.clusters = append(a.fake.clusters, o.Cluster)
		a.fake.mu.Unlock()
	}
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	c.sharedGroup.retry = 0 // except in the tests of it
	return c
}

// newService returns a Service with a TCP port and a node port for each of the
// ports.
func newService(name string, ports ...int32) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name + "-uid"), Annotations: map[string]string{}},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeLoadBalancer, ExternalTrafficPolicy: corev1.ServiceExternalTrafficPolicyCluster,
			IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol},
		},
	}
	for _, p := range ports {
		s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Port: p, Protocol: corev1.ProtocolTCP, NodePort: 30000 + p%2000})
	}
	return s
}

// ensureService ensures the load balancer until it is provisioned.
func (a *account) ensureService(t *testing.T, c *Cloud, svc *corev1.Service) *corev1.LoadBalancerStatus {
	t.Helper()
	for range 20 {
		status, err := c.EnsureLoadBalancer(t.Context(), a.cluster, svc, a.nodes)
		if err != nil {
			t.Fatal(err)
		}
		if c.Report(svc).Ready {
			return status
		}
		c.invalidateLists() // instead of waiting until it is outdated
	}
	t.Fatalf("not finished: %+v", c.Report(svc))
	return nil
}

// callCounts returns the calls since the last reset.
func (a *account) callCounts() (all []string) {
	all = a.calls()
	a.reset()
	return all
}

// TestCalls counts the API calls, which are what AWS throttles.
func TestCalls(t *testing.T) {
	eachAccount(t, func(t *testing.T, a *account) {
		if a.fake != nil {
			// Calls that wait for AWS would make the count depend on its delays.
			a.fake.lingering, a.fake.inUse, a.fake.provisioning = 0, 0, 1
		}
		c := a.newProvider(t)
		a.ensureService(t, c, newService("first", 80))
		t.Logf("the cluster's first balancer: %v", a.callCounts())

		three := newService("three", 80, 81, 82)
		for _, row := range []struct {
			name string
			do   func()
			most int
		}{
			{"create, one port", func() { c.invalidateLists(); a.ensureService(t, c, newService("one", 80)) }, 10},
			{"create, three ports", func() { c.invalidateLists(); a.ensureService(t, c, three) }, 10 + 2*3},
			{"nothing has changed", func() { a.ensureService(t, c, three) }, 0},
			{"drift check", func() { c.invalidateSync(three.UID); a.ensureService(t, c, three) }, 5 + 3},
			{"drift check with outdated caches", func() { c.elapse(c.options.Resync); a.ensureService(t, c, three) }, 5 + 3 + 1 + 2},
			{"drift check by a new process", func() { c = a.newProvider(t); a.ensureService(t, c, three) }, 5 + 3 + 4},
			{"a node goes", func() { updateTargets(t, a, c, three, a.nodes[:2]) }, 3},
			{"a known node is added", func() { updateTargets(t, a, c, three, a.nodes) }, 3},
			{"nodes as they were", func() { updateTargets(t, a, c, three, a.nodes) }, 0},
			{"a new node is added", func() { a.addNode(t); a.callCounts(); updateTargets(t, a, c, three, a.nodes) }, 3 + 1},
			{"delete", func() { c.invalidateLists(); deleteService(t, a, c, three) }, 2 + 1 + 1 + 3 + 1 + 1},
		} {
			a.callCounts()
			row.do()
			if calls := a.callCounts(); len(calls) > row.most {
				t.Errorf("%s: %d calls, of at most %d: %v", row.name, len(calls), row.most, calls)
			} else {
				t.Logf("%s: %d calls: %s", row.name, len(calls), strings.Join(calls, " "))
			}
		}
	})
}

func updateTargets(t *testing.T, a *account, c *Cloud, svc *corev1.Service, nodes []*corev1.Node) {
	t.Helper()
	if err := c.UpdateLoadBalancer(t.Context(), a.cluster, svc, nodes); err != nil {
		t.Fatal(err)
	}
}

// deleteService retries the deletion until AWS has released all objects.
func deleteService(t *testing.T, a *account, c *Cloud, svc *corev1.Service) {
	t.Helper()
	var err error
	for range 50 {
		if err = c.EnsureLoadBalancerDeleted(t.Context(), a.cluster, svc); err == nil {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatal(err)
}
