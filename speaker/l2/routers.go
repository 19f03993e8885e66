package l2

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/fairlead-io/fairlead/speaker/internal/netlinkdump"
)

const (
	// reachableTime is the time for which a router is considered reachable after the
	// last sign of it, and retransmitTime the time between two neighbor solicitations
	// (REACHABLE_TIME and RETRANS_TIMER, RFC 4861 section 10).
	reachableTime, retransmitTime = 30 * time.Second, time.Second

	// maxSolicitations is the number of unanswered neighbor solicitations after which
	// a router is lost (MAX_UNICAST_SOLICIT, RFC 4861 section 10).
	maxSolicitations = 3
)

// Routers discovers the router on each of some interfaces, for BGP sessions between
// link-local addresses ("unnumbered"), and lets the router discover this node: both
// send router advertisements (RFC 4861 section 6). Those of this node have a
// lifetime of zero, so that no host uses it as a default gateway, and an option that
// identifies a speaker, so that speakers do not use each other as routers. All methods
// may be called concurrently.
//
// One router is remembered for each interface, regardless of how many advertise. Any
// host on the segment can advertise; see recordAdvertisement for what that affects.
type Routers struct {
	log            *slog.Logger
	hasSession     func(router netip.Addr) bool
	changed        func()
	reachableTime  time.Duration
	retransmitTime time.Duration

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
	addr        netip.Addr
	isDefault   bool // the last advertisement had a lifetime greater than zero
	hadSession  bool // since it was found
	confirmedAt time.Time
	solicited   int // neighbor solicitations that are not answered yet
}

// NewRouters returns Routers that call changed when a router is found or lost. A router
// for which hasSession returns true, because a BGP session with it is established, is
// not lost. The callbacks must not block and not call Routers.
func NewRouters(log *slog.Logger, hasSession func(router netip.Addr) bool, changed func()) *Routers {
	return &Routers{
		log: log, hasSession: hasSession, changed: changed, reachableTime: reachableTime, retransmitTime: retransmitTime,
		watches: map[string]*routerWatch{},
	}
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

// recordAdvertisement records a router advertisement. The first router stays selected
// until it is lost, except that one that advertises itself as a default router (with a
// lifetime) replaces one that does not. A lifetime of zero concerns only that role (RFC
// 4861 section 4.2): leaf switches have it. A router with which a session was
// established is never replaced, so that another host on the segment cannot take its
// place while the router restarts BGP.
func (r *Routers) recordAdvertisement(iface string, from netip.Addr, isDefault bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	w := r.watches[iface]
	if w == nil {
		return
	}
	if w.addr != from {
		preferred := isDefault && !w.isDefault && !w.hadSession
		if w.addr.IsValid() && (!preferred || r.hasSession(w.addr)) {
			return
		}
		r.log.Info("router found", "interface", iface, "router", from.String())
		w.discoveredRouter = discoveredRouter{addr: from}
		defer r.changed()
	}
	w.isDefault, w.confirmedAt, w.solicited = isDefault, time.Now(), 0
}

// recordReachable records that a router has answered a neighbor solicitation.
func (r *Routers) recordReachable(iface string, router netip.Addr) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if w := r.watches[iface]; w != nil && w.addr == router {
		w.confirmedAt, w.solicited = time.Now(), 0
	}
}

// checkReachability must be called once per retransmitTime for each interface. It
// returns the router if a neighbor solicitation must be sent to it, because there was
// no sign of it for reachableTime: neither an advertisement nor an answer nor a
// session (RFC 4861 section 7.3). After maxSolicitations without an answer the router
// is lost.
func (r *Routers) checkReachability(iface string) (solicit netip.Addr, lost bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	w := r.watches[iface]
	switch {
	case w == nil || !w.addr.IsValid():
	case r.hasSession(w.addr):
		w.hadSession, w.confirmedAt, w.solicited = true, time.Now(), 0
	case time.Since(w.confirmedAt) < r.reachableTime:
	case w.solicited < maxSolicitations:
		w.solicited++
		return w.addr, false
	default:
		r.log.Info("router lost", "interface", iface, "router", w.addr.String())
		w.discoveredRouter = discoveredRouter{}
		r.changed()
		return netip.Addr{}, true
	}
	return netip.Addr{}, false
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
