package aws

import (
	"slices"
	"strings"

	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
	elbtypes "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"
)

// fakeTargets is a target group with its health check.
type fakeTargets struct {
	elbtypes.TargetGroup
	settings   string // fingerprint of the settings at creation, "" after a change
	targets    []fakeTarget
	attributes map[string]string
	tags       map[string]string
	inUse      int // number of deletions that fail because of a deleted listener
}

// fakeTarget is a registered or draining instance.
type fakeTarget struct {
	id       string
	port     int32
	draining bool
	left     int // descriptions that still list it, when draining
}

func (g *fakeTargets) drain(descriptions int, match func(*fakeTarget) bool) {
	for i := range g.targets {
		if t := &g.targets[i]; match(t) && !t.draining {
			t.draining, t.left = true, descriptions
		}
	}
}

func (f *fakeAWS) doTargets(input any) (any, error) {
	switch in := input.(type) {
	case *elb.CreateTargetGroupInput:
		return f.createTargetGroup(in)
	case *elb.DescribeTargetGroupsInput:
		return f.describeTargetGroups(in)
	case *elb.ModifyTargetGroupInput:
		return f.modifyTargetGroup(in)
	case *elb.DeleteTargetGroupInput:
		return f.deleteTargetGroup(in)
	case *elb.DescribeTargetGroupAttributesInput:
		return f.describeTargetGroupAttributes(in)
	case *elb.ModifyTargetGroupAttributesInput:
		return f.modifyTargetGroupAttributes(in)
	case *elb.RegisterTargetsInput:
		return f.registerTargets(in)
	case *elb.DeregisterTargetsInput:
		return f.deregisterTargets(in)
	case *elb.DescribeTargetHealthInput:
		return f.describeTargetHealth(in)
	}
	return nil, f.unknownAction(input)
}

func (f *fakeAWS) targetGroup(arn *string) (*fakeTargets, error) {
	for _, g := range f.targets {
		if *g.TargetGroupArn == *arn {
			return g, nil
		}
	}
	return nil, newAWSError("TargetGroupNotFound", "Target groups '%s' not found", *arn)
}

func (f *fakeAWS) createTargetGroup(in *elb.CreateTargetGroupInput) (any, error) {
	if !fakeNames.MatchString(*in.Name) {
		return nil, newAWSError("ValidationError", "Target group name '%s' is not allowed", *in.Name)
	}
	for _, g := range f.targets {
		if *g.TargetGroupName != *in.Name {
			continue
		}
		if g.settings != fingerprint(in) {
			return nil, newAWSError(
				"DuplicateTargetGroupName", "A target group with the same name '%s' exists, but with different settings", *in.Name,
			)
		}
		return &elb.CreateTargetGroupOutput{TargetGroups: []elbtypes.TargetGroup{g.TargetGroup}}, nil
	}
	switch {
	case len(f.targets) >= f.quota.targetGroups:
		return nil, newAWSError("TooManyTargetGroups", "The maximum number of target groups has been reached")
	case f.vpc(*in.VpcId) == nil:
		return nil, newAWSError("ValidationError", "The VPC ID '%s' is not found", *in.VpcId)
	case fakeForwards[in.Protocol] == nil:
		return nil, newAWSError("ValidationError", "the fake does not support target groups with protocol '%s'", in.Protocol)
	case in.TargetType != "" && in.TargetType != elbtypes.TargetTypeEnumInstance:
		return nil, newAWSError("ValidationError", "the fake does not support targets of type '%s'", in.TargetType)
	case *in.Port < 1 || *in.Port > 65535:
		return nil, newAWSError("ValidationError", "Port '%d' is not valid", *in.Port)
	}
	tags, err := f.newTags(in.Tags)
	if err != nil {
		return nil, err
	}
	g := &fakeTargets{
		TargetGroup: elbtypes.TargetGroup{
			TargetGroupArn:  new(f.arn("targetgroup/" + *in.Name + "/" + f.newID("")[1:])),
			TargetGroupName: in.Name, Protocol: in.Protocol, Port: in.Port, VpcId: in.VpcId, TargetType: elbtypes.TargetTypeEnumInstance,
			IpAddressType: elbtypes.TargetGroupIpAddressTypeEnumIpv4, HealthCheckEnabled: new(true),
			HealthCheckProtocol: elbtypes.ProtocolEnumTcp, HealthCheckPort: new("traffic-port"),
			HealthCheckIntervalSeconds: new(int32(30)), HealthyThresholdCount: new(int32(5)), UnhealthyThresholdCount: new(int32(2)),
		},
		settings: fingerprint(in), attributes: targetGroupDefaults(in.Protocol), tags: tags,
	}
	if in.IpAddressType != "" {
		g.IpAddressType = in.IpAddressType
	}
	if err := g.check(&elb.ModifyTargetGroupInput{
		HealthCheckIntervalSeconds: in.HealthCheckIntervalSeconds, HealthCheckPath: in.HealthCheckPath, HealthCheckPort: in.HealthCheckPort,
		HealthCheckProtocol: in.HealthCheckProtocol, HealthCheckTimeoutSeconds: in.HealthCheckTimeoutSeconds,
		HealthyThresholdCount: in.HealthyThresholdCount, UnhealthyThresholdCount: in.UnhealthyThresholdCount, Matcher: in.Matcher,
	}); err != nil {
		return nil, err
	}
	f.targets = append(f.targets, g)
	return &elb.CreateTargetGroupOutput{TargetGroups: []elbtypes.TargetGroup{g.TargetGroup}}, nil
}

// check changes the health check, if AWS allows the result.
func (g *fakeTargets) check(in *elb.ModifyTargetGroupInput) error {
	after := g.TargetGroup
	if in.HealthCheckProtocol != "" {
		after.HealthCheckProtocol = in.HealthCheckProtocol
	}
	http := after.HealthCheckProtocol == elbtypes.ProtocolEnumHttp || after.HealthCheckProtocol == elbtypes.ProtocolEnumHttps
	if !http && after.HealthCheckProtocol != elbtypes.ProtocolEnumTcp {
		return newAWSError("ValidationError", "Health check protocol '%s' is not supported", after.HealthCheckProtocol)
	}
	if !http && (in.HealthCheckPath != nil || in.Matcher != nil) {
		return newAWSError("InvalidConfigurationRequest", "A health check path or matcher cannot be specified for protocol TCP")
	}
	switch {
	case !http:
		after.HealthCheckPath, after.Matcher = nil, nil
	case after.HealthCheckPath == nil:
		after.HealthCheckPath, after.Matcher = new("/"), &elbtypes.Matcher{HttpCode: new("200-399")}
	}
	if after.HealthCheckTimeoutSeconds == nil {
		after.HealthCheckTimeoutSeconds = new(int32(10))
		if after.HealthCheckProtocol == elbtypes.ProtocolEnumHttp {
			after.HealthCheckTimeoutSeconds = new(int32(6))
		}
	}
	if in.HealthCheckPath != nil {
		after.HealthCheckPath = in.HealthCheckPath
	}
	if in.Matcher != nil {
		after.Matcher = in.Matcher
	}
	if in.HealthCheckPort != nil {
		after.HealthCheckPort = in.HealthCheckPort
	}
	for _, number := range []struct {
		name     string
		set      *int32
		in       **int32
		min, max int32
	}{
		{"interval", in.HealthCheckIntervalSeconds, &after.HealthCheckIntervalSeconds, 5, 300},
		{"timeout", in.HealthCheckTimeoutSeconds, &after.HealthCheckTimeoutSeconds, 2, 120},
		{"healthy threshold", in.HealthyThresholdCount, &after.HealthyThresholdCount, 2, 10},
		{"unhealthy threshold", in.UnhealthyThresholdCount, &after.UnhealthyThresholdCount, 2, 10},
	} {
		if number.set != nil {
			*number.in = number.set
		}
		if **number.in < number.min || **number.in > number.max {
			return newAWSError("ValidationError", "Health check %s '%d' must be between %d and %d", number.name, **number.in, number.min, number.max)
		}
	}
	if *after.HealthCheckTimeoutSeconds > *after.HealthCheckIntervalSeconds {
		return newAWSError(
			"ValidationError", "Health check timeout '%d' must be smaller than or equal to the interval '%d'",
			*after.HealthCheckTimeoutSeconds, *after.HealthCheckIntervalSeconds,
		)
	}
	g.TargetGroup = after
	return nil
}

func (f *fakeAWS) describeTargetGroups(in *elb.DescribeTargetGroupsInput) (any, error) {
	if in.LoadBalancerArn != nil {
		if _, err := f.balancer(in.LoadBalancerArn); err != nil {
			return nil, err
		}
	}
	var found []elbtypes.TargetGroup
	for _, g := range f.targets {
		if in.LoadBalancerArn == nil && len(in.Names)+len(in.TargetGroupArns) == 0 ||
			in.LoadBalancerArn != nil && slices.Contains(g.LoadBalancerArns, *in.LoadBalancerArn) ||
			slices.Contains(in.Names, *g.TargetGroupName) || slices.Contains(in.TargetGroupArns, *g.TargetGroupArn) {
			found = append(found, g.TargetGroup)
		}
	}
	if len(found) < len(in.Names)+len(in.TargetGroupArns) {
		return nil, newAWSError("TargetGroupNotFound", "One or more target groups not found")
	}
	found, next, err := pageOf(f, found, in.PageSize, in.Marker)
	return &elb.DescribeTargetGroupsOutput{TargetGroups: found, NextMarker: next}, err
}

func (f *fakeAWS) modifyTargetGroup(in *elb.ModifyTargetGroupInput) (any, error) {
	g, err := f.targetGroup(in.TargetGroupArn)
	if err != nil {
		return nil, err
	}
	if err := g.check(in); err != nil {
		return nil, err
	}
	g.settings = ""
	return &elb.ModifyTargetGroupOutput{TargetGroups: []elbtypes.TargetGroup{g.TargetGroup}}, nil
}

// deleteTargetGroup succeeds for a target group that does not exist: AWS
// documents no error.
func (f *fakeAWS) deleteTargetGroup(in *elb.DeleteTargetGroupInput) (any, error) {
	g, err := f.targetGroup(in.TargetGroupArn)
	if err != nil {
		return &elb.DeleteTargetGroupOutput{}, nil
	}
	if len(g.LoadBalancerArns) > 0 || g.inUse > 0 {
		g.inUse--
		return nil, newAWSError("ResourceInUse", "Target group '%s' is currently in use by a listener or a rule", *in.TargetGroupArn)
	}
	f.targets = slices.DeleteFunc(f.targets, func(other *fakeTargets) bool { return other == g })
	return &elb.DeleteTargetGroupOutput{}, nil
}

func (f *fakeAWS) describeTargetGroupAttributes(in *elb.DescribeTargetGroupAttributesInput) (any, error) {
	g, err := f.targetGroup(in.TargetGroupArn)
	if err != nil {
		return nil, err
	}
	return &elb.DescribeTargetGroupAttributesOutput{Attributes: attributeList[elbtypes.TargetGroupAttribute](g.attributes)}, nil
}

func (f *fakeAWS) modifyTargetGroupAttributes(in *elb.ModifyTargetGroupAttributesInput) (any, error) {
	g, err := f.targetGroup(in.TargetGroupArn)
	if err != nil {
		return nil, err
	}
	after, err := changeAttributes(g.attributes, attributeMap(in.Attributes))
	if err != nil {
		return nil, err
	}
	udp := g.Protocol == elbtypes.ProtocolEnumUdp || g.Protocol == elbtypes.ProtocolEnumTcpUdp
	switch {
	case udp && after["preserve_client_ip.enabled"] == "false":
		return nil, newAWSError("InvalidConfigurationRequest", "Client IP preservation cannot be disabled for %s target groups", g.Protocol)
	case udp && after["target_health_state.unhealthy.connection_termination.enabled"] == "true":
		return nil, newAWSError(
			"InvalidConfigurationRequest", "Connection termination of unhealthy targets cannot be enabled for %s target groups", g.Protocol,
		)
	case g.Protocol == elbtypes.ProtocolEnumTls && after["stickiness.enabled"] == "true":
		return nil, newAWSError("InvalidConfigurationRequest", "You cannot enable stickiness on target groups with the TLS protocol")
	case after["stickiness.type"] != "source_ip":
		return nil, newAWSError(
			"InvalidConfigurationRequest", "Stickiness type '%s' is not supported for target groups with the %s protocol",
			after["stickiness.type"], g.Protocol,
		)
	}
	g.attributes = after
	return &elb.ModifyTargetGroupAttributesOutput{Attributes: attributeList[elbtypes.TargetGroupAttribute](g.attributes)}, nil
}

// registerTargets registers all targets or none.
func (f *fakeAWS) registerTargets(in *elb.RegisterTargetsInput) (any, error) {
	g, err := f.targetGroup(in.TargetGroupArn)
	if err != nil {
		return nil, err
	}
	var invalid, stopped []string
	after := slices.Clone(g.targets)
	for _, t := range in.Targets {
		switch i := f.instance(*t.Id); {
		case i == nil:
			invalid = append(invalid, "'"+*t.Id+"'")
		case i.State.Name != ec2types.InstanceStateNameRunning:
			stopped = append(stopped, "'"+*t.Id+"'")
		}
		registered := fakeTarget{id: *t.Id, port: *g.Port}
		if t.Port != nil {
			registered.port = *t.Port
		}
		after = slices.DeleteFunc(after, func(have fakeTarget) bool { return have.id == registered.id && have.port == registered.port })
		after = append(after, registered)
	}
	switch {
	case len(invalid) > 0:
		return nil, newAWSError("InvalidTarget", "The following targets are not valid instances: %s", strings.Join(invalid, ", "))
	case len(stopped) > 0:
		return nil, newAWSError(
			"InvalidTarget", "The following targets are not in a running state and cannot be registered: %s", strings.Join(stopped, ", "),
		)
	case len(after) > f.quota.targets:
		return nil, newAWSError("TooManyTargets", "The maximum number of targets has been reached on target group '%s'", *g.TargetGroupArn)
	}
	g.targets = after
	return &elb.RegisterTargetsOutput{}, nil
}

// deregisterTargets: "If the specified target does not exist, the action
// returns successfully." Without a port, it is the one of the target group.
func (f *fakeAWS) deregisterTargets(in *elb.DeregisterTargetsInput) (any, error) {
	g, err := f.targetGroup(in.TargetGroupArn)
	if err != nil {
		return nil, err
	}
	for _, t := range in.Targets {
		port := *g.Port
		if t.Port != nil {
			port = *t.Port
		}
		g.drain(f.draining, func(have *fakeTarget) bool { return have.id == *t.Id && have.port == port })
	}
	return &elb.DeregisterTargetsOutput{}, nil
}

func (f *fakeAWS) describeTargetHealth(in *elb.DescribeTargetHealthInput) (any, error) {
	g, err := f.targetGroup(in.TargetGroupArn)
	if err != nil {
		return nil, err
	}
	g.targets = slices.DeleteFunc(g.targets, func(t fakeTarget) bool { return t.draining && t.left == 0 })
	out := &elb.DescribeTargetHealthOutput{}
	for i := range g.targets {
		t := &g.targets[i]
		if len(in.Targets) > 0 && !slices.ContainsFunc(in.Targets, func(asked elbtypes.TargetDescription) bool { return *asked.Id == t.id }) {
			continue
		}
		health := &elbtypes.TargetHealth{State: elbtypes.TargetHealthStateEnumHealthy}
		switch {
		case t.draining:
			t.left--
			health = &elbtypes.TargetHealth{
				State: elbtypes.TargetHealthStateEnumDraining, Reason: elbtypes.TargetHealthReasonEnumDeregistrationInProgress,
			}
		case len(g.LoadBalancerArns) == 0:
			health = &elbtypes.TargetHealth{State: elbtypes.TargetHealthStateEnumUnused, Reason: elbtypes.TargetHealthReasonEnumNotInUse}
		case f.unhealthy[t.id]:
			health = &elbtypes.TargetHealth{
				State: elbtypes.TargetHealthStateEnumUnhealthy, Reason: elbtypes.TargetHealthReasonEnumFailedHealthChecks,
			}
		}
		out.TargetHealthDescriptions = append(out.TargetHealthDescriptions, elbtypes.TargetHealthDescription{
			Target: &elbtypes.TargetDescription{Id: &t.id, Port: &t.port}, HealthCheckPort: g.HealthCheckPort, TargetHealth: health,
		})
	}
	return out, nil
}
