package v1alpha1

// Load balancer classes (Service spec.loadBalancerClass) that name a provider of
// Fairlead. Services with any other class belong to other controllers.
const (
	ClassBareMetal = "fairlead.io/bare-metal"
	ClassAWS       = "fairlead.io/aws"
)

// FieldManager owns the fields that the controller applies (metadata.managedFields).
const FieldManager = "fairlead-controller"

// EventAnnouncing is the reason of the Event of a Service when a node begins to announce an
// address of it on interfaces.
const EventAnnouncing = "Announcing"

// Finalizers.
const (
	// FinalizerBareMetal is removed from every Service. An address needs no cleanup
	// outside the cluster, so that the deletion of a Service does not wait for Fairlead.
	FinalizerBareMetal = "fairlead.io/bare-metal"

	// FinalizerAWS delays the deletion of a Service until its load balancer in AWS is
	// deleted. It does not prove that there is one: see AnnotationLoadBalancer.
	FinalizerAWS = "fairlead.io/aws"

	// FinalizerCleanup is the finalizer of the upstream service controller
	// (k8s.io/cloud-provider/service/helpers.LoadBalancerCleanupFinalizer), which other
	// tools look for on Services without a class.
	FinalizerCleanup = "service.kubernetes.io/load-balancer-cleanup"
)

// The Secret in Fairlead's namespace that the discriminators of BFD sessions are
// derived from. The controller creates it once; speakers read it.
const (
	BFDSecret    = "fairlead-bfd"
	BFDSecretKey = "key"
	// BFDSecretLength is the least number of bytes of the key.
	BFDSecretLength = 32
)

// Annotations on Services.
const (
	// AnnotationAddressPool requests an address of the named pool.
	AnnotationAddressPool = "fairlead.io/address-pool"

	// AnnotationLoadBalancerIPs requests these addresses, comma-separated, at most one
	// of each family.
	AnnotationLoadBalancerIPs = "fairlead.io/load-balancer-ips"

	// AnnotationProvider requests a provider for a Service without a class: "aws" or
	// "bare-metal". A Service that another provider serves is moved make-before-break:
	// its old addresses work until the new ones do. With "none" Fairlead releases the
	// Service, whatever its class: its addresses, and its load balancer.
	AnnotationProvider = "fairlead.io/provider"

	// AnnotationAllowReplacement, with the value "true", allows the provider to replace
	// the load balancer by another one, with another host name, if a change cannot be
	// made in place.
	AnnotationAllowReplacement = "fairlead.io/allow-replacement"

	// AnnotationAllocatedFrom is written by the controller, together with the
	// addresses: "ADDRESS=POOL", comma-separated, and "uid=UID" of the Service at the
	// end. It proves that the addresses are assigned to the Service with this UID; on
	// any other Service it is a request. Advertisements match the pool recorded here,
	// so an address outlives an edit of its pool.
	AnnotationAllocatedFrom = "fairlead.io/allocated-from"

	// AnnotationAllowSharedIP is a key: Services with the same key may share an
	// address, if their ports differ and the same nodes may serve all of them.
	AnnotationAllowSharedIP = "fairlead.io/allow-shared-ip"

	// AnnotationRelease names addresses, comma-separated, that the Service must not
	// hold. It lets an administrator move a Service off an address.
	AnnotationRelease = "fairlead.io/release"

	// AnnotationRenumber makes a Service keep an address that is replaced alongside the
	// new one: "hold" until the annotation is removed, or until a time (RFC 3339), or
	// for a duration ("48h") after the new one was assigned.
	AnnotationRenumber = "fairlead.io/renumber"

	// AnnotationAnnounceDespiteConflict, with the value "true", makes speakers announce
	// the Service's addresses on interfaces although another host has them. Services that
	// share an address must all have it.
	AnnotationAnnounceDespiteConflict = "fairlead.io/announce-despite-conflict"

	// AnnotationLeaving is written by the controller: "ADDRESS=TIME", comma-separated:
	// addresses that have been replaced, and since when (RFC 3339).
	AnnotationLeaving = "fairlead.io/leaving"

	// AnnotationLoadBalancer is written by the controller before the first request to
	// AWS: "aws=CLUSTER", where CLUSTER is the controller's --cluster-name, and "uid=UID"
	// of the Service at the end. It proves that a load balancer may exist in AWS for the
	// Service with this UID. It is removed when AWS has deleted everything.
	AnnotationLoadBalancer = "fairlead.io/load-balancer"
)

// RecordAnnotations are written by the controller only.
var RecordAnnotations = [...]string{AnnotationAllocatedFrom, AnnotationLeaving, AnnotationLoadBalancer}

// Annotations of Fairlead and those of other implementations with the same meaning, in
// the order of precedence.
var (
	// AddressPoolAnnotations request a pool by name.
	AddressPoolAnnotations = []string{
		AnnotationAddressPool, "metallb.io/address-pool", "metallb.universe.tf/address-pool", "purelb.io/service-group",
	}
	// LoadBalancerIPsAnnotations request addresses, in a comma-separated list except
	// that of Calico, which is a JSON array.
	LoadBalancerIPsAnnotations = []string{
		AnnotationLoadBalancerIPs, "metallb.io/loadBalancerIPs", "metallb.universe.tf/loadBalancerIPs",
		"lbipam.cilium.io/ips", "io.cilium/lb-ipam-ips", AnnotationKubeVIPAddresses, "purelb.io/addresses", AnnotationCalicoAddresses,
	}
	// AllowSharedIPAnnotations have the key of sharing.
	AllowSharedIPAnnotations = []string{
		AnnotationAllowSharedIP, "metallb.io/allow-shared-ip", "metallb.universe.tf/allow-shared-ip", "purelb.io/allow-shared-ip",
	}
	// NamespacedSharingAnnotations have the key of sharing with Services of the same
	// namespace.
	NamespacedSharingAnnotations = []string{"lbipam.cilium.io/sharing-key", "io.cilium/lb-ipam-sharing-key"}
)

// Annotations of other implementations that request addresses in a way of their own.
const (
	// AnnotationKubeVIPAddresses requests an address by DHCP with the value 0.0.0.0.
	AnnotationKubeVIPAddresses = "kube-vip.io/loadbalancerIPs"

	// AnnotationCalicoAddresses has the value of a JSON array.
	AnnotationCalicoAddresses = "projectcalico.org/loadBalancerIPs"
)

// Types of the conditions in a Service's status.
const (
	// ConditionProvisioned is True if all requested addresses are assigned.
	ConditionProvisioned = "fairlead.io/Provisioned"

	// ConditionAnnounced is True if all addresses are announced to the network.
	ConditionAnnounced = "fairlead.io/Announced"

	// ConditionShared is True if the Service shares its addresses. Its message is the
	// record of the terms: traffic policy, ports, backends and key. Of two Services that
	// can no longer share, the one that has changed its terms releases the address.
	// The record is in the status, because an annotation could be changed by anyone who
	// may update the Service.
	ConditionShared = "fairlead.io/Shared"
)

// ConditionReady is the type of the condition on Fairlead's own kinds. It is True if
// all entries of the spec are in use.
const ConditionReady = "Ready"

// Types of additional conditions on IPAddressPools.
const (
	// ConditionAdvertised is True if an advertisement covers the pool.
	ConditionAdvertised = "Advertised"

	// ConditionOverlaps is True if another pool contains some of its addresses.
	ConditionOverlaps = "Overlaps"
)

// ConditionEstablished is the type of the condition on BGPPeers. It is True if all
// desired sessions are established.
const ConditionEstablished = "Established"
