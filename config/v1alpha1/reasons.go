package v1alpha1

// Reason is the machine-readable reason of a state or a refusal. The same Reason
// appears in conditions, Events, metrics and the command line, and has a heading in
// docs/troubleshooting.md.
type Reason string

// Reasons of the Service condition fairlead.io/Provisioned.
const (
	// Assigned: the Service holds all addresses that it requests.
	Assigned Reason = "Assigned"
	// OutOfPool: the Service keeps its address, but the pool it was assigned from no
	// longer contains it or no longer selects the Service.
	OutOfPool Reason = "OutOfPool"
	// UnsupportedAnnotation: the Service holds its addresses, but an annotation of another
	// implementation, or on AWS one for pools, makes a request that has no effect.
	UnsupportedAnnotation Reason = "UnsupportedAnnotation"
	// PoolExhausted: a pool matches, but has no free address of the family.
	PoolExhausted Reason = "PoolExhausted"
	// NoMatchingPool: no pool may serve this Service.
	NoMatchingPool Reason = "NoMatchingPool"
	// AddressTaken: the requested address is assigned to another Service.
	AddressTaken Reason = "AddressTaken"
	// AddressNotInPool: the requested address is in no pool that may serve this Service.
	AddressNotInPool Reason = "AddressNotInPool"
	// AddressReserved: the requested address belongs to the cluster itself, or its pool avoids it.
	AddressReserved Reason = "AddressReserved"
	// Renumbering: the Service holds a new address alongside the one that it replaces.
	Renumbering Reason = "Renumbering"
	// ConflictingRequest: two requests of the Service contradict each other.
	ConflictingRequest Reason = "ConflictingRequest"
	// InvalidRequest: an annotation or field of the Service is invalid.
	InvalidRequest Reason = "InvalidRequest"
	// ProviderUndecided: it is not yet known which provider serves Services without a class.
	ProviderUndecided Reason = "ProviderUndecided"
	// Reverted: another writer repeatedly reverts what the controller writes to the Service.
	Reverted Reason = "Reverted"
	// WriteFailed: the API server repeatedly rejects what the controller writes to the
	// Service. It is the reason of an Event only: the conditions cannot be written.
	WriteFailed Reason = "WriteFailed"
	// ForeignStatus: the status has an address that Fairlead does not manage.
	ForeignStatus Reason = "ForeignStatus"

	// Provisioning: the cloud is still creating the load balancer.
	Provisioning Reason = "Provisioning"
	// Deleting: the cloud has not yet deleted all objects of the Service.
	Deleting Reason = "Deleting"
	// ReplacementRequired: the change cannot be made in place, and replacing the load balancer is not allowed.
	ReplacementRequired Reason = "ReplacementRequired"
	// CloudNotConfigured: a required setting of the cloud provider is missing.
	CloudNotConfigured Reason = "CloudNotConfigured"
	// ClusterNameChanged: the load balancer was created under another name of the cluster.
	ClusterNameChanged Reason = "ClusterNameChanged"
	// CloudCannotServe: no load balancer of the cloud supports what the Service requests.
	CloudCannotServe Reason = "CloudCannotServe"
	// CloudFailed: a call to the API of the cloud failed; it is retried.
	CloudFailed Reason = "CloudFailed"
	// PermissionDenied: the controller lacks a permission in the cloud, or a load
	// balancer is protected from deletion.
	PermissionDenied Reason = "PermissionDenied"
	// QuotaExceeded: a quota of the cloud, or a limit of its load balancers, is reached.
	QuotaExceeded Reason = "QuotaExceeded"
	// NameTaken: an object that Fairlead does not manage has the required name.
	NameTaken Reason = "NameTaken"
	// NoSubnet: the network of the cloud has no subnet for the load balancer.
	NoSubnet Reason = "NoSubnet"
	// NoTargets: no node can be a target of the load balancer.
	NoTargets Reason = "NoTargets"
	// NodePortsExhausted: no free node port is left for a Service that needs one.
	NodePortsExhausted Reason = "NodePortsExhausted"
)

// Reasons of the Service condition fairlead.io/Announced. NodeNotReady,
// NodeExcluded, NodeNotSelected and NotOwner are about one node. They appear in the
// message of NoEligibleNode and in `fairlead explain`.
const (
	// Shared: the Service shares its addresses under the terms in the message.
	Shared Reason = "Shared"
	// Announced: all addresses are announced.
	Announced Reason = "Announced"
	// NoAddress: no address is assigned yet.
	NoAddress Reason = "NoAddress"
	// NoSpeaker: no speaker has reported about the address yet.
	NoSpeaker Reason = "NoSpeaker"
	// NoAdvertisement: no advertisement covers the address's pool.
	NoAdvertisement Reason = "NoAdvertisement"
	// NoEligibleNode: every node is excluded, not ready, or not selected.
	NoEligibleNode Reason = "NoEligibleNode"
	// NoEndpoints: no endpoint is ready or serving, or externalTrafficPolicy is Local and no
	// eligible node has one. Routes are withdrawn, unless the BGPAdvertisement keeps them;
	// under Cluster the address stays announced on the LAN.
	NoEndpoints Reason = "NoEndpoints"
	// NoInterface: no eligible node has an interface on the segment of the address.
	NoInterface Reason = "NoInterface"
	// AnnounceFailed: the node that owns the address failed to announce it.
	AnnounceFailed Reason = "AnnounceFailed"
	// NoPeer: no eligible node has a session with a peer that the address may be advertised to.
	NoPeer Reason = "NoPeer"
	// NoSession: none of the BGP sessions over which the address is advertised is established.
	NoSession Reason = "NoSession"
	// AddressConflict: another host has the address. It is not announced if the conflict
	// was found before the first announcement, and stays announced otherwise.
	AddressConflict Reason = "AddressConflict"
	// ProxyARP: all addresses are announced, but a router answers for them as well (RFC 1027).
	ProxyARP Reason = "ProxyARP"
	// KernelAnswers: all addresses are announced, but the kernels of nodes answer for them, whether
	// or not a speaker runs there: kube-proxy in IPVS mode has assigned them to an interface, or
	// they are configured on one.
	KernelAnswers Reason = "KernelAnswers"

	// NodeNotReady: the node's Ready condition is not True.
	NodeNotReady Reason = "NodeNotReady"
	// NodeExcluded: the node has the label node.kubernetes.io/exclude-from-external-load-balancers
	// or the taint node.kubernetes.io/out-of-service, or was deleted.
	NodeExcluded Reason = "NodeExcluded"
	// NodeBeingRemoved: the node has a taint of an autoscaler or a deletion timestamp, and
	// another one can announce the address.
	NodeBeingRemoved Reason = "NodeBeingRemoved"
	// NodeNotSelected: no advertisement of the pool selects the node.
	NodeNotSelected Reason = "NodeNotSelected"
	// NotOwner: the node is eligible, but another one has the higher rank.
	NotOwner Reason = "NotOwner"
	// TakenOver: the node ranks higher, but another one announces its addresses, because it
	// did not answer on the LAN or left.
	TakenOver Reason = "TakenOver"
)

// Reasons of the condition Ready on Fairlead's own kinds, and of Problems.
const (
	// Ready: all entries of the spec are in use.
	Ready Reason = "Ready"
	// InvalidAddress: an entry is not a valid CIDR, range or address.
	InvalidAddress Reason = "InvalidAddress"
	// HostBitsSet: a CIDR has host bits set.
	HostBitsSet Reason = "HostBitsSet"
	// InvertedRange: a range ends before it starts.
	InvertedRange Reason = "InvertedRange"
	// OverlappingAddresses: an entry shares addresses with an earlier entry or an older pool.
	OverlappingAddresses Reason = "OverlappingAddresses"
	// NodeAddress: an entry contains addresses of nodes, which are never assigned; or a
	// Service holds one, which is not announced.
	NodeAddress Reason = "NodeAddress"
	// ClusterAddress: an entry contains addresses of pods or ClusterIPs, which are never assigned.
	ClusterAddress Reason = "ClusterAddress"
	// InvalidSelector: a label selector is invalid.
	InvalidSelector Reason = "InvalidSelector"
	// UnknownPool: an advertisement names a pool that does not exist.
	UnknownPool Reason = "UnknownPool"
	// PoolTerminating: the pool is being deleted; Services keep its addresses.
	PoolTerminating Reason = "PoolTerminating"
	// UnknownPeer: an advertisement names a BGPPeer that does not exist.
	UnknownPeer Reason = "UnknownPeer"
	// UnknownCommunity: an advertisement names a community that is not defined.
	UnknownCommunity Reason = "UnknownCommunity"
	// InvalidCommunity: the value of a community is invalid.
	InvalidCommunity Reason = "InvalidCommunity"
	// DuplicateCommunity: a name of a community is already defined.
	DuplicateCommunity Reason = "DuplicateCommunity"
	// UnknownBFDProfile: an object names a BFDProfile that does not exist.
	UnknownBFDProfile Reason = "UnknownBFDProfile"
	// InvalidBFDProfile: a value of the BFDProfile that an object names is not within its bounds.
	InvalidBFDProfile Reason = "InvalidBFDProfile"
	// BFDTooFast: BFD detects a failure sooner than a speaker with graceful restart is restarted.
	BFDTooFast Reason = "BFDTooFast"
	// AggregateBeyondPool: an aggregate would contain addresses outside the pool.
	AggregateBeyondPool Reason = "AggregateBeyondPool"
	// ConflictingAttributes: two advertisements yield the same route with different attributes.
	ConflictingAttributes Reason = "ConflictingAttributes"
	// DuplicatePeer: two BGPPeers are the same router for a node.
	DuplicatePeer Reason = "DuplicatePeer"
	// NoSecret: the Secret with the peer's password is missing, or has no key "password".
	NoSecret Reason = "NoSecret"
	// IncompleteReport: entries of a Speaker's status are ignored, or the speaker omitted them.
	IncompleteReport Reason = "IncompleteReport"
	// UnsupportedVRF: the router is on an interface that is a port of a VRF device.
	UnsupportedVRF Reason = "UnsupportedVRF"
	// NoRouter: a node has discovered no router on the interface, or has no default gateway.
	NoRouter Reason = "NoRouter"
)

// Reasons of the conditions Advertised and Overlaps on IPAddressPools, in addition to
// NoAdvertisement and OverlappingAddresses.
const (
	// Advertised: an advertisement covers the pool.
	Advertised Reason = "Advertised"
	// NoOverlap: no other pool contains an address of this one.
	NoOverlap Reason = "NoOverlap"
)

// Reasons of the condition Established on BGPPeers.
const (
	// Established: all desired sessions are established.
	Established Reason = "Established"
	// SessionDown: a desired session is not established.
	SessionDown Reason = "SessionDown"
	// NoNode: the peer selects no node.
	NoNode Reason = "NoNode"
)

// Reasons that only `fairlead doctor` reports.
const (
	// ListenFailed: a controller or speaker cannot listen on the port of its metrics. It is also
	// the reason of an Event about the Pod.
	ListenFailed Reason = "ListenFailed"
	// KindMissing: the CustomResourceDefinition of one of Fairlead's kinds is not installed.
	KindMissing Reason = "KindMissing"
	// ControllerBehind: the status of Services differs from what the controller would write.
	ControllerBehind Reason = "ControllerBehind"
	// PoolNearlyExhausted: a pool has few free addresses left.
	PoolNearlyExhausted Reason = "PoolNearlyExhausted"
	// RoutesWithheld: a session is established, but some routes cannot be advertised over it.
	RoutesWithheld Reason = "RoutesWithheld"
	// BFDDown: a BGP session is established, but its BFD session is not up.
	BFDDown Reason = "BFDDown"
	// BFDFiltered: a node answers another one by ARP or Neighbor Discovery, but not by BFD.
	BFDFiltered Reason = "BFDFiltered"
	// DataPathUnverified: a node announces addresses without an answer from its kube-proxy, or
	// waits for one.
	DataPathUnverified Reason = "DataPathUnverified"
	// SlowDetection: BFD between nodes detects a failure after more than a second.
	SlowDetection Reason = "SlowDetection"
	// ChangePending: a change of a peer takes effect with the next session.
	ChangePending Reason = "ChangePending"
	// NoGracefulRestart: graceful restart is enabled, but the router does not support it.
	NoGracefulRestart Reason = "NoGracefulRestart"
)
