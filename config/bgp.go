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

func parseBGPPeer(object *v1alpha1.BGPPeer, profiles []*v1alpha1.BFDProfile, report reporter) BGPPeer {
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
		i := slices.IndexFunc(profiles, func(f *v1alpha1.BFDProfile) bool { return f.Name == spec.BFDProfile })
		if i < 0 {
			complain("spec.bfdProfile", v1alpha1.UnknownBFDProfile, "there is no BFDProfile %q: the session runs without BFD", spec.BFDProfile)
		} else {
			p.BFD = parseBFDProfile(profiles[i].Spec)
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

func parseBGPAdvertisement(object *v1alpha1.BGPAdvertisement, objects Objects, communities map[string]string, report reporter) BGPAdvertisement {
	complain := report.about("BGPAdvertisement", object.Name)
	spec := object.Spec
	ad := BGPAdvertisement{
		Name: object.Name,
		Scope: Scope{
			len(spec.IPAddressPools) == 0 && len(spec.IPAddressPoolSelectors) == 0,
			selectPools(spec.IPAddressPools, spec.IPAddressPoolSelectors, objects.Pools, complain),
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
		if !slices.ContainsFunc(objects.BGPPeers, func(p *v1alpha1.BGPPeer) bool { return p.Name == name }) {
			complain(fmt.Sprintf("spec.peers[%d]", i), v1alpha1.UnknownPeer, "there is no BGPPeer %q", name)
		}
	}
	for i, text := range spec.Communities {
		value, known := communities[text]
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

// checkAggregates reports pools that are not made of whole aggregates.
func checkAggregates(ad BGPAdvertisement, pools []Pool, report reporter) {
	complain := report.about("BGPAdvertisement", ad.Name)
	for _, p := range pools {
		if !ad.Covers(p.Name) {
			continue
		}
		for _, r := range p.Ranges {
			field, length := "spec.aggregationLength", ad.Length4
			if r.From().Is6() {
				field, length = "spec.aggregationLengthV6", ad.Length6
			}
			first := netip.PrefixFrom(r.From(), length).Masked().Addr()
			last := netipx.RangeOfPrefix(netip.PrefixFrom(r.To(), length).Masked()).To()
			if first != r.From() || last != r.To() {
				complain(field, v1alpha1.AggregateBeyondPool, "%s of IPAddressPool %q is not made of whole /%ds: the addresses at its ends are announced one by one", r, p.Name, length)
			}
		}
	}
}

// checkAttributes reports an earlier advertisement that may make the same routes
// with other attributes.
func checkAttributes(ad BGPAdvertisement, earlier []BGPAdvertisement, report reporter) {
	complain := report.about("BGPAdvertisement", ad.Name)
	for _, e := range earlier {
		pools := ad.AllPools || e.AllPools || slices.ContainsFunc(ad.Pools, e.Covers)
		peers := ad.AllPeers || e.AllPeers || slices.ContainsFunc(ad.Peers, e.ToldTo)
		lengths := ad.Length4 == e.Length4 || ad.Length6 == e.Length6
		if !pools || !peers || !lengths || !ad.AllNodes && !e.AllNodes {
			continue
		}
		for _, f := range []struct {
			field string
			same  bool
		}{
			{"spec.localPref", ad.LocalPref == e.LocalPref},
			{"spec.med", ad.MED == e.MED && ad.HasMED == e.HasMED},
			{"spec.asPathPrepend", ad.ASPathPrepend == e.ASPathPrepend},
		} {
			if !f.same {
				complain(f.field, v1alpha1.ConflictingAttributes, "BGPAdvertisement %q makes the same routes with another value, which counts", e.Name)
			}
		}
	}
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
