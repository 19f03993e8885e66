package v1alpha1

// Reason says in one word why something is as it is. The same word reaches
// conditions, Events, metrics and the command line; docs/troubleshooting.md
// has a heading for each.
type Reason string

// Reasons of the Service condition fairlead.io/Provisioned.
const (
	// Assigned: the Service holds every address it asks for.
	Assigned Reason = "Assigned"
	// OutOfPool: the Service keeps its address, but the pool that it came from
	// does not contain it, or does not select the Service, any more.
	OutOfPool Reason = "OutOfPool"
	// PoolExhausted: a pool matches, but has no free address of the family.
	PoolExhausted Reason = "PoolExhausted"
	// NoMatchingPool: no pool may serve this Service.
	NoMatchingPool Reason = "NoMatchingPool"
	// AddressTaken: the requested address belongs to another Service.
	AddressTaken Reason = "AddressTaken"
	// AddressNotInPool: the requested address is in no pool that may serve this Service.
	AddressNotInPool Reason = "AddressNotInPool"
	// AddressReserved: the requested address is one of the cluster's own, or one that its pool avoids.
	AddressReserved Reason = "AddressReserved"
	// Renumbering: the Service holds a new address beside the one that it replaces.
	Renumbering Reason = "Renumbering"
	// ConflictingRequest: two ways of asking for an address contradict each other.
	ConflictingRequest Reason = "ConflictingRequest"
	// InvalidRequest: an annotation or field of the Service cannot be understood.
	InvalidRequest Reason = "InvalidRequest"
	// ProviderUndecided: it is not yet known which provider serves Services without a class.
	ProviderUndecided Reason = "ProviderUndecided"
	// ForeignStatus: the status holds an address that is not Fairlead's to manage.
	ForeignStatus Reason = "ForeignStatus"

	// Provisioning: the cloud is still making the balancer.
	Provisioning Reason = "Provisioning"
	// Deleting: the cloud has not yet let go of everything that belonged to the Service.
	Deleting Reason = "Deleting"
	// ReplacementRequired: the change cannot be made in place, and nobody has allowed a new balancer.
	ReplacementRequired Reason = "ReplacementRequired"
	// CloudNotConfigured: the cloud's provider lacks a setting that it cannot do without.
	CloudNotConfigured Reason = "CloudNotConfigured"
	// CloudCannotServe: no balancer of the cloud can do what the Service asks for.
	CloudCannotServe Reason = "CloudCannotServe"
	// CloudFailed: the cloud's API failed; the call will be made again.
	CloudFailed Reason = "CloudFailed"
	// PermissionDenied: the cloud does not allow the controller a call that it needs.
	PermissionDenied Reason = "PermissionDenied"
	// QuotaExceeded: the cloud's quota, or a limit of its balancers, is reached.
	QuotaExceeded Reason = "QuotaExceeded"
	// NameTaken: somebody else's object has the name that ours would have.
	NameTaken Reason = "NameTaken"
	// NoSubnet: the cloud's network has no subnet for the balancer.
	NoSubnet Reason = "NoSubnet"
	// NoTargets: no node can be a target of the balancer.
	NoTargets Reason = "NoTargets"
	// NodePortsExhausted: no free port is left for a Service whose balancer needs one.
	NodePortsExhausted Reason = "NodePortsExhausted"
)

// Reasons of the Service condition fairlead.io/Announced. NodeNotReady,
// NodeExcluded and NodeNotSelected are verdicts about one node; they appear
// in the message of NoEligibleNode and in `fairlead explain`.
const (
	// Announced: a node answers for every address.
	Announced Reason = "Announced"
	// NoAddress: there is nothing to announce yet.
	NoAddress Reason = "NoAddress"
	// NoSpeaker: no speaker has reported about the address yet.
	NoSpeaker Reason = "NoSpeaker"
	// NoAdvertisement: no advertisement covers the address's pool.
	NoAdvertisement Reason = "NoAdvertisement"
	// NoEligibleNode: every node is excluded, not ready, or not selected.
	NoEligibleNode Reason = "NoEligibleNode"
	// NoEndpoints: externalTrafficPolicy is Local and no eligible node has a ready endpoint.
	NoEndpoints Reason = "NoEndpoints"
	// NoInterface: no eligible node has a link that can carry the address.
	NoInterface Reason = "NoInterface"
	// AnnounceFailed: the node that should announce the address cannot.
	AnnounceFailed Reason = "AnnounceFailed"
	// NoPeer: no node that may announce the address has a session with a peer that may be told.
	NoPeer Reason = "NoPeer"
	// NoSession: no BGP session over which the address would be told is established.
	NoSession Reason = "NoSession"
	// UnsupportedFamily: nothing announces addresses of this family yet.
	UnsupportedFamily Reason = "UnsupportedFamily"

	// NodeNotReady: the node's Ready condition is not True.
	NodeNotReady Reason = "NodeNotReady"
	// NodeExcluded: the node is labelled node.kubernetes.io/exclude-from-external-load-balancers or is being deleted.
	NodeExcluded Reason = "NodeExcluded"
	// NodeNotSelected: no advertisement of the pool selects the node.
	NodeNotSelected Reason = "NodeNotSelected"
	// NotOwner: the node could announce the address, but another one has the higher rank.
	NotOwner Reason = "NotOwner"
)

// Reasons of the condition Ready on Fairlead's own kinds, and of Problems.
const (
	// Ready: every entry of the spec is in use.
	Ready Reason = "Ready"
	// InvalidAddress: an entry is no CIDR, range or address.
	InvalidAddress Reason = "InvalidAddress"
	// HostBitsSet: a CIDR has bits set behind its prefix length.
	HostBitsSet Reason = "HostBitsSet"
	// InvertedRange: a range ends before it starts.
	InvertedRange Reason = "InvertedRange"
	// OverlappingAddresses: an entry shares addresses with an earlier entry or an older pool.
	OverlappingAddresses Reason = "OverlappingAddresses"
	// NodeAddress: an entry contains addresses of nodes, which are never given.
	NodeAddress Reason = "NodeAddress"
	// ClusterAddress: an entry contains addresses of pods or of ClusterIPs, which are never given.
	ClusterAddress Reason = "ClusterAddress"
	// InvalidSelector: a label selector cannot be understood.
	InvalidSelector Reason = "InvalidSelector"
	// UnknownPool: an advertisement names a pool that does not exist.
	UnknownPool Reason = "UnknownPool"
	// PoolTerminating: the pool is being deleted; its addresses stay with the Services that hold them.
	PoolTerminating Reason = "PoolTerminating"
	// UnknownPeer: an advertisement names a BGPPeer that does not exist.
	UnknownPeer Reason = "UnknownPeer"
	// UnknownCommunity: an advertisement names a community that nobody defines.
	UnknownCommunity Reason = "UnknownCommunity"
	// InvalidCommunity: the value of a community cannot be understood.
	InvalidCommunity Reason = "InvalidCommunity"
	// DuplicateCommunity: a name of a community is defined twice.
	DuplicateCommunity Reason = "DuplicateCommunity"
	// UnknownBFDProfile: a BGPPeer names a BFDProfile that does not exist.
	UnknownBFDProfile Reason = "UnknownBFDProfile"
	// BFDTooFast: BFD ends sooner than the restart that graceful restart is for.
	BFDTooFast Reason = "BFDTooFast"
	// AggregateBeyondPool: an aggregate would contain addresses that are not the pool's.
	AggregateBeyondPool Reason = "AggregateBeyondPool"
	// ConflictingAttributes: two advertisements make the same route with different attributes.
	ConflictingAttributes Reason = "ConflictingAttributes"
	// DuplicatePeer: two BGPPeers lead to the same router from one node.
	DuplicatePeer Reason = "DuplicatePeer"
	// NoSecret: the Secret with the peer's password is missing, or has no key "password".
	NoSecret Reason = "NoSecret"
	// NoRouter: a node has found no router on the link, or has no default gateway.
	NoRouter Reason = "NoRouter"
)

// Reasons of the conditions Advertised and Overlaps on IPAddressPools, beside
// NoAdvertisement and OverlappingAddresses.
const (
	// Advertised: an advertisement covers the pool.
	Advertised Reason = "Advertised"
	// NoOverlap: no other pool has an address of this one.
	NoOverlap Reason = "NoOverlap"
)

// Reasons of the condition Established on BGPPeers.
const (
	// Established: every session that is wanted is established.
	Established Reason = "Established"
	// SessionDown: a session that is wanted is not established.
	SessionDown Reason = "SessionDown"
	// NoNode: the peer selects no node.
	NoNode Reason = "NoNode"
)

// Reasons that only `fairlead doctor` gives.
const (
	// ControllerBehind: Services do not say what the controller would say.
	ControllerBehind Reason = "ControllerBehind"
	// PoolNearlyExhausted: a pool has few free addresses left.
	PoolNearlyExhausted Reason = "PoolNearlyExhausted"
	// RoutesWithheld: a session is established, but not all routes can be told over it.
	RoutesWithheld Reason = "RoutesWithheld"
	// BFDDown: a BGP session is established, but the BFD session beside it is not up.
	BFDDown Reason = "BFDDown"
	// ChangePending: a change of a peer waits for the next session.
	ChangePending Reason = "ChangePending"
	// NoGracefulRestart: graceful restart is wanted, and the router does not offer it.
	NoGracefulRestart Reason = "NoGracefulRestart"
)
