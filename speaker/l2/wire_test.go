package l2

import (
	"encoding/hex"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// wireCapture is what the node sends for one frame that it receives, byte for byte; spaces
// separate the fields.
type wireCapture struct {
	name, received string
	sent           []string
}

// wireCaptures are the frames of one family. The node's MAC is 02:00:00:00:00:01, and that
// of the host that asks 02:00:00:00:00:09. They were composed without this package.
type wireCaptures struct {
	takeOver          []string // when the node takes the address over
	takeOverOtherMAC  []string // with the MAC 02:00:00:00:07:07
	question, answer  string
	answerOfOtherMAC  string
	takeOverThenAsked []wireCapture
}

var wireTests = map[family]wireCaptures{
	arpFamily{}: {
		takeOver: []string{
			"ffffffffffff 020000000001 0806 0001 0800 06 04 0001 020000000001 c000024d 000000000000 c000024d",
			"ffffffffffff 020000000001 0806 0001 0800 06 04 0002 020000000001 c000024d 020000000001 c000024d",
		},
		takeOverOtherMAC: []string{
			"ffffffffffff 020000000707 0806 0001 0800 06 04 0001 020000000707 c000024d 000000000000 c000024d",
			"ffffffffffff 020000000707 0806 0001 0800 06 04 0002 020000000707 c000024d 020000000707 c000024d",
		},
		question:         "ffffffffffff 020000000009 0806 0001 0800 06 04 0001 020000000009 c0000209 000000000000 c000024d",
		answer:           "020000000009 020000000001 0806 0001 0800 06 04 0002 020000000001 c000024d 020000000009 c0000209",
		answerOfOtherMAC: "020000000009 020000000707 0806 0001 0800 06 04 0002 020000000707 c000024d 020000000009 c0000209",
		takeOverThenAsked: []wireCapture{
			{
				"unicast question", "020000000001 020000000009 0806 0001 0800 06 04 0001 020000000009 c0000209 000000000000 c000024d",
				[]string{"020000000009 020000000001 0806 0001 0800 06 04 0002 020000000001 c000024d 020000000009 c0000209"},
			},
			{
				"probe", "ffffffffffff 020000000009 0806 0001 0800 06 04 0001 020000000009 00000000 000000000000 c000024d",
				[]string{"020000000009 020000000001 0806 0001 0800 06 04 0002 020000000001 c000024d 020000000009 00000000"},
			},
			{
				"padded", "ffffffffffff 020000000009 0806 0001 0800 06 04 0001 020000000009 c0000209 000000000000 c000024d" + strings.Repeat("ab", 18),
				[]string{"020000000009 020000000001 0806 0001 0800 06 04 0002 020000000001 c000024d 020000000009 c0000209"},
			},
			{
				"priority tag", "ffffffffffff 020000000009 8100e000 0806 0001 0800 06 04 0001 020000000009 c0000209 000000000000 c000024d",
				[]string{"020000000009 020000000001 0806 0001 0800 06 04 0002 020000000001 c000024d 020000000009 c0000209"},
			},
			{"VLAN 7", "ffffffffffff 020000000009 81000007 0806 0001 0800 06 04 0001 020000000009 c0000209 000000000000 c000024d", nil},
			{"VLAN 7, unicast", "020000000001 020000000009 81000007 0806 0001 0800 06 04 0001 020000000009 c0000209 000000000000 c000024d", nil},
			{"to another host", "020000000008 020000000009 0806 0001 0800 06 04 0001 020000000009 c0000209 000000000000 c000024d", nil},
			{"truncated", "ffffffffffff 020000000009 0806 0001 0800 06 04 0001 020000000009 c0000209 000000000000 c00002", nil},
			{"length of MACs 7", "ffffffffffff 020000000009 0806 0001 0800 07 04 0001 020000000009 c0000209 000000000000 c000024d", nil},
			{"length of addresses 3", "ffffffffffff 020000000009 0806 0001 0800 06 03 0001 020000000009 c0000209 000000000000 c000024d", nil},
			{"lengths 0", "ffffffffffff 020000000009 0806 0001 0800 00 00 0001 020000000009 c0000209 000000000000 c000024d", nil},
			{"hardware type 6", "ffffffffffff 020000000009 0806 0006 0800 06 04 0001 020000000009 c0000209 000000000000 c000024d", nil},
			{"from 127.0.0.1", "ffffffffffff 020000000009 0806 0001 0800 06 04 0001 020000000009 7f000001 000000000000 c000024d", nil},
		},
	},
	ndpFamily{}: {
		takeOver: []string{
			"333300000001 020000000001 86dd 60000000 0020 3aff 20010db8000000000000000000000077 ff020000000000000000000000000001" +
				"8800f83e 20000000 20010db8000000000000000000000077 0201020000000001",
		},
		takeOverOtherMAC: []string{
			"333300000001 020000000707 86dd 60000000 0020 3aff 20010db8000000000000000000000077 ff020000000000000000000000000001" +
				"8800f138 20000000 20010db8000000000000000000000077 0201020000000707",
		},
		question: "3333ff000077 020000000009 86dd 60000000 0020 3aff 20010db8000000000000000000000009 ff0200000000000000000001ff000077" +
			"87001b2d 00000000 20010db8000000000000000000000077 0101020000000009",
		answer: "020000000009 020000000001 86dd 60000000 0020 3aff 20010db8000000000000000000000077 20010db8000000000000000000000009" +
			"88008980 60000000 20010db8000000000000000000000077 0201020000000001",
		answerOfOtherMAC: "020000000009 020000000707 86dd 60000000 0020 3aff 20010db8000000000000000000000077 20010db8000000000000000000000009" +
			"8800827a 60000000 20010db8000000000000000000000077 0201020000000707",
		takeOverThenAsked: []wireCapture{
			{
				"unicast question",
				"020000000001 020000000009 86dd 60000000 0020 3aff 20010db8000000000000000000000009 20010db8000000000000000000000077" +
					"8700eb78 00000000 20010db8000000000000000000000077 0101020000000009",
				[]string{"020000000009 020000000001 86dd 60000000 0020 3aff 20010db8000000000000000000000077 20010db8000000000000000000000009" +
					"88008980 60000000 20010db8000000000000000000000077 0201020000000001"},
			},
			{
				"probe", "3333ff000077 020000000009 86dd 60000000 0018 3aff 00000000000000000000000000000000 ff0200000000000000000001ff000077" +
					"87004c01 00000000 20010db8000000000000000000000077",
				[]string{"333300000001 020000000001 86dd 60000000 0020 3aff 20010db8000000000000000000000077 ff020000000000000000000000000001" +
					"8800f83e 20000000 20010db8000000000000000000000077 0201020000000001"},
			},
			{
				"probe with a nonce",
				"3333ff000077 020000000009 86dd 60000000 0020 3aff 00000000000000000000000000000000 ff0200000000000000000001ff000077" +
					"870034ec 00000000 20010db8000000000000000000000077 0e01010203040506",
				[]string{"333300000001 020000000001 86dd 60000000 0020 3aff 20010db8000000000000000000000077 ff020000000000000000000000000001" +
					"8800f83e 20000000 20010db8000000000000000000000077 0201020000000001"},
			},
			{
				"padded", "3333ff000077 020000000009 86dd 60000000 0020 3aff 20010db8000000000000000000000009 ff0200000000000000000001ff000077" +
					"87001b2d 00000000 20010db8000000000000000000000077 0101020000000009" + strings.Repeat("ab", 18),
				[]string{"020000000009 020000000001 86dd 60000000 0020 3aff 20010db8000000000000000000000077 20010db8000000000000000000000009" +
					"88008980 60000000 20010db8000000000000000000000077 0201020000000001"},
			},
			{
				"an option of another protocol",
				"3333ff000077 020000000009 86dd 60000000 0028 3aff 20010db8000000000000000000000009 ff0200000000000000000001ff000077" +
					"8700f3f5 00000000 20010db8000000000000000000000077 fd01616263646566 0101020000000009",
				[]string{"020000000009 020000000001 86dd 60000000 0020 3aff 20010db8000000000000000000000077 20010db8000000000000000000000009" +
					"88008980 60000000 20010db8000000000000000000000077 0201020000000001"},
			},
			{
				"a prefix option of the wrong length",
				"3333ff000077 020000000009 86dd 60000000 0028 3aff 20010db8000000000000000000000009 ff0200000000000000000001ff000077" +
					"8700edf6 00000000 20010db8000000000000000000000077 0301616263646566 0101020000000009",
				[]string{"020000000009 020000000001 86dd 60000000 0020 3aff 20010db8000000000000000000000077 20010db8000000000000000000000009" +
					"88008980 60000000 20010db8000000000000000000000077 0201020000000001"},
			},
			{
				"priority tag",
				"3333ff000077 020000000009 8100e000 86dd 60000000 0020 3aff 20010db8000000000000000000000009 ff0200000000000000000001ff000077" +
					"87001b2d 00000000 20010db8000000000000000000000077 0101020000000009",
				[]string{"020000000009 020000000001 86dd 60000000 0020 3aff 20010db8000000000000000000000077 20010db8000000000000000000000009" +
					"88008980 60000000 20010db8000000000000000000000077 0201020000000001"},
			},
			{
				"VLAN 7",
				"3333ff000077 020000000009 81000007 86dd 60000000 0020 3aff 20010db8000000000000000000000009 ff0200000000000000000001ff000077" +
					"87001b2d 00000000 20010db8000000000000000000000077 0101020000000009", nil,
			},
			{
				"to another host",
				"020000000008 020000000009 86dd 60000000 0020 3aff 20010db8000000000000000000000009 20010db8000000000000000000000077" +
					"8700eb78 00000000 20010db8000000000000000000000077 0101020000000009", nil,
			},
			{
				"truncated", "3333ff000077 020000000009 86dd 60000000 0020 3aff 20010db8000000000000000000000009 ff0200000000000000000001ff000077" +
					"87001b2d 00000000 20010db8000000000000000000000077 01010200000000", nil,
			},
			{
				"hop limit 254", "3333ff000077 020000000009 86dd 60000000 0020 3afe 20010db8000000000000000000000009 ff0200000000000000000001ff000077" +
					"87001b2d 00000000 20010db8000000000000000000000077 0101020000000009", nil,
			},
			{
				"an option of length 0",
				"3333ff000077 020000000009 86dd 60000000 0020 3aff 20010db8000000000000000000000009 ff0200000000000000000001ff000077" +
					"87001b2e 00000000 20010db8000000000000000000000077 0100020000000009", nil,
			},
			{
				"an option beyond the message",
				"3333ff000077 020000000009 86dd 60000000 0020 3aff 20010db8000000000000000000000009 ff0200000000000000000001ff000077" +
					"87001b25 00000000 20010db8000000000000000000000077 0109020000000009", nil,
			},
		},
	},
}

// TestWire compares all that the node sends with captures, byte for byte, on a veth pair
// and after changes of the interface, on a bridge and on a macvlan interface.
func TestWire(t *testing.T) {
	delays := announceDelays
	announceDelays = delays[:1] // so that what is sent depends on what is received only
	defer func() { announceDelays = delays }()
	testFamilies(t, func(t *testing.T, f familyTest) {
		want := wireTests[f.family]
		t.Run("veth", func(t *testing.T) { testWireVeth(t, f, want) })
		t.Run("bridge", func(t *testing.T) {
			w := newWire(t, f)
			w.add(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0", HardwareAddr: wireMAC}})
			w.must(netlink.LinkSetHardwareAddr(w.byName("vip0"), otherMAC))
			w.must(netlink.LinkSetMaster(w.byName("vip0"), w.byName("br0")))
			w.setUp("br0")
			w.takeOver("on the bridge", "br0", want.takeOver, want.question, want.answer)
		})
		t.Run("macvlan", func(t *testing.T) {
			w := newWire(t, f)
			w.must(netlink.LinkSetHardwareAddr(w.byName("vip0"), otherMAC))
			attrs := netlink.LinkAttrs{Name: "mv0", ParentIndex: w.byName("vip0").Attrs().Index, HardwareAddr: wireMAC}
			w.add(&netlink.Macvlan{LinkAttrs: attrs, Mode: netlink.MACVLAN_MODE_BRIDGE})
			w.setUp("mv0")
			w.takeOver("on the macvlan interface", "mv0", want.takeOver, want.question, want.answer)
		})
	})
}

func testWireVeth(t *testing.T, f familyTest, want wireCaptures) {
	w := newWire(t, f)
	w.takeOver("taking over", "vip0", want.takeOver, want.question, want.answer)
	for _, c := range want.takeOverThenAsked {
		w.expect(c.name, c.received, c.sent)
	}

	w.must(netlink.LinkSetDown(w.byName("vip0")))
	eventually(t, "the socket has failed", func() bool {
		r := w.announcer.responders[socketKey{"vip0", f.family}]
		return !r.isBoundTo(&r.ifi)
	})
	w.setUp("vip0")
	w.takeOver("down and up", "vip0", want.takeOver, want.question, want.answer)

	w.must(netlink.LinkSetHardwareAddr(w.byName("vip0"), net.HardwareAddr{2, 0, 0, 0, 7, 7}))
	w.takeOver("another MAC", "vip0", want.takeOverOtherMAC, want.question, want.answerOfOtherMAC)
	w.must(netlink.LinkSetHardwareAddr(w.byName("vip0"), wireMAC))
	w.takeOver("the first MAC", "vip0", want.takeOver, want.question, want.answer)

	if errors.Is(netlink.LinkSetName(w.byName("vip0"), "new0"), unix.EBUSY) { // before Linux 6.2, while it is up
		w.must(netlink.LinkSetDown(w.byName("vip0")))
		w.must(netlink.LinkSetName(w.byName("vip0"), "new0"))
		w.setUp("new0")
	}
	w.set("vip0", true)
	if left := w.announcer.responders; len(left) > 0 {
		t.Errorf("the address is still answered for after the interface was renamed, although it is not held")
	}
	w.takeOver("renamed", "new0", want.takeOver, want.question, want.answer)

	w.must(netlink.LinkDel(w.byName("new0")))
	w.set("new0", true)
	again := newVethPair(t, f.family)
	w.vethPair = again
	w.must(netlink.LinkSetHardwareAddr(w.byName("vip0"), wireMAC))
	w.takeOver("deleted and added again", "vip0", want.takeOver, want.question, want.answer)
	w.announcer.Close()
	if left := w.announcer.responders; len(left) > 0 {
		t.Errorf("%d responders are left", len(left))
	}
}

var wireMAC = net.HardwareAddr{2, 0, 0, 0, 0, 1}

// wire is a veth pair with a tap on the host's end, and an Announcer.
type wire struct {
	*vethPair
	t         *testing.T
	f         familyTest
	announcer *Announcer
}

func newWire(t *testing.T, f familyTest) *wire {
	w := &wire{newVethPair(t, f.family), t, f, New(slog.Default(), func() {})}
	t.Cleanup(w.announcer.Close)
	w.must(netlink.LinkSetHardwareAddr(w.byName("vip0"), wireMAC))
	return w
}

func (w *wire) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *wire) byName(name string) netlink.Link {
	w.t.Helper()
	l, err := netlink.LinkByName(name)
	w.must(err)
	return l
}

func (w *wire) add(l netlink.Link) {
	w.t.Helper()
	w.must(netlink.LinkAdd(l))
	w.t.Cleanup(func() { _ = netlink.LinkDel(l) })
}

func (w *wire) setUp(name string) {
	w.t.Helper()
	w.must(netlink.LinkSetUp(w.byName(name)))
	eventually(w.t, name+" is up", func() bool { return w.byName(name).Attrs().OperState == netlink.OperUp })
}

// set announces the address on the interface.
func (w *wire) set(iface string, fails bool) {
	w.t.Helper()
	held, err := w.announcer.Set(w.t.Context(), map[netip.Addr]Claim{w.f.vip: {Interfaces: []string{iface}}})
	if (err != nil) != fails || (len(held) == 0) != fails {
		w.t.Fatalf("held %v, %v", held, err)
	}
}

// takeOver announces the address on the interface, and compares what is sent for that and
// for a question.
func (w *wire) takeOver(name, iface string, announcement []string, question, answer string) {
	w.t.Helper()
	w.set(iface, false)
	eventually(w.t, "it was announced, and multicast questions are received", func() bool {
		if w.f.vip.Is6() && !joinedGroups(w.t, iface)[solicitedNodeGroup(w.f.vip)] {
			return false
		}
		r := w.announcer.responders[socketKey{iface, w.f.family}]
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.tasks[w.f.vip].step == len(w.f.announce(wireMAC, w.f.vip))
	})
	w.expect(name, question, append(slices.Clone(announcement), answer))
}

// expect sends a frame and compares what the node sends before the answer to a later one.
func (w *wire) expect(name, received string, want []string) {
	w.t.Helper()
	frame, err := hex.DecodeString(strings.ReplaceAll(received, " ", ""))
	w.must(err)
	w.sendFrame(w.t, frame)
	later := net.HardwareAddr{2, 0, 0, 0, 0, 7}
	w.sendFrame(w.t, w.f.question(later, w.f.client.Next(), w.f.vip, nil))
	var got []string
	for {
		answer := w.receiveFrame(w.t)
		if slices.Equal(answer[:6], later) {
			break
		}
		got = append(got, hex.EncodeToString(answer))
	}
	want = slices.Clone(want)
	for i, frame := range want {
		want[i] = strings.ReplaceAll(frame, " ", "")
		want[i] += strings.Repeat("00", max(0, 60-len(want[i])/2)) // the shortest frame of Ethernet
	}
	if !slices.Equal(got, want) {
		w.t.Errorf("%s: got\n%s\nwant\n%s", name, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
