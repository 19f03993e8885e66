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

// State is everything that shall be guarded.
type State struct {
	// Prefixes that are announced: host routes and aggregates. A default
	// route is not guarded.
	Prefixes []netip.Prefix
	// Toward are BGP peers and the like: packets to Prefixes come in by the
	// links through which the kernel reaches them. A link-local address
	// carries its zone. One that the kernel has no route to is passed over.
	Toward []netip.Addr
	// Interfaces are the names of interfaces to guard besides these and besides
	// the links of the main table's default routes.
	Interfaces []string
}

func (s State) equal(o State) bool {
	return slices.Equal(s.Prefixes, o.Prefixes) && slices.Equal(s.Toward, o.Toward) && slices.Equal(s.Interfaces, o.Interfaces)
}

// recheckAfter is how long what was found in the kernel counts as known.
// Others may take away what they do not know: systemd-networkd does, by default.
const recheckAfter = 10 * time.Second

// Guard keeps routes and rules in the kernel. They stay when the process ends.
type Guard struct {
	log *slog.Logger

	mu      sync.Mutex
	set     State
	checked time.Time // when the kernel was found to be, or made, as set; zero if it may not be
}

// New makes a Guard that has not touched the kernel.
func New(log *slog.Logger) *Guard { return &Guard{log: log} }

// Set makes the state all that is guarded, in the network namespace of the
// caller. It takes over what an earlier process left, and takes nothing away
// before the new is there. It looks at the kernel if the state is another one
// than the last time, or 10 s after it last looked: call it again whenever links
// or routes change, and every now and then.
//
// An interface of Interfaces that is not there, or is the loopback, is named in the
// error; everything else is guarded nevertheless. Without CAP_NET_ADMIN the
// error wraps unix.EPERM.
func (g *Guard) Set(ctx context.Context, want State) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if want.equal(g.set) && time.Since(g.checked) < recheckAfter {
		return nil
	}
	g.checked = time.Time{}
	if err := g.apply(ctx, &want); err != nil {
		return fmt.Errorf("set the loop guard: %w", err)
	}
	g.set = State{slices.Clone(want.Prefixes), slices.Clone(want.Toward), slices.Clone(want.Interfaces)}
	g.checked = time.Now()
	return nil
}

// Remove takes all rules and routes of any Guard away.
func (g *Guard) Remove(ctx context.Context) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.checked = time.Time{}
	if err := g.apply(ctx, nil); err != nil {
		return fmt.Errorf("remove the loop guard: %w", err)
	}
	return nil
}
