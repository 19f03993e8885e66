// Package controller is the cluster side: it assigns addresses to Services, ensures
// the load balancers of a cloud, and writes the status of Services, pools, peers and
// advertisements. The desired state is decided by package plan.
//
// handlers.go filters the informers' events and requests a sync for those that
// can change a plan. run.go is the loop: one goroutine takes a snapshot of all
// caches, plans, and writes what differs. A full sync plans for everything. An
// incremental sync plans for the few Services that have changed, where that is
// certain to give the same result; a full sync follows it after a second, and
// full syncs take at most a fifth of the time. writes.go runs the writes of a sync
// in parallel, in rounds that leave no address on two Services wherever the process
// is killed; statuses.go writes the statuses of Fairlead's own kinds, nodeports.go
// node ports. backoff.go defers writes to Services for which they fail, or on which
// another writer reverts them. cloud.go ensures and deletes load balancers, each
// Service separately, with retries and backoff. elect.go holds the leader lease until
// the last write has returned. eventqueue.go rate-limits Events while Services are
// written.
//
// What is kept in memory, and what invalidates it:
//   - informer caches, by their watches. services.go strips Services that carry
//     no state of Fairlead's.
//   - ownWrites: versions of Services that this process wrote or listed, until
//     the watch has delivered them (read-your-writes, ADR 0003); and the addresses
//     of writes with an unknown outcome, until a newer version of the Service has
//     been observed.
//   - backoffs: the last write of each Service, while it fails, is reverted or may
//     still be; until a write has succeeded, or has stood for twice the backoff.
//   - planner: what was derived from objects, until one of them changes (the keys
//     are in plan/planner.go); and the last allocation, for incremental syncs,
//     until the next full one.
//   - balancers: the outcome of the last call for each Service, until the desired
//     action changes; it is refreshed after the resync period.
//   - nodePorts: ports that the API server refused, for five minutes.
//   - latencies: since when Services wait for an address or its announcement, for
//     the metrics, until they have both.
//
// All of it is lost with the process and with the lease, and derived again from
// the API server and the cloud.
//
// Concurrency: the syncing goroutine alone plans. Writes run in parallel and
// share ownWrites, backoffs and latencies; event handlers share pending, latencies,
// the limiter and the queue; the cloud's workers share balancers. Run must be called by the
// leader only, Watch by every replica.
package controller
