// Package lab runs a whole Kubernetes cluster on one machine, in network
// namespaces: a real control plane, nodes with a real kube-proxy, and
// Fairlead's own binaries with the manifests that it ships. It needs no root
// where user namespaces are allowed, and leaves nothing behind.
//
// Everything runs inside a sandbox (see Enter): namespaces of its own for
// users, network, mounts and processes, that end with the process that made
// them.
package lab
