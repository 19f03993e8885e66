package e2e

import (
	"context"
	"fmt"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// TestFailover checks that another node takes an address over while the Node of the owner
// stays Ready: when the owner's speaker is killed, stands still, ends or is disconnected,
// with and without BFD between the speakers. One node answers before, and one after.
func TestFailover(t *testing.T) {
	service(t, "taken-over")
	addr := announced(t, "taken-over")
	for _, row := range []struct {
		name    string
		fail    func(t *testing.T, node int)
		recover func(t *testing.T, node int)
	}{
		{"killed", func(_ *testing.T, node int) { cluster.Speakers[node].Kill() }, startSpeaker},
		{"ended", func(t *testing.T, node int) {
			if err := cluster.Speakers[node].Stop(); err != nil {
				t.Fatal(err)
			}
		}, startSpeaker},
		{"stopped", func(_ *testing.T, node int) { cluster.Speakers[node].Signal(syscall.SIGSTOP) }, func(_ *testing.T, node int) {
			cluster.Speakers[node].Signal(syscall.SIGCONT)
		}},
		{"disconnected", func(t *testing.T, node int) {
			if err := cluster.Nodes[node].SetLink(false); err != nil {
				t.Fatal(err)
			}
		}, func(t *testing.T, node int) {
			if err := cluster.Nodes[node].SetLink(true); err != nil {
				t.Error(err)
			}
			if err := cluster.RestoreRoutes(node); err != nil {
				t.Error(err)
			}
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			first := owner(t, addr, anyNode)
			observed(t, first)
			began := time.Now()
			row.fail(t, first)
			next := owner(t, addr, func(node int) bool { return node != first })
			t.Logf("node %d answers instead of node %d after %s", next+1, first+1, time.Since(began).Round(time.Millisecond))
			row.recover(t, first)
			// The recovered node observes the new owner, and does not take the address back at
			// once.
			observed(t, next)
			owner(t, addr, func(node int) bool { return node == next })
			reach(t, cluster.Client, url(addr, 8086))
		})
	}
}

func startSpeaker(t *testing.T, node int) {
	t.Helper()
	if err := cluster.StartSpeaker(context.Background(), node); err != nil {
		t.Fatal(err)
	}
}

// observed waits until other nodes observe a node by BFD, so that they notice its failure.
func observed(t *testing.T, node int) {
	t.Helper()
	eventually(t, fmt.Sprintf("two nodes observe node %d", node+1), func() error {
		all, err := cluster.Resource("speakers").List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		up := 0
		for _, s := range all.Items {
			neighbors, _, err := unstructured.NestedSlice(s.Object, "status", "neighbors")
			if err != nil {
				return err
			}
			for _, n := range neighbors {
				if n := n.(map[string]any); n["node"] == cluster.Nodes[node].Name && n["bfd"] == "Up" {
					up++
				}
			}
		}
		if up != len(cluster.Nodes)-1 {
			return fmt.Errorf("%d of them have a BFD session that is Up", up)
		}
		return nil
	})
}
