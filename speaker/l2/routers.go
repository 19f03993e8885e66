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
)

const (
	// advertiseEvery is the time between two router advertisements, and
	// advertiseFirst that between the first ones: routers that have just come
	// up are waiting (RFC 4861 section 6.2.4 allows no less than 3 s later on).
	advertiseEvery, advertiseFirst = 10 * time.Second, time.Second

	// firstOnes is how many advertisements follow each other fast.
	firstOnes = 3

	// forgetAfter is when a router that no longer advertises itself makes way
	// for another one.
	forgetAfter = time.Minute
)

// Routers finds the one router on each of some links, for BGP sessions between
// link-local addresses ("unnumbered"), and lets the router find this node:
// both send router advertisements (RFC 4861 section 6). Ours have a lifetime of
// zero, so that nobody makes this node a default gateway.
type Routers struct {
	log     *slog.Logger
	changed func()

	mu    sync.Mutex
	links map[string]*watched
}

// watched is a link on which routers are looked for.
type watched struct {
	stop func()
	heard
}

// heard is the router that was chosen.
type heard struct {
	addr    netip.Addr
	gateway bool // offers itself as a default gateway, which no speaker does
	at      time.Time
}

// NewRouters makes Routers that call changed when another router is found. It
// must not block.
func NewRouters(log *slog.Logger, changed func()) *Routers {
	return &Routers{log: log, changed: changed, links: map[string]*watched{}}
}

// Set looks for routers on these links and no others. What it begins ends with
// ctx. A link that does not exist yet is looked for again and again.
func (r *Routers) Set(ctx context.Context, links []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for name, w := range r.links {
		if !slices.Contains(links, name) {
			w.stop()
			delete(r.links, name)
		}
	}
	for _, name := range links {
		if _, known := r.links[name]; !known {
			ctx, stop := context.WithCancel(ctx)
			r.links[name] = &watched{stop: stop}
			go r.watch(ctx, name)
		}
	}
}

// Found are the routers' link-local addresses, by link.
func (r *Routers) Found() map[string]netip.Addr {
	r.mu.Lock()
	defer r.mu.Unlock()
	found := maps.Collect(func(yield func(string, netip.Addr) bool) {
		for name, w := range r.links {
			if w.addr.IsValid() && !yield(name, w.addr) {
				return
			}
		}
	})
	return found
}

func (r *Routers) watch(ctx context.Context, link string) {
	said := ""
	for ctx.Err() == nil {
		err := r.converse(ctx, link)
		if err != nil && err.Error() != said && ctx.Err() == nil {
			said = err.Error()
			r.log.Warn("router discovery failed, will be tried again", "link", link, "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

// converse advertises this node and listens for routers, until the socket fails
// or ctx ends.
func (r *Routers) converse(ctx context.Context, link string) error {
	ifi, err := net.InterfaceByName(link)
	if err != nil {
		return fmt.Errorf("find link %s: %w", link, err)
	}
	// By number: Go remembers for a minute which link had a name.
	numbered := *ifi
	numbered.Name = strconv.Itoa(ifi.Index)
	conn, _, err := ndp.Listen(&numbered, ndp.LinkLocal)
	if err != nil {
		return fmt.Errorf("listen for router advertisements on %s: %w", link, err)
	}
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	defer conn.Close()
	var only ipv6.ICMPFilter
	only.SetAll(true)
	only.Accept(ipv6.ICMPTypeRouterAdvertisement)
	only.Accept(ipv6.ICMPTypeRouterSolicitation)
	if err := conn.SetICMPFilter(&only); err != nil {
		return fmt.Errorf("listen for router advertisements on %s: %w", link, err)
	}
	if err := conn.SetControlMessage(ipv6.FlagHopLimit, true); err != nil {
		return fmt.Errorf("listen for router advertisements on %s: %w", link, err)
	}
	for _, group := range []string{"ff02::1", "ff02::2"} { // all nodes, all routers
		if err := conn.JoinGroup(netip.MustParseAddr(group)); err != nil {
			return fmt.Errorf("listen for router advertisements on %s: %w", link, err)
		}
	}
	own := ownAddresses(ifi.Index)
	if err := conn.WriteTo(&ndp.RouterSolicitation{}, nil, netip.MustParseAddr("ff02::2")); err != nil {
		return fmt.Errorf("solicit routers on %s: %w", link, err)
	}
	for sent := 0; ; {
		if err := advertise(conn, ifi); err != nil {
			return err
		}
		sent++
		wait := advertiseEvery
		if sent < firstOnes {
			wait = advertiseFirst
		}
		if err := r.listen(conn, link, own, time.Now().Add(wait)); err != nil {
			return err
		}
	}
}

func advertise(conn *ndp.Conn, ifi *net.Interface) error {
	ra := &ndp.RouterAdvertisement{Options: []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Source, Addr: ifi.HardwareAddr}}}
	if err := conn.WriteTo(ra, nil, netip.MustParseAddr("ff02::1")); err != nil {
		return fmt.Errorf("advertise on %s: %w", ifi.Name, err)
	}
	return nil
}

// listen takes what comes until the time, or until a router solicits.
func (r *Routers) listen(conn *ndp.Conn, link string, own []netip.Addr, until time.Time) error {
	if err := conn.SetReadDeadline(until); err != nil {
		return fmt.Errorf("listen on %s: %w", link, err)
	}
	solicited := false
	for {
		message, control, from, err := conn.ReadFrom() // malformed ones it skips
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return nil
		case err != nil:
			return fmt.Errorf("listen on %s: %w", link, err)
		case control == nil || control.HopLimit != ndp.HopLimit, !from.IsLinkLocalUnicast(), slices.Contains(own, from.WithZone("")):
			continue // from afar (RFC 4861 section 6.1), or our own
		}
		switch m := message.(type) {
		case *ndp.RouterAdvertisement:
			r.hear(link, from.WithZone(link), m.RouterLifetime > 0)
		case *ndp.RouterSolicitation:
			if !solicited {
				solicited = true
				// Answered by the next round, after the random wait of RFC 4861
				// section 6.2.6, and so at most twice a second.
				if err := conn.SetReadDeadline(time.Now().Add(advertiseFirst / 2)); err != nil {
					return fmt.Errorf("listen on %s: %w", link, err)
				}
			}
		}
	}
}

func (r *Routers) hear(link string, from netip.Addr, gateway bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	w := r.links[link]
	if w == nil {
		return
	}
	now := time.Now()
	if w.addr != from {
		better := gateway && !w.gateway
		if w.addr.IsValid() && !better && now.Sub(w.at) < forgetAfter {
			return
		}
		r.log.Info("router found", "link", link, "router", from.String())
		defer r.changed()
	}
	w.heard = heard{from, gateway, now}
}

func ownAddresses(link int) (own []netip.Addr) {
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_V6)
	if err != nil {
		return nil
	}
	for _, a := range addrs {
		if ip, ok := netip.AddrFromSlice(a.IP); ok && a.LinkIndex == link {
			own = append(own, ip)
		}
	}
	return own
}

// Gateways are the node's default gateways of lowest metric, by family: "IPv4",
// "IPv6". Link-local ones carry their zone.
func Gateways() (map[string]netip.Addr, error) {
	gateways := map[string]netip.Addr{}
	for family, name := range map[int]string{netlink.FAMILY_V4: "IPv4", netlink.FAMILY_V6: "IPv6"} {
		routes, err := netlink.RouteList(nil, family)
		if err != nil {
			return nil, fmt.Errorf("list the %s routes: %w", name, err)
		}
		best := -1
		for _, route := range routes {
			if ones, _ := maskOf(route.Dst); ones != 0 || best >= 0 && route.Priority >= best {
				continue
			}
			gateway, link := route.Gw, route.LinkIndex
			if len(route.MultiPath) > 0 {
				gateway, link = route.MultiPath[0].Gw, route.MultiPath[0].LinkIndex
			}
			addr, ok := netip.AddrFromSlice(gateway)
			if !ok {
				continue
			}
			if addr = addr.Unmap(); addr.IsLinkLocalUnicast() && addr.Is6() {
				l, err := netlink.LinkByIndex(link)
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

func maskOf(n *net.IPNet) (ones, bits int) {
	if n == nil {
		return 0, 0
	}
	return n.Mask.Size()
}
