package bgp_test

import (
	"context"
	"log/slog"
	"net/netip"
	"time"

	"github.com/fairlead-io/fairlead/speaker/bgp"
)

// A Speaker advertises one address to one router. It needs a router, so this
// example is compiled but not run.
func Example() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()

	speaker := bgp.New(slog.Default())
	go func() { _ = speaker.Run(ctx) }()
	speaker.Set(bgp.Config{Peers: []bgp.Peer{{
		Name: "tor-a",
		Session: bgp.Session{
			LocalASN: 64512, PeerASN: 64513, RouterID: netip.MustParseAddr("192.0.2.11"),
			IPv4: true, HoldTime: 9 * time.Second, RestartTime: 2 * time.Minute,
		},
		Transport: bgp.Transport{Address: netip.MustParseAddr("192.0.2.1"), Port: 179, Hops: 1, RetryTime: 10 * time.Second},
		Routes: bgp.Routes{
			netip.MustParsePrefix("203.0.113.1/32"): {LocalPref: 100, Communities: "64512:100"},
		},
	}}})

	<-speaker.StatusChanges()
	for _, s := range speaker.Status() {
		slog.Info("session", "peer", s.Name, "state", s.State, "error", s.LastError)
	}

	// The peers withdraw the routes. A restart ends Run without Shutdown instead.
	speaker.Shutdown(ctx, "node removed")
}
