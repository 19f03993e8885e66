package aws

import (
	"fmt"
	"maps"
	"net/netip"
	"regexp"
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
	NoMTUDiscovery bool   // ICMP messages of path MTU discovery are not admitted
	PrivateLink    string // "on" or "off"
	NoTCPUDP       bool   // a port number must not have both protocols
	Ignored        []string
}

// parseAnnotations reads every annotation for AWS. A problem names its annotation;
// those that do not have an effect are in the options.
func parseAnnotations(svc *corev1.Service) (o serviceOptions, problems []string) {
	r := &annotationReader{annotations: svc.Annotations, known: map[string]bool{}}
	r.readOptions(svc, &o)
	r.reportOthers()
	o.Ignored = r.ignored
	return o, r.problems
}

// readOptions reads all annotations that are served.
func (r *annotationReader) readOptions(svc *corev1.Service, o *serviceOptions) {
	o.Type = r.readEnum("type", "nlb", "external")
	r.readEnum("nlb-target-type", "instance")
	o.AllowReplace = svc.Annotations[v1alpha1.AnnotationAllowReplacement] == "true"
	r.readPlacement(o)
	r.readSecurityGroups(svc, o)
	r.readAttributes(o)
	r.readTLS(o)
	o.NoTCPUDP = r.readBool("enable-tcp-udp-listener") == "false"
	o.Health = r.readHealth()
	o.NodeLabels = r.readPairs("target-node-labels")
	r.readTags(o)
	if svc.Spec.LoadBalancerIP != "" {
		r.problems = append(r.problems, "spec.loadBalancerIP: not supported: AWS selects the addresses; "+
			"use the annotation "+prefix+"eip-allocations or private-ipv4-addresses")
	}
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
	// The messages are admitted by default: without them large packets are lost.
	discovery := r.readEnum("enable-icmp-for-path-mtu-discovery", "on", "off")
	if o.NoMTUDiscovery = discovery == "off"; discovery != "" && (o.NoGroups || len(o.Groups) > 0) {
		r.addIgnored("enable-icmp-for-path-mtu-discovery", "it is a rule of the load balancer's own security group, "+
			"which the annotations security-groups and disable-nlb-sg disable")
	}
	o.PrivateLink = r.readEnum("inbound-sg-rules-on-private-link-traffic", "on", "off")
	if o.PrivateLink != "" && o.NoGroups {
		r.addProblem("inbound-sg-rules-on-private-link-traffic", "requires a load balancer with security groups")
	}
	r.readSourceRanges(svc, o)
}

// readSourceRanges reads the clients that the load balancer's own group admits.
func (r *annotationReader) readSourceRanges(svc *corev1.Service, o *serviceOptions) {
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

	r.readGroupAttributes(o)
	drain, set := r.readNumber("connection-draining-timeout", 0, 3600), r.readText("connection-draining-timeout") != ""
	// No draining means a deregistration delay of 0.
	if r.readBool("connection-draining-enabled") == "false" {
		drain, set = 0, true
	}
	if set {
		if other, set := o.GroupDefaults[attrDelay]; set && other != strconv.Itoa(drain) {
			r.addProblem("connection-draining-timeout", "%d s conflicts with %s=%s in the annotation %starget-group-attributes",
				drain, attrDelay, other, prefix)
		}
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

// readGroupAttributes reads the attributes of target groups: of all ports, and of
// one port, by a suffix of the attribute's key or of the annotation's name.
func (r *annotationReader) readGroupAttributes(o *serviceOptions) {
	const name = "target-group-attributes"
	setAttribute := func(source, port, key, value string) {
		if other, twice := o.GroupByPort[port][key]; twice && other != value {
			r.addProblem(source, "conflicts with %s.%s=%s in the annotation %s%s", key, port, other, prefix, name)
			return
		}
		o.GroupByPort = put(o.GroupByPort, port, put(o.GroupByPort[port], key, value))
	}
	// Keys contain dots themselves. A number after the last one is a port; no key
	// of AWS ends in a number.
	for k, v := range r.readPairs(name) {
		i := strings.LastIndexByte(k, '.')
		if _, err := strconv.Atoi(k[i+1:]); err != nil || i <= 0 {
			o.GroupDefaults = put(o.GroupDefaults, k, v)
			continue
		}
		setAttribute(name, k[i+1:], k[:i], v)
	}
	for _, annotation := range slices.Sorted(maps.Keys(r.annotations)) {
		port, found := strings.CutPrefix(annotation, prefix+name+".")
		if !found {
			continue
		}
		for k, v := range r.readPairs(name + "." + port) {
			setAttribute(name+"."+port, port, k, v)
		}
		if port == "" {
			r.addProblem(name+".", "the name must end with a port")
		}
	}
}

// certificateARN matches the ARN of a certificate of ACM, with the region as the first
// group, or of IAM, which has no region (CreateListener, Certificates).
var certificateARN = regexp.MustCompile(`^arn:[a-z-]+:(?:acm:([a-z0-9-]+):\d{12}:certificate/[\w.-]+|iam::\d{12}:server-certificate/\S+)$`)

// readTLS reads which listeners use TLS, and how.
func (r *annotationReader) readTLS(o *serviceOptions) {
	o.Certificates, o.TLSPorts = r.readList("ssl-cert"), r.readList("ssl-ports")
	for _, c := range o.Certificates {
		if !certificateARN.MatchString(c) {
			r.addProblem("ssl-cert", "invalid certificate ARN %q: must be arn:PARTITION:acm:REGION:ACCOUNT:certificate/ID "+
				"or arn:PARTITION:iam::ACCOUNT:server-certificate/NAME", c)
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
	r.readBackendProtocol(o)
}

// readBackendProtocol reads whether the load balancer encrypts to its targets. The
// values http and https are those of Classic Load Balancers, which parse requests. A
// Network Load Balancer forwards bytes.
func (r *annotationReader) readBackendProtocol(o *serviceOptions) {
	const name = "backend-protocol"
	v := strings.ToLower(r.readText(name)) // the other implementation ignores case
	switch {
	case v != "" && !slices.Contains([]string{"tcp", "ssl", "http", "https"}, v):
		r.addProblem(name, "%q must be one of tcp, ssl, http, https", v)
	case v == "ssl" && len(o.Certificates) == 0:
		r.addProblem(name, "ssl requires the annotation %sssl-cert: only TLS listeners use TLS to their targets", prefix)
	case v == "ssl":
		o.BackendTLS = true
	case v == "http":
		r.addIgnored(name, "http means tcp for a Network Load Balancer, which does not parse requests")
	// A Classic Load Balancer with a certificate encrypts to its targets again.
	case v == "https" && len(o.Certificates) > 0:
		r.addProblem(name, "https is not supported for a Network Load Balancer; use ssl for TLS to the targets, or tcp")
	case v == "https":
		r.addIgnored(name, "https means tcp without the annotation ssl-cert: clients use TLS with the targets")
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

// reportOthers reports every annotation that was not read: a typing error in "internal"
// must not result in a load balancer that faces the internet.
func (r *annotationReader) reportOthers() {
	for _, name := range slices.Sorted(maps.Keys(r.annotations)) {
		rest, ours := strings.CutPrefix(name, prefix)
		switch entry := findAnnotation(rest); {
		// The prefix is another one, but the annotation would change which targets
		// clients reach.
		case strings.HasPrefix(name, prefixActions):
			r.problems = append(r.problems, "annotation "+name+": not supported: "+noActions)
		case !ours || r.known[name]:
		case entry == nil:
			r.addProblem(rest, "unknown annotation; see the table of annotations in docs/aws.md")
		case entry.status == annotationIgnored:
			r.addIgnored(rest, entry.note)
		case entry.unset == "" || strings.TrimSpace(r.annotations[name]) != entry.unset:
			r.addProblem(rest, "not supported: %s", entry.note)
		}
	}
	slices.Sort(r.ignored)
}
