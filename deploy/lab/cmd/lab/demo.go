package main

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	lab "github.com/fairlead-io/fairlead/deploy/lab"
)

const l2Manifests = `apiVersion: fairlead.io/v1alpha1
kind: IPAddressPool
metadata:
  name: lan
spec:
  addresses: [10.13.242.236-10.13.242.250]
---
apiVersion: fairlead.io/v1alpha1
kind: L2Advertisement
metadata:
  name: lan
spec:
  ipAddressPools: [lan]
---
apiVersion: v1
kind: Service
metadata:
  name: influxdb
spec:
  type: LoadBalancer
  externalTrafficPolicy: Local
  selector: {app: influxdb}
  ports:
  - port: 8086
`

// runDemo starts a cluster and demonstrates announcements by ARP and BGP.
func runDemo(ctx context.Context, o lab.Options, keep bool) error {
	started := time.Now()
	c, err := lab.Start(ctx, o)
	if err != nil {
		return err
	}
	var external netip.Addr
	err = o.Progress.Step("create an IPAddressPool, an L2Advertisement and a Service", func() error {
		if err := c.Apply(ctx, l2Manifests); err != nil {
			return err
		}
		external, err = c.WaitAnnounced(ctx, "influxdb")
		return err
	})
	if err != nil {
		return err
	}
	fmt.Printf("  == first address after %.1f s\n", time.Since(started).Seconds())
	if err := showService(ctx, c, external); err != nil {
		return err
	}
	if len(c.Nodes) > 1 {
		if err := showFailover(ctx, c, o, external); err != nil {
			return err
		}
	}
	if err := showBGP(ctx, c, o); err != nil {
		return err
	}
	if !keep {
		fmt.Println("\nDone. Everything was removed.")
		return nil
	}
	if last := c.Nodes[len(c.Nodes)-1]; len(c.Nodes) > 1 {
		err := o.Progress.Step("power on "+last.Name, func() error { return last.SetLink(true) })
		if err != nil {
			return err
		}
	}
	return lab.Keep(ctx, c)
}

// showRequest repeats the request until it succeeds, because kube-proxy programs a new
// Service up to a second after its address is assigned.
func showRequest(ctx context.Context, from *lab.Host, url string) error {
	var answer string
	err := lab.Wait(ctx, url+" answers", func() (err error) {
		answer, err = from.Get(ctx, url)
		return err
	})
	if err == nil {
		fmt.Printf("\n%s$ curl %s\n%s\n", from.Name, url, answer)
	}
	return err
}

// showService shows that a Service is reachable, and which node announces it.
func showService(ctx context.Context, c *lab.Cluster, external netip.Addr) error {
	if err := showCommands(ctx, c, "get svc influxdb"); err != nil {
		return err
	}
	svc, err := c.API.CoreV1().Services("default").Get(ctx, "influxdb", metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("get Service influxdb: %w", err)
	}
	urls := []string{fmt.Sprintf("http://%s:8086/ping", external)}
	for _, node := range c.Nodes {
		urls = append(urls, fmt.Sprintf("http://%s:%d/ping", node.Addr, svc.Spec.Ports[0].NodePort))
	}
	for _, url := range urls {
		if err := showRequest(ctx, c.Client, url); err != nil {
			return err
		}
	}

	macs, err := c.Client.Resolve(external, 500*time.Millisecond)
	if err != nil {
		return err
	}
	fmt.Printf("\nclient$ arping %s\n", external)
	if len(macs) != 1 {
		return fmt.Errorf("%d machines answer ARP for %s, want 1: %s", len(macs), external, strings.Join(macs, ", "))
	}
	for _, node := range c.Nodes {
		if node.MAC() == macs[0] {
			fmt.Printf("reply from %s, which is %s (%s)\n", macs[0], node.Name, node.Addr)
		}
	}
	if err := showCommands(ctx, c, "get ipaddresspools,l2advertisements,speakers"); err != nil {
		return err
	}
	out, err := c.Fairlead(ctx, "explain", "svc", "default/influxdb")
	if err != nil {
		return err
	}
	fmt.Printf("\n$ fairlead explain svc default/influxdb\n%s", out)
	return nil
}
