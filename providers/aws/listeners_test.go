package aws

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// TestCertificates checks that the first certificate is the listener's default,
// and the others are selected by SNI.
func TestCertificates(t *testing.T) {
	eachAccount(t, func(t *testing.T, a *account) {
		first, second, third := a.certificate(t, "a.example.com"), a.certificate(t, "b.example.com"), a.certificate(t, "c.example.com")
		c, s := a.newProvider(t), newService("web", 443)
		for _, certificates := range [][]string{{first, second}, {first, third}, {second}, {first, second, third}} {
			if a.fake == nil && certificates[0] != first {
				continue // moto lists a wrong default certificate after a change
			}
			annotate("ssl-cert", strings.Join(certificates, ","), "ssl-negotiation-policy", "ELBSecurityPolicy-TLS13-1-2-2021-06")(s)
			a.ensureService(t, c, s)
			world := a.world(t)
			for _, arn := range []string{first, second, third} {
				want := false
				for _, x := range certificates {
					want = want || x == arn
				}
				if got := strings.Contains(world, strings.ReplaceAll(arn, a.id, "ACCOUNT")); got != want {
					t.Errorf("%v: %s is there: %t\n%s", certificates, arn, got, world)
				}
			}
		}
	})
}

// TestFiftyPorts checks that a load balancer with all listeners can replace one
// of them.
func TestFiftyPorts(t *testing.T) {
	a := fakeAccount(t)
	var ports []int32
	for i := range int32(maxListeners) {
		ports = append(ports, 1000+i)
	}
	c, s := a.newProvider(t), newService("web", ports...)
	a.ensureService(t, c, s)
	a.reset()
	c.lastSyncOf(s.UID).due = time.Time{}
	c.invalidateLists()
	a.ensureService(t, c, s)
	if n := len(a.calls()); n > 5+len(ports) {
		t.Errorf("a comparison takes %d calls", n)
	}
	s.Spec.Ports[49].Port = 2000
	a.ensureService(t, c, s)
	if n := len(a.listeners(t, *a.balancers(t)[0].LoadBalancerArn)); n != maxListeners {
		t.Errorf("there are %d listeners", n)
	}
}

// TestCertificateRegion checks that a certificate of another region is refused before
// the first call.
func TestCertificateRegion(t *testing.T) {
	eachAccount(t, func(t *testing.T, a *account) {
		c, s := a.newProvider(t), newService("web", 443)
		annotate("ssl-cert", "arn:aws:acm:us-east-1:123456789012:certificate/a")(s)
		_, err := c.EnsureLoadBalancer(t.Context(), a.cluster, s, a.nodes)
		want := "annotation " + prefix + "ssl-cert: certificate arn:aws:acm:us-east-1:123456789012:certificate/a is in region us-east-1, " +
			"and the load balancer in eu-west-1: request or import the certificate there"
		var refusal *v1alpha1.Refusal
		if !errors.As(err, &refusal) || refusal.Reason != v1alpha1.InvalidRequest || refusal.Message != want {
			t.Errorf("got %v, not %s", err, want)
		}
		if calls := a.calls(); len(calls) > 0 {
			t.Errorf("called %v", calls)
		}
	})
}
