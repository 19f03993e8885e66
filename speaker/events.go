package speaker

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"

	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/speaker/plan"
)

// matters reports whether a pass would look at what distinguishes two states of
// an object; before is nil if it is new. Most that happens in a cluster does not
// concern the speakers: other Services, conditions, other speakers' reports, and
// nodes that say that they are still there. When in doubt, it matters.
func matters(before, after any) bool {
	switch now := after.(type) {
	case *corev1.Service:
		was, _ := before.(*corev1.Service)
		if len(plan.Announceable(now)) == 0 && (was == nil || len(plan.Announceable(was)) == 0) {
			return false
		}
		return was == nil || was.UID != now.UID || (now.DeletionTimestamp == nil) != (was.DeletionTimestamp == nil) ||
			!equality.Semantic.DeepEqual(was.Annotations, now.Annotations) || !equality.Semantic.DeepEqual(was.Finalizers, now.Finalizers) ||
			!equality.Semantic.DeepEqual(was.Spec, now.Spec) || !equality.Semantic.DeepEqual(was.Status.LoadBalancer, now.Status.LoadBalancer)
	case *corev1.Node:
		was, _ := before.(*corev1.Node)
		return was == nil || config.NodeReady(was) != config.NodeReady(now) || plan.Excluded(was) != plan.Excluded(now) ||
			was.Spec.Unschedulable != now.Spec.Unschedulable || was.UID != now.UID ||
			!equality.Semantic.DeepEqual(was.Labels, now.Labels) || !equality.Semantic.DeepEqual(was.Status.Addresses, now.Status.Addresses)
	case *v1alpha1.Speaker:
		was, _ := before.(*v1alpha1.Speaker)
		return was == nil || was.UID != now.UID || !equality.Semantic.DeepEqual(was.Status.Links, now.Status.Links)
	}
	return true
}
