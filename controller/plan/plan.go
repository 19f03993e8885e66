// Package plan decides, from one Snapshot of everything, the desired state of what
// the controller writes: the status of each Service, pool, peer and advertisement,
// and the load balancers in the cloud. It is pure: no context, clock, logger, lock
// or client.
//
// plan.go is the entry: Decide for everything, Explain for one Service. request.go
// turns a Service into a request to the allocator; service.go, cloud.go and
// renumber.go turn the assignment into a ServicePlan; pools.go and
// advertisements.go compute the statuses of Fairlead's own kinds; reports.go reads
// the speakers' reports, candidates.go decides for which addresses they count, and
// rangeindex.go finds the reported ranges with an address. written.go compares the
// desired with the observed state of a Service; order.go orders writes so that no
// address is ever shown by two Services. overlay.go is the controller's
// read-your-writes view of the Services over a stale cache, reverts.go reports other
// writers, planner.go keeps what was derived from unchanged objects, and incremental.go
// plans for a few changed Services only.
package plan

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-io/fairlead/allocator"
	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/providers"
)

// Snapshot is everything that a decision depends on.
type Snapshot struct {
	Policy  providers.Policy
	Objects config.Objects
	// Services are those that are Managed. Unmanaged are those of the others that
	// occupy node ports.
	Services, Unmanaged []*corev1.Service
	Nodes               []*corev1.Node
	Speakers            []*v1alpha1.Speaker
	L2Nodes             []*v1alpha1.L2Node // with the interfaces of the nodes
	// Pools select Services by the labels of Namespaces, and never assign addresses
	// of ServiceCIDRs.
	Namespaces   []*corev1.Namespace
	ServiceCIDRs []*networkingv1.ServiceCIDR
	Now          time.Time
	// Cloud are the outcomes of the last call for each Service since the process
	// started.
	Cloud     map[types.UID]CloudOutcome
	NodePorts PortRange
	// Reverted are the Services on which another writer repeatedly reverts what the
	// controller writes, with its field manager; "" if that is unknown.
	Reverted map[types.NamespacedName]string
}

// Plan is the desired state of all objects that Fairlead writes. An object that is
// not in it is not written.
type Plan struct {
	// Services are all Services that carry, or must carry, state of Fairlead's,
	// oldest first. Changes are those of them with an observed state that differs
	// from the desired one.
	Services, Changes []PlannedService
	// The conditions in these statuses have no times.
	Pools             map[string]v1alpha1.IPAddressPoolStatus
	L2Advertisements  map[string]v1alpha1.L2AdvertisementStatus
	BGPPeers          map[string]v1alpha1.BGPPeerStatus
	BGPAdvertisements map[string]v1alpha1.BGPAdvertisementStatus
	Communities       map[string]v1alpha1.CommunityStatus
	// Cloud are the requests to the cloud, for Services with a record of a load balancer.
	Cloud map[types.UID]CloudRequest
	// LiveServices are the Services that may own resources in the cloud; resources
	// of any other are orphans.
	LiveServices map[types.UID]bool
	// Problems are the problems of all objects, as their conditions show them.
	Problems []config.Problem
	// RequeueAt is when the next full sync is due even if nothing changes; zero is
	// never.
	RequeueAt time.Time
}

// PlannedService is a Service with its desired state.
type PlannedService struct {
	Service *corev1.Service
	Plan    *ServicePlan
}

// Decide returns the plan for all objects of the snapshot. It is deterministic:
// equal snapshots give equal plans.
func Decide(s Snapshot) Plan { return new(Planner).Decide(s) }

// ByKey returns the desired states of all Services in the plan.
func (p Plan) ByKey() map[types.NamespacedName]*ServicePlan {
	all := make(map[types.NamespacedName]*ServicePlan, len(p.Services))
	for _, s := range p.Services {
		all[KeyOf(s.Service)] = s.Plan
	}
	return all
}

// Trace explains the plan for one Service: the choice of the provider, the pools and
// addresses that were considered, and the result.
type Trace struct {
	Choice   providers.Choice
	Verdicts []allocator.TraceEntry
	Plan     ServicePlan
}

// Explain returns how Decide arrives at the plan for one Service, which must be in
// the snapshot.
func Explain(s Snapshot, service types.NamespacedName) Trace {
	d := new(Planner).decision(s)
	svc := d.services[slices.IndexFunc(d.services, func(svc *serviceState) bool { return svc.key == service })]
	result := allocator.Allocate(d.allocatorPools.pools, d.requests)
	d.sharedPools = newSharedPools(d.services, result)
	return Trace{
		Choice: svc.choice, Verdicts: allocator.Explain(d.allocatorPools.pools, d.requests, service),
		Plan: d.servicePlan(svc, svc.assignmentIn(result)),
	}
}

func (d *decision) l2AdvertisementStatuses() map[string]v1alpha1.L2AdvertisementStatus {
	statuses := make(map[string]v1alpha1.L2AdvertisementStatus, len(d.config.L2Advertisements))
	for _, ad := range d.config.L2Advertisements {
		var status v1alpha1.L2AdvertisementStatus
		status.Pools, status.Nodes = d.countSelected(ad.Scope)
		status.SelectedPools = d.selectedPools(ad.Scope)
		status.Conditions = d.readyConditions("L2Advertisement", ad.Name, allEntriesUsed)
		statuses[ad.Name] = status
	}
	return statuses
}

// readyConditions returns the condition Ready, which lists the object's problems.
func (d *decision) readyConditions(kind, name, whenReady string) []metav1.Condition {
	return []metav1.Condition{config.ReadyCondition(d.problemsOf[objectKey{kind, name}], whenReady)}
}

func newCondition(kind string, status metav1.ConditionStatus, reason v1alpha1.Reason, message string) metav1.Condition {
	return metav1.Condition{Type: kind, Status: status, Reason: string(reason), Message: config.Message(message)}
}

// KeyOf returns the namespace and name of the Service.
func KeyOf(svc *corev1.Service) types.NamespacedName {
	return types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}
}
