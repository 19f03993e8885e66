package plan

import (
	"net/netip"
	"time"

	"go4.org/netipx"

	"github.com/fairlead-io/fairlead/speaker/bgp"
	"github.com/fairlead-io/fairlead/speaker/failover"
	"github.com/fairlead-io/fairlead/speaker/l2"
)

// LocalFacts is the part of a Snapshot that only the node itself knows.
type LocalFacts struct {
	// Interfaces are the node's interfaces, as the kernel has them now.
	Interfaces []l2.Interface
	// Held are the addresses that the node announces on interfaces now.
	Held map[netip.Addr]bool
	// Restored are the addresses that the node announced on interfaces before its speaker
	// was restarted; nil after the first plan.
	Restored *netipx.IPSet
	// HeldOn has the interfaces of the addresses in Held.
	HeldOn map[netip.Addr][]string
	// Lapsed are the addresses in Held that this node has not been eligible for, for
	// failover.LeaveTimeout.
	Lapsed map[netip.Addr]bool
	// Failover is what is known about the other nodes on the segments.
	Failover failover.View
	// PeerFresh has the peers whose BFD sessions are Up, each with whether it has contact
	// with the API server; Stale is whether this node has none.
	PeerFresh map[failover.Peer]bool
	Stale     bool
	// Settled is whether this node has been up for its hold-down (failover.NextHoldDown).
	Settled bool
	// Reports are what the nodes of NeededReports announce on interfaces, according to
	// their Speakers. A report that has not been read is missing; one that could not be read
	// in time is empty.
	Reports map[string][]AnnouncedGroup
	// Claimants are the other hosts that claim addresses of the last plan, by address.
	Claimants map[netip.Addr][]l2.Claimant
	// DepartedMACs are the MACs that the L2Nodes had a moment ago and do not have any more,
	// each with the time when that was observed.
	DepartedMACs map[string]time.Time
	// Gateways are the node's default gateways, by family: "IPv4", "IPv6".
	Gateways map[string]netip.Addr
	// Routers are the link-local addresses of discovered routers, by interface.
	Routers map[string]netip.Addr
	// Passwords are the passwords of BGP peers, by the name of their Secret.
	Passwords map[string]bgp.Secret
	// DataPathReady are the addresses that the node's data path serves; if nil, all.
	DataPathReady map[netip.Addr]bool
	// DataPathLate are those for which kube-proxy does not answer on this node, but does on
	// others. They are announced if no other node announces them.
	DataPathLate map[netip.Addr]bool
	// ProxyNotReady is whether kube-proxy has not answered since the speaker started, while it
	// answers on most other nodes. The node's L2Node reports it a moment later.
	ProxyNotReady bool
	// Advertised are the addresses that the node already advertises by BGP. They, and those
	// in Held, never wait for the data path again.
	Advertised map[netip.Addr][]int
	// Reprogrammed are addresses of Services that are not under externalTrafficPolicy: Local
	// any more, but for which kube-proxy has not replaced its rules yet.
	Reprogrammed map[netip.Addr]bool
	// ProxyReady is whether kube-proxy has answered on this node. Addresses of
	// Services without a health check of their own wait for nothing else.
	ProxyReady bool
	// Drained is whether the node has been excluded for the drain delay, so that its routers
	// have had the time to select other paths.
	Drained bool
	// RouteSuccessors are the nodes that the last plan had in RouteSuccessors, by address.
	RouteSuccessors map[netip.Addr]RouteSuccessor
	// WithoutEndpoints are the Services without a ready or serving endpoint of a family, except
	// those that had one until a moment ago, and in addition those that have had one again for a
	// moment only.
	WithoutEndpoints map[EndpointFamily]bool
	// Leaving is whether the node is about to withdraw all its routes.
	Leaving bool
}

// RouteSuccessor is another node that may advertise an address, by BGP, in place of this one.
type RouteSuccessor struct {
	Node string
	// Synced is whether it has been the successor for the time in which its kube-proxy observes
	// an endpoint and programs its rules.
	Synced bool
	// Drained is whether it has been the successor, and this node about to be removed, for the
	// drain delay.
	Drained bool
}
