package plan

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/providers"
)

// served is a cluster of n Services that show the addresses they have, each
// with the little that every Service carries.
func served(n int) Snapshot {
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
		settled := served(n)
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
	s := served(10_000)
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
				if got := o.Over(s.Services, "50000"); len(got) != len(s.Services) {
					b.Fatal(len(got))
				}
			}
		})
	}
}

// BenchmarkQuick is a quick decision about one new Service, beside n others
// with gaps between their addresses, and what a full pass does for it.
func BenchmarkQuick(b *testing.B) {
	for _, every := range []int{1, 2} {
		s := served(10_000)
		kept := s.Services[:0:0]
		for i, svc := range s.Services {
			if i%every == 0 {
				kept = append(kept, svc)
			}
		}
		s.Services = kept
		var planner Planner
		plan := planner.Decide(s)
		b.Run(fmt.Sprintf("services=%d/decide", len(kept)), func(b *testing.B) {
			b.ReportAllocs()
			w := planner.Incremental(s, plan)
			for b.Loop() {
				if _, ok := w.Decide([]*corev1.Service{service("zz")}, time.Time{}); !ok {
					b.Fatal("not quick")
				}
			}
		})
		b.Run(fmt.Sprintf("services=%d/settle", len(kept)), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				planner.Incremental(s, plan)
			}
		})
	}
}
