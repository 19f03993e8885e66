// Package speaker is the node side: it announces addresses of Services to the
// network, by ARP and by BGP, and reports what this node announces. What it
// announces is decided by package plan, which comes to the same owner of each
// address on every node.
//
// events.go filters the informers' events and requests a sync for those that can
// change a plan. run.go is the loop: one goroutine takes a snapshot, plans, and
// passes the desired state to the engines: l2 answers ARP, bgp runs the sessions,
// bfd watches paths, guard keeps stray packets from looping; routing.go combines
// the last three. localfacts.go reads what only this node knows: gateways, routers
// and passwords. datapath.go delays routes until this node's kube-proxy serves
// them. status.go and sessions.go compute the report, report.go writes it.
// shutdown.go finds out why the speaker ends, and leaves the routers accordingly.
//
// What is kept in memory, and what invalidates it:
//   - informer caches, by their watches.
//   - parser, links: what was derived from objects, until one of them changes.
//   - known: passwords and gateways that were seen last. They are kept when they
//     disappear, for as long as the process runs, so that replacing one does not
//     end a session.
//   - lastNode: this node's last version, if its Node is deleted.
//   - gate: addresses that the data path serves, until they are no longer
//     desired.
//   - wanted: the report, until the next sync.
//
// All of it is lost with the process. The engines keep what is announced, and the
// network remembers it: ARP caches, and routes under graceful restart.
//
// Concurrency: the syncing goroutine alone plans and sets desired states. Reports
// are written by a goroutine of their own, so that announcing never waits for the
// API server. The engines lock for themselves.
//
// Without the API server a speaker keeps what it announces.
package speaker
