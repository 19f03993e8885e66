package aws

import (
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/ec2"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
	elbtypes "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"
)

// TestDrift changes objects manually, and requires the next comparison to revert
// the changes. Only every attributesEvery-th sync compares attributes.
func TestDrift(t *testing.T) {
	for name, meddle := range map[string]func(t *testing.T, a *account){
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
				get(t, a.elb.ModifyListenerAttributes, &elb.ModifyListenerAttributesInput{
					ListenerArn: l.ListenerArn, Attributes: []elbtypes.ListenerAttribute{{Key: new(attrIdle), Value: new("100")}},
				})
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			eachAccount(t, func(t *testing.T, a *account) {
				c, s := a.newProvider(t), newService("web", 80, 443)
				annotate("additional-resource-tags", "team=net", "attributes", attrCrossZone+"=true",
					"target-group-attributes", attrDelay+"=30", "connection-idle-timeout", "600")(s)
				a.ensureService(t, c, s)
				before := a.world(t)
				meddle(t, a)
				if a.world(t) == before {
					t.Fatal("nothing was changed by hand")
				}
				for range attributesEvery {
					c.invalidateSync(s.UID)
					a.ensureService(t, c, s)
				}
				if got := a.world(t); got != before {
					t.Errorf("the world is\n%s\nand not\n%s", got, before)
				}
			})
		})
	}
}
