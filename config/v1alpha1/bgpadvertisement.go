package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// BGPAdvertisement says which pools' addresses are told to which BGP peers by
// which nodes, and with which attributes.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,path=bgpadvertisements
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Pools",type=integer,JSONPath=`.status.pools`,description="pools that it covers"
// +kubebuilder:printcolumn:name="Peers",type=integer,JSONPath=`.status.peers`,description="peers that are told"
// +kubebuilder:printcolumn:name="Nodes",type=integer,JSONPath=`.status.nodes`,description="nodes that it selects"
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type BGPAdvertisement struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +optional
	Spec BGPAdvertisementSpec `json:"spec,omitempty"`
	// +optional
	Status BGPAdvertisementStatus `json:"status,omitempty"`
}

// BGPAdvertisementSpec is what the administrator asks for.
//
// Several advertisements may cover one address. If they make the same prefix
// for the same peer, their communities are united; localPref, med and
// asPathPrepend come from the first of them by name.
type BGPAdvertisementSpec struct {
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

	// Peers names the BGPPeers that are told. Without names, all are.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:items:MaxLength=253
	Peers []string `json:"peers,omitempty"`

	// AggregationLength is the prefix length of the IPv4 routes. Less than 32
	// announces a whole prefix as soon as one of its addresses is in use by a
	// Service whose externalTrafficPolicy is Cluster.
	//
	// +optional
	// +kubebuilder:default=32
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=32
	AggregationLength *int32 `json:"aggregationLength,omitempty"`

	// AggregationLengthV6 is the prefix length of the IPv6 routes.
	//
	// +optional
	// +kubebuilder:default=128
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=128
	AggregationLengthV6 *int32 `json:"aggregationLengthV6,omitempty"`

	// LocalPref is the LOCAL_PREF told to internal peers; the highest is
	// preferred. Without, 100.
	//
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=4294967295
	LocalPref *int64 `json:"localPref,omitempty"`

	// MED is the MULTI_EXIT_DISC; the lowest is preferred. Without, none is told.
	//
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=4294967295
	MED *int64 `json:"med,omitempty"`

	// ASPathPrepend is how many more times the nodes' ASN is put before the AS
	// path, for external peers.
	//
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=16
	ASPathPrepend int32 `json:"asPathPrepend,omitempty"`

	// Communities of the routes: standard ("64512:100"), large
	// ("large:64512:1:2"), well-known ("no-export", "no-advertise",
	// "no-export-subconfed", "no-peer", "blackhole", "graceful-shutdown"), or a
	// name that a Community defines.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=253
	Communities []string `json:"communities,omitempty"`
}

// BGPAdvertisementStatus is what the controller found.
type BGPAdvertisementStatus struct {
	// Conditions of the advertisement: Ready is True if every entry is in use.
	//
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// Pools counts the pools that the advertisement covers.
	//
	// +optional
	Pools int64 `json:"pools"`

	// Peers counts the peers that are told.
	//
	// +optional
	Peers int64 `json:"peers"`

	// Nodes counts the nodes that the advertisement selects.
	//
	// +optional
	Nodes int64 `json:"nodes"`
}

// BGPAdvertisementList is a list of advertisements.
//
// +kubebuilder:object:root=true
type BGPAdvertisementList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []BGPAdvertisement `json:"items"`
}
