package plan

import (
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/speaker/l2"
)

// TestDisconnected checks that a node whose interface is down releases its addresses at
// once, and asks the segment for them when it is up again. A node that is not eligible for
// another reason goes on answering for a while.
func TestDisconnected(t *testing.T) {
	addr := netip.MustParseAddr("192.0.2.77")
	eth0, other := newInterface("eth0", "192.0.2.1/24"), newInterface("eth1", "203.0.113.1/24")
	renumbered := newInterface("eth0", "198.51.100.1/24")
	for _, tt := range []struct {
		name  string
		own   []l2.Interface
		held  bool
		keeps bool
		asks  bool
	}{
		{"connected", []l2.Interface{eth0, other}, true, true, false},
		{"disconnected", []l2.Interface{other}, true, false, false},
		{"no interface", []l2.Interface{}, true, false, false},
		{"another subnet", []l2.Interface{renumbered}, true, true, false},
		{"connected again", []l2.Interface{eth0, other}, false, true, true},
	} {
		s := Snapshot{
			Node: "a", Services: []*corev1.Service{service("web", addr.String(), "p")}, Nodes: []*corev1.Node{node("a"), node("b")},
			Interfaces: map[string][]l2.Interface{"a": tt.own, "b": nil},
		}
		s.Config, _ = config.Parse(config.Objects{L2Advertisements: []*v1alpha1.L2Advertisement{l2ad("all", v1alpha1.L2AdvertisementSpec{})}})
		if tt.held {
			s.Local.Held, s.Local.HeldOn = map[netip.Addr]bool{addr: true}, map[netip.Addr][]string{addr: {"eth0"}}
		}
		claim, keeps := Decide(s).L2[addr]
		if keeps != tt.keeps || keeps && claim.Probe != tt.asks {
			t.Errorf("%s: claims %v, probes %v, want %v, %v", tt.name, keeps, claim.Probe, tt.keeps, tt.asks)
		}
	}
}
