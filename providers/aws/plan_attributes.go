package aws

import (
	"maps"
	"slices"
	"strings"
)

// Attributes that are set by other settings in addition to their own annotation.
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

// attributeRecord returns the record of attributes that were set.
func attributeRecord(attributes map[string]string) string {
	var all []string
	for _, k := range slices.Sorted(maps.Keys(attributes)) {
		all = append(all, k+"="+attributes[k])
	}
	return strings.Join(all, " ")
}

// recordAttributes returns the tags with that record.
func recordAttributes(attributes map[string]string) map[string]string {
	return recordTags(tagAttributes, attributeRecord(attributes))
}

// defaultAttributes are AWS's defaults, for attributes without an annotation any more
// (LoadBalancerAttribute, TargetGroupAttribute, ListenerAttribute), by kind and
// variant. What is not here stays as it was set.
var defaultAttributes = map[string]map[string]string{
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

// attributesToSet returns the attributes to change, given the record of those
// that were set. Attributes that are not desired any more get the default of the
// kind, or of the variant.
func attributesToSet(desired map[string]string, recorded, kind, variant string) map[string]string {
	// An unchanged record means that nothing has to be set or reset.
	if attributeRecord(desired) == recorded {
		return nil
	}
	changes := maps.Clone(desired)
	for pair := range strings.SplitSeq(recorded, " ") {
		k, _, _ := strings.Cut(pair, "=")
		if _, kept := desired[k]; kept {
			continue
		}
		// An attribute with an unknown default, or one that the protocol does not
		// have, is not reset, but its record ends.
		for _, of := range []string{kind, kind + " " + variant} {
			if value, known := defaultAttributes[of][k]; known {
				changes = put(changes, k, value)
			}
		}
	}
	return changes
}
