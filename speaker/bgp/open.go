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

// Open is the contents of a peer's OPEN message (RFC 4271 section 4.2).
type Open struct {
	// ASN, of four octets if the peer has the capability of RFC 6793.
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
	// GracefulRestart: the peer preserves the routes of a speaker that restarts
	// (RFC 4724). RestartTime is that of its own restarts; Restarting is set after one.
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

var errTruncated = errors.New("truncated")

// decodeOpen decodes the body of an OPEN. It ignores unknown parameters and
// capabilities (RFC 5492 section 3).
func decodeOpen(body []byte) (Open, error) {
	if len(body) < 10 {
		return Open{}, errTruncated
	}
	if body[0] != 4 {
		return Open{}, &sessionEnd{
			notification: &Notification{codeOpen, badVersion, []byte{0, 4}},
			reason:       fmt.Sprintf("the peer has BGP version %d, not 4", body[0]),
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
		return Open{}, errors.New("invalid length of the parameters")
	}
	multiprotocol, err := o.parseParameters(params, lenSize)
	if err != nil {
		return Open{}, err
	}
	if !multiprotocol {
		o.IPv4 = true // RFC 4760 section 8: without the capability it is IPv4 unicast
	}
	return o, nil
}

func (o *Open) parseParameters(params []byte, lenSize int) (multiprotocol bool, err error) {
	for len(params) > 0 {
		kind := params[0]
		value, rest, err := splitField(params[1:], lenSize)
		if err != nil {
			return false, err
		}
		params = rest
		if kind != paramCapabilities {
			continue
		}
		for len(value) > 0 {
			code := value[0]
			capability, rest, err := splitField(value[1:], 1)
			if err != nil {
				return false, err
			}
			value = rest
			multiprotocol = multiprotocol || code == capMultiprotocol
			o.storeCapability(code, capability)
		}
	}
	return multiprotocol, nil
}

// splitField splits off a value that follows its length.
func splitField(b []byte, lenSize int) (value, rest []byte, err error) {
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

// storeCapability stores a capability that is used here. A malformed one is ignored.
func (o *Open) storeCapability(code uint8, v []byte) {
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

// validate returns why an OPEN is not acceptable (RFC 4271 section 6.2, RFC 6286), as
// a *sessionEnd with the NOTIFICATION to answer with.
func (o Open) validate(p Peer) error {
	refuse := func(subcode uint8, data []byte, format string, args ...any) error {
		return &sessionEnd{notification: &Notification{codeOpen, subcode, data}, reason: fmt.Sprintf(format, args...)}
	}
	internal := o.ASN == p.LocalASN
	switch {
	case o.ASN == 0 || p.PeerASN != 0 && o.ASN != p.PeerASN:
		return refuse(badPeerAS, nil, "expected AS %d, but the peer's OPEN has AS %d", p.PeerASN, o.ASN)
	case p.PeerASN == 0 && p.Kind == Internal && !internal:
		return refuse(badPeerAS, nil, "expected an internal peer of AS %d, but the peer's OPEN has AS %d", p.LocalASN, o.ASN)
	case p.PeerASN == 0 && p.Kind == External && internal:
		return refuse(badPeerAS, nil, "expected an external peer, but the peer's OPEN has the local AS %d", o.ASN)
	case o.RouterID.IsUnspecified():
		return refuse(badIdentifier, nil, "invalid router ID 0.0.0.0 of the peer")
	case internal && o.RouterID == p.RouterID:
		return refuse(badIdentifier, nil, "the peer has the same router ID %s as this node", o.RouterID)
	case o.HoldTime == time.Second || o.HoldTime == 2*time.Second:
		return refuse(badHoldTime, nil, "the peer's hold time is %s, but must be 0 or at least 3s", o.HoldTime)
	case !(p.IPv4 && o.IPv4 || p.IPv6 && o.IPv6):
		return refuse(badCapability, requiredCapabilities(p),
			"the peer has none of the configured address families enabled: %s", familyNames(p.IPv4, p.IPv6))
	}
	return nil
}

// requiredCapabilities returns the data of an Unsupported Capability: those that
// the peer lacks (RFC 5492 section 5).
func requiredCapabilities(p Peer) (data []byte) {
	if p.IPv4 {
		data = append(data, capMultiprotocol, 4, 0, afiIPv4, 0, safiUnicast)
	}
	if p.IPv6 {
		data = append(data, capMultiprotocol, 4, 0, afiIPv6, 0, safiUnicast)
	}
	return data
}

// encodeOpen returns the OPEN message for a peer.
func encodeOpen(p Peer) ([]byte, error) {
	caps := []bgp.ParameterCapabilityInterface{bgp.NewCapRouteRefresh(), bgp.NewCapFourOctetASNumber(p.LocalASN)}
	if name, err := os.Hostname(); err == nil {
		caps = append(caps, bgp.NewCapFQDN(name, "")) // routers show it with the address
	}
	var preserved []*bgp.CapGracefulRestartTuple
	for _, family := range routeFamilies(p.IPv4, p.IPv6) {
		caps = append(caps, bgp.NewCapMultiProtocol(family))
		// The forwarding state is kube-proxy's, and a restart of the speaker does not
		// affect it.
		preserved = append(preserved, bgp.NewCapGracefulRestartTuple(family, true))
	}
	if p.IPv4 && p.Address.Is6() {
		caps = append(caps, bgp.NewCapExtendedNexthop([]*bgp.CapExtendedNexthopTuple{
			bgp.NewCapExtendedNexthopTuple(bgp.RF_IPv4_UC, bgp.AFI_IP6),
		}))
	}
	if seconds := min(p.RestartTime/time.Second, restartTimeMax); seconds > 0 {
		// "Restarting" is always set: the peer must not wait for our End-of-RIB before
		// it sends its own routes (RFC 4724 section 3).
		caps = append(caps, bgp.NewCapGracefulRestart(true, false, uint16(seconds), preserved))
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

// familyNames returns the names of address families.
func familyNames(v4, v6 bool) string {
	switch {
	case v4 && v6:
		return "IPv4 and IPv6"
	case v4:
		return "IPv4"
	case v6:
		return "IPv6"
	}
	return "none"
}
