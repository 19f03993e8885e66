package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	lab "github.com/fairlead-io/fairlead/deploy/lab"
)

// TestRollingUpdateOnLAN checks that no request is lost under externalTrafficPolicy Local
// while the pods are replaced one by one: the owner serves its terminating pod until
// another node answers for the address, and that one announces it once its kube-proxy
// forwards to its own pod.
func TestRollingUpdateOnLAN(t *testing.T) {
	service(t, "rolling", local, udp)
	addr := announced(t, "rolling")
	stop := streamUDP(t, addr)
	const moves = 3
	for range moves {
		first := owner(t, addr, anyNode)
		if err := cluster.TerminatePod(t.Context(), first, lab.ServesOn); err != nil {
			t.Fatal(err)
		}
		owner(t, addr, func(node int) bool { return node != first })
		if err := cluster.ReplacePod(t.Context(), first); err != nil {
			t.Fatal(err)
		}
		owner(t, addr, anyNode)
	}
	checkNoneLost(t, stop())
}

// TestLastPodOnLAN checks that no request is lost when the only pod is moved to another
// node whose kube-proxy is late: that node announces the address when its kube-proxy forwards
// to the new pod, and the former owner serves its terminating pod until then.
func TestLastPodOnLAN(t *testing.T) {
	svc := service(t, "moved", local, udp)
	addr := announced(t, "moved")
	first := owner(t, addr, anyNode)
	next := (first + 1) % len(cluster.Nodes)
	create := map[int]func(){}
	for i := range cluster.Nodes {
		if i != first {
			create[i] = withoutPod(t, i)
		}
	}
	health := fmt.Sprintf("http://%s:%d/healthz", cluster.Nodes[next].Addr, get(t, svc.Name).Spec.HealthCheckNodePort)
	eventually(t, "kube-proxy has no endpoint on "+cluster.Nodes[next].Name, func() error {
		if _, err := cluster.Nodes[next].Get(t.Context(), health); err == nil || !strings.Contains(err.Error(), "503") {
			return fmt.Errorf("%s: %v", health, err)
		}
		return nil
	})
	stop := streamUDP(t, addr)
	proxy := cluster.Proxies[next]
	proxy.Signal(syscall.SIGSTOP)
	t.Cleanup(func() { proxy.Signal(syscall.SIGCONT) })
	create[next]()
	if err := cluster.TerminatePod(t.Context(), first, 3*lab.ServesOn); err != nil { // longer than kube-proxy is late
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cluster.ReplacePod(context.Background(), first); err != nil {
			t.Error(err)
		}
	})
	checkStays(t, addr, first, 30)
	proxy.Signal(syscall.SIGCONT)
	owner(t, addr, func(node int) bool { return node == next })
	checkNoneLost(t, stop())
}

// TestLastPodByBGP checks that routers have a route at all times, and that only connections that
// they move are lost, in two cases: the only pod is moved to another node; and an autoscaler has
// tainted the node of the only pod long before a second one starts. The former node keeps its
// route until kube-proxy on the other node forwards to the new pod.
func TestLastPodByBGP(t *testing.T) {
	const first, next = 0, 1
	for _, row := range []struct {
		name string
		move func(t *testing.T, create func()) // create the pod on the next node
	}{
		{"moved", func(t *testing.T, create func()) {
			create()
			if err := cluster.TerminatePod(t.Context(), first, 2*lab.ServesOn); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := cluster.ReplacePod(context.Background(), first); err != nil {
					t.Error(err)
				}
			})
		}},
		{"tainted", func(t *testing.T, create func()) {
			taint(t, first, "ToBeDeletedByClusterAutoscaler")
			time.Sleep(drainDelay + time.Second)
			create()
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			all := routers(t)
			svc, addr := routed(t, "bgp-last-"+row.name, local)
			routedViaAll(t, addr, 0, 1, 2)
			var create func()
			for i := range cluster.Nodes {
				switch i {
				case first:
				case next:
					create = withoutPod(t, i)
				default:
					withoutPod(t, i)
				}
			}
			routedViaAll(t, addr, first)
			stop := stream(t, url(addr, svc.Spec.Ports[0].Port))
			var changes []func() []lab.RouteChange
			for _, r := range all {
				changes = append(changes, routeChanges(t, r, addr))
			}
			row.move(t, create)
			routedViaAll(t, addr, next)
			checkLosses(t, stop(), 2*len(all))
			for i, r := range all {
				seen := changes[i]()
				t.Logf("%s: %v", r.Name, seen)
				for _, c := range seen {
					if len(c.Hops) == 0 {
						t.Errorf("%s had no route at %s", r.Name, c.At)
					}
				}
			}
		})
	}
}

// drainDelay is the default of --drain-delay of the speakers.
const drainDelay = 5 * time.Second

// TestNodeBeingRemoved checks that a node that an autoscaler is about to remove announces an
// address until another node does, and that no request is lost, also when the node is turned
// off.
func TestNodeBeingRemoved(t *testing.T) {
	service(t, "scaled-down", local, udp)
	addr := announced(t, "scaled-down")
	first := owner(t, addr, anyNode)
	create := map[int]func(){}
	for i := range cluster.Nodes {
		if i != first {
			create[i] = withoutPod(t, i)
		}
	}
	owner(t, addr, func(node int) bool { return node == first })
	stop := streamUDP(t, addr)
	taint(t, first, "ToBeDeletedByClusterAutoscaler")
	checkStays(t, addr, first, 20)
	next := (first + 1) % len(cluster.Nodes)
	create[next]()
	owner(t, addr, func(node int) bool { return node == next })
	setLink(t, first, false)
	cluster.Speakers[first].Kill()
	t.Cleanup(func() {
		setLink(t, first, true)
		if err := cluster.RestoreRoutes(first); err != nil {
			t.Error(err)
		}
		startSpeaker(t, first)
	})
	time.Sleep(time.Second)
	checkNoneLost(t, stop())
}

// TestRoutesOfNodeBeingRemoved checks that a node that an autoscaler is about to remove
// withdraws the routes that others advertise, and advertises them again when the taint is
// removed.
func TestRoutesOfNodeBeingRemoved(t *testing.T) {
	routers := routers(t)
	svc, addr := routed(t, "bgp-scaled-down")
	routedViaAll(t, addr, 0, 1, 2)
	stop := stream(t, url(addr, svc.Spec.Ports[0].Port))
	untaint := taint(t, 2, "karpenter.sh/disrupted")
	routedViaAll(t, addr, 0, 1)
	checkLosses(t, stop(), len(routers))
	untaint()
	routedViaAll(t, addr, 0, 1, 2)
}

// checkStays asks for an address several times, for 0.1 s each, and checks that only the node
// answers.
func checkStays(t *testing.T, addr netip.Addr, node, times int) {
	t.Helper()
	for range times {
		macs, err := cluster.Client.Resolve(addr, 100*time.Millisecond)
		if err != nil || len(macs) != 1 || macs[0] != cluster.Nodes[node].MAC() {
			t.Errorf("%v answer, want %s only (%v)", macs, cluster.Nodes[node].MAC(), err)
		}
	}
}

// taint adds a taint to a node, until the test ends or remove is called.
func taint(t *testing.T, node int, key string) (remove func()) {
	t.Helper()
	set := func(taints ...string) {
		args := append([]string{"taint", "node", cluster.Nodes[node].Name}, taints...)
		if _, err := cluster.Kubectl(context.Background(), "", args...); err != nil {
			t.Error(err)
		}
	}
	set(key + ":NoSchedule")
	remove = sync.OnceFunc(func() { set(key + "-") })
	t.Cleanup(remove)
	return remove
}

// TestTrafficPolicySwitch checks that no request is lost when the externalTrafficPolicy of a
// Service is changed while it is used, from a node without a pod and to it.
func TestTrafficPolicySwitch(t *testing.T) {
	for _, row := range []struct {
		name   string
		create func(t *testing.T) (*corev1.Service, netip.Addr)
		stream func(t *testing.T, addr netip.Addr) (stop func() lab.StreamReport)
		broken int // connections that may break when the routers rehash the flows
		// without returns the node that gets no pod, and await waits until the nodes that
		// announce the address are those of the policy.
		without func(addr netip.Addr) int
		await   func(addr netip.Addr, policy corev1.ServiceExternalTrafficPolicy)
	}{
		{
			"LAN", func(t *testing.T) (*corev1.Service, netip.Addr) {
				svc := service(t, "switched", udp)
				return svc, announced(t, svc.Name)
			}, streamUDP, 0,
			func(addr netip.Addr) int { return owner(t, addr, anyNode) },
			func(addr netip.Addr, policy corev1.ServiceExternalTrafficPolicy) {
				if policy == corev1.ServiceExternalTrafficPolicyLocal {
					owner(t, addr, func(node int) bool { return podIsReady(t, node) })
				}
				owner(t, addr, anyNode)
			},
		},
		{
			"BGP", func(t *testing.T) (*corev1.Service, netip.Addr) { routers(t); return routed(t, "bgp-switched") },
			func(t *testing.T, addr netip.Addr) (stop func() lab.StreamReport) {
				target := url(addr, 8086)
				reachAgain(t, cluster.Network.Remote, target)
				// A new connection for each request, less than the time to a retransmission.
				return lab.RequestStream{URL: target, Every: 5 * time.Millisecond}.Start(t.Context(), cluster.Network.Remote)
			}, 2 * 6,
			func(netip.Addr) int { return 0 },
			func(addr netip.Addr, policy corev1.ServiceExternalTrafficPolicy) {
				if policy == corev1.ServiceExternalTrafficPolicyLocal {
					routedViaAll(t, addr, 1, 2)
				} else {
					routedViaAll(t, addr, 0, 1, 2)
				}
			},
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			svc, addr := row.create(t)
			row.await(addr, corev1.ServiceExternalTrafficPolicyCluster)
			withoutPod(t, row.without(addr))
			stop := row.stream(t, addr)
			for range 3 {
				for _, policy := range []corev1.ServiceExternalTrafficPolicy{corev1.ServiceExternalTrafficPolicyLocal, corev1.ServiceExternalTrafficPolicyCluster} {
					patch := fmt.Sprintf(`{"spec":{"externalTrafficPolicy":%q}}`, policy)
					if _, err := cluster.API.CoreV1().Services("default").Patch(t.Context(), svc.Name, types.MergePatchType, []byte(patch),
						metav1.PatchOptions{}); err != nil {
						t.Fatal(err)
					}
					row.await(addr, policy)
					time.Sleep(2 * time.Second) // kube-proxy programs its rules once a second
				}
			}
			checkLosses(t, stop(), row.broken)
		})
	}
}

// withoutPod deletes the pod on a node, until the test ends or create is called.
func withoutPod(t *testing.T, node int) (create func()) {
	t.Helper()
	if err := cluster.DeletePod(t.Context(), node); err != nil {
		t.Fatal(err)
	}
	create = sync.OnceFunc(func() {
		if err := cluster.CreatePod(context.Background(), node); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(create)
	return create
}

func podIsReady(t *testing.T, node int) bool {
	t.Helper()
	pod, err := cluster.API.CoreV1().Pods("default").Get(t.Context(), cluster.Pods[node].Name, metav1.GetOptions{})
	return err == nil && len(pod.Status.Conditions) > 0 && pod.Status.Conditions[0].Status == corev1.ConditionTrue
}

func udp(s *corev1.Service) {
	s.Spec.Ports = []corev1.ServicePort{{Port: 8086, Protocol: corev1.ProtocolUDP}}
}

// streamUDP sends requests from the LAN until stop, which reports them. Unlike TCP, UDP
// does not retransmit what is lost.
func streamUDP(t *testing.T, addr netip.Addr) (stop func() lab.StreamReport) {
	t.Helper()
	s := lab.RequestStream{URL: "udp://" + netip.AddrPortFrom(addr, 8086).String(), Every: 5 * time.Millisecond, Timeout: time.Second}
	eventually(t, "the client on the LAN reaches "+s.URL+" repeatedly", func() error {
		stop := s.Start(t.Context(), cluster.Client)
		time.Sleep(200 * time.Millisecond)
		if report := stop(); report.Lost > 0 {
			return fmt.Errorf("%s: %v", report, report.Errors)
		}
		return nil
	})
	return s.Start(t.Context(), cluster.Client)
}

func checkNoneLost(t *testing.T, report lab.StreamReport) {
	t.Helper()
	if t.Logf("%s", report); report.Lost > 0 {
		t.Errorf("%s: %v", report, report.Errors)
	}
}

// TestPodEnds checks the lab: a pod that has ended does not respond any more, and the next one
// has another address.
func TestPodEnds(t *testing.T) {
	pod, client := cluster.Pods[0], cluster.Nodes[1]
	target := func() string { return url(pod.Addr, 8086) }
	former := target()
	reach(t, client, former)
	if err := cluster.TerminatePod(t.Context(), 0, 0); err != nil {
		t.Fatal(err)
	}
	if err := cluster.ReplacePod(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	reach(t, client, target())
	if answer, err := client.Get(t.Context(), former); err == nil || target() == former {
		t.Errorf("%s responds with %q after its end, %s follows", former, answer, target())
	}
}
