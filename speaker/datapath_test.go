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

// check is a health check whose answer can change.
type check struct {
	*httptest.Server
	healthy atomic.Bool
	asked   atomic.Int64
}

func newCheck(t *testing.T) *check {
	c := &check{}
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		c.asked.Add(1)
		if !c.healthy.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	t.Cleanup(c.Close)
	return c
}

func (c *check) port() uint16 {
	return netip.MustParseAddrPort(c.Listener.Addr().String()).Port()
}

func isOpen(g *gate, addr netip.Addr) bool {
	var l plan.Local
	g.Open(&l)
	return l.DataPathReady[addr]
}

func opens(t *testing.T, g *gate, addr netip.Addr) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !isOpen(g, addr); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s stays closed", addr)
		}
	}
}

func TestGateLocal(t *testing.T) {
	health := newCheck(t)
	g := newGate(func() {})
	addr := netip.MustParseAddr("203.0.113.5")
	waiting := map[netip.Addr][]uint16{addr: {health.port()}}
	g.Set(t.Context(), nil, nil, waiting)
	for deadline := time.Now().Add(time.Minute); health.asked.Load() < 3; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("nobody asks")
		}
	}
	if g.Settled() || isOpen(g, addr) {
		t.Errorf("settled is %t and open %t before there is an answer", g.Settled(), isOpen(g, addr))
	}
	health.healthy.Store(true)
	opens(t, g, addr)

	// An endpoint that leaves the node and returns is asked about again.
	health.healthy.Store(false)
	g.Set(t.Context(), nil, nil, nil)
	g.Set(t.Context(), nil, nil, waiting)
	if isOpen(g, addr) {
		t.Error("it is open before anybody has asked")
	}
	health.healthy.Store(true)
	opens(t, g, addr)
	g.Set(t.Context(), nil, map[netip.Addr][]int{addr: {0}}, nil)
	if !isOpen(g, addr) {
		t.Error("it closes although it is announced")
	}
}

func TestGateCluster(t *testing.T) {
	proxy := newCheck(t)
	proxy.healthy.Store(true)
	g := newGate(func() {})
	g.port = proxy.port()
	a := netip.MustParseAddr("203.0.113.5")
	g.Set(t.Context(), nil, nil, map[netip.Addr][]uint16{a: nil})
	opens(t, g, a)
	var l plan.Local
	if g.Open(&l); !l.ProxyReady {
		t.Error("kube-proxy is not known to be there")
	}
}

// TestGateNobodyAnswers: where nothing listens the wait is bounded.
func TestGateNobodyAnswers(t *testing.T) {
	gone := newCheck(t)
	gone.Close()
	g := newGate(func() {})
	g.port = gone.port()
	addr := netip.MustParseAddr("203.0.113.5")
	g.Set(t.Context(), nil, nil, map[netip.Addr][]uint16{addr: nil})
	opens(t, g, addr)
}

// TestGateShared: an address of two Services waits until both are served.
func TestGateShared(t *testing.T) {
	one, other := newCheck(t), newCheck(t)
	g := newGate(func() {})
	addr := netip.MustParseAddr("203.0.113.5")
	one.healthy.Store(true)
	g.Set(t.Context(), nil, nil, map[netip.Addr][]uint16{addr: {one.port(), other.port()}})
	for deadline := time.Now().Add(time.Minute); other.asked.Load() < 3; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("nobody asks")
		}
	}
	if isOpen(g, addr) {
		t.Error("it is open although one of its Services is not served")
	}
	other.healthy.Store(true)
	opens(t, g, addr)
}

// TestGateJoined: an address that is announced because kube-proxy is there goes on
// when a Service with a health check joins.
func TestGateJoined(t *testing.T) {
	g := newGate(func() {})
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
	g.proxy = true
	pass := func() plan.Plan {
		g.Open(&s.Local)
		p := plan.Decide(s)
		g.Set(t.Context(), nil, p.Advertised, p.AwaitingDataPath)
		return p
	}
	y := sharer("y", local, fixture.WithHealthCheck(1)) // where nobody answers
	pass()
	s.Services = append(s.Services, y)
	if p := pass(); len(p.Advertised) != 1 || len(p.AwaitingDataPath) != 0 {
		t.Errorf("routed %v, waiting %v", p.Advertised, p.AwaitingDataPath)
	}
	// A node that begins waits.
	s.Slices = []*discoveryv1.EndpointSlice{endpoints("y", "b ready")}
	pass()
	s.Slices = []*discoveryv1.EndpointSlice{endpoints("y", "a ready")}
	if p := pass(); len(p.Advertised) != 0 || len(p.AwaitingDataPath) != 1 {
		t.Errorf("routed %v, waiting %v", p.Advertised, p.AwaitingDataPath)
	}
}
