package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// L2Node has what the speakers of other nodes must know of a node. It has the name of the
// node, is owned by the Node, and is written by the speaker of that node only. All
// speakers watch the L2Nodes of all nodes, so it does not have anything that changes with
// the announced addresses: that is in the Speaker.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,shortName=l2n
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Interfaces",type=string,JSONPath=`.status.interfaces[*].name`
// +kubebuilder:printcolumn:name="Version",type=string,JSONPath=`.status.version`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type L2Node struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +optional
	Status L2NodeStatus `json:"status,omitempty"`
}

// L2NodeStatus is the state of the node that its speaker reports to the others.
//
// +kubebuilder:validation:XValidation:rule="!has(self.interfaces) || self.interfaces.map(i, has(i.addresses) ? size(i.addresses) : 0).sum() <= 128",message="interfaces must have at most 128 addresses in total"
type L2NodeStatus struct {
	// Version of the speaker.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=128
	Version string `json:"version,omitempty"`

	// Interfaces of the node that can be announced on: those that are up, and have an
	// address or are named by an advertisement.
	//
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=64
	Interfaces []Interface `json:"interfaces,omitempty"`

	// TakenOver lists the nodes whose addresses this node announces, because they did not
	// answer or left the segment, and have not taken them back. Other nodes decide by it
	// only which nodes they observe.
	//
	// +optional
	// +listType=map
	// +listMapKey=node
	// +kubebuilder:validation:MaxItems=64
	TakenOver []Takeover `json:"takenOver,omitempty"`

	// ProxyNotReady is whether kube-proxy of the node has not answered since the speaker
	// started, while those of most other nodes have. An address is announced on interfaces
	// of such a node only if no other node can announce it.
	//
	// +optional
	ProxyNotReady bool `json:"proxyNotReady,omitempty"`
}

// Takeover is from a node whose addresses another one announces.
type Takeover struct {
	// Node is the name of the node.
	//
	// +kubebuilder:validation:MaxLength=253
	Node string `json:"node"`

	// Since is when the state of the node changed.
	Since metav1.Time `json:"since"`

	// Message explains the state.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	Message string `json:"message,omitempty"`
}

// MaxTakeovers bounds TakenOver.
const MaxTakeovers = 64

// Interface is a network interface of the node.
type Interface struct {
	// Name of the interface.
	//
	// +kubebuilder:validation:MaxLength=15
	// +kubebuilder:validation:Pattern=`^[!-.0-~]+$`
	Name string `json:"name"`

	// Addresses of the interface, each with its prefix length: at least 8 for IPv4
	// and 48 for IPv6.
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=128
	// +kubebuilder:validation:items:MaxLength=79
	// +kubebuilder:validation:items:Pattern=`^([0-9.]+/([89]|[12][0-9]|3[0-2])|[0-9a-f.]*:[0-9a-f:.]*/(4[89]|[5-9][0-9]|1[01][0-9]|12[0-8]))$`
	Addresses []string `json:"addresses,omitempty"`

	// MACAddress of the interface. Speakers recognize the answers of other nodes by it.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=17
	// +kubebuilder:validation:Pattern=`^[0-9a-f][02468ace](:[0-9a-f]{2}){5}$`
	MACAddress string `json:"macAddress,omitempty"`

	// KernelAnswers is whether the kernel of the node answers ARP requests on the
	// interface for the IPv4 addresses of all Services: kube-proxy in IPVS mode assigns
	// them to the interface kube-ipvs0, and without strictARP the sysctl arp_ignore is 0.
	//
	// +optional
	KernelAnswers bool `json:"kernelAnswers,omitempty"`

	// VRF is the name of the VRF device that the interface is a port of. No address is
	// announced on such an interface.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=15
	// +kubebuilder:validation:Pattern=`^[!-.0-~]+$`
	VRF string `json:"vrf,omitempty"`
}

// L2NodeList is a list of L2Nodes.
//
// +kubebuilder:object:root=true
type L2NodeList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []L2Node `json:"items"`
}
