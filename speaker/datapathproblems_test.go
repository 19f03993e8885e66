package speaker

import (
	"fmt"
	"log/slog"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-io/fairlead/speaker/l2"
	"github.com/fairlead-io/fairlead/speaker/plan"
)

// TestDataPathOfOtherNodes checks that a node whose kube-proxy does not answer, while those
// of other nodes do, announces what no other node announces, and that it reports it.
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
	if text := g.Message(); !strings.HasPrefix(text, "kube-proxy reports no endpoint on this node for 203.0.113.5 ") ||
		!strings.HasSuffix(text, "; and 1 other addresses") {
		t.Errorf("message %q", text)
	}
	refusing.healthy.Store(true)
	waitUntilReady(t, g, addr)
	if text := g.Message(); !strings.HasPrefix(text, "announces 203.0.113.6 without an answer") {
		t.Errorf("message %q", text)
	}
}
