package uninstall

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/fairlead-io/fairlead/config/fixture"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// served returns a Service with everything that the controller writes on bare metal.
func served(name, addr string) *corev1.Service {
	return fixture.Assigned(name, addr, "lan", func(s *corev1.Service) {
		s.Annotations[v1alpha1.AnnotationAddressPool] = "lan"
		s.Finalizers = []string{v1alpha1.FinalizerBareMetal, "example.com/backup", v1alpha1.FinalizerCleanup}
		s.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionProvisioned}, {Type: "example.com/Other"}}
	})
}

func onAWS(s *corev1.Service) {
	s.Annotations[v1alpha1.AnnotationLoadBalancer] = v1alpha1.FormatLoadBalancer("prod", s.UID)
	fixture.WithHosts("lb.example.com")(s)
}

func TestPlan(t *testing.T) {
	foreign := fixture.Service("foreign", fixture.WithIPs("192.0.2.9"), func(s *corev1.Service) {
		s.Finalizers = []string{v1alpha1.FinalizerCleanup}
	})
	found := installation{services: []*corev1.Service{
		served("a", "192.0.2.1"), fixture.Service("balanced", onAWS), foreign,
		fixture.Service("traces", func(s *corev1.Service) { s.Finalizers = []string{v1alpha1.FinalizerAWS} }),
	}}
	for _, row := range []struct{ addresses, keeps, releases string }{{Keep, "192.0.2.1", ""}, {Release, "", "192.0.2.1"}} {
		p := newPlan(found, Options{Addresses: row.addresses})
		if len(p.LoadBalancers) != 1 || p.LoadBalancers[0] != (LoadBalancer{"ns/balanced", "lb.example.com", "prod"}) {
			t.Errorf("load balancers %+v", p.LoadBalancers)
		}
		if len(p.Services) != 2 || p.Services[0].Service != "ns/a" || p.Services[1].Service != "ns/traces" {
			t.Fatalf("Services %+v", p.Services)
		}
		a := p.Services[0]
		if strings.Join(a.Addresses, ",") != row.keeps || strings.Join(a.Released, ",") != row.releases {
			t.Errorf("%s: keeps %v, releases %v", row.addresses, a.Addresses, a.Released)
		}
		want := []string{v1alpha1.AnnotationAllocatedFrom, v1alpha1.FinalizerBareMetal, v1alpha1.FinalizerCleanup, v1alpha1.ConditionProvisioned}
		if !slices.Equal(a.Removes, want) {
			t.Errorf("removes %v, want %v", a.Removes, want)
		}
	}
}

// TestReleaseKeepsAddressesOfOthers: only addresses that Fairlead has assigned are released.
func TestReleaseKeepsAddressesOfOthers(t *testing.T) {
	svc := fixture.Service("a", fixture.WithIPs("198.51.100.7", "192.0.2.1"), fixture.Recorded("192.0.2.1=lan"))
	if got := releasedService(svc, Release).Status.LoadBalancer.Ingress; len(got) != 1 || got[0].IP != "198.51.100.7" {
		t.Errorf("the status has %v", got)
	}
}

// TestReleasePatch: the patch contains the ingress only if it changes, because a patch
// changes the field manager, and keeps what others have written.
func TestReleasePatch(t *testing.T) {
	for addresses, patchesIngress := range map[string]bool{Keep: false, Release: true} {
		svc := served("a", "192.0.2.1")
		after := releasedService(svc, addresses)
		var patch struct {
			Metadata metav1.ObjectMeta
			Status   map[string]json.RawMessage
		}
		if err := json.Unmarshal(releasePatch(svc, after), &patch); err != nil {
			t.Fatal(err)
		}
		if _, has := patch.Status["loadBalancer"]; has != patchesIngress {
			t.Errorf("%s: the patch has the ingress: %t", addresses, has)
		}
		if patch.Metadata.UID != svc.UID || !slices.Equal(patch.Metadata.Finalizers, []string{"example.com/backup"}) {
			t.Errorf("%s: metadata %+v", addresses, patch.Metadata)
		}
		if text := string(patch.Status["conditions"]); strings.Contains(text, "fairlead.io") || !strings.Contains(text, "example.com/Other") {
			t.Errorf("%s: conditions %s", addresses, text)
		}
		if releasedService(after, addresses) != nil {
			t.Errorf("%s: a second run changes it again", addresses)
		}
	}
}

// TestEveryObjectIsFound: every object of the manifests is one that is deleted: of a
// listed kind, or in the namespace.
func TestEveryObjectIsFound(t *testing.T) {
	files, err := filepath.Glob("../../../deploy/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("found no manifests: %v", err)
	}
	listed := func(kind, namespace string) bool {
		return namespace == systemNamespace || slices.ContainsFunc(slices.Concat(workloadResources, objectResources), func(r resource) bool {
			return r.kind == kind && r.namespace == namespace
		})
	}
	seen := 0
	for _, file := range files {
		if filepath.Base(file) == "kustomization.yaml" {
			continue
		}
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, document := range strings.Split(string(content), "\n---\n") {
			var o metav1.PartialObjectMetadata
			if err := yaml.Unmarshal([]byte(document), &o); err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			if seen++; !listed(o.Kind, o.Namespace) {
				t.Errorf("%s: %s %s in namespace %q is not deleted by fairlead uninstall", file, o.Kind, o.Name, o.Namespace)
			}
		}
	}
	if seen < 10 {
		t.Errorf("found only %d objects", seen)
	}
}
