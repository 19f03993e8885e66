package cmd_test

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"sigs.k8s.io/yaml"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// TestPolicyProtectsAllRecords checks that each expression of the
// ValidatingAdmissionPolicy fairlead-records that lists the records lists all of them,
// and that its message names the annotations to use instead.
func TestPolicyProtectsAllRecords(t *testing.T) {
	manifest, err := os.ReadFile("../deploy/policy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	first, _, _ := strings.Cut(string(manifest), "\n---\n")
	var policy admissionregistrationv1.ValidatingAdmissionPolicy
	if err := yaml.UnmarshalStrict([]byte(first), &policy); err != nil {
		t.Fatal(err)
	}
	if len(policy.Spec.MatchConditions) != 1 || len(policy.Spec.Validations) != 1 {
		t.Fatalf("the policy has %d conditions and %d validations, want one of each",
			len(policy.Spec.MatchConditions), len(policy.Spec.Validations))
	}
	message := policy.Spec.Validations[0].MessageExpression
	want := slices.Sorted(slices.Values(v1alpha1.RecordAnnotations[:]))
	name := regexp.MustCompile(`'(` + regexp.QuoteMeta(v1alpha1.GroupVersion.Group) + `/[a-z-]+)'`)
	for field, expression := range map[string]string{
		"the match condition": policy.Spec.MatchConditions[0].Expression, "the message": message,
	} {
		var listed []string
		for _, match := range name.FindAllStringSubmatch(expression, -1) {
			listed = append(listed, match[1])
		}
		if slices.Sort(listed); !slices.Equal(listed, want) {
			t.Errorf("%s lists %q, but v1alpha1.RecordAnnotations has %q", field, listed, want)
		}
	}
	for _, instead := range []string{v1alpha1.AnnotationLoadBalancerIPs, v1alpha1.AnnotationAddressPool} {
		if !strings.Contains(message, instead) {
			t.Errorf("the message does not name %s: %s", instead, message)
		}
	}
}
