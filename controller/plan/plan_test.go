package plan

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/fixture"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/providers"
)

func finalized(s *corev1.Service) { s.Finalizers = []string{v1alpha1.FinalizerBareMetal} }

// transcript is a plan for one Service in a line.
func transcript(p ServicePlan, planned bool) string {
	if !planned {
		return "untouched"
	}
	if p.IsZero() {
		return "released"
	}
	var out []string
	for _, in := range p.Ingress {
		out = append(out, cmp.Or(in.IP, in.Hostname))
	}
	for _, c := range p.Conditions {
		out = append(out, fmt.Sprintf("%s=%s", strings.TrimPrefix(c.Type, "fairlead.io/"), c.Reason))
	}
	if !p.Serves {
		out = append(out, "(not served)")
	}
	return strings.Join(out, " ")
}

func TestDecide(t *testing.T) {
	other, aws, ours := "example.com/lb", v1alpha1.ClassAWS, v1alpha1.ClassBareMetal
	class := func(c *string) func(*corev1.Service) {
		return func(s *corev1.Service) { s.Spec.LoadBalancerClass = c }
	}
	const served = "192.0.2.0 Provisioned=Assigned Announced="
	for _, row := range []struct {
		name    string
		service *corev1.Service
		world   func(*Snapshot)
		want    string
		message string // in the first condition that is not True, else in the first
	}{
		{"a plain Service", service("a"), nil, served + "NoSpeaker", "is the DaemonSet"},
		{
			"announced", service("a"), func(s *Snapshot) { s.setAnnouncing("n1", "192.0.2.0") },
			served + "Announced", "192.0.2.0 from pool p",
		},
		{
			"another address announced", service("a"),
			func(s *Snapshot) { s.setAnnouncing("n1", "192.0.2.9") }, served + "NoSpeaker",
			"no speaker has reported about 192.0.2.0",
		},
		{
			"announced by a node that is gone", service("a"),
			func(s *Snapshot) { s.setAnnouncing("gone", "192.0.2.0") }, served + "NoSpeaker", "",
		},
		{"unannounced with a reason", service("a"), func(s *Snapshot) {
			s.Speakers = append(s.Speakers, &v1alpha1.Speaker{
				ObjectMeta: metav1.ObjectMeta{Name: "n1"},
				Status: v1alpha1.SpeakerStatus{Unannounced: []v1alpha1.AddressReason{{
					Reason: v1alpha1.NoInterface, Message: "why", Addresses: []string{"192.0.2.0"},
				}}},
			})
		}, served + "NoInterface", "192.0.2.0: why"},
		{"our class", service("a", class(&ours)), nil, served + "NoSpeaker", ""},
		{"AWS's class", service("a", class(&aws)), nil, "Provisioned=Provisioning", "requesting a load balancer"},
		{"another's class", service("a", class(&other)), nil, "untouched", ""},
		{"another's class, with traces of ours", service("a", class(&other), finalized), nil, "released", ""},
		{
			"no longer a LoadBalancer",
			service("a", finalized, func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeClusterIP }), nil, "released", "",
		},
		{"never was", service("a", func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeClusterIP }), nil, "untouched", ""},
		{"deleted", service("a", finalized, holding("192.0.2.0"), deleting), nil, "released", ""},
		{"deleted before it was served", service("a", deleting), nil, "untouched", ""},
		{
			"there are no nodes", service("a"), func(s *Snapshot) { s.Nodes = nil },
			"Provisioned=ProviderUndecided (not served)", "no nodes to detect",
		},
		{"on AWS", service("a"), func(s *Snapshot) { s.Nodes[0].Spec.ProviderID = "aws:///z/i-1" }, "Provisioned=Provisioning", ""},
		{
			"on AWS, but served already", service("a", finalized, holding("192.0.2.7"), fixture.Recorded("192.0.2.7=p")),
			func(s *Snapshot) { s.Nodes[0].Spec.ProviderID = "aws:///z/i-1" },
			"192.0.2.7 Provisioned=Assigned Announced=NoSpeaker", "",
		},
		{
			"no pool", service("a"), func(s *Snapshot) { s.Objects.Pools = nil },
			"Provisioned=NoMatchingPool Announced=NoAddress", "there is no IPAddressPool",
		},
		{
			"pool gone, address kept", service("a", finalized, holding("192.0.2.7"), fixture.Recorded("192.0.2.7=p")),
			func(s *Snapshot) { s.Objects.Pools = nil }, "192.0.2.7 Provisioned=OutOfPool Announced=NoSpeaker", "kept",
		},
		{
			"pool by annotation", service("a", annotated(v1alpha1.AnnotationAddressPool, "q")), nil,
			"198.51.100.0 Provisioned=Assigned Announced=NoSpeaker", "",
		},
		{
			"unknown pool", service("a", annotated(v1alpha1.AnnotationAddressPool, "x")), nil,
			"Provisioned=NoMatchingPool Announced=NoAddress", "pool x does not exist",
		},
		{
			"address by annotation", service("a", annotated(v1alpha1.AnnotationLoadBalancerIPs, " 192.0.2.3 ")), nil,
			"192.0.2.3 Provisioned=Assigned Announced=NoSpeaker", "",
		},
		{
			"address by spec", service("a", func(s *corev1.Service) { s.Spec.LoadBalancerIP = "192.0.2.3" }), nil,
			"192.0.2.3 Provisioned=Assigned Announced=NoSpeaker", "",
		},
		{
			"both agree",
			service(
				"a", annotated(v1alpha1.AnnotationLoadBalancerIPs, "192.0.2.3"),
				func(s *corev1.Service) { s.Spec.LoadBalancerIP = "192.0.2.3" },
			),
			nil, "192.0.2.3 Provisioned=Assigned Announced=NoSpeaker", "",
		},
		{
			"both contradict",
			service(
				"a", annotated(v1alpha1.AnnotationLoadBalancerIPs, "192.0.2.3"),
				func(s *corev1.Service) { s.Spec.LoadBalancerIP = "192.0.2.4" },
			),
			nil, "Provisioned=ConflictingRequest Announced=NoAddress", "contradict",
		},
		{
			"no address", service("a", annotated(v1alpha1.AnnotationLoadBalancerIPs, "ten")), nil,
			"Provisioned=InvalidRequest Announced=NoAddress", "invalid IP address \"ten\"",
		},
		{
			"wrong family", service("a", annotated(v1alpha1.AnnotationLoadBalancerIPs, "2001:db8::1")), nil,
			"Provisioned=InvalidRequest Announced=NoAddress", "IPv6",
		},
		{
			"two of a family", service("a", annotated(v1alpha1.AnnotationLoadBalancerIPs, "192.0.2.1,192.0.2.2")), nil,
			"Provisioned=InvalidRequest Announced=NoAddress", "more than one",
		},
		{
			"an invalid request keeps what it has",
			service("a", finalized, holding("192.0.2.7"), annotated(v1alpha1.AnnotationLoadBalancerIPs, "ten")), nil,
			"192.0.2.7 Provisioned=InvalidRequest Announced=NoSpeaker", "",
		},
		{
			"not in a pool", service("a", annotated(v1alpha1.AnnotationLoadBalancerIPs, "203.0.113.1")), nil,
			"Provisioned=AddressNotInPool Announced=NoAddress", "203.0.113.1",
		},
		{"adopted", service("a", holding("192.0.2.7")), nil, "192.0.2.7 Provisioned=Assigned Announced=NoSpeaker", ""},
		{"foreign", service("a", holding("203.0.113.7")), nil, "Provisioned=ForeignStatus (not served)", "not in any pool"},
		{"foreign host name", service("a", func(s *corev1.Service) {
			s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{Hostname: "lb.example.com"}}
		}), nil, "Provisioned=ForeignStatus (not served)", `"lb.example.com"`},
		{
			"foreign, written in another way", service("a", holding("::ffff:192.0.2.7")), nil,
			"Provisioned=ForeignStatus (not served)", `"::ffff:192.0.2.7"`,
		},
		{"foreign, shown by another implementation's Service too", service("a", holding("192.0.2.7")), func(s *Snapshot) {
			s.Services = append(s.Services, service("b", class(&other), holding("192.0.2.7")))
		}, "Provisioned=ForeignStatus (not served)", "is assigned to Service ns/b"},
		{"dual stack, half of it", service("a", func(s *corev1.Service) {
			s.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}
		}), nil, "192.0.2.0 Provisioned=NoMatchingPool Announced=NoSpeaker", "no IPv6 addresses"},
	} {
		t.Run(row.name, func(t *testing.T) {
			no := false
			manual := pool("q", "198.51.100.0/24")
			manual.Spec.AutoAssign = &no
			s := Snapshot{
				Policy:  providers.Policy{Mode: providers.Auto},
				Objects: config.Objects{Pools: []*v1alpha1.IPAddressPool{pool("p", "192.0.2.0/28"), manual}, L2Advertisements: onEth0},
				Nodes:   []*corev1.Node{readyNode("n1")}, Services: []*corev1.Service{row.service},
			}
			if row.world != nil {
				row.world(&s)
			}
			p, planned := Decide(s).findService(key("a"))
			if got := transcript(p, planned); got != row.want {
				t.Errorf("got  %s\nwant %s", got, row.want)
			}
			message := ""
			for _, c := range slices.Backward(p.Conditions) {
				if c.Status != metav1.ConditionTrue || message == "" {
					message = c.Message
				}
			}
			all := fmt.Sprint(p.Conditions)
			if !strings.Contains(all, row.message) {
				t.Errorf("%q does not contain %q", all, row.message)
			}
			if trace := Explain(s, key("a")); transcript(trace.Plan, planned) != row.want && row.want != "untouched" && row.want != "released" {
				t.Errorf("explained as %s", transcript(trace.Plan, true))
			}
		})
	}
}

func TestPoolStatus(t *testing.T) {
	dual := pool("p", "192.0.2.0/30", "2001:db8::/64", "192.0.2.9-192.0.2.1")
	gone := pool("q", "198.51.100.0/30")
	now := metav1.Now()
	gone.DeletionTimestamp = &now
	plan := Decide(Snapshot{
		Policy: providers.Policy{Mode: providers.BareMetal},
		Objects: config.Objects{
			Pools: []*v1alpha1.IPAddressPool{dual, gone},
			L2Advertisements: []*v1alpha1.L2Advertisement{{
				ObjectMeta: metav1.ObjectMeta{Name: "ad"},
				Spec:       v1alpha1.L2AdvertisementSpec{IPAddressPools: []string{"p"}},
			}},
		},
		Nodes: []*corev1.Node{readyNode("n1"), readyNode("n2")},
		Services: []*corev1.Service{
			service("a"), service("b"),
			service("c", finalized, holding("198.51.100.1"), fixture.Recorded("198.51.100.1=q")),
			service("d", finalized, holding("203.0.113.1"), fixture.Recorded("203.0.113.1=p")),
		},
	})
	p, q := plan.Pools["p"], plan.Pools["q"]
	if want := (v1alpha1.FamilyUsage{Used: 2, Capacity: "4", Free: "2", Usage: "2/4"}); p.IPv4 != want {
		t.Errorf("p: IPv4 %+v, want %+v", p.IPv4, want)
	}
	want := v1alpha1.FamilyUsage{Capacity: "18446744073709551616", Free: "18446744073709551616", Usage: "0/1.84e+19"}
	if p.IPv6 != want {
		t.Errorf("p: IPv6 %+v, want %+v", p.IPv6, want)
	}
	if p.Services != 3 || p.OutOfPool != 1 || p.Conditions[0].Reason != "InvertedRange" {
		t.Errorf("p: %+v", p)
	}
	if q.Services != 1 || q.Conditions[0].Reason != "PoolTerminating" {
		t.Errorf("q: %+v", q)
	}
	if ad := plan.L2Advertisements["ad"]; ad.Pools != 1 || ad.Nodes != 2 || ad.Conditions[0].Reason != "Ready" {
		t.Errorf("ad: %+v", ad)
	}
}

// TestAppliedPlansMatch: a plan that is applied leaves nothing to write.
func TestAppliedPlansMatch(t *testing.T) {
	s := Snapshot{
		Policy:  providers.Policy{Mode: providers.BareMetal},
		Objects: config.Objects{Pools: []*v1alpha1.IPAddressPool{pool("p", "192.0.2.0/30")}},
		Nodes:   []*corev1.Node{readyNode("n1")},
	}
	for i := range 8 {
		s.Services = append(s.Services, service(fmt.Sprintf("%c", 'a'+i)))
	}
	s.Services[3].Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{Hostname: "x.example.com"}}
	for round := range 2 {
		plan := Decide(s)
		for i, svc := range s.Services {
			p := plan.planOf(KeyOf(svc))
			if p.Matches(svc) != (round == 1) {
				t.Errorf("round %d: %s: matches is %t: %+v", round, svc.Name, p.Matches(svc), p)
			}
			s.Services[i] = p.Written(svc)
		}
	}
}

func TestTransitionTimes(t *testing.T) {
	before := metav1.NewTime(time.Unix(1, 0))
	have := []metav1.Condition{
		{Type: "A", Status: "True", LastTransitionTime: before}, {Type: "B", Status: "True", LastTransitionTime: before},
	}
	got := WithTransitionTimes(
		have, []metav1.Condition{{Type: "A", Status: "True", Reason: "New"}, {Type: "B", Status: "False"}}, metav1.Now(),
	)
	if !got[0].LastTransitionTime.Equal(&before) || got[1].LastTransitionTime.Equal(&before) {
		t.Errorf("got %+v", got)
	}
}
