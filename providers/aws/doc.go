// Package aws makes a Service of type LoadBalancer a Network Load Balancer
// with the nodes as its targets.
//
// Everything that it must remember lives in AWS: names follow from the cluster
// and the Service's UID, tags say whose an object is. What is kept in memory
// only saves calls.
package aws
