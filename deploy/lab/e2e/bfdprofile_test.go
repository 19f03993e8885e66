package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// TestNodeSessions checks that the sessions between nodes have the intervals of the
// BFDProfile that the L2Advertisement names, and the default ones while it is missing, that
// the condition reports that, and that an address fails over with both.
func TestNodeSessions(t *testing.T) {
	const ad = "apiVersion: fairlead.io/v1alpha1\nkind: L2Advertisement\nmetadata: {name: lan}\nspec: {ipAddressPools: [lan]%s}\n"
	service(t, "sessions")
	addr := announced(t, "sessions")
	t.Cleanup(func() {
		if _, err := cluster.Kubectl(context.Background(), fmt.Sprintf(ad, ""), "apply", "--server-side", "-f", "-"); err != nil {
			t.Error(err)
		}
	})
	fails := func(detection string) {
		t.Helper()
		first := owner(t, addr, anyNode)
		detects(t, first, detection)
		cluster.Speakers[first].Kill()
		owner(t, addr, func(node int) bool { return node != first })
		startSpeaker(t, first)
	}

	apply(t, fmt.Sprintf(ad, ", bfdProfile: slow"))
	message := ready(t, "l2advertisements", "lan", "UnknownBFDProfile")
	contains(t, message, `spec.bfdProfile: BFDProfile "slow" does not exist: the default of 50 ms × 3 applies`)
	fails("150ms")

	const profile = "apiVersion: fairlead.io/v1alpha1\nkind: BFDProfile\nmetadata: {name: slow}\nspec: {%s}\n"
	manifest(t, fmt.Sprintf(profile, "transmitInterval: 300, receiveInterval: 300, passiveMode: true"))
	ready(t, "l2advertisements", "lan", "Ready")
	fails("900ms")

	// A change is negotiated while sessions stay Up.
	node := owner(t, addr, anyNode)
	detects(t, node, "900ms")
	apply(t, fmt.Sprintf(profile, "transmitInterval: 1000, receiveInterval: 20, detectMultiplier: 4"))
	detects(t, node, "4s")
	apply(t, fmt.Sprintf(profile, "transmitInterval: 20, receiveInterval: 20"))
	fails("60ms")

	long := fmt.Sprintf(ad, ", bfdProfile: "+strings.Repeat("x", 254))
	if _, err := cluster.Kubectl(t.Context(), long, "apply", "--server-side", "--dry-run=server", "-f", "-"); err == nil {
		t.Error("a name of 254 characters was accepted")
	} else {
		contains(t, err.Error(), "spec.bfdProfile: Too long")
	}
}

// detects waits until all other nodes detect the failure of a node within the time.
func detects(t *testing.T, node int, within string) {
	t.Helper()
	observed(t, node)
	eventually(t, fmt.Sprintf("a failure of node %d is detected within %s", node+1, within), func() error {
		all, err := cluster.Resource("speakers").List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		var wrong []string
		for _, s := range all.Items {
			neighbors, _, err := unstructured.NestedSlice(s.Object, "status", "neighbors")
			if err != nil {
				return err
			}
			for _, n := range neighbors {
				message, _ := n.(map[string]any)["message"].(string)
				if n.(map[string]any)["node"] == cluster.Nodes[node].Name && !strings.HasSuffix(message, " within "+within) {
					wrong = append(wrong, s.GetName()+": "+message)
				}
			}
		}
		if len(wrong) > 0 {
			return fmt.Errorf("%s", strings.Join(wrong, "; "))
		}
		return nil
	})
}
