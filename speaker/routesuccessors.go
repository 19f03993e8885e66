package speaker

import (
	"net/netip"
	"time"

	"github.com/fairlead-io/fairlead/speaker/plan"
)

// proxySyncDelay is the time after which the kube-proxy of a node forwards to an endpoint that
// has become ready: by default it programs its rules at most once a second (minSyncPeriod).
const proxySyncDelay = 2 * time.Second

// routeSuccessors are the nodes that may advertise addresses in place of this one, as the last plan
// had them, each with the time since when it is the successor.
type routeSuccessors map[netip.Addr]routeSuccessor

type routeSuccessor struct {
	node  string
	since time.Time
}

// observe replaces the successors by those of a plan. It returns whether there are new ones.
func (s *routeSuccessors) observe(planned map[netip.Addr]string, now time.Time) (changed bool) {
	observed := make(routeSuccessors, len(planned))
	for addr, node := range planned {
		if known := (*s)[addr]; known.node == node {
			observed[addr] = known
			continue
		}
		observed[addr], changed = routeSuccessor{node, now}, true
	}
	*s = observed
	return changed
}

// facts returns the successors for the next plan, and the time until one of these facts changes;
// 0 if none does. excludedSince is when this node was excluded or became about to be removed;
// zero if it is neither. The drain of a successor takes at least the proxySyncDelay, so that its
// data path is ready.
func (s routeSuccessors) facts(
	excludedSince time.Time, drainDelay time.Duration, now time.Time,
) (facts map[netip.Addr]plan.RouteSuccessor, wait time.Duration) {
	facts = make(map[netip.Addr]plan.RouteSuccessor, len(s))
	over := func(since time.Time, delay time.Duration) bool {
		left := delay - now.Sub(since)
		if left > 0 && (wait == 0 || left < wait) {
			wait = left
		}
		return left <= 0
	}
	for addr, x := range s {
		fact := plan.RouteSuccessor{Node: x.node, Synced: over(x.since, proxySyncDelay)}
		if !excludedSince.IsZero() {
			fact.Drained = over(latest(x.since, excludedSince), max(drainDelay, proxySyncDelay))
		}
		facts[addr] = fact
	}
	return facts, wait
}

// newest returns when the newest successor was first observed; zero if there is none.
func (s routeSuccessors) newest() (since time.Time) {
	for _, x := range s {
		since = latest(since, x.since)
	}
	return since
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
