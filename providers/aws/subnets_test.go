package aws

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	elbtypes "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"
	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// TestNothingCreatedWithoutSubnets checks that subnets are selected before the first
// write, and that the targets of an existing load balancer follow the nodes.
func TestNothingCreatedWithoutSubnets(t *testing.T) {
	for name, row := range map[string]struct {
		change  func(a *account, s *corev1.Service)
		message string
	}{
		"unknown": {
			func(_ *account, s *corev1.Service) { annotate("subnets", "subnet-none")(s) },
			"annotation " + prefix + `subnets: subnet "subnet-none" not found in the VPC`,
		},
		"without IPv6": {
			func(a *account, s *corev1.Service) {
				annotate("ip-address-type", "dualstack", "subnets", strings.Join(a.subnets, ","))(s)
			},
			"a dual-stack load balancer requires an IPv6 CIDR in subnet SUBNET",
		},
		"address outside": {
			func(a *account, s *corev1.Service) {
				annotate("scheme", "internal", "subnets", a.subnets[0], "private-ipv4-addresses", "10.0.1.50")(s)
			},
			"annotation " + prefix + "private-ipv4-addresses: no address is in CIDR 10.0.0.0/24 of subnet SUBNET",
		},
	} {
		t.Run(name, func(t *testing.T) {
			eachAccount(t, func(t *testing.T, a *account) {
				c, s := a.newProvider(t), newService("web", 80)
				annotate("scheme", "internal")(s)
				changed := s.DeepCopy()
				row.change(a, changed)
				want := strings.ReplaceAll(row.message, "SUBNET", a.subnets[0])
				var refusal *v1alpha1.Refusal
				if _, err := c.EnsureLoadBalancer(t.Context(), a.cluster, changed, a.nodes); !errors.As(err, &refusal) || refusal.Message != want {
					t.Errorf("got %v, not %s", err, want)
				}
				if writes := a.writes(); len(writes) > 0 {
					t.Errorf("made %v", writes)
				}
				if name == "address outside" {
					return // AWS cannot change it for an existing load balancer
				}
				a.ensureService(t, c, s)
				a.reset()
				_, err := c.EnsureLoadBalancer(t.Context(), a.cluster, changed, a.nodes[:2])
				if !errors.As(err, &refusal) || refusal.Reason != v1alpha1.NoSubnet {
					t.Errorf("existing: got %v", err)
				}
				if writes := a.writes(); !slices.Equal(writes, []string{"DeregisterTargets"}) {
					t.Errorf("existing: made %v", writes)
				}
			})
		})
	}
}

func TestSelectSubnets(t *testing.T) {
	role, internal := roleTag(elbtypes.LoadBalancerSchemeEnumInternetFacing), roleTag(elbtypes.LoadBalancerSchemeEnumInternal)
	ours, others := tagClusterOwned("prod"), tagClusterOwned("other")
	tags := func(keys ...string) map[string]string {
		all := map[string]string{}
		for _, k := range keys {
			all[k] = "1"
		}
		return all
	}
	for _, row := range []struct {
		name string
		all  []subnet
		want string
	}{
		{"none", nil, "NoSubnet: no subnet for an internet-facing load balancer: the VPC does not have any"},
		{
			"one in each zone, by tag",
			[]subnet{{ID: "b", Zone: "z2", Free: 99, Tags: tags(role)}, {ID: "a", Zone: "z1", Free: 99, Tags: tags(role)}},
			"a b",
		},
		{
			"the cluster's first",
			[]subnet{{ID: "a", Zone: "z", Free: 99, Tags: tags(role)}, {ID: "b", Zone: "z", Free: 99, Tags: tags(role, ours)}},
			"b",
		},
		{"else by ID", []subnet{{ID: "b", Zone: "z", Free: 99, Tags: tags(role)}, {ID: "a", Zone: "z", Free: 99, Tags: tags(role)}}, "a"},
		{"not another cluster's", []subnet{{ID: "a", Zone: "z", Free: 99, Tags: tags(role, others)}}, "1 tagged for other clusters only"},
		{"another's and ours", []subnet{{ID: "a", Zone: "z", Free: 99, Tags: tags(role, others, ours)}}, "a"},
		{
			"not the other role's",
			[]subnet{{ID: "a", Zone: "z", Free: 99, Tags: tags(internal)}, {ID: "b", Zone: "z", Free: 99, Tags: tags(role)}},
			"b",
		},
		{
			"full",
			[]subnet{{ID: "a", Zone: "z", Free: 7, Tags: tags(role)}, {ID: "b", Zone: "y", Free: 0, Tags: tags(role)}},
			"2 with fewer than 8 free addresses",
		},
		{"remote", []subnet{{ID: "a", Zone: "z", Free: 99, Tags: tags(role), Remote: true}}, "1 in a local zone"},
		{"by routes, if none is tagged", []subnet{{ID: "a", Zone: "z", Free: 99}, {ID: "b", Zone: "z", Free: 99, Public: true}}, "b"},
		{"private ones", []subnet{{ID: "a", Zone: "z", Free: 99}}, "1 private"},
	} {
		t.Run(row.name, func(t *testing.T) {
			chosen, refusal := selectSubnets(row.all, elbtypes.LoadBalancerSchemeEnumInternetFacing, "prod")
			var got []string
			for _, s := range chosen {
				got = append(got, s.ID)
			}
			text := strings.Join(got, " ")
			if refusal != nil {
				text = refusal.Error()
			}
			if !strings.Contains(text, row.want) || refusal == nil && text != row.want {
				t.Errorf("got %q, want %q", text, row.want)
			}
		})
	}
}

// TestSubnetAnnotation checks that a load balancer can move to other zones.
func TestSubnetAnnotation(t *testing.T) {
	eachAccount(t, func(t *testing.T, a *account) {
		c, s := a.newProvider(t), newService("web", 80)
		annotate("subnets", a.subnets[0]+","+a.subnets[1])(s)
		a.ensureService(t, c, s)
		zones := func() (n int) { return len(a.balancers(t)[0].AvailabilityZones) }
		if n := zones(); n != 2 {
			t.Errorf("in %d zones", n)
		}
		annotate("subnets", strings.Join(a.subnets, ","))(s)
		a.ensureService(t, c, s)
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

// TestRoutes checks that the route tables decide which subnets are public if
// there are no role tags.
func TestRoutes(t *testing.T) {
	eachAccount(t, func(t *testing.T, a *account) {
		for _, s := range a.subnets {
			a.setTag(t, s, "kubernetes.io/role/elb", "")
			a.setTag(t, s, "kubernetes.io/role/internal-elb", "")
		}
		c, s := a.newProvider(t), newService("web", 80)
		a.ensureService(t, c, s)
		if n := len(a.balancers(t)[0].AvailabilityZones); n != 3 {
			t.Errorf("in %d zones", n)
		}
		internal := newService("internal", 80)
		annotate("scheme", "internal")(internal)
		var refusal *v1alpha1.Refusal
		_, err := c.EnsureLoadBalancer(t.Context(), a.cluster, internal, a.nodes)
		if !errors.As(err, &refusal) || !strings.Contains(refusal.Message, "3 public") {
			t.Errorf("got %v", err)
		}
	})
}

// TestDualStack checks that dual stack requires subnets with IPv6.
func TestDualStack(t *testing.T) {
	a := fakeAccount(t)
	c, s := a.newProvider(t), newService("web", 80)
	dualStack(corev1.IPFamilyPolicyRequireDualStack)(s)
	var refusal *v1alpha1.Refusal
	if _, err := c.EnsureLoadBalancer(t.Context(), a.cluster, s, a.nodes); !errors.As(err, &refusal) || refusal.Reason != v1alpha1.NoSubnet {
		t.Fatalf("got %v", err)
	}
	preferring := newService("prefers", 80)
	dualStack(corev1.IPFamilyPolicyPreferDualStack)(preferring)
	a.ensureService(t, c, preferring)
	a.addIPv6()
	c.subnets.invalidate()
	a.ensureService(t, c, s)
	kinds := map[string]elbtypes.IpAddressType{}
	for _, b := range a.balancers(t) {
		kinds[aws.ToString(b.LoadBalancerName)] = b.IpAddressType
	}
	if got := kinds[c.names.firstName(s.UID)]; got != elbtypes.IpAddressTypeDualstack {
		t.Errorf("got %s", got)
	}
	if got := kinds[c.names.firstName(preferring.UID)]; got != elbtypes.IpAddressTypeIpv4 {
		t.Errorf("PreferDualStack got %s", got)
	}
	annotate("ip-address-type", "dualstack")(preferring)
	a.ensureService(t, c, preferring)
	for _, b := range a.balancers(t) {
		if b.IpAddressType != elbtypes.IpAddressTypeDualstack {
			t.Errorf("%s is %s", *b.LoadBalancerName, b.IpAddressType)
		}
	}
}

// TestExistingToDualStack checks that dual stack is refused before the first write if a subnet
// of an existing load balancer does not have IPv6.
func TestExistingToDualStack(t *testing.T) {
	a := fakeAccount(t)
	c, s := a.newProvider(t), newService("web", 80)
	a.ensureService(t, c, s)
	a.reset()
	annotate("ip-address-type", "dualstack")(s)
	var refusal *v1alpha1.Refusal
	_, err := c.EnsureLoadBalancer(t.Context(), a.cluster, s, a.nodes)
	if !errors.As(err, &refusal) || refusal.Reason != v1alpha1.NoSubnet || len(a.writes()) > 0 {
		t.Errorf("got %v after %v", err, a.writes())
	}
	a.addIPv6()
	a.ensureService(t, c, s)
	if kind := a.balancers(t)[0].IpAddressType; kind != elbtypes.IpAddressTypeDualstack {
		t.Errorf("the address type is %s", kind)
	}
}

// TestUDPOnDualStack checks that an existing load balancer keeps its IPv6
// addresses when the Service gets a UDP port.
func TestUDPOnDualStack(t *testing.T) {
	a := fakeAccount(t)
	a.addIPv6()
	c, s := a.newProvider(t), newService("web", 80)
	dualStack(corev1.IPFamilyPolicyPreferDualStack)(s)
	a.ensureService(t, c, s)
	s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Port: 53, Protocol: corev1.ProtocolUDP, NodePort: 31999})
	var refusal *v1alpha1.Refusal
	_, err := c.EnsureLoadBalancer(t.Context(), a.cluster, s, a.nodes)
	if !errors.As(err, &refusal) || !strings.Contains(refusal.Message, "UDP") {
		t.Errorf("got %v", err)
	}
	if kind := a.balancers(t)[0].IpAddressType; kind != elbtypes.IpAddressTypeDualstack {
		t.Errorf("it is %s", kind)
	}
}

// addIPv6 adds IPv6 to the fake's subnets.
func (a *account) addIPv6() {
	for _, s := range a.fake.subnets {
		s.Ipv6CidrBlockAssociationSet = []ec2types.SubnetIpv6CidrBlockAssociation{{
			Ipv6CidrBlockState: &ec2types.SubnetCidrBlockState{State: ec2types.SubnetCidrBlockStateCodeAssociated},
		}}
	}
}

// TestElasticIPs checks that Elastic IP addresses are assigned in the order of
// the subnets, and stay.
func TestElasticIPs(t *testing.T) {
	eachAccount(t, func(t *testing.T, a *account) {
		var ids []string
		for range a.subnets {
			ids = append(ids, *get(t, a.ec2.AllocateAddress, &ec2.AllocateAddressInput{Domain: ec2types.DomainTypeVpc}).AllocationId)
		}
		c, s := a.newProvider(t), newService("web", 80)
		annotate("subnets", strings.Join(a.subnets[:2], ","), "eip-allocations", strings.Join(ids, ","))(s)
		var refusal *v1alpha1.Refusal
		_, err := c.EnsureLoadBalancer(t.Context(), a.cluster, s, a.nodes)
		if !errors.As(err, &refusal) || refusal.Reason != v1alpha1.InvalidRequest {
			t.Errorf("three for two: got %v", err)
		}
		annotate("eip-allocations", strings.Join(ids[:2], ","))(s)
		a.ensureService(t, c, s)
		// Another zone does not require a replacement.
		annotate("subnets", strings.Join(a.subnets, ","), "eip-allocations", strings.Join(ids, ","))(s)
		a.ensureService(t, c, s)
		if n := len(a.balancers(t)[0].AvailabilityZones); n != 3 {
			t.Errorf("in %d zones", n)
		}
		annotate("eip-allocations", strings.Join(append(ids[1:], "eipalloc-1"), ","))(s)
		_, err = c.EnsureLoadBalancer(t.Context(), a.cluster, s, a.nodes)
		if !errors.As(err, &refusal) || refusal.Reason != v1alpha1.ReplacementRequired {
			t.Errorf("others: got %v", err)
		}
	})
}
