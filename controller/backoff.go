package controller

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/controller/plan"
)

// firstRevertBackoff and lastRevertBackoff bound the time between two writes of what
// another writer reverts.
const firstRevertBackoff, lastRevertBackoff = time.Second, 5 * time.Minute

// maxRetries bounds the writes of one sync to Services for which the last write failed.
const maxRetries = 16

// serviceBackoffs defer writes to the Services for which they fail, and to those on which
// another writer reverts them. One Service does not delay another. All methods may be
// called concurrently.
type serviceBackoffs struct {
	mu       sync.Mutex
	failures workqueue.TypedRateLimiter[types.NamespacedName]
	states   map[types.NamespacedName]*writeState
}

// writeState is what is known of the writes to one Service. It is dropped when it has no
// effect any more.
type writeState struct {
	uid types.UID
	// After a failed write: the time of the next one. A version other than the one with
	// which it conflicted ends that.
	retryAt         time.Time
	conflicted      string
	failureReported bool // by an Event
	// The last write that succeeded: what was written, the result, and the time.
	plan    *plan.ServicePlan
	written *corev1.Service
	at      time.Time
	// reverted: the observed state differs from what was written. backoff is the time from
	// the last write to the next one; zero unless writes are reverted repeatedly.
	reverted bool
	backoff  time.Duration
	manager  string // the field manager that reverts them; "" if unknown
	reported bool   // by an Event
}

func newServiceBackoffs() serviceBackoffs {
	return serviceBackoffs{
		failures: workqueue.NewTypedItemExponentialFailureRateLimiter[types.NamespacedName](firstRetry, lastRetry),
		states:   map[types.NamespacedName]*writeState{},
	}
}

// divide returns the changes that are due, those that are deferred, and the Services of
// which the field manager that reverts them is to be determined.
func (b *serviceBackoffs) divide(
	changes []plan.PlannedService, now time.Time,
) (due, deferred []plan.PlannedService, reverted []*corev1.Service) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.states) == 0 {
		return changes, nil, nil
	}
	awaited, retries := plan.AwaitedReleases(changes), 0
	for _, c := range changes {
		s := b.states[plan.KeyOf(c.Service)]
		if s == nil || s.uid != c.Service.UID {
			due = append(due, c)
			continue
		}
		if s.observe(c, now) && s.backoff > 0 && !s.reported {
			reverted = append(reverted, c.Service)
		}
		switch {
		case now.Before(s.retryAt) && (s.conflicted == "" || s.conflicted == c.Service.ResourceVersion):
			deferred = append(deferred, c)
		// What other Services wait for is not delayed by a fight about this one.
		case s.reverted && now.Before(s.at.Add(s.backoff)) && !s.hasNewRequest(c) && !awaited[plan.KeyOf(c.Service)]:
			deferred = append(deferred, c)
		// Writes that time out must not hold up all others of the sync.
		case b.failures.NumRequeues(plan.KeyOf(c.Service)) > 0 && retries == maxRetries:
			s.retryAt = now.Add(firstRetry) // so that next returns it
			deferred = append(deferred, c)
		case b.failures.NumRequeues(plan.KeyOf(c.Service)) > 0:
			retries++
			due = append(due, c)
		default:
			due = append(due, c)
		}
	}
	return due, deferred, reverted
}

// observe compares the observed state with what was written last. It returns true if
// that has just been reverted.
func (s *writeState) observe(c plan.PlannedService, now time.Time) bool {
	if s.plan == nil || s.reverted || s.plan.Matches(c.Service) || s.hasNewRequest(c) {
		return false
	}
	s.reverted = true
	revertedWrites.Inc()
	if now.Sub(s.at) >= s.proofTime() {
		s.resetBackoff()
	} else {
		s.backoff = min(max(2*s.backoff, firstRevertBackoff), lastRevertBackoff)
	}
	return true
}

// proofTime is how long a write must stand for the backoff to end.
func (s *writeState) proofTime() time.Duration { return 2 * max(s.backoff, firstRevertBackoff) }

func (s *writeState) resetBackoff() { s.backoff, s.manager, s.reported = 0, "", false }

// hasNewRequest reports whether the Service is being deleted, or both what its owner
// requests and what is assigned to it have changed since the last write. Either one alone
// may be a part of the fight.
func (s *writeState) hasNewRequest(c plan.PlannedService) bool {
	if c.Service.DeletionTimestamp != nil {
		return true
	}
	assigned := s.plan.Serves == c.Plan.Serves && equality.Semantic.DeepEqual(s.plan.Ingress, c.Plan.Ingress)
	return !assigned && !sameOwnerRequest(s.written, c.Service)
}

// sameOwnerRequest compares what the owner of a Service writes.
func sameOwnerRequest(a, b *corev1.Service) bool {
	annotations := func(svc *corev1.Service) map[string]string {
		all := maps.Clone(svc.Annotations)
		maps.DeleteFunc(all, func(name, _ string) bool { return slices.Contains(v1alpha1.RecordAnnotations[:], name) })
		return all
	}
	return maps.Equal(annotations(a), annotations(b)) && maps.Equal(a.Labels, b.Labels) && equality.Semantic.DeepEqual(a.Spec, b.Spec)
}

// state returns the state of the Service. The lock must be held.
func (b *serviceBackoffs) state(svc *corev1.Service) *writeState {
	key := plan.KeyOf(svc)
	if s := b.states[key]; s != nil && s.uid == svc.UID {
		return s
	}
	b.failures.Forget(key)
	s := &writeState{uid: svc.UID}
	b.states[key] = s
	return s
}

// succeeded records a write, and what it returned.
func (b *serviceBackoffs) succeeded(c plan.PlannedService, written *corev1.Service, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failures.Forget(plan.KeyOf(c.Service))
	s, p := b.state(c.Service), *c.Plan
	p.NodePorts = nil // they have been allocated
	s.retryAt, s.conflicted, s.failureReported = time.Time{}, "", false
	s.plan, s.written, s.at, s.reverted = &p, written, now, false
}

// reportedFailure is the number of failed writes in a row from which on an Event reports
// them: about a second after the first one.
const reportedFailure = 7

// failed records a failed write. It returns whether an Event must report that the writes
// fail, once for each row of them.
func (b *serviceBackoffs) failed(c plan.PlannedService, err error, now time.Time) (report bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.state(c.Service)
	s.retryAt, s.conflicted = now.Add(b.failures.When(plan.KeyOf(c.Service))), ""
	if apierrors.IsConflict(err) {
		s.conflicted = c.Service.ResourceVersion
	}
	if unknownOutcome(err) {
		s.plan, s.written, s.reverted = nil, nil, false // there is nothing to compare with
	}
	report = b.failures.NumRequeues(plan.KeyOf(c.Service)) >= reportedFailure && !apierrors.IsConflict(err) && !s.failureReported
	s.failureReported = s.failureReported || report
	return report
}

// setManager records the field manager that reverts the writes to the Service, which has
// been reported.
func (b *serviceBackoffs) setManager(svc *corev1.Service, manager string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if s := b.states[plan.KeyOf(svc)]; s != nil && s.uid == svc.UID {
		s.manager, s.reported = manager, true
	}
}

// expire drops what has no effect any more, and what concerns Services that do not exist.
func (b *serviceBackoffs) expire(now time.Time, exists func(types.NamespacedName) bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for key, s := range b.states {
		proof := s.proofTime()
		if s.reverted { // the next write is due before that, or no write is desired any more
			proof = 2 * lastRevertBackoff
		}
		proven := !now.Before(s.at.Add(proof))
		if proven {
			s.resetBackoff()
		}
		// A Service that has needed no write since its last failure starts again.
		settled := s.retryAt.IsZero() || now.After(s.retryAt.Add(2*lastRetry))
		if proven && settled || !exists(key) {
			delete(b.states, key)
			b.failures.Forget(key)
		}
	}
}

// reverted returns the Services that another writer reverts repeatedly, with its field
// manager, "" if that is unknown.
func (b *serviceBackoffs) reverted() map[types.NamespacedName]string {
	b.mu.Lock()
	defer b.mu.Unlock()
	managers := map[types.NamespacedName]string{}
	for key, s := range b.states {
		if s.backoff > 0 {
			managers[key] = s.manager
		}
	}
	return managers
}

// next returns the first time after now at which a write is due, or a state expires; zero
// if there is none.
func (b *serviceBackoffs) next(now time.Time) (first time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range b.states {
		due := []time.Time{s.retryAt}
		if s.reverted {
			due = append(due, s.at.Add(s.backoff))
		} else {
			due = append(due, s.at.Add(s.proofTime()))
		}
		for _, t := range due {
			if t.After(now) && (first.IsZero() || t.Before(first)) {
				first = t
			}
		}
	}
	return first
}

// reportReverted determines the field manager that reverts the Service, and reports it
// in the log and as an Event.
func (c *Controller) reportReverted(ctx context.Context, svc *corev1.Service) {
	live, err := c.client.CoreV1().Services(svc.Namespace).Get(ctx, svc.Name, metav1.GetOptions{})
	if err != nil {
		c.log.Debug("field manager of a reverted service not determined", "service", plan.KeyOf(svc).String(), "error", err)
		return // the next revert is reported instead
	}
	manager := v1alpha1.OtherManager(live)
	c.backoffs.setManager(svc, manager)
	c.log.Warn("service is reverted by another writer", "service", plan.KeyOf(svc).String(), "manager", manager)
	c.events.Event(svc, corev1.EventTypeWarning, string(v1alpha1.Reverted), plan.RevertedBy(manager)+"; further writes are delayed")
}
