package aws

import (
	"cmp"
	"slices"
	"strings"

	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"
	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/providers"
)

// Limits of a Network Load Balancer that cannot be raised, or that are the
// default of a quota (Elastic Load Balancing, "Quotas for your Network Load
// Balancers").
const (
	maxListeners    = 50
	maxCertificates = 25
	maxTargets      = 500 // of a zone, or of all zones together with cross-zone balancing
	rulesPerGroup   = 60
	maxGroups       = 4 // of a load balancer's own, in addition to the shared one: 5 for an interface
)

// stack is the desired load balancer of one Service with all that belongs to it.
type stack struct {
	Scheme elb.LoadBalancerSchemeEnum
	// AnyScheme: the Service names none, so a load balancer keeps the one it has
	// when the administrator's default changes.
	AnyScheme bool
	// Replaceable: another load balancer may replace it.
	Replaceable bool
	AddressType elb.IpAddressType
	// PreferDual: dual stack if the subnets can.
	PreferDual bool
	Subnets    []string // requested IDs or names, otherwise any
	EIPs       []string
	Private    []string
	NoGroups   bool
	Groups     []string // requested security groups, otherwise our own with Rules
	Rules      []securityRule
	Backend    bool // the shared security group is used as well
	Attributes map[string]string
	Tags       map[string]string // in addition to those of ownTags
	Listeners  []listener        // ordered by port
	NodeLabels map[string]string
	// PrivateLink is whether security groups apply to the traffic of AWS PrivateLink
	// (SetSecurityGroups); "" leaves it unchanged.
	PrivateLink string
	// Ignored are the annotations without an effect, with the reasons.
	Ignored []string
}

type listener struct {
	Port         int32
	Protocol     elb.ProtocolEnum
	Certificates []string
	Policy       string
	ALPN         string
	Attributes   map[string]string
	Target       targetGroup
}

type targetGroup struct {
	Protocol   elb.ProtocolEnum
	Port       int32 // the NodePort
	Family     elb.TargetGroupIpAddressTypeEnum
	Health     health
	Attributes map[string]string
}

// adminSettings are the administrator's, for all Services.
type adminSettings struct {
	Scheme    string
	Probe     string
	Tags      map[string]string
	NodePorts [2]int32
}

// planStack returns the desired stack of a Service, or a Refusal with every
// problem that it found.
func planStack(svc *corev1.Service, admin adminSettings) (stack, *v1alpha1.Refusal) {
	o, problems := parseAnnotations(svc)
	// This reason precedes the others: with it, another provider can serve the
	// Service.
	if why := providers.UnsupportedProtocol(svc); why != "" {
		return stack{}, newRefusal(v1alpha1.CloudCannotServe, "spec.ports: %s", why)
	}
	s := stack{
		AnyScheme: o.Scheme == "", Replaceable: o.AllowReplace,
		Scheme:  elb.LoadBalancerSchemeEnum(cmp.Or(o.Scheme, admin.Scheme, "internet-facing")),
		Subnets: o.Subnets, EIPs: o.EIPs, Private: o.PrivateIPv4,
		NoGroups: o.NoGroups, Groups: o.Groups, Backend: o.Backend,
		Attributes: o.Attributes, NodeLabels: o.NodeLabels,
		Tags: mergeMaps(admin.Tags, o.Tags), PrivateLink: o.PrivateLink, Ignored: o.Ignored,
	}
	// parseAnnotations checks the annotations alone; the scheme may be the
	// administrator's default.
	if len(o.EIPs) > 0 && s.Scheme == elb.LoadBalancerSchemeEnumInternal {
		problems = append(problems, "annotation "+prefix+"eip-allocations: must not be set for an internal load balancer")
	}
	family := s.setAddressType(svc, o)
	p := portPlanner{svc: svc, options: o, settings: admin, family: family}
	s.Listeners = p.planListeners()
	problems = append(problems, p.problems...)
	// AWS requires source NAT prefixes for UDP over IPv6, which are not supported
	// here.
	if s.AddressType == elb.IpAddressTypeDualstack && s.hasUDP() {
		problems = append(problems, noUDP)
	}
	// All problems are in one message, so that a user can correct them together.
	if len(problems) > 0 {
		return s, newRefusal(v1alpha1.InvalidRequest, "%s", strings.Join(problems, "; "))
	}
	// The limit is checked before any call: AWS would refuse one port after the
	// others were created.
	if n := len(s.Listeners); n > maxListeners {
		return s, newRefusal(v1alpha1.QuotaExceeded, "spec.ports: must have at most %d ports, one for each listener, but has %d", maxListeners, n)
	}
	// Rules are added to our own groups only, never to those of the user.
	if !s.NoGroups && len(s.Groups) == 0 {
		s.Rules = clientRules(s.Listeners, o, s.AddressType == elb.IpAddressTypeDualstack || s.PreferDual)
		// They would need more groups than an interface can have (maxGroups).
		if n := len(s.Rules); n > rulesPerGroup*maxGroups {
			return s, newRefusal(v1alpha1.QuotaExceeded,
				"spec.loadBalancerSourceRanges: %d ranges for %d ports require %d rules, and the security groups of a load balancer have at most %d; "+
					"use the annotation %ssecurity-groups with a prefix list",
				len(o.Ranges), len(s.Listeners), n, rulesPerGroup*maxGroups, prefix)
		}
	}
	return s, nil
}

// checkRegion refuses certificates of another region than the load balancer's. The
// region is known only to a Cloud that is connected.
func (s stack) checkRegion(region string) *v1alpha1.Refusal {
	for _, l := range s.Listeners {
		for _, c := range l.Certificates {
			if m := certificateARN.FindStringSubmatch(c); m != nil && m[1] != "" && m[1] != region {
				return newRefusal(v1alpha1.InvalidRequest,
					"annotation %sssl-cert: certificate %s is in region %s, and the load balancer in %s: request or import the certificate there",
					prefix, c, m[1], region)
			}
		}
	}
	return nil
}

// noUDP is the message that refuses UDP on a dual-stack load balancer.
const noUDP = "spec.ports: UDP is not supported on a dual-stack load balancer; use the annotation " + prefix + "ip-address-type: ipv4"

func (s stack) hasUDP() bool { return slices.ContainsFunc(s.Listeners, listener.hasUDP) }

func (l listener) hasUDP() bool {
	return l.Protocol == elb.ProtocolEnumUdp || l.Protocol == elb.ProtocolEnumTcpUdp
}

// setAddressType sets the address type of the load balancer, and returns that of
// the target groups.
func (s *stack) setAddressType(svc *corev1.Service, o serviceOptions) elb.TargetGroupIpAddressTypeEnum {
	family := elb.TargetGroupIpAddressTypeEnumIpv4
	dual := len(svc.Spec.IPFamilies) > 1
	if !dual && slices.Contains(svc.Spec.IPFamilies, corev1.IPv6Protocol) {
		family, dual = elb.TargetGroupIpAddressTypeEnumIpv6, true // AWS does not support IPv6-only load balancers
	} else if dual && svc.Spec.IPFamilyPolicy != nil && *svc.Spec.IPFamilyPolicy == corev1.IPFamilyPolicyPreferDualStack {
		// Whether the subnets have IPv6 is not known to a plan:
		// planPlacement decides. An explicit address type disables the preference.
		dual, s.PreferDual = false, o.AddressType == ""
	}
	s.AddressType = elb.IpAddressTypeIpv4
	// The annotation takes precedence over the Service's IP families.
	if o.AddressType == "dualstack" || o.AddressType == "" && dual {
		s.AddressType = elb.IpAddressTypeDualstack
	}
	return family
}
