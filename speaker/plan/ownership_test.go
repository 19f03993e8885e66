package plan

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"pgregory.net/rapid"

	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/fixture"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// managed makes the controller the only manager of the Service's addresses.
var managed = fixture.IngressManagedBy(v1alpha1.FieldManager)

// replaced drops what kubectl replace drops: annotations and finalizers.
func replaced(s *corev1.Service) { s.Annotations, s.Finalizers = nil, nil }

// copied makes the record the one of another Service.
func copied(s *corev1.Service) { s.UID = "another" }

func TestAnnounceableAddresses(t *testing.T) {
	const addr = "192.0.2.7"
	withStatus := func(in ...corev1.LoadBalancerIngress) func(*corev1.Service) {
		return func(s *corev1.Service) { s.Status.LoadBalancer.Ingress = in }
	}
	annotated := func(record string) func(*corev1.Service) {
		return fixture.Annotated(v1alpha1.AnnotationAllocatedFrom, record)
	}
	withClass := func(class string) func(*corev1.Service) {
		return func(s *corev1.Service) { s.Spec.LoadBalancerClass = &class }
	}
	for _, tt := range []struct {
		name    string
		changes []func(*corev1.Service)
		want    string
	}{
		{"a record", nil, addr},
		{"a record, and managed fields that were emptied", []func(*corev1.Service){func(s *corev1.Service) { s.ManagedFields = nil }}, addr},
		{"a record, and another manager", []func(*corev1.Service){fixture.IngressManagedBy("kube-vip")}, addr},
		{"a record, without finalizers", []func(*corev1.Service){func(s *corev1.Service) { s.Finalizers = nil }}, addr},
		{"a record of another address", []func(*corev1.Service){fixture.Recorded("192.0.2.8=p")}, ""},
		{"a record of one of two addresses", []func(*corev1.Service){fixture.WithIPs("192.0.2.8")}, addr},
		{"a record with another UID", []func(*corev1.Service){copied}, ""},
		{"a record without UID", []func(*corev1.Service){annotated(addr + "=p")}, ""},
		{"a record with an empty UID", []func(*corev1.Service){annotated(addr + "=p,uid="), func(s *corev1.Service) { s.UID = "" }}, ""},
		{"a finalizer alone", []func(*corev1.Service){annotated("")}, ""},
		{"a Service that was replaced", []func(*corev1.Service){replaced, managed}, addr},
		{"a Service that was replaced, with two addresses", []func(*corev1.Service){replaced, managed, fixture.WithIPs("192.0.2.8")}, "192.0.2.7 192.0.2.8"},
		{"a Service that was replaced, with a record of another UID", []func(*corev1.Service){copied, managed}, addr},
		{"a Service that was replaced, with emptied managed fields", []func(*corev1.Service){replaced}, ""},
		{
			"a status of two managers",
			[]func(*corev1.Service){replaced, fixture.IngressManagedBy(v1alpha1.FieldManager, "kube-vip")},
			"",
		},
		{"a status of another manager", []func(*corev1.Service){replaced, fixture.IngressManagedBy("kube-vip")}, ""},
		{"a host name", []func(*corev1.Service){managed, withStatus(corev1.LoadBalancerIngress{Hostname: addr})}, ""},
		{"a status that was emptied", []func(*corev1.Service){managed, withStatus()}, ""},
		{"Fairlead's class", []func(*corev1.Service){withClass(v1alpha1.ClassBareMetal)}, addr},
		{"a foreign class, with a record", []func(*corev1.Service){managed, withClass("example.com/lb")}, ""},
		{"a foreign class, with Fairlead's name in the managed fields", []func(*corev1.Service){replaced, managed, withClass("example.com/lb")}, ""},
		{"another type", []func(*corev1.Service){managed, func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeNodePort }}, ""},
		{"being deleted", []func(*corev1.Service){managed, fixture.Deleting}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			svc := service("s", addr, "p", tt.changes...)
			for range 2 { // with all managed fields, and with those that are in the speaker's cache
				var got []string
				for _, a := range AnnounceableAddresses(svc) {
					got = append(got, a.String())
				}
				if strings.Join(got, " ") != tt.want {
					t.Errorf("got %v, want %q", got, tt.want)
				}
				config.StripManagedFields(svc)
			}
		})
	}
}

// TestLawForged checks that a Service without a record of its own changes nothing about
// the addresses that other Services have records of, whatever its status, managed
// fields and traffic policy.
func TestLawForged(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawSnapshot(t)
		var recorded []*corev1.Service
		for _, svc := range s.Services {
			if config.OwnAllocation(svc) != nil {
				recorded = append(recorded, svc)
			}
		}
		if len(recorded) == 0 || len(s.Nodes) == 0 {
			return
		}
		s.Services = recorded
		s.Node = rapid.SampledFrom(s.Nodes).Draw(t, "node").Name
		before := Decide(s)
		addr := rapid.SampledFrom(recorded).Draw(t, "of").Status.LoadBalancer.Ingress[0].IP
		forged := service("forged", addr, rapid.SampledFrom([]string{"p", "q", "r"}).Draw(t, "pool"), managed)
		if rapid.Bool().Draw(t, "replaced") {
			replaced(forged)
		} else {
			copied(forged)
		}
		s.Slices = append(s.Slices, drawEndpoints(t, forged, s.Nodes)...)
		s.Services = slices.Insert(slices.Clone(recorded), rapid.IntRange(0, len(recorded)).Draw(t, "at"), forged)
		if after := Decide(s); !reflect.DeepEqual(before, after) {
			t.Fatalf("before: %+v\nafter:  %+v", before, after)
		}
	})
}
