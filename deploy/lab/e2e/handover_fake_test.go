package e2e

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// metalLBAccount has the permissions of MetalLB's controller on Services.
const metalLBAccount = "system:serviceaccount:metallb-system:controller"

const metalLBRole = `apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: "metallb-system:controller"}
rules:
- {apiGroups: [""], resources: [services, namespaces], verbs: [get, list, watch]}
- {apiGroups: [""], resources: [services/status], verbs: [update]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: "metallb-system:controller"}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: "metallb-system:controller"}
subjects: [{kind: ServiceAccount, name: controller, namespace: metallb-system}]
`

// metalLB assigns addresses to the Services of the namespace default as the controller
// of MetalLB v0.16.1 does (SetBalancer and convergeBalancer in controller/service.go,
// reprocessAll in internal/k8s/controllers): it keeps the addresses that a status shows
// and its pools contain, clears all others, and writes the whole status and its own
// annotation by an update. It serves IPv4 only.
type metalLB struct {
	services interface {
		UpdateStatus(context.Context, *corev1.Service, metav1.UpdateOptions) (*corev1.Service, error)
	}
	class    string                     // --lb-class
	pools    map[string][]netip.Addr    // by name
	manual   map[string]bool            // pools with autoAssign: false
	assigned map[string]*corev1.Service // that have the addresses of their status, by name
}

const allocatedFromPool = "metallb.io/ip-allocated-from-pool"

// startMetalLB runs a metalLB until stop is called or the test ends.
func startMetalLB(t *testing.T, m metalLB) (stop func()) {
	t.Helper()
	config, err := cluster.ConfigOfPod("fairlead-controller-1")
	if err != nil {
		t.Fatal(err)
	}
	config = rest.CopyConfig(config)
	config.BearerToken, config.Impersonate = "admin", rest.ImpersonationConfig{UserName: metalLBAccount}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	services := client.CoreV1().Services("default")
	m.services, m.assigned = services, map[string]*corev1.Service{}
	ctx, cancel := context.WithCancel(t.Context())
	list, err := services.List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	events, err := services.Watch(ctx, metav1.ListOptions{ResourceVersion: list.ResourceVersion})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		// Services with an address first, so that none of them loses it to another one.
		slices.SortStableFunc(list.Items, func(a, b corev1.Service) int {
			return cmp.Compare(len(b.Status.LoadBalancer.Ingress), len(a.Status.LoadBalancer.Ingress))
		})
		for i := range list.Items {
			m.sync(ctx, t, &list.Items[i])
		}
		for e := range events.ResultChan() {
			s, ok := e.Object.(*corev1.Service)
			switch {
			case ctx.Err() != nil:
				return
			case !ok:
				t.Errorf("the watch of MetalLB ended with %+v", e)
			case e.Type == "DELETED":
				delete(m.assigned, s.Name)
			default:
				m.sync(ctx, t, s)
			}
		}
	}()
	stop = func() {
		cancel()
		events.Stop()
		<-done
	}
	t.Cleanup(stop)
	return stop
}

// sync writes what differs from the desired state. A conflict is followed by an event.
func (m *metalLB) sync(ctx context.Context, t *testing.T, observed *corev1.Service) {
	if class := observed.Spec.LoadBalancerClass; class == nil && m.class != "" || class != nil && *class != m.class {
		return
	}
	s := observed.DeepCopy()
	m.converge(s)
	if equality.Semantic.DeepEqual(s, observed) || ctx.Err() != nil {
		return
	}
	_, err := m.services.UpdateStatus(ctx, s, metav1.UpdateOptions{})
	if err != nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) && ctx.Err() == nil {
		t.Errorf("MetalLB: update the status of %s: %v", s.Name, err)
	}
}

func (m *metalLB) converge(s *corev1.Service) {
	shown := ingressText(s)
	delete(m.assigned, s.Name)
	delete(s.Annotations, allocatedFromPool)
	s.Status.LoadBalancer = corev1.LoadBalancerStatus{}
	if s.Spec.Type != corev1.ServiceTypeLoadBalancer {
		return
	}
	pool := cmp.Or(s.Annotations["metallb.io/address-pool"], s.Annotations["metallb.universe.tf/address-pool"])
	addr := cmp.Or(s.Annotations["metallb.io/loadBalancerIPs"], s.Annotations["metallb.universe.tf/loadBalancerIPs"], s.Spec.LoadBalancerIP)
	switch {
	case addr != "":
		m.assign(s, addr, pool)
		return
	case shown != "" && m.assign(s, shown, pool):
		return
	}
	for name, addrs := range m.pools {
		for _, a := range addrs {
			if (pool == name || pool == "" && !m.manual[name]) && m.assign(s, a.String(), pool) {
				return
			}
		}
	}
}

// assign assigns the address, if it is in a pool, in the requested one if there is one,
// and no other Service has it that does not share it.
func (m *metalLB) assign(s *corev1.Service, addr, requested string) bool {
	for name, addrs := range m.pools {
		in := slices.ContainsFunc(addrs, func(a netip.Addr) bool { return a.String() == addr })
		if !in || requested != "" && requested != name {
			continue
		}
		for _, o := range m.assigned {
			if ingressText(o) == addr && !mayShare(s, o) {
				return false
			}
		}
		mode := corev1.LoadBalancerIPModeVIP // the default of the API server
		s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: addr, IPMode: &mode}}
		metav1.SetMetaDataAnnotation(&s.ObjectMeta, allocatedFromPool, name)
		m.assigned[s.Name] = s
		return true
	}
	return false
}

// mayShare reports whether MetalLB lets the Services share an address.
func mayShare(a, b *corev1.Service) bool {
	key := func(s *corev1.Service) string {
		return cmp.Or(s.Annotations["metallb.io/allow-shared-ip"], s.Annotations["metallb.universe.tf/allow-shared-ip"])
	}
	return key(a) != "" && key(a) == key(b) && a.Spec.Ports[0].Port != b.Spec.Ports[0].Port
}

// ingressText returns the addresses and host names in the status, with all other fields
// that do not have the default.
func ingressText(s *corev1.Service) string {
	var all []string
	for _, in := range s.Status.LoadBalancer.Ingress {
		text := in.IP + in.Hostname
		if in.IPMode == nil || *in.IPMode != corev1.LoadBalancerIPModeVIP || len(in.Ports) > 0 {
			text = fmt.Sprintf("%+v", in)
		}
		all = append(all, text)
	}
	return strings.Join(all, " ")
}
