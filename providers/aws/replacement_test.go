package aws

import (
	"errors"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	elbtypes "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

func TestSelectBalancer(t *testing.T) {
	balancer := func(scheme elbtypes.LoadBalancerSchemeEnum, second bool) existingBalancer {
		name := "first"
		if second {
			name = "second"
		}
		return existingBalancer{
			&elbtypes.LoadBalancer{LoadBalancerName: aws.String(name), Scheme: scheme, SecurityGroups: []string{"sg-1"}}, "", second,
		}
	}
	public, internal := elbtypes.LoadBalancerSchemeEnumInternetFacing, elbtypes.LoadBalancerSchemeEnumInternal
	for _, row := range []struct {
		name    string
		have    []existingBalancer
		allowed bool
		want    string // current, old, the name of a new one
	}{
		{"none", nil, false, "none none first"},
		{"the wanted one", []existingBalancer{balancer(internal, false)}, false, "first none first"},
		{"the wanted one by the second name", []existingBalancer{balancer(internal, true)}, false, "second none second"},
		{"another, not allowed", []existingBalancer{balancer(public, false)}, false, "refused"},
		{"another", []existingBalancer{balancer(public, false)}, true, "none first second"},
		{"another by the second name", []existingBalancer{balancer(public, true)}, true, "none second first"},
		{"a replacement on its way", []existingBalancer{balancer(public, false), balancer(internal, true)}, true, "second first second"},
		{"the same, not allowed any more", []existingBalancer{balancer(public, false), balancer(internal, true)}, false, "second first second"},
		{"not wanted any more", []existingBalancer{balancer(internal, false), balancer(public, true)}, true, "first second first"},
		{"neither is wanted", []existingBalancer{balancer(public, false), balancer(public, true)}, true, "refused"},
	} {
		t.Run(row.name, func(t *testing.T) {
			c, refusal := selectBalancer(stack{Scheme: internal, Replaceable: row.allowed}, row.have)
			name := func(b *elbtypes.LoadBalancer) string {
				if b == nil {
					return "none"
				}
				return *b.LoadBalancerName
			}
			got := name(c.current) + " " + name(c.old) + " first"
			if c.second {
				got = name(c.current) + " " + name(c.old) + " second"
			}
			if refusal != nil {
				got = "refused"
			}
			if got != row.want {
				t.Errorf("got %s, want %s", got, row.want)
			}
		})
	}
}

// TestReplacement checks that a load balancer that cannot be changed in place
// is replaced only if that is allowed, and that the new one is created before
// the old one is deleted.
func TestReplacement(t *testing.T) {
	eachAccount(t, func(t *testing.T, a *account) {
		c, s := a.newProvider(t), newService("web", 80)
		old := a.ensureService(t, c, s).Ingress[0].Hostname
		before := a.world(t)
		annotate("scheme", "internal")(s)
		var refusal *v1alpha1.Refusal
		for range 2 {
			_, err := c.EnsureLoadBalancer(t.Context(), a.cluster, s, a.nodes)
			if !errors.As(err, &refusal) || refusal.Reason != v1alpha1.ReplacementRequired {
				t.Fatalf("got %v", err)
			}
		}
		if got := a.world(t); got != before {
			t.Fatalf("the refusal changed the world to\n%s\nfrom\n%s", got, before)
		}
		updateTargets(t, a, c, s, a.nodes[:2]) // its targets are updated nevertheless
		if n := len(a.trafficTargets(t, c.names.firstName(s.UID))[80]); n != 2 {
			t.Errorf("%d targets", n)
		}

		delete(s.Annotations, prefix+"scheme")
		other := a.newProvider(t, func(o *Options) { o.Scheme = "internal" })
		if _, err := other.EnsureLoadBalancer(t.Context(), a.cluster, s, a.nodes); err != nil {
			t.Fatalf("another default scheme changed a load balancer: %v", err)
		}

		annotate("scheme", "internal")(s)
		s.Annotations[v1alpha1.AnnotationAllowReplacement] = "true"
		a.reset()
		status, err := c.EnsureLoadBalancer(t.Context(), a.cluster, s, a.nodes)
		if err != nil {
			t.Fatal(err)
		}
		if a.fake != nil && status.Ingress[0].Hostname != old {
			t.Errorf("%s is shown while the new one is not ready", status.Ingress[0].Hostname)
		}
		for range 20 {
			c.invalidateSync(s.UID)
			if status, err = c.EnsureLoadBalancer(t.Context(), a.cluster, s, a.nodes); err != nil {
				t.Fatal(err)
			}
			if n := len(a.balancers(t)); n != 2 {
				t.Fatalf("%d balancers before the Service has shown the new name", n)
			}
		}
		s.Status.LoadBalancer = *status // as the controller writes it
		for range 20 {
			c.invalidateSync(s.UID)
			if status, err = c.EnsureLoadBalancer(t.Context(), a.cluster, s, a.nodes); err != nil {
				t.Fatal(err)
			}
			c.gracePeriod = 0 // rather than waiting
		}
		if status.Ingress[0].Hostname == old {
			t.Error("the old name is still shown")
		}
		calls := strings.Join(a.calls(), " ")
		if strings.Index(calls, "DeleteLoadBalancer") < strings.Index(calls, "CreateListener") {
			t.Errorf("the old one went too early: %s", calls)
		}
		if all := a.balancers(t); len(all) != 1 || all[0].Scheme != elbtypes.LoadBalancerSchemeEnumInternal {
			t.Errorf("there are %d balancers", len(all))
		}
		if n := len(a.targetGroups(t)); n != 1 {
			t.Errorf("there are %d target groups", n)
		}
		deleteService(t, a, c, s)
		if left := a.leakedObjects(t); len(left) > 0 {
			t.Errorf("there remain %v", left)
		}
	})
}

// TestAddresses checks that the requested addresses of a load balancer cannot
// be changed, and are recorded, because AWS does not list them.
func TestAddresses(t *testing.T) {
	eachAccount(t, func(t *testing.T, a *account) {
		c, s := a.newProvider(t), newService("web", 80)
		annotate("scheme", "internal", "private-ipv4-addresses", "10.0.0.50,10.0.1.50,10.0.2.50")(s)
		a.ensureService(t, c, s)
		c.invalidateSync(s.UID)
		a.ensureService(t, c, s)
		for _, other := range []string{"10.0.0.51,10.0.1.50,10.0.2.50", "10.0.0.50,10.0.1.50,10.0.2.51"} {
			annotate("private-ipv4-addresses", other)(s)
			var refusal *v1alpha1.Refusal
			_, err := c.EnsureLoadBalancer(t.Context(), a.cluster, s, a.nodes)
			if !errors.As(err, &refusal) || refusal.Reason != v1alpha1.ReplacementRequired {
				t.Errorf("%s: got %v", other, err)
			}
		}
		delete(s.Annotations, prefix+"private-ipv4-addresses")
		a.ensureService(t, c, s)
		annotate("private-ipv4-addresses", "10.0.0.50,10.0.1.50,10.0.2.50")(s)
		a.ensureService(t, a.newProvider(t), s)
	})
}
