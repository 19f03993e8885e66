package speaker

import (
	"log/slog"
	"net/netip"
	"testing"

	"github.com/fairlead-io/fairlead/speaker/bgp"
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
