package guard_test

import (
	"context"
	"log/slog"
	"net/netip"

	"github.com/fairlead-io/fairlead/speaker/guard"
)

// A node guards an announced address and an aggregate against loops with its BGP
// peer, and removes the guard in the end. The example is not run, because it needs
// CAP_NET_ADMIN.
func ExampleGuard() {
	ctx := context.Background()
	g := guard.New(slog.Default())
	state := guard.State{
		Prefixes: []netip.Prefix{netip.MustParsePrefix("203.0.113.1/32"), netip.MustParsePrefix("198.51.100.0/24")},
		Peers:    []netip.Addr{netip.MustParseAddr("192.0.2.1")},
	}
	// Set is idempotent: it must be called again periodically.
	if err := g.Set(ctx, state); err != nil {
		slog.Warn("loop guard incomplete, retrying", "error", err)
	}
	if err := g.Remove(ctx); err != nil {
		slog.Warn("removing the loop guard failed", "error", err)
	}
}
