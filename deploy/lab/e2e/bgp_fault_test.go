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

// TestRollingUpdate: under externalTrafficPolicy Local every pod is replaced, one
// after the other, and the client notices nothing. A node whose pod terminates is
// no next hop any more while that still serves, and is one again only when its
// own kube-proxy knows the new pod.
func TestRollingUpdate(t *testing.T) {
	routers := routers(t)
	svc, addr := routed(t, "bgp-rolling", local)
	everywhere := func() {
		t.Helper()
		byAll(t, addr, 0, 1, 2)
	}
	everywhere()
	stop := stream(t, url(addr, svc.Spec.Ports[0].Port))
	others := [][]int{{1, 2}, {0, 2}, {0, 1}}
	for i := range cluster.Nodes {
		if err := cluster.TerminatePod(t.Context(), i); err != nil {
			t.Fatal(err)
		}
		byAll(t, addr, others[i]...)
		if err := cluster.ReplacePod(t.Context(), i); err != nil {
			t.Fatal(err)
		}
		everywhere()
	}
	unharmed(t, stop(), 2*len(cluster.Nodes)*len(routers))
}

// logged returns a function that waits until the program has logged a text that
// matches all patterns in this order.
func logged(program string) (wait func(t *testing.T, patterns ...string)) {
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

// TestBGPNodeDies: a node that falls silent is no next hop any more, by BFD and
// not by the hold time; its own speaker sees the routers go, and all come back.
func TestBGPNodeDies(t *testing.T) {
	routers(t)
	_, addr := routed(t, "bgp-node-dies")
	byAll(t, addr, 0, 1, 2)
	frrLogs, node := logged(frrLog), cluster.Nodes[1].Addr
	plugIn := unplug(t, cluster.Nodes[1])
	byAll(t, addr, 0, 2)
	frrLogs(t, fmt.Sprintf(`neighbor %s [^\n]*BFD Down`, node))
	shown, err := fabric.bird.Show(t.Context(), "show", "protocols", "all", "neighbour1")
	if err != nil {
		t.Fatal(err)
	}
	contains(t, shown, "Neighbor address: "+node.String(), "BFD session down")
	plugIn()
	if err := cluster.RestoreRoutes(1); err != nil {
		t.Fatal(err)
	}
	byAll(t, addr, 0, 1, 2)
}

// TestBGPRouterDies: a router that falls silent is seen by BFD in the status,
// and the other one goes on.
func TestBGPRouterDies(t *testing.T) {
	routers(t)
	_, addr := routed(t, "bgp-router-dies")
	byAll(t, addr, 0, 1, 2)
	plugIn := unplug(t, fabric.bird.Host)
	eventually(t, "the speakers see the path die", func() error {
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
	byAll(t, addr, 0, 1, 2)
}

// quiet fails if the router's kernel changes a route to the address before it
// has one to the marker by all nodes.
func quiet(t *testing.T, r *lab.Router, addr netip.Addr) (until func(marker netip.Addr)) {
	t.Helper()
	changes, err := r.WatchRoutes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return func(marker netip.Addr) {
		t.Helper()
		by(t, r, marker, 0, 1, 2)
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
	return lab.RequestStream{URL: target, Every: 5 * time.Millisecond, Timeout: lostAfter, Serial: true}.Start(t.Context(), cluster.Network.Remote)
}

// lostAfter is when a request is lost that must not be: a SYN has been sent twice.
const lostAfter = 3 * time.Second

// unharmed fails if requests were lost, except one connection at each change of
// next hops in a router: it hashes flows again, and the one that is under way may
// reach another node.
func unharmed(t *testing.T, report lab.StreamReport, changes int) {
	t.Helper()
	if report.Lost > report.Broken || report.Broken > changes {
		t.Errorf("%s: %v", report, report.Errors)
	}
}

// TestSpeakerUpgradeKeepsRoutes: with graceful restart, a speaker that ends and
// begins again changes no route in any router and costs the client nothing.
func TestSpeakerUpgradeKeepsRoutes(t *testing.T) {
	routers := routers(t)
	svc, addr := routed(t, "bgp-upgrade")
	byAll(t, addr, 0, 1, 2)
	stop := stream(t, url(addr, svc.Spec.Ports[0].Port))
	quietUntil := []func(netip.Addr){quiet(t, routers[0], addr), quiet(t, routers[1], addr)}
	birdLogs, frrLogs := logged(birdLog), logged(frrLog)
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
	// End-of-RIB removes what was not advertised again.
	birdLogs(t, `neighbour0: Got END-OF-RIB`, `neighbour0: Got END-OF-RIB`) // of both families
	frrLogs(t, fmt.Sprintf(`rcvd End-of-RIB for IPv4 Unicast from %s `, cluster.Nodes[0].Addr))
	_, marker := routed(t, "bgp-upgrade-marker")
	for _, until := range quietUntil {
		until(marker)
	}
	unharmed(t, stop(), 0)
}

// TestSpeakerKilled: a speaker that has no time to hand its BFD session on is
// noticed by BIRD, and its routes come back with it. FRR keeps them meanwhile.
func TestSpeakerKilled(t *testing.T) {
	routers(t)
	_, addr := routed(t, "bgp-killed")
	byAll(t, addr, 0, 1, 2)
	cluster.Speakers[2].Kill()
	by(t, fabric.bird, addr, 0, 1)
	by(t, fabric.frr, addr, 0, 1, 2)
	if err := cluster.StartSpeaker(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	byAll(t, addr, 0, 1, 2)
}

// TestDrain: a node that is excluded asks for other ways first (RFC 8326), and
// only then withdraws; no request is lost.
func TestDrain(t *testing.T) {
	routers := routers(t)
	svc, addr := routed(t, "bgp-drain")
	byAll(t, addr, 0, 1, 2)
	stop := stream(t, url(addr, svc.Spec.Ports[0].Port))
	node, frrLogs := cluster.Nodes[2], logged(frrLog)
	label(t, node.Name, `"true"`)
	t.Cleanup(func() { label(t, node.Name, "null") })
	byAll(t, addr, 0, 1)
	frrLogs(t, fmt.Sprintf(`%s\S* rcvd UPDATE w/ attr: [^\n]*graceful-shutdown`, node.Addr),
		fmt.Sprintf(`%s\S* rcvd UPDATE about %s/32 [^\n]*-- withdrawn`, node.Addr, addr))
	unharmed(t, stop(), len(routers))
	label(t, node.Name, "null")
	byAll(t, addr, 0, 1, 2)
}

// label excludes a node from load balancers, or with null no longer.
func label(t *testing.T, node, value string) {
	t.Helper()
	patch := fmt.Sprintf(`{"metadata":{"labels":{%q:%s}}}`, corev1.LabelNodeExcludeBalancers, value)
	if _, err := cluster.API.CoreV1().Nodes().Patch(context.Background(), node, types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		t.Error(err)
	}
}

// TestSpeakerLeaves: a speaker that will not be back withdraws its routes when it
// ends, and loses no request: on a node that is being emptied, and when
// Fairlead is removed.
func TestSpeakerLeaves(t *testing.T) {
	routers := routers(t)
	svc, addr := routed(t, "bgp-leave")
	for name, row := range map[string]struct{ begin, end func(t *testing.T) }{
		"cordoned": {
			func(t *testing.T) { cordon(t, cluster.Nodes[1].Name, true) },
			func(t *testing.T) { cordon(t, cluster.Nodes[1].Name, false) },
		},
		"removed": {
			func(t *testing.T) {
				if _, err := cluster.Kubectl(t.Context(), "", "-n", "fairlead-system", "delete", "daemonset", "fairlead-speaker"); err != nil {
					t.Fatal(err)
				}
			},
			func(t *testing.T) {
				root, err := lab.Root()
				if err != nil {
					t.Fatal(err)
				}
				if _, err := cluster.Kubectl(context.Background(), "", "apply", "--server-side", "-k", filepath.Join(root, "deploy")); err != nil {
					t.Fatal(err)
				}
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			byAll(t, addr, 0, 1, 2)
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
			byAll(t, addr, 0, 2)
			unharmed(t, stop(), len(routers))
		})
	}
}

func cordon(t *testing.T, node string, yes bool) {
	t.Helper()
	patch := fmt.Sprintf(`{"spec":{"unschedulable":%v}}`, yes)
	if _, err := cluster.API.CoreV1().Nodes().Patch(context.Background(), node, types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		t.Error(err)
	}
}
