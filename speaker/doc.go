// Package speaker is the node side: it announces addresses of Services to the
// network, by ARP, Neighbor Discovery and BGP, and reports what this node announces. Package plan
// decides what that is, with the same ranks of the eligible nodes on every node.
//
// Of what other nodes report, it watches their L2Nodes only, with their interfaces, which
// change rarely. It watches its own Speaker, and reads that of another node if a host
// claims an address with the node's MAC (claimreports.go).
//
// events.go filters the informers' events and requests a sync for those that can
// change a plan. run.go has the sync loop: one goroutine takes a snapshot, decides,
// and passes the desired state to the engines: l2 answers ARP and Neighbor Discovery, bgp
// runs the sessions, bfd monitors paths, guard keeps stray packets from looping; routing.go
// combines the last three. localfacts.go reads what only this node has: gateways, routers
// and passwords. datapath.go delays routes until this node's kube-proxy serves them,
// healthcheck.go probes kube-proxy, and datapathproblems.go reports what has not answered.
// endpoints.go delays the withdrawal of routes after the last endpoint of a Service, and
// advertising them again. routesuccessors.go measures since when another node may advertise an
// address in place of this one. status.go and sessions.go compute the reports of this node, its Speaker
// and its L2Node, report.go writes them.
// neighbors.go observes the other nodes of the segments by BFD and by questions, for package
// failover, which decides which of the eligible nodes announces an address; failover.go
// applies it.
// metrics.go has the metrics; those that mirror state are computed when they are read.
// conflicts.go records Events about addresses that other hosts have. shutdown.go determines why
// the speaker ends, and withdraws or keeps the routes.
//
// What is kept in memory, and what invalidates it:
//   - informer caches, by their watches.
//   - parser, interfaces: what was derived from objects, until one of them changes.
//   - planner: the best nodes for each address, until its Services, their endpoints, the
//     configuration or one of these nodes change.
//   - lastKnown: the last passwords and gateways. They are kept when they disappear,
//     until the process ends, so that replacing one does not reset a session.
//   - lastNode: this node's last version, if its Node is deleted.
//   - neighbors: which of the observed nodes answer, and for which addresses, until they are
//     not observed any more.
//   - upSince, holdDown: when the speaker started, or continued after another node had taken
//     over, and for how long it takes no addresses back since then.
//   - ineligible: since when this node is not eligible for addresses that it announces.
//   - claimReports: what nodes with a current claim announce, until it is read again.
//   - conflicts: those that an Event was recorded for, until they end.
//   - endpointLosses: which Services have endpoints or none, and since when, until the Service is
//     gone.
//   - routeSuccessors: since when which node may advertise an address in place of this one,
//     until this node does not advertise it any more.
//   - dataPath: addresses that the data path serves, until they are no longer
//     desired.
//   - lastState: the state of the last sync, for the metrics, until the next sync.
//   - speakerReport, l2NodeReport: the desired reports, until the next sync.
//
// All of it is lost with the process. Clients and routers still have their state:
// ARP entries, and the routes under graceful restart.
//
// Concurrency: only the goroutine of the sync loop decides and sets desired states.
// Reports are written and read by other goroutines, so that announcing never waits for the
// API server. The engines have their own locks.
//
// Without the API server a speaker keeps what it announces.
package speaker
