package plan

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"go4.org/netipx"
	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-io/fairlead/config"
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
		for _, addr := range Announceable(svc) {
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
