package e2e

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	lab "github.com/fairlead-io/fairlead/deploy/lab"
)

// history has the successive values of status.loadBalancer.ingress of Services.
type history struct {
	events watch.Interface
	latest map[string]string   // resourceVersion of the latest event, by name of the Service
	shown  map[string][]string // without repetitions, by name of the Service
}

// watchHistory records the Services of the namespace default from now on.
func watchHistory(t *testing.T) *history {
	t.Helper()
	services := cluster.API.CoreV1().Services("default")
	list, err := services.List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	events, err := services.Watch(t.Context(), metav1.ListOptions{ResourceVersion: list.ResourceVersion})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(events.Stop)
	h := &history{events: events, latest: map[string]string{}, shown: map[string][]string{}}
	for i := range list.Items {
		h.add(&list.Items[i])
	}
	return h
}

func (h *history) add(s *corev1.Service) {
	h.latest[s.Name] = s.ResourceVersion
	h.shown[s.Name] = slices.Compact(append(h.shown[s.Name], ingressText(s)))
}

// expect checks that the Service has had exactly these values, up to its present
// version.
func (h *history) expect(t *testing.T, name string, want ...string) {
	t.Helper()
	timeout := time.After(lab.WaitTimeout)
	for present := get(t, name).ResourceVersion; h.latest[name] != present; {
		select {
		case e := <-h.events.ResultChan():
			s, ok := e.Object.(*corev1.Service)
			if !ok {
				t.Fatalf("the watch ended with %+v", e)
			}
			h.add(s)
		case <-timeout:
			t.Fatalf("version %s of %s was not seen, but %s", present, name, h.latest[name])
		}
	}
	if got := h.shown[name]; !slices.Equal(got, want) {
		t.Errorf("status.loadBalancer.ingress of %s was %q, want %q", name, got, want)
	}
}

// ofFairlead returns what Fairlead has written on the Service, except addresses.
func ofFairlead(s *corev1.Service) (all []string) {
	all = slices.Clone(s.Finalizers)
	for _, name := range []string{allocatedFrom, leaving} {
		if s.Annotations[name] != "" {
			all = append(all, name)
		}
	}
	for _, c := range s.Status.Conditions {
		if strings.HasPrefix(c.Type, "fairlead.io/") {
			all = append(all, c.Type)
		}
	}
	return all
}

// serveClassless sets --serve-services-without-class in the manifest of the controllers
// and restarts them.
func serveClassless(t *testing.T, serve bool) {
	t.Helper()
	const flag = "--serve-services-without-class=false"
	ctx := context.Background()
	deployments := cluster.API.AppsV1().Deployments("fairlead-system")
	d, err := deployments.Get(ctx, "fairlead-controller", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	args := &d.Spec.Template.Spec.Containers[0].Args
	if *args = slices.DeleteFunc(*args, func(a string) bool { return a == flag }); !serve {
		*args = append(*args, flag)
	}
	if _, err := deployments.Update(ctx, d, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, p := range cluster.Controllers {
		if !p.HasEnded() {
			_ = p.Stop()
		}
	}
	cluster.StartControllers(t)
}

func waitIngress(t *testing.T, name string) (ingress string) {
	t.Helper()
	eventually(t, name+" has an address", func() error {
		if ingress = ingressText(get(t, name)); ingress == "" {
			return fmt.Errorf("it has none")
		}
		return nil
	})
	return ingress
}

func addressRange(from string, count int) (addrs []netip.Addr) {
	for a := netip.MustParseAddr(from); len(addrs) < count; a = a.Next() {
		addrs = append(addrs, a)
	}
	return addrs
}

// TestHandOver moves Services from an implementation that behaves as MetalLB to Fairlead
// and back, with the commands of docs/sharing-a-cluster.md, and compares all addresses
// that they have had.
func TestHandOver(t *testing.T) {
	const moved, class = "10.21.0.20", "example.com/metallb"
	kubectl := func(args ...string) {
		t.Helper()
		if _, err := cluster.Kubectl(t.Context(), "", args...); err != nil {
			t.Fatal(err)
		}
	}
	patch := func(name, patch string) {
		t.Helper()
		kubectl("patch", "svc", name, "--type=merge", "-p", patch)
	}
	t.Cleanup(func() {
		_, _ = cluster.Kubectl(context.Background(), "", "delete", "clusterrole,clusterrolebinding", "metallb-system:controller")
		_, _ = cluster.Kubectl(context.Background(), "", "delete", "l2advertisement", "hand-over")
		deletePool(t, "hand-over")
		deletePool(t, "by-name")
	})
	serveClassless(t, false)
	restore := sync.OnceFunc(func() { serveClassless(t, true) })
	t.Cleanup(restore)
	apply(t, metalLBRole+`---
apiVersion: fairlead.io/v1alpha1
kind: IPAddressPool
metadata: {name: hand-over}
spec: {addresses: [10.21.0.10-10.21.0.29]}
---
apiVersion: fairlead.io/v1alpha1
kind: L2Advertisement
metadata: {name: hand-over}
spec: {ipAddressPools: [hand-over, by-name], interfaces: [eth0]}
---
`+pool("by-name", "10.21.1.0/28"))
	m := metalLB{
		pools:  map[string][]netip.Addr{"hand-over": addressRange("10.21.0.10", 20), "by-name": addressRange("10.21.1.1", 4)},
		manual: map[string]bool{"by-name": true},
	}
	stopMetalLB := startMetalLB(t, m)

	seen := watchHistory(t)
	served := map[string]string{}
	for name, change := range map[string]func(*corev1.Service){
		"any":         func(*corev1.Service) {},
		"local":       func(s *corev1.Service) { s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal },
		"by-pool":     annotated("metallb.io/address-pool=by-name"),
		"by-address":  annotated("metallb.io/loadBalancerIPs=" + moved),
		"by-old-name": annotated("metallb.universe.tf/loadBalancerIPs=10.21.0.21"),
		"by-field":    func(s *corev1.Service) { s.Spec.LoadBalancerIP = "10.21.0.22" },
		"by-two":      annotated("metallb.io/loadBalancerIPs=10.21.0.23", "kube-vip.io/loadbalancerIPs=10.21.0.23"),
		"shared-1":    annotated("metallb.io/loadBalancerIPs=10.21.0.24", "metallb.io/allow-shared-ip=key"),
		"shared-2": func(s *corev1.Service) {
			annotated("metallb.io/loadBalancerIPs=10.21.0.24", "metallb.io/allow-shared-ip=key")(s)
			s.Spec.Ports[0].Port = 8087
		},
	} {
		service(t, name, change)
		served[name] = waitIngress(t, name)
	}
	names := slices.Sorted(maps.Keys(served))
	// The request is one of a third implementation: MetalLB does not read it, Fairlead does.
	service(t, "third", annotated("kube-vip.io/loadbalancerIPs=10.21.0.28"))
	third := waitIngress(t, "third")

	// While MetalLB serves them, Fairlead neither writes to them nor assigns their
	// addresses. It serves a Service of its class meanwhile.
	service(t, "classed", func(s *corev1.Service) {
		class := "fairlead.io/bare-metal"
		s.Spec.LoadBalancerClass = &class
		annotated("fairlead.io/load-balancer-ips=10.21.1.9")(s)
	})
	announced(t, "classed")
	for _, name := range names {
		if got := ofFairlead(get(t, name)); len(got) > 0 {
			t.Errorf("Fairlead has written %v on %s", got, name)
		}
	}

	// Moving one Service to Fairlead, with a class.
	patch("by-address", `{"spec":{"type":"ClusterIP"}}`)
	stopMetalLB()
	m.pools = map[string][]netip.Addr{
		"hand-over": slices.DeleteFunc(addressRange("10.21.0.10", 20), func(a netip.Addr) bool { return a.String() == moved }),
		"by-name":   m.pools["by-name"],
	}
	stopMetalLB = startMetalLB(t, m)
	kubectl("annotate", "svc", "by-address", "fairlead.io/load-balancer-ips="+moved)
	patch("by-address", `{"spec":{"type":"LoadBalancer","loadBalancerClass":"fairlead.io/bare-metal"}}`)
	waitHeld(t, "by-address", netip.MustParseAddr(moved), "hand-over")
	seen.expect(t, "by-address", "", moved, "", moved)

	// Moving all Services to Fairlead.
	preview := func(name string) string {
		t.Helper()
		out, err := cluster.Fairlead(t.Context(), "explain", "svc", "default/"+name)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	contains(t, preview("any"), "shows "+served["any"]+", and is assigned it")
	contains(t, preview("third"), "assigns 10.21.0.28 in place of "+third)
	if out := doctor(t); strings.Contains(out, "ForeignStatus") {
		t.Errorf("doctor reports Services that would not be adopted:\n%s", out)
	}
	stopMetalLB()
	serveClassless(t, true)
	for _, name := range names {
		pool := "hand-over"
		if name == "by-pool" {
			pool = "by-name"
		}
		addr := served[name]
		waitHeld(t, name, netip.MustParseAddr(addr), pool)
		announced(t, name)
		if name != "by-address" {
			seen.expect(t, name, "", addr)
		}
	}
	waitHeld(t, "third", netip.MustParseAddr("10.21.0.28"), "hand-over")
	seen.expect(t, "third", "", third, "10.21.0.28")

	// Moving one Service away from Fairlead, with a class.
	m.class = class
	stopMetalLB = startMetalLB(t, m)
	patch("by-old-name", `{"spec":{"type":"ClusterIP"}}`)
	kubectl("annotate", "svc", "by-old-name", "metallb.io/loadBalancerIPs=10.21.0.21")
	patch("by-old-name", `{"spec":{"type":"LoadBalancer","loadBalancerClass":"`+class+`"}}`)
	waitIngress(t, "by-old-name")
	eventually(t, "by-old-name is released", func() error {
		if got := ofFairlead(get(t, "by-old-name")); len(got) > 0 {
			return fmt.Errorf("it has %v", got)
		}
		return nil
	})
	seen.expect(t, "by-old-name", "", "10.21.0.21", "", "10.21.0.21")
	stopMetalLB()

	// Moving all Services away from Fairlead.
	cluster.StopControllers(t)
	t.Cleanup(restore) // before the Services with finalizers of Fairlead are removed
	m.class = ""
	startMetalLB(t, m)
	// Both implementations are done with the others when the newest Services are served.
	service(t, "newcomer")
	waitIngress(t, "newcomer")
	for _, name := range names {
		patch(name, `{"metadata":{"finalizers":null,"annotations":{"fairlead.io/allocated-from":null,"fairlead.io/leaving":null}}}`)
	}
	service(t, "last")
	waitIngress(t, "last")
	for _, name := range names {
		if name != "by-address" && name != "by-old-name" {
			seen.expect(t, name, "", served[name])
		}
	}
	// A class of Fairlead is not served by any other implementation.
	seen.expect(t, "by-address", "", moved, "", moved)
	if got := ingressText(get(t, "by-address")); got != moved || get(t, "by-address").Annotations[allocatedFromPool] != "" {
		t.Errorf("by-address has %s, and annotations %v", got, get(t, "by-address").Annotations)
	}
}
