package lab_test

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	lab "github.com/fairlead-io/fairlead/deploy/lab"
)

// enterEnv makes the test program enter a sandbox before it runs its tests.
const enterEnv = "FAIRLEAD_LAB_TEST_BIN"

func TestMain(m *testing.M) {
	if os.Getenv(enterEnv) == "" || lab.Inside() {
		os.Exit(m.Run())
	}
	code, err := lab.Enter(lab.Binaries(os.Getenv(enterEnv)))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(code)
}

// inside runs the test again in a sandbox, as root and as an ordinary user, and
// reports whether this process is in the sandbox.
func inside(t *testing.T, tools ...lab.Tool) bool {
	t.Helper()
	if lab.Inside() {
		return true
	}
	root, err := lab.Root()
	if err != nil {
		t.Fatal(err)
	}
	bin := lab.Binaries(root + "/.build")
	if err := bin.Fetch(lab.Progress{Out: io.Discard}, tools...); err != nil {
		t.Fatal(err)
	}
	users := map[string]uint32{"root": 0, "an ordinary user": unprivilegedID}
	if os.Geteuid() != 0 {
		users = map[string]uint32{"this user": uint32(os.Geteuid())}
	}
	for name, id := range users {
		t.Run(name, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^"+strings.Split(t.Name(), "/")[0]+"$", "-test.v")
			cmd.Env = append(os.Environ(), enterEnv+"="+string(bin))
			if os.Geteuid() == 0 && id != 0 {
				cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: id, Gid: id}}
			}
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			t.Logf("%s", out)
		})
	}
	return false
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Logf("logs:\n%s", lab.Logs(30))
		t.Fatal(err)
	}
}

func network(t *testing.T) *lab.Network {
	t.Helper()
	n, err := lab.StartNetwork(lab.Binaries(os.Getenv(enterEnv)))
	must(t, err)
	return n
}

func router(t *testing.T, n *lab.Network, name string, number byte) *lab.Router {
	t.Helper()
	r, err := n.AddRouter(name, number)
	must(t, err)
	return r
}

var (
	ofBIRD = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8:5::/64")}
	ofFRR  = []netip.Prefix{netip.MustParsePrefix("203.0.113.7/32"), netip.MustParsePrefix("2001:db8:6::7/128")}
)

// TestRouters establishes sessions between BIRD and FRR with all configurations that
// the lab supports, without Fairlead.
func TestRouters(t *testing.T) {
	if !inside(t, lab.BIRD, lab.FRR) {
		return
	}
	ctx := t.Context()
	n := network(t)
	b, f := router(t, n, "bird", 251), router(t, n, "frr", 252)
	must(t, lab.Connect(b.Host, "cable0", f.Host, "cable0"))
	const fast = 100 * time.Millisecond
	for _, tt := range []struct {
		name    string
		b, f    lab.Neighbor // the peer of BIRD, and the peer of FRR
		asn     uint32       // of FRR, if not 64514
		extra   string       // for BIRD
		inBIRD  string       // the name of FRR in BIRD, if not Address; "*" is any
		inFRR   string
		viaLink bool // next hops are link-local
		only6   bool
	}{
		{name: "over IPv4", b: lab.Neighbor{Address: f.Addr, ASN: 64514}, f: lab.Neighbor{Address: b.Addr, ASN: 64513}},
		{
			name: "over IPv6, with BFD and extended next hops",
			b:    lab.Neighbor{Address: f.Addr6, BFD: fast, ExtendedNextHop: true},
			f:    lab.Neighbor{Address: b.Addr6, BFD: fast, ExtendedNextHop: true},
		},
		{
			name: "with a password and BFD, FRR waiting",
			b:    lab.Neighbor{Address: f.Addr, Password: "tall-ship", BFD: fast},
			f:    lab.Neighbor{Address: b.Addr, Password: "tall-ship", BFD: fast, Passive: true},
		},
		{
			name: "with TTL security, BIRD waiting",
			b:    lab.Neighbor{Address: f.Addr6, TTLSecurity: true, Passive: true, OnlyIPv6: true},
			f:    lab.Neighbor{Address: b.Addr6, TTLSecurity: true, OnlyIPv6: true}, only6: true,
		},
		{
			name: "FRR accepts any peer of a range", b: lab.Neighbor{Address: f.Addr},
			f: lab.Neighbor{Range: netip.MustParsePrefix("10.13.242.0/24")}, inFRR: b.Addr.String(),
		},
		{
			name: "BIRD accepts any peer of a range", b: lab.Neighbor{Range: netip.MustParsePrefix("10.13.242.0/24")},
			f: lab.Neighbor{Address: b.Addr}, inBIRD: f.Addr.String(),
		},
		{
			name: "a route reflector and its client", asn: 64513,
			b: lab.Neighbor{Address: f.Addr, ASN: 64513, Client: true, NextHopSelf: true},
			f: lab.Neighbor{Address: b.Addr, ASN: 64513, NextHopSelf: true},
		},
		{
			name: "unnumbered", b: lab.Neighbor{Link: "cable0"}, f: lab.Neighbor{Link: "cable0"},
			extra:  "protocol radv { interface \"cable0\" { max ra interval 4; }; }\n",
			inBIRD: "*", inFRR: "cable0", viaLink: true,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			forBIRD := lab.BGP{ASN: 64513, RouterID: b.Addr, Announce: ofBIRD, Neighbors: []lab.Neighbor{tt.b}, Extra: tt.extra}
			forFRR := lab.BGP{ASN: 64514, RouterID: f.Addr, Announce: ofFRR, Neighbors: []lab.Neighbor{tt.f}}
			if tt.asn != 0 {
				forFRR.ASN = tt.asn
			}
			must(t, b.StartBIRD(ctx, forBIRD.BIRD()))
			defer b.Kill()
			must(t, f.StartFRR(ctx, forFRR.FRR()))
			defer f.Kill()
			if tt.inBIRD != "*" {
				must(t, b.WaitSession(ctx, cmp.Or(tt.inBIRD, tt.b.Address.String()), "Established"))
			}
			must(t, f.WaitSession(ctx, cmp.Or(tt.inFRR, tt.f.Address.String()), "Established"))
			check := func(r *lab.Router, prefix netip.Prefix, want netip.Addr) {
				t.Helper()
				// FRR prefers the link-local next hop if both are advertised.
				may := tt.viaLink || r == f && want.Is6()
				must(t, lab.Wait(ctx, fmt.Sprintf("%s has a route to %s by %s", r.Name, prefix, want), func() error {
					hops, err := r.Routes(prefix)
					if err == nil && (len(hops) != 1 || hops[0] != want && !(may && hops[0].IsLinkLocalUnicast())) {
						err = fmt.Errorf("the next hops are %v", hops)
					}
					return err
				}))
			}
			extended := tt.b.ExtendedNextHop
			for i, v6 := range []bool{false, true} {
				if tt.only6 && !v6 {
					continue
				}
				viaFRR, viaBIRD := f.Addr, b.Addr
				if v6 || extended {
					viaFRR, viaBIRD = f.Addr6, b.Addr6
				}
				check(b, ofFRR[i], viaFRR)
				check(f, ofBIRD[i], viaBIRD)
			}
			must(t, b.Stop()) // closes its sessions
			for _, p := range ofBIRD {
				must(t, f.WaitRoute(ctx, p))
			}
			must(t, f.Stop())
		})
	}
}

// TestFabric sends requests through two routers to an address that two machines
// announce by BGP, and disconnects one of the machines. A third router is one hop
// farther away.
func TestFabric(t *testing.T) {
	if !inside(t, lab.BIRD, lab.FRR) {
		return
	}
	ctx := t.Context()
	n := network(t)
	b, f := router(t, n, "bird", 251), router(t, n, "frr", 252)
	far, err := n.AddFarRouter("far", 253, b)
	must(t, err)
	vip, vip6 := netip.MustParsePrefix("203.0.113.7/32"), netip.MustParsePrefix("2001:db8:7::7/128")
	const every = 50 * time.Millisecond
	var nodes []*lab.Router
	var hosts []*lab.Host
	for i, name := range []string{"node-1", "node-2"} {
		h, err := n.AddHost(name, byte(11+i))
		must(t, err)
		must(t, h.SetGateways(b.Addr, f.Addr))
		must(t, h.Do(func() error {
			lo, err := netlink.LinkByName("lo")
			for _, p := range []netip.Prefix{vip, vip6} {
				addr := &netlink.Addr{IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Bits())}}
				err = errors.Join(err, netlink.AddrAdd(lo, addr))
			}
			return err
		}))
		must(t, h.Serve(":8080", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, name) })))
		node := n.RouterOn(h)
		must(t, node.StartBIRD(ctx, lab.BGP{ASN: 64512, RouterID: h.Addr, Announce: []netip.Prefix{vip, vip6}, Neighbors: []lab.Neighbor{
			{Address: b.Addr, BFD: every}, {Address: f.Addr, BFD: every}, {Address: far.Addr, Hops: 2},
		}}.BIRD()))
		nodes, hosts = append(nodes, node), append(hosts, h)
	}
	fabric := lab.NodeNeighbors(hosts, 64512, func(n *lab.Neighbor, _ *lab.Host) { n.BFD = every })
	must(t, b.StartBIRD(ctx, lab.BGP{ASN: 64513, RouterID: b.Addr, Neighbors: fabric}.BIRD()))
	must(t, f.StartFRR(ctx, lab.BGP{ASN: 64513, RouterID: f.Addr, Neighbors: fabric}.FRR()))
	multihop := lab.NodeNeighbors(hosts, 64512, func(n *lab.Neighbor, _ *lab.Host) { n.Hops, n.OnlyIPv4 = 2, true })
	must(t, far.StartBIRD(ctx, lab.BGP{ASN: 64515, RouterID: far.Addr, Neighbors: multihop}.BIRD()))
	for _, r := range []*lab.Router{b, f} {
		must(t, r.WaitRoute(ctx, vip, hosts[0].Addr, hosts[1].Addr))
	}
	must(t, b.WaitRoute(ctx, vip6, hosts[0].Addr6, hosts[1].Addr6))
	must(t, far.WaitRoute(ctx, vip, b.WAN)) // both are reached through that router
	for _, node := range nodes {
		must(t, b.WaitSession(ctx, node.Addr.String(), "Established"))
	}
	for _, url := range []string{"http://203.0.113.7:8080", "http://[2001:db8:7::7]:8080"} {
		must(t, lab.Wait(ctx, url+" answers", func() error { _, err := n.Remote.Get(ctx, url); return err }))
	}

	changes, err := b.WatchRoutes(ctx)
	must(t, err)
	counter, err := b.Count("eth0", vip.Addr())
	must(t, err)
	defer counter.Close()
	stop := lab.RequestStream{URL: "http://203.0.113.7:8080", Every: 5 * time.Millisecond}.Start(ctx, n.Remote)
	pass := func() {
		t.Helper()
		want := counter.Packets() + 200
		must(t, lab.Wait(ctx, "requests pass the router", func() error {
			if have := counter.Packets(); have < want {
				return fmt.Errorf("%d of %d packets have passed", have, want)
			}
			return nil
		}))
	}
	pass()
	off := time.Now()
	must(t, hosts[0].SetLink(false))
	must(t, b.WaitRoute(ctx, vip, hosts[1].Addr))
	must(t, f.WaitRoute(ctx, vip, hosts[1].Addr))
	pass()
	report := stop()
	t.Logf("%s; answers: %v", report, report.Answers)
	if report.Lost == 0 || report.TimedOut == 0 || report.Lost == report.Sent || report.Answers["node-1"] == 0 || report.Answers["node-2"] == 0 {
		t.Errorf("the report is %+v", report)
	}
	for change := range changes {
		if change.Prefix == vip && slices.Equal(change.Hops, []netip.Addr{hosts[1].Addr}) {
			t.Logf("the route changed %s after the link went down", change.At.Sub(off))
			break
		}
	}
	far.Kill()
	must(t, far.StartFRR(ctx, lab.BGP{ASN: 64515, RouterID: far.Addr, Neighbors: multihop}.FRR()))
	must(t, far.WaitSession(ctx, hosts[1].Addr.String(), "Established"))
	must(t, far.WaitRoute(ctx, vip, b.WAN))
	if out, err := f.Show(ctx, "show bgp summary"); err != nil || !strings.Contains(out, hosts[1].Addr.String()) {
		t.Errorf("FRR shows %q, %v", out, err)
	}
	for _, r := range append(nodes, b, f, far) {
		must(t, r.Stop())
	}
}
