package main

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

// ofSessions are the problems that the speakers have with routers.
func ofSessions(w objects.Snapshot) (found []finding) {
	for _, p := range w.Speaker.Config.BGPPeers {
		var down, more []finding
		up, selected := 0, 0
		for _, n := range w.Controller.Nodes {
			if !p.SelectsNode(labels.Set(n.Labels)) {
				continue
			}
			selected++
			if !config.NodeReady(n) {
				continue
			}
			object := fmt.Sprintf("BGPPeer %s from %s", p.Name, n.Name)
			s, reported := w.Session(n.Name, p.Name)
			switch {
			case !reported:
				down = append(down, finding{degraded, object, v1alpha1.NoSpeaker, "the node's speaker has not reported about it"})
				continue
			case s.State != bgp.Established.String():
				down = append(down, finding{degraded, object, cmp.Or(s.ProblemReason, v1alpha1.SessionDown), cmp.Or(s.Problem, s.LastError, "not established yet")})
				continue
			}
			up++
			if s.Withheld != "" {
				more = append(more, finding{degraded, object, v1alpha1.RoutesWithheld, s.Withheld})
			}
			if s.BFD != "" && s.BFD != "Up" {
				more = append(more, finding{degraded, object, v1alpha1.BFDDown, cmp.Or(s.BFDMessage, "is "+s.BFD) + ": a dead path is noticed by the hold timer only"})
			}
			if len(s.Pending) > 0 {
				more = append(more, finding{notice, object, v1alpha1.ChangePending, strings.Join(s.Pending, ", ") + ": takes effect with the next session"})
			}
			if p.RestartTime > 0 && strings.Contains(s.GracefulRestart, "does not") {
				more = append(more, finding{notice, object, v1alpha1.NoGracefulRestart, s.GracefulRestart})
			}
		}
		if selected == 0 {
			more = append(more, finding{degraded, "BGPPeer " + p.Name, v1alpha1.NoNode, "its nodeSelectors select no node"})
		}
		for i := range down {
			if up == 0 {
				down[i].Severity = broken
			}
		}
		found = append(found, append(down, more...)...)
	}
	return found
}

// steps of a session, in the order in which they can fail.
var steps = []struct {
	step  bgp.Step
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

// sessionReport is how far one session gets.
type sessionReport struct {
	Peer  string `json:"peer"`
	Node  string `json:"node"`
	State string `json:"state"`
	// Steps are ok, FAIL or ?, in the order in which they are taken; the
	// families of an established session are named instead.
	Steps  []stepReport `json:"steps"`
	BFD    string       `json:"bfd,omitempty"`
	Routes int64        `json:"routes"`
}

// stepReport is one step of it.
type stepReport struct {
	Step   bgp.Step `json:"step"`
	Result string   `json:"result"`
}

// preflight says how far each session gets. The last word of a speaker whose
// node is not Ready is left out: it may be old.
func preflight(w objects.Snapshot) []sessionReport {
	all := []sessionReport{}
	if len(w.Speaker.Config.BGPPeers) == 0 {
		return all
	}
	for _, speaker := range w.Controller.Speakers {
		if !slices.ContainsFunc(w.Controller.Nodes, func(n *corev1.Node) bool { return n.Name == speaker.Name && config.NodeReady(n) }) {
			continue
		}
		for _, s := range speaker.Status.Sessions {
			r := sessionReport{Peer: s.Peer, Node: speaker.Name, State: s.State, BFD: s.BFD, Routes: s.Routes}
			for i, mark := range marks(s) {
				r.Steps = append(r.Steps, stepReport{steps[i].step, mark})
			}
			all = append(all, r)
		}
	}
	return all
}

// sessionsText is a table of them.
func sessionsText(b *strings.Builder, sessions []sessionReport) {
	b.WriteString(output.Table(func(t io.Writer) {
		fmt.Fprint(t, "PEER\tNODE\tSTATE")
		for _, s := range steps {
			fmt.Fprint(t, "\t", s.title)
		}
		fmt.Fprintln(t, "\tBFD\tROUTES")
		for _, s := range sessions {
			fmt.Fprintf(t, "%s\t%s\t%s", s.Peer, s.Node, s.State)
			for _, step := range s.Steps {
				fmt.Fprint(t, "\t", step.Result)
			}
			fmt.Fprintf(t, "\t%s\t%d\n", cmp.Or(s.BFD, "-"), s.Routes)
		}
	}))
}

// marks are ok up to the step that failed, and unknown behind it.
func marks(s v1alpha1.Session) (marks []string) {
	failed := false
	for _, step := range steps {
		switch {
		case s.State == bgp.Established.String() && step.step == bgp.StepFamilies:
			marks = append(marks, strings.Join(s.Families, ","))
		case s.State == bgp.Established.String():
			marks = append(marks, "ok")
		case failed || s.FailedAt == "":
			marks = append(marks, "?")
		case step.step == bgp.Step(s.FailedAt):
			failed = true
			marks = append(marks, "FAIL")
		default:
			marks = append(marks, "ok")
		}
	}
	return marks
}
