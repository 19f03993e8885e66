package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// IPAddressPool is a set of addresses that Services of type LoadBalancer may get.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Addresses",type=string,JSONPath=`.spec.addresses`
// +kubebuilder:printcolumn:name="IPv4",type=string,JSONPath=`.status.ipv4.usage`,description="assigned/total"
// +kubebuilder:printcolumn:name="IPv6",type=string,JSONPath=`.status.ipv6.usage`,description="assigned/total"
// +kubebuilder:printcolumn:name="Auto",type=boolean,JSONPath=`.spec.autoAssign`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
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

	// ServiceAllocation says which Services use the pool, and in which order pools are used.
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

// ServiceAllocation orders pools.
type ServiceAllocation struct {
	// Priority of the pool when several could serve a Service: the lowest
	// number is used first; 0, or no priority, is used last.
	//
	// +optional
	// +kubebuilder:validation:Minimum=0
	Priority int32 `json:"priority,omitempty"`
}

// IPAddressPoolStatus is what the controller found.
type IPAddressPoolStatus struct {
	// Conditions of the pool: Ready is True if every entry is in use.
	//
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// Services counts the Services that hold an address recorded as this pool's.
	//
	// +optional
	Services int64 `json:"services,omitempty"`

	// IPv4 counts the pool's IPv4 addresses.
	//
	// +optional
	IPv4 FamilyUsage `json:"ipv4,omitempty"`

	// IPv6 counts the pool's IPv6 addresses.
	//
	// +optional
	IPv6 FamilyUsage `json:"ipv6,omitempty"`
}

// FamilyUsage counts the addresses of one family.
type FamilyUsage struct {
	// Assigned counts the addresses that Services hold.
	//
	// +optional
	Assigned int64 `json:"assigned"`

	// Total is how many addresses the pool has, in decimal. It is text
	// because one IPv6 /64 has more than a 64-bit number can count.
	//
	// +optional
	Total string `json:"total,omitempty"`

	// Usage is "assigned/total" for people; a large total is rounded.
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
