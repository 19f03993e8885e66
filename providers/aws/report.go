package aws

import (
	"fmt"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/providers"
)

// report is what the memory keeps for the Service's status and condition.
// While a balancer is replaced the old one's name is shown until the new one
// answers.
func (w *work) report(b elb.LoadBalancer) {
	m := w.memory
	m.status, m.base, m.stage = statusOf(b), w.base(b), ""
	m.report = providers.Report{Ready: true, Reason: v1alpha1.Assigned}
	switch state := stateOf(b); {
	case w.old != nil && !answers(b):
		m.unfinished, m.stage = true, fmt.Sprintf("; it replaces %s as soon as AWS has finished it", aws.ToString(w.old.LoadBalancerName))
		m.report.Reason, m.status = v1alpha1.Provisioning, statusOf(*w.old)
	case w.old != nil:
		m.unfinished, m.stage = true, fmt.Sprintf("; it replaces %s, which stays for some minutes, until clients know the new name and a target is healthy", aws.ToString(w.old.LoadBalancerName))
	case state == elb.LoadBalancerStateEnumActive:
	case state == elb.LoadBalancerStateEnumActiveImpaired:
		m.stage = "; AWS lacks resources to scale it up (active_impaired)"
	case state == elb.LoadBalancerStateEnumProvisioning:
		m.report = providers.Report{Reason: v1alpha1.Provisioning, Again: w.again}
		m.stage = "; AWS is still making it, which takes one to three minutes"
	default:
		m.report = providers.Report{Reason: v1alpha1.CloudFailed, Again: w.again}
		m.stage = fmt.Sprintf("; its state is %s: %s", state, aws.ToString(b.State.Reason))
	}
	if m.unfinished || len(m.lost) > 0 {
		m.report.Again = w.again
	}
	m.say()
}

func (w *work) base(b elb.LoadBalancer) string {
	scheme := string(b.Scheme)
	if scheme == "" {
		scheme = string(w.want.Scheme)
	}
	return fmt.Sprintf("%s Network Load Balancer %s in %s", scheme, aws.ToString(b.LoadBalancerName), w.conn.region)
}

// tell adds the targets to the report, and those that are none.
func (m *memory) tell(instances []instance) {
	m.lost, m.alone = nil, len(instances) == 0
	for _, t := range m.chosen {
		if !slices.ContainsFunc(instances, func(i instance) bool { return i.ID == t.Instance }) || !m.bad[t.Instance].IsZero() {
			m.lost = append(m.lost, t.Node)
		}
	}
	m.say()
}

// say composes the report's message.
func (m *memory) say() {
	used := 0
	if len(m.groups) > 0 {
		used = len(m.groups[0].instances)
	}
	m.report.Message = fmt.Sprintf("%s, %s%s", m.base, plural(used, "target"), m.stage)
	switch m.report.Reason {
	case v1alpha1.Assigned, v1alpha1.NoTargets:
		m.report.Reason = v1alpha1.Assigned
		if m.alone {
			m.report.Reason = v1alpha1.NoTargets
			m.report.Message += "; no node can be a target any more, so the last targets stay"
		}
	}
	if len(m.lost) > 0 {
		m.report.Message += fmt.Sprintf("; no target: %s, whose instances AWS does not know, or does not accept", list(m.lost))
	}
	if cut := len(m.chosen) - used - len(m.lost); cut > 0 {
		m.report.Message += fmt.Sprintf("; %s left out: the balancer can have %d targets for each of its %d ports in a zone; choose with the annotation %starget-node-labels", plural(cut, "node"), m.most, len(m.groups), prefix)
	}
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func list(names []string) string {
	const most = 3
	if len(names) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
	}
	return strings.Join(names, ", ")
}
