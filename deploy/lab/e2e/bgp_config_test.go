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
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	lab "github.com/fairlead-io/fairlead/deploy/lab"
)

// TestPasswords checks that a password is read from a Secret of Fairlead's namespace,
// follows its changes, and appears in no status or log.
func TestPasswords(t *testing.T) {
	routers(t)
	const first, second = "hunter2-first-one", "hunter2-second-one"
	r := addRouter(t, "bird-secret", 253)
	config := func(password string) lab.BGP {
		return fabricConfig(r, func(n *lab.Neighbor, _ *lab.Host) { n.Password, n.BFD = password, 0 })
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
	eventually(t, "the speakers report that the peer does not answer", func() error {
		out, err := cluster.Kubectl(t.Context(), "", "get", "bgppeer", "password", "-o",
			"jsonpath={.status.conditions[?(@.type=='Established')].message}")
		if err == nil && !strings.Contains(out, "password differs") {
			err = fmt.Errorf("the message is %q", out)
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
				t.Errorf("the password %q is visible", password)
			}
		}
	}
}

// addRouter adds a router for one test.
func addRouter(t *testing.T, name string, number byte) *lab.Router {
	t.Helper()
	r := router(t, name, number)
	t.Cleanup(r.Kill)
	return r
}

// manifest applies objects that are deleted when the test ends.
func manifest(t *testing.T, yaml string) {
	t.Helper()
	apply(t, yaml)
	t.Cleanup(func() {
		if _, err := cluster.Kubectl(context.Background(), yaml, "delete", "--ignore-not-found", "--timeout="+lab.WaitTimeout.String(),
			"-f", "-"); err != nil {
			t.Error(err)
		}
	})
}

// TestBGPProblems checks that invalid objects have a condition that names the field,
// and that they do not affect other objects.
func TestBGPProblems(t *testing.T) {
	routers(t)
	manifest(t, `apiVersion: fairlead.io/v1alpha1
kind: BGPPeer
metadata: {name: wrong-asn}
spec: {myASN: 64512, peerASN: 64999, peerAddress: fd13:242::251, connectTime: 1s, bfdProfile: gone}
---
apiVersion: fairlead.io/v1alpha1
kind: BGPPeer
metadata: {name: no-listener}
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
	contains(t, ready(t, "bgppeers", "wrong-asn", "UnknownBFDProfile"), `spec.bfdProfile: BFDProfile "gone" does not exist`)
	contains(t, ready(t, "bgppeers", "twice", "DuplicatePeer"), "node node-", `older BGPPeer "bird"`)
	contains(t, ready(t, "communities", "broken", "DuplicateCommunity"), "spec.communities[0].name")
	message := ready(t, "bgpadvertisements", "broken", "UnknownPool")
	contains(t, message, "spec.ipAddressPools[1]", `spec.peers[1]: BGPPeer "nowhere" does not exist`,
		`spec.communities[0]: invalid community "unheard"`)
	eventually(t, "the refused connection is reported", func() error {
		out, err := cluster.Kubectl(t.Context(), "", "get", "bgppeer", "no-listener", "-o",
			"jsonpath={.status.conditions[?(@.type=='Established')].message}")
		if err == nil && !strings.Contains(out, "connection refused") {
			err = fmt.Errorf("the message is %q", out)
		}
		return err
	})
	_, addr := routed(t, "bgp-with-problems")
	routedViaAll(t, addr, 0, 1, 2)
}

// TestLoopGuard checks that packets to announced addresses without a Service port do
// not loop between node and router, for a single address and for an aggregate with one
// assigned address, and that other packets are forwarded.
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
	eventually(t, "the guard is removed with the address", func() error {
		return cluster.Nodes[0].Do(func() error {
			routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{}, netlink.RT_FILTER_TABLE)
			for _, r := range routes {
				if r.Type == unix.RTN_UNREACHABLE && r.Dst != nil && r.Dst.String() == prefix.String() {
					return fmt.Errorf("it still exists: %s", r)
				}
			}
			return err
		})
	})
}

// ICMP types (RFC 792): the TTL of a looping packet is exceeded.
const unreachable, exceeded = 3, 11

// ping sends one echo request and returns the type of the ICMP error.
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
		if err := conn.SetDeadline(time.Now().Add(lab.WaitTimeout)); err != nil {
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
			// The ICMP error contains the header of the echo request.
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

// TestPortTaken checks that a port in use is a problem of the passive peer with this
// port only.
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
	eventually(t, "the port in use is reported", func() error {
		out, err := cluster.Kubectl(t.Context(), "", "get", "speaker", "node-1", "-o",
			"jsonpath={.status.sessions[?(@.peer=='passive')].lastError}")
		if err == nil && !strings.Contains(out, "1790") {
			err = fmt.Errorf("the message is %q", out)
		}
		return err
	})
	_, addr := routed(t, "bgp-port-taken")
	routedVia(t, fabric.bird, addr, 0, 1, 2)
}

// TestBGPSchema checks which objects the API server accepts by their schema.
func TestBGPSchema(t *testing.T) {
	object := func(kind, spec string) string {
		return fmt.Sprintf("apiVersion: fairlead.io/v1alpha1\nkind: %s\nmetadata: {name: schema}\nspec: {%s}\n", kind, spec)
	}
	for _, good := range []string{
		object("BGPPeer", "myASN: 4294967295, peerASN: 64513, peerAddress: '2001:db8::1'"),
		object("BGPPeer", "myASN: 64512, dynamicASN: external, interface: eth1, holdTime: 0s"),
		object("BGPPeer", "myASN: 64512, dynamicASN: internal, defaultGateway: IPv6, holdTime: 3s, keepaliveTime: 1s"),
		object(
			"BGPPeer",
			"myASN: 64512, peerASN: 64513, peerAddress: 192.0.2.1, sourceAddress: 192.0.2.2, ebgpMultiHop: true, routerID: 1.2.3.4",
		),
		object("BGPAdvertisement", ""),
		object("BFDProfile", ""),
		object("Community", "communities: [{name: a, value: 'large:1:2:3'}]"),
	} {
		if _, err := cluster.Kubectl(t.Context(), good, "apply", "--server-side", "--dry-run=server", "-f", "-"); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	const (
		oneASN     = "exactly one of peerASN and dynamicASN"
		oneAddress = "exactly one of peerAddress, interface and defaultGateway"
	)
	for bad, want := range map[string]string{
		object("BGPPeer", "myASN: 64512, peerASN: 1, peerAddress: 'fe80::1'"):                                  "use interface for a router",
		object("BGPPeer", "myASN: 64512, peerAddress: 192.0.2.1"):                                              oneASN,
		object("BGPPeer", "myASN: 64512, peerASN: 1, dynamicASN: external, peerAddress: 192.0.2.1"):            oneASN,
		object("BGPPeer", "myASN: 64512, peerASN: 1"):                                                          oneAddress,
		object("BGPPeer", "myASN: 64512, peerASN: 1, peerAddress: 192.0.2.1, interface: eth0"):                 oneAddress,
		object("BGPPeer", "myASN: 0, peerASN: 1, peerAddress: 192.0.2.1"):                                      "myASN",
		object("BGPPeer", "myASN: 64512, peerASN: 4294967296, peerAddress: 192.0.2.1"):                         "peerASN",
		object("BGPPeer", "myASN: 64512, peerASN: 1, peerAddress: tor-a"):                                      "must be a valid IP address",
		object("BGPPeer", "myASN: 64512, peerASN: 1, peerAddress: 192.0.2.1, sourceAddress: '2001:db8::1'"):    "of the same family",
		object("BGPPeer", "myASN: 64512, peerASN: 1, peerAddress: 192.0.2.1, holdTime: 1s"):                    "must be 0s or from 3s",
		object("BGPPeer", "myASN: 64512, peerASN: 1, peerAddress: 192.0.2.1, holdTime: 9s, keepaliveTime: 9s"): "shorter than holdTime",
		object("BGPPeer", "myASN: 64512, peerASN: 64512, peerAddress: 192.0.2.1, ebgpMultiHop: true"):          "for an internal peer",
		object("BGPPeer", "myASN: 64512, dynamicASN: internal, peerAddress: 192.0.2.1, ebgpMultiHop: true"):    "for an internal peer",
		object("BGPPeer", "myASN: 64512, peerASN: 1, interface: eth0, ebgpMultiHop: true"):                     "must not be set together",
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
		contains(t, err.Error(), want)
	}
}
