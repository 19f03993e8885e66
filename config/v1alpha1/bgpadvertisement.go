package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// BGPAdvertisement advertises the addresses of pools by BGP, and selects the peers
// and nodes that take part and the attributes of the routes.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,path=bgpadvertisements
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Pools",type=integer,JSONPath=`.status.pools`,description="pools that the advertisement covers"
// +kubebuilder:printcolumn:name="Peers",type=integer,JSONPath=`.status.peers`,description="peers the routes are advertised to"
// +kubebuilder:printcolumn:name="Nodes",type=integer,JSONPath=`.status.nodes`,description="nodes that the advertisement selects"
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

// BGPAdvertisementSpec is the desired state of a BGPAdvertisement.
//
// Several advertisements may cover one address. If they yield the same prefix for
// the same peer, the route has the communities of all of them, and localPref, med
// and asPathPrepend of the first one by name.
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

	// Peers names the BGPPeers to advertise to. Without names, the routes are
	// advertised to all peers.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:items:MaxLength=253
	Peers []string `json:"peers,omitempty"`

	// AggregationLength is the prefix length of the IPv4 routes. If it is less than
	// 32, the whole prefix is advertised as soon as one of its addresses is assigned
	// to a Service with externalTrafficPolicy: Cluster.
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

	// LocalPref is the LOCAL_PREF of the routes for internal peers; the highest is
	// preferred. The default is 100.
	//
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=4294967295
	LocalPref *int64 `json:"localPref,omitempty"`

	// MED is the MULTI_EXIT_DISC of the routes; the lowest is preferred. By default
	// the routes have no MULTI_EXIT_DISC.
	//
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=4294967295
	MED *int64 `json:"med,omitempty"`

	// ASPathPrepend is how many additional times the ASN of the nodes is prepended to
	// the AS path, for external peers.
	//
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=16
	ASPathPrepend int32 `json:"asPathPrepend,omitempty"`

	// WithoutEndpoints is what happens to the route of an address while none of its
	// Services has a ready or serving endpoint, and not all of them have
	// externalTrafficPolicy: Local. With Withdraw, the default, the route is withdrawn 5
	// seconds after the last endpoint is gone, so that clients reach another site that
	// advertises the address. If there is no such site, routers reject or drop the packets.
	// With Advertise the route stays, and the nodes reject connections.
	//
	// +optional
	// +kubebuilder:default=Withdraw
	// +kubebuilder:validation:Enum=Withdraw;Advertise
	WithoutEndpoints WithoutEndpoints `json:"withoutEndpoints,omitempty"`

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

// WithoutEndpoints is what happens to the routes of addresses without endpoints.
type WithoutEndpoints string

const (
	// WithoutEndpointsWithdraw: they are withdrawn.
	WithoutEndpointsWithdraw WithoutEndpoints = "Withdraw"
	// WithoutEndpointsAdvertise: they are advertised as any other.
	WithoutEndpointsAdvertise WithoutEndpoints = "Advertise"
)

// BGPAdvertisementStatus is the observed state of a BGPAdvertisement.
type BGPAdvertisementStatus struct {
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

	// Peers counts the peers that the routes are advertised to.
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
