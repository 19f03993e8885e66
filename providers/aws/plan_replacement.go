package aws

import (
	"fmt"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// replacement says which change cannot be made to the balancer that there is,
// given its recorded addresses; "" if all can.
func replacement(want stack, have elb.LoadBalancer, addresses string) string {
	switch {
	case have.Scheme != "" && have.Scheme != want.Scheme && !want.AnyScheme:
		return fmt.Sprintf("the scheme from %s to %s", have.Scheme, want.Scheme)
	case want.NoGroups && len(have.SecurityGroups) > 0:
		return "to no security groups"
	case !want.NoGroups && len(have.SecurityGroups) == 0:
		return "to security groups"
	}
	for _, a := range strings.Fields(addresses) {
		if asked := want.addresses(); len(asked) > 0 && !slices.Contains(asked, a) {
			return "the addresses to " + strings.Join(asked, ", ")
		}
	}
	if asked := want.addresses(); len(asked) > 0 && addresses == "" {
		return "the addresses to " + strings.Join(asked, ", ")
	}
	return ""
}

// addresses are those that a Service asks for, in the form in which they are
// recorded: AWS does not always list those that a balancer has.
func (s stack) addresses() []string {
	return slices.Sorted(slices.Values(append(slices.Clone(s.EIPs), s.Private...)))
}

// candidate is a balancer that there is.
type candidate struct {
	balancer  *elb.LoadBalancer
	addresses string // as they were recorded
	second    bool   // it has the second of the Service's two names
}

// choice is which balancer is the wanted one: current, or a new one by the
// first or second name; and which one it replaces.
type choice struct {
	current, old *elb.LoadBalancer
	second       bool
}

// pick decides which balancer is the one that is wanted, and which one it
// replaces. A balancer that cannot be changed into the wanted one is replaced
// only where that is allowed.
func pick(want stack, have []candidate) (choice, *v1alpha1.Refusal) {
	unchangeable := func(c candidate) string { return replacement(want, *c.balancer, c.addresses) }
	refuse := func(reason v1alpha1.Reason, format string, args ...any) (choice, *v1alpha1.Refusal) {
		return choice{}, &v1alpha1.Refusal{Reason: reason, Message: fmt.Sprintf(format, args...)}
	}
	if len(have) == 0 {
		return choice{}, nil
	}
	x := have[0]
	name := aws.ToString(x.balancer.LoadBalancerName)
	why := unchangeable(x)
	if len(have) > 1 { // a replacement is on its way, and may not be wanted any more
		y := have[1]
		if why != "" {
			x, y = y, x
		}
		name = aws.ToString(x.balancer.LoadBalancerName)
		if why = unchangeable(x); why != "" {
			return refuse(v1alpha1.ReplacementRequired, "AWS cannot change %s on balancer %s, which is still being replaced", why, name)
		}
		return choice{x.balancer, y.balancer, x.second}, nil
	}
	switch {
	case why == "" && want.PreferDual && x.balancer.IpAddressType == elb.IpAddressTypeDualstack && want.hasUDP():
		return refuse(v1alpha1.InvalidRequest, "%s", noUDP)
	case why == "":
		return choice{x.balancer, nil, x.second}, nil
	case !want.Replaceable:
		return refuse(v1alpha1.ReplacementRequired, "AWS cannot change %s on balancer %s; the annotation %s: \"true\" allows a new one, with another host name",
			why, name, v1alpha1.AnnotationAllowReplacement)
	}
	return choice{nil, x.balancer, !x.second}, nil
}
