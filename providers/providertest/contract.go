// Package providertest is a conformance test suite for clouds: it checks what a
// controller requires of a cloudprovider.LoadBalancer. The tests of a cloud call Run
// with a real or an emulated account.
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

// Cloud is an empty account, with functions that inspect it without the provider
// under test.
type Cloud struct {
	LoadBalancer cloudprovider.LoadBalancer
	Nodes        []*corev1.Node // three or more, all of which can be targets
	// Targets returns the targets of each port of a Service, as "node:port". It is
	// empty if the load balancer does not exist.
	Targets func(t *testing.T, service *corev1.Service) map[int32][]string
	// Parts identifies the object that was created for each port of a Service.
	Parts func(t *testing.T, service *corev1.Service) map[int32]string
	// Remains lists the objects that the provider created and has not deleted.
	Remains func(t *testing.T) []string
	// DeleteManually deletes only the load balancer of a Service, as a user may do in
	// the console.
	DeleteManually func(t *testing.T, service *corev1.Service)
	// Writes counts the mutating calls so far.
	Writes func() int
	// Restart returns the provider as in a new process, without any cache.
	Restart func() cloudprovider.LoadBalancer
}

// Run checks a cloud against the contract, with a new account for each row.
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

// Service returns a Service in the namespace default with TCP ports. Its UID is
// derived from the name, and the nodePort of each port is NodePort.
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

// NodePort returns the nodePort that Service sets for a port.
func NodePort(port int32) int32 { return 30000 + port%2768 }

func serviceUID(text string) types.UID {
	h := fnv.New64a()
	_, _ = h.Write([]byte(text))
	sum := h.Sum64()
	return types.UID(fmt.Sprintf("%08x-%04x-4000-8000-%012x", sum>>32, sum>>16&0xffff, sum&0xffffffffffff))
}

// checkedLoadBalancer wraps a provider and checks every call: arguments must not be
// changed, ImplementedElsewhere must not be wrapped, because the service controller
// compares it with ==, and an ingress is an address with a mode or a hostname.
type checkedLoadBalancer struct {
	t  *testing.T
	lb cloudprovider.LoadBalancer
}

func (c checkedLoadBalancer) checkCall(
	call string, service *corev1.Service, nodes []*corev1.Node,
) func(status *corev1.LoadBalancerStatus, err error) {
	before := service.DeepCopy()
	var nodesBefore []*corev1.Node
	for _, n := range nodes {
		nodesBefore = append(nodesBefore, n.DeepCopy())
	}
	return func(status *corev1.LoadBalancerStatus, err error) {
		c.t.Helper()
		if !equality.Semantic.DeepEqual(before, service) {
			c.t.Errorf("%s changed its Service argument, which is shared with the informer", call)
		}
		for i, n := range nodes {
			if !equality.Semantic.DeepEqual(nodesBefore[i], n) {
				c.t.Errorf("%s changed its argument node %s, which is shared with the informer", call, n.Name)
			}
		}
		//nolint:errorlint // this is the point
		if errors.Is(err, cloudprovider.ImplementedElsewhere) && err != cloudprovider.ImplementedElsewhere {
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

func (c checkedLoadBalancer) GetLoadBalancer(
	ctx context.Context, cluster string, service *corev1.Service,
) (*corev1.LoadBalancerStatus, bool, error) {
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

func (c checkedLoadBalancer) EnsureLoadBalancer(
	ctx context.Context, cluster string, service *corev1.Service, nodes []*corev1.Node,
) (*corev1.LoadBalancerStatus, error) {
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

// callWithRetry calls until the error is not a RetryError, as a controller does, but
// with a shorter delay.
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

// ensureLoadBalancer creates or updates the load balancer of a Service, and returns
// its status.
func ensureLoadBalancer(
	t *testing.T, lb cloudprovider.LoadBalancer, service *corev1.Service, nodes []*corev1.Node,
) *corev1.LoadBalancerStatus {
	t.Helper()
	var status *corev1.LoadBalancerStatus
	mustSucceed(t, "ensure "+service.Name, func() (err error) {
		status, err = lb.EnsureLoadBalancer(t.Context(), Cluster, service, nodes)
		return err
	})
	if status == nil || len(status.Ingress) == 0 {
		t.Fatalf("status of %s: missing ingress: %+v", service.Name, status)
	}
	return status
}

func deleteLoadBalancer(t *testing.T, lb cloudprovider.LoadBalancer, service *corev1.Service) {
	t.Helper()
	mustSucceed(t, "delete "+service.Name, func() error {
		return lb.EnsureLoadBalancerDeleted(t.Context(), Cluster, service)
	})
}
