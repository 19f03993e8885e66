package plan

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// selectedPools is a state of status.selectedPools, and the state of the pools that the
// controller had seen when it wrote that.
type selectedPools struct {
	names []string
	pools int
}

// seenAdvertisements are the advertisements with the status that a watch has brought.
func (s *simulatedAPIServer) seenAdvertisements(status int, lax disabledRules) (all []*v1alpha1.L2Advertisement) {
	for _, ad := range s.advertisements {
		ad = ad.DeepCopy()
		if !lax.noDeletedPools {
			ad.Status.SelectedPools = s.selected[status].names
		}
		all = append(all, ad)
	}
	return all
}

// writeSelectedPools writes status.selectedPools if it differs from what the watch has
// brought, and only over that version.
func (r *simulatedController) writeSelectedPools(server *simulatedAPIServer, desired []string, lax disabledRules) {
	newest := len(server.selected) - 1
	conflict := r.status < newest && !lax.noStatusLocking
	if slices.Equal(desired, server.selected[r.status].names) || conflict {
		return
	}
	written := selectedPools{desired, r.pools}
	server.violation = cmp.Or(server.violation, server.droppedPool(server.selected[newest], written))
	server.selected = append(server.selected, written)
}

// droppedPool describes a pool that is no longer in status.selectedPools, although it was
// deleted, a Service has an address of it, and no labels that the controllers have seen
// since the last write exclude it; "" if there is none.
func (s *simulatedAPIServer) droppedPool(before, after selectedPools) string {
	for _, name := range before.names {
		isExcluded := func(p *v1alpha1.IPAddressPool) bool { return p.Name == name && p.Labels["tier"] != "edge" }
		exists := slices.ContainsFunc(s.pools[len(s.pools)-1], func(p *v1alpha1.IPAddressPool) bool { return p.Name == name })
		if exists || slices.Contains(after.names, name) ||
			after.pools > before.pools && slices.ContainsFunc(s.pools[after.pools], isExcluded) {
			continue
		}
		for _, svc := range sorted(s.objects) {
			records := config.OwnAllocation(svc)
			if !s.forged[KeyOf(svc)] && slices.ContainsFunc(records, func(r config.Record) bool { return r.Value == name }) {
				return fmt.Sprintf("the status drops the deleted pool %s, of which %s has %v", name, svc.Name, records)
			}
		}
	}
	return ""
}
