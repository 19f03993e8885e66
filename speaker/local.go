package speaker

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/speaker/bgp"
	"github.com/fairlead-io/fairlead/speaker/l2"
)

const (
	// passwordKey of a Secret holds the password of BGP peers.
	passwordKey = "password"

	// gatewaysEvery is how often the default gateways are looked for again.
	gatewaysEvery = 5 * time.Second

	// daemonSet is what runs the speakers.
	daemonSet = "fairlead-speaker"

	// askTimeout bounds the requests that find whether this is the end of Fairlead
	// or just of this pod. A busy API server takes more than a second, and routes
	// that are left by mistake attract packets until the restart time is over. With
	// the drain delay and writeTimeout it stays below the pod's grace period.
	askTimeout = 5 * time.Second
)

// local is what only this node knows.
func (s *Speaker) local(ctx context.Context, c config.Config, links []l2.Link) (Local, error) {
	l := Local{Links: links, Passwords: map[string]bgp.Secret{}, Drained: s.exit.drained(s.ownNode(), func() { poke(s.wake) })}
	s.gate.Open(&l)
	for _, secret := range s.secrets.Objects() {
		if password := secret.Data[passwordKey]; len(password) > 0 {
			l.Passwords[secret.Name] = bgp.Secret(password)
		}
	}
	// A Secret or a gateway that is replaced is gone for a moment. That must
	// not end sessions that work.
	s.known.keep(s.log, &l)
	var watched []string
	gateway := false
	for _, p := range c.BGPPeers {
		if node := s.nodes.Get(s.node); node == nil || !p.SelectsNode(node.Labels) {
			continue
		}
		if p.Interface != "" && !slices.Contains(watched, p.Interface) {
			watched = append(watched, p.Interface)
		}
		gateway = gateway || p.DefaultGateway != ""
	}
	s.routing.routers.Set(ctx, watched)
	l.Routers = s.routing.routers.Found()
	if gateway {
		var err error
		if l.Gateways, err = l2.Gateways(); err != nil {
			return l, err
		}
		s.known.keep(s.log, &l)
		s.again = min(s.again, gatewaysEvery)
	}
	return l, nil
}

// known is what was known last of things that may be gone for a moment.
type known struct {
	passwords map[string]bgp.Secret
	gateways  map[string]netip.Addr
}

// keep gives l what is gone, for as long as this process runs, and remembers
// what is there.
func (k *known) keep(log *slog.Logger, l *Local) {
	if k.passwords == nil {
		k.passwords, k.gateways = map[string]bgp.Secret{}, map[string]netip.Addr{}
	}
	for name, password := range k.passwords {
		if _, there := l.Passwords[name]; !there {
			log.Debug("password kept although its Secret is gone", "secret", name)
			l.Passwords[name] = password
		}
	}
	maps.Copy(k.passwords, l.Passwords)
	if l.Gateways == nil {
		return
	}
	for family, gateway := range k.gateways {
		if _, there := l.Gateways[family]; !there {
			l.Gateways[family] = gateway
		}
	}
	maps.Copy(k.gateways, l.Gateways)
}

// ownNode is this node, as it is or, if it has been deleted, as it was last.
func (s *Speaker) ownNode() *corev1.Node {
	if node := s.nodes.Get(s.node); node != nil {
		s.last = node
		return node
	}
	if s.last == nil {
		return nil
	}
	gone := s.last.DeepCopy()
	now := metav1.Now()
	gone.DeletionTimestamp = &now
	return gone
}

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
	if node == nil || excluded(node) == "" {
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
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
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
	case excluded(node) != "":
		return "the Node " + excluded(node)
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
	links, err := l2.Links()
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
func (s *Speaker) ask(ctx context.Context, links []l2.Link) error {
	snapshot, err := s.snapshot(ctx, links)
	if err != nil {
		return err
	}
	snapshot.Local.Leaving = true
	s.routing.Set(Decide(snapshot))
	return nil
}
