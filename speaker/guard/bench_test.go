package guard

import (
	"net/netip"
	"testing"
)

// BenchmarkSet is the cost of guarding 5,000 addresses from nothing, of one
// more, and of a Set that looks at the kernel and finds nothing to do.
func BenchmarkSet(b *testing.B) {
	w := newWorld(b)
	s := State{Prefixes: prefixes("10.0.0.0/8")}
	addr := netip.MustParseAddr("203.0.113.0")
	for range 5000 {
		addr = addr.Next()
		s.Prefixes = append(s.Prefixes, netip.PrefixFrom(addr, 32))
	}
	less := State{Prefixes: s.Prefixes[1:]}
	g := New(quiet)
	for _, bench := range []struct {
		name   string
		before func()
		set    State
	}{
		{"from nothing", func() { w.node.do(func() error { return g.Remove(b.Context()) }) }, s},
		{"one more", func() { w.set(g, less) }, s},
		{"looked at", func() { w.set(g, s); g.checked = g.checked.Add(-recheckAfter) }, s},
		{"unchanged", func() { w.set(g, s) }, s},
		{"none", func() { w.set(g, s) }, State{}},
	} {
		b.Run(bench.name, func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				bench.before()
				b.StartTimer()
				w.set(g, bench.set)
			}
		})
	}
}
