package bgp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"github.com/osrg/gobgp/v3/pkg/packet/bgp"
)

// Open is what a peer says about itself in its OPEN message (RFC 4271 section 4.2).
type Open struct {
	// ASN of four octets where the peer speaks RFC 6793.
	ASN      uint32
	RouterID netip.Addr
	// HoldTime that the peer offers. The session's is the lesser of both ends'.
	HoldTime time.Duration
	// IPv4 and IPv6 unicast (RFC 4760).
	IPv4, IPv6 bool
	// ExtendedNextHop: IPv4 routes may have an IPv6 next hop (RFC 8950).
	ExtendedNextHop bool
	// FourOctetASN and RouteRefresh are capabilities (RFC 6793, RFC 2918).
	FourOctetASN, RouteRefresh bool
	// GracefulRestart: the peer keeps routes of a speaker that restarts (RFC
	// 4724). RestartTime is for its own restarts; Restarting says it was one.
	GracefulRestart, Restarting bool
	RestartTime                 time.Duration
}

// Capabilities and parameters of an OPEN (RFC 5492, RFC 9072).
const (
	paramCapabilities = 2
	paramExtended     = 255

	capMultiprotocol   = 1
	capRouteRefresh    = 2
	capExtendedNextHop = 5
	capGracefulRestart = 64
	capFourOctetASN    = 65

	afiIPv4, afiIPv6, safiUnicast = 1, 2, 1

	restartingFlag = 0x8000
	restartTimeMax = 0x0fff // 12 bits of seconds
)

var errTruncated = errors.New("it ends too early")

// decodeOpen reads the body of an OPEN. Unknown parameters and capabilities are
// skipped (RFC 5492 section 3).
func decodeOpen(body []byte) (Open, error) {
	if len(body) < 10 {
		return Open{}, errTruncated
	}
	if body[0] != 4 {
		return Open{}, &leave{
			note: &Notification{codeOpen, badVersion, []byte{0, 4}},
			why:  fmt.Sprintf("the peer speaks BGP version %d, not 4", body[0]),
		}
	}
	o := Open{
		ASN:      uint32(binary.BigEndian.Uint16(body[1:])),
		HoldTime: time.Duration(binary.BigEndian.Uint16(body[3:])) * time.Second,
		RouterID: netip.AddrFrom4([4]byte(body[5:9])),
	}
	params, lenSize := body[10:], 1
	length := int(body[9])
	if length == 255 && len(params) > 0 && params[0] == paramExtended { // RFC 9072
		if len(params) < 3 {
			return Open{}, errTruncated
		}
		length, params, lenSize = int(binary.BigEndian.Uint16(params[1:])), params[3:], 2
	}
	if length != len(params) {
		return Open{}, errors.New("its parameters have another length than it says")
	}
	multiprotocol, err := o.parameters(params, lenSize)
	if err != nil {
		return Open{}, err
	}
	if !multiprotocol {
		o.IPv4 = true // RFC 4760 section 8: without the capability it is IPv4 unicast
	}
	return o, nil
}

func (o *Open) parameters(params []byte, lenSize int) (multiprotocol bool, err error) {
	for len(params) > 0 {
		kind := params[0]
		value, rest, err := field(params[1:], lenSize)
		if err != nil {
			return false, err
		}
		params = rest
		if kind != paramCapabilities {
			continue
		}
		for len(value) > 0 {
			code := value[0]
			capability, rest, err := field(value[1:], 1)
			if err != nil {
				return false, err
			}
			value = rest
			multiprotocol = multiprotocol || code == capMultiprotocol
			o.capability(code, capability)
		}
	}
	return multiprotocol, nil
}

// field cuts a value off that follows its length.
func field(b []byte, lenSize int) (value, rest []byte, err error) {
	if len(b) < lenSize {
		return nil, nil, errTruncated
	}
	length := int(b[0])
	if lenSize == 2 {
		length = int(binary.BigEndian.Uint16(b))
	}
	b = b[lenSize:]
	if len(b) < length {
		return nil, nil, errTruncated
	}
	return b[:length], b[length:], nil
}

// capability notes one that matters here. A malformed one is like none.
func (o *Open) capability(code uint8, v []byte) {
	switch {
	case code == capMultiprotocol && len(v) == 4:
		afi := binary.BigEndian.Uint16(v)
		o.IPv4 = o.IPv4 || afi == afiIPv4 && v[3] == safiUnicast
		o.IPv6 = o.IPv6 || afi == afiIPv6 && v[3] == safiUnicast
	case code == capRouteRefresh:
		o.RouteRefresh = true
	case code == capExtendedNextHop:
		for ; len(v) >= 6; v = v[6:] {
			afi, safi, hop := binary.BigEndian.Uint16(v), binary.BigEndian.Uint16(v[2:]), binary.BigEndian.Uint16(v[4:])
			o.ExtendedNextHop = o.ExtendedNextHop || afi == afiIPv4 && safi == safiUnicast && hop == afiIPv6
		}
	case code == capGracefulRestart && len(v) >= 2:
		flags := binary.BigEndian.Uint16(v)
		o.GracefulRestart = true
		o.Restarting = flags&restartingFlag != 0
		o.RestartTime = time.Duration(flags&restartTimeMax) * time.Second
	case code == capFourOctetASN && len(v) == 4:
		o.ASN, o.FourOctetASN = binary.BigEndian.Uint32(v), true
	}
}

// check says what keeps an OPEN from beginning a session with a peer (RFC 4271
// section 6.2, RFC 6286): a *leave with the NOTIFICATION that it is answered with.
func (o Open) check(p Peer) error {
	refuse := func(subcode uint8, data []byte, format string, args ...any) error {
		return &leave{note: &Notification{codeOpen, subcode, data}, why: fmt.Sprintf(format, args...)}
	}
	internal := o.ASN == p.LocalASN
	switch {
	case o.ASN == 0 || p.PeerASN != 0 && o.ASN != p.PeerASN:
		return refuse(badPeerAS, nil, "we expect AS %d, the peer says it is AS %d", p.PeerASN, o.ASN)
	case p.PeerASN == 0 && p.Kind == Internal && !internal:
		return refuse(badPeerAS, nil, "we expect an internal peer of AS %d, the peer says it is AS %d", p.LocalASN, o.ASN)
	case p.PeerASN == 0 && p.Kind == External && internal:
		return refuse(badPeerAS, nil, "we expect an external peer, the peer says it is of our own AS %d", o.ASN)
	case o.RouterID.IsUnspecified():
		return refuse(badIdentifier, nil, "the peer has no router ID")
	case internal && o.RouterID == p.RouterID:
		return refuse(badIdentifier, nil, "the peer has our own router ID %s", o.RouterID)
	case o.HoldTime == time.Second || o.HoldTime == 2*time.Second:
		return refuse(badHoldTime, nil, "the peer wants a hold time of %s; 0 or at least 3s is allowed", o.HoldTime)
	case !(p.IPv4 && o.IPv4 || p.IPv6 && o.IPv6):
		return refuse(badCapability, multiprotocol(p), "the peer has none of the families enabled that it shall be told: %s", families(p.IPv4, p.IPv6))
	}
	return nil
}

// multiprotocol is the data of an Unsupported Capability: what is missed (RFC 5492 section 5).
func multiprotocol(p Peer) (data []byte) {
	if p.IPv4 {
		data = append(data, capMultiprotocol, 4, 0, afiIPv4, 0, safiUnicast)
	}
	if p.IPv6 {
		data = append(data, capMultiprotocol, 4, 0, afiIPv6, 0, safiUnicast)
	}
	return data
}

// encodeOpen makes our OPEN for a peer.
func encodeOpen(p Peer) ([]byte, error) {
	caps := []bgp.ParameterCapabilityInterface{bgp.NewCapRouteRefresh(), bgp.NewCapFourOctetASNumber(p.LocalASN)}
	if name, err := os.Hostname(); err == nil {
		caps = append(caps, bgp.NewCapFQDN(name, "")) // routers show it beside the address
	}
	var kept []*bgp.CapGracefulRestartTuple
	for _, family := range routeFamilies(p.IPv4, p.IPv6) {
		caps = append(caps, bgp.NewCapMultiProtocol(family))
		// The forwarding state is kube-proxy's, which no restart of ours touches.
		kept = append(kept, bgp.NewCapGracefulRestartTuple(family, true))
	}
	if p.IPv4 && p.Address.Is6() {
		caps = append(caps, bgp.NewCapExtendedNexthop([]*bgp.CapExtendedNexthopTuple{
			bgp.NewCapExtendedNexthopTuple(bgp.RF_IPv4_UC, bgp.AFI_IP6),
		}))
	}
	if seconds := min(p.RestartTime/time.Second, restartTimeMax); seconds > 0 {
		// "Restarting" always: nothing is to be waited for from us (RFC 4724 section 3).
		caps = append(caps, bgp.NewCapGracefulRestart(true, false, uint16(seconds), kept))
	}
	hold := uint16(min(p.HoldTime/time.Second, 0xffff))
	options := []bgp.OptionParameterInterface{bgp.NewOptionParameterCapability(caps)}
	b, err := bgp.NewBGPOpenMessage(shortASN(p.LocalASN), hold, p.RouterID.String(), options).Serialize()
	if err != nil {
		return nil, fmt.Errorf("encode OPEN: %w", err)
	}
	return b, nil
}

func routeFamilies(v4, v6 bool) (f []bgp.RouteFamily) {
	if v4 {
		f = append(f, bgp.RF_IPv4_UC)
	}
	if v6 {
		f = append(f, bgp.RF_IPv6_UC)
	}
	return f
}
