package l2

import (
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/packet"
	"github.com/vishvananda/netlink"
	"golang.org/x/net/bpf"
)

// TestForeignQuestionsDoNotWake checks that the kernel drops questions for other
// addresses, and other packets.
func TestForeignQuestionsDoNotWake(t *testing.T) {
	testFamilies(t, func(t *testing.T, f familyTest) {
		c := newVethPair(t, f.family)
		a := New(slog.Default(), func() {})
		defer a.Close()
		if _, err := a.Set(t.Context(), map[netip.Addr]Claim{f.vip: {Interfaces: []string{"vip0"}}}); err != nil {
			t.Fatal(err)
		}
		conn := a.responders[socketKey{"vip0", f.family}].conn.(*packet.Conn)
		if _, err := conn.Stats(); err != nil { // reading resets the counts
			t.Fatal(err)
		}
		addr := f.other
		for range 500 {
			c.sendFrame(t, f.question(clientMAC, f.client, addr, nil))
			c.sendFrame(t, f.question(clientMAC, f.client, addr, c.speaker.HardwareAddr))
			addr = addr.Next()
		}
		c.sendFrame(t, f.question(clientMAC, f.client, f.vip, nil))
		want := f.wantAnswer(c.speaker.HardwareAddr, f.vip, f.client, clientMAC)
		for describe(t, c.receiveFrame(t)) != want {
		}
		stats, err := conn.Stats()
		if err != nil {
			t.Fatal(err)
		}
		if stats.Packets != 1 {
			t.Errorf("%d packets passed the filter, want 1", stats.Packets)
		}
	})
}

// TestFilter checks that the questions for the addresses and the claims of them pass, a
// few others, and no frame without either, and that the number of instructions is bounded.
func TestFilter(t *testing.T) {
	testFamilies(t, func(t *testing.T, f familyTest) {
		random := rand.New(rand.NewPCG(1, 2))
		some := func() netip.Addr {
			b := f.vip.AsSlice()
			b[len(b)-2], b[len(b)-1] = byte(random.IntN(64)), byte(random.IntN(256))
			addr, _ := netip.AddrFromSlice(b)
			return addr
		}
		for _, n := range []int{0, 1, 2, 3, 250, 1000, 5000} {
			owned := map[netip.Addr]bool{}
			for len(owned) < n {
				owned[some()] = true
			}
			raw, err := f.newFilter(loopbackIndex, slices.Collect(maps.Keys(owned)))
			if err != nil {
				t.Fatal(err)
			}
			if len(raw) > maxInstructions {
				t.Errorf("%d addresses: %d instructions", n, len(raw))
			}
			program, ok := bpf.Disassemble(raw)
			if !ok {
				t.Fatal("the filter does not disassemble")
			}
			vm, err := newVM(program, loopbackIndex)
			if err != nil {
				t.Fatal(err)
			}
			passes := func(frame []byte) bool {
				n, err := vm.Run(frame)
				if err != nil {
					t.Fatal(err)
				}
				return n > 0
			}
			foreign, passed := 0, 0
			for range 5000 {
				addr := some()
				for _, frame := range [][]byte{
					f.question(clientMAC, f.client, addr, nil), f.probe(clientMAC, addr),
					f.announce(clientMAC, addr)[0], f.announce(clientMAC, addr)[len(f.announce(clientMAC, addr))-1],
				} {
					switch pass := passes(frame); {
					case owned[addr] && !pass:
						t.Fatalf("%d addresses: dropped: %s", n, describe(t, frame))
					case !owned[addr]:
						if foreign++; pass {
							passed++
						}
					}
				}
			}
			t.Logf("%5d addresses: %3d instructions, %d of %d foreign frames pass", n, len(raw), passed, foreign)
			if n <= 3 && passed > foreign/100 {
				t.Errorf("%d addresses: %d of %d foreign frames pass", n, passed, foreign)
			}
		}
	})
}

// FuzzAnswer checks that no frame makes a responder panic, or answer for an address that
// it does not have.
func FuzzAnswer(f *testing.F) {
	for _, family := range familyTests {
		f.Add(family.question(clientMAC, family.client, family.vip, nil))
		f.Add(family.probe(clientMAC, family.vip))
		f.Add(family.announce(clientMAC, family.vip)[0])
	}
	f.Add([]byte{})
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	f.Fuzz(func(t *testing.T, frame []byte) {
		for _, f := range familyTests {
			known := &claimants{changed: func() {}, byAddr: map[netip.Addr][]Claimant{}, defended: map[netip.Addr]time.Time{}}
			r := &responder{
				family: f.family, ifi: net.Interface{HardwareAddr: mac}, claimants: known, conn: newSimulatedSegment(loopbackIndex),
				hold: &hold{}, log: slog.New(slog.DiscardHandler), tasks: map[netip.Addr]*task{f.vip: {addr: f.vip}},
			}
			want := f.vip.String() + " is at " + mac.String()
			if answer := r.handle(t.Context(), frame).frame; answer != nil && !strings.Contains(describe(t, answer), want) {
				t.Errorf("%x: %s", frame, describe(t, answer))
			}
		}
	})
}

// TestOtherInterfacesDoNotWake checks that the kernel drops frames that the interface
// receives for another host or for another interface on it. VLAN interfaces are not
// tested, which receive frames in the same way as macvlan interfaces.
func TestOtherInterfacesDoNotWake(t *testing.T) {
	testFamilies(t, func(t *testing.T, f familyTest) {
		w := newWire(t, f)
		attrs := netlink.LinkAttrs{Name: "mv0", ParentIndex: w.byName("vip0").Attrs().Index, HardwareAddr: otherMAC}
		w.add(&netlink.Macvlan{LinkAttrs: attrs, Mode: netlink.MACVLAN_MODE_BRIDGE})
		w.setUp("mv0")
		w.set("vip0", false)
		conn := w.announcer.responders[socketKey{"vip0", f.family}].conn.(*packet.Conn)
		if _, err := conn.Stats(); err != nil { // reading resets the counts
			t.Fatal(err)
		}
		w.sendFrame(t, f.question(clientMAC, f.client, f.vip, otherMAC)) // to the macvlan interface
		w.sendFrame(t, f.question(clientMAC, f.client, f.vip, net.HardwareAddr{2, 0, 0, 0, 0, 5}))
		question := f.question(clientMAC, f.client, f.vip, nil)
		w.sendFrame(t, slices.Concat(question[:12], []byte{0x81, 0, 0, 7}, question[12:])) // VLAN 7
		w.sendFrame(t, question)
		want := f.wantAnswer(wireMAC, f.vip, f.client, clientMAC)
		for describe(t, w.receiveFrame(t)) != want {
		}
		stats, err := conn.Stats()
		if err != nil {
			t.Fatal(err)
		}
		if stats.Packets != 1 {
			t.Errorf("%d packets passed the filter, want 1", stats.Packets)
		}
	})
}
