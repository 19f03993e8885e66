package main

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/controller/plan"
)

// maxRounds bounds how often the controller is asked again. Two are usual: one
// that writes, and one that finds nothing left to write.
const maxRounds = 8

// outcome is where the controller leads a cluster if nobody else changes it.
type outcome struct {
	cluster plan.Snapshot
	plan    plan.Plan
	steady  bool // false: it was still writing when we stopped asking
	writes  int  // Services written in the first round
}

// settle asks the controller again with what it answered, until it has nothing
// more to write. The snapshot's objects are not changed.
func settle(s plan.Snapshot) outcome {
	o := outcome{cluster: s}
	for round := range maxRounds {
		o.plan = plan.Decide(o.cluster)
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
func writeServices(services []*corev1.Service, plan plan.Plan) (after []*corev1.Service, writes int) {
	planned := plan.ByKey()
	for _, svc := range services {
		if p := planned[keyOf(svc)]; p != nil {
			w := p.Written(svc)
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

func byKey(services []*corev1.Service) map[types.NamespacedName]*corev1.Service {
	all := make(map[types.NamespacedName]*corev1.Service, len(services))
	for _, svc := range services {
		all[keyOf(svc)] = svc
	}
	return all
}
