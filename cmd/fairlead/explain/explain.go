// Package explain shows the decisions about one Service and their reasons: the
// provider that serves it, the assigned addresses and their pools, and which node
// announces an address on which interface or to which BGP peer.
//
// It reads an objects.Snapshot and computes the decisions of the controller and
// of the speakers again, by their own code. The state of a load balancer on AWS is
// not part of the snapshot; it is read from the status of the Service. The result
// is printed as a text of sections or encoded as JSON. A Service that does not
// exist is an error, exit status 1; any other result is success, whether the
// Service has an address or not.
package explain

import (
	"cmp"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-io/fairlead/cmd/fairlead/objects"
	"github.com/fairlead-io/fairlead/cmd/fairlead/output"
	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	controllerplan "github.com/fairlead-io/fairlead/controller/plan"
	"github.com/fairlead-io/fairlead/providers"
	"github.com/fairlead-io/fairlead/speaker/bgp"
	"github.com/fairlead-io/fairlead/speaker/l2"
	speakerplan "github.com/fairlead-io/fairlead/speaker/plan"
)

// Explanation holds the decisions about one Service. Its JSON is described in
// docs/cli.md.
type Explanation struct {
	Service  string         `json:"service"`
	Type     string         `json:"type"` // with ports and policy, as text
	Provider providerChoice `json:"provider"`
	// Address lists the considered pools, or the held address, in the order of the
	// decision.
	Address       []addressCandidate    `json:"address"`
	Balancer      []string              `json:"balancer,omitempty"` // on AWS
	Announcements []addressAnnouncement `json:"announcements"`
	Conditions    []output.Condition    `json:"conditions"`
	onAWS         bool
}

// providerChoice is the provider that serves the Service, and why.
type providerChoice struct {
	Verdict string          `json:"verdict"`
	Reason  v1alpha1.Reason `json:"reason,omitempty"`
	Message string          `json:"message"`
}

// addressCandidate is a pool, or a held address, that the allocator considered.
type addressCandidate struct {
	Family  string `json:"family"`
	Pool    string `json:"pool,omitempty"`
	Used    bool   `json:"used"`
	Message string `json:"message"`
}

// addressAnnouncement lists the nodes that announce one address, or could.
type addressAnnouncement struct {
	Address string             `json:"address"`
	Pool    string             `json:"pool"`             // recorded
	Reason  v1alpha1.Reason    `json:"reason,omitempty"` // why no node announces it
	Message string             `json:"message,omitempty"`
	Nodes   []nodeAnnouncement `json:"nodes"`
	// Next says which nodes take the address over, and when it moves back. Warnings are
	// about an address without endpoints, reports that contradict each other or do not count,
	// and filtered BFD.
	Next     []string `json:"next"`
	Warnings []string `json:"warnings"`
}

// nodeAnnouncement lists how one node announces an address.
type nodeAnnouncement struct {
	Node       string          `json:"node"`
	Interfaces []string        `json:"interfaces"`      // on which it answers ARP and NDP
	MACs       []string        `json:"macAddresses"`    // of the interfaces, "" if it is not reported
	Owner      string          `json:"owner,omitempty"` // why it is this node that answers
	Routes     []peerRoute     `json:"routes"`
	Reason     v1alpha1.Reason `json:"reason,omitempty"` // why it does neither
	Message    string          `json:"message,omitempty"`
	Ranking    *nodeRanking    `json:"ranking,omitempty"` // if an L2Advertisement selects it
}

// nodeRanking is what the rank of a node for an address follows from.
type nodeRanking struct {
	Rank   int     `json:"rank,omitempty"` // from 1; 0 if it is not eligible, and for an address on several segments
	Weight int32   `json:"weight"`
	Score  float64 `json:"score"` // rounded
}

// peerRoute is a route that a node advertises, or would advertise, to a BGP peer.
type peerRoute struct {
	Peer        string `json:"peer"`
	Prefix      string `json:"prefix"`
	Advertised  bool   `json:"advertised"` // the session is established
	State       string `json:"state"`
	NextHop     string `json:"nextHop,omitempty"` // as reported, if advertised
	LocalPref   uint32 `json:"localPref"`
	MED         *int64 `json:"med,omitempty"`
	Prepend     int    `json:"prepend,omitempty"`
	Communities string `json:"communities,omitempty"`
}

// Service explains the decisions about the Service with the key, which must be
// in the snapshot. The snapshot is not changed.
func Service(s objects.Snapshot, key types.NamespacedName) (e Explanation, err error) {
	i := slices.IndexFunc(s.Controller.Services, func(svc *corev1.Service) bool {
		return svc.Namespace == key.Namespace && svc.Name == key.Name
	})
	if i < 0 {
		return e, fmt.Errorf("there is no Service %s", key)
	}
	svc := s.Controller.Services[i]
	trace := controllerplan.Explain(s.Controller, key)
	// Lists are not nil, so that their JSON is [] and not null.
	e = Explanation{
		Service: key.String(), Type: typeText(svc),
		Provider: providerChoice{providerNames[trace.Choice.Verdict], trace.Choice.Reason, trace.Choice.Message},
		Address:  []addressCandidate{}, Announcements: []addressAnnouncement{}, Conditions: output.Conditions(trace.Plan.Conditions),
		onAWS: trace.Choice.Verdict == providers.OnAWS,
	}
	for _, v := range trace.Verdicts {
		e.Address = append(e.Address, addressCandidate{v.Family.String(), v.Pool, v.Used, v.Message})
	}
	// AWS was not asked: the names are those that the controller has written.
	if e.onAWS {
		for _, in := range trace.Plan.Ingress {
			e.Balancer = append(e.Balancer, cmp.Or(in.Hostname, in.IP))
		}
	}
	// Each node decides for itself from the same objects, so one computation shows
	// the decisions of all.
	for _, v := range speakerplan.Explain(s.Speaker, svc) {
		a := addressAnnouncement{v.Addr.String(), v.Pool, v.Refusal.Reason, v.Refusal.Message, []nodeAnnouncement{}, []string{}, []string{}}
		for _, n := range v.Nodes {
			node := nodeAnnouncement{
				Node: n.Node, Interfaces: append([]string{}, n.Interfaces...), MACs: []string{}, Routes: []peerRoute{},
				Reason: n.Reason, Message: n.Message,
			}
			if n.Selected {
				node.Ranking = &nodeRanking{slices.Index(v.Ranked, n.Node) + 1, n.Weight, math.Round(float64(n.Score)/config.ScoreUnit*100) / 100}
			}
			if len(n.Interfaces) > 0 {
				node.Owner = "highest rank of the eligible nodes"
			}
			if refusal := s.Refusal(n.Node, v.Addr); len(n.Interfaces) > 0 && refusal.Reason != "" {
				node.Interfaces, node.Owner, node.Reason, node.Message = []string{}, "", refusal.Reason, refusal.Message
			}
			for _, r := range n.Routes {
				node.Routes = append(node.Routes, routeOf(s, n.Node, r))
			}
			a.Nodes = append(a.Nodes, node)
		}
		if v.Warning.Reason != "" {
			a.Warnings = append(a.Warnings, fmt.Sprintf("%s: %s", v.Warning.Reason, v.Warning.Message))
		}
		a.addLiveness(s, v)
		a.addSince(s, svc)
		for i := range a.Nodes {
			a.Nodes[i].addMACs(s.Speaker.Interfaces[a.Nodes[i].Node])
		}
		e.Announcements = append(e.Announcements, a)
	}
	return e, nil
}

// rankingText returns the rank and the score, and the weight unless it is 1.
func (n nodeAnnouncement) rankingText() string {
	if n.Ranking == nil {
		return ""
	}
	text := fmt.Sprintf("score %.2f", n.Ranking.Score)
	if n.Ranking.Rank > 0 {
		text = fmt.Sprintf("rank %d, %s", n.Ranking.Rank, text)
	}
	if n.Ranking.Weight != 1 {
		text += fmt.Sprintf(", weight %d", n.Ranking.Weight)
	}
	return text
}

// addMACs adds the MACs of the interfaces on which the node answers.
func (n *nodeAnnouncement) addMACs(reported []l2.Interface) {
	for _, name := range n.Interfaces {
		mac := ""
		if i := slices.IndexFunc(reported, func(r l2.Interface) bool { return r.Name == name }); i >= 0 {
			mac = reported[i].MAC
		}
		n.MACs = append(n.MACs, mac)
	}
}

// interfacesText returns the interfaces with their MACs.
func (n nodeAnnouncement) interfacesText() string {
	var all []string
	for i, name := range n.Interfaces {
		if n.MACs[i] != "" {
			name += " (" + n.MACs[i] + ")"
		}
		all = append(all, name)
	}
	return strings.Join(all, ", ")
}

var providerNames = map[providers.Verdict]string{
	providers.NotOurs: "not Fairlead's", providers.Undecided: "undecided", providers.OnBareMetal: "bare metal", providers.OnAWS: "AWS",
}

// typeText returns the fields of the Service's spec that the decisions depend on.
func typeText(svc *corev1.Service) string {
	all := []string{string(svc.Spec.Type)}
	for _, p := range svc.Spec.Ports {
		all = append(all, fmt.Sprintf("%d/%s", p.Port, p.Protocol))
	}
	if svc.Spec.ExternalTrafficPolicy != "" {
		all = append(all, "externalTrafficPolicy "+string(svc.Spec.ExternalTrafficPolicy))
	}
	return strings.Join(all, ", ")
}

// routeOf combines the desired route of the node with the session that its speaker
// reports. The route is advertised only over an established session that has the
// address family.
func routeOf(s objects.Snapshot, node string, desired speakerplan.AdvertisedRoute) peerRoute {
	a := desired.Attributes
	r := peerRoute{
		Peer: desired.Peer, Prefix: desired.Prefix.String(),
		LocalPref: a.LocalPref, Prepend: int(a.Prepend), Communities: a.Communities,
	}
	if a.HasMED {
		med := int64(a.MED)
		r.MED = &med
	}
	family := "IPv4"
	if desired.Prefix.Addr().Is6() {
		family = "IPv6"
	}
	switch session, reported := s.Session(node, desired.Peer); {
	// The node has no session: the peer is new, or its speaker does not run.
	case !reported:
		r.State = "its speaker has not reported"
	// A configuration problem explains the state better than the last error.
	case session.State != bgp.Established.String():
		r.State = cmp.Or(session.Problem, session.LastError, session.State)
	// The peer has not negotiated the address family.
	case !slices.Contains(session.Families, family):
		r.State = session.Withheld
	default:
		r.Advertised, r.State = true, session.State
		isOfFamily := func(hop string) bool {
			addr, err := netip.ParseAddr(hop)
			return err == nil && addr.Is6() == desired.Prefix.Addr().Is6()
		}
		if i := slices.IndexFunc(session.NextHops, isOfFamily); i >= 0 {
			r.NextHop = session.NextHops[i]
		}
	}
	return r
}
