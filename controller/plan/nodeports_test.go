package plan

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/providers"
)

func TestNodePorts(t *testing.T) {
	taken := func(ports ...int32) map[int32]bool {
		all := map[int32]bool{}
		for _, p := range ports {
			all[p] = true
		}
		return all
	}
	for _, row := range []struct {
		name    string
		service *corev1.Service
		others  []*corev1.Service
		in      PortRange
		want    string // "PORT/PROTOCOL=NODEPORT", and the reason
		do      CloudAction
	}{
		{"by hand or by the API server", service("a", onAWS, withPorts("80/TCP:30123")), nil, PortRange{}, " Provisioning", EnsureBalancer},
		{
			"the upper band first", service("a", onAWS, withPorts("80/TCP", "443/TCP")), nil,
			PortRange{},
			"80/TCP=30086 443/TCP=30087 Provisioning", NoAction,
		},
		{
			"TCP and UDP share", service("a", onAWS, withPorts("53/TCP", "53/UDP")), nil,
			PortRange{},
			"53/TCP=30086 53/UDP=30086 Provisioning", NoAction,
		},
		{
			"with a port that has one", service("a", onAWS, withPorts("53/TCP:30500", "53/UDP", "80/TCP")), nil,
			PortRange{},
			"53/UDP=30500 80/TCP=30086 Provisioning", NoAction,
		},
		{"others have some", service("a", onAWS, withPorts("80/TCP")), []*corev1.Service{
			service("b", withPorts("80/UDP:30086")),
			service("c", func(s *corev1.Service) { s.Spec.HealthCheckNodePort = 30087 }),
		}, PortRange{}, "80/TCP=30088 Provisioning", NoAction},
		{
			"others request some, too", service("b", onAWS, withPorts("80/TCP")),
			[]*corev1.Service{service("a", onAWS, withPorts("1/TCP", "2/TCP"))},
			PortRange{},
			"80/TCP=30088 Provisioning",
			NoAction,
		},
		{
			"some were refused", service("a", onAWS, withPorts("80/TCP")), nil,
			PortRange{Taken: taken(30086, 30088)},
			"80/TCP=30087 Provisioning", NoAction,
		},
		{
			"the lower band at last", service("a", onAWS, withPorts("80/TCP", "81/TCP")), nil,
			PortRange{Low: 100, High: 117},
			"80/TCP=116 81/TCP=117 Provisioning", NoAction,
		},
		{
			"and then its ports", service("a", onAWS, withPorts("80/TCP")),
			[]*corev1.Service{service("b", withPorts("1/TCP:116", "2/TCP:117"))},
			PortRange{Low: 100, High: 117},
			"80/TCP=100 Provisioning", NoAction,
		},
		{
			"all or nothing", service("a", onAWS, withPorts("80/TCP", "81/TCP")), nil,
			PortRange{Low: 100, High: 100},
			" NodePortsExhausted", NoAction,
		},
		{
			"one that is too large does not block the next", service("b", onAWS, withPorts("80/TCP")),
			[]*corev1.Service{service("a", onAWS, withPorts("1/TCP", "2/TCP"))},
			PortRange{Low: 100, High: 100},
			"80/TCP=100 Provisioning", NoAction,
		},
		{"not before the finalizer", service("a", withPorts("80/TCP")), nil, PortRange{}, " Provisioning", NoAction},
		{"not on bare metal", service("a", withPorts("80/TCP"), classed(v1alpha1.ClassBareMetal)), nil, PortRange{}, " NoMatchingPool", NoAction},
		{"not while it is deleted", service("a", onAWS, withPorts("80/TCP"), deleting), nil, PortRange{}, " Deleting", DeleteBalancer},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := Snapshot{
				Policy: providers.Policy{Mode: providers.Auto}, Nodes: []*corev1.Node{awsNode("n")},
				Services: append([]*corev1.Service{row.service}, row.others...), NodePorts: row.in,
			}
			plan := Decide(s)
			p := plan.planOf(KeyOf(row.service))
			var got []string
			for _, n := range p.NodePorts {
				got = append(got, fmt.Sprintf("%d/%s=%d", n.Port, n.Protocol, n.NodePort))
			}
			if text := strings.Join(got, " ") + " " + p.Conditions[0].Reason; text != row.want {
				t.Errorf("got %q, want %q", text, row.want)
			}
			if do := plan.Cloud[row.service.UID].Action; do != row.do {
				t.Errorf("action of the cloud is %d, want %d", do, row.do)
			}
			if len(p.NodePorts) > 0 && p.Matches(row.service) {
				t.Error("the plan matches before it is written")
			}
		})
	}
}

func TestPortsAreReturned(t *testing.T) {
	allocated := func(s *corev1.Service) { s.Spec.AllocateLoadBalancerNodePorts = nil }
	toPool := annotated(v1alpha1.AnnotationProvider, "bare-metal")
	for _, row := range []struct {
		name    string
		service *corev1.Service
		cloud   CloudOutcome
		want    bool
	}{
		{"left for a pool", service("a", onAWS, toPool, withPorts("80/TCP:30086")), gone, true},
		{"still leaving", service("a", onAWS, toPool, withPorts("80/TCP:30086")), held, false},
		{"without any", service("a", onAWS, toPool, withPorts("80/TCP")), gone, false},
		{"the API server's own", service("a", onAWS, toPool, withPorts("80/TCP:30086"), allocated), gone, false},
		{"another's class", service("a", onAWS, classed("example.com/lb"), withPorts("80/TCP:30086")), gone, true},
		{"deleted", service("a", onAWS, deleting, withPorts("80/TCP:30086")), gone, false},
		{"another type", service("a", onAWS, withPorts("80/TCP:30086"), clusterIP), gone, false},
		{"staying", service("a", onAWS, withPorts("80/TCP:30086")), active, false},
		{"another's, never on AWS", service("a", finalized, classed("example.com/lb"), withPorts("80/TCP:30086")), CloudOutcome{}, false},
	} {
		s := Snapshot{
			Policy:   providers.Policy{Mode: providers.Auto},
			Nodes:    []*corev1.Node{awsNode("n")},
			Services: []*corev1.Service{row.service},
		}
		s.Cloud = map[types.UID]CloudOutcome{"a": row.cloud}
		if got := Decide(s).planOf(key("a")).ReleasesNodePorts; got != row.want {
			t.Errorf("%s: returns is %t", row.name, got)
		}
	}
}

func TestParsePortRange(t *testing.T) {
	if r, err := ParsePortRange("30000-32767"); err != nil || r.Low != 30000 || r.High != 32767 {
		t.Errorf("%+v, %v", r, err)
	}
	for _, text := range []string{"", "30000", "a-b", "2-1", "0-5", "1-65536", "-1-5", "1-2-3"} {
		if r, err := ParsePortRange(text); err == nil {
			t.Errorf("%q is read as %+v", text, r)
		}
	}
}
