package e2e

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
)

// assignToClient assigns an address to the eth0 of the machine on the LAN that is not a
// node, whose kernel then answers for it, until the test ends or the function is called.
func assignToClient(t *testing.T, addr string) (remove func()) {
	t.Helper()
	change := func(change func(netlink.Link, *netlink.Addr) error) error {
		return cluster.Client.Do(func() error {
			eth0, err := netlink.LinkByName("eth0")
			if err != nil {
				return err
			}
			parsed, err := netlink.ParseAddr(addr)
			if err != nil {
				return err
			}
			return change(eth0, parsed)
		})
	}
	if err := change(netlink.AddrAdd); err != nil {
		t.Fatal(err)
	}
	removed := false
	remove = func() {
		if !removed {
			removed = true
			if err := change(netlink.AddrDel); err != nil {
				t.Errorf("remove %s from the client: %v", addr, err)
			}
		}
	}
	t.Cleanup(remove)
	return remove
}

// TestAddressConflict checks that an address that a machine on the LAN has is announced
// when the machine has removed it, and not before, or if the Service has the annotation.
func TestAddressConflict(t *testing.T) {
	lanPool(t, "contested", "10.13.242.112/30")
	removeFirst := assignToClient(t, "10.13.242.112/32")
	assignToClient(t, "10.13.242.113/32")

	service(t, "contested", annotated("fairlead.io/load-balancer-ips=10.13.242.112"))
	contains(t, condition(t, "contested", "Announced", "AddressConflict"), "10.13.242.112: another host has the address",
		cluster.Client.MAC(), " seen on eth0 of node node-")
	event(t, "contested", "AddressConflict")
	out, err := cluster.Fairlead(t.Context(), "doctor")
	if err == nil {
		t.Error("fairlead doctor reports no problem")
	}
	contains(t, out, "BROKEN", "AddressConflict", cluster.Client.MAC())

	service(t, "override", annotated("fairlead.io/load-balancer-ips=10.13.242.113", "fairlead.io/announce-despite-conflict=true"))
	if addr := announced(t, "override"); addr != netip.MustParseAddr("10.13.242.113") {
		t.Errorf("announced with %s", addr)
	}
	event(t, "override", "AddressConflict")

	contains(t, fmt.Sprint(get(t, "contested").Status.Conditions), "AddressConflict") // still
	removeFirst()
	addr := announced(t, "contested") // within the first recheck interval of 10 s
	reach(t, cluster.Client, url(addr, 8086))
	owner(t, addr, anyNode)
}

// TestDualStackLAN checks that both addresses of a dual-stack Service are announced on the
// LAN, and reached by a machine there.
func TestDualStackLAN(t *testing.T) {
	lanPool(t, "dual-lan", "10.13.242.116/30", "fd13:242::f00-fd13:242::f0f")
	service(t, "dual-lan", from("dual-lan"), func(s *corev1.Service) {
		policy := corev1.IPFamilyPolicyRequireDualStack
		s.Spec.IPFamilyPolicy = &policy
	})
	addrs := waitAddresses(t, "dual-lan", 2)
	if addrs[0].Is4() == addrs[1].Is4() {
		t.Fatalf("announced with %v, want one of each family", addrs)
	}
	for _, addr := range addrs {
		reach(t, cluster.Client, url(addr, 8086))
		contains(t, condition(t, "dual-lan", "Announced", "Announced"), addr.String()+" by node node-")
	}
}
