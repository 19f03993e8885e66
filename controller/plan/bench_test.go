package plan

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/fixture"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/providers"
)

// assignedSnapshot is a cluster of n Services that show the addresses they have, each
// with the little that every Service carries.
func assignedSnapshot(n int) Snapshot {
	s := Snapshot{
		Policy:  providers.Policy{Mode: providers.BareMetal},
		Objects: config.Objects{Pools: []*v1alpha1.IPAddressPool{pool("p", "10.0.0.0/16"), pool("q", "10.1.0.0/16")}},
		Nodes:   []*corev1.Node{readyNode("n1"), readyNode("n2"), readyNode("n3")},
	}
	for i := range n {
		svc := service(fmt.Sprintf("s%05d", i))
		svc.CreationTimestamp = metav1.Unix(int64(1_700_000_000+i/50), 0)
		svc.UID, svc.ResourceVersion = types.UID(fmt.Sprintf("uid-%d", i)), fmt.Sprint(i+1)
		svc.Spec.Ports = []corev1.ServicePort{{Port: 443, Protocol: corev1.ProtocolTCP}}
		s.Services = append(s.Services, svc)
	}
	plan := Decide(s)
	for i, p := range plan.Services {
		s.Services[i] = p.Plan.Written(p.Service)
	}
	return s
}

// BenchmarkDecide is a full pass over n Services: all of them have their
// addresses, or one of them is new.
func BenchmarkDecide(b *testing.B) {
	for _, n := range []int{1_000, 10_000} {
		settled := assignedSnapshot(n)
		fresh := settled
		fresh.Services = append([]*corev1.Service{service("zz")}, settled.Services...)
		for _, c := range []struct {
			name string
			in   Snapshot
		}{{"settled", settled}, {"one-new", fresh}} {
			b.Run(fmt.Sprintf("services=%d/%s", n, c.name), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					plan := Decide(c.in)
					if want := len(c.in.Services) - n; len(plan.Changes) != want {
						b.Fatalf("%d changes, want %d", len(plan.Changes), want)
					}
				}
			})
		}
	}
}

// BenchmarkOverlay is what a pass does before it decides: the cache's objects, as
// seen through the own writes of a burst.
func BenchmarkOverlay(b *testing.B) {
	s := assignedSnapshot(10_000)
	for _, ahead := range []int{0, 1_000} {
		b.Run(fmt.Sprintf("services=10000/ahead=%d", ahead), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				o := &Overlay{}
				for _, svc := range s.Services[:ahead] {
					own := *svc
					own.ResourceVersion = "99999"
					o.Observe(&own)
				}
				if got := o.Merge(s.Services, "50000"); len(got) != len(s.Services) {
					b.Fatal(len(got))
				}
			}
		})
	}
}

// largeCluster has 1,000 nodes with a speaker each, 50 pools of 1,024 entries,
// and n Services that show what they have, half of them announced.
func largeCluster(n int) Snapshot {
	s := Snapshot{Policy: providers.Policy{Mode: providers.BareMetal}, Nodes: fixture.LargeNodes(1000), Services: fixture.LargeServices(n)}
	s.Objects.Pools = fixture.LargePools()
	settle := func() {
		for i, p := range Decide(s).Services {
			s.Services[i] = p.Plan.Written(p.Service)
		}
	}
	settle()
	s.Objects.L2Advertisements = []*v1alpha1.L2Advertisement{{ObjectMeta: metav1.ObjectMeta{Name: "all"}}}
	s.Speakers, s.L2Nodes = fixture.LargeReports(s.Nodes, s.Services[:n/2])
	settle()
	return s
}

// BenchmarkSync is what a sync of 10,000 settled Services costs in a large
// cluster: a full sync in which nothing, one Service, or one report has changed,
// and an incremental one for one new Service.
func BenchmarkSync(b *testing.B) {
	s := largeCluster(10_000)
	var planner Planner
	full := func(b *testing.B) {
		if plan := planner.Decide(s); len(plan.Changes) != 0 || len(plan.Services) != len(s.Services) {
			b.Fatalf("%d changes in %d Services", len(plan.Changes), len(plan.Services))
		}
	}
	b.Run("full/nothing-changed", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			full(b)
		}
	})
	b.Run("full/a-service-changed", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			changed := *s.Services[len(s.Services)/2]
			s.Services[len(s.Services)/2] = &changed
			full(b)
		}
	})
	b.Run("full/a-report-changed", func(b *testing.B) {
		b.ReportAllocs()
		version := 1
		for b.Loop() {
			version++
			changed := *s.Speakers[500]
			changed.ResourceVersion = fmt.Sprint(version)
			s.Speakers[500] = &changed
			full(b)
		}
	})
	b.Run("incremental/one-new", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			if i%200 == 0 { // before the last pool in use is exhausted
				b.StopTimer()
				planner.Decide(s)
				b.StartTimer()
			}
			if planned, ok := planner.DecideChanged([]*corev1.Service{service(fmt.Sprintf("z%05d", i))}, time.Time{}); !ok || len(planned) != 1 {
				b.Fatal("needs a full sync")
			}
		}
	})
}
