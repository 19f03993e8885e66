package v1alpha1

// Load balancer classes (Service spec.loadBalancerClass) that name a provider
// of Fairlead. Any other class is somebody else's.
const (
	ClassBareMetal = "fairlead.io/bare-metal"
	ClassAWS       = "fairlead.io/aws"
)

// Finalizers.
const (
	// FinalizerBareMetal on a Service records that the bare-metal provider
	// serves it: its addresses are ours until the finalizer is gone.
	FinalizerBareMetal = "fairlead.io/bare-metal"

	// FinalizerAWS on a Service records that the AWS provider serves it: its
	// balancer, in the cloud, is ours until the finalizer is gone.
	FinalizerAWS = "fairlead.io/aws"

	// FinalizerPoolInUse keeps a deleted IPAddressPool terminating until the
	// last Service has let go of its addresses.
	FinalizerPoolInUse = "fairlead.io/pool-in-use"
)

// Annotations on Services.
const (
	// AnnotationAddressPool asks for an address of the named pool.
	AnnotationAddressPool = "fairlead.io/address-pool"

	// AnnotationLoadBalancerIPs asks for these addresses, comma-separated,
	// at most one of each family.
	AnnotationLoadBalancerIPs = "fairlead.io/load-balancer-ips"

	// AnnotationProvider asks, on a Service without a class, for a provider:
	// "aws" or "bare-metal". On a Service that is served already it is a switch
	// that keeps the old way in until the new one answers.
	AnnotationProvider = "fairlead.io/provider"

	// AnnotationAllowReplacement, with the value "true", allows the cloud's
	// provider to replace the balancer by another one, with another host name,
	// where a change cannot be made in place.
	AnnotationAllowReplacement = "fairlead.io/allow-replacement"

	// AnnotationAllocatedFrom is written by the controller, together with the
	// addresses: "ADDRESS=POOL", comma-separated. Advertisements match the
	// pool recorded here, so an address outlives an edit of its pool.
	AnnotationAllocatedFrom = "fairlead.io/allocated-from"

	// AnnotationAllowSharedIP is a key: Services with one key may hold one
	// address together, if their ports differ and packets may be sent to the
	// same nodes for all of them.
	AnnotationAllowSharedIP = "fairlead.io/allow-shared-ip"

	// AnnotationSharedAs is written by the controller, together with the
	// addresses: the terms under which the Service shares them. Of two Services
	// that cannot share any more, the one that has departed from its terms loses.
	AnnotationSharedAs = "fairlead.io/shared-as"

	// AnnotationRelease names addresses, comma-separated, that the Service shall
	// not hold. It is an administrator's way to move a Service off an address.
	AnnotationRelease = "fairlead.io/release"

	// AnnotationRenumber makes a Service keep an address that is replaced beside
	// the new one: "hold" until the annotation is removed, or until a time (RFC
	// 3339), or for a duration ("48h") since the new one was given.
	AnnotationRenumber = "fairlead.io/renumber"

	// AnnotationLeaving is written by the controller: "ADDRESS=TIME",
	// comma-separated: addresses that others replace, and since when (RFC 3339).
	AnnotationLeaving = "fairlead.io/leaving"
)

// RecordAnnotations are those that only the controller writes.
var RecordAnnotations = [...]string{AnnotationAllocatedFrom, AnnotationSharedAs, AnnotationLeaving}

// Annotations of MetalLB that mean the same, read where the own one's are read.
var (
	// AddressPoolAnnotations ask for a pool by name.
	AddressPoolAnnotations = []string{AnnotationAddressPool, "metallb.io/address-pool", "metallb.universe.tf/address-pool"}
	// LoadBalancerIPsAnnotations ask for addresses.
	LoadBalancerIPsAnnotations = []string{AnnotationLoadBalancerIPs, "metallb.io/loadBalancerIPs", "metallb.universe.tf/loadBalancerIPs"}
	// AllowSharedIPAnnotations are keys of sharing.
	AllowSharedIPAnnotations = []string{AnnotationAllowSharedIP, "metallb.io/allow-shared-ip", "metallb.universe.tf/allow-shared-ip"}
)

// Types of the conditions in a Service's status.
const (
	// ConditionProvisioned says whether the Service has every address it asks for.
	ConditionProvisioned = "fairlead.io/Provisioned"

	// ConditionAnnounced says whether the network can learn where its addresses are.
	ConditionAnnounced = "fairlead.io/Announced"
)

// ConditionReady is the type of the condition on Fairlead's own kinds: True if
// every entry of the spec is in use.
const ConditionReady = "Ready"

// Types of further conditions on IPAddressPools.
const (
	// ConditionAdvertised says whether an advertisement covers the pool.
	ConditionAdvertised = "Advertised"

	// ConditionOverlaps says whether another pool has some of its addresses.
	ConditionOverlaps = "Overlaps"
)

// ConditionEstablished is the type of the condition on BGPPeers: True if every
// session that is wanted is established.
const ConditionEstablished = "Established"
