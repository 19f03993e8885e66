package plan

import (
	"iter"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// EndpointFamily is an address family of the endpoints of a Service.
type EndpointFamily struct {
	Service types.NamespacedName
	Type    discoveryv1.AddressType // IPv4 or IPv6
}

// EndpointFamilies yields the families of the Service's announceable addresses, each with
// whether one of its EndpointSlices has an endpoint. A family may be repeated.
func EndpointFamilies(svc *corev1.Service, all []*discoveryv1.EndpointSlice) iter.Seq2[EndpointFamily, bool] {
	return func(yield func(EndpointFamily, bool) bool) {
		for addr := range announceableAddresses(svc) {
			family := familyOf(svc, addr)
			has := slices.ContainsFunc(all, func(s *discoveryv1.EndpointSlice) bool { return s.AddressType == family.Type && HasEndpoint(s) })
			if !yield(family, has) {
				return
			}
		}
	}
}

func familyOf(svc *corev1.Service, addr netip.Addr) EndpointFamily {
	return EndpointFamily{types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}, addressType(addr)}
}

// addressType returns the type of the EndpointSlices with endpoints for the address.
func addressType(addr netip.Addr) discoveryv1.AddressType {
	if addr.Is6() {
		return discoveryv1.AddressTypeIPv6
	}
	return discoveryv1.AddressTypeIPv4
}

// HasEndpoint reports whether kube-proxy sends packets to an endpoint of the slice: to one
// that is ready or, if none of the Service is, to one that is terminating and still serves.
func HasEndpoint(slice *discoveryv1.EndpointSlice) bool {
	return slices.ContainsFunc(slice.Endpoints, func(e discoveryv1.Endpoint) bool {
		ready, serving := endpointState(e)
		return ready || serving
	})
}

// endpointState returns whether the endpoint is ready, and whether it serves although it is
// not ready. A missing condition Ready stands for true.
func endpointState(e discoveryv1.Endpoint) (ready, serving bool) {
	ready = e.Conditions.Ready == nil || *e.Conditions.Ready
	return ready, !ready && e.Conditions.Serving != nil && *e.Conditions.Serving
}

// lacksEndpoints reports whether none of the Services of the address has an endpoint. If all
// of them are under externalTrafficPolicy: Local, localNodes decides.
func (d *decision) lacksEndpoints(h heldAddress) bool {
	cluster := false
	for _, svc := range h.services {
		if !d.Local.WithoutEndpoints[familyOf(svc, h.addr)] {
			return false
		}
		cluster = cluster || svc.Spec.ExternalTrafficPolicy != corev1.ServiceExternalTrafficPolicyLocal
	}
	return cluster
}

// withdrawnWithoutEndpoints is why no node advertises an address.
var withdrawnWithoutEndpoints = v1alpha1.Refusal{
	Reason: v1alpha1.NoEndpoints, Message: "no endpoint is ready or serving, so that no route is advertised",
}

// warningNode returns the node that reports that an announced address has no endpoints: the
// best one on its first segment, otherwise the best one of those that advertise it. Of other
// nodes the controller accepts no warnings.
func (d *decision) warningNode(h heldAddress, segments [][]segmentNode) string {
	if len(segments) > 0 {
		return segments[0][0].name
	}
	advertised := d.addressRoutes(h)
	return d.highestRanked(h.addr, func(i int) bool {
		routes, _ := advertised.advertisedBy(i)
		return len(routes) > 0
	})
}

// endpointWarning returns the warning about an announced address, or zero if the address has
// endpoints. bgp is why the address is not advertised by BGP, zero if it is.
func (h heldAddress) endpointWarning(bgp v1alpha1.Refusal) v1alpha1.Refusal {
	switch {
	case !h.withoutEndpoints:
		return v1alpha1.Refusal{}
	case bgp.Reason == v1alpha1.NoEndpoints:
		return bgp
	}
	return v1alpha1.Refusal{Reason: v1alpha1.NoEndpoints, Message: "no endpoint is ready or serving"}
}
