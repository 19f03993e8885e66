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
	// proxyPort is where kube-proxy says that it is healthy.
	proxyPort = 10256

	// askEvery is the time between two questions whether the data path is there.
	askEvery = 20 * time.Millisecond

	// settle is the time that kube-proxy gets for its first rules after it has
	// come up.
	settle = time.Second

	// giveUp is how long an answer is waited for where nothing listens, or
	// where what listens never agrees: other implementations of Services need
	// not answer at all.
	giveUp = 5 * time.Second

	// asking bounds the questions under way.
	asking = 16
)

// gate lets an address through when this node's own data path can serve it.
// Routers spread packets over all nodes that announce an address, so a node
// that begins before its kube-proxy knows the Service loses its share of them.
// Under externalTrafficPolicy Local kube-proxy is asked about the very Service, or
// about each of those that share the address; it answers after it has programmed
// its rules. Under Cluster it is asked only whether it is there: an address that
// is new to the whole cluster has no client to lose.
type gate struct {
	wake   func()
	port   uint16 // where kube-proxy says that it is healthy
	client *http.Client
	slots  chan struct{}

	mu      sync.Mutex
	hosts   []netip.Addr // of this node
	open    map[netip.Addr]bool
	routed  map[netip.Addr][]int // announced already; replaced, never changed
	pending map[string]*question // by their ports
	proxy   bool                 // kube-proxy is there
}

// question is asked of some ports until all have answered, for these addresses.
type question struct {
	stop  func()
	ports []uint16
	addrs []netip.Addr
}

func newGate(wake func()) *gate {
	return &gate{
		wake: wake, port: proxyPort, open: map[netip.Addr]bool{}, pending: map[string]*question{}, slots: make(chan struct{}, asking),
		client: &http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}},
	}
}

// Open tells l what may be announced.
func (g *gate) Open(l *plan.Local) {
	g.mu.Lock()
	defer g.mu.Unlock()
	l.DataPathReady, l.Advertised, l.ProxyReady = maps.Clone(g.open), g.routed, g.proxy
}

// Settled reports whether no question is open any more.
func (g *gate) Settled() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.pending) == 0
}

// Set asks for the addresses that wait, each with the ports of its health checks,
// and closes the gate behind those that are no longer announced.
func (g *gate) Set(ctx context.Context, node *corev1.Node, routed map[netip.Addr][]int, waiting map[netip.Addr][]uint16) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.hosts = hostsOf(node)
	for addr := range g.open {
		_, waits := waiting[addr]
		if _, told := routed[addr]; !told && !waits {
			delete(g.open, addr)
		}
	}
	g.routed = routed
	wanted := map[string]*question{}
	for addr, ports := range waiting {
		if len(ports) == 0 {
			ports = []uint16{g.port}
		}
		key := fmt.Sprint(ports)
		if wanted[key] == nil {
			wanted[key] = &question{ports: ports}
		}
		wanted[key].addrs = append(wanted[key].addrs, addr)
	}
	for key, q := range g.pending {
		if wanted[key] == nil {
			q.stop()
			delete(g.pending, key)
		}
	}
	for key, q := range wanted {
		if asked := g.pending[key]; asked != nil {
			asked.addrs = q.addrs
			continue
		}
		ctx, stop := context.WithCancel(ctx)
		q.stop = stop
		g.pending[key] = q
		go g.ask(ctx, key, q)
	}
}

// ask opens the gate when all ports answer with OK, or when it is no use to wait.
func (g *gate) ask(ctx context.Context, key string, q *question) {
	defer q.stop()
	deadline := time.Now().Add(giveUp)
	self := slices.Contains(q.ports, g.port)
	for first := true; ; first = false {
		ok := !slices.ContainsFunc(q.ports, func(port uint16) bool { return !g.answers(ctx, port) })
		if ctx.Err() != nil {
			return
		}
		if ok && !first && self {
			sleep(ctx, settle) // it has just come up
		}
		if ok || time.Now().After(deadline) {
			break
		}
		sleep(ctx, askEvery)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if ctx.Err() != nil || g.pending[key] != q {
		return
	}
	delete(g.pending, key)
	for _, addr := range q.addrs {
		g.open[addr] = true
	}
	g.proxy = g.proxy || self
	g.wake()
}

// hostsOf are where this node's own kube-proxy may listen: in some modes not on
// the loopback address.
func hostsOf(node *corev1.Node) []netip.Addr {
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

func (g *gate) answers(ctx context.Context, port uint16) bool {
	select {
	case <-ctx.Done():
		return false
	case g.slots <- struct{}{}:
		defer func() { <-g.slots }()
	}
	g.mu.Lock()
	hosts := g.hosts
	g.mu.Unlock()
	for _, host := range hosts {
		url := fmt.Sprintf("http://%s/healthz", netip.AddrPortFrom(host, port))
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			panic(fmt.Sprintf("%s is no URL: %v", url, err))
		}
		answer, err := g.client.Do(request)
		if err != nil {
			continue
		}
		_ = answer.Body.Close()
		return answer.StatusCode == http.StatusOK
	}
	return false
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
