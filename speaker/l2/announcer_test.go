package l2

import (
	"bytes"
	"context"
	"errors"
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
	"golang.org/x/net/bpf"
)

// lan is what the contract needs of a link: to put a frame on it, and to hear
// what the responder says. It is a real cable, or a simulated one.
type lan interface {
	send(t *testing.T, frame []byte)
	// hear returns the next frame.
	hear(t *testing.T) []byte
}

func (c *cable) send(t *testing.T, frame []byte) {
	t.Helper()
	if _, err := c.tap.WriteTo(frame, &packet.Addr{HardwareAddr: frame[:6]}); err != nil {
		t.Fatal(err)
	}
}

func (c *cable) hear(t *testing.T) []byte {
	t.Helper()
	buf := make([]byte, 1500)
	if err := c.tap.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	n, _, err := c.tap.ReadFrom(buf)
	if err != nil {
		t.Fatal(err)
	}
	return buf[:n]
}

// simulated is a socket and the LAN behind it. Like the kernel, it runs the
// filter on what comes in.
type simulated struct {
	in, out chan []byte
	closed  chan struct{}
	once    sync.Once
	mu      sync.Mutex
	filter  *bpf.VM
}

func newSimulated() *simulated {
	return &simulated{in: make(chan []byte, 100), out: make(chan []byte, 100), closed: make(chan struct{})}
}

func (s *simulated) SetBPF(raw []bpf.RawInstruction) error {
	program, ok := bpf.Disassemble(raw)
	if !ok {
		return errors.New("the filter does not disassemble")
	}
	for i, ins := range program {
		if _, isLength := ins.(bpf.LoadExtension); isLength {
			program[i] = bpf.LoadExtension{Num: bpf.ExtLen}
		}
	}
	vm, err := bpf.NewVM(program)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.filter = vm
	return err
}

func (s *simulated) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		select {
		case <-s.closed:
			return 0, nil, net.ErrClosed
		case frame := <-s.in:
			s.mu.Lock()
			n, err := s.filter.Run(frame)
			s.mu.Unlock()
			if err != nil || n > 0 {
				return copy(b, frame), nil, err
			}
		}
	}
}

func (s *simulated) WriteTo(b []byte, _ net.Addr) (int, error) {
	s.out <- slices.Clone(b)
	return len(b), nil
}

func (s *simulated) Close() error {
	s.once.Do(func() { close(s.closed) })
	return nil
}

func (s *simulated) LocalAddr() net.Addr              { return nil }
func (s *simulated) SetDeadline(time.Time) error      { return nil }
func (s *simulated) SetReadDeadline(time.Time) error  { return nil }
func (s *simulated) SetWriteDeadline(time.Time) error { return nil }

func (s *simulated) send(_ *testing.T, frame []byte) { s.in <- frame }

func (s *simulated) hear(t *testing.T) []byte {
	t.Helper()
	select {
	case f := <-s.out:
		return f
	case <-time.After(patience):
		t.Fatal("no frame came")
		return nil
	}
}

// answers sends a frame and returns what is sent to its sender before a later
// request for an address that is held is answered. Announcements do not count.
func answers(t *testing.T, l lan, frame []byte, held netip.Addr) (all []string) {
	t.Helper()
	later, laterIP := net.HardwareAddr{2, 0, 0, 0, 0, 7}, netip.MustParseAddr("192.0.2.7")
	l.send(t, frame)
	l.send(t, encode(arp.OperationRequest, later, laterIP, nobody, held, ethernet.Broadcast))
	for {
		answer := l.hear(t)
		switch destination := net.HardwareAddr(answer[:6]); {
		case bytes.Equal(destination, later):
			return all
		case !bytes.Equal(destination, ethernet.Broadcast):
			all = append(all, decode(t, answer))
		}
	}
}

var (
	asker    = net.HardwareAddr{2, 0, 0, 0, 0, 9}
	askerIP  = netip.MustParseAddr("192.0.2.9")
	stranger = net.HardwareAddr{2, 0, 0, 0, 0, 8}
	nobody   = net.HardwareAddr{0, 0, 0, 0, 0, 0}
)

// decode reads a frame as "op SENDER MAC for TARGET MAC to DESTINATION".
func decode(t *testing.T, b []byte) string {
	t.Helper()
	var eth ethernet.Frame
	var p arp.Packet
	if err := eth.UnmarshalBinary(b); err != nil {
		t.Fatal(err)
	}
	if err := p.UnmarshalBinary(eth.Payload); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d %s %s for %s %s to %s", p.Operation, p.SenderIP, p.SenderHardwareAddr, p.TargetIP, p.TargetHardwareAddr, eth.Destination)
}

// contract is the table that the simulated and the real link both obey.
func contract(t *testing.T, l lan, mac net.HardwareAddr) {
	request := func(to net.HardwareAddr, sender, target netip.Addr) []byte {
		return encode(arp.OperationRequest, asker, sender, nobody, target, to)
	}
	answer := fmt.Sprintf("2 %s %s for %s %s to %s", vip, mac, askerIP, asker, asker)
	short := request(ethernet.Broadcast, askerIP, vip)[:41]
	odd := request(ethernet.Broadcast, askerIP, vip)
	odd[18] = 8 // a hardware address of eight bytes, which the frame does not have
	for _, row := range []struct {
		name  string
		frame []byte
		want  string
	}{
		{"broadcast request", request(ethernet.Broadcast, askerIP, vip), answer},
		{"unicast request, as clients refresh", request(mac, askerIP, vip), answer},
		{"probe", request(ethernet.Broadcast, netip.IPv4Unspecified(), vip), fmt.Sprintf("2 %s %s for 0.0.0.0 %s to %s", vip, mac, asker, asker)},
		{"request to another host", request(stranger, askerIP, vip), ""},
		{"request for another address", request(ethernet.Broadcast, askerIP, netip.MustParseAddr("192.0.2.78")), ""},
		{"somebody's announcement of our address", request(ethernet.Broadcast, vip, vip), ""},
		{"reply", encode(arp.OperationReply, asker, askerIP, mac, vip, mac), ""},
		{"cut short", short, ""},
		{"wrong lengths", odd, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			if got := strings.Join(answers(t, l, row.frame, vip), "; "); got != row.want {
				t.Errorf("got  %q\nwant %q", got, row.want)
			}
		})
	}
}

func TestContractSimulated(t *testing.T) {
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	s := newSimulated()
	r := newResponder(t.Context(), &net.Interface{Index: 1, HardwareAddr: mac}, s, slog.Default(), func() {})
	defer r.close()
	r.mu.Lock()
	r.addrs[vip] = true // without a burst
	r.mu.Unlock()
	program, err := filter([]netip.Addr{vip})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.SetBPF(program); err != nil {
		t.Fatal(err)
	}
	contract(t, s, mac)
}

func TestContractReal(t *testing.T) {
	c := newCable(t)
	a := New(slog.Default(), func() {})
	defer a.Close()
	held, err := a.Set(t.Context(), map[netip.Addr]Claim{vip: {Interfaces: []string{"vip0"}}})
	if err != nil || len(held) != 1 {
		t.Fatalf("held %v, %v", held, err)
	}
	contract(t, c, c.speaker.HardwareAddr)
}

// TestBurst: an address that was taken over is announced in both forms at
// growing intervals, then never again; one that was given up, no more at all.
func TestBurst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
		s := newSimulated()
		r := newResponder(t.Context(), &net.Interface{Index: 1, HardwareAddr: mac}, s, slog.Default(), func() {})
		defer r.close()
		start := time.Now()
		if err := r.set([]netip.Addr{vip}); err != nil {
			t.Fatal(err)
		}
		var got []string
		for i := range 4 * len(bursts) {
			if i == 2*len(bursts) {
				time.Sleep(time.Hour)
				break
			}
			frame := <-s.out
			got = append(got, fmt.Sprintf("%s %s", time.Since(start).Round(10*time.Millisecond), decode(t, frame)))
		}
		var want []string
		at := time.Duration(0)
		for _, wait := range bursts {
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
		if err := r.set([]netip.Addr{vip, other}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		for range 2 {
			if got := decode(t, <-s.out); !strings.Contains(got, other.String()) {
				t.Errorf("announced %s, which is no news", got)
			}
		}
		if err := r.set([]netip.Addr{vip}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		if len(s.out) > 0 {
			t.Errorf("%d frames for an address that was given up", len(s.out))
		}
	})
}

// TestTakeOver: the kernel of a client on the LAN, whose entry is fresh and
// names another machine, believes the announcement at once.
func TestTakeOver(t *testing.T) {
	c := newCable(t)
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
	entry := &netlink.Neigh{LinkIndex: c.lan.Index, State: netlink.NUD_REACHABLE, IP: vip.AsSlice(), HardwareAddr: stranger}
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

// TestForeignARPDoesNotWake: the kernel drops what does not matter.
func TestForeignARPDoesNotWake(t *testing.T) {
	c := newCable(t)
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
		c.send(t, encode(arp.OperationRequest, asker, askerIP, nobody, other, ethernet.Broadcast))
	}
	c.send(t, encode(arp.OperationRequest, asker, askerIP, nobody, vip, ethernet.Broadcast))
	answer := fmt.Sprintf("2 %s %s for %s %s to %s", vip, c.speaker.HardwareAddr, askerIP, asker, asker)
	for decode(t, c.hear(t)) != answer {
	}
	stats, err := conn.Stats()
	if err != nil {
		t.Fatal(err)
	}
	if stats.Packets != 1 {
		t.Errorf("%d packets came through the filter, want 1", stats.Packets)
	}
}

// TestSetFollowsTheWish: claims come and go, links too, and nothing is left.
func TestSetFollowsTheWish(t *testing.T) {
	c := newCable(t)
	a := New(slog.Default(), func() {})
	other := netip.MustParseAddr("192.0.2.78")
	claim := Claim{Interfaces: []string{"vip0"}}
	// only checks that one address is answered for, once, and the other is not.
	only := func(addr, not netip.Addr) bool {
		request := func(addr netip.Addr) []byte {
			return encode(arp.OperationRequest, asker, askerIP, nobody, addr, ethernet.Broadcast)
		}
		return len(answers(t, c, request(addr), addr)) == 1 && len(answers(t, c, request(not), addr)) == 0
	}
	if _, err := a.Set(t.Context(), map[netip.Addr]Claim{vip: claim}); err != nil || !only(vip, other) {
		t.Errorf("one: %v", err)
	}
	if _, err := a.Set(t.Context(), map[netip.Addr]Claim{other: claim}); err != nil || !only(other, vip) {
		t.Errorf("the other: %v", err)
	}
	held, err := a.Set(t.Context(), map[netip.Addr]Claim{vip: {Interfaces: []string{"absent", "vip0"}}, other: {Interfaces: []string{"absent"}}})
	if err == nil || !strings.Contains(err.Error(), "announce on absent") || !only(vip, other) {
		t.Errorf("a link that is not there: %v", err)
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
	request := encode(arp.OperationRequest, asker, askerIP, nobody, vip, ethernet.Broadcast)
	if got := answers(t, c, request, vip); len(got) != 1 || !strings.Contains(got[0], mac.String()) {
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

// TestLinkDownAndUp: a link that went down answers again after the next Set.
func TestLinkDownAndUp(t *testing.T) {
	c := newCable(t)
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
		deadline := time.After(patience)
		for {
			links, err := Interfaces()
			if err != nil {
				t.Fatal(err)
			}
			if slices.ContainsFunc(links, func(l Interface) bool { return l.Name == "vip0" && l.Contains(vip) }) == want {
				return
			}
			select {
			case <-changed:
			case <-deadline:
				t.Fatalf("vip0 is not up=%t: %v", want, links)
			}
		}
	}
	for range 2 {
		has(true)
		if _, err := a.Set(t.Context(), claims); err != nil {
			t.Fatal(err)
		}
		c.hear(t) // the announcement
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

// TestFilter: the program lets through exactly the requests for its addresses,
// however many and however scattered; beyond its size, at least those.
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
		s := newSimulated()
		program, err := filter(addrs)
		if err != nil {
			t.Fatal(err)
		}
		if len(program) > 4096 {
			t.Errorf("%d addresses: %d instructions", n, len(program))
		}
		if err := s.SetBPF(program); err != nil {
			t.Fatal(err)
		}
		exact := len(spans(addrs)) < maxRanges
		through := 0
		for range 20000 {
			a := some()
			verdict, err := s.filter.Run(encode(arp.OperationRequest, asker, askerIP, nobody, a, ethernet.Broadcast))
			if err != nil {
				t.Fatal(err)
			}
			if owned[a] && verdict == 0 || exact && !owned[a] && verdict != 0 {
				t.Fatalf("%d addresses: %s: owned is %t, verdict %d", n, a, owned[a], verdict)
			}
			if verdict != 0 {
				through++
			}
		}
		t.Logf("%5d addresses: %4d instructions, %d of 20000 through", n, len(program), through)
	}
}

// FuzzReply: no frame makes the responder panic, or answer for an address that
// it does not own.
func FuzzReply(f *testing.F) {
	f.Add(encode(arp.OperationRequest, asker, askerIP, nobody, vip, ethernet.Broadcast))
	f.Add([]byte{})
	r := &responder{ifi: net.Interface{HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 1}}, addrs: map[netip.Addr]bool{vip: true}}
	f.Fuzz(func(t *testing.T, frame []byte) {
		reply, _ := r.reply(frame)
		if reply != nil && !strings.HasPrefix(decode(t, reply), "2 "+vip.String()+" 02:00:00:00:00:01 ") {
			t.Errorf("%x: %s", frame, decode(t, reply))
		}
	})
}

func BenchmarkReply(b *testing.B) {
	r := &responder{ifi: net.Interface{HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 1}}, addrs: map[netip.Addr]bool{vip: true}}
	frame := encode(arp.OperationRequest, asker, askerIP, nobody, vip, ethernet.Broadcast)
	for b.Loop() {
		r.reply(frame)
	}
}
