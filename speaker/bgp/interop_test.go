package bgp

import (
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

// TestRouters has sessions of all kinds with four implementations, and checks
// their routes.
func TestRouters(t *testing.T) {
	both := map[string]string{vip4: node4, vip6: node6}
	at := func(address string) func(*Peer) {
		return func(p *Peer) { p.Address = netip.MustParseAddr(address) }
	}
	for _, row := range []struct {
		name      string
		change    []func(*Peer)
		bird, frr string
		others    []routerDaemon
		want      map[string]string
	}{
		{
			name: "external over IPv4",
			bird: "local 192.0.2.254 as 64513; neighbor 192.0.2.1 as 64512;",
			frr:  "neighbor 192.0.2.1 remote-as 64512",
			others: []routerDaemon{
				openbgpd(64513, "192.0.2.254", "192.0.2.1", "remote-as 64512"),
				exabgp(64513, "192.0.2.254", "192.0.2.1", 64512, ""),
			},
			want: both,
		},
		{
			name:   "internal over IPv4",
			change: []func(*Peer){func(p *Peer) { p.PeerASN = 64512 }},
			bird:   "local 192.0.2.254 as 64512; neighbor 192.0.2.1 as 64512;",
			frr:    "neighbor 192.0.2.1 remote-as 64512 ! internal",
			others: []routerDaemon{
				openbgpd(64512, "192.0.2.254", "192.0.2.1", "remote-as 64512"),
				exabgp(64512, "192.0.2.254", "192.0.2.1", 64512, ""),
			},
			want: both,
		},
		{
			name:   "any ASN of four octets",
			change: []func(*Peer){func(p *Peer) { p.PeerASN, p.Kind, p.LocalASN = 0, External, 4200000001 }},
			bird:   "local 192.0.2.254 as 64513; neighbor 192.0.2.1 external;",
			frr:    "neighbor 192.0.2.1 remote-as external",
			others: []routerDaemon{
				openbgpd(64513, "192.0.2.254", "192.0.2.1", "remote-as 4200000001"),
				exabgp(64513, "192.0.2.254", "192.0.2.1", 4200000001, ""),
			},
			want: both,
		},
		{
			name:   "a router without ASNs of four octets",
			change: []func(*Peer){func(p *Peer) { p.LocalASN = 4200000001 }},
			bird:   "local 192.0.2.254 as 64513; neighbor 192.0.2.1 external; enable as4 off;",
			others: []routerDaemon{
				exabgp(64513, "192.0.2.254", "192.0.2.1", 23456, "capability { asn4 disable; }"),
			},
			want: both,
		},
		{
			name:   "external over IPv6, IPv4 with the node's address",
			change: []func(*Peer){at("2001:db8:1::fe")},
			bird:   "local 2001:db8:1::fe as 64513; neighbor 2001:db8:1::1 as 64512;",
			frr:    "neighbor 2001:db8:1::1 remote-as 64512",
			others: []routerDaemon{
				openbgpd(64513, "2001:db8:1::fe", "2001:db8:1::1", "remote-as 64512"),
				exabgp(64513, "2001:db8:1::fe", "2001:db8:1::1", 64512, ""),
			},
			want: both,
		},
		{
			name:   "IPv4 with IPv6 next hops",
			change: []func(*Peer){at("2001:db8:1::fe")},
			bird:   "local 2001:db8:1::fe as 64513; neighbor 2001:db8:1::1 as 64512; #extended",
			frr:    "neighbor 2001:db8:1::1 remote-as 64512\n neighbor 2001:db8:1::1 capability extended-nexthop",
			others: []routerDaemon{
				exabgp(64513, "2001:db8:1::fe", "2001:db8:1::1", 64512, "capability { nexthop enable; }\n nexthop { ipv4 unicast ipv6; }"),
			},
			want: map[string]string{vip4: node6, vip6: node6},
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
			bird: `local 2001:db8:1::fe as 64513; neighbor 2001:db8:1::1 as 64512; connect delay time 1; connect retry time 1; ` +
				`password "secret"; ttl security on;`,
			frr: "neighbor 2001:db8:1::1 remote-as 64512\n neighbor 2001:db8:1::1 timers connect 1\n neighbor 2001:db8:1::1 password secret\n" +
				" neighbor 2001:db8:1::1 ttl-security hops 1",
			want: both,
		},
		{
			name:   "passive on a link-local address with a password",
			change: []func(*Peer){at("fe80::fe%n0"), func(p *Peer) { p.Passive, p.Password = true, "secret" }},
			bird: `local fe80::fe as 64513; neighbor fe80::1%r0 as 64512; connect delay time 1; connect retry time 1; ` +
				`password "secret"; #extended`,
			want: map[string]string{vip4: "fe80::1", vip6: "fe80::1"},
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
		run := func(t *testing.T, start func(*testLab)) {
			l := newLab(t)
			start(l)
			s, _ := runSpeaker(t, Config{[]Peer{l.nodePeer(row.change...)}})
			st := awaitState(t, s, "tor", Established)
			if got, want := st.RemoteAddr.Addr(), l.nodePeer(row.change...).Address; got != want { // with the zone
				t.Errorf("the remote address is %s, want %s", got, want)
			}
			l.hasRoutes(row.want)
			if strings.Contains(row.name, "hold") { // longer than it, and nothing breaks
				time.Sleep(4 * time.Second)
				l.hasRoutes(row.want)
			}
			if st = statusOf(t, s, "tor"); st.State != Established || st.Routes != 2 || st.Withheld != "" {
				t.Errorf("status %+v", st)
			}
			withdrawn := l.nodePeer(row.change...)
			withdrawn.Routes = routesTo(netip.MustParsePrefix(vip6 + "/128"))
			s.Set(Config{[]Peer{withdrawn}})
			l.hasRoutes(map[string]string{vip6: row.want[vip6]})
			s.Set(Config{[]Peer{l.nodePeer(row.change...)}})
			l.hasRoutes(row.want)
			if st = statusOf(t, s, "tor"); st.Sessions != 1 {
				t.Errorf("status %+v", st)
			}
			s.Set(Config{})
			l.hasRoutes(map[string]string{})
		}
		t.Run("BIRD/"+row.name, func(t *testing.T) {
			run(t, func(l *testLab) { l.bird(birdProtocol(row.bird)) })
		})
		if row.frr != "" {
			t.Run("FRR/"+row.name, func(t *testing.T) {
				run(t, func(l *testLab) { l.frr(frrConfig(row.frr)) })
			})
		}
		for _, d := range row.others {
			t.Run(d.name+"/"+row.name, func(t *testing.T) { run(t, d.start) })
		}
	}
}

// TestRouterAttributes checks the attributes of the routes at the routers.
func TestRouterAttributes(t *testing.T) {
	attributes := Attributes{MED: 7, HasMED: true, Prepend: 2, Communities: "64512:100 65535:0 64512:1:2", LocalPref: 300}
	for _, row := range []struct {
		routerDaemon
		show func(l *testLab) string
		want []string
	}{
		{
			routerDaemon{"BIRD", func(l *testLab) {
				l.bird(birdProtocol("local 192.0.2.254 as 64513; neighbor 192.0.2.1 as 64512;"))
			}},
			func(l *testLab) string { return l.birdc("show route all protocol node") },
			[]string{
				"BGP.origin: IGP", "BGP.as_path: 64512 64512 64512", "BGP.med: 7", "BGP.community: (64512,100) (65535,0)",
				"BGP.large_community: (64512, 1, 2)",
			},
		},
		{
			openbgpd(64513, "192.0.2.254", "192.0.2.1", "remote-as 64512"),
			func(l *testLab) string {
				return l.runCommand(findProgram(t, "bgpctl"), "-s", l.dir+"/bgpd.sock", "show", "rib", "detail")
			},
			[]string{"Origin IGP, metric 7", "64512 64512 64512\n", "Communities: 64512:100 GRACEFUL_SHUTDOWN", "Large Communities: 64512:1:2"},
		},
		{
			exabgp(64513, "192.0.2.254", "192.0.2.1", 64512, ""),
			func(l *testLab) string { return l.runCommand("cat", l.dir+"/received") },
			[]string{
				`"origin": "igp"`, `"as-path": [ 64512, 64512, 64512 ]`, `"med": 7`, `"community": [ [ 64512, 100 ], [ 65535, 0 ] ]`,
				`"large-community": [ [ 64512, 1 , 2 ] ]`,
			},
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			l := newLab(t)
			row.start(l)
			p := l.nodePeer()
			for prefix := range p.Routes {
				p.Routes[prefix] = attributes
			}
			runSpeaker(t, Config{[]Peer{p}})
			l.hasRoutes(map[string]string{vip4: node4, vip6: node6})
			shown := row.show(l)
			for _, want := range row.want {
				if strings.Count(shown, want) != 2 { // IPv4 and IPv6
					t.Errorf("no two routes have %q:\n%s", want, shown)
				}
			}
		})
	}
}

// routerDaemon is another implementation of BGP, and how a lab starts it.
type routerDaemon struct {
	name  string
	start func(l *testLab)
}

func openbgpd(asn int, local, neighbor, lines string) routerDaemon {
	return routerDaemon{"OpenBGPD", func(l *testLab) { l.openbgpd(openbgpdConfig(l, asn, local, neighbor, lines)) }}
}

func exabgp(asn int, local, neighbor string, peer int, lines string) routerDaemon {
	return routerDaemon{"ExaBGP", func(l *testLab) { l.exabgp(exabgpConfig(asn, local, neighbor, peer, lines)) }}
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

// TestRouterErrors has BIRD and FRR reject a session, and checks the error.
func TestRouterErrors(t *testing.T) {
	for _, row := range []struct {
		name, bird, frr, want string
		change                func(*Peer)
	}{
		{
			name: "another ASN of ours", bird: "local 192.0.2.254 as 64513; neighbor 192.0.2.1 as 64999;", frr: "neighbor 192.0.2.1 remote-as 64999",
			want: "the peer sent a NOTIFICATION: OPEN message error: bad peer AS: it expects another AS number for this node",
		},
		{
			name:   "another ASN of theirs",
			bird:   "local 192.0.2.254 as 64513; neighbor 192.0.2.1 as 64512;",
			frr:    "neighbor 192.0.2.1 remote-as 64512",
			change: func(p *Peer) { p.PeerASN = 64999 }, want: "expected AS 64999, but the peer's OPEN has AS 64513",
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
		check := func(t *testing.T, start func(*testLab)) {
			l := newLab(t)
			start(l)
			p := l.nodePeer()
			if row.change != nil {
				row.change(&p)
			}
			s, _ := runSpeaker(t, Config{[]Peer{p}})
			awaitError(t, s, "tor", row.want)
		}
		t.Run("BIRD/"+row.name, func(t *testing.T) {
			check(t, func(l *testLab) { l.bird(birdProtocol(row.bird)) })
		})
		t.Run("FRR/"+row.name, func(t *testing.T) {
			check(t, func(l *testLab) { l.frr(frrConfig(row.frr)) })
		})
	}
}
