package aws

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/ec2"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
	elbtypes "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"
	"pgregory.net/rapid"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// TestPlaceRules checks that each desired rule is in one group, that no rule
// moves, and that no group has too many rules.
func TestPlaceRules(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		one := rapid.Custom(func(t *rapid.T) securityRule {
			return securityRule{"tcp", rapid.Int32Range(1, 300).Draw(t, "port"), 0, "0.0.0.0/0"}
		})
		all := rapid.SliceOfNDistinct(one, 0, rulesPerGroup*maxGroups, func(r securityRule) securityRule { return r })
		before, want := all.Draw(t, "before"), all.Draw(t, "want")
		have := placeRules(before, make([][]securityRule, maxGroups))
		placed := placeRules(want, have)
		var flat []securityRule
		for i, rules := range placed {
			if len(rules) > rulesPerGroup {
				t.Fatalf("%d rules in a group", len(rules))
			}
			for _, r := range rules {
				for j := range have {
					if j != i && slices.Contains(have[j], r) {
						t.Fatalf("%s moved from group %d to %d", r, j, i)
					}
				}
			}
			flat = append(flat, rules...)
		}
		slices.SortFunc(flat, compareRules)
		slices.SortFunc(want, compareRules)
		if !slices.Equal(flat, want) {
			t.Fatalf("%v, not %v", flat, want)
		}
	})
}

// TestSecurityGroups checks that security groups of the user are used, and
// never deleted.
func TestSecurityGroups(t *testing.T) {
	eachAccount(t, func(t *testing.T, a *account) {
		given := *get(t, a.ec2.CreateSecurityGroup, &ec2.CreateSecurityGroupInput{
			GroupName: new("given"), Description: new("x"), VpcId: &a.vpc,
		}).GroupId
		c, s := a.newProvider(t), newService("web", 80)
		a.ensureService(t, c, s)
		annotate("security-groups", given)(s)
		a.ensureService(t, c, s)
		if got := a.balancers(t)[0].SecurityGroups; len(got) != 1 || got[0] != given {
			t.Errorf("the balancer has %v", got)
		}
		deleteService(t, a, c, s)
		if left := a.leakedObjects(t); len(left) != 1 || left[0] != "security group given" {
			t.Errorf("there remain %v", left)
		}
	})
}

// TestForeignObjects checks that objects with our names but without our tags
// are never changed.
func TestForeignObjects(t *testing.T) {
	eachAccount(t, func(t *testing.T, a *account) {
		c, s := a.newProvider(t), newService("web", 80)
		name := c.names.firstName(s.UID)
		get(
			t, a.elb.CreateLoadBalancer,
			&elb.CreateLoadBalancerInput{Name: &name, Type: elbtypes.LoadBalancerTypeEnumNetwork, Subnets: a.subnets[:1]},
		)
		get(t, a.ec2.CreateSecurityGroup, &ec2.CreateSecurityGroupInput{GroupName: &name, Description: new("x"), VpcId: &a.vpc})
		before := a.world(t)
		var refusal *v1alpha1.Refusal
		want := "load balancer " + *a.balancers(t)[0].LoadBalancerArn +
			" exists without the tags of this controller and is not changed: delete it"
		_, err := c.EnsureLoadBalancer(t.Context(), a.cluster, s, a.nodes)
		if !errors.As(err, &refusal) || refusal.Reason != v1alpha1.NameTaken || refusal.Message != want {
			t.Errorf("got %v, not %s", err, want)
		}
		deleteService(t, a, c, s)
		if got := a.world(t); got != before {
			t.Errorf("the world is\n%s\nand not\n%s", got, before)
		}
	})
}

// TestManyRules checks that no client is rejected during a change that needs
// another security group, and that the desired rules are in place after it.
func TestManyRules(t *testing.T) {
	a := fakeAccount(t)
	c, s := a.newProvider(t), newService("web", 80)
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
	a.ensureService(t, c, s)
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
	a.ensureService(t, c, s)
	if n := len(sources()); n != 160 {
		t.Errorf("%d sources are let in", n)
	}
	s.Spec.LoadBalancerSourceRanges = s.Spec.LoadBalancerSourceRanges[100:]
	for range 10 {
		c.invalidateSync(s.UID)
		a.ensureService(t, c, s)
	}
	if n := len(sources()); n != 60 {
		t.Errorf("%d sources are let in after most have gone", n)
	}
}

// TestSlowCallOfOtherService checks that a deletion does not block the creation
// for other Services, nor wait for it.
func TestSlowCallOfOtherService(t *testing.T) {
	a := fakeAccount(t)
	c, one := a.newProvider(t), newService("one", 80)
	a.ensureService(t, c, one)
	c.sharedGroup.users.RLock() // a slow creation is in progress
	var err error
	for range 10 {
		err = c.EnsureLoadBalancerDeleted(t.Context(), a.cluster, one)
	}
	retryAfter(t, err)
	a.ensureService(t, c, newService("two", 80))
	c.sharedGroup.users.RUnlock()
}

// TestRulesOfOthers checks that the shared security group stays with the last load balancer
// if a rule refers to it that is not the controller's.
func TestRulesOfOthers(t *testing.T) {
	for name, manage := range map[string]bool{"another rule": true, "rules that are not managed": false} {
		t.Run(name, func(t *testing.T) {
			eachAccount(t, func(t *testing.T, a *account) {
				c, s := a.newProvider(t, func(o *Options) { o.ManageNodeSecurityGroups = manage }), newService("web", 80)
				a.ensureService(t, c, s)
				shared := c.sharedGroup.lastID()
				rule := permissionsOf([]securityRule{{"tcp", 5432, 5432, shared}})
				get(t, a.ec2.AuthorizeSecurityGroupIngress, &ec2.AuthorizeSecurityGroupIngressInput{GroupId: &a.nodeGroup, IpPermissions: rule})
				before := len(a.groups(t))
				deleteService(t, a, c, s)
				if left := a.groups(t); len(left) != before-1 || !strings.Contains(a.world(t), "tcp 5432-5432") {
					t.Errorf("%d groups are left:\n%s", len(left), a.world(t))
				}
			})
		})
	}
}

// TestNameOfOtherService checks that a security group with a name of the Service and the tags
// of another one is named. moto is not needed: only the answers of EC2 matter.
func TestNameOfOtherService(t *testing.T) {
	for _, uid := range []string{"other-uid", ""} {
		a := fakeAccount(t)
		c, s := a.newProvider(t), newService("web", 80)
		name := c.names.firstName(s.UID)
		id := *get(t, a.ec2.CreateSecurityGroup, &ec2.CreateSecurityGroupInput{GroupName: &name, Description: new("x"), VpcId: &a.vpc}).GroupId
		a.setTag(t, id, tagCluster, a.cluster)
		a.setTag(t, id, tagUID, uid)
		var refusal *v1alpha1.Refusal
		_, err := c.EnsureLoadBalancer(t.Context(), a.cluster, s, a.nodes)
		if !errors.As(err, &refusal) || refusal.Reason != v1alpha1.NameTaken || !strings.Contains(refusal.Message, "security group "+id) {
			t.Errorf("UID %q: got %v", uid, err)
		}
	}
}
