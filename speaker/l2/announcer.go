package l2

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

// Claim is where and how an address is announced.
type Claim struct {
	Interfaces []string // names of interfaces, sorted
	// Probe is set if another host may have the address: unless it is announced already,
	// the segment is asked first (RFC 5227, RFC 4862), for 0.2 s.
	Probe bool
	// Withhold is set if the address must not be announced, as a rule because another host
	// has it. The segment is asked at once and then from time to time who has it.
	Withhold bool
	// Defer is set if the address must not be announced yet. The segment is asked meanwhile,
	// so that it can be announced at once by a Claim without Defer.
	Defer bool
}

// Announcer announces a set of addresses. It has one socket for each interface and family
// in use, and none when it has nothing to announce. All methods may be called
// concurrently.
type Announcer struct {
	log       *slog.Logger
	changed   func()
	claimants claimants
	hold      hold
	stallMu   sync.Mutex // of SetStallThreshold

	mu         sync.Mutex
	responders map[socketKey]*responder
	held       map[netip.Addr]Claim
}

// socketKey identifies a responder.
type socketKey struct {
	iface string
	family
}

// New returns an Announcer that announces nothing yet. It calls changed when an interface
// in use fails, when an address was probed and when the Claimants change; Set must then be
// called again. It must not call the Announcer.
func New(log *slog.Logger, changed func()) *Announcer {
	registerMetrics()
	return &Announcer{
		log: log, changed: changed, responders: make(map[socketKey]*responder),
		claimants: claimants{changed: changed, byAddr: make(map[netip.Addr][]Claimant), defended: make(map[netip.Addr]time.Time)},
	}
}

// Set replaces all claims. It announces new addresses before it stops answering for
// removed ones. It returns the claims that are in force: interfaces that could not be
// opened are missing from them and named in the error, and so are the addresses that are
// being probed or withheld. Set is idempotent, and must be called again when interfaces
// have changed.
func (a *Announcer) Set(ctx context.Context, claims map[netip.Addr]Claim) (map[netip.Addr]Claim, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	desired := make(map[socketKey]map[netip.Addr]mode)
	for addr, c := range claims {
		m := a.modeOf(addr, c)
		for _, iface := range c.Interfaces {
			key := socketKey{iface, familyOf(addr)}
			if desired[key] == nil {
				desired[key] = make(map[netip.Addr]mode)
			}
			desired[key][addr] = m
		}
	}
	var failures []error
	a.held = make(map[netip.Addr]Claim, len(claims))
	for _, key := range slices.SortedFunc(maps.Keys(desired), compareKeys) {
		if err := a.setInterface(ctx, key, desired[key]); err != nil {
			failures = append(failures, fmt.Errorf("announce on %s: %w", key.iface, err))
			continue
		}
		for addr, m := range desired[key] {
			if m == announcing {
				a.held[addr] = Claim{Interfaces: append(a.held[addr].Interfaces, key.iface)}
			}
		}
	}
	var own []net.HardwareAddr
	for key, r := range a.responders {
		if desired[key] == nil {
			r.closeAndWait()
			delete(a.responders, key)
			continue
		}
		own = append(own, r.ifi.HardwareAddr)
	}
	a.claimants.retain(func(addr netip.Addr, iface string) bool { return slices.Contains(claims[addr].Interfaces, iface) }, own)
	return maps.Clone(a.held), errors.Join(failures...)
}

// modeOf returns what is done for the address of a claim.
func (a *Announcer) modeOf(addr netip.Addr, c Claim) mode {
	switch {
	case c.Withhold:
		return withholding
	case !c.Probe && !c.Defer || len(a.held[addr].Interfaces) > 0:
		return announcing
	}
	cleared := false
	for _, iface := range c.Interfaces {
		if r := a.responders[socketKey{iface, familyOf(addr)}]; r != nil {
			if cleared = r.isCleared(addr); !cleared {
				return probing
			}
		}
	}
	if cleared && !c.Defer && !a.claimants.has(addr) {
		return announcing
	}
	return probing
}

func compareKeys(a, b socketKey) int {
	return cmp.Or(strings.Compare(a.iface, b.iface), cmp.Compare(a.etherType(), b.etherType()))
}

// Claimants returns the other hosts that claim addresses of the last Set, by address, and
// the time until that changes for an announced address: one that has just claimed it does
// not count yet, and one that has not claimed it for a while does not count any more. The
// time is 0 if there is none.
func (a *Announcer) Claimants() (byAddr map[netip.Addr][]Claimant, next time.Duration) {
	a.mu.Lock()
	held := a.held
	a.mu.Unlock()
	return a.claimants.current(func(addr netip.Addr) bool { return len(held[addr].Interfaces) > 0 })
}

// Reannounce announces those of the addresses that are announced again as if they had just
// been taken over, at most once a second each: after another node has announced them, for
// example. It waits for a concurrent Set.
func (a *Announcer) Reannounce(addrs []netip.Addr) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, r := range a.responders {
		r.reannounce(addrs)
	}
}

// SetNodes replaces the MACs of the cluster's nodes. Their claims are not answered by an
// announcement.
func (a *Announcer) SetNodes(macs map[string]bool) {
	a.claimants.mu.Lock()
	defer a.claimants.mu.Unlock()
	a.claimants.nodes = macs
}

// Close stops answering. When it returns, all sockets are closed and all goroutines
// have ended.
func (a *Announcer) Close() {
	a.SetStallThreshold(0, nil)
	_, _ = a.Set(context.Background(), nil) // opens no socket, so it cannot fail
}

// setInterface sets the addresses of one family on one interface.
func (a *Announcer) setInterface(ctx context.Context, key socketKey, desired map[netip.Addr]mode) error {
	ifi, err := net.InterfaceByName(key.iface)
	r := a.responders[key]
	if r != nil && (err != nil || !r.isBoundTo(ifi)) {
		r.closeAndWait() // the interface was renamed or replaced, got another MAC, or its socket failed
		delete(a.responders, key)
		r = nil
	}
	if err != nil {
		return err
	}
	if r == nil {
		conn, err := listen(ifi, key.family)
		if err != nil {
			return err
		}
		log := a.log.With("interface", key.iface, "protocol", key.String())
		r = newResponder(context.WithoutCancel(ctx), ifi, key.family, conn, &a.claimants, &a.hold, log, a.changed)
		a.responders[key] = r
	}
	if err := r.set(desired); err != nil {
		r.closeAndWait() // so that it does not answer for addresses that were removed
		delete(a.responders, key)
		return err
	}
	return nil
}
