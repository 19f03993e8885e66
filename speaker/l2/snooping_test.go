package l2

import (
	"bytes"
	"encoding/binary"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/mdlayher/ethernet"
	"github.com/mdlayher/packet"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// TestSnoopingBridge checks that addresses are resolved through a bridge that forwards
// multicast only to the ports that reported the group by MLD, and that their solicitations
// do not reach other hosts. The bridge is the kernel's, with the speaker, the client and
// another host on its ports.
func TestSnoopingBridge(t *testing.T) {
	f := familyTests[1]
	s := newSnoopingBridge(t)
	client, other := s.tap(t, "lan0"), s.tap(t, "other0")
	ask := func(addr netip.Addr) {
		t.Helper()
		question := f.question(clientMAC, f.client, addr, nil)
		if _, err := client.WriteTo(question, &packet.Addr{HardwareAddr: question[:6]}); err != nil {
			t.Fatal(err)
		}
	}
	asks := 0
	// asked returns how many solicitations for the address the other host has received.
	asked := func(addr netip.Addr) (n int) {
		t.Helper()
		asks++
		end := append(append(bytes.Clone(ethernet.Broadcast), clientMAC...), 0x88, 0xb5, byte(asks)) // EtherType for experiments
		if _, err := client.WriteTo(end, &packet.Addr{HardwareAddr: ethernet.Broadcast}); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(testTimeout); ; {
			switch frame := nextFrame(t, other, deadline); {
			case bytes.HasPrefix(frame, end):
				return n
			case frame == nil:
				t.Fatal("no frame is forwarded to the other host")
			case bytes.Equal(frame, f.question(clientMAC, f.client, addr, nil)):
				n++
			}
		}
	}
	eventually(t, "the bridge does not forward to groups without members", func() bool {
		ask(f.other)
		return asked(f.other) == 0
	})
	a := New(slog.Default(), func() {})
	defer a.Close()
	test := func(addr netip.Addr) {
		t.Helper()
		if _, err := a.Set(t.Context(), map[netip.Addr]Claim{addr: {Interfaces: []string{"vip0"}}}); err != nil {
			t.Fatal(err)
		}
		eventually(t, addr.String()+" is resolved", func() bool {
			ask(addr)
			for deadline := time.Now().Add(time.Second); ; {
				answer := nextFrame(t, client, deadline)
				if answer == nil {
					return false
				}
				if got, ok := f.announcedAddr(answer); ok && got == addr && bytes.Equal(answer[:6], clientMAC) {
					return true
				}
			}
		})
		if n := asked(addr); n > 0 {
			t.Errorf("%d solicitations for %s were forwarded to the other host", n, addr)
		}
	}
	test(f.vip)
	s.setFlood(t, false) // of groups that no port has reported
	test(f.other)
}

// snoopingBridge is a bridge whose ports lead to hosts.
type snoopingBridge struct{ ports []int }

// newSnoopingBridge returns a bridge that queries its ports for the groups of the hosts
// vip0, which has the address 2001:db8::1/64, lan0 and other0.
func newSnoopingBridge(t *testing.T) (s snoopingBridge) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	snooping := true
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}, MulticastSnooping: &snooping}
	must(netlink.LinkAdd(bridge))
	t.Cleanup(func() { _ = netlink.LinkDel(bridge) })
	// From the start of the querier until the time for responses is over, the bridge
	// forwards to all.
	centiseconds := func(n uint64) []byte { return binary.NativeEndian.AppendUint64(nil, n) }
	for _, option := range []struct {
		attr  int
		value []byte
	}{
		{nl.IFLA_BR_MCAST_QUERY_RESPONSE_INTVL, centiseconds(10)},
		{nl.IFLA_BR_MCAST_QUERY_INTVL, centiseconds(100)},
		{nl.IFLA_BR_MCAST_STARTUP_QUERY_INTVL, centiseconds(100)},
		{nl.IFLA_BR_MCAST_QUERIER, []byte{1}},
	} {
		info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
		info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("bridge"))
		info.AddRtAttr(nl.IFLA_INFO_DATA, nil).AddRtAttr(option.attr, option.value)
		must(changeLink(unix.AF_UNSPEC, bridge.Index, info))
	}
	must(netlink.LinkSetUp(bridge))
	for _, host := range []string{"vip0", "lan0", "other0"} {
		pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: host}, PeerName: host + "port"}
		must(netlink.LinkAdd(pair))
		t.Cleanup(func() { _ = netlink.LinkDel(pair) })
		port, err := netlink.LinkByName(pair.PeerName)
		must(err)
		must(netlink.LinkSetMaster(port, bridge))
		must(netlink.LinkSetUp(pair))
		must(netlink.LinkSetUp(port))
		eventually(t, host+" and its port are up", func() bool {
			for _, name := range []string{host, pair.PeerName} {
				l, err := netlink.LinkByName(name)
				must(err)
				if l.Attrs().OperState != netlink.OperUp {
					return false
				}
			}
			return true
		})
		s.ports = append(s.ports, port.Attrs().Index)
	}
	addKernelAddr(t, "vip0", familyTests[1].own, unix.IFA_F_NODAD)
	return s
}

// setFlood sets whether the bridge forwards to groups that are not known.
func (s snoopingBridge) setFlood(t *testing.T, flood bool) {
	t.Helper()
	for _, index := range s.ports {
		port := nl.NewRtAttr(unix.IFLA_PROTINFO|unix.NLA_F_NESTED, nil)
		port.AddRtAttr(nl.IFLA_BRPORT_MCAST_FLOOD, map[bool][]byte{false: {0}, true: {1}}[flood])
		if err := changeLink(unix.AF_BRIDGE, index, port); err != nil {
			t.Fatal(err)
		}
	}
}

// changeLink changes attributes of an interface that netlink.Link does not have.
func changeLink(family, index int, attr *nl.RtAttr) error {
	req := nl.NewNetlinkRequest(map[int]int{unix.AF_UNSPEC: unix.RTM_NEWLINK, unix.AF_BRIDGE: unix.RTM_SETLINK}[family], unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(family)
	msg.Index = int32(index)
	req.AddData(msg)
	req.AddData(attr)
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

// tap returns a socket that receives all frames of a host.
func (snoopingBridge) tap(t *testing.T, host string) *packet.Conn {
	t.Helper()
	ifi, err := net.InterfaceByName(host)
	if err != nil {
		t.Fatal(err)
	}
	tap, err := packet.Listen(ifi, packet.Raw, unix.ETH_P_ALL, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tap.Close() })
	return tap
}

// nextFrame returns the next frame, nil if there is none before the deadline.
func nextFrame(t *testing.T, tap *packet.Conn, deadline time.Time) []byte {
	t.Helper()
	if err := tap.SetReadDeadline(deadline); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 1500)
	n, _, err := tap.ReadFrom(buf)
	if err != nil {
		return nil
	}
	return buf[:n]
}
