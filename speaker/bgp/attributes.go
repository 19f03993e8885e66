package bgp

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/osrg/gobgp/v3/pkg/packet/bgp"
)

// maxAttributes leaves room in an UPDATE for the longest MP_REACH_NLRI with one
// prefix: its header, AFI, SAFI, an IPv6 next hop with its length, a reserved
// octet, and an IPv6 prefix with its length.
const maxAttributes = maxUpdate - attributeHeader - (3 + 17 + 1) - 17

// maxSegment is how many ASNs a segment of an AS path has at most (RFC 4271 section 4.3).
const maxSegment = 255

// routeEncoder encodes the path attributes of one session's routes.
type routeEncoder struct {
	localASN, peerASN uint32
	fourOctetASN      bool // the peer has the capability of RFC 6793
}

// encodeAttributes returns path attributes in the order of their types (RFC 4271 section 5),
// without MP_REACH_NLRI. NEXT_HOP is left out where that has the next hop.
func (e routeEncoder) encodeAttributes(a Attributes, hop netip.Addr, viaMP bool) ([]byte, error) {
	standard, large, err := parseCommunities(a.Communities)
	if err != nil {
		return nil, err
	}
	path, path4 := e.asPath(a.Prepend)
	attributes := []bgp.PathAttributeInterface{bgp.NewPathAttributeOrigin(bgp.BGP_ORIGIN_ATTR_TYPE_IGP), path}
	if !viaMP {
		attributes = append(attributes, bgp.NewPathAttributeNextHop(hop.String()))
	}
	if a.HasMED {
		attributes = append(attributes, bgp.NewPathAttributeMultiExitDisc(a.MED))
	}
	if e.isInternal() {
		attributes = append(attributes, bgp.NewPathAttributeLocalPref(a.LocalPref))
	}
	if len(standard) > 0 {
		attributes = append(attributes, bgp.NewPathAttributeCommunities(standard))
	}
	if path4 != nil {
		attributes = append(attributes, path4)
	}
	if len(large) > 0 {
		attributes = append(attributes, bgp.NewPathAttributeLargeCommunities(large))
	}
	var encoded []byte
	for _, attribute := range attributes {
		b, err := attribute.Serialize()
		if err != nil {
			return nil, fmt.Errorf("attribute %s: %w", attribute.GetType(), err)
		}
		encoded = append(encoded, b...)
	}
	if len(encoded) > maxAttributes {
		return nil, fmt.Errorf("attributes of %d bytes exceed the maximum of %d bytes in a message", len(encoded), maxAttributes)
	}
	return encoded, nil
}

func (e routeEncoder) isInternal() bool { return e.localASN == e.peerASN }

// asPath returns AS_PATH, which is empty for an internal peer, and AS4_PATH where
// the peer needs it in addition to AS_TRANS (RFC 6793 section 4.2.2).
func (e routeEncoder) asPath(prepend uint8) (*bgp.PathAttributeAsPath, bgp.PathAttributeInterface) {
	if e.isInternal() {
		return bgp.NewPathAttributeAsPath(nil), nil
	}
	var path []bgp.AsPathParamInterface
	var path4 []*bgp.As4PathParam
	for asns := range slices.Chunk(slices.Repeat([]uint32{e.localASN}, 1+int(prepend)), maxSegment) {
		segment4 := bgp.NewAs4PathParam(bgp.BGP_ASPATH_ATTR_TYPE_SEQ, asns)
		if e.fourOctetASN {
			path = append(path, segment4)
			continue
		}
		short := slices.Repeat([]uint16{shortASN(e.localASN)}, len(asns))
		path = append(path, bgp.NewAsPathParam(bgp.BGP_ASPATH_ATTR_TYPE_SEQ, short))
		path4 = append(path4, segment4)
	}
	if e.fourOctetASN || e.localASN <= maxShortASN {
		return bgp.NewPathAttributeAsPath(path), nil
	}
	return bgp.NewPathAttributeAsPath(path), bgp.NewPathAttributeAs4Path(path4)
}

// maxShortASN is the largest ASN of two octets.
const maxShortASN = 0xffff

// shortASN is an ASN in two octets: AS_TRANS where it does not fit (RFC 6793 section 4.2.2).
func shortASN(asn uint32) uint16 {
	if asn > maxShortASN {
		return bgp.AS_TRANS
	}
	return uint16(asn)
}

// parseCommunities reads what Attributes.Communities documents (RFC 1997, RFC 8092).
func parseCommunities(text string) (standard []uint32, large []*bgp.LargeCommunity, err error) {
	for c := range strings.FieldsSeq(text) {
		var n [3]uint32
		parts := strings.Split(c, ":")
		bits := 32
		if len(parts) == 2 {
			bits = 16
		}
		if len(parts) != 2 && len(parts) != 3 {
			return nil, nil, fmt.Errorf("invalid community %q: must have 2 or 3 parts, but has %d", c, len(parts))
		}
		for i, part := range parts {
			v, err := strconv.ParseUint(part, 10, bits)
			if err != nil {
				return nil, nil, fmt.Errorf("invalid community %q: %w", c, err)
			}
			n[i] = uint32(v)
		}
		if len(parts) == 2 {
			standard = append(standard, n[0]<<16|n[1])
		} else {
			large = append(large, bgp.NewLargeCommunity(n[0], n[1], n[2]))
		}
	}
	return standard, large, nil
}
