// Package e2e tests Fairlead end to end: the manifests in deploy and the binaries on
// a real control plane, with a real data path. All tests share one cluster.
package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	lab "github.com/fairlead-io/fairlead/deploy/lab"
	"github.com/fairlead-io/fairlead/deploy/lab/e2e/suite"
)

// cluster is shared by all tests. Each test uses its own Services.
var cluster = &suite.Cluster{
	Options:       lab.Options{Nodes: 3, ProxyMode: os.Getenv("FAIRLEAD_PROXY_MODE")},
	Tools:         []lab.Tool{lab.BIRD, lab.FRR, lab.IPTables, lab.Prometheus},
	BaseManifests: basePools,
}

var (
	eventually = cluster.Eventually
	service    = cluster.Service
	remove     = cluster.Remove
	get        = cluster.Get
	update     = cluster.Update
	announced  = cluster.Address
	condition  = cluster.Condition
	event      = cluster.Event
	apply      = cluster.MustApply
	contains   = suite.Contains
)

func TestMain(m *testing.M) { cluster.Main(m) }

// basePools are the pools of the tests: "lan" is the default, the others are requested
// by name.
const basePools = `apiVersion: fairlead.io/v1alpha1
kind: IPAddressPool
metadata: {name: lan}
spec: {addresses: [10.13.242.192/27]}
---
apiVersion: fairlead.io/v1alpha1
kind: IPAddressPool
metadata: {name: many}
spec: {addresses: [10.20.0.0/16], autoAssign: false}
---
apiVersion: fairlead.io/v1alpha1
kind: L2Advertisement
metadata: {name: lan}
spec: {ipAddressPools: [lan]}
`

// reach waits until a request of the host to the URL succeeds, and returns the response.
func reach(t *testing.T, from *lab.Host, url string) (answer string) {
	t.Helper()
	eventually(t, from.Name+" reaches "+url, func() (err error) {
		answer, err = from.Get(t.Context(), url)
		return err
	})
	return answer
}

// reachAgain waits until many successive requests of the host succeed. One response
// does not show that all kube-proxies have programmed a new Service.
func reachAgain(t *testing.T, from *lab.Host, url string) {
	t.Helper()
	eventually(t, from.Name+" reaches "+url+" repeatedly", func() error {
		for range 30 {
			if _, err := from.Get(t.Context(), url); err != nil {
				return err
			}
		}
		return nil
	})
}

// respondsWith waits until the response contains all parts. For up to a second,
// kube-proxy forwards packets to a reassigned address to the previous Service.
func respondsWith(t *testing.T, from *lab.Host, url string, parts ...string) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s responds with %q to %s", url, parts, from.Name), func() error {
		answer, err := from.Get(t.Context(), url)
		if err != nil {
			return err
		}
		for _, p := range parts {
			if !strings.Contains(answer, p) {
				return fmt.Errorf("the response is %q", answer)
			}
		}
		return nil
	})
}

func url(addr netip.Addr, port int32) string {
	return fmt.Sprintf("http://%s/ping", netip.AddrPortFrom(addr, uint16(port)))
}

// owner waits until exactly one node answers ARP or Neighbor Discovery for the address, for which may is
// true, and returns its index.
func owner(t *testing.T, addr netip.Addr, may func(node int) bool) (node int) {
	t.Helper()
	eventually(t, "one node answers for "+addr.String(), func() error {
		macs, err := cluster.Client.Resolve(addr, 300*time.Millisecond)
		if err != nil {
			return err
		}
		if len(macs) != 1 {
			return fmt.Errorf("%d machines answer: %v", len(macs), macs)
		}
		node = slices.IndexFunc(cluster.Nodes, func(h *lab.Host) bool { return h.MAC() == macs[0] })
		if node < 0 || !may(node) {
			return fmt.Errorf("node %d answers, which is not a permitted owner", node+1)
		}
		return nil
	})
	return node
}

func anyNode(int) bool { return true }

// waitReported waits until the condition Announced names the node that answers on the
// LAN. A node that was disconnected may answer before the condition is updated.
func waitReported(t *testing.T, name string, addr netip.Addr, node int) {
	t.Helper()
	want := fmt.Sprintf("%s by node %s on eth0", addr, cluster.Nodes[node].Name)
	eventually(t, "the condition Announced is "+want, func() error {
		if got := condition(t, name, "Announced", "Announced"); got != want && got != want+" and BGP" {
			return fmt.Errorf("it is %s", got)
		}
		return nil
	})
}

// notAnnounced waits until no machine answers ARP for the address.
func notAnnounced(t *testing.T, addr netip.Addr) {
	t.Helper()
	eventually(t, "no machine answers for "+addr.String(), func() error {
		macs, err := cluster.Client.Resolve(addr, 300*time.Millisecond)
		if err == nil && len(macs) > 0 {
			err = fmt.Errorf("%v answer", macs)
		}
		return err
	})
}

// ready waits until the condition Ready of one of Fairlead's objects has the reason.
func ready(t *testing.T, plural, name, reason string) (message string) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s %s is %s", plural, name, reason), func() error {
		o, err := cluster.Resource(plural).Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		conditions, _, err := unstructured.NestedSlice(o.Object, "status", "conditions")
		if err != nil {
			return err
		}
		for _, c := range conditions {
			if c := c.(map[string]any); c["type"] == "Ready" && c["reason"] == reason {
				message = c["message"].(string)
				return nil
			}
		}
		return fmt.Errorf("conditions are %v", conditions)
	})
	return message
}

// unplug sets the link of the host down until plugIn is called or the test ends.
func unplug(t *testing.T, h *lab.Host) (plugIn func()) {
	t.Helper()
	if err := h.SetLink(false); err != nil {
		t.Fatal(err)
	}
	plugIn = sync.OnceFunc(func() {
		if err := h.SetLink(true); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(plugIn)
	return plugIn
}

func deletePool(t *testing.T, name string) {
	_, err := cluster.Kubectl(context.Background(), "", "delete", "--ignore-not-found", "--timeout="+lab.WaitTimeout.String(),
		"ipaddresspool", name)
	if err != nil {
		t.Error(err)
	}
}
