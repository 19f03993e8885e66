// Package plan decides, from one Snapshot, which node announces which address,
// on which interfaces and to which BGP peers, and why. It is pure: no context,
// clock, logger, lock or client. Every node's speaker decides on the same
// Snapshot, except for what only the node itself knows (Local), and so all
// arrive at the same owners without talking to each other.
//
// plan.go is the entry: Decide for this node, Explain for one Service on all
// nodes. l2.go elects the owner on each segment, bgp.go chooses sessions, routes
// and attributes, sharing.go groups the Services that share an address, and
// trafficpolicy.go applies externalTrafficPolicy and the data-path gate.
package plan

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"go4.org/netipx"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/speaker/bgp"
	"github.com/fairlead-io/fairlead/speaker/l2"
)

// Snapshot is everything that a decision depends on.
type Snapshot struct {
	Node       string // this speaker's
	Config     config.Config
	Services   []*corev1.Service
	Slices     []*discoveryv1.EndpointSlice
	Nodes      []*corev1.Node
	Interfaces map[string][]l2.Interface // by node, as its speaker reports them
	Local      Local
}

// Plan is one node's part.
type Plan struct {
	// L2 are the addresses that this node answers for.
	L2 map[netip.Addr]l2.Claim
	// BGP are this node's sessions, and the routes told over them.
	BGP []Peering
	// Waiting are the addresses that this node may announce by BGP once its own
	// data path can serve them, each with the ports of the health checks that say
	// so; without any, it is enough that kube-proxy is there.
	Waiting map[netip.Addr][]uint16
	// Routed are the addresses that the routes of BGP are for, each with the
	// peers (indices of BGP) that are told.
	Routed map[netip.Addr][]int
	// Unannounced are the addresses that no node can announce. Of all nodes'
	// plans together, each is in one.
	Unannounced map[netip.Addr]v1alpha1.Refusal
	// Services says whose the addresses of L2, BGP and Waiting are: of Services
	// that share one, the oldest's.
	Services map[netip.Addr]*corev1.Service
}

// Standing is one node's part in one address.
type Standing struct {
	Node    string
	Owns    []string        // links on which the node answers
	Tells   []Told          // BGP peers that the node tells
	Reason  v1alpha1.Reason // why neither; "" otherwise
	Message string
}

// Told is a route that a node tells a peer.
type Told struct {
	Peer       string
	Prefix     netip.Prefix
	Attributes bgp.Attributes
}

// Verdict is what became of one address.
type Verdict struct {
	Addr  netip.Addr
	Pool  string // recorded
	Nodes []Standing
	// Refusal is set if and only if no node announces the address.
	Refusal v1alpha1.Refusal
}

// Decide is the plan for s.Node. Decided for every node of one snapshot, each
// address has one owner on each segment; a peer is told by every node that may;
// and an address is unannounced if and only if no node is eligible either way.
func Decide(s Snapshot) Plan {
	d := newDecision(s)
	p := Plan{
		L2: map[netip.Addr]l2.Claim{}, BGP: d.peerings, Routed: make(map[netip.Addr][]int, len(s.Services)), Waiting: map[netip.Addr][]uint16{},
		Unannounced: map[netip.Addr]v1alpha1.Refusal{}, Services: make(map[netip.Addr]*corev1.Service, len(s.Services)),
	}
	for _, h := range holdings(s.Services) {
		h = d.look(h)
		claims, noOwner := d.own(h, nil)
		told, noRoute := d.tell(h)
		own := claims[s.Node]
		if len(own) > 0 {
			p.L2[h.addr] = l2.Claim{Interfaces: own}
		}
		switch {
		case told != nil && s.Local.opens(h, s.Node):
			p.route(h.addr, told, d.within(h))
		case told != nil:
			p.Waiting[h.addr] = h.checks(s.Node)
		}
		if len(own) > 0 || told != nil {
			p.Services[h.addr] = h.services[0]
		}
		if len(claims) == 0 && noRoute.Reason != "" && d.spokesman(h.addr) == s.Node {
			p.Unannounced[h.addr] = both(noOwner, noRoute, h.pool)
		}
	}
	return p
}

// both says why neither L2 nor BGP announces an address of the pool. The way that
// nobody has asked for explains nothing.
func both(l2, bgp v1alpha1.Refusal, pool string) v1alpha1.Refusal {
	switch none := v1alpha1.NoAdvertisement; {
	case l2.Reason == none && bgp.Reason == none:
		return v1alpha1.Refusal{Reason: none, Message: fmt.Sprintf("no L2Advertisement and no BGPAdvertisement covers pool %q", pool)}
	case bgp.Reason == none:
		return l2
	case l2.Reason == none:
		return bgp
	}
	return v1alpha1.Refusal{Reason: l2.Reason, Message: l2.Message + "; by BGP: " + bgp.Message}
}

// Explain says what became of each address of one Service, on every node. Who
// else holds an address has a say in it.
func Explain(s Snapshot, svc *corev1.Service) (verdicts []Verdict) {
	d := newDecision(s)
	if !slices.Contains(s.Services, svc) {
		s.Services = append(slices.Clone(s.Services), svc)
	}
	own := Announceable(svc)
	held := slices.DeleteFunc(holdings(s.Services), func(h holding) bool { return !slices.Contains(own, h.addr) })
	slices.SortFunc(held, func(a, b holding) int { return cmp.Compare(slices.Index(own, a.addr), slices.Index(own, b.addr)) })
	for _, h := range held {
		h = d.look(h)
		v := Verdict{Addr: h.addr, Pool: h.pool}
		owners := map[string]Standing{}
		claims, noOwner := d.own(h, func(s Standing) { owners[s.Node] = s })
		_, noRoute := d.tell(h)
		if len(claims) == 0 && noRoute.Reason != "" {
			v.Refusal = both(noOwner, noRoute, h.pool)
		}
		for i, m := range d.nodes {
			standing, covered := owners[m.name]
			standing.Node = m.name
			tells, refusal := d.standing(h, i)
			standing.Tells = tells
			switch {
			case len(standing.Owns) > 0 || len(tells) > 0:
				standing.Reason, standing.Message = "", ""
			case !covered:
				standing.Reason, standing.Message = refusal.Reason, refusal.Message
			}
			if standing.Reason != v1alpha1.NoAdvertisement {
				v.Nodes = append(v.Nodes, standing)
			}
		}
		verdicts = append(verdicts, v)
	}
	return verdicts
}

// Announceable returns the addresses of a Service that the speakers announce:
// those in a status that Fairlead owns, which is what its finalizer records.
func Announceable(svc *corev1.Service) (addrs []netip.Addr) {
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
	peerings  []Peering              // of this node
	parts     map[scope][]part       // by recorded pool and family, made when first asked for
	known     map[string][]netipx.IPRange
	standings []Standing // room for the next address
	fit       []eligible // likewise
}

// member is a node that may announce.
type member struct {
	name    string
	labels  labels.Set
	seed    uint64
	refusal v1alpha1.Refusal // set: not eligible, whatever the address
	leaving bool             // not eligible any more, and peers are asked to look for other ways
	links   []l2.Interface
}

func newDecision(s Snapshot) *decision {
	d := &decision{Snapshot: s, endpoints: map[types.NamespacedName][]*discoveryv1.EndpointSlice{}, pools: map[string][]candidate{}, parts: map[scope][]part{}, known: map[string][]netipx.IPRange{}}
	for _, p := range s.Config.Pools {
		d.known[p.Name] = p.Ranges
	}
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
		m := &member{name: n.Name, labels: n.Labels, seed: h.Sum64(), links: s.Interfaces[n.Name]}
		if why := Excluded(n); anyReady && !config.NodeReady(n) {
			m.refusal = v1alpha1.Refusal{Reason: v1alpha1.NodeNotReady, Message: "is not Ready"}
		} else if why != "" {
			m.refusal = v1alpha1.Refusal{Reason: v1alpha1.NodeExcluded, Message: why}
		}
		m.leaving = n.Name == s.Node && (s.Local.Leaving && m.refusal.Reason == "" || m.refusal.Reason == v1alpha1.NodeExcluded && !s.Local.Drained)
		d.nodes = append(d.nodes, m)
		if n.Name == s.Node {
			d.peerings = peerings(s.Config, n, s.Local, len(s.Services))
		}
	}
	slices.SortFunc(d.nodes, func(a, b *member) int { return strings.Compare(a.name, b.name) })
	return d
}

// Excluded says why a node must not attract traffic, "" if it may.
func Excluded(n *corev1.Node) string {
	if n.DeletionTimestamp != nil {
		return "is being deleted"
	}
	if value, labelled := n.Labels[corev1.LabelNodeExcludeBalancers]; labelled && value != "false" {
		// As in k8s.io/cloud-provider: a value that is no boolean excludes.
		if no, err := strconv.ParseBool(value); err != nil || no {
			return "has the label " + corev1.LabelNodeExcludeBalancers
		}
	}
	return ""
}

// summarize says why no node is eligible: the reason of those that came closest.
func summarize(pool string, standings []Standing) v1alpha1.Refusal {
	by := map[v1alpha1.Reason][]string{}
	for _, s := range standings {
		by[s.Reason] = append(by[s.Reason], s.Node+" "+s.Message)
	}
	if len(by[v1alpha1.NoEndpoints]) > 0 {
		return v1alpha1.Refusal{Reason: v1alpha1.NoEndpoints, Message: "externalTrafficPolicy is Local, and no eligible node has a ready endpoint"}
	}
	if nodes := by[v1alpha1.NoInterface]; len(nodes) > 0 {
		return v1alpha1.Refusal{Reason: v1alpha1.NoInterface, Message: "no eligible node has a link for it: " + v1alpha1.Abbreviate(nodes, "; ")}
	}
	if nodes := by[v1alpha1.NoPeer]; len(nodes) > 0 {
		return v1alpha1.Refusal{Reason: v1alpha1.NoPeer, Message: "no eligible node has a peer for it: " + v1alpha1.Abbreviate(nodes, "; ")}
	}
	nodes := slices.Concat(by[v1alpha1.NodeExcluded], by[v1alpha1.NodeNotReady], by[v1alpha1.NodeNotSelected])
	if len(nodes) == 0 {
		return v1alpha1.Refusal{Reason: v1alpha1.NoEligibleNode, Message: "the cluster has no node"}
	}
	return v1alpha1.Refusal{Reason: v1alpha1.NoEligibleNode, Message: fmt.Sprintf("no node may announce pool %q: %s", pool, v1alpha1.Abbreviate(nodes, "; "))}
}

// spokesman is the node that reports about an address that nobody announces:
// the highest-ranking one whose speaker can be heard.
func (d *decision) spokesman(addr netip.Addr) (node string) {
	var best uint64
	for _, m := range d.nodes {
		if _, reports := d.Interfaces[m.name]; !reports || m.refusal.Reason == v1alpha1.NodeNotReady {
			continue
		}
		if s := score(m.seed, addr); node == "" || s >= best {
			node, best = m.name, s
		}
	}
	return node
}

// InterfacesOf reads back the links that a speaker reports.
func InterfacesOf(s *v1alpha1.Speaker) []l2.Interface {
	var links []l2.Interface
	for _, reported := range s.Status.Interfaces {
		l := l2.Interface{Name: reported.Name}
		for _, text := range reported.Addresses {
			if p, err := netip.ParsePrefix(text); err == nil {
				l.Prefixes = append(l.Prefixes, p)
			}
		}
		links = append(links, l)
	}
	return links
}
