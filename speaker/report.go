package speaker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

const (
	// reportInterval is the shortest time between two reports: a rate limit, so that
	// a burst of new Services causes a few large reports, not many small ones.
	reportInterval = 100 * time.Millisecond

	// missingInterval is the wait before a report is retried if the kind is missing. A
	// report is written as soon as the kind is served again, before its objects are
	// listed: without reports the addresses would have no owners.
	missingInterval = 5 * time.Second

	// speakersCRD is the name of the CustomResourceDefinition of the report.
	speakersCRD = "speakers.fairlead.io"

	// writeTimeout bounds a write of the report.
	writeTimeout = 10 * time.Second
)

// reportLoop writes the Speaker object whenever it differs from the desired report, in
// a goroutine of its own, so that announcing never waits for the API server.
func (s *Speaker) reportLoop(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.reportChanged:
		}
		wait := reportInterval
		if err := s.writeReport(ctx); err != nil && ctx.Err() == nil {
			if s.kinds.IsMissing(speakersCRD) {
				wait = missingInterval
			} else if !apierrors.IsConflict(err) && !apierrors.IsAlreadyExists(err) {
				wait = retryInterval
				s.log.Warn("report failed, retrying", "error", err)
			}
			notify(s.reportChanged)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// setDesiredReport replaces the desired status of the Speaker object by what next
// makes of it.
func (s *Speaker) setDesiredReport(next func(before v1alpha1.SpeakerStatus) v1alpha1.SpeakerStatus) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var before v1alpha1.SpeakerStatus
	if s.desiredReport != nil {
		before = *s.desiredReport
	}
	report := next(before)
	s.desiredReport = &report
	if report.Omitted > 0 && report.Omitted != before.Omitted {
		s.log.Warn("report truncated: it exceeds the bounds of a Speaker's status", "omitted", report.Omitted)
	}
}

// errNoNode is returned while the node's own object is not in the cache.
var errNoNode = errors.New("the Node does not exist: check --node-name")

// writeReport updates the Speaker object, and creates it first if it does not exist. The
// update conflicts if the cached version is not the current one (optimistic locking).
func (s *Speaker) writeReport(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	s.mu.Lock()
	desired := s.desiredReport
	s.mu.Unlock()
	if desired == nil {
		return nil // an empty report would make other nodes the owners of this node's addresses
	}
	observed := s.kinds.Speakers.Get(s.node)
	// If the kind is missing, the cache has the last known object.
	if observed == nil || s.kinds.IsMissing(speakersCRD) {
		node := s.nodes.Get(s.node)
		if node == nil {
			return fmt.Errorf("create Speaker %s: %w", s.node, errNoNode)
		}
		created, err := s.fairlead.Speakers.Create(ctx, &v1alpha1.Speaker{ObjectMeta: metav1.ObjectMeta{
			Name:            s.node,
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID}},
		}}, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) && observed != nil { // the cache is that of the time before the kind was missing
			created, err = s.fairlead.Speakers.Get(ctx, s.node, metav1.GetOptions{})
		}
		if err != nil {
			return fmt.Errorf("create Speaker %s: %w", s.node, err)
		}
		observed = created
	}
	if equality.Semantic.DeepEqual(observed.Status, *desired) {
		return nil
	}
	next := observed.DeepCopy()
	next.Status = *desired
	if _, err := s.fairlead.Speakers.UpdateStatus(ctx, next, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("update status of Speaker %s: %w", s.node, err)
	}
	return nil
}
