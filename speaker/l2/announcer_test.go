package l2

import (
	"bytes"
	"context"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mdlayher/arp"
	"github.com/mdlayher/ethernet"
	"github.com/mdlayher/ndp"
	"github.com/mdlayher/packet"
	"github.com/vishvananda/netlink"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// testContract is the table that holds for the simulated and the real interface. The
// responder has the MAC and announces the family's address.
func testContract(t *testing.T, f familyTest, l testSegment, mac net.HardwareAddr) {
	question := f.question(clientMAC, f.client, f.vip, nil)
	probed := netip.IPv4Unspecified()
	if f.vip.Is6() {
		probed = netip.IPv6Unspecified()
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
		{"announcement of another host", f.announce(clientMAC, f.client, true)[0], ""},
		{"padded", append(slices.Clone(question), make([]byte, 18)...), answer},
		{"cut short", question[:map[bool]int{true: lengthARP, false: lengthND}[f.vip.Is4()]-1], ""},
		{"empty", question[:14], ""},
		{"of a loopback address", f.question(clientMAC, netip.MustParseAddr(map[bool]string{true: "127.0.0.1", false: "::1"}[f.vip.Is4()]), f.vip, nil), ""},
		{"of a group", f.question(clientMAC, netip.MustParseAddr(map[bool]string{true: "224.0.0.1", false: "ff02::1"}[f.vip.Is4()]), f.vip, nil), ""},
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
			row{"another code", patched(55, 1), ""},
			row{"wrong checksum", patched(56, 1, 1), ""},
			row{"an option without a length", withChecksum(patched(79, 0)), ""},
			row{"an option beyond the message", withChecksum(patched(79, 9)), ""},
			row{"advertisement", f.announce(clientMAC, f.client, true)[0], ""},
			row{"probe to its MAC and all nodes", encodeND(clientMAC, probed, allNodes, mac, &ndp.NeighborSolicitation{TargetAddress: f.vip}), ""},
		)
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			if got := strings.Join(f.answersTo(t, l, mac, row.frame, f.vip), "; "); got != row.want {
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
	s := newSimulatedSegment()
	loopback, err := net.InterfaceByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	ifi := &net.Interface{Index: loopback.Index, Name: "vip0", HardwareAddr: mac}
	known := &claimants{changed: changed, byAddr: map[netip.Addr][]Claimant{}, defended: map[netip.Addr]time.Time{}}
	return newResponder(t.Context(), ifi, f, s, known, slog.New(slog.DiscardHandler), changed), s
}

func TestContractSimulated(t *testing.T) {
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

// TestAnnouncements checks that an address that was taken over is announced at growing
// intervals by at most four frames, and a removed address not at all.
func TestAnnouncements(t *testing.T) {
	testFamilies(t, func(t *testing.T, f familyTest) {
		synctest.Test(t, func(t *testing.T) {
			mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
			r, s := newSimulatedResponder(t, f.family, mac, func() {})
			defer r.closeAndWait()
			start := time.Now()
			if err := r.set(map[netip.Addr]mode{f.vip: announcing}); err != nil {
				t.Fatal(err)
			}
			var want []string
			at := time.Duration(0)
			for i, wait := range announceDelays {
				at += wait
				for _, frame := range f.announce(mac, f.vip, i == 0) {
					want = append(want, at.String()+" "+describe(t, frame))
				}
			}
			var got []string
			for range want {
				frame := <-s.out
				got = append(got, time.Since(start).Round(10*time.Millisecond).String()+" "+describe(t, frame))
			}
			if !slices.Equal(got, want) || len(got) > 4 {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
			time.Sleep(time.Hour)
			if len(s.out) > 0 {
				t.Errorf("%d more frames", len(s.out))
			}
			if err := r.set(map[netip.Addr]mode{f.vip: announcing, f.other: announcing}); err != nil {
				t.Fatal(err)
			}
			for range f.announce(mac, f.other, true) {
				if got := describe(t, <-s.out); !strings.Contains(got, f.other.String()) {
					t.Errorf("announced %s, which has been announced before", got)
				}
			}
			if err := r.set(map[netip.Addr]mode{f.vip: announcing}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Hour)
			if len(s.out) > 0 {
				t.Errorf("%d frames for an address that was removed", len(s.out))
			}
		})
	})
}

// TestAnnouncementOrder checks that each address is announced once before one is
// announced again, at the rate limit.
func TestAnnouncementOrder(t *testing.T) {
	for _, f := range familyTests {
		for _, n := range []int{1000, 5000} {
			synctest.Test(t, func(t *testing.T) {
				r, s := newSimulatedResponder(t, f.family, net.HardwareAddr{2, 0, 0, 0, 0, 1}, func() {})
				defer r.closeAndWait()
				desired := map[netip.Addr]mode{}
				for addr := f.vip; len(desired) < n; addr = addr.Next() {
					desired[addr] = announcing
				}
				start := time.Now()
				if err := r.set(desired); err != nil {
					t.Fatal(err)
				}
				seen, frames := map[string]int{}, 0
				perRound := len(f.announce(clientMAC, f.vip, true))
				for len(seen) < n {
					frame := <-s.out
					frames++
					offset := map[bool]int{true: offsetARPSender, false: offsetNDTarget}[f.vip.Is4()]
					seen[string(frame[offset:][:f.vip.BitLen()/8])]++
				}
				// The last address's first frame; its round may have a second one.
				if took := time.Since(start); took > time.Duration(n)*sendInterval*4/3 || frames > n*perRound {
					t.Errorf("%s: %d addresses took %s and %d frames", f, n, took, frames)
				}
				go func() {
					for range s.out {
						frames++
					}
				}()
				time.Sleep(time.Hour)
				synctest.Wait()
				if want := n * (perRound + len(announceDelays) - 1); frames != want || frames > 4*n {
					t.Errorf("%s: %d frames for %d addresses, want %d", f, frames, n, want)
				}
				close(s.out)
			})
		}
	}
}

// TestTakeOver checks that the kernel of a client on the segment, with a fresh entry
// for another MAC, accepts the announcement at once.
func TestTakeOver(t *testing.T) {
	testFamilies(t, func(t *testing.T, f familyTest) {
		c := newVethPair(t, f.family)
		lan0, err := netlink.LinkByName("lan0")
		if err != nil {
			t.Fatal(err)
		}
		address, err := netlink.ParseAddr(netip.PrefixFrom(f.client, f.own.Bits()).String())
		if err != nil {
			t.Fatal(err)
		}
		address.Flags |= unix.IFA_F_NODAD
		if err := netlink.AddrAdd(lan0, address); err != nil {
			t.Fatal(err)
		}
		entry := &netlink.Neigh{LinkIndex: c.lan.Index, State: netlink.NUD_REACHABLE, IP: f.vip.AsSlice(), HardwareAddr: otherMAC}
		if err := netlink.NeighSet(entry); err != nil {
			t.Fatal(err)
		}
		a := New(slog.Default(), func() {})
		defer a.Close()
		if _, err := a.Set(t.Context(), map[netip.Addr]Claim{f.vip: {Interfaces: []string{"vip0"}}}); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the client has the speaker's MAC", func() bool {
			entries, err := netlink.NeighList(c.lan.Index, netlink.FAMILY_ALL)
			if err != nil {
				t.Fatal(err)
			}
			return slices.ContainsFunc(entries, func(n netlink.Neigh) bool {
				return n.IP.Equal(f.vip.AsSlice()) && bytes.Equal(n.HardwareAddr, c.speaker.HardwareAddr)
			})
		})
	})
}

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

// TestSetReplacesClaims checks that each Set replaces the claims, also when an
// interface is missing or changes its MAC, and that Close leaves no socket.
func TestSetReplacesClaims(t *testing.T) {
	testFamilies(t, testSetReplacesClaims)
}

func testSetReplacesClaims(t *testing.T, f familyTest) {
	c := newVethPair(t, f.family)
	a := New(slog.Default(), func() {})
	claim := Claim{Interfaces: []string{"vip0"}}
	mac := c.speaker.HardwareAddr
	// only checks that one address is answered for, once, and the other is not.
	only := func(addr, not netip.Addr) bool {
		question := func(addr netip.Addr) []byte { return f.question(clientMAC, f.client, addr, nil) }
		return len(f.answersTo(t, c, mac, question(addr), addr)) == 1 && len(f.answersTo(t, c, mac, question(not), addr)) == 0
	}
	if _, err := a.Set(t.Context(), map[netip.Addr]Claim{f.vip: claim}); err != nil || !only(f.vip, f.other) {
		t.Errorf("one: %v", err)
	}
	if _, err := a.Set(t.Context(), map[netip.Addr]Claim{f.other: claim}); err != nil || !only(f.other, f.vip) {
		t.Errorf("the other: %v", err)
	}
	held, err := a.Set(t.Context(), map[netip.Addr]Claim{
		f.vip: {Interfaces: []string{"absent", "vip0"}}, f.other: {Interfaces: []string{"absent"}},
	})
	if err == nil || !strings.Contains(err.Error(), "announce on absent") || !only(f.vip, f.other) {
		t.Errorf("an interface that does not exist: %v", err)
	}
	if len(held) != 1 || !slices.Equal(held[f.vip].Interfaces, []string{"vip0"}) {
		t.Errorf("held %v", held)
	}
	// The interface gets another MAC: the next Set answers with the new one.
	vip0, err := netlink.LinkByName("vip0")
	if err != nil {
		t.Fatal(err)
	}
	mac = net.HardwareAddr{2, 0, 0, 0, 7, 7}
	if err := netlink.LinkSetHardwareAddr(vip0, mac); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Set(t.Context(), map[netip.Addr]Claim{f.vip: claim}); err != nil {
		t.Fatal(err)
	}
	if got := f.answersTo(t, c, mac, f.question(clientMAC, f.client, f.vip, nil), f.vip); len(got) != 1 || !strings.Contains(got[0], mac.String()) {
		t.Errorf("answered with %q, want the new MAC %s", got, mac)
	}
	a.Close()
	_ = c.tap.Close()
	sockets, err := os.ReadFile("/proc/net/packet")
	if err != nil {
		t.Fatal(err)
	}
	if lines := bytes.Count(sockets, []byte("\n")); lines > 1 {
		t.Errorf("sockets are left:\n%s", sockets)
	}
}

// TestInterfaceDownAndUp checks that an interface that was down is announced on again
// after the next Set.
func TestInterfaceDownAndUp(t *testing.T) {
	c := newVethPair(t, arpFamily{})
	a := New(slog.Default(), func() {})
	defer a.Close()
	claims := map[netip.Addr]Claim{vip: {Interfaces: []string{"vip0"}}}
	changed := make(chan struct{}, 100)
	ctx, cancel := context.WithCancel(t.Context())
	var watcher sync.WaitGroup
	watcher.Go(func() {
		WatchInterfaces(ctx, slog.Default(), func() { changed <- struct{}{} })
	})
	defer watcher.Wait()
	defer cancel()
	vip0, err := netlink.LinkByName("vip0")
	if err != nil {
		t.Fatal(err)
	}
	has := func(want bool) {
		t.Helper()
		deadline := time.After(testTimeout)
		for {
			interfaces, err := Interfaces()
			if err != nil {
				t.Fatal(err)
			}
			if slices.ContainsFunc(interfaces, func(l Interface) bool { return l.Name == "vip0" && l.Contains(vip) }) == want {
				return
			}
			select {
			case <-changed:
			case <-deadline:
				t.Fatalf("vip0 is not up=%t: %v", want, interfaces)
			}
		}
	}
	for range 2 {
		has(true)
		if _, err := a.Set(t.Context(), claims); err != nil {
			t.Fatal(err)
		}
		c.receiveFrame(t) // the announcement
		if err := netlink.LinkSetDown(vip0); err != nil {
			t.Fatal(err)
		}
		has(false)
		if _, err := a.Set(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		if err := netlink.LinkSetUp(vip0); err != nil {
			t.Fatal(err)
		}
	}
	has(true)
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
			raw, err := f.newFilter(slices.Collect(maps.Keys(owned)))
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
			vm, err := newVM(program)
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
					f.announce(clientMAC, addr, true)[0], f.announce(clientMAC, addr, true)[len(f.announce(clientMAC, addr, true))-1],
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
		f.Add(family.announce(clientMAC, family.vip, true)[0])
	}
	f.Add([]byte{})
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	f.Fuzz(func(t *testing.T, frame []byte) {
		for _, f := range familyTests {
			known := &claimants{changed: func() {}, byAddr: map[netip.Addr][]Claimant{}, defended: map[netip.Addr]time.Time{}}
			r := &responder{
				family: f.family, ifi: net.Interface{HardwareAddr: mac}, claimants: known, conn: newSimulatedSegment(),
				log: slog.New(slog.DiscardHandler), tasks: map[netip.Addr]*task{f.vip: {addr: f.vip}},
			}
			if answer := r.handle(t.Context(), frame); answer != nil && !strings.Contains(describe(t, answer), f.vip.String()+" is at "+mac.String()) {
				t.Errorf("%x: %s", frame, describe(t, answer))
			}
		}
	})
}

func BenchmarkAnswer(b *testing.B) {
	for _, f := range familyTests {
		b.Run(f.String(), func(b *testing.B) {
			mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
			r := &responder{family: f.family, ifi: net.Interface{HardwareAddr: mac}, tasks: map[netip.Addr]*task{f.vip: {addr: f.vip}}}
			frame := f.question(clientMAC, f.client, f.vip, nil)
			for b.Loop() {
				r.handle(b.Context(), frame)
			}
		})
	}
}
