// This file explains which node announces an address on the LAN in fact, according to the
// reports of the speakers. A report of a node changes what is shown about another one only
// by what the first one says about itself: that it announces the address, from which nodes it
// has taken it over, and which of them are live again.

package explain

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-io/fairlead/cmd/fairlead/objects"
	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/speaker/failover"
	speakerplan "github.com/fairlead-io/fairlead/speaker/plan"
)

// maxSuccessors is the number of nodes that monitor the one that announces an address.
const maxSuccessors = 2

// interfaceReport is the report of a node that it announces an address on interfaces.
type interfaceReport struct {
	config.AnnouncementReport
	interfaces []string
}

// addLiveness replaces the owner by the ranks of the API with the nodes that report to
// announce the address, and adds what happens next.
func (a *addressAnnouncement) addLiveness(s objects.Snapshot, v speakerplan.AddressState) {
	if len(v.Ranked) == 0 {
		return // not on interfaces, or on several segments
	}
	var counted []config.AnnouncementReport
	var current []interfaceReport
	reports := reportsAbout(s, v.Addr)
	counts := func(node string) bool { // a node that is about to be removed goes on until another one announces it
		return slices.Contains(v.Ranked, node) || slices.ContainsFunc(v.Nodes, func(n speakerplan.NodeState) bool {
			return n.Node == node && n.Reason == v1alpha1.NodeBeingRemoved
		})
	}
	eligible := slices.DeleteFunc(slices.Clone(reports), func(r interfaceReport) bool { return !counts(r.Node) })
	for _, r := range eligible {
		counted = append(counted, r.AnnouncementReport)
	}
	for _, i := range config.CurrentReports(counted) {
		current = append(current, eligible[i])
	}
	if len(current) == 0 {
		for _, r := range reports {
			a.Warnings = append(a.Warnings, fmt.Sprintf(
				"only %s reports to announce it, on %s; that does not count, because the node is not eligible", r.Node, strings.Join(r.interfaces, ", ")))
		}
	}
	acting := v.Ranked[:1] // if none is reported
	if len(current) > 0 {
		acting = nil
		for _, r := range current {
			acting = append(acting, r.Node)
		}
		a.setActing(s, v, current, eligible)
	}
	if len(acting) > 1 {
		a.Warnings = append(a.Warnings, strings.Join(acting, " and ")+" report to announce it; while both speakers run, one of them stops "+
			"within seconds; otherwise the report of the one that does not run is out of date: kubectl -n fairlead-system get pods -o wide")
		return
	}
	a.addNext(s, v, acting[0])
}

// setActing marks the nodes with current reports as those that announce the address, and
// says why the nodes that rank higher do not.
func (a *addressAnnouncement) setActing(s objects.Snapshot, v speakerplan.AddressState, current, reports []interfaceReport) {
	byNode := func(all []interfaceReport, node string) int {
		return slices.IndexFunc(all, func(r interfaceReport) bool { return r.Node == node })
	}
	last := 0 // rank of the last one that announces it
	for _, r := range current {
		if rank := slices.Index(v.Ranked, r.Node); rank >= 0 {
			last = max(last, rank)
		} else {
			last = len(v.Ranked)
		}
	}
	first := v.Ranked[0]
	for i := range a.Nodes {
		n := &a.Nodes[i]
		rank, reported := slices.Index(v.Ranked, n.Node), byNode(current, n.Node)
		switch {
		case reported >= 0:
			r := current[reported]
			n.Interfaces, n.Reason, n.Message = r.interfaces, "", ""
			switch {
			case len(r.TakenOver) > 0:
				n.Owner = "it has " + takeoverText(s, r.TakenOver)
			case n.Node == first:
				n.Owner = "highest rank of the eligible nodes"
			default:
				n.Owner = "it keeps it for now, although " + first + " ranks higher"
			}
		case rank >= 0 && rank < last && n.Reason != v1alpha1.AddressConflict && n.Reason != v1alpha1.AnnounceFailed:
			n.Interfaces, n.Owner = []string{}, ""
			if n.Reason, n.Message = v1alpha1.TakenOver, "ranks higher, but "+current[len(current)-1].Node+" announces it"; byNode(reports, n.Node) >= 0 {
				n.Message += "; its own report is from before the takeover"
			}
		}
	}
}

// addSince adds to the nodes that answer since when they do, by the last Event of their
// speakers. Events are kept for an hour by default. A takeover has its time in the report.
func (a *addressAnnouncement) addSince(s objects.Snapshot, svc *corev1.Service) {
	for i := range a.Nodes {
		n := &a.Nodes[i]
		if len(n.Interfaces) == 0 || strings.HasPrefix(n.Owner, "it has ") {
			continue
		}
		var last time.Time
		for _, e := range s.Events {
			isOf := e.InvolvedObject.Kind == "Service" && e.InvolvedObject.UID == svc.UID && e.Reason == v1alpha1.EventAnnouncing
			if isOf && e.LastTimestamp.After(last) && strings.HasPrefix(e.Message, fmt.Sprintf("node %s announces %s on ", n.Node, a.Address)) {
				last = e.LastTimestamp.Time
			}
		}
		if !last.IsZero() {
			n.Owner += "; announced since " + sinceText(s, last)
		}
	}
}

// sinceText returns a time with its age.
func sinceText(s objects.Snapshot, since time.Time) string {
	text := since.UTC().Format(time.RFC3339)
	if age := s.Controller.Now.Sub(since).Truncate(time.Second); age > 0 {
		text += fmt.Sprintf(" (%s ago)", age)
	}
	return text
}

// takeoverText adds the age of the takeover to its text.
func takeoverText(s objects.Snapshot, all []v1alpha1.Takeover) string {
	return strings.Replace(config.TakeoverText(all), all[0].Since.UTC().Format(time.RFC3339), sinceText(s, all[0].Since.Time), 1)
}

// addNext adds which nodes take the address over from the acting one, and when it moves
// back. Nodes from which it was taken over are successors only if the acting one reports them
// as live.
func (a *addressAnnouncement) addNext(s objects.Snapshot, v speakerplan.AddressState, acting string) {
	var from []string
	for _, r := range reportsAbout(s, v.Addr) {
		for _, t := range r.TakenOver {
			isLive := func(n v1alpha1.Neighbor) bool { return n.Node == t.Node && n.State == failover.Live.String() }
			if r.Node == acting && !slices.ContainsFunc(s.Reports[acting].Neighbors, isLive) {
				from = append(from, t.Node)
			}
		}
	}
	var successors []string
	for _, node := range v.Ranked {
		if node != acting && !slices.Contains(from, node) && len(successors) < maxSuccessors {
			successors = append(successors, node)
		}
	}
	switch first := v.Ranked[0]; {
	case first == acting:
	case !slices.Contains(v.Ranked, acting):
		a.Next = append(a.Next, fmt.Sprintf("%s takes it over as soon as its kube-proxy serves it: %s is about to be removed", first, acting))
	case v.NeverFailsBack:
		a.Next = append(a.Next, fmt.Sprintf("%s does not take it back (failback: Never), unless %s fails, ends or is not eligible any more", first, acting))
	default:
		a.Next = append(a.Next, first+" takes it back 30 s after it is live again")
	}
	if len(successors) > 0 {
		a.Next = append(a.Next, fmt.Sprintf("if %s fails: %s", acting, strings.Join(successors, ", then ")))
	}
	for _, node := range successors {
		for _, n := range s.Reports[node].Neighbors {
			if n.Node == acting && n.Filtered {
				a.Warnings = append(a.Warnings, fmt.Sprintf(
					"%s reports that %s answers ARP or Neighbor Discovery on %s but not BFD, so that it takes over only after up to 3.5 s: "+
						"is UDP port 3784 filtered between %s and %s?", node, acting, n.Interface, acting, node))
			}
		}
	}
}

// reportsAbout returns the reports of nodes that announce the address on interfaces, by name.
func reportsAbout(s objects.Snapshot, addr netip.Addr) (reports []interfaceReport) {
	for _, n := range s.Speaker.Nodes {
		report, ok := s.Reports[n.Name]
		if !ok {
			continue
		}
		for _, group := range report.Announcing {
			if len(group.Interfaces) > 0 && slices.ContainsFunc(group.Addresses, func(text string) bool {
				r, ok := config.ReportedRange(text)
				return ok && r.Contains(addr)
			}) {
				reports = append(reports, interfaceReport{
					config.AnnouncementReport{Node: n.Name, TakenOver: group.TakenOver, LastChange: report.LastChangeTime}, group.Interfaces,
				})
				break
			}
		}
	}
	slices.SortFunc(reports, func(a, b interfaceReport) int { return strings.Compare(a.Node, b.Node) })
	return reports
}
