package aws

import (
	"maps"
	"slices"
	"strings"
)

// Attributes that settings other than their own annotation decide.
const (
	attrCrossZone = "load_balancing.cross_zone.enabled"
	attrDelay     = "deregistration_delay.timeout_seconds"
	attrProxy     = "proxy_protocol_v2.enabled"
	attrPreserve  = "preserve_client_ip.enabled"
	attrTerminate = "deregistration_delay.connection_termination.enabled"
	attrDenyIPv6  = "ipv6.deny_all_igw_traffic"

	attrUnhealthyTerminate = "target_health_state.unhealthy.connection_termination.enabled"
	attrUnhealthyDrain     = "target_health_state.unhealthy.draining_interval_seconds"
	attrSticky             = "stickiness.enabled"
	attrStickyBy           = "stickiness.type"
	attrIdle               = "tcp.idle_timeout.seconds"
	attrProtected          = "deletion_protection.enabled"
)

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
