package aws

import (
	"cmp"
	"strconv"
	"strings"

	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"
	corev1 "k8s.io/api/core/v1"
)

// portKubeProxy is kube-proxy's health port: it reports the node unhealthy as soon
// as the node is being deleted.
const portKubeProxy = 10256

// health are the settings of a health check (CreateTargetGroup); 0 and "" are
// unset.
type health struct {
	Protocol, Port, Path, Codes           string
	Interval, Timeout, Healthy, Unhealthy int32
}

// readHealth reads the settings that the annotations override; healthCheck has the
// others.
func (r *annotationReader) readHealth() (h health) {
	switch v := strings.ToLower(r.readText("healthcheck-protocol")); v {
	case "":
	case "tcp", "http", "https":
		h.Protocol = strings.ToUpper(v)
	default:
		r.addProblem("healthcheck-protocol", "%q must be one of tcp, http, https", v)
	}
	h.Port = r.readText("healthcheck-port")
	if h.Path = r.readText("healthcheck-path"); h.Path != "" && h.Path[0] != '/' {
		r.addProblem("healthcheck-path", "%q must begin with /", h.Path)
	}
	if h.Codes = r.readText("healthcheck-success-codes"); h.Codes != "" && strings.Trim(h.Codes, "0123456789,-") != "" {
		r.addProblem("healthcheck-success-codes", "%q must be codes from 200 to 599: 200, or 200,204, or 200-399", h.Codes)
	}
	for _, name := range []string{"healthcheck-path", "healthcheck-success-codes"} {
		if h.Protocol == "TCP" && r.readText(name) != "" {
			r.addProblem(name, "conflicts with the annotation %shealthcheck-protocol: tcp", prefix)
		}
	}
	h.Interval = int32(r.readNumber("healthcheck-interval", 5, 300))
	h.Timeout = int32(r.readNumber("healthcheck-timeout", 2, 120))
	h.Healthy = int32(r.readNumber("healthcheck-healthy-threshold", 2, 10))
	h.Unhealthy = int32(r.readNumber("healthcheck-unhealthy-threshold", 2, 10))
	return h
}

// healthCheck returns the health check of a target group.
//
// Under externalTrafficPolicy: Local kube-proxy reports on the Service's
// healthCheckNodePort whether the node has endpoints. Under Cluster its own
// health port reports whether the node is eligible for traffic, which ends
// before the node does. Where the load balancer sends the header of the proxy
// protocol, which precedes health checks as well, only the port itself can be
// checked.
func (p *portPlanner) healthCheck(t targetGroup) health {
	o := p.options.Health
	h := health{Protocol: "TCP", Port: "traffic-port", Interval: 10, Timeout: 6, Healthy: 2, Unhealthy: 2}
	proxied := t.Attributes[attrProxy] == "true" && t.Protocol != elb.ProtocolEnumUdp
	switch {
	case proxied:
	case p.svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal && p.svc.Spec.HealthCheckNodePort != 0:
		h.Protocol, h.Port, h.Path = "HTTP", strconv.Itoa(int(p.svc.Spec.HealthCheckNodePort)), "/healthz"
	// A UDP port cannot be checked itself: Elastic Load Balancing has no UDP health
	// checks.
	case p.settings.Probe != probeNodePort || t.Protocol == elb.ProtocolEnumUdp:
		h.Protocol, h.Port, h.Path = "HTTP", strconv.Itoa(portKubeProxy), "/healthz"
	}
	local := p.svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
	switch {
	// A port refers to the application, which may not answer HTTP.
	case o.Port != "":
		h.Port = p.healthPort(o.Port)
		if o.Protocol == "" && o.Path == "" && !local {
			h.Protocol, h.Path = "TCP", ""
		}
	case o.Protocol != "" && !(local && o.Protocol == "HTTP"):
		// A protocol refers to the application, except HTTP under Local, which is
		// the protocol of kube-proxy.
		h.Port, h.Path = "traffic-port", ""
	}
	h.Protocol = cmp.Or(o.Protocol, h.Protocol)
	// A path implies HTTP; together with the annotation for TCP it was refused
	// before.
	if h.Protocol == "TCP" && o.Path != "" {
		h.Protocol = "HTTP"
	}
	if h.Protocol != "TCP" {
		h.Path, h.Codes = cmp.Or(o.Path, h.Path, "/"), cmp.Or(o.Codes, "200-399")
	} else {
		h.Path, h.Codes = "", ""
		if o.Codes != "" {
			p.addProblem("annotation %shealthcheck-success-codes: requires the annotation %shealthcheck-protocol: http or https", prefix, prefix)
		}
	}
	h.Interval = cmp.Or(o.Interval, h.Interval)
	// An interval that is shorter than the default timeout is the only setting of
	// the user: it must not be refused for a default.
	if o.Timeout == 0 && h.Interval < h.Timeout {
		h.Timeout = h.Interval
	}
	h.Timeout, h.Healthy, h.Unhealthy = cmp.Or(o.Timeout, h.Timeout), cmp.Or(o.Healthy, h.Healthy), cmp.Or(o.Unhealthy, h.Unhealthy)
	if h.Timeout > h.Interval {
		p.addProblem("annotation %shealthcheck-timeout: %d s must not be longer than the interval of %d s", prefix, h.Timeout, h.Interval)
	}
	return h
}

// healthPort resolves the annotation healthcheck-port: a number,
// "traffic-port", or the name of one of the Service's ports. The nodes' groups
// admit the load balancers to node ports and kube-proxy's port only.
func (p *portPlanner) healthPort(text string) string {
	if text == "traffic-port" {
		return text
	}
	for _, port := range p.svc.Spec.Ports {
		if port.Name == text {
			return strconv.Itoa(int(port.NodePort))
		}
	}
	n, err := strconv.Atoi(text)
	switch r := p.settings.NodePorts; {
	case err != nil || n < 1 || n > 65535:
		p.addProblem("annotation %shealthcheck-port: %q must be a port number, the name of a port of the Service, or traffic-port", prefix, text)
	// The check would fail for every node, because its packets are dropped.
	case p.options.Backend && n != portKubeProxy && (n < int(r[0]) || n > int(r[1])):
		p.addProblem("annotation %shealthcheck-port: the nodes' security groups admit load balancers to the ports %d-%d and %d only, not to %d, "+
			"unless the annotation %ssecurity-groups names a group that they admit to it", prefix, r[0], r[1], portKubeProxy, n, prefix)
	}
	return text
}

// healthDiffers reports whether a health check must be changed. A field that the
// response lacks does not differ.
func healthDiffers(desired health, observed elb.TargetGroup) bool {
	number := func(desired int32, observed *int32) bool { return observed != nil && *observed != desired }
	text := func(desired string, observed *string) bool {
		return desired != "" && observed != nil && *observed != desired
	}
	codes := observed.Matcher != nil && text(desired.Codes, observed.Matcher.HttpCode)
	return observed.HealthCheckProtocol != "" && string(observed.HealthCheckProtocol) != desired.Protocol ||
		text(desired.Port, observed.HealthCheckPort) || text(desired.Path, observed.HealthCheckPath) || codes ||
		number(desired.Interval, observed.HealthCheckIntervalSeconds) || number(desired.Timeout, observed.HealthCheckTimeoutSeconds) ||
		number(desired.Healthy, observed.HealthyThresholdCount) || number(desired.Unhealthy, observed.UnhealthyThresholdCount)
}
