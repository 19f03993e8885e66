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

// Do is what the cloud shall do about a Service.
type Do int

// What there is to do.
const (
	Nothing Do = iota
	Ensure
	Delete
)

// Work is what the cloud shall do about one Service, as it was seen.
type Work struct {
	Service *corev1.Service
	Do      Do
}

// Outcome is what the cloud has answered about a Service. It is no more than a
// process's memory: without one the Service keeps what it shows.
type Outcome struct {
	To      Do                           // what was asked for
	Ingress []corev1.LoadBalancerIngress // of the last balancer that was ensured
	Report  providers.Report             // about it
	Reason  v1alpha1.Reason              // why the last call failed, "" if it did not
	Message string
}

// Gone reports whether the cloud has nothing left of the Service.
func (o Outcome) Gone() bool { return o.To == Delete && o.Reason == "" }

// Ready reports whether the balancer answers.
func (o Outcome) Ready() bool {
	return o.To == Ensure && o.Reason == "" && o.Report.Ready && len(o.Ingress) > 0
}

// work is what the cloud shall do about a Service. It is never asked before the
// Service carries the finalizer: what it makes would be nobody's to delete.
func (d *decision) work(svc *subject) Do {
	verdict := svc.choice.Verdict
	switch {
	case !has(svc.Service, v1alpha1.FinalizerAWS):
		return Nothing
	case svc.DeletionTimestamp != nil, verdict == providers.NotOurs, verdict == providers.OnBareMetal && len(hosts(svc.Service)) == 0:
		return Delete
	case lacksPorts(svc.Service):
		return Nothing
	}
	return Ensure
}

// awsPlan is the plan for a Service that AWS serves, or is to take over from
// bare metal: then the addresses stay until the balancer answers.
func (d *decision) awsPlan(svc *subject, a allocator.Assignment) ServicePlan {
	if shown := svc.Status.LoadBalancer.Ingress; !owned(svc.Service) && len(shown) > 0 {
		return refused(svc.Service, v1alpha1.ForeignStatus, fmt.Sprintf("the status holds %s, which another implementation wrote: it is left alone, and no balancer is made", cmp.Or(shown[0].Hostname, shown[0].IP)))
	}
	o := d.Cloud[svc.UID]
	p := ServicePlan{
		Serves: true, Finalizers: finalizers(svc.Service, v1alpha1.FinalizerAWS), Ingress: svc.Status.LoadBalancer.Ingress,
		Conditions: []metav1.Condition{d.balancer(svc, o)}, NodePorts: d.ports[svc.key],
	}
	if len(a.Held) > 0 && !o.Ready() {
		p.Finalizers = append(p.Finalizers, v1alpha1.FinalizerBareMetal)
		p.Ingress = hosts(svc.Service)
		p.give(svc, a.Held, d.Now)
		p.Conditions = append(p.Conditions, d.reports.announced(a.Held))
		return p
	}
	if o.To == Ensure && len(o.Ingress) > 0 {
		p.Ingress = o.Ingress
	}
	return p
}

// balancer is the condition Provisioned of a Service on AWS.
func (d *decision) balancer(svc *subject, o Outcome) metav1.Condition {
	is := func(status metav1.ConditionStatus, reason v1alpha1.Reason, message string) metav1.Condition {
		return condition(v1alpha1.ConditionProvisioned, status, reason, message)
	}
	if choice := svc.choice; choice.Reason != "" {
		return is(metav1.ConditionFalse, choice.Reason, choice.Message)
	}
	if has(svc.Service, v1alpha1.FinalizerAWS) && lacksPorts(svc.Service) && len(d.ports[svc.key]) == 0 {
		r := d.NodePorts.orDefault()
		return is(metav1.ConditionFalse, v1alpha1.NodePortsExhausted, fmt.Sprintf("the balancer's targets need a node port for each port of the Service, and none is free in %d-%d", r.Low, r.High))
	}
	switch shown := apimeta.FindStatusCondition(svc.Status.Conditions, v1alpha1.ConditionProvisioned); {
	case o.To != Ensure && has(svc.Service, v1alpha1.FinalizerAWS) && shown != nil:
		return is(shown.Status, v1alpha1.Reason(shown.Reason), shown.Message)
	case o.To != Ensure:
		return is(metav1.ConditionFalse, v1alpha1.Provisioning, "AWS is being asked for a balancer")
	case o.Reason != "":
		return is(metav1.ConditionFalse, o.Reason, o.Message)
	case o.Ready():
		return is(metav1.ConditionTrue, cmp.Or(o.Report.Reason, v1alpha1.Assigned), o.Report.Message)
	}
	return is(metav1.ConditionFalse, cmp.Or(o.Report.Reason, v1alpha1.Provisioning), cmp.Or(o.Report.Message, "AWS is making the balancer"))
}

// leaveAWS keeps the balancer in the plan for a Service that has moved to bare
// metal: in the ingress until the addresses are announced, and then, by its
// finalizer, until the cloud has let go of everything.
func (d *decision) leaveAWS(p *ServicePlan, svc *subject, a allocator.Assignment) {
	o, shown := d.Cloud[svc.UID], hosts(svc.Service)
	if len(shown) == 0 && o.Gone() {
		p.ReturnsPorts = hasPortsToReturn(svc.Service)
		return
	}
	p.Finalizers = append(p.Finalizers, v1alpha1.FinalizerAWS)
	provisioned := &p.Conditions[0]
	if len(shown) == 0 {
		provisioned.Message += "; AWS's balancer is being deleted"
		if o.To == Delete {
			provisioned.Message += ": " + o.Message
		}
		return
	}
	answers := len(a.Missing) == 0 && apimeta.IsStatusConditionTrue(p.Conditions, v1alpha1.ConditionAnnounced) &&
		!slices.ContainsFunc(p.Ingress, func(in corev1.LoadBalancerIngress) bool {
			return !slices.ContainsFunc(svc.Status.LoadBalancer.Ingress, func(shown corev1.LoadBalancerIngress) bool { return shown.IP == in.IP })
		})
	if answers {
		return
	}
	p.Serves, p.Ingress = true, append(shown, p.Ingress...)
	provisioned.Message += fmt.Sprintf("; %s stays until an address is announced", shown[0].Hostname)
}

// taintToBeDeleted is on a node that the cluster autoscaler is about to remove
// (k8s.io/cloud-provider/controllers/service.ToBeDeletedTaint).
const taintToBeDeleted = "ToBeDeletedByClusterAutoscaler"

// Targets are the nodes that a balancer may send traffic to, by name. Whether
// they are Ready is left to its health checks.
func Targets(nodes []*corev1.Node) (targets []*corev1.Node) {
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

// SameTargets reports whether no balancer needs to hear of the change.
func SameTargets(was, now []*corev1.Node) bool {
	return slices.EqualFunc(was, now, func(a, b *corev1.Node) bool {
		return a == b || a.Name == b.Name && a.Spec.ProviderID == b.Spec.ProviderID && equality.Semantic.DeepEqual(a.Labels, b.Labels)
	})
}

// SameWork reports whether the cloud would do nothing else than before.
func SameWork(was, now Work) bool {
	if was.Do != now.Do || was.Service.UID != now.Service.UID {
		return false
	}
	a, b := was.Service, now.Service
	return a == b || now.Do == Delete || equality.Semantic.DeepEqual(a.Spec, b.Spec) && sameAnnotations(a.Annotations, b.Annotations)
}

// sameAnnotations leaves out those that we write.
func sameAnnotations(a, b map[string]string) bool {
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
