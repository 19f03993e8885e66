package l2

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
)

// Claim is where an address is announced.
type Claim struct {
	Interfaces []string // names of interfaces, sorted
}

// Announcer answers for a set of addresses. It holds one socket for each link
// that it is used on, and none when it has nothing to announce.
type Announcer struct {
	log    *slog.Logger
	failed func()

	mu         sync.Mutex
	responders map[string]*responder // by name of the link
}

// New makes an Announcer that announces nothing yet. It calls failed when a link
// fails that it announces on: then is the time to call Set again.
func New(log *slog.Logger, failed func()) *Announcer {
	return &Announcer{log: log, failed: failed, responders: make(map[string]*responder)}
}

// Set makes the claims all that is announced. What is new is announced before
// what is gone falls silent. It returns the claims that hold now: links that
// could not be opened are missing from them and named in the error. Set may be
// called again with the same claims at any time; it then follows links that
// have changed.
func (a *Announcer) Set(ctx context.Context, claims map[netip.Addr]Claim) (map[netip.Addr]Claim, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	wanted := make(map[string][]netip.Addr)
	for addr, c := range claims {
		for _, link := range c.Interfaces {
			wanted[link] = append(wanted[link], addr)
		}
	}
	var failures []error
	held := make(map[netip.Addr]Claim, len(claims))
	for _, link := range slices.Sorted(maps.Keys(wanted)) {
		if err := a.serve(ctx, link, wanted[link]); err != nil {
			failures = append(failures, err)
			continue
		}
		for _, addr := range wanted[link] {
			held[addr] = Claim{append(held[addr].Interfaces, link)}
		}
	}
	for link, r := range a.responders {
		if wanted[link] == nil {
			r.close()
			delete(a.responders, link)
		}
	}
	return held, errors.Join(failures...)
}

// Close falls silent. Every socket and goroutine is gone when it returns.
func (a *Announcer) Close() {
	_, _ = a.Set(context.Background(), nil) // nothing is opened, so nothing can fail
}

// serve answers for the addresses on one link.
func (a *Announcer) serve(ctx context.Context, link string, addrs []netip.Addr) error {
	ifi, err := net.InterfaceByName(link)
	if err != nil {
		return fmt.Errorf("announce on %s: %w", link, err)
	}
	r := a.responders[link]
	if r != nil && !r.isOn(ifi) {
		r.close() // the interface was replaced, got another MAC, or its socket failed
		delete(a.responders, link)
		r = nil
	}
	if r == nil {
		conn, err := listen(ifi, addrs)
		if err != nil {
			return fmt.Errorf("announce on %s: %w", link, err)
		}
		r = newResponder(context.WithoutCancel(ctx), ifi, conn, a.log.With("link", link), a.failed)
		a.responders[link] = r
	}
	if err := r.set(addrs); err != nil {
		r.close() // or it would go on answering for what is no longer wanted
		delete(a.responders, link)
		return fmt.Errorf("announce on %s: %w", link, err)
	}
	return nil
}
