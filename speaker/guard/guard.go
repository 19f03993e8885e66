package guard

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// State is the desired state of the guard.
type State struct {
	// Prefixes are the announced prefixes: host routes and aggregates. A default
	// route is not guarded.
	Prefixes []netip.Prefix
	// Peers are the routers that send packets to Prefixes. The interfaces by which
	// the kernel reaches them are guarded. A link-local address must have a zone.
	// An address without a route is ignored.
	Peers []netip.Addr
	// Interfaces are the names of further interfaces to guard, in addition to those
	// of Peers and of the default routes in the main table.
	Interfaces []string
}

func (s State) sameAs(o State) bool {
	return slices.Equal(s.Prefixes, o.Prefixes) && slices.Equal(s.Peers, o.Peers) && slices.Equal(s.Interfaces, o.Interfaces)
}

// recheckInterval is how long the kernel is assumed to be as it was last found.
// Other programs may remove foreign rules and routes, as systemd-networkd does by
// default.
const recheckInterval = 10 * time.Second

// Guard maintains routes and rules in the kernel. They stay when the process ends.
// All methods may be called concurrently.
type Guard struct {
	log *slog.Logger

	mu        sync.Mutex
	applied   State
	checkedAt time.Time // when the kernel matched applied; zero if it may not
}

// New returns a Guard. It does not change the kernel before Set or Remove.
func New(log *slog.Logger) *Guard { return &Guard{log: log} }

// Set makes the desired state the only one, in the network namespace of the caller.
// Routes and rules of an earlier process are kept if they are desired. Nothing is
// removed before the new routes and rules exist. Set reads the kernel's tables if the
// state differs from the last one, or 10 s after it last read them: it must be called
// again whenever interfaces or routes change, and periodically.
//
// If an interface in Interfaces does not exist, or is the loopback, the error names it
// and everything else is guarded nevertheless. Without CAP_NET_ADMIN the error wraps
// unix.EPERM.
func (g *Guard) Set(ctx context.Context, desired State) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if desired.sameAs(g.applied) && time.Since(g.checkedAt) < recheckInterval {
		return nil
	}
	g.checkedAt = time.Time{}
	if err := g.apply(ctx, &desired); err != nil {
		return fmt.Errorf("set the loop guard: %w", err)
	}
	g.applied = State{slices.Clone(desired.Prefixes), slices.Clone(desired.Peers), slices.Clone(desired.Interfaces)}
	g.checkedAt = time.Now()
	return nil
}

// Remove removes all rules and routes, also those of another Guard.
func (g *Guard) Remove(ctx context.Context) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.checkedAt = time.Time{}
	if err := g.apply(ctx, nil); err != nil {
		return fmt.Errorf("remove the loop guard: %w", err)
	}
	return nil
}
