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

// ConditionEstablished is the type of the condition on BGPPeers: True if every
// session that is wanted is established.
const ConditionEstablished = "Established"
