package l2

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"github.com/mdlayher/ndp"
	"golang.org/x/sys/unix"
)

// groups are the memberships in the solicited-node groups of addresses on one interface.
// The kernel announces them by MLD, so that switches that snoop forward the solicitations,
// and programs the interface to receive them. To join the groups of thousands of addresses
// takes seconds, so that run does it in the background.
type groups struct {
	ifindex int
	log     *slog.Logger
	desired atomic.Pointer[map[netip.Addr]bool]
	changed chan struct{} // desired has changed; has a buffer of one

	// The others are used by run only.
	members map[netip.Addr]*groupSocket
	open    []*groupSocket
}

// groupRetryInterval is the wait before failed joins are repeated.
const groupRetryInterval = 10 * time.Second

// groupSocket holds memberships. The kernel bounds their number by net.core.optmem_max:
// to 365 with its default before Linux 6.8.
type groupSocket struct {
	fd    int
	count int
	full  bool
}

func newGroups(ifindex int, log *slog.Logger) *groups {
	g := &groups{ifindex: ifindex, log: log, changed: make(chan struct{}, 1), members: make(map[netip.Addr]*groupSocket)}
	g.desired.Store(&map[netip.Addr]bool{})
	return g
}

// set replaces the addresses. It must not be called concurrently.
func (g *groups) set(addrs []netip.Addr) {
	desired := make(map[netip.Addr]bool, len(addrs))
	for _, a := range addrs {
		if group, err := ndp.SolicitedNodeMulticast(a); err == nil { // IPv4 addresses have none: ARP is broadcast
			desired[group] = true
		}
	}
	g.desired.Store(&desired)
	select {
	case g.changed <- struct{}{}:
	default:
	}
}

// run joins the groups of the addresses of the last set and leaves the others, until ctx
// ends. It leaves all groups before it returns.
func (g *groups) run(ctx context.Context) {
	defer g.close()
	var retry <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-g.changed:
		case <-retry:
		}
		retry = nil
		if failed, err := g.apply(ctx); err != nil {
			g.log.Warn("joining multicast groups failed, retrying", "groups", failed, "error", err)
			retry = time.After(groupRetryInterval)
		}
	}
}

// apply joins and then leaves groups until the memberships are as desired, desired is
// replaced or ctx ends. It returns the number of groups that it failed to join, and the
// first error.
func (g *groups) apply(ctx context.Context) (failed int, firstErr error) {
	desired := g.desired.Load()
	ended := func() bool { return ctx.Err() != nil || g.desired.Load() != desired }
	for group := range *desired {
		if ended() {
			return 0, nil
		}
		if g.members[group] != nil {
			continue
		}
		if err := g.join(group); err != nil {
			failed, firstErr = failed+1, cmp.Or(firstErr, err)
		}
	}
	for group, socket := range g.members {
		if ended() {
			return 0, nil
		}
		if (*desired)[group] {
			continue
		}
		if err := socket.change(unix.IPV6_LEAVE_GROUP, group, g.ifindex); err != nil {
			g.log.Warn("leaving a multicast group failed", "error", err)
		}
		delete(g.members, group)
		socket.count, socket.full = socket.count-1, false
	}
	return failed, firstErr
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
	for _, s := range slices.Backward(g.open) { // the kernel finds the newest memberships first
		_ = unix.Close(s.fd)
	}
	g.open, g.members = nil, nil
}
