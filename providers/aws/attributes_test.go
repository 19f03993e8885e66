package aws

import (
	"errors"
	"strings"
	"testing"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// TestTLSAfterAttributes checks that an attribute that the new protocol does
// not have is not reset, but removed from the record.
func TestTLSAfterAttributes(t *testing.T) {
	a := fakeAccount(t)
	c, s := a.newProvider(t), newService("web", 443)
	annotate("connection-idle-timeout", "400")(s)
	a.ensureService(t, c, s)
	delete(s.Annotations, prefix+"connection-idle-timeout")
	annotate("ssl-cert", a.certificate(t, "a.example.com"))(s)
	a.ensureService(t, c, s)
}

// TestDefaults checks that a removed attribute gets the default of its protocol
// and scheme.
func TestDefaults(t *testing.T) {
	a := fakeAccount(t)
	c, s := a.newProvider(t), newService("web", 80)
	s.Spec.Ports[0].Protocol = corev1.ProtocolUDP
	annotate("scheme", "internal")(s)
	a.ensureService(t, c, s)
	before := a.world(t)
	annotate("attributes", attrDenyIPv6+"=false", "target-group-attributes", attrTerminate+"=false")(s)
	a.ensureService(t, c, s)
	if a.world(t) == before {
		t.Fatal("nothing was changed")
	}
	delete(s.Annotations, prefix+"attributes")
	delete(s.Annotations, prefix+"target-group-attributes")
	a.ensureService(t, c, s)
	if got := a.world(t); got != before {
		t.Errorf("the world is\n%s\nand not\n%s", got, before)
	}
}

// TestAttributesReset checks that a change that failed half-way and is reverted
// leaves nothing.
func TestAttributesReset(t *testing.T) {
	eachAccount(t, func(t *testing.T, a *account) {
		c, s := a.newProvider(t), newService("web", 80)
		annotate("target-group-attributes", attrDelay+"=30")(s)
		a.ensureService(t, c, s)
		before := a.world(t)
		annotate("target-group-attributes", attrDelay+"=60", "cross-zone-load-balancing-enabled", "true")(s)
		a.fail(fault{action: "ModifyLoadBalancerAttributes", times: forever, kind: clientError("AccessDenied")})
		var refusal *v1alpha1.Refusal
		_, err := c.EnsureLoadBalancer(t.Context(), a.cluster, s, a.nodes)
		if !errors.As(err, &refusal) || refusal.Reason != v1alpha1.PermissionDenied {
			t.Fatalf("got %v", err)
		}
		if a.world(t) == before {
			t.Fatal("nothing was changed")
		}
		a.reset()
		annotate("target-group-attributes", attrDelay+"=30")(s)
		delete(s.Annotations, prefix+"cross-zone-load-balancing-enabled")
		a.ensureService(t, c, s)
		if got := a.world(t); got != before {
			t.Errorf("the world is\n%s\nand not\n%s", got, before)
		}
	})
}

// TestAccessLogs checks that access logs end with their annotation, although
// the name of a bucket cannot be reset.
func TestAccessLogs(t *testing.T) {
	eachAccount(t, func(t *testing.T, a *account) {
		c, s := a.newProvider(t), newService("web", 80)
		annotate("access-log-enabled", "true", "access-log-s3-bucket-name", "logs", "access-log-s3-bucket-prefix", "web")(s)
		a.ensureService(t, c, s)
		world := a.world(t)
		if !strings.Contains(world, "access_logs.s3.enabled=true") ||
			!strings.Contains(world, "access_logs.s3.bucket=logs") || !strings.Contains(world, "access_logs.s3.prefix=web") {
			t.Errorf("the world is\n%s", world)
		}
		s.Annotations = nil
		a.ensureService(t, c, s)
		if world := a.world(t); strings.Contains(world, "access_logs.s3.enabled=true") {
			t.Errorf("the world is\n%s", world)
		}
	})
}

// TestRecordsSplitAtCharacters checks that long records are split between
// characters.
func TestRecordsSplitAtCharacters(t *testing.T) {
	for k, v := range recordTags("x", strings.Repeat("é", 300)) {
		if !utf8.ValidString(v) || utf8.RuneCountInString(v) > maxRecord {
			t.Errorf("%s: %d bytes", k, len(v))
		}
	}
}

// TestReservedTags checks that no option can overwrite the tags that identify
// objects.
func TestReservedTags(t *testing.T) {
	for _, key := range []string{tagUID, tagClusterOwned("x"), "aws:name"} {
		if _, err := New(Options{Tags: map[string]string{key: "x"}}); err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("%s: got %v", key, err)
		}
	}
}
