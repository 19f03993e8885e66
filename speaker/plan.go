package speaker

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/speaker/l2"
)

// Snapshot is everything that a decision depends on.
type Snapshot struct {
	Node     string // this speaker's
	Config   config.Config
	Services []*corev1.Service
	Slices   []*discoveryv1.EndpointSlice
	Nodes    []*corev1.Node
	Links    map[string][]l2.Link // by node, as its speaker reports them
}

// Plan is one node's part.
type Plan struct {
	// L2 are the addresses that this node answers for.
	L2 map[netip.Addr]l2.Claim
	// Unannounced are the addresses that no node can announce. Of all nodes'
	// plans together, each is in one.
	Unannounced map[netip.Addr]Refusal
	// Services says whose the addresses of L2 are.
	Services map[netip.Addr]*corev1.Service
}

// Refusal says why an address is not announced.
type Refusal struct {
	Reason  v1alpha1.Reason
	Message string
}

// Standing is one node's part in one address.
type Standing struct {
	Node    string
	Owns    []string        // links on which the node answers
	Reason  v1alpha1.Reason // why it does not; "" if it owns
	Message string
}

// Verdict is what became of one address.
type Verdict struct {
	Addr  netip.Addr
	Pool  string // recorded
	Nodes []Standing
	// Refusal is set if and only if no node owns the address.
	Refusal Refusal
}

// Decide is the plan for s.Node. Decided for every node of one snapshot, each
// address has one owner on each segment, and none if and only if no node is
// eligible.
func Decide(s Snapshot) Plan {
	d := newDecision(s)
	p := Plan{L2: map[netip.Addr]l2.Claim{}, Unannounced: map[netip.Addr]Refusal{}, Services: map[netip.Addr]*corev1.Service{}}
	for _, svc := range s.Services {
		for _, addr := range announceable(svc) {
			claims, refusal := d.decide(svc, addr, nil)
			switch own := claims[s.Node]; {
			case len(own) > 0:
				p.L2[addr], p.Services[addr] = l2.Claim{Links: own}, svc
			case len(claims) == 0 && d.spokesman(addr) == s.Node:
				p.Unannounced[addr] = refusal
			}
		}
	}
	for addr := range p.L2 {
		delete(p.Unannounced, addr) // another Service's right to the same address
	}
	return p
}

// Explain says what became of each address of one Service, on every node.
func Explain(s Snapshot, svc *corev1.Service) (verdicts []Verdict) {
	d := newDecision(s)
	for _, addr := range announceable(svc) {
		v := Verdict{Addr: addr, Pool: config.RecordedPool(svc, addr)}
		_, v.Refusal = d.decide(svc, addr, func(standing Standing) { v.Nodes = append(v.Nodes, standing) })
		verdicts = append(verdicts, v)
	}
	return verdicts
}

// announceable are the addresses in a status that is ours: the finalizer says so.
func announceable(svc *corev1.Service) (addrs []netip.Addr) {
	foreign := svc.Spec.LoadBalancerClass != nil && *svc.Spec.LoadBalancerClass != v1alpha1.ClassBareMetal
	if svc.Spec.Type != corev1.ServiceTypeLoadBalancer || foreign || svc.DeletionTimestamp != nil || !slices.Contains(svc.Finalizers, v1alpha1.FinalizerBareMetal) {
		return nil
	}
	for _, in := range svc.Status.LoadBalancer.Ingress {
		if a, err := config.ParseAddr(in.IP); err == nil {
			addrs = append(addrs, a)
		}
	}
	return addrs
}

// decision is a Snapshot, understood.
type decision struct {
	Snapshot
	nodes     []*member // sorted by name
	endpoints map[types.NamespacedName][]*discoveryv1.EndpointSlice
	pools     map[string][]candidate // by recorded pool, made when first asked for
	standings []Standing             // room for the next address
	fit       []eligible             // likewise
}

// member is a node that may announce.
type member struct {
	name    string
	labels  labels.Set
	seed    uint64
	refusal Refusal // set: not eligible, whatever the address
	links   []l2.Link
}

// candidate is a node's part in a pool.
type candidate struct {
	*member
	selected   bool
	subnets    bool     // announces on links whose subnet contains the address
	interfaces []string // and on these
}

func newDecision(s Snapshot) *decision {
	d := &decision{Snapshot: s, endpoints: map[types.NamespacedName][]*discoveryv1.EndpointSlice{}, pools: map[string][]candidate{}}
	for _, slice := range s.Slices {
		key := types.NamespacedName{Namespace: slice.Namespace, Name: slice.Labels[discoveryv1.LabelServiceName]}
		d.endpoints[key] = append(d.endpoints[key], slice)
	}
	// If no node at all is Ready it is their reports that are missing, not the
	// nodes: the control plane was away. Falling silent would make it worse.
	anyReady := slices.ContainsFunc(s.Nodes, config.NodeReady)
	for _, n := range s.Nodes {
		h := fnv.New64a()
		h.Write([]byte(n.Name))
		m := &member{name: n.Name, labels: n.Labels, seed: h.Sum64(), links: s.Links[n.Name]}
		switch excluded, labelled := n.Labels[corev1.LabelNodeExcludeBalancers]; {
		case anyReady && !config.NodeReady(n):
			m.refusal = Refusal{v1alpha1.NodeNotReady, "is not Ready"}
		case n.DeletionTimestamp != nil:
			m.refusal = Refusal{v1alpha1.NodeExcluded, "is being deleted"}
		case labelled && excluded != "false":
			// As in k8s.io/cloud-provider: a value that is no boolean excludes.
			if no, err := strconv.ParseBool(excluded); err != nil || no {
				m.refusal = Refusal{v1alpha1.NodeExcluded, "has the label " + corev1.LabelNodeExcludeBalancers}
			}
		}
		d.nodes = append(d.nodes, m)
	}
	slices.SortFunc(d.nodes, func(a, b *member) int { return strings.Compare(a.name, b.name) })
	return d
}

// candidates are all nodes' parts in the addresses of a pool; nil if no
// advertisement covers it.
func (d *decision) candidates(pool string) []candidate {
	if known, ok := d.pools[pool]; ok {
		return known
	}
	var all []candidate
	for _, ad := range d.Config.L2Advertisements {
		if !ad.Covers(pool) {
			continue
		}
		if all == nil {
			all = make([]candidate, len(d.nodes))
			for i, m := range d.nodes {
				all[i].member = m
			}
		}
		for i := range all {
			if ad.SelectsNode(all[i].labels) {
				all[i].selected = true
				all[i].subnets = all[i].subnets || len(ad.Interfaces) == 0
				all[i].interfaces = append(all[i].interfaces, ad.Interfaces...)
			}
		}
	}
	d.pools[pool] = all
	return all
}

// eligible is a node that may own the address, with the links it may use.
type eligible struct {
	*member
	score uint64
	links []l2.Link
}

// decide returns each owner's links, or why there is none. watch, if not nil,
// hears every node's standing, by name.
func (d *decision) decide(svc *corev1.Service, addr netip.Addr, watch func(Standing)) (claims map[string][]string, why Refusal) {
	if addr.Is6() {
		return nil, Refusal{v1alpha1.UnsupportedFamily, "IPv6 addresses are assigned, but not announced yet"}
	}
	pool := config.RecordedPool(svc, addr)
	candidates := d.candidates(pool)
	if candidates == nil {
		return nil, Refusal{v1alpha1.NoAdvertisement, fmt.Sprintf("no L2Advertisement covers pool %q", pool)}
	}
	local := d.localNodes(svc, addr)
	standings, fit := d.standings[:0], d.fit[:0]
	defer func() { d.standings, d.fit = standings, fit }()
	for _, c := range candidates {
		r, links := c.judge(addr, local)
		if r.Reason == "" {
			fit = append(fit, eligible{c.member, score(c.seed, addr), links})
		}
		standings = append(standings, Standing{Node: c.name, Reason: r.Reason, Message: r.Message})
	}
	claims = map[string][]string{}
	if subnetsOnly(fit, addr) {
		// Subnets that contain one address are one segment.
		if len(fit) > 0 {
			owner := slices.MaxFunc(fit, rank)
			for _, l := range owner.links {
				claims[owner.name] = append(claims[owner.name], l.Name)
			}
		}
	} else {
		for _, segment := range segments(fit) {
			owner := slices.MaxFunc(segment, func(a, b seat) int { return rank(a.eligible, b.eligible) })
			for _, s := range segment {
				if s.member == owner.member {
					claims[owner.name] = append(claims[owner.name], s.link.Name)
				}
			}
		}
		for _, links := range claims {
			slices.Sort(links)
		}
	}
	if len(claims) == 0 {
		why = summarize(pool, standings)
	}
	if watch != nil {
		for _, s := range standings {
			s.Owns = claims[s.Node]
			if s.Reason == "" && len(s.Owns) == 0 {
				s.Reason, s.Message = v1alpha1.NotOwner, "could announce it, but another node ranks higher"
			}
			watch(s)
		}
	}
	return claims, why
}

// judge says why the candidate may not own the address, or on which links it may.
// The order of the questions is that of summarize.
func (c candidate) judge(addr netip.Addr, local func(string) bool) (Refusal, []l2.Link) {
	if !c.selected {
		return Refusal{v1alpha1.NodeNotSelected, "is selected by no L2Advertisement of the pool"}, nil
	}
	if c.refusal.Reason != "" {
		return c.refusal, nil
	}
	links := c.links
	fits := func(l l2.Link) bool { return slices.Contains(c.interfaces, l.Name) || c.subnets && l.Contains(addr) }
	if slices.ContainsFunc(links, func(l l2.Link) bool { return !fits(l) }) {
		links = nil
		for _, l := range c.links {
			if fits(l) {
				links = append(links, l)
			}
		}
	}
	if len(links) == 0 {
		var has []string
		for _, l := range c.links {
			for _, p := range l.Prefixes {
				has = append(has, l.Name+" "+p.Masked().String())
			}
		}
		switch {
		case len(c.links) == 0:
			return Refusal{v1alpha1.NoLink, "has reported no links: does a speaker run there?"}, nil
		case !c.subnets:
			return Refusal{v1alpha1.NoLink, "has no link named " + strings.Join(c.interfaces, ", ")}, nil
		}
		return Refusal{v1alpha1.NoLink, "has only " + strings.Join(has, ", ")}, nil
	}
	if !local(c.name) {
		return Refusal{v1alpha1.NoEndpoints, "has no ready endpoint, and externalTrafficPolicy is Local"}, nil
	}
	return Refusal{}, links
}

// summarize says why no node is eligible: the reason of those that came closest.
func summarize(pool string, standings []Standing) Refusal {
	by := map[v1alpha1.Reason][]string{}
	for _, s := range standings {
		by[s.Reason] = append(by[s.Reason], s.Node+" "+s.Message)
	}
	if len(by[v1alpha1.NoEndpoints]) > 0 {
		return Refusal{v1alpha1.NoEndpoints, "externalTrafficPolicy is Local, and no eligible node has a ready endpoint"}
	}
	if nodes := by[v1alpha1.NoLink]; len(nodes) > 0 {
		return Refusal{v1alpha1.NoLink, "no eligible node has a link for it: " + some(nodes)}
	}
	nodes := slices.Concat(by[v1alpha1.NodeExcluded], by[v1alpha1.NodeNotReady], by[v1alpha1.NodeNotSelected])
	if len(nodes) == 0 {
		return Refusal{v1alpha1.NoEligibleNode, "the cluster has no node"}
	}
	return Refusal{v1alpha1.NoEligibleNode, fmt.Sprintf("no node may announce pool %q: %s", pool, some(nodes))}
}

// some spells out a few of many.
func some(all []string) string {
	const few = 5
	if len(all) > few {
		return strings.Join(all[:few], "; ") + fmt.Sprintf("; and %d more", len(all)-few)
	}
	return strings.Join(all, "; ")
}

// rank orders nodes for one address; the last one owns it.
func rank(a, b eligible) int {
	return cmp.Or(cmp.Compare(a.score, b.score), strings.Compare(a.name, b.name))
}

// subnetsOnly reports whether every link has been chosen for its subnet.
func subnetsOnly(fit []eligible, addr netip.Addr) bool {
	return !slices.ContainsFunc(fit, func(e eligible) bool {
		return slices.ContainsFunc(e.links, func(l l2.Link) bool { return !l.Contains(addr) })
	})
}

// seat is a link of an eligible node.
type seat struct {
	eligible
	link l2.Link
}

// segments groups the links that may be on one LAN: those with a common name
// or a common subnet, and whatever these are connected to. Too large a group
// leaves a LAN without an owner, too small a one gives it two, and two nodes
// that answer for one address are worse.
func segments(fit []eligible) (groups [][]seat) {
	for _, e := range fit {
		for _, l := range e.links {
			joined := []seat{{e, l}}
			rest := groups[:0]
			for _, g := range groups {
				if slices.ContainsFunc(g, func(s seat) bool { return together(s.link, l) }) {
					joined = append(g, joined...)
				} else {
					rest = append(rest, g)
				}
			}
			groups = append(rest, joined)
		}
	}
	return groups
}

func together(a, b l2.Link) bool {
	return a.Name == b.Name || slices.ContainsFunc(a.Prefixes, func(p netip.Prefix) bool {
		return slices.ContainsFunc(b.Prefixes, p.Overlaps)
	})
}

// localNodes tells the nodes to which a packet may be sent: any, or under
// externalTrafficPolicy Local those with an endpoint that kube-proxy there
// will use. A terminating endpoint that still serves counts only if no ready
// one is left in the cluster.
func (d *decision) localNodes(svc *corev1.Service, addr netip.Addr) func(node string) bool {
	if svc.Spec.ExternalTrafficPolicy != corev1.ServiceExternalTrafficPolicyLocal {
		return func(string) bool { return true }
	}
	family := discoveryv1.AddressTypeIPv4
	if addr.Is6() {
		family = discoveryv1.AddressTypeIPv6
	}
	ready, serving := map[string]bool{}, map[string]bool{}
	for _, slice := range d.endpoints[types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}] {
		if slice.AddressType != family {
			continue
		}
		for _, e := range slice.Endpoints {
			node := "" // everywhere
			if e.NodeName != nil {
				node = *e.NodeName
			}
			if e.Conditions.Ready == nil || *e.Conditions.Ready {
				ready[node] = true
			} else if e.Conditions.Serving != nil && *e.Conditions.Serving {
				serving[node] = true
			}
		}
	}
	if len(ready) == 0 {
		ready = serving
	}
	return func(node string) bool { return ready[node] || ready[""] }
}

// spokesman is the node that reports about an address that nobody announces:
// the highest-ranking one whose speaker can be heard.
func (d *decision) spokesman(addr netip.Addr) (node string) {
	var best uint64
	for _, m := range d.nodes {
		if _, reports := d.Links[m.name]; !reports || m.refusal.Reason == v1alpha1.NodeNotReady {
			continue
		}
		if s := score(m.seed, addr); node == "" || s >= best {
			node, best = m.name, s
		}
	}
	return node
}

// score ranks nodes for an address (highest random weight, Thaler and
// Ravishankar 1998): removing a node moves only the addresses that it owned.
func score(seed uint64, addr netip.Addr) uint64 {
	b := addr.As16()
	h := seed
	for _, x := range b {
		h = (h ^ uint64(x)) * 0x100000001b3 // FNV-1a
	}
	// FNV spreads its last bytes badly over the high bits; finish as MurmurHash3 does.
	h = (h ^ h>>33) * 0xff51afd7ed558ccd
	h = (h ^ h>>33) * 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}
