package main

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/fairlead-io/fairlead/cmd/fairlead/output"
	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// poolState is what the controller says on a pool.
type poolState struct {
	IPv4        v1alpha1.FamilyUsage `json:"ipv4"`
	IPv6        v1alpha1.FamilyUsage `json:"ipv6"`
	Services    int64                `json:"services"`
	OutOfPool   int64                `json:"outOfPool"`
	Terminating bool                 `json:"terminating,omitempty"`
	Conditions  []output.Condition   `json:"conditions"`
}

// poolPreview is what would become of a pool.
type poolPreview struct {
	Pool    string     `json:"pool"`
	Changed bool       `json:"changed"`
	Before  *poolState `json:"before"` // null: there is none
	After   *poolState `json:"after"`
}

// comparePools says what becomes of each pool, by name.
func comparePools(before, after outcome) []poolPreview {
	was, is := poolStates(before), poolStates(after)
	names := slices.Compact(slices.Sorted(slices.Values(slices.AppendSeq(slices.Collect(maps.Keys(was)), maps.Keys(is)))))
	all := []poolPreview{}
	for _, name := range names {
		p := poolPreview{Pool: name, Before: was[name], After: is[name]}
		p.Changed = p.Before == nil || p.After == nil || !p.Before.equal(*p.After)
		all = append(all, p)
	}
	return all
}

func poolStates(o outcome) map[string]*poolState {
	all := make(map[string]*poolState, len(o.plan.Pools))
	for _, pool := range o.cluster.Objects.Pools {
		status := o.plan.Pools[pool.Name].Status
		s := &poolState{
			IPv4: status.IPv4, IPv6: status.IPv6, Services: status.Services, OutOfPool: status.OutOfPool,
			Terminating: pool.DeletionTimestamp != nil, Conditions: output.Conditions(status.Conditions),
		}
		slices.SortFunc(s.Conditions, func(a, b output.Condition) int { return strings.Compare(a.Type, b.Type) })
		all[pool.Name] = s
	}
	return all
}

func (s poolState) equal(o poolState) bool {
	return s.IPv4 == o.IPv4 && s.IPv6 == o.IPv6 && s.Services == o.Services && s.OutOfPool == o.OutOfPool &&
		s.Terminating == o.Terminating && slices.Equal(s.Conditions, o.Conditions)
}

// condition is the status of one condition, in a word.
func (s *poolState) condition(kind string) string {
	if s == nil {
		return ""
	}
	for _, c := range s.Conditions {
		if c.Type == kind {
			return string(c.Status)
		}
	}
	return ""
}

// problem is a Problem of an object, and whether it comes or goes.
type problem struct {
	Change  string          `json:"change"` // new, solved or stays
	Object  string          `json:"object"`
	Field   string          `json:"field"`
	Reason  v1alpha1.Reason `json:"reason"`
	Message string          `json:"message"`
}

// compareProblems says which problems come, stay and go.
func compareProblems(before, after outcome) []problem {
	was, is := before.plan.Problems, after.plan.Problems
	all := []problem{}
	add := func(change string, p config.Problem) {
		all = append(all, problem{change, p.Kind + " " + p.Name, p.Field, p.Reason, p.Message})
	}
	for _, p := range is {
		if slices.Contains(was, p) {
			add("stays", p)
		} else {
			add("new", p)
		}
	}
	for _, p := range was {
		if !slices.Contains(is, p) {
			add("solved", p)
		}
	}
	order := []string{"new", "solved", "stays"}
	slices.SortStableFunc(all, func(a, b problem) int {
		return cmp.Compare(slices.Index(order, a.Change), slices.Index(order, b.Change))
	})
	return all
}
