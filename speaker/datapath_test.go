package speaker

import (
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"strings"
	"sync"
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

// TestDataPathOfOtherNodes checks that a node whose kube-proxy does not answer, while those
// of other nodes do, announces what no other node announces, and that it says so.
func TestDataPathOfOtherNodes(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	other := serveOn(t, fmt.Sprintf("127.0.0.2:%d", port))
	other.healthy.Store(true)
	wakes := make(chan struct{}, 1000)
	g := newDataPathGate(slog.New(slog.DiscardHandler), func() { wakes <- struct{}{} })
	g.port, g.recheckInterval = port, 10*time.Millisecond
	addr := netip.MustParseAddr("203.0.113.5")
	syncOnce := func() (l plan.LocalFacts) {
		g.FillLocal(&l)
		nodes := []*corev1.Node{node("a"), node("b", withInternalIP("127.0.0.2"))}
		g.Set(t.Context(), "a", nodes, plan.Plan{AwaitingDataPath: map[netip.Addr][]uint16{addr: nil}})
		return l
	}
	syncOnce()
	<-wakes
	if l := syncOnce(); l.DataPathReady[addr] || !l.DataPathLate[addr] || l.ProxyReady || !l.ProxyNotReady {
		t.Errorf("got %+v", l)
	}
	if text := g.Message(); !strings.HasPrefix(text, "kube-proxy does not answer on port") {
		t.Errorf("message %q", text)
	}
	// Without kube-proxy on the other node, this one is not worse.
	other.healthy.Store(false)
	await(t, "it ranks as the other node", func() bool { return !syncOnce().ProxyNotReady })
	own := serveOn(t, fmt.Sprintf("127.0.0.1:%d", port))
	own.healthy.Store(true)
	waitUntilReady(t, g, addr)
	if l := syncOnce(); l.DataPathLate[addr] || l.ProxyNotReady || g.Message() != "" {
		t.Errorf("got %+v, message %q", l, g.Message())
	}
}

func withInternalIP(addr string) func(*corev1.Node) {
	return func(n *corev1.Node) {
		n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: addr}}
	}
}

// TestDataPathRecovers checks that what did not answer in time is not reported any more once it
// answers: kube-proxy, whose problem was found by the probe of a Service that is gone meanwhile,
// and the health check of a Service.
func TestDataPathRecovers(t *testing.T) {
	t.Parallel()
	health, proxy := newHealthCheck(t), newHealthCheck(t)
	otherNode := serveOn(t, "127.0.0.3:"+strconv.Itoa(int(proxy.port())))
	nodes := []*corev1.Node{node("a"), node("b", withInternalIP("127.0.0.3"))}
	wakes := make(chan struct{}, 1000)
	g := newDataPathGate(slog.New(slog.DiscardHandler), func() { wakes <- struct{}{} })
	g.port, g.proxyReady, g.recheckInterval = proxy.port(), true, 10*time.Millisecond
	addr := netip.MustParseAddr("203.0.113.5")
	set := func(p plan.Plan) { g.Set(t.Context(), "a", nodes, p) }

	otherNode.healthy.Store(true)
	waiting := plan.Plan{AwaitingDataPath: map[netip.Addr][]uint16{addr: {health.port()}}}
	set(waiting)
	<-wakes
	if text := g.Message(); !strings.HasPrefix(text, "kube-proxy does not answer on port") {
		t.Errorf("message %q while only other nodes answer", text)
	}
	var l plan.LocalFacts
	if g.FillLocal(&l); l.ProxyNotReady {
		t.Error("kube-proxy counts as not ready although it has answered before")
	}
	set(plan.Plan{})
	proxy.healthy.Store(true)
	<-wakes
	if text := g.Message(); text != "" {
		t.Errorf("message %q although kube-proxy answers", text)
	}

	announced := plan.Plan{L2: map[netip.Addr]l2.Claim{addr: {}}}
	set(waiting)
	<-wakes // after the timeout
	if text := g.Message(); !isReady(g, addr) || !strings.HasPrefix(text, "announces 203.0.113.5 without an answer") {
		t.Errorf("ready is %t, message %q, although the health check fails", isReady(g, addr), text)
	}
	set(announced)
	health.healthy.Store(true)
	<-wakes
	if text := g.Message(); text != "" {
		t.Errorf("message %q although the health check answers", text)
	}
	await(t, "nothing is probed any more", func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		return !g.rechecking
	})
}

// serveOn returns a health check that listens on the address.
func serveOn(t *testing.T, addr string) *healthCheck {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	c := &healthCheck{}
	c.Server = &httptest.Server{Listener: l, Config: &http.Server{Handler: c}}
	c.Start()
	t.Cleanup(c.Close)
	return c
}

// TestDataPathMajority checks that a node waits for its kube-proxy for longer only if those of
// most other nodes answer, and that the first routes of a restarted speaker do not wait for that.
func TestDataPathMajority(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ answering, others int }{{1, 3}, {2, 4}, {2, 3}, {4, 9}} {
		t.Run(fmt.Sprint(row.answering, " of ", row.others), func(t *testing.T) {
			t.Parallel()
			port := freePort(t)
			nodes := []*corev1.Node{node("a")}
			for i := range row.others {
				addr := fmt.Sprintf("127.0.1.%d", i+1)
				nodes = append(nodes, node(addr, withInternalIP(addr)))
				if i < row.answering {
					serveOn(t, fmt.Sprintf("%s:%d", addr, port)).healthy.Store(true)
				}
			}
			wakes := make(chan struct{}, 10)
			g := newDataPathGate(slog.New(slog.DiscardHandler), func() { wakes <- struct{}{} })
			g.port = port
			addr := netip.MustParseAddr("203.0.113.5")
			g.Set(t.Context(), "a", nodes, plan.Plan{AwaitingDataPath: map[netip.Addr][]uint16{addr: nil}})
			if g.Idle() {
				t.Error("idle before the timeout")
			}
			<-wakes
			var l plan.LocalFacts
			g.FillLocal(&l)
			late := 2*row.answering > min(row.others, maxOtherNodes)
			if l.DataPathLate[addr] != late || l.DataPathReady[addr] == late || g.Idle() != late {
				t.Errorf("late is %t, ready %t, idle %t; want late %t", l.DataPathLate[addr], l.DataPathReady[addr], g.Idle(), late)
			}
		})
	}
}

// TestDataPathAsksConcurrently checks that kube-proxies that do not respond delay nothing: all
// are asked at the same time.
func TestDataPathAsksConcurrently(t *testing.T) {
	port := freePort(t)
	nodes := []*corev1.Node{node("a")}
	var mu sync.Mutex
	open, most := 0, 0
	for i := range maxOtherNodes {
		addr := fmt.Sprintf("127.0.2.%d", i+1)
		nodes = append(nodes, node(addr, withInternalIP(addr)))
		serveOn(t, fmt.Sprintf("%s:%d", addr, port)).Config.Handler = http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			mu.Lock()
			open++
			most = max(most, open)
			mu.Unlock()
			<-r.Context().Done()
			mu.Lock()
			open--
			mu.Unlock()
		})
	}
	g := newDataPathGate(slog.New(slog.DiscardHandler), func() {})
	g.port = port
	g.Set(t.Context(), "a", nodes, plan.Plan{})
	<-g.askOthers(t.Context())
	mu.Lock()
	defer mu.Unlock()
	if most != maxOtherNodes {
		t.Errorf("%d nodes are asked at the same time, want %d", most, maxOtherNodes)
	}
}

// freePort returns a port on which nothing listens.
func freePort(t *testing.T) uint16 {
	t.Helper()
	gone := newHealthCheck(t)
	gone.Close()
	return gone.port()
}

// TestDataPathRefused checks that an address waits for longer than the timeout while kube-proxy
// answers that its Service has no endpoint on the node, and that other programs cannot cause that
// by chance.
func TestDataPathRefused(t *testing.T) {
	t.Parallel()
	proxy := newHealthCheck(t)
	proxy.healthy.Store(true)
	const ofProxy = `{"service": {"namespace": "default", "name": "web"}, "localEndpoints": 0, "serviceProxyHealthy": true}`
	wakes := make(chan struct{}, 10)
	g := newDataPathGate(slog.New(slog.DiscardHandler), func() { wakes <- struct{}{} })
	g.port, g.proxyReady = proxy.port(), true
	refusing, other := newHealthCheck(t), newHealthCheck(t)
	refusing.body = ofProxy
	other.body = strings.Replace(ofProxy, "service", "server", 1)
	addr, addr2 := netip.MustParseAddr("203.0.113.5"), netip.MustParseAddr("203.0.113.6")
	g.Set(t.Context(), "a", nil, plan.Plan{AwaitingDataPath: map[netip.Addr][]uint16{addr: {refusing.port()}, addr2: {other.port()}}})
	<-wakes
	<-wakes
	var l plan.LocalFacts
	g.FillLocal(&l)
	g.Set(t.Context(), "a", nil, plan.Plan{
		AwaitingDataPath: map[netip.Addr][]uint16{addr: {refusing.port()}}, Advertised: map[netip.Addr][]int{addr2: nil},
	})
	if l.DataPathReady[addr] || l.DataPathLate[addr] || !l.DataPathReady[addr2] || !g.Idle() {
		t.Errorf("got %+v, idle %t", l, g.Idle())
	}
	if text := g.Message(); !strings.HasPrefix(text, "kube-proxy reports no endpoint on this node for 203.0.113.5 ") || !strings.HasSuffix(text, "; and 1 other addresses") {
		t.Errorf("message %q", text)
	}
	refusing.healthy.Store(true)
	waitUntilReady(t, g, addr)
	if text := g.Message(); !strings.HasPrefix(text, "announces 203.0.113.6 without an answer") {
		t.Errorf("message %q", text)
	}
}

// TestHealthAnswer checks which answers are those of kube-proxy, that not more than a part of a
// body is read, and that redirects are not followed.
func TestHealthAnswer(t *testing.T) {
	healthy := newHealthCheck(t)
	healthy.healthy.Store(true)
	answers := func(body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = w.Write([]byte(body))
		}
	}
	g := newDataPathGate(slog.New(slog.DiscardHandler), func() {})
	for _, row := range []struct {
		name    string
		handler http.HandlerFunc
		want    healthAnswer
	}{
		{"kube-proxy", answers(`{"service": {"namespace": "a", "name": "b"}, "localEndpoints": 0, "serviceProxyHealthy": true}`), noEndpoints},
		{"kube-proxy, unhealthy", answers(`{"service": {"namespace": "a", "name": "b"}, "localEndpoints": 2, "serviceProxyHealthy": false}`), failing},
		{"no Service", answers(`{"service": {}, "localEndpoints": 0}`), failing},
		{"no count", answers(`{"service": {"namespace": "a", "name": "b"}}`), failing},
		{"text", answers("unavailable"), failing},
		{"without end", answers(strings.Repeat(" ", 1<<20) + `{"service": {"namespace": "a", "name": "b"}, "localEndpoints": 0}`), failing},
		{"redirect", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, healthy.URL, http.StatusFound) }, failing},
	} {
		server := httptest.NewServer(row.handler)
		addr := netip.MustParseAddrPort(server.Listener.Addr().String())
		if got := g.probe(t.Context(), addr.Addr(), addr.Port()); got != row.want {
			t.Errorf("%s: got %d, want %d", row.name, got, row.want)
		}
		server.Close()
	}
	if healthy.requests.Load() > 0 {
		t.Error("a redirect is followed")
	}
}
