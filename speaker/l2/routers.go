package l2

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/mdlayher/ndp"
	"github.com/vishvananda/netlink"
	"golang.org/x/net/ipv6"

	"github.com/fairlead-io/fairlead/speaker/internal/netlinkdump"
)

const (
	// advertiseInterval is the time between two router advertisements, and
	// initialAdvertiseInterval that between the first ones, for routers that have
	// just started (RFC 4861 section 6.2.4 requires at least 3 s afterwards).
	advertiseInterval, initialAdvertiseInterval = 10 * time.Second, time.Second

	// initialAdvertisements is the number of advertisements at the initial interval.
	initialAdvertisements = 3

	// routerTimeout is the time since its last advertisement after which a router
	// may be replaced by another one.
	routerTimeout = time.Minute
)

// Routers discovers the router on each of some interfaces, for BGP sessions between
// link-local addresses ("unnumbered"), and lets the router discover this node: both
// send router advertisements (RFC 4861 section 6). Those of this node have a
// lifetime of zero, so that no host uses it as a default gateway. All methods may be
// called concurrently.
type Routers struct {
	log     *slog.Logger
	changed func()

	mu      sync.Mutex
	watches map[string]*routerWatch
}

// routerWatch is an interface on which routers are discovered.
type routerWatch struct {
	stop func()
	discoveredRouter
}

// discoveredRouter is the router that was selected.
type discoveredRouter struct {
	addr     netip.Addr
	gateway  bool // has a non-zero lifetime, unlike other speakers
	lastSeen time.Time
}

// NewRouters returns Routers that call changed when another router is found. The
// callback must not block.
func NewRouters(log *slog.Logger, changed func()) *Routers {
	return &Routers{log: log, changed: changed, watches: map[string]*routerWatch{}}
}

// Set discovers routers on these interfaces and stops discovery on all others.
// Discovery ends with ctx. An interface that does not exist yet is retried.
func (r *Routers) Set(ctx context.Context, interfaces []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for name, w := range r.watches {
		if !slices.Contains(interfaces, name) {
			w.stop()
			delete(r.watches, name)
		}
	}
	for _, name := range interfaces {
		if _, known := r.watches[name]; !known {
			ctx, stop := context.WithCancel(ctx)
			r.watches[name] = &routerWatch{stop: stop}
			go r.runDiscovery(ctx, name)
		}
	}
}

// LinkLocalAddresses returns the routers' link-local addresses, by interface.
func (r *Routers) LinkLocalAddresses() map[string]netip.Addr {
	r.mu.Lock()
	defer r.mu.Unlock()
	found := maps.Collect(func(yield func(string, netip.Addr) bool) {
		for name, w := range r.watches {
			if w.addr.IsValid() && !yield(name, w.addr) {
				return
			}
		}
	})
	return found
}

// runDiscovery restarts the exchange on an interface whenever it fails, until ctx ends.
// It logs an error once.
func (r *Routers) runDiscovery(ctx context.Context, iface string) {
	lastError := ""
	for ctx.Err() == nil {
		err := r.exchangeAdvertisements(ctx, iface)
		if err != nil && err.Error() != lastError && ctx.Err() == nil {
			lastError = err.Error()
			r.log.Warn("router discovery failed, retrying", "interface", iface, "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

// exchangeAdvertisements advertises this node and receives router advertisements, until the socket
// fails or ctx ends.
func (r *Routers) exchangeAdvertisements(ctx context.Context, iface string) error {
	ifi, err := net.InterfaceByName(iface)
	if err != nil {
		return fmt.Errorf("find interface %s: %w", iface, err)
	}
	// By number, because Go caches for a minute which interface has a name.
	numbered := *ifi
	numbered.Name = strconv.Itoa(ifi.Index)
	conn, _, err := ndp.Listen(&numbered, ndp.LinkLocal)
	if err != nil {
		return fmt.Errorf("listen for router advertisements on %s: %w", iface, err)
	}
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	defer conn.Close()
	var only ipv6.ICMPFilter
	only.SetAll(true)
	only.Accept(ipv6.ICMPTypeRouterAdvertisement)
	only.Accept(ipv6.ICMPTypeRouterSolicitation)
	if err := conn.SetICMPFilter(&only); err != nil {
		return fmt.Errorf("listen for router advertisements on %s: %w", iface, err)
	}
	if err := conn.SetControlMessage(ipv6.FlagHopLimit, true); err != nil {
		return fmt.Errorf("listen for router advertisements on %s: %w", iface, err)
	}
	for _, group := range []string{"ff02::1", "ff02::2"} { // all nodes, all routers
		if err := conn.JoinGroup(netip.MustParseAddr(group)); err != nil {
			return fmt.Errorf("listen for router advertisements on %s: %w", iface, err)
		}
	}
	own := ownAddresses(ifi.Index)
	if err := conn.WriteTo(&ndp.RouterSolicitation{}, nil, netip.MustParseAddr("ff02::2")); err != nil {
		return fmt.Errorf("solicit routers on %s: %w", iface, err)
	}
	for sent := 0; ; {
		if err := sendAdvertisement(conn, ifi); err != nil {
			return err
		}
		sent++
		wait := advertiseInterval
		if sent < initialAdvertisements {
			wait = initialAdvertiseInterval
		}
		if err := r.receiveUntil(conn, iface, own, time.Now().Add(wait)); err != nil {
			return err
		}
	}
}

// sendAdvertisement sends a router advertisement with a lifetime of zero.
func sendAdvertisement(conn *ndp.Conn, ifi *net.Interface) error {
	ra := &ndp.RouterAdvertisement{Options: []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Source, Addr: ifi.HardwareAddr}}}
	if err := conn.WriteTo(ra, nil, netip.MustParseAddr("ff02::1")); err != nil {
		return fmt.Errorf("advertise on %s: %w", ifi.Name, err)
	}
	return nil
}

// receiveUntil handles messages until the time, or until shortly after a router has
// solicited an advertisement.
func (r *Routers) receiveUntil(conn *ndp.Conn, iface string, own []netip.Addr, until time.Time) error {
	if err := conn.SetReadDeadline(until); err != nil {
		return fmt.Errorf("listen on %s: %w", iface, err)
	}
	solicited := false
	for {
		message, control, from, err := conn.ReadFrom() // skips malformed ones
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return nil
		case err != nil:
			return fmt.Errorf("listen on %s: %w", iface, err)
		case control == nil || control.HopLimit != ndp.HopLimit, !from.IsLinkLocalUnicast(), slices.Contains(own, from.WithZone("")):
			continue // not from the link (RFC 4861 section 6.1), or sent by this node
		}
		switch m := message.(type) {
		case *ndp.RouterAdvertisement:
			r.recordRouter(iface, from.WithZone(iface), m.RouterLifetime > 0)
		case *ndp.RouterSolicitation:
			if !solicited {
				solicited = true
				// The caller advertises when the deadline is over. RFC 4861 section
				// 6.2.6 requires a delay and a rate limit, here twice a second.
				if err := conn.SetReadDeadline(time.Now().Add(initialAdvertiseInterval / 2)); err != nil {
					return fmt.Errorf("listen on %s: %w", iface, err)
				}
			}
		}
	}
}

// recordRouter records a router's advertisement. The first router stays selected until
// its timeout, except that a default gateway replaces a router that is not one.
func (r *Routers) recordRouter(iface string, from netip.Addr, gateway bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	w := r.watches[iface]
	if w == nil {
		return
	}
	now := time.Now()
	if w.addr != from {
		better := gateway && !w.gateway
		if w.addr.IsValid() && !better && now.Sub(w.lastSeen) < routerTimeout {
			return
		}
		r.log.Info("router found", "interface", iface, "router", from.String())
		defer r.changed()
	}
	w.discoveredRouter = discoveredRouter{from, gateway, now}
}

// ownAddresses returns the IPv6 addresses of the interface with the index.
func ownAddresses(index int) (own []netip.Addr) {
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_V6)
	if err != nil {
		return nil
	}
	for _, a := range addrs {
		if ip, ok := netip.AddrFromSlice(a.IP); ok && a.LinkIndex == index {
			own = append(own, ip)
		}
	}
	return own
}

// Gateways returns the node's default gateways of the lowest metric, by family:
// "IPv4", "IPv6". Link-local addresses have a zone.
func Gateways() (map[string]netip.Addr, error) {
	gateways := map[string]netip.Addr{}
	for family, name := range map[int]string{netlink.FAMILY_V4: "IPv4", netlink.FAMILY_V6: "IPv6"} {
		routes, err := netlinkdump.Repeat(func() ([]netlink.Route, error) { return netlink.RouteList(nil, family) })
		if err != nil {
			return nil, fmt.Errorf("list %s routes: %w", name, err)
		}
		best := -1
		for _, route := range routes {
			if ones, _ := prefixLength(route.Dst); ones != 0 || best >= 0 && route.Priority >= best {
				continue
			}
			gateway, index := route.Gw, route.LinkIndex
			if len(route.MultiPath) > 0 {
				gateway, index = route.MultiPath[0].Gw, route.MultiPath[0].LinkIndex
			}
			addr, ok := netip.AddrFromSlice(gateway)
			if !ok {
				continue
			}
			if addr = addr.Unmap(); addr.IsLinkLocalUnicast() && addr.Is6() {
				l, err := netlink.LinkByIndex(index)
				if err != nil {
					continue
				}
				addr = addr.WithZone(l.Attrs().Name)
			}
			best, gateways[name] = route.Priority, addr
		}
	}
	return gateways, nil
}

func prefixLength(n *net.IPNet) (ones, bits int) {
	if n == nil {
		return 0, 0
	}
	return n.Mask.Size()
}
