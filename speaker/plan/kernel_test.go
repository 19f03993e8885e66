package plan

import (
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"pgregory.net/rapid"

	"github.com/fairlead-io/fairlead/config/fixture"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/speaker/l2"
)

// configured returns the addresses "IP/length interface".
func configured(all ...string) (addrs []l2.LocalAddress) {
	for _, text := range all {
		var prefix, iface string
		if _, err := fmt.Sscan(text, &prefix, &iface); err != nil {
			panic(err)
		}
		addrs = append(addrs, l2.LocalAddress{Prefix: netip.MustParsePrefix(prefix), Interface: iface})
	}
	return addrs
}

// TestKernelWarnings checks when a speaker warns that the kernel of its node answers for an
// address of a Service. Node a can announce the address, and no advertisement selects node b.
func TestKernelWarnings(t *testing.T) {
	addr := netip.MustParseAddr("192.0.2.7")
	answered := func(addrs ...string) func(*Snapshot) {
		return func(s *Snapshot) { s.Local.Interfaces[0].Answered = configured(addrs...) }
	}
	onOther := func(change func(*l2.Interface)) func(*Snapshot) {
		return func(s *Snapshot) {
			other := newInterface("eth1", "198.51.100.1/24")
			other.Answered = configured("192.0.2.7/32 lo")
			change(&other)
			s.Local.Interfaces = append(s.Local.Interfaces, other)
		}
	}
	advertisedOn := func(spec v1alpha1.L2AdvertisementSpec) func(*Snapshot) {
		return func(s *Snapshot) {
			pools := s.Config.Pools
			s.Config = parseL2(l2ad("x", spec))
			s.Config.Pools = pools
		}
	}
	services := func(addrs ...string) func(*Snapshot) {
		return func(s *Snapshot) {
			for _, a := range addrs {
				s.Services = append(s.Services, service(a, a, "p"))
			}
		}
	}
	answers := func(node, addr, on, iface, prefix string) string {
		return fmt.Sprintf("the kernel of node %s answers for %s on %s, because it is configured on %s; remove it: ip addr del %s dev ",
			node, addr, on, iface, prefix)
	}
	onLo := func(node string) string { return answers(node, "192.0.2.7", "eth0", "lo", "192.0.2.7/32") + "lo" }
	all := func(more ...func(*Snapshot)) []func(*Snapshot) { return more }
	for _, row := range []struct {
		name    string
		node    string
		changes []func(*Snapshot)
		want    string // of all warnings
		addrs   int
	}{
		{"own address", "a", all(answered("192.0.2.1/24 eth0")), "", 0},
		{"announced by this node", "a", all(answered("192.0.2.1/24 eth0", "192.0.2.7/32 lo")), onLo("a"), 1},
		{"no advertisement selects the node", "b", all(answered("192.0.2.7/32 lo")), onLo("b"), 1},
		{"excluded", "a", all(answered("192.0.2.7/32 lo"), func(s *Snapshot) {
			s.Nodes[0] = node("a", labelled("x", "y"), labelled("node.kubernetes.io/exclude-from-external-load-balancers", "true"))
		}), onLo("a"), 1},
		{
			"with the prefix length of the subnet", "b", all(answered("192.0.2.7/24 eth0")),
			answers("b", "192.0.2.7", "eth0", "eth0", "192.0.2.7/24") + "eth0", 1,
		},
		{
			"IPv6", "b", all(answered("2001:db8::7/128 eth0"), services("2001:db8::7"), func(s *Snapshot) {
				s.Local.Interfaces[0].Prefixes = append(s.Local.Interfaces[0].Prefixes, netip.MustParsePrefix("2001:db8::1/64"))
			}),
			answers("b", "2001:db8::7", "eth0", "eth0", "2001:db8::7/128") + "eth0", 1,
		},
		{"on another segment", "b", all(onOther(func(*l2.Interface) {})), "", 0},
		{
			"on an interface that the advertisement names", "b",
			all(onOther(func(*l2.Interface) {}),
				advertisedOn(v1alpha1.L2AdvertisementSpec{Interfaces: []string{"eth1"}, NodeSelectors: matchLabel("x", "y")})),
			answers("b", "192.0.2.7", "eth1", "lo", "192.0.2.7/32") + "lo", 1,
		},
		{
			"not on the interface that the advertisement names", "b",
			all(answered("192.0.2.7/32 lo"), advertisedOn(v1alpha1.L2AdvertisementSpec{Interfaces: []string{"eth1"}})), "", 0,
		},
		{"in a VRF", "b", all(onOther(func(i *l2.Interface) {
			i.Prefixes, i.VRF = []netip.Prefix{netip.MustParsePrefix("192.0.2.9/24")}, "blue"
		})), "", 0},
		{
			"not advertised on the LAN", "b",
			all(answered("192.0.2.7/32 lo"), advertisedOn(v1alpha1.L2AdvertisementSpec{IPAddressPools: []string{"q"}})), "", 0,
		},
		{"an address of a Node", "b", all(answered("192.0.2.7/32 lo"), func(s *Snapshot) {
			s.Nodes[1] = node("b", fixture.WithNodeAddresses(addr.String()))
		}), "", 0},
		{
			"several addresses", "b",
			all(services("192.0.2.8", "192.0.2.9", "192.0.2.10"), answered("192.0.2.9/32 lo", "192.0.2.10/32 dummy0", "192.0.2.7/32 lo",
				"192.0.2.8/32 lo", "192.0.2.8/32 dummy0", "192.0.2.11/32 lo")),
			"the kernel of node b answers for 4 addresses of Services on eth0, because they are configured on dummy0, lo; remove them: " +
				"ip addr del 192.0.2.7/32 dev lo; ip addr del 192.0.2.8/32 dev dummy0; ip addr del 192.0.2.8/32 dev lo; and 2 more", 4,
		},
		{
			"a name with special characters", "b", all(answered("192.0.2.7/32 a;b'c")),
			answers("b", "192.0.2.7", "eth0", "a;b'c", "192.0.2.7/32") + `'a;b'\''c'`, 1,
		},
		{
			"a more severe warning", "a", all(services("192.0.2.8"), answered("192.0.2.7/32 lo", "192.0.2.8/32 lo"), func(s *Snapshot) {
				s.Local.Held = map[netip.Addr]bool{addr: true}
				s.Local.Claimants = map[netip.Addr][]l2.Claimant{addr: {claimant(strangerMAC, time.Minute)}}
			}),
			"the kernel of node a answers for 2 addresses of Services on eth0, because they are configured on lo; remove them: " +
				"ip addr del 192.0.2.7/32 dev lo; ip addr del 192.0.2.8/32 dev lo", 1,
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := conflictSnapshot()
			s.Node, s.Local.Interfaces = row.node, slices.Clone(s.Interfaces[row.node])
			for _, change := range row.changes {
				change(&s)
			}
			messages, addrs := map[string]bool{}, 0
			for _, w := range Decide(s).Warnings {
				if w.Reason == v1alpha1.KernelAnswers {
					messages[w.Message] = true
					addrs++
				}
			}
			if addrs != row.addrs || len(messages) > 1 || messages[row.want] != (row.want != "") {
				t.Errorf("%d addresses with %q, want %d with\n%s", addrs, slices.Collect(maps.Keys(messages)), row.addrs, row.want)
			}
		})
	}
}

// TestLawKernelAnswers checks that the addresses for which the kernel answers change nothing but
// the warnings, and that there is a warning about each that is announced on the segment.
func TestLawKernelAnswers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawSnapshot(t)
		for _, n := range s.Nodes {
			s.Node, s.Local = n.Name, LocalFacts{Interfaces: slices.Clone(s.Interfaces[n.Name])}
			before := Decide(s)
			onLo := map[netip.Addr]bool{}
			for i := range s.Local.Interfaces {
				for _, svc := range s.Services {
					if a := ingressAddr(svc); rapid.Bool().Draw(t, "on lo") {
						onLo[a] = true
						s.Local.Interfaces[i].Answered = append(s.Local.Interfaces[i].Answered, configured(a.String()+"/32 lo")...)
					}
				}
			}
			after := Decide(s)
			for addr := range after.L2 {
				if onLo[addr] && after.Warnings[addr].Reason == "" {
					t.Fatalf("%s announces %s, which is on lo, without a warning", n.Name, addr)
				}
			}
			for addr, w := range after.Warnings {
				if before.Warnings[addr] != w && (w.Reason != v1alpha1.KernelAnswers || !onLo[addr] || before.Warnings[addr].Reason != "") {
					t.Fatalf("the warning about %s was %v and is %v", addr, before.Warnings[addr], w)
				}
			}
			before.Warnings, after.Warnings = nil, nil
			if !reflect.DeepEqual(before, after) {
				t.Fatalf("the plan was\n%+v\nand is\n%+v", before, after)
			}
		}
	})
}

func ingressAddr(svc *corev1.Service) netip.Addr {
	return netip.MustParseAddr(svc.Status.LoadBalancer.Ingress[0].IP)
}
