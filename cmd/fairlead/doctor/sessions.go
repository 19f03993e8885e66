// This file examines the BGP sessions, as the speakers have reported them in the
// status of their Speaker objects.

package doctor

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/fairlead-io/fairlead/cmd/fairlead/objects"
	"github.com/fairlead-io/fairlead/cmd/fairlead/output"
	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/speaker/bgp"
)

// sessionFindings returns the BGP sessions that are down or incomplete. They are
// broken if the peer has no established session at all, otherwise degraded.
func sessionFindings(s objects.Snapshot) (found []finding) {
	for _, p := range s.Speaker.Config.BGPPeers {
		var down, more []finding
		selected, established := 0, 0
		for _, n := range s.Controller.Nodes {
			if !p.SelectsNode(labels.Set(n.Labels)) {
				continue
			}
			selected++
			// The node has a finding of its own, and its report may be outdated.
			if !config.NodeReady(n) {
				continue
			}
			f := finding{Severity: severityDegraded, Object: fmt.Sprintf("BGPPeer %s from %s", p.Name, n.Name)}
			switch session, reported := s.Session(n.Name, p.Name); {
			// A session that the speaker has not reported is counted as down: its
			// peer may be new to the speaker.
			case !reported:
				f.Reason, f.Message = v1alpha1.NoSpeaker, "the speaker of the node has not reported this session"
				down = append(down, f)
			// A configuration problem is the cause; the last error is only its
			// effect.
			case session.State != bgp.Established.String():
				f.Reason = cmp.Or(session.ProblemReason, v1alpha1.SessionDown)
				f.Message = cmp.Or(session.Problem, session.LastError, "not established yet")
				down = append(down, f)
			default:
				established++
				more = append(more, establishedFindings(f.Object, p, session)...)
			}
		}
		// Without a node there is nothing to report above, yet routes to the peer are
		// never advertised.
		if selected == 0 {
			more = append(more, finding{severityDegraded, "BGPPeer " + p.Name, v1alpha1.NoNode, "nodeSelectors select no node"})
		}
		// A session that is down reduces redundancy while another node has one with
		// the peer.
		for i := range down {
			if established == 0 {
				down[i].Severity = severityBroken
			}
		}
		found = append(found, append(down, more...)...)
	}
	return found
}

// establishedFindings returns the problems of an established session.
func establishedFindings(object string, p config.BGPPeer, session v1alpha1.Session) (found []finding) {
	add := func(severity severity, reason v1alpha1.Reason, message string) {
		found = append(found, finding{severity, object, reason, message})
	}
	if session.Withheld != "" {
		add(severityDegraded, v1alpha1.RoutesWithheld, session.Withheld)
	}
	if session.BFD != "" && session.BFD != "Up" {
		message := cmp.Or(session.BFDMessage, "BFD is "+session.BFD)
		add(severityDegraded, v1alpha1.BFDDown, message+"; a path failure is detected by the hold timer only")
	}
	if len(session.Pending) > 0 {
		add(severityNotice, v1alpha1.ChangePending, strings.Join(session.Pending, ", ")+" takes effect with the next session")
	}
	if p.RestartTime > 0 && strings.Contains(session.GracefulRestart, "does not") {
		add(severityNotice, v1alpha1.NoGracefulRestart, session.GracefulRestart)
	}
	return found
}

// sessionSteps are the steps of establishing a session, in their order.
var sessionSteps = []struct {
	step  bgp.SessionStep
	title string
}{
	{bgp.StepReach, "REACH"},
	{bgp.StepAnswer, "TTL,PASSWORD"},
	{bgp.StepConnect, "PORT"},
	{bgp.StepOpen, "OPEN"},
	{bgp.StepASN, "ASN"},
	{bgp.StepFamilies, "FAMILIES"},
	{bgp.StepAccept, "ACCEPTS"},
}

// sessionReport lists the results of the steps of one session.
type sessionReport struct {
	Peer   string       `json:"peer"`
	Node   string       `json:"node"`
	State  string       `json:"state"`
	Steps  []stepReport `json:"steps"`
	BFD    string       `json:"bfd,omitempty"`
	Routes int64        `json:"routes"`
	// NextHops are those of the routes, one for each family.
	NextHops []string `json:"nextHops,omitempty"`
}

// stepReport is the result of one step: ok, FAIL or ?. The result of the step
// families of an established session is the list of address families.
type stepReport struct {
	Step   bgp.SessionStep `json:"step"`
	Result string          `json:"result"`
}

// sessionReports returns a report for each session. Reports of nodes that are not
// Ready are omitted, because they may be outdated.
func sessionReports(s objects.Snapshot) []sessionReport {
	all := []sessionReport{}
	if len(s.Speaker.Config.BGPPeers) == 0 {
		return all
	}
	for _, reported := range s.Controller.Speakers {
		if !slices.ContainsFunc(s.Controller.Nodes, func(n *corev1.Node) bool { return n.Name == reported.Name && config.NodeReady(n) }) {
			continue
		}
		for _, session := range s.Reports[reported.Name].Sessions {
			all = append(all, sessionReport{
				Peer: session.Peer, Node: reported.Name, State: session.State,
				Steps: stepReports(session), BFD: session.BFD, Routes: session.Routes, NextHops: session.NextHops,
			})
		}
	}
	return all
}

// stepReports returns ok for the steps before the failed one, and ? for those after
// it.
func stepReports(session v1alpha1.Session) (reports []stepReport) {
	failed := false
	for _, s := range sessionSteps {
		result := "ok"
		switch {
		case session.State == bgp.Established.String() && s.step == bgp.StepFamilies:
			result = strings.Join(session.Families, ",")
		case session.State == bgp.Established.String():
		// The steps after the failed one were not tried; without a failed step
		// nothing is known yet.
		case failed || session.FailedAt == "":
			result = "?"
		case s.step == bgp.SessionStep(session.FailedAt):
			failed, result = true, "FAIL"
		}
		reports = append(reports, stepReport{s.step, result})
	}
	return reports
}

// sessionTable has one line for each session, with a column for each step in the
// order in which a session is established.
func sessionTable(sessions []sessionReport) string {
	return output.Table(func(t io.Writer) {
		fmt.Fprint(t, "PEER\tNODE\tSTATE")
		for _, s := range sessionSteps {
			fmt.Fprint(t, "\t", s.title)
		}
		fmt.Fprintln(t, "\tBFD\tROUTES\tNEXT-HOPS")
		for _, s := range sessions {
			fmt.Fprintf(t, "%s\t%s\t%s", s.Peer, s.Node, s.State)
			for _, step := range s.Steps {
				fmt.Fprint(t, "\t", step.Result)
			}
			fmt.Fprintf(t, "\t%s\t%d\t%s\n", cmp.Or(s.BFD, "-"), s.Routes, cmp.Or(strings.Join(s.NextHops, ","), "-"))
		}
	})
}
