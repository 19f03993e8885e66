package plan_test

import (
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/fixture"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/speaker/l2"
	"github.com/fairlead-io/fairlead/speaker/plan"
)

// exampleSnapshot returns two nodes on one segment and two Services. An
// L2Advertisement covers the pool of the first one only.
func exampleSnapshot() plan.Snapshot {
	parsed, _ := config.Parse(config.Objects{L2Advertisements: []*v1alpha1.L2Advertisement{{
		ObjectMeta: metav1.ObjectMeta{Name: "lan"}, Spec: v1alpha1.L2AdvertisementSpec{IPAddressPools: []string{"lan"}},
	}}})
	return plan.Snapshot{
		Config:   parsed,
		Nodes:    []*corev1.Node{fixture.Node("node-1"), fixture.Node("node-2")},
		Services: []*corev1.Service{fixture.Assigned("web", "192.0.2.10", "lan"), fixture.Assigned("dns", "203.0.113.1", "edge")},
		Interfaces: map[string][]l2.Interface{
			"node-1": {{Name: "eth0", Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")}}},
			"node-2": {{Name: "eth0", Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.2/24")}}},
		},
	}
}

// Each node decides on the same snapshot what it announces. One of them owns the
// address on the segment, and one reports the address that no node announces.
func ExampleDecide() {
	s := exampleSnapshot()
	for _, node := range s.Nodes {
		s.Node = node.Name
		p := plan.Decide(s)
		for addr, claim := range p.L2 {
			fmt.Println(node.Name, "announces", addr, "on", claim.Interfaces)
		}
		for addr, refusal := range p.Unannounced {
			fmt.Println(node.Name, "reports", addr, refusal.Reason)
		}
	}
	// Output:
	// node-1 announces 192.0.2.10 on [eth0]
	// node-1 reports 203.0.113.1 NoAdvertisement
}

// Explain returns for each node why it announces an address or not.
func ExampleExplain() {
	s := exampleSnapshot()
	for _, state := range plan.Explain(s, s.Services[0]) {
		for _, node := range state.Nodes {
			fmt.Printf("%s on %s: interfaces %v, reason %q\n", state.Addr, node.Node, node.Interfaces, node.Reason)
		}
	}
	// Output:
	// 192.0.2.10 on node-1: interfaces [eth0], reason ""
	// 192.0.2.10 on node-2: interfaces [], reason "NotOwner"
}
