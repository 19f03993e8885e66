// Package doctor detects problems of nodes, controllers, Services, configuration objects, pools
// and BGP sessions in a cluster.
//
// It reads an objects.Snapshot and computes the controller's decision itself, so
// that it detects problems also while no controller runs. It changes nothing. The
// result is printed as one line for each finding, the most severe first, and a
// table of the BGP sessions, or encoded as JSON. The exit status of the command is
// 0 without findings and 1 otherwise.
package doctor

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-io/fairlead/cmd/fairlead/objects"
	"github.com/fairlead-io/fairlead/cmd/fairlead/output"
	"github.com/fairlead-io/fairlead/cmd/health"
	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	controllerplan "github.com/fairlead-io/fairlead/controller/plan"
	"github.com/fairlead-io/fairlead/speaker/l2"
)

// Diagnosis is the result of Examine. Its JSON is described in docs/cli.md.
type Diagnosis struct {
	Findings []finding       `json:"findings"` // the most severe first
	Services int             `json:"services"`
	Nodes    int             `json:"nodes"`
	Pools    int             `json:"pools"`
	Peers    int             `json:"peers"`
	Sessions []sessionReport `json:"sessions"`
}

// finding is one problem of one object.
type finding struct {
	Severity severity        `json:"severity"`
	Object   string          `json:"object"`
	Reason   v1alpha1.Reason `json:"reason"`
	Message  string          `json:"message"`
}

// severity orders findings, the most severe first.
type severity int

const (
	severityBroken   severity = iota // no service
	severityDegraded                 // reduced service or redundancy
	severityNotice                   // no action is required now
)

// String returns the severity as printed in text.
func (s severity) String() string { return [...]string{"BROKEN", "DEGRADED", "NOTICE"}[s] }

// MarshalText returns the severity as encoded in JSON.
func (s severity) MarshalText() ([]byte, error) { return []byte(strings.ToLower(s.String())), nil }

// Examine returns all problems in the snapshot. It does not modify the snapshot.
func Examine(s objects.Snapshot) Diagnosis {
	plan := controllerplan.Decide(s.Controller)
	// The list is not nil, so that its JSON is [] and not null.
	findings := slices.Concat([]finding{}, crdFindings(s), listenFindings(s), nodeFindings(s), proxyFindings(s), kernelFindings(s),
		dataPathFindings(s), failoverFindings(s), serviceFindings(s, plan), configFindings(plan), poolFindings(s, plan), sessionFindings(s))
	slices.SortStableFunc(findings, func(a, b finding) int {
		return cmp.Or(cmp.Compare(a.Severity, b.Severity), strings.Compare(a.Object, b.Object))
	})
	return Diagnosis{
		Findings: findings, Sessions: sessionReports(s), Peers: len(s.Speaker.Config.BGPPeers),
		Services: len(s.Controller.Services), Nodes: len(s.Controller.Nodes), Pools: len(s.Controller.Objects.Pools),
	}
}

// Text writes one line for each finding, and a table of the sessions. It returns
// the error of the one write.
func (d Diagnosis) Text(w io.Writer) error {
	var b strings.Builder
	if len(d.Findings) == 0 {
		fmt.Fprintf(&b, "No problems found: %s, %s, %s, %s.\n",
			output.Count(d.Services, "Service", "Services"), output.Count(d.Nodes, "node", "nodes"),
			output.Count(d.Pools, "pool", "pools"), output.Count(d.Peers, "BGP peer", "BGP peers"))
	}
	b.WriteString(output.Table(func(t io.Writer) {
		for _, f := range d.Findings {
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", f.Severity, f.Object, f.Reason, f.Message)
		}
	}))
	if len(d.Sessions) > 0 {
		b.WriteString("\n" + sessionTable(d.Sessions))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// crdFindings returns the kinds that are missing.
func crdFindings(s objects.Snapshot) (found []finding) {
	for _, name := range s.MissingCRDs {
		found = append(found, finding{
			severityBroken, "CustomResourceDefinition " + name, v1alpha1.KindMissing,
			"it is not installed; install it: kubectl apply --server-side -k deploy",
		})
	}
	return found
}

// listenFindings returns the Pods of Fairlead that do not serve their metrics: the last Event
// about it is a failure, and recent. A Pod that still runs repeats it.
func listenFindings(s objects.Snapshot) (found []finding) {
	last := map[string]*corev1.Event{}
	for _, e := range s.Events {
		// Others may write Events in other namespaces.
		isOwn := e.Source.Component == objects.ControllerName || e.Source.Component == objects.SpeakerName
		if e.Namespace != objects.SystemNamespace || !isOwn || e.InvolvedObject.Kind != "Pod" {
			continue
		}
		previous := last[e.InvolvedObject.Name]
		// Their times are in seconds: of two in the same second, the failure is the first.
		if previous == nil || previous.LastTimestamp.Before(&e.LastTimestamp) ||
			previous.LastTimestamp.Equal(&e.LastTimestamp) && previous.Reason == string(v1alpha1.ListenFailed) {
			last[e.InvolvedObject.Name] = e
		}
	}
	for name, e := range last {
		if e.Reason == string(v1alpha1.ListenFailed) && s.Controller.Now.Sub(e.LastTimestamp.Time) < 3*health.FailureInterval {
			found = append(found, finding{severityDegraded, "Pod " + e.Namespace + "/" + name, v1alpha1.ListenFailed, e.Message})
		}
	}
	return found
}

// nodeFindings returns the nodes without a speaker and those that are not Ready.
func nodeFindings(s objects.Snapshot) (found []finding) {
	// One finding replaces those of all nodes: the DaemonSet is missing, or cannot
	// run anywhere.
	if len(s.Controller.Nodes) > 0 && len(s.Controller.Speakers) == 0 {
		return []finding{{
			severityBroken, "DaemonSet fairlead-speaker", v1alpha1.NoSpeaker,
			"no speaker has reported; check: kubectl -n fairlead-system get pods",
		}}
	}
	for _, n := range s.Controller.Nodes {
		reports := slices.ContainsFunc(s.Controller.Speakers, func(reported *v1alpha1.Speaker) bool { return reported.Name == n.Name })
		switch {
		case !reports:
			found = append(found, finding{
				severityDegraded, "Node " + n.Name, v1alpha1.NoSpeaker,
				"the speaker of the node has not reported; check: kubectl -n fairlead-system get pods -o wide",
			})
		case !config.NodeReady(n):
			found = append(found, finding{
				severityDegraded, "Node " + n.Name, v1alpha1.NodeNotReady,
				"the node is not Ready; it announces an address only if no other node can",
			})
		}
	}
	return found
}

// proxyFindings returns the nodes whose kernels answer for the addresses of all Services.
// One finding replaces those of all nodes and Services: kube-proxy has one configuration.
func proxyFindings(s objects.Snapshot) (found []finding) {
	if len(s.Speaker.Config.L2Advertisements) == 0 {
		return nil
	}
	var nodes []string
	for _, n := range s.Controller.Nodes {
		if slices.ContainsFunc(s.Speaker.Interfaces[n.Name], func(i l2.Interface) bool { return i.KernelAnswers }) {
			nodes = append(nodes, n.Name)
		}
	}
	if len(nodes) == 0 || len(s.Controller.Nodes) == 1 { // of one node, no other answers
		return nil
	}
	return []finding{{
		severityDegraded, "DaemonSet kube-proxy", v1alpha1.KernelAnswers,
		"in IPVS mode without strictARP, the kernels of these nodes answer ARP requests for the addresses of all Services: " +
			v1alpha1.Abbreviate(nodes, ", ") + "; set ipvs.strictARP: true in the configuration of kube-proxy, and restart its pods",
	}}
}

// kernelFindings returns the nodes with interfaces that have addresses of Services, according
// to their speakers. Such a report has one message about all addresses. It counts also if the
// node is not Ready: its kernel may go on answering.
func kernelFindings(s objects.Snapshot) (found []finding) {
	for _, n := range s.Controller.Nodes {
		warnings := s.Reports[n.Name].Warnings
		i := slices.IndexFunc(warnings, func(w v1alpha1.AddressReason) bool { return w.Reason == v1alpha1.KernelAnswers })
		if i >= 0 {
			found = append(found, finding{severityDegraded, "Node " + n.Name, v1alpha1.KernelAnswers, warnings[i].Message})
		}
	}
	return found
}

// dataPathFindings returns the nodes that announce addresses without an answer from their
// kube-proxies, or wait for one, according to their speakers.
func dataPathFindings(s objects.Snapshot) (found []finding) {
	var nodes []string
	level := severityNotice // kube-proxy may have been replaced, on all nodes
	for _, n := range s.Controller.Nodes {
		switch report, reported := s.Reports[n.Name]; {
		case !reported || !config.NodeReady(n):
		case report.DataPath == "":
			level = severityDegraded
		default:
			nodes = append(nodes, n.Name+" "+report.DataPath)
		}
	}
	if len(nodes) == 0 {
		return nil
	}
	return []finding{{
		level, "DaemonSet kube-proxy", v1alpha1.DataPathUnverified,
		v1alpha1.Abbreviate(nodes, "; ") + "; check that kube-proxy runs there: kubectl -n kube-system get pods -o wide -l k8s-app=kube-proxy",
	}}
}

// configFindings returns the problems of Fairlead's configuration objects.
func configFindings(plan controllerplan.Plan) (found []finding) {
	for _, p := range plan.Problems {
		found = append(found, finding{severityDegraded, p.Kind + " " + p.Name, p.Reason, p.Field + ": " + p.Message})
	}
	return found
}
