// This file examines the desired conditions of Services, and whether the controller
// has written them.

package doctor

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/fairlead-io/fairlead/cmd/fairlead/objects"
	"github.com/fairlead-io/fairlead/cmd/fairlead/output"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	controllerplan "github.com/fairlead-io/fairlead/controller/plan"
)

// serviceFindings returns the desired conditions of Services that are a problem,
// and a finding if the status of any Service is not the desired one.
func serviceFindings(s objects.Snapshot, plan controllerplan.Plan) (found []finding) {
	outdated, desired := 0, plan.ByKey()
	for _, svc := range s.Controller.Services {
		key := cache.MetaObjectToName(svc)
		p := desired[key.AsNamespacedName()]
		if p == nil || svc.Spec.Type != corev1.ServiceTypeLoadBalancer {
			continue
		}
		add := func(severity severity, reason v1alpha1.Reason, message string) {
			found = append(found, finding{severity, "Service " + key.String(), reason, message})
		}
		for _, c := range p.Conditions {
			reason := v1alpha1.Reason(c.Reason)
			switch {
			case c.Status == metav1.ConditionFalse && reason == v1alpha1.NoAddress: // the condition Provisioned has the cause
			case c.Status == metav1.ConditionFalse && c.Type == v1alpha1.ConditionProvisioned && hasAddress(*p):
				add(severityDegraded, reason, c.Message) // it has an address, but a request is refused
			case c.Status == metav1.ConditionFalse || reason == v1alpha1.NoEndpoints:
				add(severityBroken, reason, c.Message)
			// The Service works, but not in the way that was configured.
			case reason == v1alpha1.OutOfPool || reason == v1alpha1.CloudCannotServe || reason == v1alpha1.UnsupportedAnnotation:
				add(severityNotice, reason, c.Message)
			case reason == v1alpha1.AddressConflict || reason == v1alpha1.ProxyARP: // clients may reach another host
				add(severityDegraded, reason, c.Message)
			case c.Type == v1alpha1.ConditionProvisioned && len(p.Overdue) > 0:
				add(severityDegraded, v1alpha1.Renumbering, "the deadline of the old address has passed: "+c.Message)
			}
		}
		// Another reason has precedence in the condition, and would hide this one.
		if len(p.OutOfPool) > 0 && !hasReason(*p, v1alpha1.OutOfPool) {
			add(severityNotice, v1alpha1.OutOfPool, joinAddrs(p.OutOfPool)+" is kept, although its pool would no longer assign it")
		}
		if note := revertNote(svc, *p); note != "" {
			add(severityDegraded, v1alpha1.Reverted, note)
		} else if statusOutdated(svc, *p) {
			outdated++
		}
	}
	if outdated > 0 {
		found = append(found, finding{
			severityDegraded, "Deployment fairlead-controller", v1alpha1.ControllerBehind,
			"the status of " + output.Count(outdated, "Service", "Services") +
				" is not the desired one; check that a controller is running and can write",
		})
	}
	return found
}

// revertNote describes the writer that reverts what the controller writes: as the
// controller has reported it, or according to the managed fields of a status that is not
// the desired one. It is "" if there is none.
func revertNote(svc *corev1.Service, p controllerplan.ServicePlan) string {
	shown := apimeta.FindStatusCondition(svc.Status.Conditions, v1alpha1.ConditionProvisioned)
	if shown != nil && v1alpha1.Reason(shown.Reason) == v1alpha1.Reverted {
		return shown.Message
	}
	if manager := v1alpha1.OtherIngressManager(svc); manager != "" && p.Serves && statusOutdated(svc, p) {
		return fmt.Sprintf("field manager %q has replaced the addresses that the controller wrote", manager)
	}
	return ""
}

// hasAddress reports whether the Service has an address of a pool.
func hasAddress(p controllerplan.ServicePlan) bool {
	return len(p.Ingress) > 0 && p.AllocatedFrom != ""
}

// statusOutdated reports whether the addresses or reasons in the status differ from
// the desired ones. Messages are not compared, because the running controller may
// be of another version.
func statusOutdated(svc *corev1.Service, p controllerplan.ServicePlan) bool {
	same := func(a, b corev1.LoadBalancerIngress) bool { return a.IP == b.IP && a.Hostname == b.Hostname }
	// The status of a Service that Fairlead does not serve belongs to another
	// controller.
	if p.Serves && !slices.EqualFunc(svc.Status.LoadBalancer.Ingress, p.Ingress, same) {
		return true
	}
	return slices.ContainsFunc(p.Conditions, func(c metav1.Condition) bool {
		have := apimeta.FindStatusCondition(svc.Status.Conditions, c.Type)
		return have == nil || have.Reason != c.Reason
	})
}

func hasReason(p controllerplan.ServicePlan, reason v1alpha1.Reason) bool {
	return slices.ContainsFunc(p.Conditions, func(c metav1.Condition) bool { return c.Reason == string(reason) })
}

func joinAddrs(addrs []netip.Addr) string {
	var texts []string
	for _, a := range addrs {
		texts = append(texts, a.String())
	}
	return strings.Join(texts, ", ")
}
