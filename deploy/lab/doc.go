// Package lab runs a whole Kubernetes cluster on one machine, in network
// namespaces: a real control plane, nodes with a real kube-proxy, and
// Fairlead's binaries with the manifests in deploy. It does not require root if user
// namespaces are allowed, and leaves no processes or files behind.
//
// Everything runs inside a sandbox (see Enter) of user, network, mount and PID
// namespaces that end with the process that created them.
package lab
