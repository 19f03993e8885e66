package plan

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"go4.org/netipx"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// DependsOnEndpoints reports whether the nodes that may announce the Service's
// addresses depend on where its endpoints are: under externalTrafficPolicy: Local.
func DependsOnEndpoints(svc *corev1.Service) bool {
	return svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal && len(AnnounceableAddresses(svc)) > 0
}

// servedBy reports whether packets to the address may be sent to the node: for any
// of its Services, and for all of them. A node may announce the address if it
// serves all. If no node that could announce it does, the EndpointSlices of the
// Services are not equally fresh. A node that serves any of them is then enough, so
// that the address does not become unreachable in the meantime.
func (h heldAddress) servedBy(node string) (any, all bool) {
	if h.localNodes == nil {
		return true, true
	}
	all = true
	for _, n := range h.localNodes {
		if n == nil || n.have(node) {
			any = true
		} else {
			all = false
		}
	}
	return any, all
}

// missingEndpoints returns why the node does not serve all Services of the address.
func (h heldAddress) missingEndpoints(node string) v1alpha1.Refusal {
	if any, _ := h.servedBy(node); !any {
		return v1alpha1.Refusal{Reason: v1alpha1.NoEndpoints, Message: "does not have a ready endpoint, and externalTrafficPolicy is Local"}
	}
	svc := h.services[slices.IndexFunc(h.localNodes, func(n *localNodes) bool { return n != nil && !n.have(node) })]
	return v1alpha1.Refusal{Reason: v1alpha1.NoEndpoints, Message: fmt.Sprintf(
		"does not have a ready endpoint of Service %s/%s, which shares the address and has externalTrafficPolicy Local", svc.Namespace, svc.Name)}
}

// servedWhileTerminating reports whether the node has no ready endpoint any more, but its
// kube-proxy still sends packets to terminating ones, for all Services (KEP-1669).
func (h heldAddress) servedWhileTerminating(node string) bool {
	any, _ := h.servedBy(node)
	return !any && h.forwardedBy(node)
}

// forwardedBy reports whether the node's kube-proxy forwards packets for all Services of the
// address: under externalTrafficPolicy: Local to a ready endpoint on the node or, if it has
// none, to a terminating one that still serves.
func (h heldAddress) forwardedBy(node string) bool {
	return !slices.ContainsFunc(h.localNodes, func(n *localNodes) bool { return n != nil && !n.have(node) && !n.serving[node] })
}

// localNodes are the nodes with endpoints of a Service. The name "" stands for all nodes.
type localNodes struct{ ready, serving map[string]bool }

// have reports whether the node has an endpoint that its kube-proxy uses under
// externalTrafficPolicy: Local. A terminating endpoint that still serves counts only if no
// ready one is left in the cluster.
func (n *localNodes) have(node string) bool {
	if len(n.ready) == 0 {
		return n.serving[node] || n.serving[""]
	}
	return n.ready[node] || n.ready[""]
}

// endpointNodes returns the nodes with endpoints of any of the Services, sorted; known is
// whether no other node can serve the address.
func (h heldAddress) endpointNodes() (names []string, known bool) {
	for _, n := range h.localNodes {
		if n == nil || n.ready[""] || n.serving[""] {
			return nil, false
		}
		names = slices.AppendSeq(slices.AppendSeq(names, maps.Keys(n.ready)), maps.Keys(n.serving))
	}
	slices.Sort(names)
	return slices.Compact(names), h.localNodes != nil
}

// localEndpointNodes returns the nodes with endpoints of the Service.
func (d *decision) localEndpointNodes(svc *corev1.Service, addr netip.Addr) *localNodes {
	family := addressType(addr)
	n := &localNodes{map[string]bool{}, map[string]bool{}}
	for _, slice := range d.endpoints[types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}] {
		if slice.AddressType != family {
			continue
		}
		for _, endpoint := range slice.Endpoints {
			node := "" // an endpoint without a node counts on every node
			if endpoint.NodeName != nil {
				node = *endpoint.NodeName
			}
			switch ready, serving := endpointState(endpoint); {
			case ready:
				n.ready[node] = true
			case serving:
				n.serving[node] = true
			}
		}
	}
	return n
}

// aggregatableRanges returns the ranges in which the address may be aggregated: none
// under externalTrafficPolicy: Local, where a node without an endpoint would attract
// packets for one address by advertising the aggregate for another one.
func (d *decision) aggregatableRanges(h heldAddress) []netipx.IPRange {
	if h.localNodes != nil {
		return nil
	}
	if p := d.pools.Named(h.pool); p != nil {
		return p.Ranges
	}
	return nil
}

// healthCheckPorts returns the ports on which the node's kube-proxy reports that it
// serves the address: one for each Service under externalTrafficPolicy: Local with a ready
// endpoint there. kube-proxy counts neither terminating endpoints, although it has rules for
// them, nor endpoints without a node. Without such a Service kube-proxy reports only its own health.
func (h heldAddress) healthCheckPorts(node string) (ports []uint16) {
	for i, n := range h.localNodes {
		if n == nil || !n.ready[node] {
			continue
		}
		if port := uint16(h.services[i].Spec.HealthCheckNodePort); port != 0 {
			ports = append(ports, port)
		}
	}
	slices.Sort(ports)
	return ports
}

// dataPathServes reports whether the node's data path serves the address. An address
// that it announces already counts as served, so that a Service that joins does not
// withdraw it.
func (l LocalFacts) dataPathServes(h heldAddress, node string) bool {
	_, advertised := l.Advertised[h.addr]
	switch {
	case l.DataPathReady == nil || advertised || l.Held[h.addr]:
		return true
	case l.Reprogrammed[h.addr]:
		return false
	}
	return l.DataPathReady[h.addr] || l.ProxyReady && len(h.healthCheckPorts(node)) == 0
}

// isLate reports whether this node announces the address, if no other node does, although its
// kube-proxy does not answer. It returns false until the L2Node of this node reports
// ProxyNotReady: only then does this node rank last on all nodes.
func (d *decision) isLate(addr netip.Addr) bool {
	return d.Local.DataPathLate[addr] && (!d.Local.ProxyNotReady || d.ProxyNotReady[d.Node])
}
