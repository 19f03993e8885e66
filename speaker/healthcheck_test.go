package speaker

import (
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-io/fairlead/speaker/plan"
)

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

// freePort returns a port on which nothing listens.
func freePort(t *testing.T) uint16 {
	t.Helper()
	gone := newHealthCheck(t)
	gone.Close()
	return gone.port()
}

func withInternalIP(addr string) func(*corev1.Node) {
	return func(n *corev1.Node) {
		n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: addr}}
	}
}
