package controller

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-base/metrics/legacyregistry"

	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/controller/plan"
	"github.com/fairlead-io/fairlead/providers"
)

// nonZeroMetrics are the metrics that are not zero, a line each.
func nonZeroMetrics(t *testing.T) (lines []string) {
	t.Helper()
	families, err := legacyregistry.DefaultGatherer.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if !strings.HasPrefix(f.GetName(), "fairlead_") || strings.HasPrefix(f.GetName(), "fairlead_aws") {
			continue
		}
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetValue())
			}
			if v := m.GetGauge().GetValue(); v != 0 {
				lines = append(lines, fmt.Sprintf("%s{%s} %g", strings.TrimPrefix(f.GetName(), "fairlead_"), strings.Join(labels, ","), v))
			}
		}
	}
	return lines
}

func TestMetrics(t *testing.T) {
	registerMetrics()
	leaderLatencies.Store(nil)
	s := plan.Snapshot{
		Policy:  providers.Policy{Mode: providers.BareMetal},
		Objects: config.Objects{Pools: []*v1alpha1.IPAddressPool{pool("big", "2001:db8::/64"), pool("small", "192.0.2.0/31")}},
		Services: []*corev1.Service{
			service("a"), service("b"), service("c"), // labels are sorted by name: condition, reason; family, pool, state
		},
	}
	for _, step := range []struct {
		name   string
		change func()
		want   []string
	}{
		{"full", func() {}, []string{
			"pool_addresses{ipv4,small,capacity} 2", "pool_addresses{ipv4,small,used} 2",
			"pool_addresses{ipv6,big,capacity} 1.8446744073709552e+19", "pool_addresses{ipv6,big,free} 1.8446744073709552e+19",
			"pool_services{small} 2",
			"services{Announced,NoAddress} 1", "services{Announced,NoSpeaker} 2",
			"services{Provisioned,Assigned} 2", "services{Provisioned,PoolExhausted} 1",
		}},
		{"shrunk", func() {
			desired := plan.Decide(s).ByKey()
			s.Services = []*corev1.Service{desired[key("a")].Written(s.Services[0]), desired[key("b")].Written(s.Services[1])}
			s.Objects.Pools = []*v1alpha1.IPAddressPool{pool("small", "192.0.2.0/32")}
		}, []string{
			"pool_addresses{ipv4,small,capacity} 1", "pool_addresses{ipv4,small,used} 1",
			"pool_out_of_pool_addresses{small} 1", "pool_services{small} 2",
			"services{Announced,NoSpeaker} 2", "services{Provisioned,Assigned} 1", "services{Provisioned,OutOfPool} 1",
		}},
		{"gone", func() { s.Services, s.Objects.Pools = nil, nil }, nil},
	} {
		t.Run(step.name, func(t *testing.T) {
			step.change()
			setMetrics(plan.Decide(s))
			if have := nonZeroMetrics(t); !slices.Equal(have, step.want) {
				t.Errorf("have\n%s\nwant\n%s", strings.Join(have, "\n"), strings.Join(step.want, "\n"))
			}
		})
	}
}
