package config

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// BenchmarkParse parses 50 pools of the largest size, 1,024 entries of one
// address each, in three orders.
func BenchmarkParse(b *testing.B) {
	const pools, entries = 50, 1024
	ascending := make([]v1alpha1.AddressRange, pools*entries)
	for i := range ascending {
		ascending[i] = v1alpha1.AddressRange(fmt.Sprintf("10.%d.%d.%d", i>>15, i>>7&255, i<<1&255))
	}
	descending := slices.Clone(ascending)
	slices.Reverse(descending)
	random := slices.Clone(ascending)
	rand.New(rand.NewPCG(1, 2)).Shuffle(len(random), func(i, j int) { random[i], random[j] = random[j], random[i] })
	for _, order := range []struct {
		name    string
		entries []v1alpha1.AddressRange
	}{{"ascending", ascending}, {"random", random}, {"descending", descending}} {
		var o Objects
		for chunk := range slices.Chunk(order.entries, entries) {
			o.Pools = append(o.Pools, pool(fmt.Sprintf("p%02d", len(o.Pools)), 1, chunk...))
		}
		b.Run(order.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				Parse(o)
			}
		})
	}
}

// BenchmarkParseReferences parses 50 or 200 pools and n objects of each kind
// that refers to others, by name and by labels.
func BenchmarkParseReferences(b *testing.B) {
	for _, pools := range []int{50, 200} {
		for _, n := range []int{250, 500, 1000} {
			o := manyReferences(pools, n)
			b.Run(fmt.Sprintf("pools=%d/n=%d", pools, n), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					Parse(o)
				}
			})
		}
	}
}

// manyReferences are objects of which all BGPAdvertisements conflict with each
// other, and cover pools that are not made of whole aggregates.
func manyReferences(pools, n int) (o Objects) {
	label := func(i int) map[string]string { return map[string]string{"tier": fmt.Sprint(i % 10)} }
	for i := range pools {
		p := pool(fmt.Sprintf("p%03d", i), 1)
		p.Labels = label(i)
		for j := range 100 {
			p.Spec.Addresses = append(p.Spec.Addresses, v1alpha1.AddressRange(fmt.Sprintf("10.%d.%d.1-10.%d.%d.9", i, j, i, j)))
		}
		o.Pools = append(o.Pools, p)
	}
	length := int32(24)
	for i := range n {
		meta := metav1.ObjectMeta{Name: fmt.Sprintf("o%04d", i), CreationTimestamp: metav1.Unix(int64(i), 0)}
		selector := []metav1.LabelSelector{{MatchLabels: label(i)}}
		preference := int64(i)
		o.BFDProfiles = append(o.BFDProfiles, &v1alpha1.BFDProfile{ObjectMeta: meta})
		o.BGPPeers = append(o.BGPPeers, &v1alpha1.BGPPeer{ObjectMeta: meta, Spec: v1alpha1.BGPPeerSpec{
			MyASN: 64512, PeerASN: 64513, PeerAddress: "192.0.2.1", BFDProfile: meta.Name, NodeSelectors: selector,
		}})
		o.Communities = append(o.Communities, &v1alpha1.Community{ObjectMeta: meta, Spec: v1alpha1.CommunitySpec{
			Communities: []v1alpha1.NamedCommunity{{Name: meta.Name, Value: "64512:1"}},
		}})
		o.L2Advertisements = append(o.L2Advertisements, &v1alpha1.L2Advertisement{ObjectMeta: meta, Spec: v1alpha1.L2AdvertisementSpec{
			IPAddressPools: []string{o.Pools[i%pools].Name}, IPAddressPoolSelectors: selector, NodeSelectors: selector,
		}})
		o.BGPAdvertisements = append(o.BGPAdvertisements, &v1alpha1.BGPAdvertisement{ObjectMeta: meta, Spec: v1alpha1.BGPAdvertisementSpec{
			IPAddressPoolSelectors: selector, Peers: []string{meta.Name, "o0000"}, Communities: []string{meta.Name},
			AggregationLength: &length, LocalPref: &preference,
		}})
	}
	return o
}
