package aws

import (
	"reflect"
	"slices"
	"time"
)

// syncMode is how much of a Service's stack a sync reads and changes.
type syncMode int

// The modes. A sync is in exactly one of them.
const (
	// syncStack applies a desired stack that is new, or that the last sync did
	// not complete. Of attributes and certificates it trusts the records in tags.
	syncStack syncMode = iota
	// syncDrift compares an unchanged stack with AWS. It trusts in addition the
	// tags that the last sync read, except those of load balancers.
	syncDrift
	// syncAttributes is syncStack, and attributes are compared with AWS instead
	// of with their records alone.
	syncAttributes
	// syncPending completes what the last sync left to AWS: the provisioning of
	// the load balancer, and targets that AWS did not know or refused. Where
	// nothing is pending it makes no call.
	syncPending
	// syncTargets registers and deregisters targets, and changes nothing else.
	syncTargets
	// syncDeletion deletes everything that has the Service's tags, and leaves
	// out what has none of them.
	syncDeletion
)

// attributesEvery is the number of syncs of a stack of which one compares
// attributes.
const attributesEvery = 6

// nextMode returns the mode of the sync that follows the last one, nil for none.
func nextMode(last *lastSync, desired stack, targets []nodeTarget, now time.Time) syncMode {
	if last != nil && last.covers(desired, targets) && now.Before(last.due) {
		return syncPending
	}
	return comparisonMode(last, desired, targets)
}

// comparisonMode is nextMode if a comparison is due.
func comparisonMode(last *lastSync, desired stack, targets []nodeTarget) syncMode {
	switch {
	case last == nil:
		return syncStack
	case (last.syncs+1)%attributesEvery == 0:
		return syncAttributes
	case last.covers(desired, targets):
		return syncDrift
	}
	return syncStack
}

// covers reports whether the last sync has applied this stack with these
// targets, as far as it does not depend on AWS alone.
func (l *lastSync) covers(desired stack, targets []nodeTarget) bool {
	return !l.incomplete && len(l.left) == 0 && slices.Equal(l.targets, targets) && reflect.DeepEqual(l.desired, desired)
}
