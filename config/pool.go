package config

import (
	"errors"
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"go4.org/netipx"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

func parsePool(object *v1alpha1.IPAddressPool, taken *claims, to reporter) Pool {
	report := to.about("IPAddressPool", object.Name)
	pool := Pool{
		Name:          object.Name,
		AutoAssign:    object.Spec.AutoAssign == nil || *object.Spec.AutoAssign,
		AvoidBuggyIPs: object.Spec.AvoidBuggyIPs,
		Selection:     parseSelection(object.Spec.ServiceAllocation, report),
		Terminating:   object.DeletionTimestamp != nil,
	}
	if a := object.Spec.ServiceAllocation; a != nil {
		pool.Priority = a.Priority
	}
	if pool.Terminating {
		report("metadata.deletionTimestamp", v1alpha1.PoolTerminating,
			"the pool is being deleted: Services keep its addresses, nobody gets a new one")
	}
	var set netipx.IPSetBuilder
	for i, entry := range object.Spec.Addresses {
		field := fmt.Sprintf("spec.addresses[%d]", i)
		r, err := ParseRange(string(entry))
		if err != nil {
			var invalid *InvalidRangeError
			errors.As(err, &invalid)
			report(field, invalid.Reason, "%s", invalid.Error())
			continue
		}
		if other, overlaps := taken.claim(claim{r, object.Name, string(entry)}); overlaps {
			where := "an earlier entry"
			if other.pool != object.Name {
				where = fmt.Sprintf("the older IPAddressPool %q with", other.pool)
				if pool.Terminating {
					where = fmt.Sprintf("IPAddressPool %q with", other.pool)
				}
			}
			report(field, v1alpha1.OverlappingAddresses, "%q overlaps %s %q", entry, where, other.entry)
			continue
		}
		set.AddRange(r)
		if pool.AvoidBuggyIPs {
			pool.Edges = append(pool.Edges, edges(string(entry))...)
		}
	}
	s, err := set.IPSet()
	if err != nil {
		panic(fmt.Sprintf("pool %s: ranges that ParseRange accepts do not make a set: %v", object.Name, err))
	}
	pool.Ranges = s.Ranges()
	return pool
}

// edges are the network's own and the broadcast address of an IPv4 CIDR. Two
// addresses and less have neither (RFC 3021).
func edges(entry string) []netip.Addr {
	p, err := netip.ParsePrefix(entry)
	if err != nil || !p.Addr().Is4() || p.Bits() > 30 {
		return nil
	}
	r := netipx.RangeOfPrefix(p)
	return []netip.Addr{r.From(), r.To()}
}

// claim is an entry of a pool that is in use.
type claim struct {
	netipx.IPRange
	pool, entry string
}

// claims are the entries so far.
type claims struct {
	used []claim                         // sorted, disjoint
	all  map[string]*netipx.IPSetBuilder // of each pool, used or not
}

// claim adds c, or returns an entry that it overlaps.
func (cs *claims) claim(c claim) (other claim, overlaps bool) {
	if cs.all[c.pool] == nil {
		cs.all[c.pool] = &netipx.IPSetBuilder{}
	}
	cs.all[c.pool].AddRange(c.IPRange)
	i, _ := slices.BinarySearchFunc(cs.used, c, func(a, b claim) int { return a.From().Compare(b.From()) })
	for _, j := range []int{i - 1, i} {
		if j >= 0 && j < len(cs.used) && cs.used[j].Overlaps(c.IPRange) {
			return cs.used[j], true
		}
	}
	cs.used = slices.Insert(cs.used, i, c)
	return claim{}, false
}

// overlaps are for each pool those that share addresses with it, sorted.
func (cs *claims) overlaps() map[string][]string {
	var entries []claim
	for pool, all := range cs.all {
		set, err := all.IPSet()
		if err != nil {
			panic(fmt.Sprintf("pool %s: ranges that ParseRange accepts do not make a set: %v", pool, err))
		}
		for _, r := range set.Ranges() {
			entries = append(entries, claim{IPRange: r, pool: pool})
		}
	}
	slices.SortFunc(entries, func(a, b claim) int { return a.From().Compare(b.From()) })
	others := map[string]map[string]bool{}
	note := func(a, b string) {
		if others[a] == nil {
			others[a] = map[string]bool{}
		}
		others[a][b] = true
	}
	var open []claim // of those that begin earlier, at most one of each pool
	for _, e := range entries {
		open = slices.DeleteFunc(open, func(o claim) bool { return o.To().Less(e.From()) })
		for _, o := range open {
			note(o.pool, e.pool)
			note(e.pool, o.pool)
		}
		open = append(open, e)
	}
	all := make(map[string][]string, len(others))
	for pool, names := range others {
		all[pool] = slices.Sorted(maps.Keys(names))
	}
	return all
}

// InvalidRangeError says why an entry of a pool cannot be used.
type InvalidRangeError struct {
	Reason v1alpha1.Reason
	text   string
}

// Error is the reason in words.
func (e *InvalidRangeError) Error() string { return e.text }

func invalid(reason v1alpha1.Reason, format string, args ...any) error {
	return &InvalidRangeError{reason, fmt.Sprintf(format, args...)}
}

// neverAssigned are the addresses that no host on a network can own: RFC 6890
// "this network" and loopback, RFC 5771 and RFC 4291 multicast, limited
// broadcast, and IPv6 link-local, which needs a zone.
var neverAssigned = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("127.0.0.0/8"),
	netip.MustParsePrefix("224.0.0.0/4"), netip.MustParsePrefix("255.255.255.255/32"),
	netip.MustParsePrefix("::/127"), netip.MustParsePrefix("fe80::/10"), netip.MustParsePrefix("ff00::/8"),
}

// ParseRange reads an entry of a pool: a CIDR, "first-last", or one address.
// The error is an *InvalidRangeError.
func ParseRange(entry string) (netipx.IPRange, error) {
	r, err := parseRange(entry)
	if err != nil {
		return netipx.IPRange{}, err
	}
	for _, p := range neverAssigned {
		if netipx.RangeOfPrefix(p).Overlaps(r) {
			return netipx.IPRange{}, invalid(v1alpha1.InvalidAddress, "%q contains addresses of %s, which no host can own", entry, p)
		}
	}
	return r, nil
}

func parseRange(entry string) (netipx.IPRange, error) {
	none := netipx.IPRange{}
	if first, last, isRange := strings.Cut(entry, "-"); isRange {
		from, err := ParseAddr(strings.TrimSpace(first))
		if err != nil {
			return none, invalid(v1alpha1.InvalidAddress, "%q: %v", entry, err)
		}
		to, err := ParseAddr(strings.TrimSpace(last))
		if err != nil {
			return none, invalid(v1alpha1.InvalidAddress, "%q: %v", entry, err)
		}
		if from.Is4() != to.Is4() {
			return none, invalid(v1alpha1.InvalidAddress, "%q mixes IPv4 and IPv6", entry)
		}
		if to.Less(from) {
			return none, invalid(v1alpha1.InvertedRange, "%q ends before it starts; did you mean \"%s-%s\"?", entry, to, from)
		}
		return netipx.IPRangeFrom(from, to), nil
	}
	if strings.Contains(entry, "/") {
		p, err := netip.ParsePrefix(entry)
		if err != nil || p.Addr().Is4In6() {
			return none, invalid(v1alpha1.InvalidAddress, "%q is no CIDR", entry)
		}
		if p != p.Masked() {
			return none, invalid(v1alpha1.HostBitsSet, "%q has host bits set; did you mean %q, or \"%s/%d\"?", entry, p.Masked(), p.Addr(), p.Addr().BitLen())
		}
		return netipx.RangeOfPrefix(p), nil
	}
	a, err := ParseAddr(entry)
	if err != nil {
		return none, invalid(v1alpha1.InvalidAddress, "%v", err)
	}
	return netipx.IPRangeFrom(a, a), nil
}

// ParseAddr reads an address without a zone that is not an IPv4-mapped IPv6 one.
func ParseAddr(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" || a.Is4In6() {
		return netip.Addr{}, fmt.Errorf("%q is no IP address", s)
	}
	return a, nil
}

// ReportedRange reads what a speaker reports: one address, or "first-last".
func ReportedRange(text string) (r netipx.IPRange, ok bool) {
	r, err := parseRange(text)
	return r, err == nil
}

// maxReported bounds what is read of one reported range; more than that many
// Services a cluster does not have.
const maxReported = 1 << 20

// AddressesOf are the addresses of a reported range, one by one.
func AddressesOf(reported string) iter.Seq[netip.Addr] {
	return func(yield func(netip.Addr) bool) {
		r, ok := ReportedRange(reported)
		for a, n := r.From(), 0; ok && n < maxReported && a.IsValid(); a, n = a.Next(), n+1 {
			if !yield(a) || a == r.To() {
				return
			}
		}
	}
}
