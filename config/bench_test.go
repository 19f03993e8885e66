package config

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

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
