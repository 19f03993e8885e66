package l2

import (
	"bytes"
	"encoding/binary"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

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
				frames := f.announce(mac, f.vip)
				if i > 0 {
					frames = frames[:1]
				}
				for _, frame := range frames {
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
			for range f.announce(mac, f.other) {
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
// announced again, in the order of the addresses and at the rate limit.
func TestAnnouncementOrder(t *testing.T) {
	for _, f := range familyTests {
		for _, n := range []int{1000, 5000, 20000} {
			synctest.Test(t, func(t *testing.T) {
				r, s := newSimulatedResponder(t, f.family, net.HardwareAddr{2, 0, 0, 0, 0, 1}, func() {})
				defer r.closeAndWait()
				desired := map[netip.Addr]mode{}
				for i := range n {
					b := f.vip.AsSlice()
					binary.BigEndian.PutUint32(b, binary.BigEndian.Uint32(b)+uint32(i)) // all in one solicited-node group
					addr, _ := netip.AddrFromSlice(b)
					desired[addr] = announcing
				}
				start := time.Now()
				if err := r.set(desired); err != nil {
					t.Fatal(err)
				}
				seen, last, frames := map[string]int{}, "", 0
				perRound := len(f.announce(clientMAC, f.vip))
				for len(seen) < n {
					frame := <-s.out
					if frames++; time.Since(start) == 0 && frames > batchSize*perRound {
						t.Errorf("%s: more than a batch at once", f)
					}
					offset := map[bool]int{true: offsetARPSender, false: offsetNDTarget}[f.vip.Is4()]
					addr := string(frame[offset:][:f.vip.BitLen()/8])
					if seen[addr] == 0 && addr < last {
						t.Fatalf("%s: %x is announced after %x", f, addr, last)
					}
					seen[addr]++
					last = addr
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

// TestAnnouncementPrecedesRepetitions checks that an address that is taken over while
// many announcements are to be repeated does not wait for them.
func TestAnnouncementPrecedesRepetitions(t *testing.T) {
	testFamilies(t, func(t *testing.T, f familyTest) {
		synctest.Test(t, func(t *testing.T) {
			r, s := newSimulatedResponder(t, f.family, net.HardwareAddr{2, 0, 0, 0, 0, 1}, func() {})
			defer r.closeAndWait()
			desired := map[netip.Addr]mode{}
			for i := range 20000 {
				b := f.vip.AsSlice()
				binary.BigEndian.PutUint32(b, binary.BigEndian.Uint32(b)+uint32(i)) // all in one solicited-node group
				addr, _ := netip.AddrFromSlice(b)
				desired[addr] = announcing
			}
			var announcedAt atomic.Int64
			start := time.Now()
			go func() {
				first := f.announce(net.HardwareAddr{2, 0, 0, 0, 0, 1}, f.other)[0]
				for frame := range s.out {
					if announcedAt.Load() == 0 && bytes.Equal(frame, first) {
						announcedAt.Store(int64(time.Since(start)))
					}
				}
			}()
			defer close(s.out)
			if err := r.set(desired); err != nil {
				t.Fatal(err)
			}
			time.Sleep(2010 * time.Millisecond) // all have been announced once, half of them are due again
			desired[f.other] = announcing
			addedAt := time.Since(start)
			if err := r.set(desired); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
			synctest.Wait()
			if waited := time.Duration(announcedAt.Load()) - addedAt; announcedAt.Load() == 0 || waited > 2*batchSize*sendInterval {
				t.Errorf("announced after %s", waited)
			}
		})
	})
}

// failingSocket fails to send every second frame.
type failingSocket struct {
	*simulatedSegment
	sent int
}

func (s *failingSocket) WriteTo(b []byte, to net.Addr) (int, error) {
	if s.sent++; s.sent%2 == 1 {
		return 0, unix.ENOBUFS
	}
	return s.simulatedSegment.WriteTo(b, to)
}

// TestSendingFails checks that a frame that cannot be sent does not keep others back.
func TestSendingFails(t *testing.T) {
	testFamilies(t, func(t *testing.T, f familyTest) {
		s := &failingSocket{simulatedSegment: newSimulatedSegment(loopbackIndex)}
		r := &responder{family: f.family, conn: s, log: slog.New(slog.DiscardHandler)}
		var frames []outgoing
		for range 10 {
			frames = append(frames, outgoing{frame: f.probe(wireMAC, f.vip)})
		}
		if r.send(t.Context(), frames...); len(s.out) != 5 {
			t.Errorf("%d frames were sent, want 5 of 10", len(s.out))
		}
	})
}
