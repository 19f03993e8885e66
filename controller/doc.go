// Package controller is the cluster side: it gives Services their addresses
// and writes what became of them into their status.
//
// plan.go decides, from one Snapshot of everything, what every status should
// say. apply.go makes it so. view.go keeps the Snapshot from being staler than
// the controller's own writes.
package controller
