package l2

import (
	"os"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
)

// TestKernelAnswers checks that the kernel of a node is reported as answering for the
// addresses of Services if kube-proxy's interface exists and neither sysctl forbids it.
func TestKernelAnswers(t *testing.T) {
	c := newVethPair(t, arpFamily{})
	set := func(name, value string) {
		t.Helper()
		if err := os.WriteFile("/proc/sys/net/ipv4/conf/"+name+"/arp_ignore", []byte(value), 0o644); err != nil {
			t.Fatal(err)
		}
	}
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
}
