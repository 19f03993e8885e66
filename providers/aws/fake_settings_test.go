package aws

import (
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"

	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
	elbtypes "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"
)

func reflectName(input any) string { return reflect.TypeOf(input).Elem().Name() }

// The attributes of new objects. No other attributes exist.

func balancerDefaults(scheme elbtypes.LoadBalancerSchemeEnum) map[string]string {
	return map[string]string{
		"access_logs.s3.bucket":                  "",
		"access_logs.s3.enabled":                 "false",
		"access_logs.s3.prefix":                  "",
		"deletion_protection.enabled":            "false",
		"dns_record.client_routing_policy":       "any_availability_zone",
		"ipv6.deny_all_igw_traffic":              strconv.FormatBool(scheme == elbtypes.LoadBalancerSchemeEnumInternal),
		"load_balancing.cross_zone.enabled":      "false",
		"secondary_ips.auto_assigned.per_subnet": "0",
		"zonal_shift.config.enabled":             "false",
	}
}

func targetGroupDefaults(protocol elbtypes.ProtocolEnum) map[string]string {
	udp := protocol == elbtypes.ProtocolEnumUdp || protocol == elbtypes.ProtocolEnumTcpUdp
	return map[string]string{
		"deregistration_delay.connection_termination.enabled":                            strconv.FormatBool(udp),
		"deregistration_delay.timeout_seconds":                                           "300",
		"load_balancing.cross_zone.enabled":                                              "use_load_balancer_configuration",
		"preserve_client_ip.enabled":                                                     "true",
		"proxy_protocol_v2.enabled":                                                      "false",
		"stickiness.enabled":                                                             "false",
		"stickiness.type":                                                                "source_ip",
		"target_group_health.dns_failover.minimum_healthy_targets.count":                 "1",
		"target_group_health.dns_failover.minimum_healthy_targets.percentage":            "off",
		"target_group_health.unhealthy_state_routing.minimum_healthy_targets.count":      "1",
		"target_group_health.unhealthy_state_routing.minimum_healthy_targets.percentage": "off",
		"target_health_state.unhealthy.connection_termination.enabled":                   strconv.FormatBool(!udp),
		"target_health_state.unhealthy.draining_interval_seconds":                        "0",
	}
}

func listenerDefaults(protocol elbtypes.ProtocolEnum) map[string]string {
	if protocol == elbtypes.ProtocolEnumTcp || protocol == elbtypes.ProtocolEnumTcpUdp {
		return map[string]string{"tcp.idle_timeout.seconds": "350"}
	}
	return map[string]string{}
}

// fakeRanges are the numbers that AWS allows.
var fakeRanges = map[string][2]int{
	"deregistration_delay.timeout_seconds":                    {0, 3600},
	"secondary_ips.auto_assigned.per_subnet":                  {0, 7},
	"target_health_state.unhealthy.draining_interval_seconds": {0, 360000},
	"tcp.idle_timeout.seconds":                                {60, 6000},
}

// changeAttributes returns the attributes after a change, or an error if AWS
// does not allow it.
func changeAttributes(have, changed map[string]string) (map[string]string, error) {
	after := maps.Clone(have)
	for key, value := range changed {
		was, known := have[key]
		if !known {
			return nil, newAWSError("ValidationError", "The attribute key '%s' is not recognized", key)
		}
		if limits, ok := fakeRanges[key]; ok {
			if n, err := strconv.Atoi(value); err != nil || n < limits[0] || n > limits[1] {
				return nil, newAWSError("ValidationError", "'%s' value '%s' must be between '%d-%d' inclusive", key, value, limits[0], limits[1])
			}
		} else if (was == "true" || was == "false") && value != "true" && value != "false" {
			return nil, newAWSError("ValidationError", "'%s' must be one of [true, false]", key)
		}
		after[key] = value
	}
	return after, nil
}

func (f *fakeAWS) newTags(tags []elbtypes.Tag) (map[string]string, error) {
	all := map[string]string{}
	for _, t := range tags {
		if _, twice := all[*t.Key]; twice {
			return nil, newAWSError("DuplicateTagKeys", "Tag key '%s' was specified more than once", *t.Key)
		}
		if t.Value == nil {
			t.Value = new("")
		}
		all[*t.Key] = *t.Value
	}
	return all, f.tagsAllowed(all)
}

func (f *fakeAWS) tagsAllowed(tags map[string]string) error {
	if len(tags) > f.quota.tags {
		return newAWSError("TooManyTags", "The maximum number of tags has been reached")
	}
	for key, value := range tags {
		if key == "" || len(key) > 128 || len(value) > 256 || strings.HasPrefix(strings.ToLower(key), "aws:") {
			return newAWSError("ValidationError", "The tag '%s=%s' is not allowed", key, value)
		}
	}
	return nil
}

// tagsOf returns the tags of the object with an ARN.
func (f *fakeAWS) tagsOf(arn string) (map[string]string, error) {
	switch {
	case strings.Contains(arn, ":loadbalancer/"):
		b, err := f.balancer(&arn)
		if err != nil {
			return nil, err
		}
		return b.tags, nil
	case strings.Contains(arn, ":listener/"):
		l, err := f.listener(&arn)
		if err != nil {
			return nil, err
		}
		return l.tags, nil
	}
	g, err := f.targetGroup(&arn)
	if err != nil {
		return nil, err
	}
	return g.tags, nil
}

func (f *fakeAWS) describeTags(in *elb.DescribeTagsInput) (any, error) {
	if len(in.ResourceArns) > 20 {
		return nil, newAWSError("ValidationError", "Cannot have more than 20 resources described")
	}
	out := &elb.DescribeTagsOutput{}
	for _, arn := range in.ResourceArns {
		tags, err := f.tagsOf(arn)
		if err != nil {
			return nil, err
		}
		d := elbtypes.TagDescription{ResourceArn: &arn}
		for _, key := range slices.Sorted(maps.Keys(tags)) {
			d.Tags = append(d.Tags, elbtypes.Tag{Key: &key, Value: new(tags[key])})
		}
		out.TagDescriptions = append(out.TagDescriptions, d)
	}
	return out, nil
}

func (f *fakeAWS) addTags(in *elb.AddTagsInput) (any, error) {
	added, err := f.newTags(in.Tags)
	if err != nil {
		return nil, err
	}
	for _, arn := range in.ResourceArns {
		tags, err := f.tagsOf(arn)
		if err != nil {
			return nil, err
		}
		after := maps.Clone(tags)
		maps.Copy(after, added)
		if err := f.tagsAllowed(after); err != nil {
			return nil, err
		}
		maps.Copy(tags, added)
	}
	return &elb.AddTagsOutput{}, nil
}

func (f *fakeAWS) removeTags(in *elb.RemoveTagsInput) (any, error) {
	for _, arn := range in.ResourceArns {
		tags, err := f.tagsOf(arn)
		if err != nil {
			return nil, err
		}
		maps.DeleteFunc(tags, func(key, _ string) bool { return slices.Contains(in.TagKeys, key) })
	}
	return &elb.RemoveTagsOutput{}, nil
}
