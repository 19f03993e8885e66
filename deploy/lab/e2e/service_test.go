package e2e

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	lab "github.com/fairlead-io/fairlead/deploy/lab"
)

func TestAddressAnswers(t *testing.T) {
	s := service(t, "first")
	addr := announced(t, "first")
	reach(t, cluster.Client, url(addr, 8086))
	for _, node := range cluster.Nodes {
		reach(t, cluster.Client, url(node.Addr, s.Spec.Ports[0].NodePort))
	}
	owner(t, addr, anyNode)
	event(t, "first", "Assigned")
	event(t, "first", "Announcing")

	got := get(t, "first")
	in := got.Status.LoadBalancer.Ingress[0]
	if in.IPMode == nil || *in.IPMode != corev1.LoadBalancerIPModeVIP {
		t.Errorf("ipMode is %v, want VIP", in.IPMode)
	}
	if len(got.Finalizers) > 0 {
		t.Errorf("finalizers are %v, want none", got.Finalizers)
	}
	if want := addr.String() + "=lan,uid=" + string(got.UID); got.Annotations["fairlead.io/allocated-from"] != want {
		t.Errorf("allocated-from is %q, want %q", got.Annotations["fairlead.io/allocated-from"], want)
	}
	out, err := cluster.Kubectl(t.Context(), "", "get", "svc", "first")
	if err != nil {
		t.Fatal(err)
	}
	contains(t, out, "LoadBalancer", addr.String(), fmt.Sprintf("8086:%d/TCP", s.Spec.Ports[0].NodePort))
}

func TestExplicitNodePortIsKept(t *testing.T) {
	service(t, "explicit", func(s *corev1.Service) { s.Spec.Ports[0].NodePort = 30000 })
	addr := announced(t, "explicit")
	reach(t, cluster.Client, url(addr, 8086))
	for _, node := range cluster.Nodes {
		reach(t, cluster.Client, url(node.Addr, 30000))
	}
	if got := get(t, "explicit").Spec.Ports[0].NodePort; got != 30000 {
		t.Errorf("nodePort is %d", got)
	}
}

func TestWithoutNodePorts(t *testing.T) {
	no := false
	service(t, "vip-only", func(s *corev1.Service) { s.Spec.AllocateLoadBalancerNodePorts = &no })
	reach(t, cluster.Client, url(announced(t, "vip-only"), 8086))
	if got := get(t, "vip-only").Spec.Ports[0].NodePort; got != 0 {
		t.Errorf("nodePort is %d, want none", got)
	}
}

func TestEveryBackendIsReached(t *testing.T) {
	service(t, "spread", func(s *corev1.Service) {
		s.Spec.Ports = []corev1.ServicePort{{Name: "a", Port: 80, TargetPort: intOrString("http")}, {Name: "b", Port: 8086}}
	})
	addr := announced(t, "spread")
	seen := map[string]bool{}
	eventually(t, "all three pods have answered", func() error {
		for _, port := range []int32{80, 8086} {
			answer, err := cluster.Client.Get(t.Context(), url(addr, port))
			if err != nil {
				return err
			}
			seen[strings.Fields(answer)[2]] = true
		}
		if len(seen) < len(cluster.Pods) {
			return fmt.Errorf("only %v", seen)
		}
		return nil
	})
}

func TestWithoutSelector(t *testing.T) {
	service(t, "manual", func(s *corev1.Service) { s.Spec.Selector = nil })
	port, protocol, name, yes := int32(8086), corev1.ProtocolTCP, "http", true
	_, err := cluster.API.DiscoveryV1().EndpointSlices("default").Create(t.Context(), &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: "manual-1", Labels: map[string]string{discoveryv1.LabelServiceName: "manual"}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Endpoints: []discoveryv1.Endpoint{{
			Addresses:  []string{cluster.Pods[1].Addr.String()},
			Conditions: discoveryv1.EndpointConditions{Ready: &yes},
		}},
		Ports: []discoveryv1.EndpointPort{{Name: &name, Port: &port, Protocol: &protocol}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	respondsWith(t, cluster.Client, url(announced(t, "manual"), 8086), "pod-2")
}

func TestLocalTrafficKeepsTheClientsAddress(t *testing.T) {
	service(t, "local", func(s *corev1.Service) {
		s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
		s.Spec.Selector = map[string]string{"app": "influxdb", "statefulset.kubernetes.io/pod-name": "one"}
	})
	// No pod has the second label yet, so no node may announce the address.
	contains(t, condition(t, "local", "Announced", "NoEndpoints"), "externalTrafficPolicy is Local")
	label := func(pod int, value string) {
		t.Helper()
		_, err := cluster.Kubectl(t.Context(), "", "label", "--overwrite", "pod", cluster.Pods[pod].Name,
			"statefulset.kubernetes.io/pod-name="+value)
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, i := range []int{1, 2} {
		label(i, "one")
		addr := announced(t, "local")
		owner(t, addr, func(node int) bool { return node == i })
		respondsWith(t, cluster.Client, url(addr, 8086), cluster.Pods[i].Name, "to "+cluster.Client.Addr.String())
		label(i, "other")
		condition(t, "local", "Announced", "NoEndpoints")
		notAnnounced(t, addr)
	}
}

func TestSourceRanges(t *testing.T) {
	service(t, "fenced", func(s *corev1.Service) {
		s.Spec.LoadBalancerSourceRanges = []string{cluster.Client.Addr.String() + "/32"}
	})
	addr := announced(t, "fenced")
	reach(t, cluster.Client, url(addr, 8086))
	update(t, "fenced", func(s *corev1.Service) { s.Spec.LoadBalancerSourceRanges = []string{"10.13.242.77/32"} })
	eventually(t, "the client is rejected", func() error {
		if answer, err := cluster.Client.Get(t.Context(), url(addr, 8086)); err == nil {
			return fmt.Errorf("it got %q", answer)
		}
		return nil
	})
}

func TestDeletedServiceFreesItsAddress(t *testing.T) {
	service(t, "short-lived", func(s *corev1.Service) { s.Annotations["fairlead.io/load-balancer-ips"] = "10.13.242.222" })
	addr := announced(t, "short-lived")
	remove(t, "short-lived")
	notAnnounced(t, addr)
	service(t, "successor", func(s *corev1.Service) { s.Annotations["fairlead.io/load-balancer-ips"] = "10.13.242.222" })
	if next := announced(t, "successor"); next != addr {
		t.Errorf("got %s, want %s", next, addr)
	}
}

// TestTypeChangeReleases checks that a Service releases its address when its type is
// no longer LoadBalancer, whether the change is made while the controller runs or while
// it is stopped, and that it is assigned an address when the type is changed back.
func TestTypeChangeReleases(t *testing.T) {
	for _, stopped := range []bool{false, true} {
		t.Run(fmt.Sprintf("controller stopped %t", stopped), func(t *testing.T) {
			name := fmt.Sprintf("demoted-%t", stopped)
			service(t, name)
			addr := announced(t, name)
			if stopped {
				cluster.StopControllers(t)
			}
			update(t, name, func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeClusterIP })
			if stopped {
				cluster.StartControllers(t)
			}
			eventually(t, "all fields of Fairlead are removed from it", func() error {
				s := get(t, name)
				if len(s.Finalizers)+len(s.Status.Conditions)+len(s.Status.LoadBalancer.Ingress)+len(s.Annotations) > 0 {
					return fmt.Errorf("finalizers %v, annotations %v, status %+v", s.Finalizers, s.Annotations, s.Status)
				}
				return nil
			})
			notAnnounced(t, addr)
			if stopped {
				cluster.StopControllers(t)
			}
			update(t, name, func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeLoadBalancer })
			if stopped {
				cluster.StartControllers(t)
			}
			announced(t, name)
		})
	}
}

func TestOthersAreNeverTouched(t *testing.T) {
	class := "example.com/lb"
	service(t, "other-class", func(s *corev1.Service) { s.Spec.LoadBalancerClass = &class })
	service(t, "cluster-ip", func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeClusterIP })
	service(t, "node-port", func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeNodePort })
	service(t, "headless", func(s *corev1.Service) { s.Spec.Type, s.Spec.ClusterIP = corev1.ServiceTypeClusterIP, "None" })
	service(t, "external", func(s *corev1.Service) {
		s.Spec = corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "example.com"}
	})
	names := []string{"other-class", "cluster-ip", "node-port", "headless", "external"}
	before := map[string]string{}
	for _, n := range names {
		before[n] = get(t, n).ResourceVersion
	}
	ours := "fairlead.io/bare-metal"
	service(t, "our-class", func(s *corev1.Service) { s.Spec.LoadBalancerClass = &ours })
	announced(t, "our-class") // created after them, so they have been passed over
	if have := get(t, "our-class").Finalizers; len(have) > 0 {
		t.Errorf("finalizers are %v, want none", have)
	}
	for _, n := range names {
		if s := get(t, n); s.ResourceVersion != before[n] {
			t.Errorf("%s was modified: %+v", n, s)
		}
	}
}

func TestPoolTooSmall(t *testing.T) {
	tiny := func(s *corev1.Service) { s.Annotations["fairlead.io/address-pool"] = "tiny" }
	service(t, "waiting", tiny)
	contains(t, condition(t, "waiting", "Provisioned", "NoMatchingPool"), "pool tiny does not exist")
	event(t, "waiting", "NoMatchingPool")

	pool := "apiVersion: fairlead.io/v1alpha1\nkind: IPAddressPool\nmetadata: {name: tiny}\nspec: {addresses: [%s], autoAssign: false}\n"
	apply(t, fmt.Sprintf(pool, "10.13.242.210/32"))
	t.Cleanup(func() { deletePool(t, "tiny") })
	ready(t, "ipaddresspools", "tiny", "OverlappingAddresses") // with the pool lan, which is older
	apply(t, fmt.Sprintf(pool, "10.13.242.150/32"))
	condition(t, "waiting", "Provisioned", "Assigned")
	contains(t, condition(t, "waiting", "Announced", "NoAdvertisement"), `"tiny"`)

	service(t, "crowded-out", tiny)
	contains(t, condition(t, "crowded-out", "Provisioned", "PoolExhausted"), "pool tiny has no free IPv4 address")
	event(t, "crowded-out", "PoolExhausted")
	apply(t, fmt.Sprintf(pool, "10.13.242.150/31"))
	condition(t, "crowded-out", "Provisioned", "Assigned")
	event(t, "crowded-out", "Assigned")
	remove(t, "waiting")
	remove(t, "crowded-out")
}

func TestTwoAskForOneAddress(t *testing.T) {
	ask := func(s *corev1.Service) { s.Spec.LoadBalancerIP = "10.13.242.221" }
	service(t, "quick", ask)
	announced(t, "quick")
	service(t, "late", ask)
	contains(t, condition(t, "late", "Provisioned", "AddressTaken"), "10.13.242.221 is assigned to Service default/quick")
	event(t, "late", "AddressTaken")
	service(t, "elsewhere", func(s *corev1.Service) { s.Spec.LoadBalancerIP = "192.0.2.1" })
	condition(t, "elsewhere", "Provisioned", "AddressNotInPool")
	service(t, "unreadable", func(s *corev1.Service) { s.Annotations["fairlead.io/load-balancer-ips"] = "ten" })
	contains(t, condition(t, "unreadable", "Provisioned", "InvalidRequest"), "load-balancer-ips", `"ten"`)
	remove(t, "quick")
	if got := announced(t, "late"); got.String() != "10.13.242.221" {
		t.Errorf("got %s", got)
	}
}

// otherService creates a Service with an address from another implementation.
func otherService(t *testing.T, name, addr string) {
	t.Helper()
	other := "example.com/other"
	service(t, name, func(s *corev1.Service) { s.Spec.LoadBalancerClass = &other })
	patch := fmt.Sprintf(`{"status":{"loadBalancer":{"ingress":[{"ip":%q}]}}}`, addr)
	if _, err := cluster.Kubectl(t.Context(), "", "patch", "svc", name, "--subresource=status", "--type=merge", "-p", patch); err != nil {
		t.Fatal(err)
	}
}

func TestAdoption(t *testing.T) {
	cluster.StopControllers(t)
	// The test writes the status before the controller runs.
	for name, addr := range map[string]string{"adopted": "10.13.242.219", "left-alone": "192.0.2.19"} {
		service(t, name)
		patch := fmt.Sprintf(`{"status":{"loadBalancer":{"ingress":[{"ip":%q}]}}}`, addr)
		if _, err := cluster.Kubectl(t.Context(), "", "patch", "svc", name, "--subresource=status", "--type=merge", "-p",
			patch); err != nil {
			t.Fatal(err)
		}
	}
	cluster.StartControllers(t)
	if got := announced(t, "adopted"); got.String() != "10.13.242.219" {
		t.Errorf("the adopted Service has %s", got)
	}
	contains(t, condition(t, "left-alone", "Provisioned", "ForeignStatus"), "192.0.2.19", "not in any pool")
	s := get(t, "left-alone")
	if in, err := lab.IngressAddress(s); err != nil || in.String() != "192.0.2.19" || len(s.Finalizers) > 0 {
		t.Errorf("it was not left alone: %v %v, finalizers %v", in, err, s.Finalizers)
	}
}

// TestRestoredTraces checks that fields of Fairlead that were restored from a backup,
// under another field manager, are removed or used, and not written repeatedly.
func TestRestoredTraces(t *testing.T) {
	apply(t, `apiVersion: v1
kind: Service
metadata:
  {name: restored, namespace: default, finalizers: [fairlead.io/bare-metal],
   annotations: {fairlead.io/allocated-from: 10.13.242.217=lan}}
spec: {type: ClusterIP, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: inherited, namespace: default, finalizers: [service.kubernetes.io/load-balancer-cleanup, fairlead.io/aws]}
spec: {type: LoadBalancer, ports: [{port: 80}]}
---
apiVersion: fairlead.io/v1alpha1
kind: IPAddressPool
metadata: {name: restored}
spec: {addresses: [198.51.100.0/24], autoAssign: false}
`)
	t.Cleanup(func() { remove(t, "restored") })
	eventually(t, "the restored fields are removed", func() error {
		if s := get(t, "restored"); len(s.Finalizers)+len(s.Annotations) > 0 {
			return fmt.Errorf("finalizers %v, annotations %v", s.Finalizers, s.Annotations)
		}
		return nil
	})
	ready(t, "ipaddresspools", "restored", "Ready")
	deletePool(t, "restored")
	announced(t, "inherited")
	if have := get(t, "inherited").Finalizers; len(have) > 0 { // although another manager owns them, too
		t.Errorf("finalizers are %v, want none", have)
	}
	remove(t, "inherited")
}

func TestAStrangersAddressIsNotGiven(t *testing.T) {
	otherService(t, "stranger", "10.13.242.218")
	service(t, "wants-it", func(s *corev1.Service) { s.Spec.LoadBalancerIP = "10.13.242.218" })
	contains(t, condition(t, "wants-it", "Provisioned", "AddressTaken"), "default/stranger")
}
