package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"go4.org/netipx"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// BGPPeer is the valid part of a BGPPeer: the router, and the parameters of the
// session with it.
type BGPPeer struct {
	Name string
	Nodes
	MyASN   uint32
	PeerASN uint32 // 0: any that Dynamic accepts
	Dynamic string // "internal" or "external"

	// Exactly one of these identifies the router.
	Address        netip.Addr
	Interface      string // on which the router is discovered
	DefaultGateway string // the family of the node's default gateway, "IPv4" or "IPv6"

	Port           uint16
	Passive        bool
	Source         netip.Addr
	RouterID       netip.Addr
	EBGPMultiHop   bool
	TTLSecurity    uint8 // hops; 0 disables it
	PasswordSecret string
	BFD            *BFDProfile
	IPv4, IPv6     bool
	HoldTime       time.Duration
	KeepaliveTime  time.Duration // 0: a third of the hold time
	ConnectTime    time.Duration
	RestartTime    time.Duration // 0: no graceful restart
}

// Internal reports whether the router is in the nodes' own autonomous system.
func (p BGPPeer) Internal() bool {
	return p.PeerASN == p.MyASN || p.Dynamic == "internal"
}

// String describes the router.
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

// ASN returns the peer's autonomous system number, or which ones are accepted.
func (p BGPPeer) ASN() string {
	if p.PeerASN == 0 {
		return p.Dynamic
	}
	return strconv.FormatUint(uint64(p.PeerASN), 10)
}

func parseBGPPeer(object *v1alpha1.BGPPeer, refs objectReferences, report problemReporter) BGPPeer {
	reportField := report.forObject("BGPPeer", object.Name)
	spec := object.Spec
	p := BGPPeer{
		Name: object.Name, Nodes: parseNodes(spec.NodeSelectors, reportField),
		MyASN: uint32(spec.MyASN), PeerASN: uint32(spec.PeerASN), Dynamic: spec.DynamicASN,
		Interface: spec.Interface, DefaultGateway: spec.DefaultGateway,
		Port: uint16(spec.PeerPort), Passive: spec.Passive,
		EBGPMultiHop: spec.EBGPMultiHop, TTLSecurity: uint8(spec.TTLSecurity),
		IPv4:     len(spec.AddressFamilies) == 0 || slices.Contains(spec.AddressFamilies, "IPv4"),
		IPv6:     len(spec.AddressFamilies) == 0 || slices.Contains(spec.AddressFamilies, "IPv6"),
		HoldTime: durationOr(spec.HoldTime, 9*time.Second), KeepaliveTime: durationOr(spec.KeepaliveTime, 0),
		ConnectTime: durationOr(spec.ConnectTime, 10*time.Second),
	}
	if p.Port == 0 {
		p.Port = 179
	}
	if spec.EnableGracefulRestart {
		p.RestartTime = durationOr(spec.RestartTime, 2*time.Minute)
	}
	if spec.PasswordSecret != nil {
		p.PasswordSecret = spec.PasswordSecret.Name
	}
	// The schema has validated the syntax.
	p.Address, _ = netip.ParseAddr(spec.PeerAddress)
	p.Source, _ = netip.ParseAddr(spec.SourceAddress)
	p.RouterID, _ = netip.ParseAddr(spec.RouterID)
	if spec.BFDProfile != "" {
		p.BFD = refs.parseBFDProfile(spec.BFDProfile, "the session has no BFD", reportField)
	}
	if detection := p.maxDetectionTime(); p.RestartTime > 0 && detection > 0 && detection < upgradeTime {
		reportField("spec.bfdProfile", v1alpha1.BFDTooFast, "with BFDProfile %q, BFD detects a failure if the restart of a speaker "+
			"takes longer than %s, "+
			"and the router drops the routes despite graceful restart; "+
			"transmitInterval must be at least %d to allow %s",
			spec.BFDProfile, detection, (upgradeTime/longestMultiplier).Milliseconds()+1, upgradeTime)
	}
	return p
}

const (
	// upgradeTime is how long the restart of a speaker may take.
	upgradeTime = 5 * time.Second

	// longestMultiplier is the largest detect multiplier (RFC 5880 section 4.1). A
	// speaker announces it to its routers before it stops.
	longestMultiplier = 255
)

// maxDetectionTime returns the detection time of the router while a speaker
// restarts, unless the router requests longer intervals; 0 without BFD.
func (p BGPPeer) maxDetectionTime() time.Duration {
	if p.BFD == nil {
		return 0
	}
	return longestMultiplier * p.BFD.Transmit
}

func durationOr(d *metav1.Duration, fallback time.Duration) time.Duration {
	if d == nil {
		return fallback
	}
	return d.Duration
}

// BGPAdvertisement is the valid part of a BGPAdvertisement.
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
	// WithoutEndpoints is whether addresses without endpoints are advertised.
	WithoutEndpoints bool
	Communities      []string // standard "64512:100" and large "64512:1:2", sorted
}

// AdvertisedTo reports whether routes are advertised to the peer.
func (a BGPAdvertisement) AdvertisedTo(peer string) bool {
	return a.AllPeers || slices.Contains(a.Peers, peer)
}

// defaultLocalPref is what routers assume for routes without LOCAL_PREF.
const defaultLocalPref = 100

func parseBGPAdvertisement(object *v1alpha1.BGPAdvertisement, refs objectReferences, report problemReporter) BGPAdvertisement {
	reportField := report.forObject("BGPAdvertisement", object.Name)
	spec := object.Spec
	ad := BGPAdvertisement{
		Name: object.Name,
		Scope: refs.parseScope(scopeFields{
			spec.IPAddressPools, spec.IPAddressPoolSelectors, spec.NodeSelectors, object.Status.SelectedPools,
		}, reportField),
		AllPeers: len(spec.Peers) == 0, Peers: spec.Peers,
		Length4: 32, Length6: 128, LocalPref: defaultLocalPref, ASPathPrepend: uint8(spec.ASPathPrepend),
		WithoutEndpoints: spec.WithoutEndpoints == v1alpha1.WithoutEndpointsAdvertise,
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
			reportField(fmt.Sprintf("spec.peers[%d]", i), v1alpha1.UnknownPeer, "BGPPeer %q does not exist", name)
		}
	}
	for i, text := range spec.Communities {
		value, known := refs.communities[text]
		if !known {
			var err error
			if value, err = parseCommunity(text); err != nil {
				reportField(fmt.Sprintf("spec.communities[%d]", i), v1alpha1.UnknownCommunity, "%v: the routes are advertised without it", err)
				continue
			}
		}
		ad.Communities = append(ad.Communities, value)
	}
	slices.Sort(ad.Communities)
	ad.Communities = slices.Compact(ad.Communities)
	return ad
}

// Prefix returns the prefix of the route for an address of the pool with these
// ranges: the aggregate if the pool contains all of it, otherwise the host route. An
// aggregate that exceeds the pool would attract packets to addresses that Fairlead
// does not manage.
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

// unalignedRanges is the first range of a pool that does not consist of whole
// aggregates, and the number of further ones.
type unalignedRanges struct {
	netipx.IPRange
	more int
}

// poolAggregation is the aggregation length for a pool and a family.
type poolAggregation struct {
	pool   int
	ipv6   bool
	length int
}

// alignmentCache has the unaligned ranges of each aggregation that was checked.
type alignmentCache map[poolAggregation]unalignedRanges

// checkAlignment reports pools with ranges that do not consist of whole aggregates
// of the advertisement.
func (ms alignmentCache) checkAlignment(ad BGPAdvertisement, pools []Pool, report problemReporter) {
	reportField := report.forObject("BGPAdvertisement", ad.Name)
	for i, p := range pools {
		if !ad.Covers(p.Name) {
			continue
		}
		for _, a := range []poolAggregation{{i, false, ad.Length4}, {i, true, ad.Length6}} {
			m, known := ms[a]
			if !known {
				m = a.findUnaligned(p.Ranges)
				ms[a] = m
			}
			if !m.IsValid() {
				continue
			}
			field, ranges, verb := "spec.aggregationLength", m.IPRange.String(), "is"
			if a.ipv6 {
				field = "spec.aggregationLengthV6"
			}
			if m.more > 0 {
				ranges, verb = fmt.Sprintf("%s and %d more ranges", m.IPRange, m.more), "are"
			}
			reportField(field, v1alpha1.AggregateBeyondPool,
				"%s of IPAddressPool %q %s not aligned to /%d: addresses outside of whole aggregates are advertised as host routes",
				ranges, p.Name, verb, a.length)
		}
	}
}

func (a poolAggregation) findUnaligned(ranges []netipx.IPRange) (m unalignedRanges) {
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

// checkAttributes reports the first of the earlier advertisements that may yield
// the same routes with different attributes.
func checkAttributes(ad BGPAdvertisement, earlier []BGPAdvertisement, report problemReporter) {
	reportField := report.forObject("BGPAdvertisement", ad.Name)
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
				reportField(f.field, v1alpha1.ConflictingAttributes,
					"BGPAdvertisement %q yields the same routes with a different value, which takes precedence", e.Name)
				break
			}
		}
	}
}

// mayMakeRoutesOf reports whether both may yield the same route for the same peer.
func (a *BGPAdvertisement) mayMakeRoutesOf(e *BGPAdvertisement) bool {
	return (a.AllNodes || e.AllNodes) && (a.Length4 == e.Length4 || a.Length6 == e.Length6) &&
		(a.AllPeers || e.AllPeers || slices.ContainsFunc(a.Peers, e.AdvertisedTo)) &&
		(a.AllPools || e.AllPools || slices.ContainsFunc(a.Pools, e.Covers))
}
