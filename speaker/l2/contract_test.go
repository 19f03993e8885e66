package l2

import (
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/arp"
	"github.com/mdlayher/ethernet"
	"github.com/mdlayher/ndp"
)

// testContract is the table that holds for the simulated and the real interface. The
// responder has the MAC and announces the family's address.
func testContract(t *testing.T, f familyTest, l testSegment, mac net.HardwareAddr) {
	// The answer to a probe is like an announcement, so that these must have been sent.
	for range f.announce(mac, f.vip) {
		l.receiveFrame(t)
	}
	question := f.question(clientMAC, f.client, f.vip, nil)
	probed, loopback, group := netip.IPv4Unspecified(), netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("224.0.0.1")
	if f.vip.Is6() {
		probed, loopback, group = netip.IPv6Unspecified(), netip.IPv6Loopback(), allNodes
	}
	answer, probeAnswer := f.wantAnswer(mac, f.vip, f.client, clientMAC), f.wantAnswer(mac, f.vip, probed, clientMAC)
	patched := func(offset int, value ...byte) []byte {
		frame := slices.Clone(question)
		copy(frame[offset:], value)
		return frame
	}
	type row struct {
		name  string
		frame []byte
		want  string
	}
	rows := []row{
		{"to all", question, answer},
		{"to the MAC, as hosts refresh their entries", f.question(clientMAC, f.client, f.vip, mac), answer},
		{"probe", f.probe(clientMAC, f.vip), probeAnswer},
		{"to another host", f.question(clientMAC, f.client, f.vip, otherMAC), ""},
		{"for another address", f.question(clientMAC, f.client, f.other, nil), ""},
		{"announcement of another host", f.announce(clientMAC, f.client)[0], ""},
		{"padded", append(slices.Clone(question), make([]byte, 18)...), answer},
		{"cut short", question[:map[bool]int{true: lengthARP, false: lengthND}[f.vip.Is4()]-1], ""},
		{"empty", question[:14], ""},
		{"of a loopback address", f.question(clientMAC, loopback, f.vip, nil), ""},
		{"of a group", f.question(clientMAC, group, f.vip, nil), ""},
		{"of a group's MAC", f.question(net.HardwareAddr{3, 0, 0, 0, 0, 9}, f.client, f.vip, nil), ""},
		{"of the broadcast MAC", f.question(ethernet.Broadcast, f.client, f.vip, nil), ""},
	}
	if f.vip.Is4() {
		rows = append(rows,
			row{"of the broadcast address", f.question(clientMAC, netip.MustParseAddr("255.255.255.255"), f.vip, nil), ""},
			row{"another hardware type", patched(14, 0, 6), ""},
			row{"another protocol type", patched(16, 0x86, 0xdd), ""},
			row{"another length of MACs", patched(18, 8), ""},
			row{"another length of addresses", patched(19, 16), ""},
			row{"another operation", patched(20, 0, 3), ""},
			row{"reply", encodeARP(arp.OperationReply, clientMAC, f.client, mac, f.vip, mac), ""},
		)
	} else {
		rows = append(rows,
			row{"hop limit 254, from another segment", patched(21, 254), ""},
			row{"another IP version", patched(14, 0x40), ""},
			row{"another next header", patched(20, 17), ""},
			row{"a payload length beyond the frame", patched(18, 0, 200), ""},
			row{"of a group's MAC, by the Ethernet header", patched(6, 3), ""},
			row{"of a group's MAC, by the option", withChecksum(patched(80, 3)), ""},
			row{"of no MAC, by the option", withChecksum(patched(80, 0, 0, 0, 0, 0, 0)), ""},
			row{"another code", patched(55, 1), ""},
			row{"wrong checksum", patched(56, 1, 1), ""},
			row{"an option without a length", withChecksum(patched(79, 0)), ""},
			row{"an option beyond the message", withChecksum(patched(79, 9)), ""},
			row{"advertisement", f.announce(clientMAC, f.client)[0], ""},
			row{"probe to its MAC and all nodes", encodeND(clientMAC, probed, allNodes, mac, &ndp.NeighborSolicitation{TargetAddress: f.vip}), ""},
		)
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			if got := strings.Join(f.answersTo(t, l, row.frame, f.vip), "; "); got != row.want {
				t.Errorf("got  %q\nwant %q", got, row.want)
			}
		})
	}
}

// withChecksum returns the frame with the checksum of its ICMPv6 message corrected.
func withChecksum(frame []byte) []byte {
	message := frame[offsetICMPv6:]
	for sum := 0; ; sum++ {
		message[2], message[3] = byte(sum>>8), byte(sum)
		if validChecksum(mustAddr(frame[22:38]), mustAddr(frame[38:54]), message) {
			return frame
		}
	}
}

// newSimulatedResponder returns a responder with the MAC on a simulated segment.
func newSimulatedResponder(t *testing.T, f family, mac net.HardwareAddr, changed func()) (*responder, *simulatedSegment) {
	t.Helper()
	s := newSimulatedSegment(loopbackIndex)
	ifi := &net.Interface{Index: loopbackIndex, Name: "vip0", HardwareAddr: mac}
	known := &claimants{changed: changed, byAddr: map[netip.Addr][]Claimant{}, defended: map[netip.Addr]time.Time{}}
	return newResponder(t.Context(), ifi, f, s, known, &hold{}, slog.New(slog.DiscardHandler), changed), s
}

// announceOnce makes responders announce an address only once.
func announceOnce(t *testing.T) {
	before := announceDelays
	announceDelays = announceDelays[:1]
	t.Cleanup(func() { announceDelays = before })
}

func TestContractSimulated(t *testing.T) {
	announceOnce(t)
	testFamilies(t, func(t *testing.T, f familyTest) {
		mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
		r, s := newSimulatedResponder(t, f.family, mac, func() {})
		defer r.closeAndWait()
		if err := r.set(map[netip.Addr]mode{f.vip: announcing}); err != nil {
			t.Fatal(err)
		}
		testContract(t, f, s, mac)
	})
}

func TestContractReal(t *testing.T) {
	announceOnce(t)
	testFamilies(t, func(t *testing.T, f familyTest) {
		c := newVethPair(t, f.family)
		a := New(slog.Default(), func() {})
		defer a.Close()
		held, err := a.Set(t.Context(), map[netip.Addr]Claim{f.vip: {Interfaces: []string{"vip0"}}})
		if err != nil || len(held) != 1 {
			t.Fatalf("held %v, %v", held, err)
		}
		testContract(t, f, c, c.speaker.HardwareAddr)
	})
}
