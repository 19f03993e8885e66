package doctor

import (
	"fmt"
	"math/big"

	apimeta "k8s.io/apimachinery/pkg/api/meta"

	"github.com/fairlead-io/fairlead/cmd/fairlead/objects"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/controller"
)

// poolFindings returns the pools that no advertisement covers, and those that
// are exhausted or nearly so.
func poolFindings(s objects.Snapshot, plan controller.Plan) (found []finding) {
	for _, p := range s.Controller.Objects.Pools {
		object := "IPAddressPool " + p.Name
		status := plan.Pools[p.Name].Status
		if apimeta.IsStatusConditionFalse(status.Conditions, v1alpha1.ConditionAdvertised) {
			found = append(found, finding{severityDegraded, object, v1alpha1.NoAdvertisement, "no L2Advertisement and no BGPAdvertisement covers it"})
		}
		for _, family := range []struct {
			name  string
			usage v1alpha1.FamilyUsage
		}{{"IPv4", status.IPv4}, {"IPv6", status.IPv6}} {
			free, scarce := freeAddresses(family.usage)
			if !scarce {
				continue
			}
			f := finding{severityNotice, object, v1alpha1.PoolNearlyExhausted, fmt.Sprintf("%s of %s %s addresses can still be given", free, family.usage.Capacity, family.name)}
			if free.Sign() <= 0 {
				f.Severity, f.Reason, f.Message = severityDegraded, v1alpha1.PoolExhausted, fmt.Sprintf("no %s address is free, of %s", family.name, family.usage.Capacity)
				if p.Spec.AutoAssign != nil && !*p.Spec.AutoAssign {
					f.Severity = severityNotice // its Services have asked for it by name
				}
			}
			found = append(found, f)
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
	if !ok || capacity.Sign() <= 0 {
		return nil, false
	}
	if free, ok = new(big.Int).SetString(u.Free, 10); !ok {
		return nil, false
	}
	scarce = free.Cmp(big.NewInt(maxScarce)) <= 0 && new(big.Int).Mul(free, big.NewInt(scarceOneIn)).Cmp(capacity) <= 0
	return free, scarce
}
