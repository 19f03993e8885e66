package speaker

import (
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
	"github.com/fairlead-io/fairlead/speaker/l2"
	"github.com/fairlead-io/fairlead/speaker/plan"
)

// healthCheck is a health check server with a variable answer.
type healthCheck struct {
	*httptest.Server
	healthy  atomic.Bool
	requests atomic.Int64
}

func newHealthCheck(t *testing.T) *healthCheck {
	c := &healthCheck{}
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		c.requests.Add(1)
		if !c.healthy.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	t.Cleanup(c.Close)
	return c
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
	for deadline := time.Now().Add(time.Minute); !isReady(g, addr); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s does not become ready", addr)
		}
	}
}

func TestDataPathLocal(t *testing.T) {
	health := newHealthCheck(t)
	g := newDataPathGate(func() {})
	addr := netip.MustParseAddr("203.0.113.5")
	waiting := map[netip.Addr][]uint16{addr: {health.port()}}
	g.Set(t.Context(), nil, nil, waiting)
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
	g.Set(t.Context(), nil, nil, nil)
	g.Set(t.Context(), nil, nil, waiting)
	if isReady(g, addr) {
		t.Error("ready before the health check has answered again")
	}
	health.healthy.Store(true)
	waitUntilReady(t, g, addr)
	g.Set(t.Context(), nil, map[netip.Addr][]int{addr: {0}}, nil)
	if !isReady(g, addr) {
		t.Error("no longer ready although it is advertised")
	}
}

func TestDataPathCluster(t *testing.T) {
	proxy := newHealthCheck(t)
	proxy.healthy.Store(true)
	g := newDataPathGate(func() {})
	g.port = proxy.port()
	a := netip.MustParseAddr("203.0.113.5")
	g.Set(t.Context(), nil, nil, map[netip.Addr][]uint16{a: nil})
	waitUntilReady(t, g, a)
	var l plan.LocalFacts
	if g.FillLocal(&l); !l.ProxyReady {
		t.Error("kube-proxy is not ready although its health check has answered")
	}
}

// TestDataPathTimeout checks that the wait is bounded where nothing listens.
func TestDataPathTimeout(t *testing.T) {
	gone := newHealthCheck(t)
	gone.Close()
	g := newDataPathGate(func() {})
	g.port = gone.port()
	addr := netip.MustParseAddr("203.0.113.5")
	g.Set(t.Context(), nil, nil, map[netip.Addr][]uint16{addr: nil})
	waitUntilReady(t, g, addr)
}

// TestDataPathShared checks that an address of two Services waits until both are served.
func TestDataPathShared(t *testing.T) {
	one, other := newHealthCheck(t), newHealthCheck(t)
	g := newDataPathGate(func() {})
	addr := netip.MustParseAddr("203.0.113.5")
	one.healthy.Store(true)
	g.Set(t.Context(), nil, nil, map[netip.Addr][]uint16{addr: {one.port(), other.port()}})
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
	g := newDataPathGate(func() {})
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
		g.Set(t.Context(), nil, p.Advertised, p.AwaitingDataPath)
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
