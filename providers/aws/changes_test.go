package aws

import (
	"errors"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
	elbtypes "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/cloud-provider/api"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// TestChanges makes each change to a balancer that exists, and demands the
// same world as where the Service was like this from the start; and when the
// change is taken back, the world from before it.
func TestChanges(t *testing.T) {
	for _, row := range []struct {
		name   string
		change func(*corev1.Service)
		says   []string // lines of the world, in part
	}{
		{"source ranges", func(s *corev1.Service) { s.Spec.LoadBalancerSourceRanges = []string{"192.0.2.0/24"} }, []string{"rule tcp 80-80 from 192.0.2.0/24", "rule icmp 3-4 from 0.0.0.0/0"}},
		{"Local", localPolicy, []string{"check HTTP 32100 every 10 for 6, 2/2 /healthz"}},
		{"a health check", annotate("healthcheck-protocol", "http", "healthcheck-path", "/ready", "healthcheck-interval", "15", "healthcheck-timeout", "4", "healthcheck-healthy-threshold", "4", "healthcheck-unhealthy-threshold", "3"), []string{"check HTTP traffic-port every 15 for 4, 4/3 /ready"}},
		{"cross-zone", annotate("cross-zone-load-balancing-enabled", "true"), []string{attrCrossZone + "=true"}},
		{"protection", annotate("attributes", "deletion_protection.enabled=true"), []string{"deletion_protection.enabled=true"}},
		{"target group attributes", annotate("target-group-attributes", "preserve_client_ip.enabled=false,deregistration_delay.timeout_seconds.80=30"), []string{"preserve_client_ip.enabled=false", "deregistration_delay.timeout_seconds=30", "deregistration_delay.timeout_seconds=300"}},
		{"proxy protocol", annotate("proxy-protocol", "*"), []string{"proxy_protocol_v2.enabled=true", "check TCP traffic-port"}},
		{"sticky", func(s *corev1.Service) { s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP }, []string{"stickiness.enabled=true", "stickiness.type=source_ip"}},
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
				base, changed := aService("web", 80, 443), aService("web", 80, 443)
				row.change(changed)
				fresh := account(t)
				fresh.label(1, "pool", "front")
				fresh.ensured(t, fresh.provider(t), changed)
				want := fresh.plain(t)
				for _, line := range row.says {
					if !strings.Contains(want, line) {
						t.Errorf("the world lacks %q:\n%s", line, want)
					}
				}

				a := account(t)
				a.label(1, "pool", "front")
				c := a.provider(t)
				a.ensured(t, c, base)
				before := a.plain(t)
				a.ensured(t, c, changed)
				a.settled(t, c, changed, want)
				a.ensured(t, a.provider(t), base) // another process, without memory
				a.settled(t, c, base, before)
			})
		})
	}
}

// plain is the world without what moto shows only after it was set: defaults
// that it does not list, and the path of a health check that has become TCP.
func (a *account) plain(t *testing.T) string {
	t.Helper()
	world := strings.NewReplacer("  preserve_client_ip.enabled=true\n", "", "  proxy_protocol_v2.enabled=false\n", "").Replace(a.world(t))
	return pathOfTCP.ReplaceAllString(world, "$1")
}

var pathOfTCP = regexp.MustCompile(`(?m)(check TCP .*?) /\S*$`)

// label gives a node a label.
func (a *account) label(node int, k, v string) {
	a.nodes[node] = a.nodes[node].DeepCopy()
	a.nodes[node].Labels = map[string]string{k: v}
}

// settled demands a world, which may take further looks: AWS lets go late.
func (a *account) settled(t *testing.T, c *Cloud, svc *corev1.Service, want string) {
	t.Helper()
	var got string
	for range 10 {
		if got = a.plain(t); got == want {
			return
		}
		c.invalidateSync(svc.UID)
		a.ensured(t, c, svc)
	}
	t.Fatalf("the world is\n%s\nand not\n%s", got, want)
}

// TestCertificates: the first is the listener's, the others are for other names.
func TestCertificates(t *testing.T) {
	eachAccount(t, func(t *testing.T, a *account) {
		first, second, third := a.certificate(t, "a.example.com"), a.certificate(t, "b.example.com"), a.certificate(t, "c.example.com")
		c, s := a.provider(t), aService("web", 443)
		for _, certificates := range [][]string{{first, second}, {first, third}, {second}, {first, second, third}} {
			if a.fake == nil && certificates[0] != first {
				continue // moto lists a wrong default certificate after it has changed
			}
			annotate("ssl-cert", strings.Join(certificates, ","), "ssl-negotiation-policy", "ELBSecurityPolicy-TLS13-1-2-2021-06")(s)
			a.ensured(t, c, s)
			world := a.world(t)
			for _, arn := range []string{first, second, third} {
				want := false
				for _, x := range certificates {
					want = want || x == arn
				}
				if got := strings.Contains(world, strings.ReplaceAll(arn, a.id, "ACCOUNT")); got != want {
					t.Errorf("%v: %s is there: %t\n%s", certificates, arn, got, world)
				}
			}
		}
	})
}

// TestReplacement: what cannot be changed in place is not replaced by itself,
// and where it may be, the new balancer comes before the old one goes.
func TestReplacement(t *testing.T) {
	eachAccount(t, func(t *testing.T, a *account) {
		c, s := a.provider(t), aService("web", 80)
		old := a.ensured(t, c, s).Ingress[0].Hostname
		before := a.world(t)
		annotate("scheme", "internal")(s)
		var refusal *v1alpha1.Refusal
		for range 2 {
			if _, err := c.EnsureLoadBalancer(t.Context(), a.cluster, s, a.nodes); !errors.As(err, &refusal) || refusal.Reason != v1alpha1.ReplacementRequired {
				t.Fatalf("got %v", err)
			}
		}
		if got := a.world(t); got != before {
			t.Fatalf("the refusal changed the world to\n%s\nfrom\n%s", got, before)
		}
		update(t, a, c, s, a.nodes[:2]) // its targets follow all the same
		if n := len(a.balances(t, c.names.service(s.UID))[80]); n != 2 {
			t.Errorf("%d targets", n)
		}

		delete(s.Annotations, prefix+"scheme")
		other := a.provider(t, func(o *Options) { o.Scheme = "internal" })
		if _, err := other.EnsureLoadBalancer(t.Context(), a.cluster, s, a.nodes); err != nil {
			t.Fatalf("another default is no request: %v", err)
		}

		annotate("scheme", "internal")(s)
		s.Annotations[v1alpha1.AnnotationAllowReplacement] = "true"
		a.reset()
		status, err := c.EnsureLoadBalancer(t.Context(), a.cluster, s, a.nodes)
		if err != nil {
			t.Fatal(err)
		}
		if a.fake != nil && status.Ingress[0].Hostname != old {
			t.Errorf("%s is shown while the new one is not ready", status.Ingress[0].Hostname)
		}
		for range 20 {
			c.invalidateSync(s.UID)
			if status, err = c.EnsureLoadBalancer(t.Context(), a.cluster, s, a.nodes); err != nil {
				t.Fatal(err)
			}
			if n := len(a.balancers(t)); n != 2 {
				t.Fatalf("%d balancers before the Service has shown the new name", n)
			}
		}
		s.Status.LoadBalancer = *status // as the controller writes it
		for range 20 {
			c.invalidateSync(s.UID)
			if status, err = c.EnsureLoadBalancer(t.Context(), a.cluster, s, a.nodes); err != nil {
				t.Fatal(err)
			}
			c.gracePeriod = 0 // rather than waiting
		}
		if status.Ingress[0].Hostname == old {
			t.Error("the old name is still shown")
		}
		calls := strings.Join(a.calls(), " ")
		if strings.Index(calls, "DeleteLoadBalancer") < strings.Index(calls, "CreateListener") {
			t.Errorf("the old one went too early: %s", calls)
		}
		if all := a.balancers(t); len(all) != 1 || all[0].Scheme != elbtypes.LoadBalancerSchemeEnumInternal {
			t.Errorf("there are %d balancers", len(all))
		}
		if n := len(a.targetGroups(t)); n != 1 {
			t.Errorf("there are %d target groups", n)
		}
		deleted(t, a, c, s)
		if left := a.everything(t); len(left) > 0 {
			t.Errorf("there remain %v", left)
		}
	})
}

// TestSubnets: by annotation a balancer can move to other zones.
func TestSubnets(t *testing.T) {
	eachAccount(t, func(t *testing.T, a *account) {
		c, s := a.provider(t), aService("web", 80)
		annotate("subnets", a.subnets[0]+","+a.subnets[1])(s)
		a.ensured(t, c, s)
		zones := func() (n int) { return len(a.balancers(t)[0].AvailabilityZones) }
		if n := zones(); n != 2 {
			t.Errorf("in %d zones", n)
		}
		annotate("subnets", strings.Join(a.subnets, ","))(s)
		a.ensured(t, c, s)
		if n := zones(); n != 3 {
			t.Errorf("in %d zones after the change", n)
		}
		annotate("subnets", "subnet-none")(s)
		var refusal *v1alpha1.Refusal
		if _, err := c.EnsureLoadBalancer(t.Context(), a.cluster, s, a.nodes); !errors.As(err, &refusal) || refusal.Reason != v1alpha1.NoSubnet {
			t.Errorf("got %v", err)
		}
	})
}

// TestSecurityGroups that are given are used, and never deleted.
func TestSecurityGroups(t *testing.T) {
	eachAccount(t, func(t *testing.T, a *account) {
		given := *get(t, a.ec2.CreateSecurityGroup, &ec2.CreateSecurityGroupInput{GroupName: new("given"), Description: new("x"), VpcId: &a.vpc}).GroupId
		c, s := a.provider(t), aService("web", 80)
		a.ensured(t, c, s)
		annotate("security-groups", given)(s)
		a.ensured(t, c, s)
		if got := a.balancers(t)[0].SecurityGroups; len(got) != 1 || got[0] != given {
			t.Errorf("the balancer has %v", got)
		}
		deleted(t, a, c, s)
		if left := a.everything(t); len(left) != 1 || left[0] != "security group given" {
			t.Errorf("there remain %v", left)
		}
	})
}

// TestStrangers: what has our names but not our tags is never touched.
func TestStrangers(t *testing.T) {
	eachAccount(t, func(t *testing.T, a *account) {
		c, s := a.provider(t), aService("web", 80)
		name := c.names.service(s.UID)
		get(t, a.elb.CreateLoadBalancer, &elb.CreateLoadBalancerInput{Name: &name, Type: elbtypes.LoadBalancerTypeEnumNetwork, Subnets: a.subnets[:1]})
		get(t, a.ec2.CreateSecurityGroup, &ec2.CreateSecurityGroupInput{GroupName: &name, Description: new("x"), VpcId: &a.vpc})
		before := a.world(t)
		var refusal *v1alpha1.Refusal
		if _, err := c.EnsureLoadBalancer(t.Context(), a.cluster, s, a.nodes); !errors.As(err, &refusal) || refusal.Reason != v1alpha1.NameTaken {
			t.Errorf("got %v", err)
		}
		deleted(t, a, c, s)
		if got := a.world(t); got != before {
			t.Errorf("the world is\n%s\nand not\n%s", got, before)
		}
	})
}

// TestTwoClusters in one account, with Services of the same name: the end of
// one is no matter to the other.
func TestTwoClusters(t *testing.T) {
	eachAccount(t, func(t *testing.T, a *account) {
		blue := a.provider(t)
		green := a.provider(t, func(o *Options) { o.Cluster = "green" })
		mine, theirs := aService("web", 80), aService("web", 80)
		theirs.UID = "another"
		for _, g := range []string{"kubernetes.io/cluster/green"} {
			a.setTag(t, a.nodeGroup, g, "owned")
			for _, s := range a.subnets {
				a.setTag(t, s, g, "owned")
			}
		}
		a.ensured(t, blue, mine)
		before := a.world(t)
		a.ensured(t, green, theirs)
		if n := len(a.balancers(t)); n != 2 {
			t.Fatalf("there are %d balancers", n)
		}
		if err := green.Sweep(t.Context(), map[types.UID]bool{theirs.UID: true}); err != nil {
			t.Error(err)
		}
		deleted(t, a, green, theirs)
		if got := a.world(t); got != before {
			t.Errorf("the world is\n%s\nand not\n%s", got, before)
		}
	})
}

// TestBadNodes cost nobody else a place.
func TestBadNodes(t *testing.T) {
	eachAccount(t, func(t *testing.T, a *account) {
		node := func(name, providerID string) *corev1.Node {
			n := a.nodes[0].DeepCopy()
			n.Name, n.Spec.ProviderID = name, providerID
			return n
		}
		c, s := a.provider(t), aService("web", 80)
		a.terminate(t, a.instances[2])
		nodes := append([]*corev1.Node{
			node("fargate", "aws:///eu-west-1a/fargate-ip-10-0-0-7.eu-west-1.compute.internal"), node("rack", ""),
			node("gone", "aws:///eu-west-1a/i-0fffffffffffffff1"),
		}, a.nodes...)
		if _, err := c.EnsureLoadBalancer(t.Context(), a.cluster, s, nodes); err != nil {
			t.Fatal(err)
		}
		if got := a.balances(t, c.names.service(s.UID))[80]; len(got) != 2 {
			t.Errorf("targets are %v", got)
		}
		if r := c.Report(s); !strings.Contains(r.Message, "gone") || r.Again == 0 {
			t.Errorf("the report is %+v", r)
		}
	})
}

// TestRefusedTargets: AWS refuses a whole call for one target that has ended
// since it was looked up. Only the fake does so; moto takes it.
func TestRefusedTargets(t *testing.T) {
	a := fakeAccount(t)
	c, s := a.provider(t), aService("web", 80)
	a.ensured(t, c, aService("other", 80)) // learns of all instances
	a.terminate(t, a.instances[1])
	if _, err := c.EnsureLoadBalancer(t.Context(), a.cluster, s, a.nodes); err != nil {
		t.Fatal(err)
	}
	if got := a.balances(t, c.names.service(s.UID))[80]; len(got) != 2 {
		t.Errorf("targets are %v", got)
	}
	if r := c.Report(s); !strings.Contains(r.Message, a.nodes[1].Name) {
		t.Errorf("the report is %+v", r)
	}
}

// TestQuotas: limits of the account become reasons, and are no end: when there
// is room again the Service is served.
func TestQuotas(t *testing.T) {
	for name, limit := range map[string]func(*quota){
		"balancers":     func(q *quota) { q.balancers = 0 },
		"target groups": func(q *quota) { q.targetGroups = 1 },
		"listeners":     func(q *quota) { q.listeners = 1 },
		"targets":       func(q *quota) { q.targets = 2 },
		"groups":        func(q *quota) { q.groups = 2 },
		"rules":         func(q *quota) { q.rules = 1 },
	} {
		t.Run(name, func(t *testing.T) {
			a := fakeAccount(t)
			c, s := a.provider(t), aService("web", 80, 443)
			usual := a.fake.quota
			limit(&a.fake.quota)
			var refusal *v1alpha1.Refusal
			if _, err := c.EnsureLoadBalancer(t.Context(), a.cluster, s, a.nodes); !errors.As(err, &refusal) || refusal.Reason != v1alpha1.QuotaExceeded {
				t.Fatalf("got %v", err)
			}
			a.fake.quota = usual
			a.ensured(t, c, s)
			deleted(t, a, c, s)
			if left := a.everything(t); len(left) > 0 {
				t.Errorf("there remain %v", left)
			}
		})
	}
}

// TestProtection against deletion holds if the Service asks for it, and only then.
func TestProtection(t *testing.T) {
	a := fakeAccount(t) // moto ignores protection
	c, s := a.provider(t), aService("web", 80)
	annotate("attributes", "deletion_protection.enabled=true")(s)
	a.ensured(t, c, s)
	var refusal *v1alpha1.Refusal
	if err := c.EnsureLoadBalancerDeleted(t.Context(), a.cluster, s); !errors.As(err, &refusal) || !strings.Contains(refusal.Message, "take it off") {
		t.Fatalf("got %v", err)
	}
	s.Annotations = nil
	deleted(t, a, c, s)
	if left := a.everything(t); len(left) > 0 {
		t.Errorf("there remain %v", left)
	}
}

// TestDeletionWaits for AWS without blocking, and asks less and less often.
func TestDeletionWaits(t *testing.T) {
	a := fakeAccount(t)
	a.fake.lingering, a.fake.inUse = 3, 0
	c, s := a.provider(t), aService("web", 80)
	a.ensured(t, c, s)
	var waits []time.Duration
	for {
		err := c.EnsureLoadBalancerDeleted(t.Context(), a.cluster, s)
		if err == nil {
			break
		}
		waits = append(waits, retryAfter(t, err))
		if !strings.Contains(err.Error(), "security group") || len(waits) > 20 {
			t.Fatalf("got %v", err)
		}
	}
	if len(waits) < 2 || waits[1] <= waits[0] {
		t.Errorf("waits are %v", waits)
	}
}

// TestSweep counts what belongs to no Service, and deletes it only if told to,
// and only after a while.
func TestSweep(t *testing.T) {
	eachAccount(t, func(t *testing.T, a *account) {
		c, kept, lost := a.provider(t), aService("kept", 80), aService("lost", 80)
		a.ensured(t, c, kept)
		world := a.world(t)
		a.ensured(t, c, lost)
		live := map[types.UID]bool{kept.UID: true}
		for range 3 {
			if err := c.Sweep(t.Context(), live); err != nil {
				t.Fatal(err)
			}
		}
		if n := len(a.balancers(t)); n != 2 {
			t.Fatalf("%d balancers after a dry run", n)
		}
		d := a.provider(t, func(o *Options) { o.DeleteOrphans = true })
		for range 20 {
			_ = d.Sweep(t.Context(), live) // AWS lets go late
			for id := range d.orphanedSince {
				d.orphanedSince[id] = d.orphanedSince[id].Add(-orphanAge)
			}
		}
		if got := a.world(t); got != world {
			t.Errorf("the world is\n%s\nand not\n%s", got, world)
		}
	})
}

// TestOptions: bad ones are refused by name, missing ones when they are needed.
func TestOptions(t *testing.T) {
	for text, o := range map[string]Options{
		"scheme":       {Scheme: "public"},
		"health probe": {HealthProbe: "none"},
	} {
		if _, err := New(o); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%+v: got %v", o, err)
		}
	}
	a := fakeAccount(t)
	for flag, change := range map[string]func(*Options){
		"--cluster-name": func(o *Options) { o.Cluster = "" },
		"--aws-region":   func(o *Options) { o.Nodes = nil },
	} {
		var refusal *v1alpha1.Refusal
		_, err := a.provider(t, change).EnsureLoadBalancer(t.Context(), a.cluster, aService("web", 80), a.nodes)
		if !errors.As(err, &refusal) || refusal.Reason != v1alpha1.CloudNotConfigured || !strings.Contains(refusal.Message, flag) {
			t.Errorf("%s: got %v", flag, err)
		}
	}
	_, err := a.provider(t).EnsureLoadBalancer(t.Context(), a.cluster, aService("web", 80), nil)
	var refusal *v1alpha1.Refusal
	if !errors.As(err, &refusal) || refusal.Reason != v1alpha1.NoTargets {
		t.Errorf("without nodes: got %v", err)
	}
}

// TestDualStack needs subnets with IPv6, and says so.
func TestDualStack(t *testing.T) {
	a := fakeAccount(t)
	c, s := a.provider(t), aService("web", 80)
	dualStack(corev1.IPFamilyPolicyRequireDualStack)(s)
	var refusal *v1alpha1.Refusal
	if _, err := c.EnsureLoadBalancer(t.Context(), a.cluster, s, a.nodes); !errors.As(err, &refusal) || refusal.Reason != v1alpha1.NoSubnet {
		t.Fatalf("got %v", err)
	}
	preferring := aService("prefers", 80)
	dualStack(corev1.IPFamilyPolicyPreferDualStack)(preferring)
	a.ensured(t, c, preferring)
	a.addIPv6()
	c.subnets.invalidate()
	a.ensured(t, c, s)
	kinds := map[string]elbtypes.IpAddressType{}
	for _, b := range a.balancers(t) {
		kinds[aws.ToString(b.LoadBalancerName)] = b.IpAddressType
	}
	if got := kinds[c.names.service(s.UID)]; got != elbtypes.IpAddressTypeDualstack {
		t.Errorf("got %s", got)
	}
	if got := kinds[c.names.service(preferring.UID)]; got != elbtypes.IpAddressTypeIpv4 {
		t.Errorf("who prefers got %s", got)
	}
	annotate("ip-address-type", "dualstack")(preferring)
	a.ensured(t, c, preferring)
	for _, b := range a.balancers(t) {
		if b.IpAddressType != elbtypes.IpAddressTypeDualstack {
			t.Errorf("%s is %s", *b.LoadBalancerName, b.IpAddressType)
		}
	}
}

// retryAfter is how long a RetryError asks to wait.
func retryAfter(t *testing.T, err error) time.Duration {
	t.Helper()
	var retry *api.RetryError
	if !errors.As(err, &retry) {
		t.Fatalf("no RetryError: %v", err)
	}
	return retry.RetryAfter()
}

// addIPv6 gives the fake's subnets IPv6.
func (a *account) addIPv6() {
	for _, s := range a.fake.subnets {
		s.Ipv6CidrBlockAssociationSet = []ec2types.SubnetIpv6CidrBlockAssociation{{
			Ipv6CidrBlockState: &ec2types.SubnetCidrBlockState{State: ec2types.SubnetCidrBlockStateCodeAssociated},
		}}
	}
}

// TestRoutes: without role tags the route tables say which subnets are public.
func TestRoutes(t *testing.T) {
	eachAccount(t, func(t *testing.T, a *account) {
		for _, s := range a.subnets {
			a.setTag(t, s, "kubernetes.io/role/elb", "")
			a.setTag(t, s, "kubernetes.io/role/internal-elb", "")
		}
		c, s := a.provider(t), aService("web", 80)
		a.ensured(t, c, s)
		if n := len(a.balancers(t)[0].AvailabilityZones); n != 3 {
			t.Errorf("in %d zones", n)
		}
		internal := aService("internal", 80)
		annotate("scheme", "internal")(internal)
		var refusal *v1alpha1.Refusal
		if _, err := c.EnsureLoadBalancer(t.Context(), a.cluster, internal, a.nodes); !errors.As(err, &refusal) || !strings.Contains(refusal.Message, "3 public") {
			t.Errorf("got %v", err)
		}
	})
}

// TestLateInstance: a node whose instance AWS does not know yet becomes a
// target at the next look, though nothing has changed in the cluster.
func TestLateInstance(t *testing.T) {
	a := fakeAccount(t)
	late := a.fake.instances[2]
	a.fake.instances = a.fake.instances[:2]
	c, s := a.provider(t), aService("web", 80)
	a.ensured(t, c, s)
	if r := c.Report(s); !strings.Contains(r.Message, a.nodes[2].Name) || r.Again == 0 {
		t.Errorf("the report is %+v", r)
	}
	a.fake.instances = append(a.fake.instances, late)
	for id, i := range c.instances.byID {
		i.seen = i.seen.Add(-maxUnusableAge)
		c.instances.byID[id] = i
	}
	a.ensured(t, c, s)
	if got := a.balances(t, c.names.service(s.UID))[80]; len(got) != 3 {
		t.Errorf("targets are %v", got)
	}
	if r := c.Report(s); r.Again != 0 || strings.Contains(r.Message, "no target") {
		t.Errorf("the report is %+v", r)
	}
}
