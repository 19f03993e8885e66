// Package e2e tests Fairlead from end to end: the shipped manifests and
// binaries on a real control plane, with a real data path, in one cluster that
// all tests share.
package e2e

import (
	"context"
	"fmt"
	"net/netip"
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

// cluster is shared by all tests; each uses Services of its own.
var cluster = &suite.Cluster{
	Options: lab.Options{Nodes: 3},
	Tools:   []lab.Tool{lab.BIRD, lab.FRR},
	Basics:  basics,
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

// basics are the pools that the tests use: "lan" for all, the others by name.
const basics = `apiVersion: fairlead.io/v1alpha1
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

// reach waits until the URL answers the host.
func reach(t *testing.T, from *lab.Host, url string) (answer string) {
	t.Helper()
	eventually(t, from.Name+" reaches "+url, func() (err error) {
		answer, err = from.Get(t.Context(), url)
		return err
	})
	return answer
}

// reachAgain waits until the host reaches the URL many times in a row. One
// answer does not show that kube-proxy serves a new Service on all nodes.
func reachAgain(t *testing.T, from *lab.Host, url string) {
	t.Helper()
	eventually(t, from.Name+" reaches "+url+" again and again", func() error {
		for range 30 {
			if _, err := from.Get(t.Context(), url); err != nil {
				return err
			}
		}
		return nil
	})
}

// says waits until the URL's answer says all this. For up to a second kube-proxy
// serves a new Service whose address was another one's by that one's rules.
func says(t *testing.T, from *lab.Host, url string, parts ...string) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s says %q to %s", url, parts, from.Name), func() error {
		answer, err := from.Get(t.Context(), url)
		if err != nil {
			return err
		}
		for _, p := range parts {
			if !strings.Contains(answer, p) {
				return fmt.Errorf("it says %q", answer)
			}
		}
		return nil
	})
}

func url(addr netip.Addr, port int32) string {
	return fmt.Sprintf("http://%s/ping", netip.AddrPortFrom(addr, uint16(port)))
}

// owner waits until exactly one node answers ARP for the address, and that it
// is one that may, and returns its index.
func owner(t *testing.T, addr netip.Addr, may func(node int) bool) (node int) {
	t.Helper()
	eventually(t, "one node answers for "+addr.String(), func() error {
		macs, err := cluster.Client.ResolveARP(addr, 300*time.Millisecond)
		if err != nil {
			return err
		}
		if len(macs) != 1 {
			return fmt.Errorf("%d machines answer: %v", len(macs), macs)
		}
		node = slices.IndexFunc(cluster.Nodes, func(h *lab.Host) bool { return h.MAC() == macs[0] })
		if node < 0 || !may(node) {
			return fmt.Errorf("node %d answers, who should not", node+1)
		}
		return nil
	})
	return node
}

func anyNode(int) bool { return true }

// reported waits until the speakers' reports agree with what is seen on the LAN:
// the node, and no other, answers for the Service's address. A node that was cut
// off may answer before the others have heard that it is back.
func reported(t *testing.T, name string, addr netip.Addr, node int) {
	t.Helper()
	want := fmt.Sprintf("%s by node %s on eth0", addr, cluster.Nodes[node].Name)
	eventually(t, "the API says "+want, func() error {
		if got := condition(t, name, "Announced", "Announced"); got != want && got != want+" and BGP" {
			return fmt.Errorf("it says %s", got)
		}
		return nil
	})
}

// silent waits until nobody answers ARP for the address.
func silent(t *testing.T, addr netip.Addr) {
	t.Helper()
	eventually(t, "nobody answers for "+addr.String(), func() error {
		macs, err := cluster.Client.ResolveARP(addr, 300*time.Millisecond)
		if err == nil && len(macs) > 0 {
			err = fmt.Errorf("%v answer", macs)
		}
		return err
	})
}

// ready waits until the condition Ready of one of our objects has the reason.
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

// unplug takes the host's link down until plugIn, or until the test ends.
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
	_, err := cluster.Kubectl(context.Background(), "", "delete", "--ignore-not-found", "--timeout="+lab.WaitTimeout.String(), "ipaddresspool", name)
	if err != nil {
		t.Error(err)
	}
}
