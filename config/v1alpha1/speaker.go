package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// The bounds of the status of a Speaker and of an L2Node. The controller and other nodes
// read them, and a compromised node can write anything, so the schema, the writer and the
// readers apply the same bounds. MaxReportedAddresses is enough for 10,000 Services without
// two consecutive addresses on one node, in at most 0.8 MB; an object in etcd has at
// most 1.5 MB.
const (
	// MaxReportedInterfaces bounds the interfaces of a node.
	MaxReportedInterfaces = 64
	// MaxReportedSubnets bounds the addresses of all interfaces of a node.
	MaxReportedSubnets = 128
	// MinPrefixLength4 is the shortest prefix length of an IPv4 address of an
	// interface: 10.0.0.0/8 (RFC 1918) is the largest subnet in use.
	MinPrefixLength4 = 8
	// MinPrefixLength6 is the shortest prefix length of an IPv6 address of an
	// interface: a site has a /48 (RFC 6177), and a LAN a part of it.
	MinPrefixLength6 = 48
	// MaxReportedGroups bounds the groups of announced addresses, those of unannounced
	// ones and those of warnings.
	MaxReportedGroups = 256
	// MaxReportedAddresses bounds the addresses and ranges in all groups.
	MaxReportedAddresses = 10000
	// MaxReportedSessions bounds the sessions, and the peers of a group.
	MaxReportedSessions = 256

	// MaxInterfaceName is the maximum length of the name of an interface, in bytes
	// (IFNAMSIZ without the final NUL).
	MaxInterfaceName = 15
	// MaxReportedRange is the maximum length of an address or a range.
	MaxReportedRange = 79
	// MaxReportedMessage is the maximum length of a text for people.
	MaxReportedMessage = 1024
	// MaxReportedName is the maximum length of the name of an object.
	MaxReportedName = 253
	// MaxReportedWord is the maximum length of a state, a reason, or another short text.
	MaxReportedWord = 128
)

// Speaker is the report of the speaker on one node, for people and for the controller. It
// has the name of the node, is owned by the Node, and is written by that speaker only. It
// changes with each announced address, so other speakers do not watch it: see L2Node.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Announced",type=integer,JSONPath=`.status.announcedAddresses`,description="addresses that the node announces"
// +kubebuilder:printcolumn:name="Interfaces",type=string,JSONPath=`.status.interfaceSummary`,description="interfaces on which addresses are announced"
// +kubebuilder:printcolumn:name="Taken over from",type=string,JSONPath=`.status.announcing[*].takenOver[*].node`,description="nodes that did not answer or left, whose addresses the node announces"
// +kubebuilder:printcolumn:name="Neighbors",type=string,JSONPath=`.status.neighborSummary`,description="observed nodes with a BFD session that is Up, of all observed nodes"
// +kubebuilder:printcolumn:name="Sessions",type=string,JSONPath=`.status.sessionSummary`,description="established BGP sessions, of those desired"
// +kubebuilder:printcolumn:name="Version",type=string,JSONPath=`.status.version`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type Speaker struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +optional
	Status SpeakerStatus `json:"status,omitempty"`
}

// SpeakerStatus is the state that the speaker reports.
//
// +kubebuilder:validation:XValidation:rule="(has(self.announcing) ? self.announcing.map(a, size(a.addresses)).sum() : 0) + (has(self.unannounced) ? self.unannounced.map(u, size(u.addresses)).sum() : 0) + (has(self.warnings) ? self.warnings.map(w, size(w.addresses)).sum() : 0) <= 10000",message="announcing, unannounced and warnings must have at most 10000 addresses and ranges in total"
type SpeakerStatus struct {
	// Version of the speaker.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=128
	Version string `json:"version,omitempty"`

	// AnnouncedAddresses counts the addresses that the node announces on an interface
	// or to a BGP peer.
	//
	// +optional
	// +kubebuilder:validation:Minimum=0
	AnnouncedAddresses int64 `json:"announcedAddresses"`

	// Announcing lists the addresses that the node announces on its interfaces, grouped
	// by interfaces, and by BGP, grouped by peers.
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=256
	Announcing []Announcement `json:"announcing,omitempty"`

	// Unannounced lists addresses that no node can announce, grouped by reason. Each is
	// reported by one node. It also lists the addresses that this node owns and failed
	// to announce, or does not announce because another host has them.
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=256
	Unannounced []AddressReason `json:"unannounced,omitempty"`

	// Warnings list addresses that this node announces although another host claims
	// them, announced addresses without endpoints, each of which a single node reports, and
	// addresses for which the kernel of this node answers, whichever node announces them,
	// because they are configured on an interface. They are grouped by reason.
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=256
	Warnings []AddressReason `json:"warnings,omitempty"`

	// Omitted counts the addresses and sessions that the lists leave out, because they
	// are bounded, and the interfaces and addresses that the node's L2Node leaves out.
	//
	// +optional
	// +kubebuilder:validation:Minimum=0
	Omitted int64 `json:"omitted,omitempty"`

	// DataPath says why the node announces addresses although its kube-proxy has not
	// answered, or why it does not announce them. It is empty if kube-proxy has answered.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	DataPath string `json:"dataPath,omitempty"`

	// LastChangeTime is when the report changed last, by the clock of the node. A report is
	// written only if it has changed, so that an old one is not a sign of a failure.
	//
	// +optional
	LastChangeTime *metav1.Time `json:"lastChangeTime,omitempty"`

	// Neighbors are the nodes that this one observes, because it takes over their addresses
	// if they fail.
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=256
	Neighbors []Neighbor `json:"neighbors,omitempty"`

	// InterfaceSummary are the interfaces on which addresses are announced: "eth0,eth1".
	//
	// +optional
	// +kubebuilder:validation:MaxLength=128
	InterfaceSummary string `json:"interfaceSummary,omitempty"`

	// NeighborSummary is the number of observed nodes with a BFD session that is Up, of all
	// that this node observes: "2/2".
	//
	// +optional
	// +kubebuilder:validation:MaxLength=128
	NeighborSummary string `json:"neighborSummary,omitempty"`

	// SessionSummary is the number of established BGP sessions, of those desired: "2/2".
	//
	// +optional
	// +kubebuilder:validation:MaxLength=128
	SessionSummary string `json:"sessionSummary,omitempty"`

	// Sessions of this node with BGP peers.
	//
	// +optional
	// +listType=map
	// +listMapKey=peer
	// +kubebuilder:validation:MaxItems=256
	Sessions []Session `json:"sessions,omitempty"`
}

// Neighbor is the state of another node that this one observes.
type Neighbor struct {
	// Node is the name of the other node.
	//
	// +kubebuilder:validation:MaxLength=253
	Node string `json:"node"`

	// Interface of this node on the segment.
	//
	// +kubebuilder:validation:MaxLength=15
	Interface string `json:"interface"`

	// State of the other node: Unknown, Live, Leaving or Gone.
	//
	// +kubebuilder:validation:MaxLength=128
	State string `json:"state"`

	// BFD is the state of the BFD session with the node, if there is one (RFC 5880 section
	// 6.2): AdminDown, Down, Init or Up.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=128
	BFD string `json:"bfd,omitempty"`

	// Filtered is whether the node answers ARP requests or Neighbor Solicitations although
	// the BFD session is not Up. BFD is then filtered between the nodes, as a rule.
	//
	// +optional
	Filtered bool `json:"filtered,omitempty"`

	// DetectionMilliseconds is the time within which BFD detects a failure of the node, in
	// milliseconds, if the session is Up.
	//
	// +optional
	// +kubebuilder:validation:Minimum=0
	DetectionMilliseconds int64 `json:"detectionMilliseconds,omitempty"`

	// Message has details: within which time a failure is detected, or why there is no BFD
	// session.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	Message string `json:"message,omitempty"`
}

// Session is the state of a BGP session with a peer.
type Session struct {
	// Peer is the name of the BGPPeer.
	//
	// +kubebuilder:validation:MaxLength=253
	Peer string `json:"peer"`

	// State of the session (RFC 4271 section 8.2.2): Idle, Connect, Active,
	// OpenSent, OpenConfirm or Established.
	//
	// +kubebuilder:validation:MaxLength=128
	State string `json:"state"`

	// Since is when the session was established, or when it ended.
	//
	// +optional
	Since *metav1.Time `json:"since,omitempty"`

	// LocalAddress and port of the connection.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=128
	LocalAddress string `json:"localAddress,omitempty"`

	// RemoteAddress and port of the connection.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=128
	RemoteAddress string `json:"remoteAddress,omitempty"`

	// RemoteASN is the autonomous system number in the OPEN message of the router.
	//
	// +optional
	// +kubebuilder:validation:Minimum=0
	RemoteASN int64 `json:"remoteASN,omitempty"`

	// RemoteRouterID is the BGP Identifier in the OPEN message of the router.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=128
	RemoteRouterID string `json:"remoteRouterID,omitempty"`

	// HoldTime is the negotiated hold time, in seconds.
	//
	// +optional
	// +kubebuilder:validation:Minimum=0
	HoldTime int64 `json:"holdTime,omitempty"`

	// Families are the negotiated address families.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MaxLength=128
	Families []string `json:"families,omitempty"`

	// NextHops are the next hops of the advertised routes, one for each family.
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MaxLength=128
	NextHops []string `json:"nextHops,omitempty"`

	// GracefulRestart describes the negotiated graceful restart.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	GracefulRestart string `json:"gracefulRestart,omitempty"`

	// Routes counts the routes advertised over the session.
	//
	// +optional
	// +kubebuilder:validation:Minimum=0
	Routes int64 `json:"routes"`

	// Withheld describes the routes that are not advertised, and why.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	Withheld string `json:"withheld,omitempty"`

	// Lost counts the established sessions that ended since the speaker started.
	//
	// +optional
	// +kubebuilder:validation:Minimum=0
	Lost int64 `json:"lost,omitempty"`

	// LastError is why the session is not established, or why the last one ended.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	LastError string `json:"lastError,omitempty"`

	// FailedAt is the step at which the last attempt failed: reach, connect,
	// answer, open, asn, families or accept.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=128
	FailedAt string `json:"failedAt,omitempty"`

	// LastErrorTime is when LastError occurred.
	//
	// +optional
	LastErrorTime *metav1.Time `json:"lastErrorTime,omitempty"`

	// Pending names the changed fields of the peer that take effect with the next
	// session.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MaxLength=128
	Pending []string `json:"pending,omitempty"`

	// Problem is why no session is attempted.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	Problem string `json:"problem,omitempty"`

	// ProblemReason is the reason of Problem.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=128
	// +kubebuilder:validation:Pattern=`^[A-Za-z]*$`
	ProblemReason Reason `json:"problemReason,omitempty"`

	// BFD is the state of the BFD session, if there is one (RFC 5880 section
	// 6.2): AdminDown, Down, Init or Up.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=128
	BFD string `json:"bfd,omitempty"`

	// BFDMessage has details about the BFD session.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	BFDMessage string `json:"bfdMessage,omitempty"`
}

// Announcement is a group of addresses that are announced in the same way.
type Announcement struct {
	// Interfaces that the addresses are announced on.
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MaxLength=15
	Interfaces []string `json:"interfaces,omitempty"`

	// Peers that the addresses are announced to.
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:items:MaxLength=253
	Peers []string `json:"peers,omitempty"`

	// TakenOver are the nodes from which the addresses were taken over: those of a higher
	// rank that were gone at that time, the highest one first. It stays the same until the
	// addresses move again.
	//
	// +optional
	// +listType=map
	// +listMapKey=node
	// +kubebuilder:validation:MaxItems=64
	TakenOver []Takeover `json:"takenOver,omitempty"`

	// Addresses that are announced, and ranges of them ("192.0.2.1-192.0.2.9").
	//
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=10000
	// +kubebuilder:validation:items:MaxLength=79
	// +kubebuilder:validation:items:Pattern=`^[0-9a-f:.]+(-[0-9a-f:.]+)?$`
	Addresses []string `json:"addresses"`
}

// AddressReason is a reason with the addresses that it is about.
type AddressReason struct {
	// Reason of the state of the addresses.
	//
	// +kubebuilder:validation:MaxLength=128
	// +kubebuilder:validation:Pattern=`^[A-Za-z]+$`
	Reason Reason `json:"reason"`

	// Message explains the reason.
	//
	// +kubebuilder:validation:MaxLength=1024
	Message string `json:"message"`

	// Addresses that the reason is about, and ranges of them.
	//
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=10000
	// +kubebuilder:validation:items:MaxLength=79
	// +kubebuilder:validation:items:Pattern=`^[0-9a-f:.]+(-[0-9a-f:.]+)?$`
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
