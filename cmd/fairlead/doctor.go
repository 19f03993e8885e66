package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/controller"
	"github.com/fairlead-io/fairlead/providers"
	"github.com/fairlead-io/fairlead/speaker/bgp"
)

func doctorCommand(access clientcmd.ClientConfig) *cobra.Command {
	var policy func([]*corev1.Service) (providers.Policy, error)
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "List every problem that Fairlead can see, worst first. Exits 1 if there is any.",
		Long: `List every problem that Fairlead can see, worst first: Services without an
address or that nobody announces, nodes without a speaker, BGP sessions that are
not established and at which step they fail, objects that cannot be used as they
are. Exits 1 if there is any, and changes nothing.

BROKEN is without service now, DEGRADED works with less than it should, NOTICE
is worth knowing.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), time.Minute)
			defer cancel()
			w, err := look(ctx, access)
			if err != nil {
				return err
			}
			if w.cluster.Policy, err = policy(w.cluster.Services); err != nil {
				return err
			}
			return report(cmd.OutOrStdout(), w)
		},
	}
	policy = policyFlags(cmd)
	return cmd
}

// severity orders findings, the worst first.
type severity int

const (
	broken severity = iota
	degraded
	notice
)

// String is the severity in a word.
func (s severity) String() string { return [...]string{"BROKEN", "DEGRADED", "NOTICE"}[s] }

// finding is one problem.
type finding struct {
	severity
	object  string
	reason  v1alpha1.Reason
	message string
}

// errProblems makes doctor exit with 1; what there is to say has been printed.
var errProblems = errors.New("there are problems")

// report prints all findings.
func report(out io.Writer, w world) error {
	var b strings.Builder
	findings := diagnose(w)
	if len(findings) == 0 {
		fmt.Fprintf(&b, "No problem found: %d Services, %d nodes, %d BGP peers.\n", len(w.cluster.Services), len(w.cluster.Nodes), len(w.nodes.Config.BGPPeers))
	} else {
		table(&b, func(t io.Writer) {
			for _, f := range findings {
				fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", f.severity, f.object, f.reason, f.message)
			}
		})
	}
	preflight(&b, w)
	if _, err := io.WriteString(out, b.String()); err != nil {
		return fmt.Errorf("print the findings: %w", err)
	}
	if len(findings) > 0 {
		return errProblems
	}
	return nil
}

// diagnose looks at everything.
func diagnose(w world) []finding {
	all := slices.Concat(ofNodes(w), ofServices(w), ofObjects(w), ofSessions(w))
	slices.SortStableFunc(all, func(a, b finding) int {
		return cmp.Or(cmp.Compare(a.severity, b.severity), strings.Compare(a.object, b.object))
	})
	return all
}

func ofNodes(w world) (found []finding) {
	if len(w.cluster.Nodes) > 0 && len(w.cluster.Speakers) == 0 {
		return []finding{{broken, "DaemonSet fairlead-speaker", v1alpha1.NoSpeaker, "no speaker has ever reported: kubectl -n fairlead-system get pods"}}
	}
	for _, n := range w.cluster.Nodes {
		reports := slices.ContainsFunc(w.cluster.Speakers, func(s *v1alpha1.Speaker) bool { return s.Name == n.Name })
		switch {
		case !reports:
			found = append(found, finding{degraded, "Node " + n.Name, v1alpha1.NoSpeaker, "its speaker has never reported: kubectl -n fairlead-system get pods -o wide"})
		case !config.NodeReady(n):
			found = append(found, finding{degraded, "Node " + n.Name, v1alpha1.NodeNotReady, "it is not Ready, and announces nothing if another node can"})
		}
	}
	return found
}

// ofServices asks the controller's own decision, so that a controller that is
// not running hides nothing.
func ofServices(w world) (found []finding) {
	plan := controller.Decide(w.cluster)
	stale := 0
	for _, svc := range w.cluster.Services {
		p, ours := plan.Services[keyOf(svc)]
		if !ours || svc.Spec.Type != corev1.ServiceTypeLoadBalancer {
			continue
		}
		for _, c := range p.Conditions {
			switch {
			case c.Status == metav1.ConditionFalse && v1alpha1.Reason(c.Reason) == v1alpha1.NoAddress:
			case c.Status == metav1.ConditionFalse:
				found = append(found, finding{broken, "Service " + keyOf(svc).String(), v1alpha1.Reason(c.Reason), c.Message})
			case slices.Contains([]v1alpha1.Reason{v1alpha1.OutOfPool, v1alpha1.CloudCannotServe}, v1alpha1.Reason(c.Reason)):
				found = append(found, finding{notice, "Service " + keyOf(svc).String(), v1alpha1.Reason(c.Reason), c.Message})
			}
			have := apimeta.FindStatusCondition(svc.Status.Conditions, c.Type)
			if have == nil || have.Reason != c.Reason {
				stale++
			}
		}
	}
	if stale > 0 {
		found = append(found, finding{degraded, "Deployment fairlead-controller", v1alpha1.ControllerBehind, fmt.Sprintf("%d conditions of Services are not what they should be: is a controller running, and able to write?", stale)})
	}
	return found
}

// ofObjects are the problems of what the user asked for.
func ofObjects(w world) (found []finding) {
	c, problems := config.Parse(w.cluster.Objects)
	for _, p := range problems {
		found = append(found, finding{degraded, p.Kind + " " + p.Name, p.Reason, p.Field + ": " + p.Message})
	}
	var scopes []config.Scope
	for _, ad := range c.L2Advertisements {
		scopes = append(scopes, ad.Scope)
	}
	for _, ad := range c.BGPAdvertisements {
		scopes = append(scopes, ad.Scope)
	}
	for _, p := range c.Pools {
		if !slices.ContainsFunc(scopes, func(s config.Scope) bool { return s.Covers(p.Name) }) {
			found = append(found, finding{degraded, "IPAddressPool " + p.Name, v1alpha1.NoAdvertisement, "no L2Advertisement and no BGPAdvertisement covers it"})
		}
	}
	return found
}

// ofSessions are the problems that the speakers have with routers.
func ofSessions(w world) (found []finding) {
	for _, p := range w.nodes.Config.BGPPeers {
		var down, more []finding
		up, selected := 0, 0
		for _, n := range w.cluster.Nodes {
			if !p.SelectsNode(labels.Set(n.Labels)) {
				continue
			}
			selected++
			if !config.NodeReady(n) {
				continue
			}
			object := fmt.Sprintf("BGPPeer %s from %s", p.Name, n.Name)
			s, reported := sessionOf(w, n.Name, p.Name)
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
				down[i].severity = broken
			}
		}
		found = append(found, append(down, more...)...)
	}
	return found
}

func sessionOf(w world, node, peer string) (v1alpha1.Session, bool) {
	for _, s := range w.cluster.Speakers {
		if s.Name == node {
			if i := slices.IndexFunc(s.Status.Sessions, func(s v1alpha1.Session) bool { return s.Peer == peer }); i >= 0 {
				return s.Status.Sessions[i], true
			}
		}
	}
	return v1alpha1.Session{}, false
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

// preflight prints how far each session gets.
func preflight(b *strings.Builder, w world) {
	if len(w.nodes.Config.BGPPeers) == 0 {
		return
	}
	b.WriteString("\n")
	table(b, func(t io.Writer) {
		fmt.Fprint(t, "PEER\tNODE\tSTATE")
		for _, s := range steps {
			fmt.Fprint(t, "\t", s.title)
		}
		fmt.Fprintln(t, "\tBFD\tROUTES")
		for _, speaker := range w.cluster.Speakers {
			stale := !slices.ContainsFunc(w.cluster.Nodes, func(n *corev1.Node) bool { return n.Name == speaker.Name && config.NodeReady(n) })
			for _, s := range speaker.Status.Sessions {
				if stale {
					continue // its last word, and perhaps long ago
				}
				fmt.Fprintf(t, "%s\t%s\t%s", s.Peer, speaker.Name, s.State)
				for _, mark := range marks(s) {
					fmt.Fprint(t, "\t", mark)
				}
				fmt.Fprintf(t, "\t%s\t%d\n", cmp.Or(s.BFD, "-"), s.Routes)
			}
		}
	})
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
