package plan

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/fixture"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/speaker/l2"
)

// managed makes the controller the only manager of the Service's addresses.
var managed = fixture.IngressManagedBy(v1alpha1.FieldManager)

// replaced drops what kubectl replace drops: annotations and finalizers.
func replaced(s *corev1.Service) { s.Annotations, s.Finalizers = nil, nil }

// copied makes the record the one of another Service.
func copied(s *corev1.Service) { s.UID = "another" }

func TestAnnounceableAddresses(t *testing.T) {
	const addr = "192.0.2.7"
	withStatus := func(in ...corev1.LoadBalancerIngress) func(*corev1.Service) {
		return func(s *corev1.Service) { s.Status.LoadBalancer.Ingress = in }
	}
	annotated := func(record string) func(*corev1.Service) {
		return fixture.Annotated(v1alpha1.AnnotationAllocatedFrom, record)
	}
	withClass := func(class string) func(*corev1.Service) {
		return func(s *corev1.Service) { s.Spec.LoadBalancerClass = &class }
	}
	for _, tt := range []struct {
		name    string
		changes []func(*corev1.Service)
		want    string
	}{
		{"a record", nil, addr},
		{"a record, and managed fields that were emptied", []func(*corev1.Service){func(s *corev1.Service) { s.ManagedFields = nil }}, addr},
		{"a record, and another manager", []func(*corev1.Service){fixture.IngressManagedBy("kube-vip")}, addr},
		{"a record, without finalizers", []func(*corev1.Service){func(s *corev1.Service) { s.Finalizers = nil }}, addr},
		{"a record of another address", []func(*corev1.Service){fixture.Recorded("192.0.2.8=p")}, ""},
		{"a record of one of two addresses", []func(*corev1.Service){fixture.WithIPs("192.0.2.8")}, addr},
		{"a record with another UID", []func(*corev1.Service){copied}, ""},
		{"a record without UID", []func(*corev1.Service){annotated(addr + "=p")}, ""},
		{"a record with an empty UID", []func(*corev1.Service){annotated(addr + "=p,uid="), func(s *corev1.Service) { s.UID = "" }}, ""},
		{"a finalizer alone", []func(*corev1.Service){annotated("")}, ""},
		{"a Service that was replaced", []func(*corev1.Service){replaced, managed}, addr},
		{
			"a Service that was replaced, with two addresses",
			[]func(*corev1.Service){replaced, managed, fixture.WithIPs("192.0.2.8")},
			"192.0.2.7 192.0.2.8",
		},
		{"a Service that was replaced, with a record of another UID", []func(*corev1.Service){copied, managed}, addr},
		{"a Service that was replaced, with emptied managed fields", []func(*corev1.Service){replaced}, ""},
		{
			"a status of two managers",
			[]func(*corev1.Service){replaced, fixture.IngressManagedBy(v1alpha1.FieldManager, "kube-vip")},
			"",
		},
		{"a status of another manager", []func(*corev1.Service){replaced, fixture.IngressManagedBy("kube-vip")}, ""},
		{"a host name", []func(*corev1.Service){managed, withStatus(corev1.LoadBalancerIngress{Hostname: addr})}, ""},
		{"a status that was emptied", []func(*corev1.Service){managed, withStatus()}, ""},
		{"Fairlead's class", []func(*corev1.Service){withClass(v1alpha1.ClassBareMetal)}, addr},
		{"a foreign class, with a record", []func(*corev1.Service){managed, withClass("example.com/lb")}, ""},
		{"a foreign class, without a record", []func(*corev1.Service){replaced, managed, withClass("example.com/lb")}, ""},
		{"another type", []func(*corev1.Service){managed, func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeNodePort }}, ""},
		{"being deleted", []func(*corev1.Service){managed, fixture.Deleting}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			svc := service("s", addr, "p", tt.changes...)
			for range 2 { // with all managed fields, and with those that are in the speaker's cache
				var got []string
				for _, a := range AnnounceableAddresses(svc) {
					got = append(got, a.String())
				}
				if strings.Join(got, " ") != tt.want {
					t.Errorf("got %v, want %q", got, tt.want)
				}
				v1alpha1.StripManagedFields(svc)
			}
		})
	}
}

// TestUnrecordedHolder checks that a Service without a record of its own has no effect
// on an address that a Service with one holds, and holds an address that none has.
func TestUnrecordedHolder(t *testing.T) {
	holder := func() *corev1.Service { return sharingService("x", local, createdAt(2)) }
	forged := func(change ...func(*corev1.Service)) *corev1.Service {
		return sharingService("y", append([]func(*corev1.Service){local, createdAt(1), replaced, managed}, change...)...)
	}
	for _, tt := range []struct {
		name     string
		services []*corev1.Service
		nodes    string // that may announce it
		of       string // the oldest Service of the address
		holders  string // all Services of the address
	}{
		{"a record and forged managed fields", []*corev1.Service{holder(), forged()}, "a", "x", "x"},
		{"a record, and one of another UID", []*corev1.Service{holder(), sharingService("y", local, createdAt(1), copied)}, "a", "x", "x"},
		{"two records", []*corev1.Service{holder(), sharingService("y", createdAt(1))}, "a", "y", "x y"},
		{"one that was replaced", []*corev1.Service{forged()}, "b", "y", "y"},
		{"two that were replaced", []*corev1.Service{forged(), sharingService("x", createdAt(2), replaced, managed)}, "b", "y", "x y"},
		{"two records, and forged managed fields", []*corev1.Service{holder(), forged(), sharingService("z", createdAt(3))}, "a", "x", "x z"},
		{"one that is deleted, and one that was replaced", []*corev1.Service{sharingService("x", fixture.Deleting), forged()}, "b", "y", "y"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := sharingSnapshot(tt.services, endpoints("x", "a ready"), endpoints("y", "b ready"))
			for range 2 { // in either order of the Services
				var advertisers []string
				for _, n := range s.Nodes {
					s.Node = n.Name
					if p := Decide(s); p.Advertised[sharedAddr] != nil {
						if advertisers = append(advertisers, n.Name); p.Services[sharedAddr].Name != tt.of {
							t.Errorf("%s has Service %s for the address, want %s", n.Name, p.Services[sharedAddr].Name, tt.of)
						}
						if _, owns := p.L2[sharedAddr]; !owns {
							t.Errorf("%s does not answer for the address", n.Name)
						}
					}
				}
				if got := strings.Join(advertisers, " "); got != tt.nodes {
					t.Errorf("advertised by %q, want %q", got, tt.nodes)
				}
				slices.Reverse(s.Services)
			}
			for _, svc := range tt.services {
				if states := Explain(s, svc); (len(states) == 1) != strings.Contains(tt.holders, svc.Name) {
					t.Errorf("%s is explained as %+v", svc.Name, states)
				}
			}
		})
	}
}

// TestLawForged checks that a Service without a record of its own changes nothing about
// the addresses that other Services have records of, whatever its status, managed
// fields and traffic policy.
func TestLawForged(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawSnapshot(t)
		var recorded []*corev1.Service
		for _, svc := range s.Services {
			if config.OwnAllocation(svc) != nil {
				recorded = append(recorded, svc)
			}
		}
		if len(recorded) == 0 || len(s.Nodes) == 0 {
			return
		}
		s.Services = recorded
		s.Node = rapid.SampledFrom(s.Nodes).Draw(t, "node").Name
		before := Decide(s)
		addr := rapid.SampledFrom(recorded).Draw(t, "of").Status.LoadBalancer.Ingress[0].IP
		forged := service("forged", addr, rapid.SampledFrom([]string{"p", "q", "r"}).Draw(t, "pool"), managed)
		if rapid.Bool().Draw(t, "replaced") {
			replaced(forged)
		} else {
			copied(forged)
		}
		s.Slices = append(s.Slices, drawEndpoints(t, forged, s.Nodes)...)
		s.Services = slices.Insert(slices.Clone(recorded), rapid.IntRange(0, len(recorded)).Draw(t, "at"), forged)
		if after := Decide(s); !reflect.DeepEqual(before, after) {
			t.Fatalf("before: %+v\nafter:  %+v", before, after)
		}
	})
}

// namespace returns the Namespace of the Services of the tests.
func namespace(key, value string) *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ns", Labels: map[string]string{key: value}}}
}

// TestFollowPool checks which pool's advertisements apply to an address whose record
// and pool differ.
func TestFollowPool(t *testing.T) {
	const inside, outside = "192.0.2.0/24", "198.51.100.0/24"
	forNamespace := func(name string) *v1alpha1.ServiceAllocation {
		return &v1alpha1.ServiceAllocation{Namespaces: []string{name}}
	}
	forLabel := func(key, value string) *v1alpha1.ServiceAllocation {
		return &v1alpha1.ServiceAllocation{NamespaceSelectors: matchLabel(key, value)}
	}
	without := &v1alpha1.ServiceAllocation{NamespaceSelectors: []metav1.LabelSelector{{
		MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "team", Operator: metav1.LabelSelectorOpDoesNotExist}},
	}}}
	pool := func(name, addrs string, allocation *v1alpha1.ServiceAllocation) *v1alpha1.IPAddressPool {
		p := newPool(name, addrs)
		p.Spec.ServiceAllocation = allocation
		return p
	}
	forService := &v1alpha1.ServiceAllocation{ServiceSelectors: matchLabel("app", "web")}
	for _, tt := range []struct {
		name       string
		pools      []*v1alpha1.IPAddressPool
		namespaces []*corev1.Namespace
		changes    []func(*corev1.Service) // of a Service with a record of pool p
		want       string                  // the pool that applies
	}{
		{name: "unchanged", pools: []*v1alpha1.IPAddressPool{pool("p", inside, nil)}, want: "p"},
		{name: "a pool that was shrunk", pools: []*v1alpha1.IPAddressPool{pool("p", outside, nil)}, want: "p"},
		{name: "a pool that was restricted", pools: []*v1alpha1.IPAddressPool{pool("p", inside, forNamespace("other"))}, want: "p"},
		{name: "a pool that was deleted", want: "p"},
		{name: "a pool that was renamed", pools: []*v1alpha1.IPAddressPool{pool("q", inside, nil)}, want: "q"},
		{
			name: "a pool that was deleted, and one of others", want: "p",
			pools: []*v1alpha1.IPAddressPool{pool("q", inside, forNamespace("other"))},
		},
		{name: "a pool that was split", pools: []*v1alpha1.IPAddressPool{pool("p", outside, nil), pool("q", inside, nil)}, want: "q"},
		{
			name: "a pool that was split, for others", want: "p",
			pools: []*v1alpha1.IPAddressPool{pool("p", outside, nil), pool("q", inside, forNamespace("other"))},
		},
		{
			name: "a forged pool", want: "q",
			pools: []*v1alpha1.IPAddressPool{pool("p", outside, forNamespace("admins")), pool("q", inside, nil)},
		},
		{
			name: "a forged pool, and an address of a pool of others", want: "q",
			pools: []*v1alpha1.IPAddressPool{pool("p", outside, forNamespace("admins")), pool("q", inside, forNamespace("other"))},
		},
		{
			name: "a pool for labels of namespaces", want: "p", namespaces: []*corev1.Namespace{namespace("team", "a")},
			pools: []*v1alpha1.IPAddressPool{pool("p", outside, forLabel("team", "a")), pool("q", inside, forLabel("team", "b"))},
		},
		{
			name: "a pool for labels of another namespace", want: "q", namespaces: []*corev1.Namespace{namespace("team", "b")},
			pools: []*v1alpha1.IPAddressPool{pool("p", outside, forLabel("team", "a")), pool("q", inside, forLabel("team", "b"))},
		},
		{
			name: "a namespace without a label", want: "p", namespaces: []*corev1.Namespace{namespace("x", "y")},
			pools: []*v1alpha1.IPAddressPool{pool("p", outside, without), pool("q", inside, forNamespace("other"))},
		},
		{
			name: "a namespace that is not known", want: "q",
			pools: []*v1alpha1.IPAddressPool{pool("p", outside, without), pool("q", inside, forNamespace("other"))},
		},
		{
			name: "a pool for labels of Services", want: "q",
			pools: []*v1alpha1.IPAddressPool{pool("p", outside, forService), pool("q", inside, forNamespace("other"))},
		},
		{
			name: "a pool for labels that the Service has", want: "p",
			changes: []func(*corev1.Service){func(s *corev1.Service) { s.Labels = map[string]string{"app": "web"} }},
			pools:   []*v1alpha1.IPAddressPool{pool("p", outside, forService), pool("q", inside, forNamespace("other"))},
		},
		{
			name: "without a record", changes: []func(*corev1.Service){replaced, managed}, want: "q",
			pools: []*v1alpha1.IPAddressPool{pool("p", outside, nil), pool("q", inside, forNamespace("other"))},
		},
		{
			name: "without a record and a pool", changes: []func(*corev1.Service){replaced, managed}, want: "",
			pools: []*v1alpha1.IPAddressPool{pool("p", outside, nil)},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := Snapshot{
				Node: "a", Nodes: []*corev1.Node{node("a")}, Namespaces: tt.namespaces,
				Interfaces: map[string][]l2.Interface{"a": {newInterface("p", "192.0.2.1/24"), newInterface("q", "192.0.2.2/24")}},
				Services:   []*corev1.Service{service("s", "192.0.2.7", "p", tt.changes...)},
			}
			s.Config, _ = config.Parse(config.Objects{
				Pools: tt.pools,
				L2Advertisements: []*v1alpha1.L2Advertisement{
					l2ad("p", v1alpha1.L2AdvertisementSpec{IPAddressPools: []string{"p"}, Interfaces: []string{"p"}}),
					l2ad("q", v1alpha1.L2AdvertisementSpec{IPAddressPools: []string{"q"}, Interfaces: []string{"q"}}),
				},
			})
			p := Decide(s)
			if got := strings.Join(p.L2[netip.MustParseAddr("192.0.2.7")].Interfaces, " "); got != tt.want {
				t.Errorf("announced as of pool %q, want %q", got, tt.want)
			}
			if states := Explain(s, s.Services[0]); len(states) != 1 || states[0].Pool != tt.want {
				t.Errorf("explained as %+v, want pool %q", states, tt.want)
			}
		})
	}
}

// TestNodeAddress checks that an address of a node is not announced by any node, and
// that one of them reports it.
func TestNodeAddress(t *testing.T) {
	withAddresses := fixture.WithNodeAddresses
	six := make([]string, 6)
	for i := range six {
		six[i] = fmt.Sprintf("203.0.113.%d", 1+i)
	}
	const isOfB = "203.0.113.5 is an address of Node b"
	for _, tt := range []struct {
		name  string
		nodes []*corev1.Node
		says  string // "" if the address is announced
	}{
		{"of no node", []*corev1.Node{node("a", withAddresses("203.0.113.1")), node("b", withAddresses("203.0.113.2"))}, ""},
		{"of one", []*corev1.Node{node("a"), node("b", withAddresses("203.0.113.5"))}, isOfB},
		{"of this one", []*corev1.Node{node("b", withAddresses("203.0.113.5"))}, isOfB},
		{"of one that is not Ready", []*corev1.Node{node("a"), node("b", notReady, withAddresses("203.0.113.5"))}, isOfB},
		{"of two", []*corev1.Node{node("c", withAddresses("203.0.113.5")), node("b", withAddresses("203.0.113.5"))}, isOfB},
		{"of two, in another order", []*corev1.Node{node("b", withAddresses("203.0.113.5")), node("c", withAddresses("203.0.113.5"))}, isOfB},
		{
			"the fourth of six",
			[]*corev1.Node{node("a"), node("b", withAddresses("node-b", six[0], six[1], "2001:db8::1", six[2], "203.0.113.5", six[3], six[5]))},
			isOfB,
		},
		{"the fifth of six", []*corev1.Node{node("a"), node("b", withAddresses(six...))}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := sharingSnapshot([]*corev1.Service{sharingService("x"), sharingService("y")})
			s.Nodes = tt.nodes
			for _, n := range tt.nodes {
				s.Interfaces[n.Name] = []l2.Interface{newInterface("eth0", "203.0.113.200/24")}
			}
			s.Local = LocalFacts{DataPathReady: map[netip.Addr]bool{sharedAddr: true}}
			claims, routes, reports := 0, 0, 0
			for _, n := range s.Nodes {
				s.Node = n.Name
				p := Decide(s)
				claims, routes = claims+len(p.L2), routes+len(p.BGP[0].Peer.Routes)
				if r, reported := p.Unannounced[sharedAddr]; reported {
					reports++
					if want := (v1alpha1.Refusal{Reason: v1alpha1.NodeAddress, Message: tt.says}); r != want {
						t.Errorf("%s reports %+v, want %+v", n.Name, r, want)
					}
				}
				if tt.says != "" && len(p.Advertised)+len(p.AwaitingDataPath)+len(p.Services) > 0 {
					t.Errorf("%s plans %+v", n.Name, p)
				}
			}
			if tt.says == "" && (claims != 1 || routes != len(tt.nodes) || reports > 0) || tt.says != "" && (claims+routes > 0 || reports != 1) {
				t.Errorf("%d claims, %d routes, %d reports", claims, routes, reports)
			}
			state := Explain(s, s.Services[1])[0]
			if state.Refusal.Message != tt.says || len(state.Nodes) != len(tt.nodes) {
				t.Errorf("explained as %+v", state)
			}
			for _, n := range state.Nodes {
				if tt.says != "" && (n.Reason != v1alpha1.NodeAddress || n.Message != tt.says) {
					t.Errorf("explained as %+v", n)
				}
			}
		})
	}
}

// TestJoiningNode checks that an address that is announced is withdrawn when a node
// with that address joins, and that the announcement of others does not change.
func TestJoiningNode(t *testing.T) {
	other := netip.MustParseAddr("203.0.113.6")
	s := sharingSnapshot([]*corev1.Service{sharingService("x"), service("y", other.String(), "p")})
	s.Node = "a"
	s.Config.BGPAdvertisements[0].Length4 = 32
	before := Decide(s)
	s.Nodes = append(s.Nodes, node("d", fixture.WithNodeAddresses(sharedAddr.String())))
	after := Decide(s)
	if before.Advertised[sharedAddr] == nil || before.Advertised[other] == nil || after.Advertised[other] == nil {
		t.Errorf("advertised before: %v, after: %v", before.Advertised, after.Advertised)
	}
	want := map[netip.Prefix]bool{netip.PrefixFrom(other, 32): true}
	for prefix := range after.BGP[0].Peer.Routes {
		if !want[prefix] {
			t.Errorf("advertises %s", prefix)
		}
	}
}
