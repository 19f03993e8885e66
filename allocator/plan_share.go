package allocator

import (
	"fmt"
	"net/netip"
	"slices"
)

// Terms are those under which a request shares an address with others.
type Terms struct {
	Key string // "" shares with nobody
	// Cluster: packets may be sent to any node. Otherwise they may only be sent
	// to nodes with the request's own backends.
	Cluster  bool
	Backends string // which pods; "" where nobody knows
	Ports    []Port
}

// Port is one that a request occupies on its addresses.
type Port struct {
	Protocol string
	Number   int32
}

// against says why the two cannot hold one address together, "" if they can.
// One node answers for the address, so all that share it must be served there.
func (t Terms) against(o Terms) string {
	switch {
	case o.Key == "" && t.Key == "":
		return "neither shares its addresses"
	case o.Key == "":
		return "it shares its addresses with nobody"
	case t.Key == "":
		return "this Service shares its addresses with nobody"
	case t.Key != o.Key:
		return fmt.Sprintf("its key is %q, this Service's %q", o.Key, t.Key)
	case !(t.Cluster && o.Cluster) && (t.Backends == "" || t.Backends != o.Backends):
		return "with externalTrafficPolicy Local only Services of one namespace with the same selector can share"
	}
	for _, p := range t.Ports {
		if slices.Contains(o.Ports, p) {
			return fmt.Sprintf("both use port %d/%s", p.Number, p.Protocol)
		}
	}
	return ""
}

// inTheWay is who keeps c from holding the address, and why; nil if nobody does.
func (r *run) inTheWay(c *claimant, addr netip.Addr) (other *claimant, why string) {
	first := r.owners[addr]
	if first == nil || first == c {
		return nil, ""
	}
	for _, o := range append([]*claimant{first}, r.sharers[addr]...) {
		if o == c {
			continue
		}
		if why := c.Share.against(o.Share); why != "" || !o.served() {
			return o, why
		}
	}
	return r.foreign[addr], ""
}

// take makes c an owner of the address, beside those with whom it shares it.
func (r *run) take(c *claimant, addr netip.Addr) {
	if r.owners[addr] != nil {
		r.sharers[addr] = append(r.sharers[addr], c)
		return
	}
	r.owners[addr] = c
	if key := c.Share.Key; key != "" {
		r.keyed[key] = append(r.keyed[key], addr)
	}
}

// drop ends c's ownership. It returns whether the address is free now.
func (r *run) drop(c *claimant, addr netip.Addr) bool {
	rest := r.sharers[addr]
	if r.owners[addr] != c {
		i := slices.Index(rest, c)
		r.sharers[addr] = slices.Delete(rest, i, i+1)
		return false
	}
	if len(rest) > 0 {
		r.owners[addr], r.sharers[addr] = rest[0], rest[1:]
		return false
	}
	delete(r.owners, addr)
	return true
}

// joinable is the lowest address of the source that others hold and that c may
// hold beside them. If there is none, why names one who is in the way.
func (r *run) joinable(c *claimant, s *source, f int) (addr netip.Addr, why string) {
	for _, a := range r.keyed[c.Share.Key] {
		if slot(FamilyOf(a)) != f || r.owners[a] == nil || c.holds(a) || !s.giving(a) || slices.Contains(c.Release, a) {
			continue
		}
		if other, because := r.inTheWay(c, a); other != nil {
			why = fmt.Sprintf("%s of Service %s cannot be shared: %s", a, other.Key, because)
		} else if !addr.IsValid() || a.Less(addr) {
			addr = a
		}
	}
	return addr, why
}

func (c *claimant) holds(addr netip.Addr) bool {
	f := slot(FamilyOf(addr))
	return c.held[f].Addr == addr || c.leaving[f].Addr == addr
}
