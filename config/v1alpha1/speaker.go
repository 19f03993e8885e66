package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// Speaker is what the speaker of one node reports. It carries the node's name,
// is owned by the Node, and only that node's speaker writes it.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Announced",type=integer,JSONPath=`.status.announcedAddresses`,description="addresses that this node answers for"
// +kubebuilder:printcolumn:name="Links",type=string,JSONPath=`.status.links[*].name`
// +kubebuilder:printcolumn:name="Version",type=string,JSONPath=`.status.version`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type Speaker struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +optional
	Status SpeakerStatus `json:"status,omitempty"`
}

// SpeakerStatus is what the speaker sees and does.
type SpeakerStatus struct {
	// Version of the speaker.
	//
	// +optional
	Version string `json:"version,omitempty"`

	// Links of the node that can carry announcements: up, and with an address
	// or named by an advertisement.
	//
	// +optional
	// +listType=map
	// +listMapKey=name
	Links []Link `json:"links,omitempty"`

	// AnnouncedAddresses counts the addresses that this node answers for.
	//
	// +optional
	AnnouncedAddresses int64 `json:"announcedAddresses"`

	// Announcing lists the addresses that this node answers for, grouped by links.
	//
	// +optional
	// +listType=atomic
	Announcing []Announcement `json:"announcing,omitempty"`

	// Unannounced lists addresses that no node can announce, grouped by
	// reason. One node speaks for each such address, so that the lists of all
	// nodes together hold it once.
	//
	// +optional
	// +listType=atomic
	Unannounced []Unannounced `json:"unannounced,omitempty"`
}

// Link is a network interface of the node.
type Link struct {
	// Name of the interface.
	Name string `json:"name"`

	// Addresses of the interface, each with its prefix length.
	//
	// +optional
	// +listType=atomic
	Addresses []string `json:"addresses,omitempty"`
}

// Announcement is a group of addresses announced on the same links.
type Announcement struct {
	// Interfaces that the addresses are announced on.
	//
	// +listType=atomic
	Interfaces []string `json:"interfaces"`

	// Addresses that are announced.
	//
	// +listType=atomic
	Addresses []string `json:"addresses"`
}

// Unannounced is a group of addresses that nobody announces for the same reason.
type Unannounced struct {
	// Reason in one word.
	Reason Reason `json:"reason"`

	// Message says what to do, or what stands in the way.
	Message string `json:"message"`

	// Addresses that are not announced.
	//
	// +listType=atomic
	Addresses []string `json:"addresses"`
}

// SpeakerList is a list of speakers.
//
// +kubebuilder:object:root=true
type SpeakerList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Speaker `json:"items"`
}
