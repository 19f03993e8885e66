package plan

import (
	"fmt"
	"net/netip"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// addedAddrs are the addresses that the Service does not show yet.
func (c PlannedService) addedAddrs() []netip.Addr {
	shown := ingressAddrs(c.Service.Status.LoadBalancer.Ingress)
	return slices.DeleteFunc(ingressAddrs(c.Plan.Ingress), func(a netip.Addr) bool { return slices.Contains(shown, a) })
}

// blockedAddrs are the addresses that others may not be given before this is
// written: those that the Service will not show any more, and all that it shares
// under new terms.
func (c PlannedService) blockedAddrs() []netip.Addr {
	if len(c.Service.Status.LoadBalancer.Ingress) == 0 || !c.Plan.Serves {
		return nil
	}
	shown, kept := ingressAddrs(c.Service.Status.LoadBalancer.Ingress), ingressAddrs(c.Plan.Ingress)
	if c.Plan.SharedAs != c.Service.Annotations[v1alpha1.AnnotationSharedAs] {
		return shown
	}
	return slices.DeleteFunc(shown, func(a netip.Addr) bool { return slices.Contains(kept, a) })
}

// maxRounds and maxChanges bound what one sync writes: whatever is left follows
// with the next sync, which also sees what has happened meanwhile.
const maxRounds, maxChanges = 8, 1000

// Rounds brings changes into rounds, each of which is to be written before the
// next one: a Service is assigned an address only after the write by which
// another Service gives it up. Otherwise a controller that dies between two
// writes, or fails, would leave both with it. It returns at most as many rounds
// and changes as one sync may write, and whether that is all.
func Rounds(left []PlannedService) (rounds [][]PlannedService, all bool) {
	for total := 0; len(left) > 0; {
		if len(rounds) == maxRounds || total >= maxChanges {
			return rounds, false
		}
		by := map[netip.Addr]types.NamespacedName{}
		for _, c := range left {
			for _, a := range c.blockedAddrs() {
				by[a] = KeyOf(c.Service)
			}
		}
		var now, later []PlannedService
		for _, c := range left {
			if slices.ContainsFunc(c.addedAddrs(), func(a netip.Addr) bool { _, waits := by[a]; return waits }) {
				later = append(later, c)
			} else {
				now = append(now, c)
			}
		}
		if len(now) == 0 { // each waits for another one; the rest comes with the next sync
			for _, c := range later {
				if p := c.interimPlan(by); !p.Matches(c.Service) {
					now = append(now, PlannedService{c.Service, &p})
				}
			}
			later = nil
		}
		if room := maxChanges - total; len(now) > room {
			return append(rounds, now[:room]), false
		}
		total += len(now)
		rounds, left = append(rounds, now), later
	}
	return rounds, true
}

// interimPlan is the plan for a Service that waits for addresses which others
// show: it keeps what it shows, but for what it must give up anyway.
func (c PlannedService) interimPlan(by map[netip.Addr]types.NamespacedName) ServicePlan {
	p := *c.Plan
	p.Ingress, p.AllocatedFrom, p.Leaving = nil, "", ""
	pools, leaving := config.ReadRecords(c.Service.Annotations[v1alpha1.AnnotationAllocatedFrom]), config.ReadRecords(c.Service.Annotations[v1alpha1.AnnotationLeaving])
	for _, in := range c.Service.Status.LoadBalancer.Ingress {
		a, err := config.ParseAddr(in.IP)
		if err != nil || slices.Contains(p.Releases, a) {
			continue
		}
		p.Ingress = append(p.Ingress, in)
		if pool, ok := pools.Of(a); ok {
			p.AllocatedFrom = joinComma(p.AllocatedFrom, in.IP+"="+pool)
		}
		if since, ok := leaving.Of(a); ok {
			p.Leaving = joinComma(p.Leaving, in.IP+"="+since)
		}
	}
	for _, a := range c.addedAddrs() {
		if other, waits := by[a]; waits {
			why := newCondition(v1alpha1.ConditionProvisioned, metav1.ConditionFalse, v1alpha1.AddressTaken, fmt.Sprintf("%s belongs to Service %s until that has let go", a, other))
			p.Conditions = append([]metav1.Condition{why}, p.Conditions[1:]...)
			break
		}
	}
	return p
}
