package plan

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/fixture"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/speaker/l2"
)

// largeSnapshot is a cluster of 1,000 nodes with so many Services: half on interfaces and half
// by BGP, of either half every other one under externalTrafficPolicy: Local with endpoints on
// three nodes.
func largeSnapshot(nodes, services int) Snapshot {
	s := Snapshot{Node: "node-0", Interfaces: map[string][]l2.Interface{}}
	var parser config.Parser
	s.Config, _, s.ConfigState = parser.Parse(config.Objects{
		Pools:             []*v1alpha1.IPAddressPool{newPool("lan", "10.1.0.0/16"), newPool("bgp", "10.2.0.0/16")},
		L2Advertisements:  []*v1alpha1.L2Advertisement{l2ad("lan", v1alpha1.L2AdvertisementSpec{IPAddressPools: []string{"lan"}})},
		BGPPeers:          []*v1alpha1.BGPPeer{peer("a", "192.0.2.1"), peer("b", "192.0.2.2")},
		BGPAdvertisements: []*v1alpha1.BGPAdvertisement{bgpad("bgp", func(a *v1alpha1.BGPAdvertisementSpec) { a.IPAddressPools = []string{"bgp"} })},
	})
	for i := range nodes {
		n := node(fmt.Sprintf("node-%d", i), fixture.WithNodeAddresses(fmt.Sprintf("10.0.%d.%d", i/250, i%250)))
		s.Nodes = append(s.Nodes, n)
		s.Interfaces[n.Name] = []l2.Interface{newInterface("eth0", fmt.Sprintf("10.0.%d.%d/8", i/250, i%250))}
	}
	for i := range services {
		pool := [2]string{"lan", "bgp"}[i%2]
		svc := service(fmt.Sprintf("s%d", i), fmt.Sprintf("10.%d.%d.%d", 1+i%2, i/250, i%250), pool)
		slice := &discoveryv1.EndpointSlice{AddressType: discoveryv1.AddressTypeIPv4}
		slice.Namespace, slice.Name = svc.Namespace, svc.Name+"-x"
		slice.Labels = map[string]string{discoveryv1.LabelServiceName: svc.Name}
		for j := range 3 {
			name := fmt.Sprintf("node-%d", (i*7+j*331)%nodes)
			slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{NodeName: &name, Addresses: []string{"10.9.0.1"}})
		}
		if i%4 >= 2 {
			svc.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
		}
		s.Services = append(s.Services, svc)
		s.Slices = append(s.Slices, slice)
	}
	return s
}

func BenchmarkLarge(b *testing.B) {
	s := largeSnapshot(1000, 10_000)
	b.Run("first plan", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			Decide(s)
		}
	})
	b.Run("one Service is created", func(b *testing.B) {
		var p Planner
		p.Decide(s)
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			svc := *s.Services[i%len(s.Services)]
			s.Services[i%len(s.Services)] = &svc
			p.Decide(s)
		}
	})
	b.Run("one node is not Ready", func(b *testing.B) {
		var p Planner
		p.Decide(s)
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			n := s.Nodes[7].DeepCopy()
			n.Status.Conditions[0].Status = [2]corev1.ConditionStatus{corev1.ConditionFalse, corev1.ConditionTrue}[i%2]
			s.Nodes[7] = n
			p.Decide(s)
		}
	})
}
