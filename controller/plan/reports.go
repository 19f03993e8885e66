package plan

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"go4.org/netipx"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-io/fairlead/allocator"
	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// speakerReports are the reports of all speakers, by address. A compromised node can
// report anything. Of its report, only what is within the bounds is read
// (config.BoundReport), ranges are never expanded, and a report about an address counts
// only if the node is a candidate for the address: see candidateNode.
type speakerReports struct {
	config     config.Config
	pools      config.PoolIndex
	byNode     map[string]v1alpha1.SpeakerStatus // of nodes that count
	candidates []*candidateNode                  // the same nodes, sorted by name
	announcing rangeIndex[interfaceClaim]
	// routed are the addresses that any node advertises to a BGP peer. The nodes are
	// not kept: each node that is added or removed would change every Service.
	routed      []routedAddresses
	unannounced rangeIndex[refusalClaim]
	warnings    rangeIndex[refusalClaim] // about announced addresses, and conflicts of others
	// kernelAnswers are the candidates whose kernels answer for the IPv4 addresses of all
	// Services on an interface.
	kernelAnswers []*candidateNode
	nodes         map[netip.Addr]string // addresses of nodes, which are not announced
	incomplete    []string              // nodes with reports that omit entries
	problems      []config.Problem
}

// interfaceClaim is a node's report that it announces addresses on interfaces.
type interfaceClaim struct {
	node       *candidateNode
	interfaces []string
	takenOver  []v1alpha1.Takeover
}

// refusalClaim is a node's report that addresses are not announced.
type refusalClaim struct {
	node    *candidateNode
	refusal v1alpha1.Refusal
}

// routedAddresses are advertised to BGP peers under some of these BGPAdvertisements.
type routedAddresses struct {
	ads   []int // indexes into the Config
	addrs *netipx.IPSet
}

// newSpeakerReports collects the reports of speakers on Ready nodes, with the interfaces
// in their L2Nodes: the last report of any other is out of date. A Speaker without a Node is
// ignored.
func newSpeakerReports(
	c config.Config, nodes []*corev1.Node, speakers []*v1alpha1.Speaker, l2nodes []*v1alpha1.L2Node,
) *speakerReports {
	r := &speakerReports{config: c, pools: config.NewPoolIndex(c.Pools), byNode: map[string]v1alpha1.SpeakerStatus{}}
	// If no node is Ready, the API server is more likely cut off than every node is
	// down: then readiness does not count, as in the speakers' plans.
	anyReady := slices.ContainsFunc(nodes, config.NodeReady)
	counted := map[string]*corev1.Node{}
	for _, n := range nodes {
		if config.NodeReady(n) || !anyReady {
			counted[n.Name] = n
		}
	}
	r.nodes, _ = nodeAddresses(nodes)
	var announcing []rangeClaim[interfaceClaim]
	var unannounced, warnings []rangeClaim[refusalClaim]
	routed := routeBuilder{}
	interfaces := r.boundInterfaces(l2nodes, counted)
	sorted := slices.SortedFunc(slices.Values(speakers), func(a, b *v1alpha1.Speaker) int { return cmp.Compare(a.Name, b.Name) })
	for _, s := range sorted {
		node := counted[s.Name]
		if node == nil {
			continue
		}
		report, ignored := config.BoundReport(s.Status)
		candidate := newCandidateNode(c, node, interfaces[s.Name])
		r.byNode[s.Name], r.candidates = report, append(r.candidates, candidate)
		if len(candidate.kernelAnswers) > 0 {
			r.kernelAnswers = append(r.kernelAnswers, candidate)
		}

		var own []rangeClaim[interfaceClaim]
		for _, group := range report.Announcing {
			ranges, invalid := reportedRanges(group.Addresses)
			ignored += invalid
			if len(group.Peers) > 0 {
				routed.add(candidate, group.Peers, ranges)
				continue
			}
			interfaces := slices.Compact(slices.Sorted(slices.Values(group.Interfaces)))
			for _, reported := range ranges {
				own = append(own, rangeClaim[interfaceClaim]{reported, interfaceClaim{candidate, interfaces, group.TakenOver}})
			}
		}
		refused, invalid := refusalClaims(candidate, report.Unannounced)
		warned, invalidToo := refusalClaims(candidate, report.Warnings)
		ignored += invalid + invalidToo
		// Another node may announce the address on another segment, or by BGP.
		for _, c := range refused {
			if c.value.refusal.Reason == v1alpha1.AddressConflict {
				warned = append(warned, c)
			}
		}
		announcing, unannounced = append(announcing, disjointClaims(own)...), append(unannounced, disjointClaims(refused)...)
		warnings = append(warnings, disjointClaims(warned)...)
		r.addProblem("Speaker", s.Name, ignored, report.Omitted)
	}
	r.announcing, r.unannounced, r.routed = newRangeIndex(announcing), newRangeIndex(unannounced), routed.build()
	r.warnings = newRangeIndex(warnings)
	return r
}

// refusalClaims returns a node's claims about the addresses of the groups, and counts the
// invalid ranges.
func refusalClaims(node *candidateNode, groups []v1alpha1.AddressReason) (claims []rangeClaim[refusalClaim], invalid int) {
	for _, group := range groups {
		ranges, n := reportedRanges(group.Addresses)
		invalid += n
		refusal := v1alpha1.Refusal{Reason: group.Reason, Message: group.Message}
		for _, reported := range ranges {
			claims = append(claims, rangeClaim[refusalClaim]{reported, refusalClaim{node, refusal}})
		}
	}
	return claims, invalid
}

// reportedRanges parses the ranges, and counts the invalid ones.
func reportedRanges(texts []string) (ranges []netipx.IPRange, invalid int) {
	ranges = make([]netipx.IPRange, 0, len(texts))
	for _, text := range texts {
		if reported, ok := config.ReportedRange(text); ok {
			ranges = append(ranges, reported)
		}
	}
	return ranges, len(texts) - len(ranges)
}

// boundInterfaces returns the interfaces in the L2Nodes of the nodes that count, within
// their bounds.
func (r *speakerReports) boundInterfaces(l2nodes []*v1alpha1.L2Node, counted map[string]*corev1.Node) map[string][]v1alpha1.Interface {
	interfaces := make(map[string][]v1alpha1.Interface, len(l2nodes))
	sorted := slices.SortedFunc(slices.Values(l2nodes), func(a, b *v1alpha1.L2Node) int { return cmp.Compare(a.Name, b.Name) })
	for _, n := range sorted {
		if counted[n.Name] != nil {
			var ignored int
			interfaces[n.Name], ignored = config.BoundInterfaces(n.Status.Interfaces)
			r.addProblem("L2Node", n.Name, ignored, 0)
		}
	}
	return interfaces
}

// addProblem adds the problem of a report with entries that the controller ignores, or
// that the speaker has left out.
func (r *speakerReports) addProblem(kind, node string, ignored int, omitted int64) {
	var texts []string
	if ignored > 0 {
		texts = append(texts, fmt.Sprintf("%d entries are ignored, because they are invalid or exceed the bounds", ignored))
	}
	if omitted > 0 {
		r.incomplete = append(r.incomplete, node)
		texts = append(texts, fmt.Sprintf("the speaker omitted %d entries that exceed the bounds", omitted))
	}
	if len(texts) > 0 {
		r.problems = append(r.problems, config.Problem{
			Kind: kind, Name: node, Field: "status", Reason: v1alpha1.IncompleteReport, Message: strings.Join(texts, "; "),
		})
	}
}

// routeBuilder collects the ranges that nodes advertise to BGP peers, by the
// BGPAdvertisements that select the node and a peer. Nodes report most of a pool each,
// so that there are many ranges and few sets of advertisements.
type routeBuilder map[string]*routeSet

type routeSet struct {
	ads    []int
	ranges netipx.IPSetBuilder
}

// add adds the ranges that the node reports to advertise to the peers.
func (b routeBuilder) add(node *candidateNode, peers []string, ranges []netipx.IPRange) {
	ads := node.bgpAdvertisements(peers)
	keys := [...]string{fmt.Sprint(4, ads[0]), fmt.Sprint(6, ads[1])}
	for _, reported := range ranges {
		family := familyIndex(reported.From())
		if len(ads[family]) == 0 {
			continue
		}
		set := b[keys[family]]
		if set == nil {
			set = &routeSet{ads: ads[family]}
			b[keys[family]] = set
		}
		set.ranges.AddRange(reported)
	}
}

func (b routeBuilder) build() (routed []routedAddresses) {
	for _, set := range b {
		addrs, err := set.ranges.IPSet()
		if err != nil {
			panic(fmt.Sprintf("build the set of routed addresses: %v", err)) // the ranges are valid
		}
		routed = append(routed, routedAddresses{set.ads, addrs})
	}
	return routed
}

// announcedCondition is True if every held address is announced. Its reason is then the
// most severe one of the warnings about the addresses, if there is one. Otherwise
// it has the reason of the first address that is not announced.
func (d *decision) announcedCondition(held []allocator.Held) metav1.Condition {
	no := func(reason v1alpha1.Reason, message string) metav1.Condition {
		return newCondition(v1alpha1.ConditionAnnounced, metav1.ConditionFalse, reason, message)
	}
	if len(held) == 0 {
		return no(v1alpha1.NoAddress, "no address to announce")
	}
	r := d.reports
	var announced []string
	var warning v1alpha1.Refusal
	for _, h := range held {
		// Two hosts would answer for it, and the node would be cut off.
		if usage := r.nodes[h.Addr]; usage != "" {
			return no(v1alpha1.NodeAddress, fmt.Sprintf("%s %s: it is never announced", h.Addr, usage))
		}
		pools := d.applicablePools(h)
		if by := r.announcers(h.Addr, pools); len(by) > 0 {
			announced = append(announced, fmt.Sprintf("%s by %s", h.Addr, strings.Join(by, " and ")))
			if w := r.warning(h.Addr, pools); warningRank(w.Reason) > warningRank(warning.Reason) {
				warning = v1alpha1.Refusal{Reason: w.Reason, Message: fmt.Sprintf("%s: %s", h.Addr, w.Message)}
			}
			continue
		}
		// The reason that a speaker has reported takes precedence.
		if refusal := r.reportedRefusal(h.Addr, pools); refusal.Reason != "" {
			return no(refusal.Reason, fmt.Sprintf("%s: %s", h.Addr, refusal.Message))
		}
		if len(r.byNode) == 0 {
			return no(v1alpha1.NoSpeaker, "no speaker runs on a ready node: is the DaemonSet fairlead-speaker up?")
		}
		message := fmt.Sprintf("no speaker has reported about %s yet", h.Addr)
		if len(r.incomplete) > 0 {
			message += "; the reports of these nodes are not complete: " + v1alpha1.Abbreviate(r.incomplete, ", ")
		}
		return no(v1alpha1.NoSpeaker, message)
	}
	reason, message := v1alpha1.Announced, strings.Join(announced, "; ")
	if warning.Reason != "" {
		reason, message = warning.Reason, warning.Message+"; "+message
	}
	return newCondition(v1alpha1.ConditionAnnounced, metav1.ConditionTrue, reason, message)
}

// warningRank orders the reasons of warnings by severity, "" being the lowest.
func warningRank(reason v1alpha1.Reason) int {
	return slices.Index([]v1alpha1.Reason{"", v1alpha1.KernelAnswers, v1alpha1.ProxyARP, v1alpha1.NoEndpoints, v1alpha1.AddressConflict}, reason)
}

// warning returns the most severe of what candidates report about an announced address: that
// other hosts answer for it, or that it has no endpoints.
func (r *speakerReports) warning(addr netip.Addr, pools []string) (w v1alpha1.Refusal) {
	for _, claim := range r.warnings.about(addr) {
		if reported := claim.value; warningRank(reported.refusal.Reason) > warningRank(w.Reason) && reported.node.announces(addr, pools) {
			w = reported.refusal
		}
	}
	if w.Reason == "" {
		w = r.kernelsAnswer(addr, pools)
	}
	return w
}

// kernelsAnswer returns whether the kernels of other nodes answer for an IPv4 address that
// a node announces on an interface. Such a node must be a candidate, or else the kernel
// of the node that announces the address must answer as well: the mode of kube-proxy is, as
// a rule, that of the whole cluster.
func (r *speakerReports) kernelsAnswer(addr netip.Addr, pools []string) (w v1alpha1.Refusal) {
	if !addr.Is4() || len(r.kernelAnswers) == 0 {
		return w
	}
	for _, claim := range r.announcing.about(addr) {
		owner := claim.value.node
		if !owner.announcesOn(addr, pools, claim.value.interfaces) {
			continue
		}
		for _, n := range r.kernelAnswers {
			if n != owner && n.kernelAnswersFor(addr) && (owner.kernelAnswersFor(addr) || n.announcesOn(addr, pools, n.kernelAnswers)) {
				return v1alpha1.Refusal{Reason: v1alpha1.KernelAnswers, Message: fmt.Sprintf(
					"the kernels of other nodes, such as %s, answer ARP requests for it: set ipvs.strictARP: true in kube-proxy's configuration", n.name)}
			}
		}
	}
	return w
}

// announcers returns what announces the address: "node node-1 on eth0" and "BGP". A report
// that is superseded by a takeover does not count: the node's speaker does not run, as a rule.
func (r *speakerReports) announcers(addr netip.Addr, pools []string) (by []string) {
	var texts []string
	var claims []config.AnnouncementReport
	for _, claim := range r.announcing.about(addr) {
		node := claim.value.node
		if !node.announcesOn(addr, pools, claim.value.interfaces) {
			continue
		}
		text := fmt.Sprintf("node %s on %s", node.name, strings.Join(claim.value.interfaces, ", "))
		if takeover := config.TakeoverText(claim.value.takenOver); takeover != "" {
			text += " (" + takeover + ")"
		}
		texts = append(texts, text)
		claims = append(claims, config.AnnouncementReport{
			Node: node.name, TakenOver: claim.value.takenOver, LastChange: r.byNode[node.name].LastChangeTime,
		})
	}
	for _, i := range config.CurrentReports(claims) {
		by = append(by, texts[i])
	}
	if slices.ContainsFunc(r.routed, func(routed routedAddresses) bool {
		return routed.addrs.Contains(addr) && anyCovers(r.config.BGPAdvertisements, routed.ads, pools)
	}) {
		by = append(by, "BGP")
	}
	return by
}

// reportedRefusal returns why the address is not announced, according to the last of
// the nodes that report about it.
func (r *speakerReports) reportedRefusal(addr netip.Addr, pools []string) v1alpha1.Refusal {
	for _, claim := range slices.Backward(r.unannounced.about(addr)) {
		if claim.value.node.announces(addr, pools) || claim.value.node == r.reportingNode(addr) {
			return claim.value.refusal
		}
	}
	return v1alpha1.Refusal{}
}
