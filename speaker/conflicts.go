package speaker

import (
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/speaker/plan"
)

// conflictDelay is how long a conflict lasts before it is recorded. Within this time
// it is known whether the host answers for other addresses as well, and the report of
// a node that has just become or ceased to be the owner has been read (reportDelay).
const conflictDelay = 2 * time.Second

// conflictLog records conflicts of addresses: an Event and a line of the log when one
// begins, and a line when it ends. The zero value is ready for use; it is used by the sync
// loop only.
type conflictLog struct {
	current map[netip.Addr]conflict
}

type conflict struct {
	reason   v1alpha1.Reason
	since    time.Time
	recorded bool
}

// record compares the conflicts in the plan with the earlier ones. It returns the wait
// until the next one is to be recorded, 0 if there is none.
func (c *conflictLog) record(s *Speaker, p plan.Plan, now time.Time) (wait time.Duration) {
	next := map[netip.Addr]conflict{}
	for addr := range p.L2 {
		refusal := p.Warnings[addr]
		if u := p.Unannounced[addr]; u.Reason == v1alpha1.AddressConflict {
			refusal = u
		}
		if refusal.Reason == "" || refusal.Reason == v1alpha1.NoEndpoints || refusal.Reason == v1alpha1.KernelAnswers {
			continue
		}
		known, ok := c.current[addr]
		if !ok || known.reason != refusal.Reason {
			known = conflict{reason: refusal.Reason, since: now}
		}
		if left := conflictDelay - now.Sub(known.since); !known.recorded && left > 0 {
			if wait == 0 || left < wait {
				wait = left
			}
		} else if !known.recorded {
			known.recorded = true
			conflictsStarted.WithLabelValues(string(refusal.Reason)).Inc()
			s.log.Warn("address conflict started", "address", addr.String(), "reason", refusal.Reason, "message", refusal.Message)
			s.events.Eventf(p.Services[addr], corev1.EventTypeWarning, string(refusal.Reason), "%s: %s", addr, refusal.Message)
		}
		next[addr] = known
	}
	for addr, known := range c.current {
		if now, still := next[addr]; known.recorded && (!still || now.reason != known.reason) {
			s.log.Info("address conflict ended", "address", addr.String(), "reason", known.reason)
		}
	}
	c.current = next
	return wait
}
