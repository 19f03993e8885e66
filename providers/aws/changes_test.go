package aws

import (
	"regexp"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// TestChanges makes each change to an existing load balancer, and requires the
// same world as for a Service that was created like this; when the change is
// reverted, it requires the world from before.
func TestChanges(t *testing.T) {
	for _, row := range []struct {
		name   string
		change func(*corev1.Service)
		lines  []string // parts of lines of the world
	}{
		{
			"source ranges", func(s *corev1.Service) { s.Spec.LoadBalancerSourceRanges = []string{"192.0.2.0/24"} },
			[]string{"rule tcp 80-80 from 192.0.2.0/24", "rule icmp 3-4 from 0.0.0.0/0"},
		},
		{"Local", localPolicy, []string{"check HTTP 32100 every 10 for 6, 2/2 /healthz"}},
		{
			"a health check",
			annotate(
				"healthcheck-protocol", "http", "healthcheck-path", "/ready", "healthcheck-interval", "15",
				"healthcheck-timeout", "4", "healthcheck-healthy-threshold", "4", "healthcheck-unhealthy-threshold", "3",
			),
			[]string{"check HTTP traffic-port every 15 for 4, 4/3 /ready"},
		},
		{"cross-zone", annotate("cross-zone-load-balancing-enabled", "true"), []string{attrCrossZone + "=true"}},
		{"protection", annotate("attributes", "deletion_protection.enabled=true"), []string{"deletion_protection.enabled=true"}},
		{
			"target group attributes",
			annotate("target-group-attributes", "preserve_client_ip.enabled=false,deregistration_delay.timeout_seconds.80=30"),
			[]string{"preserve_client_ip.enabled=false", "deregistration_delay.timeout_seconds=30", "deregistration_delay.timeout_seconds=300"},
		},
		{"proxy protocol", annotate("proxy-protocol", "*"), []string{"proxy_protocol_v2.enabled=true", "check TCP traffic-port"}},
		{
			"sticky", func(s *corev1.Service) { s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP },
			[]string{"stickiness.enabled=true", "stickiness.type=source_ip"},
		},
		{"idle timeout", annotate("connection-idle-timeout", "600"), []string{"tcp.idle_timeout.seconds=600"}},
		{"listener attributes", annotate("listener-attributes.TCP-80", "tcp.idle_timeout.seconds=700"), []string{"tcp.idle_timeout.seconds=700"}},
		{"tags", annotate("additional-resource-tags", "team=net=work,cost=42"), []string{"cost=42", "team=net=work"}},
		{"a port more", func(s *corev1.Service) {
			s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Port: 8443, Protocol: corev1.ProtocolTCP, NodePort: 31443})
		}, []string{"listener TCP 8443", "TCP 31443", "rule tcp 8443-8443"}},
		{"a port less", func(s *corev1.Service) { s.Spec.Ports = s.Spec.Ports[:1] }, []string{"listener TCP 80"}},
		{"another nodePort", func(s *corev1.Service) { s.Spec.Ports[0].NodePort = 31999 }, []string{"TCP 31999"}},
		{"a UDP port", func(s *corev1.Service) {
			s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Port: 53, Protocol: corev1.ProtocolUDP, NodePort: 31053})
		}, []string{"listener UDP 53", "rule udp 53-53"}},
		{"UDP on a TCP port", func(s *corev1.Service) {
			s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Port: 80, Protocol: corev1.ProtocolUDP, NodePort: s.Spec.Ports[0].NodePort})
		}, []string{"listener TCP_UDP 80"}},
		{"labels", annotate("target-node-labels", "pool=front"), []string{"target node-1:"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			eachKind(t, func(t *testing.T, account func(*testing.T) *account) {
				if strings.HasSuffix(t.Name(), "UDP_on_a_TCP_port/moto") {
					return // moto's ModifyListener does not know TCP_UDP
				}
				base, changed := newService("web", 80, 443), newService("web", 80, 443)
				row.change(changed)
				fresh := account(t)
				fresh.label(1, "pool", "front")
				fresh.ensureService(t, fresh.newProvider(t), changed)
				want := fresh.normalizedWorld(t)
				for _, line := range row.lines {
					if !strings.Contains(want, line) {
						t.Errorf("the world lacks %q:\n%s", line, want)
					}
				}

				a := account(t)
				a.label(1, "pool", "front")
				c := a.newProvider(t)
				a.ensureService(t, c, base)
				before := a.normalizedWorld(t)
				a.ensureService(t, c, changed)
				a.requireWorld(t, c, changed, want)
				a.ensureService(t, a.newProvider(t), base) // another process, without state
				a.requireWorld(t, c, base, before)
			})
		})
	}
}

// normalizedWorld returns the world without what moto shows only after it was
// set: defaults that it does not list, and the path of a health check that was
// changed to TCP.
func (a *account) normalizedWorld(t *testing.T) string {
	t.Helper()
	world := strings.NewReplacer("  preserve_client_ip.enabled=true\n", "", "  proxy_protocol_v2.enabled=false\n", "").Replace(a.world(t))
	return pathOfTCP.ReplaceAllString(world, "$1")
}

var pathOfTCP = regexp.MustCompile(`(?m)(check TCP .*?) /\S*$`)

// label sets a label of a node.
func (a *account) label(node int, k, v string) {
	a.nodes[node] = a.nodes[node].DeepCopy()
	a.nodes[node].Labels = map[string]string{k: v}
}

// requireWorld syncs until the account is in a state, which may take several
// syncs, because AWS releases objects late.
func (a *account) requireWorld(t *testing.T, c *Cloud, svc *corev1.Service, want string) {
	t.Helper()
	var got string
	for range 10 {
		if got = a.normalizedWorld(t); got == want {
			return
		}
		c.invalidateSync(svc.UID)
		a.ensureService(t, c, svc)
	}
	t.Fatalf("the world is\n%s\nand not\n%s", got, want)
}
