// Package controller is the cluster side: it assigns addresses to Services,
// makes the cloud's load balancers, and writes the status of Services, pools,
// peers and advertisements. What it writes is decided by package plan.
//
// handlers.go filters the informers' events and requests a sync for those that
// can change a plan. run.go is the loop: one goroutine takes a snapshot of all
// caches, plans, and writes what differs. A full sync plans for everything. An
// incremental sync plans for the few Services that have changed, where that is
// certain to give the same result; a full sync follows it after a second, and
// full syncs take at most a fifth of the time. writes.go runs the writes of a sync
// in parallel, in rounds whose order no crash can turn into two Services with one
// address; statuses.go writes the statuses of Fairlead's own kinds, nodeports.go
// node ports. cloud.go ensures and deletes load balancers, each Service apart,
// and retries with backoff. elect.go holds the leader lease until the last write
// has returned. eventqueue.go delays Events while Services are written.
//
// What is kept in memory, and what invalidates it:
//   - informer caches, by their watches. services.go strips Services that carry
//     nothing of Fairlead's.
//   - ownWrites: versions of Services that this process wrote or listed, until
//     the watch has delivered them (read-your-writes, ADR 0003).
//   - outcomeUnknown: a write failed that may have taken effect; until all
//     Services have been listed.
//   - planner: what was derived from objects, until one of them changes (the keys
//     are in plan/planner.go); and the last allocation, for incremental syncs,
//     until the next full one.
//   - balancers: what each call of the cloud returned, until the desired state
//     changes, or the resync period is over.
//   - nodePorts: ports that the API server refused, for five minutes.
//
// All of it is lost with the process and with the lease, and derived again from
// the API server and the cloud.
//
// Concurrency: the syncing goroutine alone plans. Writes run in parallel and
// share ownWrites and outcomeUnknown; event handlers share changes, the limiter
// and the queue; the cloud's workers share balancers. Run must be called by the
// leader only, Watch by every replica.
package controller
