package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	lab "github.com/fairlead-io/fairlead/deploy/lab"
)

// TestSelectionFromMetalLBAnnotations checks that the annotations of MetalLB are
// equivalent, and that conflicting requests are refused.
func TestSelectionFromMetalLBAnnotations(t *testing.T) {
	lanPool(t, "moving", "10.13.242.128/29")
	lanPool(t, "staying", "10.13.242.136/31")
	for i, tt := range []struct{ ask, want string }{
		{"metallb.io/address-pool=moving", "10.13.242.128"},
		{"metallb.universe.tf/address-pool=moving", "10.13.242.129"},
		{"metallb.io/loadBalancerIPs=10.13.242.133", "10.13.242.133"},
		{"metallb.universe.tf/loadBalancerIPs=10.13.242.134", "10.13.242.134"},
	} {
		name := fmt.Sprintf("metallb-%d", i)
		service(t, name, annotated(tt.ask))
		addr := announced(t, name)
		if addr.String() != tt.want {
			t.Errorf("%s: got %s, want %s", tt.ask, addr, tt.want)
		}
		reach(t, cluster.Client, url(addr, 8086))
	}
	share := annotated("metallb.universe.tf/allow-shared-ip=key", "metallb.io/address-pool=moving")
	service(t, "metallb-share-1", share, on(80))
	service(t, "metallb-share-2", annotated("metallb.io/allow-shared-ip=key", "metallb.universe.tf/address-pool=moving"), on(8086))
	if one, two := announced(t, "metallb-share-1"), announced(t, "metallb-share-2"); one != two {
		t.Errorf("they have %s and %s, want one address", one, two)
	}

	service(t, "torn", annotated("fairlead.io/address-pool=staying", "metallb.io/address-pool=moving"))
	contains(t, condition(t, "torn", "Provisioned", "ConflictingRequest"), "fairlead.io/address-pool", "metallb.io/address-pool")
	event(t, "torn", "ConflictingRequest")
	checkAddresses(t, "torn")
	update(t, "torn", func(s *corev1.Service) { delete(s.Annotations, "metallb.io/address-pool") })
	addr := announced(t, "torn")
	if addr.String() != "10.13.242.136" {
		t.Errorf("got %s, want one of the pool staying", addr)
	}
	// A Service keeps its address while its requests conflict.
	update(t, "torn", annotated("metallb.io/loadBalancerIPs=10.13.242.130", "fairlead.io/load-balancer-ips=10.13.242.131"))
	condition(t, "torn", "Provisioned", "ConflictingRequest")
	checkAddresses(t, "torn", addr)
	reach(t, cluster.Client, url(addr, 8086))
}

// on sets the only port of a Service.
func on(port int32) func(*corev1.Service) {
	return func(s *corev1.Service) { s.Spec.Ports[0].Port = port }
}

// TestSelection checks that a pool that selects a Service by namespace and labels is
// preferred to a pool for all, that its addresses are not assigned to other Services,
// and that an assigned address is kept when labels change.
func TestSelection(t *testing.T) {
	t.Cleanup(func() {
		ctx := context.Background()
		for _, name := range []string{"picked", "unpicked"} {
			_, _ = cluster.Kubectl(ctx, "", "delete", "-n", "tenant", "--ignore-not-found", "--timeout="+lab.WaitTimeout.String(), "svc",
				name)
		}
		_, _ = cluster.Kubectl(ctx, "", "delete", "--ignore-not-found", "l2advertisement", "blue")
		deletePool(t, "blue")
	})
	team := func(name string) {
		t.Helper()
		apply(t, fmt.Sprintf("apiVersion: v1\nkind: Namespace\nmetadata: {name: tenant, labels: {team: %s}}\n", name))
	}
	team("blue")
	apply(t, `apiVersion: fairlead.io/v1alpha1
kind: IPAddressPool
metadata: {name: blue}
spec:
  addresses: [10.13.242.140/30]
  serviceAllocation:
    namespaceSelectors: [{matchLabels: {team: blue}}]
    serviceSelectors: [{matchLabels: {tier: web}}, {matchLabels: {tier: api}}]
---
apiVersion: fairlead.io/v1alpha1
kind: L2Advertisement
metadata: {name: blue}
spec: {ipAddressPools: [blue]}
---
apiVersion: v1
kind: Service
metadata: {name: picked, namespace: tenant, labels: {tier: web}}
spec: {type: LoadBalancer, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: unpicked, namespace: tenant}
spec: {type: LoadBalancer, ports: [{port: 80}]}
`)
	service(t, "namesake", func(s *corev1.Service) { s.Labels = map[string]string{"tier": "web"} })
	blue, lan := netip.MustParsePrefix("10.13.242.140/30"), netip.MustParsePrefix("10.13.242.192/27")
	var addr netip.Addr
	for _, tt := range []struct {
		namespace, name string
		want            netip.Prefix
	}{{"tenant", "unpicked", lan}, {"default", "namesake", lan}, {"tenant", "picked", blue}} {
		eventually(t, tt.name+" is announced", func() (err error) {
			addr, err = cluster.AnnouncedAddress(t.Context(), tt.namespace, tt.name)
			return err
		})
		if !tt.want.Contains(addr) {
			t.Errorf("%s was assigned %s, want an address of %s", tt.name, addr, tt.want)
		}
	}

	// The namespace no longer matches: the address is kept, and no other is assigned.
	team("red")
	service(t, "wishful", annotated("fairlead.io/load-balancer-ips=10.13.242.142"))
	message := condition(t, "wishful", "Provisioned", "AddressNotInPool")
	contains(t, message, "10.13.242.142", "blue")
	if got, err := cluster.AnnouncedAddress(t.Context(), "tenant", "picked"); err != nil || got != addr {
		t.Errorf("picked has %s, %v; want %s", got, err, addr)
	}
	// It matches again: a Service that requests the pool is assigned an address.
	if _, err := cluster.Kubectl(t.Context(), "", "label", "namespace", "default", "team=blue"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = cluster.Kubectl(context.Background(), "", "label", "namespace", "default", "team-") })
	update(t, "wishful", func(s *corev1.Service) { s.Labels = map[string]string{"tier": "api"} })
	if got := announced(t, "wishful"); got.String() != "10.13.242.142" {
		t.Errorf("got %s", got)
	}
}

// TestGuards checks that addresses of nodes, pods and ClusterIPs in a pool are not
// assigned.
func TestGuards(t *testing.T) {
	node, err := cluster.API.CoreV1().Nodes().Get(t.Context(), cluster.Nodes[0].Name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	nodeAddr, pods := cluster.Nodes[0].Addr.String(), node.Spec.PodCIDR
	cidrs, err := cluster.API.NetworkingV1().ServiceCIDRs().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var services string
	for _, c := range cidrs.Items[0].Spec.CIDRs {
		if strings.Contains(c, ".") {
			services = c
		}
	}
	podAddr := netip.MustParsePrefix(pods).Addr().Next().Next().String()
	serviceAddr := netip.MustParsePrefix(services).Addr().Next().Next().Next().String()
	for _, tt := range []struct {
		name, entry, addr, reason string
		wanted                    []string
	}{
		{"guard-node", nodeAddr, nodeAddr, "NodeAddress", []string{nodeAddr, node.Name}},
		{"guard-pods", pods, podAddr, "ClusterAddress", []string{pods}},
		{"guard-services", services, serviceAddr, "ClusterAddress", []string{services}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			lanPool(t, tt.name, tt.entry)
			contains(t, ready(t, "ipaddresspools", tt.name, tt.reason), tt.wanted...)
			waitPoolField(t, tt.name, ".status.ipv4.capacity", "0")
			service(t, tt.name, from(tt.name))
			condition(t, tt.name, "Provisioned", "PoolExhausted")
			service(t, tt.name+"-by-name", annotated("fairlead.io/load-balancer-ips="+tt.addr))
			contains(t, condition(t, tt.name+"-by-name", "Provisioned", "AddressReserved"), append(tt.wanted, tt.addr)...)
			event(t, tt.name+"-by-name", "AddressReserved")
			checkAddresses(t, tt.name)
			checkAddresses(t, tt.name+"-by-name")
			// The remaining addresses of the pool are assigned.
			apply(t, pool(tt.name, tt.entry, "10.13.242.144"))
			if got := announced(t, tt.name); got.String() != "10.13.242.144" {
				t.Errorf("got %s", got)
			}
			waitPoolField(t, tt.name, ".status.ipv4.usage", "1/1")
		})
	}
}
