package l2

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
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
	"github.com/mdlayher/packet"
	"github.com/vishvananda/netlink"
)

// testContract is the table that holds for the simulated and the real interface.
func testContract(t *testing.T, l testSegment, mac net.HardwareAddr) {
	request := func(to net.HardwareAddr, sender, target netip.Addr) []byte {
		return encodeARP(arp.OperationRequest, clientMAC, sender, zeroMAC, target, to)
	}
	answer := fmt.Sprintf("2 %s %s for %s %s to %s", vip, mac, clientIP, clientMAC, clientMAC)
	short := request(ethernet.Broadcast, clientIP, vip)[:41]
	odd := request(ethernet.Broadcast, clientIP, vip)
	odd[18] = 8 // a hardware address of eight bytes, which the frame does not have
	for _, row := range []struct {
		name  string
		frame []byte
		want  string
	}{
		{"broadcast request", request(ethernet.Broadcast, clientIP, vip), answer},
		{"unicast request, as clients refresh", request(mac, clientIP, vip), answer},
		{
			"probe", request(ethernet.Broadcast, netip.IPv4Unspecified(), vip),
			fmt.Sprintf("2 %s %s for 0.0.0.0 %s to %s", vip, mac, clientMAC, clientMAC),
		},
		{"request to another host", request(otherMAC, clientIP, vip), ""},
		{"request for another address", request(ethernet.Broadcast, clientIP, netip.MustParseAddr("192.0.2.78")), ""},
		{"gratuitous ARP of another host for the address", request(ethernet.Broadcast, vip, vip), ""},
		{"reply", encodeARP(arp.OperationReply, clientMAC, clientIP, mac, vip, mac), ""},
		{"cut short", short, ""},
		{"wrong lengths", odd, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			if got := strings.Join(answersTo(t, l, row.frame, vip), "; "); got != row.want {
				t.Errorf("got  %q\nwant %q", got, row.want)
			}
		})
	}
}

func TestContractSimulated(t *testing.T) {
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	s := newSimulatedSegment()
	r := newResponder(t.Context(), &net.Interface{Index: 1, HardwareAddr: mac}, s, slog.Default(), func() {})
	defer r.closeAndWait()
	r.mu.Lock()
	r.addrs[vip] = true // without a burst
	r.mu.Unlock()
	program, err := newFilter([]netip.Addr{vip})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.SetBPF(program); err != nil {
		t.Fatal(err)
	}
	testContract(t, s, mac)
}

func TestContractReal(t *testing.T) {
	c := newVethPair(t)
	a := New(slog.Default(), func() {})
	defer a.Close()
	held, err := a.Set(t.Context(), map[netip.Addr]Claim{vip: {Interfaces: []string{"vip0"}}})
	if err != nil || len(held) != 1 {
		t.Fatalf("held %v, %v", held, err)
	}
	testContract(t, c, c.speaker.HardwareAddr)
}

// TestBurst checks that an address that was taken over is announced in both forms, at
// growing intervals and a limited number of times, and a removed address not at all.
func TestBurst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
		s := newSimulatedSegment()
		r := newResponder(t.Context(), &net.Interface{Index: 1, HardwareAddr: mac}, s, slog.Default(), func() {})
		defer r.closeAndWait()
		start := time.Now()
		if err := r.setAddresses([]netip.Addr{vip}); err != nil {
			t.Fatal(err)
		}
		var got []string
		for i := range 4 * len(burstDelays) {
			if i == 2*len(burstDelays) {
				time.Sleep(time.Hour)
				break
			}
			frame := <-s.out
			got = append(got, fmt.Sprintf("%s %s", time.Since(start).Round(10*time.Millisecond), decodeARP(t, frame)))
		}
		var want []string
		at := time.Duration(0)
		for _, wait := range burstDelays {
			at += wait
			want = append(want,
				fmt.Sprintf("%s 1 %s %s for %s 00:00:00:00:00:00 to ff:ff:ff:ff:ff:ff", at, vip, mac, vip),
				fmt.Sprintf("%s 2 %s %s for %s %s to ff:ff:ff:ff:ff:ff", at, vip, mac, vip, mac))
		}
		if !slices.Equal(got, want) {
			t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		if len(s.out) > 0 {
			t.Errorf("%d frames after the burst", len(s.out))
		}

		other := netip.MustParseAddr("192.0.2.78")
		if err := r.setAddresses([]netip.Addr{vip, other}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		for range 2 {
			if got := decodeARP(t, <-s.out); !strings.Contains(got, other.String()) {
				t.Errorf("announced %s, which has been announced before", got)
			}
		}
		if err := r.setAddresses([]netip.Addr{vip}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		if len(s.out) > 0 {
			t.Errorf("%d frames for an address that was removed", len(s.out))
		}
	})
}

// TestTakeOver checks that the kernel of a client on the segment, with a fresh entry
// for another MAC, accepts the announcement at once.
func TestTakeOver(t *testing.T) {
	c := newVethPair(t)
	lan0, err := netlink.LinkByName("lan0")
	if err != nil {
		t.Fatal(err)
	}
	address, err := netlink.ParseAddr("192.0.2.200/24")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.AddrAdd(lan0, address); err != nil {
		t.Fatal(err)
	}
	entry := &netlink.Neigh{LinkIndex: c.lan.Index, State: netlink.NUD_REACHABLE, IP: vip.AsSlice(), HardwareAddr: otherMAC}
	if err := netlink.NeighSet(entry); err != nil {
		t.Fatal(err)
	}
	a := New(slog.Default(), func() {})
	defer a.Close()
	if _, err := a.Set(t.Context(), map[netip.Addr]Claim{vip: {Interfaces: []string{"vip0"}}}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the client has the speaker's MAC", func() bool {
		entries, err := netlink.NeighList(c.lan.Index, netlink.FAMILY_V4)
		if err != nil {
			t.Fatal(err)
		}
		return slices.ContainsFunc(entries, func(n netlink.Neigh) bool {
			return n.IP.Equal(vip.AsSlice()) && bytes.Equal(n.HardwareAddr, c.speaker.HardwareAddr)
		})
	})
}

// TestForeignARPDoesNotWake checks that the kernel drops requests for other addresses.
func TestForeignARPDoesNotWake(t *testing.T) {
	c := newVethPair(t)
	a := New(slog.Default(), func() {})
	defer a.Close()
	if _, err := a.Set(t.Context(), map[netip.Addr]Claim{vip: {Interfaces: []string{"vip0"}}}); err != nil {
		t.Fatal(err)
	}
	conn := a.responders["vip0"].conn.(*packet.Conn)
	if _, err := conn.Stats(); err != nil { // reading resets the counts
		t.Fatal(err)
	}
	for i := range 1000 {
		other := netip.AddrFrom4([4]byte{198, 51, 100, byte(i)})
		c.sendFrame(t, encodeARP(arp.OperationRequest, clientMAC, clientIP, zeroMAC, other, ethernet.Broadcast))
	}
	c.sendFrame(t, encodeARP(arp.OperationRequest, clientMAC, clientIP, zeroMAC, vip, ethernet.Broadcast))
	answer := fmt.Sprintf("2 %s %s for %s %s to %s", vip, c.speaker.HardwareAddr, clientIP, clientMAC, clientMAC)
	for decodeARP(t, c.receiveFrame(t)) != answer {
	}
	stats, err := conn.Stats()
	if err != nil {
		t.Fatal(err)
	}
	if stats.Packets != 1 {
		t.Errorf("%d packets passed the filter, want 1", stats.Packets)
	}
}

// TestSetReplacesClaims checks that each Set replaces the claims, also when an
// interface is missing or changes its MAC, and that Close leaves no socket.
func TestSetReplacesClaims(t *testing.T) {
	c := newVethPair(t)
	a := New(slog.Default(), func() {})
	other := netip.MustParseAddr("192.0.2.78")
	claim := Claim{Interfaces: []string{"vip0"}}
	// only checks that one address is answered for, once, and the other is not.
	only := func(addr, not netip.Addr) bool {
		request := func(addr netip.Addr) []byte {
			return encodeARP(arp.OperationRequest, clientMAC, clientIP, zeroMAC, addr, ethernet.Broadcast)
		}
		return len(answersTo(t, c, request(addr), addr)) == 1 && len(answersTo(t, c, request(not), addr)) == 0
	}
	if _, err := a.Set(t.Context(), map[netip.Addr]Claim{vip: claim}); err != nil || !only(vip, other) {
		t.Errorf("one: %v", err)
	}
	if _, err := a.Set(t.Context(), map[netip.Addr]Claim{other: claim}); err != nil || !only(other, vip) {
		t.Errorf("the other: %v", err)
	}
	held, err := a.Set(t.Context(), map[netip.Addr]Claim{
		vip: {Interfaces: []string{"absent", "vip0"}}, other: {Interfaces: []string{"absent"}},
	})
	if err == nil || !strings.Contains(err.Error(), "announce on absent") || !only(vip, other) {
		t.Errorf("an interface that does not exist: %v", err)
	}
	if len(held) != 1 || !slices.Equal(held[vip].Interfaces, []string{"vip0"}) {
		t.Errorf("held %v", held)
	}
	// The interface gets another MAC: the next Set answers with the new one.
	vip0, err := netlink.LinkByName("vip0")
	if err != nil {
		t.Fatal(err)
	}
	mac := net.HardwareAddr{2, 0, 0, 0, 7, 7}
	if err := netlink.LinkSetHardwareAddr(vip0, mac); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Set(t.Context(), map[netip.Addr]Claim{vip: claim}); err != nil {
		t.Fatal(err)
	}
	request := encodeARP(arp.OperationRequest, clientMAC, clientIP, zeroMAC, vip, ethernet.Broadcast)
	if got := answersTo(t, c, request, vip); len(got) != 1 || !strings.Contains(got[0], mac.String()) {
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
	c := newVethPair(t)
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

// TestFilter checks that exactly the requests for the filter's addresses pass, or at
// least those if there are too many ranges for the program.
func TestFilter(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	some := func() netip.Addr {
		return netip.AddrFrom4([4]byte{10, 0, byte(random.IntN(64)), byte(random.IntN(256))})
	}
	for _, n := range []int{0, 1, 2, 3, 250, 400, 5000} {
		owned := map[netip.Addr]bool{}
		var addrs []netip.Addr
		for len(owned) < n {
			if a := some(); !owned[a] {
				owned[a] = true
				addrs = append(addrs, a)
			}
		}
		s := newSimulatedSegment()
		program, err := newFilter(addrs)
		if err != nil {
			t.Fatal(err)
		}
		if len(program) > 4096 {
			t.Errorf("%d addresses: %d instructions", n, len(program))
		}
		if err := s.SetBPF(program); err != nil {
			t.Fatal(err)
		}
		exact := len(coverRanges(addrs)) < maxRanges
		through := 0
		for range 20000 {
			a := some()
			accepted, err := s.filter.Run(encodeARP(arp.OperationRequest, clientMAC, clientIP, zeroMAC, a, ethernet.Broadcast))
			if err != nil {
				t.Fatal(err)
			}
			if owned[a] && accepted == 0 || exact && !owned[a] && accepted != 0 {
				t.Fatalf("%d addresses: %s: owned is %t, the filter returned %d", n, a, owned[a], accepted)
			}
			if accepted != 0 {
				through++
			}
		}
		t.Logf("%5d addresses: %4d instructions, %d of 20000 through", n, len(program), through)
	}
}

// FuzzReply checks that no frame makes the responder panic, or answer for an address
// that it does not own.
func FuzzReply(f *testing.F) {
	f.Add(encodeARP(arp.OperationRequest, clientMAC, clientIP, zeroMAC, vip, ethernet.Broadcast))
	f.Add([]byte{})
	r := &arpResponder{ifi: net.Interface{HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 1}}, addrs: map[netip.Addr]bool{vip: true}}
	f.Fuzz(func(t *testing.T, frame []byte) {
		reply, _ := r.buildReply(frame)
		if reply != nil && !strings.HasPrefix(decodeARP(t, reply), "2 "+vip.String()+" 02:00:00:00:00:01 ") {
			t.Errorf("%x: %s", frame, decodeARP(t, reply))
		}
	})
}

func BenchmarkReply(b *testing.B) {
	r := &arpResponder{ifi: net.Interface{HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 1}}, addrs: map[netip.Addr]bool{vip: true}}
	frame := encodeARP(arp.OperationRequest, clientMAC, clientIP, zeroMAC, vip, ethernet.Broadcast)
	for b.Loop() {
		r.buildReply(frame)
	}
}
