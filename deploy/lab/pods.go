package lab

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// podRanges returns a NodeSpec with the pod CIDRs of the i-th node.
func podRanges(i int) (spec corev1.NodeSpec) {
	spec.PodCIDR = netip.PrefixFrom(podAddr(i), 24).Masked().String()
	spec.PodCIDRs = []string{spec.PodCIDR}
	if hasIPv6() {
		spec.PodCIDRs = append(spec.PodCIDRs, netip.PrefixFrom(pairedIPv6(podAddr(i)), prefix6).Masked().String())
	}
	return spec
}

// ServesOn is how long a pod is assumed to serve after SIGTERM.
const ServesOn = 5 * time.Second

// podEnd is the end of a pod, after which its host does not respond any more.
type podEnd struct {
	done chan struct{}
	err  error // valid once done is closed
}

// endPod ends the pod on the i-th node after some time, unless it ends already.
func (c *Cluster) endPod(i int, after time.Duration) *podEnd {
	if end := c.podEnds[i]; end != nil {
		return end
	}
	end := &podEnd{done: make(chan struct{})}
	c.podEnds[i] = end
	time.AfterFunc(after, func() {
		defer close(end.done)
		end.err = c.Pods[i].removePodAddresses()
	})
	return end
}

// CreatePod creates a ready pod on the i-th node, as the kubelet would. It has another address
// than the one before.
func (c *Cluster) CreatePod(ctx context.Context, i int) error {
	if c.podEnds[i] != nil {
		if err := c.Pods[i].addPodAddresses(nextPodAddr(c.Pods[i].Addr)); err != nil {
			return err
		}
		delete(c.podEnds, i)
	}
	pod, err := c.API.CoreV1().Pods("default").Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: c.Pods[i].Name, Labels: map[string]string{"app": "influxdb"}},
		Spec: corev1.PodSpec{
			NodeName: c.Nodes[i].Name,
			Containers: []corev1.Container{{
				Name: "influxdb", Image: "influxdb",
				Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8086}},
			}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("create %s: %w", c.Pods[i].Name, err)
	}
	pod.Status.Phase = corev1.PodRunning
	pod.Status.PodIP = c.Pods[i].Addr.String()
	for _, addr := range c.Pods[i].addresses() {
		pod.Status.PodIPs = append(pod.Status.PodIPs, corev1.PodIP{IP: addr.String()})
	}
	if _, err := c.API.CoreV1().Pods("default").UpdateStatus(ctx, pod, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("set %s running: %w", pod.Name, err)
	}
	return c.SetPodReady(ctx, i, true)
}

// SetPodReady sets the condition Ready of the pod on the i-th node.
func (c *Cluster) SetPodReady(ctx context.Context, i int, ready bool) error {
	pod, err := c.API.CoreV1().Pods("default").Get(ctx, c.Pods[i].Name, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("get %s: %w", c.Pods[i].Name, err)
	}
	status := corev1.ConditionFalse
	if ready {
		status = corev1.ConditionTrue
	}
	pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: status}}
	if _, err := c.API.CoreV1().Pods("default").UpdateStatus(ctx, pod, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("set %s ready=%t: %w", pod.Name, ready, err)
	}
	return nil
}

// TerminatePod starts the termination of the pod on the i-th node, as in a rolling
// update. The pod serves on for some time, but must receive no new connections. Then it drops
// all packets.
func (c *Cluster) TerminatePod(ctx context.Context, i int, servesOn time.Duration) error {
	if err := c.deletePod(ctx, i, 30); err != nil {
		return err
	}
	c.endPod(i, servesOn)
	return nil
}

// DeletePod deletes the pod on the i-th node when it has ended after TerminatePod, as the
// kubelet does. A pod that does not terminate ends at once.
func (c *Cluster) DeletePod(ctx context.Context, i int) error {
	end := c.endPod(i, 0)
	select {
	case <-end.done:
	case <-ctx.Done():
		return fmt.Errorf("end %s: %w", c.Pods[i].Name, ctx.Err())
	}
	if end.err != nil {
		return end.err
	}
	return c.deletePod(ctx, i, 0)
}

// ReplacePod deletes the pod on the i-th node as DeletePod does, and creates another one.
func (c *Cluster) ReplacePod(ctx context.Context, i int) error {
	if err := c.DeletePod(ctx, i); err != nil {
		return err
	}
	return c.CreatePod(ctx, i)
}

func (c *Cluster) deletePod(ctx context.Context, i int, grace int64) error {
	if err := c.API.CoreV1().Pods("default").Delete(ctx, c.Pods[i].Name, metav1.DeleteOptions{GracePeriodSeconds: &grace}); err != nil {
		return fmt.Errorf("delete %s: %w", c.Pods[i].Name, err)
	}
	return nil
}
