package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// BGPPeer is a router that the speakers have BGP sessions with, one from each
// node that is selected.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,path=bgppeers
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Address",type=string,JSONPath=`.status.address`,description="whom the speakers connect to"
// +kubebuilder:printcolumn:name="ASN",type=string,JSONPath=`.status.asn`
// +kubebuilder:printcolumn:name="Sessions",type=string,JSONPath=`.status.summary`,description="sessions that are established, of those wanted"
// +kubebuilder:printcolumn:name="BFD",type=string,JSONPath=`.spec.bfdProfile`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type BGPPeer struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +required
	Spec BGPPeerSpec `json:"spec"`
	// +optional
	Status BGPPeerStatus `json:"status,omitempty"`
}

// BGPPeerSpec is what the administrator asks for. Which edits reset a session
// is said in docs/bgp.md.
//
// +kubebuilder:validation:XValidation:rule="(has(self.peerASN) ? 1 : 0) + (has(self.dynamicASN) ? 1 : 0) == 1",message="exactly one of peerASN and dynamicASN must be set"
// +kubebuilder:validation:XValidation:rule="(has(self.peerAddress) ? 1 : 0) + (has(self.interface) ? 1 : 0) + (has(self.defaultGateway) ? 1 : 0) == 1",message="exactly one of peerAddress, interface and defaultGateway must be set"
// +kubebuilder:validation:XValidation:rule="!has(self.keepaliveTime) || !has(self.holdTime) || duration(self.holdTime) == duration('0s') || duration(self.keepaliveTime) < duration(self.holdTime)",message="keepaliveTime must be shorter than holdTime"
// +kubebuilder:validation:XValidation:rule="!has(self.ebgpMultiHop) || !self.ebgpMultiHop || !has(self.interface)",message="ebgpMultiHop and interface exclude each other: a peer on a link is one hop away"
// +kubebuilder:validation:XValidation:rule="!has(self.ebgpMultiHop) || !self.ebgpMultiHop || !(has(self.dynamicASN) ? self.dynamicASN == 'internal' : has(self.peerASN) && self.peerASN == self.myASN)",message="ebgpMultiHop is for external peers: internal ones may be any number of hops away"
// +kubebuilder:validation:XValidation:rule="!has(self.peerAddress) || !has(self.sourceAddress) || ip(self.peerAddress).family() == ip(self.sourceAddress).family()",message="peerAddress and sourceAddress must be of one family"
type BGPPeerSpec struct {
	// MyASN is the autonomous system number of the nodes.
	//
	// +required
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=4294967295
	MyASN int64 `json:"myASN"`

	// PeerASN is the autonomous system number of the router. The same as MyASN
	// makes the session internal (iBGP).
	//
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=4294967295
	PeerASN int64 `json:"peerASN,omitempty"`

	// DynamicASN accepts whatever number the router has: external any but
	// MyASN, internal MyASN only.
	//
	// +optional
	// +kubebuilder:validation:Enum=internal;external
	DynamicASN string `json:"dynamicASN,omitempty"`

	// PeerAddress is the router's IPv4 or IPv6 address.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=45
	// +kubebuilder:validation:XValidation:rule="isIP(self)",message="is no IP address"
	// +kubebuilder:validation:XValidation:rule="!isIP(self) || !ip(self).isLinkLocalUnicast() && !ip(self).isUnspecified() && !ip(self).isLinkLocalMulticast()",message="must be a unicast address with more than link-local scope: interface names the link of such a router"
	PeerAddress string `json:"peerAddress,omitempty"`

	// Interface names the link on which the router is found by its router
	// advertisements, and which needs no addresses but link-local ones
	// ("unnumbered"; IPv4 routes get IPv6 next hops, RFC 8950).
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=15
	Interface string `json:"interface,omitempty"`

	// DefaultGateway peers each node with its own default gateway of this family.
	//
	// +optional
	// +kubebuilder:validation:Enum=IPv4;IPv6
	DefaultGateway string `json:"defaultGateway,omitempty"`

	// Passive waits for the router to connect instead of connecting to it.
	//
	// +optional
	Passive bool `json:"passive,omitempty"`

	// PeerPort is the TCP port: the router's, or with Passive the one to listen on.
	//
	// +optional
	// +kubebuilder:default=179
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	PeerPort int32 `json:"peerPort,omitempty"`

	// SourceAddress of the connection; with Passive, where to listen. It must
	// be an address of the node. Without, the kernel chooses.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=45
	// +kubebuilder:validation:XValidation:rule="isIP(self)",message="is no IP address"
	SourceAddress string `json:"sourceAddress,omitempty"`

	// RouterID is the BGP Identifier, written as an IPv4 address. Without, it
	// is the node's IPv4 address, or on nodes without one a number made of the
	// node's name. Nodes must not share one.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=15
	// +kubebuilder:validation:XValidation:rule="isIP(self) && ip(self).family() == 4 && self != '0.0.0.0'",message="must be written as an IPv4 address other than 0.0.0.0"
	RouterID string `json:"routerID,omitempty"`

	// HoldTime after which a silent router counts as gone; the shorter of both
	// sides' counts. 0s sends no keepalives.
	//
	// +optional
	// +kubebuilder:default="9s"
	// +kubebuilder:validation:XValidation:rule="duration(self) == duration('0s') || duration(self) >= duration('3s') && duration(self) <= duration('65535s')",message="must be 0s or from 3s to 65535s (RFC 4271 section 4.2)"
	HoldTime *metav1.Duration `json:"holdTime,omitempty"`

	// KeepaliveTime between two keepalives. Without, a third of the hold time.
	//
	// +optional
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1s') && duration(self) <= duration('21845s')",message="must be from 1s to 21845s"
	KeepaliveTime *metav1.Duration `json:"keepaliveTime,omitempty"`

	// ConnectTime is the longest wait between two attempts to connect. The
	// first ones follow faster.
	//
	// +optional
	// +kubebuilder:default="10s"
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1s') && duration(self) <= duration('65535s')",message="must be from 1s to 65535s"
	ConnectTime *metav1.Duration `json:"connectTime,omitempty"`

	// EBGPMultiHop allows an external router to be more than one hop away.
	//
	// +optional
	EBGPMultiHop bool `json:"ebgpMultiHop,omitempty"`

	// TTLSecurity accepts packets only from routers at most this many hops
	// away (GTSM, RFC 5082). The router must be told to do the same. 0 is off.
	//
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=254
	TTLSecurity int32 `json:"ttlSecurity,omitempty"`

	// PasswordSecret names a Secret in the namespace that Fairlead runs in,
	// whose key "password" is the TCP MD5 password (RFC 2385).
	//
	// +optional
	PasswordSecret *SecretReference `json:"passwordSecret,omitempty"`

	// BFDProfile names the BFDProfile of a BFD session to the router. Without,
	// there is none.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=253
	BFDProfile string `json:"bfdProfile,omitempty"`

	// EnableGracefulRestart asks the router to keep the routes while a speaker
	// is restarted or upgraded (RFC 4724).
	//
	// +optional
	EnableGracefulRestart bool `json:"enableGracefulRestart,omitempty"`

	// RestartTime for which the router shall keep the routes.
	//
	// +optional
	// +kubebuilder:default="120s"
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1s') && duration(self) <= duration('4095s')",message="must be from 1s to 4095s (RFC 4724 section 3)"
	RestartTime *metav1.Duration `json:"restartTime,omitempty"`

	// AddressFamilies told over the session, whatever family it runs over.
	// Without, both.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=2
	// +kubebuilder:validation:items:Enum=IPv4;IPv6
	AddressFamilies []string `json:"addressFamilies,omitempty"`

	// NodeSelectors restricts the sessions to the nodes that one of these
	// selectors matches by label. Without selectors, all nodes have one.
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	NodeSelectors []metav1.LabelSelector `json:"nodeSelectors,omitempty"`
}

// SecretReference names a Secret in the namespace that Fairlead runs in.
type SecretReference struct {
	// Name of the Secret.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
}

// BGPPeerStatus is what the controller found.
type BGPPeerStatus struct {
	// Conditions of the peer: Ready is True if the spec can be used as it is;
	// Established is True if every wanted session is.
	//
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// Address of the router, for people.
	//
	// +optional
	Address string `json:"address,omitempty"`

	// ASN of the router, for people.
	//
	// +optional
	ASN string `json:"asn,omitempty"`

	// Summary is the sessions' state and how many have it of those wanted:
	// "Established 3/3".
	//
	// +optional
	Summary string `json:"summary,omitempty"`

	// Nodes counts the nodes that the peer selects.
	//
	// +optional
	Nodes int64 `json:"nodes"`

	// Established counts the sessions that are established.
	//
	// +optional
	Established int64 `json:"established"`
}

// BGPPeerList is a list of peers.
//
// +kubebuilder:object:root=true
type BGPPeerList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []BGPPeer `json:"items"`
}
