package config

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"go4.org/netipx"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// BGPPeer is the usable part of a BGPPeer: the router, and how to talk to it.
type BGPPeer struct {
	Name string
	Nodes
	MyASN   uint32
	PeerASN uint32 // 0: as Dynamic says
	Dynamic string // "internal" or "external"

	Address        netip.Addr // or else
	Interface      string     // the router on this link, or else
	DefaultGateway string     // the node's gateway of this family, "IPv4" or "IPv6"

	Port           uint16
	Passive        bool
	Source         netip.Addr
	RouterID       netip.Addr
	EBGPMultiHop   bool
	TTLSecurity    uint8 // hops; 0 is off
	PasswordSecret string
	BFD            *BFDProfile
	IPv4, IPv6     bool
	HoldTime       time.Duration
	KeepaliveTime  time.Duration // 0: a third of the hold time
	ConnectTime    time.Duration
	RestartTime    time.Duration // 0: no graceful restart
}

// BFDProfile is how BFD sessions are run.
type BFDProfile struct {
	Transmit, Receive time.Duration
	Multiplier        uint8
	MinTTL            uint8
	Passive           bool
}

// Internal reports whether the router is in the nodes' own autonomous system.
func (p BGPPeer) Internal() bool {
	return p.PeerASN == p.MyASN || p.Dynamic == "internal"
}

// String says whom the peer is.
func (p BGPPeer) String() string {
	switch {
	case p.Interface != "":
		return "the router on " + p.Interface
	case p.DefaultGateway != "":
		return "the " + p.DefaultGateway + " gateway"
	case p.Port != 179:
		return netip.AddrPortFrom(p.Address, p.Port).String()
	}
	return p.Address.String()
}

// ASN says which autonomous system the peer is in.
func (p BGPPeer) ASN() string {
	if p.PeerASN == 0 {
		return p.Dynamic
	}
	return strconv.FormatUint(uint64(p.PeerASN), 10)
}

func parseBGPPeer(object *v1alpha1.BGPPeer, refs references, report reporter) BGPPeer {
	complain := report.about("BGPPeer", object.Name)
	spec := object.Spec
	p := BGPPeer{
		Name: object.Name, Nodes: parseNodes(spec.NodeSelectors, complain),
		MyASN: uint32(spec.MyASN), PeerASN: uint32(spec.PeerASN), Dynamic: spec.DynamicASN,
		Interface: spec.Interface, DefaultGateway: spec.DefaultGateway,
		Port: uint16(spec.PeerPort), Passive: spec.Passive,
		EBGPMultiHop: spec.EBGPMultiHop, TTLSecurity: uint8(spec.TTLSecurity),
		IPv4:     len(spec.AddressFamilies) == 0 || slices.Contains(spec.AddressFamilies, "IPv4"),
		IPv6:     len(spec.AddressFamilies) == 0 || slices.Contains(spec.AddressFamilies, "IPv6"),
		HoldTime: duration(spec.HoldTime, 9*time.Second), KeepaliveTime: duration(spec.KeepaliveTime, 0),
		ConnectTime: duration(spec.ConnectTime, 10*time.Second),
	}
	if p.Port == 0 {
		p.Port = 179
	}
	if spec.EnableGracefulRestart {
		p.RestartTime = duration(spec.RestartTime, 2*time.Minute)
	}
	if spec.PasswordSecret != nil {
		p.PasswordSecret = spec.PasswordSecret.Name
	}
	// The schema has seen to the syntax.
	p.Address, _ = netip.ParseAddr(spec.PeerAddress)
	p.Source, _ = netip.ParseAddr(spec.SourceAddress)
	p.RouterID, _ = netip.ParseAddr(spec.RouterID)
	if spec.BFDProfile != "" {
		if profile := refs.profiles[spec.BFDProfile]; profile != nil {
			p.BFD = parseBFDProfile(profile.Spec)
		} else {
			complain("spec.bfdProfile", v1alpha1.UnknownBFDProfile, "there is no BFDProfile %q: the session runs without BFD", spec.BFDProfile)
		}
	}
	if silence := p.silence(); p.RestartTime > 0 && silence > 0 && silence < upgradeTime {
		complain("spec.bfdProfile", v1alpha1.BFDTooFast, "with BFDProfile %q the router takes a speaker for dead that is restarted for more than %s, and graceful restart is in vain: a transmitInterval of at least %d gives it %s",
			spec.BFDProfile, silence, (upgradeTime/longestMultiplier).Milliseconds()+1, upgradeTime)
	}
	return p
}

const (
	// upgradeTime is what the restart of a speaker may take.
	upgradeTime = 5 * time.Second

	// longestMultiplier is the largest detect multiplier (RFC 5880 section 4.1),
	// which a speaker that restarts leaves to its routers.
	longestMultiplier = 255
)

// silence is how long a speaker may be away before the router's BFD notices, if
// the router does not ask for slower packets; 0 without BFD.
func (p BGPPeer) silence() time.Duration {
	if p.BFD == nil {
		return 0
	}
	return longestMultiplier * p.BFD.Transmit
}

func parseBFDProfile(spec v1alpha1.BFDProfileSpec) *BFDProfile {
	// The schema's defaults, for profiles that no API server has seen.
	return &BFDProfile{
		Transmit:   time.Duration(cmp.Or(spec.TransmitInterval, 300)) * time.Millisecond,
		Receive:    time.Duration(cmp.Or(spec.ReceiveInterval, 300)) * time.Millisecond,
		Multiplier: uint8(cmp.Or(spec.DetectMultiplier, 3)),
		MinTTL:     uint8(cmp.Or(spec.MinimumTTL, 1)),
		Passive:    spec.PassiveMode,
	}
}

func duration(d *metav1.Duration, byDefault time.Duration) time.Duration {
	if d == nil {
		return byDefault
	}
	return d.Duration
}

// BGPAdvertisement is the usable part of a BGPAdvertisement.
type BGPAdvertisement struct {
	Name string
	Scope
	AllPeers      bool
	Peers         []string // existing or not
	Length4       int      // of IPv4 routes
	Length6       int      // of IPv6 routes
	LocalPref     uint32
	MED           uint32
	HasMED        bool
	ASPathPrepend uint8
	Communities   []string // standard "64512:100" and large "64512:1:2", sorted
}

// ToldTo reports whether the peer is told.
func (a BGPAdvertisement) ToldTo(peer string) bool {
	return a.AllPeers || slices.Contains(a.Peers, peer)
}

// defaultLocalPref is what routers take where no LOCAL_PREF is told.
const defaultLocalPref = 100

func parseBGPAdvertisement(object *v1alpha1.BGPAdvertisement, refs references, report reporter) BGPAdvertisement {
	complain := report.about("BGPAdvertisement", object.Name)
	spec := object.Spec
	ad := BGPAdvertisement{
		Name: object.Name,
		Scope: Scope{
			len(spec.IPAddressPools) == 0 && len(spec.IPAddressPoolSelectors) == 0,
			refs.selectPools(spec.IPAddressPools, spec.IPAddressPoolSelectors, complain),
			parseNodes(spec.NodeSelectors, complain),
		},
		AllPeers: len(spec.Peers) == 0, Peers: spec.Peers,
		Length4: 32, Length6: 128, LocalPref: defaultLocalPref, ASPathPrepend: uint8(spec.ASPathPrepend),
	}
	if spec.AggregationLength != nil {
		ad.Length4 = int(*spec.AggregationLength)
	}
	if spec.AggregationLengthV6 != nil {
		ad.Length6 = int(*spec.AggregationLengthV6)
	}
	if spec.LocalPref != nil {
		ad.LocalPref = uint32(*spec.LocalPref)
	}
	if spec.MED != nil {
		ad.MED, ad.HasMED = uint32(*spec.MED), true
	}
	for i, name := range spec.Peers {
		if !refs.peerNames[name] {
			complain(fmt.Sprintf("spec.peers[%d]", i), v1alpha1.UnknownPeer, "there is no BGPPeer %q", name)
		}
	}
	for i, text := range spec.Communities {
		value, known := refs.communities[text]
		if !known {
			var err error
			if value, err = parseCommunity(text); err != nil {
				complain(fmt.Sprintf("spec.communities[%d]", i), v1alpha1.UnknownCommunity, "%v: the routes are told without it", err)
				continue
			}
		}
		ad.Communities = append(ad.Communities, value)
	}
	slices.Sort(ad.Communities)
	ad.Communities = slices.Compact(ad.Communities)
	return ad
}

// Prefix is the route that the address, of the pool with these ranges, is
// announced by: the aggregate if the pool contains all of it, else the address
// alone. An aggregate that reaches beyond the pool would attract packets to
// addresses that are not Fairlead's.
func (a BGPAdvertisement) Prefix(addr netip.Addr, pool []netipx.IPRange) netip.Prefix {
	length := a.Length4
	if addr.Is6() {
		length = a.Length6
	}
	host := netip.PrefixFrom(addr, addr.BitLen())
	if length == addr.BitLen() {
		return host
	}
	aggregate := netip.PrefixFrom(addr, length).Masked()
	r := netipx.RangeOfPrefix(aggregate)
	i, _ := slices.BinarySearchFunc(pool, r.From(), func(p netipx.IPRange, first netip.Addr) int { return p.To().Compare(first) })
	if i < len(pool) && pool[i].Contains(r.From()) && pool[i].Contains(r.To()) {
		return aggregate
	}
	return host
}

// misfit is the first range of a pool that is not made of whole aggregates, and
// how many more there are.
type misfit struct {
	netipx.IPRange
	more int
}

// aggregation is the length of the aggregates of one pool and family.
type aggregation struct {
	pool   int
	ipv6   bool
	length int
}

// misfits remembers what was found out about each aggregation.
type misfits map[aggregation]misfit

// check reports pools that are not made of whole aggregates of the advertisement.
func (ms misfits) check(ad BGPAdvertisement, pools []Pool, report reporter) {
	complain := report.about("BGPAdvertisement", ad.Name)
	for i, p := range pools {
		if !ad.Covers(p.Name) {
			continue
		}
		for _, a := range []aggregation{{i, false, ad.Length4}, {i, true, ad.Length6}} {
			m, known := ms[a]
			if !known {
				m = a.misfit(p.Ranges)
				ms[a] = m
			}
			if !m.IsValid() {
				continue
			}
			field, ranges, verb, end := "spec.aggregationLength", m.IPRange.String(), "is", "its"
			if a.ipv6 {
				field = "spec.aggregationLengthV6"
			}
			if m.more > 0 {
				ranges, verb, end = fmt.Sprintf("%s and %d more ranges", m.IPRange, m.more), "are", "their"
			}
			complain(field, v1alpha1.AggregateBeyondPool,
				"%s of IPAddressPool %q %s not made of whole /%ds: the addresses at %s ends are announced one by one", ranges, p.Name, verb, a.length, end)
		}
	}
}

func (a aggregation) misfit(ranges []netipx.IPRange) (m misfit) {
	for _, r := range ranges {
		if r.From().Is6() != a.ipv6 {
			continue
		}
		first := netip.PrefixFrom(r.From(), a.length).Masked().Addr()
		last := netipx.RangeOfPrefix(netip.PrefixFrom(r.To(), a.length).Masked()).To()
		switch {
		case first == r.From() && last == r.To():
		case m.IsValid():
			m.more++
		default:
			m.IPRange = r
		}
	}
	return m
}

// checkAttributes reports the first of the earlier advertisements that may make
// the same routes with other attributes.
func checkAttributes(ad BGPAdvertisement, earlier []BGPAdvertisement, report reporter) {
	complain := report.about("BGPAdvertisement", ad.Name)
	for _, f := range []struct {
		field string
		same  func(e *BGPAdvertisement) bool
	}{
		{"spec.localPref", func(e *BGPAdvertisement) bool { return ad.LocalPref == e.LocalPref }},
		{"spec.med", func(e *BGPAdvertisement) bool { return ad.MED == e.MED && ad.HasMED == e.HasMED }},
		{"spec.asPathPrepend", func(e *BGPAdvertisement) bool { return ad.ASPathPrepend == e.ASPathPrepend }},
	} {
		for i := range earlier {
			if e := &earlier[i]; !f.same(e) && ad.mayMakeRoutesOf(e) {
				complain(f.field, v1alpha1.ConflictingAttributes, "BGPAdvertisement %q makes the same routes with another value, which counts", e.Name)
				break
			}
		}
	}
}

// mayMakeRoutesOf reports whether both may make one route for one peer.
func (a *BGPAdvertisement) mayMakeRoutesOf(e *BGPAdvertisement) bool {
	return (a.AllNodes || e.AllNodes) && (a.Length4 == e.Length4 || a.Length6 == e.Length6) &&
		(a.AllPeers || e.AllPeers || slices.ContainsFunc(a.Peers, e.ToldTo)) &&
		(a.AllPools || e.AllPools || slices.ContainsFunc(a.Pools, e.Covers))
}

// wellKnown communities (IANA, "BGP Well-known Communities").
var wellKnown = map[string]string{
	"graceful-shutdown":   GracefulShutdown,
	"blackhole":           "65535:666",
	"no-export":           "65535:65281",
	"no-advertise":        "65535:65282",
	"no-export-subconfed": "65535:65283",
	"no-peer":             "65535:65284",
}

// GracefulShutdown asks routers to prefer any other path (RFC 8326).
const GracefulShutdown = "65535:0"

// parseCommunities is what each name stands for.
func parseCommunities(objects []*v1alpha1.Community, report reporter) map[string]string {
	names := maps.Clone(wellKnown)
	owner := map[string]string{}
	for name := range names {
		owner[name] = "the well-known communities"
	}
	for _, o := range objects {
		complain := report.about("Community", o.Name)
		for i, c := range o.Spec.Communities {
			field := fmt.Sprintf("spec.communities[%d]", i)
			value, err := parseCommunity(c.Value)
			switch before, taken := owner[c.Name]; {
			case err != nil:
				complain(field+".value", v1alpha1.InvalidCommunity, "%v", err)
			case taken:
				complain(field+".name", v1alpha1.DuplicateCommunity, "the name %q is defined by %s already, which counts", c.Name, before)
			default:
				names[c.Name], owner[c.Name] = value, fmt.Sprintf("Community %q", o.Name)
			}
		}
	}
	return names
}

// parseCommunity reads "64512:100" (RFC 1997) and "large:64512:1:2" (RFC 8092)
// and writes it as GoBGP and routers do, without the "large:".
func parseCommunity(text string) (string, error) {
	digits, large := strings.CutPrefix(text, "large:")
	parts := strings.Split(digits, ":")
	bits, want := 16, 2
	if large {
		bits, want = 32, 3
	}
	if len(parts) != want {
		return "", fmt.Errorf("%q is no community, and no Community defines it", text)
	}
	for i, p := range parts {
		n, err := strconv.ParseUint(p, 10, bits)
		if err != nil {
			return "", fmt.Errorf("%q is no community: %q is no number below %d", text, p, uint64(1)<<bits)
		}
		parts[i] = strconv.FormatUint(n, 10)
	}
	return strings.Join(parts, ":"), nil
}
