package aws

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"

	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"
	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/providers"
)

// Limits of a Network Load Balancer that no quota increase lifts, or that are
// the quota's default (Elastic Load Balancing, "Quotas for your Network Load
// Balancers").
const (
	maxListeners    = 50
	maxCertificates = 25
	maxTargets      = 500 // of a zone, or of all zones together with cross-zone balancing
	rulesPerGroup   = 60
	maxGroups       = 4 // of a balancer's own, beside the shared one: 5 for an interface
)

// stack is the balancer of one Service as it shall be.
type stack struct {
	Scheme elb.LoadBalancerSchemeEnum
	// AnyScheme: the Service names none, so a balancer keeps the one it has,
	// whatever the administrator's default has become.
	AnyScheme bool
	// Replaceable: another balancer may take this one's place.
	Replaceable bool
	AddressType elb.IpAddressType
	// PreferDual: dual stack if the subnets can.
	PreferDual bool
	Subnets    []string // IDs or names asked for, else any
	EIPs       []string
	Private    []string
	NoGroups   bool
	Groups     []string // security groups asked for, else our own with Rules
	Rules      []rule
	Backend    bool
	Attributes map[string]string
	Tags       map[string]string // beside those that say whose it is
	Listeners  []listener        // ordered by port
	NodeLabels map[string]string
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

// settings are what the administrator has decided for all Services.
type settings struct {
	Scheme    string
	Probe     string
	Tags      map[string]string
	NodePorts [2]int32
}

// digest is equal for equal stacks with equal targets.
func (s stack) digest(targets []target) [sha256.Size]byte {
	return sha256.Sum256(fmt.Appendf(nil, "%+v %+v", s, targets))
}

// planStack says what a Service's balancer shall be like, or every reason why
// there can be none.
func planStack(svc *corev1.Service, set settings) (stack, *v1alpha1.Refusal) {
	o, problems := parseOptions(svc)
	if why := providers.Unspoken(svc); why != "" {
		return stack{}, &v1alpha1.Refusal{Reason: v1alpha1.CloudCannotServe, Message: "spec.ports: " + why}
	}
	s := stack{
		AnyScheme: o.Scheme == "", Replaceable: o.AllowReplace,
		Scheme:  elb.LoadBalancerSchemeEnum(cmpOr(o.Scheme, set.Scheme, "internet-facing")),
		Subnets: o.Subnets, EIPs: o.EIPs, Private: o.PrivateIPv4,
		NoGroups: o.NoGroups, Groups: o.Groups, Backend: o.Backend,
		Attributes: o.Attributes, NodeLabels: o.NodeLabels,
		Tags: merged(set.Tags, o.Tags),
	}
	if len(o.EIPs) > 0 && s.Scheme == elb.LoadBalancerSchemeEnumInternal {
		problems = append(problems, "annotation "+prefix+"eip-allocations: an internal balancer has no Elastic IP addresses")
	}
	family := s.families(svc, o)
	p := portPlanner{svc: svc, options: o, settings: set, family: family}
	s.Listeners = p.listeners()
	problems = append(problems, p.problems...)
	if s.AddressType == elb.IpAddressTypeDualstack && s.hasUDP() {
		problems = append(problems, noUDP)
	}
	if len(problems) > 0 {
		return s, &v1alpha1.Refusal{Reason: v1alpha1.InvalidRequest, Message: strings.Join(problems, "; ")}
	}
	if n := len(s.Listeners); n > maxListeners {
		return s, &v1alpha1.Refusal{Reason: v1alpha1.QuotaExceeded, Message: fmt.Sprintf("spec.ports: %d ports, and a balancer has at most %d listeners", n, maxListeners)}
	}
	if !s.NoGroups && len(s.Groups) == 0 {
		s.Rules = rules(s.Listeners, o.Ranges, s.AddressType == elb.IpAddressTypeDualstack || s.PreferDual)
		if n := len(s.Rules); n > rulesPerGroup*maxGroups {
			return s, &v1alpha1.Refusal{Reason: v1alpha1.QuotaExceeded, Message: fmt.Sprintf(
				"spec.loadBalancerSourceRanges: %d ranges for %d ports need %d rules, and a balancer's security groups hold %d; use the annotation %ssecurity-groups with a prefix list",
				len(o.Ranges), len(s.Listeners), n, rulesPerGroup*maxGroups, prefix)}
		}
	}
	return s, nil
}

// noUDP is why a dual-stack balancer cannot be.
const noUDP = "spec.ports: a dual-stack balancer carries no UDP here; use the annotation " + prefix + "ip-address-type: ipv4"

func (s stack) hasUDP() bool {
	return slices.ContainsFunc(s.Listeners, func(l listener) bool {
		return l.Protocol == elb.ProtocolEnumUdp || l.Protocol == elb.ProtocolEnumTcpUdp
	})
}

func cmpOr(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}

// families sets the kind of the balancer's addresses, and returns that of the
// targets.
func (s *stack) families(svc *corev1.Service, o options) elb.TargetGroupIpAddressTypeEnum {
	family := elb.TargetGroupIpAddressTypeEnumIpv4
	dual := len(svc.Spec.IPFamilies) > 1
	if !dual && slices.Contains(svc.Spec.IPFamilies, corev1.IPv6Protocol) {
		family, dual = elb.TargetGroupIpAddressTypeEnumIpv6, true // there are no balancers with IPv6 alone
	} else if dual && svc.Spec.IPFamilyPolicy != nil && *svc.Spec.IPFamilyPolicy == corev1.IPFamilyPolicyPreferDualStack {
		dual, s.PreferDual = false, o.AddressType == ""
	}
	s.AddressType = elb.IpAddressTypeIpv4
	if o.AddressType == "dualstack" || o.AddressType == "" && dual {
		s.AddressType = elb.IpAddressTypeDualstack
	}
	return family
}
