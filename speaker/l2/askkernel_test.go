package l2

import (
	"bytes"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestAskKernel checks that the kernel of another host answers for its addresses to each
// kind of sender, and that neither end's neighbor table is wrong afterwards.
func TestAskKernel(t *testing.T) {
	testFamilies(t, func(t *testing.T, f familyTest) {
		for _, own := range []string{"", "192.0.2.9/24", "198.51.100.9/24", "fe80::9/64"} {
			if own != "" && netip.MustParsePrefix(own).Addr().Is4() != f.vip.Is4() {
				continue
			}
			t.Run(own, func(t *testing.T) {
				c := newVethPair(t, f.family)
				withoutLinkLocal(t, "lan0")
				t.Cleanup(func() { // with vip0, which has been moved
					if lan0, err := netlink.LinkByName("lan0"); err == nil {
						_ = netlink.LinkDel(lan0)
					}
				})
				host := newNamespace(t)
				host.moveIn(t, "vip0", f.own)
				if own != "" {
					addKernelAddr(t, "lan0", netip.MustParsePrefix(own), unix.IFA_F_NODAD)
				}
				eventually(t, "lan0 is up", func() bool {
					_, err := runningInterface("lan0")
					return err == nil
				})
				a := newTestAsker(t, time.Second)
				answered, err := a.Ask(t.Context(), "lan0", c.speaker.HardwareAddr, []netip.Addr{f.own.Addr(), f.vip})
				if err != nil || !slices.Equal(answered, []netip.Addr{f.own.Addr()}) {
					t.Errorf("answered %v, %v", answered, err)
				}
				check := func() error {
					entries, err := netlink.NeighList(0, netlink.FAMILY_ALL)
					for _, n := range entries {
						ip, _ := netip.AddrFromSlice(n.IP)
						switch ip = ip.Unmap(); {
						case ip.IsMulticast() || len(n.HardwareAddr) == 0 || ip.IsLoopback():
						case ip == f.own.Addr() && bytes.Equal(n.HardwareAddr, c.speaker.HardwareAddr):
						case own != "" && ip == netip.MustParsePrefix(own).Addr() && bytes.Equal(n.HardwareAddr, c.lan.HardwareAddr):
						default:
							return fmt.Errorf("neighbor table has %v", n)
						}
					}
					return err
				}
				if err := check(); err != nil {
					t.Error("this end:", err)
				}
				if err := host.run(check); err != nil {
					t.Error("the other end:", err)
				}
			})
		}
	})
}

// namespace is a network namespace of another host.
type namespace struct {
	fd    int
	calls chan func()
}

func newNamespace(t *testing.T) *namespace {
	t.Helper()
	n := &namespace{calls: make(chan func())}
	ready := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends here
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			n.fd, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		}
		ready <- err
		for call := range n.calls {
			call()
		}
	}()
	t.Cleanup(func() {
		_ = unix.Close(n.fd)
		close(n.calls)
	})
	if err := <-ready; err != nil {
		t.Fatal(err)
	}
	return n
}

// run runs a function in the namespace.
func (n *namespace) run(f func() error) error {
	done := make(chan error)
	n.calls <- func() { done <- f() }
	return <-done
}

// moveIn moves an interface into the namespace, where it has the address.
func (n *namespace) moveIn(t *testing.T, iface string, addr netip.Prefix) {
	t.Helper()
	link, err := netlink.LinkByName(iface)
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetNsFd(link, n.fd); err != nil {
		t.Fatal(err)
	}
	if err := n.run(func() error {
		link, err := netlink.LinkByName(iface)
		if err != nil {
			return err
		}
		address, err := netlink.ParseAddr(addr.String())
		if err != nil {
			return err
		}
		address.Flags |= unix.IFA_F_NODAD
		if err := netlink.AddrAdd(link, address); err != nil {
			return err
		}
		return netlink.LinkSetUp(link)
	}); err != nil {
		t.Fatal(err)
	}
}
