package main

import (
	"fmt"
	"math/big"

	"github.com/fairlead-io/fairlead/cmd/fairlead/objects"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/controller"
)

// ofPools are the pools that nothing announces, and those that are used up, or
// soon will be.
func ofPools(w objects.Snapshot, plan controller.Plan) (found []finding) {
	scopes := scopes(w.Controller.Objects)
	for _, p := range w.Controller.Objects.Pools {
		object := "IPAddressPool " + p.Name
		if !covers(scopes, p.Name) {
			found = append(found, finding{degraded, object, v1alpha1.NoAdvertisement, "no L2Advertisement and no BGPAdvertisement covers it"})
		}
		status := plan.Pools[p.Name].Status
		for _, family := range []struct {
			name  string
			usage v1alpha1.FamilyUsage
		}{{"IPv4", status.IPv4}, {"IPv6", status.IPv6}} {
			free, few := scarce(family.usage)
			if !few {
				continue
			}
			f := finding{notice, object, v1alpha1.PoolNearlyExhausted, fmt.Sprintf("%s of %s %s addresses can still be given", free, family.usage.Capacity, family.name)}
			if free.Sign() <= 0 {
				f.Severity, f.Reason, f.Message = degraded, v1alpha1.PoolExhausted, fmt.Sprintf("no %s address is free, of %s", family.name, family.usage.Capacity)
				if p.Spec.AutoAssign != nil && !*p.Spec.AutoAssign {
					f.Severity = notice // whom it serves has asked for it by name
				}
			}
			found = append(found, f)
		}
	}
	return found
}

// Few are at most so many addresses, and at most one in so many.
const (
	fewAddresses = 16
	oneIn        = 10
)

// scarce says how many addresses are free, and whether they are few.
func scarce(u v1alpha1.FamilyUsage) (free *big.Int, few bool) {
	capacity, ok := new(big.Int).SetString(u.Capacity, 10)
	if !ok || capacity.Sign() <= 0 {
		return nil, false
	}
	if free, ok = new(big.Int).SetString(u.Free, 10); !ok {
		return nil, false
	}
	few = free.Cmp(big.NewInt(fewAddresses)) <= 0 && new(big.Int).Mul(free, big.NewInt(oneIn)).Cmp(capacity) <= 0
	return free, few
}
