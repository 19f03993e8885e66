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
	NodePorts         []NodePort
	ReleasesNodePorts bool
	// OutOfPool are those addresses that their pools would not give any more,
	// Overdue those whose time beside a new one is over, which nobody announces
	// yet, and GivesUp those that the Service shows and loses, whatever comes in
	// their place. None of it is written.
	OutOfPool, Overdue, Releases []netip.Addr
}

// finalizerStandard is the finalizer of the upstream service controller
// (k8s.io/cloud-provider/service/helpers.LoadBalancerCleanupFinalizer), which
// other tools look for on Services without a class.
const finalizerStandard = "service.kubernetes.io/load-balancer-cleanup"

// providerFinalizers are the finalizers that say who serves a Service.
var providerFinalizers = []string{v1alpha1.FinalizerBareMetal, v1alpha1.FinalizerAWS}

func (d *decision) servicePlan(svc *serviceState, a allocator.Assignment) ServicePlan {
	switch {
	case svc.choice.Verdict == providers.NotOurs || svc.DeletionTimestamp != nil:
		return d.releasePlan(svc)
	case svc.choice.Verdict == providers.Undecided:
		return refusedPlan(svc.Service, svc.choice.Reason, svc.choice.Message)
	case svc.choice.Verdict == providers.OnAWS:
		return d.awsPlan(svc, a)
	}
	p := d.bareMetalPlan(svc, a)
	if hasFinalizer(svc.Service, v1alpha1.FinalizerAWS) {
		d.keepBalancer(&p, svc, a)
		p.Conditions[0].Message = config.Message(p.Conditions[0].Message)
	}
	return p
}

// releasePlan releases a Service that is deleted, or that Fairlead does not serve
// any more. What it has in the cloud is deleted first.
func (d *decision) releasePlan(svc *serviceState) ServicePlan {
	o := d.Cloud[svc.UID]
	if !hasFinalizer(svc.Service, v1alpha1.FinalizerAWS) || o.Deleted() {
		return ServicePlan{ReleasesNodePorts: hasFinalizer(svc.Service, v1alpha1.FinalizerAWS) && hasNodePortsToRelease(svc.Service)}
	}
	reason, message := v1alpha1.Deleting, "AWS is deleting the balancer"
	switch {
	case d.Policy.AWSLacks != "":
		reason, message = v1alpha1.CloudNotConfigured, d.Policy.AWSLacks
	case o.Action == DeleteBalancer:
		reason, message = o.Reason, o.Message
	}
	p := refusedPlan(svc.Service, reason, message)
	p.Serves = p.Serves && svc.choice.Verdict != providers.NotOurs
	return p
}

func (d *decision) bareMetalPlan(svc *serviceState, a allocator.Assignment) ServicePlan {
	if text, foreign := foreignIngress(svc.Service); foreign {
		return refusedPlan(svc.Service, v1alpha1.ForeignStatus, fmt.Sprintf("the status holds %q, which is no address of a pool: it is left to whoever wrote it", truncateText(text)))
	}
	for _, m := range a.Missing {
		if m.Reason == v1alpha1.ForeignStatus {
			return refusedPlan(svc.Service, m.Reason, m.Message)
		}
	}
	provisioned := d.provisionedCondition(svc, a)
	if svc.choice.Fallback != "" && len(a.Held) == 0 {
		// Without an address it is nobody's yet, and AWS's once AWS can.
		return ServicePlan{Serves: len(svc.Status.LoadBalancer.Ingress) > 0, Conditions: []metav1.Condition{provisioned}, Releases: a.GivesUp}
	}
	p := ServicePlan{Serves: true, Finalizers: desiredFinalizers(svc.Service, v1alpha1.FinalizerBareMetal), Releases: a.GivesUp}
	p.addAddresses(svc, a.Held, d.Now)
	p.Overdue = d.overdueAddresses(svc, a.Held)
	p.Conditions = []metav1.Condition{provisioned, d.reports.announcedCondition(a.Held)}
	return p
}

// desiredFinalizers are those of a Service that the provider serves.
func desiredFinalizers(svc *corev1.Service, provider string) []string {
	if svc.Spec.LoadBalancerClass == nil {
		return []string{provider, finalizerStandard}
	}
	return []string{provider}
}

// addAddresses adds addresses, and the records that go with them.
func (p *ServicePlan) addAddresses(svc *serviceState, held []allocator.Held, now time.Time) {
	mode := corev1.LoadBalancerIPModeVIP
	p.Ingress = slices.Grow(p.Ingress, len(held))
	for _, h := range held {
		text := h.Addr.String()
		p.Ingress = append(p.Ingress, corev1.LoadBalancerIngress{IP: text, IPMode: &mode})
		p.AllocatedFrom = joinComma(p.AllocatedFrom, text+"="+h.Pool)
		if h.OutOfPool || h.Unselected {
			p.OutOfPool = append(p.OutOfPool, h.Addr)
		}
		if h.Leaving {
			p.Leaving = joinComma(p.Leaving, text+"="+replacedAt(svc.Service, h.Addr, now).Format(time.RFC3339))
		}
	}
	if len(held) > 0 {
		p.SharedAs = svc.terms
	}
}

func joinComma(list, element string) string {
	if list == "" {
		return element
	}
	return list + "," + element
}

// refusedPlan says why a Service is not served. What serves it already stays.
func refusedPlan(svc *corev1.Service, reason v1alpha1.Reason, message string) ServicePlan {
	p := unchangedPlan(svc)
	p.Conditions = []metav1.Condition{newCondition(v1alpha1.ConditionProvisioned, metav1.ConditionFalse, reason, message)}
	return p
}

// unchangedPlan says what a Service of AWS says already. Bare metal never hesitates.
func unchangedPlan(svc *corev1.Service) ServicePlan {
	if !hasFinalizer(svc, v1alpha1.FinalizerAWS) {
		return ServicePlan{}
	}
	p := ServicePlan{
		AllocatedFrom: svc.Annotations[v1alpha1.AnnotationAllocatedFrom],
		SharedAs:      svc.Annotations[v1alpha1.AnnotationSharedAs],
		Leaving:       svc.Annotations[v1alpha1.AnnotationLeaving],
	}
	for _, f := range append([]string{finalizerStandard}, providerFinalizers...) {
		if hasFinalizer(svc, f) {
			p.Finalizers = append(p.Finalizers, f)
		}
	}
	if svc.Spec.Type == corev1.ServiceTypeLoadBalancer {
		p.Serves, p.Ingress = true, svc.Status.LoadBalancer.Ingress
	}
	return p
}

func (d *decision) provisionedCondition(svc *serviceState, a allocator.Assignment) metav1.Condition {
	refuse := func(reason v1alpha1.Reason, message string) metav1.Condition {
		return newCondition(v1alpha1.ConditionProvisioned, metav1.ConditionFalse, reason, message)
	}
	if svc.refusal.Reason != "" {
		return refuse(svc.refusal.Reason, strings.Join(append([]string{svc.refusal.Message}, missingMessages(a.Missing)...), "; "))
	}
	fallback := svc.choice.Fallback
	if why := requiredMissing(a.Missing); len(why) > 0 {
		if fallback != "" {
			return refuse(v1alpha1.CloudCannotServe, fallback+"; nor can a pool: "+strings.Join(missingMessages(why), "; "))
		}
		return refuse(why[0].Reason, strings.Join(missingMessages(why), "; "))
	}
	reason, message := d.heldMessage(svc, a)
	if fallback != "" {
		reason, message = v1alpha1.CloudCannotServe, message+"; "+fallback
	}
	return newCondition(v1alpha1.ConditionProvisioned, metav1.ConditionTrue, reason, message)
}

// heldMessage says what a Service has that has all that it must have.
func (d *decision) heldMessage(svc *serviceState, a allocator.Assignment) (reason v1alpha1.Reason, message string) {
	reason = v1alpha1.Assigned
	for i, h := range a.Held {
		if i > 0 {
			message += "; "
		}
		addr := h.Addr.String()
		switch {
		case h.Leaving:
			reason = v1alpha1.Renumbering
			message += addr + " is kept beside the new address " + d.retentionEnd(svc, h.Addr)
		case h.OutOfPool:
			message += addr + " is kept, although " + outOfPoolMessage(h)
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

// outOfPoolMessage says what is wrong with an address that is out of its pool.
func outOfPoolMessage(h allocator.Held) string {
	if h.Pool == "" {
		return "no pool contains it"
	}
	return "pool " + h.Pool + " does not contain it any more"
}

func requiredMissing(missing []allocator.Missing) (failures []allocator.Missing) {
	for _, m := range missing {
		if !m.Optional {
			failures = append(failures, m)
		}
	}
	return failures
}

func missingMessages(refusals []allocator.Missing) (all []string) {
	for _, m := range refusals {
		all = append(all, m.Message)
	}
	return all
}

func hasFinalizer(svc *corev1.Service, finalizer string) bool {
	return slices.Contains(svc.Finalizers, finalizer)
}

// hasProviderFinalizer reports whether the Service's ingress is ours: a finalizer is the record.
func hasProviderFinalizer(svc *corev1.Service) bool {
	return slices.ContainsFunc(providerFinalizers, func(f string) bool { return hasFinalizer(svc, f) })
}

// hostIngress are the balancers' host names in the Service's status.
func hostIngress(svc *corev1.Service) (hosts []corev1.LoadBalancerIngress) {
	for _, in := range svc.Status.LoadBalancer.Ingress {
		if in.IP == "" {
			hosts = append(hosts, in)
		}
	}
	return hosts
}

// foreignIngress is what another implementation has put into the status that is no
// address as we would write it: a host name, most often.
func foreignIngress(svc *corev1.Service) (text string, foreign bool) {
	if hasProviderFinalizer(svc) {
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
	return svc.Spec.Type == corev1.ServiceTypeLoadBalancer || hasOwnState(svc)
}

// hasOwnState reports whether the Service carries anything that only Fairlead writes.
func hasOwnState(svc *corev1.Service) bool {
	recorded := slices.ContainsFunc(v1alpha1.RecordAnnotations[:], func(a string) bool { _, has := svc.Annotations[a]; return has })
	return hasProviderFinalizer(svc) || recorded || slices.ContainsFunc(svc.Status.Conditions, isOwnCondition)
}

func isOwnCondition(c metav1.Condition) bool {
	return c.Type == v1alpha1.ConditionProvisioned || c.Type == v1alpha1.ConditionAnnounced
}

// surplusFinalizers are the provider finalizers on the Service that the plan
// does not have.
func (p ServicePlan) surplusFinalizers(svc *corev1.Service) (surplus []string) {
	for _, f := range providerFinalizers {
		if hasFinalizer(svc, f) && !slices.Contains(p.Finalizers, f) {
			surplus = append(surplus, f)
		}
	}
	return surplus
}

// Matches reports whether the Service has everything that the plan has, so that
// there is nothing to write.
func (p ServicePlan) Matches(svc *corev1.Service) bool {
	missing := slices.ContainsFunc(p.Finalizers, func(f string) bool { return !hasFinalizer(svc, f) })
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
		if isOwnCondition(svc.Status.Conditions[i]) {
			said++
		}
	}
	return said == len(p.Conditions) && containsConditions(svc.Status.Conditions, p.Conditions)
}

func sameIngress(a, b corev1.LoadBalancerIngress) bool {
	sameMode := a.IPMode == b.IPMode || a.IPMode != nil && b.IPMode != nil && *a.IPMode == *b.IPMode
	return a.IP == b.IP && a.Hostname == b.Hostname && sameMode && equality.Semantic.DeepEqual(a.Ports, b.Ports)
}

// SameConditions compares all but the times, in any order.
func SameConditions(have, want []metav1.Condition) bool {
	return len(have) == len(want) && containsConditions(have, want)
}

// containsConditions reports whether all the wanted conditions are there.
func containsConditions(have, want []metav1.Condition) bool {
	for i := range want {
		w, h := &want[i], apimeta.FindStatusCondition(have, want[i].Type)
		if h == nil || h.Status != w.Status || h.Reason != w.Reason || h.Message != w.Message {
			return false
		}
	}
	return true
}
