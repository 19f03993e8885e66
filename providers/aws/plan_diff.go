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

// maxRecord is how many characters a tag's value can have (AddTags).
const maxRecord = 256

// record writes a text into as many tags as it needs.
func record(tag, text string) map[string]string {
	all := map[string]string{}
	i := 1
	for part := range slices.Chunk([]rune(text), maxRecord) {
		name := tag
		if i > 1 {
			name = fmt.Sprintf("%s-%d", tag, i)
		}
		all[name] = string(part)
		i++
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
	all := append([]map[string]string{{tagName: name}, users, own}, records...)
	return merged(append(all, record(tagTags, strings.Join(slices.Sorted(maps.Keys(users)), "=")))...)
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
// (LoadBalancerAttribute, TargetGroupAttribute, ListenerAttribute), by what has
// them. What is not here stays as it was set.
var defaults = map[string]map[string]string{
	"balancer": {
		attrProtected:                      "false",
		attrCrossZone:                      "false",
		"access_logs.s3.enabled":           "false",
		"dns_record.client_routing_policy": "any_availability_zone",
		"zonal_shift.config.enabled":       "false",
	},
	"balancer internal":        {attrDenyIPv6: "true"},
	"balancer internet-facing": {attrDenyIPv6: "false"},
	"group": {
		attrDelay:     "300",
		attrCrossZone: "use_load_balancer_configuration",
		attrProxy:     "false",
		"target_group_health.dns_failover.minimum_healthy_targets.count":                 "1",
		"target_group_health.dns_failover.minimum_healthy_targets.percentage":            "off",
		"target_group_health.unhealthy_state_routing.minimum_healthy_targets.count":      "1",
		"target_group_health.unhealthy_state_routing.minimum_healthy_targets.percentage": "off",
	},
	"group TCP": {
		attrSticky: "false", attrPreserve: "true", attrTerminate: "false",
		attrUnhealthyTerminate: "true", attrUnhealthyDrain: "0",
	},
	"group TLS":     {attrPreserve: "true", attrTerminate: "false", attrUnhealthyTerminate: "true", attrUnhealthyDrain: "0"},
	"group UDP":     {attrSticky: "false", attrTerminate: "true"},
	"group TCP_UDP": {attrSticky: "false", attrTerminate: "true"},
	"listener TCP":  {attrIdle: "350"},
}

// attributesToSet are the attributes to change, given what is recorded as set
// on something that has the defaults of both kinds.
func attributesToSet(want map[string]string, recorded, kind, special string) map[string]string {
	if attributeRecord(want) == recorded {
		return nil
	}
	set := maps.Clone(want)
	for pair := range strings.SplitSeq(recorded, " ") {
		k, _, _ := strings.Cut(pair, "=")
		if _, wanted := want[k]; wanted {
			continue
		}
		for _, of := range []string{kind, kind + " " + special} {
			if value, known := defaults[of][k]; known {
				set = put(set, k, value)
			}
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
	alpn := "None" // is what AWS calls having none
	if len(have.AlpnPolicy) > 0 {
		alpn = have.AlpnPolicy[0]
	}
	if cmpOr(want.ALPN, "None") != alpn {
		return true
	}
	return len(have.Certificates) > 0 && aws.ToString(have.Certificates[0].CertificateArn) != want.Certificates[0]
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
