package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// BFDProfile is how BFD sessions are run (RFC 5880). Two ends agree on the
// slower of what one sends and the other accepts. A change is agreed upon
// without a session going down.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,path=bfdprofiles
// +kubebuilder:printcolumn:name="Transmit ms",type=integer,JSONPath=`.spec.transmitInterval`
// +kubebuilder:printcolumn:name="Receive ms",type=integer,JSONPath=`.spec.receiveInterval`
// +kubebuilder:printcolumn:name="Multiplier",type=integer,JSONPath=`.spec.detectMultiplier`
// +kubebuilder:printcolumn:name="Passive",type=boolean,JSONPath=`.spec.passiveMode`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type BFDProfile struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +kubebuilder:default={}
	Spec BFDProfileSpec `json:"spec"`
}

// BFDProfileSpec is what the administrator asks for.
type BFDProfileSpec struct {
	// TransmitInterval is the shortest time between two packets sent, in milliseconds.
	//
	// +optional
	// +kubebuilder:default=300
	// +kubebuilder:validation:Minimum=10
	// +kubebuilder:validation:Maximum=60000
	TransmitInterval int32 `json:"transmitInterval,omitempty"`

	// ReceiveInterval is the shortest time between two packets that can be
	// received, in milliseconds.
	//
	// +optional
	// +kubebuilder:default=300
	// +kubebuilder:validation:Minimum=10
	// +kubebuilder:validation:Maximum=60000
	ReceiveInterval int32 `json:"receiveInterval,omitempty"`

	// DetectMultiplier is how many packets in a row may be lost, less one.
	//
	// +optional
	// +kubebuilder:default=3
	// +kubebuilder:validation:Minimum=2
	// +kubebuilder:validation:Maximum=255
	DetectMultiplier int32 `json:"detectMultiplier,omitempty"`

	// PassiveMode sends nothing before the other end has.
	//
	// +optional
	PassiveMode bool `json:"passiveMode,omitempty"`

	// MinimumTTL that a packet of a session over several hops must arrive with.
	//
	// +optional
	// +kubebuilder:default=1
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=254
	MinimumTTL int32 `json:"minimumTtl,omitempty"`
}

// BFDProfileList is a list of profiles.
//
// +kubebuilder:object:root=true
type BFDProfileList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []BFDProfile `json:"items"`
}
