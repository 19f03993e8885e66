package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// Speaker is the report of the speaker on one node. It has the name of the node, is
// owned by the Node, and is written by that speaker only.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Announced",type=integer,JSONPath=`.status.announcedAddresses`,description="addresses that the node announces"
// +kubebuilder:printcolumn:name="Sessions",type=string,JSONPath=`.status.sessionSummary`,description="established BGP sessions, of those desired"
// +kubebuilder:printcolumn:name="Interfaces",type=string,JSONPath=`.status.interfaces[*].name`
// +kubebuilder:printcolumn:name="Version",type=string,JSONPath=`.status.version`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type Speaker struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +optional
	Status SpeakerStatus `json:"status,omitempty"`
}

// SpeakerStatus is the state that the speaker reports.
type SpeakerStatus struct {
	// Version of the speaker.
	//
	// +optional
	Version string `json:"version,omitempty"`

	// Interfaces of the node that can be announced on: those that are up, and have an
	// address or are named by an advertisement.
	//
	// +optional
	// +listType=map
	// +listMapKey=name
	Interfaces []Interface `json:"interfaces,omitempty"`

	// AnnouncedAddresses counts the addresses that the node announces on an interface
	// or to a BGP peer.
	//
	// +optional
	AnnouncedAddresses int64 `json:"announcedAddresses"`

	// Announcing lists the addresses that the node announces on its interfaces, grouped
	// by interfaces, and by BGP, grouped by peers.
	//
	// +optional
	// +listType=atomic
	Announcing []Announcement `json:"announcing,omitempty"`

	// Unannounced lists addresses that no node can announce, grouped by reason. Each is
	// reported by one node. It also lists the addresses that this node owns and failed
	// to announce.
	//
	// +optional
	// +listType=atomic
	Unannounced []Unannounced `json:"unannounced,omitempty"`

	// SessionSummary is the number of established BGP sessions, of those desired: "2/2".
	//
	// +optional
	SessionSummary string `json:"sessionSummary,omitempty"`

	// Sessions of this node with BGP peers.
	//
	// +optional
	// +listType=map
	// +listMapKey=peer
	Sessions []Session `json:"sessions,omitempty"`
}

// Session is the state of a BGP session with a peer.
type Session struct {
	// Peer is the name of the BGPPeer.
	Peer string `json:"peer"`

	// State of the session (RFC 4271 section 8.2.2): Idle, Connect, Active,
	// OpenSent, OpenConfirm or Established.
	State string `json:"state"`

	// Since is when the session was established, or when it ended.
	//
	// +optional
	Since *metav1.Time `json:"since,omitempty"`

	// LocalAddress and port of the connection.
	//
	// +optional
	LocalAddress string `json:"localAddress,omitempty"`

	// RemoteAddress and port of the connection.
	//
	// +optional
	RemoteAddress string `json:"remoteAddress,omitempty"`

	// RemoteASN is the autonomous system number in the OPEN message of the router.
	//
	// +optional
	RemoteASN int64 `json:"remoteASN,omitempty"`

	// RemoteRouterID is the BGP Identifier in the OPEN message of the router.
	//
	// +optional
	RemoteRouterID string `json:"remoteRouterID,omitempty"`

	// HoldTime is the negotiated hold time, in seconds.
	//
	// +optional
	HoldTime int64 `json:"holdTime,omitempty"`

	// Families are the negotiated address families.
	//
	// +optional
	// +listType=set
	Families []string `json:"families,omitempty"`

	// GracefulRestart describes the negotiated graceful restart.
	//
	// +optional
	GracefulRestart string `json:"gracefulRestart,omitempty"`

	// Routes counts the routes advertised over the session.
	//
	// +optional
	Routes int64 `json:"routes"`

	// Withheld describes the routes that are not advertised, and why.
	//
	// +optional
	Withheld string `json:"withheld,omitempty"`

	// Lost counts the established sessions that ended since the speaker started.
	//
	// +optional
	Lost int64 `json:"lost,omitempty"`

	// LastError is why the session is not established, or why the last one ended.
	//
	// +optional
	LastError string `json:"lastError,omitempty"`

	// FailedAt is the step at which the last attempt failed: reach, connect,
	// answer, open, asn, families or accept.
	//
	// +optional
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
	Pending []string `json:"pending,omitempty"`

	// Problem is why no session is attempted.
	//
	// +optional
	Problem string `json:"problem,omitempty"`

	// ProblemReason is the reason of Problem.
	//
	// +optional
	ProblemReason Reason `json:"problemReason,omitempty"`

	// BFD is the state of the BFD session, if there is one (RFC 5880 section
	// 6.2): AdminDown, Down, Init or Up.
	//
	// +optional
	BFD string `json:"bfd,omitempty"`

	// BFDMessage has details about the BFD session.
	//
	// +optional
	BFDMessage string `json:"bfdMessage,omitempty"`
}

// Interface is a network interface of the node.
type Interface struct {
	// Name of the interface.
	Name string `json:"name"`

	// Addresses of the interface, each with its prefix length.
	//
	// +optional
	// +listType=atomic
	Addresses []string `json:"addresses,omitempty"`
}

// Announcement is a group of addresses that are announced in the same way.
type Announcement struct {
	// Interfaces that the addresses are announced on.
	//
	// +optional
	// +listType=atomic
	Interfaces []string `json:"interfaces,omitempty"`

	// Peers that the addresses are announced to.
	//
	// +optional
	// +listType=atomic
	Peers []string `json:"peers,omitempty"`

	// Addresses that are announced, and ranges of them ("192.0.2.1-192.0.2.9").
	//
	// +listType=atomic
	Addresses []string `json:"addresses"`
}

// Unannounced is a group of addresses that no node announces, for the same reason.
type Unannounced struct {
	// Reason why the addresses are not announced.
	Reason Reason `json:"reason"`

	// Message explains the reason.
	Message string `json:"message"`

	// Addresses that are not announced, and ranges of them.
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
