// Package providertest is the contract of a cloud, as a test suite: what a
// controller expects of every cloudprovider.LoadBalancer. A cloud's tests call
// Run with a real or an emulated account.
package providertest

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	cloudprovider "k8s.io/cloud-provider"
	"k8s.io/cloud-provider/api"
)

// Cluster is the name of the cluster in every call.
const Cluster = "kubernetes"

// Cloud is an account in which there is nothing yet, and how to look at it
// without asking the provider under test.
type Cloud struct {
	LoadBalancer cloudprovider.LoadBalancer
	Nodes        []*corev1.Node // three or more, all of which can be targets
	// Targets says who gets the traffic of each port of a Service: the nodes,
	// as "name:port". It is empty if there is no balancer.
	Targets func(t *testing.T, service *corev1.Service) map[int32][]string
	// Parts identifies what was made for each port of a Service.
	Parts func(t *testing.T, service *corev1.Service) map[int32]string
	// Remains lists what the provider made in the account and did not delete.
	Remains func(t *testing.T) []string
	// DeleteManually deletes the balancer of a Service, and no more, as a person would.
	DeleteManually func(t *testing.T, service *corev1.Service)
	// Writes counts the calls so far that could change something.
	Writes func() int
	// Restart is the provider in a new process, which remembers nothing.
	Restart func() cloudprovider.LoadBalancer
}

// Run checks a cloud against the contract. It makes a new account for each row.
func Run(t *testing.T, cloud func(t *testing.T) Cloud) {
	t.Helper()
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			t.Cleanup(func() {
				if t.Failed() {
					t.Log("why this must hold: " + row.why)
				}
			})
			c := cloud(t)
			c.LoadBalancer = checkedLoadBalancer{t, c.LoadBalancer}
			restart := c.Restart
			c.Restart = func() cloudprovider.LoadBalancer { return checkedLoadBalancer{t, restart()} }
			row.test(t, c)
		})
	}
}

// Service is a Service in the namespace default, with TCP ports, whose UID
// follows from the name. The nodePort of each port is NodePort.
func Service(name string, ports ...int32) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: serviceUID(name), Annotations: map[string]string{}},
		Spec: corev1.ServiceSpec{
			Type:                  corev1.ServiceTypeLoadBalancer,
			SessionAffinity:       corev1.ServiceAffinityNone,
			ExternalTrafficPolicy: corev1.ServiceExternalTrafficPolicyCluster,
			IPFamilies:            []corev1.IPFamily{corev1.IPv4Protocol},
		},
	}
	for _, p := range ports {
		s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{
			Name: fmt.Sprint("port-", p), Protocol: corev1.ProtocolTCP, Port: p, TargetPort: intstr.FromInt32(p), NodePort: NodePort(p),
		})
	}
	return s
}

// NodePort is the nodePort that Service gives to a port.
func NodePort(port int32) int32 { return 30000 + port%2768 }

func serviceUID(text string) types.UID {
	h := fnv.New64a()
	_, _ = h.Write([]byte(text))
	sum := h.Sum64()
	return types.UID(fmt.Sprintf("%08x-%04x-4000-8000-%012x", sum>>32, sum>>16&0xffff, sum&0xffffffffffff))
}

// checkedLoadBalancer is a provider whose every call is held to the laws that do not
// depend on the row: what is passed in is only read, ImplementedElsewhere is
// compared with == by the service controller, and an ingress is an address
// with a mode, or a hostname.
type checkedLoadBalancer struct {
	t  *testing.T
	lb cloudprovider.LoadBalancer
}

func (c checkedLoadBalancer) checkCall(call string, service *corev1.Service, nodes []*corev1.Node) func(status *corev1.LoadBalancerStatus, err error) {
	before := service.DeepCopy()
	var nodesBefore []*corev1.Node
	for _, n := range nodes {
		nodesBefore = append(nodesBefore, n.DeepCopy())
	}
	return func(status *corev1.LoadBalancerStatus, err error) {
		c.t.Helper()
		if !equality.Semantic.DeepEqual(before, service) {
			c.t.Errorf("%s changed the Service that it was given, which is the informer's", call)
		}
		for i, n := range nodes {
			if !equality.Semantic.DeepEqual(nodesBefore[i], n) {
				c.t.Errorf("%s changed node %s that it was given, which is the informer's", call, n.Name)
			}
		}
		if errors.Is(err, cloudprovider.ImplementedElsewhere) && err != cloudprovider.ImplementedElsewhere { //nolint:errorlint // this is the point
			c.t.Errorf("%s wrapped ImplementedElsewhere: %v", call, err)
		}
		if status == nil {
			return
		}
		for _, i := range status.Ingress {
			if (i.IP == "") == (i.Hostname == "") || (i.IP == "") != (i.IPMode == nil) {
				c.t.Errorf("%s returned the ingress %+v: it must be a hostname, or an IP with an ipMode", call, i)
			}
		}
	}
}

func (c checkedLoadBalancer) GetLoadBalancer(ctx context.Context, cluster string, service *corev1.Service) (*corev1.LoadBalancerStatus, bool, error) {
	c.t.Helper()
	law := c.checkCall("GetLoadBalancer", service, nil)
	status, exists, err := c.lb.GetLoadBalancer(ctx, cluster, service)
	law(status, err)
	return status, exists, err
}

func (c checkedLoadBalancer) GetLoadBalancerName(ctx context.Context, cluster string, service *corev1.Service) string {
	c.t.Helper()
	law := c.checkCall("GetLoadBalancerName", service, nil)
	name := c.lb.GetLoadBalancerName(ctx, cluster, service)
	law(nil, nil)
	return name
}

func (c checkedLoadBalancer) EnsureLoadBalancer(ctx context.Context, cluster string, service *corev1.Service, nodes []*corev1.Node) (*corev1.LoadBalancerStatus, error) {
	c.t.Helper()
	law := c.checkCall("EnsureLoadBalancer", service, nodes)
	status, err := c.lb.EnsureLoadBalancer(ctx, cluster, service, nodes)
	if law(status, err); err == nil && status == nil {
		c.t.Error("EnsureLoadBalancer returned neither a status nor an error")
	}
	return status, err
}

func (c checkedLoadBalancer) UpdateLoadBalancer(ctx context.Context, cluster string, service *corev1.Service, nodes []*corev1.Node) error {
	c.t.Helper()
	law := c.checkCall("UpdateLoadBalancer", service, nodes)
	err := c.lb.UpdateLoadBalancer(ctx, cluster, service, nodes)
	law(nil, err)
	return err
}

func (c checkedLoadBalancer) EnsureLoadBalancerDeleted(ctx context.Context, cluster string, service *corev1.Service) error {
	c.t.Helper()
	law := c.checkCall("EnsureLoadBalancerDeleted", service, nil)
	err := c.lb.EnsureLoadBalancerDeleted(ctx, cluster, service)
	law(nil, err)
	return err
}

// callWithRetry calls until the answer is not "later", as a controller does, but
// with less patience.
func callWithRetry(call func() error) (err error) {
	for range 200 {
		var later *api.RetryError
		if err = call(); !errors.As(err, &later) {
			break
		}
		time.Sleep(min(later.RetryAfter(), 10*time.Millisecond))
	}
	return err
}

func mustSucceed(t *testing.T, what string, call func() error) {
	t.Helper()
	if err := callWithRetry(call); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// ensureLoadBalancer is the status of a Service whose balancer must come about.
func ensureLoadBalancer(t *testing.T, lb cloudprovider.LoadBalancer, service *corev1.Service, nodes []*corev1.Node) *corev1.LoadBalancerStatus {
	t.Helper()
	var status *corev1.LoadBalancerStatus
	mustSucceed(t, "ensure "+service.Name, func() (err error) {
		status, err = lb.EnsureLoadBalancer(t.Context(), Cluster, service, nodes)
		return err
	})
	if status == nil || len(status.Ingress) == 0 {
		t.Fatalf("the status of %s has no ingress: %+v", service.Name, status)
	}
	return status
}

func deleteLoadBalancer(t *testing.T, lb cloudprovider.LoadBalancer, service *corev1.Service) {
	t.Helper()
	mustSucceed(t, "delete "+service.Name, func() error {
		return lb.EnsureLoadBalancerDeleted(t.Context(), Cluster, service)
	})
}
