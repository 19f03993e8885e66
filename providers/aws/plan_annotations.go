package aws

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

const (
	prefix = "service.beta.kubernetes.io/aws-load-balancer-"
	// annotationSourceRanges is the older form of spec.loadBalancerSourceRanges
	// (k8s.io/api/core/v1.AnnotationLoadBalancerSourceRangesKey).
	annotationSourceRanges = corev1.AnnotationLoadBalancerSourceRangesKey
)

// serviceOptions are the options that a Service's annotations request. The zero
// value of a field means that the option is not requested.
type serviceOptions struct {
	Type           string
	Scheme         string
	AllowReplace   bool
	Subnets        []string
	EIPs           []string
	PrivateIPv4    []string
	AddressType    string
	NoGroups       bool
	Groups         []string
	Backend        bool // the shared security group is used as well
	Ranges         []string
	Attributes     map[string]string
	GroupDefaults  map[string]string            // target group attributes of all ports
	GroupByPort    map[string]map[string]string // of one port
	ListenerByPort map[string]map[string]string // "TCP-80"
	ProxyAll       bool
	ProxyPorts     []string
	Certificates   []string
	TLSPorts       []string
	TLSPolicy      string
	ALPN           string
	BackendTLS     bool
	IdleTimeout    int
	Health         health
	NodeLabels     map[string]string
	Tags           map[string]string
}

// unsupportedAnnotations are annotations of other implementations that change what clients
// get, or which clients are admitted. They are refused by name instead of ignored.
var unsupportedAnnotations = map[string]string{
	"name":                                     "the name of the load balancer is derived from the Service's UID",
	"extra-security-groups":                    "list all groups in security-groups",
	"ipv6-addresses":                           "AWS selects the IPv6 addresses",
	"enable-prefix-for-ipv6-source-nat":        "UDP is not supported on dual-stack load balancers",
	"source-nat-ipv6-prefixes":                 "UDP is not supported on dual-stack load balancers",
	"multi-cluster-target-group":               "a target group belongs to one cluster",
	"quic-enabled-ports":                       "QUIC listeners are not supported",
	"minimum-load-balancer-capacity":           "capacity reservation is not supported",
	"access-log-emit-interval":                 "applies to Classic Load Balancers only",
	"security-group-prefix-lists":              "use load-balancer-source-ranges or security-groups",
	"healthcheck-matcher":                      "use healthcheck-success-codes",
	"inbound-sg-rules-on-private-link-traffic": "AWS's default applies",
}

// annotationReader reads annotations and collects problems.
type annotationReader struct {
	annotations map[string]string
	known       map[string]bool
	problems    []string
}

func (r *annotationReader) addProblem(name, format string, args ...any) {
	r.problems = append(r.problems, fmt.Sprintf("annotation %s: %s", prefix+name, fmt.Sprintf(format, args...)))
}

// readText returns the value without surrounding spaces, "" if the annotation is
// absent. It marks the annotation as known, for reportUnknown.
func (r *annotationReader) readText(name string) string {
	r.known[prefix+name] = true
	return strings.TrimSpace(r.annotations[prefix+name])
}

func (r *annotationReader) readEnum(name string, values ...string) string {
	v := r.readText(name)
	if v != "" && !slices.Contains(values, v) {
		r.addProblem(name, "%q must be one of %s", v, strings.Join(values, ", "))
		return ""
	}
	return v
}

// readBool returns "true" or "false", or "" if the annotation is absent.
func (r *annotationReader) readBool(name string) string {
	switch v := r.readText(name); strings.ToLower(v) {
	case "", "true", "false":
		return strings.ToLower(v)
	default:
		r.addProblem(name, "%q must be true or false", v)
		return ""
	}
}

// readNumber returns 0 if the annotation is absent.
func (r *annotationReader) readNumber(name string, from, to int) int {
	v := r.readText(name)
	if v == "" {
		return 0
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < from || n > to {
		r.addProblem(name, "%q must be a number from %d to %d", v, from, to)
		return 0
	}
	return n
}

// readList reads values that are separated by commas. Empty ones are dropped.
func (r *annotationReader) readList(name string) (all []string) {
	for part := range strings.SplitSeq(r.readText(name), ",") {
		if part = strings.TrimSpace(part); part != "" {
			all = append(all, part)
		}
	}
	return all
}

// readPairs reads "k=v,k=v". A value may contain "=".
func (r *annotationReader) readPairs(name string) map[string]string {
	var all map[string]string
	for _, part := range r.readList(name) {
		k, v, _ := strings.Cut(part, "=")
		k, v = strings.TrimSpace(k), strings.TrimSpace(v)
		if k == "" {
			r.addProblem(name, "invalid entry %q: must be KEY=VALUE", part)
			continue
		}
		if _, twice := all[k]; twice {
			r.addProblem(name, "duplicate key %q", k)
		}
		all = put(all, k, v)
	}
	return all
}

// parseAnnotations reads every annotation for AWS. A problem names its annotation;
// none is ignored.
func parseAnnotations(svc *corev1.Service) (o serviceOptions, problems []string) {
	r := &annotationReader{annotations: svc.Annotations, known: map[string]bool{}}
	o.Type = r.readEnum("type", "nlb", "external")
	r.readEnum("nlb-target-type", "instance")
	o.AllowReplace = svc.Annotations[v1alpha1.AnnotationAllowReplacement] == "true"
	r.readPlacement(&o)
	r.readSecurityGroups(svc, &o)
	r.readAttributes(&o)
	r.readTLS(&o)
	o.Health = r.readHealth()
	o.NodeLabels = r.readPairs("target-node-labels")
	r.readTags(&o)
	if svc.Spec.LoadBalancerIP != "" {
		r.problems = append(r.problems, "spec.loadBalancerIP: not supported: AWS selects the addresses; "+
			"use the annotation "+prefix+"eip-allocations or private-ipv4-addresses")
	}
	r.reportUnknown()
	return o, r.problems
}

// readPlacement reads what decides where the load balancer is and which addresses
// it has.
func (r *annotationReader) readPlacement(o *serviceOptions) {
	o.Scheme = r.readEnum("scheme", "internal", "internet-facing")
	// The other implementation reads any value except "false" as true, such as
	// the "0.0.0.0/0" of old examples.
	switch v := strings.ToLower(r.readText("internal")); {
	// The annotation "scheme" takes precedence, and must not conflict.
	case v == "" || o.Scheme != "":
		wants := map[bool]string{true: "internet-facing", false: "internal"}[v == "false"]
		if v != "" && wants != o.Scheme {
			r.addProblem("internal", "%q conflicts with the annotation %sscheme: %s", v, prefix, o.Scheme)
		}
	case v == "false":
		o.Scheme = "internet-facing"
	default:
		o.Scheme = "internal"
	}
	o.Subnets, o.EIPs, o.PrivateIPv4 = r.readList("subnets"), r.readList("eip-allocations"), r.readList("private-ipv4-addresses")
	o.AddressType = r.readEnum("ip-address-type", "ipv4", "dualstack")
	if len(o.EIPs) > 0 && o.Scheme == "internal" {
		r.addProblem("eip-allocations", "must not be set for an internal load balancer")
	}
	if len(o.PrivateIPv4) > 0 && o.Scheme != "internal" {
		r.addProblem("private-ipv4-addresses", "requires an internal load balancer")
	}
	for _, a := range o.PrivateIPv4 {
		if ip, err := netip.ParseAddr(a); err != nil || !ip.Is4() {
			r.addProblem("private-ipv4-addresses", "invalid IPv4 address %q", a)
		}
	}
	// Without the annotation "subnets" their number is known only after the
	// selection (planMappings).
	for name, n := range map[string]int{"eip-allocations": len(o.EIPs), "private-ipv4-addresses": len(o.PrivateIPv4)} {
		if n > 0 && len(o.Subnets) > 0 && n != len(o.Subnets) {
			r.addProblem(name, "%d entries for %d subnets: must have one entry for each subnet", n, len(o.Subnets))
		}
	}
}

// readSecurityGroups reads which security groups the load balancer has and which
// clients they admit.
func (r *annotationReader) readSecurityGroups(svc *corev1.Service, o *serviceOptions) {
	o.Groups = r.readList("security-groups")
	o.NoGroups = r.readBool("disable-nlb-sg") == "true" || slices.Equal(o.Groups, []string{"none"})
	if o.NoGroups && len(o.Groups) > 0 && !slices.Equal(o.Groups, []string{"none"}) {
		r.addProblem("disable-nlb-sg", "conflicts with the annotation %ssecurity-groups", prefix)
	}
	if o.NoGroups {
		o.Groups = nil
	}
	// The order does not matter to AWS, and a different one must not look like
	// another stack.
	slices.Sort(o.Groups)
	o.Groups = slices.Compact(o.Groups)
	for _, g := range o.Groups {
		if !strings.HasPrefix(g, "sg-") {
			r.addProblem("security-groups", "invalid security group ID %q: must begin with sg-", g)
		}
	}
	backend := r.readBool("manage-backend-security-group-rules")
	// The user must make the nodes' groups admit the user's own groups, unless the
	// annotation requests the shared group in addition.
	o.Backend = !o.NoGroups && (backend == "true" || backend == "" && len(o.Groups) == 0)
	if backend == "true" && o.NoGroups {
		r.addProblem("manage-backend-security-group-rules", "requires a load balancer with security groups")
	}
	// Messages of PMTU discovery are always admitted: without them large packets are lost.
	r.readEnum("enable-icmp-for-path-mtu-discovery", "on")

	field, ranges := "spec.loadBalancerSourceRanges", svc.Spec.LoadBalancerSourceRanges
	// The field takes precedence over the annotation, as in Kubernetes
	// (k8s.io/cloud-provider/service/helpers.GetLoadBalancerSourceRanges).
	if text := strings.TrimSpace(svc.Annotations[annotationSourceRanges]); text != "" && len(ranges) == 0 {
		field, ranges = "annotation "+annotationSourceRanges, strings.Split(text, ",")
	}
	for _, text := range ranges {
		p, err := netip.ParsePrefix(strings.TrimSpace(text))
		if err != nil {
			r.problems = append(r.problems, fmt.Sprintf("%s: invalid CIDR %q", field, text))
			continue
		}
		// EC2 stores CIDRs without host bits: the rules would otherwise differ in
		// every comparison.
		o.Ranges = append(o.Ranges, p.Masked().String())
	}
	slices.Sort(o.Ranges)
	o.Ranges = slices.Compact(o.Ranges)
	// Ignoring the ranges would admit clients that the user excluded.
	if len(ranges) > 0 && (o.NoGroups || len(o.Groups) > 0) {
		r.problems = append(r.problems, field+": source ranges are rules of the load balancer's own security group, "+
			"which the annotations "+prefix+"security-groups and disable-nlb-sg disable")
	}
}

// readAttributes reads the attributes of the load balancer, of target groups and of
// listeners, by AWS's keys and by the annotations that set one attribute each.
func (r *annotationReader) readAttributes(o *serviceOptions) {
	o.Attributes = r.readPairs("attributes")
	setAttribute := func(name, key, value string) {
		if value == "" {
			return
		}
		// Neither of two contradicting annotations takes precedence.
		if other, twice := o.Attributes[key]; twice && other != value {
			r.addProblem(name, "conflicts with %s=%s in the annotation %sattributes", key, other, prefix)
			return
		}
		o.Attributes = put(o.Attributes, key, value)
	}
	setAttribute("cross-zone-load-balancing-enabled", attrCrossZone, r.readBool("cross-zone-load-balancing-enabled"))
	setAttribute("access-log-enabled", "access_logs.s3.enabled", r.readBool("access-log-enabled"))
	setAttribute("access-log-s3-bucket-name", "access_logs.s3.bucket", r.readText("access-log-s3-bucket-name"))
	setAttribute("access-log-s3-bucket-prefix", "access_logs.s3.prefix", r.readText("access-log-s3-bucket-prefix"))
	if o.Attributes["access_logs.s3.enabled"] == "true" && o.Attributes["access_logs.s3.bucket"] == "" {
		r.addProblem("access-log-enabled", "requires the annotation %saccess-log-s3-bucket-name", prefix)
	}

	// Keys contain dots themselves. A number after the last one is a port; no key
	// of AWS ends in a number.
	for k, v := range r.readPairs("target-group-attributes") {
		name, port := k, ""
		if i := strings.LastIndexByte(k, '.'); i > 0 {
			if _, err := strconv.Atoi(k[i+1:]); err == nil {
				name, port = k[:i], k[i+1:]
			}
		}
		if port == "" {
			o.GroupDefaults = put(o.GroupDefaults, name, v)
			continue
		}
		o.GroupByPort = put(o.GroupByPort, port, put(o.GroupByPort[port], name, v))
	}
	drain := r.readNumber("connection-draining-timeout", 0, 3600)
	enabled := r.readBool("connection-draining-enabled")
	// No draining means a deregistration delay of 0.
	if enabled == "false" {
		drain = 0
	}
	if _, set := o.GroupDefaults[attrDelay]; !set && (drain > 0 || enabled == "false") {
		o.GroupDefaults = put(o.GroupDefaults, attrDelay, strconv.Itoa(drain))
	}
	o.IdleTimeout = r.readNumber("connection-idle-timeout", 60, 6000)
	for _, name := range slices.Sorted(maps.Keys(r.annotations)) {
		if port, ok := strings.CutPrefix(name, prefix+"listener-attributes."); ok {
			o.ListenerByPort = put(o.ListenerByPort, port, r.readPairs("listener-attributes."+port))
		}
	}
	switch v := r.readText("proxy-protocol"); v {
	case "":
	case "*":
		o.ProxyAll = true
	default:
		r.addProblem("proxy-protocol", "%q must be *", v)
	}
	o.ProxyPorts = r.readList("proxy-protocol-per-target-group")
	if o.ProxyAll && len(o.ProxyPorts) > 0 {
		r.addProblem("proxy-protocol-per-target-group", "conflicts with the annotation %sproxy-protocol, which applies to all ports", prefix)
	}
}

// readTLS reads which listeners use TLS, and how.
func (r *annotationReader) readTLS(o *serviceOptions) {
	o.Certificates, o.TLSPorts = r.readList("ssl-cert"), r.readList("ssl-ports")
	for _, c := range o.Certificates {
		if !strings.HasPrefix(c, "arn:") {
			r.addProblem("ssl-cert", "invalid certificate ARN %q", c)
		}
	}
	if len(o.Certificates) > maxCertificates {
		r.addProblem("ssl-cert", "must have at most %d certificates, but has %d", maxCertificates, len(o.Certificates))
	}
	o.TLSPolicy = r.readText("ssl-negotiation-policy")
	o.ALPN = r.readEnum("alpn-policy", "HTTP1Only", "HTTP2Only", "HTTP2Optional", "HTTP2Preferred", "None")
	// A listener without a certificate does not use TLS, so the other annotations
	// would be ignored.
	if len(o.Certificates) == 0 {
		for _, name := range []string{"ssl-ports", "ssl-negotiation-policy", "alpn-policy"} {
			if r.readText(name) != "" {
				r.addProblem(name, "requires the annotation %sssl-cert", prefix)
			}
		}
	}
	o.BackendTLS = r.readEnum("backend-protocol", "tcp", "ssl") == "ssl"
	if o.BackendTLS && len(o.Certificates) == 0 {
		r.addProblem("backend-protocol", "ssl requires the annotation %sssl-cert: only TLS listeners use TLS to their targets", prefix)
	}
}

// reservedTag reports whether only AWS or this package may set a tag.
func reservedTag(key string) bool {
	return strings.HasPrefix(key, "aws:") || strings.HasPrefix(key, v1alpha1.GroupVersion.Group+"/") ||
		strings.HasPrefix(key, tagClusterOwned(""))
}

// maxTags leaves room for our own among the 50 that an object can have.
const maxTags = 35

// readTags reads the user's tags. Those of this package, by which it knows its
// objects, cannot be set.
func (r *annotationReader) readTags(o *serviceOptions) {
	o.Tags = r.readPairs("additional-resource-tags")
	for k := range o.Tags {
		if reservedTag(k) {
			r.addProblem("additional-resource-tags", "the key %q is reserved", k)
		}
	}
	if n := len(o.Tags); n > maxTags {
		r.addProblem("additional-resource-tags", "must have at most %d tags, but has %d", maxTags, n)
	}
}

// reportUnknown reports every annotation that was not read: a typing error in "internal"
// must not result in a load balancer that faces the internet.
func (r *annotationReader) reportUnknown() {
	for _, name := range slices.Sorted(maps.Keys(r.annotations)) {
		rest, ours := strings.CutPrefix(name, prefix)
		switch why := unsupportedAnnotations[rest]; {
		// The prefix is another one, but the annotation would change which targets
		// clients reach.
		case strings.HasPrefix(name, "service.beta.kubernetes.io/actions."):
			r.problems = append(r.problems, "annotation "+name+": weighted target groups are not supported")
		case !ours || r.known[name]:
		case why != "":
			r.addProblem(rest, "not supported: %s", why)
		default:
			r.addProblem(rest, "unknown annotation; see the table of annotations in docs/aws.md")
		}
	}
}
