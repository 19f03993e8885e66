package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
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
		first := detects(t, addr, detection)
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
	detects(t, addr, "900ms")
	apply(t, fmt.Sprintf(profile, "transmitInterval: 1000, receiveInterval: 20, detectMultiplier: 4"))
	detects(t, addr, "4s")
	apply(t, fmt.Sprintf(profile, "transmitInterval: 20, receiveInterval: 20"))
	fails("60ms")

	long := fmt.Sprintf(ad, ", bfdProfile: "+strings.Repeat("x", 254))
	if _, err := cluster.Kubectl(t.Context(), long, "apply", "--server-side", "--dry-run=server", "-f", "-"); err == nil {
		t.Error("a name of 254 characters was accepted")
	} else {
		contains(t, err.Error(), "spec.bfdProfile: Too long")
	}
}

// detects waits until all other nodes detect the failure of the owner within the time, and
// returns it.
func detects(t *testing.T, addr netip.Addr, within string) (node int) {
	t.Helper()
	eventually(t, "a failure of the owner is detected within "+within, func() error {
		node = owner(t, addr, anyNode)
		observers, err := observersOf(t, node)
		for _, o := range observers {
			if message, _ := o["message"].(string); !strings.HasSuffix(message, " within "+within) {
				return fmt.Errorf("a node that observes %s reports %q", cluster.Nodes[node].Name, message)
			}
		}
		return err
	})
	return node
}
