package plan

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-io/fairlead/allocator"
	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/providers"
)

// ServicePlan is the desired state of all that Fairlead writes on a Service. The
// zero value is empty: it releases the Service.
type ServicePlan struct {
	Finalizers []string
	// RemovesCleanup removes v1alpha1.FinalizerCleanup, unless it is in Finalizers. It is
	// false while another controller may depend on the finalizer.
	RemovesCleanup bool
	// The annotations' values; "" is none.
	AllocatedFrom, Leaving, LoadBalancer string
	// SharedAs is the message of the condition Shared; "" is none.
	SharedAs string
	// Ingress is written where Serves is true; otherwise status.loadBalancer
	// belongs to another controller and is left unchanged.
	Serves     bool
	Ingress    []corev1.LoadBalancerIngress
	Conditions []metav1.Condition // without times
	// NodePorts are allocated before anything else is written. Where
	// ReleasesNodePorts is true, all that were allocated are released first.
	NodePorts         []NodePort
	ReleasesNodePorts bool
	// OutOfPool are addresses that are kept although their pools would not assign
	// them any more. Overdue are replaced addresses that are due for release, but
	// kept because their replacement is not announced yet. Releases are addresses that the
	// Service shows and does not keep, whether or not they are replaced. None of
	// the three is written.
	OutOfPool, Overdue, Releases []netip.Addr
}

// providerFinalizers are Fairlead's own finalizers.
var providerFinalizers = []string{v1alpha1.FinalizerBareMetal, v1alpha1.FinalizerAWS}

func (d *decision) servicePlan(svc *serviceState, a allocator.Assignment) ServicePlan {
	switch {
	// Another controller serves it, or it is deleted: nothing of ours may stay.
	case svc.choice.Verdict == providers.NotOurs || svc.DeletionTimestamp != nil:
		return d.releasePlan(svc)
	// No provider can be chosen yet. What it has already is kept.
	case svc.choice.Verdict == providers.Undecided:
		return d.refusedPlan(svc.Service, svc.choice.Reason, svc.choice.Message)
	case svc.choice.Verdict == providers.OnAWS:
		return d.awsPlan(svc, a)
	}
	p := d.bareMetalPlan(svc, a)
	// It has moved from AWS: the load balancer is deleted after the addresses work.
	if v1alpha1.MayHaveLoadBalancer(svc.Service) {
		d.keepBalancer(&p, svc, a)
		p.Conditions[0].Message = config.Message(p.Conditions[0].Message)
	}
	return p
}

// releasePlan is the plan for a Service that is deleted, or that Fairlead does not
// serve any more. It keeps the finalizer until the cloud has deleted everything.
func (d *decision) releasePlan(svc *serviceState) ServicePlan {
	o, onAWS := d.Cloud[svc.UID], v1alpha1.MayHaveLoadBalancer(svc.Service)
	// Nothing is left outside the cluster: the empty plan removes everything.
	if !onAWS || o.Deleted() {
		return ServicePlan{
			RemovesCleanup:    onAWS || v1alpha1.HasOwnAllocation(svc.Service) || isUnserved(svc),
			ReleasesNodePorts: onAWS && hasNodePortsToRelease(svc.Service),
		}
	}
	reason, message := v1alpha1.Deleting, "AWS is deleting the load balancer"
	switch refusal := d.Policy.RefusesAWS(svc.Service); {
	// An administrator must act.
	case refusal.Reason != "":
		reason, message = refusal.Reason, refusal.Message
	// The outcome of the last call explains why the Service is still there.
	case o.Action == DeleteBalancer:
		reason, message = o.Reason, o.Message
	}
	p := d.refusedPlan(svc.Service, reason, message)
	// The status belongs to the controller of the Service's class now.
	p.Serves = p.Serves && svc.choice.Verdict != providers.NotOurs
	// Only the load balancer delays the deletion. The addresses may be assigned to another
	// Service as soon as this one is deleted, so that they must be released first.
	if p.Serves {
		p.Ingress, p.AllocatedFrom, p.Leaving, p.SharedAs = hostIngress(svc.Service), "", "", ""
		p.Conditions = p.Conditions[:1]
	}
	return p
}

func (d *decision) bareMetalPlan(svc *serviceState, a allocator.Assignment) ServicePlan {
	// Another controller's host name must not be overwritten.
	if text, foreign := foreignIngress(svc.Service); foreign {
		message := "status.loadBalancer holds %q, which is not an address of a pool; it is left unchanged"
		return d.refusedPlan(svc.Service, v1alpha1.ForeignStatus, fmt.Sprintf(message, truncateText(text)))
	}
	// Nor must an address that the allocator could not adopt.
	for _, m := range a.Missing {
		if m.Reason == v1alpha1.ForeignStatus {
			return d.refusedPlan(svc.Service, m.Reason, m.Message)
		}
	}
	provisioned := d.provisionedCondition(svc, a)
	if svc.choice.Fallback != "" && len(a.Held) == 0 {
		// It is served neither from a pool nor by AWS: AWS takes it as soon as AWS
		// can serve it.
		return ServicePlan{Serves: len(svc.Status.LoadBalancer.Ingress) > 0, Conditions: []metav1.Condition{provisioned}, Releases: a.GivesUp}
	}
	p := ServicePlan{Serves: true, Releases: a.GivesUp, RemovesCleanup: len(a.Held) > 0}
	// Nothing outside the cluster must be cleaned up.
	if d.Policy.CleanupFinalizer {
		p.Finalizers = cleanupFinalizer(svc.Service)
	}
	p.addAddresses(svc, a.Held, d.Now)
	p.Overdue = d.overdueAddresses(svc, a.Held)
	p.Conditions = p.withSharedCondition(provisioned, d.announcedCondition(a.Held))
	return p
}

// cleanupFinalizer is the finalizer of the upstream service controller, which does not
// set it on Services with a class.
func cleanupFinalizer(svc *corev1.Service) []string {
	if svc.Spec.LoadBalancerClass == nil {
		return []string{v1alpha1.FinalizerCleanup}
	}
	return nil
}

// isUnserved reports whether Fairlead would serve a Service that is deleted, and no
// controller has: none depends on its finalizers.
func isUnserved(svc *serviceState) bool {
	return svc.choice.Verdict != providers.NotOurs && svc.DeletionTimestamp != nil && len(svc.Status.LoadBalancer.Ingress) == 0
}

// addAddresses adds addresses to the ingress, and records their pools, the times at
// which they were replaced and the terms under which they are shared.
func (p *ServicePlan) addAddresses(svc *serviceState, held []allocator.Held, now time.Time) {
	mode := corev1.LoadBalancerIPModeVIP
	p.Ingress = slices.Grow(p.Ingress, len(held))
	records := make(config.Records, 0, len(held))
	for _, h := range held {
		text := h.Addr.String()
		p.Ingress = append(p.Ingress, corev1.LoadBalancerIngress{IP: text, IPMode: &mode})
		records = append(records, config.Record{Addr: h.Addr, Value: h.Pool})
		if h.OutOfPool || h.Unselected {
			p.OutOfPool = append(p.OutOfPool, h.Addr)
		}
		if h.Leaving {
			p.Leaving = joinComma(p.Leaving, text+"="+replacedAt(svc.Service, h.Addr, now).Format(time.RFC3339))
		}
	}
	p.AllocatedFrom = config.FormatAllocation(records, svc.UID)
	if len(held) > 0 {
		p.SharedAs = svc.terms
	}
}

// withSharedCondition returns the conditions, and the condition Shared if the plan
// records terms of sharing.
func (p *ServicePlan) withSharedCondition(conditions ...metav1.Condition) []metav1.Condition {
	if p.SharedAs == "" {
		return conditions
	}
	return append(conditions, newCondition(v1alpha1.ConditionShared, metav1.ConditionTrue, v1alpha1.Shared, p.SharedAs))
}

// recordedTerms are the terms of sharing that the Service's status records, "" if there
// are none.
func recordedTerms(svc *corev1.Service) string {
	for i := range svc.Status.Conditions {
		if c := &svc.Status.Conditions[i]; c.Type == v1alpha1.ConditionShared && c.Status == metav1.ConditionTrue {
			return c.Message
		}
	}
	return ""
}

// joinComma appends an element to a comma-separated list.
func joinComma(list, element string) string {
	if list == "" {
		return element
	}
	return list + "," + element
}

// refusedPlan is the plan for a Service that is not served, with the reason in its
// condition. What AWS serves already is kept.
func (d *decision) refusedPlan(svc *corev1.Service, reason v1alpha1.Reason, message string) ServicePlan {
	p := d.unchangedPlan(svc)
	p.Conditions = p.withSharedCondition(newCondition(v1alpha1.ConditionProvisioned, metav1.ConditionFalse, reason, message))
	return p
}

// unchangedPlan keeps what a Service on AWS has: its load balancer must not be
// deleted, nor its ingress removed, because of a refusal. For a Service without
// a load balancer the plan is empty.
func (d *decision) unchangedPlan(svc *corev1.Service) ServicePlan {
	if !v1alpha1.MayHaveLoadBalancer(svc) {
		return ServicePlan{}
	}
	p := ServicePlan{
		AllocatedFrom: svc.Annotations[v1alpha1.AnnotationAllocatedFrom],
		SharedAs:      recordedTerms(svc),
		Leaving:       svc.Annotations[v1alpha1.AnnotationLeaving],
		LoadBalancer:  d.loadBalancerRecord(svc),
	}
	if hasFinalizer(svc, v1alpha1.FinalizerCleanup) {
		p.Finalizers = append(p.Finalizers, v1alpha1.FinalizerCleanup)
	}
	// The API server allows no new finalizers on an object that is being deleted.
	if svc.DeletionTimestamp == nil || hasFinalizer(svc, v1alpha1.FinalizerAWS) {
		p.Finalizers = append(p.Finalizers, v1alpha1.FinalizerAWS)
	}
	// The API server clears the ingress of every other type.
	if svc.Spec.Type == corev1.ServiceTypeLoadBalancer {
		p.Serves, p.Ingress = true, svc.Status.LoadBalancer.Ingress
	}
	return p
}

// loadBalancerRecord is the value of the annotation fairlead.io/load-balancer: an own
// record stays as it is, unless the name of the cluster was not known.
func (d *decision) loadBalancerRecord(svc *corev1.Service) string {
	if v1alpha1.LoadBalancerCluster(svc) != "" || v1alpha1.HasOwnLoadBalancer(svc) && d.Policy.Cluster == "" {
		return svc.Annotations[v1alpha1.AnnotationLoadBalancer]
	}
	return v1alpha1.FormatLoadBalancer(d.Policy.Cluster, svc.UID)
}

// provisionedCondition is the condition Provisioned of a Service on bare metal. It
// is True if the Service has every address that it must have.
func (d *decision) provisionedCondition(svc *serviceState, a allocator.Assignment) metav1.Condition {
	refuse := func(reason v1alpha1.Reason, message string) metav1.Condition {
		return newCondition(v1alpha1.ConditionProvisioned, metav1.ConditionFalse, reason, message)
	}
	// An invalid request explains everything that is missing.
	if svc.refusal.Reason != "" {
		return refuse(svc.refusal.Reason, strings.Join(append([]string{svc.refusal.Message}, missingMessages(a.Missing)...), "; "))
	}
	fallback := svc.choice.Fallback
	if missing := requiredMissing(a.Missing); len(missing) > 0 {
		text := strings.Join(missingMessages(missing), "; ")
		// The message begins with AWS: the pool is only its fallback.
		if fallback != "" {
			return refuse(v1alpha1.CloudCannotServe, fallback+"; a pool cannot serve it either: "+text)
		}
		return refuse(missing[0].Reason, text)
	}
	reason, message := d.heldMessage(svc, a)
	// It is served, but not by the provider that it is meant for.
	if fallback != "" {
		reason, message = v1alpha1.CloudCannotServe, message+"; "+fallback
	}
	return newCondition(v1alpha1.ConditionProvisioned, metav1.ConditionTrue, reason, message)
}

// heldMessage is the reason and message for a Service that has every address that
// it must have. Renumbering takes precedence over OutOfPool, and both over
// UnsupportedAnnotation.
func (d *decision) heldMessage(svc *serviceState, a allocator.Assignment) (reason v1alpha1.Reason, message string) {
	reason = v1alpha1.Assigned
	if external := d.externalIPNote(svc, a.Held); external != "" {
		defer func() { message += "; " + external }()
	}
	for i, h := range a.Held {
		if i > 0 {
			message += "; "
		}
		addr := h.Addr.String()
		switch {
		// It was replaced, and is released later.
		case h.Leaving:
			reason = v1alpha1.Renumbering
			message += addr + " is kept alongside the new address " + d.retentionEnd(svc, h.Addr)
		// An assigned address never moves by itself; only the message changes.
		case h.OutOfPool:
			message += addr + " is kept, although " + d.outOfPoolMessage(h)
		// The pool was restricted to other Services after the assignment.
		case h.Unselected:
			message += addr + " is kept, although pool " + h.Pool + " does not select this Service any more"
		default:
			message += addr + " from pool " + h.Pool
		}
		if (h.OutOfPool || h.Unselected) && !h.Leaving && reason == v1alpha1.Assigned {
			reason = v1alpha1.OutOfPool
		}
	}
	for _, m := range a.Missing { // these are optional
		message += "; no " + m.Family.String() + " address: " + m.Message
	}
	if text := unsupportedMessage(svc.Service); text != "" {
		message += "; " + text
		if reason == v1alpha1.Assigned {
			reason = v1alpha1.UnsupportedAnnotation
		}
	}
	return reason, message
}

// externalIPNote names a Service with a held address in its spec.externalIPs, where
// kube-proxy may send packets for the address to that Service.
func (d *decision) externalIPNote(svc *serviceState, held []allocator.Held) string {
	for _, h := range held {
		for _, other := range d.externalIPs[h.Addr] {
			if other != svc.key {
				return fmt.Sprintf("%s is also in spec.externalIPs of Service %s", h.Addr, other)
			}
		}
	}
	return ""
}

// outOfPoolMessage explains why an address is out of its pool.
func (d *decision) outOfPoolMessage(h allocator.Held) string {
	switch {
	case h.Pool == "":
		return "no pool contains it"
	case !slices.ContainsFunc(d.config.Pools, func(p config.Pool) bool { return p.Name == h.Pool }):
		return "pool " + h.Pool + " does not exist any more"
	}
	return "pool " + h.Pool + " does not contain it any more"
}

// requiredMissing are the missing addresses without which a Service is not
// provisioned.
func requiredMissing(missing []allocator.Missing) (required []allocator.Missing) {
	for _, m := range missing {
		if !m.Optional {
			required = append(required, m)
		}
	}
	return required
}

func missingMessages(missing []allocator.Missing) (all []string) {
	for _, m := range missing {
		all = append(all, m.Message)
	}
	return all
}

func hasFinalizer(svc *corev1.Service, finalizer string) bool {
	return slices.Contains(svc.Finalizers, finalizer)
}

// ownsStatus reports whether Fairlead assigned an address or a load balancer to the
// Service, so that it may overwrite the status: the Service's own records prove that.
func ownsStatus(svc *corev1.Service) bool {
	return len(config.OwnAllocation(svc)) > 0 || v1alpha1.HasOwnLoadBalancer(svc)
}

// hasProviderFinalizer reports whether the Service has a finalizer of a provider.
func hasProviderFinalizer(svc *corev1.Service) bool {
	return slices.ContainsFunc(providerFinalizers, func(f string) bool { return hasFinalizer(svc, f) })
}

// hostIngress are the entries of the Service's ingress that are host names of load
// balancers.
func hostIngress(svc *corev1.Service) (hosts []corev1.LoadBalancerIngress) {
	for _, in := range svc.Status.LoadBalancer.Ingress {
		if in.IP == "" {
			hosts = append(hosts, in)
		}
	}
	return hosts
}

// foreignIngress is the first ingress entry of another implementation that is not
// an IP address in canonical form: most often a host name.
func foreignIngress(svc *corev1.Service) (text string, foreign bool) {
	if ownsStatus(svc) || v1alpha1.OwnsIngress(svc) {
		return "", false
	}
	for _, in := range svc.Status.LoadBalancer.Ingress {
		if _, err := config.ParseAddr(in.IP); err != nil {
			return cmp.Or(in.Hostname, in.IP), true
		}
	}
	return "", false
}

// allRecorded reports whether Fairlead assigned every address in the status.
func allRecorded(svc *corev1.Service) bool {
	return !slices.ContainsFunc(svc.Status.LoadBalancer.Ingress, func(in corev1.LoadBalancerIngress) bool {
		a, err := config.ParseAddr(in.IP)
		return err != nil || !config.Recorded(svc, a)
	})
}

// Records are the values of v1alpha1.RecordAnnotations, in their order; "" is
// none.
func (p ServicePlan) Records() [len(v1alpha1.RecordAnnotations)]string {
	return [...]string{p.AllocatedFrom, p.Leaving, p.LoadBalancer}
}

// IsZero reports whether the plan releases the Service: nothing that Fairlead
// wrote stays on it.
func (p ServicePlan) IsZero() bool {
	return !p.Serves && len(p.Finalizers) == 0 && len(p.Conditions) == 0
}

// Managed reports whether plans are made for the Service: it is of type
// LoadBalancer, or carries state that only Fairlead writes and that must be removed.
func Managed(svc *corev1.Service) bool {
	return svc.Spec.Type == corev1.ServiceTypeLoadBalancer || hasOwnState(svc)
}

// hasOwnState reports whether the Service carries anything that only Fairlead writes.
func hasOwnState(svc *corev1.Service) bool {
	recorded := slices.ContainsFunc(v1alpha1.RecordAnnotations[:], func(a string) bool { _, has := svc.Annotations[a]; return has })
	return hasProviderFinalizer(svc) || recorded || slices.ContainsFunc(svc.Status.Conditions, isOwnCondition)
}

// isOwnCondition reports whether the condition is one that Fairlead writes on
// Services.
func isOwnCondition(c metav1.Condition) bool {
	return c.Type == v1alpha1.ConditionProvisioned || c.Type == v1alpha1.ConditionAnnounced || c.Type == v1alpha1.ConditionShared
}
