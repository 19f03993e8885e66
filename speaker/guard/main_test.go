package guard

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/packet"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/fairlead-io/fairlead/speaker/internal/netnstest"
)

func TestMain(m *testing.M) { os.Exit(netnstest.Run(m)) }

// testHost is a host in a network namespace of its own.
type testHost struct {
	t  testing.TB
	ns int
}

func newHost(t testing.TB) testHost {
	t.Helper()
	h := testHost{t: t}
	err := onThread(func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		h.ns, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(h.ns) })
	h.mustRun(func() error { return setLinkUp("lo") })
	h.setSysctls("ipv4/ip_forward=1", "ipv6/conf/all/forwarding=1", "ipv6/conf/default/accept_dad=0",
		"ipv4/icmp_ratemask=0", "ipv6/icmp/ratelimit=0", "ipv4/conf/all/send_redirects=0", "ipv4/conf/default/send_redirects=0",
		"ipv4/conf/all/rp_filter=1", "ipv4/conf/default/rp_filter=1") // strict
	return h
}

// onThread runs work on a new thread, which ends afterwards.
func onThread(work func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		result <- work()
	}()
	return <-result
}

// runIn runs work in the host's network.
func (h testHost) runIn(work func() error) error {
	return onThread(func() error {
		if err := unix.Setns(h.ns, unix.CLONE_NEWNET); err != nil {
			return err
		}
		return work()
	})
}

func (h testHost) mustRun(work func() error) {
	h.t.Helper()
	if err := h.runIn(work); err != nil {
		h.t.Fatal(err)
	}
}

func (h testHost) setSysctls(settings ...string) {
	h.t.Helper()
	h.mustRun(func() error {
		for _, s := range settings {
			name, value, _ := strings.Cut(s, "=")
			if err := os.WriteFile("/proc/sys/net/"+name, []byte(value), 0o644); err != nil {
				return err
			}
		}
		return nil
	})
}

func setLinkUp(iface string) error {
	l, err := netlink.LinkByName(iface)
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(l)
}

// connectTo adds a veth pair between two hosts: the interface a on h, and b on o.
func (h testHost) connectTo(a string, o testHost, b string) {
	h.t.Helper()
	h.mustRun(func() error {
		return netlink.LinkAdd(&netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: a}, PeerName: b, PeerNamespace: netlink.NsFd(o.ns),
		})
	})
}

// addAddresses adds the addresses to the interface and sets it up.
func (h testHost) addAddresses(iface string, prefixes ...string) {
	h.t.Helper()
	h.mustRun(func() error {
		l, err := netlink.LinkByName(iface)
		if err != nil {
			return err
		}
		for _, p := range prefixes {
			a, err := netlink.ParseAddr(p)
			if err != nil {
				return err
			}
			a.Flags = unix.IFA_F_NODAD
			if err := netlink.AddrAdd(l, a); err != nil {
				return fmt.Errorf("%s: %w", p, err)
			}
		}
		return netlink.LinkSetUp(l)
	})
}

// addRoute adds a route to a prefix by a gateway.
func (h testHost) addRoute(to, gateway string) {
	h.t.Helper()
	h.mustRun(func() error {
		return netlink.RouteAdd(&netlink.Route{Dst: ipNet(netip.MustParsePrefix(to)), Gw: net.ParseIP(gateway)})
	})
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// runNft runs a script of the program nft.
func (h testHost) runNft(script string) {
	h.t.Helper()
	program, err := exec.LookPath("nft")
	var env []string
	if err != nil { // the one that the lab downloads
		tools, _ := filepath.Abs("../../.build/tools")
		program = filepath.Join(tools, "usr/sbin/nft")
		libs, _ := filepath.Glob(filepath.Join(tools, "*/x86_64-linux-gnu"))
		more, _ := filepath.Glob(filepath.Join(tools, "usr/lib/*-linux-gnu"))
		env = []string{"LD_LIBRARY_PATH=" + strings.Join(append(libs, more...), ":")}
		if _, err := os.Stat(program); err != nil {
			netnstest.Skip(h.t, "the program nft is not installed")
		}
	}
	cmd := exec.Command(program, "-f", "-")
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdin = strings.NewReader(script)
	var out []byte
	if err := h.runIn(func() (err error) { out, err = cmd.CombinedOutput(); return err }); err != nil {
		h.t.Fatalf("nft: %v\n%s", err, out)
	}
}

// packetTap receives all packets on an interface.
type packetTap struct {
	t    testing.TB
	conn *packet.Conn
}

func (h testHost) tapInterface(iface string) packetTap {
	h.t.Helper()
	p := packetTap{t: h.t}
	h.mustRun(func() error {
		ifi, err := net.InterfaceByName(iface)
		if err != nil {
			return err
		}
		p.conn, err = packet.Listen(ifi, packet.Raw, unix.ETH_P_ALL, nil)
		return err
	})
	h.t.Cleanup(func() { _ = p.conn.Close() })
	return p
}

// loopedCount is how often a packet with a TTL of 64 passes an interface in a loop,
// after one router.
const loopedCount = 63

// countPackets waits until no packet has passed for a while or one has looped, and returns
// the numbers of UDP packets to the address and of ICMP errors.
func (p packetTap) countPackets(to netip.Addr) (packets, icmpErrors int) {
	p.t.Helper()
	buf := make([]byte, 2000)
	for packets < loopedCount {
		if err := p.conn.SetReadDeadline(time.Now().Add(400 * time.Millisecond)); err != nil {
			p.t.Fatal(err)
		}
		n, _, err := p.conn.ReadFrom(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return packets, icmpErrors
		}
		if err != nil {
			p.t.Fatal(err)
		}
		ip := buf[14:n]
		var dst netip.Addr
		var proto, kind byte
		switch binary.BigEndian.Uint16(buf[12:]) {
		case unix.ETH_P_IP:
			dst, _ = netip.AddrFromSlice(ip[16:20])
			proto, kind = ip[9], ip[20]
		case unix.ETH_P_IPV6:
			dst, _ = netip.AddrFromSlice(ip[24:40])
			proto, kind = ip[6], ip[40]
		default:
			continue
		}
		switch {
		case proto == unix.IPPROTO_UDP && dst == to:
			packets++
		case proto == unix.IPPROTO_ICMP && kind == 3, proto == unix.IPPROTO_ICMPV6 && kind == 1: // destination unreachable
			icmpErrors++
		}
	}
	return packets, icmpErrors
}
