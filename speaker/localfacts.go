package speaker

import (
	"context"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/speaker/bgp"
	"github.com/fairlead-io/fairlead/speaker/l2"
	"github.com/fairlead-io/fairlead/speaker/plan"
)

const (
	// passwordKey of a Secret holds the password of BGP peers.
	passwordKey = "password"

	// gatewaysEvery is how often the default gateways are looked for again.
	gatewaysEvery = 5 * time.Second
)

// local is what only this node knows.
func (s *Speaker) local(ctx context.Context, c config.Config, links []l2.Interface) (plan.Local, error) {
	l := plan.Local{Interfaces: links, Passwords: map[string]bgp.Secret{}, Drained: s.exit.drained(s.ownNode(), func() { poke(s.wake) })}
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
func (k *known) keep(log *slog.Logger, l *plan.Local) {
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
		s.lastNode = node
		return node
	}
	if s.lastNode == nil {
		return nil
	}
	gone := s.lastNode.DeepCopy()
	now := metav1.Now()
	gone.DeletionTimestamp = &now
	return gone
}
