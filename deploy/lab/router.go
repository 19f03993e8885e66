package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"github.com/vishvananda/netlink"
)

// Network is the lab's LAN and, as soon as it has a router, the WAN behind it,
// with a client. Machines have IPv4 and IPv6 addresses on both: N on
// 10.13.242.0/24 and fd13:242::/64 (LAN), 10.13.243.0/24 and fd13:243::/64 (WAN).
type Network struct {
	Routers []*Router
	// Remote is a client behind the routers, number 100 on the WAN. Its
	// packets go by the first router, unless SetGateways says otherwise.
	Remote *Host

	bin      Binaries
	lan, wan *netlink.Bridge
}

// StartNetwork makes a sandbox that the process is the first one of a LAN with
// nothing else on it. A Cluster has one of its own.
func StartNetwork(bin Binaries) (*Network, error) {
	if err := setUpSandbox(); err != nil {
		return nil, err
	}
	bridge, err := createLAN()
	if err != nil {
		return nil, err
	}
	return &Network{bin: bin, lan: bridge}, nil
}

// AddHost adds a machine with this number to the LAN.
func (n *Network) AddHost(name string, number byte) (*Host, error) {
	h, err := newHost(name, n.bin.commandEnv())
	if err != nil {
		return nil, err
	}
	return h, joinLAN(n.lan, h, netip.AddrFrom4([4]byte{10, 13, 242, number}))
}

// Router is a machine between the LAN and the WAN: eth0 is on the LAN, wan on
// the WAN. It forwards, and shares a route's flows between its next hops by
// addresses and ports.
type Router struct {
	*Host
	// WAN address; Addr is the one on the LAN.
	WAN netip.Addr

	bin       Binaries
	dir       string // of the routing daemon's files
	daemon    routingDaemon
	processes []*Process // of the routing daemon
}

// routingDaemon is a routing daemon, BIRD or FRR.
type routingDaemon interface {
	// start starts the processes, and returns when they have the configuration.
	// It returns those that it has started also with an error.
	start(ctx context.Context, r *Router, config string) ([]*Process, error)
	// configure makes running processes take another configuration.
	configure(ctx context.Context, r *Router, config string) error
	show(ctx context.Context, r *Router, args ...string) (string, error)
	sessions(ctx context.Context, r *Router) (map[string]Session, error)
}

// AddRouter adds a router with this number on the LAN and the WAN. Numbers from
// 251 on are free.
func (n *Network) AddRouter(name string, number byte) (*Router, error) {
	r, err := n.newRouter(name)
	if err != nil {
		return nil, err
	}
	if err := joinLAN(n.lan, r.Host, netip.AddrFrom4([4]byte{10, 13, 242, number})); err != nil {
		return nil, err
	}
	if err := n.joinWAN(r.Host, "wan", number, netip.Addr{}); err != nil {
		return nil, err
	}
	r.WAN = wanAddr(number)
	if err := errors.Join(r.linkUp("eth0"), r.linkUp("wan")); err != nil {
		return nil, err
	}
	if n.Remote == nil {
		if n.Remote, err = newHost("remote", n.bin.commandEnv()); err != nil {
			return nil, err
		}
		if err := n.joinWAN(n.Remote, "eth0", 100, r.WAN); err != nil {
			return nil, err
		}
		n.Remote.Addr = wanAddr(100)
		n.Remote.Addr6 = pairedIPv6(n.Remote.Addr)
	}
	n.Routers = append(n.Routers, r)
	return r, nil
}

// RouterOn makes a router of any machine, as far as running a routing daemon goes.
func (n *Network) RouterOn(h *Host) *Router {
	return &Router{Host: h, bin: n.bin, dir: filepath.Join(runDir, h.Name)}
}

// AddFarRouter adds a router that is on the WAN only, and reaches the LAN by
// another one: for sessions over several hops.
func (n *Network) AddFarRouter(name string, number byte, via *Router) (*Router, error) {
	r, err := n.newRouter(name)
	if err != nil {
		return nil, err
	}
	if err := n.joinWAN(r.Host, "wan", number, via.WAN); err != nil {
		return nil, err
	}
	r.WAN = wanAddr(number)
	r.Addr, r.Addr6 = r.WAN, pairedIPv6(r.WAN)
	// Next hops on the LAN are looked up by the daemons, which need more than
	// a default route for that.
	return r, r.Do(func() error {
		for _, p := range []netip.Prefix{lanPrefix, netip.PrefixFrom(pairedIPv6(lanPrefix.Addr()), prefix6)} {
			gateway := via.WAN
			if p.Addr().Is6() {
				gateway = pairedIPv6(gateway)
			}
			if err := netlink.RouteAdd(&netlink.Route{Dst: ipNet(p), Gw: gateway.AsSlice(), Protocol: 4}); err != nil {
				return fmt.Errorf("router %s: route to the LAN: %w", name, err)
			}
		}
		return nil
	})
}

// linkUp takes a link up and waits until it has its link-local address, which
// takes the kernel a second: daemons that look before take wrong decisions.
func (h *Host) linkUp(name string) error {
	return Wait(context.Background(), name+" of "+h.Name+" is up", func() error {
		return h.Do(func() error {
			link, err := netlink.LinkByName(name)
			if err != nil {
				return Permanent(err)
			}
			if err := netlink.LinkSetUp(link); err != nil {
				return Permanent(err)
			}
			addrs, err := netlink.AddrList(link, netlink.FAMILY_V6)
			if err == nil && !slices.ContainsFunc(addrs, func(a netlink.Addr) bool { return a.IP.IsLinkLocalUnicast() }) {
				err = errors.New("it has no link-local address yet")
			}
			return err
		})
	})
}

// Connect lays a cable between two machines: link a of one, and link b of the
// other, with link-local addresses only.
func Connect(one *Host, a string, other *Host, b string) error {
	err := one.Do(func() error {
		return netlink.LinkAdd(&netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: a}, PeerName: b, PeerNamespace: netlink.NsFd(other.ns),
		})
	})
	if err != nil {
		return fmt.Errorf("connect %s with %s: %w", one.Name, other.Name, err)
	}
	result := make(chan error, 1)
	go func() { result <- other.linkUp(b) }() // neither end is up without the other
	return errors.Join(one.linkUp(a), <-result)
}

func (n *Network) newRouter(name string) (*Router, error) {
	if !hasIPv6() {
		return nil, errors.New("routers need a kernel with IPv6")
	}
	h, err := newHost(name, n.bin.commandEnv())
	if err != nil {
		return nil, err
	}
	if err := h.enableForwarding(); err != nil {
		return nil, err
	}
	// Packets may come back another way than they went.
	return n.RouterOn(h), h.setSysctls("ipv4.fib_multipath_hash_policy=1", "ipv6.fib_multipath_hash_policy=1",
		"ipv4.conf.all.rp_filter=0", "ipv4.conf.default.rp_filter=0")
}

func wanAddr(number byte) netip.Addr { return netip.AddrFrom4([4]byte{10, 13, 243, number}) }

// joinWAN connects a link of the host with the WAN, which comes with its first.
func (n *Network) joinWAN(h *Host, link string, number byte, gateway netip.Addr) error {
	if n.wan == nil {
		n.wan = &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "wan"}}
		if err := netlink.LinkAdd(n.wan); err != nil {
			return fmt.Errorf("make the WAN: %w", err)
		}
		if err := netlink.LinkSetUp(n.wan); err != nil {
			return fmt.Errorf("make the WAN: %w", err)
		}
	}
	if err := connectBridge(n.wan, h, link); err != nil {
		return err
	}
	return h.configureLink(link, netip.PrefixFrom(wanAddr(number), 24), gateway)
}

// SetGateways makes the routers share what the nodes have no other route for,
// and nothing else. Without it, nodes use the control plane, which knows no WAN.
func (c *Cluster) SetGateways(routers ...*Router) error {
	c.gateways = nil
	for _, r := range routers {
		c.gateways = append(c.gateways, r.Addr)
	}
	for i := range c.Nodes {
		if err := c.RestoreRoutes(i); err != nil {
			return err
		}
	}
	return nil
}

// SetGateways makes the routers share the packets of the client behind them.
func (n *Network) SetGateways(routers ...*Router) error {
	var gateways []netip.Addr
	for _, r := range routers {
		gateways = append(gateways, r.WAN)
	}
	return n.Remote.SetGateways(gateways...)
}

// SetGateways makes the gateways, and their twins, share the packets that the
// host has no other route for.
func (h *Host) SetGateways(gateways ...netip.Addr) error {
	if err := h.Do(func() error { return setDefault(gateways...) }); err != nil {
		return fmt.Errorf("%s: %w", h.Name, err)
	}
	return nil
}

// StartBIRD starts BIRD on the router, and returns when it answers.
func (r *Router) StartBIRD(ctx context.Context, config string) error {
	return r.startDaemon(ctx, birdDaemon{}, config)
}

// StartFRR starts FRR on the router, and returns when it has its configuration.
func (r *Router) StartFRR(ctx context.Context, config string) error {
	return r.startDaemon(ctx, frrDaemon{}, config)
}

func (r *Router) startDaemon(ctx context.Context, d routingDaemon, config string) (err error) {
	if r.daemon != nil {
		return fmt.Errorf("router %s: it runs a daemon already", r.Name)
	}
	// What one that was killed left would look like this one's.
	if err := errors.Join(os.RemoveAll(r.dir), os.MkdirAll(r.dir, 0o755)); err != nil {
		return fmt.Errorf("router %s: %w", r.Name, err)
	}
	r.daemon = d
	if r.processes, err = d.start(ctx, r, config); err != nil {
		r.Kill()
		return fmt.Errorf("router %s: %w", r.Name, err)
	}
	return nil
}

// Reconfigure gives the running daemon another configuration. BIRD takes it for
// all there is; FRR adds its lines to those that it has, and takes away where
// they say no.
func (r *Router) Reconfigure(ctx context.Context, config string) error {
	if err := r.daemon.configure(ctx, r, config); err != nil {
		return fmt.Errorf("router %s: %w", r.Name, err)
	}
	return nil
}

// Stop ends the daemon as an administrator would. It says good-bye to its peers.
func (r *Router) Stop() (err error) {
	for i := len(r.processes) - 1; i >= 0; i-- { // zebra, which has the routes, was first
		err = errors.Join(err, r.processes[i].Stop())
	}
	r.daemon, r.processes = nil, nil
	return err
}

// Kill ends the daemon at once. Its routes stay in the kernel.
func (r *Router) Kill() {
	for _, p := range r.processes {
		p.Kill()
	}
	r.daemon, r.processes = nil, nil
}

// Show asks the daemon, as its command line client (birdc, vtysh) does.
func (r *Router) Show(ctx context.Context, args ...string) (string, error) {
	if r.daemon == nil {
		return "", fmt.Errorf("router %s runs no daemon", r.Name)
	}
	return r.daemon.show(ctx, r, args...)
}

// Session is the state of a neighbour.
type Session struct {
	State string // of BGP: Established, Active, Idle …
	BFD   string // Up, Down, Init, AdminDown; empty without BFD
}

// Sessions are the sessions of the router, by the neighbour's address. FRR's that
// are unnumbered are by their link.
func (r *Router) Sessions(ctx context.Context) (map[string]Session, error) {
	if r.daemon == nil {
		return nil, fmt.Errorf("router %s runs no daemon", r.Name)
	}
	return r.daemon.sessions(ctx, r)
}

// WaitSession waits until the session with the neighbour is in the state, and
// if it has BFD and shall be Established, that is Up.
func (r *Router) WaitSession(ctx context.Context, neighbour, state string) error {
	what := fmt.Sprintf("the session of %s with %s is %s", r.Name, neighbour, state)
	return Wait(ctx, what, func() error {
		all, err := r.Sessions(ctx)
		if err != nil {
			return err
		}
		s, ok := all[neighbour]
		if !ok || s.State != state || state == "Established" && s.BFD != "" && s.BFD != "Up" {
			return fmt.Errorf("the sessions are %+v", all)
		}
		return nil
	})
}
