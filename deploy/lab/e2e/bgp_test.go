package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	lab "github.com/fairlead-io/fairlead/deploy/lab"
)

const (
	nodeASN, routerASN = 64512, 64513

	// bfdEvery is the BFD interval, with a detect multiplier of 3.
	bfdEvery = 100 * time.Millisecond
)

// bgp is the common configuration of the tests: a pool that is announced to two
// routers, with BFD and graceful restart.
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
spec: {transmitInterval: 100, receiveInterval: 100, detectMultiplier: 3, minimumTtl: 63} # BIRD sends 64 over several hops
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

// fabric are the two routers of most tests. They keep running between tests.
var fabric struct{ bird, frr *lab.Router }

// routers adds the two routers to the cluster once, and waits for all sessions.
func routers(t *testing.T) []*lab.Router {
	t.Helper()
	if fabric.bird == nil {
		fabric.bird = router(t, "bird", 251)
		fabric.frr = router(t, "frr", 252)
		start(t, fabric.bird, fabricConfig(fabric.bird))
		start(t, fabric.frr, fabricConfig(fabric.frr))
		// The log shows transient states.
		if err := fabric.frr.Reconfigure(t.Context(), "log stdout debugging\ndebug bgp updates in\n"); err != nil {
			t.Fatal(err)
		}
		if _, err := fabric.bird.Show(t.Context(), "debug", `"neighbor*"`, "{ packets }"); err != nil {
			t.Fatal(err)
		}
		if err := cluster.SetGateways(fabric.bird, fabric.frr); err != nil {
			t.Fatal(err)
		}
	}
	apply(t, bgp) // tests that delete CRDs have deleted it
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

// fabricConfig returns the configuration of a router with a session with every node.
func fabricConfig(r *lab.Router, changes ...func(*lab.Neighbor, *lab.Host)) lab.BGP {
	changes = append([]func(*lab.Neighbor, *lab.Host){func(n *lab.Neighbor, _ *lab.Host) { n.BFD = bfdEvery }}, changes...)
	return lab.BGP{ASN: routerASN, RouterID: r.Addr, Neighbors: lab.NodeNeighbors(cluster.Nodes, nodeASN, changes...)}
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

// sessions waits until the status of the BGPPeer has the summary.
func sessions(t *testing.T, peer, want string) {
	t.Helper()
	eventually(t, fmt.Sprintf("BGPPeer %s is %s", peer, want), func() error {
		out, err := cluster.Kubectl(t.Context(), "", "get", "bgppeer", peer, "-o",
			`jsonpath={.status.summary}{" "}{.status.conditions[*].message}`)
		if err == nil && !strings.HasPrefix(out, want+" ") {
			err = fmt.Errorf("it is %s", out)
		}
		return err
	})
}

// routed creates a Service with an address from the pool bgp.
func routed(t *testing.T, name string, change ...func(*corev1.Service)) (*corev1.Service, netip.Addr) {
	t.Helper()
	change = append([]func(*corev1.Service){func(s *corev1.Service) { s.Annotations["fairlead.io/address-pool"] = "bgp" }}, change...)
	svc := service(t, name, change...)
	return svc, announced(t, name)
}

func local(s *corev1.Service) {
	s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
}

// routedVia waits until the next hops of the address in the router are these nodes.
func routedVia(t *testing.T, r *lab.Router, addr netip.Addr, nodes ...int) {
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

// routedViaAll waits until the next hops of the address in both routers are these
// nodes.
func routedViaAll(t *testing.T, addr netip.Addr, nodes ...int) {
	t.Helper()
	routedVia(t, fabric.bird, addr, nodes...)
	routedVia(t, fabric.frr, addr, nodes...)
}

// TestBGP checks that both routers distribute the packets to an address over all nodes,
// that every pod is reachable from behind them, and that the status, explain and doctor
// report it.
func TestBGP(t *testing.T) {
	routers(t)
	svc, addr := routed(t, "bgp-cluster")
	contains(t, condition(t, "bgp-cluster", "Announced", "Announced"), addr.String()+" by BGP")
	routedViaAll(t, addr, 0, 1, 2)
	remote := cluster.Network.Remote
	seen := map[string]bool{}
	eventually(t, "every backend answers the remote client", func() error {
		answer, err := remote.Get(t.Context(), url(addr, svc.Spec.Ports[0].Port))
		if err != nil {
			return err
		}
		if seen[strings.Fields(answer)[2]] = true; len(seen) < 3 {
			return fmt.Errorf("only %v have answered so far", seen)
		}
		return nil
	})
	out, err := cluster.Fairlead(t.Context(), "explain", "svc", "default/bgp-cluster")
	if err != nil {
		t.Fatal(err)
	}
	contains(t, out, "* node-1  advertises to bird", "* node-3  advertises to frr",
		fmt.Sprintf("%s/32 next-hop %s local-pref 100 communities 64512:100 64512:1:2", addr, cluster.Nodes[0].Addr))
	shown, err := fabric.frr.Show(t.Context(), "show bgp ipv4 unicast "+addr.String()+"/32")
	if err != nil {
		t.Fatal(err)
	}
	contains(t, shown, "64512:100", "64512:1:2")
	doctor := doctor(t)
	for _, line := range strings.Split(doctor, "\n") {
		if strings.Contains(line, "BGPPeer bird") || strings.Contains(line, "BGPPeer frr") {
			t.Errorf("doctor printed %q", line)
		}
	}
	contains(t, doctor, "PEER", "bird", "Established", "IPv4")
}

// doctor runs fairlead doctor. Its exit status is ignored, because other tests may have
// caused findings.
func doctor(t *testing.T) string {
	t.Helper()
	out, _ := cluster.Fairlead(t.Context(), "doctor")
	return out
}

// TestBGPLocal checks that under externalTrafficPolicy Local only nodes with an
// endpoint are next hops, following the endpoints, and that the client's address is
// preserved.
func TestBGPLocal(t *testing.T) {
	routers(t)
	if err := cluster.SetPodReady(t.Context(), 1, false); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cluster.SetPodReady(context.Background(), 1, true) })
	svc, addr := routed(t, "bgp-local", local)
	routedViaAll(t, addr, 0, 2)
	answer := reach(t, cluster.Network.Remote, url(addr, svc.Spec.Ports[0].Port))
	contains(t, answer, " to "+cluster.Network.Remote.Addr.String())
	if err := cluster.SetPodReady(t.Context(), 0, false); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cluster.SetPodReady(context.Background(), 0, true) })
	routedViaAll(t, addr, 2)
	if err := cluster.SetPodReady(t.Context(), 2, false); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cluster.SetPodReady(context.Background(), 2, true) })
	condition(t, "bgp-local", "Announced", "NoEndpoints")
	routedViaAll(t, addr)
	for i := range cluster.Nodes {
		if err := cluster.SetPodReady(t.Context(), i, true); err != nil {
			t.Fatal(err)
		}
	}
	routedViaAll(t, addr, 0, 1, 2)
}
