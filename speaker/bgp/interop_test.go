package bgp

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
)

const (
	vip4, vip6 = "198.51.100.7", "2001:db8:5::7"
	node4      = "192.0.2.1"
	node6      = "2001:db8:1::1"
)

// TestRouters has sessions of all kinds with BIRD and FRR, and looks at the
// routes in the router's kernel.
func TestRouters(t *testing.T) {
	both := map[string]string{vip4: node4, vip6: node6}
	at := func(address string) func(*Peer) {
		return func(p *Peer) { p.Address = netip.MustParseAddr(address) }
	}
	for _, row := range []struct {
		name      string
		change    []func(*Peer)
		bird, frr string
		want      map[string]string
	}{
		{
			name: "external over IPv4",
			bird: "local 192.0.2.254 as 64513; neighbor 192.0.2.1 as 64512;",
			frr:  "neighbor 192.0.2.1 remote-as 64512",
			want: both,
		},
		{
			name:   "internal over IPv4",
			change: []func(*Peer){func(p *Peer) { p.PeerASN = 64512 }},
			bird:   "local 192.0.2.254 as 64512; neighbor 192.0.2.1 as 64512;",
			frr:    "neighbor 192.0.2.1 remote-as 64512 ! internal",
			want:   both,
		},
		{
			name:   "any ASN of four octets",
			change: []func(*Peer){func(p *Peer) { p.PeerASN, p.Kind, p.LocalASN = 0, External, 4200000001 }},
			bird:   "local 192.0.2.254 as 64513; neighbor 192.0.2.1 external;",
			frr:    "neighbor 192.0.2.1 remote-as external",
			want:   both,
		},
		{
			name:   "external over IPv6, IPv4 with the node's address",
			change: []func(*Peer){at("2001:db8:1::fe")},
			bird:   "local 2001:db8:1::fe as 64513; neighbor 2001:db8:1::1 as 64512;",
			frr:    "neighbor 2001:db8:1::1 remote-as 64512",
			want:   both,
		},
		{
			name:   "IPv4 with IPv6 next hops",
			change: []func(*Peer){at("2001:db8:1::fe")},
			bird:   "local 2001:db8:1::fe as 64513; neighbor 2001:db8:1::1 as 64512; #extended",
			frr:    "neighbor 2001:db8:1::1 remote-as 64512\n neighbor 2001:db8:1::1 capability extended-nexthop",
			want:   map[string]string{vip4: node6, vip6: node6},
		},
		{
			name:   "link-local",
			change: []func(*Peer){at("fe80::fe%n0")},
			bird:   "local fe80::fe as 64513; neighbor fe80::1%r0 as 64512; #extended",
			frr:    "neighbor fe80::1 remote-as 64512\n neighbor fe80::1 interface r0\n neighbor fe80::1 capability extended-nexthop",
			want:   map[string]string{vip4: "fe80::1", vip6: "fe80::1"},
		},
		{
			name:   "password",
			change: []func(*Peer){func(p *Peer) { p.Password = "secret" }},
			bird:   `local 192.0.2.254 as 64513; neighbor 192.0.2.1 as 64512; password "secret";`,
			frr:    "neighbor 192.0.2.1 remote-as 64512\n neighbor 192.0.2.1 password secret",
			want:   both,
		},
		{
			name:   "password over IPv6",
			change: []func(*Peer){at("2001:db8:1::fe"), func(p *Peer) { p.Password = "secret" }},
			bird:   `local 2001:db8:1::fe as 64513; neighbor 2001:db8:1::1 as 64512; password "secret";`,
			frr:    "neighbor 2001:db8:1::1 remote-as 64512\n neighbor 2001:db8:1::1 password secret",
			want:   both,
		},
		{
			name:   "TTL security",
			change: []func(*Peer){func(p *Peer) { p.TTLSecurity, p.Hops = true, 1 }},
			bird:   "local 192.0.2.254 as 64513; neighbor 192.0.2.1 as 64512; ttl security on;",
			frr:    "neighbor 192.0.2.1 remote-as 64512\n neighbor 192.0.2.1 ttl-security hops 1",
			want:   both,
		},
		{
			name:   "TTL security over IPv6",
			change: []func(*Peer){at("2001:db8:1::fe"), func(p *Peer) { p.TTLSecurity, p.Hops = true, 1 }},
			bird:   "local 2001:db8:1::fe as 64513; neighbor 2001:db8:1::1 as 64512; ttl security on;",
			frr:    "neighbor 2001:db8:1::1 remote-as 64512\n neighbor 2001:db8:1::1 ttl-security hops 1",
			want:   both,
		},
		{
			name:   "several hops",
			change: []func(*Peer){at("203.0.113.254"), func(p *Peer) { p.Hops = 2 }},
			bird:   "local 203.0.113.254 as 64513; neighbor 192.0.2.1 as 64512; multihop 2;",
			frr:    "neighbor 192.0.2.1 remote-as 64512\n neighbor 192.0.2.1 ebgp-multihop 2\n neighbor 192.0.2.1 update-source 203.0.113.254",
			want:   both,
		},
		{
			name:   "passive",
			change: []func(*Peer){func(p *Peer) { p.Passive = true }},
			bird:   "local 192.0.2.254 as 64513; neighbor 192.0.2.1 as 64512; connect delay time 1; connect retry time 1;",
			frr:    "neighbor 192.0.2.1 remote-as 64512\n neighbor 192.0.2.1 timers connect 1",
			want:   both,
		},
		{
			name:   "passive with a password and TTL security over IPv6",
			change: []func(*Peer){at("2001:db8:1::fe"), func(p *Peer) { p.Passive, p.Password, p.TTLSecurity, p.Hops = true, "secret", true, 1 }},
			bird:   `local 2001:db8:1::fe as 64513; neighbor 2001:db8:1::1 as 64512; connect delay time 1; connect retry time 1; password "secret"; ttl security on;`,
			frr: "neighbor 2001:db8:1::1 remote-as 64512\n neighbor 2001:db8:1::1 timers connect 1\n neighbor 2001:db8:1::1 password secret\n" +
				" neighbor 2001:db8:1::1 ttl-security hops 1",
			want: both,
		},
		{
			name:   "passive on a link-local address with a password",
			change: []func(*Peer){at("fe80::fe%n0"), func(p *Peer) { p.Passive, p.Password = true, "secret" }},
			bird:   `local fe80::fe as 64513; neighbor fe80::1%r0 as 64512; connect delay time 1; connect retry time 1; password "secret"; #extended`,
			want:   map[string]string{vip4: "fe80::1", vip6: "fe80::1"},
		},
		{
			name:   "no hold time",
			change: []func(*Peer){func(p *Peer) { p.HoldTime = 0 }},
			bird:   "local 192.0.2.254 as 64513; neighbor 192.0.2.1 as 64512;",
			frr:    "neighbor 192.0.2.1 remote-as 64512",
			want:   both,
		},
		{
			name:   "short hold time",
			change: []func(*Peer){func(p *Peer) { p.HoldTime = 3 * time.Second }},
			bird:   "local 192.0.2.254 as 64513; neighbor 192.0.2.1 as 64512;",
			frr:    "neighbor 192.0.2.1 remote-as 64512",
			want:   both,
		},
	} {
		run := func(t *testing.T, start func(*lab)) {
			l := newLab(t)
			start(l)
			s, _ := runSpeaker(t, State{[]Peer{l.node(row.change...)}})
			st := awaitState(t, s, "tor", Established)
			l.hasRoutes(row.want)
			if strings.Contains(row.name, "hold") { // longer than it, and nothing breaks
				time.Sleep(4 * time.Second)
				l.hasRoutes(row.want)
			}
			if st = statusOf(t, s, "tor"); st.State != Established || st.Routes != 2 || st.Withheld != "" {
				t.Errorf("status %+v", st)
			}
			s.Set(State{})
			l.hasRoutes(map[string]string{})
		}
		t.Run("BIRD/"+row.name, func(t *testing.T) {
			run(t, func(l *lab) { l.bird(birdProtocol(row.bird)) })
		})
		if row.frr != "" {
			t.Run("FRR/"+row.name, func(t *testing.T) {
				run(t, func(l *lab) { l.frr(frrConfig(row.frr)) })
			})
		}
	}
}

func birdProtocol(lines string) string {
	extended := ""
	if strings.Contains(lines, "#extended") {
		extended = "extended next hop on; "
	}
	return "protocol bgp node { " + lines + "\n ipv4 { " + extended + "import all; export none; }; ipv6 { import all; export none; }; }\n"
}

func frrConfig(lines string) string {
	asn := "64513"
	if before, ok := strings.CutSuffix(lines, " ! internal"); ok {
		lines, asn = before, "64512"
	}
	neighbor := strings.Fields(lines)[1]
	return fmt.Sprintf(`router bgp %[1]s
 bgp router-id 192.0.2.254
 no bgp ebgp-requires-policy
 %[2]s
 address-family ipv4 unicast
  neighbor %[3]s activate
 exit-address-family
 address-family ipv6 unicast
  neighbor %[3]s activate
 exit-address-family
`, asn, lines, neighbor)
}

// TestRouterErrors has BIRD and FRR refuse a session, and reads why.
func TestRouterErrors(t *testing.T) {
	for _, row := range []struct {
		name, bird, frr, want string
		change                func(*Peer)
	}{
		{
			name: "another ASN of ours", bird: "local 192.0.2.254 as 64513; neighbor 192.0.2.1 as 64999;", frr: "neighbor 192.0.2.1 remote-as 64999",
			want: "the peer says: OPEN message error: bad peer AS: it expects another AS number of this node",
		},
		{
			name: "another ASN of theirs", bird: "local 192.0.2.254 as 64513; neighbor 192.0.2.1 as 64512;", frr: "neighbor 192.0.2.1 remote-as 64512",
			change: func(p *Peer) { p.PeerASN = 64999 }, want: "we expect AS 64999, the peer says it is AS 64513",
		},
		{
			name: "a password that differs", bird: `local 192.0.2.254 as 64513; neighbor 192.0.2.1 as 64512; password "secret";`,
			frr:    "neighbor 192.0.2.1 remote-as 64512\n neighbor 192.0.2.1 password secret",
			change: func(p *Peer) { p.Password = "wrong" },
			want:   "no answer from 192.0.2.254 port 179 (it is down or filtered, or its password differs)",
		},
		{
			name: "a password that is missing", bird: `local 192.0.2.254 as 64513; neighbor 192.0.2.1 as 64512; password "secret";`,
			frr:  "neighbor 192.0.2.1 remote-as 64512\n neighbor 192.0.2.1 password secret",
			want: "no answer from 192.0.2.254 port 179 (it is down or filtered, or it expects a password)",
		},
	} {
		check := func(t *testing.T, start func(*lab)) {
			l := newLab(t)
			start(l)
			p := l.node()
			if row.change != nil {
				row.change(&p)
			}
			s, _ := runSpeaker(t, State{[]Peer{p}})
			awaitError(t, s, "tor", row.want)
		}
		t.Run("BIRD/"+row.name, func(t *testing.T) {
			check(t, func(l *lab) { l.bird(birdProtocol(row.bird)) })
		})
		t.Run("FRR/"+row.name, func(t *testing.T) {
			check(t, func(l *lab) { l.frr(frrConfig(row.frr)) })
		})
	}
}

// TestHitless replaces a speaker by another one, as an upgrade does, and changes
// a password, and looks for events in the router's kernel: there are none.
func TestHitless(t *testing.T) {
	start := map[string]func(*lab){
		"BIRD": func(l *lab) {
			l.bird(birdProtocol("local 192.0.2.254 as 64513; neighbor 192.0.2.1 as 64512; graceful restart on;"))
		},
		"FRR": func(l *lab) { l.frr(frrConfig("neighbor 192.0.2.1 remote-as 64512")) },
	}
	for name, router := range start {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			router(l)
			p := l.node(func(p *Peer) { p.RestartTime = time.Minute })
			for i := range 200 {
				p.Routes[netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), 32)] = Attributes{}
			}
			want := map[string]string{vip4: node4, vip6: node6}
			for i := range 200 {
				want[fmt.Sprintf("10.0.0.%d", i)] = node4
			}
			s, stop := runSpeaker(t, State{[]Peer{p}})
			awaitState(t, s, "tor", Established)
			l.hasRoutes(want)
			events, _ := l.start("ip", "monitor", "route")
			l.router("ip route add 240.0.0.1 dev lo; ip route del 240.0.0.1 dev lo")
			eventually(t, func() string {
				if !strings.Contains(events(), "Deleted 240.0.0.1") {
					return "the monitor does not hear"
				}
				return ""
			})
			heard := events()

			stop()
			time.Sleep(time.Second)
			s, _ = runSpeaker(t, State{[]Peer{p}})
			awaitState(t, s, "tor", Established)
			time.Sleep(2 * time.Second)
			if more := strings.TrimPrefix(events(), heard); more != "" {
				t.Errorf("a new speaker made events:\n%.500s", more)
			}
			l.hasRoutes(want)

			// A reset for a change that the router does not care about.
			p.RouterID = netip.MustParseAddr("192.0.2.1")
			p.Hops = 2
			s.Set(State{[]Peer{p}})
			eventually(t, func() string {
				if st := statusOf(t, s, "tor"); st.Sessions != 2 || st.State != Established {
					return fmt.Sprintf("status %+v", st)
				}
				return ""
			})
			time.Sleep(2 * time.Second)
			if more := strings.TrimPrefix(events(), heard); more != "" {
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

// TestNextHopFollows changes the address that is the other family's next hop.
func TestNextHopFollows(t *testing.T) {
	l := newLab(t)
	l.bird(birdProtocol("local 192.0.2.254 as 64513; neighbor 192.0.2.1 as 64512;"))
	s, _ := runSpeaker(t, State{[]Peer{l.node()}})
	l.hasRoutes(map[string]string{vip4: node4, vip6: node6})
	l.shell("sh", "-ec", "ip addr del 2001:db8:1::1/64 dev n0")
	s.Set(State{[]Peer{l.node()}})
	l.hasRoutes(map[string]string{vip4: node4, vip6: "fe80::1"})
	l.shell("sh", "-ec", "ip addr del fe80::1/64 dev n0")
	s.Set(State{[]Peer{l.node()}})
	l.hasRoutes(map[string]string{vip4: node4})
	if st := statusOf(t, s, "tor"); st.Withheld != "IPv6: no next hop: the interface of 192.0.2.1 has no IPv6 address" || st.Routes != 1 {
		t.Errorf("status %+v", st)
	}
	l.shell("sh", "-ec", "ip addr add 2001:db8:1::2/64 dev n0 nodad")
	l.hasRoutes(map[string]string{vip4: node4, vip6: "2001:db8:1::2"}) // without a Set, too
	if st := statusOf(t, s, "tor"); st.Sessions != 1 || st.Withheld != "" {
		t.Errorf("status %+v", st)
	}
}

// TestRotatesPassword changes it at both ends: one reset, and no route lost.
func TestRotatesPassword(t *testing.T) {
	l := newLab(t)
	config := func(password string) string {
		return birdProtocol("local 192.0.2.254 as 64513; neighbor 192.0.2.1 as 64512; graceful restart on; password \"" + password + "\";")
	}
	l.bird(config("old"))
	p := l.node(func(p *Peer) { p.Password, p.RestartTime = "old", time.Minute })
	s, _ := runSpeaker(t, State{[]Peer{p}})
	want := map[string]string{vip4: node4, vip6: node6}
	l.hasRoutes(want)
	p.Password = "new"
	s.Set(State{[]Peer{p}})
	eventually(t, func() string {
		if st := statusOf(t, s, "tor"); st.Lost != 1 || st.LastError != "reset: password was changed" {
			return fmt.Sprintf("status %+v", st)
		}
		return ""
	})
	l.hasRoutes(want) // kept for a minute
	conf := l.shell("sh", "-c", "sed -i 's/\"old\"/\"new\"/' "+l.dir+"/bird.conf; echo done")
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

// TestRouterIsShutDown exchanges an operator's words in both directions, and
// comes back when the router does, also from a restart and from a prefix limit.
func TestRouterIsShutDown(t *testing.T) {
	l := newLab(t)
	limited := strings.ReplaceAll(birdProtocol("local 192.0.2.254 as 64513; neighbor 192.0.2.1 as 64512; error wait time 1, 1;"),
		"ipv4 { ", "ipv4 { import limit 2 action restart; ")
	stop := l.bird(limited)
	p := l.node()
	s, _ := runSpeaker(t, State{[]Peer{p}})
	want := map[string]string{vip4: node4, vip6: node6}
	l.hasRoutes(want)

	l.birdc(`disable node "maintenance"`)
	awaitError(t, s, "tor", `the peer says: Cease: administrative shutdown ("maintenance")`)
	l.birdc("enable node")
	l.hasRoutes(want)

	stop()
	awaitError(t, s, "tor", "connection refused by 192.0.2.254 port 179 (is BGP running there, and is this node allowed?)")
	l.bird(limited)
	l.hasRoutes(want)

	more := p
	more.Routes = routesTo(prefixes(3, false)...)
	s.Set(State{[]Peer{more}})
	awaitError(t, s, "tor", "the peer says: Cease: maximum number of prefixes reached: it accepts fewer prefixes than are announced")
	s.Set(State{[]Peer{p}})
	l.hasRoutes(want)

	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	s.Shutdown(ctx, "node is being drained")
	eventually(t, func() string {
		if said := l.birdc("show protocols all node"); !strings.Contains(said, "node is being drained") {
			return said
		}
		return ""
	})
}
