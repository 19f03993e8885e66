package main

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	lab "github.com/fairlead-io/fairlead/deploy/lab"
)

// showFailover disconnects the node that announces the address while a client on the LAN
// sends requests, and prints for how long there was no response. By the policy Local, the
// node that announces the address answers itself.
func showFailover(ctx context.Context, c *lab.Cluster, o lab.Options, external netip.Addr) error {
	first, err := announcer(ctx, c, external, -1)
	if err != nil {
		return err
	}
	if err := c.WaitObserved(ctx, first); err != nil {
		return err
	}
	fmt.Println()
	next, report := 0, lab.StreamReport{}
	err = o.Progress.Step("power off "+c.Nodes[first].Name+", which announces the address, and power it on again", func() error {
		stop := lab.RequestStream{URL: fmt.Sprintf("http://%s:8086/ping", external), Every: requestEvery}.Start(ctx, c.Client)
		time.Sleep(500 * time.Millisecond)
		err := c.Nodes[first].SetLink(false)
		if err == nil {
			next, err = announcer(ctx, c, external, first)
		}
		time.Sleep(500 * time.Millisecond)
		report = stop()
		if err != nil {
			return err
		}
		if err := c.Nodes[first].SetLink(true); err != nil {
			return err
		}
		return c.RestoreRoutes(first)
	})
	if err != nil {
		return err
	}
	fmt.Printf("\n%s lost its power. %s has taken %s over: the client was without a response for %s, and lost %d of %d requests.\n",
		c.Nodes[first].Name, c.Nodes[next].Name, external, report.Silence.Round(time.Millisecond), report.Lost, report.Sent)
	return nil
}

// announcer waits until one node answers ARP for the address, other than the node not, and
// returns it.
func announcer(ctx context.Context, c *lab.Cluster, addr netip.Addr, not int) (node int, err error) {
	err = lab.Wait(ctx, fmt.Sprintf("one node announces %s", addr), func() error {
		macs, err := c.Client.Resolve(addr, 100*time.Millisecond)
		if err != nil {
			return err
		}
		for i, n := range c.Nodes {
			if i != not && len(macs) == 1 && n.MAC() == macs[0] {
				node = i
				return nil
			}
		}
		return fmt.Errorf("%v answer", macs)
	})
	return node, err
}
