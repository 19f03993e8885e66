package plan

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"

	controllerplan "github.com/fairlead-io/fairlead/controller/plan"
)

// maxRounds bounds the repetitions of the decision. Two rounds are usual: one that
// writes, and one without writes.
const maxRounds = 8

// convergence is the state of a cluster after all writes of the controller, if
// nothing else changes it.
type convergence struct {
	cluster   controllerplan.Snapshot
	plan      controllerplan.Plan
	converged bool // false: the last round still had writes
	pending   int  // writes of the first round
}

// converge repeats the controller's decision with its own writes applied until there
// are no more writes. It does not modify the snapshot.
func converge(s controllerplan.Snapshot) convergence {
	c := convergence{cluster: s}
	for round := range maxRounds {
		c.plan = controllerplan.Decide(c.cluster)
		services, writes := writtenServices(c.cluster.Services, c.plan)
		if round == 0 {
			c.pending = writes
		}
		if writes == 0 {
			c.converged = true
			break
		}
		c.cluster.Services = services
	}
	return c
}

// writtenServices returns the Services with the writes of the plan applied.
func writtenServices(services []*corev1.Service, plan controllerplan.Plan) (after []*corev1.Service, writes int) {
	desired := plan.ByKey()
	for _, svc := range services {
		if p := desired[keyOf(svc)]; p != nil {
			if w := p.Written(svc); !equality.Semantic.DeepEqual(w, svc) {
				svc, writes = w, writes+1
			}
		}
		if svc.DeletionTimestamp != nil && len(svc.Finalizers) == 0 {
			writes++
			continue // the API server removes it
		}
		after = append(after, svc)
	}
	return after, writes
}

// writeAdvertisementStatuses returns the cluster with the statuses of advertisements that
// the controller writes.
func writeAdvertisementStatuses(s controllerplan.Snapshot) controllerplan.Snapshot {
	desired := controllerplan.Decide(s)
	s.Objects.L2Advertisements = slices.Clone(s.Objects.L2Advertisements)
	for i, ad := range s.Objects.L2Advertisements {
		ad = ad.DeepCopy()
		ad.Status, s.Objects.L2Advertisements[i] = desired.L2Advertisements[ad.Name], ad
	}
	s.Objects.BGPAdvertisements = slices.Clone(s.Objects.BGPAdvertisements)
	for i, ad := range s.Objects.BGPAdvertisements {
		ad = ad.DeepCopy()
		ad.Status, s.Objects.BGPAdvertisements[i] = desired.BGPAdvertisements[ad.Name], ad
	}
	return s
}

func keyOf(o metav1.Object) types.NamespacedName {
	return cache.MetaObjectToName(o).AsNamespacedName()
}

func servicesByKey(services []*corev1.Service) map[types.NamespacedName]*corev1.Service {
	all := make(map[types.NamespacedName]*corev1.Service, len(services))
	for _, svc := range services {
		all[keyOf(svc)] = svc
	}
	return all
}
