package l2

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Interface is an Ethernet interface that is up and running.
type Interface struct {
	Name     string
	Prefixes []netip.Prefix // addresses with their prefix lengths, without link-local ones; sorted
}

// Contains reports whether the address is in one of the link's subnets.
func (l Interface) Contains(addr netip.Addr) bool {
	return slices.ContainsFunc(l.Prefixes, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// Links are the node's links, by name.
func Interfaces() ([]Interface, error) {
	all, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list the links: %w", err)
	}
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list the links' addresses: %w", err)
	}
	var links []Interface
	for _, l := range all {
		a := l.Attrs()
		usable := len(a.HardwareAddr) == 6 && a.Flags&net.FlagLoopback == 0 && a.RawFlags&unix.IFF_NOARP == 0 &&
			a.Flags&net.FlagUp != 0 && a.RawFlags&unix.IFF_LOWER_UP != 0 && a.MasterIndex == 0
		if !usable {
			continue // a bridge's or bond's member is reached through its master
		}
		link := Interface{Name: a.Name}
		for _, addr := range addrs {
			ip, ok := netip.AddrFromSlice(addr.IP)
			ones, _ := addr.Mask.Size()
			if addr.LinkIndex == a.Index && ok && !ip.Unmap().IsLinkLocalUnicast() {
				link.Prefixes = append(link.Prefixes, netip.PrefixFrom(ip.Unmap(), ones))
			}
		}
		slices.SortFunc(link.Prefixes, netip.Prefix.Compare)
		links = append(links, link)
	}
	slices.SortFunc(links, func(a, b Interface) int { return strings.Compare(a.Name, b.Name) })
	return links, nil
}

// rewatchAfter is the wait before a broken watch is begun again.
const rewatchAfter = time.Second

// WatchInterfaces calls changed whenever a link or an address of a link changes,
// until ctx ends. A watch that breaks, as when the kernel has more to tell than
// the socket holds, is begun again, and changed is called for what was missed.
func WatchInterfaces(ctx context.Context, log *slog.Logger, changed func()) {
	for ctx.Err() == nil {
		if err := watchLinks(ctx, changed); err != nil && ctx.Err() == nil {
			log.Warn("watch of the links broke, will be begun again", "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(rewatchAfter):
				changed()
			}
		}
	}
}

func watchLinks(ctx context.Context, changed func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	links, addrs := make(chan netlink.LinkUpdate, 16), make(chan netlink.AddrUpdate, 16)
	lost := make(chan error, 2)
	onError := func(err error) {
		select {
		case lost <- err:
		default:
		}
	}
	if err := netlink.LinkSubscribeWithOptions(links, ctx.Done(), netlink.LinkSubscribeOptions{ErrorCallback: onError}); err != nil {
		return fmt.Errorf("subscribe to links: %w", err)
	}
	// The subscriptions send until they are told to end: somebody must listen.
	defer func() { go drain(links) }()
	if err := netlink.AddrSubscribeWithOptions(addrs, ctx.Done(), netlink.AddrSubscribeOptions{ErrorCallback: onError}); err != nil {
		return fmt.Errorf("subscribe to addresses: %w", err)
	}
	defer func() { go drain(addrs) }()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-lost:
			return err
		case _, open := <-links:
			if !open {
				return errors.New("the subscription to links ended")
			}
		case _, open := <-addrs:
			if !open {
				return errors.New("the subscription to addresses ended")
			}
		}
		changed()
	}
}

func drain[T any](c <-chan T) {
	for range c {
	}
}
