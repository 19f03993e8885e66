package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// IPAddressPool is a set of addresses that Services of type LoadBalancer may get.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Addresses",type=string,JSONPath=`.spec.addresses`
// +kubebuilder:printcolumn:name="Used/Total v4",type=string,JSONPath=`.status.ipv4.usage`
// +kubebuilder:printcolumn:name="Used/Total v6",type=string,JSONPath=`.status.ipv6.usage`
// +kubebuilder:printcolumn:name="Auto",type=boolean,JSONPath=`.spec.autoAssign`
// +kubebuilder:printcolumn:name="Advertised",type=string,JSONPath=`.status.conditions[?(@.type=="Advertised")].status`
// +kubebuilder:printcolumn:name="Ready",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Out of pool",type=integer,priority=1,JSONPath=`.status.outOfPool`,description="addresses that Services keep although the pool would not give them any more"
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type IPAddressPool struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +required
	Spec IPAddressPoolSpec `json:"spec"`
	// +optional
	Status IPAddressPoolStatus `json:"status,omitempty"`
}

// IPAddressPoolSpec is what the administrator asks for.
type IPAddressPoolSpec struct {
	// Addresses of the pool: CIDRs ("192.0.2.0/24"), ranges
	// ("192.0.2.10-192.0.2.20") and single addresses ("192.0.2.7"), IPv4 and
	// IPv6. Every address of a CIDR can be assigned, the first and the last
	// included. An entry that cannot be used is named in the condition Ready;
	// the other entries keep working.
	//
	// +required
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=1024
	Addresses []AddressRange `json:"addresses"`

	// AutoAssign says whether Services that do not ask for this pool, or for
	// an address of it, may get an address from it.
	//
	// +optional
	// +kubebuilder:default=true
	AutoAssign *bool `json:"autoAssign,omitempty"`

	// AvoidBuggyIPs keeps IPv4 addresses that some old devices take for those
	// of a network or a broadcast from being given: those that end in .0 or
	// .255, and the first and the last of a CIDR of four or more.
	//
	// +optional
	AvoidBuggyIPs bool `json:"avoidBuggyIPs,omitempty"`

	// ServiceAllocation says which Services may use the pool, and in which order pools are used.
	//
	// +optional
	ServiceAllocation *ServiceAllocation `json:"serviceAllocation,omitempty"`
}

// AddressRange is a CIDR, "first-last" with both ends of one family, or a
// single address. What the schema cannot see within its cost budget (order and
// overlap of ranges, bits behind the prefix) is reported in the status.
//
// +kubebuilder:validation:MinLength=2
// +kubebuilder:validation:MaxLength=83
// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9.]+(/[0-9]+| *- *[0-9.]+)?|[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*(/[0-9]+| *- *[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*)?)$')",message="must be a CIDR (192.0.2.0/24), a range with both ends of one family (192.0.2.10-192.0.2.20), or an address (192.0.2.7)"
// +kubebuilder:validation:XValidation:rule="self.contains('-') || isCIDR(self) || isIP(self)",message="is no valid CIDR or IP address"
type AddressRange string

// ServiceAllocation selects the Services that may use a pool, and orders pools.
// A Service is selected if its namespace is, by name or by labels, or no
// namespace is asked for, and its labels are, or no labels are asked for.
type ServiceAllocation struct {
	// Priority of the pool when several could serve a Service: the lowest
	// number is used first; 0, or no priority, is used last. Of equal priority,
	// pools that select Services come first.
	//
	// +optional
	// +kubebuilder:validation:Minimum=0
	Priority int32 `json:"priority,omitempty"`

	// Namespaces whose Services may use the pool.
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=1024
	Namespaces []string `json:"namespaces,omitempty"`

	// NamespaceSelectors select, by their labels, more namespaces whose Services may use the pool.
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=128
	NamespaceSelectors []metav1.LabelSelector `json:"namespaceSelectors,omitempty"`

	// ServiceSelectors select, by their labels, the Services that may use the
	// pool: those that at least one of them matches.
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=128
	ServiceSelectors []metav1.LabelSelector `json:"serviceSelectors,omitempty"`
}

// IPAddressPoolStatus is what the controller found.
type IPAddressPoolStatus struct {
	// Conditions of the pool. Ready: every entry is in use. Advertised: an
	// L2Advertisement or a BGPAdvertisement covers the pool. Overlaps: another
	// pool has some of its addresses.
	//
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// Services counts the Services that hold an address that came from this pool.
	//
	// +optional
	Services int64 `json:"services,omitempty"`

	// OutOfPool counts the addresses that came from this pool and that Services
	// keep, although the pool does not contain them, or does not select these
	// Services, any more.
	//
	// +optional
	OutOfPool int64 `json:"outOfPool,omitempty"`

	// IPv4 counts the pool's IPv4 addresses.
	//
	// +optional
	IPv4 FamilyUsage `json:"ipv4,omitempty"`

	// IPv6 counts the pool's IPv6 addresses.
	//
	// +optional
	IPv6 FamilyUsage `json:"ipv6,omitempty"`
}

// FamilyUsage counts the addresses of one family. What one IPv6 /64 has is more
// than a 64-bit number can count, so such numbers are text, in decimal.
type FamilyUsage struct {
	// Capacity is how many addresses can be given: without those of nodes, of
	// pods and of the cluster itself, and those that avoidBuggyIPs avoids.
	//
	// +optional
	Capacity string `json:"capacity,omitempty"`

	// Used counts the addresses of the pool that somebody holds, wherever they came from.
	//
	// +optional
	Used int64 `json:"used"`

	// Free is how many addresses can still be given.
	//
	// +optional
	Free string `json:"free,omitempty"`

	// Usage is "used/capacity" for people; a large capacity is rounded.
	//
	// +optional
	Usage string `json:"usage,omitempty"`
}

// IPAddressPoolList is a list of pools.
//
// +kubebuilder:object:root=true
type IPAddressPoolList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []IPAddressPool `json:"items"`
}
