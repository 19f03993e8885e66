package plan

import (
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/equality"

	"github.com/fairlead-io/fairlead/cmd/fairlead/output"
	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// poolState is the status of a pool as the controller writes it.
type poolState struct {
	IPv4        v1alpha1.FamilyUsage `json:"ipv4"`
	IPv6        v1alpha1.FamilyUsage `json:"ipv6"`
	Services    int64                `json:"services"`
	OutOfPool   int64                `json:"outOfPool"`
	Terminating bool                 `json:"terminating,omitempty"`
	Conditions  []output.Condition   `json:"conditions"`
}

// poolResult compares a pool before and after.
type poolResult struct {
	Pool    string     `json:"pool"`
	Changed bool       `json:"changed"`
	Before  *poolState `json:"before"` // null: the pool does not exist
	After   *poolState `json:"after"`
}

// comparePools returns a result for each pool, by name.
func comparePools(before, after convergence) []poolResult {
	was, is := poolStates(before), poolStates(after)
	all := []poolResult{}
	for _, name := range slices.Sorted(maps.Keys(unionOfKeys(was, is))) {
		all = append(all, poolResult{name, !equality.Semantic.DeepEqual(was[name], is[name]), was[name], is[name]})
	}
	return all
}

// unionOfKeys returns a map with the keys of both.
func unionOfKeys[K comparable, V any](a, b map[K]V) map[K]V {
	all := maps.Clone(a)
	maps.Copy(all, b)
	return all
}

func poolStates(c convergence) map[string]*poolState {
	all := make(map[string]*poolState, len(c.plan.Pools))
	for _, pool := range c.cluster.Objects.Pools {
		status := c.plan.Pools[pool.Name]
		s := &poolState{
			IPv4: status.IPv4, IPv6: status.IPv6, Services: status.Services, OutOfPool: status.OutOfPool,
			Terminating: pool.DeletionTimestamp != nil, Conditions: output.Conditions(status.Conditions),
		}
		// The order of conditions is not a difference.
		slices.SortFunc(s.Conditions, func(a, b output.Condition) int { return strings.Compare(a.Type, b.Type) })
		all[pool.Name] = s
	}
	return all
}

// conditionStatus returns the status of the condition; "" if there is none.
func (s *poolState) conditionStatus(conditionType string) string {
	for _, c := range s.Conditions {
		if c.Type == conditionType {
			return string(c.Status)
		}
	}
	return ""
}

// problemChange classifies a Problem of a configuration object.
type problemChange string

const (
	problemNew    problemChange = "new"
	problemSolved problemChange = "solved"
	problemStays  problemChange = "stays"
)

// problemResult compares a Problem of an object before and after.
type problemResult struct {
	Change  problemChange   `json:"change"`
	Object  string          `json:"object"`
	Field   string          `json:"field"`
	Reason  v1alpha1.Reason `json:"reason"`
	Message string          `json:"message"`
}

// compareProblems returns a result for each Problem: new ones first, then solved
// ones, then those that stay.
func compareProblems(before, after convergence) []problemResult {
	all := []problemResult{}
	add := func(change problemChange, problems, others []config.Problem) {
		for _, p := range problems {
			// Problems are compared as a whole: another message is a solved problem
			// and a new one.
			if slices.Contains(others, p) == (change == problemStays) {
				all = append(all, problemResult{change, p.Kind + " " + p.Name, p.Field, p.Reason, p.Message})
			}
		}
	}
	add(problemNew, after.plan.Problems, before.plan.Problems)
	add(problemSolved, before.plan.Problems, after.plan.Problems)
	add(problemStays, after.plan.Problems, before.plan.Problems)
	return all
}
