package plan

import (
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// Change is what is to be written on a Service.
type Change struct {
	Service *corev1.Service
	Plan    ServicePlan
}

// gains are the addresses that the Service does not show yet.
func (c Change) gains() []netip.Addr {
	shown := shownBy(c.Service.Status.LoadBalancer.Ingress)
	return slices.DeleteFunc(shownBy(c.Plan.Ingress), func(a netip.Addr) bool { return slices.Contains(shown, a) })
}

// unsettled are the addresses that others may not be given before this is
// written: those that the Service will not show any more, and all that it shares
// under new terms.
func (c Change) unsettled() []netip.Addr {
	if len(c.Service.Status.LoadBalancer.Ingress) == 0 || !c.Plan.Serves {
		return nil
	}
	shown, kept := shownBy(c.Service.Status.LoadBalancer.Ingress), shownBy(c.Plan.Ingress)
	if c.Plan.SharedAs != c.Service.Annotations[v1alpha1.AnnotationSharedAs] {
		return shown
	}
	return slices.DeleteFunc(shown, func(a netip.Addr) bool { return slices.Contains(kept, a) })
}

// Rounds are what is to be written, in rounds: an address is given to a
// Service when what another one says of it has been written. A controller that
// dies in between, or fails, would leave both with it otherwise.
func Rounds(services []*corev1.Service, plans map[types.NamespacedName]ServicePlan) (rounds [][]Change) {
	var left []Change
	for _, svc := range services {
		if p, ok := plans[KeyOf(svc)]; ok && !p.Matches(svc) {
			left = append(left, Change{svc, p})
		}
	}
	for len(left) > 0 {
		by := map[netip.Addr]types.NamespacedName{}
		for _, c := range left {
			for _, a := range c.unsettled() {
				by[a] = KeyOf(c.Service)
			}
		}
		var now, later []Change
		for _, c := range left {
			if slices.ContainsFunc(c.gains(), func(a netip.Addr) bool { _, waits := by[a]; return waits }) {
				later = append(later, c)
			} else {
				now = append(now, c)
			}
		}
		if len(now) == 0 { // each waits for another one; the rest comes with the next decision
			for _, c := range later {
				if c.Plan = c.meanwhile(by); !c.Plan.Matches(c.Service) {
					now = append(now, c)
				}
			}
			later = nil
		}
		rounds, left = append(rounds, now), later
	}
	return rounds
}

// meanwhile is the plan for a Service that waits for addresses which others
// show: it keeps what it shows, but for what it must give up anyway.
func (c Change) meanwhile(by map[netip.Addr]types.NamespacedName) ServicePlan {
	p := c.Plan
	p.Ingress, p.AllocatedFrom, p.Leaving = nil, "", ""
	pools, leaving := config.ReadRecords(c.Service.Annotations[v1alpha1.AnnotationAllocatedFrom]), config.ReadRecords(c.Service.Annotations[v1alpha1.AnnotationLeaving])
	for _, in := range c.Service.Status.LoadBalancer.Ingress {
		a, err := config.ParseAddr(in.IP)
		if err != nil || slices.Contains(p.GivesUp, a) {
			continue
		}
		p.Ingress = append(p.Ingress, in)
		if pool, ok := pools.Of(a); ok {
			p.AllocatedFrom = appended(p.AllocatedFrom, in.IP+"="+pool)
		}
		if since, ok := leaving.Of(a); ok {
			p.Leaving = appended(p.Leaving, in.IP+"="+since)
		}
	}
	for _, a := range c.gains() {
		if other, waits := by[a]; waits {
			why := condition(v1alpha1.ConditionProvisioned, metav1.ConditionFalse, v1alpha1.AddressTaken, fmt.Sprintf("%s belongs to Service %s until that has let go", a, other))
			p.Conditions = append([]metav1.Condition{why}, p.Conditions[1:]...)
			break
		}
	}
	return p
}
