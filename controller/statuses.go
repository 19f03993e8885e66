package controller

import (
	"context"

	"k8s.io/apimachinery/pkg/api/equality"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/fairlead-io/fairlead/config/client"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/controller/plan"
)

// write writes every object that differs from the plan.
func (c *Controller) write(ctx context.Context, snapshot plan.Snapshot, desired plan.Plan) error {
	w := c.newWrites(ctx)
	c.writeServices(w, desired.Changes)
	o := snapshot.Objects
	writeStatuses(w, c.fairlead.Pools, "IPAddressPool", o.Pools, desired.Pools,
		func(p *v1alpha1.IPAddressPool) *v1alpha1.IPAddressPoolStatus { return &p.Status })
	writeStatuses(w, c.fairlead.L2Advertisements, "L2Advertisement", o.L2Advertisements, desired.L2Advertisements,
		func(a *v1alpha1.L2Advertisement) *v1alpha1.L2AdvertisementStatus { return &a.Status })
	writeStatuses(w, c.fairlead.BGPPeers, "BGPPeer", o.BGPPeers, desired.BGPPeers,
		func(p *v1alpha1.BGPPeer) *v1alpha1.BGPPeerStatus { return &p.Status })
	writeStatuses(w, c.fairlead.BGPAdvertisements, "BGPAdvertisement", o.BGPAdvertisements, desired.BGPAdvertisements,
		func(a *v1alpha1.BGPAdvertisement) *v1alpha1.BGPAdvertisementStatus { return &a.Status })
	writeStatuses(w, c.fairlead.Communities, "Community", o.Communities, desired.Communities,
		func(x *v1alpha1.Community) *v1alpha1.CommunityStatus { return &x.Status })
	return w.wait()
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
	err := applyStatus(ctx, r, kind, object, desired)
	countWrite(kind, err)
	if err != nil {
		return err
	}
	ready := apimeta.FindStatusCondition(*conditions, v1alpha1.ConditionReady)
	before := apimeta.FindStatusCondition(*observed.GetConditions(), v1alpha1.ConditionReady)
	if ready != nil && ready.Status == metav1.ConditionFalse && (before == nil || before.Message != ready.Message) {
		c.log.Warn("object has problems", "kind", kind, "object", object.GetName(), "reason", ready.Reason, "message", ready.Message)
	}
	return nil
}
