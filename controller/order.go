package controller

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// change is what is to be written on a Service.
type change struct {
	svc  *corev1.Service
	plan ServicePlan
}

// gives are the addresses that the Service does not show yet.
func (c change) gives() []netip.Addr {
	shown := shownBy(c.svc.Status.LoadBalancer.Ingress)
	return slices.DeleteFunc(shownBy(c.plan.Ingress), func(a netip.Addr) bool { return slices.Contains(shown, a) })
}

// takes are the addresses that the Service will not show any more.
func (c change) takes() []netip.Addr {
	if len(c.svc.Status.LoadBalancer.Ingress) == 0 || !c.plan.Serves {
		return nil
	}
	kept := shownBy(c.plan.Ingress)
	return slices.DeleteFunc(shownBy(c.svc.Status.LoadBalancer.Ingress), func(a netip.Addr) bool { return slices.Contains(kept, a) })
}

// changesOf are what is to be written, in rounds: an address that a Service lets
// go is given to another one when the first has been written. A controller that
// dies in between, or fails, would leave both with it otherwise.
func changesOf(services []*corev1.Service, plans map[types.NamespacedName]ServicePlan) (rounds [][]change) {
	var left []change
	for _, svc := range services {
		if p, ok := plans[keyOf(svc)]; ok && !p.matches(svc) {
			left = append(left, change{svc, p})
		}
	}
	for len(left) > 0 {
		let := map[netip.Addr]types.NamespacedName{}
		for _, c := range left {
			for _, a := range c.takes() {
				let[a] = keyOf(c.svc)
			}
		}
		var now, later []change
		for _, c := range left {
			if slices.ContainsFunc(c.gives(), func(a netip.Addr) bool { _, waits := let[a]; return waits }) {
				later = append(later, c)
			} else {
				now = append(now, c)
			}
		}
		if len(now) == 0 { // each waits for another one: they give up first
			for i := range later {
				later[i].plan = later[i].plan.without(let)
			}
			now, later = later, nil
		}
		rounds, left = append(rounds, now), later
	}
	return rounds
}

// without is the plan without addresses that other Services show still. They
// come with the next decision.
func (p ServicePlan) without(shown map[netip.Addr]types.NamespacedName) ServicePlan {
	var records []string
	for record := range strings.SplitSeq(p.AllocatedFrom, ",") {
		text, _, _ := strings.Cut(record, "=")
		if a, err := netip.ParseAddr(text); err != nil || shown[a].Name == "" {
			records = append(records, record)
		}
	}
	p.AllocatedFrom = strings.Join(records, ",")
	var kept []corev1.LoadBalancerIngress
	for _, in := range p.Ingress {
		a, err := netip.ParseAddr(in.IP)
		if err == nil && shown[a].Name != "" {
			why := condition(v1alpha1.ConditionProvisioned, metav1.ConditionFalse, v1alpha1.AddressTaken, fmt.Sprintf("%s belongs to Service %s until it has let go", a, shown[a]))
			p.Conditions = append([]metav1.Condition{why}, p.Conditions[1:]...)
			continue
		}
		kept = append(kept, in)
	}
	p.Ingress = kept
	return p
}
