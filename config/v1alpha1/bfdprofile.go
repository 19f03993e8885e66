package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// BFDProfile has the parameters of BFD sessions (RFC 5880). For each direction,
// the two ends agree on the longer of the intervals that one can transmit and the
// other can receive. A change is negotiated while sessions stay up.
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

// BFDProfileSpec is the desired state of a BFDProfile.
type BFDProfileSpec struct {
	// TransmitInterval is the minimum interval between transmitted BFD packets, in
	// milliseconds.
	//
	// +optional
	// +kubebuilder:default=300
	// +kubebuilder:validation:Minimum=10
	// +kubebuilder:validation:Maximum=60000
	TransmitInterval int32 `json:"transmitInterval,omitempty"`

	// ReceiveInterval is the minimum interval between BFD packets that can be
	// received, in milliseconds.
	//
	// +optional
	// +kubebuilder:default=300
	// +kubebuilder:validation:Minimum=10
	// +kubebuilder:validation:Maximum=60000
	ReceiveInterval int32 `json:"receiveInterval,omitempty"`

	// DetectMultiplier is the number of consecutive packets that must be missed before
	// the session goes down.
	//
	// +optional
	// +kubebuilder:default=3
	// +kubebuilder:validation:Minimum=2
	// +kubebuilder:validation:Maximum=255
	DetectMultiplier int32 `json:"detectMultiplier,omitempty"`

	// PassiveMode sends no packets until one was received from the other end. It does not
	// apply to sessions between nodes, of L2Advertisements.
	//
	// +optional
	PassiveMode bool `json:"passiveMode,omitempty"`

	// MinimumTTL is the lowest TTL with which packets of a multihop session are accepted.
	// Routers send 255, so that 254 accepts those that are at most two hops away; some
	// send 64. It does not stop pods on the nodes of the same segment.
	//
	// +optional
	// +kubebuilder:default=254
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
