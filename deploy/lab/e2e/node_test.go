package e2e

import (
	"context"
	"fmt"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestOwnerNotReady checks that another node announces an address while its owner is not
// Ready, and that the owner takes it back.
func TestOwnerNotReady(t *testing.T) {
	for i, addr := range failoverAddresses(t) {
		first := owner(t, addr, anyNode)
		setReady(t, first, false)
		owner(t, addr, func(node int) bool { return node != first })
		reach(t, cluster.Client, url(addr, 8086))
		contains(t, condition(t, failoverServices[i], "Announced", "Announced"), "node-")
		setReady(t, first, true)
		owner(t, addr, func(node int) bool { return node == first })
	}
}

// TestOwnerExcluded checks the same for a node that is excluded.
func TestOwnerExcluded(t *testing.T) {
	const label = "node.kubernetes.io/exclude-from-external-load-balancers"
	for _, addr := range failoverAddresses(t) {
		first := owner(t, addr, anyNode)
		if _, err := cluster.Kubectl(t.Context(), "", "label", "node", cluster.Nodes[first].Name, label+"="); err != nil {
			t.Fatal(err)
		}
		owner(t, addr, func(node int) bool { return node != first })
		if _, err := cluster.Kubectl(t.Context(), "", "label", "node", cluster.Nodes[first].Name, label+"-"); err != nil {
			t.Fatal(err)
		}
		owner(t, addr, func(node int) bool { return node == first })
	}
}

// TestOwnersLinkDown checks the same for a node that is disconnected from the LAN and the API
// server, and not Ready.
func TestOwnersLinkDown(t *testing.T) {
	for i, addr := range failoverAddresses(t) {
		first := owner(t, addr, anyNode)
		reach(t, cluster.Client, url(addr, 8086))
		plugIn := unplug(t, cluster.Nodes[first])
		setReady(t, first, false)
		owner(t, addr, func(node int) bool { return node != first })
		reach(t, cluster.Client, url(addr, 8086))
		plugIn()
		if err := cluster.RestoreRoutes(first); err != nil {
			t.Fatal(err)
		}
		setReady(t, first, true)
		owner(t, addr, func(node int) bool { return node == first })
		waitReported(t, failoverServices[i], addr, first)
		reach(t, cluster.Client, url(addr, 8086))
		// A controller on that node may have lost its lease.
		name := fmt.Sprintf("after-cable-%d", i)
		service(t, name)
		eventually(t, name+" is announced", func() error {
			_, err := cluster.AnnouncedAddress(t.Context(), "default", name)
			return err
		})
	}
}

// TestOwnerDeleted checks the same for a node that is deleted and created again.
func TestOwnerDeleted(t *testing.T) {
	nodes := cluster.API.CoreV1().Nodes()
	for i, addr := range failoverAddresses(t) {
		first := owner(t, addr, anyNode)
		waitReported(t, failoverServices[i], addr, first)
		node := cluster.Nodes[first].Name
		object, err := nodes.Get(t.Context(), node, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if err := nodes.Delete(t.Context(), node, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		owner(t, addr, func(n int) bool { return n != first })
		reach(t, cluster.Client, url(addr, 8086))
		// The garbage collector deletes the Speaker object of a deleted Node.
		eventually(t, "the Speaker object of "+node+" is deleted", func() error {
			if o, err := cluster.Resource("speakers").Get(t.Context(), node, metav1.GetOptions{}); err == nil &&
				o.GetOwnerReferences()[0].UID == object.UID {
				return fmt.Errorf("it still exists")
			}
			return nil
		})
		object.ResourceVersion, object.UID = "", ""
		if _, err := nodes.Create(t.Context(), object, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		setReady(t, first, true)
		owner(t, addr, func(n int) bool { return n == first })
	}
}

// setReady sets the condition Ready of a node.
func setReady(t *testing.T, node int, ready bool) {
	t.Helper()
	if err := cluster.SetNodeReady(context.Background(), node, ready); err != nil {
		t.Fatal(err)
	}
}

// TestNodeWeights checks that an address moves to a node when its label gives it a weight,
// that it moves back when the label is removed, and that no request is lost.
func TestNodeWeights(t *testing.T) {
	const ad = "apiVersion: fairlead.io/v1alpha1\nkind: L2Advertisement\nmetadata: {name: lan}\nspec: {ipAddressPools: [lan], nodeWeights: [%s]}\n"
	const preferred = "{nodeSelector: {matchExpressions: [{key: preferred, operator: Exists}]}, weight: 100}"
	service(t, "weighted", udp)
	addr := announced(t, "weighted")
	t.Cleanup(func() {
		if _, err := cluster.Kubectl(context.Background(), fmt.Sprintf(ad, ""), "apply", "--server-side", "-f", "-"); err != nil {
			t.Error(err)
		}
	})
	apply(t, fmt.Sprintf(ad, preferred+", {nodeSelector: {}, weight: 0}"))
	first := owner(t, addr, anyNode)
	next := (first + 1) % len(cluster.Nodes)
	label := func(text string) {
		if _, err := cluster.Kubectl(context.Background(), "", "label", "node", cluster.Nodes[next].Name, text); err != nil {
			t.Error(err)
		}
	}
	stop := streamUDP(t, addr)
	label("preferred=")
	owner(t, addr, func(node int) bool { return node == next })
	out, err := cluster.Fairlead(t.Context(), "explain", "svc", "default/weighted")
	if err != nil {
		t.Fatal(err)
	}
	contains(t, out, "rank 1", "weight 100", "rank 3", "weight 0")
	label("preferred-")
	owner(t, addr, func(node int) bool { return node == first })
	checkNoneLost(t, stop())

	if _, err := cluster.Kubectl(t.Context(), fmt.Sprintf(ad, "{nodeSelector: {}, weight: 101}"), "apply", "--server-side", "--dry-run=server", "-f", "-"); err == nil {
		t.Error("a weight of 101 was accepted")
	} else {
		contains(t, err.Error(), "spec.nodeWeights[0].weight", "less than or equal to 100")
	}
}
