package aws

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"pgregory.net/rapid"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

func annotate(pairs ...string) func(*corev1.Service) {
	return func(s *corev1.Service) {
		for i := 0; i < len(pairs); i += 2 {
			s.Annotations[prefix+pairs[i]] = pairs[i+1]
		}
	}
}

func withPorts(ports ...corev1.ServicePort) func(*corev1.Service) {
	return func(s *corev1.Service) { s.Spec.Ports = ports }
}

func localPolicy(s *corev1.Service) {
	s.Spec.ExternalTrafficPolicy, s.Spec.HealthCheckNodePort = corev1.ServiceExternalTrafficPolicyLocal, 32100
}

func dualStack(policy corev1.IPFamilyPolicy) func(*corev1.Service) {
	return func(s *corev1.Service) {
		s.Spec.IPFamilies, s.Spec.IPFamilyPolicy = []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}, &policy
	}
}

const certificateA, certificateB = "arn:aws:acm:eu-west-1:123456789012:certificate/a", "arn:aws:acm:eu-west-1:123456789012:certificate/b"

// text returns a short description of a stack.
func (s stack) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s", s.Scheme, s.AddressType)
	if s.PreferDual {
		b.WriteString(" (dual stack if possible)")
	}
	fmt.Fprintf(&b, " %v backend=%t rules=%d\n", s.Attributes, s.Backend, len(s.Rules))
	for _, l := range s.Listeners {
		t := l.Target
		fmt.Fprintf(&b, "%s-%d -> %s %d %s %v check %s %s%s %d/%d/%d/%d %v\n", l.Protocol, l.Port, t.Protocol, t.Port, t.Family, t.Attributes,
			t.Health.Protocol, t.Health.Port, t.Health.Path, t.Health.Interval, t.Health.Timeout, t.Health.Healthy, t.Health.Unhealthy, l.Attributes)
	}
	return b.String()
}

func TestPlan(t *testing.T) {
	tcp80 := corev1.ServicePort{Name: "http", Port: 80, Protocol: corev1.ProtocolTCP, NodePort: 30080}
	dnsTCP := corev1.ServicePort{Name: "dns-tcp", Port: 53, Protocol: corev1.ProtocolTCP, NodePort: 30053}
	dnsUDP := corev1.ServicePort{Name: "dns", Port: 53, Protocol: corev1.ProtocolUDP, NodePort: 30053}
	const probe = "check HTTP 10256/healthz 10/6/2/2"
	for _, row := range []struct {
		name   string
		change func(*corev1.Service)
		want   string // part of the text
	}{
		{"by default", annotate(), "internet-facing ipv4 map[] backend=true rules=2\nTCP-80 -> TCP 30080 ipv4 map[] " + probe + " map[]\n"},
		{"internal", annotate("scheme", "internal"), "internal ipv4"},
		{"internal, the old way", annotate("internal", "true"), "internal ipv4"},
		{"internal, the oldest way", annotate("internal", "0.0.0.0/0"), "internal ipv4"},
		{"not internal", annotate("internal", "false"), "internet-facing ipv4"},
		{"both ways agree", annotate("internal", "true", "scheme", "internal"), "internal ipv4"},
		{"Local", localPolicy, "check HTTP 32100/healthz 10/6/2/2"},
		{
			"Local keeps its port under other thresholds", both(localPolicy, annotate("healthcheck-unhealthy-threshold", "5")),
			"check HTTP 32100/healthz 10/6/2/5",
		},
		{
			"Local, by TCP: the port itself, which nodes without endpoints do not answer",
			both(localPolicy, annotate("healthcheck-protocol", "tcp")), "check TCP traffic-port",
		},
		{"Local, by HTTP, is what it is anyway", both(localPolicy, annotate("healthcheck-protocol", "http")), "check HTTP 32100/healthz"},
		{"a health port of one's own groups", annotate("healthcheck-port", "8081", "security-groups", "sg-1"), "check TCP 8081"},
		{"a group twice", annotate("security-groups", "sg-1,sg-1"), "backend=false rules=0"},
		{
			"a health check of the application", annotate("healthcheck-protocol", "http", "healthcheck-path", "/ready"),
			"check HTTP traffic-port/ready 10/6/2/2",
		},
		{"by TCP", annotate("healthcheck-protocol", "tcp"), "check TCP traffic-port 10/6/2/2"},
		{"on a port by name", annotate("healthcheck-port", "http"), "check TCP 30080 10/6/2/2"},
		{"a path means HTTP", annotate("healthcheck-port", "31080", "healthcheck-path", "/x"), "check HTTP 31080/x"},
		{"a short interval shortens the timeout", annotate("healthcheck-interval", "5"), "check HTTP 10256/healthz 5/5/2/2"},
		{"proxy protocol", annotate("proxy-protocol", "*"), "map[proxy_protocol_v2.enabled:true] check TCP traffic-port"},
		{"proxy protocol for a port", annotate("proxy-protocol-per-target-group", "80"), "proxy_protocol_v2.enabled:true"},
		{
			"proxy protocol for a port only",
			annotate("proxy-protocol-per-target-group", "80", "target-group-attributes", attrProxy+"=false"), "proxy_protocol_v2.enabled:true",
		},
		{"TLS", annotate("ssl-cert", certificateA), "TLS-80 -> TCP 30080"},
		{
			"TLS on another port only", both(withPorts(tcp80, dnsTCP), annotate("ssl-cert", certificateA, "ssl-ports", "53")),
			"TLS-53 -> TCP 30053",
		},
		{"TLS with a certificate of IAM", annotate("ssl-cert", "arn:aws-us-gov:iam::123456789012:server-certificate/prod/web"), "TLS-80"},
		{"TLS on a port by name", annotate("ssl-cert", certificateA, "ssl-ports", "http"), "TLS-80"},
		{"TLS on all", annotate("ssl-cert", certificateA, "ssl-ports", "*"), "TLS-80"},
		{"TLS to the targets", annotate("ssl-cert", certificateA, "backend-protocol", "ssl"), "TLS-80 -> TLS 30080"},
		{"UDP is asked at kube-proxy", withPorts(dnsUDP), "UDP-53 -> UDP 30053 ipv4 map[] " + probe},
		{"TCP and UDP", withPorts(tcp80, dnsUDP), "UDP-53 -> UDP 30053 ipv4 map[] " + probe + " map[]\nTCP-80"},
		{"TCP and UDP on one port", withPorts(dnsUDP, dnsTCP), "TCP_UDP-53 -> TCP_UDP 30053"},
		{
			"sticky", func(s *corev1.Service) { s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP },
			"map[stickiness.enabled:true stickiness.type:source_ip]",
		},
		{"idle timeout", annotate("connection-idle-timeout", "600"), "map[tcp.idle_timeout.seconds:600]"},
		{"listener attributes", annotate("listener-attributes.TCP-80", "tcp.idle_timeout.seconds=700"), "map[tcp.idle_timeout.seconds:700]"},
		{
			"target group attributes",
			annotate("target-group-attributes", "preserve_client_ip.enabled=false,deregistration_delay.timeout_seconds.80=5"),
			"map[deregistration_delay.timeout_seconds:5 preserve_client_ip.enabled:false]",
		},
		{"no connection draining", annotate("connection-draining-timeout", "0"), "map[deregistration_delay.timeout_seconds:0]"},
		{
			"connection draining", annotate("connection-draining-enabled", "true", "connection-draining-timeout", "60"),
			"map[deregistration_delay.timeout_seconds:60]",
		},
		{"cross-zone", annotate("cross-zone-load-balancing-enabled", "true"), "map[load_balancing.cross_zone.enabled:true]"},
		{
			"attributes", annotate("attributes", "dns_record.client_routing_policy=partial_availability_zone_affinity"),
			"partial_availability_zone_affinity",
		},
		{"ranges", func(s *corev1.Service) { s.Spec.LoadBalancerSourceRanges = []string{"192.0.2.0/24", "198.51.100.7/32"} }, "rules=3"},
		{"ranges by annotation", func(s *corev1.Service) { s.Annotations[annotationSourceRanges] = "192.0.2.0/24, 198.51.100.7/32" }, "rules=3"},
		{"given groups", annotate("security-groups", "sg-1,sg-2"), "backend=false rules=0"},
		{"given groups and ours", annotate("security-groups", "sg-1", "manage-backend-security-group-rules", "true"), "backend=true rules=0"},
		{"no groups", annotate("disable-nlb-sg", "true"), "backend=false rules=0"},
		{"dual stack by annotation", annotate("ip-address-type", "dualstack"), "dualstack map[] backend=true rules=4"},
		{"dual stack by policy", dualStack(corev1.IPFamilyPolicyRequireDualStack), "internet-facing dualstack"},
		{"dual stack preferred", dualStack(corev1.IPFamilyPolicyPreferDualStack), "ipv4 (dual stack if possible)"},
		{
			"IPv6 alone", func(s *corev1.Service) { s.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv6Protocol} },
			"dualstack map[] backend=true rules=4\nTCP-80 -> TCP 30080 ipv6",
		},
		{
			"known words of others that fit",
			annotate("type", "nlb", "nlb-target-type", "instance", "enable-icmp-for-path-mtu-discovery", "on"), "TCP-80",
		},
		{"values that request nothing", annotate("multi-cluster-target-group", "false", "enable-prefix-for-ipv6-source-nat", "off"), "TCP-80"},
		{"no messages of PMTU discovery", annotate("enable-icmp-for-path-mtu-discovery", "off"), "rules=1"},
		{
			"no messages of PMTU discovery, dual stack",
			annotate("enable-icmp-for-path-mtu-discovery", "off", "ip-address-type", "dualstack"), "rules=2",
		},
		{"TCP and UDP on one port, explicitly", both(withPorts(dnsUDP, dnsTCP), annotate("enable-tcp-udp-listener", "true")), "TCP_UDP-53"},
		{"no TCP and UDP on one port", both(withPorts(dnsUDP, tcp80), annotate("enable-tcp-udp-listener", "false")), "UDP-53"},
		{"HTTP backends", annotate("backend-protocol", "http", "ssl-cert", certificateA), "TLS-80 -> TCP 30080"},
		{"HTTP backends, in capitals", annotate("backend-protocol", "HTTP"), "TCP-80 -> TCP 30080"},
		{"HTTPS backends behind TCP", annotate("backend-protocol", "https"), "TCP-80 -> TCP 30080"},
		{
			"target group attributes by port", annotate("target-group-attributes.80", "deregistration_delay.timeout_seconds=5"),
			"map[deregistration_delay.timeout_seconds:5]",
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := newService("web")
			s.Spec.Ports = []corev1.ServicePort{tcp80}
			row.change(s)
			plan, refusal := planStack(s, adminSettings{NodePorts: [2]int32{30000, 32767}})
			if refusal != nil {
				t.Fatal(refusal)
			}
			if !strings.Contains(plan.text(), row.want) {
				t.Errorf("got\n%s\nwant\n%s", plan.text(), row.want)
			}
		})
	}
}

func both(changes ...func(*corev1.Service)) func(*corev1.Service) {
	return func(s *corev1.Service) {
		for _, c := range changes {
			c(s)
		}
	}
}

func TestRefusals(t *testing.T) {
	many := func(s *corev1.Service) {
		for i := range int32(51) {
			s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Port: 1000 + i, Protocol: corev1.ProtocolTCP, NodePort: 31000 + i})
		}
	}
	udp := corev1.ServicePort{Port: 80, Protocol: corev1.ProtocolUDP, NodePort: 30081}
	for _, row := range []struct {
		name    string
		change  func(*corev1.Service)
		reason  v1alpha1.Reason
		message string
	}{
		{"unknown annotation", annotate("interal", "true"), v1alpha1.InvalidRequest, "aws-load-balancer-interal: unknown annotation"},
		{"unsupported annotation", annotate("quic-enabled-ports", "443"), v1alpha1.InvalidRequest, "not supported: QUIC"},
		{
			"weighted target groups", func(s *corev1.Service) { s.Annotations["service.beta.kubernetes.io/actions.TCP-80"] = "{}" },
			v1alpha1.InvalidRequest, "weighted",
		},
		{"scheme", annotate("scheme", "public"), v1alpha1.InvalidRequest, `"public" must be one of internal, internet-facing`},
		{"scheme and internal", annotate("scheme", "internal", "internal", "false"), v1alpha1.InvalidRequest, "conflicts with"},
		{"TLS listener with HTTPS backends", annotate("backend-protocol", "https", "ssl-cert", certificateA), v1alpha1.InvalidRequest, "use ssl"},
		{
			"TCP and UDP on one port, excluded",
			both(annotate("enable-tcp-udp-listener", "false"), func(s *corev1.Service) {
				s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Port: 80, Protocol: corev1.ProtocolUDP, NodePort: s.Spec.Ports[0].NodePort})
			}),
			v1alpha1.InvalidRequest, "port 80 is used for both TCP and UDP",
		},
		{
			"TCP and UDP on one port, excluded, with two node ports",
			both(annotate("enable-tcp-udp-listener", "false"), func(s *corev1.Service) { s.Spec.Ports = append(s.Spec.Ports, udp) }),
			v1alpha1.InvalidRequest, "port 80 is used for both TCP and UDP",
		},
		{
			"TLS and UDP on one port, with two node ports",
			both(annotate("ssl-cert", certificateA), func(s *corev1.Service) { s.Spec.Ports = append(s.Spec.Ports, udp) }),
			v1alpha1.InvalidRequest, "port 80 must not be used for both UDP and TLS",
		},
		{
			"PrivateLink without groups", annotate("inbound-sg-rules-on-private-link-traffic", "off", "disable-nlb-sg", "true"),
			v1alpha1.InvalidRequest, "requires a load balancer with security groups",
		},
		{
			"PROXY protocol on all ports and off", annotate("proxy-protocol", "*", "target-group-attributes", attrProxy+"=false"),
			v1alpha1.InvalidRequest, attrProxy + "=false conflicts with the annotation " + prefix + "proxy-protocol, which applies to port 80",
		},
		{
			"PROXY protocol on a port and off",
			annotate("proxy-protocol-per-target-group", "80", "target-group-attributes", attrProxy+".80=false"),
			v1alpha1.InvalidRequest, "conflicts with the annotation " + prefix + "proxy-protocol-per-target-group, which applies to port 80",
		},
		{
			"one attribute, two values for a port",
			annotate("target-group-attributes", attrDelay+".80=5", "target-group-attributes.80", attrDelay+"=6"),
			v1alpha1.InvalidRequest, "target-group-attributes.80: conflicts with " + attrDelay + ".80=5",
		},
		{
			"attributes of an unknown port", annotate("target-group-attributes.443", attrDelay+"=6"), v1alpha1.InvalidRequest,
			`port "443" not found`,
		},
		{"ip targets", annotate("nlb-target-type", "ip"), v1alpha1.InvalidRequest, `"ip" must be one of instance`},
		{"classic", annotate("type", "classic"), v1alpha1.InvalidRequest, `"classic" must be one of`},
		{
			"Elastic IP addresses, internal", annotate("scheme", "internal", "eip-allocations", "eipalloc-1"), v1alpha1.InvalidRequest,
			"eip-allocations: must not be set for an internal",
		},
		{
			"private addresses, internet-facing", annotate("private-ipv4-addresses", "10.0.0.5"), v1alpha1.InvalidRequest,
			"requires an internal load balancer",
		},
		{
			"invalid address", annotate("scheme", "internal", "private-ipv4-addresses", "fd00::1"), v1alpha1.InvalidRequest,
			`invalid IPv4 address "fd00::1"`,
		},
		{"too few addresses", annotate("subnets", "a,b", "eip-allocations", "eipalloc-1"), v1alpha1.InvalidRequest, "1 entries for 2 subnets"},
		{"number out of range", annotate("healthcheck-interval", "4"), v1alpha1.InvalidRequest, "from 5 to 300"},
		{
			"timeout beyond the interval", annotate("healthcheck-interval", "10", "healthcheck-timeout", "20"), v1alpha1.InvalidRequest,
			"must not be longer than the interval",
		},
		{"invalid health port", annotate("healthcheck-port", "admin"), v1alpha1.InvalidRequest, `"admin" must be a port number`},
		{"health port outside of the node ports", annotate("healthcheck-port", "8081"), v1alpha1.InvalidRequest, "not to 8081"},
		{
			"idle timeout without TCP", both(withPorts(udp), annotate("connection-idle-timeout", "400")), v1alpha1.InvalidRequest,
			"requires a TCP listener",
		},
		{"path with TCP", annotate("healthcheck-protocol", "tcp", "healthcheck-path", "/x"), v1alpha1.InvalidRequest, "conflicts with"},
		{
			"success codes of a TCP check", annotate("healthcheck-port", "31080", "healthcheck-success-codes", "204"), v1alpha1.InvalidRequest,
			"healthcheck-success-codes: requires",
		},
		{
			"two deregistration delays", annotate("connection-draining-timeout", "60", "target-group-attributes", attrDelay+"=5"),
			v1alpha1.InvalidRequest, "connection-draining-timeout: 60 s conflicts with " + attrDelay + "=5",
		},
		{"unknown port", annotate("ssl-cert", certificateA, "ssl-ports", "443"), v1alpha1.InvalidRequest, `port "443" not found`},
		{"TLS without a certificate", annotate("ssl-ports", "80"), v1alpha1.InvalidRequest, "requires the annotation"},
		{"invalid certificate", annotate("ssl-cert", "mine"), v1alpha1.InvalidRequest, `invalid certificate ARN "mine"`},
		{
			"certificate of another service", annotate("ssl-cert", "arn:aws:s3:::certificate/a"), v1alpha1.InvalidRequest,
			`annotation ` + prefix + `ssl-cert: invalid certificate ARN "arn:aws:s3:::certificate/a": ` +
				"must be arn:PARTITION:acm:REGION:ACCOUNT:certificate/ID or arn:PARTITION:iam::ACCOUNT:server-certificate/NAME",
		},
		{"unknown listener", annotate("listener-attributes.UDP-80", "a=b"), v1alpha1.InvalidRequest, "listener not found"},
		{"groups and no groups", annotate("security-groups", "sg-1", "disable-nlb-sg", "true"), v1alpha1.InvalidRequest, "conflicts with"},
		{"name of a group", annotate("security-groups", "web"), v1alpha1.InvalidRequest, `invalid security group ID "web"`},
		{
			"ranges without own group",
			both(annotate("security-groups", "sg-1"), func(s *corev1.Service) { s.Spec.LoadBalancerSourceRanges = []string{"192.0.2.0/24"} }),
			v1alpha1.InvalidRequest, "spec.loadBalancerSourceRanges",
		},
		{
			"invalid range", func(s *corev1.Service) { s.Annotations[annotationSourceRanges] = "all" }, v1alpha1.InvalidRequest,
			`invalid CIDR "all"`,
		},
		{"reserved tag", annotate("additional-resource-tags", "fairlead.io/cluster=x"), v1alpha1.InvalidRequest, "reserved"},
		{"duplicate key", annotate("attributes", "a=1,a=2"), v1alpha1.InvalidRequest, `duplicate key "a"`},
		{
			"conflicting cross-zone settings", annotate("cross-zone-load-balancing-enabled", "true", "attributes", attrCrossZone+"=false"),
			v1alpha1.InvalidRequest, "conflicts with",
		},
		{"logs without a bucket", annotate("access-log-enabled", "true"), v1alpha1.InvalidRequest, "s3-bucket-name"},
		{
			"session affinity with TLS",
			both(annotate("ssl-cert", certificateA), func(s *corev1.Service) { s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP }),
			v1alpha1.InvalidRequest, "ClientIP is not supported on port 80",
		},
		{"loadBalancerIP", func(s *corev1.Service) { s.Spec.LoadBalancerIP = "192.0.2.1" }, v1alpha1.InvalidRequest, "spec.loadBalancerIP"},
		{"no node port", func(s *corev1.Service) { s.Spec.Ports[0].NodePort = 0 }, v1alpha1.InvalidRequest, "port 80/TCP requires a node port"},
		{
			"one port, two node ports", func(s *corev1.Service) { s.Spec.Ports = append(s.Spec.Ports, udp) }, v1alpha1.InvalidRequest,
			"spec.ports: port 80 has the node ports 30080/TCP and 30081/UDP, which must be the same: set nodePort of both to one value, " +
				"such as 30080; or create the Service again, with both ports from the start, " +
				"or with allocateLoadBalancerNodePorts: false and without nodePort",
		},
		{
			"UDP and TLS on one port", both(annotate("ssl-cert", certificateA), func(s *corev1.Service) {
				udp.NodePort = s.Spec.Ports[0].NodePort
				s.Spec.Ports = append([]corev1.ServicePort{udp}, s.Spec.Ports...)
			}), v1alpha1.InvalidRequest, "port 80 must not be used for both UDP and TLS",
		},
		{"UDP on dual stack", both(withPorts(udp), annotate("ip-address-type", "dualstack")), v1alpha1.InvalidRequest, "UDP is not supported"},
		{
			"UDP without client addresses", both(withPorts(udp), annotate("target-group-attributes", attrPreserve+"=false")),
			v1alpha1.InvalidRequest, "port 80, which uses UDP",
		},
		{
			"SCTP", withPorts(corev1.ServicePort{Port: 38412, Protocol: corev1.ProtocolSCTP, NodePort: 30001}), v1alpha1.CloudCannotServe,
			"port 38412 uses SCTP",
		},
		{"too many ports", many, v1alpha1.QuotaExceeded, "at most 50 ports"},
		{"too many ranges", func(s *corev1.Service) {
			for i := range 250 {
				s.Spec.LoadBalancerSourceRanges = append(s.Spec.LoadBalancerSourceRanges, fmt.Sprintf("10.0.%d.0/24", i))
			}
		}, v1alpha1.QuotaExceeded, "250 ranges for 1 ports require 251 rules"},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := newService("web", 80)
			row.change(s)
			_, refusal := planStack(s, adminSettings{NodePorts: [2]int32{30000, 32767}})
			if refusal == nil || refusal.Reason != row.reason || !strings.Contains(refusal.Message, row.message) {
				t.Errorf("got %v, want %s with %q", refusal, row.reason, row.message)
			}
		})
	}
}

// TestAllProblemsReported checks that a refusal names every invalid annotation.
func TestAllProblemsReported(t *testing.T) {
	s := newService("web", 80)
	annotate("scheme", "public", "healthcheck-interval", "no", "ssl-ports", "9")(s)
	_, refusal := planStack(s, adminSettings{NodePorts: [2]int32{30000, 32767}})
	for _, name := range []string{"scheme", "healthcheck-interval", "ssl-ports"} {
		if refusal == nil || !strings.Contains(refusal.Message, prefix+name) {
			t.Errorf("%v does not name %s", refusal, name)
		}
	}
}

// FuzzPlan checks that annotations do not make a plan panic, and that equal
// Services have equal plans.
func FuzzPlan(f *testing.F) {
	f.Add("attributes", "a=b,,=", "target-group-attributes", "x.80=1,.=2,.5=")
	f.Add("healthcheck-port", "-1", "listener-attributes.TCP-80", "=")
	f.Add("additional-resource-tags", "a=b=c,ü=é", "ssl-cert", ",,")
	f.Fuzz(func(t *testing.T, nameA, valueA, nameB, valueB string) {
		s := newService("web", 80, 443)
		annotate(nameA, valueA, nameB, valueB)(s)
		first, refusal := planStack(s, adminSettings{NodePorts: [2]int32{30000, 32767}})
		second, again := planStack(s, adminSettings{NodePorts: [2]int32{30000, 32767}})
		if !reflect.DeepEqual(first, second) || (refusal == nil) != (again == nil) || refusal != nil && *refusal != *again {
			t.Errorf("one Service, two plans: %+v %v, %+v %v", first, refusal, second, again)
		}
	})
}

func TestNames(t *testing.T) {
	n := newNames("a cluster with a long name, which AWS would not take")
	for _, name := range []string{
		n.firstName("x"), n.secondName("x"), n.sharedGroup(), n.securityGroup("x", 3),
		n.targetGroup("x", n.secondName("x"), targetGroup{Port: 32767, Protocol: "TCP_UDP"}),
	} {
		if len(name) > 32 || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" || strings.HasSuffix(name, "-") {
			t.Errorf("%q is not a valid name of a load balancer", name)
		}
	}
	ofX := n.ofService("x")
	if ofX(n.firstName("y")) || !ofX(n.secondName("x")) || ofX(n.sharedGroup()) || newNames("other").ofService("x")(n.firstName("x")) {
		t.Error("names are taken for another's")
	}
}

// TestDiffProperties checks that a diff applied to the observed state yields
// the desired state, and that the next diff is empty.
func TestDiffProperties(t *testing.T) {
	keys := rapid.SampledFrom([]string{"team", "cost", "env", "fairlead.io/attributes", "Name", "foreign"})
	tags := rapid.MapOf(keys, rapid.StringMatching(`[a-z]{0,3}`))
	t.Run("tags", rapid.MakeCheck(func(t *rapid.T) {
		have := tags.Draw(t, "have")
		userKeys := rapid.SampledFrom([]string{"team", "cost", "env"})
		users := rapid.MapOf(userKeys, rapid.StringMatching(`[a-z]{0,3}`)).Draw(t, "users")
		before := rapid.MapOf(rapid.SampledFrom([]string{"team", "cost"}), rapid.Just("x")).Draw(t, "before")
		have = mergeMaps(have, recordTags(tagTags, strings.Join(slices.Sorted(maps.Keys(before)), "=")))
		want := allTags(map[string]string{tagUID: "1"}, users, "ns/web")
		add, remove := diffTags(have, want)
		after := mergeMaps(have, add)
		for _, k := range remove {
			delete(after, k)
		}
		for k, v := range want {
			if after[k] != v {
				t.Fatalf("%s is %q, not %q", k, after[k], v)
			}
		}
		for k := range have {
			_, recorded := before[k]
			if _, wanted := want[k]; !wanted && !recorded && !strings.HasPrefix(k, "fairlead.io/") && after[k] != have[k] {
				t.Fatalf("foreign tag %s was changed", k)
			}
			if _, wanted := want[k]; !wanted && recorded && after[k] != "" {
				t.Fatalf("tag %s stayed", k)
			}
		}
		if add, remove := diffTags(after, want); len(add)+len(remove) > 0 {
			t.Fatalf("not done: %v %v", add, remove)
		}
	}))
	t.Run("attributes", rapid.MakeCheck(func(t *rapid.T) {
		kind := rapid.SampledFrom([]string{"TCP", "UDP", "TCP_UDP", "TLS"}).Draw(t, "kind")
		standard := mergeMaps(defaultAttributes["group"], defaultAttributes["group "+kind])
		attributes := rapid.MapOf(rapid.SampledFrom(slices.Sorted(maps.Keys(standard))), rapid.StringMatching(`[a-z0-9]{1,3}`))
		before, want := attributes.Draw(t, "before"), attributes.Draw(t, "want")
		have := mergeMaps(standard, before)
		for k, v := range attributesToSet(want, attributeRecord(before), "group", kind) {
			have[k] = v
		}
		if fresh := mergeMaps(standard, want); !maps.Equal(have, fresh) {
			t.Fatalf("%v, not %v", have, fresh)
		}
		if more := attributesToSet(want, attributeRecord(want), "group", kind); len(more) > 0 {
			t.Fatalf("not done: %v", more)
		}
	}))
	t.Run("records", rapid.MakeCheck(func(t *rapid.T) {
		text := rapid.StringMatching(`[a-zé=. ]{0,900}`).Draw(t, "text")
		if got := recordedText(recordTags("tag", text), "tag"); got != text {
			t.Fatalf("%q, not %q", got, text)
		}
	}))
	t.Run("rules", rapid.MakeCheck(func(t *rapid.T) {
		one := rapid.Custom(func(t *rapid.T) securityRule {
			port := rapid.Int32Range(1, 3).Draw(t, "port")
			return securityRule{
				rapid.SampledFrom([]string{"tcp", "udp"}).Draw(t, "protocol"), port, port,
				rapid.SampledFrom([]string{"0.0.0.0/0", "::/0", "sg-1"}).Draw(t, "source"),
			}
		})
		all := rapid.SliceOfDistinct(one, func(r securityRule) securityRule { return r })
		have, want := all.Draw(t, "have"), all.Draw(t, "want")
		after := append(subtract(have, subtract(have, want)), subtract(want, have)...)
		slices.SortFunc(after, compareRules)
		slices.SortFunc(want, compareRules)
		if !slices.Equal(after, want) {
			t.Fatalf("%v, not %v", after, want)
		}
		if back := rulesOf(permissionsOf(want)); !slices.Equal(back, want) {
			t.Fatalf("%v became %v on its way through AWS's form", want, back)
		}
	}))
}
