// Package aws implements Services of type LoadBalancer by Network Load Balancers
// of Elastic Load Balancing, with the nodes as targets. It is a
// cloudprovider.LoadBalancer, and does not depend on the controller or its caches.
//
// cloud.go has the options and New, loadbalancer.go the methods of the interface,
// report.go what they report. plan.go and plan_*.go compute the desired stack of a
// Service (a load balancer with its listeners, target groups and security groups)
// and its differences from AWS, from values alone; plan_mode.go decides how much a
// sync reads and changes. observe.go reads a stack, and ownership.go decides which of
// its objects are the Service's. apply.go has the order of the steps that change it,
// and apply_*.go the steps, by object. delete.go and sweep.go delete what a Service,
// or none any more, has in AWS. list.go, instances.go, subnets.go and
// security_groups.go read EC2 and Elastic Load Balancing through client.go.
// ratelimit.go and callbucket.go limit the calls, and errors.go converts their
// errors.
//
// AWS keeps all state: names follow from the cluster's name and the Service's UID
// (names.go), tags identify the objects of the cluster and record what annotations
// have set. What is kept in memory only saves calls, and is lost without harm:
//   - the last sync of each Service (last_sync.go): invalidated by a failure, by a
//     change of the desired stack or its targets, and by age (Options.Resync);
//   - the lists of all load balancers and target groups: updated by our writes,
//     invalidated by a failure and after 30 seconds;
//   - instances: read again after half of Options.Resync, those that are not usable
//     after a minute;
//   - subnets: read again after half of Options.Resync, and after none could be
//     selected;
//   - the shared security group: checked again after half of Options.Resync, for
//     other security groups of nodes, and after its deletion;
//   - which Services' last sync failed: their security groups are then read;
//   - when an orphan was found: lost with the process, which postpones its deletion.
//
// If a call fails because an object does not exist, the lists, instances, subnets and
// the shared group are all read again, and the sync runs once more.
//
// Syncs of different Services run concurrently, those of one Service one after the
// other. Calls for the same list, instances or shared group are made once for all
// syncs that wait for them. The shared group is not deleted while a sync that
// may use it runs.
//
// Not supported, because nodes as targets serve every Service alike: IP targets,
// and classic and application load balancers. AWS supports neither UDP on dual
// stack without source NAT prefixes nor SCTP; a Service with SCTP is refused, so
// that another provider can serve it. Annotations of other implementations that
// are not supported are refused by name (plan_annotations.go).
package aws
