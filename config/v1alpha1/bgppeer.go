package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// BGPPeer is a router with which the speaker of each selected node has a BGP
// session.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,path=bgppeers
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Address",type=string,JSONPath=`.status.address`,description="address of the router, or how it is found"
// +kubebuilder:printcolumn:name="ASN",type=string,JSONPath=`.status.asn`
// +kubebuilder:printcolumn:name="Sessions",type=string,JSONPath=`.status.summary`,description="established sessions, of those desired"
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

// BGPPeerSpec is the desired state of a BGPPeer. docs/bgp.md lists the changes that
// reset a session.
//
// +kubebuilder:validation:XValidation:rule="(has(self.peerASN) ? 1 : 0) + (has(self.dynamicASN) ? 1 : 0) == 1",message="exactly one of peerASN and dynamicASN must be set"
// +kubebuilder:validation:XValidation:rule="(has(self.peerAddress) ? 1 : 0) + (has(self.interface) ? 1 : 0) + (has(self.defaultGateway) ? 1 : 0) == 1",message="exactly one of peerAddress, interface and defaultGateway must be set"
// +kubebuilder:validation:XValidation:rule="!has(self.keepaliveTime) || !has(self.holdTime) || duration(self.holdTime) == duration('0s') || duration(self.keepaliveTime) < duration(self.holdTime)",message="keepaliveTime must be shorter than holdTime"
// +kubebuilder:validation:XValidation:rule="!has(self.ebgpMultiHop) || !self.ebgpMultiHop || !has(self.interface)",message="ebgpMultiHop must not be set together with interface: such a peer is one hop away"
// +kubebuilder:validation:XValidation:rule="!has(self.ebgpMultiHop) || !self.ebgpMultiHop || !(has(self.dynamicASN) ? self.dynamicASN == 'internal' : has(self.peerASN) && self.peerASN == self.myASN)",message="ebgpMultiHop must not be set for an internal peer, which may be any number of hops away"
// +kubebuilder:validation:XValidation:rule="!has(self.peerAddress) || !has(self.sourceAddress) || ip(self.peerAddress).family() == ip(self.sourceAddress).family()",message="peerAddress and sourceAddress must be of the same family"
type BGPPeerSpec struct {
	// MyASN is the autonomous system number of the nodes.
	//
	// +required
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=4294967295
	MyASN int64 `json:"myASN"`

	// PeerASN is the autonomous system number of the router. If it equals myASN, the
	// session is internal (iBGP).
	//
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=4294967295
	PeerASN int64 `json:"peerASN,omitempty"`

	// DynamicASN accepts the autonomous system number that the router sends: with
	// "external" any number except myASN, with "internal" only myASN.
	//
	// +optional
	// +kubebuilder:validation:Enum=internal;external
	DynamicASN string `json:"dynamicASN,omitempty"`

	// PeerAddress is the router's IPv4 or IPv6 address.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=45
	// +kubebuilder:validation:XValidation:rule="isIP(self)",message="must be a valid IP address"
	// +kubebuilder:validation:XValidation:rule="!isIP(self) || !ip(self).isLinkLocalUnicast() && !ip(self).isUnspecified() && !ip(self).isLinkLocalMulticast()",message="must be a unicast address that is not link-local; use interface for a router with a link-local address"
	PeerAddress string `json:"peerAddress,omitempty"`

	// Interface is the network interface on which the router is discovered by its
	// router advertisements. It needs no addresses except link-local ones
	// ("unnumbered"; IPv4 routes have IPv6 next hops, RFC 8950).
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=15
	Interface string `json:"interface,omitempty"`

	// DefaultGateway makes the default gateway of each node, of this family, its peer.
	//
	// +optional
	// +kubebuilder:validation:Enum=IPv4;IPv6
	DefaultGateway string `json:"defaultGateway,omitempty"`

	// Passive waits for the router to connect instead of connecting to it.
	//
	// +optional
	Passive bool `json:"passive,omitempty"`

	// PeerPort is the TCP port of the router or, with passive, the port to listen on.
	//
	// +optional
	// +kubebuilder:default=179
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	PeerPort int32 `json:"peerPort,omitempty"`

	// SourceAddress of the connection or, with passive, the address to listen on. It
	// must be an address of the node. By default it is a stable address in the subnet of
	// a directly connected router; for other routers the kernel selects one.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=45
	// +kubebuilder:validation:XValidation:rule="isIP(self)",message="must be a valid IP address"
	SourceAddress string `json:"sourceAddress,omitempty"`

	// RouterID is the BGP Identifier, written as an IPv4 address. By default it is the
	// IPv4 address of the node or, on nodes without one, a number derived from the name
	// of the node. It must be unique among the nodes that the peer selects.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=15
	// +kubebuilder:validation:XValidation:rule="isIP(self) && ip(self).family() == 4 && self != '0.0.0.0'",message="must be written as an IPv4 address other than 0.0.0.0"
	RouterID string `json:"routerID,omitempty"`

	// HoldTime after which the session ends if no message was received. The shorter of
	// the values of both sides is used. 0s disables the hold timer and keepalives.
	//
	// +optional
	// +kubebuilder:default="9s"
	// +kubebuilder:validation:XValidation:rule="duration(self) == duration('0s') || duration(self) >= duration('3s') && duration(self) <= duration('65535s')",message="must be 0s or from 3s to 65535s (RFC 4271 section 4.2)"
	HoldTime *metav1.Duration `json:"holdTime,omitempty"`

	// KeepaliveTime is the interval between keepalives. The default is a third of the
	// hold time.
	//
	// +optional
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1s') && duration(self) <= duration('21845s')",message="must be from 1s to 21845s"
	KeepaliveTime *metav1.Duration `json:"keepaliveTime,omitempty"`

	// ConnectTime is the longest backoff between two attempts to connect.
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
	// away (GTSM, RFC 5082). The router must be configured likewise. 0 disables it.
	//
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=254
	TTLSecurity int32 `json:"ttlSecurity,omitempty"`

	// PasswordSecret names a Secret in the namespace of Fairlead. Its key "password"
	// has the TCP MD5 password (RFC 2385).
	//
	// +optional
	PasswordSecret *SecretReference `json:"passwordSecret,omitempty"`

	// BFDProfile names the BFDProfile of a BFD session with the router. By default
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

	// RestartTime is how long the router is asked to keep the routes.
	//
	// +optional
	// +kubebuilder:default="120s"
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1s') && duration(self) <= duration('4095s')",message="must be from 1s to 4095s (RFC 4724 section 3)"
	RestartTime *metav1.Duration `json:"restartTime,omitempty"`

	// AddressFamilies advertised over the session, independent of the family of its
	// connection. The default is both.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=2
	// +kubebuilder:validation:items:Enum=IPv4;IPv6
	AddressFamilies []string `json:"addressFamilies,omitempty"`

	// NodeSelectors restricts the sessions to the nodes that one of these
	// selectors matches by label. Without selectors, all nodes have a session.
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	NodeSelectors []metav1.LabelSelector `json:"nodeSelectors,omitempty"`
}

// SecretReference names a Secret in the namespace of Fairlead.
type SecretReference struct {
	// Name of the Secret.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
}

// BGPPeerStatus is the observed state of a BGPPeer.
type BGPPeerStatus struct {
	// Conditions of the peer. Ready is True if the spec is valid. Established is True
	// if all desired sessions are established.
	//
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// Address of the router, or how it is found, in readable form.
	//
	// +optional
	Address string `json:"address,omitempty"`

	// ASN of the router, or "internal" or "external".
	//
	// +optional
	ASN string `json:"asn,omitempty"`

	// Summary is the state of the sessions and how many are in it, of those desired:
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
