package speaker

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/speaker/l2"
	"github.com/fairlead-io/fairlead/speaker/plan"
)

const (
	// daemonSet is the name of the DaemonSet that runs the speakers.
	daemonSet = "fairlead-speaker"

	// shutdownQueryTimeout bounds the requests by which a speaker that ends finds out
	// whether only its pod is restarted. A busy API server takes more than a second,
	// and routes that are left by mistake attract packets until the restart time is
	// over. With the drain delay and writeTimeout it stays below the pod's grace
	// period.
	shutdownQueryTimeout = 5 * time.Second
)

// exit is how this node leaves: slowly when it is excluded, politely when it is
// emptied, and without a word when the speaker is only restarted.
type exit struct {
	client    kubernetes.Interface
	namespace string
	drain     time.Duration

	started time.Time // of the first pass
	routing bool      // sessions have been set up
	since   time.Time // excluded since then; zero if not
}

// drained reports whether routers have had the time to look for other ways
// since the node was excluded. One that was excluded from the start announces
// nothing.
func (e *exit) drained(node *corev1.Node, wake func()) bool {
	if node == nil || plan.ExclusionReason(node) == "" {
		e.since = time.Time{}
		return false
	}
	if e.since.IsZero() {
		e.since = time.Now()
		if !e.routing {
			e.since = e.since.Add(-e.drain)
		}
		time.AfterFunc(e.drain, wake)
	}
	return time.Since(e.since) >= e.drain
}

// why this speaker's routes shall be withdrawn when it ends; "" if it is only
// being restarted or upgraded. Without an answer from the API server it counts
// as that.
func (e *exit) why(ctx context.Context, node *corev1.Node) string {
	ctx, cancel := context.WithTimeout(ctx, shutdownQueryTimeout)
	defer cancel()
	if node != nil { // what happened to it a moment ago need not have come by watch yet
		switch now, err := e.client.CoreV1().Nodes().Get(ctx, node.Name, metav1.GetOptions{}); {
		case err == nil:
			node = now
		case apierrors.IsNotFound(err):
			node = nil
		}
	}
	switch {
	case node == nil:
		return "the Node is gone"
	case node.Spec.Unschedulable:
		return "the Node is cordoned"
	case plan.ExclusionReason(node) != "":
		return "the Node " + plan.ExclusionReason(node)
	}
	d, err := e.client.AppsV1().DaemonSets(e.namespace).Get(ctx, daemonSet, metav1.GetOptions{})
	// Who may not ask any more has lost its account together with everything else.
	gone := apierrors.IsNotFound(err) || apierrors.IsUnauthorized(err) || apierrors.IsForbidden(err)
	if gone || err == nil && d.DeletionTimestamp != nil {
		return "Fairlead is being removed"
	}
	return ""
}

// sayGoodbye leaves the routers in the way that fits why the speaker ends.
// why is "" before a restart.
func (s *Speaker) sayGoodbye(ctx context.Context, why string) {
	if !s.exit.routing {
		return
	}
	if why == "" {
		s.log.Info("routes left with the routers, for the next speaker")
		s.routing.pause(ctx)
		return
	}
	left := s.exit.drain
	if !s.exit.since.IsZero() {
		left -= time.Since(s.exit.since) // they have been asked already
	}
	links, err := l2.Interfaces()
	if err == nil && left > 0 {
		err = s.ask(ctx, links)
		s.log.Info("routers asked to look for other ways", "reason", why, "for", left)
		sleep(ctx, left)
	}
	if err != nil {
		s.log.Warn("routers not asked to look for other ways", "error", err)
	}
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	s.routing.leave(ctx, fmt.Sprintf("%s: %s", s.node, why))
	s.log.Info("routes withdrawn", "reason", why)
	s.want(func(v1alpha1.SpeakerStatus) v1alpha1.SpeakerStatus { return v1alpha1.SpeakerStatus{Version: s.version} })
	if err := s.writeReport(ctx); err != nil {
		s.log.Warn("last report failed", "error", err)
	}
}

// ask asks the routers to look for other ways (RFC 8326), so that nothing is
// lost when the routes go.
func (s *Speaker) ask(ctx context.Context, links []l2.Interface) error {
	snapshot, err := s.snapshot(ctx, links)
	if err != nil {
		return err
	}
	snapshot.Local.Leaving = true
	s.routing.Set(plan.Decide(snapshot))
	return nil
}
