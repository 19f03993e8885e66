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

// Routes returns the sorted next hops of the prefix in the kernel of the host, none
// without a route. A next hop without a gateway is the zero address.
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

// nextHop returns the gateway, which may be of the other family (RFC 8950).
func nextHop(gw net.IP, via netlink.Destination) netip.Addr {
	if v, ok := via.(*netlink.Via); ok {
		gw = v.Addr
	}
	addr, _ := netip.AddrFromSlice(gw)
	return addr.Unmap()
}

// WaitRoute waits until the prefix has exactly these next hops in the kernel of the
// host. Without hops, it waits until the route is removed.
func (h *Host) WaitRoute(ctx context.Context, prefix netip.Prefix, hops ...netip.Addr) error {
	want := slices.SortedFunc(slices.Values(hops), netip.Addr.Compare)
	return Wait(ctx, fmt.Sprintf("%s has routes to %s by %v", h.Name, prefix, want), func() error {
		have, err := h.Routes(prefix)
		if err == nil && !slices.Equal(have, want) {
			err = fmt.Errorf("the next hops are %v", have)
		}
		return err
	})
}

// RouteChange is a change of a kernel route of the host.
type RouteChange struct {
	At     time.Time // time of the notification, a fraction of a millisecond later
	Prefix netip.Prefix
	Hops   []netip.Addr // none: the route was removed
}

// WatchRoutes returns a channel of the changes of the kernel routes of the host, until
// ctx ends.
func (h *Host) WatchRoutes(ctx context.Context) (<-chan RouteChange, error) {
	updates := make(chan netlink.RouteUpdate, 4096)
	changes := make(chan RouteChange, 4096)
	if err := h.Do(func() error { return netlink.RouteSubscribe(updates, ctx.Done()) }); err != nil {
		return nil, fmt.Errorf("%s: watch the routes: %w", h.Name, err)
	}
	go func() {
		defer close(changes)
		for r := range updates {
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

// Counter counts the packets to an address on an interface, in both directions.
type Counter struct {
	conn  *packet.Conn
	count atomic.Int64
}

// Count starts counting the packets to an address on an interface of the host.
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

// destinationAddr returns the destination IP address of an Ethernet frame, if any.
func destinationAddr(frame []byte) (addr netip.Addr) {
	switch kind := binary.BigEndian.Uint16(frame[12:]); {
	case kind == unix.ETH_P_IP && len(frame) >= 34:
		addr, _ = netip.AddrFromSlice(frame[30:34])
	case kind == unix.ETH_P_IPV6 && len(frame) >= 54:
		addr, _ = netip.AddrFromSlice(frame[38:54])
	}
	return addr
}

// Packets returns the number of packets so far.
func (c *Counter) Packets() int64 { return c.count.Load() }

// Close stops counting.
func (c *Counter) Close() { _ = c.conn.Close() }
