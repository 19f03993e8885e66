package guard

import (
	"net/netip"
	"testing"
)

// BenchmarkSet measures a Set that guards 5,000 addresses, one that adds another, one
// that reads the kernel's tables and finds nothing to change, and others.
func BenchmarkSet(b *testing.B) {
	w := newTestNetwork(b)
	s := State{Prefixes: parsePrefixes("10.0.0.0/8")}
	addr := netip.MustParseAddr("203.0.113.0")
	for range 5000 {
		addr = addr.Next()
		s.Prefixes = append(s.Prefixes, netip.PrefixFrom(addr, 32))
	}
	less := State{Prefixes: s.Prefixes[1:]}
	g := New(discardLog)
	for _, bench := range []struct {
		name   string
		before func()
		set    State
	}{
		{"from nothing", func() { w.node.mustRun(func() error { return g.Remove(b.Context()) }) }, s},
		{"one more", func() { w.setGuard(g, less) }, s},
		{"recheck", func() { w.setGuard(g, s); g.checkedAt = g.checkedAt.Add(-recheckInterval) }, s},
		{"unchanged", func() { w.setGuard(g, s) }, s},
		{"none", func() { w.setGuard(g, s) }, State{}},
	} {
		b.Run(bench.name, func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				bench.before()
				b.StartTimer()
				w.setGuard(g, bench.set)
			}
		})
	}
}
