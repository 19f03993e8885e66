package plan

import (
	"fmt"
	"slices"
	"strings"

	"github.com/fairlead-io/fairlead/cmd/fairlead/output"
)

// planSummary counts Services by serviceChange. A Service with several changes is
// counted for each.
type planSummary struct {
	Kept        int `json:"kept"`        // all addresses are kept, whatever else changes
	OutOfPool   int `json:"outOfPool"`   // subset of Kept
	Renumbering int `json:"renumbering"` // subset of Kept
	Unannounced int `json:"unannounced"`
	Released    int `json:"released"`
	Reassigned  int `json:"reassigned"`
	Assigned    int `json:"assigned"`
	Refused     int `json:"refused"`
	Unassigned  int `json:"unassigned"`
}

func summarizeServices(all []serviceResult) (s planSummary) {
	for _, r := range all {
		had := r.Before != nil && len(r.Before.Addresses) > 0
		has := r.After != nil && len(r.After.Addresses) > 0
		// A Service that releases one of two addresses does not keep its addresses.
		if had && !slices.Contains(r.Changes, addressReleased) && !slices.Contains(r.Changes, addressReassigned) {
			s.Kept++
		}
		if !has && !had && r.Changes[0] == addressUnassigned {
			s.Unassigned++
		}
		for _, c := range r.Changes {
			switch c {
			case addressOutOfPool:
				s.OutOfPool++
			case renumberingStarts:
				s.Renumbering++
			case addressUnannounced:
				s.Unannounced++
			case addressReleased:
				s.Released++
			case addressReassigned:
				s.Reassigned++
			case addressAssigned:
				s.Assigned++
			case requestRefused:
				s.Refused++
			}
		}
	}
	return s
}

// String returns the summary in one sentence.
func (s planSummary) String() string {
	var parts []string
	if s.Kept > 0 {
		keep := output.Count(s.Kept, "Service keeps its address", "Services keep their addresses")
		for _, some := range []struct {
			n         int
			one, many string
		}{
			{s.OutOfPool, "becomes out of pool", "become out of pool"},
			{s.Renumbering, "is assigned a new one alongside it", "are assigned a new one alongside it"},
			{s.Unannounced, "is no longer announced", "are no longer announced"},
		} {
			switch {
			case some.n == 1 && s.Kept == 1:
				keep += ", and " + some.one
			case some.n == 1:
				keep += ", 1 of them " + some.one
			case some.n > 1:
				keep += fmt.Sprintf(", %d of them %s", some.n, some.many)
			}
		}
		parts = append(parts, keep)
	}
	for _, more := range []struct {
		n         int
		one, many string
	}{
		{s.Released, "Service releases an address", "Services release an address"},
		{s.Reassigned, "Service is reassigned to another address", "Services are reassigned to another address"},
		{s.Assigned, "Service is newly assigned an address", "Services are newly assigned an address"},
		{s.Refused, "Service has a refused request", "Services have a refused request"},
		{s.Unassigned, "Service is without an address, before and after", "Services are without an address, before and after"},
	} {
		if more.n > 0 {
			parts = append(parts, output.Count(more.n, more.one, more.many))
		}
	}
	if len(parts) == 0 {
		return "Fairlead serves no Services."
	}
	return strings.Join(parts, "; ") + "."
}
