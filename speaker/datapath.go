package speaker

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-io/fairlead/speaker/plan"
)

const (
	// proxyHealthPort is the port of kube-proxy's own health check.
	proxyHealthPort = 10256

	// probeInterval is the time between two probes of a health check.
	probeInterval = 20 * time.Millisecond

	// proxyWarmUp is the time that kube-proxy has for its first rules after it has
	// started.
	proxyWarmUp = time.Second

	// probeTimeout bounds the wait for a health check that is absent or always fails:
	// replacements of kube-proxy may not implement it.
	probeTimeout = 5 * time.Second

	// maxProbes bounds the number of concurrent requests.
	maxProbes = 16
)

// dataPathGate delays the advertisement of an address until this node's own data path
// serves it. Routers distribute packets over all nodes that advertise an address, so a
// node that begins before its kube-proxy has rules for the Service drops its share.
// Under externalTrafficPolicy: Local, the health check of the Service is probed, or those
// of all Services that share the address; kube-proxy answers after it has programmed
// its rules. Under Cluster only kube-proxy's own health check is probed: an address
// that is new to the whole cluster does not have clients yet.
type dataPathGate struct {
	wake       func()
	port       uint16 // of kube-proxy's own health check
	client     *http.Client
	probeSlots chan struct{}

	mu         sync.Mutex
	hosts      []netip.Addr // of this node
	ready      map[netip.Addr]bool
	advertised map[netip.Addr][]int    // advertised already; replaced, never modified
	pending    map[string]*healthProbe // by their ports, as text
	proxyReady bool                    // kube-proxy's own health check has answered
}

// healthProbe probes some ports, until all have answered, for some addresses.
type healthProbe struct {
	stop  func()
	ports []uint16
	addrs []netip.Addr
}

func newDataPathGate(wake func()) *dataPathGate {
	return &dataPathGate{
		wake: wake, port: proxyHealthPort, ready: map[netip.Addr]bool{}, pending: map[string]*healthProbe{},
		probeSlots: make(chan struct{}, maxProbes),
		client:     &http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}},
	}
}

// FillLocal sets what l has of the data path.
func (g *dataPathGate) FillLocal(l *plan.LocalFacts) {
	g.mu.Lock()
	defer g.mu.Unlock()
	l.DataPathReady, l.Advertised, l.ProxyReady = maps.Clone(g.ready), g.advertised, g.proxyReady
}

// Idle reports whether no probe is pending.
func (g *dataPathGate) Idle() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.pending) == 0
}

// Set replaces the addresses that are probed, each with the ports of its health checks,
// and forgets those that are no longer advertised.
func (g *dataPathGate) Set(
	ctx context.Context, node *corev1.Node, advertised map[netip.Addr][]int, waiting map[netip.Addr][]uint16,
) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.hosts = healthCheckHosts(node)
	for addr := range g.ready {
		_, waits := waiting[addr]
		if _, kept := advertised[addr]; !kept && !waits {
			delete(g.ready, addr)
		}
	}
	g.advertised = advertised
	desired := map[string]*healthProbe{}
	for addr, ports := range waiting {
		if len(ports) == 0 {
			ports = []uint16{g.port}
		}
		key := fmt.Sprint(ports)
		if desired[key] == nil {
			desired[key] = &healthProbe{ports: ports}
		}
		desired[key].addrs = append(desired[key].addrs, addr)
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
}

// probeUntilReady marks the probe's addresses as ready when all ports answer with OK, or
// after the timeout.
func (g *dataPathGate) probeUntilReady(ctx context.Context, key string, p *healthProbe) {
	defer p.stop()
	deadline := time.Now().Add(probeTimeout)
	ofProxy := slices.Contains(p.ports, g.port)
	for first := true; ; first = false {
		ok := !slices.ContainsFunc(p.ports, func(port uint16) bool { return !g.probePort(ctx, port) })
		if ctx.Err() != nil {
			return
		}
		if ok && !first && ofProxy {
			sleepContext(ctx, proxyWarmUp) // it has just started
		}
		if ok || time.Now().After(deadline) {
			break
		}
		sleepContext(ctx, probeInterval)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if ctx.Err() != nil || g.pending[key] != p {
		return
	}
	delete(g.pending, key)
	for _, addr := range p.addrs {
		g.ready[addr] = true
	}
	g.proxyReady = g.proxyReady || ofProxy
	g.wake()
}

// healthCheckHosts returns the addresses on which this node's kube-proxy may listen: in
// some modes it does not listen on the loopback address.
func healthCheckHosts(node *corev1.Node) []netip.Addr {
	hosts := []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}
	if node == nil {
		return hosts
	}
	for _, a := range node.Status.Addresses {
		if ip, err := netip.ParseAddr(a.Address); err == nil && a.Type == corev1.NodeInternalIP {
			hosts = append(hosts, ip)
		}
	}
	return hosts
}

// probePort reports whether the health check on the port answers with OK. Only the first
// host that responds counts.
func (g *dataPathGate) probePort(ctx context.Context, port uint16) bool {
	select {
	case <-ctx.Done():
		return false
	case g.probeSlots <- struct{}{}:
		defer func() { <-g.probeSlots }()
	}
	g.mu.Lock()
	hosts := g.hosts
	g.mu.Unlock()
	for _, host := range hosts {
		url := fmt.Sprintf("http://%s/healthz", netip.AddrPortFrom(host, port))
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			panic(fmt.Sprintf("invalid URL %q: %v", url, err))
		}
		response, err := g.client.Do(request)
		if err != nil {
			continue
		}
		_ = response.Body.Close()
		return response.StatusCode == http.StatusOK
	}
	return false
}

// sleepContext waits for the duration or until ctx ends.
func sleepContext(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
