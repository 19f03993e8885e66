package l2

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestInterfacesInterrupted checks that Interfaces returns no error if the kernel's table
// changes while it is read. The kernel interrupts about as many reads by Interfaces as
// others, which are counted.
func TestInterfacesInterrupted(t *testing.T) {
	addPair := func(name string) error {
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: name + "p"})
	}
	deletePair := func(name string) {
		if err := netlink.LinkDel(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}}); err != nil {
			t.Error(err)
		}
	}
	// A dump of many interfaces takes several messages, between which the table may change.
	for i := range 100 {
		name := fmt.Sprintf("old%d", i)
		if err := addPair(name); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { deletePair(name) })
	}
	interrupted := 0
	for deadline, i := time.Now().Add(testTimeout), 0; interrupted < 10; i++ {
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d dumps were interrupted within %s", interrupted, i, testTimeout)
		}
		during := func(read func() error) error {
			name, added := fmt.Sprintf("new%d", i), make(chan error, 1)
			go func() { added <- addPair(name) }()
			err := read()
			if err := <-added; err != nil {
				t.Fatal(err)
			}
			deletePair(name)
			return err
		}
		if err := during(func() error { _, err := Interfaces(); return err }); err != nil {
			t.Fatal(err)
		}
		if err := during(func() error { _, err := netlink.LinkList(); return err }); errors.Is(err, netlink.ErrDumpInterrupted) {
			interrupted++
		}
	}
}

// TestInterfaces checks which interfaces of the kernel are usable, and their subnets.
func TestInterfaces(t *testing.T) {
	w := newWire(t, familyTests[0])
	for _, l := range []netlink.Link{
		&netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: "vxlan0"}, VxlanId: 7, Port: 4789},
		&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}},
		&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "member0"}, PeerName: "peer0"},
		&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "pod0"}, PeerName: "pod0p"}, // as of a CNI plugin
		&netlink.Macvlan{LinkAttrs: netlink.LinkAttrs{Name: "mv1", ParentIndex: w.speaker.Index}, Mode: netlink.MACVLAN_MODE_BRIDGE},
		&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "down0"}, PeerName: "down0p"},
		&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "nocarrier0"}, PeerName: "nocarrier0p"},
		&netlink.Macvlan{LinkAttrs: netlink.LinkAttrs{Name: "mv0", ParentIndex: w.speaker.Index}, Mode: netlink.MACVLAN_MODE_BRIDGE},
	} {
		w.add(l)
	}
	w.must(netlink.LinkSetMaster(w.byName("member0"), w.byName("br0")))
	for _, name := range []string{"peer0", "member0", "br0", "pod0", "pod0p", "mv0", "mv1", "lo"} {
		w.must(netlink.LinkSetUp(w.byName(name)))
	}
	w.must(netlink.LinkSetUp(w.byName("nocarrier0")))
	w.must(netlink.LinkSetUp(w.byName("vxlan0")))
	for iface, addr := range map[string]string{
		"vxlan0": "10.244.0.0/32", "br0": "198.51.100.1/24", "pod0": "10.244.1.1/32", "pod0p": "169.254.1.1/16", "down0": "203.0.113.1/24",
		"mv1": "203.0.113.9/32",
	} {
		addKernelAddr(t, iface, netip.MustParsePrefix(addr), 0)
	}
	addKernelAddr(t, "pod0", netip.MustParsePrefix("2001:db8:1::1/128"), 0)
	// Of the veth pairs, only the interface with a subnet is usable.
	want := map[string]string{
		"vip0": "[192.0.2.1/24 2001:db8::1/64]", "br0": "[198.51.100.1/24]", "mv0": "[]", "mv1": "[203.0.113.9/32]",
	}
	got := map[string]string{}
	eventually(t, "all interfaces that can be are up", func() bool {
		interfaces, err := Interfaces()
		w.must(err)
		got = map[string]string{}
		for _, i := range interfaces {
			got[i.Name] = fmt.Sprint(i.Prefixes)
		}
		return len(got) >= len(want)
	})
	if !maps.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

// TestPrefixesOf checks that temporary IPv6 addresses are left out, unless the interface has no
// other one in the subnet, and those of other interfaces.
func TestPrefixesOf(t *testing.T) {
	of := func(index int, cidr string, flags int) netlink.Addr {
		ip, subnet, err := net.ParseCIDR(cidr)
		if err != nil {
			t.Fatal(err)
		}
		return netlink.Addr{IPNet: &net.IPNet{IP: ip, Mask: subnet.Mask}, LinkIndex: index, Flags: flags}
	}
	got := prefixesOf(2, []netlink.Addr{
		of(2, "2001:db8::5/64", unix.IFA_F_TEMPORARY), of(2, "2001:db8::9/64", 0), of(2, "fe80::1/64", 0), of(3, "2001:db8::1/64", 0),
		of(2, "2001:db8:2::5/64", unix.IFA_F_TEMPORARY), of(2, "192.0.2.9/24", unix.IFA_F_SECONDARY), of(2, "192.0.2.7/24", 0),
	})
	if want := "[192.0.2.7/24 192.0.2.9/24 2001:db8::9/64 2001:db8:2::5/64]"; fmt.Sprint(got) != want {
		t.Errorf("got %v, want %s", got, want)
	}
}

// TestIsUsable checks the decision for interfaces of kinds that not every kernel has, as
// netlink reports them.
func TestIsUsable(t *testing.T) {
	attrs := func(change func(*netlink.LinkAttrs)) netlink.LinkAttrs {
		a := netlink.LinkAttrs{
			Name: "x0", Index: 7, HardwareAddr: wireMAC, Flags: net.FlagUp | net.FlagBroadcast | net.FlagMulticast,
			RawFlags: unix.IFF_UP | unix.IFF_BROADCAST | unix.IFF_MULTICAST | unix.IFF_LOWER_UP | unix.IFF_RUNNING,
		}
		if change != nil {
			change(&a)
		}
		return a
	}
	plain := attrs(nil)
	member := attrs(func(a *netlink.LinkAttrs) { a.MasterIndex = 9 })
	slave := attrs(func(a *netlink.LinkAttrs) {
		a.MasterIndex, a.RawFlags, a.Slave = 9, a.RawFlags|unix.IFF_SLAVE, &netlink.BondSlave{State: netlink.BondStateActive}
	})
	wireGuard := attrs(func(a *netlink.LinkAttrs) { a.HardwareAddr, a.RawFlags = nil, a.RawFlags|unix.IFF_NOARP })
	for _, test := range []struct {
		name string
		link netlink.Link
		want bool
	}{
		{"Ethernet", &netlink.Device{LinkAttrs: plain}, true},
		{"bond", &netlink.Bond{LinkAttrs: attrs(func(a *netlink.LinkAttrs) { a.RawFlags |= unix.IFF_MASTER })}, true},
		{"active member of a bond", &netlink.Device{LinkAttrs: slave}, false},
		{"member of a bond, virtual", &netlink.Veth{LinkAttrs: slave}, false},
		{"team", &netlink.GenericLink{LinkAttrs: plain, LinkType: "team"}, true},
		{"member of a bridge", &netlink.Device{LinkAttrs: member}, false},
		{"bridge", &netlink.Bridge{LinkAttrs: plain}, true},
		{"VLAN", &netlink.Vlan{LinkAttrs: plain, VlanId: 7}, true},
		{"VLAN on a bridge", &netlink.Vlan{LinkAttrs: member, VlanId: 7}, false},
		{"macvlan", &netlink.Macvlan{LinkAttrs: plain}, true},
		{"virtual function or Open vSwitch", &netlink.GenericLink{LinkAttrs: plain, LinkType: "openvswitch"}, true},
		{"vxlan", &netlink.Vxlan{LinkAttrs: plain}, false},
		{"geneve", &netlink.Geneve{LinkAttrs: plain}, false},
		{"gretap", &netlink.Gretap{LinkAttrs: plain}, false},
		{"ip6gretap", &netlink.GenericLink{LinkAttrs: plain, LinkType: "ip6gretap"}, false},
		{"erspan", &netlink.GenericLink{LinkAttrs: plain, LinkType: "erspan"}, false},
		{"ip6erspan", &netlink.GenericLink{LinkAttrs: plain, LinkType: "ip6erspan"}, false},
		{"WireGuard", &netlink.Wireguard{LinkAttrs: wireGuard}, false},
		{"ipip", &netlink.Iptun{LinkAttrs: attrs(func(a *netlink.LinkAttrs) {
			a.HardwareAddr, a.RawFlags = []byte{10, 0, 0, 1}, a.RawFlags|unix.IFF_NOARP
		})}, false},
		{"sit", &netlink.Sittun{LinkAttrs: attrs(func(a *netlink.LinkAttrs) { a.HardwareAddr = []byte{10, 0, 0, 1} })}, false},
		{"InfiniBand", &netlink.Device{LinkAttrs: attrs(func(a *netlink.LinkAttrs) { a.HardwareAddr = make([]byte, 20) })}, false},
		{"without ARP", &netlink.Veth{LinkAttrs: attrs(func(a *netlink.LinkAttrs) { a.RawFlags |= unix.IFF_NOARP })}, false},
		{"loopback", &netlink.Device{LinkAttrs: attrs(func(a *netlink.LinkAttrs) { a.Flags |= net.FlagLoopback })}, false},
		{"down", &netlink.Device{LinkAttrs: attrs(func(a *netlink.LinkAttrs) { a.Flags &^= net.FlagUp })}, false},
		{"without a carrier", &netlink.Device{LinkAttrs: attrs(func(a *netlink.LinkAttrs) { a.RawFlags &^= unix.IFF_LOWER_UP })}, false},
	} {
		if got := isUsable(test.link, ""); got != test.want {
			t.Errorf("%s: usable=%t, want %t", test.name, got, test.want)
		}
	}
	port := &netlink.Device{LinkAttrs: attrs(func(a *netlink.LinkAttrs) { a.MasterIndex = 9 })}
	for _, test := range []struct {
		master netlink.Link
		want   string
	}{
		{&netlink.Vrf{LinkAttrs: netlink.LinkAttrs{Name: "blue", Index: 9}}, "blue"},
		{&netlink.Vrf{LinkAttrs: netlink.LinkAttrs{Name: "blue", Index: 8}}, ""},
		{&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0", Index: 9}}, ""},
	} {
		vrf := vrfOf(port, []netlink.Link{port, test.master})
		if usable := isUsable(port, vrf); vrf != test.want || usable != (vrf != "") {
			t.Errorf("port of %s %s: VRF %q, reported %v", test.master.Type(), test.master.Attrs().Name, vrf, usable)
		}
	}
}
