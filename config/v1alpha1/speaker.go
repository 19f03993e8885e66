package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// Speaker is what the speaker of one node reports. It carries the node's name,
// is owned by the Node, and only that node's speaker writes it.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Announced",type=integer,JSONPath=`.status.announcedAddresses`,description="addresses that this node answers for"
// +kubebuilder:printcolumn:name="Sessions",type=string,JSONPath=`.status.sessionSummary`,description="BGP sessions that are established, of those wanted"
// +kubebuilder:printcolumn:name="Interfaces",type=string,JSONPath=`.status.interfaces[*].name`
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

	// Interfaces of the node that can carry announcements: up, and with an address
	// or named by an advertisement.
	//
	// +optional
	// +listType=map
	// +listMapKey=name
	Interfaces []Interface `json:"interfaces,omitempty"`

	// AnnouncedAddresses counts the addresses that this node answers for on a
	// link or announces to a BGP peer.
	//
	// +optional
	AnnouncedAddresses int64 `json:"announcedAddresses"`

	// Announcing lists the addresses that this node answers for, grouped by
	// links, and those that it announces by BGP, grouped by peers.
	//
	// +optional
	// +listType=atomic
	Announcing []Announcement `json:"announcing,omitempty"`

	// Unannounced lists addresses that no node can announce, grouped by
	// reason: one node speaks for each, so that the lists of all nodes
	// together hold it once. It also lists those that this node should announce
	// and cannot.
	//
	// +optional
	// +listType=atomic
	Unannounced []Unannounced `json:"unannounced,omitempty"`

	// SessionSummary is how many BGP sessions are established of those wanted: "2/2".
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

// Session is what a node can say about its BGP session with a peer.
type Session struct {
	// Peer is the name of the BGPPeer.
	Peer string `json:"peer"`

	// State of the session (RFC 4271 section 8.2.2): Idle, Connect, Active,
	// OpenSent, OpenConfirm or Established.
	State string `json:"state"`

	// Since when the session is established, or is not.
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

	// RemoteASN that the router says it has.
	//
	// +optional
	RemoteASN int64 `json:"remoteASN,omitempty"`

	// RemoteRouterID that the router says it has.
	//
	// +optional
	RemoteRouterID string `json:"remoteRouterID,omitempty"`

	// HoldTime that was agreed upon, in seconds.
	//
	// +optional
	HoldTime int64 `json:"holdTime,omitempty"`

	// Families that both ends accept routes of.
	//
	// +optional
	// +listType=set
	Families []string `json:"families,omitempty"`

	// GracefulRestart that the router agreed to, in words.
	//
	// +optional
	GracefulRestart string `json:"gracefulRestart,omitempty"`

	// Routes told over the session.
	//
	// +optional
	Routes int64 `json:"routes"`

	// Withheld says which routes are not told, and why.
	//
	// +optional
	Withheld string `json:"withheld,omitempty"`

	// Lost counts the established sessions that ended, since the speaker started.
	//
	// +optional
	Lost int64 `json:"lost,omitempty"`

	// LastError says why there is no session, or why the last one ended.
	//
	// +optional
	LastError string `json:"lastError,omitempty"`

	// FailedAt is the step at which the last attempt failed: reach, connect,
	// answer, open, asn, families or accept.
	//
	// +optional
	FailedAt string `json:"failedAt,omitempty"`

	// LastErrorTime is when that was.
	//
	// +optional
	LastErrorTime *metav1.Time `json:"lastErrorTime,omitempty"`

	// Pending names the fields of the peer whose change waits for the next session.
	//
	// +optional
	// +listType=set
	Pending []string `json:"pending,omitempty"`

	// Problem says why the session is not even tried.
	//
	// +optional
	Problem string `json:"problem,omitempty"`

	// ProblemReason is that in one word.
	//
	// +optional
	ProblemReason Reason `json:"problemReason,omitempty"`

	// BFD is the state of the BFD session, if there is one (RFC 5880 section
	// 6.2): AdminDown, Down, Init or Up.
	//
	// +optional
	BFD string `json:"bfd,omitempty"`

	// BFDMessage says more about it.
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

// Announcement is a group of addresses announced in the same way.
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

// Unannounced is a group of addresses that nobody announces for the same reason.
type Unannounced struct {
	// Reason in one word.
	Reason Reason `json:"reason"`

	// Message says what to do, or what stands in the way.
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
