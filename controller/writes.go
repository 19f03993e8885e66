package controller

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-io/fairlead/config/client"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/controller/plan"
)

// applyStatus applies the status of an object of one of Fairlead's kinds.
func applyStatus[T client.Object, L runtime.Object](
	ctx context.Context, r client.Resource[T, L], kind string, object T, status any,
) error {
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(status)
	if err != nil {
		return fmt.Errorf("encode the status of %s %s: %w", kind, object.GetName(), err)
	}
	return applyObject(ctx, r, kind, map[string]any{"metadata": objectIdentity(object), "status": content}, "status")
}

// applyObject applies the content. Its metadata must be an objectIdentity.
func applyObject[T client.Object, L runtime.Object](
	ctx context.Context, r client.Resource[T, L], kind string, content map[string]any, subresources ...string,
) error {
	content["apiVersion"], content["kind"] = v1alpha1.GroupVersion.String(), kind
	name := content["metadata"].(map[string]any)["name"].(string)
	body, err := json.Marshal(content)
	if err != nil {
		return fmt.Errorf("encode %s %s: %w", kind, name, err)
	}
	if _, err := r.Patch(ctx, name, types.ApplyPatchType, body, applyOptions(), subresources...); err != nil {
		return fmt.Errorf("apply %s %s: %w", kind, name, err)
	}
	return nil
}

// objectIdentity is the metadata that limits an apply to the object and version that
// was decided upon (optimistic locking).
func objectIdentity(o metav1.Object) map[string]any {
	return map[string]any{"name": o.GetName(), "uid": o.GetUID(), "resourceVersion": o.GetResourceVersion()}
}

// finalizersPatch is the metadata of a merge patch that removes finalizers from the
// object, whichever field manager owns them. It is limited to the version that was
// decided upon (optimistic locking).
func finalizersPatch(o metav1.Object, finalizers ...string) map[string]any {
	return map[string]any{
		"uid": o.GetUID(), "resourceVersion": o.GetResourceVersion(),
		"finalizers": slices.DeleteFunc(slices.Clone(o.GetFinalizers()), func(f string) bool { return slices.Contains(finalizers, f) }),
	}
}

// encodePatch encodes a merge patch of an object's metadata.
func encodePatch(metadata map[string]any) []byte {
	body, err := json.Marshal(map[string]any{"metadata": metadata})
	if err != nil {
		panic(fmt.Sprintf("encode a patch: %v", err)) // strings and lists always encode
	}
	return body
}

// applyOptions force the apply: whether the controller owns a field was decided on
// the version that is written to.
func applyOptions() metav1.PatchOptions {
	force := true
	return metav1.PatchOptions{FieldManager: v1alpha1.FieldManager, Force: &force}
}

// writeService applies the plan in one request, on the condition that the Service is
// still in the version that was decided upon (optimistic locking).
func (c *Controller) writeService(ctx context.Context, change plan.PlannedService) error {
	svc, p := change.Service, *change.Plan
	// Node ports belong to another field manager, and so need an apply of their own.
	if len(p.NodePorts) > 0 || p.ReleasesNodePorts {
		if changed, err := c.writeNodePorts(ctx, svc, p); err != nil || changed {
			return err // the watch delivers the next version, and a sync writes the rest
		}
	}
	metadata := objectIdentity(svc)
	status := map[string]any{}
	// What an earlier apply wrote and this one omits is removed by the API server.
	if len(p.Finalizers) > 0 {
		metadata["finalizers"] = p.Finalizers
	}
	// The records of the addresses are written together with the addresses.
	records := map[string]string{}
	for i, value := range p.Records() {
		if value != "" {
			records[v1alpha1.RecordAnnotations[i]] = value
		}
	}
	if len(records) > 0 {
		metadata["annotations"] = records
	}
	if p.WritesIngress(svc) {
		// An adopted address has another owner, too: only an empty list removes it.
		status["loadBalancer"] = map[string]any{"ingress": append([]corev1.LoadBalancerIngress{}, p.Ingress...)}
	}
	conditions := plan.WithTransitionTimes(svc.Status.Conditions, p.Conditions, metav1.Now())
	if len(conditions) > 0 {
		status["conditions"] = conditions
	}
	body, err := json.Marshal(map[string]any{"apiVersion": "v1", "kind": "Service", "metadata": metadata, "status": status})
	if err != nil {
		return fmt.Errorf("encode the status of Service %s: %w", plan.KeyOf(svc), err)
	}
	c.events.noteWrite() // the rate of Events is reduced in the meantime
	written, err := c.client.CoreV1().Services(svc.Namespace).Patch(ctx, svc.Name, types.ApplyPatchType, body, applyOptions(), "status")
	if err != nil {
		return fmt.Errorf("apply the status of Service %s: %w", plan.KeyOf(svc), err)
	}
	// Read your own writes: the next sync must not decide on the older version.
	c.ownWrites.observe(written)
	if finalizers, annotations := p.RemainingMetadata(written); len(finalizers)+len(annotations) > 0 {
		if written, err = c.removeMetadata(ctx, written, finalizers, annotations); err != nil {
			return err
		}
	}
	c.backoffs.succeeded(change, written, time.Now())
	c.latencies.written(svc, p, time.Now())
	c.reportTransitions(svc, p)
	return nil
}

// removeMetadata removes finalizers and annotations that an apply has left: it
// removes only what no other field manager owns, and after a restored backup or an
// adoption another one does.
func (c *Controller) removeMetadata(
	ctx context.Context, svc *corev1.Service, finalizers, annotations []string,
) (written *corev1.Service, err error) {
	metadata := finalizersPatch(svc, finalizers...)
	// null removes an annotation in a merge patch.
	if len(annotations) > 0 {
		removed := map[string]any{}
		for _, name := range annotations {
			removed[name] = nil
		}
		metadata["annotations"] = removed
	}
	options := metav1.PatchOptions{FieldManager: v1alpha1.FieldManager}
	services := c.client.CoreV1().Services(svc.Namespace)
	written, err = services.Patch(ctx, svc.Name, types.MergePatchType, encodePatch(metadata), options, "status")
	if err != nil {
		return nil, fmt.Errorf("remove metadata of Service %s: %w", plan.KeyOf(svc), err)
	}
	c.ownWrites.observe(written)
	return written, nil
}

// firstEndpointsTime is the age of a Service up to which missing endpoints are not a reason
// for a warning: its pods, as a rule created together with it, may be starting.
const firstEndpointsTime = 2 * time.Minute

// reportTransitions reports each change of the status or reason of a condition in
// the log and as an Event.
func (c *Controller) reportTransitions(svc *corev1.Service, p plan.ServicePlan) {
	if p.IsZero() {
		c.log.Info("service released", "service", plan.KeyOf(svc).String())
		return
	}
	for _, desired := range p.Conditions {
		observed := apimeta.FindStatusCondition(svc.Status.Conditions, desired.Type)
		if observed != nil && observed.Status == desired.Status && observed.Reason == desired.Reason {
			continue
		}
		kind := corev1.EventTypeNormal
		switch v1alpha1.Reason(desired.Reason) {
		// Transient states, which the other condition or the next report explains.
		case v1alpha1.NoAddress, v1alpha1.NoSpeaker:
			continue
		case v1alpha1.Shared: // a record
			continue
		case v1alpha1.Reverted: // reportReverted writes one Event, however often the condition is reverted
			continue
		case v1alpha1.Assigned, v1alpha1.Announced, v1alpha1.Renumbering, v1alpha1.Provisioning, v1alpha1.Deleting:
		case v1alpha1.NoEndpoints:
			if time.Since(svc.CreationTimestamp.Time) > firstEndpointsTime {
				kind = corev1.EventTypeWarning
			}
		// Every other reason is a refusal or a failure.
		default:
			kind = corev1.EventTypeWarning
		}
		c.log.Info("service changed", "service", plan.KeyOf(svc).String(), "reason", desired.Reason, "message", desired.Message)
		c.events.Event(svc, kind, desired.Reason, desired.Message)
	}
}

// writeServices writes as many of the changes as one sync may, and requests another
// sync for the rest. A failed or deferred write delays only those that wait for the
// addresses which it releases.
func (c *Controller) writeServices(w *writeGroup, changes []plan.PlannedService) {
	due, deferred, reverted := c.backoffs.divide(changes, time.Now())
	for _, svc := range reverted {
		w.start(func(ctx context.Context) error { c.reportReverted(ctx, svc); return nil })
	}
	rounds, all := plan.Rounds(rotateAfter(due, c.writtenUpTo), deferred)
	c.writtenUpTo = types.NamespacedName{}
	if !all {
		// The next sync continues after the last Service of this one.
		last := rounds[len(rounds)-1]
		c.writtenUpTo = plan.KeyOf(last[len(last)-1].Service)
		c.queue.Add(fullSync)
	}
	unreleased := plan.Unreleased{}
	for i, round := range rounds {
		// The addresses of this round are released by the round before it.
		if i > 0 {
			for _, failed := range w.takeFailed() {
				unreleased.Add(failed)
			}
		}
		for _, change := range round {
			if unreleased.Block(change) {
				unreleased.Add(change) // what it releases itself is not released either
				continue
			}
			w.startService(change)
		}
	}
}

// rotateAfter sorts changes by key and starts with the first one after the key, so
// that a sync continues where the last one reached its limit: writes that fail
// repeatedly do not starve the others.
func rotateAfter(changes []plan.PlannedService, key types.NamespacedName) []plan.PlannedService {
	compare := func(c plan.PlannedService, key types.NamespacedName) int {
		return cmp.Or(strings.Compare(c.Service.Namespace, key.Namespace), strings.Compare(c.Service.Name, key.Name))
	}
	slices.SortFunc(changes, func(a, b plan.PlannedService) int { return compare(a, plan.KeyOf(b.Service)) })
	i, found := slices.BinarySearchFunc(changes, key, compare)
	if found {
		i++
	}
	return slices.Concat(changes[i:], changes[:i])
}

// writeGroup are the writes of one sync. A write that was started is completed even
// if ctx is done.
type writeGroup struct {
	ctx   context.Context
	c     *Controller
	group errgroup.Group

	mu       sync.Mutex
	failures []error // of writes to other objects than Services
	// Of writes to Services: serviceBackoffs has the time of the next one.
	serviceFailures []error
	failed          []plan.PlannedService
}

func (c *Controller) newWrites(ctx context.Context) *writeGroup {
	w := &writeGroup{ctx: ctx, c: c}
	w.group.SetLimit(c.parallel)
	return w
}

// start runs a write, after others if the limit of concurrent ones is reached. It
// does nothing if ctx is done.
func (w *writeGroup) start(write func(context.Context) error) {
	if w.ctx.Err() != nil { // the lease is lost or released: no new write may start
		return
	}
	w.group.Go(func() error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(w.ctx), writeTimeout)
		defer cancel()
		// An object that was deleted needs no write.
		if err := write(ctx); err != nil && !apierrors.IsNotFound(err) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.failures = append(w.failures, err)
		}
		return nil
	})
}

// startService starts the write of a Service.
func (w *writeGroup) startService(change plan.PlannedService) {
	w.start(func(ctx context.Context) error {
		err := w.c.writeService(ctx, change)
		countWrite("Service", err)
		if err == nil || apierrors.IsNotFound(err) {
			return nil
		}
		if unknownOutcome(err) {
			w.c.ownWrites.observeUnknown(change)
		}
		if w.c.backoffs.failed(change, err, time.Now()) {
			w.c.events.Event(change.Service, corev1.EventTypeWarning, string(v1alpha1.WriteFailed), fmt.Sprintf("%.1000v", err))
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		w.serviceFailures, w.failed = append(w.serviceFailures, err), append(w.failed, change)
		return nil
	})
}

// takeFailed waits until all writes have returned, and returns and removes the changes
// of which the write has failed.
func (w *writeGroup) takeFailed() (failed []plan.PlannedService) {
	_ = w.group.Wait() // no write returns an error to the group
	failed, w.failed = w.failed, nil
	return failed
}

// unknownOutcome reports whether the failed write may have taken effect: a timeout, a
// lost connection, or an error of the server. It has not if there was no connection, if
// the server refused the request for now, or if an admission webhook was not reached,
// which is called before anything is stored.
func unknownOutcome(err error) bool {
	var answer apierrors.APIStatus
	if !errors.As(err, &answer) {
		var network *net.OpError
		return !errors.As(err, &network) || network.Op != "dial"
	}
	status := answer.Status()
	switch {
	case status.Code < http.StatusInternalServerError:
		return false
	case status.Code == http.StatusServiceUnavailable:
		return status.Details == nil || status.Details.RetryAfterSeconds == 0
	}
	return !strings.HasPrefix(status.Message, webhookFailure)
}

// webhookFailure begins the API server's message about a webhook that it did not reach
// (apierrors.NewInternalError of a k8s.io/apiserver/pkg/util/webhook.ErrCallingWebhook).
const webhookFailure = "Internal error occurred: failed calling webhook "

// wait waits until all writes have returned. It logs failures of Services, which are
// retried one by one, and returns an error if another write failed.
func (w *writeGroup) wait() error {
	w.takeFailed()
	if err := firstFailure(w.serviceFailures); err != nil && !apierrors.IsConflict(err) {
		w.c.log.Warn("writes to services failed, retrying", "error", err)
	}
	return firstFailure(w.failures)
}

// firstFailure returns the first of the errors and the number of the others, nil if there
// are none. Conflicts are expected: another error precedes them.
func firstFailure(failures []error) error {
	if len(failures) == 0 {
		return nil
	}
	first := failures[max(0, slices.IndexFunc(failures, func(err error) bool { return !apierrors.IsConflict(err) }))]
	if others := len(failures) - 1; others > 0 {
		return fmt.Errorf("%w (and %d more)", first, others)
	}
	return first
}
