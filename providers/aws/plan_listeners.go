package aws

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/aws/aws-sdk-go-v2/aws"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"
	corev1 "k8s.io/api/core/v1"
)

// portPlanner converts ports into listeners.
type portPlanner struct {
	svc      *corev1.Service
	options  serviceOptions
	settings adminSettings
	family   elb.TargetGroupIpAddressTypeEnum
	problems []string
}

func (p *portPlanner) addProblem(format string, args ...any) {
	p.problems = append(p.problems, fmt.Sprintf(format, args...))
}

// planListeners returns one listener for each port number of the Service, ordered
// by port. Problems are collected, so that a refusal names all of them.
func (p *portPlanner) planListeners() (all []listener) {
	p.checkPorts()
	byPort := map[int32]int{}
	for _, port := range p.svc.Spec.Ports {
		// Targets are instances, which serve a Service on its node ports only
		// (spec.allocateLoadBalancerNodePorts).
		if port.NodePort == 0 {
			p.addProblem("spec.ports: port %d/%s requires a node port", port.Port, port.Protocol)
			continue
		}
		if i, twice := byPort[port.Port]; twice {
			p.addProtocol(&all[i], port)
			continue
		}
		byPort[port.Port] = len(all)
		all = append(all, p.planListener(port))
	}
	for i := range all {
		p.completeListener(&all[i])
	}
	// The attribute exists for TCP listeners only, so it would not be set anywhere.
	if p.options.IdleTimeout > 0 && !slices.ContainsFunc(all, func(l listener) bool { return l.Protocol == elb.ProtocolEnumTcp }) {
		p.addProblem("annotation %sconnection-idle-timeout: requires a TCP listener", prefix)
	}
	for name := range p.options.ListenerByPort {
		if !slices.ContainsFunc(all, func(l listener) bool { return l.name() == name }) {
			p.addProblem("annotation %slistener-attributes.%s: listener not found: the name must be PROTOCOL-PORT, such as TCP-80",
				prefix, name)
		}
	}
	slices.SortFunc(all, func(a, b listener) int { return int(a.Port - b.Port) })
	// The order of maps must not change the message, which is part of the Service's
	// condition.
	slices.Sort(p.problems)
	p.problems = slices.Compact(p.problems)
	return all
}

// addProtocol adds the second protocol of a port number to its listener: a load
// balancer has one listener for a port number. It can have both protocols if its
// target group has one port (CreateTargetGroup, Port).
func (p *portPlanner) addProtocol(l *listener, port corev1.ServicePort) {
	switch {
	case l.Protocol == elb.ProtocolEnumTls || p.planListener(port).Protocol == elb.ProtocolEnumTls:
		p.addProblem("spec.ports: port %d must not be used for both UDP and TLS", port.Port)
	case p.options.NoTCPUDP:
		p.addProblem("annotation %senable-tcp-udp-listener: false conflicts with spec.ports: port %d is used for both TCP and UDP",
			prefix, port.Port)
	// The API server allocates one node port for both only when it creates the
	// Service.
	case l.Target.Port != port.NodePort:
		p.addProblem("spec.ports: port %d has the node ports %d/%s and %d/%s, which must be the same: set nodePort of both to one value, "+
			"such as %d; or create the Service again, with both ports from the start, "+
			"or with allocateLoadBalancerNodePorts: false and without nodePort",
			port.Port, l.Target.Port, l.Protocol, port.NodePort, port.Protocol, l.Target.Port)
	default:
		l.Protocol, l.Target.Protocol = elb.ProtocolEnumTcpUdp, elb.ProtocolEnumTcpUdp
	}
}

// name is the name of a listener in annotations.
func (l listener) name() string { return fmt.Sprintf("%s-%d", l.Protocol, l.Port) }

// checkPorts reports annotations that name a port that the Service lacks.
func (p *portPlanner) checkPorts() {
	for name, ports := range map[string][]string{
		"ssl-ports": p.options.TLSPorts, "proxy-protocol-per-target-group": p.options.ProxyPorts,
		"target-group-attributes": slices.Sorted(maps.Keys(p.options.GroupByPort)),
	} {
		for _, text := range ports {
			named := func(port corev1.ServicePort) bool { return matchesPort(port, text) }
			if !(text == "*" && name == "ssl-ports") && !slices.ContainsFunc(p.svc.Spec.Ports, named) {
				p.addProblem("annotation %s%s: port %q not found in the Service", prefix, name, text)
			}
		}
	}
}

// matchesPort reports whether a text is the number or name of a port.
func matchesPort(p corev1.ServicePort, text string) bool {
	return text == strconv.Itoa(int(p.Port)) || text == p.Name && text != ""
}

func matchesAnyPort(p corev1.ServicePort, texts []string) bool {
	return slices.ContainsFunc(texts, func(t string) bool { return matchesPort(p, t) })
}

// planListener returns the listener of one port of the Service, as if it were the
// only one with the port number.
func (p *portPlanner) planListener(port corev1.ServicePort) listener {
	o := p.options
	l := listener{Port: port.Port, Protocol: elb.ProtocolEnum(port.Protocol)}
	l.Target = targetGroup{Protocol: l.Protocol, Port: port.NodePort, Family: p.family}
	// Certificates alone make all TCP ports TLS listeners. UDP ports never are.
	tls := port.Protocol == corev1.ProtocolTCP && len(o.Certificates) > 0
	if tls && len(o.TLSPorts) > 0 && !slices.Contains(o.TLSPorts, "*") {
		tls = matchesAnyPort(port, o.TLSPorts)
	}
	if tls {
		l.Protocol, l.Certificates, l.Policy, l.ALPN = elb.ProtocolEnumTls, o.Certificates, o.TLSPolicy, o.ALPN
		// The target group's protocol decides whether the load balancer encrypts to
		// its targets.
		if o.BackendTLS {
			l.Target.Protocol = elb.ProtocolEnumTls
		}
	} else if port.Protocol == corev1.ProtocolUDP && len(o.TLSPorts) > 0 && matchesAnyPort(port, o.TLSPorts) && !p.hasTCPPort(port) {
		p.addProblem("annotation %sssl-ports: port %d is a UDP port, and TLS requires TCP", prefix, port.Port)
	}
	l.Target.Attributes = maps.Clone(o.GroupDefaults)
	for text, attributes := range o.GroupByPort {
		if matchesPort(port, text) {
			l.Target.Attributes = mergeMaps(l.Target.Attributes, attributes)
		}
	}
	if o.ProxyAll || matchesAnyPort(port, o.ProxyPorts) {
		// A list of ports takes precedence over the attributes of all ports.
		if l.Target.Attributes[attrProxy] == "false" && (o.ProxyAll || o.GroupDefaults[attrProxy] != "false") {
			p.addProblem("annotation %starget-group-attributes: %s=false conflicts with the annotation %sproxy-protocol%s, which applies to port %d",
				prefix, attrProxy, prefix, map[bool]string{false: "-per-target-group"}[o.ProxyAll], port.Port)
		}
		l.Target.Attributes = put(l.Target.Attributes, attrProxy, "true")
	}
	if p.svc.Spec.SessionAffinity == corev1.ServiceAffinityClientIP {
		// A target group with the protocol TLS or a TLS listener does not support
		// stickiness by source address.
		if l.Protocol == elb.ProtocolEnumTls {
			p.addProblem("spec.sessionAffinity: ClientIP is not supported on port %d, which has a TLS listener", port.Port)
		}
		l.Target.Attributes = put(put(l.Target.Attributes, attrSticky, "true"), attrStickyBy, "source_ip")
	}
	return l
}

func (p *portPlanner) hasTCPPort(port corev1.ServicePort) bool {
	return slices.ContainsFunc(p.svc.Spec.Ports, func(o corev1.ServicePort) bool {
		return o.Port == port.Port && o.Protocol == corev1.ProtocolTCP
	})
}

// completeListener adds what depends on the listener's final protocol.
func (p *portPlanner) completeListener(l *listener) {
	// AWS always preserves the client addresses of UDP and TCP_UDP target groups.
	if l.hasUDP() && l.Target.Attributes[attrPreserve] == "false" {
		p.addProblem("annotation %starget-group-attributes: %s=false is not supported on port %d, which uses UDP; "+
			"set it for other ports only, such as %s.80=false", prefix, attrPreserve, l.Port, attrPreserve)
	}
	l.Target.Health = p.healthCheck(l.Target)
	if p.options.IdleTimeout > 0 && l.Protocol == elb.ProtocolEnumTcp {
		l.Attributes = put(l.Attributes, attrIdle, strconv.Itoa(p.options.IdleTimeout))
	}
	for k, v := range p.options.ListenerByPort[l.name()] {
		l.Attributes = put(l.Attributes, k, v)
	}
}

// listenerDiffers reports whether a listener must be changed, given the ARN of its
// desired target group.
func listenerDiffers(desired listener, group string, observed elb.Listener) bool {
	// A listener forwards to exactly one target group.
	if desired.Protocol != observed.Protocol || len(observed.DefaultActions) != 1 ||
		aws.ToString(observed.DefaultActions[0].TargetGroupArn) != group {
		return true
	}
	if desired.Protocol != elb.ProtocolEnumTls {
		return false
	}
	if desired.Policy != "" && desired.Policy != aws.ToString(observed.SslPolicy) {
		return true
	}
	alpn := "None" // is AWS's name for none
	if len(observed.AlpnPolicy) > 0 {
		alpn = observed.AlpnPolicy[0]
	}
	if cmp.Or(desired.ALPN, "None") != alpn {
		return true
	}
	// Only the default certificate is part of the listener; ensureCertificates
	// compares the others.
	return len(observed.Certificates) > 0 && aws.ToString(observed.Certificates[0].CertificateArn) != desired.Certificates[0]
}
