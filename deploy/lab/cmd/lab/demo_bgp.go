package main

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"

	lab "github.com/fairlead-io/fairlead/deploy/lab"
)

const bgpManifests = `apiVersion: fairlead.io/v1alpha1
kind: BFDProfile
metadata:
  name: fast
spec:
  transmitInterval: 300
  receiveInterval: 300
---
apiVersion: fairlead.io/v1alpha1
kind: BGPPeer
metadata:
  name: tor
spec:
  myASN: 64512
  peerASN: 64513
  peerAddress: 10.13.242.251
  bfdProfile: fast
---
apiVersion: fairlead.io/v1alpha1
kind: IPAddressPool
metadata:
  name: routed
spec:
  addresses: [198.51.100.1-198.51.100.254]
  autoAssign: false
---
apiVersion: fairlead.io/v1alpha1
kind: BGPAdvertisement
metadata:
  name: tor
spec:
  ipAddressPools: [routed]
---
apiVersion: v1
kind: Service
metadata:
  name: routed
  annotations: {fairlead.io/address-pool: routed}
spec:
  type: LoadBalancer
  externalTrafficPolicy: Local
  selector: {app: influxdb}
  ports:
  - port: 8086
`

// bfdEvery is the BFD interval of the router, with a detect multiplier of 3. A shorter
// one resets sessions on a busy machine.
const bfdEvery = 300 * time.Millisecond

// requestEvery is the interval between the requests of the client that measures an
// outage.
const requestEvery = 5 * time.Millisecond

// showBGP announces a pool by BGP only, so that no request is answered because of ARP,
// and disconnects a node.
func showBGP(ctx context.Context, c *lab.Cluster, o lab.Options) error {
	fmt.Println("\nA pool that is announced by BGP only, to a router with a client behind it")
	router, err := c.Network.AddRouter("tor", 251)
	if err != nil {
		return err
	}
	err = o.Progress.Step(fmt.Sprintf("start a router (BIRD): AS 64513, BFD every %s", bfdEvery), func() error {
		config := lab.BGP{
			ASN: 64513, RouterID: router.Addr,
			Neighbors: lab.NodeNeighbors(c.Nodes, 64512, func(n *lab.Neighbor, _ *lab.Host) { n.BFD = bfdEvery }),
		}
		if err := router.StartBIRD(ctx, config.BIRD()); err != nil {
			return err
		}
		return c.SetGateways(router)
	})
	if err != nil {
		return err
	}
	var external netip.Addr
	var hops []netip.Addr
	for _, n := range c.Nodes {
		hops = append(hops, n.Addr)
	}
	err = o.Progress.Step("create an IPAddressPool, a BGPPeer, a BGPAdvertisement and a Service", func() error {
		if err := c.Apply(ctx, bgpManifests); err != nil {
			return err
		}
		var err error
		if external, err = c.WaitAnnounced(ctx, "routed"); err != nil {
			return err
		}
		return router.WaitRoute(ctx, netip.PrefixFrom(external, 32), hops...)
	})
	if err != nil {
		return err
	}
	if err := showCommands(ctx, c, "get svc routed"); err != nil {
		return err
	}
	if err := showSessions(ctx, c); err != nil {
		return err
	}
	if err := showRoute(ctx, router, external, hops); err != nil {
		return err
	}
	if err := showRequest(ctx, c.Network.Remote, fmt.Sprintf("http://%s:8086/ping", external)); err != nil {
		return err
	}
	out, err := c.Fairlead(ctx, "explain", "svc", "default/routed")
	if err != nil {
		return err
	}
	fmt.Printf("\n$ fairlead explain svc default/routed\n%s", out)
	if len(c.Nodes) < 2 {
		return nil
	}
	return showPowerOff(ctx, c, o, router, external)
}

// showPowerOff disconnects a node while a client sends requests, and prints how many
// requests were lost.
func showPowerOff(ctx context.Context, c *lab.Cluster, o lab.Options, router *lab.Router, external netip.Addr) error {
	last := len(c.Nodes) - 1
	var hops []netip.Addr
	for _, n := range c.Nodes[:last] {
		hops = append(hops, n.Addr)
	}
	stop := lab.RequestStream{URL: fmt.Sprintf("http://%s:8086/ping", external), Every: requestEvery}.Start(ctx, c.Network.Remote)
	fmt.Println()
	err := o.Progress.Step("power off "+c.Nodes[last].Name+" while the client sends requests", func() error {
		time.Sleep(500 * time.Millisecond)
		if err := c.Nodes[last].SetLink(false); err != nil {
			return err
		}
		if err := router.WaitRoute(ctx, netip.PrefixFrom(external, 32), hops...); err != nil {
			return err
		}
		time.Sleep(time.Second)
		return nil
	})
	report := stop()
	if err != nil {
		return err
	}
	fmt.Printf("\nremote$ one request every %s: %s\n", requestEvery, report)
	return showRoute(ctx, router, external, hops)
}

// showSessions waits until the status of the BGPPeer has a session with every node, and
// prints it. The controller writes it later than the router has the routes.
func showSessions(ctx context.Context, c *lab.Cluster) error {
	want := fmt.Sprintf("Established %d/%[1]d", len(c.Nodes))
	var out string
	err := lab.Wait(ctx, "BGPPeer tor is "+want, func() (err error) {
		if out, err = c.Kubectl(ctx, "", "get", "bgppeers"); err == nil && !strings.Contains(out, want) {
			err = fmt.Errorf("the BGPPeers are\n%s", out)
		}
		return err
	})
	if err == nil {
		fmt.Printf("\n$ kubectl get bgppeers\n%s", out)
	}
	return err
}

// showRoute waits until BIRD and the kernel of the router have a route to the address by
// exactly these next hops, and prints them.
func showRoute(ctx context.Context, router *lab.Router, addr netip.Addr, hops []netip.Addr) error {
	var out string
	err := lab.Wait(ctx, fmt.Sprintf("BIRD has a route to %s by %v", addr, hops), func() (err error) {
		if out, err = router.Show(ctx, "show", "route", "for", addr.String(), "table", "master4"); err != nil {
			return err
		}
		have := strings.Count(out, "via ")
		for _, hop := range hops {
			if have != len(hops) || !strings.Contains(out, "via "+hop.String()+" ") {
				return fmt.Errorf("the routes are\n%s", out)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := router.WaitRoute(ctx, netip.PrefixFrom(addr, 32), hops...); err != nil {
		return err
	}
	fmt.Printf("\n%s$ birdc show route for %s\n%s\n", router.Name, addr, strings.TrimSpace(out))
	fmt.Printf("\n%s$ ip route show %s    # the next hops in the kernel\n", router.Name, addr)
	for _, hop := range hops {
		fmt.Printf("  nexthop via %s\n", hop)
	}
	return nil
}

// showCommands runs kubectl commands and prints their output.
func showCommands(ctx context.Context, c *lab.Cluster, commands ...string) error {
	for _, command := range commands {
		out, err := c.Kubectl(ctx, "", strings.Fields(command)...)
		if err != nil {
			return err
		}
		fmt.Printf("\n$ kubectl %s\n%s", command, out)
	}
	return nil
}
