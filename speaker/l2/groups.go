package l2

import (
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/mdlayher/ndp"
	"golang.org/x/sys/unix"
)

// groups are the memberships in the solicited-node groups of addresses on one interface.
// The kernel announces them by MLD, so that switches that snoop forward the solicitations,
// and programs the interface to receive them. The zero value with an interface is ready for
// use. Not to be used concurrently.
type groups struct {
	ifindex int
	members map[netip.Addr]*groupSocket
	open    []*groupSocket
}

// groupSocket holds memberships. The kernel bounds their number by net.core.optmem_max:
// to 365 with its default before Linux 6.8.
type groupSocket struct {
	fd    int
	count int
	full  bool
}

// set joins the groups of the addresses and leaves the others.
func (g *groups) set(addrs []netip.Addr) error {
	desired := make(map[netip.Addr]bool, len(addrs))
	for _, a := range addrs {
		if a.Is4() {
			continue // ARP is broadcast
		}
		group, err := ndp.SolicitedNodeMulticast(a)
		if err != nil {
			return fmt.Errorf("solicited-node group of %s: %w", a, err)
		}
		desired[group] = true
	}
	var failures []error
	for group, socket := range g.members {
		if !desired[group] {
			failures = append(failures, socket.change(unix.IPV6_LEAVE_GROUP, group, g.ifindex))
			delete(g.members, group)
			socket.count, socket.full = socket.count-1, false
		}
	}
	for group := range desired {
		if g.members[group] == nil {
			failures = append(failures, g.join(group))
		}
	}
	return errors.Join(failures...)
}

// join joins the group by the first socket that has room.
func (g *groups) join(group netip.Addr) error {
	for _, s := range g.open {
		if s.full {
			continue
		}
		err := s.change(unix.IPV6_JOIN_GROUP, group, g.ifindex)
		switch {
		case err == nil:
			s.count++
			if g.members == nil {
				g.members = make(map[netip.Addr]*groupSocket)
			}
			g.members[group] = s
			return nil
		case !errors.Is(err, unix.ENOBUFS) && !errors.Is(err, unix.ENOMEM) || s.count == 0:
			return err
		}
		s.full = true
	}
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open a socket for multicast groups: %w", os.NewSyscallError("socket", err))
	}
	g.open = append(g.open, &groupSocket{fd: fd})
	return g.join(group)
}

func (s *groupSocket) change(option int, group netip.Addr, ifindex int) error {
	mreq := &unix.IPv6Mreq{Multiaddr: group.As16(), Interface: uint32(ifindex)}
	if err := unix.SetsockoptIPv6Mreq(s.fd, unix.IPPROTO_IPV6, option, mreq); err != nil {
		return fmt.Errorf("membership in %s: %w", group, os.NewSyscallError("setsockopt", err))
	}
	return nil
}

// close leaves all groups.
func (g *groups) close() {
	for _, s := range g.open {
		_ = unix.Close(s.fd)
	}
	g.open, g.members = nil, nil
}
