package main

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"

	lab "github.com/fairlead-io/fairlead/deploy/lab"
)

// measurePowerOffs disconnects nodes while a client sends a request every 5 ms.
func (b *bench) measurePowerOffs(ctx context.Context) (lines []string, err error) {
	if err := b.createService(ctx, "local", corev1.ServiceExternalTrafficPolicyLocal); err != nil {
		return nil, err
	}
	addr, err := b.waitAllNodes(ctx, "local")
	if err != nil {
		return nil, err
	}
	var outages []time.Duration
	lost, sent := 0, 0
	err = b.Step(fmt.Sprintf("power off a node, %d times", b.powerOffs), func() error {
		for i := range b.powerOffs {
			node := i % len(b.Nodes)
			report, err := b.streamDuring(ctx, addr, func() error {
				if err := b.Nodes[node].SetLink(false); err != nil {
					return err
				}
				time.Sleep(1500 * time.Millisecond)
				return nil
			})
			if err != nil {
				return err
			}
			outages = append(outages, report.Outage)
			lost, sent = lost+report.Lost, sent+report.Sent
			if err := b.Nodes[node].SetLink(true); err != nil {
				return err
			}
			if err := b.RestoreRoutes(node); err != nil {
				return err
			}
			if _, err := b.waitAllNodes(ctx, "local"); err != nil {
				return err
			}
		}
		return nil
	})
	line := fmt.Sprintf("node power-off → full reachability, BFD 50 ms × 3: median %s, max %s (%d of %d requests lost in %d runs)",
		quantile(outages, .5), quantile(outages, 1), lost, sent, b.powerOffs)
	return []string{line}, err
}

// measurePlanned restarts a speaker and drains a node while a client sends requests.
func (b *bench) measurePlanned(ctx context.Context) (lines []string, err error) {
	addr, err := b.waitAllNodes(ctx, "local")
	if err != nil {
		return nil, err
	}
	for _, event := range []struct {
		name string
		do   func() error
	}{
		{"speaker upgrade", func() error {
			if err := b.Speakers[0].Stop(); err != nil {
				return err
			}
			time.Sleep(time.Second)
			if err := b.StartSpeaker(ctx, 0); err != nil {
				return err
			}
			time.Sleep(3 * time.Second)
			return nil
		}},
		{"drain", func() error {
			if _, err := b.Kubectl(ctx, "", "label", "node", b.Nodes[1].Name, corev1.LabelNodeExcludeBalancers+"=true"); err != nil {
				return err
			}
			time.Sleep(8 * time.Second)
			_, err := b.Kubectl(ctx, "", "label", "node", b.Nodes[1].Name, corev1.LabelNodeExcludeBalancers+"-")
			time.Sleep(2 * time.Second)
			return err
		}},
	} {
		var report lab.StreamReport
		err := b.Step(event.name+" under load", func() (err error) {
			report, err = b.streamDuring(ctx, addr, event.do)
			return err
		})
		if err != nil {
			return nil, err
		}
		lines = append(lines, fmt.Sprintf("%s: %d of %d requests lost", event.name, report.Lost, report.Sent))
	}
	return lines, nil
}

// streamDuring calls do while a client sends requests.
func (b *bench) streamDuring(ctx context.Context, addr netip.Addr, do func() error) (lab.StreamReport, error) {
	stop := lab.RequestStream{URL: fmt.Sprintf("http://%s:8086/ping", addr), Every: requestEvery}.Start(ctx, b.Network.Remote)
	time.Sleep(500 * time.Millisecond)
	err := do()
	return stop(), err
}
