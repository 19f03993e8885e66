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

// addedAddrs are the addresses of the plan that the Service does not show yet, or that
// it shows without a record: a status alone does not prove who wrote it.
func (c PlannedService) addedAddrs() []netip.Addr {
	shown := ingressAddrs(c.Service.Status.LoadBalancer.Ingress)
	return slices.DeleteFunc(ingressAddrs(c.Plan.Ingress), func(a netip.Addr) bool {
		return slices.Contains(shown, a) && config.Recorded(c.Service, a)
	})
}

// blockedAddrs are the addresses that must not be written to other Services before
// this change: those that it removes, and all that are shared if the terms of
// sharing change. A Service that is released, such as a deleted one, shows them until
// then, and another Service with a record of one is assigned it.
func (c PlannedService) blockedAddrs() []netip.Addr {
	// An apply that omits the ingress removes it if the controller is its only manager.
	if len(c.Service.Status.LoadBalancer.Ingress) == 0 || !c.Plan.WritesIngress(c.Service) && !v1alpha1.OwnsIngress(c.Service) {
		return nil
	}
	shown, kept := ingressAddrs(c.Service.Status.LoadBalancer.Ingress), ingressAddrs(c.Plan.Ingress)
	if c.Plan.SharedAs != recordedTerms(c.Service) {
		return shown
	}
	return slices.DeleteFunc(shown, func(a netip.Addr) bool { return slices.Contains(kept, a) })
}

// Unreleased are the addresses that must not be written to a Service before another
// one, which still has them, has been written.
type Unreleased map[netip.Addr][]types.NamespacedName

// Add adds the addresses that a change releases, and that has not been written: it
// failed, is deferred, or is written later.
func (u Unreleased) Add(c PlannedService) {
	for _, a := range c.blockedAddrs() {
		u[a] = append(u[a], KeyOf(c.Service))
	}
}

// Block reports whether the change adds an address that another Service still has.
func (u Unreleased) Block(c PlannedService) bool {
	return len(u) > 0 && slices.ContainsFunc(c.addedAddrs(), func(a netip.Addr) bool { _, blocked := u.otherThan(c, a); return blocked })
}

// AwaitedReleases returns the changed Services that another change waits for, because
// they release its address.
func AwaitedReleases(changes []PlannedService) map[types.NamespacedName]bool {
	unreleased, awaited := Unreleased{}, map[types.NamespacedName]bool{}
	for _, c := range changes {
		unreleased.Add(c)
	}
	for _, c := range changes {
		for _, a := range c.addedAddrs() {
			for _, key := range unreleased[a] {
				if key != KeyOf(c.Service) {
					awaited[key] = true
				}
			}
		}
	}
	return awaited
}

// otherThan returns a Service, other than that of the change, that blocks the address.
func (u Unreleased) otherThan(c PlannedService, addr netip.Addr) (other types.NamespacedName, blocked bool) {
	for _, key := range u[addr] {
		if key != KeyOf(c.Service) {
			return key, true
		}
	}
	return other, false
}

// maxRounds and maxChanges bound what one sync writes. The next sync writes the
// rest, based on a newer snapshot.
const maxRounds, maxChanges = 8, 1000

// Rounds divides changes into rounds, each of which must be written before the next
// one: an address is written to a Service only after the write that releases it
// from another one. Otherwise a failed write, or a controller that is killed between
// two writes, would leave both with the address. Rounds returns at most as
// many rounds and changes as one sync may write, and whether that is all. Changes
// that are deferred are not written, and what depends on them waits.
func Rounds(left, deferred []PlannedService) (rounds [][]PlannedService, all bool) {
	for total := 0; len(left) > 0; {
		if len(rounds) == maxRounds || total >= maxChanges {
			return rounds, false
		}
		by := Unreleased{}
		for _, c := range deferred {
			by.Add(c)
		}
		for _, c := range left {
			by.Add(c)
		}
		var now, later []PlannedService
		for _, c := range left {
			if by.Block(c) {
				later = append(later, c)
			} else {
				now = append(now, c)
			}
		}
		// Each change waits for a deferred one, or in a cycle. All of them release what
		// they must, and a later sync assigns the addresses.
		if len(now) == 0 {
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

// interimPlan is the plan for a Service that waits for addresses which others still
// show: it keeps what it shows, except what it must release in any case, and the
// records of addresses that its status has lost and is assigned again.
func (c PlannedService) interimPlan(by Unreleased) ServicePlan {
	p := *c.Plan
	p.Ingress, p.Leaving = nil, ""
	pools, records := config.OwnAllocation(c.Service), config.Records(nil)
	leaving := config.ReadRecords(c.Service.Annotations[v1alpha1.AnnotationLeaving])
	keepRecord := func(a netip.Addr) {
		if pool, ok := pools.Of(a); ok {
			records = append(records, config.Record{Addr: a, Value: pool})
		}
		if since, ok := leaving.Of(a); ok {
			p.Leaving = joinComma(p.Leaving, a.String()+"="+since)
		}
	}
	// Another controller can have written any number of addresses.
	releases := make(map[netip.Addr]bool, len(p.Releases))
	for _, a := range p.Releases {
		releases[a] = true
	}
	for _, in := range c.Service.Status.LoadBalancer.Ingress {
		if a, err := config.ParseAddr(in.IP); err == nil && !releases[a] {
			p.Ingress = append(p.Ingress, in)
			keepRecord(a)
		}
	}
	for _, a := range c.addedAddrs() {
		if !slices.Contains(ingressAddrs(p.Ingress), a) {
			keepRecord(a)
		}
	}
	p.AllocatedFrom = config.FormatAllocation(records, c.Service.UID)
	for _, a := range c.addedAddrs() {
		if other, waits := by.otherThan(c, a); waits {
			message := fmt.Sprintf("%s is still assigned to Service %s; waiting for it to be released", a, other)
			waiting := newCondition(v1alpha1.ConditionProvisioned, metav1.ConditionFalse, v1alpha1.AddressTaken, message)
			p.Conditions = append([]metav1.Condition{waiting}, p.Conditions[1:]...)
			break
		}
	}
	return p
}
