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

// write writes what differs from the plan.
func (c *Controller) write(ctx context.Context, snapshot plan.Snapshot, desired plan.Plan) error {
	var others []*v1alpha1.IPAddressPool
	first := c.newWrites(ctx)
	for _, pool := range snapshot.Objects.Pools {
		if p := desired.Pools[pool.Name]; p.InUse && !slices.Contains(pool.Finalizers, v1alpha1.FinalizerPoolInUse) {
			// Before the first Service: who deletes the pool then finds it in use.
			first.do(func(ctx context.Context) error { return c.writePool(ctx, pool, p) })
		} else {
			others = append(others, pool)
		}
	}
	failed := first.wait() // Services do not depend on it
	w := c.newWrites(ctx)
	c.writeServices(w, desired.Changes)
	for _, pool := range others {
		w.do(func(ctx context.Context) error { return c.writePool(ctx, pool, desired.Pools[pool.Name]) })
	}
	for _, ad := range snapshot.Objects.L2Advertisements {
		want := desired.L2Advertisements[ad.Name]
		w.do(func(ctx context.Context) error {
			return writeStatus(ctx, c, c.fairlead.L2Advertisements, "L2Advertisement", ad, &ad.Status, &want)
		})
	}
	for _, peer := range snapshot.Objects.BGPPeers {
		want := desired.BGPPeers[peer.Name]
		w.do(func(ctx context.Context) error {
			return writeStatus(ctx, c, c.fairlead.BGPPeers, "BGPPeer", peer, &peer.Status, &want)
		})
	}
	for _, ad := range snapshot.Objects.BGPAdvertisements {
		want := desired.BGPAdvertisements[ad.Name]
		w.do(func(ctx context.Context) error {
			return writeStatus(ctx, c, c.fairlead.BGPAdvertisements, "BGPAdvertisement", ad, &ad.Status, &want)
		})
	}
	for _, community := range snapshot.Objects.Communities {
		want := desired.Communities[community.Name]
		w.do(func(ctx context.Context) error {
			return writeStatus(ctx, c, c.fairlead.Communities, "Community", community, &community.Status, &want)
		})
	}
	if err := w.wait(); err != nil {
		return err
	}
	return failed
}

func (c *Controller) writePool(ctx context.Context, pool *v1alpha1.IPAddressPool, p plan.PoolPlan) error {
	if has := slices.Contains(pool.Finalizers, v1alpha1.FinalizerPoolInUse); has != p.InUse && (has || pool.DeletionTimestamp == nil) {
		// The status follows when the watch brings the pool's next version.
		if p.InUse {
			metadata := identity(pool)
			metadata["finalizers"] = []string{v1alpha1.FinalizerPoolInUse}
			return apply(ctx, c.fairlead.Pools, "IPAddressPool", map[string]any{"metadata": metadata})
		}
		_, err := c.fairlead.Pools.Patch(ctx, pool.Name, types.MergePatchType, patch(without(pool, v1alpha1.FinalizerPoolInUse)), metav1.PatchOptions{FieldManager: fieldManager})
		if err != nil {
			return fmt.Errorf("release IPAddressPool %s: %w", pool.Name, err)
		}
		return nil
	}
	return writeStatus(ctx, c, c.fairlead.Pools, "IPAddressPool", pool, &pool.Status, &p.Status)
}

// status is that of one of Fairlead's kinds. Its conditions are compared
// without their times.
type status interface{ GetConditions() *[]metav1.Condition }

// writeStatus makes the object's status say what is wanted and, where that is a
// new problem, says so in the log.
func writeStatus[T client.Object, L runtime.Object, S status](ctx context.Context, c *Controller, r client.Resource[T, L], kind string, object T, have, want S) error {
	conditions := want.GetConditions()
	changed := !plan.SameConditions(*have.GetConditions(), *conditions)
	*conditions = plan.WithTransitionTimes(*have.GetConditions(), *conditions, metav1.Now())
	if !changed && equality.Semantic.DeepEqual(have, want) {
		return nil
	}
	if err := applyStatus(ctx, r, kind, object, want); err != nil {
		return err
	}
	ready := apimeta.FindStatusCondition(*conditions, v1alpha1.ConditionReady)
	was := apimeta.FindStatusCondition(*have.GetConditions(), v1alpha1.ConditionReady)
	if ready != nil && ready.Status == metav1.ConditionFalse && (was == nil || was.Message != ready.Message) {
		c.log.Warn("object has problems", "kind", kind, "object", object.GetName(), "reason", ready.Reason, "message", ready.Message)
	}
	return nil
}
