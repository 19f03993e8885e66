package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	lab "github.com/fairlead-io/fairlead/deploy/lab"
)

// measureMoves counts the requests that are lost when addresses are moved on purpose.
func (b *failoverBench) measureMoves(ctx context.Context, family string) error {
	last := addressOf(family, b.made-1)
	if err := b.countLost(ctx, "exclusion of a node", family, last, b.planned, func() error {
		node := b.ownerOf(last)
		if err := b.exclude(ctx, "true", node); err != nil {
			return err
		}
		err := b.waitMoved(ctx, last, node)
		time.Sleep(1500 * time.Millisecond)
		return errors.Join(err, b.exclude(ctx, "false", node))
	}); err != nil {
		return err
	}
	if err := b.measureDrain(ctx, family); err != nil {
		return err
	}
	if err := b.Apply(ctx, fmt.Sprintf(failoverObjects, "Always")); err != nil {
		return err
	}
	err := b.countLost(ctx, "rolling upgrade of the speakers, and failback", family, last, b.upgrades, func() error {
		// The client asks for the MAC again each time: one that knows it would not notice an
		// owner that does not answer.
		forget := func() error { return b.Client.ForgetNeighbor(last) }
		for i := range b.Nodes {
			if err := errors.Join(b.Speakers[i].Stop(), forget(), b.StartSpeaker(ctx, i), forget()); err != nil {
				return err
			}
			if _, err := b.settle(ctx); err != nil {
				return err
			}
		}
		time.Sleep(32 * time.Second) // the hold-down
		return forget()
	})
	return errors.Join(err, b.Apply(ctx, fmt.Sprintf(failoverObjects, "Never")))
}

// measureDrain moves the address of a Service with the policy Local: the pod on its node is
// terminated, as by kubectl drain.
func (b *failoverBench) measureDrain(ctx context.Context, family string) error {
	addr := addressOf(family, -246) // below those of the other Services
	err := b.withControllers(ctx, func() error {
		_, err := b.API.CoreV1().Services("default").Create(ctx, &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Name: "local", Annotations: map[string]string{"fairlead.io/load-balancer-ips": addr.String()}},
			Spec: corev1.ServiceSpec{
				Type: corev1.ServiceTypeLoadBalancer, ExternalTrafficPolicy: corev1.ServiceExternalTrafficPolicyLocal,
				IPFamilies: []corev1.IPFamily{corev1.IPFamily(family)},
				Selector:   map[string]string{"app": "influxdb"},
				Ports:      []corev1.ServicePort{{Port: udpPort, Protocol: corev1.ProtocolUDP}},
			},
		}, metav1.CreateOptions{})
		if err != nil {
			return err
		}
		return b.waitServed(ctx, b.Client, addr)
	})
	if err != nil {
		return err
	}
	b.others++
	defer func() { b.others-- }()
	err = b.countLost(ctx, "drain of a node (policy Local)", family, addr, b.planned, func() error {
		node := b.ownerOf(addr)
		if _, err := b.Kubectl(ctx, "", "cordon", b.Nodes[node].Name); err != nil {
			return err
		}
		if err := b.TerminatePod(ctx, node, lab.ServesOn); err != nil {
			return err
		}
		err := b.waitMoved(ctx, addr, node)
		time.Sleep(1500 * time.Millisecond)
		_, failed := b.Kubectl(ctx, "", "uncordon", b.Nodes[node].Name)
		return errors.Join(err, failed, b.ReplacePod(ctx, node))
	})
	return errors.Join(err, b.API.CoreV1().Services("default").Delete(ctx, "local", metav1.DeleteOptions{}))
}

// ownerOf returns the node that announces the address.
func (b *failoverBench) ownerOf(addr netip.Addr) int { return b.nodeOf[b.claims.Claims()[addr].MAC] }

func (b *failoverBench) waitMoved(ctx context.Context, addr netip.Addr, from int) error {
	return lab.Wait(ctx, fmt.Sprintf("%s is moved from %s", addr, b.Nodes[from].Name), func() error {
		if b.ownerOf(addr) == from {
			return errors.New("it is not")
		}
		return nil
	})
}

// countLost repeats a planned move while a client sends requests.
func (b *failoverBench) countLost(ctx context.Context, name, family string, addr netip.Addr, times int, move func() error) error {
	lost, sent, silences := 0, 0, []time.Duration(nil)
	err := b.Step(fmt.Sprintf("%s, %d times", name, times), func() error {
		for range times {
			if _, err := b.settle(ctx); err != nil {
				return err
			}
			stop := udpStream(addr).Start(ctx, b.Client)
			time.Sleep(300 * time.Millisecond)
			err := move()
			time.Sleep(300 * time.Millisecond)
			report := stop()
			lost, sent, silences = lost+report.Lost, sent+report.Sent, append(silences, report.Silence)
			if err != nil {
				return err
			}
		}
		return nil
	})
	b.table.addLost(fmt.Sprintf("%s, %d %s: lost of %d requests", name, b.made, family, sent), lost, silences)
	return err
}
