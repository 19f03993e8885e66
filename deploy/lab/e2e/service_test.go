package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	coordinationv1 "k8s.io/api/coordination/v1"
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
	if want := []string{"fairlead.io/bare-metal", "service.kubernetes.io/load-balancer-cleanup"}; !slices.Equal(got.Finalizers, want) {
		t.Errorf("finalizers are %v, want %v", got.Finalizers, want)
	}
	if want := addr.String() + "=lan"; got.Annotations["fairlead.io/allocated-from"] != want {
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
		Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{cluster.Pods[1].Addr.String()}, Conditions: discoveryv1.EndpointConditions{Ready: &yes}}},
		Ports:       []discoveryv1.EndpointPort{{Name: &name, Port: &port, Protocol: &protocol}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	says(t, cluster.Client, url(announced(t, "manual"), 8086), "pod-2")
}

func TestLocalTrafficKeepsTheClientsAddress(t *testing.T) {
	service(t, "local", func(s *corev1.Service) {
		s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
		s.Spec.Selector = map[string]string{"app": "influxdb", "statefulset.kubernetes.io/pod-name": "one"}
	})
	// No pod has the second label yet: nobody may announce.
	contains(t, condition(t, "local", "Announced", "NoEndpoints"), "externalTrafficPolicy is Local")
	label := func(pod int, value string) {
		t.Helper()
		_, err := cluster.Kubectl(t.Context(), "", "label", "--overwrite", "pod", cluster.Pods[pod].Name, "statefulset.kubernetes.io/pod-name="+value)
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, i := range []int{1, 2} {
		label(i, "one")
		addr := announced(t, "local")
		owner(t, addr, func(node int) bool { return node == i })
		says(t, cluster.Client, url(addr, 8086), cluster.Pods[i].Name, "to "+cluster.Client.Addr.String())
		label(i, "other")
		condition(t, "local", "Announced", "NoEndpoints")
		silent(t, addr)
	}
}

func TestSourceRanges(t *testing.T) {
	service(t, "fenced", func(s *corev1.Service) {
		s.Spec.LoadBalancerSourceRanges = []string{cluster.Client.Addr.String() + "/32"}
	})
	addr := announced(t, "fenced")
	reach(t, cluster.Client, url(addr, 8086))
	update(t, "fenced", func(s *corev1.Service) { s.Spec.LoadBalancerSourceRanges = []string{"10.13.242.77/32"} })
	eventually(t, "the client is kept out", func() error {
		if answer, err := cluster.Client.Get(t.Context(), url(addr, 8086)); err == nil {
			return fmt.Errorf("it got %q", answer)
		}
		return nil
	})
}

func TestOwnerNotReady(t *testing.T) {
	service(t, "failover")
	addr := announced(t, "failover")
	first := owner(t, addr, anyNode)
	if err := cluster.SetNodeReady(t.Context(), first, false); err != nil {
		t.Fatal(err)
	}
	owner(t, addr, func(node int) bool { return node != first })
	reach(t, cluster.Client, url(addr, 8086))
	contains(t, condition(t, "failover", "Announced", "Announced"), "node-")
	if err := cluster.SetNodeReady(context.Background(), first, true); err != nil {
		t.Fatal(err)
	}
	owner(t, addr, func(node int) bool { return node == first })
}

func TestOwnerExcluded(t *testing.T) {
	service(t, "excluded")
	addr := announced(t, "excluded")
	first := owner(t, addr, anyNode)
	const label = "node.kubernetes.io/exclude-from-external-load-balancers"
	if _, err := cluster.Kubectl(t.Context(), "", "label", "node", cluster.Nodes[first].Name, label+"="); err != nil {
		t.Fatal(err)
	}
	owner(t, addr, func(node int) bool { return node != first })
	if _, err := cluster.Kubectl(t.Context(), "", "label", "node", cluster.Nodes[first].Name, label+"-"); err != nil {
		t.Fatal(err)
	}
	owner(t, addr, func(node int) bool { return node == first })
}

func TestOwnersLinkDown(t *testing.T) {
	service(t, "cable")
	addr := announced(t, "cable")
	first := owner(t, addr, anyNode)
	reach(t, cluster.Client, url(addr, 8086))
	// The node is cut off altogether: only its Ready condition can tell.
	plugIn := unplug(t, cluster.Nodes[first])
	if err := cluster.SetNodeReady(t.Context(), first, false); err != nil {
		t.Fatal(err)
	}
	owner(t, addr, func(node int) bool { return node != first })
	reach(t, cluster.Client, url(addr, 8086))
	plugIn()
	if err := cluster.RestoreRoutes(first); err != nil {
		t.Fatal(err)
	}
	if err := cluster.SetNodeReady(t.Context(), first, true); err != nil {
		t.Fatal(err)
	}
	owner(t, addr, func(node int) bool { return node == first })
	reported(t, "cable", addr, first)
	reach(t, cluster.Client, url(addr, 8086))
	// A controller on that node may find that it lost its lease meanwhile.
	service(t, "after-cable")
	eventually(t, "after-cable is announced", func() error {
		revive(t)
		_, err := cluster.Announced(t.Context(), "default", "after-cable")
		return err
	})
}

func TestOwnerDeleted(t *testing.T) {
	service(t, "node-gone")
	addr := announced(t, "node-gone")
	first := owner(t, addr, anyNode)
	reported(t, "node-gone", addr, first)
	node := cluster.Nodes[first].Name
	object, err := cluster.API.CoreV1().Nodes().Get(t.Context(), node, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := cluster.API.CoreV1().Nodes().Delete(t.Context(), node, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	owner(t, addr, func(n int) bool { return n != first })
	reach(t, cluster.Client, url(addr, 8086))
	// The garbage collector takes the Speaker object with its Node.
	eventually(t, "the Speaker object of "+node+" goes", func() error {
		if o, err := cluster.Resource("speakers").Get(t.Context(), node, metav1.GetOptions{}); err == nil && o.GetOwnerReferences()[0].UID == object.UID {
			return fmt.Errorf("it is still there")
		}
		return nil
	})
	object.ResourceVersion, object.UID = "", ""
	if _, err := cluster.API.CoreV1().Nodes().Create(t.Context(), object, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := cluster.SetNodeReady(t.Context(), first, true); err != nil {
		t.Fatal(err)
	}
	owner(t, addr, func(n int) bool { return n == first })
}

func TestDeletedServiceFreesItsAddress(t *testing.T) {
	service(t, "short-lived", func(s *corev1.Service) { s.Annotations["fairlead.io/load-balancer-ips"] = "10.13.242.222" })
	addr := announced(t, "short-lived")
	remove(t, "short-lived")
	silent(t, addr)
	service(t, "successor", func(s *corev1.Service) { s.Annotations["fairlead.io/load-balancer-ips"] = "10.13.242.222" })
	if next := announced(t, "successor"); next != addr {
		t.Errorf("got %s, want %s", next, addr)
	}
}

func TestTypeChangeReleases(t *testing.T) {
	service(t, "demoted")
	addr := announced(t, "demoted")
	update(t, "demoted", func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeClusterIP })
	eventually(t, "nothing of ours is left on it", func() error {
		s := get(t, "demoted")
		if len(s.Finalizers)+len(s.Status.Conditions)+len(s.Status.LoadBalancer.Ingress)+len(s.Annotations) > 0 {
			return fmt.Errorf("finalizers %v, annotations %v, status %+v", s.Finalizers, s.Annotations, s.Status)
		}
		return nil
	})
	silent(t, addr)
	update(t, "demoted", func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeLoadBalancer })
	announced(t, "demoted")
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
	if want := []string{"fairlead.io/bare-metal"}; !slices.Equal(get(t, "our-class").Finalizers, want) {
		t.Errorf("finalizers are %v, want %v", get(t, "our-class").Finalizers, want)
	}
	for _, n := range names {
		if s := get(t, n); s.ResourceVersion != before[n] {
			t.Errorf("%s was touched: %+v", n, s)
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
	contains(t, condition(t, "late", "Provisioned", "AddressTaken"), "10.13.242.221 belongs to Service default/quick")
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

// foreign makes a Service that carries an address from another implementation.
func foreign(t *testing.T, name, addr string) {
	t.Helper()
	other := "example.com/other"
	service(t, name, func(s *corev1.Service) { s.Spec.LoadBalancerClass = &other })
	patch := fmt.Sprintf(`{"status":{"loadBalancer":{"ingress":[{"ip":%q}]}}}`, addr)
	if _, err := cluster.Kubectl(t.Context(), "", "patch", "svc", name, "--subresource=status", "--type=merge", "-p", patch); err != nil {
		t.Fatal(err)
	}
}

func TestAdoption(t *testing.T) {
	stopControllers(t)
	// Without a running controller, somebody else writes the status first.
	for name, addr := range map[string]string{"adopted": "10.13.242.219", "left-alone": "192.0.2.19"} {
		service(t, name)
		patch := fmt.Sprintf(`{"status":{"loadBalancer":{"ingress":[{"ip":%q}]}}}`, addr)
		if _, err := cluster.Kubectl(t.Context(), "", "patch", "svc", name, "--subresource=status", "--type=merge", "-p", patch); err != nil {
			t.Fatal(err)
		}
	}
	startControllers(t)
	if got := announced(t, "adopted"); got.String() != "10.13.242.219" {
		t.Errorf("the adopted Service has %s", got)
	}
	contains(t, condition(t, "left-alone", "Provisioned", "ForeignStatus"), "192.0.2.19", "no pool")
	s := get(t, "left-alone")
	if in, err := lab.Ingress(s); err != nil || in.String() != "192.0.2.19" || len(s.Finalizers) > 0 {
		t.Errorf("it was not left alone: %v %v, finalizers %v", in, err, s.Finalizers)
	}
}

// TestRestoredTraces: what a backup brought back, under another field manager,
// is removed or put to use, and then left in peace.
func TestRestoredTraces(t *testing.T) {
	apply(t, `apiVersion: v1
kind: Service
metadata: {name: restored, namespace: default, finalizers: [fairlead.io/bare-metal], annotations: {fairlead.io/allocated-from: 10.13.242.217=lan}}
spec: {type: ClusterIP, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: inherited, namespace: default, finalizers: [service.kubernetes.io/load-balancer-cleanup]}
spec: {type: LoadBalancer, ports: [{port: 80}]}
---
apiVersion: fairlead.io/v1alpha1
kind: IPAddressPool
metadata: {name: restored, finalizers: [fairlead.io/pool-in-use]}
spec: {addresses: [198.51.100.0/24], autoAssign: false}
`)
	t.Cleanup(func() { remove(t, "restored") })
	eventually(t, "the traces are gone", func() error {
		if s := get(t, "restored"); len(s.Finalizers)+len(s.Annotations) > 0 {
			return fmt.Errorf("finalizers %v, annotations %v", s.Finalizers, s.Annotations)
		}
		return nil
	})
	ready(t, "ipaddresspools", "restored", "Ready")
	deletePool(t, "restored")
	announced(t, "inherited")
	remove(t, "inherited") // although another manager owns its finalizer too
}

func TestAStrangersAddressIsNotGiven(t *testing.T) {
	foreign(t, "stranger", "10.13.242.218")
	service(t, "wants-it", func(s *corev1.Service) { s.Spec.LoadBalancerIP = "10.13.242.218" })
	contains(t, condition(t, "wants-it", "Provisioned", "AddressTaken"), "default/stranger")
}

func stopControllers(t *testing.T) {
	t.Helper()
	revive(t)
	for _, p := range cluster.Controllers {
		if err := p.Stop(); err != nil {
			t.Fatal(err)
		}
	}
}

// revive does a kubelet's part: a controller that has lost its lease, because a
// test cut it off from the API server, ends and is started again.
func revive(t *testing.T) {
	t.Helper()
	for i, p := range cluster.Controllers {
		if !p.Ended() {
			continue
		}
		if !p.Logged("lost the leader lease") {
			t.Fatalf("%s ended by itself:\n%s", p.Name, lab.Logs(20))
		}
		if err := cluster.StartController(context.Background(), i); err != nil {
			t.Fatal(err)
		}
	}
}

func startControllers(t *testing.T) {
	t.Helper()
	for i := range cluster.Controllers {
		if err := cluster.StartController(context.Background(), i); err != nil {
			t.Fatal(err)
		}
	}
}

// leader is the controller that holds the lease, by index.
func leader(t *testing.T, not string) (index int, identity string) {
	t.Helper()
	eventually(t, "a controller leads", func() error {
		lease, err := cluster.API.CoordinationV1().Leases("fairlead-system").Get(t.Context(), "fairlead-controller", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if lease.Spec.HolderIdentity == nil || *lease.Spec.HolderIdentity == "" || *lease.Spec.HolderIdentity == not {
			return fmt.Errorf("the lease is not held by another one than %q", not)
		}
		identity = *lease.Spec.HolderIdentity
		return nil
	})
	for i, p := range cluster.Controllers {
		if p.Logged(identity) {
			return i, identity
		}
	}
	t.Fatalf("no controller is known as %s", identity)
	return 0, ""
}

func TestLeaderHandsOver(t *testing.T) {
	revive(t)
	i, identity := leader(t, "")
	leases, err := cluster.API.CoordinationV1().Leases("fairlead-system").Watch(t.Context(), metav1.ListOptions{FieldSelector: "metadata.name=fairlead-controller"})
	if err != nil {
		t.Fatal(err)
	}
	defer leases.Stop()
	if err := cluster.Controllers[i].Stop(); err != nil {
		t.Fatalf("the leader did not stop cleanly: %v", err)
	}
	_, next := leader(t, identity)
	released := false
	for e := range leases.ResultChan() {
		holder := e.Object.(*coordinationv1.Lease).Spec.HolderIdentity
		if released = released || holder == nil || *holder == ""; holder != nil && *holder == next {
			break
		}
	}
	if !released {
		t.Errorf("%s leads because the lease has run out: %s did not release it", next, identity)
	}
	if err := cluster.StartController(context.Background(), i); err != nil {
		t.Fatal(err)
	}
	service(t, "after-handover")
	announced(t, "after-handover")
}

func TestControllerRestartMovesAndWritesNothing(t *testing.T) {
	var names []string
	for i := range 5 {
		names = append(names, fmt.Sprintf("steady-%d", i))
		service(t, names[i])
	}
	before := map[string]*corev1.Service{}
	for _, n := range names {
		announced(t, n)
	}
	for _, n := range names {
		before[n] = get(t, n)
	}
	stopControllers(t)
	startControllers(t)
	service(t, "newcomer")
	announced(t, "newcomer")
	for _, n := range names {
		if after := get(t, n); after.ResourceVersion != before[n].ResourceVersion {
			t.Errorf("%s was written to:\n%+v\n%+v", n, before[n].Status, after.Status)
		}
	}
}

func TestSpeakerRestartKeepsItsAddresses(t *testing.T) {
	service(t, "kept")
	addr := announced(t, "kept")
	node := owner(t, addr, anyNode)
	if err := cluster.Speakers[node].Stop(); err != nil {
		t.Errorf("the speaker did not stop cleanly: %v", err)
	}
	silent(t, addr)
	if err := cluster.StartSpeaker(context.Background(), node); err != nil {
		t.Fatal(err)
	}
	owner(t, addr, func(n int) bool { return n == node })
}

// TestAPIServerGone: what is announced stays announced, and everything goes on
// when the API server is back.
func TestAPIServerGone(t *testing.T) {
	service(t, "outage")
	addr := announced(t, "outage")
	node := owner(t, addr, anyNode)
	reach(t, cluster.Client, url(addr, 8086))
	cluster.APIServer.Kill()
	for range 10 {
		owner(t, addr, func(n int) bool { return n == node })
		reach(t, cluster.Client, url(addr, 8086))
	}
	if err := cluster.StartAPIServer(t.Context()); err != nil {
		t.Fatal(err)
	}
	service(t, "after-outage")
	eventually(t, "after-outage is announced", func() error {
		revive(t)
		_, err := cluster.Announced(t.Context(), "default", "after-outage")
		return err
	})
	owner(t, addr, func(n int) bool { return n == node })
}

func TestControllerKilledInABurst(t *testing.T) {
	const burst = 200
	name := func(i int) string { return fmt.Sprintf("burst-%03d", i) }
	t.Cleanup(func() {
		for i := range burst {
			_ = cluster.API.CoreV1().Services("default").Delete(context.Background(), name(i), metav1.DeleteOptions{})
		}
		eventuallyGone(t, burst)
	})
	var creators sync.WaitGroup
	for w := range 4 {
		creators.Go(func() {
			for i := w; i < burst; i += 4 {
				_, err := cluster.API.CoreV1().Services("default").Create(context.Background(), &corev1.Service{
					ObjectMeta: metav1.ObjectMeta{
						Name: name(i), Labels: map[string]string{"burst": ""},
						Annotations: map[string]string{"fairlead.io/address-pool": "many"},
					},
					Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, Ports: []corev1.ServicePort{{Port: 80}}},
				}, metav1.CreateOptions{})
				if err != nil {
					t.Errorf("create %s: %v", name(i), err)
				}
			}
		})
	}
	assigned := func() (addrs map[netip.Addr][]string, total int) {
		addrs = map[netip.Addr][]string{}
		list, err := cluster.API.CoreV1().Services("default").List(t.Context(), metav1.ListOptions{LabelSelector: "burst"})
		if err != nil {
			t.Error(err)
			return addrs, 0
		}
		for _, s := range list.Items {
			if a, err := lab.Ingress(&s); err == nil {
				addrs[a] = append(addrs[a], s.Name)
				total++
			}
		}
		return addrs, total
	}
	eventually(t, "some have an address", func() error {
		if _, n := assigned(); n < 20 {
			return fmt.Errorf("%d have one", n)
		}
		return nil
	})
	for _, p := range cluster.Controllers {
		p.Signal(syscall.SIGKILL)
	}
	_, atDeath := assigned()
	for i := range cluster.Controllers {
		cluster.Controllers[i].Kill()
	}
	creators.Wait()
	startControllers(t)
	eventually(t, "all are served", func() error {
		addrs, n := assigned()
		for a, names := range addrs {
			if len(names) > 1 {
				return lab.Permanent(fmt.Errorf("%s belongs to %v", a, names))
			}
		}
		if n < burst {
			return fmt.Errorf("%d of %d have an address", n, burst)
		}
		return nil
	})
	t.Logf("%d of %d had an address when the controllers were killed", atDeath, burst)
}

func eventuallyGone(t *testing.T, burst int) {
	err := lab.Wait(context.Background(), "the burst is gone", func() error {
		list, err := cluster.API.CoreV1().Services("default").List(context.Background(), metav1.ListOptions{LabelSelector: "burst"})
		if err == nil && len(list.Items) > 0 {
			err = fmt.Errorf("%d of %d are left", len(list.Items), burst)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}
