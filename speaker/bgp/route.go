package bgp

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	api "github.com/osrg/gobgp/v3/api"
	"github.com/osrg/gobgp/v3/pkg/packet/bgp"
)

// maxAttributes leaves room in a message for its header, a prefix in
// MP_REACH_NLRI, and an AS path that is told twice (RFC 6793). GoBGP does not
// survive attributes that fill a message.
const maxAttributes = 2048

// route is what a peer is told of a prefix.
type route struct {
	Attributes
	hop netip.Addr
}

// telling is what a session's routes depend on beside themselves.
type telling struct {
	localASN, peerASN uint32
	hops              hops
}

// path is a prefix in GoBGP's words.
func path(prefix netip.Prefix) *api.Path {
	afi := api.Family_AFI_IP6
	if prefix.Addr().Is4() {
		afi = api.Family_AFI_IP
	}
	nlri := append([]byte{uint8(prefix.Bits())}, prefix.Addr().AsSlice()[:(prefix.Bits()+7)/8]...)
	return &api.Path{Family: &api.Family{Afi: afi, Safi: api.Family_SAFI_UNICAST}, NlriBinary: nlri}
}

// encodeAttributes makes path attributes (RFC 4271 section 5). GoBGP turns the
// next hop into an MP_REACH_NLRI where one is needed, puts the own ASN before
// the AS path, and leaves LOCAL_PREF out for external peers.
func encodeAttributes(r route, t telling) ([][]byte, error) {
	attributes := []bgp.PathAttributeInterface{
		bgp.NewPathAttributeOrigin(bgp.BGP_ORIGIN_ATTR_TYPE_IGP),
		bgp.NewPathAttributeNextHop(r.hop.String()),
		bgp.NewPathAttributeLocalPref(r.LocalPref),
	}
	if r.Prepend > 0 && t.localASN != t.peerASN {
		path := make([]uint32, r.Prepend)
		for i := range path {
			path[i] = t.localASN
		}
		attributes = append(attributes, bgp.NewPathAttributeAsPath([]bgp.AsPathParamInterface{
			bgp.NewAs4PathParam(bgp.BGP_ASPATH_ATTR_TYPE_SEQ, path),
		}))
	}
	if r.HasMED {
		attributes = append(attributes, bgp.NewPathAttributeMultiExitDisc(r.MED))
	}
	standard, large, err := parseCommunities(r.Communities)
	if err != nil {
		return nil, err
	}
	if len(standard) > 0 {
		attributes = append(attributes, bgp.NewPathAttributeCommunities(standard))
	}
	if len(large) > 0 {
		attributes = append(attributes, bgp.NewPathAttributeLargeCommunities(large))
	}
	encoded := make([][]byte, len(attributes))
	size := 0
	for i, a := range attributes {
		if encoded[i], err = a.Serialize(); err != nil {
			return nil, fmt.Errorf("attribute %s: %w", a.GetType(), err)
		}
		size += len(encoded[i])
	}
	if size > maxAttributes {
		return nil, fmt.Errorf("its attributes take %d bytes, and a message has no more than %d for them", size, maxAttributes)
	}
	return encoded, nil
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
			return nil, nil, fmt.Errorf("community %q has %d parts", c, len(parts))
		}
		for i, part := range parts {
			v, err := strconv.ParseUint(part, 10, bits)
			if err != nil {
				return nil, nil, fmt.Errorf("community %q: %w", c, err)
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
