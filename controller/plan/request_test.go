package plan

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/fixture"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/providers"
)

// testSnapshot is a small cluster on bare metal.
func testSnapshot(services ...*corev1.Service) Snapshot {
	return Snapshot{
		Policy:   providers.Policy{Mode: providers.BareMetal},
		Objects:  config.Objects{Pools: []*v1alpha1.IPAddressPool{pool("p", "192.0.2.0/28", "2001:db8::/120"), pool("q", "198.51.100.0/28")}},
		Nodes:    []*corev1.Node{readyNode("n1")},
		Services: services,
		Now:      time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC),
	}
}

// reconcile decides and writes until nothing is left to write.
func (s *Snapshot) reconcile(t *testing.T) Plan {
	t.Helper()
	for range 5 {
		plan, wrote := Decide(*s), false
		for i, svc := range s.Services {
			if p, planned := plan.findService(KeyOf(svc)); planned && !p.Matches(svc) {
				s.Services[i], wrote = p.Written(svc), true
			}
		}
		if !wrote {
			return plan
		}
	}
	t.Fatal("the state does not converge")
	return Plan{}
}

// shownState is a line with the addresses of a Service and the reason.
func (s *Snapshot) shownState(t *testing.T, name string) string {
	plan := s.reconcile(t)
	p := plan.planOf(key(name))
	var out []string
	for _, in := range p.Ingress {
		out = append(out, in.IP)
	}
	return strings.Join(append(out, p.Conditions[0].Reason), " ")
}

// provisionedMessage is the message of the condition Provisioned.
func (s *Snapshot) provisionedMessage(t *testing.T, name string) string {
	return s.reconcile(t).planOf(key(name)).Conditions[0].Message
}

func (s *Snapshot) service(name string) *corev1.Service {
	return s.Services[slices.IndexFunc(s.Services, func(svc *corev1.Service) bool { return svc.Name == name })]
}

func (s *Snapshot) annotate(name, key, value string) {
	svc := s.service(name)
	if value == "" {
		delete(svc.Annotations, key)
		return
	}
	svc.Annotations[key] = value
}

// announce has a speaker announce addresses.
func (s *Snapshot) announce(addrs ...string) {
	s.Objects.L2Advertisements = onEth0
	s.setAnnouncing("n1", addrs...)
}

func dualStack(policy corev1.IPFamilyPolicy) func(*corev1.Service) {
	return func(s *corev1.Service) {
		s.Spec.IPFamilyPolicy, s.Spec.IPFamilies = &policy, []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}
	}
}

func serving(protocol corev1.Protocol, port int32) func(*corev1.Service) {
	return func(s *corev1.Service) {
		s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Protocol: protocol, Port: port})
	}
}

func local(app string) func(*corev1.Service) {
	return func(s *corev1.Service) {
		s.Spec.ExternalTrafficPolicy, s.Spec.Selector = corev1.ServiceExternalTrafficPolicyLocal, map[string]string{"app": app}
	}
}

// TestRequests: each way to request an address or pool, alone and combined.
func TestRequests(t *testing.T) {
	own, metal, old := v1alpha1.AnnotationLoadBalancerIPs, "metallb.io/loadBalancerIPs", "metallb.universe.tf/loadBalancerIPs"
	byIP := func(ip string) func(*corev1.Service) {
		return func(s *corev1.Service) { s.Spec.LoadBalancerIP = ip }
	}
	both := dualStack(corev1.IPFamilyPolicyRequireDualStack)
	many := "10.0.0.0"
	for i := range 100 {
		many += fmt.Sprintf(",10.0.1.%d", i)
	}
	for _, row := range []struct {
		name    string
		service *corev1.Service
		want    string
		message string
	}{
		{"MetalLB's address", service("a", annotated(metal, "192.0.2.3")), "192.0.2.3 Assigned", ""},
		{"MetalLB's old address", service("a", annotated(old, "192.0.2.3")), "192.0.2.3 Assigned", ""},
		{"MetalLB's pool", service("a", annotated("metallb.io/address-pool", "q")), "198.51.100.0 Assigned", "from pool q"},
		{"MetalLB's old pool", service("a", annotated("metallb.universe.tf/address-pool", "q")), "198.51.100.0 Assigned", ""},
		{
			"the same in all ways",
			service("a", annotated(own, "192.0.2.3"), annotated(metal, "192.0.2.3"), annotated(old, "192.0.2.3"), byIP("192.0.2.3")),
			"192.0.2.3 Assigned", "",
		},
		{
			"both families, in any order",
			service("a", both, annotated(own, "2001:db8::3,192.0.2.3"), annotated(metal, "192.0.2.3, 2001:db8::3")),
			"192.0.2.3 2001:db8::3 Assigned", "",
		},
		{
			"the spec repeats a part", service("a", both, annotated(own, "2001:db8::3,192.0.2.3"), byIP("2001:db8::3")),
			"192.0.2.3 2001:db8::3 Assigned", "",
		},
		{"the spec alone, both families", service("a", both, byIP("2001:db8::3,192.0.2.3")), "192.0.2.3 2001:db8::3 Assigned", ""},
		{
			"the spec contains more", service("a", both, annotated(own, "192.0.2.3"), byIP("192.0.2.4")), "ConflictingRequest",
			`annotation fairlead.io/load-balancer-ips is "192.0.2.3" and spec.loadBalancerIP is "192.0.2.4"`,
		},
		{
			"two annotations, two addresses", service("a", annotated(own, "192.0.2.3"), annotated(metal, "192.0.2.4")),
			"ConflictingRequest", "metallb.io/loadBalancerIPs",
		},
		{
			"two annotations, two pools",
			service("a", annotated(v1alpha1.AnnotationAddressPool, "p"), annotated("metallb.io/address-pool", "q")),
			"ConflictingRequest", `is "p" and annotation metallb.io/address-pool is "q"`,
		},
		{
			"two keys",
			service("a", annotated(v1alpha1.AnnotationAllowSharedIP, "x"), annotated("metallb.io/allow-shared-ip", "y")),
			"ConflictingRequest", "",
		},
		{
			"an address of another pool than the one asked for",
			service("a", annotated(v1alpha1.AnnotationAddressPool, "q"), annotated(own, "192.0.2.3")), "ConflictingRequest",
			"192.0.2.3 is in pool p, but the Service requests pool q",
		},
		{
			"an address of the pool asked for",
			service("a", annotated(v1alpha1.AnnotationAddressPool, "p"), annotated(own, "192.0.2.3")), "192.0.2.3 Assigned", "",
		},
		{
			"an address that is released",
			service("a", annotated(own, "192.0.2.3"), annotated(v1alpha1.AnnotationRelease, "192.0.2.3")), "ConflictingRequest",
			"annotation fairlead.io/release releases it",
		},
		{
			"a contradiction keeps what is there",
			service("a", finalized, holding("192.0.2.9"), fixture.Recorded("192.0.2.9=p"), annotated(own, "192.0.2.3"), annotated(metal, "192.0.2.4")),
			"192.0.2.9 ConflictingRequest", "",
		},
		{
			"a contradiction about one family keeps both",
			service(
				"a", both, finalized,
				holding("192.0.2.9", "2001:db8::9"),
				annotated(v1alpha1.AnnotationAddressPool, "q"),
				annotated(own, "192.0.2.9"),
			),
			"192.0.2.9 2001:db8::9 ConflictingRequest", "192.0.2.9 is in pool p, but the Service requests pool q",
		},
		{
			"a name that no pool can have", service("a", annotated(v1alpha1.AnnotationAddressPool, "p\n\x1b[31m ")),
			"InvalidRequest", `invalid pool name "p\n\x1b[31m ": must be`,
		},
		{
			"a long list", service("a", annotated(v1alpha1.AnnotationRelease, many)), "InvalidRequest",
			"annotation fairlead.io/release: must not list more than 100 addresses",
		},
		{"an IPv4-mapped address", service("a", annotated(own, "::ffff:192.0.2.3")), "InvalidRequest", `invalid IP address "::ffff:192.0.2.3"`},
		{"a zone", service("a", annotated(own, "2001:db8::1%eth0")), "InvalidRequest", "invalid IP address"},
		{
			"an invalid release", service("a", annotated(v1alpha1.AnnotationRelease, "yes")), "InvalidRequest",
			`annotation fairlead.io/release: invalid IP address "yes"`,
		},
		{
			"an invalid override of conflicts", service("a", annotated(v1alpha1.AnnotationAnnounceDespiteConflict, "yes")),
			"InvalidRequest", `annotation fairlead.io/announce-despite-conflict: invalid value "yes": must be "true" or "false"`,
		},
		{
			"an invalid renumbering", service("a", annotated(v1alpha1.AnnotationRenumber, "soon")),
			"InvalidRequest", `annotation fairlead.io/renumber: invalid value "soon": must be "hold"`,
		},
		{"a long mistake is not repeated at length", service("a", annotated(own, strings.Repeat("ü", 5000))), "InvalidRequest", "ü…"},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := testSnapshot(row.service)
			if got := s.shownState(t, "a"); got != row.want {
				t.Errorf("got %s, want %s", got, row.want)
			}
			if message := s.provisionedMessage(t, "a"); !strings.Contains(message, row.message) || len(message) > 1000 {
				t.Errorf("%q does not contain %q", message, row.message)
			}
		})
	}
}

// TestDualStackLive: families are added and removed, and the other address stays.
func TestDualStackLive(t *testing.T) {
	s := testSnapshot(service("a"), service("b"))
	s.Objects.Pools = []*v1alpha1.IPAddressPool{pool("v4", "192.0.2.0/28")}
	step := func(want, message string) {
		t.Helper()
		if got := s.shownState(t, "b"); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		if got := s.provisionedMessage(t, "b"); !strings.Contains(got, message) {
			t.Errorf("%q does not contain %q", got, message)
		}
	}
	step("192.0.2.1 Assigned", "")
	dualStack(corev1.IPFamilyPolicyPreferDualStack)(s.service("b"))
	step("192.0.2.1 Assigned", "no IPv6 address: pool v4 has no IPv6 addresses")
	dualStack(corev1.IPFamilyPolicyRequireDualStack)(s.service("b"))
	step("192.0.2.1 NoMatchingPool", "pool v4 has no IPv6 addresses")
	s.Objects.Pools = append(s.Objects.Pools, pool("v6", "2001:db8::/120"))
	step("192.0.2.1 2001:db8:: Assigned", "192.0.2.1 from pool v4; 2001:db8:: from pool v6")
	s.service("b").Spec.IPFamilies = []corev1.IPFamily{corev1.IPv6Protocol}
	step("2001:db8:: Assigned", "")
	s.Objects.Pools = s.Objects.Pools[1:]
	s.Services = append(s.Services, service("c", dualStack(corev1.IPFamilyPolicyPreferDualStack)), service("d"))
	if got := s.shownState(t, "c"); got != "2001:db8::1 Assigned" {
		t.Errorf("either family is enough: %s", got)
	}
	if got := s.shownState(t, "d"); got != "NoMatchingPool" {
		t.Errorf("one family: %s", got)
	}
}

// TestSharing: which Services share an address, and which one is reassigned when
// terms change.
func TestSharing(t *testing.T) {
	shared := func(name, key string, change ...func(*corev1.Service)) *corev1.Service {
		return service(name, append(change, annotated(v1alpha1.AnnotationAllowSharedIP, key))...)
	}
	s := testSnapshot(
		shared("a", "dns", serving("TCP", 53)), shared("b", "dns", serving("UDP", 53)), shared("c", "dns", serving("TCP", 53)),
		shared("d", "web", local("x"), serving("TCP", 80)),
		shared("e", "web", local("x"), serving("TCP", 443)),
		shared("f", "web", local("y"), serving("TCP", 8080)),
	)
	s.reconcile(t)
	s.Services = append(s.Services, service(
		"g",
		annotated("metallb.universe.tf/allow-shared-ip", "dns"),
		annotated(v1alpha1.AnnotationLoadBalancerIPs, "192.0.2.0"),
		serving("TCP", 53),
	))
	expect := func(want map[string]string) {
		t.Helper()
		for name, want := range want {
			if got := s.shownState(t, name); got != want {
				t.Errorf("%s: got %s, want %s", name, got, want)
			}
		}
	}
	expect(map[string]string{
		"a": "192.0.2.0 Assigned", "b": "192.0.2.0 Assigned", "c": "192.0.2.1 Assigned",
		"d": "192.0.2.2 Assigned", "e": "192.0.2.2 Assigned", "f": "192.0.2.3 Assigned", "g": "AddressTaken",
	})
	if got := s.provisionedMessage(t, "g"); !strings.Contains(got, "192.0.2.0 is assigned to Service ns/a: both use port 53/TCP") {
		t.Errorf("g: %s", got)
	}
	// The pool goes: they share on.
	s.Objects.Pools = []*v1alpha1.IPAddressPool{pool("q", "198.51.100.0/28")}
	expect(map[string]string{"a": "192.0.2.0 OutOfPool", "b": "192.0.2.0 OutOfPool"})
	// The older one changes its port to that of the younger: the older one goes.
	s.service("a").Spec.Ports[0].Protocol = corev1.ProtocolUDP
	expect(map[string]string{"a": "198.51.100.0 Assigned", "b": "192.0.2.0 OutOfPool"})
	// Contradicting keys change nothing.
	s.annotate("d", "metallb.io/allow-shared-ip", "other")
	expect(map[string]string{"d": "192.0.2.2 ConflictingRequest", "e": "192.0.2.2 OutOfPool"})
	s.annotate("d", "metallb.io/allow-shared-ip", "")
	// A Service that no longer shares is reassigned.
	s.annotate("d", v1alpha1.AnnotationAllowSharedIP, "")
	expect(map[string]string{"d": "198.51.100.1 Assigned", "e": "192.0.2.2 OutOfPool"})
	if recordedTerms(s.service("d")) != "" ||
		recordedTerms(s.service("e")) != "Local 443/TCP ns/app=x web" {
		t.Errorf("recorded: %q, %q", recordedTerms(s.service("d")), recordedTerms(s.service("e")))
	}
}

// TestAddressesStay: no change of pools moves an address; the condition explains it.
func TestAddressesStay(t *testing.T) {
	s := testSnapshot(service("a"))
	step := func(want, message string, change func()) {
		t.Helper()
		change()
		if got := s.shownState(t, "a"); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		if got := s.provisionedMessage(t, "a"); !strings.Contains(got, message) {
			t.Errorf("%q does not contain %q", got, message)
		}
	}
	pools := func(pools ...*v1alpha1.IPAddressPool) func() { return func() { s.Objects.Pools = pools } }
	step("192.0.2.0 Assigned", "from pool p", func() {})
	step(
		"192.0.2.0 OutOfPool",
		"192.0.2.0 is kept, although pool p does not contain it any more",
		pools(pool("p", "192.0.2.8/29"), pool("q", "192.0.2.0/29")),
	)
	if got := s.reconcile(t).Pools["p"]; got.OutOfPool != 1 || got.Services != 1 || got.IPv4.Used != 0 {
		t.Errorf("p: %+v", got)
	}
	if got := s.reconcile(t).Pools["q"]; got.OutOfPool != 0 || got.Services != 0 || got.IPv4.Free != "7" {
		t.Errorf("q: %+v", got)
	}
	step("192.0.2.0 Assigned", "from pool q", func() { s.annotate("a", v1alpha1.AnnotationAddressPool, "q") })
	s.Objects.L2Advertisements = nil
	step("192.0.2.0 Assigned", "from pool q", func() { s.annotate("a", v1alpha1.AnnotationAddressPool, "") })
	selective := pool("q", "192.0.2.0/29")
	selective.Spec.ServiceAllocation = &v1alpha1.ServiceAllocation{Namespaces: []string{"other"}}
	step("192.0.2.0 OutOfPool", "pool q does not select this Service any more", pools(selective))
	if got := s.reconcile(t).Pools["q"].OutOfPool; got != 1 {
		t.Errorf("q, which does not select its Service any more, counts %d", got)
	}
	step("192.0.2.0 OutOfPool", "", pools())
	step("198.51.100.1 Assigned", "", func() {
		s.Objects.Pools = []*v1alpha1.IPAddressPool{pool("r", "198.51.100.0/28")}
		s.annotate("a", v1alpha1.AnnotationRelease, "192.0.2.0, 198.51.100.0")
	})
	step("198.51.100.1 Assigned", "", func() { s.annotate("a", v1alpha1.AnnotationRelease, "") })
}

// TestLongRequests: values of any length do not keep the status from being written.
func TestLongRequests(t *testing.T) {
	long := strings.Repeat("k", 300)
	s := testSnapshot(
		service("a", serving("TCP", 80), annotated(v1alpha1.AnnotationAllowSharedIP, long)),
		service("b", serving("TCP", 80), annotated(v1alpha1.AnnotationAllowSharedIP, "k"), local(strings.Repeat("x", 1000))),
		service("c", serving("TCP", 81), annotated(v1alpha1.AnnotationAllowSharedIP, "k"), local(strings.Repeat("x", 1000))),
		service("d", serving("TCP", 82), annotated(v1alpha1.AnnotationAllowSharedIP, "k"), local(strings.Repeat("x", 1001))),
	)
	for name, want := range map[string]string{
		"a": "InvalidRequest", "b": "192.0.2.0 Assigned", "c": "192.0.2.0 Assigned", "d": "192.0.2.1 Assigned",
	} {
		if got := s.shownState(t, name); got != want {
			t.Errorf("%s shows %q, want %q: %s", name, got, want, s.provisionedMessage(t, name))
		}
	}
	if record := recordedTerms(s.service("b")); len(record) > 200 {
		t.Errorf("the record is %q", record)
	}
	// Who had a key, and writes one that is too long, keeps what it has.
	s.annotate("b", v1alpha1.AnnotationAllowSharedIP, long)
	if got := s.shownState(t, "b"); got != "192.0.2.0 InvalidRequest" {
		t.Errorf("b shows %q", got)
	}
}
