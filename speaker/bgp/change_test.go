package bgp

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestRestartKeepsRoutes replaces a speaker, as an upgrade does, and changes a
// password, and checks that the router's kernel routes do not change.
func TestRestartKeepsRoutes(t *testing.T) {
	start := map[string]func(*testLab){
		"BIRD": func(l *testLab) {
			l.bird(birdProtocol("local 192.0.2.254 as 64513; neighbor 192.0.2.1 as 64512; graceful restart on;"))
		},
		"FRR": func(l *testLab) { l.frr(frrConfig("neighbor 192.0.2.1 remote-as 64512")) },
	}
	for name, router := range start {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			router(l)
			p := l.nodePeer(func(p *Peer) { p.RestartTime = time.Minute })
			for i := range 200 {
				p.Routes[netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), 32)] = Attributes{}
			}
			want := map[string]string{vip4: node4, vip6: node6}
			for i := range 200 {
				want[fmt.Sprintf("10.0.0.%d", i)] = node4
			}
			s, stop := runSpeaker(t, Config{[]Peer{p}})
			awaitState(t, s, "tor", Established)
			l.hasRoutes(want)
			events, _ := l.startInRouter("ip", "monitor", "route")
			eventually(t, func() string { // until the monitor has begun to listen
				l.runInRouter("ip route add 240.0.0.1 dev lo; ip route del 240.0.0.1 dev lo")
				time.Sleep(200 * time.Millisecond)
				if !strings.Contains(events(), "Deleted 240.0.0.1") {
					return "the monitor has no events"
				}
				return ""
			})
			time.Sleep(time.Second)
			known := events()

			stop()
			time.Sleep(time.Second)
			s, _ = runSpeaker(t, Config{[]Peer{p}})
			awaitState(t, s, "tor", Established)
			time.Sleep(2 * time.Second)
			if more := strings.TrimPrefix(events(), known); more != "" {
				t.Errorf("a new speaker made events:\n%.500s", more)
			}
			l.hasRoutes(want)

			// A reset for a change that the router does not care about.
			p.RouterID = netip.MustParseAddr("192.0.2.1")
			p.Hops = 2
			s.Set(Config{[]Peer{p}})
			eventually(t, func() string {
				if st := statusOf(t, s, "tor"); st.Sessions != 2 || st.State != Established {
					return fmt.Sprintf("status %+v", st)
				}
				return ""
			})
			time.Sleep(2 * time.Second)
			if more := strings.TrimPrefix(events(), known); more != "" {
				t.Errorf("a reset made events:\n%.500s", more)
			}

			// A drain is for ever, and seen at once.
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			s.Shutdown(ctx, "drained")
			l.hasRoutes(map[string]string{})
		})
	}
}

// TestNextHopChange changes the address that is the next hop of the other
// family.
func TestNextHopChange(t *testing.T) {
	l := newLab(t)
	l.bird(birdProtocol("local 192.0.2.254 as 64513; neighbor 192.0.2.1 as 64512;"))
	s, _ := runSpeaker(t, Config{[]Peer{l.nodePeer()}})
	l.hasRoutes(map[string]string{vip4: node4, vip6: node6})
	l.runCommand("sh", "-ec", "ip addr del 2001:db8:1::1/64 dev n0")
	s.Set(Config{[]Peer{l.nodePeer()}})
	l.hasRoutes(map[string]string{vip4: node4, vip6: "fe80::1"})
	l.runCommand("sh", "-ec", "ip addr del fe80::1/64 dev n0")
	s.Set(Config{[]Peer{l.nodePeer()}})
	l.hasRoutes(map[string]string{vip4: node4})
	const withheld = "IPv6: no next hop: the interface of 192.0.2.1 does not have an IPv6 address"
	if st := statusOf(t, s, "tor"); st.Withheld != withheld || st.Routes != 1 {
		t.Errorf("status %+v", st)
	}
	l.runCommand("sh", "-ec", "ip addr add 2001:db8:1::2/64 dev n0 nodad")
	l.hasRoutes(map[string]string{vip4: node4, vip6: "2001:db8:1::2"}) // without a Set, too
	if st := statusOf(t, s, "tor"); st.Sessions != 1 || st.Withheld != "" {
		t.Errorf("status %+v", st)
	}
}

// TestSource checks that the source of connections to a directly connected router, and the next
// hop of the other family, stay the same when an address is added to the interface, which the
// kernel prefers, and when it is the Node's afterwards. BIRD accepts only one source.
func TestSource(t *testing.T) {
	for _, tt := range []struct {
		name, router, source, node, added string
		want                              map[string]string
	}{
		{"IPv4", "192.0.2.254", node4, node4, "192.0.2.9", map[string]string{vip4: node4, vip6: node6}},
		{"IPv6, the lowest address", "2001:db8:1::fe", node6, node4, "2001:db8:1::9", map[string]string{vip4: node4, vip6: node6}},
		{
			"IPv6, the address of the Node", "2001:db8:1::fe", "2001:db8:1::9", "2001:db8:1::9", "2001:db8:1::a",
			map[string]string{vip4: node4, vip6: "2001:db8:1::9"},
		},
		{"IPv6, link-local", "fe80::fe%n0", "fe80::1", node4, "fe80::9", map[string]string{vip4: node4, vip6: "fe80::1"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newLab(t)
			neighbor := strings.Replace(tt.source, "fe80::1", "fe80::1%r0", 1)
			l.bird(birdProtocol("local " + strings.TrimSuffix(tt.router, "%n0") + " as 64513; neighbor " + neighbor + " as 64512;"))
			for _, addr := range []string{tt.source, tt.added, "2001:db8:1::a"} {
				bits := "/64"
				if netip.MustParseAddr(addr).Is4() {
					bits = "/24"
				}
				l.runCommand("sh", "-ec", "ip addr replace "+addr+bits+" dev n0 nodad")
			}
			p := l.nodePeer(func(p *Peer) {
				p.Address, p.NodeAddresses = netip.MustParseAddr(tt.router), []netip.Addr{netip.MustParseAddr(tt.node)}
			})
			s, _ := runSpeaker(t, Config{[]Peer{p}})
			l.hasRoutes(tt.want)

			p.NodeAddresses = []netip.Addr{netip.MustParseAddr(tt.added), netip.MustParseAddr("2001:db8:1::a")}
			p.RouterID = netip.MustParseAddr("192.0.2.77")
			s.Set(Config{[]Peer{p}})
			eventually(t, func() string {
				if st := statusOf(t, s, "tor"); st.Sessions != 2 || st.State != Established || st.Routes != len(tt.want) {
					return fmt.Sprintf("status %+v", st)
				}
				return ""
			})
			if st := statusOf(t, s, "tor"); st.LocalAddr.Addr().WithZone("").String() != tt.source {
				t.Errorf("status %+v", st)
			}
			l.hasRoutes(tt.want)
		})
	}
}

// TestOnLinkAddrs checks that only the addresses in the subnet of a directly connected peer can be
// the source, whatever their prefix length is.
func TestOnLinkAddrs(t *testing.T) {
	l := newLab(t)
	l.runCommand("sh", "-ec", "ip addr add 198.51.100.1/24 dev n0; ip addr add 192.0.2.9/32 dev n0; ip addr add 2001:db8:1::9/128 dev n0 nodad; "+
		"ip addr add 2001:db8:2::1/64 dev n0 nodad")
	for peer, want := range map[string]string{
		"192.0.2.254":     "[192.0.2.1 192.0.2.9]",
		"198.51.100.254":  "[198.51.100.1]",
		"203.0.113.254":   "[]", // behind a router
		"2001:db8:1::fe":  "[2001:db8:1::1 2001:db8:1::9]",
		"2001:db8:ff::fe": "[]",
		"fe80::fe%n0":     "[fe80::1]",
		"fe80::fe%n9":     "[]",
		"192.0.2.1":       "[]", // of the node itself
		"127.0.0.9":       "[]",
		"2001:db8:9::1":   "[]", // without a route
	} {
		var got []netip.Addr
		for _, a := range onLinkAddrs(netip.MustParseAddr(peer)) {
			got = append(got, a.Addr)
		}
		slices.SortFunc(got, netip.Addr.Compare)
		if fmt.Sprint(got) != want {
			t.Errorf("%s: %s, want %s", peer, got, want)
		}
	}
}

// TestPasswordChange changes the password at both ends, which must cause one
// reset and no lost route.
func TestPasswordChange(t *testing.T) {
	l := newLab(t)
	config := func(password string) string {
		return birdProtocol("local 192.0.2.254 as 64513; neighbor 192.0.2.1 as 64512; graceful restart on; password \"" + password + "\";")
	}
	l.bird(config("old"))
	p := l.nodePeer(func(p *Peer) { p.Password, p.RestartTime = "old", time.Minute })
	s, _ := runSpeaker(t, Config{[]Peer{p}})
	want := map[string]string{vip4: node4, vip6: node6}
	l.hasRoutes(want)
	p.Password = "new"
	s.Set(Config{[]Peer{p}})
	eventually(t, func() string {
		if st := statusOf(t, s, "tor"); st.Lost != 1 || st.LastError != "reset: password was changed" {
			return fmt.Sprintf("status %+v", st)
		}
		return ""
	})
	l.hasRoutes(want) // kept for a minute
	conf := l.runCommand("sh", "-c", "sed -i 's/\"old\"/\"new\"/' "+l.dir+"/bird.conf; echo done")
	if !strings.Contains(conf, "done") {
		t.Fatal(conf)
	}
	l.birdc("configure")
	eventually(t, func() string {
		if st := statusOf(t, s, "tor"); st.State != Established || st.Sessions != 2 {
			return fmt.Sprintf("status %+v", st)
		}
		return ""
	})
	l.hasRoutes(want)
}

// TestRouterIsShutDown checks that shutdown reasons are exchanged in both
// directions, and that the session is established again after a shutdown, a
// restart and a prefix limit of the router.
func TestRouterIsShutDown(t *testing.T) {
	l := newLab(t)
	limited := strings.ReplaceAll(birdProtocol("local 192.0.2.254 as 64513; neighbor 192.0.2.1 as 64512; error wait time 1, 1;"),
		"ipv4 { ", "ipv4 { import limit 2 action restart; ")
	stop := l.bird(limited)
	p := l.nodePeer()
	s, _ := runSpeaker(t, Config{[]Peer{p}})
	want := map[string]string{vip4: node4, vip6: node6}
	l.hasRoutes(want)

	l.birdc(`disable node "maintenance"`)
	awaitError(t, s, "tor", `the peer sent a NOTIFICATION: Cease: administrative shutdown ("maintenance")`)
	l.birdc("enable node")
	l.hasRoutes(want)

	stop()
	awaitError(t, s, "tor", "connection refused by 192.0.2.254 port 179 (is BGP running there, and is this node one of its neighbors?)")
	l.bird(limited)
	l.hasRoutes(want)

	more := p
	more.Routes = routesTo(prefixes(3, false)...)
	s.Set(Config{[]Peer{more}})
	awaitError(t, s, "tor",
		"the peer sent a NOTIFICATION: Cease: maximum number of prefixes reached: it accepts fewer prefixes than are advertised")
	s.Set(Config{[]Peer{p}})
	l.hasRoutes(want)

	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	s.Shutdown(ctx, "node is being drained")
	eventually(t, func() string {
		if output := l.birdc("show protocols all node"); !strings.Contains(output, "node is being drained") {
			return output
		}
		return ""
	})
}
