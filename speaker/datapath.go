package speaker

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/speaker/plan"
)

const (
	// proxyHealthPort is the port of kube-proxy's own health check.
	proxyHealthPort = 10256

	// probeInterval is the time between two probes of a health check, lateProbeInterval that
	// after probeTimeout, and recheckInterval that of one that is not waited for any more.
	probeInterval, lateProbeInterval, recheckInterval = 20 * time.Millisecond, 500 * time.Millisecond, 10 * time.Second

	// proxyWarmUp is the time that kube-proxy has for its first rules after it has
	// started.
	proxyWarmUp = time.Second

	// probeTimeout bounds the wait for a health check that is absent or always fails:
	// replacements of kube-proxy may not implement it. brokenProxyTimeout does if kube-proxy
	// itself reports that it has no rules for the Service yet, or answers on most other nodes, but
	// not on this one.
	probeTimeout, brokenProxyTimeout = 5 * time.Second, 3 * time.Minute

	// firstRoutesTimeout bounds the wait of a speaker's first routes for the data path. Usually
	// they wait for probeTimeout at most, plus the time to ask other nodes.
	firstRoutesTimeout = 2 * probeTimeout

	// otherFamilyDelay is the time after which the health check of a Service in the other
	// family counts, if nothing listens in that of the address. kube-proxy programs the rules of
	// each family separately, and older versions have one health check for both, over IPv4.
	otherFamilyDelay = 2 * time.Second

	// maxProbes bounds the number of concurrent requests.
	maxProbes = 16

	// maxOtherNodes is the number of other nodes with kube-proxies that are probed.
	maxOtherNodes = 4
)

// dataPathGate delays the announcement of an address until this node's own data path
// serves it. A node that begins before its kube-proxy has rules for the Service drops
// the packets that it attracts. Under externalTrafficPolicy: Local, the health check of
// the Service is probed, or those of all Services that share the address; kube-proxy
// answers after it has programmed its rules. Under Cluster only kube-proxy's own health
// check is probed: an address that is new to the whole cluster does not have clients yet.
//
// If a Service is changed from Local to Cluster, kube-proxy closes its health check after
// it has programmed the new rules. If it is changed from Cluster to Local, the rules for
// Cluster serve the address until they are replaced.
type dataPathGate struct {
	log             *slog.Logger
	wake            func()
	port            uint16 // of kube-proxy's own health check
	recheckInterval time.Duration
	client          *http.Client
	probeSlots      chan struct{}

	mu            sync.Mutex
	hosts         []netip.Addr   // of this node
	ipv4Only      bool           // the health checks of Services are over IPv4, for both families
	others        [][]netip.Addr // of up to maxOtherNodes other nodes that are Ready, by node
	ready         map[netip.Addr]bool
	served        map[netip.Addr]bool            // by the rules before a change; not passed to a plan yet
	reprogrammed  map[netip.Addr]*corev1.Service // the last version of the Service
	advertised    map[netip.Addr][]int           // advertised already; replaced, never modified
	waiting       int                            // addresses of the last plan that wait
	pending       map[string]*healthProbe        // by their keys
	proxyReady    bool                           // kube-proxy's own health check has answered, or is absent
	proxyNotReady bool                           // it has not answered yet, but does on most other nodes
	proxyProblem  string                         // why it is taken for ready without an answer, or is waited for
	unverified    map[netip.Addr]*healthProbe    // announced without an answer to these probes
	rechecking    bool                           // recheck runs
}

// loopbacks are the addresses on which kube-proxy listens in most modes.
var loopbacks = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}

// healthProbe probes some ports, until all have answered, for some addresses of one family.
type healthProbe struct {
	stop  func()
	is6   bool
	ports []uint16
	addrs []netip.Addr
	// Why the probe continues after the timeout; at most one of them is set:
	late    bool // kube-proxy does not answer on this node, but does on most others
	refused bool // kube-proxy reports no endpoints
}

// key identifies the probe.
func (p *healthProbe) key() string { return fmt.Sprint(p.is6, p.ports) }

func newDataPathGate(log *slog.Logger, wake func()) *dataPathGate {
	return &dataPathGate{
		log: log, wake: wake, port: proxyHealthPort, recheckInterval: recheckInterval, hosts: loopbacks,
		client:     newHealthCheckClient(),
		probeSlots: make(chan struct{}, maxProbes),
		ready:      map[netip.Addr]bool{}, served: map[netip.Addr]bool{}, reprogrammed: map[netip.Addr]*corev1.Service{},
		pending: map[string]*healthProbe{}, unverified: map[netip.Addr]*healthProbe{},
	}
}

// FillLocal sets what l has of the data path.
func (g *dataPathGate) FillLocal(l *plan.LocalFacts) {
	g.mu.Lock()
	defer g.mu.Unlock()
	maps.Copy(g.ready, g.served)
	clear(g.served)
	l.DataPathReady, l.Advertised, l.ProxyReady = maps.Clone(g.ready), g.advertised, g.proxyReady
	l.ProxyNotReady = g.proxyNotReady
	l.DataPathLate = map[netip.Addr]bool{}
	for _, p := range g.pending {
		for _, addr := range p.addrs {
			l.DataPathLate[addr] = p.late
		}
	}
	l.Reprogrammed = make(map[netip.Addr]bool, len(g.reprogrammed))
	for addr := range g.reprogrammed {
		l.Reprogrammed[addr] = true
	}
}

// ServiceChanged observes a change of the externalTrafficPolicy of a Service.
func (g *dataPathGate) ServiceChanged(was, is *corev1.Service) {
	isLocal := func(svc *corev1.Service) bool {
		return svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
	}
	if isLocal(was) == isLocal(is) {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, addr := range plan.AnnounceableAddresses(is) {
		delete(g.reprogrammed, addr)
		if isLocal(is) {
			g.served[addr] = g.proxyReady
		} else if port := uint16(was.Spec.HealthCheckNodePort); port != 0 {
			g.reprogrammed[addr] = is
			if p := g.unverified[addr]; p != nil && slices.Contains(p.ports, port) {
				delete(g.unverified, addr)
			}
			go g.waitUntilClosed(addr, is, port)
		}
	}
}

// waitUntilClosed waits until kube-proxy has closed a health check, and thus replaced its
// rules for the Service. The time is bounded: another program may have the port.
func (g *dataPathGate) waitUntilClosed(addr netip.Addr, svc *corev1.Service, port uint16) {
	ctx, cancel := context.WithTimeout(context.Background(), probeTimeout)
	defer cancel()
	for ctx.Err() == nil {
		if g.probePort(ctx, port, addr.Is6(), true) == noAnswer {
			break
		}
		sleepContext(ctx, probeInterval)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.reprogrammed[addr] == svc {
		delete(g.reprogrammed, addr)
		g.wake()
	}
}

// Idle reports whether no address of the last plan waits, except those that are late or refused.
func (g *dataPathGate) Idle() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	late := 0
	for _, p := range g.pending {
		if p.late || p.refused {
			late += len(p.addrs)
		}
	}
	return late == g.waiting
}

// Set replaces the addresses that are probed by those of a plan, and forgets those that
// this node does not announce and is not about to. The nodes are all nodes of the cluster.
func (g *dataPathGate) Set(ctx context.Context, node string, nodes []*corev1.Node, p plan.Plan) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.setHosts(node, nodes)
	forget := func(addr netip.Addr, _ bool) bool {
		_, waits := p.AwaitingDataPath[addr]
		_, advertised := p.Advertised[addr]
		_, claimed := p.L2[addr]
		return !waits && !advertised && !claimed
	}
	maps.DeleteFunc(g.ready, forget)
	maps.DeleteFunc(g.unverified, func(addr netip.Addr, _ *healthProbe) bool { return forget(addr, true) })
	g.advertised, g.waiting = p.Advertised, len(p.AwaitingDataPath)
	desired := map[string]*healthProbe{}
	ofProxy := healthProbe{ports: []uint16{g.port}} // of both families
	if !g.proxyReady && len(p.L2)+len(p.BGP)+len(p.Neighbors) > 0 {
		desired[ofProxy.key()] = &ofProxy // before an address needs it
	}
	for addr, ports := range p.AwaitingDataPath {
		if g.ready[addr] || len(ports) == 0 && g.proxyReady {
			continue // it waits for waitUntilClosed, or was ready after FillLocal: the next sync is due
		}
		probe := &healthProbe{is6: addr.Is6(), ports: ports}
		if len(ports) == 0 {
			probe = &ofProxy
		}
		if running := desired[probe.key()]; running != nil {
			probe = running
		}
		desired[probe.key()] = probe
		probe.addrs = append(probe.addrs, addr)
	}
	for key, p := range g.pending {
		if desired[key] == nil {
			p.stop()
			delete(g.pending, key)
		}
	}
	for key, p := range desired {
		if running := g.pending[key]; running != nil {
			running.addrs = p.addrs
			continue
		}
		ctx, stop := context.WithCancel(ctx)
		p.stop = stop
		g.pending[key] = p
		go g.probeUntilReady(ctx, key, p)
	}
	if !g.rechecking && (g.proxyProblem != "" || len(g.unverified) > 0) {
		g.rechecking = true
		go g.recheck(ctx)
	}
}

// probeUntilReady marks the probe's addresses as ready when all ports answer with OK, or
// after the timeout.
func (g *dataPathGate) probeUntilReady(ctx context.Context, key string, p *healthProbe) {
	defer p.stop()
	began := time.Now()
	deadline := began.Add(probeTimeout)
	ofProxy := slices.Contains(p.ports, g.port)
	answersOK := func(port uint16) bool {
		return g.probePort(ctx, port, p.is6, ofProxy || time.Since(began) > otherFamilyDelay) == healthy
	}
	ok, interval := false, probeInterval
	var othersAnswer <-chan bool // requested before the deadline, so that the result is there by then
	for first := true; ; first = false {
		ok = !slices.ContainsFunc(p.ports, func(port uint16) bool { return !answersOK(port) })
		if ctx.Err() != nil {
			return
		}
		if ok && !first && ofProxy {
			sleepContext(ctx, proxyWarmUp) // it has just started
		}
		if ok {
			break
		}
		if othersAnswer == nil && time.Until(deadline) < othersTimeout {
			othersAnswer = g.askOthers(ctx)
		}
		if time.Now().After(deadline) {
			if deadline.Sub(began) >= brokenProxyTimeout || !g.waitsLonger(ctx, p, othersAnswer) {
				break
			}
			deadline, othersAnswer, interval = deadline.Add(probeTimeout), nil, lateProbeInterval
		}
		sleepContext(ctx, interval)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if ctx.Err() != nil || g.pending[key] != p {
		return
	}
	delete(g.pending, key)
	p.late, p.refused = false, false
	countDataPathCheck(ofProxy, ok)
	for _, addr := range p.addrs {
		g.ready[addr] = true
		if !ok && !ofProxy {
			g.unverified[addr] = p
			g.log.Warn("data path not verified", "reason", p.problem(addr))
		}
	}
	if ofProxy {
		g.proxyReady = true
		problem := ""
		g.proxyNotReady = g.proxyNotReady && !ok
		if !ok {
			problem = fmt.Sprintf("announces addresses without an answer from kube-proxy (port %d) for %s",
				g.port, time.Since(began).Round(time.Second))
		}
		g.setProxyProblem(problem)
	}
	g.wake()
}

// waitsLonger reports whether the probe is to be continued after a timeout, and records why. If
// kube-proxy does not answer, but does on most other nodes, addresses are announced on interfaces
// meanwhile if no other node announces them.
func (g *dataPathGate) waitsLonger(ctx context.Context, p *healthProbe, othersAnswer <-chan bool) bool {
	answer := func(port uint16) healthAnswer { return g.probePort(ctx, port, p.is6, true) }
	refused := slices.ContainsFunc(p.ports, func(port uint16) bool { return answer(port) == noEndpoints })
	late := !refused && answer(g.port) != healthy && <-othersAnswer
	if ctx.Err() != nil {
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	notReady := late && (g.proxyNotReady || !g.proxyReady)
	changed := late != p.late || refused != p.refused || notReady != g.proxyNotReady
	p.late, p.refused, g.proxyNotReady = late, refused, notReady
	if late {
		g.setProxyProblem(fmt.Sprintf("kube-proxy does not answer on port %d, but does on other nodes: for up to %s, "+
			"no address is advertised by BGP, and no other node's address is taken over", g.port, brokenProxyTimeout))
	}
	if changed && refused {
		for _, addr := range p.addrs {
			g.log.Warn("data path not verified", "reason", p.problem(addr))
		}
	}
	if changed {
		g.wake()
	}
	return late || refused
}

// setHosts sets the addresses on which the kube-proxies of the nodes may listen: in some
// modes they do not listen on the loopback address. The lock must be held.
func (g *dataPathGate) setHosts(node string, nodes []*corev1.Node) {
	g.hosts, g.others = slices.Clone(loopbacks), nil
	for _, n := range nodes {
		var addrs []netip.Addr
		for _, a := range n.Status.Addresses {
			if ip, err := netip.ParseAddr(a.Address); err == nil && a.Type == corev1.NodeInternalIP {
				addrs = append(addrs, ip)
			}
		}
		switch {
		case n.Name == node:
			g.hosts = append(g.hosts, addrs...)
		case len(addrs) > 0 && len(g.others) < maxOtherNodes && config.NodeReady(n):
			g.others = append(g.others, addrs[:min(len(addrs), maxAddressesAsked)])
		}
	}
}

// sleepContext waits for the duration or until ctx ends.
func sleepContext(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
