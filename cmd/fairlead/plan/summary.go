package plan

import (
	"fmt"
	"slices"
	"strings"

	"github.com/fairlead-io/fairlead/cmd/fairlead/output"
)

// planSummary counts Services. One that has several changes counts for each.
type planSummary struct {
	Keep        int `json:"keep"`      // every address that they have
	OutOfPool   int `json:"outOfPool"` // of those that keep
	Renumber    int `json:"renumber"`  // of those that keep
	Unannounced int `json:"unannounced"`
	Lose        int `json:"lose"`
	Move        int `json:"move"`
	Get         int `json:"get"`
	Refused     int `json:"refused"`
	Lack        int `json:"lack"` // an address, before and after
}

func summarizeServices(all []serviceResult) (s planSummary) {
	for _, r := range all {
		had := r.Before != nil && len(r.Before.Addresses) > 0
		has := r.After != nil && len(r.After.Addresses) > 0
		if had && !slices.Contains(r.Changes, addressLost) && !slices.Contains(r.Changes, addressMoved) {
			s.Keep++
		}
		if !has && !had && r.Changes[0] == addressMissing {
			s.Lack++
		}
		for _, c := range r.Changes {
			switch c {
			case addressOutOfPool:
				s.OutOfPool++
			case renumberingStarts:
				s.Renumber++
			case addressUnannounced:
				s.Unannounced++
			case addressLost:
				s.Lose++
			case addressMoved:
				s.Move++
			case addressAssigned:
				s.Get++
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
	if s.Keep > 0 {
		keep := output.Count(s.Keep, "Service keeps its address", "Services keep their addresses")
		for _, some := range []struct {
			n         int
			one, many string
		}{
			{s.OutOfPool, "becomes out of pool", "become out of pool"},
			{s.Renumber, "gets a new one beside it", "get a new one beside it"},
			{s.Unannounced, "is not announced any more", "are not announced any more"},
		} {
			switch {
			case some.n == 1 && s.Keep == 1:
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
		{s.Lose, "Service loses an address", "Services lose an address"},
		{s.Move, "Service changes its address at once", "Services change their address at once"},
		{s.Get, "Service newly gets an address", "Services newly get an address"},
		{s.Refused, "Service is refused what it asks for", "Services are refused what they ask for"},
		{s.Lack, "Service has no address, before and after", "Services have no address, before and after"},
	} {
		if more.n > 0 {
			parts = append(parts, output.Count(more.n, more.one, more.many))
		}
	}
	if len(parts) == 0 {
		return "There is no Service that Fairlead serves."
	}
	return strings.Join(parts, "; ") + "."
}
