package speaker

import (
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/fixture"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/speaker/internal/netnstest"
	"github.com/fairlead-io/fairlead/speaker/l2"
	"github.com/fairlead-io/fairlead/speaker/plan"
)

// healthCheck is a health check server with a variable answer.
type healthCheck struct {
	*httptest.Server
	healthy  atomic.Bool
	body     string // of the negative answer
	requests atomic.Int64
}

func newHealthCheck(t *testing.T) *healthCheck {
	c := &healthCheck{}
	c.Server = httptest.NewServer(c)
	t.Cleanup(c.Close)
	return c
}

func (c *healthCheck) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	c.requests.Add(1)
	if !c.healthy.Load() {
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = w.Write([]byte(c.body))
	}
}

func (c *healthCheck) port() uint16 {
	return netip.MustParseAddrPort(c.Listener.Addr().String()).Port()
}

func isReady(g *dataPathGate, addr netip.Addr) bool {
	var l plan.LocalFacts
	g.FillLocal(&l)
	return l.DataPathReady[addr]
}

func waitUntilReady(t *testing.T, g *dataPathGate, addr netip.Addr) {
	t.Helper()
	await(t, addr.String()+" is ready", func() bool { return isReady(g, addr) })
}

// await waits until the condition is true.
func await(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

func TestDataPathLocal(t *testing.T) {
	health := newHealthCheck(t)
	g := newDataPathGate(slog.New(slog.DiscardHandler), func() {})
	addr := netip.MustParseAddr("203.0.113.5")
	waiting := map[netip.Addr][]uint16{addr: {health.port()}}
	g.Set(t.Context(), "a", nil, plan.Plan{AwaitingDataPath: waiting})
	for deadline := time.Now().Add(time.Minute); health.requests.Load() < 3; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the health check is not probed")
		}
	}
	if g.Idle() || isReady(g, addr) {
		t.Errorf("idle is %t and ready %t before there is an answer", g.Idle(), isReady(g, addr))
	}
	health.healthy.Store(true)
	waitUntilReady(t, g, addr)

	// An endpoint that leaves the node and returns is probed again.
	health.healthy.Store(false)
	g.Set(t.Context(), "a", nil, plan.Plan{})
	g.Set(t.Context(), "a", nil, plan.Plan{AwaitingDataPath: waiting})
	if isReady(g, addr) {
		t.Error("ready before the health check has answered again")
	}
	health.healthy.Store(true)
	waitUntilReady(t, g, addr)
	g.Set(t.Context(), "a", nil, plan.Plan{Advertised: map[netip.Addr][]int{addr: {0}}})
	if !isReady(g, addr) {
		t.Error("no longer ready although it is advertised")
	}
}

func TestDataPathCluster(t *testing.T) {
	proxy := newHealthCheck(t)
	proxy.healthy.Store(true)
	g := newDataPathGate(slog.New(slog.DiscardHandler), func() {})
	g.port = proxy.port()
	a := netip.MustParseAddr("203.0.113.5")
	g.Set(t.Context(), "a", nil, plan.Plan{AwaitingDataPath: map[netip.Addr][]uint16{a: nil}})
	waitUntilReady(t, g, a)
	var l plan.LocalFacts
	if g.FillLocal(&l); !l.ProxyReady {
		t.Error("kube-proxy is not ready although its health check has answered")
	}
}

// TestDataPathFamilies checks that an address waits for the health check of its family, or
// for that of IPv4 where kube-proxy has one for both.
func TestDataPathFamilies(t *testing.T) {
	ipv4 := newHealthCheck(t)
	ipv4.healthy.Store(true)
	l, err := net.Listen("tcp", netip.AddrPortFrom(netip.IPv6Loopback(), ipv4.port()).String())
	if err != nil {
		netnstest.Skip(t, "IPv6 is not available: %v", err)
	}
	ipv6 := &healthCheck{}
	ipv6.Server = &httptest.Server{Listener: l, Config: &http.Server{Handler: ipv6}}
	ipv6.Start()
	t.Cleanup(ipv6.Close)
	g := newDataPathGate(slog.New(slog.DiscardHandler), func() {})
	a, b, c := netip.MustParseAddr("203.0.113.5"), netip.MustParseAddr("2001:db8::5"), netip.MustParseAddr("2001:db8::6")
	waiting := map[netip.Addr][]uint16{a: {ipv4.port()}, b: {ipv4.port()}}
	g.Set(t.Context(), "a", nil, plan.Plan{AwaitingDataPath: waiting})
	waitUntilReady(t, g, a)
	for deadline := time.Now().Add(time.Minute); ipv6.requests.Load() < 3; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the health check over IPv6 is not probed")
		}
	}
	if isReady(g, b) {
		t.Error("ready although the health check over IPv6 fails")
	}
	ipv6.healthy.Store(true)
	waitUntilReady(t, g, b)
	ipv6.Close()
	g.Set(t.Context(), "a", nil, plan.Plan{AwaitingDataPath: map[netip.Addr][]uint16{c: {ipv4.port()}}})
	waitUntilReady(t, g, c)
	if !g.ipv4Only {
		t.Error("it is not known that the health checks are over IPv4 only")
	}
}

// TestDataPathTimeout checks that the wait is bounded where nothing listens.
func TestDataPathTimeout(t *testing.T) {
	gone := newHealthCheck(t)
	gone.Close()
	g := newDataPathGate(slog.New(slog.DiscardHandler), func() {})
	g.port = gone.port()
	addr := netip.MustParseAddr("203.0.113.5")
	g.Set(t.Context(), "a", nil, plan.Plan{AwaitingDataPath: map[netip.Addr][]uint16{addr: nil}})
	waitUntilReady(t, g, addr)
}

// TestDataPathShared checks that an address of two Services waits until both are served.
func TestDataPathShared(t *testing.T) {
	one, other := newHealthCheck(t), newHealthCheck(t)
	g := newDataPathGate(slog.New(slog.DiscardHandler), func() {})
	addr := netip.MustParseAddr("203.0.113.5")
	one.healthy.Store(true)
	g.Set(t.Context(), "a", nil, plan.Plan{AwaitingDataPath: map[netip.Addr][]uint16{addr: {one.port(), other.port()}}})
	for deadline := time.Now().Add(time.Minute); other.requests.Load() < 3; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the health check is not probed")
		}
	}
	if isReady(g, addr) {
		t.Error("ready although one of its Services is not served")
	}
	other.healthy.Store(true)
	waitUntilReady(t, g, addr)
}

// TestDataPathJoined checks that an address that is advertised because kube-proxy is
// ready stays advertised when a Service with a health check joins.
func TestDataPathJoined(t *testing.T) {
	g := newDataPathGate(slog.New(slog.DiscardHandler), func() {})
	sharer := func(name string, change ...func(*corev1.Service)) *corev1.Service {
		return service(name, "203.0.113.5", "p", change...)
	}
	s := plan.Snapshot{
		Node: "a", Nodes: []*corev1.Node{node("a"), node("b")}, Interfaces: map[string][]l2.Interface{"a": nil, "b": nil},
		Services: []*corev1.Service{sharer("x")}, Slices: []*discoveryv1.EndpointSlice{endpoints("y", "a ready")},
	}
	s.Config, _ = config.Parse(config.Objects{
		BGPPeers: []*v1alpha1.BGPPeer{peer("router", "203.0.113.1")}, BGPAdvertisements: []*v1alpha1.BGPAdvertisement{bgpad("all")},
	})
	g.proxyReady = true
	syncOnce := func() plan.Plan {
		g.FillLocal(&s.Local)
		p := plan.Decide(s)
		g.Set(t.Context(), "a", s.Nodes, p)
		return p
	}
	y := sharer("y", local, fixture.WithHealthCheck(1)) // a port where nothing listens
	syncOnce()
	s.Services = append(s.Services, y)
	if p := syncOnce(); len(p.Advertised) != 1 || len(p.AwaitingDataPath) != 0 {
		t.Errorf("advertised %v, waiting %v", p.Advertised, p.AwaitingDataPath)
	}
	// A node that is not advertising it yet waits.
	s.Slices = []*discoveryv1.EndpointSlice{endpoints("y", "b ready")}
	syncOnce()
	s.Slices = []*discoveryv1.EndpointSlice{endpoints("y", "a ready")}
	if p := syncOnce(); len(p.Advertised) != 0 || len(p.AwaitingDataPath) != 1 {
		t.Errorf("advertised %v, waiting %v", p.Advertised, p.AwaitingDataPath)
	}
}

// TestDataPathReprogrammed checks that an address waits until kube-proxy has closed the health
// check of its Service, which is not under externalTrafficPolicy: Local any more.
func TestDataPathReprogrammed(t *testing.T) {
	health := newHealthCheck(t)
	g := newDataPathGate(slog.New(slog.DiscardHandler), func() {})
	g.proxyReady = true
	was := service("x", "203.0.113.5", "p", local, fixture.WithHealthCheck(int32(health.port())))
	is := service("x", "203.0.113.5", "p")
	addr := netip.MustParseAddr("203.0.113.5")
	reprogrammed := func() bool {
		var l plan.LocalFacts
		g.FillLocal(&l)
		return l.Reprogrammed[addr]
	}
	g.ServiceChanged(was, was)
	if reprogrammed() {
		t.Error("waits without a change")
	}
	g.unverified[addr] = &healthProbe{ports: []uint16{health.port()}}
	g.ServiceChanged(was, is)
	if text := g.Message(); text != "" {
		t.Errorf("message %q about a health check that the Service does not have any more", text)
	}
	for deadline := time.Now().Add(time.Minute); health.requests.Load() < 3; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the health check is not probed")
		}
	}
	if !reprogrammed() {
		t.Error("does not wait although the health check is open")
	}
	health.Close()
	for deadline := time.Now().Add(time.Minute); reprogrammed(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("waits although the health check is closed")
		}
	}

	// The rules for Cluster serve it until they are replaced.
	g.ServiceChanged(is, was)
	if !isReady(g, addr) {
		t.Error("not ready after a change to Local")
	}
	g.Set(t.Context(), "a", nil, plan.Plan{L2: map[netip.Addr]l2.Claim{addr: {}}})
	if !isReady(g, addr) {
		t.Error("not ready although it is announced")
	}
	g.Set(t.Context(), "a", nil, plan.Plan{})
	if isReady(g, addr) {
		t.Error("ready although it is not announced any more")
	}
}

// TestDataPathReprogrammedWakesOnce checks that an address that waits for new rules of
// kube-proxy only causes neither probes of kube-proxy nor syncs until it has them.
func TestDataPathReprogrammedWakesOnce(t *testing.T) {
	health, other, proxy := newHealthCheck(t), newHealthCheck(t), newHealthCheck(t)
	other.healthy.Store(true)
	proxy.healthy.Store(true)
	wakes := make(chan struct{}, 1000)
	g := newDataPathGate(slog.New(slog.DiscardHandler), func() { wakes <- struct{}{} })
	g.port, g.proxyReady = proxy.port(), true
	alone, shared := netip.MustParseAddr("203.0.113.5"), netip.MustParseAddr("203.0.113.6")
	ports := map[netip.Addr][]uint16{alone: nil, shared: {other.port()}} // shared with a Service under Local
	syncOnce := func() {
		var l plan.LocalFacts
		g.FillLocal(&l)
		waiting := map[netip.Addr][]uint16{}
		for addr := range l.Reprogrammed {
			waiting[addr] = ports[addr]
		}
		g.Set(t.Context(), "a", nil, plan.Plan{AwaitingDataPath: waiting})
	}
	for addr := range ports {
		was := service("x", addr.String(), "p", local, fixture.WithHealthCheck(int32(health.port())))
		g.ServiceChanged(was, service("x", addr.String(), "p"))
	}
	syncOnce()
	<-wakes // the health check of the other Service has answered
	syncOnce()
	if g.Idle() {
		t.Error("idle although addresses wait")
	}
	before := health.requests.Load()
	await(t, "the health check is probed", func() bool { return health.requests.Load() >= before+10 })
	health.Close()
	for range ports {
		<-wakes
		syncOnce()
	}
	if !g.Idle() || len(wakes) > 0 || other.requests.Load() != 1 || proxy.requests.Load() != 0 {
		t.Errorf("idle is %t, with %d more syncs, %d and %d requests", g.Idle(), len(wakes), other.requests.Load(), proxy.requests.Load())
	}
}
