package plan

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-io/fairlead/allocator"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/providers"
)

// CloudAction is what the cloud must do for a Service.
type CloudAction int

// The actions.
const (
	NoAction CloudAction = iota
	EnsureBalancer
	DeleteBalancer
)

// CloudRequest is the action for one Service, in the version that was decided upon.
type CloudRequest struct {
	Service *corev1.Service
	Action  CloudAction
}

// CloudOutcome is the result of the last call of the cloud for a Service. It is kept
// in memory only: without one the Service keeps its status.
type CloudOutcome struct {
	Action  CloudAction                  // of the call
	Ingress []corev1.LoadBalancerIngress // of the last load balancer that was ensured
	Report  providers.Report             // about it
	Reason  v1alpha1.Reason              // why the last call failed, "" if it did not
	Message string
}

// Deleted reports whether the cloud has deleted everything that belonged to the
// Service.
func (o CloudOutcome) Deleted() bool { return o.Action == DeleteBalancer && o.Reason == "" }

// Ready reports whether the load balancer accepts traffic.
func (o CloudOutcome) Ready() bool {
	return o.Action == EnsureBalancer && o.Reason == "" && o.Report.Ready && len(o.Ingress) > 0
}

// cloudAction is what the cloud must do for a Service.
func (d *decision) cloudAction(svc *serviceState) CloudAction {
	verdict := svc.choice.Verdict
	switch {
	// Nothing was created.
	case !v1alpha1.MayHaveLoadBalancer(svc.Service):
		return NoAction
	// Under another name of the cluster a deletion would find nothing, and succeed.
	case d.Policy.RefusesAWS(svc.Service).Reason != "":
		return NoAction
	// A Service that has moved to bare metal keeps its load balancer for as long as
	// its status shows the host name (make before break).
	case svc.DeletionTimestamp != nil, verdict == providers.NotOurs, verdict == providers.OnBareMetal && len(hostIngress(svc.Service)) == 0:
		return DeleteBalancer
	// Without the finalizer or the record a load balancer would be orphaned if the
	// Service were deleted.
	case !hasFinalizer(svc.Service, v1alpha1.FinalizerAWS), !v1alpha1.HasOwnLoadBalancer(svc.Service):
		return NoAction
	// Targets are registered by node port, which must be allocated first.
	case lacksNodePorts(svc.Service):
		return NoAction
	}
	return EnsureBalancer
}

// awsPlan is the plan for a Service that AWS serves, or that moves from bare metal
// to AWS: such a Service keeps its addresses until the load balancer is ready.
func (d *decision) awsPlan(svc *serviceState, a allocator.Assignment) ServicePlan {
	// Another controller may still serve it: a second load balancer would only cost.
	if shown := svc.Status.LoadBalancer.Ingress; len(shown) > 0 && !ownsStatus(svc.Service) && !v1alpha1.OwnsIngress(svc.Service) {
		message := "status.loadBalancer holds %s, which another implementation wrote; it is left unchanged, and no load balancer is created"
		return d.refusedPlan(svc.Service, v1alpha1.ForeignStatus, fmt.Sprintf(message, cmp.Or(shown[0].Hostname, shown[0].IP)))
	}
	o := d.Cloud[svc.UID]
	p := ServicePlan{
		Serves: true, Finalizers: append([]string{v1alpha1.FinalizerAWS}, cleanupFinalizer(svc.Service)...),
		// An address that is not held may be assigned to another Service, even if another
		// controller wrote it.
		LoadBalancer: d.loadBalancerRecord(svc.Service), Ingress: hostIngress(svc.Service),
		Conditions: []metav1.Condition{d.balancerCondition(svc, o)}, NodePorts: d.chosenPorts[svc.key], Releases: a.GivesUp,
	}
	// It still serves its addresses: the host name is shown after they are released.
	if len(a.Held) > 0 && !o.Ready() {
		p.addAddresses(svc, a.Held, d.Now)
		p.Conditions = p.withSharedCondition(p.Conditions[0], d.announcedCondition(a.Held))
		return p
	}
	// Without an outcome, as after a restart, the host name stays.
	if o.Action == EnsureBalancer && len(o.Ingress) > 0 {
		p.Ingress = o.Ingress
	}
	return p
}

// balancerCondition is the condition Provisioned of a Service on AWS.
func (d *decision) balancerCondition(svc *serviceState, o CloudOutcome) metav1.Condition {
	is := func(status metav1.ConditionStatus, reason v1alpha1.Reason, message string) metav1.Condition {
		return newCondition(v1alpha1.ConditionProvisioned, status, reason, message)
	}
	// The request itself is invalid: what the cloud answered matters less.
	if choice := svc.choice; choice.Reason != "" {
		return is(metav1.ConditionFalse, choice.Reason, choice.Message)
	}
	// The cloud is not called, so that no outcome would explain it.
	if v1alpha1.HasOwnLoadBalancer(svc.Service) && lacksNodePorts(svc.Service) && len(d.chosenPorts[svc.key]) == 0 {
		r := d.NodePorts.orDefault()
		return is(metav1.ConditionFalse, v1alpha1.NodePortsExhausted,
			fmt.Sprintf("load balancer targets need a node port for each port of the Service, and none is free in %d-%d", r.Low, r.High))
	}
	switch shown := apimeta.FindStatusCondition(svc.Status.Conditions, v1alpha1.ConditionProvisioned); {
	// After a restart, the condition is kept until the first outcome.
	case o.Action != EnsureBalancer && v1alpha1.HasOwnLoadBalancer(svc.Service) && shown != nil:
		return is(shown.Status, v1alpha1.Reason(shown.Reason), shown.Message)
	case o.Action != EnsureBalancer:
		return is(metav1.ConditionFalse, v1alpha1.Provisioning, "requesting a load balancer from AWS")
	// A failed call outweighs the report of an earlier one.
	case o.Reason != "":
		return is(metav1.ConditionFalse, o.Reason, o.Message)
	// The report of a working load balancer may add a reason of its own.
	case o.Ready():
		reason, message := cmp.Or(o.Report.Reason, v1alpha1.Assigned), o.Report.Message
		if text := poolOnlyMessage(svc.Service); text != "" {
			message += "; " + text
			if reason == v1alpha1.Assigned {
				reason = v1alpha1.UnsupportedAnnotation
			}
		}
		return is(metav1.ConditionTrue, reason, message)
	}
	message := cmp.Or(o.Report.Message, "AWS is creating the load balancer")
	return is(metav1.ConditionFalse, cmp.Or(o.Report.Reason, v1alpha1.Provisioning), message)
}

// keepBalancer keeps the load balancer in the plan for a Service that has moved to
// bare metal: in the ingress until the addresses are announced, and then, by its
// finalizer and record, until the cloud has deleted everything.
func (d *decision) keepBalancer(p *ServicePlan, svc *serviceState, a allocator.Assignment) {
	o, shown := d.Cloud[svc.UID], hostIngress(svc.Service)
	p.RemovesCleanup = true
	// The move is complete.
	if len(shown) == 0 && o.Deleted() {
		p.ReleasesNodePorts = hasNodePortsToRelease(svc.Service)
		return
	}
	p.Finalizers, p.LoadBalancer = append(p.Finalizers, v1alpha1.FinalizerAWS), d.loadBalancerRecord(svc.Service)
	provisioned := &p.Conditions[0]
	// The status shows addresses only: no new client uses the load balancer.
	if len(shown) == 0 {
		provisioned.Message += "; the AWS load balancer is being deleted"
		if o.Action == DeleteBalancer {
			provisioned.Message += ": " + o.Message
		}
		return
	}
	// The addresses must be announced and shown by the Service before the host name
	// is removed (make before break).
	replaced := len(a.Missing) == 0 && apimeta.IsStatusConditionTrue(p.Conditions, v1alpha1.ConditionAnnounced) &&
		!slices.ContainsFunc(p.Ingress, func(in corev1.LoadBalancerIngress) bool {
			return !slices.ContainsFunc(svc.Status.LoadBalancer.Ingress, func(shown corev1.LoadBalancerIngress) bool { return shown.IP == in.IP })
		})
	if replaced {
		return
	}
	p.Serves, p.Ingress = true, append(shown, p.Ingress...)
	provisioned.Message += fmt.Sprintf("; %s is kept until an address is announced", shown[0].Hostname)
}

// taintToBeDeleted is on a node that the cluster autoscaler is about to remove
// (k8s.io/cloud-provider/controllers/service.ToBeDeletedTaint).
const taintToBeDeleted = "ToBeDeletedByClusterAutoscaler"

// TargetNodes are the nodes that a load balancer may send traffic to, sorted by
// name. Whether they are Ready is left to its health checks.
func TargetNodes(nodes []*corev1.Node) (targets []*corev1.Node) {
	for _, n := range nodes {
		label, labelled := n.Labels[corev1.LabelNodeExcludeBalancers]
		exclude, err := strconv.ParseBool(label)
		excluded := labelled && (exclude || err != nil)
		leaving := slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == taintToBeDeleted })
		if n.DeletionTimestamp == nil && !excluded && !leaving {
			targets = append(targets, n)
		}
	}
	slices.SortFunc(targets, func(a, b *corev1.Node) int { return cmp.Compare(a.Name, b.Name) })
	return targets
}

// SameTargetNodes reports whether the change of nodes requires no update of any
// load balancer.
func SameTargetNodes(was, now []*corev1.Node) bool {
	return slices.EqualFunc(was, now, func(a, b *corev1.Node) bool {
		return a == b ||
			a.Name == b.Name && a.Spec.ProviderID == b.Spec.ProviderID && equality.Semantic.DeepEqual(a.Labels, b.Labels)
	})
}

// SameCloudRequest reports whether the cloud would do the same as before.
func SameCloudRequest(was, now CloudRequest) bool {
	if was.Action != now.Action || was.Service.UID != now.Service.UID {
		return false
	}
	a, b := was.Service, now.Service
	// Annotations can protect a load balancer from deletion.
	return a == b || (now.Action == DeleteBalancer || equality.Semantic.DeepEqual(a.Spec, b.Spec)) &&
		sameUserAnnotations(a.Annotations, b.Annotations)
}

// sameUserAnnotations compares annotations, except those that Fairlead writes.
func sameUserAnnotations(a, b map[string]string) bool {
	for k, v := range a {
		if other, ok := b[k]; !slices.Contains(v1alpha1.RecordAnnotations[:], k) && (!ok || other != v) {
			return false
		}
	}
	for k := range b {
		if _, ok := a[k]; !slices.Contains(v1alpha1.RecordAnnotations[:], k) && !ok {
			return false
		}
	}
	return true
}
