package plan

import (
	"slices"

	"pgregory.net/rapid"
)

// simulatedWrite is a write with a lost answer that has not reached the API server yet.
type simulatedWrite struct {
	PlannedService
	view simulatedView
}

// deliver lets a write that was in flight take effect, if the Service is still in the
// version that it was decided on.
func (s *simulatedAPIServer) deliver(w simulatedWrite, lax disabledRules) {
	current := s.objects[KeyOf(w.Service)]
	if current != nil && current.UID == w.Service.UID && (current.ResourceVersion == w.Service.ResourceVersion || lax.noLocking) {
		s.write(current, *w.Plan, w.view, lax)
	}
}

// deliverSome lets some of the writes in flight take effect, and loses others. All of
// them have ended when another leader starts.
func (s *simulatedAPIServer) deliverSome(t *rapid.T, lax disabledRules, all bool) {
	s.inFlight = slices.DeleteFunc(s.inFlight, func(w simulatedWrite) bool {
		fate := rapid.IntRange(0, 3).Draw(t, "write in flight")
		if fate == 0 {
			s.deliver(w, lax)
		}
		return all || fate <= 1
	})
}

// write writes what differs from the plans, until something goes wrong.
func (r *simulatedController) write(t *rapid.T, server *simulatedAPIServer, planned []PlannedService, lax disabledRules) {
	var changes []PlannedService
	for _, p := range planned {
		if original := r.originals[p.Service]; original != nil {
			p.Service = original
		}
		if !p.Plan.Matches(p.Service) {
			changes = append(changes, p)
		}
		for _, in := range p.Plan.Ingress {
			server.terms[holder{KeyOf(p.Service), in.IP}] = p.Plan.SharedAs
		}
	}
	var due, deferred []PlannedService
	for _, c := range changes {
		if !r.reliable && rapid.IntRange(0, 9).Draw(t, "deferred") == 0 {
			deferred = append(deferred, c) // as by a backoff
		} else {
			due = append(due, c)
		}
	}
	if lax.ignoresFailures {
		deferred = nil
	}
	rounds, _ := Rounds(due, deferred)
	if lax.noOrder {
		rounds = [][]PlannedService{slices.Concat(rounds...)}
	}
	unreleased := Unreleased{}
	for _, round := range rounds {
		var failed []PlannedService
		for _, c := range rapid.Permutation(round).Draw(t, "order") {
			if unreleased.Block(c) && !lax.ignoresFailures {
				failed = append(failed, c)
				continue
			}
			written, killed := r.writeOne(t, server, c, lax)
			if killed {
				return
			}
			if !written {
				failed = append(failed, c)
			}
		}
		for _, c := range failed {
			unreleased.Add(c)
		}
	}
}

// writeOne writes one change, and returns whether that is known to have taken effect,
// and whether the controller is killed between two writes.
func (r *simulatedController) writeOne(t *rapid.T, server *simulatedAPIServer, c PlannedService, lax disabledRules) (written, killed bool) {
	current := server.objects[KeyOf(c.Service)]
	if current == nil || current.UID != c.Service.UID {
		return false, false // not found, or a conflict
	}
	if current.ResourceVersion != c.Service.ResourceVersion && !lax.noLocking {
		return false, false // a conflict
	}
	outcome := 11
	if !r.reliable {
		outcome = rapid.IntRange(0, 11).Draw(t, "write")
	}
	switch outcome {
	case 0:
		return false, true
	case 1: // refused, as by a webhook
		return false, false
	case 2: // took effect, but the answer is lost
		server.write(current, *c.Plan, r.view, lax)
	case 3: // the answer is lost, and the write may take effect later
		server.inFlight = append(server.inFlight, simulatedWrite{c, r.view})
	default:
		r.overlay.Observe(server.write(current, *c.Plan, r.view, lax))
		return true, false
	}
	switch {
	case lax.onlyReads:
		r.overlay.Observe(server.objects[KeyOf(c.Service)])
	case !lax.noUnknownOutcome:
		r.overlay.ObserveUnknown(c)
	}
	return false, false
}
