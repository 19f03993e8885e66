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
	// reportEvery is the shortest time between two reports: a burst of new
	// Services makes a few large reports, not many small ones.
	reportEvery = 100 * time.Millisecond

	// writeTimeout ends a report whose answer does not come.
	writeTimeout = 10 * time.Second
)

// reportLoop writes the Speaker object whenever it should say something else.
// It is apart from the announcing, which never waits for the API server.
func (s *Speaker) reportLoop(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.report:
		}
		wait := reportEvery
		if err := s.writeReport(ctx); err != nil && ctx.Err() == nil {
			if !apierrors.IsConflict(err) && !apierrors.IsAlreadyExists(err) {
				wait = retryAfter
				s.log.Warn("report failed, will be tried again", "error", err)
			}
			poke(s.report)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// want replaces what the Speaker object shall say.
func (s *Speaker) want(next func(before v1alpha1.SpeakerStatus) v1alpha1.SpeakerStatus) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var before v1alpha1.SpeakerStatus
	if s.wanted != nil {
		before = *s.wanted
	}
	report := next(before)
	s.wanted = &report
}

// errNoNode is returned while the node's own object cannot be seen.
var errNoNode = errors.New("there is no such Node: is --node-name its name?")

func (s *Speaker) writeReport(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	s.mu.Lock()
	want := s.wanted
	s.mu.Unlock()
	if want == nil {
		return nil // a report of nothing would give this node's addresses to others
	}
	have := s.kinds.Speakers.Get(s.node)
	if have == nil {
		node := s.nodes.Get(s.node)
		if node == nil {
			return fmt.Errorf("create Speaker %s: %w", s.node, errNoNode)
		}
		created, err := s.fairlead.Speakers.Create(ctx, &v1alpha1.Speaker{ObjectMeta: metav1.ObjectMeta{
			Name:            s.node,
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID}},
		}}, metav1.CreateOptions{})
		if err != nil {
			return fmt.Errorf("create Speaker %s: %w", s.node, err)
		}
		have = created
	}
	if equality.Semantic.DeepEqual(have.Status, *want) {
		return nil
	}
	next := have.DeepCopy()
	next.Status = *want
	if _, err := s.fairlead.Speakers.UpdateStatus(ctx, next, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("update the status of Speaker %s: %w", s.node, err)
	}
	return nil
}
