// Package plan previews what would happen to Services and pools if manifests
// were applied or objects deleted.
//
// It takes the controller's snapshot of a cluster and a Request, and returns
// values; it has no clock, client or other input, and changes neither. It lets
// the controller's own decision converge twice, on the cluster as it is and on
// the cluster in which the request has been applied, and compares the two
// results (services.go, pools.go). What the controller has yet to do anyway is
// therefore no consequence of the request.
//
//   - overlay.go and deletion.go apply a Request to a snapshot, as the API
//     server and kubectl apply would.
//   - converge.go repeats the decision with its own writes applied.
//
// The result is printed as a summary in one line and tables of what changes, or
// encoded as JSON. The exit status of the command is 0 if no Service would lose
// anything, 2 if one would lose an address or its announcement, and 1 if there
// is no result.
//
// It does not know what a cloud will answer, and of announcements it compares
// only whether an advertisement covers the pool.
package plan

import (
	"fmt"
	"slices"

	"github.com/fairlead-io/fairlead/cmd/fairlead/objects"
	"github.com/fairlead-io/fairlead/cmd/fairlead/output"
	controllerplan "github.com/fairlead-io/fairlead/controller/plan"
)

// Request is what is to be previewed: manifests that are applied, then objects
// that are deleted.
type Request struct {
	Manifests *objects.Collection
	Deletions []Deletion
}

// Result is what would happen. Its JSON is described in docs/cli.md.
type Result struct {
	Summary  planSummary     `json:"summary"`
	Services []serviceResult `json:"services"` // the worst change first
	Pools    []poolResult    `json:"pools"`
	Problems []problemResult `json:"problems"`
	Notes    []string        `json:"notes"`
}

// Preview returns what would happen to all Services and pools. A deletion of an
// object that does not exist is an error. The snapshot is not changed; the
// request's manifests are completed as the API server would complete them, and
// must not be used again.
func Preview(cluster controllerplan.Snapshot, r Request) (Result, error) {
	requested, notes := overlayManifests(cluster, r.Manifests)
	for _, d := range r.Deletions {
		var err error
		if requested, err = d.deleteFrom(requested); err != nil {
			return Result{}, err
		}
	}
	before, after := converge(cluster), converge(requested)
	result := Result{
		Services: compareServices(before, after), Pools: comparePools(before, after), Problems: compareProblems(before, after),
		Notes: append([]string{}, notes...),
	}
	result.Summary = summarizeServices(result.Services)
	if before.pending > 0 {
		result.Notes = append(result.Notes, fmt.Sprintf("the controller has yet to write %s of the cluster as it is; the plan compares with "+
			"what it will write", output.Count(before.pending, "Service", "Services")))
	}
	if !before.converged || !after.converged {
		result.Notes = append(result.Notes, fmt.Sprintf("the controller still had something to write after %d rounds; the plan shows the "+
			"last one", maxRounds))
	}
	return result, nil
}

// Changed returns the result without the Services, pools and problems that stay
// as they are. The summary still counts all Services.
func (r Result) Changed() Result {
	r.Services = deleteMatching(r.Services, func(s serviceResult) bool { return s.Changes[0] == addressKept || s.Changes[0] == addressMissing })
	r.Pools = deleteMatching(r.Pools, func(p poolResult) bool { return !p.Changed })
	r.Problems = deleteMatching(r.Problems, func(p problemResult) bool { return p.Change == problemStays })
	return r
}

func deleteMatching[T any](all []T, unwanted func(T) bool) []T {
	return slices.DeleteFunc(slices.Clone(all), unwanted)
}

// Loss reports whether a Service would lose an address, at once or for another
// one, or its announcement.
func (r Result) Loss() bool { return r.Summary.Lose+r.Summary.Move+r.Summary.Unannounced > 0 }
