package e2e

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// TestNoProxyHealthCheck checks that addresses are announced where nothing listens on the
// port of kube-proxy's health check, as with replacements of kube-proxy, on interfaces and
// by BGP, and that the speakers report it.
func TestNoProxyHealthCheck(t *testing.T) {
	routers(t)
	restart := func(ctx context.Context, flags ...string) {
		for i := range cluster.Nodes {
			cluster.Proxies[i].Kill()
			if err := cluster.StartProxy(i, flags...); err != nil {
				t.Error(err)
			}
			cluster.Speakers[i].Kill()
			if err := cluster.StartSpeaker(ctx, i); err != nil {
				t.Error(err)
			}
		}
	}
	t.Cleanup(func() { restart(context.Background()) })
	restart(t.Context(), "--healthz-bind-address=127.0.0.1:10299")

	service(t, "no-health-check", udp)
	addr := announced(t, "no-health-check")
	owner(t, addr, anyNode)
	streamUDP(t, addr)() // waits until each request is answered
	svc, routedAddr := routed(t, "bgp-no-health-check", local)
	routedViaAll(t, routedAddr, 0, 1, 2)
	reachAgain(t, cluster.Network.Remote, url(routedAddr, svc.Spec.Ports[0].Port))
	for _, node := range cluster.Nodes {
		waitDataPath(t, node.Name, "announces addresses without an answer from kube-proxy (port 10256)")
	}
	if found := doctor(t); !strings.Contains(found, "without an answer from kube-proxy (port 10256)") {
		t.Errorf("doctor does not show it:\n%s", found)
	}
}

// TestHealthCheckOfOtherProgram checks that addresses under externalTrafficPolicy Local are
// announced where another program listens on the healthCheckNodePort, whatever it responds:
// at once if that is OK, and otherwise after a timeout, which the speakers report.
func TestHealthCheckOfOtherProgram(t *testing.T) {
	for i, row := range []struct {
		name     string
		status   int
		reported bool
	}{{"ok", http.StatusOK, false}, {"unavailable", http.StatusServiceUnavailable, true}} {
		t.Run(row.name, func(t *testing.T) {
			port := int32(32100 + i)
			for _, node := range cluster.Nodes {
				err := node.Serve(fmt.Sprintf(":%d", port), http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(row.status) }))
				if err != nil {
					t.Fatal(err)
				}
			}
			name := "health-check-" + row.name
			service(t, name, local, udp, func(s *corev1.Service) { s.Spec.HealthCheckNodePort = port })
			addr := announced(t, name)
			node := owner(t, addr, anyNode)
			streamUDP(t, addr)() // waits until each request is answered
			if row.reported {
				waitDataPath(t, cluster.Nodes[node].Name,
					fmt.Sprintf("announces %s without an answer from the health check of kube-proxy for it (port %d)", addr, port))
			}
		})
	}
}

// TestBrokenProxyOnLAN checks that a node with a broken kube-proxy, while those of other nodes
// work, does not become the owner of a new address, and that it becomes the owner, and no
// request is lost, when kube-proxy works again.
func TestBrokenProxyOnLAN(t *testing.T) {
	var addr netip.Addr
	var broken int
	t.Run("owner", func(t *testing.T) {
		service(t, "broken-proxy", udp)
		addr = announced(t, "broken-proxy")
		broken = owner(t, addr, anyNode)
	})
	notAnnounced(t, addr)
	cluster.Proxies[broken].Kill()
	startProxy := sync.OnceFunc(func() {
		if err := cluster.StartProxy(broken); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(startProxy)
	cluster.Speakers[broken].Kill()
	startSpeaker(t, broken)
	waitProxyNotReady(t, broken, true)

	service(t, "broken-proxy", udp, annotated("fairlead.io/load-balancer-ips="+addr.String()))
	if again := announced(t, "broken-proxy"); again != addr {
		t.Fatalf("the address is %s, not %s", again, addr)
	}
	owner(t, addr, func(node int) bool { return node != broken })
	stop := streamUDP(t, addr)
	checkStays(t, addr, owner(t, addr, anyNode), 60) // for longer than the timeout where nothing answers
	startProxy()
	waitProxyNotReady(t, broken, false)
	owner(t, addr, func(node int) bool { return node == broken })
	checkNoneLost(t, stop())
}

// waitProxyNotReady waits until the L2Node of a node reports whether its kube-proxy is not ready.
func waitProxyNotReady(t *testing.T, node int, want bool) {
	t.Helper()
	eventually(t, fmt.Sprintf("the L2Node %s has proxyNotReady %t", cluster.Nodes[node].Name, want), func() error {
		n, err := cluster.Resource("l2nodes").Get(t.Context(), cluster.Nodes[node].Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if got, _, _ := unstructured.NestedBool(n.Object, "status", "proxyNotReady"); got != want {
			return fmt.Errorf("it is %t", got)
		}
		return nil
	})
}

// waitDataPath waits until the Speaker of a node reports why its data path is not verified.
func waitDataPath(t *testing.T, node, want string) {
	t.Helper()
	eventually(t, fmt.Sprintf("the Speaker %s reports %q", node, want), func() error {
		s, err := cluster.Resource("speakers").Get(t.Context(), node, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if got, _, _ := unstructured.NestedString(s.Object, "status", "dataPath"); !strings.HasPrefix(got, want) {
			return fmt.Errorf("it reports %q", got)
		}
		return nil
	})
}
