package e2e

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	lab "github.com/fairlead-io/fairlead/deploy/lab"
)

// assignTo assigns an address to an interface of a machine, whose kernel then answers for it,
// until the test ends or the function is called.
func assignTo(t *testing.T, h *lab.Host, iface, addr string) (remove func()) {
	t.Helper()
	change := func(change func(netlink.Link, *netlink.Addr) error) error {
		return h.Do(func() error {
			link, err := netlink.LinkByName(iface)
			if err != nil {
				return err
			}
			parsed, err := netlink.ParseAddr(addr)
			if err != nil {
				return err
			}
			parsed.Flags |= unix.IFA_F_NODAD
			return change(link, parsed)
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
				t.Errorf("remove %s from %s of %s: %v", addr, iface, h.Name, err)
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
	removeFirst := assignTo(t, cluster.Client, "eth0", "10.13.242.112/32")
	assignTo(t, cluster.Client, "eth0", "10.13.242.113/32")

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

// TestRemovedNode checks that a node is not taken for another host with an address if it is
// removed a moment after the address was moved from it.
func TestRemovedNode(t *testing.T) {
	for i, addr := range failoverAddresses(t) {
		first := observedOwner(t, addr)
		name := cluster.Nodes[first].Name
		label(t, name, `"true"`)
		t.Cleanup(func() { label(t, name, "null") })
		next := owner(t, addr, func(node int) bool { return node != first })
		if err := cluster.Speakers[first].Stop(); err != nil {
			t.Fatal(err)
		}
		if err := cluster.Resource("l2nodes").Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Second) // a conflict is recorded after 2 s
		log := cluster.Speakers[next].ReadLog()
		if strings.Contains(log, "address conflict started\" address="+addr.String()) {
			t.Errorf("%s of node %d is contested:\n%s", failoverServices[i], next+1, log)
		}
		label(t, name, "null")
		startSpeaker(t, first)
		observed(t, next)
	}
}

// TestAddressOnInterface checks that an address of a Service on an interface of a node that does
// not announce it is reported, in the Speaker, the condition and doctor, until it is removed, and
// that the owner goes on announcing it.
func TestAddressOnInterface(t *testing.T) {
	lanPool(t, "on-interface", "10.13.242.120/30", "fd13:242::e00-fd13:242::e0f")
	service(t, "on-interface", from("on-interface"), func(s *corev1.Service) {
		policy := corev1.IPFamilyPolicyRequireDualStack
		s.Spec.IPFamilyPolicy = &policy
	})
	addrs := waitAddresses(t, "on-interface", 2)
	slices.SortFunc(addrs, netip.Addr.Compare)
	onLo, onEth0 := addrs[0].String()+"/32", addrs[1].String()+"/128"
	condition(t, "on-interface", "Announced", "Announced")
	owners := []int{owner(t, addrs[0], anyNode), owner(t, addrs[1], anyNode)}
	other := slices.IndexFunc(cluster.Nodes, func(h *lab.Host) bool {
		return h != cluster.Nodes[owners[0]] && h != cluster.Nodes[owners[1]]
	})
	node := cluster.Nodes[other]

	removeFirst := assignTo(t, node, "lo", onLo)
	one := fmt.Sprintf("the kernel of node %s answers for %s on eth0, because it is configured on lo; remove it: ip addr del %s dev lo",
		node.Name, addrs[0], onLo)
	waitKernelWarning(t, node.Name, one)
	contains(t, condition(t, "on-interface", "Announced", "KernelAnswers"), addrs[0].String()+": "+one,
		addrs[0].String()+" by node "+cluster.Nodes[owners[0]].Name+" on eth0")
	contains(t, doctor(t), "DEGRADED", "Node "+node.Name, "KernelAnswers", one)
	eventually(t, "the owner and the other node answer", func() error {
		macs, err := cluster.Client.Resolve(addrs[0], 300*time.Millisecond)
		if err == nil && len(macs) != 2 {
			err = fmt.Errorf("%v answer", macs)
		}
		return err
	})

	removeSecond := assignTo(t, node, "eth0", onEth0)
	waitKernelWarning(t, node.Name, fmt.Sprintf(
		"the kernel of node %s answers for 2 addresses of Services on eth0, because they are configured on eth0, lo; "+
			"remove them: ip addr del %s dev lo; ip addr del %s dev eth0", node.Name, onLo, onEth0))

	removeFirst()
	removeSecond()
	waitKernelWarning(t, node.Name, "")
	condition(t, "on-interface", "Announced", "Announced")
	if found := doctor(t); strings.Contains(found, "KernelAnswers") {
		t.Errorf("doctor still shows it:\n%s", found)
	}
	for i, addr := range addrs {
		owner(t, addr, func(node int) bool { return node == owners[i] })
	}
}

// waitKernelWarning waits until the Speaker of a node warns with the reason KernelAnswers and this
// message, or until it does not, if that is "".
func waitKernelWarning(t *testing.T, node, message string) {
	t.Helper()
	eventually(t, fmt.Sprintf("the Speaker %s warns %q", node, message), func() error {
		s, err := cluster.Resource("speakers").Get(t.Context(), node, metav1.GetOptions{})
		if err != nil {
			return err
		}
		reported := ""
		warnings, _, _ := unstructured.NestedSlice(s.Object, "status", "warnings")
		for _, w := range warnings {
			if w := w.(map[string]any); w["reason"] == "KernelAnswers" {
				reported += fmt.Sprint(w["message"])
			}
		}
		if reported != message {
			return fmt.Errorf("it warns %q", reported)
		}
		return nil
	})
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
