package plan

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"pgregory.net/rapid"

	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/fixture"
	"github.com/fairlead-io/fairlead/config/fuzzed"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/providers"
)

var (
	someIPs = []string{
		"192.0.2.0", "192.0.2.1", "192.0.2.2", "192.0.2.255", "2001:db8::1", "198.51.100.1", "203.0.113.5", "203.0.113.9",
		"::ffff:192.0.2.1", "fe80::1%eth0", "0.0.0.0", "", "192.0.2.1,2001:db8::1", "192.0.2.1, 192.0.2.2", ",", "a=b",
	}
	// The API server lets these into a status.
	shownIPs = []string{
		"192.0.2.0", "192.0.2.1", "192.0.2.2", "2001:db8::1", "198.51.100.1",
		"203.0.113.5", "203.0.113.9", "::ffff:192.0.2.1", "192.0.02.1", "0.0.0.0", "",
	}
	someAnnotations = slices.Concat(
		v1alpha1.AddressPoolAnnotations, v1alpha1.LoadBalancerIPsAnnotations, v1alpha1.AllowSharedIPAnnotations,
		v1alpha1.NamespacedSharingAnnotations,
		[]string{
			v1alpha1.AnnotationRelease, v1alpha1.AnnotationRenumber, v1alpha1.AnnotationProvider,
			v1alpha1.AnnotationAnnounceDespiteConflict,
			v1alpha1.AnnotationAllocatedFrom, v1alpha1.AnnotationLeaving,
			"projectcalico.org/ipv4pools",
		},
	)
	someValues = slices.Concat(someIPs, []string{
		"p0", "p1", "bystander", "nowhere", "k", "k,l", "k k", "hold", "1h", "-1h", "9999999h",
		"2029-12-31T00:00:00Z", "2031-01-01T00:00:00+14:00", "aws", "bare-metal",
		"192.0.2.1=p0", "192.0.2.1=p0,2001:db8::1=p1", "192.0.2.1=2029-12-31T00:00:00Z",
		`["192.0.2.1"]`, "192.0.2.2=when", "=", "Cluster 80/TCP  k", "Local 80/TCP ns/a=b k", "Cluster",
	})
)

// one of the words that the API server allows.
// bytesIn makes objects out of what the fuzzer makes up.
type bytesIn struct{ fuzzed.Bytes }

func (b *bytesIn) one(words ...string) string { return words[b.Below(len(words))] }

func (b *bytesIn) service(i int) *corev1.Service {
	svc := service(fmt.Sprintf("%c%d", 'b'+b.Below(3), i), func(s *corev1.Service) { s.Namespace = b.one("ns", "other") })
	svc.Spec.Type = corev1.ServiceType(b.one("LoadBalancer", "LoadBalancer", "LoadBalancer", "LoadBalancer", "ClusterIP", "ExternalName"))
	svc.Spec.IPFamilies = [][]corev1.IPFamily{{"IPv4"}, {"IPv6"}, {"IPv4", "IPv6"}, {"IPv6", "IPv4"}}[b.Below(4)]
	policy := corev1.IPFamilyPolicy(b.one("SingleStack", "PreferDualStack", "RequireDualStack"))
	svc.Spec.IPFamilyPolicy = []*corev1.IPFamilyPolicy{&policy, nil}[b.Below(2)]
	svc.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicy(b.one("Cluster", "Local", ""))
	svc.Spec.LoadBalancerIP = []string{"", b.Text(someIPs...)}[b.Below(2)]
	for n := range b.Below(4) {
		svc.Spec.Ports = append(svc.Spec.Ports, corev1.ServicePort{
			Port: int32(80 + n + n*b.Below(2)), Protocol: corev1.Protocol(b.one("TCP", "UDP", "SCTP")),
		})
	}
	svc.Spec.Selector = []map[string]string{nil, {b.one("a", "x"): b.one("b", "c")}}[b.Below(2)]
	if b.Below(16) == 1 {
		svc.Spec.Selector = map[string]string{}
		for n := range 1000 {
			svc.Spec.Selector[fmt.Sprintf("label-%d", n)] = "a"
		}
	}
	for range b.Below(4) {
		svc.Annotations[someAnnotations[b.Below(len(someAnnotations))]] = b.Text(someValues...)
	}
	if b.Below(64) == 1 {
		for n := range 10_000 {
			svc.Annotations[fmt.Sprintf("fairlead.io/%d", n)] = "192.0.2.1"
		}
	}
	svc.Finalizers = [][]string{
		nil,
		{v1alpha1.FinalizerBareMetal},
		{v1alpha1.FinalizerBareMetal, v1alpha1.FinalizerCleanup},
		{v1alpha1.FinalizerAWS},
		{v1alpha1.FinalizerAWS, v1alpha1.FinalizerBareMetal},
	}[b.Below(5)]
	for range b.Below(4) {
		in := corev1.LoadBalancerIngress{IP: shownIPs[b.Below(len(shownIPs))]}
		if b.Below(8) == 1 {
			in.Hostname = b.Text("lb.example.com")
		}
		svc.Status.LoadBalancer.Ingress = append(svc.Status.LoadBalancer.Ingress, in)
	}
	if b.Below(8) == 1 {
		deleting(svc)
	}
	return svc
}

func (b *bytesIn) pool(i int) *v1alpha1.IPAddressPool {
	p := pool(fmt.Sprintf("p%d", i))
	p.CreationTimestamp = metav1.Unix(int64(1+b.Below(3)), 0)
	for range b.Below(5) {
		p.Spec.Addresses = append(p.Spec.Addresses, v1alpha1.AddressRange(b.Text(
			"192.0.2.0/30", "192.0.2.1-192.0.2.7", "2001:db8::/126",
			"0.0.0.0/0", "203.0.113.0/24", "10.0.0.0/8", "192.0.2.0/33",
		)))
	}
	p.Spec.AvoidBuggyIPs = b.Below(2) == 1
	auto := b.Below(4) > 0
	p.Spec.AutoAssign = &auto
	if b.Below(3) == 1 {
		p.Spec.ServiceAllocation = &v1alpha1.ServiceAllocation{
			Priority: int32(b.Below(3)), Namespaces: []string{b.Text("ns")}[:b.Below(2)],
			ServiceSelectors: []metav1.LabelSelector{{MatchLabels: map[string]string{b.Text("a"): b.Text("b")}}}[:b.Below(2)],
		}
	}
	if b.Below(5) == 1 {
		p.DeletionTimestamp = &metav1.Time{Time: time.Unix(9, 0)}
	}
	return p
}

func (b *bytesIn) node(i int) *corev1.Node {
	n := readyNode(fmt.Sprintf("n%d", i))
	for range b.Below(4) {
		n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: b.Text(someIPs...)})
	}
	n.Spec.PodCIDR = b.Text("", "10.0.0.0/24")
	for range b.Below(3) {
		n.Spec.PodCIDRs = append(n.Spec.PodCIDRs, b.Text(
			"10.0.0.0/24", "192.0.2.0/30", "2001:db8::/64", "192.0.2.7/24", "10.0.0.0/33", "::ffff:10.0.0.0/104",
		))
	}
	return n
}

func (b *bytesIn) l2node(i int) *v1alpha1.L2Node {
	n := fixture.L2Node(fmt.Sprintf("n%d", i))
	for range b.Below(3) {
		n.Status.Interfaces = append(n.Status.Interfaces, v1alpha1.Interface{
			Name: b.Text("eth0"), Addresses: []string{b.Text("192.0.2.1/24", "0.0.0.0/0", "10.0.0.1/8", "2001:db8::1/64")},
		})
	}
	return n
}

func (b *bytesIn) speaker(i int) *v1alpha1.Speaker {
	s := &v1alpha1.Speaker{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("n%d", i)}}
	for range b.Below(3) {
		s.Status.Announcing = append(s.Status.Announcing, v1alpha1.Announcement{
			Interfaces: []string{b.Text("eth0")},
			Addresses:  []string{b.Text(append(someIPs, "192.0.2.0-192.0.2.7", "0.0.0.0-255.255.255.255", "::-ffff::")...)},
		})
	}
	for range b.Below(3) {
		s.Status.Unannounced = append(s.Status.Unannounced, v1alpha1.AddressReason{
			Reason:    v1alpha1.Reason(b.Text("NoInterface")),
			Message:   b.Text("no link"),
			Addresses: []string{b.Text(someIPs...)},
		})
	}
	return s
}

// world is anything that an API server may hold, in addition to a pool, a Service that
// has an address of it and one that wants one, which are well and older.
func (b *bytesIn) world() Snapshot {
	s := Snapshot{Policy: providers.Policy{Mode: providers.BareMetal}, Now: time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)}
	s.Objects.Pools = []*v1alpha1.IPAddressPool{pool("bystander", "203.0.113.0/25")}
	s.Services = []*corev1.Service{
		service("a-holder", finalized, holding("203.0.113.5"), fixture.Recorded("203.0.113.5=bystander")),
		service("a-newcomer", annotated(v1alpha1.AnnotationAddressPool, "bystander")),
	}
	for i := range b.Below(4) {
		s.Objects.Pools = append(s.Objects.Pools, b.pool(i))
	}
	if b.Below(2) == 1 {
		s.Objects.L2Advertisements = onEth0
	}
	for i := range 1 + b.Below(5) {
		s.Services = append(s.Services, b.service(i))
	}
	for i := range b.Below(3) {
		s.Nodes = append(s.Nodes, b.node(i))
		s.Speakers = append(s.Speakers, b.speaker(i))
		s.L2Nodes = append(s.L2Nodes, b.l2node(i))
		s.Namespaces = append(s.Namespaces, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
			Name: b.one("ns", "other"), Labels: map[string]string{b.Text("a"): b.Text("b")},
		}})
		s.ServiceCIDRs = append(s.ServiceCIDRs, &networkingv1.ServiceCIDR{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("c%d", i)},
			Spec:       networkingv1.ServiceCIDRSpec{CIDRs: []string{b.Text("10.96.0.0/12", "192.0.2.0/31")}},
		})
	}
	if b.Below(4) == 1 {
		s.Policy.Mode = providers.Auto
	}
	return s
}

// FuzzDecide decides about anything that an API server may hold.
func FuzzDecide(f *testing.F) {
	f.Add([]byte("\x03\x00\x02\x00\x01\x01\x01\x01\x00\x02\x01\x03"))
	for i := range someAnnotations { // each with many values
		for j := i % 3; j < len(someValues); j += 3 {
			f.Add([]byte{
				1, 0, 2, 0, 2, 0, 1, 0, 0, // a pool of both families
				1, 0, 0, 0, 0, 0, 1, 1, 0, 0, 1, 0, 0, 1, 0, 0, 0, // a Service
				3, byte(i), byte(j), byte(i + 3), byte(j), byte(i + j), byte(i), 0, 1, 1, byte(j), 0, 0,
			})
		}
	}
	f.Add([]byte(strings.Repeat("\x01\x02\x03ünïcödé\xff\x00", 30)))
	f.Fuzz(func(t *testing.T, data []byte) { decideAnything(t, data) })
}

// TestDecideAnything is FuzzDecide with long inputs, which the fuzzer is slow to find.
func TestDecideAnything(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		random := rand.NewChaCha8([32]byte{rapid.Uint8().Draw(rt, "seed"), rapid.Uint8().Draw(rt, "seed"), rapid.Uint8().Draw(rt, "seed")})
		data := make([]byte, 2000)
		random.Read(data)
		decideAnything(rt, data)
	})
}

// failer is a *testing.T or a *rapid.T.
type failer interface {
	Fatalf(format string, args ...any)
}

func decideAnything(t failer, data []byte) {
	b := &bytesIn{fuzzed.Bytes{Rest: data}}
	s := b.world()
	before := fmt.Sprint(s.Services, s.Objects, s.Nodes)
	plan := Decide(s)
	if fmt.Sprint(s.Services, s.Objects, s.Nodes) != before {
		t.Fatalf("Decide has changed what it looks at")
	}
	other := s
	other.Services, other.Nodes, other.Objects.Pools = reversed(s.Services), reversed(s.Nodes), reversed(s.Objects.Pools)
	if again := Decide(other); !reflect.DeepEqual(plan, again) {
		t.Fatalf("in another order:\n%s", difference(plan, again))
	}
	checkBystanders(t, s, plan)
	for _, svc := range s.Services {
		checkServicePlan(t, svc, plan)
		Explain(s, KeyOf(svc))
	}
	for name, p := range plan.Pools {
		checkConditions(t, "pool "+name, p.Conditions)
	}
	checkEnds(t, s)
}

// difference names what is not the same in two plans.
func difference(a, b Plan) (text string) {
	other := b.ByKey()
	for key, p := range a.ByKey() {
		if !reflect.DeepEqual(p, other[key]) {
			text += fmt.Sprintf("%s: %+v\n%+v\n", key, p, other[key])
		}
	}
	for name := range a.Pools {
		if !reflect.DeepEqual(a.Pools[name], b.Pools[name]) {
			text += fmt.Sprintf("pool %s: %+v\n%+v\n", name, a.Pools[name], b.Pools[name])
		}
	}
	return text + fmt.Sprintf("%v\n%v", a.Problems, b.Problems)
}

func reversed[T any](list []T) []T {
	list = slices.Clone(list)
	slices.Reverse(list)
	return list
}

// checkBystanders: valid Services keep and get an address, unless the cluster's
// own addresses are where the pool's are.
func checkBystanders(t failer, s Snapshot, plan Plan) {
	holder, newcomer := plan.planOf(key("a-holder")), plan.planOf(key("a-newcomer"))
	if holder.AllocatedFrom != "203.0.113.5=bystander,uid=a-holder" || len(holder.Ingress) != 1 || holder.Ingress[0].IP != "203.0.113.5" {
		if s.Policy.Mode == providers.BareMetal {
			t.Fatalf("the holder: %+v", holder)
		}
	}
	guarded := slices.ContainsFunc(newClusterRanges(s.Nodes, s.ServiceCIDRs), func(g reservedRange) bool {
		return g.From() != g.To() && g.Contains(netip.MustParseAddr("203.0.113.100"))
	})
	provisioned := apimeta.FindStatusCondition(newcomer.Conditions, v1alpha1.ConditionProvisioned)
	if s.Policy.Mode == providers.BareMetal && !guarded &&
		(len(newcomer.Ingress) != 1 || provisioned.Reason != string(v1alpha1.Assigned)) {
		t.Fatalf("the newcomer: %+v", newcomer)
	}
}

// checkServicePlan: the API server can take it, and whoever asks for an
// address learns what became of it.
func checkServicePlan(t failer, svc *corev1.Service, plan Plan) {
	p, planned := plan.findService(KeyOf(svc))
	shown := 0 // may be kept
	for _, name := range v1alpha1.RecordAnnotations {
		shown += len(svc.Annotations[name])
	}
	if written := len(p.AllocatedFrom) + len(p.SharedAs) + len(p.Leaving); written > max(4096, shown) {
		t.Fatalf("%s: annotations of %d bytes", svc.Name, written)
	}
	checkConditions(t, svc.Name, p.Conditions)
	for _, in := range p.Ingress {
		shown := slices.ContainsFunc(svc.Status.LoadBalancer.Ingress, func(x corev1.LoadBalancerIngress) bool { return x.IP == in.IP })
		if _, err := config.ParseAddr(in.IP); err != nil && !shown {
			t.Fatalf("%s: shows %q", svc.Name, in.IP)
		}
	}
	asks := svc.Spec.Type == corev1.ServiceTypeLoadBalancer && svc.DeletionTimestamp == nil
	if asks && (!planned || apimeta.FindStatusCondition(p.Conditions, v1alpha1.ConditionProvisioned) == nil) {
		t.Fatalf("%s: no condition explains its state: %+v", svc.Name, p)
	}
}

func checkConditions(t failer, of string, conditions []metav1.Condition) {
	conditions = WithTransitionTimes(nil, conditions, metav1.Now())
	if errs := metav1validation.ValidateConditions(conditions, field.NewPath("status")); len(errs) > 0 {
		t.Fatalf("%s: %v", of, errs)
	}
	for _, c := range conditions {
		if c.Message == "" {
			t.Fatalf("%s: %s %s has no message", of, c.Type, c.Reason)
		}
	}
}

// checkEnds: a plan that is written leaves nothing to write, soon.
func checkEnds(t failer, s Snapshot) {
	s.Services = slices.Clone(s.Services)
	last := ""
	for range 5 {
		plan := Decide(s)
		last = ""
		for i, svc := range s.Services {
			if p, planned := plan.findService(KeyOf(svc)); planned && !p.Matches(svc) {
				s.Services[i] = p.Written(svc)
				last = fmt.Sprintf("%s: %+v\n%v %v %v\n%+v", svc.Name, p, svc.Finalizers, svc.Annotations, svc.Status, svc.Spec)
			}
		}
		if last == "" {
			return
		}
	}
	t.Fatalf("writing never ends: %s", last)
}
