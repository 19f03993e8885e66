package e2e

import (
	"context"
	"fmt"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// TestSpeakerRestartKeepsItsReport checks that a restarting speaker does not report
// empty interfaces, which would make other nodes the owners of its addresses.
func TestSpeakerRestartKeepsItsReport(t *testing.T) {
	service(t, "reported")
	addr := announced(t, "reported")
	node := owner(t, addr, anyNode)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	l2nodes, err := cluster.Resource("l2nodes").Watch(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	empty := make(chan error, 1)
	go func() {
		defer close(empty)
		for e := range l2nodes.ResultChan() {
			o, ok := e.Object.(*unstructured.Unstructured)
			if !ok {
				continue
			}
			if interfaces, _, _ := unstructured.NestedSlice(o.Object, "status", "interfaces"); len(interfaces) == 0 {
				empty <- fmt.Errorf("the speaker of %s reported %v", o.GetName(), o.Object["status"])
				return
			}
		}
	}()
	for range 3 {
		for i, p := range cluster.Speakers {
			p.Kill()
			if err := cluster.StartSpeaker(context.Background(), i); err != nil {
				t.Fatal(err)
			}
		}
		owner(t, addr, func(n int) bool { return n == node })
	}
	cancel()
	if err := <-empty; err != nil {
		t.Error(err)
	}
}
