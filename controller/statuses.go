package controller

import (
	"context"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/api/equality"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-io/fairlead/config/client"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/controller/plan"
)

// write writes every object that differs from the plan.
func (c *Controller) write(ctx context.Context, snapshot plan.Snapshot, desired plan.Plan) error {
	var others []*v1alpha1.IPAddressPool
	first := c.newWrites(ctx)
	for _, pool := range snapshot.Objects.Pools {
		if p := desired.Pools[pool.Name]; p.InUse && !slices.Contains(pool.Finalizers, v1alpha1.FinalizerPoolInUse) {
			// The finalizer must be there before the first Service has an address:
			// otherwise the pool could be deleted in between.
			first.start(func(ctx context.Context) error { return c.writePool(ctx, pool, p) })
		} else {
			others = append(others, pool)
		}
	}
	failed := first.wait() // a failure must not keep Services from being written
	w := c.newWrites(ctx)
	c.writeServices(w, desired.Changes)
	for _, pool := range others {
		w.start(func(ctx context.Context) error { return c.writePool(ctx, pool, desired.Pools[pool.Name]) })
	}
	o := snapshot.Objects
	writeStatuses(w, c.fairlead.L2Advertisements, "L2Advertisement", o.L2Advertisements, desired.L2Advertisements,
		func(a *v1alpha1.L2Advertisement) *v1alpha1.L2AdvertisementStatus { return &a.Status })
	writeStatuses(w, c.fairlead.BGPPeers, "BGPPeer", o.BGPPeers, desired.BGPPeers,
		func(p *v1alpha1.BGPPeer) *v1alpha1.BGPPeerStatus { return &p.Status })
	writeStatuses(w, c.fairlead.BGPAdvertisements, "BGPAdvertisement", o.BGPAdvertisements, desired.BGPAdvertisements,
		func(a *v1alpha1.BGPAdvertisement) *v1alpha1.BGPAdvertisementStatus { return &a.Status })
	writeStatuses(w, c.fairlead.Communities, "Community", o.Communities, desired.Communities,
		func(x *v1alpha1.Community) *v1alpha1.CommunityStatus { return &x.Status })
	if err := w.wait(); err != nil {
		return err
	}
	return failed
}

// writePool writes the finalizer or, if that is as desired, the status of a pool.
func (c *Controller) writePool(ctx context.Context, pool *v1alpha1.IPAddressPool, p plan.PoolPlan) error {
	has := slices.Contains(pool.Finalizers, v1alpha1.FinalizerPoolInUse)
	// The API server refuses new finalizers on a terminating object.
	if has != p.InUse && (has || pool.DeletionTimestamp == nil) {
		// The status is written when the watch has delivered the pool's next version.
		if p.InUse {
			metadata := objectIdentity(pool)
			metadata["finalizers"] = []string{v1alpha1.FinalizerPoolInUse}
			return applyObject(ctx, c.fairlead.Pools, "IPAddressPool", map[string]any{"metadata": metadata})
		}
		body, options := encodePatch(finalizersPatch(pool, v1alpha1.FinalizerPoolInUse)), metav1.PatchOptions{FieldManager: v1alpha1.FieldManager}
		if _, err := c.fairlead.Pools.Patch(ctx, pool.Name, types.MergePatchType, body, options); err != nil {
			return fmt.Errorf("remove the finalizer of IPAddressPool %s: %w", pool.Name, err)
		}
		return nil
	}
	return writeStatus(ctx, c, c.fairlead.Pools, "IPAddressPool", pool, &pool.Status, &p.Status)
}

// conditionedStatus is the status of one of Fairlead's kinds. Its conditions are
// compared without their times.
type conditionedStatus interface{ GetConditions() *[]metav1.Condition }

// writeStatuses writes the statuses of all objects of a kind that differ from the
// desired ones.
func writeStatuses[T client.Object, L runtime.Object, V any, S interface {
	*V
	conditionedStatus
}](w *writeGroup, r client.Resource[T, L], kind string, objects []T, desired map[string]V, observed func(T) S) {
	for _, o := range objects {
		next := desired[o.GetName()]
		w.start(func(ctx context.Context) error { return writeStatus(ctx, w.c, r, kind, o, observed(o), S(&next)) })
	}
}

// writeStatus writes the desired status of the object if it differs from the
// observed one, and logs a problem that is new.
func writeStatus[T client.Object, L runtime.Object, S conditionedStatus](
	ctx context.Context, c *Controller, r client.Resource[T, L], kind string, object T, observed, desired S,
) error {
	conditions := desired.GetConditions()
	changed := !plan.SameConditions(*observed.GetConditions(), *conditions)
	*conditions = plan.WithTransitionTimes(*observed.GetConditions(), *conditions, metav1.Now())
	if !changed && equality.Semantic.DeepEqual(observed, desired) {
		return nil
	}
	if err := applyStatus(ctx, r, kind, object, desired); err != nil {
		return err
	}
	ready := apimeta.FindStatusCondition(*conditions, v1alpha1.ConditionReady)
	before := apimeta.FindStatusCondition(*observed.GetConditions(), v1alpha1.ConditionReady)
	if ready != nil && ready.Status == metav1.ConditionFalse && (before == nil || before.Message != ready.Message) {
		c.log.Warn("object has problems", "kind", kind, "object", object.GetName(), "reason", ready.Reason, "message", ready.Message)
	}
	return nil
}
