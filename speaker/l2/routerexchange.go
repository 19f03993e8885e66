package l2

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/mdlayher/ndp"
	"golang.org/x/net/ipv6"
)

const (
	// advertiseInterval is the time between two router advertisements, and
	// initialAdvertiseInterval that between the first ones, for routers that have
	// just started (RFC 4861 section 6.2.4 requires at least 3 s afterwards).
	advertiseInterval, initialAdvertiseInterval = 10 * time.Second, time.Second

	// initialAdvertisements is the number of advertisements at the initial interval.
	initialAdvertisements = 3

	// advertiseDelay is the delay of the advertisement that answers a solicitation. RFC
	// 4861 section 6.2.6 requires a delay and a rate limit, here twice a second.
	advertiseDelay = initialAdvertiseInterval / 2
)

var (
	allNodes   = netip.MustParseAddr("ff02::1")
	allRouters = netip.MustParseAddr("ff02::2")

	// speakerOption is in the router advertisements of speakers. Routers ignore options
	// that they do not know (RFC 4861 section 4.6). Type 253 is one of those for
	// experiments (RFC 4727 section 5.1.3), of which several can be in use, so that the
	// value identifies it.
	speakerOption = &ndp.RawOption{Type: 253, Length: 2, Value: []byte("fairlead.io\x00\x00\x00")}
)

// isSpeaker reports whether a speaker has sent the advertisement: this one, one on
// another node of the cluster, or one of another cluster.
func isSpeaker(ra *ndp.RouterAdvertisement) bool {
	return slices.ContainsFunc(ra.Options, func(o ndp.Option) bool {
		raw, ok := o.(*ndp.RawOption)
		return ok && raw.Type == speakerOption.Type && bytes.Equal(raw.Value, speakerOption.Value)
	})
}

// exchangeAdvertisements advertises this node, receives router advertisements and
// checks whether the router is reachable, until the socket fails or ctx ends.
func (r *Routers) exchangeAdvertisements(ctx context.Context, iface string) error {
	ifi, err := net.InterfaceByName(iface)
	if err != nil {
		return fmt.Errorf("find interface %s: %w", iface, err)
	}
	conn, err := listenNeighborDiscovery(ifi)
	if err != nil {
		return fmt.Errorf("listen for router advertisements on %s: %w", iface, err)
	}
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	defer conn.Close()
	if err := solicitRouters(conn, iface); err != nil {
		return err
	}
	advertiseAt, checkAt := time.Now(), time.Now()
	for sent := 0; ; {
		if now := time.Now(); !now.Before(advertiseAt) {
			if err := sendAdvertisement(conn, ifi); err != nil {
				return err
			}
			sent++
			advertiseAt = now.Add(advertiseInterval)
			if sent < initialAdvertisements {
				advertiseAt = now.Add(initialAdvertiseInterval)
			}
		}
		if now := time.Now(); !now.Before(checkAt) {
			checkAt = now.Add(r.retransmitTime)
			if err := r.checkRouter(conn, ifi); err != nil {
				return err
			}
		}
		solicited, err := r.receiveUntil(conn, iface, earliest(advertiseAt, checkAt))
		if err != nil {
			return err
		}
		if solicited {
			advertiseAt = earliest(advertiseAt, time.Now().Add(advertiseDelay))
		}
	}
}

// listenNeighborDiscovery opens a socket for router solicitations and advertisements,
// and neighbor advertisements.
func listenNeighborDiscovery(ifi *net.Interface) (conn *ndp.Conn, err error) {
	// By number, because Go caches for a minute which interface has a name.
	numbered := *ifi
	numbered.Name = strconv.Itoa(ifi.Index)
	if conn, _, err = ndp.Listen(&numbered, ndp.LinkLocal); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = conn.Close()
		}
	}()
	var only ipv6.ICMPFilter
	only.SetAll(true)
	only.Accept(ipv6.ICMPTypeRouterAdvertisement)
	only.Accept(ipv6.ICMPTypeRouterSolicitation)
	only.Accept(ipv6.ICMPTypeNeighborAdvertisement)
	return conn, errors.Join(
		conn.SetICMPFilter(&only),
		conn.SetControlMessage(ipv6.FlagHopLimit, true),
		conn.JoinGroup(allNodes),
		conn.JoinGroup(allRouters),
	)
}

// solicitRouters requests a router advertisement from all routers.
func solicitRouters(conn *ndp.Conn, iface string) error {
	if err := conn.WriteTo(&ndp.RouterSolicitation{}, nil, allRouters); err != nil {
		return fmt.Errorf("solicit routers on %s: %w", iface, err)
	}
	return nil
}

// sendAdvertisement sends a router advertisement with a lifetime of zero.
func sendAdvertisement(conn *ndp.Conn, ifi *net.Interface) error {
	ra := &ndp.RouterAdvertisement{Options: []ndp.Option{sourceAddress(ifi), speakerOption}}
	if err := conn.WriteTo(ra, nil, allNodes); err != nil {
		return fmt.Errorf("advertise on %s: %w", ifi.Name, err)
	}
	return nil
}

func sourceAddress(ifi *net.Interface) ndp.Option {
	return &ndp.LinkLayerAddress{Direction: ndp.Source, Addr: ifi.HardwareAddr}
}

// checkRouter sends a neighbor solicitation to the router if it is due. When the router
// is lost, it solicits the others.
func (r *Routers) checkRouter(conn *ndp.Conn, ifi *net.Interface) error {
	router, lost := r.checkReachability(ifi.Name)
	if lost {
		return solicitRouters(conn, ifi.Name)
	}
	if !router.IsValid() {
		return nil
	}
	ns := &ndp.NeighborSolicitation{TargetAddress: router.WithZone(""), Options: []ndp.Option{sourceAddress(ifi)}}
	if err := conn.WriteTo(ns, nil, router); err != nil {
		return fmt.Errorf("solicit router %s: %w", router, err)
	}
	return nil
}

// receiveUntil handles messages until the time, or until a router has solicited an
// advertisement.
func (r *Routers) receiveUntil(conn *ndp.Conn, iface string, until time.Time) (solicited bool, err error) {
	if err := conn.SetReadDeadline(until); err != nil {
		return false, fmt.Errorf("listen on %s: %w", iface, err)
	}
	for {
		message, control, from, err := conn.ReadFrom() // skips malformed ones
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return false, nil
		case err != nil:
			return false, fmt.Errorf("listen on %s: %w", iface, err)
		case control == nil || control.HopLimit != ndp.HopLimit:
			continue // not from the segment (RFC 4861 sections 6.1 and 7.1)
		}
		switch m := message.(type) {
		case *ndp.RouterAdvertisement:
			if from.IsLinkLocalUnicast() && !isSpeaker(m) { // RFC 4861 section 6.1.2
				r.recordAdvertisement(iface, from.WithZone(iface), m.RouterLifetime > 0)
			}
		case *ndp.NeighborAdvertisement:
			if m.Solicited { // others do not confirm reachability (RFC 4861 section 7.3.1)
				r.recordReachable(iface, m.TargetAddress.WithZone(iface))
			}
		case *ndp.RouterSolicitation:
			return true, nil
		}
	}
}

// earliest returns the earlier of two times.
func earliest(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
