package config

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"go4.org/netipx"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// parsePools returns the pools in the order of precedence: the earlier of two pools
// that overlap has the addresses.
func parsePools(objects []*v1alpha1.IPAddressPool, report problemReporter) []Pool {
	es := newEntries(objects)
	overlaps := es.findOverlaps()
	es.selectUsed()
	pools := make([]Pool, len(objects))
	for i := range objects {
		pools[i] = es.parsePool(i, report)
	}
	for _, b := range es.last {
		if e := &es.all[b.entry]; e.precedence < 0 {
			pools[b.pool].addRange(e.IPRange)
		}
	}
	for i := range pools {
		for j := 0; j < overlaps[i].BitLen(); j++ {
			if overlaps[i].Bit(j) == 1 && i != j {
				pools[i].Overlaps = append(pools[i].Overlaps, pools[j].Name)
				pools[j].Overlaps = append(pools[j].Overlaps, pools[i].Name)
			}
		}
	}
	for i := range pools {
		slices.Sort(pools[i].Overlaps)
		pools[i].Overlaps = slices.Compact(pools[i].Overlaps)
	}
	return pools
}

// addRange adds a range that is above all others.
func (p *Pool) addRange(r netipx.IPRange) {
	if last := len(p.Ranges) - 1; last >= 0 && p.Ranges[last].To().Next() == r.From() {
		p.Ranges[last] = netipx.IPRangeFrom(p.Ranges[last].From(), r.To())
		return
	}
	p.Ranges = append(p.Ranges, r)
}

func (es *poolEntries) parsePool(i int, to problemReporter) Pool {
	object, first, end := es.pools[i], es.start[i], es.start[i+1]
	report := to.forObject("IPAddressPool", object.Name)
	pool := Pool{
		Name:          object.Name,
		AutoAssign:    object.Spec.AutoAssign == nil || *object.Spec.AutoAssign,
		AvoidBuggyIPs: object.Spec.AvoidBuggyIPs,
		Selection:     parseSelection(object.Spec.ServiceAllocation, report),
		Terminating:   object.DeletionTimestamp != nil,
		Ranges:        make([]netipx.IPRange, 0, end-first),
	}
	if a := object.Spec.ServiceAllocation; a != nil {
		pool.Priority = a.Priority
	}
	if pool.Terminating {
		report("metadata.deletionTimestamp", v1alpha1.PoolTerminating,
			"the pool is being deleted: Services keep its addresses, and no new ones are assigned")
	}
	for j := first; j < end; j++ {
		e, text, field := &es.all[j], es.entryText(int32(j)), ""
		if e.err != nil || e.precedence >= 0 {
			field = fmt.Sprintf("spec.addresses[%d]", j-first)
		}
		switch {
		case e.err != nil:
			var invalid *InvalidRangeError
			errors.As(e.err, &invalid)
			report(field, invalid.Reason, "%s", invalid.Error())
		case e.precedence >= 0:
			report(field, v1alpha1.OverlappingAddresses, "%q overlaps %s %q", text, es.precedingPool(e), es.entryText(e.precedence))
		case pool.AvoidBuggyIPs:
			pool.Edges = append(pool.Edges, edgeAddresses(text)...)
		}
	}
	return pool
}

// precedingPool describes the pool of the entry that takes precedence over e.
func (es *poolEntries) precedingPool(e *poolEntry) string {
	switch other := es.pools[es.all[e.precedence].pool]; {
	case other.Name == es.pools[e.pool].Name:
		return "an earlier entry"
	case es.pools[e.pool].DeletionTimestamp != nil:
		return fmt.Sprintf("IPAddressPool %q with", other.Name)
	default:
		return fmt.Sprintf("the older IPAddressPool %q with", other.Name)
	}
}

// edgeAddresses returns the network and broadcast addresses of an IPv4 CIDR. A /31
// or /32 has neither (RFC 3021).
func edgeAddresses(entry string) []netip.Addr {
	p, err := netip.ParsePrefix(entry)
	if err != nil || !p.Addr().Is4() || p.Bits() > 30 {
		return nil
	}
	r := netipx.RangeOfPrefix(p)
	return []netip.Addr{r.From(), r.To()}
}

// InvalidRangeError is why an entry of a pool is invalid.
type InvalidRangeError struct {
	Reason v1alpha1.Reason
	text   string
}

// Error implements error.
func (e *InvalidRangeError) Error() string { return e.text }

func invalidRange(reason v1alpha1.Reason, format string, args ...any) error {
	return &InvalidRangeError{reason, fmt.Sprintf(format, args...)}
}

// neverAssigned has the addresses that a host on a network cannot own: RFC 6890
// "this network" and loopback, RFC 5771 and RFC 4291 multicast, limited
// broadcast, and IPv6 link-local, which needs a zone. They are sorted.
var neverAssigned = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("127.0.0.0/8"),
	netip.MustParsePrefix("224.0.0.0/4"), netip.MustParsePrefix("255.255.255.255/32"),
	netip.MustParsePrefix("::/127"), netip.MustParsePrefix("fe80::/10"), netip.MustParsePrefix("ff00::/8"),
}

// neverAssignedIn returns the first of neverAssigned that overlaps the range.
func neverAssignedIn(r netipx.IPRange) (p netip.Prefix, overlaps bool) {
	i, _ := slices.BinarySearchFunc(neverAssigned, r.From(), func(p netip.Prefix, first netip.Addr) int {
		if p.Contains(first) {
			return 0
		}
		return p.Addr().Compare(first)
	})
	if i == len(neverAssigned) || r.To().Less(neverAssigned[i].Addr()) {
		return netip.Prefix{}, false
	}
	return neverAssigned[i], true
}

// ParseRange parses an entry of a pool: a CIDR, "first-last", or an address.
// The error is an *InvalidRangeError.
func ParseRange(entry string) (netipx.IPRange, error) {
	r, err := parseRange(entry)
	if err != nil {
		return netipx.IPRange{}, err
	}
	if p, overlaps := neverAssignedIn(r); overlaps {
		return netipx.IPRange{}, invalidRange(v1alpha1.InvalidAddress,
			"%q contains addresses of %s, which cannot be assigned to a host", entry, p)
	}
	return r, nil
}

func parseRange(entry string) (netipx.IPRange, error) {
	none := netipx.IPRange{}
	if first, last, isRange := strings.Cut(entry, "-"); isRange {
		from, err := ParseAddr(strings.TrimSpace(first))
		if err != nil {
			return none, invalidRange(v1alpha1.InvalidAddress, "%q: %v", entry, err)
		}
		to, err := ParseAddr(strings.TrimSpace(last))
		if err != nil {
			return none, invalidRange(v1alpha1.InvalidAddress, "%q: %v", entry, err)
		}
		if from.Is4() != to.Is4() {
			return none, invalidRange(v1alpha1.InvalidAddress, "%q mixes IPv4 and IPv6", entry)
		}
		if to.Less(from) {
			return none, invalidRange(v1alpha1.InvertedRange, "%q ends before it starts; did you mean \"%s-%s\"?", entry, to, from)
		}
		return netipx.IPRangeFrom(from, to), nil
	}
	if strings.Contains(entry, "/") {
		p, err := netip.ParsePrefix(entry)
		if err != nil || p.Addr().Is4In6() {
			return none, invalidRange(v1alpha1.InvalidAddress, "invalid CIDR %q", entry)
		}
		if p != p.Masked() {
			return none, invalidRange(v1alpha1.HostBitsSet, "%q has host bits set; did you mean %q, or \"%s/%d\"?",
				entry, p.Masked(), p.Addr(), p.Addr().BitLen())
		}
		return netipx.RangeOfPrefix(p), nil
	}
	a, err := ParseAddr(entry)
	if err != nil {
		return none, invalidRange(v1alpha1.InvalidAddress, "%v", err)
	}
	return netipx.IPRangeFrom(a, a), nil
}

// ParseAddr parses an address. Zones and IPv4-mapped IPv6 addresses are invalid.
func ParseAddr(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" || a.Is4In6() {
		return netip.Addr{}, fmt.Errorf("invalid IP address %q", s)
	}
	return a, nil
}
