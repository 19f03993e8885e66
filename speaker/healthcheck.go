package speaker

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
)

// othersAnswer reports whether the kube-proxy of another node answers.
func (g *dataPathGate) othersAnswer(ctx context.Context) bool {
	g.mu.Lock()
	others := g.others
	g.mu.Unlock()
	return slices.ContainsFunc(others, func(host netip.Addr) bool {
		ok, _ := g.probe(ctx, host, g.port)
		return ok
	})
}

// probePort reports whether the health check on the port answers with OK, and whether
// anything listens there. It tries the hosts of the family that is6 selects, then, if
// otherCounts, those of the other family. Only the first host that responds counts.
func (g *dataPathGate) probePort(ctx context.Context, port uint16, is6, otherCounts bool) (ok, listens bool) {
	select {
	case <-ctx.Done():
		return false, true
	case g.probeSlots <- struct{}{}:
		defer func() { <-g.probeSlots }()
	}
	g.mu.Lock()
	hosts := g.hosts
	otherCounts = otherCounts || is6 && g.ipv4Only
	g.mu.Unlock()
	for _, family := range []bool{is6, !is6} {
		for _, host := range hosts {
			if host.Is6() != family {
				continue
			}
			if ok, listens = g.probe(ctx, host, port); !listens {
				continue
			}
			if is6 && port != g.port && ctx.Err() == nil {
				g.mu.Lock()
				defer g.mu.Unlock()
				g.ipv4Only = !family
			}
			return ok, true
		}
		if !otherCounts {
			break
		}
	}
	return false, false
}

// probe probes a health check on one host. Without a response, nothing listens there.
func (g *dataPathGate) probe(ctx context.Context, host netip.Addr, port uint16) (ok, listens bool) {
	url := fmt.Sprintf("http://%s/healthz", netip.AddrPortFrom(host, port))
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		panic(fmt.Sprintf("invalid URL %q: %v", url, err))
	}
	response, err := g.client.Do(request)
	if err != nil {
		return false, ctx.Err() != nil
	}
	_ = response.Body.Close()
	return response.StatusCode == http.StatusOK, true
}
