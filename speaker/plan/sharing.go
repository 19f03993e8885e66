package plan

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// heldAddress is an address with the Services that hold it: one, or several that
// share it. It is announced once for all of them.
type heldAddress struct {
	addr     netip.Addr
	recorded bool              // by each of services
	services []*corev1.Service // oldest first
	pool     string            // that applies to the address
	// localNodes has for each of services the nodes that packets may be sent to. Nil
	// stands for all nodes, and a nil slice for nil elements.
	localNodes []*localNodes
	// withoutEndpoints is whether no packet to the address reaches an endpoint. It is false if
	// all of services are under externalTrafficPolicy: Local.
	withoutEndpoints bool
}

// heldAddresses returns the addresses of all Services. If a Service has a record of an
// address of its own, those without one do not count: only managed fields support
// them, which must not influence the announcement of another Service's address.
func heldAddresses(services []*corev1.Service) []heldAddress {
	all := make([]heldAddress, 0, len(services))
	indexes := make(map[netip.Addr]int, len(services))
	replaced := false
	for i, svc := range services {
		for addr, recorded := range announceableAddresses(svc) {
			index, known := indexes[addr]
			if !known {
				indexes[addr] = len(all)
				all = append(all, heldAddress{addr: addr, recorded: recorded, services: services[i : i+1 : i+1]})
				continue
			}
			switch h := &all[index]; {
			case recorded && !h.recorded:
				// The order must not depend on the others, either.
				h.services, replaced = nil, true
				indexes[addr] = len(all)
				all = append(all, heldAddress{addr: addr, recorded: true, services: services[i : i+1 : i+1]})
			case recorded == h.recorded && !slices.Contains(h.services, svc):
				h.services = append(h.services, svc)
			}
		}
	}
	if replaced {
		all = slices.DeleteFunc(all, func(h heldAddress) bool { return len(h.services) == 0 })
	}
	for i := range all {
		if len(all[i].services) > 1 {
			slices.SortFunc(all[i].services, compareAge)
		}
	}
	return all
}

// compareAge orders Services, oldest first.
func compareAge(a, b *corev1.Service) int {
	return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time),
		strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
}

// resolveAddress returns h with its pool, withoutEndpoints and, under
// externalTrafficPolicy: Local, its localNodes.
func (d *decision) resolveAddress(h heldAddress) heldAddress {
	h.pool, h.withoutEndpoints = d.announcedPool(h), d.lacksEndpoints(h)
	for i, svc := range h.services {
		if svc.Spec.ExternalTrafficPolicy != corev1.ServiceExternalTrafficPolicyLocal {
			continue
		}
		if h.localNodes == nil {
			h.localNodes = make([]*localNodes, len(h.services))
		}
		h.localNodes[i] = d.localEndpointNodes(svc, h.addr)
	}
	return h
}

// announcedPool returns the pool that applies to the address. It may be another one for
// each of the Services that share the address, because pools have been changed and
// select only some of the Services. As long as one Service has the old pool, the
// address is announced as before, if that pool is still announced: a Service that
// joins must not end an announcement.
func (d *decision) announcedPool(h heldAddress) string {
	if len(h.services) == 1 {
		return d.currentPool(h.services[0], h.addr)
	}
	var pools []string
	for _, svc := range h.services {
		if name := d.currentPool(svc, h.addr); name != "" && !slices.Contains(pools, name) {
			pools = append(pools, name)
		}
	}
	switch len(pools) {
	case 0:
		return ""
	case 1:
		return pools[0]
	}
	return slices.MinFunc(pools, func(a, b string) int { // the oldest Service's, of equals
		return cmp.Or(d.poolPreference(a, h.addr)-d.poolPreference(b, h.addr), slices.Index(pools, a)-slices.Index(pools, b))
	})
}

// poolPreference orders the pools that apply to an address: announced pools first, and of these the ones that no longer contain it.
func (d *decision) poolPreference(pool string, addr netip.Addr) (n int) {
	if d.poolCandidates(pool) == nil && d.routesOfScope(routeScope{pool: pool, is6: addr.Is6()}) == nil {
		n += 2
	}
	if p := d.pools.Named(pool); p != nil && p.Contains(addr) {
		n++
	}
	return n
}
