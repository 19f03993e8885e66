package allocator

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
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
	if c.Share.Key != "" {
		t := r.table(c.Share.Key, r.container(addr), slot(FamilyOf(addr)))
		t.addrs = append(t.addrs, addr)
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

// place is where the addresses are that requests with one key share.
type place struct {
	key    string
	pool   *source
	family int
}

// table is what is shared in one place.
type table struct {
	addrs []netip.Addr // taken under the key; some are free again
	full  map[string]*full
}

// full are the first n addresses of a table, none of which has room for anybody
// under certain terms.
type full struct {
	n    int
	last clash
}

// clash is why one address has no room.
type clash struct {
	addr  netip.Addr
	other *claimant
	why   string
}

func (c clash) String() string {
	if c.other == nil {
		return ""
	}
	return fmt.Sprintf("%s of Service %s cannot be shared: %s", c.addr, c.other.Key, c.why)
}

func (r *run) table(key string, s *source, f int) *table {
	at := place{key, s, f}
	if r.tables[at] == nil {
		r.tables[at] = &table{}
	}
	return r.tables[at]
}

// fullFor is what is known to have no room for the terms.
func (t *table) fullFor(terms Terms) *full {
	text := strconv.AppendBool(nil, terms.Cluster)
	text = append(text, terms.Backends...)
	for _, p := range terms.Ports {
		text = strconv.AppendInt(append(append(text, ' '), p.Protocol...), int64(p.Number), 10)
	}
	if t.full == nil {
		t.full = make(map[string]*full)
	}
	if t.full[string(text)] == nil {
		t.full[string(text)] = &full{}
	}
	return t.full[string(text)]
}

// joinable is the lowest address of the source that others hold and that c may
// hold beside them. If there is none, why names one who is in the way.
func (r *run) joinable(c *claimant, s *source, f int) (addr netip.Addr, why string) {
	if c.Share.Key == "" {
		return addr, ""
	}
	t := r.table(c.Share.Key, s, f)
	known := t.fullFor(c.Share)
	last := known.last
	for i := known.n; i < len(t.addrs); i++ {
		a := t.addrs[i]
		other, because := r.inTheWay(c, a)
		if other != nil {
			last = clash{a, other, because}
		}
		if other != nil || r.owners[a] == nil {
			if known.n == i {
				known.n, known.last = i+1, last
			}
			continue
		}
		if (!addr.IsValid() || a.Less(addr)) && s.giving(a) && !c.holds(a) && !slices.Contains(c.Release, a) {
			addr = a
		}
	}
	return addr, last.String()
}

func (c *claimant) holds(addr netip.Addr) bool {
	f := slot(FamilyOf(addr))
	return c.held[f].Addr == addr || c.leaving[f].Addr == addr
}
