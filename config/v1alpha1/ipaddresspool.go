package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// IPAddressPool is a set of addresses to assign to Services of type LoadBalancer.
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
// +kubebuilder:printcolumn:name="Out of pool",type=integer,priority=1,JSONPath=`.status.outOfPool`,description="addresses that Services keep although the pool would no longer assign them"
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type IPAddressPool struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +required
	Spec IPAddressPoolSpec `json:"spec"`
	// +optional
	Status IPAddressPoolStatus `json:"status,omitempty"`
}

// IPAddressPoolSpec is the desired state of an IPAddressPool.
type IPAddressPoolSpec struct {
	// Addresses of the pool: CIDRs ("192.0.2.0/24"), ranges
	// ("192.0.2.10-192.0.2.20") and single addresses ("192.0.2.7"), IPv4 and
	// IPv6. All addresses of a CIDR are assigned, including the first and the last.
	// An invalid entry is reported in the condition Ready and does not affect the other
	// entries.
	//
	// +required
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=1024
	Addresses []AddressRange `json:"addresses"`

	// AutoAssign allows the pool to be used for Services that request neither the pool
	// nor an address of it.
	//
	// +optional
	// +kubebuilder:default=true
	AutoAssign *bool `json:"autoAssign,omitempty"`

	// AvoidBuggyIPs excludes IPv4 addresses that some old devices mistake for network
	// or broadcast addresses: those that end in .0 or .255, and the first and the last
	// address of a CIDR of four or more addresses.
	//
	// +optional
	AvoidBuggyIPs bool `json:"avoidBuggyIPs,omitempty"`

	// ServiceAllocation selects the Services that may use the pool, and sets its priority.
	//
	// +optional
	ServiceAllocation *ServiceAllocation `json:"serviceAllocation,omitempty"`
}

// AddressRange is a CIDR, a range "first-last" with both ends of the same family, or
// a single address. What the schema cannot validate within its cost budget (order
// and overlap of ranges, host bits) is reported in the status.
//
// +kubebuilder:validation:MinLength=2
// +kubebuilder:validation:MaxLength=83
// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9.]+(/[0-9]+| *- *[0-9.]+)?|[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*(/[0-9]+| *- *[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*)?)$')",message="must be a CIDR (192.0.2.0/24), a range with both ends of the same family (192.0.2.10-192.0.2.20), or an address (192.0.2.7)"
// +kubebuilder:validation:XValidation:rule="self.contains('-') || isCIDR(self) || isIP(self)",message="must be a valid CIDR, range or IP address"
type AddressRange string

// ServiceAllocation selects the Services that may use a pool, and sets the priority
// of the pool. A Service is selected if its namespace matches, by name or by labels,
// and its labels match. A criterion that is not set matches all Services.
type ServiceAllocation struct {
	// Priority of the pool if several may serve a Service: the lowest number is used
	// first, and 0 or no priority is used last. With equal priority, pools that select
	// Services are used before those that serve all.
	//
	// +optional
	// +kubebuilder:validation:Minimum=0
	Priority int32 `json:"priority,omitempty"`

	// Namespaces of the Services that may use the pool.
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=1024
	Namespaces []string `json:"namespaces,omitempty"`

	// NamespaceSelectors select additional namespaces by label.
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=128
	NamespaceSelectors []metav1.LabelSelector `json:"namespaceSelectors,omitempty"`

	// ServiceSelectors select Services by label: those that at least one of the
	// selectors matches.
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=128
	ServiceSelectors []metav1.LabelSelector `json:"serviceSelectors,omitempty"`
}

// IPAddressPoolStatus is the observed state of an IPAddressPool.
type IPAddressPoolStatus struct {
	// Conditions of the pool. Ready: all entries are in use. Advertised: an
	// L2Advertisement or a BGPAdvertisement covers the pool. Overlaps: another pool
	// contains some of its addresses.
	//
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// Services counts the Services that hold an address assigned from this pool.
	//
	// +optional
	Services int64 `json:"services,omitempty"`

	// OutOfPool counts the addresses assigned from this pool that Services keep
	// although the pool no longer contains them or no longer selects these Services.
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

// FamilyUsage counts the addresses of one family. An IPv6 /64 has more addresses
// than a 64-bit integer can count, so such numbers are decimal strings.
type FamilyUsage struct {
	// Capacity is the number of assignable addresses: without those of nodes, pods and
	// ClusterIPs, and those that avoidBuggyIPs excludes.
	//
	// +optional
	Capacity string `json:"capacity,omitempty"`

	// Used counts the addresses of the pool that Services hold.
	//
	// +optional
	Used int64 `json:"used"`

	// Free is the number of addresses that can still be assigned.
	//
	// +optional
	Free string `json:"free,omitempty"`

	// Usage is "used/capacity"; a large capacity is rounded.
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
