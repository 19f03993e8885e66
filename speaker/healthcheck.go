package speaker

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// healthAnswer is what one probe of a health check has shown.
type healthAnswer int

const (
	noAnswer    healthAnswer = iota // nothing listens
	failing                         // any answer but the following
	noEndpoints                     // by the rules of kube-proxy, the Service has no ready endpoint on the node
	healthy
)

const (
	// requestTimeout bounds one request.
	requestTimeout = time.Second

	// maxAnswer bounds the part of a body that is read: those of kube-proxy have the namespace and
	// the name of a Service, and some words.
	maxAnswer = 1024

	// maxAddressesAsked is the number of addresses of each other node that are probed: one of each
	// family.
	maxAddressesAsked = 2

	// othersTimeout is the time that askOthers takes at most.
	othersTimeout = maxAddressesAsked * requestTimeout
)

func newHealthCheckClient() *http.Client {
	return &http.Client{
		Timeout: requestTimeout, Transport: &http.Transport{DisableKeepAlives: true},
		// kube-proxy does not redirect, and another program must not choose the target of a request.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// askOthers probes the kube-proxies of other nodes concurrently. The channel receives whether most
// of them answer: if two or more are asked, the answer of a single node, which may be
// compromised, is not sufficient.
func (g *dataPathGate) askOthers(ctx context.Context) <-chan bool {
	g.mu.Lock()
	others := g.others
	g.mu.Unlock()
	var tasks sync.WaitGroup
	var answers atomic.Int64
	for _, hosts := range others {
		tasks.Go(func() {
			if slices.ContainsFunc(hosts, func(host netip.Addr) bool { return g.probe(ctx, host, g.port) == healthy }) {
				answers.Add(1)
			}
		})
	}
	most := make(chan bool, 1)
	go func() {
		tasks.Wait()
		most <- 2*int(answers.Load()) > len(others)
	}()
	return most
}

// probePort returns the answer of the health check on the port. It tries the hosts of the
// family that is6 selects, then, if otherCounts, those of the other family. Only the first
// host that responds counts.
func (g *dataPathGate) probePort(ctx context.Context, port uint16, is6, otherCounts bool) healthAnswer {
	select {
	case <-ctx.Done():
		return failing
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
			answer := g.probe(ctx, host, port)
			if answer == noAnswer {
				continue
			}
			if is6 && port != g.port && ctx.Err() == nil {
				g.mu.Lock()
				defer g.mu.Unlock()
				g.ipv4Only = !family
			}
			return answer
		}
		if !otherCounts {
			break
		}
	}
	return noAnswer
}

// probe probes a health check on one host.
func (g *dataPathGate) probe(ctx context.Context, host netip.Addr, port uint16) healthAnswer {
	url := fmt.Sprintf("http://%s/healthz", netip.AddrPortFrom(host, port))
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		panic(fmt.Sprintf("invalid URL %q: %v", url, err))
	}
	response, err := g.client.Do(request)
	switch {
	case err != nil && ctx.Err() != nil:
		return failing // it is not known whether anything listens
	case err != nil:
		return noAnswer
	}
	defer func() { _ = response.Body.Close() }()
	switch {
	case response.StatusCode == http.StatusOK:
		return healthy
	case response.StatusCode == http.StatusServiceUnavailable && reportsNoEndpoints(response.Body):
		return noEndpoints
	}
	return failing
}

// reportsNoEndpoints reports whether the body of an answer is that of kube-proxy for a Service
// without ready endpoints on the node (k8s.io/kubernetes/pkg/proxy/healthcheck). That may be
// another Service, if kube-proxy does not know yet which one has the port.
func reportsNoEndpoints(body io.Reader) bool {
	var answer struct {
		Service        struct{ Namespace, Name string }
		LocalEndpoints *int
	}
	err := json.NewDecoder(io.LimitReader(body, maxAnswer)).Decode(&answer)
	return err == nil && answer.Service.Namespace != "" && answer.Service.Name != "" &&
		answer.LocalEndpoints != nil && *answer.LocalEndpoints == 0
}
