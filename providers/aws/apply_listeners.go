package aws

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	elbapi "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"
)

// ensureListeners creates a listener for each port, and makes those that exist
// forward to the right target group.
func (r *reconciler) ensureListeners(ctx context.Context) error {
	count := 0
	for _, l := range r.observed.listeners {
		if aws.ToString(l.LoadBalancerArn) == r.arn {
			count++
		}
	}
	for _, l := range r.result.desired.Listeners {
		if arn, _ := r.listenerOn(l.Port); arn == "" {
			count++
		}
	}
	// Usually new listeners are created before superfluous ones are deleted. At the
	// quota of AWS the order is reversed, which interrupts the deleted ports only.
	if count > maxListeners { // no room for both
		if err := r.deleteListeners(ctx); err != nil {
			return err
		}
	}
	for _, l := range r.result.desired.Listeners {
		if err := r.ensureListener(ctx, l); err != nil {
			return err
		}
	}
	return nil
}

// ensureListener creates the listener of a port or changes it in place. The target
// group must exist, because a listener has one from the start.
func (r *reconciler) ensureListener(ctx context.Context, l listener) error {
	group := aws.ToString(r.observed.groups[r.groupName(l.Target)].TargetGroupArn)
	arn, observed := r.listenerOn(l.Port)
	tags := r.observed.tags[arn]
	if arn == "" {
		// The records of attributes and certificates are not among the first tags:
		// they follow what they record, in completeListener.
		tags = r.desiredTags(l.name())
		var err error
		if arn, err = r.createListener(ctx, l, group, tags); err != nil {
			return err
		}
	} else if listenerDiffers(l, group, observed) {
		in := &elbapi.ModifyListenerInput{ListenerArn: aws.String(arn), DefaultActions: forwardTo(group)}
		// Fields that ModifyListener does not receive stay unchanged.
		if observed.Protocol != l.Protocol {
			in.Protocol = l.Protocol
			l.Policy = cmp.Or(l.Policy, defaultPolicy)
		}
		// An absent ALPN policy would leave the observed one in place.
		if l.ALPN == "" && len(observed.AlpnPolicy) > 0 {
			l.ALPN = "None"
		}
		l.setTLS(&in.Certificates, &in.SslPolicy, &in.AlpnPolicy)
		if _, err := callAPI(ctx, r.elb.ModifyListener, in); err != nil {
			return err
		}
	}
	// A listener that was just created may be unknown to the next calls.
	return retryWhile(ctx, "ListenerNotFound", func() error { return r.completeListener(ctx, arn, l, tags) })
}

// completeListener sets what CreateListener cannot: further certificates,
// attributes, and the tags that record them.
func (r *reconciler) completeListener(ctx context.Context, arn string, l listener, tags map[string]string) error {
	if err := r.ensureCertificates(ctx, arn, l, recordedText(tags, tagCertificates)); err != nil {
		return err
	}
	if err := r.ensureAttributes(ctx, r.listenerAttributes(arn, l.Protocol), l.Attributes, tags); err != nil {
		return err
	}
	certificates := recordTags(tagCertificates, l.moreCertificates())
	return r.updateTags(ctx, arn, tags, r.desiredTags(l.name(), recordAttributes(l.Attributes), certificates))
}

// deleteListeners deletes those of the desired load balancer that are not
// desired themselves.
func (r *reconciler) deleteListeners(ctx context.Context) error {
	for arn, l := range r.observed.listeners {
		if r.result.desired.hasPort(aws.ToInt32(l.Port)) || aws.ToString(l.LoadBalancerArn) != r.arn {
			continue
		}
		_, err := callAPI(ctx, r.elb.DeleteListener, &elbapi.DeleteListenerInput{ListenerArn: aws.String(arn)})
		// A listener that was deleted by hand since it was read is not a failure.
		if err != nil && !isCode(err, notFoundCodes...) {
			return err
		}
		// The sync deletes listeners a second time at its end, and must not find
		// this one.
		delete(r.observed.listeners, arn)
	}
	return nil
}

// defaultPolicy is the policy of a TLS listener that is created without one
// (CreateListener, SslPolicy). A listener that becomes a TLS listener needs one.
const defaultPolicy = "ELBSecurityPolicy-2016-08"

// listenerOn returns the listener of the desired load balancer on a port, "" if
// there is none.
func (r *reconciler) listenerOn(port int32) (arn string, observed elb.Listener) {
	for arn, l := range r.observed.listeners {
		if aws.ToString(l.LoadBalancerArn) == r.arn && aws.ToInt32(l.Port) == port {
			return arn, l
		}
	}
	return "", elb.Listener{}
}

// createListener returns the ARN of the new listener. Further certificates,
// attributes and their records are set by completeListener.
func (r *reconciler) createListener(ctx context.Context, l listener, group string, tags map[string]string) (arn string, err error) {
	in := &elbapi.CreateListenerInput{
		LoadBalancerArn: aws.String(r.arn), Port: aws.Int32(l.Port), Protocol: l.Protocol,
		DefaultActions: forwardTo(group), Tags: elbTagList(tags),
	}
	l.setTLS(&in.Certificates, &in.SslPolicy, &in.AlpnPolicy)
	out, err := callAPI(ctx, r.elb.CreateListener, in)
	if err != nil {
		return "", err
	}
	if len(out.Listeners) == 0 {
		return "", errors.New("CreateListener: response without a listener")
	}
	return aws.ToString(out.Listeners[0].ListenerArn), nil
}

func forwardTo(group string) []elb.Action {
	return []elb.Action{{Type: elb.ActionTypeEnumForward, TargetGroupArn: aws.String(group)}}
}

// setTLS sets what only a TLS listener has.
func (l listener) setTLS(certificates *[]elb.Certificate, policy **string, alpn *[]string) {
	if l.Protocol != elb.ProtocolEnumTls {
		return
	}
	// CreateListener and ModifyListener accept one certificate, the default.
	// ensureCertificates adds the others.
	*certificates = []elb.Certificate{{CertificateArn: aws.String(l.Certificates[0])}}
	// Without a policy, AWS selects its default for a new listener and keeps the
	// one of an existing listener.
	if l.Policy != "" {
		*policy = aws.String(l.Policy)
	}
	if l.ALPN != "" {
		*alpn = []string{l.ALPN}
	}
}

// moreCertificates returns the record of the certificates after the first.
func (l listener) moreCertificates() string {
	if len(l.Certificates) < 2 {
		return ""
	}
	return shortHash(20, l.Certificates[1:]...)
}

// ensureCertificates adds and removes certificates after the first, which the
// listener presents to clients that name another server (SNI).
func (r *reconciler) ensureCertificates(ctx context.Context, arn string, l listener, recorded string) error {
	// The record is a digest of the list. It is written after the certificates, so
	// that equality means that all were set. In the mode syncAttributes they are
	// compared as well.
	if l.moreCertificates() == recorded && (recorded == "" || r.mode != syncAttributes) {
		return nil
	}
	out, err := callAPI(ctx, r.elb.DescribeListenerCertificates, &elbapi.DescribeListenerCertificatesInput{
		// One page is enough: a listener has at most maxCertificates.
		ListenerArn: aws.String(arn), PageSize: aws.Int32(100),
	})
	if err != nil {
		return err
	}
	var add, remove []elb.Certificate
	var observed []string
	for _, c := range out.Certificates {
		if aws.ToBool(c.IsDefault) {
			continue
		}
		observed = append(observed, aws.ToString(c.CertificateArn))
		// The comparison includes the default certificate: AWS lists it a second
		// time if it is also among the others (DescribeListenerCertificates).
		if !slices.Contains(l.Certificates, aws.ToString(c.CertificateArn)) {
			remove = append(remove, elb.Certificate{CertificateArn: c.CertificateArn})
		}
	}
	for _, c := range l.Certificates[min(1, len(l.Certificates)):] {
		if !slices.Contains(observed, c) {
			add = append(add, elb.Certificate{CertificateArn: aws.String(c)})
		}
	}
	// New certificates are added before old ones are removed, so that a server name
	// which both contain is served throughout.
	for _, c := range add {
		_, err := callAPI(ctx, r.elb.AddListenerCertificates, &elbapi.AddListenerCertificatesInput{
			ListenerArn: aws.String(arn), Certificates: []elb.Certificate{c},
		})
		if err != nil {
			return err
		}
	}
	for _, c := range remove {
		_, err := callAPI(ctx, r.elb.RemoveListenerCertificates, &elbapi.RemoveListenerCertificatesInput{
			ListenerArn: aws.String(arn), Certificates: []elb.Certificate{c},
		})
		if err != nil && !strings.Contains(codeOf(err), "NotFound") {
			return err
		}
	}
	return nil
}
