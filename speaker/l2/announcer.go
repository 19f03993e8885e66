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

// Announcer announces a set of addresses. It has one socket for each interface in
// use, and none when it has nothing to announce. All methods may be called
// concurrently.
type Announcer struct {
	log       *slog.Logger
	onFailure func()

	mu         sync.Mutex
	responders map[string]*arpResponder // by name of the interface
}

// New returns an Announcer that announces nothing yet. It calls failed when an
// interface in use fails; Set must then be called again.
func New(log *slog.Logger, failed func()) *Announcer {
	return &Announcer{log: log, onFailure: failed, responders: make(map[string]*arpResponder)}
}

// Set replaces all claims. It announces new addresses before it stops answering for
// removed ones. It returns the claims that are in force: interfaces that could not be
// opened are missing from them and named in the error. Set is idempotent, and must be
// called again when interfaces have changed.
func (a *Announcer) Set(ctx context.Context, claims map[netip.Addr]Claim) (map[netip.Addr]Claim, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	desired := make(map[string][]netip.Addr)
	for addr, c := range claims {
		for _, iface := range c.Interfaces {
			desired[iface] = append(desired[iface], addr)
		}
	}
	var failures []error
	held := make(map[netip.Addr]Claim, len(claims))
	for _, iface := range slices.Sorted(maps.Keys(desired)) {
		if err := a.setInterface(ctx, iface, desired[iface]); err != nil {
			failures = append(failures, err)
			continue
		}
		for _, addr := range desired[iface] {
			held[addr] = Claim{append(held[addr].Interfaces, iface)}
		}
	}
	for iface, r := range a.responders {
		if desired[iface] == nil {
			r.closeAndWait()
			delete(a.responders, iface)
		}
	}
	return held, errors.Join(failures...)
}

// Close stops answering. When it returns, all sockets are closed and all goroutines
// have ended.
func (a *Announcer) Close() {
	_, _ = a.Set(context.Background(), nil) // opens no socket, so it cannot fail
}

// setInterface answers for the addresses on one interface.
func (a *Announcer) setInterface(ctx context.Context, iface string, addrs []netip.Addr) error {
	ifi, err := net.InterfaceByName(iface)
	if err != nil {
		return fmt.Errorf("announce on %s: %w", iface, err)
	}
	r := a.responders[iface]
	if r != nil && !r.isBoundTo(ifi) {
		r.closeAndWait() // the interface was replaced, got another MAC, or its socket failed
		delete(a.responders, iface)
		r = nil
	}
	if r == nil {
		conn, err := listenARP(ifi, addrs)
		if err != nil {
			return fmt.Errorf("announce on %s: %w", iface, err)
		}
		r = newResponder(context.WithoutCancel(ctx), ifi, conn, a.log.With("interface", iface), a.onFailure)
		a.responders[iface] = r
	}
	if err := r.setAddresses(addrs); err != nil {
		r.closeAndWait() // so that it does not answer for addresses that were removed
		delete(a.responders, iface)
		return fmt.Errorf("announce on %s: %w", iface, err)
	}
	return nil
}
