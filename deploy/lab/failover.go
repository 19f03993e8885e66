package lab

import (
	"context"
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// WaitObserved waits until all other nodes observe the node by BFD, so that they notice its
// failure.
func (c *Cluster) WaitObserved(ctx context.Context, node int) error {
	return Wait(ctx, fmt.Sprintf("all other nodes observe %s", c.Nodes[node].Name), func() error {
		all, err := c.Resource("speakers").List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		if n := observersOf(all)[c.Nodes[node].Name]; n != min(2, len(c.Nodes)-1) {
			return fmt.Errorf("%d of them have a BFD session that is Up", n)
		}
		return nil
	})
}

// Successors returns the other nodes in the order in which they take over the address of a
// Service in the namespace default, as "fairlead explain" states it.
func (c *Cluster) Successors(ctx context.Context, service string, owner int) (nodes []int, err error) {
	out, err := c.Fairlead(ctx, "explain", "svc", "default/"+service)
	if err != nil {
		return nil, err
	}
	_, after, _ := strings.Cut(out, fmt.Sprintf("if %s fails: ", c.Nodes[owner].Name))
	line, _, _ := strings.Cut(after, "\n")
	for name := range strings.SplitSeq(line, ", then ") {
		i := slices.IndexFunc(c.Nodes, func(n *Host) bool { return n.Name == name })
		if i < 0 {
			return nil, fmt.Errorf("%s has no successors for %s:\n%s", c.Nodes[owner].Name, service, out)
		}
		nodes = append(nodes, i)
	}
	return nodes, nil
}

// observersOf returns the number of Speakers that report a BFD session that is Up with each
// node.
func observersOf(speakers *unstructured.UnstructuredList) map[string]int {
	observers := map[string]int{}
	for _, s := range speakers.Items {
		neighbors, _, _ := unstructured.NestedSlice(s.Object, "status", "neighbors")
		for _, n := range neighbors {
			if n, ok := n.(map[string]any); ok && n["bfd"] == "Up" {
				observers[fmt.Sprint(n["node"])]++
			}
		}
	}
	return observers
}
