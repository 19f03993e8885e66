package aws

import (
	"fmt"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/ec2"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
	elbtypes "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"
)

// fakeStack is the initial state of the rows of TestFakeRefuses: a load
// balancer fl-a with a security group, a target group, and a listener on port
// 80.
type fakeStack struct {
	*account
	balancer, group, listener, security string
}

func stack80(t *testing.T) fakeStack {
	t.Helper()
	s := fakeStack{account: fakeAccount(t)}
	s.security = *get(t, s.ec2.CreateSecurityGroup, &ec2.CreateSecurityGroupInput{
		VpcId: &s.vpc, GroupName: new("front"), Description: new("front"),
	}).GroupId
	s.group = *get(t, s.elb.CreateTargetGroup, s.tcp("fl-a-80", 30080)).TargetGroups[0].TargetGroupArn
	s.balancer = *get(t, s.elb.CreateLoadBalancer, s.nlb("fl-a")).LoadBalancers[0].LoadBalancerArn
	s.listener = *get(t, s.elb.CreateListener, s.forward(80, s.group)).Listeners[0].ListenerArn
	return s
}

func (s fakeStack) nlb(name string) *elb.CreateLoadBalancerInput {
	return &elb.CreateLoadBalancerInput{
		Name: &name, Type: elbtypes.LoadBalancerTypeEnumNetwork, Subnets: s.subnets, SecurityGroups: []string{s.security},
	}
}

func (s fakeStack) tcp(name string, port int32) *elb.CreateTargetGroupInput {
	return &elb.CreateTargetGroupInput{Name: &name, Port: &port, Protocol: elbtypes.ProtocolEnumTcp, VpcId: &s.vpc}
}

func (s fakeStack) forward(port int32, group string) *elb.CreateListenerInput {
	return &elb.CreateListenerInput{
		LoadBalancerArn: &s.balancer, Port: &port, Protocol: elbtypes.ProtocolEnumTcp,
		DefaultActions: []elbtypes.Action{{Type: elbtypes.ActionTypeEnumForward, TargetGroupArn: &group}},
	}
}

func (s fakeStack) allow(from ...string) *ec2.AuthorizeSecurityGroupIngressInput {
	p := ec2types.IpPermission{IpProtocol: new("tcp"), FromPort: new(int32(80)), ToPort: new(int32(80))}
	for _, f := range from {
		p.IpRanges = append(p.IpRanges, ec2types.IpRange{CidrIp: &f})
	}
	return &ec2.AuthorizeSecurityGroupIngressInput{GroupId: &s.security, IpPermissions: []ec2types.IpPermission{p}}
}

// TestFakeRefuses covers errors of AWS that moto does not return.
func TestFakeRefuses(t *testing.T) {
	for _, row := range []struct {
		code string // "" is success
		do   func(t *testing.T, s fakeStack) error
	}{
		{"", func(t *testing.T, s fakeStack) error {
			_, err := s.elb.CreateLoadBalancer(t.Context(), s.nlb("fl-a"))
			return err
		}},
		{"DuplicateLoadBalancerName", func(t *testing.T, s fakeStack) error {
			in := s.nlb("fl-a")
			in.SecurityGroups = nil
			_, err := s.elb.CreateLoadBalancer(t.Context(), in)
			return err
		}},
		{"TooManyLoadBalancers", func(t *testing.T, s fakeStack) error {
			s.fake.quota.balancers = 1
			_, err := s.elb.CreateLoadBalancer(t.Context(), s.nlb("fl-b"))
			return err
		}},
		{"ValidationError", func(t *testing.T, s fakeStack) error {
			_, err := s.elb.CreateLoadBalancer(t.Context(), s.nlb("a-name-of-more-than-32-characters"))
			return err
		}},
		{"DuplicateTargetGroupName", func(t *testing.T, s fakeStack) error {
			_, err := s.elb.CreateTargetGroup(t.Context(), s.tcp("fl-a-80", 30081))
			return err
		}},
		{"TooManyTargetGroups", func(t *testing.T, s fakeStack) error {
			s.fake.quota.targetGroups = 1
			_, err := s.elb.CreateTargetGroup(t.Context(), s.tcp("fl-a-81", 30081))
			return err
		}},
		{"DuplicateListener", func(t *testing.T, s fakeStack) error {
			in := s.forward(80, s.group)
			in.Protocol = elbtypes.ProtocolEnumUdp
			_, err := s.elb.CreateListener(t.Context(), in)
			return err
		}},
		{"TooManyListeners", func(t *testing.T, s fakeStack) error {
			s.fake.quota.listeners = 1
			_, err := s.elb.CreateListener(t.Context(), s.forward(81, s.group))
			return err
		}},
		{"TargetGroupAssociationLimit", func(t *testing.T, s fakeStack) error {
			in := s.forward(80, s.group)
			in.LoadBalancerArn = get(t, s.elb.CreateLoadBalancer, s.nlb("fl-b")).LoadBalancers[0].LoadBalancerArn
			_, err := s.elb.CreateListener(t.Context(), in)
			return err
		}},
		{"ResourceInUse", func(t *testing.T, s fakeStack) error {
			_, err := s.elb.DeleteTargetGroup(t.Context(), &elb.DeleteTargetGroupInput{TargetGroupArn: &s.group})
			return err
		}},
		{"DependencyViolation", func(t *testing.T, s fakeStack) error {
			_, err := s.ec2.DeleteSecurityGroup(t.Context(), &ec2.DeleteSecurityGroupInput{GroupId: &s.security})
			return err
		}},
		{"DependencyViolation", func(t *testing.T, s fakeStack) error { // the interfaces are deleted later
			get(t, s.elb.DeleteLoadBalancer, &elb.DeleteLoadBalancerInput{LoadBalancerArn: &s.balancer})
			_, err := s.ec2.DeleteSecurityGroup(t.Context(), &ec2.DeleteSecurityGroupInput{GroupId: &s.security})
			return err
		}},
		{"OperationNotPermitted", func(t *testing.T, s fakeStack) error {
			get(
				t, s.elb.ModifyLoadBalancerAttributes,
				&elb.ModifyLoadBalancerAttributesInput{
					LoadBalancerArn: &s.balancer,
					Attributes:      []elbtypes.LoadBalancerAttribute{{Key: new(attrProtected), Value: new("true")}},
				},
			)
			_, err := s.elb.DeleteLoadBalancer(t.Context(), &elb.DeleteLoadBalancerInput{LoadBalancerArn: &s.balancer})
			return err
		}},
		{"InvalidTarget", func(t *testing.T, s fakeStack) error {
			s.terminate(t, s.instances[1])
			_, err := s.elb.RegisterTargets(
				t.Context(),
				&elb.RegisterTargetsInput{
					TargetGroupArn: &s.group,
					Targets:        []elbtypes.TargetDescription{{Id: &s.instances[0]}, {Id: &s.instances[1]}},
				},
			)
			if have := s.account.targets(t, s.group); len(have) != 0 {
				t.Errorf("the whole batch fails, but there are %v", have)
			}
			return err
		}},
		{"TooManyTargets", func(t *testing.T, s fakeStack) error {
			s.fake.quota.targets = 1
			_, err := s.elb.RegisterTargets(
				t.Context(),
				&elb.RegisterTargetsInput{
					TargetGroupArn: &s.group,
					Targets:        []elbtypes.TargetDescription{{Id: &s.instances[0]}, {Id: &s.instances[1]}},
				},
			)
			return err
		}},
		{"InvalidGroup.Duplicate", func(t *testing.T, s fakeStack) error {
			_, err := s.ec2.CreateSecurityGroup(
				t.Context(), &ec2.CreateSecurityGroupInput{VpcId: &s.vpc, GroupName: new("front"), Description: new("front")},
			)
			return err
		}},
		{"InvalidPermission.Duplicate", func(t *testing.T, s fakeStack) error {
			get(t, s.ec2.AuthorizeSecurityGroupIngress, s.allow("10.0.0.0/8"))
			_, err := s.ec2.AuthorizeSecurityGroupIngress(t.Context(), s.allow("192.0.2.0/24", "10.0.0.0/8"))
			return err
		}},
		{"RulesPerSecurityGroupLimitExceeded", func(t *testing.T, s fakeStack) error {
			s.fake.quota.rules = 1
			_, err := s.ec2.AuthorizeSecurityGroupIngress(t.Context(), s.allow("192.0.2.0/24", "10.0.0.0/8"))
			return err
		}},
		{"ListenerNotFound", func(t *testing.T, s fakeStack) error { // not known everywhere yet
			s.fake.unknown = 1
			l := get(t, s.elb.CreateListener, s.forward(81, s.group)).Listeners[0].ListenerArn
			_, err := s.elb.DescribeListenerAttributes(t.Context(), &elb.DescribeListenerAttributesInput{ListenerArn: l})
			return err
		}},
		{"ValidationError", func(t *testing.T, s fakeStack) error {
			_, err := s.elb.DescribeTags(t.Context(), &elb.DescribeTagsInput{ResourceArns: make([]string, 21)})
			return err
		}},
		{"ValidationError", func(t *testing.T, s fakeStack) error {
			_, err := s.elb.ModifyTargetGroupAttributes(
				t.Context(),
				&elb.ModifyTargetGroupAttributesInput{
					TargetGroupArn: &s.group,
					Attributes:     []elbtypes.TargetGroupAttribute{{Key: new("no.such.key"), Value: new("1")}},
				},
			)
			return err
		}},
	} {
		t.Run(fmt.Sprint("code ", row.code), func(t *testing.T) {
			if err := row.do(t, stack80(t)); errorCode(err) != row.code || (err == nil) != (row.code == "") {
				t.Errorf("the error is %v, not %s", err, row.code)
			}
		})
	}
}
