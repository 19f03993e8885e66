package plan

import (
	"fmt"
	"net/netip"
	"slices"

	"go4.org/netipx"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// DependsOnEndpoints reports whether the nodes that may announce the Service's
// addresses depend on where its endpoints are.
func DependsOnEndpoints(svc *corev1.Service) bool {
	return svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal && len(Announceable(svc)) > 0
}

// serves reports whether a packet to the address may be sent to the node: for
// any of its Services, and for all of them. A node may announce the address if it
// is for all. If that is so on no node that could announce it, the Services' lists
// of endpoints are of different age: then nobody shall go dark meanwhile, and it is
// enough to serve any.
func (h holding) serves(node string) (any, all bool) {
	if h.local == nil {
		return true, true
	}
	all = true
	for _, has := range h.local {
		if has == nil || has(node) {
			any = true
		} else {
			all = false
		}
	}
	return any, all
}

// lacks says why the node does not serve all of the address's Services.
func (h holding) lacks(node string) v1alpha1.Refusal {
	if any, _ := h.serves(node); !any {
		return v1alpha1.Refusal{Reason: v1alpha1.NoEndpoints, Message: "has no ready endpoint, and externalTrafficPolicy is Local"}
	}
	svc := h.services[slices.IndexFunc(h.local, func(has func(string) bool) bool { return has != nil && !has(node) })]
	return v1alpha1.Refusal{Reason: v1alpha1.NoEndpoints, Message: fmt.Sprintf("has no ready endpoint of Service %s/%s, which shares the address, and whose externalTrafficPolicy is Local", svc.Namespace, svc.Name)}
}

// localNodes tells the nodes with an endpoint that kube-proxy there will use under
// externalTrafficPolicy Local. A terminating endpoint that still serves counts
// only if no ready one is left in the cluster.
func (d *decision) localNodes(svc *corev1.Service, addr netip.Addr) func(node string) bool {
	family := discoveryv1.AddressTypeIPv4
	if addr.Is6() {
		family = discoveryv1.AddressTypeIPv6
	}
	ready, serving := map[string]bool{}, map[string]bool{}
	for _, slice := range d.endpoints[types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}] {
		if slice.AddressType != family {
			continue
		}
		for _, e := range slice.Endpoints {
			node := "" // everywhere
			if e.NodeName != nil {
				node = *e.NodeName
			}
			if e.Conditions.Ready == nil || *e.Conditions.Ready {
				ready[node] = true
			} else if e.Conditions.Serving != nil && *e.Conditions.Serving {
				serving[node] = true
			}
		}
	}
	if len(ready) == 0 {
		ready = serving
	}
	return func(node string) bool { return ready[node] || ready[""] }
}

// within are the ranges that may be aggregated: none under externalTrafficPolicy
// Local, where a node without an endpoint would attract packets for one address
// by announcing the aggregate for another one.
func (d *decision) within(h holding) []netipx.IPRange {
	if h.local != nil {
		return nil
	}
	return d.known[h.pool]
}

// checks are the ports on which the node's kube-proxy says that it serves the
// address: of each of its Services under externalTrafficPolicy Local with an
// endpoint there. If there is none, kube-proxy says only that it is there itself.
func (h holding) checks(node string) (ports []uint16) {
	for i, has := range h.local {
		if has == nil || !has(node) {
			continue
		}
		if port := uint16(h.services[i].Spec.HealthCheckNodePort); port != 0 {
			ports = append(ports, port)
		}
	}
	slices.Sort(ports)
	return ports
}

// opens reports whether the node's data path serves the address. What is announced
// goes on: a Service that joins does not end it.
func (l Local) opens(h holding, node string) bool {
	if l.Open == nil || l.Open[h.addr] || l.Proxy && len(h.checks(node)) == 0 {
		return true
	}
	_, already := l.Routed[h.addr]
	return already
}
