package controller

import (
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/controller/plan"
)

// serviceLatencies measures how long Services wait for their addresses and for the
// announcement of these: those that this replica has seen without an address while it
// leads. Its methods may be called concurrently. The zero value is ready for use.
type serviceLatencies struct {
	mu      sync.Mutex
	waiting map[types.UID]*waitingService
}

// waitingService is a Service without an address, or with one that is not announced.
type waitingService struct {
	since    time.Time // when it was first seen without an address
	assigned bool
}

// leaderLatencies are those of the Controller in this process that leads, nil before.
var leaderLatencies atomic.Pointer[serviceLatencies]

// observe records a Service that does not have an address. If an earlier leader refused it
// one, the time begins with the transition of its condition Provisioned to False.
func (l *serviceLatencies) observe(svc *corev1.Service, now time.Time) {
	if svc.Spec.Type != corev1.ServiceTypeLoadBalancer || svc.DeletionTimestamp != nil || len(svc.Status.LoadBalancer.Ingress) > 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.waiting[svc.UID] != nil {
		return
	}
	since := now
	refused := apimeta.FindStatusCondition(svc.Status.Conditions, v1alpha1.ConditionProvisioned)
	if refused != nil && refused.Status == metav1.ConditionFalse && refused.LastTransitionTime.Time.Before(now) {
		since = refused.LastTransitionTime.Time
	}
	if l.waiting == nil {
		l.waiting = map[types.UID]*waitingService{}
	}
	l.waiting[svc.UID] = &waitingService{since: since}
}

// written records that the plan was written to the Service.
func (l *serviceLatencies) written(svc *corev1.Service, p plan.ServicePlan, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	w := l.waiting[svc.UID]
	if w == nil || len(p.Ingress) == 0 {
		return
	}
	if !w.assigned {
		w.assigned = true
		timeToAddress.Observe(now.Sub(w.since).Seconds())
	}
	if apimeta.IsStatusConditionTrue(p.Conditions, v1alpha1.ConditionAnnounced) {
		timeToAnnounced.Observe(now.Sub(w.since).Seconds())
		delete(l.waiting, svc.UID)
	}
}

// retain replaces the Services by those of a full plan that wait. Others are not served by
// Fairlead, do not exist any more, or have what they waited for without a write.
func (l *serviceLatencies) retain(services []plan.PlannedService, now time.Time) {
	served := map[types.UID]*corev1.Service{}
	for _, s := range services {
		if apimeta.FindStatusCondition(s.Plan.Conditions, v1alpha1.ConditionProvisioned) == nil {
			continue
		}
		l.observe(s.Service, now)
		served[s.Service.UID] = s.Service
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for uid, w := range l.waiting {
		svc := served[uid]
		if svc == nil || apimeta.IsStatusConditionTrue(svc.Status.Conditions, v1alpha1.ConditionAnnounced) {
			delete(l.waiting, uid)
		} else if len(svc.Status.LoadBalancer.Ingress) > 0 {
			w.assigned = true
		}
	}
}

// oldest returns for how long the first of the Services has been waiting for its address, 0
// if there is none.
func (l *serviceLatencies) oldest(now time.Time) (age time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, w := range l.waiting {
		if !w.assigned {
			age = max(age, now.Sub(w.since))
		}
	}
	return age
}
