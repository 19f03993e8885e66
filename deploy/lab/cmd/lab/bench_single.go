package main

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"

	lab "github.com/fairlead-io/fairlead/deploy/lab"
)

// quietTime is the time without writes before a timed change.
const quietTime = 60 * time.Millisecond

// measureSingle times single changes, alternating with plain patches.
func (s *scaleBench) measureSingle(ctx context.Context) error {
	var created, edited, first, again []time.Duration
	err := s.Step(fmt.Sprintf("make %d single changes of each kind with %d Services", s.changes, 2*s.half), func() error {
		for i := range s.changes {
			bare, err := s.bareChange(ctx, fmt.Sprintf("other-%d", i))
			if err != nil {
				return err
			}
			first, again = append(first, bare[0]), append(again, bare[1])
			own, err := s.servedChange(ctx, i)
			if err != nil {
				return err
			}
			created, edited = append(created, own[0]), append(edited, own[1])
		}
		return nil
	})
	if err != nil {
		return err
	}
	s.table.addAll(fmt.Sprintf("one more Service with %d: created → status written", 2*s.half), created, first, 2)
	s.table.addAll("a Service requests another address → status written", edited, again, 2)
	for _, q := range []struct {
		name string
		all  []time.Duration
	}{{"created", created}, {"its plain patch", first}, {"edited", edited}, {"its plain patch", again}} {
		s.notes = append(s.notes, fmt.Sprintf("%s: p10 %s, p90 %s, max %s", q.name,
			quantile(q.all, .1), quantile(q.all, .9), quantile(q.all, 1)))
	}
	return nil
}

// bareChange patches a Service of another implementation twice, first without and then
// with a status.
func (s *scaleBench) bareChange(ctx context.Context, name string) (took [2]time.Duration, err error) {
	svc, err := s.createService(ctx, newService(name, otherClass))
	for i := range took {
		if err != nil {
			return took, err
		}
		patch := s.statusPatch(svc, "bench", "10.79")
		time.Sleep(quietTime)
		if took[i], err = s.timeCall(func() error { return s.applyStatus(ctx, name, patch) }); err != nil {
			return took, err
		}
		svc, err = s.API.CoreV1().Services("default").Get(ctx, name, metav1.GetOptions{})
	}
	return took, err
}

// servedChange creates a Service, and then requests another address for it.
func (s *scaleBench) servedChange(ctx context.Context, i int) (took [2]time.Duration, err error) {
	name := fmt.Sprintf("single-%d", i)
	time.Sleep(quietTime)
	if _, err = s.createService(ctx, newService(name)); err != nil {
		return took, err
	}
	answered := time.Now()
	at, err := s.statuses.waitAddress(ctx, name, "")
	if err != nil {
		return took, err
	}
	took[0] = at.Sub(answered)
	time.Sleep(quietTime)
	asked := fmt.Sprintf("10.80.255.%d", i+1)
	body := fmt.Sprintf(`{"metadata":{"annotations":{"fairlead.io/load-balancer-ips":%q}}}`, asked)
	if _, err := s.API.CoreV1().Services("default").Patch(ctx, name, types.MergePatchType, []byte(body),
		metav1.PatchOptions{}); err != nil {
		return took, fmt.Errorf("annotate Service %s: %w", name, err)
	}
	answered = time.Now()
	if at, err = s.statuses.waitAddress(ctx, name, asked); err != nil {
		return took, err
	}
	took[1] = at.Sub(answered)
	return took, nil
}

// noPool is the pool of Services without an address in the counts of a statusWatch.
const noPool = "no pool"

// statusWatch holds the state of the Services as seen by a watch of the API.
type statusWatch struct {
	mu       sync.Mutex
	by       map[string]seenStatus // by name
	counts   map[string]int        // by pool
	waitName string                // the Service and address that waitAddress waits for
	waitAddr string
	notify   chan time.Time
}

type seenStatus struct{ pool, addr string }

func watchStatuses(ctx context.Context, api *kubernetes.Clientset) (*statusWatch, error) {
	w, err := api.CoreV1().Services("default").Watch(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("watch Services: %w", err)
	}
	s := &statusWatch{by: map[string]seenStatus{}, counts: map[string]int{}, notify: make(chan time.Time, 1)}
	go func() {
		for e := range w.ResultChan() {
			if svc, ok := e.Object.(*corev1.Service); ok && e.Type != watch.Deleted {
				s.observe(svc)
			}
		}
	}()
	return s, nil
}

// observe records the status of the Service.
func (s *statusWatch) observe(svc *corev1.Service) {
	at := time.Now()
	var now seenStatus
	switch {
	case len(svc.Status.LoadBalancer.Ingress) > 0:
		now.addr = svc.Status.LoadBalancer.Ingress[0].IP
		record, _, _ := strings.Cut(svc.Annotations["fairlead.io/allocated-from"], ",uid=")
		_, now.pool, _ = strings.Cut(record, "=")
	case len(svc.Status.Conditions) > 0:
		now.pool = noPool
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts[s.by[svc.Name].pool]--
	s.by[svc.Name] = now
	s.counts[now.pool]++
	if svc.Name == s.waitName && now.addr != "" && (s.waitAddr == "" || s.waitAddr == now.addr) {
		s.waitName = ""
		s.notify <- at
	}
}

// waitAddress waits until the Service has the address, or any address if addr is empty.
// It returns the time at which the watch saw it.
func (s *statusWatch) waitAddress(ctx context.Context, name, addr string) (at time.Time, err error) {
	s.mu.Lock()
	if have := s.by[name].addr; have != "" && (addr == "" || addr == have) {
		s.mu.Unlock()
		return time.Now(), nil // seen before the response to the change
	}
	s.waitName, s.waitAddr = name, addr
	s.mu.Unlock()
	select {
	case at = <-s.notify:
		return at, nil
	case <-ctx.Done():
		return at, ctx.Err()
	case <-time.After(lab.WaitTimeout):
		return at, fmt.Errorf("waiting for address %q of Service %s: timeout after %s", addr, name, lab.WaitTimeout)
	}
}

// poolCount returns the number of Services with an address from the pool.
func (s *statusWatch) poolCount(pool string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counts[pool]
}

// waitCount waits until n Services have an address from the pool.
func (s *statusWatch) waitCount(ctx context.Context, n int, pool string) error {
	return lab.Wait(ctx, fmt.Sprintf("%d Services are assigned addresses from pool %s", n, pool), func() error {
		if have := s.poolCount(pool); have < n {
			return fmt.Errorf("%d are", have)
		}
		return nil
	})
}

// makePool creates a pool.
func (s *scaleBench) makePool(ctx context.Context, name, addresses string) error {
	pool := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "fairlead.io/v1alpha1", "kind": "IPAddressPool",
		"metadata": map[string]any{"name": name},
		"spec":     map[string]any{"addresses": []any{addresses}},
	}}
	if _, err := s.Resource("ipaddresspools").Create(ctx, pool, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("create pool %s: %w", name, err)
	}
	return nil
}
