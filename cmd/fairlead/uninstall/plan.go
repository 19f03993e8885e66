// Package uninstall removes Fairlead from a cluster: it stops the workloads, releases
// the Services, and deletes all objects that the manifests have created.
//
// plan.go computes what is changed, from the objects of the cluster; it is pure.
// cluster.go reads the objects, run.go makes the changes, text.go prints the plan.
// Nothing is remembered between two runs: an uninstallation that was interrupted is
// completed by another run, which finds less to do.
package uninstall

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	controllerplan "github.com/fairlead-io/fairlead/controller/plan"
)

// What happens to the addresses in the status of Services.
const (
	Keep    = "keep"
	Release = "release"
)

// AddressPolicies are the values of Options.Addresses, the default one first.
var AddressPolicies = []string{Keep, Release}

// Options are the user's choices.
type Options struct {
	// Addresses is Keep or Release.
	Addresses string
	// DeleteLoadBalancers deletes the load balancers in AWS. Without it, a Plan with
	// LoadBalancers cannot be applied.
	DeleteLoadBalancers bool
}

// Plan is what an uninstallation changes.
type Plan struct {
	Addresses     string         `json:"addresses"`
	LoadBalancers []LoadBalancer `json:"loadBalancers"`
	Services      []Service      `json:"services"`
	Workloads     []string       `json:"workloads"`
	Objects       []string       `json:"objects"`

	balancers []*corev1.Service
	found     installation
}

// IsEmpty reports whether nothing of Fairlead was found.
func (p Plan) IsEmpty() bool {
	return len(p.LoadBalancers)+len(p.Services)+len(p.Workloads)+len(p.Objects) == 0
}

// LoadBalancer is a load balancer in AWS that may exist.
type LoadBalancer struct {
	Service string `json:"service"`
	Host    string `json:"host"` // "" if the status has none
	Cluster string `json:"cluster"`
}

// Service is a Service with anything that Fairlead has written.
type Service struct {
	Service   string   `json:"service"`
	Addresses []string `json:"addresses"` // in the status after the change
	Released  []string `json:"released"`  // addresses that are removed from the status
	Removes   []string `json:"removes"`   // annotations, finalizers and types of conditions
}

// newPlan returns the plan for what was found in the cluster.
func newPlan(found installation, o Options) Plan {
	p := Plan{
		Addresses: o.Addresses, LoadBalancers: []LoadBalancer{}, Services: []Service{}, Workloads: []string{}, Objects: []string{}, found: found,
	}
	for _, svc := range found.services {
		if v1alpha1.MayHaveLoadBalancer(svc) {
			p.balancers = append(p.balancers, svc)
			b := LoadBalancer{Service: keyOf(svc), Cluster: v1alpha1.LoadBalancerCluster(svc)}
			for _, in := range svc.Status.LoadBalancer.Ingress {
				b.Host = cmp.Or(b.Host, in.Hostname)
			}
			p.LoadBalancers = append(p.LoadBalancers, b)
			continue
		}
		if after := releasedService(svc, o.Addresses); after != nil {
			p.Services = append(p.Services, describeChange(svc, after))
		}
	}
	for _, w := range found.workloads {
		p.Workloads = append(p.Workloads, w.String())
	}
	for _, o := range found.objects {
		p.Objects = append(p.Objects, o.String())
	}
	return p
}

// releasedService returns the Service without anything that only Fairlead writes, nil
// if it has nothing of that kind.
func releasedService(svc *corev1.Service, addresses string) *corev1.Service {
	after := controllerplan.Released(svc)
	if addresses == Keep {
		after.Status.LoadBalancer = svc.Status.LoadBalancer
	} else if !v1alpha1.OwnsIngress(svc) { // an apply would not remove what another controller has written
		kept := slices.Clone(svc.Status.LoadBalancer.Ingress)
		after.Status.LoadBalancer.Ingress = slices.DeleteFunc(kept, func(in corev1.LoadBalancerIngress) bool {
			addr, err := config.ParseAddr(in.IP)
			return err == nil && config.Recorded(svc, addr)
		})
	}
	changed := len(after.Finalizers) < len(svc.Finalizers) || len(after.Annotations) < len(svc.Annotations) ||
		len(after.Status.Conditions) < len(svc.Status.Conditions) ||
		len(after.Status.LoadBalancer.Ingress) < len(svc.Status.LoadBalancer.Ingress)
	if !changed {
		return nil
	}
	return after
}

func describeChange(svc, after *corev1.Service) Service {
	s := Service{Service: keyOf(svc), Addresses: []string{}, Released: []string{}, Removes: removedAnnotations(svc, after)}
	for _, in := range svc.Status.LoadBalancer.Ingress {
		isSame := func(kept corev1.LoadBalancerIngress) bool { return kept.IP == in.IP && kept.Hostname == in.Hostname }
		if slices.ContainsFunc(after.Status.LoadBalancer.Ingress, isSame) {
			s.Addresses = append(s.Addresses, cmp.Or(in.IP, in.Hostname))
		} else {
			s.Released = append(s.Released, cmp.Or(in.IP, in.Hostname))
		}
	}
	for _, f := range svc.Finalizers {
		if !slices.Contains(after.Finalizers, f) {
			s.Removes = append(s.Removes, f)
		}
	}
	for _, c := range svc.Status.Conditions {
		if !slices.ContainsFunc(after.Status.Conditions, func(kept metav1.Condition) bool { return kept.Type == c.Type }) {
			s.Removes = append(s.Removes, c.Type)
		}
	}
	return s
}

func removedAnnotations(svc, after *corev1.Service) (removed []string) {
	for _, name := range slices.Sorted(maps.Keys(svc.Annotations)) {
		if _, kept := after.Annotations[name]; !kept {
			removed = append(removed, name)
		}
	}
	return removed
}

// releasePatch is a JSON merge patch of the status subresource that changes the
// Service to after. It applies to this version of the Service only (optimistic locking).
func releasePatch(svc, after *corev1.Service) []byte {
	annotations := map[string]any{}
	for _, name := range removedAnnotations(svc, after) {
		annotations[name] = nil // removes it
	}
	status := map[string]any{"conditions": after.Status.Conditions}
	// A field that is not in the patch keeps its field manager, which proves after
	// another installation that the addresses are Fairlead's.
	if len(after.Status.LoadBalancer.Ingress) < len(svc.Status.LoadBalancer.Ingress) {
		status["loadBalancer"] = map[string]any{"ingress": after.Status.LoadBalancer.Ingress}
	}
	return encodePatch(map[string]any{
		"metadata": map[string]any{
			"uid": svc.UID, "resourceVersion": svc.ResourceVersion, "finalizers": after.Finalizers, "annotations": annotations,
		},
		"status": status,
	})
}

// providerPatch is a JSON merge patch that requests the release of the Service from
// the controller, which deletes its load balancer.
func providerPatch(svc *corev1.Service) []byte {
	return encodePatch(map[string]any{"metadata": map[string]any{
		"uid": svc.UID, "annotations": map[string]any{v1alpha1.AnnotationProvider: "none"},
	}})
}

func encodePatch(content map[string]any) []byte {
	body, err := json.Marshal(content)
	if err != nil {
		panic(fmt.Sprintf("encode a patch: %v", err)) // API types always encode
	}
	return body
}

func keyOf(svc *corev1.Service) string { return svc.Namespace + "/" + svc.Name }
