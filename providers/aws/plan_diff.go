package aws

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"
	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// ownTags say whose an object is.
func ownTags(cluster string, svc *corev1.Service) map[string]string {
	return map[string]string{
		tagCluster: cluster, tagClusterOwned(cluster): "owned",
		tagService: svc.Namespace + "/" + svc.Name, tagUID: string(svc.UID),
	}
}

// maxRecord is the longest value of a tag (AddTags).
const maxRecord = 256

// record writes a text into as many tags as it needs.
func record(tag, text string) map[string]string {
	all := map[string]string{}
	for i := 1; text != ""; i++ {
		n := min(len(text), maxRecord)
		name := tag
		if i > 1 {
			name = fmt.Sprintf("%s-%d", tag, i)
		}
		all[name], text = text[:n], text[n:]
	}
	return all
}

// recorded is the opposite of record.
func recorded(tags map[string]string, tag string) string {
	text := tags[tag]
	for i := 2; tags[fmt.Sprintf("%s-%d", tag, i)] != ""; i++ {
		text += tags[fmt.Sprintf("%s-%d", tag, i)]
	}
	return text
}

// allTags are the tags that an object shall have: whose it is, the user's, and
// the records of what was set.
func allTags(own, users map[string]string, name string, records ...map[string]string) map[string]string {
	all := merged(own, map[string]string{tagName: name}, users)
	return merged(append(records, all, record(tagTags, strings.Join(slices.Sorted(maps.Keys(users)), "=")))...)
}

// diffTags says which tags to add and which to remove. Tags that are not ours,
// and were not recorded as the user's, stay.
func diffTags(have, want map[string]string) (add map[string]string, remove []string) {
	for k, v := range want {
		if old, ok := have[k]; !ok || old != v {
			add = put(add, k, v)
		}
	}
	users := strings.Split(recorded(have, tagTags), "=")
	for _, k := range slices.Sorted(maps.Keys(have)) {
		_, wanted := want[k]
		ours := strings.HasPrefix(k, v1alpha1.GroupVersion.Group+"/") || slices.Contains(users, k)
		if !wanted && ours {
			remove = append(remove, k)
		}
	}
	return add, remove
}

// attributeRecord is what is recorded of attributes that were set.
func attributeRecord(attributes map[string]string) string {
	var all []string
	for _, k := range slices.Sorted(maps.Keys(attributes)) {
		all = append(all, k+"="+attributes[k])
	}
	return strings.Join(all, " ")
}

// defaults are AWS's, for attributes whose annotation has gone
// (LoadBalancerAttribute, TargetGroupAttribute, ListenerAttribute). What is not
// here stays as it was set.
var defaults = map[string]string{
	attrProtected:                      "false",
	attrCrossZone:                      "false",
	"access_logs.s3.enabled":           "false",
	"dns_record.client_routing_policy": "any_availability_zone",
	"ipv6.deny_all_igw_traffic":        "false",
	"zonal_shift.config.enabled":       "false",
	attrDelay:                          "300",
	attrProxy:                          "false",
	attrSticky:                         "false",
	"target_health_state.unhealthy.connection_termination.enabled":                   "true",
	"target_health_state.unhealthy.draining_interval_seconds":                        "0",
	"target_group_health.dns_failover.minimum_healthy_targets.count":                 "1",
	"target_group_health.dns_failover.minimum_healthy_targets.percentage":            "off",
	"target_group_health.unhealthy_state_routing.minimum_healthy_targets.count":      "1",
	"target_group_health.unhealthy_state_routing.minimum_healthy_targets.percentage": "off",
	attrIdle: "350",
}

// attributesToSet are the attributes to change, given what is recorded as set.
// The key of the balancer's cross-zone attribute is a target group's, too, and
// has another default there.
func attributesToSet(want map[string]string, recorded string, group bool) map[string]string {
	if attributeRecord(want) == recorded {
		return nil
	}
	set := maps.Clone(want)
	for pair := range strings.SplitSeq(recorded, " ") {
		k, _, _ := strings.Cut(pair, "=")
		if _, wanted := want[k]; wanted {
			continue
		}
		value, known := defaults[k]
		switch {
		case group && k == attrCrossZone:
			value, known = "use_load_balancer_configuration", true
		case group && k == attrPreserve:
			value, known = "true", true // of instance targets
		}
		if known {
			set = put(set, k, value)
		}
	}
	return set
}

// healthDiffers compares what was asked for with what AWS says. What a reply
// lacks is not known, and no difference.
func healthDiffers(want health, have elb.TargetGroup) bool {
	number := func(want int32, have *int32) bool { return have != nil && *have != want }
	text := func(want string, have *string) bool { return want != "" && have != nil && *have != want }
	codes := have.Matcher != nil && text(want.Codes, have.Matcher.HttpCode)
	return have.HealthCheckProtocol != "" && string(have.HealthCheckProtocol) != want.Protocol ||
		text(want.Port, have.HealthCheckPort) || text(want.Path, have.HealthCheckPath) || codes ||
		number(want.Interval, have.HealthCheckIntervalSeconds) || number(want.Timeout, have.HealthCheckTimeoutSeconds) ||
		number(want.Healthy, have.HealthyThresholdCount) || number(want.Unhealthy, have.UnhealthyThresholdCount)
}

// listenerDiffers compares a listener whose target group is known.
func listenerDiffers(want listener, group string, have elb.Listener) bool {
	if want.Protocol != have.Protocol || len(have.DefaultActions) != 1 || aws.ToString(have.DefaultActions[0].TargetGroupArn) != group {
		return true
	}
	if want.Protocol != elb.ProtocolEnumTls {
		return false
	}
	if want.Policy != "" && want.Policy != aws.ToString(have.SslPolicy) {
		return true
	}
	if want.ALPN != "" && !slices.Equal(have.AlpnPolicy, []string{want.ALPN}) {
		return true
	}
	return len(have.Certificates) > 0 && aws.ToString(have.Certificates[0].CertificateArn) != want.Certificates[0]
}

// replacement says which change cannot be made to the balancer that there is,
// "" if all can.
func replacement(want stack, have elb.LoadBalancer) string {
	switch {
	case have.Scheme != "" && have.Scheme != want.Scheme && !want.AnyScheme:
		return fmt.Sprintf("the scheme from %s to %s", have.Scheme, want.Scheme)
	case want.NoGroups && len(have.SecurityGroups) > 0:
		return "to no security groups"
	case !want.NoGroups && len(have.SecurityGroups) == 0:
		return "to security groups"
	}
	var allocations, private []string
	for _, z := range have.AvailabilityZones {
		for _, a := range z.LoadBalancerAddresses {
			if a.AllocationId != nil {
				allocations = append(allocations, *a.AllocationId)
			}
			if a.PrivateIPv4Address != nil {
				private = append(private, *a.PrivateIPv4Address)
			}
		}
	}
	missing := func(have, want []string) bool {
		return slices.ContainsFunc(have, func(a string) bool { return !slices.Contains(want, a) })
	}
	zones := len(have.AvailabilityZones)
	switch {
	case len(want.EIPs) > 0 && (missing(allocations, want.EIPs) || len(allocations) == 0 && zones > 0):
		return "the Elastic IP addresses to " + strings.Join(want.EIPs, ", ")
	case len(want.Private) > 0 && len(private) > 0 && missing(private, want.Private):
		return "the private addresses to " + strings.Join(want.Private, ", ")
	}
	return ""
}

// nodeGroups are the security groups of instances that shall admit the
// balancers: of each instance the one that is tagged as the cluster's, or its
// only one. Several tagged ones, or none of several, is no reason to serve
// nobody: the first by ID is taken.
func nodeGroups(instances []instance, tagged func(group string) bool) (groups []string) {
	for _, i := range instances {
		candidates := slices.Sorted(slices.Values(i.Groups))
		if preferred := slices.DeleteFunc(slices.Clone(candidates), func(g string) bool { return !tagged(g) }); len(preferred) > 0 {
			candidates = preferred
		}
		if len(candidates) > 0 {
			groups = append(groups, candidates[0])
		}
	}
	slices.Sort(groups)
	return slices.Compact(groups)
}
