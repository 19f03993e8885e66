package aws

import (
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/aws/aws-sdk-go-v2/aws"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"
	corev1 "k8s.io/api/core/v1"
)

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
