package plan

import (
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"go4.org/netipx"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/fixture"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/speaker/failover"
	"github.com/fairlead-io/fairlead/speaker/l2"
)

const (
	strangerMAC = "02:00:00:00:00:99"
	otherMAC    = "02:00:00:00:00:98"
)

// macOf is the MAC of node a, b or c.
func macOf(node string) string { return "02:00:00:00:00:0" + node }

// claimant returns a host that has claimed an address on eth0 for the duration.
func claimant(mac string, lasting time.Duration) l2.Claimant {
	parsed, err := net.ParseMAC(mac)
	if err != nil {
		panic(err)
	}
	first := time.Unix(1000, 0)
	return l2.Claimant{Interface: "eth0", MAC: parsed, First: first, Last: first.Add(lasting)}
}

// TestJudge is the table of the judgement, for the plan of node a.
func TestJudge(t *testing.T) {
	const once, long = 0, 10 * time.Second
	candidate := macNode{name: "b", candidate: true}
	announcing := macNode{name: "b", candidate: true, announces: true}
	unread := macNode{name: "b", candidate: true, unread: true}
	kernel := macNode{name: "b", kernelAnswers: true}
	elsewhere := macNode{name: "b", announces: true} // not a candidate: its report proves nothing
	otherInterface := claimant(strangerMAC, once)
	otherInterface.Interface = "eth1"
	claims := func(all ...l2.Claimant) []l2.Claimant { return all }
	b, stranger, other := claimant(macOf("b"), once), claimant(strangerMAC, once), claimant(otherMAC, once)

	for _, row := range []struct {
		name    string
		c       contention
		nodes   []macNode // that report the MAC of node b
		reason  v1alpha1.Reason
		says    string // part of the message
		blocked bool   // if it is not announced yet
	}{
		{
			"a stranger",
			contention{claimants: claims(stranger)},
			nil,
			v1alpha1.AddressConflict, "another host has the address: MAC " + strangerMAC + " seen on eth0 of node a", true,
		},
		{
			"two strangers",
			contention{claimants: claims(stranger, other)},
			nil,
			v1alpha1.AddressConflict, strangerMAC + " seen on eth0 of node a, MAC " + otherMAC, true,
		},
		{
			"a stranger, and the address was announced before a restart",
			contention{claimants: claims(stranger), restored: true},
			nil, v1alpha1.AddressConflict, "it is announced nevertheless", false,
		},
		{
			"software on a node, and the address was announced before a restart",
			contention{claimants: claims(claimant(macOf("b"), long)), restored: true},
			[]macNode{candidate},
			v1alpha1.AddressConflict, "other software on node b", true,
		},
		{
			"software on a node that is no candidate, and the address was announced before a restart",
			contention{claimants: claims(claimant(macOf("b"), long)), restored: true},
			[]macNode{{name: "b"}},
			v1alpha1.AddressConflict, "it is announced nevertheless", false,
		},
		{"a stranger, overridden", contention{claimants: claims(stranger), overridden: true}, nil, v1alpha1.AddressConflict, strangerMAC, false},
		{
			"software on a node",
			contention{claimants: claims(claimant(macOf("b"), long))},
			[]macNode{candidate},
			v1alpha1.AddressConflict, "other software on node b (MAC " + macOf("b"), true,
		},
		{
			"software on this node",
			contention{claimants: claims(claimant(macOf("b"), long))},
			[]macNode{{name: "a", candidate: true}},
			v1alpha1.AddressConflict, "other software on node a (", true,
		},
		{"a node that announces it", contention{claimants: claims(claimant(macOf("b"), long))}, []macNode{announcing}, "", "", false},
		{"a report of no candidate", contention{claimants: claims(b)}, []macNode{elsewhere}, v1alpha1.AddressConflict, "node b", true},
		{
			"two nodes report the MAC, and the one that announces is no candidate",
			contention{claimants: claims(claimant(macOf("b"), long))},
			[]macNode{{name: "c", candidate: true}, elsewhere},
			v1alpha1.AddressConflict, "other software on node c or b", true,
		},
		{"a report of a candidate that was not read", contention{claimants: claims(b)}, []macNode{unread}, "", "", false},
		{
			"two nodes report the MAC, and the report of no candidate was not read",
			contention{claimants: claims(claimant(macOf("b"), long))},
			[]macNode{{name: "c", candidate: true}, {name: "b", unread: true}},
			v1alpha1.AddressConflict, "other software on node c or b", true,
		},
		{"two nodes report the MAC, and a candidate announces", contention{claimants: claims(b)}, []macNode{{name: "c"}, announcing}, "", "", false},
		{"the kernel of a node", contention{claimants: claims(claimant(macOf("b"), long))}, []macNode{kernel}, "", "", false},
		{
			"the kernel of a node, IPv6",
			contention{addr: netip.MustParseAddr("2001:db8::7"), claimants: claims(claimant(macOf("b"), long))},
			[]macNode{kernel},
			v1alpha1.AddressConflict, "other software", true,
		},
		{
			"the kernel of a node, and a stranger",
			contention{claimants: claims(b, stranger)},
			[]macNode{kernel},
			v1alpha1.AddressConflict, strangerMAC, true,
		},
		{
			"proxy ARP",
			contention{claimants: claims(stranger), controlClaimants: claims(claimant(strangerMAC, long))},
			nil,
			v1alpha1.ProxyARP, "MAC " + strangerMAC + " seen on eth0 of node a answers for the address, and for 192.0.2.200, which is not assigned", false,
		},
		{
			"proxy ARP of a node",
			contention{claimants: claims(claimant(macOf("b"), long)), controlClaimants: claims(b)},
			[]macNode{candidate},
			v1alpha1.ProxyARP, macOf("b"), false,
		},
		{
			"proxy ARP, and a stranger",
			contention{claimants: claims(stranger, other), controlClaimants: claims(stranger)},
			nil,
			v1alpha1.AddressConflict, "the address: MAC " + otherMAC + " seen on", true,
		},
		{
			"proxy ARP of another host",
			contention{claimants: claims(stranger), controlClaimants: claims(other)},
			nil,
			v1alpha1.AddressConflict, strangerMAC, true,
		},
		{
			"proxy ARP on another interface",
			contention{claimants: claims(stranger), controlClaimants: claims(otherInterface)},
			nil,
			v1alpha1.AddressConflict, strangerMAC, true,
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			c := row.c
			if c.node, c.control = "a", netip.MustParseAddr("192.0.2.200"); !c.addr.IsValid() {
				c.addr = netip.MustParseAddr("192.0.2.7")
			}
			c.nodes = func(k l2.Claimant) []macNode {
				if k.MAC.String() != macOf("b") {
					return nil
				}
				return row.nodes
			}
			for _, held := range []bool{false, true} {
				c.held = held
				j := c.judge()
				if j.warning.Reason != row.reason || !strings.Contains(j.warning.Message, row.says) || j.contested != (row.reason != "") {
					t.Errorf("held %t: got %+v, want %s %q", held, j, row.reason, row.says)
				}
				if j.withhold != (row.blocked && !held) {
					t.Errorf("held %t: withheld %t", held, j.withhold)
				}
			}
		})
	}

	// The former owner goes on for a moment, but only a candidate can be one.
	for _, row := range []struct {
		name    string
		held    bool
		lasting time.Duration
		node    macNode
		want    v1alpha1.Reason
	}{
		{"a former owner", true, handOverTime - 1, candidate, ""},
		{"a former owner that goes on", true, handOverTime, candidate, v1alpha1.AddressConflict},
		{"no candidate", true, once, elsewhere, v1alpha1.AddressConflict},
		{"before the first announcement", false, once, candidate, v1alpha1.AddressConflict},
	} {
		c := contention{
			addr: netip.MustParseAddr("192.0.2.7"), node: "a", held: row.held, claimants: claims(claimant(macOf("b"), row.lasting)),
			nodes: func(l2.Claimant) []macNode { return []macNode{row.node} },
		}
		if got := c.judge().warning.Reason; got != row.want {
			t.Errorf("%s: %q, want %q", row.name, got, row.want)
		}
	}
}

// TestJudgeDeparted checks that the claim of a node that has ended since is not a conflict, and
// that a claim after its end is one.
func TestJudgeDeparted(t *testing.T) {
	claim := claimant(macOf("b"), time.Second)
	for _, row := range []struct {
		name      string
		since     time.Time
		held      bool
		want      v1alpha1.Reason
		undecided bool
	}{
		{"it claimed before", claim.Last, true, "", false},
		{"it claimed before, and the address is not announced yet", claim.Last, false, "", true},
		{"it claimed again", claim.Last.Add(-time.Nanosecond), true, v1alpha1.AddressConflict, false},
		{"it claimed again, and the address is not announced yet", claim.Last.Add(-time.Nanosecond), false, v1alpha1.AddressConflict, false},
	} {
		j := contention{
			addr: netip.MustParseAddr("192.0.2.7"), node: "a", held: row.held, claimants: []l2.Claimant{claim},
			nodes:    func(l2.Claimant) []macNode { return nil },
			departed: map[string]time.Time{macOf("b"): row.since},
		}.judge()
		if j.warning.Reason != row.want || j.undecided != row.undecided || j.withhold != (row.want != "" && !row.held) {
			t.Errorf("%s: got %+v, want %q", row.name, j, row.want)
		}
	}
}

// announcing returns the report of a node that announces the addresses on the interface.
func announcing(iface string, addrs ...string) []AnnouncedGroup {
	return AnnouncedGroups(&v1alpha1.Speaker{Status: v1alpha1.SpeakerStatus{Announcing: []v1alpha1.Announcement{
		{Peers: []string{"tor"}, Addresses: []string{"192.0.2.0-192.0.2.255"}}, // does not count
		{Interfaces: []string{iface}, Addresses: addrs},
	}}})
}

// conflictSnapshot is of node a, the only one that may announce the addresses of the
// Services from pool p. Node b is on the segment.
func conflictSnapshot() Snapshot {
	s := Snapshot{
		Node: "a", Services: []*corev1.Service{service("s", "192.0.2.7", "p")},
		Nodes:      []*corev1.Node{node("a", labelled("x", "y")), node("b")},
		Interfaces: map[string][]l2.Interface{"a": {newInterface("eth0", "192.0.2.1/24")}, "b": {newInterface("eth0", "192.0.2.2/24")}},
	}
	for name := range s.Interfaces {
		s.Interfaces[name][0].MAC = macOf(name)
	}
	s.Config, _ = config.Parse(config.Objects{
		Pools:            []*v1alpha1.IPAddressPool{newPool("p", "192.0.2.0/25")},
		L2Advertisements: []*v1alpha1.L2Advertisement{l2ad("x", v1alpha1.L2AdvertisementSpec{NodeSelectors: matchLabel("x", "y")})},
	})
	return s
}

// TestProbe checks that exactly those addresses are probed that this node does not know to
// have been announced.
func TestProbe(t *testing.T) {
	addr, other := netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("192.0.2.8")
	condition := func(status metav1.ConditionStatus, reason v1alpha1.Reason) func(*Snapshot) {
		return func(s *Snapshot) {
			s.Local.Failover.Answered = answeredBy(addr, "b")
			s.Services[0].Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionAnnounced, Status: status, Reason: string(reason)}}
		}
	}
	restored := func(text string) func(*Snapshot) {
		return func(s *Snapshot) {
			var addrs netipx.IPSetBuilder
			for _, g := range announcing("eth0", text) {
				addrs.AddSet(g.Addrs)
			}
			s.Local.Restored, _ = addrs.IPSet()
		}
	}
	for _, row := range []struct {
		name   string
		change func(*Snapshot)
		probed bool
	}{
		{"a new address", func(*Snapshot) {}, true},
		{"held", func(s *Snapshot) { s.Local.Held = map[netip.Addr]bool{addr: true} }, false},
		{"another one is held", func(s *Snapshot) { s.Local.Held = map[netip.Addr]bool{other: true} }, true},
		{"announced before a restart", restored("192.0.2.1-192.0.2.9"), true},
		{"another one was announced before a restart", restored(other.String()), true},
		{"another node has answered for it, which is not eligible", func(s *Snapshot) { s.Local.Failover.Answered = answeredBy(addr, "b") }, false},
		{"another one was", func(s *Snapshot) { s.Local.Failover.Answered = answeredBy(other, "b") }, true},
		{"owned by another node, which withholds it", condition(metav1.ConditionFalse, v1alpha1.AddressConflict), true},
		{"owned by another node, which announces it", condition(metav1.ConditionTrue, v1alpha1.AddressConflict), false},
		{"owned by another node, which has not reported", condition(metav1.ConditionFalse, v1alpha1.NoSpeaker), false},
		{"another node announces it according to its report", func(s *Snapshot) {
			s.Local.Reports = map[string][]AnnouncedGroup{"b": announcing("eth0", addr.String())}
		}, true},
	} {
		s := conflictSnapshot()
		row.change(&s)
		claim := Decide(s).L2[addr]
		if claim.Probe != row.probed || claim.Withhold || len(claim.Interfaces) != 1 {
			t.Errorf("%s: %+v", row.name, claim)
		}
	}
}

func answeredBy(addr netip.Addr, node string) map[netip.Addr]failover.Peer {
	return map[netip.Addr]failover.Peer{addr: {Interface: "eth0", Node: node}}
}

// TestOwner checks which node announces an address.
func TestOwner(t *testing.T) {
	addr := netip.MustParseAddr("192.0.2.7")
	announces := func(s Snapshot) bool {
		_, ok := Decide(s).L2[addr]
		return ok
	}
	s := conflictSnapshot()
	if !announces(s) {
		t.Error("not announced by this node")
	}
	s.Node = "b"
	if announces(s) {
		t.Error("announced by another node")
	}
	s.Node, s.Interfaces = "a", nil
	if announces(s) {
		t.Error("announced without interfaces")
	}
	// This node and another one own the address, each on its segment: it is new on both.
	s = conflictSnapshot()
	s.Config = parseL2(l2ad("x", v1alpha1.L2AdvertisementSpec{Interfaces: []string{"eth0", "eth1"}}))
	s.Nodes = []*corev1.Node{node("a"), node("b")}
	s.Interfaces = map[string][]l2.Interface{"a": {newInterface("eth0", "10.0.0.1/24")}, "b": {newInterface("eth1", "10.0.1.1/24")}}
	if p := Decide(s); len(p.Neighbors) != 0 || !p.L2[addr].Probe {
		t.Errorf("two segments: %v, %+v", p.Neighbors, p.L2[addr])
	}
}

// TestReportsDecideOnClaims checks what follows from the report of a node with the MAC of a
// claim, and which reports are needed.
func TestReportsDecideOnClaims(t *testing.T) {
	addr := netip.MustParseAddr("192.0.2.7")
	const undecided, excused, conflict = "undecided", "excused", "conflict"
	reports := func(groups []AnnouncedGroup) func(*Snapshot) {
		return func(s *Snapshot) { s.Local.Reports = map[string][]AnnouncedGroup{"b": groups} }
	}
	held := func(s *Snapshot) { s.Local.Held = map[netip.Addr]bool{addr: true} }
	gone := func(after time.Duration) func(*Snapshot) {
		return func(s *Snapshot) {
			s.Local.Failover.Peers = map[failover.Peer]failover.Status{
				{Interface: "eth0", Node: "b"}: {State: failover.Gone, Since: s.Local.Claimants[addr][0].Last.Add(after)},
			}
		}
	}
	for _, row := range []struct {
		name    string
		changes []func(*Snapshot)
		want    string
		needed  bool // the report of node b
	}{
		{"not read yet", nil, undecided, true},
		{"announces it", []func(*Snapshot){reports(announcing("eth0", "192.0.2.1-192.0.2.9")), func(s *Snapshot) {
			s.Local.Failover.Answered = map[netip.Addr]failover.Peer{addr: {Interface: "eth0", Node: "b"}}
		}}, excused, true},
		{"announces it, but may have stopped", []func(*Snapshot){reports(announcing("eth0", addr.String()))}, undecided, true},
		{"announces it, and a kernel answers", []func(*Snapshot){reports(announcing("eth0", addr.String())), func(s *Snapshot) {
			s.Interfaces["b"][0].KernelAnswers = true
		}}, excused, false},
		{"announces another one", []func(*Snapshot){reports(announcing("eth0", "192.0.2.8"))}, conflict, true},
		{"announces it on another interface", []func(*Snapshot){reports(announcing("eth1", addr.String()))}, conflict, true},
		{"has no Speaker", []func(*Snapshot){reports(nil)}, conflict, true},
		{"held, not read yet", []func(*Snapshot){held}, excused, true},
		{"held, announces another one", []func(*Snapshot){held, reports(announcing("eth0", "192.0.2.8"))}, conflict, true},
		{"gone since", []func(*Snapshot){reports(nil), gone(time.Second)}, undecided, false},
		{"gone before", []func(*Snapshot){reports(nil), gone(-time.Second)}, conflict, true},
		{"held, a former owner", []func(*Snapshot){held, func(s *Snapshot) {
			s.Local.Claimants[addr] = []l2.Claimant{claimant(macOf("b"), time.Second)}
		}}, excused, false},
		{"the kernel answers", []func(*Snapshot){func(s *Snapshot) { s.Interfaces["b"][0].KernelAnswers = true }}, excused, false},
		{"a stranger as well", []func(*Snapshot){func(s *Snapshot) {
			s.Local.Claimants[addr] = append(s.Local.Claimants[addr], claimant(strangerMAC, time.Minute))
		}}, conflict, true},
		{"not a candidate", []func(*Snapshot){reports(announcing("eth0", addr.String())), func(s *Snapshot) { s.Nodes[1] = node("b") }}, conflict, false},
	} {
		s := conflictSnapshot()
		s.Nodes[1] = node("b", labelled("x", "y"), notReady)
		s.Local.PeerFresh = map[failover.Peer]bool{{Interface: "eth0", Node: "b"}: false} // so that this node prevails
		s.Local.Claimants = map[netip.Addr][]l2.Claimant{addr: {claimant(macOf("b"), time.Minute)}}
		for _, change := range row.changes {
			change(&s)
		}
		p := Decide(s)
		claim, got := p.L2[addr], excused
		switch {
		case p.Unannounced[addr].Reason == v1alpha1.AddressConflict, p.Warnings[addr].Reason == v1alpha1.AddressConflict:
			got = conflict
		case claim.Probe:
			got = undecided
		}
		if got != row.want || claim.Withhold != (got == conflict && !s.Local.Held[addr]) {
			t.Errorf("%s: %s, want %s; %+v", row.name, got, row.want, claim)
		}
		began, needed := p.NeededReports["b"]
		if needed != row.needed || len(p.NeededReports) > 1 || needed && !began.Equal(time.Unix(1000, 0)) {
			t.Errorf("%s: needed reports %v", row.name, p.NeededReports)
		}
	}
}

// TestWithheld checks what follows from a conflict: the claims, the control address, and
// what is reported.
func TestWithheld(t *testing.T) {
	addr, control := netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("192.0.2.125")
	snapshot := func(changes ...func(*Snapshot)) Snapshot {
		s := conflictSnapshot()
		s.Services = append(s.Services, service("t", "192.0.2.126", "p")) // the last one but the last octet 127 is free
		s.Nodes[1] = node("b", fixture.WithNodeAddresses("192.0.2.127"))
		s.Local.Claimants = map[netip.Addr][]l2.Claimant{addr: {claimant(strangerMAC, 0)}}
		for _, change := range changes {
			change(&s)
		}
		return s
	}
	held := func(s *Snapshot) { s.Local.Held = map[netip.Addr]bool{addr: true} }
	proxy := func(s *Snapshot) { s.Local.Claimants[control] = s.Local.Claimants[addr] }
	by := func(mac string) func(*Snapshot) {
		return func(s *Snapshot) { s.Local.Claimants[addr] = []l2.Claimant{claimant(mac, time.Minute)} }
	}
	annotated := func(s *Snapshot) {
		s.Services[0] = service("s", addr.String(), "p", fixture.Annotated(v1alpha1.AnnotationAnnounceDespiteConflict, "true"))
	}
	kernelAnswers := func(nodes ...string) func(*Snapshot) {
		return func(s *Snapshot) {
			for _, name := range nodes {
				s.Interfaces[name][0].KernelAnswers = true
			}
		}
	}
	alsoSelected := func(s *Snapshot) { s.Nodes[1] = node("b", labelled("x", "y"), notReady) }
	routed := func(s *Snapshot) {
		c, _ := config.Parse(config.Objects{
			BGPAdvertisements: []*v1alpha1.BGPAdvertisement{bgpad("all")}, BGPPeers: []*v1alpha1.BGPPeer{peer("tor", "192.0.2.1")},
		})
		s.Config.BGPAdvertisements, s.Config.BGPPeers = c.BGPAdvertisements, c.BGPPeers
	}
	const conflict = v1alpha1.AddressConflict
	for _, row := range []struct {
		name                 string
		s                    Snapshot
		withheld, controlled bool
		unannounced, warning v1alpha1.Reason
	}{
		{"a stranger", snapshot(), true, true, conflict, ""},
		{"a stranger, held", snapshot(held), false, true, "", conflict},
		{"a stranger, overridden", snapshot(annotated), false, true, "", conflict},
		{"a stranger, announced by BGP", snapshot(routed), true, true, "", conflict},
		{"proxy ARP", snapshot(proxy), false, true, "", v1alpha1.ProxyARP},
		{"software on a node", snapshot(by(macOf("b"))), true, true, conflict, ""},
		{"the kernel of a node, and of this one", snapshot(by(macOf("b")), kernelAnswers("a", "b")), false, false, "", ""},
		{"the kernel of a candidate", snapshot(by(macOf("b")), kernelAnswers("b"), alsoSelected), false, false, "", ""},
		{"a node that is no candidate says that its kernel answers", snapshot(by(macOf("b")), kernelAnswers("b")), true, true, conflict, ""},
		{"this node's kernel answers, the other one's does not", snapshot(by(macOf("b")), kernelAnswers("a")), true, true, conflict, ""},
		{
			"a stranger, and the kernels answer", snapshot(kernelAnswers("a", "b")), true, true, conflict, "",
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			p := Decide(row.s)
			claim := p.L2[addr]
			if claim.Withhold != row.withheld || claim.Probe || len(claim.Interfaces) != 1 {
				t.Errorf("claim %+v", claim)
			}
			if c, ok := p.L2[control]; ok != row.controlled || ok && (!c.Withhold || !slices.Equal(c.Interfaces, claim.Interfaces)) {
				t.Errorf("control address: %v", p.L2)
			}
			if p.Services[control] != nil || p.Unannounced[addr].Reason != row.unannounced || p.Warnings[addr].Reason != row.warning {
				t.Errorf("unannounced %v, warnings %v", p.Unannounced, p.Warnings)
			}
		})
	}
	// Only MACs of selected nodes are excepted from defence.
	if macs := Decide(snapshot()).NodeMACs; len(macs) != 1 || !macs[macOf("a")] {
		t.Errorf("MACs %v", macs)
	}
}

// TestOverrideOfSharedAddress checks that none of several Services decides for the others.
func TestOverrideOfSharedAddress(t *testing.T) {
	yes := fixture.Annotated(v1alpha1.AnnotationAnnounceDespiteConflict, "true")
	with, without := fixture.Service("a", yes), fixture.Service("b")
	wrong := fixture.Service("c", fixture.Annotated(v1alpha1.AnnotationAnnounceDespiteConflict, "yes"))
	for _, row := range []struct {
		services []*corev1.Service
		want     bool
	}{
		{[]*corev1.Service{with}, true},
		{[]*corev1.Service{with, with}, true},
		{[]*corev1.Service{with, without}, false},
		{[]*corev1.Service{without}, false},
		{[]*corev1.Service{wrong}, false},
	} {
		if got := announcedDespiteConflict(row.services); got != row.want {
			t.Errorf("%d Services: %t", len(row.services), got)
		}
	}
}

// TestControlAddress checks the bounds of the search.
func TestControlAddress(t *testing.T) {
	for _, row := range []struct{ pool, addr, want string }{
		{"192.0.2.0/25", "192.0.2.7", "192.0.2.127"},
		{"192.0.2.128/25", "192.0.2.200", "192.0.2.254"},
		{"192.0.2.7-192.0.2.7", "192.0.2.7", ""},
		{"192.0.2.1-192.0.2.7", "192.0.2.7", "192.0.2.6"},
		{"192.0.2.1-192.0.2.7", "192.0.2.9", ""},           // out of pool
		{"192.0.0.0/16", "192.0.2.7", "192.0.2.254"},       // in the subnet
		{"203.0.113.0/24", "203.0.113.9", "203.0.113.254"}, // without a subnet
		{"2001:db8::/64", "2001:db8::7", "2001:db8::ffff:ffff:ffff:fffe"},
	} {
		s := conflictSnapshot()
		s.Services = []*corev1.Service{service("s", row.addr, "p")}
		s.Interfaces["a"] = []l2.Interface{newInterface("eth0", "192.0.2.1/24", "2001:db8::1/64")}
		s.Config, _ = config.Parse(config.Objects{Pools: []*v1alpha1.IPAddressPool{newPool("p", row.pool)}})
		got := newDecision(s).controlAddress(heldAddress{addr: netip.MustParseAddr(row.addr), pool: "p"})
		if text := got.String(); text != row.want && !(row.want == "" && !got.IsValid()) {
			t.Errorf("%s in %s: %s, want %s", row.addr, row.pool, text, row.want)
		}
	}
}
