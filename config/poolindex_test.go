package config

import (
	"net/netip"
	"strings"
	"testing"

	"go4.org/netipx"
)

func indexedPool(name string, ranges ...string) Pool {
	p := Pool{Name: name}
	for _, text := range ranges {
		p.Ranges = append(p.Ranges, netipx.MustParseIPRange(text))
	}
	return p
}

// TestCurrentPool has every case of the pool that an address belongs to: the recorded
// pool p contains it, exists or is gone, and pool q may contain it.
func TestCurrentPool(t *testing.T) {
	const inside, outside = "192.0.2.0-192.0.2.255", "198.51.100.0-198.51.100.255"
	p, restOfP, q := indexedPool("p", inside), indexedPool("p", outside), indexedPool("q", inside)
	for _, tt := range []struct {
		name     string
		recorded string
		pools    []Pool
		selects  string // names of the pools that select the Service
		want     string
		asks     bool // whether the selection is evaluated
	}{
		{"the recorded pool contains it", "p", []Pool{p}, "p", "p", false},
		{"the recorded pool contains it and no longer selects the Service", "p", []Pool{p}, "", "p", false},
		{"the recorded pool no longer contains it", "p", []Pool{restOfP}, "p", "p", false},
		{"no pool is left", "p", nil, "", "p", false},
		{"without a record or a pool", "", []Pool{restOfP}, "p", "", false},
		{"without a record", "", []Pool{restOfP, q}, "", "q", false},
		{"a renamed pool", "p", []Pool{q}, "q", "q", true},
		{"a renamed pool that is not advertised", "p", []Pool{q}, "q", "p", true},
		{"a forged record, the pool of the address is not advertised", "p", []Pool{restOfP, q}, "", "q", true},
		{"a pool of others in place of the recorded one", "p", []Pool{q}, "", "p", true},
		{"a split pool", "p", []Pool{restOfP, q}, "pq", "q", true},
		{"a pool of others has the address by now", "p", []Pool{restOfP, q}, "p", "p", true},
		{"a forged record of a pool of others", "p", []Pool{restOfP, q}, "q", "q", true},
		{"no pool selects the Service", "p", []Pool{restOfP, q}, "", "q", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			asked := false
			got := NewPoolIndex(tt.pools).Current(netip.MustParseAddr("192.0.2.7"), tt.recorded, func(p *Pool) bool {
				asked = true
				return strings.Contains(tt.selects, p.Name)
			}, func(p *Pool) bool { return !strings.Contains(tt.name, "not advertised") })
			if got != tt.want || asked != tt.asks {
				t.Errorf("got %q, selection evaluated: %t; want %q, %t", got, asked, tt.want, tt.asks)
			}
		})
	}
}

func TestPoolContains(t *testing.T) {
	p := indexedPool("p", "192.0.2.3-192.0.2.5", "192.0.2.8-192.0.2.8", "2001:db8::1-2001:db8::2")
	for addr, want := range map[string]bool{
		"192.0.2.2": false, "192.0.2.3": true, "192.0.2.4": true, "192.0.2.5": true, "192.0.2.6": false, "192.0.2.8": true,
		"192.0.2.9": false, "2001:db8::": false, "2001:db8::1": true, "2001:db8::3": false,
	} {
		if got := p.Contains(netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s: %t", addr, got)
		}
	}
	if x := NewPoolIndex([]Pool{indexedPool("o"), p}); x.Containing(netip.MustParseAddr("192.0.2.8")).Name != "p" || x.Named("q") != nil {
		t.Error("found the wrong pool")
	}
}
