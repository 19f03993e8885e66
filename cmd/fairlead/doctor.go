package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/fairlead-io/fairlead/cmd/fairlead/objects"
	"github.com/fairlead-io/fairlead/cmd/fairlead/output"
	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/controller"
)

func doctorCommand(access clientcmd.ClientConfig) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "List every problem that Fairlead can see, worst first. Exits 1 if there is any.",
		Long: `List every problem that Fairlead can see, worst first: Services without an
address or that nobody announces, pools that are used up, overlap or are not
announced, nodes without a speaker, BGP sessions that are not established and at
which step they fail, objects that cannot be used as they are. Exits 1 if there
is any, and changes nothing.

BROKEN is without service now, DEGRADED works with less than it should, NOTICE
is worth knowing.`,
		Args: cobra.NoArgs,
	}
	from := objectFlags(cmd, access)
	policy := policyFlags(cmd)
	check, print := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := check(); err != nil {
			return err
		}
		w, err := from.snapshot(cmd, policy)
		if err != nil {
			return err
		}
		d := examine(w)
		if err := print(d); err != nil {
			return err
		}
		if len(d.Findings) > 0 {
			return errProblems
		}
		return nil
	}
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

// MarshalText is the word for programs.
func (s severity) MarshalText() ([]byte, error) { return []byte(strings.ToLower(s.String())), nil }

// finding is one problem.
type finding struct {
	Severity severity        `json:"severity"`
	Object   string          `json:"object"`
	Reason   v1alpha1.Reason `json:"reason"`
	Message  string          `json:"message"`
}

// errProblems makes doctor exit with 1; what there is to say has been printed.
var errProblems = errors.New("there are problems")

// diagnosis is the answer of doctor.
type diagnosis struct {
	Findings []finding       `json:"findings"`
	Services int             `json:"services"`
	Nodes    int             `json:"nodes"`
	Pools    int             `json:"pools"`
	Peers    int             `json:"peers"`
	Sessions []sessionReport `json:"sessions"`
}

// examine finds all there is to say.
func examine(w objects.Snapshot) diagnosis {
	return diagnosis{
		append([]finding{}, diagnose(w)...), len(w.Controller.Services), len(w.Controller.Nodes), len(w.Controller.Objects.Pools), len(w.Speaker.Config.BGPPeers), preflight(w),
	}
}

// text is a line for each finding, and a table of the sessions.
func (d diagnosis) Text(w io.Writer) error {
	var b strings.Builder
	if len(d.Findings) == 0 {
		fmt.Fprintf(&b, "No problem found: %s, %s, %s, %s.\n", output.Count(d.Services, "Service", "Services"), output.Count(d.Nodes, "node", "nodes"),
			output.Count(d.Pools, "pool", "pools"), output.Count(d.Peers, "BGP peer", "BGP peers"))
	}
	b.WriteString(output.Table(func(t io.Writer) {
		for _, f := range d.Findings {
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", f.Severity, f.Object, f.Reason, f.Message)
		}
	}))
	if len(d.Sessions) > 0 {
		b.WriteString("\n")
		sessionsText(&b, d.Sessions)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// diagnose looks at everything.
func diagnose(w objects.Snapshot) []finding {
	plan := controller.Decide(w.Controller)
	all := slices.Concat(ofNodes(w), ofServices(w, plan), ofObjects(plan), ofPools(w, plan), ofSessions(w))
	slices.SortStableFunc(all, func(a, b finding) int {
		return cmp.Or(cmp.Compare(a.Severity, b.Severity), strings.Compare(a.Object, b.Object))
	})
	return all
}

func ofNodes(w objects.Snapshot) (found []finding) {
	if len(w.Controller.Nodes) > 0 && len(w.Controller.Speakers) == 0 {
		return []finding{{broken, "DaemonSet fairlead-speaker", v1alpha1.NoSpeaker, "no speaker has ever reported: kubectl -n fairlead-system get pods"}}
	}
	for _, n := range w.Controller.Nodes {
		reports := slices.ContainsFunc(w.Controller.Speakers, func(s *v1alpha1.Speaker) bool { return s.Name == n.Name })
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
func ofServices(w objects.Snapshot, plan controller.Plan) (found []finding) {
	stale := 0
	for _, svc := range w.Controller.Services {
		p, ours := plan.Services[keyOf(svc)]
		if !ours || svc.Spec.Type != corev1.ServiceTypeLoadBalancer {
			continue
		}
		for _, c := range p.Conditions {
			switch {
			case c.Status == metav1.ConditionFalse && v1alpha1.Reason(c.Reason) == v1alpha1.NoAddress:
			case c.Status == metav1.ConditionFalse && c.Type == v1alpha1.ConditionProvisioned && len(p.Ingress) > 0 && slices.Contains(p.Finalizers, v1alpha1.FinalizerBareMetal):
				// It has an address, though not what it asks for.
				found = append(found, finding{degraded, "Service " + keyOf(svc).String(), v1alpha1.Reason(c.Reason), c.Message})
			case c.Status == metav1.ConditionFalse:
				found = append(found, finding{broken, "Service " + keyOf(svc).String(), v1alpha1.Reason(c.Reason), c.Message})
			case slices.Contains([]v1alpha1.Reason{v1alpha1.OutOfPool, v1alpha1.CloudCannotServe}, v1alpha1.Reason(c.Reason)):
				found = append(found, finding{notice, "Service " + keyOf(svc).String(), v1alpha1.Reason(c.Reason), c.Message})
			case c.Type == v1alpha1.ConditionProvisioned && len(p.Overdue) > 0:
				found = append(found, finding{degraded, "Service " + keyOf(svc).String(), v1alpha1.Renumbering, "the time of the old address is over: " + c.Message})
			}
		}
		if len(p.OutOfPool) > 0 && !says(p, v1alpha1.OutOfPool) {
			found = append(found, finding{notice, "Service " + keyOf(svc).String(), v1alpha1.OutOfPool, fmt.Sprintf("keeps %s, which its pool would not give any more", listed(p.OutOfPool))})
		}
		if behind(svc, p) {
			stale++
		}
	}
	if stale > 0 {
		found = append(found, finding{degraded, "Deployment fairlead-controller", v1alpha1.ControllerBehind, output.Count(stale, "Service does", "Services do") + " not say what the controller would say: is one running, and able to write?"})
	}
	return found
}

// behind reports whether the controller has yet to say something else on the
// Service. Words are not compared: it may be of another version.
func behind(svc *corev1.Service, p controller.ServicePlan) bool {
	same := func(a, b corev1.LoadBalancerIngress) bool { return a.IP == b.IP && a.Hostname == b.Hostname }
	if p.Serves && !slices.EqualFunc(svc.Status.LoadBalancer.Ingress, p.Ingress, same) {
		return true
	}
	return slices.ContainsFunc(p.Conditions, func(c metav1.Condition) bool {
		have := apimeta.FindStatusCondition(svc.Status.Conditions, c.Type)
		return have == nil || have.Reason != c.Reason
	})
}

func says(p controller.ServicePlan, reason v1alpha1.Reason) bool {
	return slices.ContainsFunc(p.Conditions, func(c metav1.Condition) bool { return c.Reason == string(reason) })
}

func listed(addrs []netip.Addr) string {
	var texts []string
	for _, a := range addrs {
		texts = append(texts, a.String())
	}
	return strings.Join(texts, ", ")
}

// ofObjects are the problems of what the user asked for.
func ofObjects(plan controller.Plan) (found []finding) {
	for _, p := range plan.Problems {
		found = append(found, finding{degraded, p.Kind + " " + p.Name, p.Reason, p.Field + ": " + p.Message})
	}
	return found
}

func keyOf(svc *corev1.Service) types.NamespacedName {
	return types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}
}
