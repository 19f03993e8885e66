package speaker

import (
	"context"
	"errors"
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

	// shutdownQueryTimeout bounds the requests that determine whether only the pod is
	// being restarted. A busy API server takes more than a second, and routes that are
	// kept by mistake attract packets until the restart time is over. Together with the
	// drain delay and writeTimeout it must stay below the pod's grace period.
	shutdownQueryTimeout = 5 * time.Second
)

// shutdownPolicy decides how the speaker ends: an excluded node first asks routers to
// select other paths, a node that is drained or removed withdraws its routes, and a
// restart leaves them to graceful restart.
type shutdownPolicy struct {
	client     kubernetes.Interface
	namespace  string
	drainDelay time.Duration

	startedAt     time.Time // when the first sync started
	routesSet     bool      // the routing engines have a desired state
	excludedSince time.Time // zero if the node is neither excluded nor about to be removed
}

// drainComplete reports whether routers have had the drain delay to select other paths
// since the node was excluded or became about to be removed. A node that is about to be removed
// may not have a successor yet: see routeSuccessors. It calls wake when that time is over.
// A node that was excluded before the speaker started advertises nothing, so it is drained at
// once.
func (e *shutdownPolicy) drainComplete(node *corev1.Node, wake func()) bool {
	if node == nil || plan.ExclusionReason(node) == "" && plan.RemovalReason(node) == "" {
		e.excludedSince = time.Time{}
		return false
	}
	if e.excludedSince.IsZero() {
		e.excludedSince = time.Now()
		if !e.routesSet {
			e.excludedSince = e.excludedSince.Add(-e.drainDelay)
		}
		time.AfterFunc(e.drainDelay, wake)
	}
	return time.Since(e.excludedSince) >= e.drainDelay
}

// withdrawalReason returns why the routes must be withdrawn when the speaker ends, or
// "" if it is only being restarted or upgraded. The latter is assumed if the API
// server does not respond.
func (e *shutdownPolicy) withdrawalReason(ctx context.Context, node *corev1.Node) string {
	ctx, cancel := context.WithTimeout(ctx, shutdownQueryTimeout)
	defer cancel()
	if node != nil { // the cached Node may be stale: a drain cordons it just before it evicts pods
		switch now, err := e.client.CoreV1().Nodes().Get(ctx, node.Name, metav1.GetOptions{}); {
		case err == nil:
			node = now
		case apierrors.IsNotFound(err):
			node = nil
		}
	}
	// The node is being drained or removed.
	switch {
	case node == nil:
		return "the Node was deleted"
	case node.Spec.Unschedulable:
		return "the Node is cordoned"
	case plan.ExclusionReason(node) != "":
		return "the Node " + plan.ExclusionReason(node)
	case plan.RemovalReason(node) != "":
		return "the Node " + plan.RemovalReason(node)
	}
	// The node stays, and so does the speaker, unless Fairlead is uninstalled.
	d, err := e.client.AppsV1().DaemonSets(e.namespace).Get(ctx, daemonSet, metav1.GetOptions{})
	// Without permission for the request, the ServiceAccount or its Role was removed
	// together with everything else.
	gone := apierrors.IsNotFound(err) || apierrors.IsUnauthorized(err) || apierrors.IsForbidden(err)
	if gone || err == nil && d.DeletionTimestamp != nil {
		return "Fairlead is being removed"
	}
	return ""
}

// remainingDrain returns for how long routers still need the routes of this node to select other
// paths. newest is when the newest of these paths became available. GRACEFUL_SHUTDOWN has been advertised since the
// node was excluded or about to be removed.
func (e *shutdownPolicy) remainingDrain(newest, now time.Time) time.Duration {
	if e.excludedSince.IsZero() {
		return e.drainDelay
	}
	return e.drainDelay - now.Sub(latest(e.excludedSince, newest))
}

// leaveRouters ends the BGP sessions: with GRACEFUL_SHUTDOWN and a withdrawal if there
// is a reason to withdraw the routes, and by graceful restart otherwise.
func (s *Speaker) leaveRouters(ctx context.Context, reason string) {
	if !s.shutdown.routesSet {
		return
	}
	if reason == "" { // a restart: graceful restart bridges it
		s.log.Info("routes kept by the routers until the speaker has restarted")
		s.routing.prepareRestart(ctx)
		return
	}
	remaining := s.shutdown.remainingDrain(s.routeSuccessors.newest(), time.Now())
	interfaces, err := l2.Interfaces()
	if err == nil && remaining > 0 {
		err = s.requestGracefulShutdown(ctx, interfaces)
		s.log.Info("graceful shutdown of routes started", "reason", reason, "for", remaining)
		sleepContext(ctx, remaining)
	}
	if err != nil {
		s.log.Warn("graceful shutdown of routes failed", "error", err)
	}
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	s.routing.withdrawAll(ctx, fmt.Sprintf("%s: %s", s.node, reason))
	s.log.Info("routes withdrawn", "reason", reason)
	s.l2NodeReport.set(func(v1alpha1.L2NodeStatus) v1alpha1.L2NodeStatus { return v1alpha1.L2NodeStatus{Version: s.version} })
	s.speakerReport.set(func(v1alpha1.SpeakerStatus) v1alpha1.SpeakerStatus { return v1alpha1.SpeakerStatus{Version: s.version} })
	if err := errors.Join(s.l2NodeReport.write(ctx), s.speakerReport.write(ctx)); err != nil {
		s.log.Warn("last report failed", "error", err)
	}
}

// requestGracefulShutdown advertises all routes with the GRACEFUL_SHUTDOWN community
// (RFC 8326), so that routers select other paths before the routes are withdrawn.
func (s *Speaker) requestGracefulShutdown(ctx context.Context, interfaces []l2.Interface) error {
	snapshot, err := s.takeSnapshot(ctx, interfaces)
	if err != nil {
		return err
	}
	snapshot.Local.Leaving = true
	s.routing.Set(plan.Decide(snapshot))
	return nil
}
