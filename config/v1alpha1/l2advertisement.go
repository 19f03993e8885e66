package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// L2Advertisement announces the addresses of pools on the LAN, by answering ARP and
// Neighbor Discovery, and selects the nodes and interfaces that take part. One node
// at a time answers for an address on a segment.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Pools",type=integer,JSONPath=`.status.pools`,description="pools that the advertisement covers"
// +kubebuilder:printcolumn:name="Nodes",type=integer,JSONPath=`.status.nodes`,description="nodes that the advertisement selects"
// +kubebuilder:printcolumn:name="Interfaces",type=string,JSONPath=`.spec.interfaces`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type L2Advertisement struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +optional
	Spec L2AdvertisementSpec `json:"spec,omitempty"`
	// +optional
	Status L2AdvertisementStatus `json:"status,omitempty"`
}

// L2AdvertisementSpec is the desired state of an L2Advertisement.
type L2AdvertisementSpec struct {
	// IPAddressPools names the pools to announce. Without names and
	// selectors, all pools are announced.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:items:MaxLength=253
	IPAddressPools []string `json:"ipAddressPools,omitempty"`

	// IPAddressPoolSelectors adds the pools that one of these selectors matches by label.
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	IPAddressPoolSelectors []metav1.LabelSelector `json:"ipAddressPoolSelectors,omitempty"`

	// NodeSelectors restricts the announcement to the nodes that one of these
	// selectors matches by label. Without selectors, all nodes take part.
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	NodeSelectors []metav1.LabelSelector `json:"nodeSelectors,omitempty"`

	// NodeWeights sets the share of the addresses that a node announces: on average, a node
	// of weight 10 announces ten times as many as a node of weight 1. If several entries
	// select a node, in all advertisements of the pool that select it with nodeSelectors,
	// the largest weight applies. A node that no entry selects has the weight 1. Nodes of
	// weight 0 announce an address only if no other node can.
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	NodeWeights []NodeWeight `json:"nodeWeights,omitempty"`

	// Interfaces names the network interfaces to announce on, whatever their subnets.
	// Without names, an address is announced on the interfaces with a subnet that
	// contains it. Interfaces that lead to tunnels or pods are not used: a veth needs
	// a subnet.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=15
	Interfaces []string `json:"interfaces,omitempty"`

	// Failback is whether a node takes addresses back that another node has taken over
	// from it: Always, 30 seconds after it has recovered, or Never. If advertisements of a
	// pool differ, Never applies.
	//
	// +optional
	// +kubebuilder:default=Always
	// +kubebuilder:validation:Enum=Always;Never
	Failback Failback `json:"failback,omitempty"`

	// BFDProfile names the BFDProfile of the sessions between the node that announces an
	// address and its successors, which detect its failure. Without one, and if it does
	// not exist, packets are sent every 50 milliseconds, and a failure is detected
	// after 150 milliseconds. Two nodes have one session: of several profiles, that with
	// the shortest detection time applies, which is detectMultiplier times the longer one
	// of transmitInterval and receiveInterval. The fields passiveMode and minimumTtl do not
	// apply.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=253
	BFDProfile string `json:"bfdProfile,omitempty"`
}

// NodeWeight is the weight of the nodes that a selector matches.
type NodeWeight struct {
	// NodeSelector matches the nodes by label. An empty selector matches all nodes.
	NodeSelector metav1.LabelSelector `json:"nodeSelector"`

	// Weight of each of these nodes, relative to that of the others, from 0 to 100.
	//
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=100
	Weight int32 `json:"weight"`
}

// MaxNodeWeight is the largest weight of a node.
const MaxNodeWeight = 100

// Failback is when a node takes addresses back.
type Failback string

const (
	// FailbackAlways: after it has recovered.
	FailbackAlways Failback = "Always"
	// FailbackNever: only when the node that announces them fails.
	FailbackNever Failback = "Never"
)

// L2AdvertisementStatus is the observed state of an L2Advertisement.
type L2AdvertisementStatus struct {
	// Conditions of the advertisement. Ready is True if all entries of the spec are in
	// use.
	//
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// Pools counts the pools that the advertisement covers.
	//
	// +optional
	Pools int64 `json:"pools"`

	// SelectedPools names the pools that spec.ipAddressPoolSelectors match. A pool that
	// is deleted stays in the list, and its addresses stay announced, as long as the
	// record of a Service names it. Of more than 256 pools, some are left out.
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:items:MaxLength=253
	SelectedPools []string `json:"selectedPools,omitempty"`

	// Nodes counts the nodes that the advertisement selects.
	//
	// +optional
	Nodes int64 `json:"nodes"`
}

// L2AdvertisementList is a list of advertisements.
//
// +kubebuilder:object:root=true
type L2AdvertisementList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []L2Advertisement `json:"items"`
}
