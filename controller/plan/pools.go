package plan

import (
	"cmp"
	"fmt"
	"math/big"
	"net/netip"
	"slices"
	"sort"
	"strings"

	"go4.org/netipx"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/fairlead-io/fairlead/allocator"
	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// poolSelections determines which pools each Service may use.
type poolSelections struct {
	pools       []config.Pool
	labels      map[string]labels.Set // of namespaces
	byNamespace map[string]namespaceSelection
}

// namespaceSelection is the selection for the Services of one namespace.
type namespaceSelection struct {
	pools, barred []string
	perService    bool   // some pool selects by the labels of Services, too
	selected      []bool // the pools that select the namespace
}

func newPoolSelections(pools []config.Pool, namespaces []*corev1.Namespace) poolSelections {
	m := poolSelections{pools: pools, labels: make(map[string]labels.Set, len(namespaces)), byNamespace: map[string]namespaceSelection{}}
	for _, ns := range namespaces {
		m.labels[ns.Name] = ns.Labels
	}
	return m
}

// knowsNamespace reports whether the selection for the namespace can be decided. The
// watch of Services may be ahead of that of Namespaces, and an address that was
// assigned without the namespace's labels would be kept.
func (m poolSelections) knowsNamespace(namespace string) bool {
	_, known := m.labels[namespace]
	return known || !slices.ContainsFunc(m.pools, func(p config.Pool) bool {
		return len(p.NamespaceSelectors) > 0 && !slices.Contains(p.Namespaces, namespace)
	})
}

// selectPools returns the pools that the Service may use, and those that do not
// select it.
func (m poolSelections) selectPools(svc *corev1.Service) (pools, barred []string) {
	n, known := m.byNamespace[svc.Namespace]
	if !known {
		for _, p := range m.pools {
			selected := p.SelectsNamespace(svc.Namespace, m.labels[svc.Namespace])
			n.selected = append(n.selected, selected)
			n.perService = n.perService || selected && !p.AnyService
			if selected {
				n.pools = append(n.pools, p.Name)
			} else {
				n.barred = append(n.barred, p.Name)
			}
		}
		m.byNamespace[svc.Namespace] = n
	}
	// All Services of the namespace share one selection.
	if !n.perService {
		return n.pools, n.barred
	}
	// Some pool selects by labels of Services: the selection differs by Service.
	for i, p := range m.pools {
		if n.selected[i] && p.SelectsService(labels.Set(svc.Labels)) {
			pools = append(pools, p.Name)
		} else {
			barred = append(barred, p.Name)
		}
	}
	return pools, barred
}

// reservedRange is a range of addresses that the cluster itself uses.
type reservedRange struct {
	netipx.IPRange
	reason v1alpha1.Reason // of the problem of a pool that overlaps the range
	usage  string          // "is an address of Node n1", for messages
}

// clusterRanges are the addresses of nodes, Pods and Services, sorted.
type clusterRanges []reservedRange

func nodeAddressUsage(node string) string { return "is an address of Node " + node }

// nodeAddresses returns the nodes' own addresses, each with the node that has it, and
// the problems of nodes with more addresses than count.
func nodeAddresses(nodes []*corev1.Node) (usage map[netip.Addr]string, problems []config.Problem) {
	usage = make(map[netip.Addr]string, len(nodes))
	for _, n := range nodes {
		addrs, ignored := config.NodeAddresses(n)
		for _, a := range addrs {
			// Of several nodes with one address, the first by name is reported.
			if text := nodeAddressUsage(n.Name); usage[a] == "" || text < usage[a] {
				usage[a] = text
			}
		}
		if ignored > 0 {
			problems = append(problems, config.Problem{
				Kind: "Node", Name: n.Name, Field: "status.addresses", Reason: v1alpha1.NodeAddress,
				Message: fmt.Sprintf("only the first addresses of each family count as the node's own; %d more are ignored", ignored),
			})
		}
	}
	return usage, problems
}

func newClusterRanges(nodes []*corev1.Node, cidrs []*networkingv1.ServiceCIDR) (all clusterRanges) {
	add := func(cidr string, usage string, args ...any) {
		if p, err := netip.ParsePrefix(cidr); err == nil {
			all = append(all, reservedRange{netipx.RangeOfPrefix(p), v1alpha1.ClusterAddress, fmt.Sprintf(usage, args...)})
		}
	}
	for _, n := range nodes {
		addrs, _ := config.NodeAddresses(n)
		for _, addr := range addrs {
			all = append(all, reservedRange{netipx.IPRangeFrom(addr, addr), v1alpha1.NodeAddress, nodeAddressUsage(n.Name)})
		}
		// Older nodes have the singular field only.
		podCIDRs := n.Spec.PodCIDRs
		if len(podCIDRs) == 0 {
			podCIDRs = []string{n.Spec.PodCIDR}
		}
		for _, cidr := range podCIDRs {
			add(cidr, "is in the pod CIDR %s of Node %s", cidr, n.Name)
		}
	}
	for _, c := range cidrs {
		for _, cidr := range c.Spec.CIDRs {
			add(cidr, "is in %s of ServiceCIDR %s", cidr, c.Name)
		}
	}
	slices.SortFunc(all, func(a, b reservedRange) int {
		return cmp.Or(a.From().Compare(b.From()), a.To().Compare(b.To()), strings.Compare(a.usage, b.usage))
	})
	return slices.Compact(all) // a node may show one address under two types
}

// overlappingRanges returns those of sorted, disjoint ranges that overlap r.
func overlappingRanges(sorted []netipx.IPRange, r netipx.IPRange) []netipx.IPRange {
	from := sort.Search(len(sorted), func(i int) bool { return !sorted[i].To().Less(r.From()) })
	n := sort.Search(len(sorted)-from, func(i int) bool { return r.To().Less(sorted[from+i].From()) })
	return sorted[from : from+n]
}

// intersection returns the addresses that both of two overlapping ranges contain, as
// an address or a range.
func intersection(a, b netipx.IPRange) string {
	from := slices.MaxFunc([]netip.Addr{a.From(), b.From()}, netip.Addr.Compare)
	to := slices.MinFunc([]netip.Addr{a.To(), b.To()}, netip.Addr.Compare)
	if from == to {
		return from.String()
	}
	return netipx.IPRangeFrom(from, to).String()
}

// reservedIn returns the ranges of the pool that must not be assigned, and the
// problems to report in its condition Ready.
func (c clusterRanges) reservedIn(p config.Pool) (reserved []allocator.Reserved, problems []config.Problem) {
	found := map[v1alpha1.Reason][]string{}
	for _, r := range c {
		overlaps := overlappingRanges(p.Ranges, r.IPRange)
		if len(overlaps) == 0 {
			continue
		}
		reserved = append(reserved, allocator.Reserved{IPRange: r.IPRange, Why: r.usage, Used: true})
		for _, o := range overlaps {
			found[r.reason] = append(found[r.reason], intersection(o, r.IPRange)+", which "+r.usage)
		}
	}
	for _, reason := range []v1alpha1.Reason{v1alpha1.NodeAddress, v1alpha1.ClusterAddress} {
		if ranges := found[reason]; len(ranges) > 0 {
			problems = append(problems, config.Problem{
				Kind: "IPAddressPool", Name: p.Name, Field: "spec.addresses", Reason: reason,
				Message: "these are never assigned: " + v1alpha1.Abbreviate(ranges, "; "),
			})
		}
	}
	for _, edge := range p.Edges {
		reserved = append(reserved, allocator.Reserved{
			IPRange: netipx.IPRangeFrom(edge, edge),
			Why:     "is the first or last address of a CIDR of pool " + p.Name + ", which has avoidBuggyIPs set",
		})
	}
	return reserved, problems
}

// poolStatuses returns the desired status of each pool. Services of other controllers
// are not counted, nor are addresses without an existing pool.
func (d *decision) poolStatuses(result allocator.Result) map[string]v1alpha1.IPAddressPoolStatus {
	type count struct{ services, outOfPool int64 }
	counts := make(map[string]*count, len(d.config.Pools))
	for _, p := range d.config.Pools {
		counts[p.Name] = &count{}
	}
	for i, r := range d.requests {
		if r.Role != allocator.Owner {
			continue
		}
		held := result.Assignments[i].Held
		for j, h := range held {
			c := counts[h.Pool]
			if c == nil { // the recorded pool was deleted
				continue
			}
			// A Service with two addresses of a pool counts once.
			if !slices.ContainsFunc(held[:j], func(o allocator.Held) bool { return o.Pool == h.Pool }) {
				c.services++
			}
			if h.OutOfPool || h.Unselected {
				c.outOfPool++
			}
		}
	}
	statuses := make(map[string]v1alpha1.IPAddressPoolStatus, len(d.config.Pools))
	for i, p := range d.config.Pools {
		c, u := counts[p.Name], result.Pools[i]
		statuses[p.Name] = v1alpha1.IPAddressPoolStatus{
			Services: c.services, OutOfPool: c.outOfPool, IPv4: familyUsage(u, 0), IPv6: familyUsage(u, 1),
			Conditions: append(d.readyConditions("IPAddressPool", p.Name, allEntriesUsed), d.advertisedCondition(&p), overlapsCondition(p)),
		}
	}
	return statuses
}

// familyUsage is the usage of one address family of a pool, as its status shows it.
func familyUsage(u allocator.Usage, family int) v1alpha1.FamilyUsage {
	capacity := u.Capacity[family].String()
	usage := v1alpha1.FamilyUsage{Capacity: capacity, Used: u.Used[family], Free: u.Free[family].String()}
	// In the printer column, the size of an IPv6 range is rounded.
	if len(capacity) > 10 {
		capacity = new(big.Float).SetInt(u.Capacity[family]).Text('g', 3)
	}
	if usage.Used > 0 || u.Capacity[family].Sign() > 0 {
		usage.Usage = fmt.Sprintf("%d/%s", usage.Used, capacity)
	}
	return usage
}

// advertisedCondition is True if any advertisement covers the pool. Whether it
// selects a node is shown in the status of the advertisement.
func (d *decision) advertisedCondition(pool *config.Pool) metav1.Condition {
	if d.config.Advertised(pool) {
		return newCondition(v1alpha1.ConditionAdvertised, metav1.ConditionTrue, v1alpha1.Advertised, "an advertisement covers the pool")
	}
	return newCondition(v1alpha1.ConditionAdvertised, metav1.ConditionFalse, v1alpha1.NoAdvertisement,
		"no L2Advertisement and no BGPAdvertisement covers the pool")
}

func overlapsCondition(p config.Pool) metav1.Condition {
	if len(p.Overlaps) == 0 {
		return newCondition(v1alpha1.ConditionOverlaps, metav1.ConditionFalse, v1alpha1.NoOverlap,
			"no other pool contains an address of this one")
	}
	return newCondition(v1alpha1.ConditionOverlaps, metav1.ConditionTrue, v1alpha1.OverlappingAddresses,
		"shares addresses with "+v1alpha1.Abbreviate(p.Overlaps, ", ")+
			"; where pools overlap, the entry of the younger one, or of one that is being deleted, is not used")
}
