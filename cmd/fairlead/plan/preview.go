// Package plan previews how Services and pools would change if manifests were
// applied or objects deleted.
//
// It is a pure function of the controller's snapshot of a cluster and a Request. It
// runs the controller's own decision until it converges, for the current cluster
// and for the cluster with the request applied, and compares the two results
// (services.go, pools.go). Writes that the controller has still to make in the
// current cluster are therefore not attributed to the request.
//
//   - overlay.go and deletion.go apply a Request to a snapshot, as the API
//     server and kubectl apply would.
//   - converge.go repeats the decision with its own writes applied.
//
// The result is printed as a one-line summary and tables of the changes, or encoded
// as JSON. The exit status of the command is 0 if no Service would lose an address
// or its announcement, 2 if one would, and 1 on an error.
//
// The responses of a cloud are unknown. Of announcements, it compares only whether
// an advertisement selects the pool.
package plan

import (
	"fmt"
	"slices"

	"github.com/fairlead-io/fairlead/cmd/fairlead/objects"
	"github.com/fairlead-io/fairlead/cmd/fairlead/output"
	controllerplan "github.com/fairlead-io/fairlead/controller/plan"
)

// Request is the change to preview: the manifests are applied, then the objects are
// deleted.
type Request struct {
	Manifests *objects.Collection
	Deletions []Deletion
}

// Result lists the changes that a Request would cause. Its JSON is described in
// docs/cli.md.
type Result struct {
	Summary  planSummary     `json:"summary"`
	Services []serviceResult `json:"services"` // the most severe change first
	Pools    []poolResult    `json:"pools"`
	Problems []problemResult `json:"problems"`
	Notes    []string        `json:"notes"`
}

// Preview returns the changes that the request would cause. The deletion of an
// object that does not exist is an error. Preview does not modify the snapshot. It
// completes the manifests of the request as the API server would; they must not be
// used again.
func Preview(cluster controllerplan.Snapshot, r Request) (Result, error) {
	requested, notes := overlayManifests(cluster, r.Manifests)
	// Deletions follow the manifests, so that an object can be both changed and
	// deleted, as by two commands. By then, the controller has written which pools
	// advertisements select, because the labels are deleted with a pool.
	if len(r.Deletions) > 0 {
		requested = writeAdvertisementStatuses(requested)
	}
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
	// These writes happen with or without the request, and are not part of the
	// result.
	if before.pending > 0 {
		result.Notes = append(result.Notes, fmt.Sprintf("the controller has still to write %s of the current cluster; the plan compares "+
			"with the state after these writes", output.Count(before.pending, "Service", "Services")))
	}
	if !before.converged || !after.converged {
		result.Notes = append(result.Notes, fmt.Sprintf("the decision has not converged after %d rounds; the plan shows the last one",
			maxRounds))
	}
	return result, nil
}

// OnlyChanges returns the result without unchanged Services, pools and problems. The
// summary still counts all Services.
func (r Result) OnlyChanges() Result {
	r.Services = deleteMatching(r.Services, func(s serviceResult) bool {
		return s.Changes[0] == addressKept || s.Changes[0] == addressUnassigned
	})
	r.Pools = deleteMatching(r.Pools, func(p poolResult) bool { return !p.Changed })
	r.Problems = deleteMatching(r.Problems, func(p problemResult) bool { return p.Change == problemStays })
	return r
}

func deleteMatching[T any](all []T, unwanted func(T) bool) []T {
	return slices.DeleteFunc(slices.Clone(all), unwanted)
}

// InterruptsServices reports whether an address of a Service would be released,
// reassigned or no longer announced.
func (r Result) InterruptsServices() bool {
	return r.Summary.Released+r.Summary.Reassigned+r.Summary.Unannounced > 0
}
