package speaker

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"go4.org/netipx"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// holding is an address with the Services that hold it: one, or several that
// share it. It is announced once, whoever holds it.
type holding struct {
	addr     netip.Addr
	services []*corev1.Service // oldest first
	pool     string            // recorded
	// local tells for each of services the nodes to which a packet may be sent.
	// Where it is nil, these are all nodes.
	local []func(node string) bool
}

// holdings are the addresses of all Services.
func holdings(services []*corev1.Service) []holding {
	all := make([]holding, 0, len(services))
	places := make(map[netip.Addr]int, len(services))
	for i, svc := range services {
		for _, addr := range announceable(svc) {
			place, shared := places[addr]
			if !shared {
				places[addr] = len(all)
				all = append(all, holding{addr: addr, services: services[i : i+1 : i+1]})
			} else if h := &all[place]; !slices.Contains(h.services, svc) {
				h.services = append(h.services, svc)
			}
		}
	}
	for i := range all {
		if len(all[i].services) > 1 {
			slices.SortFunc(all[i].services, byAge)
		}
	}
	return all
}

// byAge orders Services, oldest first.
func byAge(a, b *corev1.Service) int {
	return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
}

// look finds out what an address's announcement depends on.
func (d *decision) look(h holding) holding {
	h.pool = d.recorded(h)
	for i, svc := range h.services {
		if svc.Spec.ExternalTrafficPolicy != corev1.ServiceExternalTrafficPolicyLocal {
			continue
		}
		if h.local == nil {
			h.local = make([]func(string) bool, len(h.services))
		}
		h.local[i] = d.localNodes(svc, h.addr)
	}
	return h
}

// recorded is the pool that the address came from. Services that share it may
// have different records: it may have come into another pool since, and some may
// have asked for that. As long as one has not, what was announced stays so, if
// anything announces it: who joins shall not end that.
func (d *decision) recorded(h holding) string {
	var pools []string
	for _, svc := range h.services {
		if name := config.RecordedPool(svc, h.addr); name != "" && !slices.Contains(pools, name) {
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
		return cmp.Or(d.preference(a, h.addr)-d.preference(b, h.addr), slices.Index(pools, a)-slices.Index(pools, b))
	})
}

// preference orders the pools under which an address is recorded: those that are
// announced come first, and of them those that do not contain it any more.
func (d *decision) preference(pool string, addr netip.Addr) (n int) {
	if d.candidates(pool) == nil && d.partsOf(scope{pool, addr.Is6()}) == nil {
		n += 2
	}
	if slices.ContainsFunc(d.known[pool], func(r netipx.IPRange) bool { return r.Contains(addr) }) {
		n++
	}
	return n
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
