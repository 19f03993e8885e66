package speaker

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"go4.org/netipx"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"

	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/speaker/bfd"
	"github.com/fairlead-io/fairlead/speaker/bgp"
	"github.com/fairlead-io/fairlead/speaker/failover"
	"github.com/fairlead-io/fairlead/speaker/l2"
	"github.com/fairlead-io/fairlead/speaker/plan"
)

// observedState is what the report is computed from.
type observedState struct {
	now           time.Time
	node          string // this one
	version       string
	config        config.Config
	interfaces    []l2.Interface
	claims        map[netip.Addr]l2.Claim // in force
	plan          plan.Plan
	sessions      []bgp.PeerStatus
	paths         map[bfd.Key]bfd.Status
	identity      bfdIdentity // of the paths
	peers         map[failover.Peer]failover.Status
	nodes         []*corev1.Node
	dataPath      string // why it is not verified
	proxyNotReady bool
}

// setReports replaces the desired statuses of the node's Speaker and L2Node. They are
// written if they differ from the observed ones.
func (s *Speaker) setReports(o observedState) {
	s.l2NodeReport.set(func(v1alpha1.L2NodeStatus) v1alpha1.L2NodeStatus {
		status, _ := l2NodeStatus(o)
		return status
	})
	s.speakerReport.set(func(before v1alpha1.SpeakerStatus) v1alpha1.SpeakerStatus {
		status := speakerStatus(before, o)
		if status.Omitted > 0 && status.Omitted != before.Omitted {
			s.log.Warn("report truncated: it exceeds the bounds of a Speaker's or an L2Node's status", "omitted", status.Omitted)
		}
		return status
	})
}

// l2NodeStatus returns the status of the node's L2Node within its bounds, and the number of
// entries that are left out.
func l2NodeStatus(o observedState) (s v1alpha1.L2NodeStatus, omitted int) {
	s.Version = config.PrintableText(o.version, v1alpha1.MaxReportedWord)
	s.Interfaces, omitted = config.BoundInterfaces(reportedInterfaces(o))
	s.TakenOver, s.ProxyNotReady = takeovers(o), o.proxyNotReady
	return s, omitted
}

// speakerStatus returns the status of the node's Speaker within its bounds, with the number
// of entries that it and the L2Node leave out.
func speakerStatus(before v1alpha1.SpeakerStatus, o observedState) v1alpha1.SpeakerStatus {
	s, omitted := config.BoundReport(completeStatus(before, o))
	_, ofL2Node := l2NodeStatus(o)
	s.Omitted = int64(omitted + ofL2Node)
	s.LastChangeTime = before.LastChangeTime
	if s.LastChangeTime == nil || !equality.Semantic.DeepEqual(s, before) {
		s.LastChangeTime = metaTime(o.now)
	}
	return s
}

// completeStatus returns the status of the node's Speaker: what is announced
// now, not what is desired. before is the last status.
func completeStatus(before v1alpha1.SpeakerStatus, o observedState) v1alpha1.SpeakerStatus {
	s := v1alpha1.SpeakerStatus{Version: o.version, DataPath: o.dataPath}
	unannounced := maps.Clone(o.plan.Unannounced)
	announced := map[string]v1alpha1.Announcement{}
	addrs := map[string][]netip.Addr{}
	count := map[netip.Addr]bool{}
	announce := func(a v1alpha1.Announcement, addr netip.Addr) {
		key := strings.Join(a.Interfaces, ",") + " " + strings.Join(a.Peers, ",")
		for _, t := range a.TakenOver {
			key += fmt.Sprint(" ", t.Node, " ", t.Since.Unix())
		}
		announced[key], addrs[key], count[addr] = a, append(addrs[key], addr), true
	}
	from := takenOverFrom(before, o)
	for addr, claim := range o.claims {
		announce(v1alpha1.Announcement{Interfaces: claim.Interfaces, TakenOver: from[addr]}, addr)
	}
	to, refused := carriedRoutes(o)
	for addr, peers := range to {
		announce(v1alpha1.Announcement{Peers: peers}, addr)
	}
	maps.Copy(unannounced, refused)
	for _, key := range slices.Sorted(maps.Keys(announced)) {
		a := announced[key]
		a.Addresses = formatRanges(addrs[key])
		s.Announcing = append(s.Announcing, a)
	}
	s.AnnouncedAddresses = int64(len(count))
	var interfaces []string
	for _, a := range s.Announcing {
		interfaces = append(interfaces, a.Interfaces...)
	}
	slices.Sort(interfaces)
	s.InterfaceSummary = strings.Join(slices.Compact(interfaces), ",")

	s.Unannounced = groupByReason(unannounced)
	s.Warnings = groupByReason(o.plan.Warnings)
	s.Neighbors = neighborReports(o)
	s.NeighborSummary = summarize(s.Neighbors, func(n v1alpha1.Neighbor) bool { return n.BFD == bfd.Up.String() })
	s.Sessions = sessionReports(before.Sessions, o)
	s.SessionSummary = summarize(s.Sessions, func(session v1alpha1.Session) bool { return session.State == bgp.Established.String() })
	return s
}

// summarize returns the number of elements that work, of all, such as "1/2"; "" without any.
func summarize[T any](all []T, works func(T) bool) string {
	if len(all) == 0 {
		return ""
	}
	n := 0
	for _, e := range all {
		if works(e) {
			n++
		}
	}
	return fmt.Sprintf("%d/%d", n, len(all))
}

// groupByReason returns the addresses grouped by their reason and message.
func groupByReason(byAddr map[netip.Addr]v1alpha1.Refusal) (groups []v1alpha1.AddressReason) {
	byReason := map[v1alpha1.Refusal][]netip.Addr{}
	for a, r := range byAddr {
		byReason[r] = append(byReason[r], a)
	}
	reasons := slices.SortedFunc(maps.Keys(byReason), func(a, b v1alpha1.Refusal) int {
		return cmp.Or(strings.Compare(string(a.Reason), string(b.Reason)), strings.Compare(a.Message, b.Message))
	})
	for _, r := range reasons {
		groups = append(groups, v1alpha1.AddressReason{Reason: r.Reason, Message: r.Message, Addresses: formatRanges(byReason[r])})
	}
	return groups
}

// reportedInterfaces returns the interfaces on which an address may be announced.
func reportedInterfaces(o observedState) (interfaces []v1alpha1.Interface) {
	var named []string
	for _, ad := range o.config.L2Advertisements {
		named = append(named, ad.Interfaces...)
	}
	for _, l := range o.interfaces {
		if len(l.Prefixes) == 0 && !slices.Contains(named, l.Name) {
			continue // without a subnet, an address is announced on it only by its name
		}
		iface := v1alpha1.Interface{Name: l.Name, MACAddress: l.MAC, KernelAnswers: l.KernelAnswers, VRF: l.VRF}
		prefixes := l.Prefixes
		if len(prefixes) > v1alpha1.MaxReportedSubnets {
			// The bounds leave out single addresses rather than the subnet of the segment.
			prefixes = slices.SortedStableFunc(slices.Values(prefixes), func(a, b netip.Prefix) int { return cmp.Compare(a.Bits(), b.Bits()) })
		}
		for _, p := range prefixes {
			iface.Addresses = append(iface.Addresses, p.String())
		}
		interfaces = append(interfaces, iface)
	}
	if _, omitted := config.BoundInterfaces(interfaces); omitted > 0 {
		// The bounds leave out others rather than those that advertisements name.
		rank := func(i v1alpha1.Interface) int {
			if slices.Contains(named, i.Name) {
				return 0
			}
			return 1
		}
		slices.SortStableFunc(interfaces, func(a, b v1alpha1.Interface) int { return cmp.Compare(rank(a), rank(b)) })
	}
	return interfaces
}

// formatRanges returns addresses as text, consecutive ones as "first-last". The
// addresses that are advertised by BGP are, as a rule, most of a pool.
func formatRanges(addrs []netip.Addr) (texts []string) {
	slices.SortFunc(addrs, netip.Addr.Compare)
	for i := 0; i < len(addrs); {
		j := i + 1
		for j < len(addrs) && addrs[j-1].Next() == addrs[j] {
			j++
		}
		texts = append(texts, formatRange(netipx.IPRangeFrom(addrs[i], addrs[j-1])))
		i = j
	}
	return texts
}

// formatRange returns "first-last", or the address if it is the only one.
func formatRange(r netipx.IPRange) string {
	if r.From() == r.To() {
		return r.From().String()
	}
	return r.String()
}

// usableInterfaces returns the interfaces of this node that count for its plan. An
// interface that is not reported yet does not count: the other nodes do not know it,
// and would also answer for addresses that it makes this node the owner of. A
// reported interface that no longer exists does not count either.
func usableInterfaces(reported, live []l2.Interface) []l2.Interface {
	var interfaces []l2.Interface
	for _, l := range live {
		i := slices.IndexFunc(reported, func(r l2.Interface) bool { return r.Name == l.Name })
		if i < 0 {
			continue
		}
		both := l2.Interface{Name: l.Name, MAC: l.MAC, KernelAnswers: l.KernelAnswers, VRF: l.VRF}
		for _, p := range l.Prefixes {
			if slices.Contains(reported[i].Prefixes, p) {
				both.Prefixes = append(both.Prefixes, p)
			}
		}
		interfaces = append(interfaces, both)
	}
	return interfaces
}

// endedRanges returns the ranges of the set, unless nil, without the addresses that are
// announced now.
func endedRanges(before *netipx.IPSet, now map[netip.Addr]bool) []netipx.IPRange {
	if before == nil {
		return nil
	}
	var ended netipx.IPSetBuilder
	ended.AddSet(before)
	for addr := range now {
		ended.Remove(addr)
	}
	set, err := ended.IPSet()
	if err != nil {
		panic(fmt.Sprintf("build the set of ended announcements: %v", err)) // its parts are valid
	}
	return set.Ranges()
}

// previouslyAnnounced returns the addresses that the speaker announced on interfaces
// according to its last report.
func previouslyAnnounced(s *v1alpha1.Speaker) *netipx.IPSet {
	var before netipx.IPSetBuilder
	if s != nil {
		for _, group := range plan.AnnouncedGroups(s) {
			before.AddSet(group.Addrs)
		}
	}
	set, err := before.IPSet()
	if err != nil {
		panic(fmt.Sprintf("build the set of announced addresses: %v", err)) // the ranges are valid
	}
	return set
}
