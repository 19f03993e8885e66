package aws

import (
	"slices"
	"strings"
)

// annotationStatus is how an annotation of another controller is treated.
type annotationStatus int

const (
	// annotationServed: the annotation is read, and some values may be refused.
	annotationServed annotationStatus = iota
	// annotationIgnored: the annotation has no effect on a Network Load Balancer
	// with instances as targets. The message of the condition names it.
	annotationIgnored
	// annotationRefused: ignoring the annotation would change what clients get, or
	// which clients are admitted.
	annotationRefused
)

// knownAnnotation is an annotation that kubernetes/cloud-provider-aws
// (ServiceAnnotationLoadBalancer...) or the AWS Load Balancer Controller
// (docs/guide/service/annotations.md) reads from a Service.
type knownAnnotation struct {
	// name is without the prefix "service.beta.kubernetes.io/aws-load-balancer-".
	// A part in capital letters stands for any text.
	name   string
	status annotationStatus
	note   string // why it is refused or ignored
	unset  string // the value of a refused annotation that requests nothing
}

// knownAnnotations has every annotation of both controllers. docs/aws.md has the
// same table.
var knownAnnotations = []knownAnnotation{
	{name: "access-log-enabled", status: annotationServed},
	{name: "access-log-s3-bucket-name", status: annotationServed},
	{name: "access-log-s3-bucket-prefix", status: annotationServed},
	{name: "additional-resource-tags", status: annotationServed},
	{name: "alpn-policy", status: annotationServed},
	{name: "attributes", status: annotationServed},
	{name: "backend-protocol", status: annotationServed},
	{name: "connection-draining-enabled", status: annotationServed},
	{name: "connection-draining-timeout", status: annotationServed},
	{name: "connection-idle-timeout", status: annotationServed},
	{name: "cross-zone-load-balancing-enabled", status: annotationServed},
	{name: "disable-nlb-sg", status: annotationServed},
	{name: "eip-allocations", status: annotationServed},
	{name: "enable-icmp-for-path-mtu-discovery", status: annotationServed},
	{name: "enable-tcp-udp-listener", status: annotationServed},
	{name: "healthcheck-healthy-threshold", status: annotationServed},
	{name: "healthcheck-interval", status: annotationServed},
	{name: "healthcheck-path", status: annotationServed},
	{name: "healthcheck-port", status: annotationServed},
	{name: "healthcheck-protocol", status: annotationServed},
	{name: "healthcheck-success-codes", status: annotationServed},
	{name: "healthcheck-timeout", status: annotationServed},
	{name: "healthcheck-unhealthy-threshold", status: annotationServed},
	{name: "inbound-sg-rules-on-private-link-traffic", status: annotationServed},
	{name: "internal", status: annotationServed},
	{name: "ip-address-type", status: annotationServed},
	{name: "listener-attributes.PROTOCOL-PORT", status: annotationServed},
	{name: "manage-backend-security-group-rules", status: annotationServed},
	{name: "nlb-target-type", status: annotationServed},
	{name: "private-ipv4-addresses", status: annotationServed},
	{name: "proxy-protocol", status: annotationServed},
	{name: "proxy-protocol-per-target-group", status: annotationServed},
	{name: "scheme", status: annotationServed},
	{name: "security-groups", status: annotationServed},
	{name: "ssl-cert", status: annotationServed},
	{name: "ssl-negotiation-policy", status: annotationServed},
	{name: "ssl-ports", status: annotationServed},
	{name: "subnets", status: annotationServed},
	{name: "target-group-attributes", status: annotationServed},
	{name: "target-group-attributes.PORT", status: annotationServed},
	{name: "target-node-labels", status: annotationServed},
	{name: "type", status: annotationServed},

	{
		name: "access-log-emit-interval", status: annotationIgnored,
		note: "only Classic Load Balancers have an interval; a Network Load Balancer writes its logs every five minutes",
	},

	{
		name: "enable-prefix-for-ipv6-source-nat", status: annotationRefused, unset: "off",
		note: "UDP on dual-stack load balancers is not supported, and only UDP uses source NAT prefixes",
	},
	{
		name: "extra-security-groups", status: annotationRefused,
		note: "list all groups in the annotation security-groups",
	},
	{name: "healthcheck-matcher", status: annotationRefused, note: "use the annotation healthcheck-success-codes"},
	{name: "ipv6-addresses", status: annotationRefused, note: "only IPv4 addresses can be requested"},
	{
		name: "minimum-load-balancer-capacity", status: annotationRefused, unset: "CapacityUnits=0",
		note: "capacity reservation is not supported",
	},
	{
		name: "multi-cluster-target-group", status: annotationRefused, unset: "false",
		note: "a target group belongs to one cluster",
	},
	{
		name: "name", status: annotationRefused,
		note: "the name of a load balancer is derived from the cluster's name and the Service's UID; set the tag Name instead",
	},
	{name: "quic-enabled-containers", status: annotationRefused, note: "QUIC listeners are not supported"},
	{name: "quic-enabled-ports", status: annotationRefused, note: "QUIC listeners are not supported"},
	{
		name: "security-group-prefix-lists", status: annotationRefused,
		note: "a prefix list counts as its maximum number of entries among the rules of a group; " +
			"name a group with the prefix list in the annotation security-groups",
	},
	{
		name: "source-nat-ipv6-prefixes", status: annotationRefused,
		note: "UDP on dual-stack load balancers is not supported, and only UDP uses source NAT prefixes",
	},
}

// Annotations of both controllers with another prefix.
const (
	prefixActions = "service.beta.kubernetes.io/actions."
	noActions     = "weighted target groups are not supported"
)

// findAnnotation returns the entry of an annotation without its prefix, nil if it
// is unknown.
func findAnnotation(name string) *knownAnnotation {
	i := slices.IndexFunc(knownAnnotations, func(k knownAnnotation) bool {
		start, variable := k.variableSuffix()
		return name == k.name || variable && strings.HasPrefix(name, start) && name != start
	})
	if i < 0 {
		return nil
	}
	return &knownAnnotations[i]
}

// variableSuffix returns the part of the name before the text that varies, and
// whether there is such text.
func (k knownAnnotation) variableSuffix() (start string, variable bool) {
	start, suffix, variable := strings.Cut(k.name, ".")
	return start + ".", variable && suffix == strings.ToUpper(suffix)
}
