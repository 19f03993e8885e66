package l2_test

import (
	"context"
	"log/slog"
	"net/netip"

	"github.com/fairlead-io/fairlead/speaker/l2"
)

// A node announces an address on eth0, moves it to eth1 and stops. The example is
// not run, because raw sockets need a capability.
func ExampleAnnouncer() {
	ctx := context.Background()
	failed := make(chan struct{}, 1)
	announcer := l2.New(slog.Default(), func() {
		select {
		case failed <- struct{}{}: // an interface failed: call Set again
		default:
		}
	})
	defer announcer.Close()

	addr := netip.MustParseAddr("192.0.2.10")
	for _, iface := range []string{"eth0", "eth1"} {
		held, err := announcer.Set(ctx, map[netip.Addr]l2.Claim{addr: {Interfaces: []string{iface}}})
		if err != nil {
			slog.Warn("announcement failed, retrying", "error", err)
		}
		slog.Info("announced", "address", addr, "interfaces", held[addr].Interfaces)
	}
}
