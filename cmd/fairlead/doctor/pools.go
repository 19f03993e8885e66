// This file examines the pools as the controller would report them now, not as
// their status was last written.

package doctor

import (
	"fmt"
	"math/big"

	apimeta "k8s.io/apimachinery/pkg/api/meta"

	"github.com/fairlead-io/fairlead/cmd/fairlead/objects"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	controllerplan "github.com/fairlead-io/fairlead/controller/plan"
)

// poolFindings returns the pools that no advertisement selects, and those that
// are exhausted or nearly exhausted.
func poolFindings(s objects.Snapshot, plan controllerplan.Plan) (found []finding) {
	for _, p := range s.Controller.Objects.Pools {
		object := "IPAddressPool " + p.Name
		status := plan.Pools[p.Name]
		add := func(severity severity, reason v1alpha1.Reason, format string, args ...any) {
			found = append(found, finding{severity, object, reason, fmt.Sprintf(format, args...)})
		}
		if apimeta.IsStatusConditionFalse(status.Conditions, v1alpha1.ConditionAdvertised) {
			add(severityDegraded, v1alpha1.NoAdvertisement, "no L2Advertisement and no BGPAdvertisement covers the pool")
		}
		for _, family := range []struct {
			name  string
			usage v1alpha1.FamilyUsage
		}{{"IPv4", status.IPv4}, {"IPv6", status.IPv6}} {
			free, scarce := freeAddresses(family.usage)
			switch {
			case !scarce:
			// Services are still assigned addresses, so there is time to extend the
			// pool.
			case free.Sign() > 0:
				add(severityNotice, v1alpha1.PoolNearlyExhausted, "only %s of %s %s addresses are free",
					free, family.usage.Capacity, family.name)
			case p.Spec.AutoAssign != nil && !*p.Spec.AutoAssign: // all its Services have requested it by name
				add(severityNotice, v1alpha1.PoolExhausted, "no free %s address, capacity %s", family.name, family.usage.Capacity)
			// The next Service without a request for another pool is refused, or
			// gets an address of a less preferred pool.
			default:
				add(severityDegraded, v1alpha1.PoolExhausted, "no free %s address, capacity %s", family.name, family.usage.Capacity)
			}
		}
	}
	return found
}

// Free addresses are scarce if they are at most maxScarce, and at most one in
// scarceOneIn of the capacity.
const (
	maxScarce   = 16
	scarceOneIn = 10
)

// freeAddresses returns how many addresses are free, and whether they are scarce.
func freeAddresses(u v1alpha1.FamilyUsage) (free *big.Int, scarce bool) {
	capacity, ok := new(big.Int).SetString(u.Capacity, 10)
	// A pool without addresses of the family is not exhausted.
	if !ok || capacity.Sign() <= 0 {
		return nil, false
	}
	if free, ok = new(big.Int).SetString(u.Free, 10); !ok {
		return nil, false
	}
	// Both limits must hold: a large pool is not scarce with many free addresses,
	// however small their part is, and a small pool not because of its size alone.
	scarce = free.Cmp(big.NewInt(maxScarce)) <= 0 && new(big.Int).Mul(free, big.NewInt(scarceOneIn)).Cmp(capacity) <= 0
	return free, scarce
}
