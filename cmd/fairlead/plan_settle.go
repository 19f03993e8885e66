package main

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/controller"
)

// maxRounds bounds how often the controller is asked again. Two are usual: one
// that writes, and one that finds nothing left to write.
const maxRounds = 8

// outcome is where the controller leads a cluster if nobody else changes it.
type outcome struct {
	cluster controller.Snapshot
	plan    controller.Plan
	steady  bool // false: it was still writing when we stopped asking
	writes  int  // Services written in the first round
}

// settle asks the controller again with what it answered, until it has nothing
// more to write. The snapshot's objects are not changed.
func settle(s controller.Snapshot) outcome {
	o := outcome{cluster: s}
	for round := range maxRounds {
		o.plan = controller.Decide(o.cluster)
		services, writes := writeServices(o.cluster.Services, o.plan)
		pools := slices.DeleteFunc(slices.Clone(o.cluster.Objects.Pools), func(p *v1alpha1.IPAddressPool) bool {
			return p.DeletionTimestamp != nil && !o.plan.Pools[p.Name].InUse
		})
		if round == 0 {
			o.writes = writes
		}
		if writes == 0 && len(pools) == len(o.cluster.Objects.Pools) {
			o.steady = true
			break
		}
		o.cluster.Services, o.cluster.Objects.Pools = services, pools
	}
	return o
}

// writeServices are the Services as the plan's writes leave them.
func writeServices(services []*corev1.Service, plan controller.Plan) (after []*corev1.Service, writes int) {
	for _, svc := range services {
		p, planned := plan.Services[keyOf(svc)]
		if planned {
			w := written(svc, p)
			if !equality.Semantic.DeepEqual(w, svc) {
				svc, writes = w, writes+1
			}
		}
		if svc.DeletionTimestamp != nil && len(svc.Finalizers) == 0 {
			writes++
			continue // gone
		}
		after = append(after, svc)
	}
	return after, writes
}

// written is the Service as the controller's write leaves it. Node ports are
// left out: nothing here depends on them.
func written(svc *corev1.Service, p controller.ServicePlan) *corev1.Service {
	w := svc.DeepCopy()
	w.Finalizers = slices.DeleteFunc(w.Finalizers, func(f string) bool {
		return (f == v1alpha1.FinalizerBareMetal || f == v1alpha1.FinalizerAWS || f == finalizerStandard && released(p)) && !slices.Contains(p.Finalizers, f)
	})
	for _, f := range p.Finalizers {
		if !slices.Contains(w.Finalizers, f) {
			w.Finalizers = append(w.Finalizers, f)
		}
	}
	for name, value := range records(p) {
		if value == "" {
			delete(w.Annotations, name)
			continue
		}
		if w.Annotations == nil {
			w.Annotations = map[string]string{}
		}
		w.Annotations[name] = value
	}
	if p.Serves || released(p) && allRecorded(svc) {
		w.Status.LoadBalancer.Ingress = p.Ingress
	}
	w.Status.Conditions = slices.DeleteFunc(w.Status.Conditions, func(c metav1.Condition) bool {
		return (c.Type == v1alpha1.ConditionProvisioned || c.Type == v1alpha1.ConditionAnnounced) && apimeta.FindStatusCondition(p.Conditions, c.Type) == nil
	})
	for _, c := range p.Conditions {
		if have := apimeta.FindStatusCondition(w.Status.Conditions, c.Type); have != nil {
			have.Status, have.Reason, have.Message = c.Status, c.Reason, c.Message
			continue
		}
		w.Status.Conditions = append(w.Status.Conditions, c)
	}
	return w
}

// finalizerStandard is beside Fairlead's own on Services without a class.
const finalizerStandard = "service.kubernetes.io/load-balancer-cleanup"

// records are the annotations that the controller writes.
func records(p controller.ServicePlan) map[string]string {
	return map[string]string{
		v1alpha1.AnnotationAllocatedFrom: p.AllocatedFrom,
		v1alpha1.AnnotationSharedAs:      p.SharedAs,
		v1alpha1.AnnotationLeaving:       p.Leaving,
	}
}

// recordNames are the annotations that are the controller's to write.
var recordNames = slices.Collect(maps.Keys(records(controller.ServicePlan{})))

func released(p controller.ServicePlan) bool {
	return !p.Serves && len(p.Finalizers) == 0 && len(p.Conditions) == 0
}

// allRecorded reports whether Fairlead gave every address that the Service shows.
func allRecorded(svc *corev1.Service) bool {
	return !slices.ContainsFunc(svc.Status.LoadBalancer.Ingress, func(in corev1.LoadBalancerIngress) bool {
		a, err := config.ParseAddr(in.IP)
		return err != nil || !config.Recorded(svc, a)
	})
}

func byKey(services []*corev1.Service) map[types.NamespacedName]*corev1.Service {
	all := make(map[types.NamespacedName]*corev1.Service, len(services))
	for _, svc := range services {
		all[keyOf(svc)] = svc
	}
	return all
}
