package l2

import (
	"bytes"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// simulatedHost is an Announcer whose interface vip0 is connected to a simulated segment,
// and another host on this segment.
type simulatedHost struct {
	*Announcer
	f       familyTest
	mac     net.HardwareAddr // of vip0
	segment *simulatedSegment
	mu      sync.Mutex              // guards has
	changes atomic.Int64            // calls of changed
	has     map[netip.Addr]bool     // the addresses that the other host has
	probed  map[netip.Addr][]string // times since the start
	others  []string                // other frames that were sent, as describe returns them
}

// testSimulatedHosts runs a test for each family, in a bubble.
func testSimulatedHosts(t *testing.T, test func(t *testing.T, h *simulatedHost)) {
	testFamilies(t, func(t *testing.T, f familyTest) {
		vip0 := newVethPair(t, f.family).speaker
		synctest.Test(t, func(t *testing.T) {
			h := &simulatedHost{f: f, mac: vip0.HardwareAddr, has: map[netip.Addr]bool{}, probed: map[netip.Addr][]string{}}
			changed := func() { h.changes.Add(1) }
			h.Announcer, h.segment = New(slog.New(slog.DiscardHandler), changed), newSimulatedSegment(vip0.Index)
			r := newResponder(t.Context(), vip0, f.family, h.segment, &h.claimants, &h.hold, h.log, changed)
			h.responders[socketKey{"vip0", f.family}] = r
			go h.run(t)
			defer func() {
				h.Close()
				close(h.segment.out)
			}()
			test(t, h)
		})
	})
}

// run answers the probes of addresses that the other host has.
func (h *simulatedHost) run(t *testing.T) {
	start := time.Now()
	for frame := range h.segment.out {
		var addr netip.Addr
		if h.f.vip.Is4() {
			addr = netip.AddrFrom4([4]byte(frame[offsetARPTarget:]))
		} else {
			addr = netip.AddrFrom16([16]byte(frame[offsetNDTarget:]))
		}
		if !bytes.Equal(frame, h.f.probe(h.mac, addr)) {
			h.others = append(h.others, describe(t, frame))
			continue
		}
		h.probed[addr] = append(h.probed[addr], time.Since(start).Round(100*time.Millisecond).String())
		h.mu.Lock()
		has := h.has[addr]
		h.mu.Unlock()
		if has {
			unspecified := netip.IPv6Unspecified()
			if addr.Is4() {
				unspecified = netip.IPv4Unspecified()
			}
			h.segment.in <- h.f.answer(otherMAC, message{question: addr, sender: unspecified, mac: h.mac})
		}
	}
}

// set announces, probes or withholds the addresses on vip0 and returns those in force.
func (h *simulatedHost) set(t *testing.T, c Claim, addrs ...netip.Addr) map[netip.Addr]Claim {
	t.Helper()
	claims := map[netip.Addr]Claim{}
	c.Interfaces = []string{"vip0"}
	for _, addr := range addrs {
		claims[addr] = c
	}
	held, err := h.Set(t.Context(), claims)
	if err != nil {
		t.Fatal(err)
	}
	return held
}

// wait sleeps and waits until all that is due has been done.
func (h *simulatedHost) wait(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// announced sets the address, and waits until its announcements have been sent.
func (h *simulatedHost) announced(t *testing.T) {
	t.Helper()
	if held := h.set(t, Claim{}, h.f.vip); len(held) != 1 {
		t.Fatalf("held %v", held)
	}
	h.wait(time.Hour)
	h.others = nil
}

// TestProbe checks that an address is probed twice before it is announced, and not
// announced if a host answers. Many addresses are probed at the same time, and the host has
// more time to answer for them.
func TestProbe(t *testing.T) {
	for n, within := range map[int]time.Duration{1: 200 * time.Millisecond, 100: 260 * time.Millisecond, 1000: time.Second} {
		testSimulatedHosts(t, func(t *testing.T, h *simulatedHost) {
			var addrs []netip.Addr
			for addr := h.f.other; len(addrs) < n+1; addr = addr.Next() {
				addrs = append(addrs, addr)
			}
			h.has[addrs[0]] = true
			if held := h.set(t, Claim{Probe: true}, addrs...); len(held) > 0 {
				t.Fatalf("held before the probes: %d addresses", len(held))
			}
			h.wait(within)
			if len(h.others) > 0 {
				t.Errorf("sent before the probes were over: %q", h.others)
			}
			for addr, at := range h.probed {
				if len(at) != probes {
					t.Errorf("%s: probes %s", addr, at)
				}
			}
			if h.changes.Load() == 0 || len(h.probed) != len(addrs) {
				t.Errorf("%d changes, %d addresses probed", h.changes.Load(), len(h.probed))
			}
			held := h.set(t, Claim{Probe: true}, addrs...)
			if _, taken := held[addrs[0]]; taken || len(held) != n {
				t.Errorf("%d of %d addresses held after %s, the one in use: %t", len(held), n, within, taken)
			}
			claimants, _ := h.Claimants()
			if of := claimants[addrs[0]]; len(claimants) != 1 || len(of) != 1 || of[0].Interface != "vip0" || !bytes.Equal(of[0].MAC, otherMAC) {
				t.Errorf("claimants %v", claimants)
			}
			h.wait(time.Hour)
			if want := n * (len(h.f.announce(h.mac, addrs[1])) + len(announceDelays) - 1); len(h.others) != want {
				t.Errorf("%d announcements of %d addresses, want %d", len(h.others), n, want)
			}
			probed := h.probed[addrs[1]]
			if again := h.set(t, Claim{Probe: true}, addrs...); len(again) != len(held) {
				t.Errorf("%d addresses held later, want %d", len(again), len(held))
			}
			if h.wait(time.Hour); len(h.probed[addrs[1]]) != len(probed) {
				t.Error("an announced address was probed again")
			}
		})
	}
}

// TestProbeAgain checks that a claim from before the probes does not count after them, and
// that an address is probed again as long as a host answers.
func TestProbeAgain(t *testing.T) {
	testSimulatedHosts(t, func(t *testing.T, h *simulatedHost) {
		h.has[h.f.vip] = true
		h.set(t, Claim{Withhold: true}, h.f.vip)
		h.wait(5 * time.Second)
		isHeld := func() bool { return len(h.set(t, Claim{Probe: true}, h.f.vip)) == 1 }
		if isHeld() {
			t.Error("held before the probes")
		}
		h.wait(2 * time.Second)
		if isHeld() {
			t.Error("held although a host answers")
		}
		h.mu.Lock()
		h.has[h.f.vip] = false
		h.mu.Unlock()
		before := h.changes.Load()
		h.wait(2*reprobeInterval + probes*probeInterval) // the second wait
		if claimants, _ := h.Claimants(); len(claimants) > 0 || h.changes.Load() == before {
			t.Errorf("claimants %v after %d changes", claimants, h.changes.Load()-before)
		}
		if !isHeld() {
			t.Error("not held, although no host answers any more")
		}
	})
}

// TestDefer checks that a deferred address is probed but not announced, and announced at once
// when it is not deferred any more, unless another host has claimed it meanwhile.
func TestDefer(t *testing.T) {
	testSimulatedHosts(t, func(t *testing.T, h *simulatedHost) {
		isHeld := func(c Claim) bool { return len(h.set(t, c, h.f.vip)) == 1 }
		isHeld(Claim{Probe: true, Defer: true})
		h.wait(time.Minute)
		if isHeld(Claim{Probe: true, Defer: true}) || isHeld(Claim{Defer: true}) || len(h.others) > 0 || len(h.probed[h.f.vip]) != probes {
			t.Errorf("deferred: sent %q, probed %v", h.others, h.probed)
		}
		h.segment.in <- h.f.announce(otherMAC, h.f.vip)[0]
		h.wait(2 * probes * probeInterval)
		if isHeld(Claim{Probe: true, Defer: true}) || len(h.probed[h.f.vip]) != 2*probes {
			t.Errorf("not probed again after a claim: %v", h.probed)
		}
		h.wait(time.Minute)
		if !isHeld(Claim{Probe: true}) {
			t.Error("not announced at once")
		}
	})
}

// TestNodeClaimsAgain checks that a node that is known to have had an announced address
// causes a sync when it claims the address again, but not with each frame, and that another
// host does not.
func TestNodeClaimsAgain(t *testing.T) {
	testSimulatedHosts(t, func(t *testing.T, h *simulatedHost) {
		h.set(t, Claim{}, h.f.vip)
		claim := func() (syncs int64) {
			before := h.changes.Load()
			h.segment.in <- h.f.announce(otherMAC, h.f.vip)[0]
			h.wait(10 * time.Millisecond)
			return h.changes.Load() - before
		}
		if claim() != 1 {
			t.Error("no sync after the first claim")
		}
		h.wait(time.Minute / 2)
		if n := claim(); n != 0 {
			t.Errorf("%d syncs after another claim of a host", n)
		}
		h.SetNodes(map[string]bool{otherMAC.String(): true})
		h.wait(reannounceInterval)
		for i := range 50 {
			if n, want := claim(), max(int64(1-i), 0); n != want {
				t.Errorf("%d syncs after claim %d of a node, want %d", n, i, want)
			}
		}
	})
}

// TestClaimFromBeforeAnnouncement checks that the time for which a host claims an address
// begins with the announcement of the address.
func TestClaimFromBeforeAnnouncement(t *testing.T) {
	testSimulatedHosts(t, func(t *testing.T, h *simulatedHost) {
		h.has[h.f.vip] = true
		h.set(t, Claim{Withhold: true}, h.f.vip)
		h.wait(90 * time.Second)
		if claimants, _ := h.Claimants(); len(claimants[h.f.vip]) != 1 || claimants[h.f.vip][0].Last.Sub(claimants[h.f.vip][0].First) < time.Minute {
			t.Errorf("claimants %v", claimants)
		}
		h.set(t, Claim{}, h.f.vip)
		h.wait(time.Second)
		if claimants, _ := h.Claimants(); len(claimants[h.f.vip]) != 1 || claimants[h.f.vip][0].Last != claimants[h.f.vip][0].First {
			t.Errorf("claimants after the announcement %v", claimants)
		}
	})
}

// TestWithhold checks that a withheld address is neither announced nor answered for, and
// that it is probed at growing intervals until the host is gone.
func TestWithhold(t *testing.T) {
	testSimulatedHosts(t, func(t *testing.T, h *simulatedHost) {
		h.has[h.f.vip] = true
		claimed := func() bool {
			claimants, _ := h.Claimants()
			return len(claimants[h.f.vip]) == 1
		}
		if held := h.set(t, Claim{Withhold: true}, h.f.vip); len(held) > 0 {
			t.Fatalf("held %v", held)
		}
		h.wait(0)
		h.segment.in <- h.f.question(clientMAC, h.f.client, h.f.vip, nil)
		h.wait(time.Second)
		if changes := h.changes.Load(); changes == 0 {
			t.Error("the claim was not reported")
		} else if h.wait(99 * time.Second); h.changes.Load() != changes {
			t.Error("a change was reported although the host has answered again")
		}
		h.set(t, Claim{Withhold: true}, h.f.vip) // does not start again
		if !claimed() {
			t.Error("the claimant was forgotten, although it answers")
		}
		h.mu.Lock()
		h.has[h.f.vip] = false
		h.mu.Unlock()
		h.wait(54500 * time.Millisecond) // 154.5 s
		changes := h.changes.Load()
		if !claimed() {
			t.Error("the claimant was forgotten before the time for its answer was over")
		}
		h.wait(time.Second)
		if claimed() || h.changes.Load() == changes {
			t.Error("the claimant was not forgotten")
		}
		h.wait(500 * time.Second)
		want := []string{"0s", "11s", "32s", "1m13s", "2m34s", "5m15s", "7m56s", "10m37s"}
		if got := h.probed[h.f.vip]; !slices.Equal(got, want) || len(h.others) > 0 {
			t.Errorf("probed at %s, want %s; sent %q", got, want, h.others)
		}
		h.set(t, Claim{Probe: true}, h.f.vip)
		h.wait(200 * time.Millisecond)
		if held := h.set(t, Claim{Probe: true}, h.f.vip); len(held) != 1 {
			t.Error("not held after the host was gone")
		}
	})
}

// TestDefence checks that an announced address is announced again after the claim of
// another host, at most once in ten seconds, and not after that of a node.
func TestDefence(t *testing.T) {
	testSimulatedHosts(t, func(t *testing.T, h *simulatedHost) {
		node := net.HardwareAddr{2, 0, 0, 0, 0xab, 1}
		h.SetNodes(map[string]bool{node.String(): true})
		h.announced(t)
		for range 60 {
			h.segment.in <- h.f.announce(otherMAC, h.f.vip)[0]
			h.wait(time.Second)
		}
		perDefence := len(h.f.announce(h.mac, h.f.vip))
		if want := 6 * perDefence; len(h.others) != want {
			t.Errorf("%d frames in a minute, want %d: %q", len(h.others), want, h.others)
		}
		h.others = nil
		for range 60 {
			h.segment.in <- h.f.announce(node, h.f.vip)[0]
			h.segment.in <- h.f.announce(h.mac, h.f.vip)[0] // a frame that the network sent back
			h.wait(time.Second)
		}
		if len(h.others) > 0 {
			t.Errorf("answered a node by %q", h.others)
		}
		claimants, _ := h.Claimants()
		if of := claimants[h.f.vip]; len(of) != 1 || !bytes.Equal(of[0].MAC, node) {
			t.Errorf("claimants %v, want the node", of)
		}
	})
}

// TestReturningNode checks that an announced address is not announced again after the claim
// of a host that turns out to be a node of the cluster, nor after its removal.
func TestReturningNode(t *testing.T) {
	testSimulatedHosts(t, func(t *testing.T, h *simulatedHost) {
		for _, row := range []struct {
			name   string
			then   func()
			frames int
		}{
			{"the node's report arrives", func() { h.SetNodes(map[string]bool{otherMAC.String(): true}) }, 0},
			{"the address is removed", func() { h.set(t, Claim{}, h.f.other) }, 0},
			{"nothing happens", func() {}, len(h.f.announce(h.mac, h.f.vip))},
		} {
			h.SetNodes(nil)
			h.set(t, Claim{}, h.f.vip, h.f.other)
			h.announced(t)
			h.Claimants() // removes that of the row before
			h.segment.in <- h.f.announce(otherMAC, h.f.vip)[0]
			h.wait(claimDelay / 2)
			if claimants, _ := h.Claimants(); len(claimants) > 0 {
				t.Errorf("%s: claimants %v before the delay", row.name, claimants)
			}
			row.then()
			h.wait(time.Minute)
			frames := slices.DeleteFunc(h.others, func(f string) bool { return !strings.Contains(f, h.f.vip.String()) })
			if len(frames) != row.frames {
				t.Errorf("%s: %d frames, want %d: %q", row.name, len(frames), row.frames, frames)
			}
		}
	})
}

// TestClaimsExpire checks that a claim of an announced address counts for a minute, and
// that the removal of the address ends it.
func TestClaimsExpire(t *testing.T) {
	testSimulatedHosts(t, func(t *testing.T, h *simulatedHost) {
		h.announced(t)
		expect := func(claims int, want time.Duration) {
			t.Helper()
			if claimants, next := h.Claimants(); len(claimants) != claims || next != want {
				t.Errorf("claimants %v, the next one expires in %s, want %d and %s", claimants, next, claims, want)
			}
		}
		expect(0, 0)
		for range 2 {
			h.segment.in <- h.f.announce(otherMAC, h.f.vip)[0]
			h.wait(50 * time.Second)
			expect(1, 10*time.Second)
		}
		h.wait(10 * time.Second)
		expect(0, 0)
		h.segment.in <- h.f.announce(otherMAC, h.f.vip)[0]
		h.wait(0)
		expect(0, claimDelay)
		h.wait(claimDelay)
		expect(1, time.Minute-claimDelay)
		h.set(t, Claim{}, h.f.other)
		h.set(t, Claim{}, h.f.vip, h.f.other)
		expect(0, 0)
	})
}

// TestClaimFlood checks that a host that claims addresses with ever new MACs costs a
// bounded amount of memory, frames and calls of changed.
func TestClaimFlood(t *testing.T) {
	testSimulatedHosts(t, func(t *testing.T, h *simulatedHost) {
		h.announced(t)
		h.set(t, Claim{}, h.f.vip, h.f.other)
		h.wait(time.Hour)
		h.others = nil
		h.changes.Store(0)
		for i := range 10000 {
			mac := net.HardwareAddr{2, 1, 0, 0, byte(i >> 8), byte(i)}
			h.segment.in <- h.f.announce(mac, h.f.vip)[0]
			h.segment.in <- h.f.announce(mac, h.f.other)[0]
			h.segment.in <- h.f.announce(mac, h.f.client)[0] // another address
		}
		h.wait(claimDelay)
		claimants, _ := h.Claimants()
		if len(claimants) != 2 || len(claimants[h.f.vip]) != maxClaimants || len(claimants[h.f.other]) != maxClaimants {
			t.Errorf("claimants %v", claimants)
		}
		if got := h.changes.Load(); got > 2*maxClaimants {
			t.Errorf("changed was called %d times", got)
		}
		if want := 2 * len(h.f.announce(h.mac, h.f.vip)); len(h.others) != want {
			t.Errorf("%d frames were sent, want %d", len(h.others), want)
		}
	})
}

// TestProbeKernel checks probes with another host on a real segment: the kernel, and an
// Announcer.
func TestProbeKernel(t *testing.T) {
	testFamilies(t, func(t *testing.T, f familyTest) {
		w := newWire(t, f)
		claims := func(c Claim) map[netip.Addr]Claim {
			c.Interfaces = []string{"vip0"}
			return map[netip.Addr]Claim{f.vip: c, f.other: {Interfaces: c.Interfaces, Probe: true}}
		}
		kernelAddr := addKernelAddr(t, "lan0", netip.PrefixFrom(f.vip, f.own.Bits()), unix.IFA_F_NODAD)
		second := New(slog.Default(), func() {})
		defer second.Close()
		for _, host := range []struct {
			name        string
			start, stop func()
		}{
			{"kernel", func() {}, func() { w.must(netlink.AddrDel(w.byName("lan0"), kernelAddr)) }},
			{"Announcer", func() {
				_, err := second.Set(t.Context(), map[netip.Addr]Claim{f.vip: {Interfaces: []string{"lan0"}}})
				w.must(err)
			}, second.Close},
		} {
			host.start()
			eventually(t, "only the other address is held: "+host.name, func() bool {
				held, err := w.announcer.Set(t.Context(), claims(Claim{Probe: true}))
				w.must(err)
				claimants, _ := w.announcer.Claimants()
				of := claimants[f.vip]
				if _, taken := held[f.vip]; taken {
					t.Fatalf("%s: held although a host answers: %v", host.name, held)
				}
				return len(held) == 1 && len(of) == 1 && bytes.Equal(of[0].MAC, w.lan.HardwareAddr)
			})
			host.stop()
			eventually(t, "the claim is forgotten: "+host.name, func() bool {
				_, err := w.announcer.Set(t.Context(), claims(Claim{Withhold: true}))
				w.must(err)
				claimants, _ := w.announcer.Claimants()
				return len(claimants) == 0
			})
			eventually(t, "both addresses are held: "+host.name, func() bool {
				held, err := w.announcer.Set(t.Context(), claims(Claim{Probe: true}))
				w.must(err)
				return len(held) == 2
			})
			_, err := w.announcer.Set(t.Context(), nil)
			w.must(err)
		}
	})
}

// TestClaimsOfUnusedInterface checks that a claim does not outlast the use of the
// interface that received it, where it is not asked for again.
func TestClaimsOfUnusedInterface(t *testing.T) {
	testFamilies(t, func(t *testing.T, f familyTest) {
		w := newWire(t, f)
		set := func(iface string) {
			_, err := w.announcer.Set(t.Context(), map[netip.Addr]Claim{f.vip: {Interfaces: []string{iface}, Withhold: true}})
			w.must(err)
		}
		set("vip0")
		w.sendFrame(t, f.announce(otherMAC, f.vip)[0])
		eventually(t, "the claim is known", func() bool {
			claimants, _ := w.announcer.Claimants()
			return len(claimants) == 1
		})
		set("lan0")
		if claimants, _ := w.announcer.Claimants(); len(claimants) > 0 {
			t.Errorf("claimants %v", claimants)
		}
	})
}

// addKernelAddr adds an address to an interface.
func addKernelAddr(t *testing.T, iface string, prefix netip.Prefix, flags int) *netlink.Addr {
	t.Helper()
	l, err := netlink.LinkByName(iface)
	if err != nil {
		t.Fatal(err)
	}
	addr, err := netlink.ParseAddr(prefix.String())
	if err != nil {
		t.Fatal(err)
	}
	addr.Flags |= flags
	if err := netlink.AddrAdd(l, addr); err != nil {
		t.Fatal(err)
	}
	return addr
}
