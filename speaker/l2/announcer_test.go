package l2

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// TestSetReplacesClaims checks that each Set replaces the claims, also when an
// interface is missing or changes its MAC, and that Close leaves no socket.
func TestSetReplacesClaims(t *testing.T) {
	testFamilies(t, testSetReplacesClaims)
}

func testSetReplacesClaims(t *testing.T, f familyTest) {
	c := newVethPair(t, f.family)
	a := New(slog.Default(), func() {})
	claim := Claim{Interfaces: []string{"vip0"}}
	// only checks that one address is answered for, once, and the other is not.
	only := func(addr, not netip.Addr) bool {
		question := func(addr netip.Addr) []byte { return f.question(clientMAC, f.client, addr, nil) }
		return len(f.answersTo(t, c, question(addr), addr)) == 1 && len(f.answersTo(t, c, question(not), addr)) == 0
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
	mac := net.HardwareAddr{2, 0, 0, 0, 7, 7}
	if err := netlink.LinkSetHardwareAddr(vip0, mac); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Set(t.Context(), map[netip.Addr]Claim{f.vip: claim}); err != nil {
		t.Fatal(err)
	}
	question := f.question(clientMAC, f.client, f.vip, nil)
	if got := f.answersTo(t, c, question, f.vip); len(got) != 1 || !strings.Contains(got[0], mac.String()) {
		t.Errorf("answered with %q, want the new MAC %s", got, mac)
	}
	a.Close()
	_ = c.tap.Close()
	sockets, err := os.ReadFile("/proc/thread-self/net/packet")
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
