package l2

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"github.com/mdlayher/ndp"
	"github.com/vishvananda/netlink"
)

// waitForRouter waits until the router on the interface is found.
func waitForRouter(t *testing.T, r *Routers, iface string) netip.Addr {
	t.Helper()
	eventually(t, "a router is found on "+iface, func() bool { return r.LinkLocalAddresses()[iface].IsValid() })
	return r.LinkLocalAddresses()[iface]
}

// noSession is for routers without a session.
func noSession(netip.Addr) bool { return false }

// testRouter is a router on lan0, in a network namespace of its own. Its kernel answers
// neighbor solicitations.
type testRouter struct {
	t    *testing.T
	ns   int
	conn *ndp.Conn // bound to addr
	addr netip.Addr
}

// newTestRouter moves lan0 to a new namespace and adds the address there.
func newTestRouter(t *testing.T, c *vethPair, addr string) *testRouter {
	t.Helper()
	r := &testRouter{t: t, addr: netip.MustParseAddr(addr)}
	self, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(self)
	r.onThread(func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		r.ns, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		return err
	})
	t.Cleanup(func() { _ = unix.Close(r.ns) })
	if err := netlink.LinkSetNsFd(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: c.lan.Index}}, r.ns); err != nil {
		t.Fatal(err)
	}
	r.inNamespace(func() error { return netlink.LinkSetUp(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Name: "lan0"}}) })
	// The kernel must not solicit routers as well.
	if err := os.WriteFile("/proc/sys/net/ipv6/conf/vip0/accept_ra", []byte("0"), 0o644); err != nil {
		t.Fatal(err)
	}
	r.conn = r.listen(addr)
	return r
}

// awaitSpeaker waits until the speaker advertises itself, which it does when it listens.
func (r *testRouter) awaitSpeaker() {
	r.t.Helper()
	receive(r.t, r.conn, "the advertisement of the speaker", func(m ndp.Message) bool {
		ra, ok := m.(*ndp.RouterAdvertisement)
		return ok && isSpeaker(ra)
	})
}

// onThread runs work on a new thread, which ends afterwards.
func (r *testRouter) onThread(work func() error) {
	r.t.Helper()
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		result <- work()
	}()
	if err := <-result; err != nil {
		r.t.Fatal(err)
	}
}

func (r *testRouter) inNamespace(work func() error) {
	r.t.Helper()
	r.onThread(func() error {
		if err := unix.Setns(r.ns, unix.CLONE_NEWNET); err != nil {
			return err
		}
		return work()
	})
}

// listen adds the address to lan0 and returns a socket that is bound to it.
func (r *testRouter) listen(addr string) (conn *ndp.Conn) {
	r.t.Helper()
	r.inNamespace(func() error {
		a, err := netlink.ParseAddr(addr + "/64")
		if err != nil {
			return err
		}
		a.Flags = unix.IFA_F_NODAD
		if err := netlink.AddrAdd(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Name: "lan0"}}, a); err != nil {
			return err
		}
		ifi, err := net.InterfaceByName("lan0")
		if err != nil {
			return err
		}
		ifi.Name = strconv.Itoa(ifi.Index)
		if conn, _, err = ndp.Listen(ifi, ndp.Addr(addr)); err != nil {
			return err
		}
		return errors.Join(conn.JoinGroup(allNodes), conn.JoinGroup(allRouters))
	})
	r.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// stopAnswering removes the address, so that the kernel no longer answers
// solicitations for it.
func (r *testRouter) stopAnswering() {
	r.t.Helper()
	r.inNamespace(func() error {
		a, err := netlink.ParseAddr(r.addr.String() + "/64")
		if err != nil {
			return err
		}
		return netlink.AddrDel(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Name: "lan0"}}, a)
	})
}

// advertise sends a router advertisement to the speaker.
func (r *testRouter) advertise(lifetime time.Duration) { advertise(r.t, r.conn, nil, lifetime) }

func advertise(t *testing.T, conn *ndp.Conn, cm *ipv6.ControlMessage, lifetime time.Duration, options ...ndp.Option) {
	t.Helper()
	if err := conn.WriteTo(&ndp.RouterAdvertisement{RouterLifetime: lifetime, Options: options}, cm, allNodes); err != nil {
		t.Fatal(err)
	}
}

// receive waits for a message for which is returns true.
func receive(t *testing.T, conn *ndp.Conn, what string, is func(ndp.Message) bool) {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(testTimeout)); err != nil {
		t.Fatal(err)
	}
	for {
		message, _, _, err := conn.ReadFrom()
		if err != nil {
			t.Fatalf("waiting for %s: %v", what, err)
		}
		if is(message) {
			return
		}
	}
}

// TestRoutersIgnored checks the advertisements that must not be accepted: those of
// speakers, of other segments, and from addresses that are not link-local. A router's
// with a lifetime of zero is. The interface may be created later.
func TestRoutersIgnored(t *testing.T) {
	var log bytes.Buffer
	changed := make(chan struct{}, 16)
	near := NewRouters(slog.New(slog.NewTextHandler(&log, nil)), noSession, func() { changed <- struct{}{} })
	stopped := make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	near.mu.Lock()
	near.watches["vip0"] = &routerWatch{stop: cancel}
	near.mu.Unlock()
	go func() { defer close(stopped); near.runDiscovery(ctx, "vip0") }() // vip0 does not exist yet
	c := newVethPair(t, ndpFamily{})
	r := newTestRouter(t, c, "fe80::42")
	r.awaitSpeaker()
	advertise(t, r.listen("fe80::1"), nil, time.Hour, speakerOption)
	advertise(t, r.listen("2001:db8::1"), nil, time.Hour)
	far := r.listen("fe80::2")
	advertise(t, far, &ipv6.ControlMessage{HopLimit: 64, Src: net.ParseIP("fe80::2")}, time.Hour)
	r.advertise(0)
	if got, want := waitForRouter(t, near, "vip0"), r.addr.WithZone("vip0"); got != want {
		t.Errorf("found %s, want %s", got, want)
	}
	near.Set(t.Context(), nil)
	<-stopped
	if len(near.LinkLocalAddresses()) > 0 {
		t.Errorf("found %v on interfaces that are no longer watched", near.LinkLocalAddresses())
	}
	if got := strings.Count(log.String(), "router found"); got != 1 || len(changed) != 1 {
		t.Errorf("%d routers were found, %d changes:\n%s", got, len(changed), &log)
	}
}

// TestRouterUnreachable checks that a router that advertised itself once is kept as long
// as it answers neighbor solicitations, and lost afterwards, and that the others are
// then solicited.
func TestRouterUnreachable(t *testing.T) {
	c := newVethPair(t, ndpFamily{})
	r := newTestRouter(t, c, "fe80::42")
	changed := make(chan struct{}, 16)
	near := NewRouters(slog.New(slog.DiscardHandler), noSession, func() { changed <- struct{}{} })
	near.reachableTime, near.retransmitTime = 10*time.Millisecond, 200*time.Millisecond
	near.Set(t.Context(), []string{"vip0"})
	r.awaitSpeaker()
	r.advertise(0)
	waitForRouter(t, near, "vip0")
	<-changed
	for range 10 { // more than it would miss
		receive(t, r.conn, "a neighbor solicitation", func(m ndp.Message) bool {
			ns, ok := m.(*ndp.NeighborSolicitation)
			return ok && ns.TargetAddress == r.addr
		})
	}
	if len(changed) > 0 || len(near.LinkLocalAddresses()) != 1 {
		t.Errorf("the router is lost although it answers")
	}
	other := r.listen("fe80::43")
	r.stopAnswering()
	<-changed
	receive(t, other, "a router solicitation", func(m ndp.Message) bool { _, ok := m.(*ndp.RouterSolicitation); return ok })
	if got := near.LinkLocalAddresses(); len(got) > 0 {
		t.Errorf("kept %v", got)
	}
	advertise(t, other, nil, 0)
	if got, want := waitForRouter(t, near, "vip0"), netip.MustParseAddr("fe80::43%vip0"); got != want {
		t.Errorf("found %s, want %s", got, want)
	}
}

// TestRouterSelection checks which of several routers is selected, and when it is lost,
// second by second.
func TestRouterSelection(t *testing.T) {
	addr := func(i int) netip.Addr { return netip.MustParseAddr(fmt.Sprintf("fe80::%d%%eth0", i)) }
	leaf, spine, host := addr(1), addr(2), addr(3)
	type state struct {
		*Routers
		session netip.Addr
		// solicited counts the neighbor solicitations
		solicited int
	}
	advertises := func(s *state, from netip.Addr, isDefault bool) { s.recordAdvertisement("eth0", from, isDefault) }
	pass := func(s *state, seconds int) {
		for range seconds {
			time.Sleep(time.Second)
			if to, _ := s.checkReachability("eth0"); to.IsValid() {
				s.solicited++
			}
		}
	}
	for _, tt := range []struct {
		name      string
		do        func(*state)
		want      netip.Addr
		solicited int
		changes   int
	}{
		{"one with a lifetime of zero", func(s *state) { advertises(s, leaf, false) }, leaf, 0, 1},
		{"the first of two equal ones", func(s *state) { advertises(s, leaf, false); advertises(s, spine, false) }, leaf, 0, 1},
		{"a default router is preferred", func(s *state) { advertises(s, leaf, false); advertises(s, spine, true) }, spine, 0, 2},
		{"the first of two default routers", func(s *state) { advertises(s, leaf, true); advertises(s, spine, true) }, leaf, 0, 1},
		{"one that is a default router no longer", func(s *state) {
			advertises(s, leaf, true)
			advertises(s, leaf, false)
			advertises(s, spine, true)
		}, spine, 0, 2},
		{"a session is not replaced", func(s *state) {
			advertises(s, leaf, false)
			s.session = leaf
			advertises(s, host, true)
		}, leaf, 0, 1},
		{"a router that had a session is not replaced", func(s *state) {
			advertises(s, leaf, false)
			s.session = leaf
			pass(s, 1)
			s.session = netip.Addr{}
			advertises(s, host, true)
		}, leaf, 0, 1},
		{"the session of another router", func(s *state) {
			advertises(s, leaf, false)
			s.session = spine
			advertises(s, host, true)
		}, host, 0, 2},
		{"solicited after 30 s", func(s *state) { advertises(s, leaf, false); pass(s, 29) }, leaf, 0, 1},
		{"solicited three times", func(s *state) { advertises(s, leaf, false); pass(s, 32) }, leaf, 3, 1},
		{"lost after three solicitations", func(s *state) { advertises(s, leaf, false); pass(s, 33) }, netip.Addr{}, 3, 2},
		{"lost once", func(s *state) { advertises(s, leaf, false); pass(s, 300) }, netip.Addr{}, 3, 2},
		{"answers", func(s *state) {
			advertises(s, leaf, false)
			for range 10 {
				pass(s, 30)
				s.recordReachable("eth0", leaf)
			}
		}, leaf, 10, 1},
		{"answers the third solicitation", func(s *state) {
			advertises(s, leaf, false)
			pass(s, 32)
			s.recordReachable("eth0", leaf)
			pass(s, 32)
		}, leaf, 6, 1},
		{"another host answers", func(s *state) {
			advertises(s, leaf, false)
			for range 33 {
				pass(s, 1)
				s.recordReachable("eth0", host)
			}
		}, netip.Addr{}, 3, 2},
		{"advertises", func(s *state) {
			for range 100 {
				advertises(s, leaf, false)
				pass(s, 10)
			}
		}, leaf, 0, 1},
		{"advertises after two solicitations", func(s *state) {
			advertises(s, leaf, false)
			pass(s, 31)
			advertises(s, leaf, false)
			pass(s, 29)
		}, leaf, 2, 1},
		{"has a session", func(s *state) {
			advertises(s, leaf, false)
			s.session = leaf
			pass(s, 1000)
		}, leaf, 0, 1},
		{"its session has ended", func(s *state) {
			advertises(s, leaf, false)
			s.session = leaf
			pass(s, 1000)
			s.session = netip.Addr{}
			pass(s, 33)
		}, netip.Addr{}, 3, 2},
		{"a flood of others does not keep it", func(s *state) {
			advertises(s, leaf, true)
			for range 33 {
				pass(s, 1)
				for i := range 1000 {
					advertises(s, addr(1000+i), false)
				}
			}
		}, addr(1000), 3, 3},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, changes := &state{}, 0
				s.Routers = NewRouters(slog.New(slog.DiscardHandler), func(router netip.Addr) bool { return router == s.session }, func() { changes++ })
				s.watches["eth0"] = &routerWatch{}
				tt.do(s)
				if got := s.LinkLocalAddresses()["eth0"]; got != tt.want || s.solicited != tt.solicited || changes != tt.changes {
					t.Errorf("router %s, %d solicitations, %d changes; want %s, %d, %d",
						got, s.solicited, changes, tt.want, tt.solicited, tt.changes)
				}
			})
		})
	}
}

// TestAdvertisement checks that this node's advertisements do not make it a default
// gateway, and that speakers ignore them.
func TestAdvertisement(t *testing.T) {
	c := newVethPair(t, ndpFamily{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	far := NewRouters(slog.New(slog.DiscardHandler), noSession, func() {})
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
			if !isSpeaker(ra) {
				t.Errorf("the advertisement does not identify a speaker: %+v", ra)
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
