package aws

import (
	"slices"
	"testing"

	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
	elbtypes "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"
)

// clients returns clients with the options of a provider under test.
func (a *account) clients(t *testing.T) (*ec2.Client, *elb.Client) {
	t.Helper()
	cfg, err := config.LoadDefaultConfig(t.Context(), append(a.loadOptions(), config.WithRegion(a.region))...)
	if err != nil {
		t.Fatal(err)
	}
	return ec2.NewFromConfig(cfg), elb.NewFromConfig(cfg)
}

// TestFakeMatchesMoto makes the calls of a provider manually and compares the
// results: where the fake differs from moto here, one of them does not match
// AWS.
func TestFakeMatchesMoto(t *testing.T) {
	eachAccount(t, func(t *testing.T, a *account) {
		if a.fake != nil {
			a.fake.unknown, a.fake.provisioning, a.fake.lingering, a.fake.inUse, a.fake.draining = 0, 0, 0, 0, 0
		}
		e, l := a.clients(t)
		group := get(t, e.CreateSecurityGroup, &ec2.CreateSecurityGroupInput{
			VpcId: &a.vpc, GroupName: new("front"), Description: new("front"),
			TagSpecifications: tagSpecifications(ec2types.ResourceTypeSecurityGroup, map[string]string{"fairlead.io/cluster": "prod"}),
		}).GroupId
		get(t, e.AuthorizeSecurityGroupIngress, &ec2.AuthorizeSecurityGroupIngressInput{GroupId: group, IpPermissions: []ec2types.IpPermission{
			{
				IpProtocol: new("tcp"), FromPort: new(int32(80)), ToPort: new(int32(80)),
				IpRanges: []ec2types.IpRange{{CidrIp: new("0.0.0.0/0")}, {CidrIp: new("10.0.0.0/8")}},
			},
			{IpProtocol: new("icmp"), FromPort: new(int32(3)), ToPort: new(int32(4)), IpRanges: []ec2types.IpRange{{CidrIp: new("0.0.0.0/0")}}},
			{IpProtocol: new("tcp"), FromPort: new(int32(80)), ToPort: new(int32(80)), Ipv6Ranges: []ec2types.Ipv6Range{{CidrIpv6: new("::/0")}}},
		}})
		get(t, e.AuthorizeSecurityGroupIngress, &ec2.AuthorizeSecurityGroupIngressInput{
			GroupId: &a.nodeGroup, IpPermissions: []ec2types.IpPermission{
				{
					IpProtocol: new("tcp"), FromPort: new(int32(30000)), ToPort: new(int32(32767)),
					UserIdGroupPairs: []ec2types.UserIdGroupPair{{GroupId: group}},
				},
			},
		})
		tg := get(t, l.CreateTargetGroup, &elb.CreateTargetGroupInput{
			Name: new("fl-a-80"), VpcId: &a.vpc,
			Port:                new(int32(30080)),
			Protocol:            elbtypes.ProtocolEnumTcp,
			TargetType:          elbtypes.TargetTypeEnumInstance,
			HealthCheckProtocol: elbtypes.ProtocolEnumHttp, HealthCheckPort: new("10256"), HealthCheckPath: new("/healthz"),
			HealthCheckIntervalSeconds: new(int32(10)), HealthCheckTimeoutSeconds: new(int32(6)),
			HealthyThresholdCount: new(int32(2)), UnhealthyThresholdCount: new(int32(2)),
			Tags: []elbtypes.Tag{{Key: new("fairlead.io/cluster"), Value: new("prod")}},
		}).TargetGroups[0].TargetGroupArn
		get(
			t, l.RegisterTargets,
			&elb.RegisterTargetsInput{TargetGroupArn: tg, Targets: []elbtypes.TargetDescription{{Id: &a.instances[0]}, {Id: &a.instances[1]}}},
		)
		made := get(t, l.CreateLoadBalancer, &elb.CreateLoadBalancerInput{
			Name: new("fl-a"), Type: elbtypes.LoadBalancerTypeEnumNetwork, Scheme: elbtypes.LoadBalancerSchemeEnumInternetFacing,
			SecurityGroups: []string{*group}, Subnets: a.subnets, Tags: []elbtypes.Tag{{Key: new("fairlead.io/cluster"), Value: new("prod")}},
		}).LoadBalancers[0]
		get(t, l.CreateListener, &elb.CreateListenerInput{
			LoadBalancerArn: made.LoadBalancerArn, Port: new(int32(80)), Protocol: elbtypes.ProtocolEnumTcp,
			DefaultActions: []elbtypes.Action{{Type: elbtypes.ActionTypeEnumForward, TargetGroupArn: tg}},
			Tags:           []elbtypes.Tag{{Key: new("fairlead.io/cluster"), Value: new("prod")}},
		})
		if b := a.trafficTargets(t, "fl-a"); len(b) != 1 || !slices.Equal(b[80], []string{"node-0:30080", "node-1:30080"}) {
			t.Errorf("the balancer balances %v", b)
		}
		if !slices.Contains(actionsSeen(), "elasticloadbalancing:CreateListener") || !slices.Contains(actionsSeen(), "ec2:CreateSecurityGroup") {
			t.Errorf("seen: %v", actionsSeen())
		}
		a.setTag(t, a.subnets[1], "kubernetes.io/role/elb", "")
		elbRole := []ec2types.Filter{
			{Name: new("tag-key"), Values: []string{"kubernetes.io/role/*"}},
			{Name: new("tag:kubernetes.io/role/elb"), Values: []string{"1"}},
		}
		if n := len(get(t, e.DescribeSubnets, &ec2.DescribeSubnetsInput{Filters: elbRole}).Subnets); n != 2 {
			t.Errorf("%d subnets have the role, not 2", n)
		}
		a.setTag(t, a.subnets[1], "kubernetes.io/role/elb", "1")
		t.Logf("calls %v\n%s\n%v", a.calls(), a.world(t), a.leakedObjects(t))
		a.reset()

		a.fail(fault{action: "DeleteLoadBalancer", kind: clientError("AccessDenied")})
		in := &elb.DeleteLoadBalancerInput{LoadBalancerArn: made.LoadBalancerArn}
		if _, err := l.DeleteLoadBalancer(t.Context(), in); errorCode(err) != "AccessDenied" {
			t.Errorf("the call failed with %v", err)
		}
		a.reset()
		for _, kind := range []faultKind{throttle, serverError(503), unreached, lostAnswer} {
			a.fail(fault{kind: kind})
		}
		get(t, l.DeleteLoadBalancer, &elb.DeleteLoadBalancerInput{LoadBalancerArn: made.LoadBalancerArn})
		if n := len(a.calls()); n != 5 {
			t.Errorf("%d attempts, not 5: %v", n, a.calls())
		}
		get(t, l.DeleteTargetGroup, &elb.DeleteTargetGroupInput{TargetGroupArn: tg})
		get(t, e.RevokeSecurityGroupIngress, &ec2.RevokeSecurityGroupIngressInput{GroupId: &a.nodeGroup, IpPermissions: []ec2types.IpPermission{
			{
				IpProtocol: new("tcp"), FromPort: new(int32(30000)), ToPort: new(int32(32767)),
				UserIdGroupPairs: []ec2types.UserIdGroupPair{{GroupId: group}},
			},
		}})
		get(t, e.DeleteSecurityGroup, &ec2.DeleteSecurityGroupInput{GroupId: group})
		if left := a.leakedObjects(t); len(left) != 0 {
			t.Errorf("left: %v", left)
		}
	})
}
