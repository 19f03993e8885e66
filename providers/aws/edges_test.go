package aws

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/aws/aws-sdk-go-v2/service/ec2"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"
	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// TestTLSAfterAttributes: an attribute that the new protocol lacks is not taken
// back, but forgotten.
func TestTLSAfterAttributes(t *testing.T) {
	a := fakeAccount(t)
	c, s := a.provider(t), aService("web", 443)
	annotate("connection-idle-timeout", "400")(s)
	a.ensured(t, c, s)
	delete(s.Annotations, prefix+"connection-idle-timeout")
	annotate("ssl-cert", a.certificate(t, "a.example.com"))(s)
	a.ensured(t, c, s)
}

// TestDefaults: what is taken back gets the default of its protocol and scheme.
func TestDefaults(t *testing.T) {
	a := fakeAccount(t)
	c, s := a.provider(t), aService("web", 80)
	s.Spec.Ports[0].Protocol = corev1.ProtocolUDP
	annotate("scheme", "internal")(s)
	a.ensured(t, c, s)
	before := a.world(t)
	annotate("attributes", attrDenyIPv6+"=false", "target-group-attributes", attrTerminate+"=false")(s)
	a.ensured(t, c, s)
	if a.world(t) == before {
		t.Fatal("nothing was changed")
	}
	delete(s.Annotations, prefix+"attributes")
	delete(s.Annotations, prefix+"target-group-attributes")
	a.ensured(t, c, s)
	if got := a.world(t); got != before {
		t.Errorf("the world is\n%s\nand not\n%s", got, before)
	}
}

// TestFiftyPorts: a full balancer can still exchange a port.
func TestFiftyPorts(t *testing.T) {
	a := fakeAccount(t)
	var ports []int32
	for i := range int32(maxListeners) {
		ports = append(ports, 1000+i)
	}
	c, s := a.provider(t), aService("web", ports...)
	a.ensured(t, c, s)
	a.reset()
	c.lastSyncOf(s.UID).due = time.Time{}
	c.invalidateLists()
	a.ensured(t, c, s)
	if n := len(a.calls()); n > 5+len(ports) {
		t.Errorf("a comparison takes %d calls", n)
	}
	s.Spec.Ports[49].Port = 2000
	a.ensured(t, c, s)
	if n := len(a.listeners(t, *a.balancers(t)[0].LoadBalancerArn)); n != maxListeners {
		t.Errorf("there are %d listeners", n)
	}
}

// TestTakenBack: a change that failed half-way and is taken back leaves nothing.
func TestTakenBack(t *testing.T) {
	eachAccount(t, func(t *testing.T, a *account) {
		c, s := a.provider(t), aService("web", 80)
		annotate("target-group-attributes", attrDelay+"=30")(s)
		a.ensured(t, c, s)
		before := a.world(t)
		annotate("target-group-attributes", attrDelay+"=60", "cross-zone-load-balancing-enabled", "true")(s)
		a.fail(fault{action: "ModifyLoadBalancerAttributes", times: forever, kind: clientError("AccessDenied")})
		var refusal *v1alpha1.Refusal
		if _, err := c.EnsureLoadBalancer(t.Context(), a.cluster, s, a.nodes); !errors.As(err, &refusal) || refusal.Reason != v1alpha1.PermissionDenied {
			t.Fatalf("got %v", err)
		}
		if a.world(t) == before {
			t.Fatal("nothing was changed")
		}
		a.reset()
		annotate("target-group-attributes", attrDelay+"=30")(s)
		delete(s.Annotations, prefix+"cross-zone-load-balancing-enabled")
		a.ensured(t, c, s)
		if got := a.world(t); got != before {
			t.Errorf("the world is\n%s\nand not\n%s", got, before)
		}
	})
}

// TestManyRules: when the rules need another security group nobody is shut out
// on the way, and in the end just those are let in who shall be.
func TestManyRules(t *testing.T) {
	a := fakeAccount(t)
	c, s := a.provider(t), aService("web", 80)
	sources := func() map[string]bool {
		all := map[string]bool{}
		for _, b := range a.fake.balancers {
			for _, id := range b.SecurityGroups {
				for _, r := range a.fake.group(id).rules {
					all[r.source] = true
				}
			}
		}
		return all
	}
	for i := range 59 {
		s.Spec.LoadBalancerSourceRanges = append(s.Spec.LoadBalancerSourceRanges, fmt.Sprintf("10.9.%d.0/24", i))
	}
	a.ensured(t, c, s)
	before := sources()
	for i := range 100 {
		s.Spec.LoadBalancerSourceRanges = append(s.Spec.LoadBalancerSourceRanges, fmt.Sprintf("10.8.%d.0/24", i))
	}
	a.fail(fault{action: "CreateSecurityGroup", times: forever, kind: clientError("SecurityGroupLimitExceeded")})
	if _, err := c.EnsureLoadBalancer(t.Context(), a.cluster, s, a.nodes); err == nil {
		t.Fatal("there is room without another group")
	}
	for source := range before {
		if !sources()[source] {
			t.Errorf("%s was shut out", source)
		}
	}
	a.reset()
	a.ensured(t, c, s)
	if n := len(sources()); n != 160 {
		t.Errorf("%d sources are let in", n)
	}
	s.Spec.LoadBalancerSourceRanges = s.Spec.LoadBalancerSourceRanges[100:]
	for range 10 {
		c.invalidateSync(s.UID)
		a.ensured(t, c, s)
	}
	if n := len(sources()); n != 60 {
		t.Errorf("%d sources are let in after most have gone", n)
	}
}

// TestAllRefused: where AWS accepts none of the new targets, the old ones stay.
func TestAllRefused(t *testing.T) {
	a := fakeAccount(t)
	c, s := a.provider(t), aService("web", 80)
	a.ensured(t, c, s)
	a.addNode(t)
	a.fail(fault{action: "RegisterTargets", times: forever, kind: clientError("InvalidTarget")})
	update(t, a, c, s, a.nodes[3:])
	if got := a.balances(t, c.names.service(s.UID))[80]; len(got) != 3 {
		t.Errorf("targets are %v", got)
	}
	if r := c.Report(s); !strings.Contains(r.Message, a.nodes[3].Name) {
		t.Errorf("the report is %+v", r)
	}
}

// TestNoNodeLeft is said, though the last targets stay.
func TestNoNodeLeft(t *testing.T) {
	a := fakeAccount(t)
	c, s := a.provider(t), aService("web", 80)
	a.ensured(t, c, s)
	update(t, a, c, s, nil)
	if r := c.Report(s); !r.Ready || r.Reason != v1alpha1.NoTargets || !strings.Contains(r.Message, "3 targets") {
		t.Errorf("the report is %+v", r)
	}
	update(t, a, c, s, a.nodes)
	if r := c.Report(s); r.Reason != v1alpha1.Assigned {
		t.Errorf("the report is %+v", r)
	}
}

// TestSlowNeighbour: a deletion does not hold up the Services for which
// something is being made, nor wait for them.
func TestSlowNeighbour(t *testing.T) {
	a := fakeAccount(t)
	c, one := a.provider(t), aService("one", 80)
	a.ensured(t, c, one)
	c.sharedGroup.users.RLock() // somebody is being made, slowly
	var err error
	for range 10 {
		err = c.EnsureLoadBalancerDeleted(t.Context(), a.cluster, one)
	}
	retryAfter(t, err)
	a.ensured(t, c, aService("two", 80))
	c.sharedGroup.users.RUnlock()
}

// TestAddresses: those that a balancer was made with cannot be changed, and are
// remembered though AWS does not list them.
func TestAddresses(t *testing.T) {
	eachAccount(t, func(t *testing.T, a *account) {
		c, s := a.provider(t), aService("web", 80)
		annotate("scheme", "internal", "private-ipv4-addresses", "10.0.0.50,10.0.1.50,10.0.2.50")(s)
		a.ensured(t, c, s)
		c.invalidateSync(s.UID)
		a.ensured(t, c, s)
		for _, other := range []string{"10.0.0.51,10.0.1.50,10.0.2.50", "10.0.0.50,10.0.1.50,10.0.2.51"} {
			annotate("private-ipv4-addresses", other)(s)
			var refusal *v1alpha1.Refusal
			if _, err := c.EnsureLoadBalancer(t.Context(), a.cluster, s, a.nodes); !errors.As(err, &refusal) || refusal.Reason != v1alpha1.ReplacementRequired {
				t.Errorf("%s: got %v", other, err)
			}
		}
		delete(s.Annotations, prefix+"private-ipv4-addresses")
		a.ensured(t, c, s)
		annotate("private-ipv4-addresses", "10.0.0.50,10.0.1.50,10.0.2.50")(s)
		a.ensured(t, a.provider(t), s)
	})
}

// TestUDPOnDualStack: a live balancer does not lose its IPv6 addresses for a
// port that dual stack cannot carry.
func TestUDPOnDualStack(t *testing.T) {
	a := fakeAccount(t)
	a.addIPv6()
	c, s := a.provider(t), aService("web", 80)
	dualStack(corev1.IPFamilyPolicyPreferDualStack)(s)
	a.ensured(t, c, s)
	s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Port: 53, Protocol: corev1.ProtocolUDP, NodePort: 31999})
	var refusal *v1alpha1.Refusal
	if _, err := c.EnsureLoadBalancer(t.Context(), a.cluster, s, a.nodes); !errors.As(err, &refusal) || !strings.Contains(refusal.Message, "UDP") {
		t.Errorf("got %v", err)
	}
	if kind := a.balancers(t)[0].IpAddressType; kind != elb.IpAddressTypeDualstack {
		t.Errorf("it is %s", kind)
	}
}

// TestReservedTags: no option can take away whose an object is.
func TestReservedTags(t *testing.T) {
	for _, key := range []string{tagUID, tagClusterOwned("x"), "aws:name"} {
		if _, err := New(Options{Tags: map[string]string{key: "x"}}); err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("%s: got %v", key, err)
		}
	}
}

// TestRecordsAreText: records are cut between characters.
func TestRecordsAreText(t *testing.T) {
	for k, v := range record("x", strings.Repeat("é", 300)) {
		if !utf8.ValidString(v) || utf8.RuneCountInString(v) > maxRecord {
			t.Errorf("%s: %d bytes", k, len(v))
		}
	}
}

// TestOutage: those who want to know the same share one failure, rather than
// waiting for each other's retries.
func TestOutage(t *testing.T) {
	a := fakeAccount(t)
	c := a.provider(t)
	a.fail(fault{action: "DescribeLoadBalancers", times: forever, kind: unreached})
	const services = 50
	failed := make(chan error, services)
	for i := range services {
		go func() {
			_, err := c.EnsureLoadBalancer(t.Context(), a.cluster, aService(fmt.Sprint("web-", i), 80), a.nodes)
			failed <- err
		}()
	}
	for range services {
		if err := <-failed; err == nil {
			t.Error("made in an outage")
		}
	}
	if n := len(a.calls()); n > services {
		t.Errorf("%d attempts for %d Services", n, services)
	}
}

// TestMetadata is asked for the region last, and only if nothing else tells.
func TestMetadata(t *testing.T) {
	asked := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		switch {
		case r.Method == http.MethodPut:
			w.Header().Set("X-Aws-Ec2-Metadata-Token-Ttl-Seconds", "60")
			fmt.Fprint(w, "token")
		case strings.HasSuffix(r.URL.Path, "/instance-identity/document"):
			fmt.Fprint(w, `{"region": "eu-north-1"}`)
		default:
			http.NotFound(w, r)
		}
	}))
	defer server.Close()
	t.Setenv("AWS_EC2_METADATA_DISABLED", "false")
	t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", server.URL)
	a := fakeAccount(t)
	for _, row := range []struct {
		name, environment, want string
		change                  func(*Options)
		asks                    bool
	}{
		{"flag", "eu-south-1", "eu-west-3", func(o *Options) { o.Region = "eu-west-3" }, false},
		{"environment", "eu-south-1", "eu-south-1", func(*Options) {}, false},
		{"nodes", "", "eu-west-1", func(*Options) {}, false},
		{"metadata", "", "eu-north-1", func(o *Options) { o.Nodes = nil }, true},
	} {
		t.Run(row.name, func(t *testing.T) {
			asked = 0
			t.Setenv("AWS_REGION", row.environment)
			c := a.provider(t, row.change, func(o *Options) { o.Load = o.Load[:1] })
			if err := c.connect(t.Context()); err != nil { // which calls only the metadata service
				t.Fatal(err)
			}
			if got := c.clients.region; got != row.want || (asked > 0) != row.asks {
				t.Errorf("the region is %s, after %d requests", got, asked)
			}
		})
	}
}

// TestUsedElsewhere: what AWS uses elsewhere is waited for, in words.
func TestUsedElsewhere(t *testing.T) {
	a := fakeAccount(t)
	c, s := a.provider(t), aService("web", 80)
	a.ensured(t, c, s)
	a.fail(fault{action: "DeleteLoadBalancer", times: forever, kind: clientError("ResourceInUse")})
	err := c.EnsureLoadBalancerDeleted(t.Context(), a.cluster, s)
	if retryAfter(t, err) < time.Second || !strings.Contains(err.Error(), "VPC endpoint") {
		t.Errorf("got %v", err)
	}
	a.reset()
	deleted(t, a, c, s)
}

// TestElasticIPs are given in the order of the subnets, and stay.
func TestElasticIPs(t *testing.T) {
	eachAccount(t, func(t *testing.T, a *account) {
		var ids []string
		for range a.subnets {
			ids = append(ids, *get(t, a.ec2.AllocateAddress, &ec2.AllocateAddressInput{Domain: ec2types.DomainTypeVpc}).AllocationId)
		}
		c, s := a.provider(t), aService("web", 80)
		annotate("subnets", strings.Join(a.subnets[:2], ","), "eip-allocations", strings.Join(ids, ","))(s)
		var refusal *v1alpha1.Refusal
		if _, err := c.EnsureLoadBalancer(t.Context(), a.cluster, s, a.nodes); !errors.As(err, &refusal) || refusal.Reason != v1alpha1.InvalidRequest {
			t.Errorf("three for two: got %v", err)
		}
		annotate("eip-allocations", strings.Join(ids[:2], ","))(s)
		a.ensured(t, c, s)
		annotate("subnets", strings.Join(a.subnets, ","), "eip-allocations", strings.Join(ids, ","))(s) // one zone more is no replacement
		a.ensured(t, c, s)
		if n := len(a.balancers(t)[0].AvailabilityZones); n != 3 {
			t.Errorf("in %d zones", n)
		}
		annotate("eip-allocations", strings.Join(append(ids[1:], "eipalloc-1"), ","))(s)
		if _, err := c.EnsureLoadBalancer(t.Context(), a.cluster, s, a.nodes); !errors.As(err, &refusal) || refusal.Reason != v1alpha1.ReplacementRequired {
			t.Errorf("others: got %v", err)
		}
	})
}

// TestAccessLogs end with their annotation, though a bucket's name cannot be
// taken back.
func TestAccessLogs(t *testing.T) {
	eachAccount(t, func(t *testing.T, a *account) {
		c, s := a.provider(t), aService("web", 80)
		annotate("access-log-enabled", "true", "access-log-s3-bucket-name", "logs", "access-log-s3-bucket-prefix", "web")(s)
		a.ensured(t, c, s)
		if world := a.world(t); !strings.Contains(world, "access_logs.s3.enabled=true") || !strings.Contains(world, "access_logs.s3.bucket=logs") || !strings.Contains(world, "access_logs.s3.prefix=web") {
			t.Errorf("the world is\n%s", world)
		}
		s.Annotations = nil
		a.ensured(t, c, s)
		if world := a.world(t); strings.Contains(world, "access_logs.s3.enabled=true") {
			t.Errorf("the world is\n%s", world)
		}
	})
}
