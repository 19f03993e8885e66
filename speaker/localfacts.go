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
	"github.com/fairlead-io/fairlead/speaker/failover"
	"github.com/fairlead-io/fairlead/speaker/l2"
	"github.com/fairlead-io/fairlead/speaker/plan"
)

const (
	// passwordKey is the key of the password of BGP peers in a Secret.
	passwordKey = "password"

	// gatewayInterval is how often the default gateways are read.
	gatewayInterval = 5 * time.Second

	// claimInterval is how often the claims of other hosts are judged, while there are any.
	claimInterval = 10 * time.Second

	// sysctlInterval is how often the interfaces are read while the kernel answers for
	// addresses of Services. The kernel sends no event when that is changed.
	sysctlInterval = time.Minute
)

// localFacts returns what only this node knows.
func (s *Speaker) localFacts(ctx context.Context, c config.Config, interfaces []l2.Interface) (plan.LocalFacts, error) {
	drained := s.shutdown.drainComplete(s.ownNode(), func() { s.requestSync("drain") })
	l := plan.LocalFacts{Interfaces: interfaces, Held: s.announced, Restored: s.restored, Passwords: map[string]bgp.Secret{}, Drained: drained}
	// In this order: an address that a node has yielded before its session ended is not
	// contested any more.
	l.PeerFresh = s.neighbors.PeerFresh(s.routing.paths.Status())
	l.Failover, l.HeldOn, l.Stale = s.neighbors.View(), s.announcedOn, s.isStale != nil && s.isStale()
	if left := s.holdDown - time.Since(s.upSince); left > 0 {
		s.nextSync = min(s.nextSync, left)
	} else {
		l.Settled = true
	}
	l.Lapsed = map[netip.Addr]bool{}
	for addr, since := range s.ineligible {
		if left := failover.LeaveTimeout - time.Since(since); left > 0 {
			s.nextSync = min(s.nextSync, left)
		} else {
			l.Lapsed[addr] = true
		}
	}
	var pending time.Duration
	l.RouteSuccessors, pending = s.routeSuccessors.facts(s.shutdown.excludedSince, s.shutdown.drainDelay, time.Now())
	if pending > 0 {
		s.nextSync = min(s.nextSync, pending)
	}
	var unread time.Duration
	if l.Reports, unread = s.claimReports.Reports(time.Now()); unread > 0 {
		s.nextSync = min(s.nextSync, unread)
	}
	var lapse time.Duration
	if l.Claimants, lapse = s.announcer.Claimants(); lapse > 0 {
		s.nextSync = min(s.nextSync, lapse)
	}
	l.DepartedMACs = s.nodeMACs.departed
	for addr, claimants := range l.Claimants {
		if !s.announced[addr] {
			continue
		}
		s.nextSync = min(s.nextSync, claimInterval) // known hosts that are no nodes claim again without a wake-up
		for _, k := range claimants {
			if time.Since(k.Last) < claimInterval {
				s.neighbors.Claimed(addr, k)
			}
		}
	}
	s.dataPath.FillLocal(&l)
	for _, secret := range s.secrets.Objects() {
		if password := secret.Data[passwordKey]; len(password) > 0 {
			l.Passwords[secret.Name] = bgp.Secret(password)
		}
	}
	// A Secret or a gateway that is being replaced is missing for a moment. That must
	// not reset established sessions.
	s.lastKnown.retainMissing(s.log, &l)
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
	l.Routers = s.routing.routers.LinkLocalAddresses()
	if gateway {
		var err error
		if l.Gateways, err = l2.Gateways(); err != nil {
			return l, err
		}
		s.lastKnown.retainMissing(s.log, &l)
		s.nextSync = min(s.nextSync, gatewayInterval)
	}
	return l, nil
}

// lastKnownFacts are the last values of facts that may be missing for a moment.
type lastKnownFacts struct {
	passwords  map[string]bgp.Secret
	gateways   map[string]netip.Addr
	interfaces map[netip.Addr]string // of neighbors
}

// retainInterfaces records the interfaces of the neighbors among the peers, and sets
// those that are missing because the interface is down or without an address for a
// moment: the peer is still a neighbor, and the BFD session must stay the same to detect
// that it cannot be reached.
func (k *lastKnownFacts) retainInterfaces(peerings []plan.Peering, interfaces []l2.Interface) {
	if k.interfaces == nil {
		k.interfaces = map[netip.Addr]string{}
	}
	for i := range peerings {
		p := &peerings[i]
		peer := p.Peer.Address
		if p.Interface != "" {
			k.interfaces[peer] = p.Interface
			continue
		}
		last := k.interfaces[peer]
		if last == "" || p.Config.EBGPMultiHop || p.Config.TTLSecurity > 1 {
			continue
		}
		// With another address of the family, the peer is no neighbor any more.
		readdressed := slices.ContainsFunc(interfaces, func(l l2.Interface) bool {
			return l.Name == last && slices.ContainsFunc(l.Prefixes, func(p netip.Prefix) bool { return p.Addr().Is4() == peer.Is4() })
		})
		if !readdressed {
			p.Interface, p.Multihop = last, false
		}
	}
}

// retainMissing records the facts of l and adds those that are missing, which are kept until
// the process ends.
func (k *lastKnownFacts) retainMissing(log *slog.Logger, l *plan.LocalFacts) {
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

// ownNode returns this node's Node or, if it was deleted, its last version with a
// deletion timestamp; nil if there never was one.
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
	gone.DeletionTimestamp, gone.Finalizers = &now, nil
	return gone
}

// macHistory has the MACs that nodes report, and those that they do not report any more. The
// zero value is ready for use; it is used by the sync loop only.
type macHistory struct {
	current  map[string]bool
	departed map[string]time.Time // replaced by observe, not changed
}

// observe replaces the interfaces of the nodes. A MAC counts as departed for departureTime.
func (h *macHistory) observe(interfaces map[string][]l2.Interface, now time.Time) {
	current, departed := map[string]bool{}, map[string]time.Time{}
	for _, all := range interfaces {
		for _, i := range all {
			current[i.MAC] = true
		}
	}
	for mac, since := range h.departed {
		if !current[mac] && now.Sub(since) < departureTime {
			departed[mac] = since
		}
	}
	for mac := range h.current {
		if !current[mac] {
			departed[mac] = now
		}
	}
	h.current, h.departed = current, departed
}

// departureTime is how long a MAC counts as departed: longer than a claim counts.
const departureTime = 2 * time.Minute
