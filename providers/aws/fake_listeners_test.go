package aws

import (
	"slices"
	"strings"

	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
	elbtypes "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"
)

// fakeListener is one port of a load balancer.
type fakeListener struct {
	elbtypes.Listener
	settings   string // fingerprint of the settings at creation, "" after a change
	group      string // target group
	more       []string
	attributes map[string]string
	tags       map[string]string
	unknown    int // number of calls for which it is not known yet
}

func (f *fakeAWS) doListeners(input any) (any, error) {
	switch in := input.(type) {
	case *elb.CreateListenerInput:
		return f.createListener(in)
	case *elb.DescribeListenersInput:
		return f.describeListeners(in)
	case *elb.ModifyListenerInput:
		return f.modifyListener(in)
	case *elb.DeleteListenerInput:
		return f.deleteListener(in)
	case *elb.DescribeListenerAttributesInput:
		return f.describeListenerAttributes(in)
	case *elb.ModifyListenerAttributesInput:
		return f.modifyListenerAttributes(in)
	case *elb.DescribeListenerCertificatesInput:
		return f.describeListenerCertificates(in)
	case *elb.AddListenerCertificatesInput:
		return f.addListenerCertificates(in)
	case *elb.RemoveListenerCertificatesInput:
		return f.removeListenerCertificates(in)
	}
	return nil, f.unknownAction(input)
}

func (f *fakeAWS) listener(arn *string) (*fakeListener, error) {
	for _, l := range f.listeners {
		if *l.ListenerArn == *arn {
			if l.unknown == 0 {
				return l, nil
			}
			l.unknown--
		}
	}
	return nil, newAWSError("ListenerNotFound", "Listener '%s' not found", *arn)
}

func (f *fakeAWS) createListener(in *elb.CreateListenerInput) (any, error) {
	b, err := f.balancer(in.LoadBalancerArn)
	if err != nil {
		return nil, err
	}
	count := 0
	for _, l := range f.listeners {
		if *l.LoadBalancerArn != *b.LoadBalancerArn {
			continue
		}
		count++
		switch {
		case *l.Port != *in.Port:
		case l.settings == fingerprint(in):
			return &elb.CreateListenerOutput{Listeners: []elbtypes.Listener{l.Listener}}, nil
		default:
			return nil, newAWSError("DuplicateListener", "A listener already exists on this port for this load balancer '%s'", *b.LoadBalancerArn)
		}
	}
	if count >= f.quota.listeners {
		return nil, newAWSError("TooManyListeners", "The maximum number of listeners has been reached on load balancer '%s'", *b.LoadBalancerArn)
	}
	tags, err := f.newTags(in.Tags)
	if err != nil {
		return nil, err
	}
	l := &fakeListener{
		Listener: elbtypes.Listener{
			ListenerArn:     new(strings.Replace(*b.LoadBalancerArn, ":loadbalancer/", ":listener/", 1) + "/" + f.newID("")[1:]),
			LoadBalancerArn: b.LoadBalancerArn, Port: in.Port, Protocol: in.Protocol, SslPolicy: in.SslPolicy,
			AlpnPolicy: in.AlpnPolicy, Certificates: in.Certificates, DefaultActions: in.DefaultActions,
		},
		settings: fingerprint(in), attributes: listenerDefaults(in.Protocol), tags: tags, unknown: f.unknown,
	}
	if err := f.listenerAllowed(l); err != nil {
		return nil, err
	}
	f.listeners = append(f.listeners, l)
	f.useGroup(l)
	return &elb.CreateListenerOutput{Listeners: []elbtypes.Listener{l.Listener}}, nil
}

// fakeForwards has the allowed protocols of target groups, by the protocol of
// the listener.
var fakeForwards = map[elbtypes.ProtocolEnum][]elbtypes.ProtocolEnum{
	elbtypes.ProtocolEnumTcp:    {elbtypes.ProtocolEnumTcp, elbtypes.ProtocolEnumTcpUdp},
	elbtypes.ProtocolEnumTls:    {elbtypes.ProtocolEnumTcp, elbtypes.ProtocolEnumTls},
	elbtypes.ProtocolEnumUdp:    {elbtypes.ProtocolEnumUdp, elbtypes.ProtocolEnumTcpUdp},
	elbtypes.ProtocolEnumTcpUdp: {elbtypes.ProtocolEnumTcpUdp},
}

// listenerAllowed sets the defaults of a listener, and returns an error if AWS
// does not allow it.
func (f *fakeAWS) listenerAllowed(l *fakeListener) error {
	switch tls := l.Protocol == elbtypes.ProtocolEnumTls; {
	case *l.Port < 1 || *l.Port > 65535:
		return newAWSError("ValidationError", "Port '%d' is not valid", *l.Port)
	case fakeForwards[l.Protocol] == nil:
		return newAWSError("UnsupportedProtocol", "Protocol '%s' is not supported by a network load balancer", l.Protocol)
	case !tls && (l.SslPolicy != nil || len(l.Certificates) > 0 || len(l.AlpnPolicy) > 0):
		return newAWSError(
			"InvalidConfigurationRequest", "A certificate, policy or ALPN policy cannot be specified for protocol '%s'", l.Protocol,
		)
	case tls && len(l.Certificates) != 1:
		return newAWSError("ValidationError", "You must specify exactly one certificate for a TLS listener")
	case tls && !f.certificates[*l.Certificates[0].CertificateArn]:
		return newAWSError("CertificateNotFound", "Certificate ARN '%s' is not valid", *l.Certificates[0].CertificateArn)
	case tls && l.SslPolicy == nil:
		l.SslPolicy = new("ELBSecurityPolicy-2016-08")
	case tls && !strings.HasPrefix(*l.SslPolicy, "ELBSecurityPolicy-"):
		return newAWSError("SSLPolicyNotFound", "SSL policy '%s' not found", *l.SslPolicy)
	}
	if len(l.DefaultActions) != 1 || l.DefaultActions[0].Type != elbtypes.ActionTypeEnumForward {
		return newAWSError("ValidationError", "A listener of a network load balancer has one default action, forward")
	}
	action := &l.DefaultActions[0]
	if action.TargetGroupArn == nil {
		action.TargetGroupArn = action.ForwardConfig.TargetGroups[0].TargetGroupArn
	}
	action.ForwardConfig = &elbtypes.ForwardActionConfig{TargetGroups: []elbtypes.TargetGroupTuple{{TargetGroupArn: action.TargetGroupArn}}}
	g, err := f.targetGroup(action.TargetGroupArn)
	if err != nil {
		return err
	}
	if !slices.Contains(fakeForwards[l.Protocol], g.Protocol) {
		return newAWSError("IncompatibleProtocols", "A %s listener cannot forward to a %s target group", l.Protocol, g.Protocol)
	}
	for _, arn := range g.LoadBalancerArns {
		if arn != *l.LoadBalancerArn {
			return newAWSError(
				"TargetGroupAssociationLimit", "The following target groups cannot be associated with more than one load balancer: %s",
				*g.TargetGroupArn,
			)
		}
	}
	return nil
}

// useGroup connects a listener and its target group.
func (f *fakeAWS) useGroup(l *fakeListener) {
	l.group = *l.DefaultActions[0].TargetGroupArn
	g, err := f.targetGroup(&l.group)
	if err != nil {
		panic(err)
	}
	g.LoadBalancerArns, g.inUse = []string{*l.LoadBalancerArn}, 0
}

// releaseGroup is the opposite of useGroup.
func (f *fakeAWS) releaseGroup(l *fakeListener) {
	for _, other := range f.listeners {
		if other != l && other.group == l.group {
			return
		}
	}
	if g, err := f.targetGroup(&l.group); err == nil {
		g.LoadBalancerArns, g.inUse = nil, f.inUse
	}
}

func (f *fakeAWS) removeListener(l *fakeListener) {
	f.releaseGroup(l)
	f.listeners = slices.DeleteFunc(f.listeners, func(other *fakeListener) bool { return other == l })
}

func (f *fakeAWS) describeListeners(in *elb.DescribeListenersInput) (any, error) {
	var found []elbtypes.Listener
	switch {
	case (in.LoadBalancerArn == nil) == (len(in.ListenerArns) == 0):
		return nil, newAWSError("ValidationError", "You must specify either listener ARNs or a load balancer ARN")
	case in.LoadBalancerArn != nil:
		if _, err := f.balancer(in.LoadBalancerArn); err != nil {
			return nil, err
		}
		for _, l := range f.listeners {
			if *l.LoadBalancerArn == *in.LoadBalancerArn {
				found = append(found, l.Listener)
			}
		}
	}
	for _, arn := range in.ListenerArns {
		l, err := f.listener(&arn)
		if err != nil {
			return nil, err
		}
		found = append(found, l.Listener)
	}
	found, next, err := pageOf(f, found, in.PageSize, in.Marker)
	return &elb.DescribeListenersOutput{Listeners: found, NextMarker: next}, err
}

func (f *fakeAWS) modifyListener(in *elb.ModifyListenerInput) (any, error) {
	l, err := f.listener(in.ListenerArn)
	if err != nil {
		return nil, err
	}
	after := *l
	after.settings = ""
	if in.Port != nil {
		after.Port = in.Port
	}
	if in.Protocol != "" && in.Protocol != l.Protocol {
		after.Protocol, after.attributes = in.Protocol, listenerDefaults(in.Protocol)
		if in.Protocol != elbtypes.ProtocolEnumTls {
			after.SslPolicy, after.Certificates, after.AlpnPolicy, after.more = nil, nil, nil, nil
		}
	}
	if in.SslPolicy != nil {
		after.SslPolicy = in.SslPolicy
	}
	if in.Certificates != nil {
		after.Certificates = in.Certificates
	}
	if in.AlpnPolicy != nil {
		after.AlpnPolicy = in.AlpnPolicy
	}
	if in.DefaultActions != nil {
		after.DefaultActions = in.DefaultActions
	}
	for _, other := range f.listeners {
		if other != l && *other.LoadBalancerArn == *l.LoadBalancerArn && *other.Port == *after.Port {
			return nil, newAWSError("DuplicateListener", "A listener already exists on port %d", *after.Port)
		}
	}
	if err := f.listenerAllowed(&after); err != nil {
		return nil, err
	}
	if *after.DefaultActions[0].TargetGroupArn != l.group {
		f.releaseGroup(l)
	}
	*l = after
	f.useGroup(l)
	return &elb.ModifyListenerOutput{Listeners: []elbtypes.Listener{l.Listener}}, nil
}

func (f *fakeAWS) deleteListener(in *elb.DeleteListenerInput) (any, error) {
	l, err := f.listener(in.ListenerArn)
	if err != nil {
		return nil, err
	}
	f.removeListener(l)
	return &elb.DeleteListenerOutput{}, nil
}

func (f *fakeAWS) describeListenerAttributes(in *elb.DescribeListenerAttributesInput) (any, error) {
	l, err := f.listener(in.ListenerArn)
	if err != nil {
		return nil, err
	}
	return &elb.DescribeListenerAttributesOutput{Attributes: attributeList[elbtypes.ListenerAttribute](l.attributes)}, nil
}

func (f *fakeAWS) modifyListenerAttributes(in *elb.ModifyListenerAttributesInput) (any, error) {
	l, err := f.listener(in.ListenerArn)
	if err != nil {
		return nil, err
	}
	after, err := changeAttributes(l.attributes, attributeMap(in.Attributes))
	if err != nil {
		return nil, err
	}
	l.attributes = after
	return &elb.ModifyListenerAttributesOutput{Attributes: attributeList[elbtypes.ListenerAttribute](after)}, nil
}

func (f *fakeAWS) describeListenerCertificates(in *elb.DescribeListenerCertificatesInput) (any, error) {
	l, err := f.listener(in.ListenerArn)
	if err != nil {
		return nil, err
	}
	var all []elbtypes.Certificate
	for _, c := range l.Certificates {
		all = append(all, elbtypes.Certificate{CertificateArn: c.CertificateArn, IsDefault: new(true)})
	}
	for _, arn := range l.more {
		all = append(all, elbtypes.Certificate{CertificateArn: &arn, IsDefault: new(false)})
	}
	all, next, err := pageOf(f, all, in.PageSize, in.Marker)
	return &elb.DescribeListenerCertificatesOutput{Certificates: all, NextMarker: next}, err
}

func (f *fakeAWS) addListenerCertificates(in *elb.AddListenerCertificatesInput) (any, error) {
	l, err := f.listener(in.ListenerArn)
	if err != nil {
		return nil, err
	}
	arn := in.Certificates[0].CertificateArn
	switch {
	case len(in.Certificates) != 1 || in.Certificates[0].IsDefault != nil:
		return nil, newAWSError("ValidationError", "You must specify one certificate, without IsDefault")
	case l.Protocol != elbtypes.ProtocolEnumTls:
		return nil, newAWSError("InvalidConfigurationRequest", "Certificates can be added to TLS listeners only")
	case !f.certificates[*arn]:
		return nil, newAWSError("CertificateNotFound", "Certificate ARN '%s' is not valid", *arn)
	case slices.Contains(l.more, *arn):
	case len(l.more) >= f.quota.certificates:
		return nil, newAWSError("TooManyCertificates", "The maximum number of certificates has been reached")
	default:
		l.more = append(l.more, *arn)
	}
	return &elb.AddListenerCertificatesOutput{Certificates: in.Certificates}, nil
}

func (f *fakeAWS) removeListenerCertificates(in *elb.RemoveListenerCertificatesInput) (any, error) {
	l, err := f.listener(in.ListenerArn)
	if err != nil {
		return nil, err
	}
	if len(in.Certificates) != 1 || in.Certificates[0].IsDefault != nil {
		return nil, newAWSError("ValidationError", "You must specify one certificate, without IsDefault")
	}
	l.more = slices.DeleteFunc(l.more, func(arn string) bool { return arn == *in.Certificates[0].CertificateArn })
	return &elb.RemoveListenerCertificatesOutput{}, nil
}
