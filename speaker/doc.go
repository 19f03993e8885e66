// Package speaker is the node side: it announces the addresses of Services to
// the network.
//
// plan.go decides, from one Snapshot, which node announces what and why; every
// node's speaker decides the same. apply.go makes this node do its part.
package speaker
