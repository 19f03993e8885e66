package l2

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mdlayher/arp"
	"github.com/mdlayher/packet"
	"github.com/vishvananda/netlink"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// newTestAsker returns an Asker with a timeout that a busy machine does not exceed.
func newTestAsker(t *testing.T, timeout time.Duration) *Asker {
	a := NewAsker()
	a.timeout = timeout
	t.Cleanup(a.Close)
	return a
}

// announce announces addresses on vip0.
func announceAll(t *testing.T, addrs ...netip.Addr) {
	t.Helper()
	a := New(slog.Default(), func() {})
	t.Cleanup(a.Close)
	claims := make(map[netip.Addr]Claim)
	for _, addr := range addrs {
		claims[addr] = Claim{Interfaces: []string{"vip0"}}
	}
	if held, err := a.Set(t.Context(), claims); err != nil || len(held) != len(claims) {
		t.Fatalf("%d held: %v", len(held), err)
	}
}

// questionCount counts the questions that the interface vip0 receives by unicast.
type questionCount struct {
	tap     *packet.Conn
	mu      sync.Mutex
	counts  map[netip.Addr]int
	senders map[netip.Addr]bool
	arrived chan struct{} // closed by the last question
}

// countQuestions counts questions from lan0 to vip0.
func countQuestions(t *testing.T, c *vethPair, f familyTest) *questionCount {
	t.Helper()
	tap, err := packet.Listen(c.speaker, packet.Raw, int(f.etherType()), nil)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := tap.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	_ = raw.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20) })
	t.Cleanup(func() { _ = tap.Close() })
	q := &questionCount{tap: tap, counts: map[netip.Addr]int{}, senders: map[netip.Addr]bool{}, arrived: make(chan struct{})}
	last := f.lastQuestion()
	go func() {
		buf := make([]byte, 1500)
		for {
			n, _, err := tap.ReadFrom(buf)
			if err != nil {
				return
			}
			m, ok := f.parse(c.speaker.HardwareAddr, buf[:n])
			if !ok || !m.question.IsValid() {
				continue
			}
			if m.question == last {
				close(q.arrived)
				return
			}
			if bytes.Equal(buf[:6], c.speaker.HardwareAddr) && bytes.Equal(m.mac, c.lan.HardwareAddr) {
				q.mu.Lock()
				q.counts[m.question]++
				q.senders[m.sender] = true
				q.mu.Unlock()
			}
		}
	}()
	return q
}

// lastQuestion returns an address that only questionCount.total asks for.
func (f familyTest) lastQuestion() netip.Addr {
	return map[bool]netip.Addr{true: netip.MustParseAddr("192.0.2.250"), false: netip.MustParseAddr("2001:db8::fa")}[f.vip.Is4()]
}

// total returns the counts of all questions that were sent before.
func (q *questionCount) total(t *testing.T, c *vethPair, f familyTest) map[netip.Addr]int {
	t.Helper()
	c.sendFrame(t, f.question(clientMAC, f.client, f.lastQuestion(), nil))
	select {
	case <-q.arrived:
	case <-time.After(testTimeout):
		t.Fatal("the last question did not arrive")
	}
	if stats, err := q.tap.Stats(); err != nil || stats.Drops > 0 {
		t.Fatalf("frames were not counted: %+v, %v", stats, err)
	}
	return q.counts
}

// TestAsk checks which of two addresses an Announcer answers for, by two frames for the
// other one and by one for its own, with each kind of sender.
func TestAsk(t *testing.T) {
	testFamilies(t, func(t *testing.T, f familyTest) {
		linkLocal := netip.MustParseAddr("fe80::9")
		elsewhere := netip.MustParsePrefix("198.51.100.9/24")
		for _, test := range []struct {
			name   string
			v4, v6 bool
			own    netip.Prefix
			sender netip.Addr
		}{
			{"without an address", true, true, netip.Prefix{}, netip.Addr{}},
			{"address in the subnet", true, false, netip.PrefixFrom(f.client, f.own.Bits()), f.client},
			{"address in another subnet", true, false, elsewhere, elsewhere.Addr()},
			{"link-local address", false, true, netip.PrefixFrom(linkLocal, 64), linkLocal},
			{"global address only", false, true, netip.PrefixFrom(f.client, f.own.Bits()), netip.Addr{}},
			{"address that is asked for", true, true, netip.PrefixFrom(f.vip, f.vip.BitLen()), netip.Addr{}},
		} {
			if f.vip.Is4() && !test.v4 || f.vip.Is6() && !test.v6 {
				continue
			}
			t.Run(test.name, func(t *testing.T) {
				c := newVethPair(t, f.family)
				withoutLinkLocal(t, "lan0")
				if test.own.IsValid() {
					addKernelAddr(t, "lan0", test.own, unix.IFA_F_NODAD)
				}
				if !test.sender.IsValid() {
					test.sender = netip.IPv6Unspecified()
					if f.vip.Is4() {
						test.sender = netip.IPv4Unspecified()
					}
				}
				announceAll(t, f.vip)
				q := countQuestions(t, c, f)
				a := newTestAsker(t, time.Second/2)
				answered, err := a.Ask(t.Context(), "lan0", c.speaker.HardwareAddr, []netip.Addr{f.other, f.vip, f.vip})
				if err != nil || !slices.Equal(answered, []netip.Addr{f.vip}) {
					t.Errorf("answered %v, %v", answered, err)
				}
				begun := time.Now()
				a.timeout = testTimeout
				if answered, err = a.Ask(t.Context(), "lan0", c.speaker.HardwareAddr, []netip.Addr{f.vip}); err != nil || len(answered) != 1 {
					t.Errorf("answered %v, %v", answered, err)
				}
				if took := time.Since(begun); took > testTimeout/2 {
					t.Errorf("returned %s after the answer", took)
				}
				if got := q.total(t, c, f); got[f.vip] != 2 || got[f.other] != 2 || len(got) != 2 {
					t.Errorf("questions %v, want 1 for %s of each call, and 2 for %s", got, f.vip, f.other)
				}
				if !q.senders[test.sender] || len(q.senders) != 1 {
					t.Errorf("senders %v, want %s", q.senders, test.sender)
				}
				// The kernel of this end has recorded nothing.
				entries, err := netlink.NeighList(c.lan.Index, netlink.FAMILY_ALL)
				if err != nil {
					t.Fatal(err)
				}
				for _, n := range entries {
					if n.IP.Equal(f.vip.AsSlice()) || n.IP.Equal(f.other.AsSlice()) {
						t.Errorf("neighbor table: %v", n)
					}
				}
			})
		}
	})
}

// withoutLinkLocal removes the link-local addresses of an interface.
func withoutLinkLocal(t *testing.T, iface string) {
	t.Helper()
	link, err := netlink.LinkByName(iface)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, iface+" has no link-local address", func() bool {
		all, err := netlink.AddrList(link, netlink.FAMILY_V6)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range all {
			_ = netlink.AddrDel(link, &a)
		}
		return len(all) > 0 // it is added when the interface is up
	})
}

// TestAskFilter checks which frames are answers.
func TestAskFilter(t *testing.T) {
	testFamilies(t, func(t *testing.T, f familyTest) {
		own, host := clientMAC, net.HardwareAddr{2, 0, 0, 0, 0, 1}
		raw, err := f.newAnswerFilter(loopbackIndex, own)
		if err != nil || len(raw) > 50 {
			t.Fatalf("%d instructions: %v", len(raw), err)
		}
		program, _ := bpf.Disassemble(raw)
		vm, err := newVM(program, loopbackIndex)
		if err != nil {
			t.Fatal(err)
		}
		question, ok := f.parse(host, f.solicitation(own, f.client, f.vip, host))
		if !ok {
			t.Fatal("the question is not valid")
		}
		probe, ok := f.parse(host, f.solicitation(own, map[bool]netip.Addr{true: netip.IPv4Unspecified(), false: netip.IPv6Unspecified()}[f.vip.Is4()],
			f.vip, host))
		if !ok {
			t.Fatal("the question from the unspecified address is not valid")
		}
		good := f.answer(host, question)
		patched := func(offset int, value ...byte) []byte {
			frame := slices.Clone(good)
			copy(frame[offset:], value)
			return frame
		}
		type row struct {
			name  string
			frame []byte
			want  bool
		}
		length := map[bool]int{true: lengthARP, false: lengthND}[f.vip.Is4()]
		rows := []row{
			{"answer", good, true},
			{"answer to the unspecified address", f.answer(host, probe), true},
			{"padded", append(slices.Clone(good), make([]byte, 18)...), true},
			{"of another MAC", f.answer(otherMAC, question), false},
			{"for another address", f.answer(host, message{question: f.other, sender: f.client, mac: own}), false},
			{"to another host", f.answer(host, message{question: f.vip, sender: f.client, mac: otherMAC}), false},
			{"truncated", good[:length-1], false},
			{"empty", good[:14], false},
			{"question", f.solicitation(host, f.vip, f.client, own), false},
		}
		if f.vip.Is4() {
			rows = append(rows,
				row{"broadcast", f.announce(host, f.vip)[1], false},
				row{"request", encodeARP(arp.OperationRequest, host, f.vip, zeroMAC, f.vip, own), false},
				row{"another hardware type", patched(14, 0, 6), false},
			)
		} else {
			rows = append(rows,
				row{"to another group", append([]byte{0x33, 0x33, 0, 0, 0, 2}, good[6:]...), false},
				row{"to a MAC like that of all nodes", append([]byte{0x33, 0x33, 0, 0, 0, 9}, good[6:]...), false},
				row{"to a MAC like ours", append([]byte{2, 0, 0, 0, 0, 1}, good[6:]...), false},
				row{"hop limit 254", patched(21, 254), false},
				row{"wrong checksum", patched(56, 1, 1), false},
				row{"truncated in its option", good[:len(good)-1], false},
			)
		}
		for _, row := range rows {
			q := newInquiry(host, []netip.Addr{f.vip})
			q.tasks[f.vip].step = 1
			n, err := vm.Run(row.frame)
			if err != nil {
				t.Fatal(err)
			}
			if m, ok := f.parse(own, row.frame); ok && n > 0 {
				q.receiveAnswer(m.mac, m.claim)
			}
			if got := len(q.answered) == 1; got != row.want || got != q.hasEnded {
				t.Errorf("%s: answered %t, want %t", row.name, got, row.want)
			}
		}
	})
}

// TestAskAnotherMAC checks that answers of the segment's other hosts do not count.
func TestAskAnotherMAC(t *testing.T) {
	testFamilies(t, func(t *testing.T, f familyTest) {
		c := newVethPair(t, f.family)
		announceAll(t, f.vip)
		a := newTestAsker(t, 200*time.Millisecond)
		// The interface receives frames for another MAC, as a hub does.
		answered, err := a.Ask(t.Context(), "lan0", otherMAC, []netip.Addr{f.vip})
		if err != nil || len(answered) != 0 {
			t.Errorf("answered %v, %v", answered, err)
		}
		for _, mac := range []net.HardwareAddr{nil, {1, 2, 3, 4, 5, 6}, {2, 0, 0, 0, 0, 0, 0, 1}} {
			if _, err := a.Ask(t.Context(), "lan0", mac, []netip.Addr{f.vip}); err == nil || !strings.Contains(err.Error(), "lan0: invalid unicast MAC") {
				t.Errorf("%s: %v", mac, err)
			}
		}
		for _, addr := range []netip.Addr{{}, netip.MustParseAddr("224.0.0.1"), allNodes, netip.MustParseAddr("fe80::1%lan0")} {
			if _, err := a.Ask(t.Context(), "lan0", c.speaker.HardwareAddr, []netip.Addr{addr}); err == nil {
				t.Errorf("%s was asked for", addr)
			}
		}
	})
}

// TestAskMany checks 2,000 addresses of which every second one is answered for, exactly:
// one frame for each of those, two for each of the others.
func TestAskMany(t *testing.T) {
	testFamilies(t, func(t *testing.T, f familyTest) {
		c := newVethPair(t, f.family)
		var all, announced []netip.Addr
		for i := range uint32(2000) {
			b := f.vip.AsSlice()
			last := b[len(b)-4:]
			binary.BigEndian.PutUint32(last, binary.BigEndian.Uint32(last)&^0xffff|0x1000+i)
			addr, _ := netip.AddrFromSlice(b)
			all = append(all, addr)
			if i%2 == 0 {
				announced = append(announced, addr)
			}
		}
		announceAll(t, announced...)
		q := countQuestions(t, c, f)
		a := newTestAsker(t, 2*time.Second)
		slices.Reverse(all)
		begun := time.Now()
		answered, err := a.Ask(t.Context(), "lan0", c.speaker.HardwareAddr, all)
		if err != nil || !slices.Equal(answered, announced) {
			t.Errorf("%d answered, want %d: %v", len(answered), len(announced), err)
		}
		if took := time.Since(begun); took < 2000*askInterval*9/10 {
			t.Errorf("took %s: not at the rate limit", took)
		}
		counts := q.total(t, c, f)
		for _, addr := range all {
			want := 2
			if slices.Contains(announced, addr) {
				want = 1
			}
			if counts[addr] != want {
				t.Errorf("%d questions for %s, want %d", counts[addr], addr, want)
			}
		}
	})
}

// TestAskConcurrently checks that calls for the same and for different addresses and hosts
// share a socket.
func TestAskConcurrently(t *testing.T) {
	testFamilies(t, func(t *testing.T, f familyTest) {
		c := newVethPair(t, f.family)
		announceAll(t, f.vip)
		a := newTestAsker(t, time.Second)
		var calls sync.WaitGroup
		for i := range 30 {
			calls.Go(func() {
				mac, addrs, want := c.speaker.HardwareAddr, []netip.Addr{f.vip}, 1
				switch i % 3 {
				case 1:
					addrs = []netip.Addr{f.vip, f.other}
				case 2:
					mac, want = otherMAC, 0
				}
				if answered, err := a.Ask(t.Context(), "lan0", mac, addrs); err != nil || len(answered) != want {
					t.Errorf("%s at %s: answered %v, %v", addrs, mac, answered, err)
				}
			})
		}
		calls.Wait()
		a.mu.Lock()
		defer a.mu.Unlock()
		if s := a.sockets[socketKey{"lan0", f.family}]; len(a.sockets) != 1 || s.users != 0 || len(s.inquiries) != 0 {
			t.Errorf("%d sockets, %+v", len(a.sockets), s)
		}
	})
}

// TestAskInterfaceFails checks that missing answers are errors that name the interface if
// it is missing, down, replaced or deleted, and that the next call opens another socket.
func TestAskInterfaceFails(t *testing.T) {
	testFamilies(t, func(t *testing.T, f familyTest) {
		c := newVethPair(t, f.family)
		announceAll(t, f.vip)
		a := newTestAsker(t, testTimeout)
		ask := func(ctx context.Context, addrs ...netip.Addr) ([]netip.Addr, error) {
			return a.Ask(ctx, "lan0", c.speaker.HardwareAddr, addrs)
		}
		if answered, err := ask(t.Context(), f.vip); err != nil || len(answered) != 1 {
			t.Fatalf("answered %v, %v", answered, err)
		}
		if _, err := a.Ask(t.Context(), "absent", c.speaker.HardwareAddr, []netip.Addr{f.vip}); err == nil || !strings.Contains(err.Error(), "on absent") {
			t.Errorf("missing: %v", err)
		}
		lan0, err := netlink.LinkByName("lan0")
		if err != nil {
			t.Fatal(err)
		}
		// expectFailure calls fail while f.other, which is not announced, is asked for.
		expectFailure := func(name string, fail func() error) {
			t.Helper()
			q := countQuestions(t, c, f)
			result := make(chan error, 1)
			go func() {
				answered, err := ask(t.Context(), f.vip, f.other)
				if err != nil && !slices.Equal(answered, []netip.Addr{f.vip}) {
					err = fmt.Errorf("answered %v, %w", answered, err)
				}
				result <- err
			}()
			eventually(t, "it is asked for", func() bool {
				q.mu.Lock()
				defer q.mu.Unlock()
				return q.counts[f.other] > 0
			})
			eventually(t, "the other is answered", func() bool {
				a.mu.Lock()
				defer a.mu.Unlock()
				s := a.sockets[socketKey{"lan0", f.family}]
				s.mu.Lock()
				defer s.mu.Unlock()
				for q := range s.inquiries {
					return len(q.answered) == 1
				}
				return false
			})
			if err := fail(); err != nil {
				t.Fatal(err)
			}
			select {
			case err := <-result:
				if err == nil || !strings.Contains(err.Error(), "on lan0 by "+f.String()) || strings.Contains(err.Error(), "answered") {
					t.Errorf("%s: %v", name, err)
				}
			case <-time.After(testTimeout / 2):
				t.Fatalf("%s: the call did not return", name)
			}
		}
		expectFailure("down", func() error { return netlink.LinkSetDown(lan0) })
		if _, err := ask(t.Context(), f.vip); err == nil || !strings.Contains(err.Error(), "the interface is down") {
			t.Errorf("down: %v", err)
		}
		if err := netlink.LinkSetUp(lan0); err != nil {
			t.Fatal(err)
		}
		answers := func(name string) {
			t.Helper()
			eventually(t, name+": it is answered for", func() bool {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				answered, _ := ask(ctx, f.vip) // the carrier takes a moment
				return len(answered) == 1
			})
		}
		answers("up again")
		// With another MAC, the socket is another one.
		expectFailure("another MAC", func() error {
			if err := netlink.LinkSetHardwareAddr(lan0, net.HardwareAddr{2, 0, 0, 0, 7, 7}); err != nil {
				return err
			}
			_, err := ask(t.Context(), f.vip)
			return err
		})
		if c.lan, err = net.InterfaceByName("lan0"); err != nil {
			t.Fatal(err)
		}
		expectFailure("deleted", func() error { return netlink.LinkDel(lan0) })
		newVethPair(t, f.family)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := ask(ctx, f.vip); err == nil || !strings.Contains(err.Error(), "context canceled") {
			t.Errorf("canceled: %v", err)
		}
	})
}

// TestAskerClosesSockets checks that a socket that is not used is closed, and all are by
// Close, which ends the calls.
func TestAskerClosesSockets(t *testing.T) {
	testFamilies(t, func(t *testing.T, f familyTest) {
		c := newVethPair(t, f.family)
		_ = c.tap.Close()
		a := newTestAsker(t, time.Millisecond)
		a.idleTimeout = 10 * time.Millisecond
		sockets := func() int {
			all, err := os.ReadFile("/proc/thread-self/net/packet")
			if err != nil {
				t.Fatal(err)
			}
			return bytes.Count(all, []byte("\n")) - 1
		}
		for range 2 {
			if _, err := a.Ask(t.Context(), "lan0", otherMAC, []netip.Addr{f.vip}); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the socket is closed", func() bool { return sockets() == 0 })
		}
		a.timeout = testTimeout
		result := make(chan error)
		go func() {
			_, err := a.Ask(t.Context(), "lan0", otherMAC, []netip.Addr{f.vip})
			result <- err
		}()
		eventually(t, "the socket is open", func() bool { return sockets() == 1 })
		a.Close()
		if err := <-result; err == nil {
			t.Error("a call that Close has ended succeeded")
		}
		if _, err := a.Ask(t.Context(), "lan0", otherMAC, []netip.Addr{f.vip}); err == nil || sockets() != 0 {
			t.Errorf("after Close: %v, %d sockets", err, sockets())
		}
	})
}

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
