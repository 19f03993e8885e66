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

// Network is the LAN of the lab and, once it has a router, the WAN behind the router
// with a client. Machine number N has IPv4 and IPv6 addresses: N in 10.13.242.0/24
// and fd13:242::/64 on the LAN, and N in 10.13.243.0/24 and fd13:243::/64 on the WAN.
type Network struct {
	Routers []*Router
	// Remote is a client behind the routers, number 100 on the WAN. Its gateway is
	// the first router, unless SetGateways sets others.
	Remote *Host

	bin      Binaries
	lan, wan *netlink.Bridge
}

// StartNetwork sets up the sandbox and creates a LAN without machines. The process
// must be the first one of a sandbox. Start creates the network of a cluster itself.
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

// AddHost adds a machine with the number to the LAN.
func (n *Network) AddHost(name string, number byte) (*Host, error) {
	h, err := newHost(name, n.bin.commandEnv())
	if err != nil {
		return nil, err
	}
	return h, joinLAN(n.lan, h, netip.AddrFrom4([4]byte{10, 13, 242, number}))
}

// Router is a machine between the LAN and the WAN: its interface eth0 is on the LAN,
// wan is on the WAN. It forwards packets, and distributes the flows of a route over
// its next hops by addresses and ports (ECMP).
type Router struct {
	*Host
	// WAN is the address on the WAN; Addr is the one on the LAN.
	WAN netip.Addr

	bin       Binaries
	dir       string // files of the routing daemon
	daemon    routingDaemon
	processes []*Process // of the routing daemon
}

// routingDaemon runs a routing daemon, BIRD or FRR.
type routingDaemon interface {
	// start starts the processes, and returns when they have the configuration. On an
	// error, it returns the processes that it has started.
	start(ctx context.Context, r *Router, config string) ([]*Process, error)
	// configure changes the configuration of the running processes.
	configure(ctx context.Context, r *Router, config string) error
	show(ctx context.Context, r *Router, args ...string) (string, error)
	sessions(ctx context.Context, r *Router) (map[string]Session, error)
}

// AddRouter adds a router with the number on the LAN and the WAN. Numbers from 251 on
// are unused.
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

// RouterOn returns a Router for running a routing daemon on any machine.
func (n *Network) RouterOn(h *Host) *Router {
	return &Router{Host: h, bin: n.bin, dir: filepath.Join(runDir, h.Name)}
}

// AddFarRouter adds a router that is on the WAN only and reaches the LAN through
// another router, for multihop sessions.
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
	// The daemons resolve next hops on the LAN, for which a default route is not
	// sufficient.
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

// linkUp sets an interface up and waits until it has its link-local address, which
// takes about a second. Daemons that start before do not use the interface correctly.
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
				err = errors.New("waiting for the link-local address")
			}
			return err
		})
	})
}

// Connect connects interface a of one machine with interface b of the other one, with
// link-local addresses only.
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
	go func() { result <- other.linkUp(b) }() // neither end has a carrier while the other is down
	return errors.Join(one.linkUp(a), <-result)
}

func (n *Network) newRouter(name string) (*Router, error) {
	if !hasIPv6() {
		return nil, errors.New("routers require a kernel with IPv6")
	}
	h, err := newHost(name, n.bin.commandEnv())
	if err != nil {
		return nil, err
	}
	if err := h.enableForwarding(); err != nil {
		return nil, err
	}
	// Paths may be asymmetric.
	return n.RouterOn(h), h.setSysctls("ipv4.fib_multipath_hash_policy=1", "ipv6.fib_multipath_hash_policy=1",
		"ipv4.conf.all.rp_filter=0", "ipv4.conf.default.rp_filter=0")
}

func wanAddr(number byte) netip.Addr { return netip.AddrFrom4([4]byte{10, 13, 243, number}) }

// joinWAN connects an interface of the host with the WAN. It creates the WAN if
// necessary.
func (n *Network) joinWAN(h *Host, link string, number byte, gateway netip.Addr) error {
	if n.wan == nil {
		n.wan = &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "wan"}}
		if err := netlink.LinkAdd(n.wan); err != nil {
			return fmt.Errorf("create the WAN: %w", err)
		}
		if err := netlink.LinkSetUp(n.wan); err != nil {
			return fmt.Errorf("create the WAN: %w", err)
		}
	}
	if err := connectBridge(n.wan, h, link); err != nil {
		return err
	}
	return h.configureLink(link, netip.PrefixFrom(wanAddr(number), 24), gateway)
}

// SetGateways sets the routers as the default gateways of the nodes (ECMP). The
// initial gateway is the control plane, which has no route to the WAN.
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

// SetGateways sets the routers as the default gateways of the remote client (ECMP).
func (n *Network) SetGateways(routers ...*Router) error {
	var gateways []netip.Addr
	for _, r := range routers {
		gateways = append(gateways, r.WAN)
	}
	return n.Remote.SetGateways(gateways...)
}

// SetGateways sets the default gateways of the host, for IPv4 and for IPv6 (ECMP).
func (h *Host) SetGateways(gateways ...netip.Addr) error {
	if err := h.Do(func() error { return setDefault(gateways...) }); err != nil {
		return fmt.Errorf("%s: %w", h.Name, err)
	}
	return nil
}

// StartBIRD starts BIRD on the router, and returns when it is running.
func (r *Router) StartBIRD(ctx context.Context, config string) error {
	return r.startDaemon(ctx, birdDaemon{}, config)
}

// StartFRR starts FRR on the router, and returns when it has its configuration.
func (r *Router) StartFRR(ctx context.Context, config string) error {
	return r.startDaemon(ctx, frrDaemon{}, config)
}

func (r *Router) startDaemon(ctx context.Context, d routingDaemon, config string) (err error) {
	if r.daemon != nil {
		return fmt.Errorf("router %s: a daemon is already running", r.Name)
	}
	// Files of a killed daemon must not be mistaken for those of the new one.
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

// Reconfigure changes the configuration of the running daemon. BIRD replaces its
// configuration. FRR adds the lines to its configuration, and removes those that are
// negated by no.
func (r *Router) Reconfigure(ctx context.Context, config string) error {
	if err := r.daemon.configure(ctx, r, config); err != nil {
		return fmt.Errorf("router %s: %w", r.Name, err)
	}
	return nil
}

// Stop terminates the daemon with SIGTERM, so that it closes its sessions.
func (r *Router) Stop() (err error) {
	for i := len(r.processes) - 1; i >= 0; i-- { // zebra, which installs the routes, must stop last
		err = errors.Join(err, r.processes[i].Stop())
	}
	r.daemon, r.processes = nil, nil
	return err
}

// Kill kills the daemon. Its routes stay in the kernel.
func (r *Router) Kill() {
	for _, p := range r.processes {
		p.Kill()
	}
	r.daemon, r.processes = nil, nil
}

// Show runs a command of the daemon's command line client (birdc, vtysh).
func (r *Router) Show(ctx context.Context, args ...string) (string, error) {
	if r.daemon == nil {
		return "", fmt.Errorf("router %s: no daemon is running", r.Name)
	}
	return r.daemon.show(ctx, r, args...)
}

// Session is the state of the session with a neighbor.
type Session struct {
	State string // of BGP: Established, Active, Idle …
	BFD   string // Up, Down, Init, AdminDown; empty without BFD
}

// Sessions returns the sessions of the router by the address of the neighbor, or by
// the interface for unnumbered sessions of FRR.
func (r *Router) Sessions(ctx context.Context) (map[string]Session, error) {
	if r.daemon == nil {
		return nil, fmt.Errorf("router %s: no daemon is running", r.Name)
	}
	return r.daemon.sessions(ctx, r)
}

// WaitSession waits until the session with the neighbor is in the state. If the state
// is Established and the session has BFD, it also waits until BFD is Up.
func (r *Router) WaitSession(ctx context.Context, neighbor, state string) error {
	what := fmt.Sprintf("the session of %s with %s is %s", r.Name, neighbor, state)
	return Wait(ctx, what, func() error {
		all, err := r.Sessions(ctx)
		if err != nil {
			return err
		}
		s, ok := all[neighbor]
		if !ok || s.State != state || state == "Established" && s.BFD != "" && s.BFD != "Up" {
			return fmt.Errorf("the sessions are %+v", all)
		}
		return nil
	})
}
