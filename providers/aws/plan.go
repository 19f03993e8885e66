package aws

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"strconv"
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

func merged(maps ...map[string]string) map[string]string {
	all := map[string]string{}
	for _, m := range maps {
		for k, v := range m {
			all[k] = v
		}
	}
	return all
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

// portPlanner turns ports into listeners.
type portPlanner struct {
	svc      *corev1.Service
	options  options
	settings settings
	family   elb.TargetGroupIpAddressTypeEnum
	problems []string
}

func (p *portPlanner) fail(format string, args ...any) {
	p.problems = append(p.problems, fmt.Sprintf(format, args...))
}

func (p *portPlanner) listeners() (all []listener) {
	p.check()
	byPort := map[int32]int{}
	for _, port := range p.svc.Spec.Ports {
		if port.NodePort == 0 {
			p.fail("spec.ports: %d/%s has no nodePort, which the targets need", port.Port, port.Protocol)
			continue
		}
		if i, twice := byPort[port.Port]; twice {
			// A balancer has one listener for a port number; it can be for both
			// protocols if so is the target's port.
			if l := &all[i]; l.Target.Port != port.NodePort {
				p.fail("spec.ports: %d is there for TCP and UDP with the nodePorts %d and %d, which must be the same", port.Port, l.Target.Port, port.NodePort)
			} else if l.Protocol == elb.ProtocolEnumTls {
				p.fail("spec.ports: %d is there for UDP and TLS: a port can have only one of them", port.Port)
			} else {
				l.Protocol, l.Target.Protocol = elb.ProtocolEnumTcpUdp, elb.ProtocolEnumTcpUdp
			}
			continue
		}
		byPort[port.Port] = len(all)
		all = append(all, p.listener(port))
	}
	for i := range all {
		p.finish(&all[i])
	}
	if p.options.IdleTimeout > 0 && !slices.ContainsFunc(all, func(l listener) bool { return l.Protocol == elb.ProtocolEnumTcp }) {
		p.fail("annotation %sconnection-idle-timeout: only TCP listeners have one, and the Service has none", prefix)
	}
	for name := range p.options.ListenerByPort {
		if !slices.ContainsFunc(all, func(l listener) bool { return l.name() == name }) {
			p.fail("annotation %slistener-attributes.%s: there is no such listener; they are called PROTOCOL-PORT, as in TCP-80", prefix, name)
		}
	}
	slices.SortFunc(all, func(a, b listener) int { return int(a.Port - b.Port) })
	slices.Sort(p.problems)
	p.problems = slices.Compact(p.problems)
	return all
}

// name is what annotations call a listener.
func (l listener) name() string { return fmt.Sprintf("%s-%d", l.Protocol, l.Port) }

// check: annotations that speak of ports must speak of the Service's.
func (p *portPlanner) check() {
	for name, ports := range map[string][]string{
		"ssl-ports": p.options.TLSPorts, "proxy-protocol-per-target-group": p.options.ProxyPorts,
		"target-group-attributes": slices.Sorted(maps.Keys(p.options.GroupByPort)),
	} {
		for _, text := range ports {
			if !(text == "*" && name == "ssl-ports") && !slices.ContainsFunc(p.svc.Spec.Ports, func(sp corev1.ServicePort) bool { return is(sp, text) }) {
				p.fail("annotation %s%s: the Service has no port %q", prefix, name, text)
			}
		}
	}
}

// is reports whether a port is meant by its number or name.
func is(p corev1.ServicePort, text string) bool {
	return text == strconv.Itoa(int(p.Port)) || text == p.Name && text != ""
}

func oneOf(p corev1.ServicePort, texts []string) bool {
	return slices.ContainsFunc(texts, func(t string) bool { return is(p, t) })
}

func (p *portPlanner) listener(port corev1.ServicePort) listener {
	o := p.options
	l := listener{Port: port.Port, Protocol: elb.ProtocolEnum(port.Protocol)}
	l.Target = targetGroup{Protocol: l.Protocol, Port: port.NodePort, Family: p.family}
	tls := port.Protocol == corev1.ProtocolTCP && len(o.Certificates) > 0
	if tls && len(o.TLSPorts) > 0 && !slices.Contains(o.TLSPorts, "*") {
		tls = oneOf(port, o.TLSPorts)
	}
	if tls {
		l.Protocol, l.Certificates, l.Policy, l.ALPN = elb.ProtocolEnumTls, o.Certificates, o.TLSPolicy, o.ALPN
		if o.BackendTLS {
			l.Target.Protocol = elb.ProtocolEnumTls
		}
	} else if port.Protocol == corev1.ProtocolUDP && len(o.TLSPorts) > 0 && oneOf(port, o.TLSPorts) && !p.alsoTCP(port) {
		p.fail("annotation %sssl-ports: %d is a UDP port, and TLS needs TCP", prefix, port.Port)
	}
	l.Target.Attributes = maps.Clone(o.GroupDefaults)
	for text, attributes := range o.GroupByPort {
		if is(port, text) {
			for k, v := range attributes {
				l.Target.Attributes = put(l.Target.Attributes, k, v)
			}
		}
	}
	if o.ProxyAll || oneOf(port, o.ProxyPorts) {
		l.Target.Attributes = put(l.Target.Attributes, attrProxy, "true")
	}
	if p.svc.Spec.SessionAffinity == corev1.ServiceAffinityClientIP {
		if l.Protocol == elb.ProtocolEnumTls {
			p.fail("spec.sessionAffinity: ClientIP: port %d has a TLS listener, which AWS cannot make sticky", port.Port)
		}
		l.Target.Attributes = put(put(l.Target.Attributes, attrSticky, "true"), attrStickyBy, "source_ip")
	}
	return l
}

func (p *portPlanner) alsoTCP(port corev1.ServicePort) bool {
	return slices.ContainsFunc(p.svc.Spec.Ports, func(o corev1.ServicePort) bool { return o.Port == port.Port && o.Protocol == corev1.ProtocolTCP })
}

// finish adds what depends on the listener's final protocol.
func (p *portPlanner) finish(l *listener) {
	if udp := l.Protocol == elb.ProtocolEnumUdp || l.Protocol == elb.ProtocolEnumTcpUdp; udp && l.Target.Attributes[attrPreserve] == "false" {
		p.fail("annotation %starget-group-attributes: %s=false: AWS cannot do so on port %d, which speaks UDP; name the others, as in %s.80=false", prefix, attrPreserve, l.Port, attrPreserve)
	}
	l.Target.Health = p.health(l.Target)
	if p.options.IdleTimeout > 0 && l.Protocol == elb.ProtocolEnumTcp {
		l.Attributes = put(l.Attributes, attrIdle, strconv.Itoa(p.options.IdleTimeout))
	}
	for name, attributes := range p.options.ListenerByPort {
		for k, v := range attributes {
			if name == l.name() {
				l.Attributes = put(l.Attributes, k, v)
			}
		}
	}
}
