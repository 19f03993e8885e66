package l2

import (
	"fmt"
	"net"
	"os"
	"testing"
	"time"

	"github.com/mdlayher/packet"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/fairlead-io/fairlead/speaker/internal/netnstest"
)

// TestMain runs the tests, or an Announcer as another process.
func TestMain(m *testing.M) {
	if os.Getenv(announcerEnv) != "" {
		if err := runAnnouncer(os.Getenv(announcerEnv)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(netnstest.Run(m))
}

// vethPair is a pair of interfaces: the speaker's "vip0", which has the addresses
// 192.0.2.1/24 and 2001:db8::1/64, and the segment's "lan0".
type vethPair struct {
	speaker, lan *net.Interface
	tap          *packet.Conn // on lan0
}

// newVethPair returns a pair with a tap for one family.
func newVethPair(t testing.TB, f family) *vethPair {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "vip0"}, PeerName: "lan0"}))
	vip0, err := netlink.LinkByName("vip0")
	must(err)
	t.Cleanup(func() { _ = netlink.LinkDel(vip0) })
	lan0, err := netlink.LinkByName("lan0")
	must(err)
	for _, f := range familyTests {
		address, err := netlink.ParseAddr(f.own.String())
		must(err)
		address.Flags |= unix.IFA_F_NODAD
		must(netlink.AddrAdd(vip0, address))
	}
	must(netlink.LinkSetUp(vip0))
	must(netlink.LinkSetUp(lan0))
	c := &vethPair{}
	c.speaker, err = net.InterfaceByName("vip0")
	must(err)
	c.lan, err = net.InterfaceByName("lan0")
	must(err)
	c.tap, err = packet.Listen(c.lan, packet.Raw, int(f.etherType()), nil)
	must(err)
	t.Cleanup(func() { _ = c.tap.Close() })
	// Until the kernel has seen the carrier, frames are dropped.
	for _, name := range []string{"vip0", "lan0"} {
		eventually(t, name+" is up", func() bool {
			iface, err := netlink.LinkByName(name)
			must(err)
			return iface.Attrs().OperState == netlink.OperUp
		})
	}
	return c
}

// testTimeout bounds waits for conditions.
const testTimeout = time.Minute

// eventually waits for a condition.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(testTimeout); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited %s until %s", testTimeout, what)
		}
	}
}
