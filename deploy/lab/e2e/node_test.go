package e2e

import (
	"context"
	"fmt"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestOwnerNotReady(t *testing.T) {
	service(t, "failover")
	addr := announced(t, "failover")
	first := owner(t, addr, anyNode)
	if err := cluster.SetNodeReady(t.Context(), first, false); err != nil {
		t.Fatal(err)
	}
	owner(t, addr, func(node int) bool { return node != first })
	reach(t, cluster.Client, url(addr, 8086))
	contains(t, condition(t, "failover", "Announced", "Announced"), "node-")
	if err := cluster.SetNodeReady(context.Background(), first, true); err != nil {
		t.Fatal(err)
	}
	owner(t, addr, func(node int) bool { return node == first })
}

func TestOwnerExcluded(t *testing.T) {
	service(t, "excluded")
	addr := announced(t, "excluded")
	first := owner(t, addr, anyNode)
	const label = "node.kubernetes.io/exclude-from-external-load-balancers"
	if _, err := cluster.Kubectl(t.Context(), "", "label", "node", cluster.Nodes[first].Name, label+"="); err != nil {
		t.Fatal(err)
	}
	owner(t, addr, func(node int) bool { return node != first })
	if _, err := cluster.Kubectl(t.Context(), "", "label", "node", cluster.Nodes[first].Name, label+"-"); err != nil {
		t.Fatal(err)
	}
	owner(t, addr, func(node int) bool { return node == first })
}

func TestOwnersLinkDown(t *testing.T) {
	service(t, "cable")
	addr := announced(t, "cable")
	first := owner(t, addr, anyNode)
	reach(t, cluster.Client, url(addr, 8086))
	// The node is disconnected, so its failure is visible in the condition Ready only.
	plugIn := unplug(t, cluster.Nodes[first])
	if err := cluster.SetNodeReady(t.Context(), first, false); err != nil {
		t.Fatal(err)
	}
	owner(t, addr, func(node int) bool { return node != first })
	reach(t, cluster.Client, url(addr, 8086))
	plugIn()
	if err := cluster.RestoreRoutes(first); err != nil {
		t.Fatal(err)
	}
	if err := cluster.SetNodeReady(t.Context(), first, true); err != nil {
		t.Fatal(err)
	}
	owner(t, addr, func(node int) bool { return node == first })
	waitReported(t, "cable", addr, first)
	reach(t, cluster.Client, url(addr, 8086))
	// A controller on that node may have lost its lease.
	service(t, "after-cable")
	eventually(t, "after-cable is announced", func() error {
		restartEnded(t)
		_, err := cluster.AnnouncedAddress(t.Context(), "default", "after-cable")
		return err
	})
}

func TestOwnerDeleted(t *testing.T) {
	service(t, "node-gone")
	addr := announced(t, "node-gone")
	first := owner(t, addr, anyNode)
	waitReported(t, "node-gone", addr, first)
	node := cluster.Nodes[first].Name
	object, err := cluster.API.CoreV1().Nodes().Get(t.Context(), node, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := cluster.API.CoreV1().Nodes().Delete(t.Context(), node, metav1.DeleteOptions{}); err != nil {
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
	if _, err := cluster.API.CoreV1().Nodes().Create(t.Context(), object, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := cluster.SetNodeReady(t.Context(), first, true); err != nil {
		t.Fatal(err)
	}
	owner(t, addr, func(n int) bool { return n == first })
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
