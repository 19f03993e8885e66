package controller

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/fairlead-io/fairlead/config/fixture"
	"github.com/fairlead-io/fairlead/controller/plan"
	"github.com/fairlead-io/fairlead/providers"
)

// BenchmarkSync measures syncs, from the caches to the changes, with 10,000
// settled LoadBalancers, 50,000 other Services, 1,000 nodes with reports of 5,000
// addresses that make no ranges, and 50 pools of 1,024 entries.
func BenchmarkSync(b *testing.B) {
	c := newTestController(b)
	c.policy = providers.Policy{Mode: providers.BareMetal}
	add := func(i cache.SharedIndexInformer, object any) {
		if err := i.GetStore().Add(object); err != nil {
			b.Fatal(err)
		}
	}
	for _, p := range fixture.LargePools() {
		add(c.kinds.Pools.SharedIndexInformer, p)
	}
	nodes, services := fixture.LargeNodes(1000), fixture.LargeServices(10_000)
	for _, n := range nodes {
		add(c.nodes, n)
	}
	for i := range 50_000 {
		add(c.services, fixture.Service(fmt.Sprintf("other-%05d", i), func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeClusterIP }))
	}
	settle := func() {
		for _, svc := range services {
			add(c.services, svc)
		}
		desired := plan.Decide(c.snapshot()).ByKey()
		for i, svc := range services {
			services[i] = desired[plan.KeyOf(svc)].Written(svc)
			add(c.services, services[i])
		}
	}
	settle()
	speakers, l2nodes := fixture.LargeReports(nodes, services[:5000])
	for i := range nodes {
		add(c.kinds.Speakers.SharedIndexInformer, speakers[i])
		add(c.kinds.L2Nodes.SharedIndexInformer, l2nodes[i])
	}
	settle()

	full := func() {
		snapshot := c.snapshot()
		desired := c.planner.Decide(snapshot)
		if len(desired.Changes) != 0 || len(desired.Services) != len(services) {
			b.Fatalf("%d changes in %d Services", len(desired.Changes), len(desired.Services))
		}
		setMetrics(desired)
	}
	b.Run("full", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			changed := *services[5000]
			add(c.services, &changed)
			full()
		}
	})
	b.Run("incremental", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			if i%200 == 0 { // before the last pool in use is exhausted
				b.StopTimer()
				full()
				b.StartTimer()
			}
			added := fixture.Service(fmt.Sprintf("z%05d", i))
			planned, ok := c.planner.DecideChanged([]*corev1.Service{c.ownWrites.newest(added)}, time.Time{})
			if !ok || len(planned) != 1 {
				b.Fatal("needs a full sync")
			}
		}
	})
}
