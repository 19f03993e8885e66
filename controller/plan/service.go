package plan

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-io/fairlead/allocator"
	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/providers"
)

// ServicePlan is all that Fairlead says on a Service. The zero value says
// nothing: it releases the Service.
type ServicePlan struct {
	Finalizers []string
	// The annotations' values; "" is none.
	AllocatedFrom, SharedAs, Leaving string
	// Ingress is written where Serves is true; otherwise status.loadBalancer
	// is left to whoever wrote it.
	Serves     bool
	Ingress    []corev1.LoadBalancerIngress
	Conditions []metav1.Condition // without times
	// NodePorts are given, and where ReturnsPorts is true all that were given
	// are taken back, before anything else is written.
	NodePorts    []NodePort
	ReturnsPorts bool
	// OutOfPool are those addresses that their pools would not give any more,
	// Overdue those whose time beside a new one is over, which nobody announces
	// yet, and GivesUp those that the Service shows and loses, whatever comes in
	// their place. None of it is written.
	OutOfPool, Overdue, GivesUp []netip.Addr
}

// finalizerStandard is the finalizer of the upstream service controller
// (k8s.io/cloud-provider/service/helpers.LoadBalancerCleanupFinalizer), which
// other tools look for on Services without a class.
const finalizerStandard = "service.kubernetes.io/load-balancer-cleanup"

// records are the finalizers that say who serves a Service.
var records = []string{v1alpha1.FinalizerBareMetal, v1alpha1.FinalizerAWS}

func (d *decision) servicePlan(svc *subject, a allocator.Assignment) ServicePlan {
	switch {
	case svc.choice.Verdict == providers.NotOurs || svc.DeletionTimestamp != nil:
		return d.releasePlan(svc)
	case svc.choice.Verdict == providers.Undecided:
		return refused(svc.Service, svc.choice.Reason, svc.choice.Message)
	case svc.choice.Verdict == providers.OnAWS:
		return d.awsPlan(svc, a)
	}
	p := d.bareMetalPlan(svc, a)
	if has(svc.Service, v1alpha1.FinalizerAWS) {
		d.leaveAWS(&p, svc, a)
		p.Conditions[0].Message = config.Message(p.Conditions[0].Message)
	}
	return p
}

// releasePlan releases a Service that is deleted, or that Fairlead does not serve
// any more. What it has in the cloud is deleted first.
func (d *decision) releasePlan(svc *subject) ServicePlan {
	o := d.Cloud[svc.UID]
	if !has(svc.Service, v1alpha1.FinalizerAWS) || o.Gone() {
		return ServicePlan{ReturnsPorts: has(svc.Service, v1alpha1.FinalizerAWS) && hasPortsToReturn(svc.Service)}
	}
	reason, message := v1alpha1.Deleting, "AWS is deleting the balancer"
	switch {
	case d.Policy.AWSLacks != "":
		reason, message = v1alpha1.CloudNotConfigured, d.Policy.AWSLacks
	case o.To == Delete:
		reason, message = o.Reason, o.Message
	}
	p := refused(svc.Service, reason, message)
	p.Serves = p.Serves && svc.choice.Verdict != providers.NotOurs
	return p
}

func (d *decision) bareMetalPlan(svc *subject, a allocator.Assignment) ServicePlan {
	if text, foreign := foreignName(svc.Service); foreign {
		return refused(svc.Service, v1alpha1.ForeignStatus, fmt.Sprintf("the status holds %q, which is no address of a pool: it is left to whoever wrote it", short(text)))
	}
	for _, m := range a.Missing {
		if m.Reason == v1alpha1.ForeignStatus {
			return refused(svc.Service, m.Reason, m.Message)
		}
	}
	provisioned := d.provisioned(svc, a)
	if svc.choice.Fallback != "" && len(a.Held) == 0 {
		// Without an address it is nobody's yet, and AWS's once AWS can.
		return ServicePlan{Serves: len(svc.Status.LoadBalancer.Ingress) > 0, Conditions: []metav1.Condition{provisioned}, GivesUp: a.GivesUp}
	}
	p := ServicePlan{Serves: true, Finalizers: finalizers(svc.Service, v1alpha1.FinalizerBareMetal), GivesUp: a.GivesUp}
	p.give(svc, a.Held, d.Now)
	p.Overdue = d.overdue(svc, a.Held)
	p.Conditions = []metav1.Condition{provisioned, d.reports.announced(a.Held)}
	return p
}

// finalizers are those of a Service that the provider serves.
func finalizers(svc *corev1.Service, provider string) []string {
	if svc.Spec.LoadBalancerClass == nil {
		return []string{provider, finalizerStandard}
	}
	return []string{provider}
}

// give adds addresses, and the records that go with them.
func (p *ServicePlan) give(svc *subject, held []allocator.Held, now time.Time) {
	mode := corev1.LoadBalancerIPModeVIP
	p.Ingress = slices.Grow(p.Ingress, len(held))
	for _, h := range held {
		text := h.Addr.String()
		p.Ingress = append(p.Ingress, corev1.LoadBalancerIngress{IP: text, IPMode: &mode})
		p.AllocatedFrom = appended(p.AllocatedFrom, text+"="+h.Pool)
		if h.OutOfPool || h.Unselected {
			p.OutOfPool = append(p.OutOfPool, h.Addr)
		}
		if h.Leaving {
			p.Leaving = appended(p.Leaving, text+"="+leavingSince(svc.Service, h.Addr, now).Format(time.RFC3339))
		}
	}
	if len(held) > 0 {
		p.SharedAs = svc.terms
	}
}

func appended(list, element string) string {
	if list == "" {
		return element
	}
	return list + "," + element
}

// refused says why a Service is not served. What serves it already stays.
func refused(svc *corev1.Service, reason v1alpha1.Reason, message string) ServicePlan {
	p := asIs(svc)
	p.Conditions = []metav1.Condition{condition(v1alpha1.ConditionProvisioned, metav1.ConditionFalse, reason, message)}
	return p
}

// asIs says what a Service of AWS says already. Bare metal never hesitates.
func asIs(svc *corev1.Service) ServicePlan {
	if !has(svc, v1alpha1.FinalizerAWS) {
		return ServicePlan{}
	}
	p := ServicePlan{
		AllocatedFrom: svc.Annotations[v1alpha1.AnnotationAllocatedFrom],
		SharedAs:      svc.Annotations[v1alpha1.AnnotationSharedAs],
		Leaving:       svc.Annotations[v1alpha1.AnnotationLeaving],
	}
	for _, f := range append([]string{finalizerStandard}, records...) {
		if has(svc, f) {
			p.Finalizers = append(p.Finalizers, f)
		}
	}
	if svc.Spec.Type == corev1.ServiceTypeLoadBalancer {
		p.Serves, p.Ingress = true, svc.Status.LoadBalancer.Ingress
	}
	return p
}

func (d *decision) provisioned(svc *subject, a allocator.Assignment) metav1.Condition {
	refuse := func(reason v1alpha1.Reason, message string) metav1.Condition {
		return condition(v1alpha1.ConditionProvisioned, metav1.ConditionFalse, reason, message)
	}
	if svc.why.Reason != "" {
		return refuse(svc.why.Reason, strings.Join(append([]string{svc.why.Message}, messages(a.Missing)...), "; "))
	}
	fallback := svc.choice.Fallback
	if why := failures(a.Missing); len(why) > 0 {
		if fallback != "" {
			return refuse(v1alpha1.CloudCannotServe, fallback+"; nor can a pool: "+strings.Join(messages(why), "; "))
		}
		return refuse(why[0].Reason, strings.Join(messages(why), "; "))
	}
	reason, message := d.holding(svc, a)
	if fallback != "" {
		reason, message = v1alpha1.CloudCannotServe, message+"; "+fallback
	}
	return condition(v1alpha1.ConditionProvisioned, metav1.ConditionTrue, reason, message)
}

// holding says what a Service has that has all that it must have.
func (d *decision) holding(svc *subject, a allocator.Assignment) (reason v1alpha1.Reason, message string) {
	reason = v1alpha1.Assigned
	for i, h := range a.Held {
		if i > 0 {
			message += "; "
		}
		addr := h.Addr.String()
		switch {
		case h.Leaving:
			reason = v1alpha1.Renumbering
			message += addr + " is kept beside the new address " + d.until(svc, h.Addr)
		case h.OutOfPool:
			message += addr + " is kept, although " + containedBy(h)
		case h.Unselected:
			message += addr + " is kept, although pool " + h.Pool + " does not select this Service any more"
		default:
			message += addr + " from pool " + h.Pool
		}
		if (h.OutOfPool || h.Unselected) && !h.Leaving && reason == v1alpha1.Assigned {
			reason = v1alpha1.OutOfPool
		}
	}
	for _, m := range a.Missing { // it can do without
		message += "; no " + m.Family.String() + " address: " + m.Message
	}
	return reason, message
}

// containedBy says what is wrong with an address that is out of its pool.
func containedBy(h allocator.Held) string {
	if h.Pool == "" {
		return "no pool contains it"
	}
	return "pool " + h.Pool + " does not contain it any more"
}

func failures(missing []allocator.Missing) (failures []allocator.Missing) {
	for _, m := range missing {
		if !m.Optional {
			failures = append(failures, m)
		}
	}
	return failures
}

func messages(refusals []allocator.Missing) (all []string) {
	for _, m := range refusals {
		all = append(all, m.Message)
	}
	return all
}

func has(svc *corev1.Service, finalizer string) bool {
	return slices.Contains(svc.Finalizers, finalizer)
}

// owned reports whether the Service's ingress is ours: a finalizer is the record.
func owned(svc *corev1.Service) bool {
	return slices.ContainsFunc(records, func(f string) bool { return has(svc, f) })
}

// hosts are the balancers' host names in the Service's status.
func hosts(svc *corev1.Service) (hosts []corev1.LoadBalancerIngress) {
	for _, in := range svc.Status.LoadBalancer.Ingress {
		if in.IP == "" {
			hosts = append(hosts, in)
		}
	}
	return hosts
}

// foreignName is what another implementation has put into the status that is no
// address as we would write it: a host name, most often.
func foreignName(svc *corev1.Service) (text string, foreign bool) {
	if owned(svc) {
		return "", false
	}
	for _, in := range svc.Status.LoadBalancer.Ingress {
		if _, err := config.ParseAddr(in.IP); err != nil {
			return cmp.Or(in.Hostname, in.IP), true
		}
	}
	return "", false
}

// allRecorded reports whether every address in the status was given by us.
func allRecorded(svc *corev1.Service) bool {
	return !slices.ContainsFunc(svc.Status.LoadBalancer.Ingress, func(in corev1.LoadBalancerIngress) bool {
		a, err := config.ParseAddr(in.IP)
		return err != nil || !config.Recorded(svc, a)
	})
}

// Records are the values of v1alpha1.RecordAnnotations, in their order; "" is
// none.
func (p ServicePlan) Records() [len(v1alpha1.RecordAnnotations)]string {
	return [...]string{p.AllocatedFrom, p.SharedAs, p.Leaving}
}

// IsZero reports whether the plan releases the Service: nothing of Fairlead's
// stays on it.
func (p ServicePlan) IsZero() bool {
	return !p.Serves && len(p.Finalizers) == 0 && len(p.Conditions) == 0
}

// Managed reports whether plans are made for the Service: it is of type
// LoadBalancer, or has anything that only Fairlead writes, which is to be removed
// from it.
func Managed(svc *corev1.Service) bool {
	return svc.Spec.Type == corev1.ServiceTypeLoadBalancer || touched(svc)
}

// touched reports whether the Service carries anything that only Fairlead writes.
func touched(svc *corev1.Service) bool {
	recorded := slices.ContainsFunc(v1alpha1.RecordAnnotations[:], func(a string) bool { _, has := svc.Annotations[a]; return has })
	return owned(svc) || recorded || slices.ContainsFunc(svc.Status.Conditions, ours)
}

func ours(c metav1.Condition) bool {
	return c.Type == v1alpha1.ConditionProvisioned || c.Type == v1alpha1.ConditionAnnounced
}

// surplusFinalizers are the provider finalizers on the Service that the plan
// does not have.
func (p ServicePlan) surplusFinalizers(svc *corev1.Service) (surplus []string) {
	for _, f := range records {
		if has(svc, f) && !slices.Contains(p.Finalizers, f) {
			surplus = append(surplus, f)
		}
	}
	return surplus
}

// Matches reports whether the Service has everything that the plan has, so that
// there is nothing to write.
func (p ServicePlan) Matches(svc *corev1.Service) bool {
	missing := slices.ContainsFunc(p.Finalizers, func(f string) bool { return !has(svc, f) })
	if missing || len(p.surplusFinalizers(svc)) > 0 || len(p.NodePorts) > 0 {
		return false
	}
	for i, value := range p.Records() {
		if svc.Annotations[v1alpha1.RecordAnnotations[i]] != value {
			return false
		}
	}
	if p.Serves && !slices.EqualFunc(p.Ingress, svc.Status.LoadBalancer.Ingress, sameIngress) {
		return false
	}
	said := 0
	for i := range svc.Status.Conditions {
		if ours(svc.Status.Conditions[i]) {
			said++
		}
	}
	return said == len(p.Conditions) && says(svc.Status.Conditions, p.Conditions)
}

func sameIngress(a, b corev1.LoadBalancerIngress) bool {
	sameMode := a.IPMode == b.IPMode || a.IPMode != nil && b.IPMode != nil && *a.IPMode == *b.IPMode
	return a.IP == b.IP && a.Hostname == b.Hostname && sameMode && equality.Semantic.DeepEqual(a.Ports, b.Ports)
}

// SameConditions compares all but the times, in any order.
func SameConditions(have, want []metav1.Condition) bool {
	return len(have) == len(want) && says(have, want)
}

// says reports whether all the wanted conditions are there.
func says(have, want []metav1.Condition) bool {
	for i := range want {
		w, h := &want[i], apimeta.FindStatusCondition(have, want[i].Type)
		if h == nil || h.Status != w.Status || h.Reason != w.Reason || h.Message != w.Message {
			return false
		}
	}
	return true
}
