package e2e

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	lab "github.com/fairlead-io/fairlead/deploy/lab"
)

const (
	nodeASN, routerASN = 64512, 64513

	// bfdEvery is the time between two BFD packets; three may be lost.
	bfdEvery = 100 * time.Millisecond
)

// bgp is what the tests of this file start from: a pool that is announced to
// two routers, with BFD and graceful restart.
const bgp = `apiVersion: fairlead.io/v1alpha1
kind: IPAddressPool
metadata: {name: bgp}
spec: {addresses: [198.18.113.0/24, "2001:db8:113::/120"], autoAssign: false}
---
apiVersion: fairlead.io/v1alpha1
kind: BGPAdvertisement
metadata: {name: bgp}
spec: {ipAddressPools: [bgp], peers: [bird, frr], communities: ["64512:100", "large:64512:1:2"]}
---
apiVersion: fairlead.io/v1alpha1
kind: BFDProfile
metadata: {name: fast}
spec: {transmitInterval: 100, receiveInterval: 100, detectMultiplier: 3}
---
apiVersion: fairlead.io/v1alpha1
kind: BGPPeer
metadata: {name: bird}
spec: {myASN: 64512, peerASN: 64513, peerAddress: 10.13.242.251, bfdProfile: fast, enableGracefulRestart: true}
---
apiVersion: fairlead.io/v1alpha1
kind: BGPPeer
metadata: {name: frr}
spec: {myASN: 64512, peerASN: 64513, peerAddress: 10.13.242.252, bfdProfile: fast, enableGracefulRestart: true}
`

// fabric are the two routers that most tests use. They stay up between tests.
var fabric struct{ bird, frr *lab.Router }

// routers gives the cluster its two routers, once, and waits for all sessions.
func routers(t *testing.T) []*lab.Router {
	t.Helper()
	if fabric.bird == nil {
		fabric.bird = router(t, "bird", 251)
		fabric.frr = router(t, "frr", 252)
		start(t, fabric.bird, fabricConfig(fabric.bird))
		start(t, fabric.frr, fabricConfig(fabric.frr))
		// The log shows what a state that has passed no longer does.
		if err := fabric.frr.Reconfigure(t.Context(), "log stdout debugging\ndebug bgp updates in\n"); err != nil {
			t.Fatal(err)
		}
		if _, err := fabric.bird.Show(t.Context(), "debug", `"neighbour*"`, "{ packets }"); err != nil {
			t.Fatal(err)
		}
		if err := cluster.SetGateways(fabric.bird, fabric.frr); err != nil {
			t.Fatal(err)
		}
		apply(t, bgp)
	}
	sessions(t, "bird", "Established 3/3")
	sessions(t, "frr", "Established 3/3")
	all := []*lab.Router{fabric.bird, fabric.frr}
	for _, r := range all {
		for _, n := range cluster.Nodes {
			if err := r.WaitSession(t.Context(), n.Addr.String(), "Established"); err != nil {
				t.Fatal(err) // or BFD is not Up
			}
		}
	}
	return all
}

func router(t *testing.T, name string, number byte) *lab.Router {
	t.Helper()
	r, err := cluster.Network.AddRouter(name, number)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// fabricConfig peers a router with every node.
func fabricConfig(r *lab.Router, changes ...func(*lab.Neighbour, *lab.Host)) lab.BGP {
	changes = append([]func(*lab.Neighbour, *lab.Host){func(n *lab.Neighbour, _ *lab.Host) { n.BFD = bfdEvery }}, changes...)
	return lab.BGP{ASN: routerASN, RouterID: r.Addr, Neighbours: lab.EachNode(cluster.Nodes, nodeASN, changes...)}
}

// start runs BIRD on routers called bird…, and FRR on others.
func start(t *testing.T, r *lab.Router, c lab.BGP) {
	t.Helper()
	var err error
	if strings.HasPrefix(r.Name, "bird") {
		err = r.StartBIRD(t.Context(), c.BIRD())
	} else {
		err = r.StartFRR(t.Context(), c.FRR())
	}
	if err != nil {
		t.Fatal(err)
	}
}

// sessions waits until the summary of a BGPPeer is as wanted.
func sessions(t *testing.T, peer, want string) {
	t.Helper()
	eventually(t, fmt.Sprintf("BGPPeer %s is %s", peer, want), func() error {
		out, err := cluster.Kubectl(t.Context(), "", "get", "bgppeer", peer, "-o", `jsonpath={.status.summary}{" "}{.status.conditions[*].message}`)
		if err == nil && !strings.HasPrefix(out, want+" ") {
			err = fmt.Errorf("it is %s", out)
		}
		return err
	})
}

// routed makes a Service of the pool bgp.
func routed(t *testing.T, name string, change ...func(*corev1.Service)) (*corev1.Service, netip.Addr) {
	t.Helper()
	change = append([]func(*corev1.Service){func(s *corev1.Service) { s.Annotations["fairlead.io/address-pool"] = "bgp" }}, change...)
	svc := service(t, name, change...)
	return svc, announced(t, name)
}

func local(s *corev1.Service) {
	s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
}

// by waits until the router sends packets to the address to these nodes.
func by(t *testing.T, r *lab.Router, addr netip.Addr, nodes ...int) {
	t.Helper()
	var hops []netip.Addr
	for _, n := range nodes {
		hop := cluster.Nodes[n].Addr
		if addr.Is6() {
			hop = cluster.Nodes[n].Addr6
		}
		hops = append(hops, hop)
	}
	if err := r.WaitRoute(t.Context(), netip.PrefixFrom(addr, addr.BitLen()), hops...); err != nil {
		t.Logf("logs:\n%s", lab.Logs(20))
		t.Fatal(err)
	}
}

// byAll waits until both routers of the fabric send packets to the address to
// these nodes.
func byAll(t *testing.T, addr netip.Addr, nodes ...int) {
	t.Helper()
	by(t, fabric.bird, addr, nodes...)
	by(t, fabric.frr, addr, nodes...)
}

// TestBGP: both routers share an address's packets out to all nodes, every pod
// is reached from behind them, and every place says so.
func TestBGP(t *testing.T) {
	routers(t)
	svc, addr := routed(t, "bgp-cluster")
	contains(t, condition(t, "bgp-cluster", "Announced", "Announced"), addr.String()+" by BGP")
	byAll(t, addr, 0, 1, 2)
	remote := cluster.Network.Remote
	seen := map[string]bool{}
	eventually(t, "every backend answers the remote client", func() error {
		answer, err := remote.Get(t.Context(), url(addr, svc.Spec.Ports[0].Port))
		if err != nil {
			return err
		}
		if seen[strings.Fields(answer)[2]] = true; len(seen) < 3 {
			return fmt.Errorf("so far only %v", seen)
		}
		return nil
	})
	out, err := cluster.Fairlead(t.Context(), "explain", "svc", "default/bgp-cluster")
	if err != nil {
		t.Fatal(err)
	}
	contains(t, out, "* node-1  tells bird", "* node-3  tells frr", addr.String()+"/32 local-pref 100 communities 64512:100 64512:1:2")
	shown, err := fabric.frr.Show(t.Context(), "show bgp ipv4 unicast "+addr.String()+"/32")
	if err != nil {
		t.Fatal(err)
	}
	contains(t, shown, "64512:100", "64512:1:2")
	doctor := doctor(t)
	for _, line := range strings.Split(doctor, "\n") {
		if strings.Contains(line, "BGPPeer bird") || strings.Contains(line, "BGPPeer frr") {
			t.Errorf("doctor says %q", line)
		}
	}
	contains(t, doctor, "PEER", "bird", "Established", "IPv4")
}

// doctor runs fairlead doctor, which fails where anything at all is wrong in
// the cluster that all tests share.
func doctor(t *testing.T) string {
	t.Helper()
	out, _ := cluster.Fairlead(t.Context(), "doctor")
	return out
}

// TestBGPLocal: under externalTrafficPolicy Local only nodes with an endpoint
// are next hops, the client's address is seen, and both follow the endpoints.
func TestBGPLocal(t *testing.T) {
	routers(t)
	if err := cluster.SetPodReady(t.Context(), 1, false); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cluster.SetPodReady(context.Background(), 1, true) })
	svc, addr := routed(t, "bgp-local", local)
	byAll(t, addr, 0, 2)
	answer := reach(t, cluster.Network.Remote, url(addr, svc.Spec.Ports[0].Port))
	contains(t, answer, " to "+cluster.Network.Remote.Addr.String())
	if err := cluster.SetPodReady(t.Context(), 0, false); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cluster.SetPodReady(context.Background(), 0, true) })
	byAll(t, addr, 2)
	if err := cluster.SetPodReady(t.Context(), 2, false); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cluster.SetPodReady(context.Background(), 2, true) })
	condition(t, "bgp-local", "Announced", "NoEndpoints")
	byAll(t, addr)
	for i := range cluster.Nodes {
		if err := cluster.SetPodReady(t.Context(), i, true); err != nil {
			t.Fatal(err)
		}
	}
	byAll(t, addr, 0, 1, 2)
}

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
func stream(t *testing.T, target string) (stop func() lab.Report) {
	t.Helper()
	reachAgain(t, cluster.Network.Remote, target)
	return lab.Stream{URL: target, Every: 5 * time.Millisecond, Timeout: lostAfter, Serial: true}.Start(t.Context(), cluster.Network.Remote)
}

// lostAfter is when a request is lost that must not be: a SYN has been sent twice.
const lostAfter = 3 * time.Second

// unharmed fails if requests were lost, except one connection at each change of
// next hops in a router: it hashes flows again, and the one that is under way may
// reach another node.
func unharmed(t *testing.T, report lab.Report, changes int) {
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
// ends, and costs the client nothing: on a node that is being emptied, and when
// Fairlead is removed.
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
				if cluster.Speakers[1].Ended() {
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
			unharmed(t, stop(), 0)
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

// TestPasswords: a password comes from a Secret of Fairlead's namespace, changes
// with it, and is seen nowhere.
func TestPasswords(t *testing.T) {
	routers(t)
	const first, second = "hunter2-first-one", "hunter2-second-one"
	r := spare(t, "bird-secret", 253)
	config := func(password string) lab.BGP {
		return fabricConfig(r, func(n *lab.Neighbour, _ *lab.Host) { n.Password, n.BFD = password, 0 })
	}
	start(t, r, config(first))
	manifest(t, `apiVersion: fairlead.io/v1alpha1
kind: BGPPeer
metadata: {name: password}
spec: {myASN: 64512, peerASN: 64513, peerAddress: 10.13.242.253, connectTime: 1s, passwordSecret: {name: bgp-password}}
`)
	ready(t, "bgppeers", "password", "NoSecret")
	secret := func(password string) {
		t.Helper()
		secrets := cluster.API.CoreV1().Secrets("fairlead-system")
		s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "bgp-password"}, StringData: map[string]string{"password": password}}
		_, err := secrets.Update(t.Context(), s, metav1.UpdateOptions{})
		if apierrors.IsNotFound(err) {
			_, err = secrets.Create(t.Context(), s, metav1.CreateOptions{})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		_ = cluster.API.CoreV1().Secrets("fairlead-system").Delete(context.Background(), "bgp-password", metav1.DeleteOptions{})
	})
	secret(second)
	eventually(t, "the speakers see that nobody answers", func() error {
		out, err := cluster.Kubectl(t.Context(), "", "get", "bgppeer", "password", "-o", "jsonpath={.status.conditions[?(@.type=='Established')].message}")
		if err == nil && !strings.Contains(out, "password differs") {
			err = fmt.Errorf("it says %q", out)
		}
		return err
	})
	contains(t, doctor(t), "BROKEN", "BGPPeer password from node-1", "password differs")
	secret(first)
	sessions(t, "password", "Established 3/3")
	if err := r.Reconfigure(t.Context(), config(second).BIRD()); err != nil {
		t.Fatal(err)
	}
	secret(second)
	sessions(t, "password", "Established 3/3")

	dump, err := cluster.Kubectl(t.Context(), "", "get", "bgppeers,speakers,events", "-A", "-o", "yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{dump, lab.Logs(1 << 20), doctor(t)} {
		for _, password := range []string{first, second} {
			if strings.Contains(text, password) {
				t.Errorf("the password %q is to be seen", password)
			}
		}
	}
}

// spare is a router for one test.
func spare(t *testing.T, name string, number byte) *lab.Router {
	t.Helper()
	r := router(t, name, number)
	t.Cleanup(r.Kill)
	return r
}

// manifest applies objects that go with the test.
func manifest(t *testing.T, yaml string) {
	t.Helper()
	apply(t, yaml)
	t.Cleanup(func() {
		if _, err := cluster.Kubectl(context.Background(), yaml, "delete", "--ignore-not-found", "--timeout=60s", "-f", "-"); err != nil {
			t.Error(err)
		}
	})
}

// TestBGPProblems: what cannot be used is said where it stands, and nothing else
// suffers.
func TestBGPProblems(t *testing.T) {
	routers(t)
	manifest(t, `apiVersion: fairlead.io/v1alpha1
kind: BGPPeer
metadata: {name: wrong-asn}
spec: {myASN: 64512, peerASN: 64999, peerAddress: fd13:242::251, connectTime: 1s, bfdProfile: gone}
---
apiVersion: fairlead.io/v1alpha1
kind: BGPPeer
metadata: {name: nobody}
spec: {myASN: 64512, peerASN: 64999, peerAddress: 10.13.242.100, connectTime: 1s}
---
apiVersion: fairlead.io/v1alpha1
kind: BGPPeer
metadata: {name: twice}
spec: {myASN: 64512, peerASN: 64513, peerAddress: 10.13.242.251}
---
apiVersion: fairlead.io/v1alpha1
kind: Community
metadata: {name: broken}
spec: {communities: [{name: no-export, value: "1:2"}, {name: ours, value: "70000:1"}]}
---
apiVersion: fairlead.io/v1alpha1
kind: BGPAdvertisement
metadata: {name: broken}
spec: {ipAddressPools: [bgp, gone], peers: [bird, nowhere], communities: [unheard], aggregationLength: 24}
`)
	contains(t, ready(t, "bgppeers", "wrong-asn", "UnknownBFDProfile"), `spec.bfdProfile: there is no BFDProfile "gone"`)
	contains(t, ready(t, "bgppeers", "twice", "DuplicatePeer"), "node node-", `BGPPeer "bird" is older`)
	contains(t, ready(t, "communities", "broken", "DuplicateCommunity"), "spec.communities[0].name")
	message := ready(t, "bgpadvertisements", "broken", "UnknownPool")
	contains(t, message, "spec.ipAddressPools[1]", `spec.peers[1]: there is no BGPPeer "nowhere"`, `spec.communities[0]: "unheard" is no community`)
	eventually(t, "a refused connection is said", func() error {
		out, err := cluster.Kubectl(t.Context(), "", "get", "bgppeer", "nobody", "-o", "jsonpath={.status.conditions[?(@.type=='Established')].message}")
		if err == nil && !strings.Contains(out, "connection refused") {
			err = fmt.Errorf("it says %q", out)
		}
		return err
	})
	_, addr := routed(t, "bgp-beside-problems")
	byAll(t, addr, 0, 1, 2)
}

// TestLoopGuard: a packet to an announced address that nothing wants does not
// bounce between node and router, for an address and for an aggregate of which
// one address is in use; and what is wanted passes.
func TestLoopGuard(t *testing.T) {
	routers(t)
	manifest(t, `apiVersion: fairlead.io/v1alpha1
kind: IPAddressPool
metadata: {name: aggregate}
spec: {addresses: [198.51.100.0/24], autoAssign: false}
---
apiVersion: fairlead.io/v1alpha1
kind: BGPAdvertisement
metadata: {name: aggregate}
spec: {ipAddressPools: [aggregate], peers: [bird], aggregationLength: 24}
`)
	svc := service(t, "guarded", func(s *corev1.Service) { s.Annotations["fairlead.io/address-pool"] = "aggregate" })
	addr := announced(t, "guarded")
	prefix := netip.PrefixFrom(addr, 24).Masked()
	hops := []netip.Addr{cluster.Nodes[0].Addr, cluster.Nodes[1].Addr, cluster.Nodes[2].Addr}
	if err := fabric.bird.WaitRoute(t.Context(), prefix, hops...); err != nil {
		t.Fatal(err)
	}
	unused := addr.Next().Next()
	for _, target := range []netip.Addr{addr, unused} {
		counter, err := fabric.bird.Count("eth0", target)
		if err != nil {
			t.Fatal(err)
		}
		if answer := ping(t, cluster.Network.Remote, target); answer != unreachable {
			t.Errorf("one ping to %s was answered by ICMP type %d, want %d", target, answer, unreachable)
		}
		eventually(t, "the ping is counted", func() error {
			if counter.Packets() == 0 {
				return errors.New("not yet")
			}
			return nil
		})
		if n := counter.Packets(); n != 1 {
			t.Errorf("one ping to %s was %d packets on the router's link", target, n)
		}
		counter.Close()
	}
	for _, from := range []*lab.Host{cluster.Network.Remote, cluster.Nodes[0], cluster.Pods[1]} {
		reach(t, from, url(addr, svc.Spec.Ports[0].Port))
	}
	remove(t, "guarded")
	eventually(t, "the guard goes with the address", func() error {
		return cluster.Nodes[0].Do(func() error {
			routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{}, netlink.RT_FILTER_TABLE)
			for _, r := range routes {
				if r.Type == unix.RTN_UNREACHABLE && r.Dst != nil && r.Dst.String() == prefix.String() {
					return fmt.Errorf("it is there: %s", r)
				}
			}
			return err
		})
	})
}

// ICMP types (RFC 792): a packet that loops exceeds its TTL in the end.
const unreachable, exceeded = 3, 11

// ping sends one echo request and returns the type of the error that it meets.
func ping(t *testing.T, from *lab.Host, to netip.Addr) (kind byte) {
	t.Helper()
	request := []byte{8, 0, 0, 0, 0, 1, 0, 1} // echo request 1 of process 1
	binary.BigEndian.PutUint16(request[2:], ^uint16(0x0800+1+1))
	err := from.Do(func() error {
		conn, err := net.ListenPacket("ip4:icmp", "0.0.0.0")
		if err != nil {
			return err
		}
		defer conn.Close()
		if err := conn.SetDeadline(time.Now().Add(lab.Patience)); err != nil {
			return err
		}
		if _, err := conn.WriteTo(request, &net.IPAddr{IP: to.AsSlice()}); err != nil {
			return err
		}
		for answer := make([]byte, 1500); ; {
			n, _, err := conn.ReadFrom(answer)
			if err != nil {
				return err
			}
			// The error contains the header of the packet that met it.
			if kind = answer[0]; (kind == unreachable || kind == exceeded) && bytes.Contains(answer[:n], to.AsSlice()) {
				return nil
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return kind
}

// TestPortTaken: a passive peer whose port somebody else has is a problem of
// that peer, and of nothing else.
func TestPortTaken(t *testing.T) {
	routers(t)
	if err := cluster.Nodes[0].Serve(":1790", http.NotFoundHandler()); err != nil {
		t.Fatal(err)
	}
	manifest(t, `apiVersion: fairlead.io/v1alpha1
kind: BGPPeer
metadata: {name: passive}
spec: {myASN: 64512, peerASN: 64513, peerAddress: 10.13.242.254, passive: true, peerPort: 1790}
`)
	eventually(t, "the taken port is said", func() error {
		out, err := cluster.Kubectl(t.Context(), "", "get", "speaker", "node-1", "-o", "jsonpath={.status.sessions[?(@.peer=='passive')].lastError}")
		if err == nil && !strings.Contains(out, "1790") {
			err = fmt.Errorf("it says %q", out)
		}
		return err
	})
	_, addr := routed(t, "bgp-port-taken")
	by(t, fabric.bird, addr, 0, 1, 2)
}

// TestBGPSchema lets the API server judge what its schema can.
func TestBGPSchema(t *testing.T) {
	object := func(kind, spec string) string {
		return fmt.Sprintf("apiVersion: fairlead.io/v1alpha1\nkind: %s\nmetadata: {name: schema}\nspec: {%s}\n", kind, spec)
	}
	for _, good := range []string{
		object("BGPPeer", "myASN: 4294967295, peerASN: 64513, peerAddress: '2001:db8::1'"),
		object("BGPPeer", "myASN: 64512, dynamicASN: external, interface: eth1, holdTime: 0s"),
		object("BGPPeer", "myASN: 64512, dynamicASN: internal, defaultGateway: IPv6, holdTime: 3s, keepaliveTime: 1s"),
		object("BGPPeer", "myASN: 64512, peerASN: 64513, peerAddress: 192.0.2.1, sourceAddress: 192.0.2.2, ebgpMultiHop: true, routerID: 1.2.3.4"),
		object("BGPAdvertisement", ""),
		object("BFDProfile", ""),
		object("Community", "communities: [{name: a, value: 'large:1:2:3'}]"),
	} {
		if _, err := cluster.Kubectl(t.Context(), good, "apply", "--server-side", "--dry-run=server", "-f", "-"); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for bad, says := range map[string]string{
		object("BGPPeer", "myASN: 64512, peerASN: 1, peerAddress: 'fe80::1'"):                                  "interface names the link",
		object("BGPPeer", "myASN: 64512, peerAddress: 192.0.2.1"):                                              "exactly one of peerASN and dynamicASN",
		object("BGPPeer", "myASN: 64512, peerASN: 1, dynamicASN: external, peerAddress: 192.0.2.1"):            "exactly one of peerASN and dynamicASN",
		object("BGPPeer", "myASN: 64512, peerASN: 1"):                                                          "exactly one of peerAddress, interface and defaultGateway",
		object("BGPPeer", "myASN: 64512, peerASN: 1, peerAddress: 192.0.2.1, interface: eth0"):                 "exactly one of peerAddress, interface and defaultGateway",
		object("BGPPeer", "myASN: 0, peerASN: 1, peerAddress: 192.0.2.1"):                                      "myASN",
		object("BGPPeer", "myASN: 64512, peerASN: 4294967296, peerAddress: 192.0.2.1"):                         "peerASN",
		object("BGPPeer", "myASN: 64512, peerASN: 1, peerAddress: tor-a"):                                      "is no IP address",
		object("BGPPeer", "myASN: 64512, peerASN: 1, peerAddress: 192.0.2.1, sourceAddress: '2001:db8::1'"):    "of one family",
		object("BGPPeer", "myASN: 64512, peerASN: 1, peerAddress: 192.0.2.1, holdTime: 1s"):                    "must be 0s or from 3s",
		object("BGPPeer", "myASN: 64512, peerASN: 1, peerAddress: 192.0.2.1, holdTime: 9s, keepaliveTime: 9s"): "shorter than holdTime",
		object("BGPPeer", "myASN: 64512, peerASN: 64512, peerAddress: 192.0.2.1, ebgpMultiHop: true"):          "for external peers",
		object("BGPPeer", "myASN: 64512, dynamicASN: internal, peerAddress: 192.0.2.1, ebgpMultiHop: true"):    "for external peers",
		object("BGPPeer", "myASN: 64512, peerASN: 1, interface: eth0, ebgpMultiHop: true"):                     "exclude each other",
		object("BGPPeer", "myASN: 64512, peerASN: 1, peerAddress: 192.0.2.1, routerID: '2001:db8::1'"):         "routerID",
		object("BGPPeer", "myASN: 64512, peerASN: 1, peerAddress: 192.0.2.1, restartTime: 2h"):                 "from 1s to 4095s",
		object("BGPPeer", "myASN: 64512, peerASN: 1, peerAddress: 192.0.2.1, addressFamilies: [IPX]"):          "addressFamilies",
		object("BGPAdvertisement", "aggregationLength: 33"):                                                    "aggregationLength",
		object("BGPAdvertisement", "localPref: -1"):                                                            "localPref",
		object("BGPAdvertisement", "asPathPrepend: 100"):                                                       "asPathPrepend",
		object("BFDProfile", "transmitInterval: 5"):                                                            "transmitInterval",
		object("BFDProfile", "detectMultiplier: 1"):                                                            "detectMultiplier",
		object("Community", "communities: [{name: a, value: 'large:1:2'}]"):                                    "communities[0].value",
		object("Community", "communities: [{name: '64512:1', value: '1:2'}]"):                                  "communities[0].name",
		object("Community", "communities: [{name: a, value: '1:2'}, {name: a, value: '1:3'}]"):                 "communities",
	} {
		_, err := cluster.Kubectl(t.Context(), bad, "apply", "--server-side", "--dry-run=server", "-f", "-")
		if err == nil {
			t.Errorf("accepted: %s", bad)
			continue
		}
		contains(t, err.Error(), says)
	}
}
