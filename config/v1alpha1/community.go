package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// Community defines names of BGP communities, for use in BGPAdvertisements.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,path=communities
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Names",type=string,JSONPath=`.spec.communities[*].name`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type Community struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +required
	Spec CommunitySpec `json:"spec"`
	// +optional
	Status CommunityStatus `json:"status,omitempty"`
}

// CommunitySpec is the desired state of a Community.
type CommunitySpec struct {
	// Communities by name.
	//
	// +required
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=256
	Communities []NamedCommunity `json:"communities"`
}

// NamedCommunity is a community with a name.
type NamedCommunity struct {
	// Name for use in BGPAdvertisements. If several Communities define a name, the
	// definition of the oldest is used.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[A-Za-z_][A-Za-z0-9_.-]*$`
	Name string `json:"name"`

	// Value of the community: "64512:100" or "large:64512:1:2".
	//
	// +required
	// +kubebuilder:validation:MaxLength=40
	// +kubebuilder:validation:Pattern=`^(\d{1,5}:\d{1,5}|large:\d{1,10}:\d{1,10}:\d{1,10})$`
	Value string `json:"value"`
}

// CommunityStatus is the observed state of a Community.
type CommunityStatus struct {
	// Conditions of the object. Ready is True if all entries of the spec are in use.
	//
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// CommunityList is a list of communities.
//
// +kubebuilder:object:root=true
type CommunityList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Community `json:"items"`
}
