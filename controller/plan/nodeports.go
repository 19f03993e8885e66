package plan

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/providers"
)

// PortRange is the API server's range of node ports. The zero value is its default
// range.
type PortRange struct {
	Low, High int32
	// Taken are ports that the API server has refused, though no Service shows them.
	Taken map[int32]bool
}

// ParsePortRange parses a range like "30000-32767".
func ParsePortRange(text string) (PortRange, error) {
	from, to, _ := strings.Cut(text, "-")
	low, err1 := strconv.ParseUint(from, 10, 16)
	high, err2 := strconv.ParseUint(to, 10, 16)
	if err1 != nil || err2 != nil || low == 0 || low > high {
		return PortRange{}, fmt.Errorf("invalid port range %q: must be FIRST-LAST, like 30000-32767", text)
	}
	return PortRange{Low: int32(low), High: int32(high)}, nil
}

func (r PortRange) orDefault() PortRange {
	if r.High == 0 {
		r.Low, r.High = 30000, 32767
	}
	return r
}

// NodePort is the node port of one port of a Service.
type NodePort struct {
	Port     int32
	Protocol corev1.Protocol
	NodePort int32
}

// lacksNodePorts reports whether a port of the Service has no node port. The API
// server allocates node ports unless allocateLoadBalancerNodePorts is false.
func lacksNodePorts(svc *corev1.Service) bool {
	return slices.ContainsFunc(svc.Spec.Ports, func(p corev1.ServicePort) bool { return p.NodePort == 0 })
}

// hasNodePortsToRelease reports whether the Service has node ports that the controller
// may have allocated, and that the API server would not allocate again at once.
func hasNodePortsToRelease(svc *corev1.Service) bool {
	allocates := svc.Spec.AllocateLoadBalancerNodePorts
	return svc.Spec.Type == corev1.ServiceTypeLoadBalancer && svc.DeletionTimestamp == nil && allocates != nil && !*allocates &&
		slices.ContainsFunc(svc.Spec.Ports, func(p corev1.ServicePort) bool { return p.NodePort != 0 })
}

// chooseNodePorts chooses node ports for the Services on AWS that lack some. A Service
// for which too few are free gets none.
func (d *decision) chooseNodePorts() map[types.NamespacedName][]NodePort {
	var lacking []*corev1.Service
	for _, svc := range d.services {
		onAWS := svc.choice.Verdict == providers.OnAWS && v1alpha1.HasOwnLoadBalancer(svc.Service)
		if onAWS && svc.DeletionTimestamp == nil && lacksNodePorts(svc.Service) {
			lacking = append(lacking, svc.Service)
		}
	}
	if len(lacking) == 0 {
		return nil
	}
	slices.SortFunc(lacking, func(a, b *corev1.Service) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	free := d.freeNodePorts()
	chosen := make(map[types.NamespacedName][]NodePort, len(lacking))
	for _, svc := range lacking {
		ports, left := takeFreePorts(svc, free)
		if ports != nil {
			chosen[KeyOf(svc)], free = ports, left
		}
	}
	return chosen
}

// takeFreePorts takes the first of the free ports, one for each port number: ports
// that differ in their protocol only share a node port.
func takeFreePorts(svc *corev1.Service, free []int32) (taken []NodePort, left []int32) {
	numbers := map[int32]int32{}
	for _, p := range svc.Spec.Ports {
		if p.NodePort != 0 {
			numbers[p.Port] = p.NodePort
		}
	}
	for _, p := range svc.Spec.Ports {
		if p.NodePort != 0 {
			continue
		}
		if numbers[p.Port] == 0 {
			if len(free) == 0 {
				return nil, nil
			}
			numbers[p.Port], free = free[0], free[1:]
		}
		taken = append(taken, NodePort{p.Port, cmp.Or(p.Protocol, corev1.ProtocolTCP), numbers[p.Port]})
	}
	return taken, free
}

// freeNodePorts are the ports that no Service has, in the order in which they are
// allocated. Like the API server's own allocator it uses the lower band, which users
// choose static ports from, last.
func (d *decision) freeNodePorts() (free []int32) {
	taken := map[int32]bool{}
	for _, svc := range slices.Concat(d.Services, d.Unmanaged) {
		taken[svc.Spec.HealthCheckNodePort] = true
		for _, p := range svc.Spec.Ports {
			taken[p.NodePort] = true
		}
	}
	r := d.NodePorts.orDefault()
	band := r.Low + min(max(16, (r.High-r.Low+1)/32), 128)
	if band > r.High {
		band = r.Low
	}
	for i := range r.High - r.Low + 1 {
		port := band + i
		if port > r.High {
			port -= r.High - r.Low + 1
		}
		if !taken[port] && !r.Taken[port] {
			free = append(free, port)
		}
	}
	return free
}
