package bfd_test

import (
	"context"
	"log/slog"
	"net/netip"
	"time"

	"github.com/fairlead-io/fairlead/speaker/bfd"
)

// An Engine reports each change of a session's state. It needs the BFD ports, so
// this example is compiled but not run.
func Example() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()

	engine := bfd.New(slog.Default(), func(key bfd.Key, s bfd.Status) {
		if s.State == bfd.Down {
			slog.Warn("path failed", "peer", key.Peer, "diagnostic", s.Diagnostic)
		}
	})
	// The discriminators of the sessions, which others must not know, are the same
	// after a restart. Without it they are random.
	engine.Identify("node-1", []byte("32 random bytes, the same on all nodes"))
	go func() { _ = engine.Run(ctx) }()

	profile := bfd.Profile{Transmit: 100 * time.Millisecond, Receive: 100 * time.Millisecond, Multiplier: 3}
	router := bfd.Key{Peer: netip.MustParseAddr("192.0.2.1"), Interface: "eth0"}
	if err := engine.Set(map[bfd.Key]bfd.Profile{router: profile}); err != nil {
		slog.Error("BFD session not started", "error", err)
	}
	time.Sleep(time.Minute)

	// A planned shutdown signals AdminDown before Run ends. A restart calls Pause
	// instead, so that the next process continues the sessions.
	engine.AdminDown(ctx)
}
