package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// Community gives names to BGP communities, for use in BGPAdvertisements.
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

// CommunitySpec is what the administrator asks for.
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
	// Name for use in BGPAdvertisements. The first Community, by age, that
	// defines a name counts.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[A-Za-z_][A-Za-z0-9_.-]*$`
	Name string `json:"name"`

	// Value: "64512:100", or "large:64512:1:2".
	//
	// +required
	// +kubebuilder:validation:MaxLength=40
	// +kubebuilder:validation:Pattern=`^(\d{1,5}:\d{1,5}|large:\d{1,10}:\d{1,10}:\d{1,10})$`
	Value string `json:"value"`
}

// CommunityStatus is what the controller found.
type CommunityStatus struct {
	// Conditions: Ready is True if every entry is in use.
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
