package plan

import (
	"cmp"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// allEntriesUsed is the message of the condition Ready of an object without problems.
const allEntriesUsed = "every entry is in use"

// sessionEstablished is the BGP state Established, as speakers report it.
const sessionEstablished = "Established"

func (d *decision) bgpPeerStatuses() map[string]v1alpha1.BGPPeerStatus {
	statuses := make(map[string]v1alpha1.BGPPeerStatus, len(d.config.BGPPeers))
	for _, p := range d.config.BGPPeers {
		statuses[p.Name] = d.bgpPeerStatus(p)
	}
	return statuses
}

// bgpPeerStatus is the status of a BGPPeer. A session that a speaker does not try,
// for a problem in the peer's configuration, is a problem of the peer, too.
func (d *decision) bgpPeerStatus(p config.BGPPeer) v1alpha1.BGPPeerStatus {
	status := v1alpha1.BGPPeerStatus{Address: p.String(), ASN: p.ASN()}
	problems := d.problemsOf[objectKey{"BGPPeer", p.Name}]
	var down []string
	for _, n := range d.sortedNodes {
		if !p.SelectsNode(labels.Set(n.Labels)) {
			continue
		}
		status.Nodes++
		session, reported := d.reportedSession(n, p.Name)
		switch { // the most specific cause first
		case !reported:
			down = append(down, n.Name+": its speaker has not reported")
		case session.State == sessionEstablished:
			status.Established++
		case session.Problem != "":
			down = append(down, n.Name+": "+session.Problem)
			reason := cmp.Or(session.ProblemReason, v1alpha1.SessionDown) // it is the reason of a condition
			problems = append(problems, config.Problem{Field: "node " + n.Name, Reason: reason, Message: session.Problem})
		case session.LastError != "":
			down = append(down, n.Name+": "+session.LastError)
		default:
			down = append(down, n.Name+": "+session.State)
		}
	}
	status.Summary = fmt.Sprintf("%s %d/%d", sessionEstablished, status.Established, status.Nodes)
	is := newCondition(v1alpha1.ConditionEstablished, metav1.ConditionTrue, v1alpha1.Established, "every session is established")
	switch {
	case status.Nodes == 0:
		is = newCondition(v1alpha1.ConditionEstablished, metav1.ConditionFalse, v1alpha1.NoNode, "spec.nodeSelectors match no node")
	case len(down) > 0:
		is = newCondition(v1alpha1.ConditionEstablished, metav1.ConditionFalse, v1alpha1.SessionDown, v1alpha1.Abbreviate(down, "; "))
	}
	status.Conditions = []metav1.Condition{config.ReadyCondition(problems, "the peer is valid"), is}
	return status
}

// reportedSession is the session with the peer in the report of the node's speaker.
// The report of a node that is not Ready does not count.
func (d *decision) reportedSession(n *corev1.Node, peer string) (s v1alpha1.Session, reported bool) {
	report, known := d.reports.byNode[n.Name]
	if !known {
		return s, false
	}
	i := slices.IndexFunc(report.Sessions, func(s v1alpha1.Session) bool { return s.Peer == peer })
	if i < 0 {
		return s, false
	}
	return report.Sessions[i], true
}

func (d *decision) bgpAdvertisementStatuses() map[string]v1alpha1.BGPAdvertisementStatus {
	statuses := make(map[string]v1alpha1.BGPAdvertisementStatus, len(d.config.BGPAdvertisements))
	for _, ad := range d.config.BGPAdvertisements {
		var status v1alpha1.BGPAdvertisementStatus
		status.Pools, status.Nodes = d.countSelected(ad.Scope)
		status.SelectedPools = d.selectedPools(ad.Scope)
		for _, p := range d.config.BGPPeers {
			if ad.AdvertisedTo(p.Name) {
				status.Peers++
			}
		}
		status.Conditions = d.readyConditions("BGPAdvertisement", ad.Name, allEntriesUsed)
		statuses[ad.Name] = status
	}
	return statuses
}

// countSelected counts the pools and nodes that an advertisement selects.
func (d *decision) countSelected(s config.Scope) (pools, nodes int64) {
	for _, p := range d.config.Pools {
		if s.Covers(p.Name) {
			pools++
		}
	}
	for _, n := range d.Nodes {
		if s.SelectsNode(labels.Set(n.Labels)) {
			nodes++
		}
	}
	return pools, nodes
}

// maxSelectedPools is the maximum length of status.selectedPools. The API server
// rejects a status with a longer list.
const maxSelectedPools = 256

// selectedPools returns status.selectedPools of an advertisement, sorted: the pools
// that its label selectors match, and the deleted ones that Services still hold
// addresses of. If there are too many, these precede, because nothing else has them.
func (d *decision) selectedPools(s config.Scope) []string {
	held := slices.DeleteFunc(slices.Clone(s.DeletedPools), func(name string) bool { return !slices.Contains(d.heldDeletedPools, name) })
	names := append(held, s.SelectedPools...)
	names = names[:min(len(names), maxSelectedPools)]
	slices.Sort(names)
	return names
}

// findHeldDeletedPools returns the deleted pools of advertisements that the own record
// of a Service names, sorted. Without such pools it does not read the records.
func (d *decision) findHeldDeletedPools() (held []string) {
	deleted := map[string]bool{}
	addDeleted := func(s config.Scope) {
		for _, name := range s.DeletedPools {
			deleted[name] = true
		}
	}
	for _, ad := range d.config.L2Advertisements {
		addDeleted(ad.Scope)
	}
	for _, ad := range d.config.BGPAdvertisements {
		addDeleted(ad.Scope)
	}
	if len(deleted) == 0 {
		return nil
	}
	for _, svc := range d.Services {
		for _, r := range config.OwnAllocation(svc) {
			if deleted[r.Value] {
				held = append(held, r.Value)
				delete(deleted, r.Value)
			}
		}
	}
	slices.Sort(held)
	return held
}

func (d *decision) communityStatuses() map[string]v1alpha1.CommunityStatus {
	statuses := make(map[string]v1alpha1.CommunityStatus, len(d.Objects.Communities))
	for _, c := range d.Objects.Communities {
		statuses[c.Name] = v1alpha1.CommunityStatus{Conditions: d.readyConditions("Community", c.Name, allEntriesUsed)}
	}
	return statuses
}
