package speaker

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// Message returns why addresses are announced although kube-proxy has not answered, or
// are not; "" if there are none.
func (g *dataPathGate) Message() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	problems := maps.Clone(g.unverified)
	for _, p := range g.pending {
		for _, addr := range p.addrs {
			if p.refused {
				problems[addr] = p
			}
		}
	}
	switch addrs := slices.SortedFunc(maps.Keys(problems), netip.Addr.Compare); {
	case g.proxyProblem != "" || len(addrs) == 0:
		return g.proxyProblem
	case len(addrs) == 1:
		return problems[addrs[0]].problem(addrs[0])
	default:
		return fmt.Sprintf("%s; and %d other addresses", problems[addrs[0]].problem(addrs[0]), len(addrs)-1)
	}
}

// problem returns why the probe has not verified the data path of an address.
func (p *healthProbe) problem(addr netip.Addr) string {
	ports := strings.Trim(fmt.Sprint(p.ports), "[]")
	if p.refused {
		return fmt.Sprintf("kube-proxy reports no endpoint on this node for %s (port %s): "+
			"the address is not announced until kube-proxy has an endpoint, or for %s", addr, ports, brokenProxyTimeout)
	}
	return fmt.Sprintf("announces %s without an answer from the health check of kube-proxy for it (port %s)", addr, ports)
}

// setProxyProblem sets the problem, and logs it if it is another one. The lock must be held.
func (g *dataPathGate) setProxyProblem(text string) {
	if text == g.proxyProblem {
		return
	}
	if g.proxyProblem = text; text == "" {
		g.log.Info("kube-proxy answers")
	} else {
		g.log.Warn("data path not verified", "reason", text)
	}
}

// recheck probes what has not answered in time, until all have answered or are not needed any
// more. A health check that is not waited for any more is not probed otherwise.
func (g *dataPathGate) recheck(ctx context.Context) {
	for {
		sleepContext(ctx, g.recheckInterval)
		g.mu.Lock()
		probes := map[string]*healthProbe{}
		if g.proxyProblem != "" {
			p := &healthProbe{ports: []uint16{g.port}}
			probes[p.key()] = p
		}
		for _, p := range g.unverified {
			probes[p.key()] = p
		}
		if g.rechecking = len(probes) > 0 && ctx.Err() == nil; !g.rechecking {
			g.mu.Unlock()
			return
		}
		g.mu.Unlock()
		for key, p := range probes {
			fails := func(port uint16) bool { return g.probePort(ctx, port, p.is6, true) != healthy }
			switch ofProxy := slices.Contains(p.ports, g.port); {
			case !slices.ContainsFunc(p.ports, fails):
				g.verify(key, ofProxy)
			case ofProxy:
				g.compareProxies(ctx)
			}
		}
	}
}

// verify clears what was reported because a probe had not been answered in time.
func (g *dataPathGate) verify(key string, ofProxy bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if ofProxy {
		g.proxyNotReady = false
		g.setProxyProblem("")
	}
	for addr, p := range g.unverified {
		if p.key() == key {
			delete(g.unverified, addr)
			g.log.Info("data path verified", "address", addr.String())
		}
	}
	g.wake()
}

// compareProxies ends ProxyNotReady of this node if most other kube-proxies do not answer any
// more either, for example because kube-proxy is replaced in the whole cluster.
func (g *dataPathGate) compareProxies(ctx context.Context) {
	g.mu.Lock()
	notReady := g.proxyNotReady
	g.mu.Unlock()
	if !notReady || <-g.askOthers(ctx) || ctx.Err() != nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.proxyNotReady = false
	g.wake()
}
