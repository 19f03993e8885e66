package bgp

import (
	"encoding/binary"
	"net/netip"
	"slices"
)

// maxUpdate is the room of an UPDATE for everything except the header and the
// lengths of the withdrawn routes and of the attributes (RFC 4271 section 4.3).
const maxUpdate = maxMessage - headerLen - 4

// adjRIBOut contains the routes that a peer has been sent (RFC 4271 section 3.2):
// those of the families that have a next hop. The zero value is empty.
type adjRIBOut struct {
	routes Routes // shared with the desired state, and never changed
	hops   nextHops
	size   int
}

// attributesOf returns the attributes of a route that the peer has been sent.
func (sent adjRIBOut) attributesOf(prefix netip.Prefix) (Attributes, bool) {
	attributes, ok := sent.routes[prefix]
	return attributes, ok && sent.hops.nextHopOf(prefix).IsValid()
}

// Families of a ROUTE-REFRESH, as a set.
const refreshIPv4, refreshIPv6 = 1, 2

// refreshedFamilies returns the family that the body of a ROUTE-REFRESH requests
// (RFC 2918 section 3), or 0 if it is not supported.
func refreshedFamilies(body []byte) uint32 {
	afi, safi := binary.BigEndian.Uint16(body), body[3]
	switch {
	case afi == afiIPv4 && safi == safiUnicast:
		return refreshIPv4
	case afi == afiIPv6 && safi == safiUnicast:
		return refreshIPv6
	}
	return 0
}

// withoutFamilies returns the routes without those of some families, as if they had
// never been sent.
func (sent adjRIBOut) withoutFamilies(families uint32) adjRIBOut {
	if families&refreshIPv4 != 0 {
		sent.hops.v4 = netip.Addr{}
	}
	if families&refreshIPv6 != 0 {
		sent.hops.v6 = netip.Addr{}
	}
	sent.size = 0
	for prefix := range sent.routes {
		if sent.hops.nextHopOf(prefix).IsValid() {
			sent.size++
		}
	}
	return sent
}

// planUpdates returns the UPDATE messages that change the routes of a peer from those
// that it has been sent to the desired routes of the families that have a next hop: additions and
// changes first, then withdrawals. now is what the peer has after them; routes
// that do not fit a message are not in it, but in invalid.
//
// A call compares every desired route and encodes only those that differ.
func (e routeEncoder) planUpdates(sent adjRIBOut, desired Routes, h nextHops) (
	messages [][]byte, now adjRIBOut, invalid map[netip.Prefix]error,
) {
	changed, withdrawn, size := sent.diffRoutes(desired, h)
	now = adjRIBOut{desired, h, size}
	for _, group := range groupRoutes(changed, desired) {
		hop := h.nextHopOf(group[0])
		attributes, err := e.encodeAttributes(desired[group[0]], hop, viaMP(group[0], hop))
		if err == nil {
			messages = append(messages, packReach(group, attributes, hop)...)
			continue
		}
		if invalid == nil {
			invalid = make(map[netip.Prefix]error)
		}
		for _, prefix := range group {
			invalid[prefix] = err
			if _, ok := sent.attributesOf(prefix); ok {
				withdrawn = append(withdrawn, prefix)
			}
		}
	}
	if len(invalid) > 0 {
		now.routes = make(Routes, len(desired))
		for prefix, attributes := range desired {
			if invalid[prefix] == nil {
				now.routes[prefix] = attributes
			}
		}
		now.size -= len(invalid)
	}
	return append(messages, packUnreach(withdrawn, sent.hops)...), now, invalid
}

// diffRoutes returns the prefixes to advertise, because the peer does not have the
// route or has it with other attributes, the prefixes to withdraw, and the desired
// number of routes.
func (sent adjRIBOut) diffRoutes(desired Routes, h nextHops) (changed, withdrawn []netip.Prefix, size int) {
	kept := 0
	for prefix, attributes := range desired {
		hop := h.nextHopOf(prefix)
		if !hop.IsValid() {
			continue
		}
		size++
		have, ok := sent.attributesOf(prefix)
		if ok {
			kept++
		}
		if !ok || have != attributes || sent.hops.nextHopOf(prefix) != hop {
			changed = append(changed, prefix)
		}
	}
	if kept == sent.size {
		return changed, nil, size
	}
	for prefix := range sent.routes {
		if !sent.hops.nextHopOf(prefix).IsValid() {
			continue
		}
		if _, ok := desired[prefix]; !ok || !h.nextHopOf(prefix).IsValid() {
			withdrawn = append(withdrawn, prefix)
		}
	}
	return changed, withdrawn, size
}

// groupRoutes sorts prefixes, and groups those that can share an UPDATE: of one
// family and with equal attributes.
func groupRoutes(prefixes []netip.Prefix, routes Routes) (groups [][]netip.Prefix) {
	type key struct {
		Attributes
		is4 bool
	}
	slices.SortFunc(prefixes, netip.Prefix.Compare)
	places := make(map[key]int)
	for _, prefix := range prefixes {
		k := key{routes[prefix], prefix.Addr().Is4()}
		place, ok := places[k]
		if !ok {
			place = len(groups)
			places[k] = place
			groups = append(groups, nil)
		}
		groups[place] = append(groups[place], prefix)
	}
	return groups
}

// viaMP reports whether a prefix needs the attributes of RFC 4760: those of IPv6
// do, and those of IPv4 with an IPv6 next hop (RFC 8950).
func viaMP(prefix netip.Prefix, hop netip.Addr) bool { return !prefix.Addr().Is4() || !hop.Is4() }

// packReach returns UPDATEs with the routes of one family, which have the same
// attributes.
func packReach(prefixes []netip.Prefix, attributes []byte, hop netip.Addr) [][]byte {
	room := maxUpdate - len(attributes)
	if !viaMP(prefixes[0], hop) {
		return packNLRI(prefixes, room, func(nlri []byte) []byte { return newUpdate(nil, attributes, nlri) })
	}
	next := hop.AsSlice()
	value := append([]byte{0, afiOf(prefixes[0]), safiUnicast, byte(len(next))}, next...)
	value = append(value, 0) // reserved
	return packNLRI(prefixes, room-attributeHeader-len(value), func(nlri []byte) []byte {
		// First, so that a malformed attribute does not hide the prefixes (RFC 7606 section 5.1).
		return newUpdate(nil, slices.Concat(mpAttribute(mpReachNLRI, value, nlri), attributes), nil)
	})
}

// packUnreach returns UPDATEs that withdraw routes which were sent with the next
// hops.
func packUnreach(prefixes []netip.Prefix, h nextHops) (messages [][]byte) {
	slices.SortFunc(prefixes, netip.Prefix.Compare) // IPv4 first
	first6 := slices.IndexFunc(prefixes, func(p netip.Prefix) bool { return !p.Addr().Is4() })
	if first6 < 0 {
		first6 = len(prefixes)
	}
	for _, family := range [][]netip.Prefix{prefixes[:first6], prefixes[first6:]} {
		if len(family) == 0 {
			continue
		}
		if !viaMP(family[0], h.nextHopOf(family[0])) {
			messages = append(messages, packNLRI(family, maxUpdate, func(nlri []byte) []byte { return newUpdate(nlri, nil, nil) })...)
			continue
		}
		value := []byte{0, afiOf(family[0]), safiUnicast}
		messages = append(messages, packNLRI(family, maxUpdate-attributeHeader-len(value), func(nlri []byte) []byte {
			return newUpdate(nil, mpAttribute(mpUnreachNLRI, value, nlri), nil)
		})...)
	}
	return messages
}

// packNLRI encodes prefixes (RFC 4271 section 4.3) and makes a message of as many
// as there is room for.
func packNLRI(prefixes []netip.Prefix, room int, message func(nlri []byte) []byte) (messages [][]byte) {
	nlri := make([]byte, 0, room)
	for _, prefix := range prefixes {
		octets := (prefix.Bits() + 7) / 8
		if len(nlri)+1+octets > room {
			messages = append(messages, message(nlri))
			nlri = nlri[:0]
		}
		nlri = append(nlri, byte(prefix.Bits()))
		nlri = append(nlri, prefix.Addr().AsSlice()[:octets]...)
	}
	return append(messages, message(nlri))
}

// endOfRIB returns the End-of-RIB marker, the UPDATE that follows the first routes of a
// family (RFC 4724 section 2).
func endOfRIB(v6 bool) []byte {
	if !v6 {
		return newUpdate(nil, nil, nil)
	}
	return newUpdate(nil, mpAttribute(mpUnreachNLRI, []byte{0, afiIPv6, safiUnicast}, nil), nil)
}

// newUpdate returns an UPDATE message (RFC 4271 section 4.3).
func newUpdate(withdrawn, attributes, nlri []byte) []byte {
	body := binary.BigEndian.AppendUint16(make([]byte, 0, maxMessage), uint16(len(withdrawn)))
	body = append(body, withdrawn...)
	body = binary.BigEndian.AppendUint16(body, uint16(len(attributes)))
	body = append(body, attributes...)
	return newMessage(msgUpdate, append(body, nlri...))
}

// Attributes of RFC 4760, and how they begin: optional, with a length of two octets.
const (
	mpReachNLRI     = 14
	mpUnreachNLRI   = 15
	attributeHeader = 4
	optional        = 0x80
	extendedLength  = 0x10
)

// mpAttribute returns an attribute of RFC 4760.
func mpAttribute(kind byte, value, nlri []byte) []byte {
	a := binary.BigEndian.AppendUint16([]byte{optional | extendedLength, kind}, uint16(len(value)+len(nlri)))
	return append(append(a, value...), nlri...)
}

func afiOf(prefix netip.Prefix) byte {
	if prefix.Addr().Is4() {
		return afiIPv4
	}
	return afiIPv6
}
