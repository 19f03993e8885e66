package lab

import (
	"context"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TerminatePod begins to end the pod behind the i-th node, as a rolling update
// does: it still serves, but shall get no new connections.
func (c *Cluster) TerminatePod(ctx context.Context, i int) error {
	return c.deletePod(ctx, i, 30)
}

// ReplacePod ends the pod behind the i-th node at once, and makes another one.
func (c *Cluster) ReplacePod(ctx context.Context, i int) error {
	if err := c.deletePod(ctx, i, 0); err != nil {
		return err
	}
	return c.createPod(ctx, i)
}

func (c *Cluster) deletePod(ctx context.Context, i int, grace int64) error {
	if err := c.API.CoreV1().Pods("default").Delete(ctx, c.Pods[i].Name, metav1.DeleteOptions{GracePeriodSeconds: &grace}); err != nil {
		return fmt.Errorf("delete %s: %w", c.Pods[i].Name, err)
	}
	return nil
}
