package plan

import (
	"fmt"
	"iter"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// AnnounceableAddresses returns the addresses of a Service that the speakers announce:
// those in the status that the Service's own record has, and all of them as long as
// the controller is the only manager of the status. The latter keeps announcements
// while a tool that replaced the Service has dropped the record, until the controller
// has restored it. The annotation and the managed fields can be forged, but only for
// an address that the status has, and managed fields not for an address of a Service
// with a record: see heldAddresses.
func AnnounceableAddresses(svc *corev1.Service) (addrs []netip.Addr) {
	for addr := range announceableAddresses(svc) {
		addrs = append(addrs, addr)
	}
	return addrs
}

// announceableAddresses yields the AnnounceableAddresses, each with whether the
// Service's own record has it. Records and managed fields of a Service that another
// implementation serves, or that is being deleted, do not count.
func announceableAddresses(svc *corev1.Service) iter.Seq2[netip.Addr, bool] {
	return func(yield func(netip.Addr, bool) bool) {
		foreign := svc.Spec.LoadBalancerClass != nil && *svc.Spec.LoadBalancerClass != v1alpha1.ClassBareMetal
		if svc.Spec.Type != corev1.ServiceTypeLoadBalancer || foreign || svc.DeletionTimestamp != nil {
			return
		}
		for _, in := range svc.Status.LoadBalancer.Ingress {
			addr, err := config.ParseAddr(in.IP)
			if err != nil {
				continue
			}
			if recorded := config.Recorded(svc, addr); (recorded || v1alpha1.OwnsIngress(svc)) && !yield(addr, recorded) {
				return
			}
		}
	}
}

// currentPool returns the pool that applies to the Service's address, "" without a
// record if no pool contains the address.
func (d *decision) currentPool(svc *corev1.Service, addr netip.Addr) string {
	return d.pools.Current(addr, config.RecordedPool(svc, addr), func(p *config.Pool) bool { return d.selectsService(p, svc) }, d.Config.Advertised)
}

// selectsService reports whether the pool may serve the Service. A namespace that is
// not known matches no namespaceSelectors.
func (d *decision) selectsService(p *config.Pool, svc *corev1.Service) bool {
	if d.namespaceLabels == nil {
		d.namespaceLabels = make(map[string]labels.Set, len(d.Namespaces))
		for _, n := range d.Namespaces {
			d.namespaceLabels[n.Name] = n.Labels
		}
	}
	selection := p.Selection
	has, known := d.namespaceLabels[svc.Namespace]
	if !known {
		selection.NamespaceSelectors = nil
	}
	return selection.SelectsNamespace(svc.Namespace, has) && selection.SelectsService(svc.Labels)
}

// addNodeAddresses adds the node's own addresses. If several nodes have an address,
// the first name is kept, so that all speakers report the same one.
func (d *decision) addNodeAddresses(n *corev1.Node) {
	addrs, _ := config.NodeAddresses(n)
	for _, a := range addrs {
		if other, taken := d.nodesByAddress[a]; !taken || n.Name < other {
			d.nodesByAddress[a] = n.Name
		}
	}
}

// refuseNodeAddress returns the refusal of an address that is a node's own. It is
// never announced: the other nodes and the routers would send the node's traffic to
// the node that announces it.
func (d *decision) refuseNodeAddress(addr netip.Addr) v1alpha1.Refusal {
	node, taken := d.nodesByAddress[addr]
	if !taken {
		return v1alpha1.Refusal{}
	}
	return v1alpha1.Refusal{Reason: v1alpha1.NodeAddress, Message: fmt.Sprintf("%s is an address of Node %s", addr, node)}
}
