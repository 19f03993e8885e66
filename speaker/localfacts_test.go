package speaker

import (
	"context"
	"log/slog"
	"maps"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-io/fairlead/speaker/bgp"
	"github.com/fairlead-io/fairlead/speaker/l2"
	"github.com/fairlead-io/fairlead/speaker/plan"
)

// TestLastKnownFacts checks that facts that are missing are kept, and that changed ones
// are replaced.
func TestLastKnownFacts(t *testing.T) {
	var k lastKnownFacts
	log := slog.New(slog.DiscardHandler)
	one, two := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	for i, step := range []struct {
		passwords, want map[string]bgp.Secret
		gateways        map[string]netip.Addr
		gateway         netip.Addr
	}{
		{map[string]bgp.Secret{"a": "1"}, map[string]bgp.Secret{"a": "1"}, map[string]netip.Addr{"IPv4": one}, one},
		{map[string]bgp.Secret{}, map[string]bgp.Secret{"a": "1"}, map[string]netip.Addr{}, one},
		{map[string]bgp.Secret{"a": "2"}, map[string]bgp.Secret{"a": "2"}, map[string]netip.Addr{"IPv4": two}, two},
	} {
		l := plan.LocalFacts{Passwords: step.passwords, Gateways: step.gateways}
		k.retainMissing(log, &l)
		if len(l.Passwords) != 1 || l.Passwords["a"] != step.want["a"] || l.Gateways["IPv4"] != step.gateway {
			t.Errorf("step %d: passwords of %d Secrets, gateways %v", i, len(l.Passwords), l.Gateways)
		}
	}
}

// TestWatchContact: a sync is requested when contact with the API server is lost, and when it
// is back, and only then.
func TestWatchContact(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var stale atomic.Bool
		s := &Speaker{isStale: stale.Load, syncRequested: make(chan struct{}, 1)}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); s.watchContact(ctx, time.Second) }()
		requested := func() bool {
			time.Sleep(10 * time.Second)
			synctest.Wait()
			select {
			case <-s.syncRequested:
				return true
			default:
				return false
			}
		}
		for i, is := range []bool{false, true, true, false} {
			was := stale.Swap(is)
			if got := requested(); got != (is != was) {
				t.Errorf("step %d: a sync was requested: %v", i, got)
			}
		}
		cancel()
		<-done
	})
}

func TestMACHistory(t *testing.T) {
	var h macHistory
	start := time.Unix(1000, 0)
	nodes := func(macs ...string) map[string][]l2.Interface {
		all := map[string][]l2.Interface{}
		for _, mac := range macs {
			all["node-"+mac] = []l2.Interface{{Name: "eth0", MAC: mac}}
		}
		return all
	}
	for _, row := range []struct {
		name  string
		after time.Duration
		macs  []string
		want  map[string]time.Time
	}{
		{"the first nodes", 0, []string{"a", "b"}, map[string]time.Time{}},
		{"a speaker ends", time.Second, []string{"a"}, map[string]time.Time{"b": start.Add(time.Second)}},
		{"another one ends", 2 * time.Second, nil, map[string]time.Time{"a": start.Add(2 * time.Second), "b": start.Add(time.Second)}},
		{"one is back", 3 * time.Second, []string{"a"}, map[string]time.Time{"b": start.Add(time.Second)}},
		{"much later", time.Second + departureTime, []string{"a"}, map[string]time.Time{}},
	} {
		h.observe(nodes(row.macs...), start.Add(row.after))
		if !maps.Equal(h.departed, row.want) {
			t.Errorf("%s: %v, want %v", row.name, h.departed, row.want)
		}
	}
}
