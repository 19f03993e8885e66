package l2

import (
	"bytes"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/packet"

	"github.com/fairlead-io/fairlead/speaker/internal/netnstest"
)

// TestSmallOptionMemory checks that 1,000 scattered addresses of each family can be
// replaced and are answered for with the default of net.core.optmem_max before Linux 6.8,
// which bounds the filter of a socket and its memberships in groups.
func TestSmallOptionMemory(t *testing.T) {
	setOptionMemory(t, "20480")
	testFamilies(t, func(t *testing.T, f familyTest) {
		const n = 1000
		c := newVethPair(t, f.family)
		a := New(slog.Default(), func() {})
		defer a.Close()
		before := openSockets(t)
		first, second := scatteredClaims(f, n, 1), scatteredClaims(f, n, 2)
		for range 2 { // a filter of the full size is replaced by one of the full size
			for _, claims := range []map[netip.Addr]Claim{first, second} {
				if held, err := a.Set(t.Context(), claims); err != nil || len(held) != n {
					t.Fatalf("%d addresses held: %v", len(held), err)
				}
			}
		}
		if f.vip.Is6() {
			eventually(t, "all groups are joined", func() bool { return len(joinedGroups(t, "vip0")) >= n })
			if opened := openSockets(t) - before; opened < 3 {
				t.Errorf("%d sockets were opened, want one for frames and several for memberships: the limit is not in effect", opened)
			}
		}
		answered := map[netip.Addr]bool{}
		for deadline := time.Now().Add(testTimeout); len(answered) < n; {
			if time.Now().After(deadline) {
				t.Fatalf("%d of %d addresses were answered for within %s", len(answered), n, testTimeout)
			}
			for addr := range second {
				if answered[addr] {
					continue
				}
				c.sendFrame(t, f.question(clientMAC, f.client, addr, nil))
				f.receiveAnswers(t, c.tap, answered)
			}
		}
		for addr := range answered {
			if _, ok := second[addr]; !ok {
				t.Errorf("%s was answered for, which was removed", addr)
			}
		}
	})
}

// openSockets returns the number of sockets of the process.
func openSockets(t *testing.T) (n int) {
	t.Helper()
	descriptors, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range descriptors {
		if target, err := os.Readlink(d); err == nil && strings.HasPrefix(target, "socket:") {
			n++
		}
	}
	return n
}

// receiveAnswers adds the addresses that are answered for to answered, until no frame
// is received for a while.
func (f familyTest) receiveAnswers(t *testing.T, tap *packet.Conn, answered map[netip.Addr]bool) {
	buf := make([]byte, 1500)
	if err := tap.SetReadDeadline(time.Now().Add(10 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	for {
		n, _, err := tap.ReadFrom(buf)
		if err != nil {
			return // the deadline; a question is repeated
		}
		if addr, ok := f.announcedAddr(buf[:n]); ok && bytes.Equal(buf[:6], clientMAC) {
			answered[addr] = true
			return
		}
	}
}

// announcedAddr returns the address that a frame of the node is about.
func (f familyTest) announcedAddr(frame []byte) (addr netip.Addr, ok bool) {
	if f.vip.Is4() {
		return netip.AddrFrom4([4]byte(frame[offsetARPSender:])), true
	}
	if len(frame) < lengthND || frame[offsetNextHeader] != protocolICMPv6 || frame[offsetICMPv6] != 136 {
		return netip.Addr{}, false
	}
	return netip.AddrFrom16([16]byte(frame[offsetNDTarget:])), true
}

// scatteredClaims returns claims of n addresses that differ in their last three bytes,
// which decide on the solicited-node group.
func scatteredClaims(f familyTest, n int, seed uint32) map[netip.Addr]Claim {
	claims := make(map[netip.Addr]Claim, n)
	for x := seed; len(claims) < n; x = x*1664525 + 1013904223 {
		b := f.vip.AsSlice()
		b[len(b)-3], b[len(b)-2], b[len(b)-1] = byte(x>>24), byte(x>>16), byte(x>>8)|2
		addr, _ := netip.AddrFromSlice(b)
		claims[addr] = Claim{Interfaces: []string{"vip0"}}
	}
	return claims
}

// setOptionMemory sets net.core.optmem_max, which each network namespace has since Linux
// 6.8, for the test.
func setOptionMemory(t *testing.T, value string) {
	t.Helper()
	const path = "/proc/sys/net/core/optmem_max"
	old, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		netnstest.Skip(t, "net.core.optmem_max is not in network namespaces, as before Linux 6.8")
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(value), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.WriteFile(path, old, 0o644); err != nil {
			t.Error(err)
		}
	})
}
