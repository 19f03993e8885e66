package controller

import (
	"fmt"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

func TestChangesOf(t *testing.T) {
	for _, row := range []struct {
		name     string
		services []string // NAME SHOWN PLANNED, "-" is no address
		want     [][]string
	}{
		{"nothing moves", []string{"a - .1", "b .2 .2", "c - .3"}, [][]string{{"a .1", "c .3"}}},
		{"let go, then given", []string{"a - .1", "b .1 .2", "c - .3"}, [][]string{{"b .2", "c .3"}, {"a .1"}}},
		{"one after the other", []string{"a .1 .2", "b .2 .3", "c .3 -"}, [][]string{{"c -"}, {"b .3"}, {"a .2"}}},
		{"in exchange", []string{"a .1 .2", "b .2 .1", "c - .3"}, [][]string{{"c .3"}, {"a -", "b -"}}},
	} {
		t.Run(row.name, func(t *testing.T) {
			var services []*corev1.Service
			plans := map[types.NamespacedName]ServicePlan{}
			for _, text := range row.services {
				var name, shown, planned string
				if _, err := fmt.Sscan(text, &name, &shown, &planned); err != nil {
					t.Fatal(err)
				}
				p := ServicePlan{Serves: true, Conditions: []metav1.Condition{condition(v1alpha1.ConditionProvisioned, metav1.ConditionTrue, v1alpha1.Assigned, "")}}
				svc := service(name)
				if shown != "-" {
					holding("192.0.2" + shown)(svc)
				}
				if planned != "-" {
					p.Ingress = []corev1.LoadBalancerIngress{{IP: "192.0.2" + planned}}
					p.AllocatedFrom = "192.0.2" + planned + "=p"
				}
				if shown == planned {
					svc = written(svc, p)
				}
				services, plans[keyOf(svc)] = append(services, svc), p
			}
			var got [][]string
			for _, round := range changesOf(services, plans) {
				var names []string
				for _, c := range round {
					addr := "-"
					if len(c.plan.Ingress) > 0 {
						addr = c.plan.Ingress[0].IP[len("192.0.2"):]
					}
					if recorded := c.plan.AllocatedFrom != ""; recorded != (addr != "-") {
						t.Errorf("%s: recorded is %q", c.svc.Name, c.plan.AllocatedFrom)
					}
					names = append(names, c.svc.Name+" "+addr)
				}
				got = append(got, names)
			}
			if !slices.EqualFunc(got, row.want, slices.Equal) {
				t.Errorf("got %q, want %q", got, row.want)
			}
		})
	}
}
