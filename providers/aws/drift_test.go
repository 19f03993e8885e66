package aws

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ec2"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
	elbtypes "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"
	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// manualChanges are the changes of TestDrift, for a Service with all that they change.
// Each has a row in docs/aws.md, "Changes by hand".
func manualChanges() map[string]func(t *testing.T, a *account) {
	return map[string]func(t *testing.T, a *account){
		"listener deleted": func(t *testing.T, a *account) {
			l := a.listeners(t, *a.balancers(t)[0].LoadBalancerArn)[0]
			get(t, a.elb.DeleteListener, &elb.DeleteListenerInput{ListenerArn: l.ListenerArn})
		},
		"target removed": func(t *testing.T, a *account) {
			g := a.targetGroups(t)[0]
			get(
				t, a.elb.DeregisterTargets,
				&elb.DeregisterTargetsInput{TargetGroupArn: g.TargetGroupArn, Targets: targetDescriptions(a.instances[:1])},
			)
		},
		"rules changed": func(t *testing.T, a *account) {
			for _, g := range a.groups(t) {
				if *g.GroupId == a.nodeGroup || len(g.IpPermissions) == 0 {
					continue
				}
				get(
					t, a.ec2.RevokeSecurityGroupIngress,
					&ec2.RevokeSecurityGroupIngressInput{GroupId: g.GroupId, IpPermissions: permissionsOf([]securityRule{{"tcp", 80, 80, "0.0.0.0/0"}})},
				)
				get(
					t, a.ec2.AuthorizeSecurityGroupIngress,
					&ec2.AuthorizeSecurityGroupIngressInput{
						GroupId:       g.GroupId,
						IpPermissions: permissionsOf([]securityRule{{"tcp", 22, 22, "0.0.0.0/0"}}),
					},
				)
			}
		},
		"groups taken off": func(t *testing.T, a *account) {
			b := a.balancers(t)[0]
			get(t, a.elb.SetSecurityGroups, &elb.SetSecurityGroupsInput{LoadBalancerArn: b.LoadBalancerArn, SecurityGroups: b.SecurityGroups[:1]})
		},
		"tags changed": func(t *testing.T, a *account) {
			b := a.balancers(t)[0]
			get(t, a.elb.RemoveTags, &elb.RemoveTagsInput{ResourceArns: []string{*b.LoadBalancerArn}, TagKeys: []string{"team"}})
			for _, g := range a.groups(t) {
				if *g.GroupId != a.nodeGroup {
					get(t, a.ec2.DeleteTags, &ec2.DeleteTagsInput{Resources: []string{*g.GroupId}, Tags: []ec2types.Tag{{Key: new("team")}}})
				}
			}
		},
		"health check changed": func(t *testing.T, a *account) {
			g := a.targetGroups(t)[0]
			get(
				t, a.elb.ModifyTargetGroup,
				&elb.ModifyTargetGroupInput{TargetGroupArn: g.TargetGroupArn, HealthCheckIntervalSeconds: new(int32(77))},
			)
		},
		"load balancer deleted": func(t *testing.T, a *account) {
			get(t, a.elb.DeleteLoadBalancer, &elb.DeleteLoadBalancerInput{LoadBalancerArn: a.balancers(t)[0].LoadBalancerArn})
		},
		"target group deleted": func(t *testing.T, a *account) {
			l := a.listeners(t, *a.balancers(t)[0].LoadBalancerArn)[0]
			get(t, a.elb.DeleteListener, &elb.DeleteListenerInput{ListenerArn: l.ListenerArn})
			group := l.DefaultActions[0].TargetGroupArn
			get(t, a.elb.DeleteTargetGroup, &elb.DeleteTargetGroupInput{TargetGroupArn: group})
		},
		"subnet taken off": func(t *testing.T, a *account) {
			in := &elb.SetSubnetsInput{LoadBalancerArn: a.balancers(t)[0].LoadBalancerArn, Subnets: a.subnets[:2]}
			get(t, a.elb.SetSubnets, in)
		},
		"rules of the nodes removed": func(t *testing.T, a *account) { a.revokeNodeRules(t) },
		"shared group deleted":       func(t *testing.T, a *account) { a.deleteSharedGroup(t) },
		"target at another port": func(t *testing.T, a *account) {
			// Registered at both ports, and at another port only.
			all := []elbtypes.TargetDescription{{Id: &a.instances[0], Port: new(int32(9999))}, {Id: &a.instances[1], Port: new(int32(9999))}}
			for _, g := range a.targetGroups(t) {
				get(t, a.elb.RegisterTargets, &elb.RegisterTargetsInput{TargetGroupArn: g.TargetGroupArn, Targets: all})
				in := &elb.DeregisterTargetsInput{TargetGroupArn: g.TargetGroupArn, Targets: targetDescriptions(a.instances[:1])}
				get(t, a.elb.DeregisterTargets, in)
			}
		},
		"certificate removed": func(t *testing.T, a *account) {
			for _, l := range a.listeners(t, *a.balancers(t)[0].LoadBalancerArn) {
				if l.Protocol != elbtypes.ProtocolEnumTls {
					continue
				}
				all := get(t, a.elb.DescribeListenerCertificates, &elb.DescribeListenerCertificatesInput{ListenerArn: l.ListenerArn}).Certificates
				more := slices.DeleteFunc(all, func(c elbtypes.Certificate) bool { return c.IsDefault != nil && *c.IsDefault })
				for _, c := range more {
					c.IsDefault = nil
					in := &elb.RemoveListenerCertificatesInput{ListenerArn: l.ListenerArn, Certificates: []elbtypes.Certificate{c}}
					get(t, a.elb.RemoveListenerCertificates, in)
				}
			}
		},
		"attributes changed": func(t *testing.T, a *account) {
			b := a.balancers(t)[0]
			get(t, a.elb.ModifyLoadBalancerAttributes, &elb.ModifyLoadBalancerAttributesInput{
				LoadBalancerArn: b.LoadBalancerArn, Attributes: []elbtypes.LoadBalancerAttribute{{Key: new(attrCrossZone), Value: new("false")}},
			})
			for _, g := range a.targetGroups(t) {
				get(t, a.elb.ModifyTargetGroupAttributes, &elb.ModifyTargetGroupAttributesInput{
					TargetGroupArn: g.TargetGroupArn, Attributes: []elbtypes.TargetGroupAttribute{{Key: new(attrDelay), Value: new("7")}},
				})
			}
			for _, l := range a.listeners(t, *b.LoadBalancerArn) {
				if l.Protocol != elbtypes.ProtocolEnumTcp {
					continue
				}
				get(t, a.elb.ModifyListenerAttributes, &elb.ModifyListenerAttributesInput{
					ListenerArn: l.ListenerArn, Attributes: []elbtypes.ListenerAttribute{{Key: new(attrIdle), Value: new("100")}},
				})
			}
		},
	}
}

// revokeNodeRules revokes all rules of the nodes' security group.
func (a *account) revokeNodeRules(t *testing.T) {
	t.Helper()
	for _, g := range a.groups(t) {
		if *g.GroupId == a.nodeGroup && len(g.IpPermissions) > 0 {
			rules := permissionsOf(rulesOf(g.IpPermissions))
			get(t, a.ec2.RevokeSecurityGroupIngress, &ec2.RevokeSecurityGroupIngressInput{GroupId: g.GroupId, IpPermissions: rules})
		}
	}
}

// deleteSharedGroup takes the shared security group off all load balancers, and
// deletes it.
func (a *account) deleteSharedGroup(t *testing.T) {
	t.Helper()
	a.revokeNodeRules(t)
	for _, g := range a.groups(t) {
		if *g.GroupName != newNames(a.cluster).sharedGroup() {
			continue
		}
		for _, b := range a.balancers(t) {
			others := slices.DeleteFunc(b.SecurityGroups, func(id string) bool { return id == *g.GroupId })
			get(t, a.elb.SetSecurityGroups, &elb.SetSecurityGroupsInput{LoadBalancerArn: b.LoadBalancerArn, SecurityGroups: others})
		}
		get(t, a.ec2.DeleteSecurityGroup, &ec2.DeleteSecurityGroupInput{GroupId: g.GroupId})
	}
}

// elapse makes everything that the provider remembers older.
func (c *Cloud) elapse(d time.Duration) {
	for _, l := range c.lastSyncs {
		l.due = l.due.Add(-d)
	}
	for id, i := range c.instances.byID {
		i.seen = i.seen.Add(-d)
		c.instances.byID[id] = i
	}
	for key, checked := range c.sharedGroup.checked {
		checked.at = checked.at.Add(-d)
		c.sharedGroup.checked[key] = checked
	}
	c.loadBalancers.listed = c.loadBalancers.listed.Add(-d)
	c.targetGroups.listed = c.targetGroups.listed.Add(-d)
	c.subnets.listed = c.subnets.listed.Add(-d)
}

// driftService returns a Service that sets all that manualChanges change.
func (a *account) driftService(t *testing.T) *corev1.Service {
	t.Helper()
	if a.fake != nil { // the changes by hand are made at once
		a.fake.lingering, a.fake.inUse = 0, 0
	}
	s := newService("web", 80, 443)
	certificates := a.certificate(t, "a.example.com") + "," + a.certificate(t, "b.example.com")
	annotate("additional-resource-tags", "team=net", "attributes", attrCrossZone+"=true",
		"target-group-attributes", attrDelay+"=30", "connection-idle-timeout", "600", "subnets", strings.Join(a.subnets, ","),
		"ssl-cert", certificates, "ssl-ports", "443")(s)
	return s
}

// TestDrift changes objects manually, and requires the comparison after
// Options.Resync to revert the changes, whatever is cached. Only every
// attributesEvery-th sync compares attributes.
func TestDrift(t *testing.T) {
	for name, change := range manualChanges() {
		t.Run(name, func(t *testing.T) {
			eachAccount(t, func(t *testing.T, a *account) {
				if a.fake == nil && name == "target at another port" {
					return // moto keeps one registration for each instance
				}
				c, s := a.newProvider(t), a.driftService(t)
				a.ensureService(t, c, s)
				before := a.world(t)
				change(t, a)
				if a.world(t) == before {
					t.Fatal("nothing was changed by hand")
				}
				syncs := 1
				if name == "attributes changed" || name == "certificate removed" {
					syncs = attributesEvery
				}
				for range syncs {
					c.elapse(c.options.Resync)
					a.ensureService(t, c, s)
				}
				if got := a.world(t); got != before {
					t.Errorf("the world differs:\n%s", textDifference(before, got))
				}
			})
		})
	}
}

// TestGone deletes objects that the provider remembers, and requires the next sync to
// succeed although no cache is outdated.
func TestGone(t *testing.T) {
	for _, name := range []string{"load balancer deleted", "target group deleted", "listener deleted", "shared group deleted"} {
		t.Run(name, func(t *testing.T) {
			a := fakeAccount(t) // moto accepts security groups that do not exist
			c, s := a.newProvider(t), a.driftService(t)
			a.ensureService(t, c, s)
			before := a.world(t)
			manualChanges()[name](t, a)
			c.lastSyncs[s.UID].due = time.Time{}
			if name == "shared group deleted" { // the list shows that it was taken off
				c.invalidateLists()
			}
			a.ensureService(t, c, s)
			if got := a.world(t); got != before {
				t.Errorf("the world differs:\n%s", textDifference(before, got))
			}
		})
	}
	t.Run("target group deleted, nodes changed", func(t *testing.T) {
		a := fakeAccount(t)
		c, s := a.newProvider(t), a.driftService(t)
		a.ensureService(t, c, s)
		before := a.world(t)
		manualChanges()["target group deleted"](t, a)
		updateTargets(t, a, c, s, a.nodes[:2])
		for port, targets := range a.trafficTargets(t, c.names.firstName(s.UID)) {
			if len(targets) != 2 {
				t.Errorf("port %d has %v", port, targets)
			}
		}
		a.ensureService(t, c, s)
		if got := a.world(t); got != before {
			t.Errorf("the world differs:\n%s", textDifference(before, got))
		}
	})
}

// TestNamedObjectMissing checks that an object that an annotation names is refused
// before the first write if it does not exist in the VPC, also for an existing load
// balancer.
func TestNamedObjectMissing(t *testing.T) {
	for annotation, want := range map[string]struct {
		id     string
		reason v1alpha1.Reason
		text   string
	}{
		"security-groups": {"sg-0123456789abcdef0", v1alpha1.InvalidRequest, "security group sg-0123456789abcdef0 not found in VPC"},
		"subnets":         {"subnet-0123456789abcdef0", v1alpha1.NoSubnet, "not found in the VPC"},
	} {
		t.Run(annotation, func(t *testing.T) {
			eachAccount(t, func(t *testing.T, a *account) {
				c, s := a.newProvider(t), newService("web", 80)
				named := s.DeepCopy()
				annotate(annotation, want.id)(named)
				for _, existing := range []bool{false, true} {
					if existing {
						a.ensureService(t, c, s)
					}
					a.reset()
					var refusal *v1alpha1.Refusal
					_, err := c.EnsureLoadBalancer(t.Context(), a.cluster, named, a.nodes)
					if !errors.As(err, &refusal) || refusal.Reason != want.reason || !strings.Contains(refusal.Message, want.text) {
						t.Errorf("got %v", err)
					}
					if writes := a.writes(); len(writes) > 0 {
						t.Errorf("made %v", writes)
					}
				}
			})
		})
	}
}

// TestOtherGroupOfInstance checks that the rules follow the security groups of an
// instance. moto's ModifyInstanceAttribute is not part of the fake.
func TestOtherGroupOfInstance(t *testing.T) {
	a := fakeAccount(t)
	c, s := a.newProvider(t), newService("web", 80)
	a.ensureService(t, c, s)
	in := &ec2.CreateSecurityGroupInput{
		GroupName: new("other"), Description: new("x"), VpcId: &a.vpc,
		TagSpecifications: tagSpecifications(ec2types.ResourceTypeSecurityGroup, map[string]string{tagClusterOwned(a.cluster): "owned"}),
	}
	other := get(t, a.ec2.CreateSecurityGroup, in).GroupId
	a.fake.instances[0].SecurityGroups[0].GroupId = other
	c.elapse(c.options.Resync)
	a.ensureService(t, c, s)
	if rules := a.fake.group(*other).rules; len(rules) != 3 {
		t.Errorf("the rules are %v", rules)
	}
}

// TestZoneWithoutSubnet checks that the report names the zones of nodes in which the
// load balancer does not have a subnet, and that the load balancer keeps its subnets.
func TestZoneWithoutSubnet(t *testing.T) {
	eachAccount(t, func(t *testing.T, a *account) {
		c, s := a.newProvider(t), newService("web", 80)
		a.ensureService(t, c, s)
		if r := c.Report(s); strings.Contains(r.Message, "no traffic") {
			t.Fatalf("the report is %+v", r)
		}
		manualChanges()["subnet taken off"](t, a)
		c.elapse(c.options.Resync)
		a.ensureService(t, c, s)
		if n := len(a.balancers(t)[0].AvailabilityZones); n != 2 {
			t.Errorf("%d subnets", n)
		}
		want := "no traffic for 1 node in zone " + zones[2] + ": "
		if r := c.Report(s); !strings.Contains(r.Message, want) || !strings.Contains(r.Message, prefix+"subnets") {
			t.Errorf("the report is %+v", r)
		}
		annotate("cross-zone-load-balancing-enabled", "true")(s)
		a.ensureService(t, c, s)
		if r := c.Report(s); strings.Contains(r.Message, "no traffic") {
			t.Errorf("the report is %+v", r)
		}
	})
}
