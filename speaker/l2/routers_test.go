package l2

import (
	"context"
	"log/slog"
	"net/netip"
	"strconv"
	"testing"
	"time"

	"github.com/mdlayher/ndp"
	"github.com/vishvananda/netlink"
)

// waitForRouter waits until the router on the interface is found.
func waitForRouter(t *testing.T, r *Routers, iface string) netip.Addr {
	t.Helper()
	eventually(t, "a router is found on "+iface, func() bool { return r.LinkLocalAddresses()[iface].IsValid() })
	return r.LinkLocalAddresses()[iface]
}

func linkLocal(t *testing.T, iface string) netip.Addr {
	t.Helper()
	l, err := netlink.LinkByName(iface)
	if err != nil {
		t.Fatal(err)
	}
	addrs, err := netlink.AddrList(l, netlink.FAMILY_V6)
	if err != nil || len(addrs) == 0 {
		t.Fatalf("%s has no link-local address: %v", iface, err)
	}
	addr, _ := netip.AddrFromSlice(addrs[0].IP)
	return addr.WithZone(iface)
}

// TestRouters checks that the two ends of a veth pair find each other, that a
// router's advertisement is preferred to a speaker's, and that an interface may be
// created later.
func TestRouters(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	changed := make(chan struct{}, 16)
	log := slog.New(slog.DiscardHandler)
	near := NewRouters(log, func() { changed <- struct{}{} })
	far := NewRouters(log, func() {})
	near.Set(ctx, []string{"vip0"}) // which does not exist yet
	newVethPair(t)
	far.Set(ctx, []string{"lan0"})
	if got, want := waitForRouter(t, near, "vip0").WithZone(""), linkLocal(t, "lan0").WithZone(""); got != want {
		t.Errorf("found %s, want %s", got, want)
	}
	if got, want := waitForRouter(t, far, "lan0").WithZone(""), linkLocal(t, "vip0").WithZone(""); got != want {
		t.Errorf("found %s, want %s", got, want)
	}
	<-changed

	near.recordRouter("vip0", netip.MustParseAddr("fe80::99%vip0"), false)
	if got := near.LinkLocalAddresses()["vip0"]; got.WithZone("") == netip.MustParseAddr("fe80::99") {
		t.Error("another speaker has replaced the router")
	}
	near.recordRouter("vip0", netip.MustParseAddr("fe80::42%vip0"), true)
	if got := near.LinkLocalAddresses()["vip0"]; got != netip.MustParseAddr("fe80::42%vip0") {
		t.Errorf("found %s, want the one that offers to be a gateway", got)
	}
	near.Set(ctx, nil)
	if len(near.LinkLocalAddresses()) > 0 {
		t.Errorf("found %v on interfaces that are no longer watched", near.LinkLocalAddresses())
	}
}

// TestAdvertisement checks that this node's advertisements do not make it a default
// gateway.
func TestAdvertisement(t *testing.T) {
	c := newVethPair(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	far := NewRouters(slog.New(slog.DiscardHandler), func() {})
	waitForLinkLocal(t, "lan0")
	numbered := *c.lan
	numbered.Name = strconv.Itoa(c.lan.Index)
	conn, _, err := ndp.Listen(&numbered, ndp.LinkLocal)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.JoinGroup(netip.MustParseAddr("ff02::1")); err != nil {
		t.Fatal(err)
	}
	if err := conn.SetReadDeadline(time.Now().Add(testTimeout)); err != nil {
		t.Fatal(err)
	}
	far.Set(ctx, []string{"vip0"})
	for {
		message, _, _, err := conn.ReadFrom()
		if err != nil {
			t.Fatal(err)
		}
		if ra, ok := message.(*ndp.RouterAdvertisement); ok {
			if ra.RouterLifetime != 0 {
				t.Errorf("the lifetime is %s", ra.RouterLifetime)
			}
			return
		}
	}
}

// waitForLinkLocal waits until the interface has a link-local address that is not
// tentative.
func waitForLinkLocal(t *testing.T, iface string) {
	t.Helper()
	eventually(t, iface+" has a link-local address", func() bool {
		l, err := netlink.LinkByName(iface)
		if err != nil {
			t.Fatal(err)
		}
		addrs, err := netlink.AddrList(l, netlink.FAMILY_V6)
		if err != nil {
			t.Fatal(err)
		}
		const tentative = 0x40 // IFA_F_TENTATIVE
		return len(addrs) > 0 && addrs[0].Flags&tentative == 0
	})
}
