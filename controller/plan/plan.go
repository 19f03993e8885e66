// Package plan decides, from one Snapshot of everything, what the controller
// writes: the status of each Service, pool, peer and advertisement, and what the
// cloud is asked for. It is pure: no context, clock, logger, lock or client.
//
// plan.go is the entry: Decide for everything, Explain for one Service. request.go
// turns a Service into a request to the allocator; service.go, cloud.go and
// renumber.go turn the answer into a ServicePlan; pools.go and advertisements.go
// compute the statuses of Fairlead's own kinds; reports.go reads what the
// speakers report. written.go compares a plan with a Service and says what an
// apply of it leaves; order.go brings writes into an order that never shows one
// address on two Services. overlay.go is the controller's read-your-writes view
// of the Services, and incremental.go plans for a few changed Services only.
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
	// Services that are Managed. Unmanaged are the others, as far as they occupy
	// node ports.
	Services, Unmanaged []*corev1.Service
	Nodes               []*corev1.Node
	Speakers            []*v1alpha1.Speaker
	// Namespaces, for the labels that pools select; ServiceCIDRs, whose addresses no pool gives.
	Namespaces   []*corev1.Namespace
	ServiceCIDRs []*networkingv1.ServiceCIDR
	Now          time.Time
	// Cloud is what the cloud has answered since the process began.
	Cloud     map[types.UID]CloudOutcome
	NodePorts PortRange
}

// Plan is what the objects that Fairlead writes should say. An object that is
// not in it is not touched.
type Plan struct {
	// Services are all Services that carry, or are to carry, anything of
	// Fairlead's, oldest first. Changes are those of them whose
	// observed state differs from the desired one.
	Services, Changes []PlannedService
	Pools             map[string]PoolPlan
	// The statuses' conditions are without times.
	L2Advertisements  map[string]v1alpha1.L2AdvertisementStatus
	BGPPeers          map[string]v1alpha1.BGPPeerStatus
	BGPAdvertisements map[string]v1alpha1.BGPAdvertisementStatus
	Communities       map[string]v1alpha1.CommunityStatus
	// Cloud is what the cloud shall do, for each Service that carries its finalizer.
	Cloud map[types.UID]CloudRequest
	// LiveServices are the Services that may have something in the cloud.
	LiveServices map[types.UID]bool
	// Problems are those of all objects, which their conditions show.
	Problems []config.Problem
	// RequeueAt is when to decide again although nothing has happened; zero is never.
	RequeueAt time.Time
}

// PoolPlan is what the controller says on a pool.
type PoolPlan struct {
	InUse  bool // keeps a deleted pool terminating
	Status v1alpha1.IPAddressPoolStatus
}

// PlannedService is a Service with its desired state.
type PlannedService struct {
	Service *corev1.Service
	Plan    *ServicePlan
}

// Decide plans for everything at once. Equal snapshots give equal plans.
func Decide(s Snapshot) Plan { return new(Planner).Decide(s) }

// ByKey returns the desired states of all Services in the plan.
func (p Plan) ByKey() map[types.NamespacedName]*ServicePlan {
	all := make(map[types.NamespacedName]*ServicePlan, len(p.Services))
	for _, s := range p.Services {
		all[KeyOf(s.Service)] = s.Plan
	}
	return all
}

// Trace is how the plan for one Service came about.
type Trace struct {
	Choice   providers.Choice
	Verdicts []allocator.TraceEntry
	Plan     ServicePlan
}

// Explain is Decide, watched from one Service, which must be in the snapshot.
func Explain(s Snapshot, service types.NamespacedName) Trace {
	d := new(Planner).decision(s)
	svc := d.services[slices.IndexFunc(d.services, func(svc *serviceState) bool { return svc.key == service })]
	result := allocator.Allocate(d.allocatorPools.pools, d.requests)
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
		status.Conditions = d.readyConditions("L2Advertisement", ad.Name, allEntriesUsed)
		statuses[ad.Name] = status
	}
	return statuses
}

func (d *decision) readyConditions(kind, name, whenReady string) []metav1.Condition {
	return []metav1.Condition{config.ReadyCondition(d.problemsOf[objectKey{kind, name}], whenReady)}
}

func newCondition(kind string, status metav1.ConditionStatus, reason v1alpha1.Reason, message string) metav1.Condition {
	return metav1.Condition{Type: kind, Status: status, Reason: string(reason), Message: config.Message(message)}
}

func KeyOf(svc *corev1.Service) types.NamespacedName {
	return types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}
}
