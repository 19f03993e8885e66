package plan

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"github.com/fairlead-io/fairlead/cmd/fairlead/objects"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	controllerplan "github.com/fairlead-io/fairlead/controller/plan"
	"github.com/fairlead-io/fairlead/providers"
)

// drawPool draws a pool, small and often overlapping others.
func drawPool(t *rapid.T, name string, made time.Time) *v1alpha1.IPAddressPool {
	p := &v1alpha1.IPAddressPool{ObjectMeta: metav1.ObjectMeta{Name: name, UID: "pool", CreationTimestamp: metav1.NewTime(made)}}
	for range rapid.IntRange(1, 2).Draw(t, "entries") {
		first := rapid.IntRange(0, 12).Draw(t, "first")
		entry := fmt.Sprintf("192.0.2.%d-192.0.2.%d", first, first+rapid.IntRange(0, 4).Draw(t, "more"))
		if rapid.IntRange(1, 4).Draw(t, "six") == 4 {
			entry = fmt.Sprintf("2001:db8::%x-2001:db8::%x", first, first+3)
		}
		p.Spec.Addresses = append(p.Spec.Addresses, v1alpha1.AddressRange(entry))
	}
	auto := rapid.IntRange(0, 4).Draw(t, "auto") > 0
	p.Spec.AutoAssign = &auto
	p.Spec.ServiceAllocation = &v1alpha1.ServiceAllocation{Priority: int32(rapid.IntRange(0, 2).Draw(t, "priority"))}
	return p
}

// drawService draws a Service with requests.
func drawService(t *rapid.T, name string, made time.Time) *corev1.Service {
	policy := rapid.SampledFrom([]corev1.IPFamilyPolicy{
		corev1.IPFamilyPolicySingleStack, corev1.IPFamilyPolicySingleStack,
		corev1.IPFamilyPolicyPreferDualStack, corev1.IPFamilyPolicyRequireDualStack,
	}).Draw(t, "policy")
	svc := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "ns", Name: name, UID: "service", CreationTimestamp: metav1.NewTime(made), Annotations: map[string]string{},
		},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeLoadBalancer, IPFamilyPolicy: &policy, IPFamilies: []corev1.IPFamily{
				corev1.IPv4Protocol,
				corev1.IPv6Protocol,
			},
			Ports: []corev1.ServicePort{{Port: int32(rapid.IntRange(80, 82).Draw(t, "port")), Protocol: corev1.ProtocolTCP}},
		},
	}
	if policy == corev1.IPFamilyPolicySingleStack {
		svc.Spec.IPFamilies = svc.Spec.IPFamilies[:1]
	}
	for _, asks := range []struct {
		annotation string
		oneIn      int
		values     []string
	}{
		{v1alpha1.AnnotationAddressPool, 4, []string{"pool-0", "pool-1", "none"}},
		{v1alpha1.AnnotationLoadBalancerIPs, 4, []string{"192.0.2.5", "192.0.2.200", "nonsense"}},
		{v1alpha1.AnnotationAllowSharedIP, 3, []string{"key"}},
		{v1alpha1.AnnotationRenumber, 3, []string{"hold", "1h"}},
		{v1alpha1.AnnotationRelease, 6, []string{"192.0.2.3"}},
	} {
		if rapid.IntRange(1, asks.oneIn).Draw(t, asks.annotation) == asks.oneIn {
			svc.Annotations[asks.annotation] = rapid.SampledFrom(asks.values).Draw(t, "value")
		}
	}
	return svc
}

func drawCluster(t *rapid.T) controllerplan.Snapshot {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	s := controllerplan.Snapshot{
		Policy: providers.Policy{Mode: providers.BareMetal}, Now: start.Add(time.Hour),
		Nodes: []*corev1.Node{{ObjectMeta: metav1.ObjectMeta{Name: "n"}}},
	}
	for i := range rapid.IntRange(1, 3).Draw(t, "pools") {
		s.Objects.Pools = append(s.Objects.Pools, drawPool(t, fmt.Sprintf("pool-%d", i), start.Add(time.Duration(i)*time.Second)))
	}
	for i := range rapid.IntRange(0, 8).Draw(t, "services") {
		s.Services = append(s.Services, drawService(t, fmt.Sprintf("service-%d", i), start.Add(time.Duration(i)*time.Second)))
	}
	return s
}

// TestEmptyRequest checks that an empty request causes no changes, irrespective of
// pending writes of the controller, and does not modify the snapshot.
func TestEmptyRequest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cluster := drawCluster(t)
		was := cluster
		was.Services, was.Objects.Pools = nil, nil
		for _, svc := range cluster.Services {
			was.Services = append(was.Services, svc.DeepCopy())
		}
		for _, p := range cluster.Objects.Pools {
			was.Objects.Pools = append(was.Objects.Pools, p.DeepCopy())
		}
		all, err := Preview(cluster, Request{Manifests: new(objects.Collection)})
		r := all.OnlyChanges()
		if err != nil || len(r.Services)+len(r.Pools)+len(r.Problems) > 0 || r.InterruptsServices() {
			t.Fatalf("%v, %+v", err, r)
		}
		if !equality.Semantic.DeepEqual(was.Services, cluster.Services) || !equality.Semantic.DeepEqual(was.Objects, cluster.Objects) {
			t.Fatal("the snapshot has been changed")
		}
	})
}

// TestNoAddressLost checks that no change of pools releases an assigned address.
func TestNoAddressLost(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cluster := converge(drawCluster(t)).cluster
		request := Request{Manifests: new(objects.Collection)}
		for _, p := range cluster.Objects.Pools {
			switch rapid.IntRange(0, 2).Draw(t, "request") {
			case 0:
				request.Deletions = append(request.Deletions, Deletion{kind: "IPAddressPool", name: p.Name})
			case 1:
				request.Manifests.Pools = append(request.Manifests.Pools, drawPool(t, p.Name, time.Time{}))
			}
		}
		request.Manifests.Pools = append(request.Manifests.Pools, drawPool(t, "new", time.Time{}))
		result, err := Preview(cluster, request)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range result.Services {
			// A Service that requests an address or a pool is reassigned as soon as possible.
			svc := servicesByKey(cluster.Services)[keyNamed(p.Service)]
			requests := svc.Annotations[v1alpha1.AnnotationAddressPool] != "" || svc.Annotations[v1alpha1.AnnotationLoadBalancerIPs] != ""
			if slices.Contains(p.Changes, addressReleased) || slices.Contains(p.Changes, addressReassigned) && !requests {
				t.Fatalf("%s: %v: %+v -> %+v: %s", p.Service, p.Changes, p.Before, p.After, p.Why)
			}
		}
	})
}

// TestConverged checks that a converged cluster has no further writes.
func TestConverged(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		first := converge(drawCluster(t))
		again := converge(first.cluster)
		if !first.converged || !again.converged || again.pending > 0 {
			t.Fatalf("converged %v, then %v with %d writes", first.converged, again.converged, again.pending)
		}
	})
}

func keyNamed(text string) types.NamespacedName {
	namespace, name, _ := strings.Cut(text, "/")
	return types.NamespacedName{Namespace: namespace, Name: name}
}
