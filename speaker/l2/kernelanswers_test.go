package l2

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/mdlayher/ndp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestKernelAnswers checks that the kernel of a node is reported as answering for the
// addresses of Services if kube-proxy's interface exists and neither sysctl forbids it.
func TestKernelAnswers(t *testing.T) {
	c := newVethPair(t, arpFamily{})
	set := func(name, value string) { setARPIgnore(t, name, value) }
	t.Cleanup(func() { set("all", "0") })
	expect := func(want bool) {
		t.Helper()
		all, err := Interfaces()
		i := slices.IndexFunc(all, func(i Interface) bool { return i.Name == c.speaker.Name })
		if err != nil || i < 0 {
			t.Fatalf("interfaces %v: %v", all, err)
		}
		if all[i].KernelAnswers != want || all[i].MAC != c.speaker.HardwareAddr.String() {
			t.Errorf("got %+v, want KernelAnswers %t", all[i], want)
		}
	}
	set("all", "0")
	set(c.speaker.Name, "0")
	expect(false)
	ipvs := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: ipvsInterface}, PeerName: "peer0"} // of any type
	if err := netlink.LinkAdd(ipvs); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = netlink.LinkDel(ipvs) })
	expect(true)
	set("all", "1")
	expect(false)
	set("all", "0")
	set(c.speaker.Name, "2")
	expect(false)
	set(c.speaker.Name, "3") // the addresses are not of scope host
	expect(true)
}

func setARPIgnore(t *testing.T, iface, value string) {
	t.Helper()
	if err := os.WriteFile("/proc/sys/net/ipv4/conf/"+iface+"/arp_ignore", []byte(value), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestAnsweredByKernel checks that an address of an interface is reported as answered on
// another one if and only if the kernel answers a question for it there.
func TestAnsweredByKernel(t *testing.T) {
	testFamilies(t, func(t *testing.T, f familyTest) {
		w := newWire(t, f)
		w.set("vip0", false) // the Announcer answers the last question
		w.add(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "down0"}})
		t.Cleanup(func() { setARPIgnore(t, "all", "0") })
		modes := []string{"0", "1", "2", "3", "4", "8", "9"}
		scopes := []netlink.Scope{netlink.SCOPE_UNIVERSE, netlink.SCOPE_LINK, netlink.SCOPE_HOST}
		if f.family != (arpFamily{}) {
			modes, scopes = []string{"0", "1"}, scopes[:1]
		}
		count := map[bool]int{}
		for _, iface := range []string{"lo", "vip0", "down0"} {
			for _, scope := range scopes {
				addr := &netlink.Addr{
					IPNet: &net.IPNet{IP: f.other.AsSlice(), Mask: net.CIDRMask(f.other.BitLen(), f.other.BitLen())},
					Scope: int(scope), Flags: unix.IFA_F_NODAD,
				}
				w.must(netlink.AddrAdd(w.byName(iface), addr))
				if f.other.Is6() && iface == "vip0" { // the kernel adds it completely a moment later
					group, err := ndp.SolicitedNodeMulticast(f.other)
					w.must(err)
					eventually(t, "the kernel has joined the group of the address", func() bool { return joinedGroups(t, iface)[group] })
				}
				for _, mode := range modes {
					setARPIgnore(t, "all", mode)
					question := f.question(clientMAC, f.client, f.other, nil)
					answers := slices.ContainsFunc(f.answersTo(t, w, question, f.vip), func(text string) bool {
						return strings.Contains(text, f.other.String()+" is at "+wireMAC.String())
					})
					reported := slices.ContainsFunc(answeredOn(t, "vip0"), func(a LocalAddress) bool {
						return a.Addr() == f.other && a.Interface == iface && a.IsSingleIP()
					})
					if count[answers]++; reported != answers {
						t.Errorf("on %s with scope %s and arp_ignore %s: the kernel answers %t, reported %t", iface, scope, mode, answers, reported)
					}
				}
				w.must(netlink.AddrDel(w.byName(iface), addr))
			}
		}
		if count[true] == 0 || count[false] == 0 {
			t.Errorf("answered and not: %v", count)
		}
	})
}

// answeredOn returns the addresses for which the kernel answers on an interface.
func answeredOn(t *testing.T, iface string) []LocalAddress {
	t.Helper()
	all, err := Interfaces()
	i := slices.IndexFunc(all, func(i Interface) bool { return i.Name == iface })
	if err != nil || i < 0 {
		t.Fatalf("interfaces %v: %v", all, err)
	}
	return all[i].Answered
}

// TestAnsweredExceptions checks that addresses are not reported as answered that kube-proxy in
// IPVS mode assigns, that another host has according to duplicate address detection, or that
// are loopback or link-local addresses.
func TestAnsweredExceptions(t *testing.T) {
	f := familyTests[1]
	w := newWire(t, f)
	w.set("vip0", false)
	w.add(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: ipvsInterface}})
	addKernelAddr(t, ipvsInterface, netip.MustParsePrefix("192.0.2.10/32"), 0)
	addKernelAddr(t, "vip0", netip.MustParsePrefix("169.254.7.7/16"), 0)
	// The Announcer answers for the address on lan0, so that it is a duplicate.
	addKernelAddr(t, "lan0", netip.PrefixFrom(f.vip, 128), 0)
	eventually(t, "duplicate address detection has failed", func() bool {
		all, err := netlink.AddrList(w.byName("lan0"), netlink.FAMILY_V6)
		w.must(err)
		return slices.ContainsFunc(all, func(a netlink.Addr) bool { return a.Flags&unix.IFA_F_DADFAILED != 0 })
	})
	addKernelAddr(t, "lan0", netip.MustParsePrefix("198.51.100.1/24"), 0)
	for iface, want := range map[string]string{
		"vip0": "[192.0.2.1/24 on vip0 198.51.100.1/24 on lan0 2001:db8::1/64 on vip0]",
		"lan0": "[192.0.2.1/24 on vip0 198.51.100.1/24 on lan0]",
	} {
		var got []string
		for _, a := range answeredOn(t, iface) {
			got = append(got, a.Prefix.String()+" on "+a.Interface)
		}
		if fmt.Sprint(got) != want {
			t.Errorf("on %s: got %v, want %s", iface, got, want)
		}
	}
}

// TestKernelAnswersInVRF checks the decision for interfaces of VRFs, which not every kernel
// has: the routing table of a VRF has the addresses of its ports and of the VRF device.
func TestKernelAnswersInVRF(t *testing.T) {
	links := []netlink.Link{
		&netlink.Device{LinkAttrs: netlink.LinkAttrs{Name: "eth0", Index: 2}},
		&netlink.Device{LinkAttrs: netlink.LinkAttrs{Name: "eth1", Index: 3, MasterIndex: 9}},
		&netlink.Vrf{LinkAttrs: netlink.LinkAttrs{Name: "blue", Index: 9}},
	}
	addr := func(index int, text string) netlink.Addr {
		parsed, err := netlink.ParseAddr(text)
		if err != nil {
			t.Fatal(err)
		}
		parsed.LinkIndex = index
		return *parsed
	}
	local := localAddresses(links, []netlink.Addr{
		addr(2, "192.0.2.1/24"), addr(3, "192.0.2.3/32"), addr(9, "192.0.2.9/32"), addr(3, "2001:db8::3/64"),
	})
	for _, row := range []struct{ iface, vrf, want string }{
		{"eth0", "", "[192.0.2.1/24]"},
		{"eth1", "blue", "[192.0.2.3/32 192.0.2.9/32 2001:db8::3/64]"},
	} {
		var got []netip.Prefix
		for _, a := range local {
			if kernelAnswers(Interface{Name: row.iface, VRF: row.vrf}, 0, a) {
				got = append(got, a.Prefix)
			}
		}
		if fmt.Sprint(got) != row.want {
			t.Errorf("on %s: got %v, want %s", row.iface, got, row.want)
		}
	}
}

// TestKernelAnswersByMode checks the decision for an IPv4 address of the interface itself,
// within its subnet and outside, and of another interface.
func TestKernelAnswersByMode(t *testing.T) {
	iface := Interface{Name: "eth0", Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24"), netip.MustParsePrefix("198.51.100.7/32")}}
	within := LocalAddress{Prefix: netip.MustParsePrefix("192.0.2.10/32"), Interface: "eth0"}
	outside := LocalAddress{Prefix: netip.MustParsePrefix("198.51.100.7/32"), Interface: "eth0"}
	other := LocalAddress{Prefix: within.Prefix, Interface: "lo"}
	host := LocalAddress{Prefix: within.Prefix, Interface: "lo", isHostScope: true}
	for mode, want := range map[int][4]bool{
		0: {true, true, true, true},
		1: {true, true, false, false},
		2: {true, false, false, false},
		3: {true, true, true, false},
		5: {true, true, true, true},
		8: {},
		9: {true, true, true, true},
	} {
		var got [4]bool
		for i, a := range []LocalAddress{within, outside, other, host} {
			got[i] = kernelAnswers(iface, mode, a)
		}
		if got != want {
			t.Errorf("arp_ignore %d: got %v, want %v", mode, got, want)
		}
	}
}
