package aws

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	elbapi "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"
)

// ensureListeners makes a listener for each port, and lets those that exist
// forward to the right target group.
func (w *work) ensureListeners(ctx context.Context) error {
	count := 0
	for _, l := range w.have.listeners {
		if aws.ToString(l.LoadBalancerArn) == w.arn {
			count++
		}
	}
	for _, l := range w.want.Listeners {
		if arn, _ := w.listenerOn(l.Port); arn == "" {
			count++
		}
	}
	if count > maxListeners { // no room for both
		if err := w.deleteListeners(ctx); err != nil {
			return err
		}
	}
	for _, l := range w.want.Listeners {
		if err := w.ensureListener(ctx, l); err != nil {
			return err
		}
	}
	return nil
}

func (w *work) ensureListener(ctx context.Context, l listener) error {
	group := aws.ToString(w.have.groups[w.groupName(l.Target)].TargetGroupArn)
	arn, have := w.listenerOn(l.Port)
	tags := w.have.tags[arn]
	if arn == "" {
		tags = w.tags(l.name())
		var err error
		if arn, err = w.createListener(ctx, l, group, tags); err != nil {
			return err
		}
	} else if listenerDiffers(l, group, have) {
		in := &elbapi.ModifyListenerInput{ListenerArn: aws.String(arn), DefaultActions: forward(group)}
		if have.Protocol != l.Protocol {
			in.Protocol = l.Protocol
			l.Policy = cmpOr(l.Policy, defaultPolicy)
		}
		if l.ALPN == "" && len(have.AlpnPolicy) > 0 {
			l.ALPN = "None"
		}
		l.tls(&in.Certificates, &in.SslPolicy, &in.AlpnPolicy)
		if _, err := call(ctx, w.conn.elb.ModifyListener, in); err != nil {
			return err
		}
	}
	return patient(ctx, "ListenerNotFound", func() error { return w.dress(ctx, arn, l, tags) })
}

// dress gives a listener what CreateListener cannot: further certificates,
// attributes, and the tags that record them.
func (w *work) dress(ctx context.Context, arn string, l listener, tags map[string]string) error {
	if err := w.certificates(ctx, arn, l, recorded(tags, tagCertificates)); err != nil {
		return err
	}
	if err := w.ensureAttributes(ctx, ofListener(w.conn, arn, l.Protocol), l.Attributes, tags); err != nil {
		return err
	}
	return w.retag(ctx, arn, tags, w.tags(l.name(), record(tagAttributes, attributeRecord(l.Attributes)), record(tagCertificates, l.moreCertificates())))
}

// deleteListeners deletes those of the wanted balancer that nobody wants.
func (w *work) deleteListeners(ctx context.Context) error {
	for arn, l := range w.have.listeners {
		wanted := slices.ContainsFunc(w.want.Listeners, func(x listener) bool { return x.Port == aws.ToInt32(l.Port) })
		if wanted || aws.ToString(l.LoadBalancerArn) != w.arn {
			continue
		}
		if _, err := call(ctx, w.conn.elb.DeleteListener, &elbapi.DeleteListenerInput{ListenerArn: aws.String(arn)}); err != nil && !isCode(err, gone...) {
			return err
		}
		delete(w.have.listeners, arn)
	}
	return nil
}

// defaultPolicy is what AWS gives a TLS listener that is made without a policy
// (CreateListener, SslPolicy). One that becomes a TLS listener must be given one.
const defaultPolicy = "ELBSecurityPolicy-2016-08"

// listenerOn is the listener of the wanted balancer on a port, "" if there is none.
func (w *work) listenerOn(port int32) (arn string, have elb.Listener) {
	for arn, l := range w.have.listeners {
		if aws.ToString(l.LoadBalancerArn) == w.arn && aws.ToInt32(l.Port) == port {
			return arn, l
		}
	}
	return "", elb.Listener{}
}

func (w *work) createListener(ctx context.Context, l listener, group string, tags map[string]string) (arn string, err error) {
	in := &elbapi.CreateListenerInput{
		LoadBalancerArn: aws.String(w.arn), Port: aws.Int32(l.Port), Protocol: l.Protocol,
		DefaultActions: forward(group), Tags: elbTagList(tags),
	}
	l.tls(&in.Certificates, &in.SslPolicy, &in.AlpnPolicy)
	out, err := call(ctx, w.conn.elb.CreateListener, in)
	if err != nil {
		return "", err
	}
	if len(out.Listeners) == 0 {
		return "", errors.New("CreateListener: the answer has no listener")
	}
	return aws.ToString(out.Listeners[0].ListenerArn), nil
}

func forward(group string) []elb.Action {
	return []elb.Action{{Type: elb.ActionTypeEnumForward, TargetGroupArn: aws.String(group)}}
}

// tls fills in what only a TLS listener has.
func (l listener) tls(certificates *[]elb.Certificate, policy **string, alpn *[]string) {
	if l.Protocol != elb.ProtocolEnumTls {
		return
	}
	*certificates = []elb.Certificate{{CertificateArn: aws.String(l.Certificates[0])}}
	if l.Policy != "" {
		*policy = aws.String(l.Policy)
	}
	if l.ALPN != "" {
		*alpn = []string{l.ALPN}
	}
}

// moreCertificates records the certificates behind the first.
func (l listener) moreCertificates() string {
	if len(l.Certificates) < 2 {
		return ""
	}
	return short(20, l.Certificates[1:]...)
}

// certificates makes the certificates behind the first, by which the listener
// answers to other names (SNI), those that are asked for.
func (w *work) certificates(ctx context.Context, arn string, l listener, recorded string) error {
	if l.moreCertificates() == recorded {
		return nil
	}
	out, err := call(ctx, w.conn.elb.DescribeListenerCertificates, &elbapi.DescribeListenerCertificatesInput{ListenerArn: aws.String(arn), PageSize: aws.Int32(100)})
	if err != nil {
		return err
	}
	var add, remove []elb.Certificate
	var have []string
	for _, c := range out.Certificates {
		if aws.ToBool(c.IsDefault) {
			continue
		}
		have = append(have, aws.ToString(c.CertificateArn))
		if !slices.Contains(l.Certificates, aws.ToString(c.CertificateArn)) {
			remove = append(remove, elb.Certificate{CertificateArn: c.CertificateArn})
		}
	}
	for _, c := range l.Certificates[min(1, len(l.Certificates)):] {
		if !slices.Contains(have, c) {
			add = append(add, elb.Certificate{CertificateArn: aws.String(c)})
		}
	}
	for _, c := range add {
		_, err := call(ctx, w.conn.elb.AddListenerCertificates, &elbapi.AddListenerCertificatesInput{ListenerArn: aws.String(arn), Certificates: []elb.Certificate{c}})
		if err != nil {
			return err
		}
	}
	for _, c := range remove {
		_, err := call(ctx, w.conn.elb.RemoveListenerCertificates, &elbapi.RemoveListenerCertificatesInput{ListenerArn: aws.String(arn), Certificates: []elb.Certificate{c}})
		if err != nil && !strings.Contains(codeOf(err), "NotFound") {
			return err
		}
	}
	return nil
}
