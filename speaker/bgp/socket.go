package bgp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-io/fairlead/speaker/internal/netlinkdump"
)

// networkControl marks packets as routing traffic: class selector 6 (RFC 4594 section 3.1).
const networkControl = 0xc0

// preferPublic is IPV6_PREFER_SRC_PUBLIC of linux/in6.h.
const preferPublic = 0x2

var errNoInterface = errors.New("no such interface")

// dialPeer connects to a peer.
func dialPeer(ctx context.Context, p Peer) (net.Conn, error) {
	d := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
		if p.Password != "" {
			if err := setMD5(c, p.Address, p.Password); err != nil {
				return err
			}
		}
		if p.Address.Is6() {
			// RFC 5014: a temporary address (RFC 8981) changes, and the router does not know it. It
			// has no effect on a socket with a source address.
			_ = setSocketOption(c, func(fd int) error {
				return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_ADDR_PREFERENCES, preferPublic)
			})
		}
		return setTTL(c, p)
	}}
	d.SetMultipathTCP(false) // neither MD5 nor TTL security work with it
	address, source := p.Address, p.Source
	if zone := address.Zone(); zone != "" {
		// Package net caches the index of a name for a minute, and an interface
		// that was created again has another.
		ifi, err := net.InterfaceByName(zone)
		if err != nil {
			return nil, errNoInterface
		}
		address = address.WithZone(strconv.Itoa(ifi.Index))
		if source.IsLinkLocalUnicast() && source.Is6() {
			source = source.WithZone(address.Zone())
		}
	}
	if source.IsValid() {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(source, 0))
	}
	return d.DialContext(ctx, "tcp", netip.AddrPortFrom(address, p.Port).String())
}

// setSocketOption sets an option of a socket by its file descriptor.
func setSocketOption(c syscall.RawConn, set func(fd int) error) error {
	var err error
	return errors.Join(c.Control(func(fd uintptr) { err = set(int(fd)) }), err)
}

// setMD5 sets the TCP MD5 password for segments to and from an address (RFC
// 2385). An empty one removes it.
func setMD5(c syscall.RawConn, peer netip.Addr, password Secret) error {
	sig := unix.TCPMD5Sig{Keylen: uint16(len(password))}
	if len(password) > len(sig.Key) {
		return fmt.Errorf("the password must have at most %d bytes", len(sig.Key))
	}
	copy(sig.Key[:], password)
	if peer.Is4() {
		sig.Addr.Family = unix.AF_INET
		copy(sig.Addr.Data[2:], peer.AsSlice()) // sockaddr_in: after the port
	} else {
		sig.Addr.Family = unix.AF_INET6
		copy(sig.Addr.Data[6:], peer.AsSlice()) // sockaddr_in6: after port and flow
	}
	err := setSocketOption(c, func(fd int) error {
		return unix.SetsockoptTCPMD5Sig(fd, unix.IPPROTO_TCP, unix.TCP_MD5SIG, &sig)
	})
	if err != nil {
		return fmt.Errorf("set the TCP MD5 password: %w", err)
	}
	return nil
}

// setTTL limits the distance of the peer, in both directions (RFC 5082).
func setTTL(c syscall.RawConn, p Peer) error {
	level, ttl, least, class := unix.IPPROTO_IP, unix.IP_TTL, unix.IP_MINTTL, unix.IP_TOS
	if p.Address.Is6() {
		level, ttl, least, class = unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, unix.IPV6_MINHOPCOUNT, unix.IPV6_TCLASS
	}
	return setSocketOption(c, func(fd int) error {
		_ = unix.SetsockoptInt(fd, level, class, networkControl) // it has an effect on congested links only
		internal := p.PeerASN == p.LocalASN || p.PeerASN == 0 && p.Kind == Internal
		if p.TTLSecurity {
			if err := unix.SetsockoptInt(fd, level, ttl, 255); err != nil {
				return fmt.Errorf("set the TTL: %w", err)
			}
			if err := unix.SetsockoptInt(fd, level, least, 256-max(1, int(p.Hops))); err != nil {
				return fmt.Errorf("set the minimum TTL: %w", err)
			}
		} else if p.Hops > 0 && !internal {
			if err := unix.SetsockoptInt(fd, level, ttl, int(p.Hops)); err != nil {
				return fmt.Errorf("set the TTL: %w", err)
			}
		}
		return nil
	})
}

// listenTCP listens on an address and port.
func listenTCP(ctx context.Context, at netip.AddrPort) (*net.TCPListener, error) {
	network, level, ttl := "tcp4", unix.IPPROTO_IP, unix.IP_TTL
	if at.Addr().Is6() {
		network, level, ttl = "tcp6", unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS
	}
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		// A peer with TTL security expects 255 from the first packet on.
		return setSocketOption(c, func(fd int) error { return unix.SetsockoptInt(fd, level, ttl, 255) })
	}}
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(ctx, network, at.String())
	if err != nil {
		return nil, err
	}
	return l.(*net.TCPListener), nil
}

// interfaceAddrs returns the addresses of the interface that has an address, and
// none if the interface does not exist.
func interfaceAddrs(local netip.Addr) []linkAddr {
	all, err := netlinkdump.Addresses()
	if err != nil {
		return nil // no next hop for the other family, which the status reports
	}
	zone, ok := zoneIndex(local)
	i := slices.IndexFunc(all, func(a netlinkdump.Address) bool {
		return a.Addr == local.WithZone("") && (zone == 0 || a.LinkIndex == zone)
	})
	if !ok || i < 0 {
		return nil
	}
	return addrsOfLink(all, all[i].LinkIndex)
}

// onLinkAddrs returns the addresses of this node in the subnet of a directly connected peer, on
// the interface by which the peer is reached. It returns none for other peers.
func onLinkAddrs(peer netip.Addr) []linkAddr {
	zone, ok := zoneIndex(peer)
	if !ok {
		return nil
	}
	subnet, index, ok := netlinkdump.OnLinkSubnet(peer, zone)
	if !ok {
		return nil
	}
	all, err := netlinkdump.Addresses()
	if err != nil {
		return nil // the kernel selects the source
	}
	return slices.DeleteFunc(addrsOfLink(all, index), func(a linkAddr) bool { return !subnet.Contains(a.Addr) })
}

// zoneIndex returns the index of the interface that is the zone of an address, 0 without one.
func zoneIndex(addr netip.Addr) (index int, ok bool) {
	name := addr.Zone()
	if name == "" {
		return 0, true
	}
	if ifi, err := net.InterfaceByName(name); err == nil {
		return ifi.Index, true
	}
	index, err := strconv.Atoi(name)
	return index, err == nil
}

// addrsOfLink returns those of the addresses that are of the interface with the index, except
// duplicate ones, which the kernel does not use.
func addrsOfLink(all []netlinkdump.Address, index int) (addrs []linkAddr) {
	const unstable = unix.IFA_F_TEMPORARY | unix.IFA_F_DEPRECATED | unix.IFA_F_TENTATIVE
	for _, a := range all {
		if a.LinkIndex != index || a.Flags&unix.IFA_F_DADFAILED != 0 {
			continue
		}
		l := linkAddr{Addr: a.Addr, secondary: a.Flags&unix.IFA_F_SECONDARY != 0} // the same flag as IFA_F_TEMPORARY
		if l.Is6() {
			l.unstable, l.secondary = a.Flags&unstable != 0, a.Flags&unix.IFA_F_PERMANENT == 0
		}
		addrs = append(addrs, l)
	}
	return addrs
}

// waitOrWake waits until the time is over, ctx ends or wake has a value. It reports
// whether the time is over.
func waitOrWake(ctx context.Context, d time.Duration, wake <-chan struct{}) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
	case <-wake:
	}
	return false
}
