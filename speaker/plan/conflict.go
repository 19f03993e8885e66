package plan

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"go4.org/netipx"
	corev1 "k8s.io/api/core/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/speaker/failover"
	"github.com/fairlead-io/fairlead/speaker/l2"
)

// handOverTime is how long another node may claim an address that this node announces: as
// a rule it was the owner, and does not know yet that it is not any more.
const handOverTime = 10 * time.Second

// macNode is a node whose L2Node has the MAC of a claim.
type macNode struct {
	name          string
	candidate     bool // for the address
	announces     bool // on the interface with the MAC, according to its report
	unread        bool // its report has not been read yet
	kernelAnswers bool // for the address, on the segment
	gone          bool // failover found it gone, and it has sent no claim since
}

// contention is an address that other hosts claim.
type contention struct {
	addr       netip.Addr
	node       string // this one
	held       bool   // this node announces the address
	restored   bool   // it announced the address before a restart
	overridden bool   // its Services have AnnotationAnnounceDespiteConflict
	claimants  []l2.Claimant
	// nodes returns the nodes that report the MAC on the segment of an interface of this
	// node. A compromised node can report any MAC, so there may be several.
	nodes func(c l2.Claimant) []macNode
	// departed has the MACs that no node reports any more, and since when.
	departed map[string]time.Time
	// control is an address of the pool that nothing has, invalid if there is none, with
	// the hosts that claim it nevertheless.
	control          netip.Addr
	controlClaimants []l2.Claimant
}

// judgement is what follows from the claims of other hosts.
type judgement struct {
	warning   v1alpha1.Refusal // zero if no claim is a reason for one
	withhold  bool             // the address must not be announced
	contested bool             // by a host that may be proxy ARP, so that the control address is needed
	undecided bool             // a claim neither excuses nor blocks yet
	permanent bool             // an excused host goes on answering: its kernel does, or it is proxy ARP
	// needed are the nodes with claims that are judged by their reports, each with the
	// time when the newest of these claims began.
	needed map[string]time.Time
}

// judge decides whether the address is announced although other hosts claim it. What a
// node reports excuses its own claims only, and only if it is a candidate for the address.
//
// A claim is not a conflict if it comes from a node that announces the address, from a
// node that has announced it a moment ago, or from a node whose kernel answers for the
// addresses of all Services: the controller states the latter, from the L2Nodes. A host
// that claims the control address as well answers for every address (RFC 1027). A claim is
// undecided if it may come from a node that announces the address, and its report has not
// been read yet, or from a candidate that is gone since the claim, or has ended since: it does
// not report its MAC any more. What was announced before
// a restart is announced again despite a conflict, but not with a candidate: it may have taken the address over, and not have reported it yet.
func (c contention) judge() (j judgement) {
	var conflicts, proxies []string
	mayHaveTakenOver := false
	for _, k := range c.claimants {
		nodes := c.nodes(k)
		any := func(f func(macNode) bool) bool { return slices.ContainsFunc(nodes, f) }
		if since, ok := c.departed[k.MAC.String()]; ok && !k.Last.After(since) {
			j.undecided = j.undecided || !c.held
			continue
		}
		switch {
		case c.addr.Is4() && any(func(n macNode) bool { return n.kernelAnswers }):
			j.permanent = true
			continue
		case c.held && k.Last.Sub(k.First) < handOverTime && any(func(n macNode) bool { return n.candidate }):
			continue
		case any(func(n macNode) bool { return n.candidate && n.gone }):
			j.undecided = true
			continue
		}
		j.addNeeded(nodes, k.First)
		switch {
		case any(func(n macNode) bool { return n.candidate && n.announces }):
		case any(func(n macNode) bool { return n.candidate && n.unread }):
			j.undecided = true
		case slices.ContainsFunc(c.controlClaimants, func(o l2.Claimant) bool { return sameHost(o, k) }):
			proxies = append(proxies, c.describe(k, nil))
		default:
			conflicts = append(conflicts, c.describe(k, nodes))
			mayHaveTakenOver = mayHaveTakenOver || any(func(n macNode) bool { return n.candidate })
		}
	}
	j.contested, j.permanent = len(conflicts)+len(proxies) > 0, j.permanent || len(proxies) > 0
	switch {
	case len(conflicts) > 0:
		j.withhold = !c.held && !c.overridden && (!c.restored || mayHaveTakenOver)
		j.warning = v1alpha1.Refusal{Reason: v1alpha1.AddressConflict, Message: "another host has the address: " +
			v1alpha1.Abbreviate(conflicts, ", ") + "; " + c.advice(j.withhold)}
	case len(proxies) > 0:
		j.warning = v1alpha1.Refusal{Reason: v1alpha1.ProxyARP, Message: fmt.Sprintf(
			"%s answers for the address, and for %s, which is not assigned: disable proxy ARP (proxy NDP) there",
			v1alpha1.Abbreviate(proxies, ", "), c.control)}
	}
	return j
}

// addNeeded adds the candidates among the nodes, whose reports decide on a claim.
func (j *judgement) addNeeded(nodes []macNode, began time.Time) {
	for _, n := range nodes {
		if !n.candidate || !began.After(j.needed[n.name]) {
			continue
		}
		if j.needed == nil {
			j.needed = map[string]time.Time{}
		}
		j.needed[n.name] = began
	}
}

func sameHost(a, b l2.Claimant) bool {
	return a.Interface == b.Interface && a.MAC.String() == b.MAC.String()
}

// describe returns the host and where it was seen, with the nodes that report its MAC.
func (c contention) describe(k l2.Claimant, nodes []macNode) string {
	text := fmt.Sprintf("MAC %s seen on %s of node %s", k.MAC, k.Interface, c.node)
	if len(nodes) == 0 {
		return text
	}
	var names []string
	for _, n := range nodes {
		names = append(names, n.name)
	}
	return fmt.Sprintf("other software on node %s (%s)", v1alpha1.Abbreviate(names, " or "), text)
}

// advice returns the consequence of a conflict, and what ends it.
func (c contention) advice(withheld bool) string {
	if withheld {
		return "it is announced when that host does not answer for it any more, or if the Service has the annotation " +
			v1alpha1.AnnotationAnnounceDespiteConflict + `: "true"`
	}
	return "it is announced nevertheless, and clients may reach that host: remove the address from it"
}

// judgeClaims returns the judgement of the claims of the address on interfaces of this
// node, and the control address if that is needed.
func (d *decision) judgeClaims(h heldAddress) (j judgement, control netip.Addr) {
	claimants := d.Local.Claimants[h.addr]
	if len(claimants) == 0 {
		return judgement{}, netip.Addr{}
	}
	control = d.controlAddress(h)
	j = contention{
		addr: h.addr, node: d.Node, held: d.Local.Held[h.addr],
		restored: d.Local.Restored != nil && d.Local.Restored.Contains(h.addr), overridden: announcedDespiteConflict(h.services), claimants: claimants,
		nodes: func(k l2.Claimant) []macNode { return d.nodesWithMAC(h, k) }, departed: d.Local.DepartedMACs,
		control: control, controlClaimants: d.Local.Claimants[control],
	}.judge()
	for node, began := range j.needed {
		if began.After(d.neededReports[node]) {
			d.neededReports[node] = began
		}
	}
	return j, control
}

// announcedDespiteConflict reports whether all Services of the address have the annotation.
// None of several that share an address can decide it for the others.
func announcedDespiteConflict(services []*corev1.Service) bool {
	return !slices.ContainsFunc(services, func(svc *corev1.Service) bool {
		return svc.Annotations[v1alpha1.AnnotationAnnounceDespiteConflict] != "true"
	})
}

// claimFor returns how this node does what was decided about an address on its interfaces,
// serves being whether its data path serves the address.
func (d *decision) claimFor(h heldAddress, interfaces []string, do failover.Action, j judgement, serves bool) l2.Claim {
	// A claim that is not a reason to withhold the address would fail the probe, unless it is
	// that of a node which has announced the address: it may have stopped.
	excused := len(d.Local.Claimants[h.addr]) > 0 && !j.undecided &&
		(j.permanent || do != failover.Ask || d.speakerWith(h) == "")
	return l2.Claim{
		Interfaces: interfaces, Withhold: j.withhold || do == failover.Wait,
		Probe: (do == failover.Ask || do == failover.Announce && wasWithheld(h)) && !excused,
		Defer: do == failover.Ask && !serves && !d.isLate(h.addr),
	}
}

// wasWithheld reports whether the former owner did not announce the address because another
// host has it, according to the controller.
func wasWithheld(h heldAddress) bool {
	return slices.ContainsFunc(h.services, func(svc *corev1.Service) bool {
		c := apimeta.FindStatusCondition(svc.Status.Conditions, v1alpha1.ConditionAnnounced)
		return c != nil && c.Status == metav1.ConditionFalse && c.Reason == string(v1alpha1.AddressConflict)
	})
}

// nodeInterface is an interface of an L2Node.
type nodeInterface struct {
	node string
	l2.Interface
}

// nodesWithMAC returns the nodes whose L2Nodes have the MAC of the claimant, sorted.
func (d *decision) nodesWithMAC(h heldAddress, k l2.Claimant) (nodes []macNode) {
	if d.interfacesByMAC == nil {
		d.interfacesByMAC = map[string][]nodeInterface{}
		for node, interfaces := range d.Interfaces {
			for _, i := range interfaces {
				if i.MAC != "" {
					d.interfacesByMAC[i.MAC] = append(d.interfacesByMAC[i.MAC], nodeInterface{node, i})
				}
			}
		}
	}
	// The mode and the setting of kube-proxy are, as a rule, those of the whole cluster.
	ownKernelAnswers := slices.ContainsFunc(d.Interfaces[d.Node], func(i l2.Interface) bool { return i.Name == k.Interface && i.KernelAnswers })
	for _, i := range d.interfacesByMAC[k.MAC.String()] {
		c := d.candidate(h.pool, i.node)
		n := macNode{name: i.node, candidate: c != nil && c.matches(i.Interface, h.addr)}
		groups, read := d.Local.Reports[i.node]
		n.unread = !read
		n.announces = slices.ContainsFunc(groups, func(g AnnouncedGroup) bool {
			return slices.Contains(g.Interfaces, i.Name) && g.Addrs.Contains(h.addr)
		})
		n.kernelAnswers = i.KernelAnswers && (n.candidate || ownKernelAnswers)
		peer := d.Local.Failover.Peers[failover.Peer{Interface: k.Interface, Node: i.node}]
		n.gone = peer.State == failover.Gone && !k.Last.After(peer.Since)
		nodes = append(nodes, n)
	}
	slices.SortFunc(nodes, func(a, b macNode) int { return strings.Compare(a.name, b.name) })
	return slices.CompactFunc(nodes, func(a, b macNode) bool { return a == b })
}

// candidate returns the node as a candidate for the addresses of a pool, nil if the Node
// does not exist or no L2Advertisement covers the pool.
func (d *decision) candidate(pool, node string) *candidateNode {
	all := d.poolCandidates(pool)
	i, found := slices.BinarySearchFunc(all, node, func(c candidateNode, name string) int { return strings.Compare(c.name, name) })
	if !found {
		return nil
	}
	return &all[i]
}

// AnnouncedGroup are addresses that a node announces on the same interfaces.
type AnnouncedGroup struct {
	Interfaces []string
	Addrs      *netipx.IPSet
	TakenOver  []v1alpha1.Takeover
}

// AnnouncedGroups returns what a speaker reports to announce on interfaces, as far as it is
// within the bounds of a report.
func AnnouncedGroups(s *v1alpha1.Speaker) (groups []AnnouncedGroup) {
	report, _ := config.BoundReport(s.Status)
	for _, group := range report.Announcing {
		if len(group.Interfaces) == 0 {
			continue
		}
		var addrs netipx.IPSetBuilder
		for _, text := range group.Addresses {
			if reported, ok := config.ReportedRange(text); ok {
				addrs.AddRange(reported)
			}
		}
		set, err := addrs.IPSet()
		if err != nil {
			panic(fmt.Sprintf("build the set of announced addresses: %v", err)) // the ranges are valid
		}
		groups = append(groups, AnnouncedGroup{group.Interfaces, set, group.TakenOver})
	}
	return groups
}

// maxControlSearch bounds the addresses that are considered as control address.
const maxControlSearch = 1024

// controlAddress returns an address that no host should have, in the range of the pool
// and the subnet of the address: the last one that is not in use. Pools, and those of
// other implementations, are used from the first address on, so that a host with two
// addresses in a pool hardly has the last one. It is invalid if there is none.
func (d *decision) controlAddress(h heldAddress) netip.Addr {
	pool := d.pools.Named(h.pool)
	if pool == nil {
		return netip.Addr{}
	}
	i := slices.IndexFunc(pool.Ranges, func(r netipx.IPRange) bool { return r.Contains(h.addr) })
	if i < 0 {
		return netip.Addr{}
	}
	subnet := pool.Ranges[i]
	for _, iface := range d.Interfaces[d.Node] {
		for _, p := range iface.Prefixes {
			if p.Contains(h.addr) {
				subnet = netipx.RangeOfPrefix(p)
			}
		}
	}
	last := pool.Ranges[i].To()
	if subnet.To().Less(last) {
		last = subnet.To()
	}
	used := d.usedAddresses()
	for a, n := last, 0; n < maxControlSearch && pool.Ranges[i].Contains(a) && subnet.Contains(a); a, n = a.Prev(), n+1 {
		if !used[a] && !isNetworkOrBroadcast(a, subnet) {
			return a
		}
	}
	return netip.Addr{}
}

// isNetworkOrBroadcast reports whether a host should not have the address: the first and
// the last one of the subnet, and IPv4 addresses that end with 0 or 255, because the range
// may be of a subnet that is not known.
func isNetworkOrBroadcast(a netip.Addr, subnet netipx.IPRange) bool {
	octet := a.As16()[15]
	return a == subnet.From() || a == subnet.To() || a.Is4() && (octet == 0 || octet == 255)
}

// usedAddresses returns the addresses that Services hold or request back, and those of
// nodes.
func (d *decision) usedAddresses() map[netip.Addr]bool {
	if d.used != nil {
		return d.used
	}
	d.used = make(map[netip.Addr]bool, len(d.Services))
	for _, svc := range d.Services {
		for _, in := range svc.Status.LoadBalancer.Ingress {
			if a, err := config.ParseAddr(in.IP); err == nil {
				d.used[a] = true
			}
		}
		records, _ := config.ReadAllocation(svc)
		for _, r := range records {
			d.used[r.Addr] = true
		}
	}
	for a := range d.nodesByAddress {
		d.used[a] = true
	}
	for _, interfaces := range d.Interfaces {
		for _, i := range interfaces {
			for _, p := range i.Prefixes {
				d.used[p.Addr()] = true
			}
		}
	}
	for _, gateway := range d.Local.Gateways {
		d.used[gateway] = true
	}
	return d.used
}

// selectedMACs returns the MACs of the nodes that an L2Advertisement selects.
func (d *decision) selectedMACs() map[string]bool {
	macs := map[string]bool{}
	for _, n := range d.nodes {
		if slices.ContainsFunc(d.Config.L2Advertisements, func(ad config.L2Advertisement) bool { return ad.SelectsNode(n.labels) }) {
			for _, i := range n.interfaces {
				macs[i.MAC] = true
			}
		}
	}
	delete(macs, "")
	return macs
}
