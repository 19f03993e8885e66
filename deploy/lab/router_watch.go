package lab

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/mdlayher/packet"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Routes are the next hops of the prefix in the host's kernel, sorted: none if
// it has no such route. A next hop that is a link only is the zero address.
func (h *Host) Routes(prefix netip.Prefix) (hops []netip.Addr, err error) {
	family := netlink.FAMILY_V4
	if prefix.Addr().Is6() {
		family = netlink.FAMILY_V6
	}
	err = h.Do(func() error {
		routes, err := netlink.RouteListFiltered(family, &netlink.Route{Dst: ipNet(prefix)}, netlink.RT_FILTER_DST)
		for _, r := range routes {
			hops = append(hops, nextHops(r)...)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%s: routes to %s: %w", h.Name, prefix, err)
	}
	slices.SortFunc(hops, netip.Addr.Compare)
	return hops, nil
}

func nextHops(r netlink.Route) (hops []netip.Addr) {
	if len(r.MultiPath) == 0 {
		return []netip.Addr{nextHop(r.Gw, r.Via)}
	}
	for _, hop := range r.MultiPath {
		hops = append(hops, nextHop(hop.Gw, hop.Via))
	}
	return hops
}

// nextHop is the gateway, or the one of the other family (RFC 8950).
func nextHop(gw net.IP, via netlink.Destination) netip.Addr {
	if v, ok := via.(*netlink.Via); ok {
		gw = v.Addr
	}
	addr, _ := netip.AddrFromSlice(gw)
	return addr.Unmap()
}

// WaitRoute waits until the prefix has exactly these next hops in the host's
// kernel: with none, until there is no such route.
func (h *Host) WaitRoute(ctx context.Context, prefix netip.Prefix, hops ...netip.Addr) error {
	want := slices.SortedFunc(slices.Values(hops), netip.Addr.Compare)
	return Wait(ctx, fmt.Sprintf("%s has routes to %s by %v", h.Name, prefix, want), func() error {
		have, err := h.Routes(prefix)
		if err == nil && !slices.Equal(have, want) {
			err = fmt.Errorf("it has them by %v", have)
		}
		return err
	})
}

// RouteChange is a change of the host's kernel routes.
type RouteChange struct {
	At     time.Time // when it was heard of, a fraction of a millisecond later
	Prefix netip.Prefix
	Hops   []netip.Addr // none: the route has gone
}

// WatchRoutes returns the changes of the host's kernel routes from now on,
// until ctx ends.
func (h *Host) WatchRoutes(ctx context.Context) (<-chan RouteChange, error) {
	heard := make(chan netlink.RouteUpdate, 4096)
	changes := make(chan RouteChange, 4096)
	if err := h.Do(func() error { return netlink.RouteSubscribe(heard, ctx.Done()) }); err != nil {
		return nil, fmt.Errorf("%s: watch the routes: %w", h.Name, err)
	}
	go func() {
		defer close(changes)
		for r := range heard {
			change := RouteChange{At: time.Now()}
			if r.Table != unix.RT_TABLE_MAIN || r.Dst == nil {
				continue
			}
			addr, _ := netip.AddrFromSlice(r.Dst.IP)
			bits, _ := r.Dst.Mask.Size()
			change.Prefix = netip.PrefixFrom(addr, bits)
			if r.Type == unix.RTM_NEWROUTE {
				change.Hops = nextHops(r.Route)
			}
			select {
			case changes <- change:
			case <-ctx.Done():
			}
		}
	}()
	return changes, nil
}

// Counter counts the packets to an address that pass a link, in both directions.
type Counter struct {
	conn  *packet.Conn
	count atomic.Int64
}

// Count begins to count the packets to an address that pass the host's link.
func (h *Host) Count(link string, to netip.Addr) (*Counter, error) {
	c := &Counter{}
	err := h.Do(func() error {
		ifi, err := net.InterfaceByName(link)
		if err != nil {
			return err
		}
		c.conn, err = packet.Listen(ifi, packet.Raw, unix.ETH_P_ALL, nil)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%s: count packets on %s: %w", h.Name, link, err)
	}
	go func() {
		frame := make([]byte, 64)
		for {
			n, _, err := c.conn.ReadFrom(frame)
			if err != nil {
				return // closed
			}
			if destinationAddr(frame[:n]) == to {
				c.count.Add(1)
			}
		}
	}()
	return c, nil
}

// destinationAddr is the IP address that an Ethernet frame goes to, if any.
func destinationAddr(frame []byte) (addr netip.Addr) {
	switch kind := binary.BigEndian.Uint16(frame[12:]); {
	case kind == unix.ETH_P_IP && len(frame) >= 34:
		addr, _ = netip.AddrFromSlice(frame[30:34])
	case kind == unix.ETH_P_IPV6 && len(frame) >= 54:
		addr, _ = netip.AddrFromSlice(frame[38:54])
	}
	return addr
}

// Packets that have passed so far.
func (c *Counter) Packets() int64 { return c.count.Load() }

// Close ends the counting.
func (c *Counter) Close() { _ = c.conn.Close() }
