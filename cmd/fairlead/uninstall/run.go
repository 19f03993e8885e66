package uninstall

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-io/fairlead/cmd/fairlead/objects"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// fieldManager owns what the command writes.
const fieldManager = "fairlead"

// pollInterval is the interval between two reads of a condition that is awaited.
const pollInterval = 500 * time.Millisecond

// Run makes the changes of the plan, in this order: load balancers, workloads,
// Services, other objects. It calls progress after each step. Without all permissions,
// or with load balancers that it must not delete, it changes nothing. Each wait is
// bounded by the timeout. After an error, another run continues.
func (c *Cluster) Run(ctx context.Context, p Plan, o Options, timeout time.Duration, progress func(string)) error {
	if len(p.balancers) > 0 && !o.DeleteLoadBalancers {
		return fmt.Errorf("load balancers in AWS: %d; set --delete-load-balancers, or delete their Services while a controller runs; "+
			"nothing was changed", len(p.balancers))
	}
	missing, err := c.missingPermissions(ctx, p)
	if err != nil {
		return err
	}
	if len(missing) > 0 {
		return fmt.Errorf("nothing was changed: the user must be allowed to: %s", strings.Join(missing, "; "))
	}
	r := run{Cluster: c, plan: p, options: o, timeout: timeout, progress: progress}
	for _, step := range []func(context.Context) error{r.deleteLoadBalancers, r.deleteWorkloads, r.releaseServices, r.deleteObjects} {
		if err := step(ctx); err != nil {
			return fmt.Errorf("%w; run the command again to continue", err)
		}
	}
	return nil
}

// run is one run of the command.
type run struct {
	*Cluster
	plan     Plan
	options  Options
	timeout  time.Duration
	progress func(string)
}

// wait calls check until it returns nil. The error is that of the last check.
func (r run) wait(ctx context.Context, check func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	for {
		err := check(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return fmt.Errorf("%w (not completed within --timeout=%s)", err, r.timeout)
			}
			return fmt.Errorf("interrupted: %w", err)
		case <-time.After(pollInterval):
		}
	}
}

// deleteLoadBalancers releases the Services with load balancers, and waits until the
// controller has deleted these: the command itself has no access to AWS.
func (r run) deleteLoadBalancers(ctx context.Context) error {
	for _, svc := range r.plan.balancers {
		_, err := r.kube.CoreV1().Services(svc.Namespace).Patch(ctx, svc.Name, types.MergePatchType, providerPatch(svc),
			metav1.PatchOptions{FieldManager: fieldManager})
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("request the release of Service %s: %w", keyOf(svc), err)
		}
	}
	for _, svc := range r.plan.balancers {
		err := r.wait(ctx, func(ctx context.Context) error {
			now, err := r.kube.CoreV1().Services(svc.Namespace).Get(ctx, svc.Name, metav1.GetOptions{})
			switch {
			case apierrors.IsNotFound(err):
				return nil
			case err != nil:
				return fmt.Errorf("read Service %s: %w", keyOf(svc), err)
			case !v1alpha1.MayHaveLoadBalancer(now):
				return nil
			}
			why := "check that a controller is running"
			if c := apimeta.FindStatusCondition(now.Status.Conditions, v1alpha1.ConditionProvisioned); c != nil {
				why = c.Reason + ": " + c.Message
			}
			return fmt.Errorf("the load balancer of Service %s is not deleted: %s", keyOf(svc), why)
		})
		if err != nil {
			return err
		}
		r.progress("deleted the load balancer of Service " + keyOf(svc))
	}
	return nil
}

// deleteWorkloads stops the controller and the speakers: a running controller would
// write again what is removed from the Services.
func (r run) deleteWorkloads(ctx context.Context) error {
	for _, w := range r.plan.found.workloads {
		if err := r.delete(ctx, w); err != nil {
			return err
		}
		r.progress("deleted " + w.String())
	}
	for _, namespace := range r.plan.found.namespaces {
		if err := r.wait(ctx, func(ctx context.Context) error { return r.checkStopped(ctx, namespace) }); err != nil {
			return err
		}
	}
	r.progress("the controller and the speakers have stopped")
	return nil
}

// checkStopped returns an error while a pod of Fairlead exists or a controller holds
// its lease, which it releases after its last write.
func (r run) checkStopped(ctx context.Context, namespace string) error {
	pods, err := r.kube.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: partOfPods})
	if err != nil {
		return fmt.Errorf("list Pods of Fairlead: %w", err)
	}
	if len(pods.Items) > 0 {
		return fmt.Errorf("wait for the end of Pod %s/%s", namespace, pods.Items[0].Name)
	}
	leases, err := r.kube.CoordinationV1().Leases(namespace).List(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + controllerName})
	if err != nil {
		return fmt.Errorf("list Leases of Fairlead: %w", err)
	}
	for _, lease := range leases.Items {
		s := lease.Spec
		if s.HolderIdentity == nil || *s.HolderIdentity == "" || s.RenewTime == nil || s.LeaseDurationSeconds == nil {
			continue
		}
		if until := s.RenewTime.Add(time.Duration(*s.LeaseDurationSeconds) * time.Second); time.Now().Before(until) {
			return fmt.Errorf("controller %s still holds Lease %s/%s", *s.HolderIdentity, namespace, lease.Name)
		}
	}
	return nil
}

// partOfPods selects the pods of the manifests, and controllerName is the name of the
// controller's lease.
const (
	controllerName = objects.ControllerName
	partOfPods     = "app.kubernetes.io/name in (" + controllerName + ", " + objects.SpeakerName + ")"
)

// releaseServices removes everything that Fairlead has written from all Services. It
// lists them again, because the controller may have written in the meantime.
func (r run) releaseServices(ctx context.Context) error {
	released := 0
	err := r.wait(ctx, func(ctx context.Context) error {
		list, err := r.kube.CoreV1().Services(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
		if err != nil {
			return fmt.Errorf("list Services: %w", err)
		}
		var failures []error
		for i := range list.Items {
			svc := &list.Items[i]
			changed, err := r.releaseService(ctx, svc)
			if changed {
				released++
			}
			failures = append(failures, err)
		}
		return errors.Join(failures...)
	})
	if err != nil {
		return err
	}
	r.progress(fmt.Sprintf("released %d Services (addresses in the status: %s)", released, r.options.Addresses))
	return nil
}

func (r run) releaseService(ctx context.Context, svc *corev1.Service) (changed bool, err error) {
	if v1alpha1.MayHaveLoadBalancer(svc) {
		return false, fmt.Errorf("release Service %s: a load balancer in AWS was created for it since the command was started", keyOf(svc))
	}
	after := releasedService(svc, r.options.Addresses)
	if after == nil {
		return false, nil
	}
	_, err = r.kube.CoreV1().Services(svc.Namespace).Patch(ctx, svc.Name, types.MergePatchType, releasePatch(svc, after),
		metav1.PatchOptions{FieldManager: fieldManager}, "status")
	if err != nil && !apierrors.IsNotFound(err) {
		return false, fmt.Errorf("release Service %s: %w", keyOf(svc), err)
	}
	return err == nil, nil
}

// deleteObjects deletes all other objects, and waits until they no longer exist.
func (r run) deleteObjects(ctx context.Context) error {
	for _, o := range r.plan.found.objects {
		if err := r.delete(ctx, o); err != nil {
			return err
		}
	}
	for _, o := range r.plan.found.objects {
		err := r.wait(ctx, func(ctx context.Context) error {
			now, err := r.dynamic.Resource(o.GroupVersionResource).Namespace(o.namespace).Get(ctx, o.name, metav1.GetOptions{})
			switch {
			case apierrors.IsNotFound(err):
				return nil
			case err != nil:
				return fmt.Errorf("read %s: %w", o, err)
			case now.GetUID() != o.uid:
				return fmt.Errorf("%s was created again; another tool manages it", o)
			}
			return fmt.Errorf("%s is still being deleted, with finalizers %v", o, now.GetFinalizers())
		})
		if err != nil {
			return err
		}
		r.progress("deleted " + o.String())
	}
	return nil
}

// delete deletes the object, if it exists and is still the same one.
func (r run) delete(ctx context.Context, o object) error {
	background := metav1.DeletePropagationBackground
	err := r.dynamic.Resource(o.GroupVersionResource).Namespace(o.namespace).Delete(ctx, o.name, metav1.DeleteOptions{
		Preconditions: &metav1.Preconditions{UID: &o.uid}, PropagationPolicy: &background,
	})
	if err != nil && !apierrors.IsNotFound(err) && !isBeingDeleted(err) {
		return fmt.Errorf("delete %s: %w", o, err)
	}
	return nil
}

// isBeingDeleted reports whether a namespace was deleted already and is terminating.
func isBeingDeleted(err error) bool {
	return apierrors.IsConflict(err) && slices.ContainsFunc([]string{"being terminated", "system is ensuring"}, func(text string) bool {
		return strings.Contains(err.Error(), text)
	})
}
