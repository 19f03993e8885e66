package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	lab "github.com/fairlead-io/fairlead/deploy/lab"
)

// TestRollingUpdate checks that no request is lost under externalTrafficPolicy Local
// while the pods are replaced one by one. A node with a terminating pod is withdrawn
// while the pod still serves, and is advertised again once its kube-proxy forwards to
// the new pod.
func TestRollingUpdate(t *testing.T) {
	routers := routers(t)
	svc, addr := routed(t, "bgp-rolling", local)
	everywhere := func() {
		t.Helper()
		routedViaAll(t, addr, 0, 1, 2)
	}
	everywhere()
	stop := stream(t, url(addr, svc.Spec.Ports[0].Port))
	others := [][]int{{1, 2}, {0, 2}, {0, 1}}
	for i := range cluster.Nodes {
		if err := cluster.TerminatePod(t.Context(), i, lab.ServesOn); err != nil {
			t.Fatal(err)
		}
		routedViaAll(t, addr, others[i]...)
		if err := cluster.ReplacePod(t.Context(), i); err != nil {
			t.Fatal(err)
		}
		everywhere()
	}
	checkLosses(t, stop(), 2*len(cluster.Nodes)*len(routers))
}

// waitLogged returns a function that waits until the program has logged texts that
// match all patterns in this order.
func waitLogged(program string) (wait func(t *testing.T, patterns ...string)) {
	seen := len(lab.Log(program))
	return func(t *testing.T, patterns ...string) {
		t.Helper()
		expression := regexp.MustCompile("(?s)" + strings.Join(patterns, ".*"))
		eventually(t, fmt.Sprintf("%s logs %q", program, patterns), func() error {
			if news := lab.Log(program)[seen:]; !expression.MatchString(news) {
				return fmt.Errorf("it has logged\n%s", news)
			}
			return nil
		})
	}
}

// Logs of the routers that most tests use.
const birdLog, frrLog = "bird-bird", "bgpd-frr"

// TestBGPNodeDies checks that BFD, not the hold timer, removes the routes of a
// disconnected node, that its speaker detects the failure as well, and that all
// sessions recover.
func TestBGPNodeDies(t *testing.T) {
	routers(t)
	_, addr := routed(t, "bgp-node-dies")
	routedViaAll(t, addr, 0, 1, 2)
	frrLogs, node := waitLogged(frrLog), cluster.Nodes[1].Addr
	plugIn := unplug(t, cluster.Nodes[1])
	routedViaAll(t, addr, 0, 2)
	frrLogs(t, fmt.Sprintf(`neighbor %s [^\n]*BFD Down`, node))
	shown, err := fabric.bird.Show(t.Context(), "show", "protocols", "all", "neighbor1")
	if err != nil {
		t.Fatal(err)
	}
	contains(t, shown, "Neighbor address: "+node.String(), "BFD session down")
	plugIn()
	if err := cluster.RestoreRoutes(1); err != nil {
		t.Fatal(err)
	}
	routedViaAll(t, addr, 0, 1, 2)
}

// TestBGPRouterDies checks that the status reports the BFD failure of a disconnected
// router, and that the other router is not affected.
func TestBGPRouterDies(t *testing.T) {
	routers(t)
	_, addr := routed(t, "bgp-router-dies")
	routedViaAll(t, addr, 0, 1, 2)
	plugIn := unplug(t, fabric.bird.Host)
	eventually(t, "the speakers detect the path failure", func() error {
		out, err := cluster.Kubectl(t.Context(), "", "get", "speakers", "-o", `jsonpath={.items[*].status.sessions[?(@.peer=="bird")].bfd}`)
		if err == nil && out != "Down Down Down" {
			err = fmt.Errorf("BFD is %s", out)
		}
		return err
	})
	sessions(t, "bird", "Established 0/3")
	sessions(t, "frr", "Established 3/3")
	condition(t, "bgp-router-dies", "Announced", "Announced")
	plugIn()
	routedViaAll(t, addr, 0, 1, 2)
}

// checkNoRouteChange fails if a route to the address changes in the kernel of the
// router before the route to the marker via all nodes is installed.
func checkNoRouteChange(t *testing.T, r *lab.Router, addr netip.Addr) (until func(marker netip.Addr)) {
	t.Helper()
	changes, err := r.WatchRoutes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return func(marker netip.Addr) {
		t.Helper()
		routedVia(t, r, marker, 0, 1, 2)
		for c := range changes {
			switch {
			case c.Prefix.Addr() == addr:
				t.Errorf("%s changed its route to %s: next hops %v", r.Name, addr, c.Hops)
			case c.Prefix.Addr() == marker && len(c.Hops) == len(cluster.Nodes):
				return
			}
		}
	}
}

// stream sends requests until stop, which reports them.
func stream(t *testing.T, target string) (stop func() lab.StreamReport) {
	t.Helper()
	reachAgain(t, cluster.Network.Remote, target)
	return lab.RequestStream{URL: target, Every: 5 * time.Millisecond, Timeout: lostAfter, Serial: true}.Start(t.Context(),
		cluster.Network.Remote)
}

// lostAfter is the timeout of requests that must not be lost. It allows SYN
// retransmissions.
const lostAfter = 3 * time.Second

// checkLosses fails if requests were lost, except one connection for each change of the
// next hops in a router, which rehashes flows in flight to another node. That node resets the
// connection, or drops a reset of the pod that does not match its connection tracking, and the
// request times out. A request does not time out because its SYN was dropped: TCP retransmits it.
func checkLosses(t *testing.T, report lab.StreamReport, changes int) {
	t.Helper()
	if report.Lost > report.Broken+report.TimedOut || report.Lost > changes {
		t.Errorf("%s: %v", report, report.Errors)
	}
}

// TestSpeakerUpgradeKeepsRoutes checks that with graceful restart the restart of a
// speaker changes no route in any router, and that no request is lost.
func TestSpeakerUpgradeKeepsRoutes(t *testing.T) {
	routers := routers(t)
	svc, addr := routed(t, "bgp-upgrade")
	routedViaAll(t, addr, 0, 1, 2)
	stop := stream(t, url(addr, svc.Spec.Ports[0].Port))
	quietUntil := []func(netip.Addr){checkNoRouteChange(t, routers[0], addr), checkNoRouteChange(t, routers[1], addr)}
	birdLogs, frrLogs := waitLogged(birdLog), waitLogged(frrLog)
	if err := cluster.Speakers[0].Stop(); err != nil {
		t.Errorf("the speaker ended with %v", err)
	}
	time.Sleep(time.Second) // the time a pod takes
	if err := cluster.StartSpeaker(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	for _, r := range routers {
		if err := r.WaitSession(t.Context(), cluster.Nodes[0].Addr.String(), "Established"); err != nil {
			t.Fatal(err)
		}
	}
	// End-of-RIB removes routes that were not advertised again.
	birdLogs(t, `neighbor0: Got END-OF-RIB`, `neighbor0: Got END-OF-RIB`) // of both families
	frrLogs(t, fmt.Sprintf(`rcvd End-of-RIB for IPv4 Unicast from %s `, cluster.Nodes[0].Addr))
	_, marker := routed(t, "bgp-upgrade-marker")
	for _, until := range quietUntil {
		until(marker)
	}
	checkLosses(t, stop(), 0)
}

// TestSpeakerKilled checks that BIRD detects the BFD failure of a killed speaker and
// installs its routes again after the restart. FRR keeps the routes.
func TestSpeakerKilled(t *testing.T) {
	routers(t)
	_, addr := routed(t, "bgp-killed")
	routedViaAll(t, addr, 0, 1, 2)
	cluster.Speakers[2].Kill()
	routedVia(t, fabric.bird, addr, 0, 1)
	routedVia(t, fabric.frr, addr, 0, 1, 2)
	if err := cluster.StartSpeaker(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	routedViaAll(t, addr, 0, 1, 2)
}

// TestDrain checks that an excluded node marks its routes for graceful shutdown
// (RFC 8326) before it withdraws them, and that no request is lost.
func TestDrain(t *testing.T) {
	routers := routers(t)
	svc, addr := routed(t, "bgp-drain")
	routedViaAll(t, addr, 0, 1, 2)
	stop := stream(t, url(addr, svc.Spec.Ports[0].Port))
	node, frrLogs := cluster.Nodes[2], waitLogged(frrLog)
	label(t, node.Name, `"true"`)
	t.Cleanup(func() { label(t, node.Name, "null") })
	routedViaAll(t, addr, 0, 1)
	frrLogs(t, fmt.Sprintf(`%s\S* rcvd UPDATE w/ attr: [^\n]*graceful-shutdown`, node.Addr),
		fmt.Sprintf(`%s\S* rcvd UPDATE about %s/32 [^\n]*-- withdrawn`, node.Addr, addr))
	checkLosses(t, stop(), len(routers))
	label(t, node.Name, "null")
	routedViaAll(t, addr, 0, 1, 2)
}

// label sets the label that excludes a node from load balancers; null removes it.
func label(t *testing.T, node, value string) {
	t.Helper()
	patch := fmt.Sprintf(`{"metadata":{"labels":{%q:%s}}}`, corev1.LabelNodeExcludeBalancers, value)
	if _, err := cluster.API.CoreV1().Nodes().Patch(context.Background(), node, types.MergePatchType, []byte(patch),
		metav1.PatchOptions{}); err != nil {
		t.Error(err)
	}
}

// TestSpeakerLeaves checks that a speaker withdraws its routes when it ends for good,
// on a drained node and when Fairlead is uninstalled, and that no request is lost.
func TestSpeakerLeaves(t *testing.T) {
	routers(t)
	svc, addr := routed(t, "bgp-leave")
	for name, row := range map[string]struct{ begin, end func(t *testing.T) }{
		"cordoned": {
			func(t *testing.T) { cordon(t, cluster.Nodes[1].Name, true) },
			func(t *testing.T) { cordon(t, cluster.Nodes[1].Name, false) },
		},
		"removed": {
			func(t *testing.T) {
				if _, err := cluster.Kubectl(t.Context(), "", "-n", "fairlead-system", "delete", "daemonset",
					"fairlead-speaker"); err != nil {
					t.Fatal(err)
				}
			},
			func(t *testing.T) {
				root, err := lab.Root()
				if err != nil {
					t.Fatal(err)
				}
				if _, err := cluster.Kubectl(context.Background(), "", "apply", "--server-side", "-k",
					filepath.Join(root, "deploy")); err != nil {
					t.Fatal(err)
				}
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			routedViaAll(t, addr, 0, 1, 2)
			reach(t, cluster.Network.Remote, url(addr, svc.Spec.Ports[0].Port))
			row.begin(t)
			t.Cleanup(func() {
				row.end(t)
				if cluster.Speakers[1].HasEnded() {
					if err := cluster.StartSpeaker(context.Background(), 1); err != nil {
						t.Error(err)
					}
				}
			})
			stop := stream(t, url(addr, svc.Spec.Ports[0].Port))
			if err := cluster.Speakers[1].Stop(); err != nil {
				t.Errorf("the speaker ended with %v", err)
			}
			routedViaAll(t, addr, 0, 2)
			checkLosses(t, stop(), 0)
		})
	}
}

func cordon(t *testing.T, node string, yes bool) {
	t.Helper()
	patch := fmt.Sprintf(`{"spec":{"unschedulable":%v}}`, yes)
	if _, err := cluster.API.CoreV1().Nodes().Patch(context.Background(), node, types.MergePatchType, []byte(patch),
		metav1.PatchOptions{}); err != nil {
		t.Error(err)
	}
}
