package plan

import (
	"fmt"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/fixture"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/providers"
)

// changeRequest changes a Service in one of the ways that its owner may.
func changeRequest(t *rapid.T, svc *corev1.Service) {
	addr := fmt.Sprintf("192.0.2.%d", rapid.IntRange(0, 17).Draw(t, "addr"))
	switch rapid.IntRange(0, 10).Draw(t, "request") {
	case 0, 1:
		svc.Annotations[v1alpha1.AnnotationLoadBalancerIPs] = addr
	case 2:
		svc.Annotations[v1alpha1.AnnotationAddressPool] = rapid.SampledFrom([]string{"p", "q", "none"}).Draw(t, "pool")
	case 3:
		svc.Annotations[v1alpha1.AnnotationAllowSharedIP] = "key"
	case 4:
		svc.Annotations[v1alpha1.AnnotationRelease] = addr
	case 5:
		svc.Annotations[v1alpha1.AnnotationRenumber] = "hold"
	case 6:
		svc.Spec.Type = corev1.ServiceTypeClusterIP
	case 7:
		holding(addr)(svc) // another implementation has written it
	case 8:
		class := "example.com/lb"
		svc.Spec.LoadBalancerClass = &class
		holding(addr)(svc)
	}
}

func holdings(services []*corev1.Service) map[types.NamespacedName][]string {
	all := map[types.NamespacedName][]string{}
	for _, svc := range services {
		for _, in := range svc.Status.LoadBalancer.Ingress {
			all[KeyOf(svc)] = append(all[KeyOf(svc)], in.IP)
		}
	}
	return all
}

// allWritten returns the Services after the plans have been written.
func allWritten(services []*corev1.Service, planned []PlannedService) []*corev1.Service {
	services = slices.Clone(services)
	for _, p := range planned {
		if i := slices.Index(services, p.Service); !p.Plan.Matches(p.Service) {
			services[i] = p.Plan.Written(p.Service)
		}
	}
	return services
}

// TestDecideChangedAgreesWithDecide: a full decision keeps what an incremental one
// has assigned, for all Services, and no incremental one assigns a held address.
func TestDecideChangedAgreesWithDecide(t *testing.T) {
	incremental := 0
	rapid.Check(t, func(t *rapid.T) {
		s := Snapshot{
			Policy:  providers.Policy{Mode: providers.BareMetal},
			Objects: config.Objects{Pools: []*v1alpha1.IPAddressPool{pool("p", "192.0.2.0/29"), pool("q", "192.0.2.8/29")}},
			Nodes:   []*corev1.Node{readyNode("n1")},
		}
		for i := range rapid.IntRange(1, 12).Draw(t, "services") {
			svc := service(fmt.Sprintf("%c%d", 'a'+rapid.IntRange(0, 3).Draw(t, "age"), i))
			if rapid.IntRange(0, 2).Draw(t, "special") == 0 {
				changeRequest(t, svc)
			}
			s.Services = append(s.Services, svc)
		}
		var planner Planner
		plan := planner.Decide(s)
		s.Services = allWritten(s.Services, plan.Services)
		var changed []*corev1.Service
		for i := range rapid.IntRange(1, 3).Draw(t, "changes") {
			svc := service(fmt.Sprintf("%c-new%d", 'a'+rapid.IntRange(0, 3).Draw(t, "age"), i))
			at := rapid.IntRange(0, len(s.Services)).Draw(t, "which")
			if at < len(s.Services) {
				svc = s.Services[at].DeepCopy()
			} else {
				s.Services = append(s.Services, nil)
			}
			if rapid.Bool().Draw(t, "changes its request") {
				changeRequest(t, svc)
			}
			changed = slices.DeleteFunc(changed, func(o *corev1.Service) bool { return KeyOf(o) == KeyOf(svc) })
			s.Services[at], changed = svc, append(changed, svc)
		}
		plans, ok := planner.DecideChanged(changed, time.Time{})
		if !ok {
			return
		}
		incremental++
		before := holdings(s.Services)
		s.Services = allWritten(s.Services, plans)
		after := holdings(s.Services)
		for key, addrs := range before {
			if !slices.ContainsFunc(changed, func(svc *corev1.Service) bool { return KeyOf(svc) == key }) && !slices.Equal(addrs, after[key]) {
				t.Fatalf("%s had %v and has %v, though it has not changed", key, addrs, after[key])
			}
		}
		for _, svc := range changed {
			for key, others := range before {
				for _, a := range after[KeyOf(svc)] {
					if key != KeyOf(svc) && slices.Contains(others, a) && !slices.Contains(before[KeyOf(svc)], a) {
						t.Fatalf("%s was assigned %s, which %s holds", KeyOf(svc), a, key)
					}
				}
			}
		}
		full := holdings(allWritten(s.Services, Decide(s).Services))
		for _, svc := range changed {
			if key := KeyOf(svc); !slices.Equal(full[key], after[key]) {
				t.Fatalf("a full decision assigns %s %v, the incremental one %v", key, full[key], after[key])
			}
		}
	})
	atLeast := 10
	if testing.Short() { // rapid makes 20 checks instead of 100
		atLeast = 1
	}
	if incremental < atLeast {
		t.Errorf("only %d decisions were incremental", incremental)
	}
}

// TestDecideChangedCases lists the Services that an incremental decision accepts, with
// Service a holding 192.0.2.0.
func TestDecideChangedCases(t *testing.T) {
	withAddress := func(s *corev1.Service) { *s = *assigned(s, "192.0.2.1") }
	for _, row := range []struct {
		name        string
		svc         *corev1.Service
		incremental bool
	}{
		{"new", service("b"), true},
		{"new, requests a free address", service("b", annotated(v1alpha1.AnnotationLoadBalancerIPs, "192.0.2.5")), true},
		{"no balancer", service("b", func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeClusterIP }), true},
		{"requests a held address", service("b", annotated(v1alpha1.AnnotationLoadBalancerIPs, "192.0.2.0")), false},
		{"requests a pool that is not there", service("b", annotated(v1alpha1.AnnotationAddressPool, "none")), false},
		{"first of its pool", service("b", annotated(v1alpha1.AnnotationAddressPool, "unused")), true},
		{"shares", service("b", annotated(v1alpha1.AnnotationAllowSharedIP, "key")), false},
		{"shares within its namespace", service("b", annotated("lbipam.cilium.io/sharing-key", "key")), false},
		{"requests what is not supported", service("b", annotated("projectcalico.org/ipv4pools", `["q"]`)), false},
		{"renumbers", service("b", annotated(v1alpha1.AnnotationRenumber, "hold")), false},
		{"is adopted", service("b", holding("192.0.2.3")), false},
		{"shows an address that no plan contains", service("b", withAddress), false},
		{"is deleted", service("b", deleting), false},
		{"was deleted and created again", service("a", func(s *corev1.Service) { s.UID = "another" }), false},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := Snapshot{
				Policy:   providers.Policy{Mode: providers.BareMetal},
				Objects:  config.Objects{Pools: []*v1alpha1.IPAddressPool{pool("p", "192.0.2.0/29"), pool("unused", "198.51.100.0/24")}},
				Services: []*corev1.Service{service("a")},
			}
			var planner Planner
			planner.Decide(s)
			_, incremental := planner.DecideChanged([]*corev1.Service{row.svc}, time.Time{})
			if incremental != row.incremental {
				t.Errorf("incremental is %t", incremental)
			}
		})
	}
}

// assigned returns the Service with an address that Fairlead has assigned.
func assigned(svc *corev1.Service, addr string) *corev1.Service {
	svc = svc.DeepCopy()
	finalized(svc)
	holding(addr)(svc)
	fixture.Recorded(addr + "=p")(svc)
	return svc
}

// TestAffectsAllocation lists which changes of other objects need a full decision.
func TestAffectsAllocation(t *testing.T) {
	node := readyNode("n")
	node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.1"}}
	for _, row := range []struct {
		name    string
		was     metav1.Object
		change  func(metav1.Object)
		affects bool
	}{
		{"pool's status", pool("p"), func(o metav1.Object) { o.(*v1alpha1.IPAddressPool).Status.Services = 1 }, false},
		{"pool's spec", pool("p"), func(o metav1.Object) { o.SetGeneration(2) }, true},
		{"pool's deletion", pool("p"), func(o metav1.Object) { now := metav1.Now(); o.SetDeletionTimestamp(&now) }, true},
		{"pool made again", pool("p"), func(o metav1.Object) { o.SetUID("2") }, true},
		{"labels of a namespace", &corev1.Namespace{}, func(o metav1.Object) { o.SetLabels(map[string]string{"a": "b"}) }, true},
		{"node's heartbeat", node, func(o metav1.Object) { o.(*corev1.Node).Status.Conditions[0].LastHeartbeatTime = metav1.Now() }, false},
		{"node's address", node, func(o metav1.Object) { o.(*corev1.Node).Status.Addresses[0].Address = "192.0.2.2" }, true},
		{"node's taint", node, func(o metav1.Object) { o.(*corev1.Node).Spec.Taints = []corev1.Taint{{Key: "k"}} }, true},
	} {
		t.Run(row.name, func(t *testing.T) {
			is := row.was.(runtime.Object).DeepCopyObject().(metav1.Object)
			row.change(is)
			if got := AffectsAllocation(row.was, is); got != row.affects {
				t.Errorf("affects is %t", got)
			}
		})
	}
}
