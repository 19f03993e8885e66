package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	lab "github.com/fairlead-io/fairlead/deploy/lab"
)

const benchObjects = `apiVersion: fairlead.io/v1alpha1
kind: IPAddressPool
metadata: {name: bench}
spec: {addresses: [10.80.0.0/16]}
---
apiVersion: fairlead.io/v1alpha1
kind: BFDProfile
metadata: {name: fast}
spec: {transmitInterval: 50, receiveInterval: 50}
---
apiVersion: fairlead.io/v1alpha1
kind: BGPPeer
metadata: {name: bird}
spec: {myASN: 64512, peerASN: 64513, peerAddress: 10.13.242.251, bfdProfile: fast, enableGracefulRestart: true}
---
apiVersion: fairlead.io/v1alpha1
kind: BGPPeer
metadata: {name: frr}
spec: {myASN: 64512, peerASN: 64513, peerAddress: 10.13.242.252, bfdProfile: fast, enableGracefulRestart: true}
---
apiVersion: fairlead.io/v1alpha1
kind: BGPAdvertisement
metadata: {name: bench}
spec: {withoutEndpoints: Advertise} # what is measured must not depend on the EndpointSlice controller
`

// benchAmounts are the sizes and repetitions of the BGP benchmarks.
type benchAmounts struct {
	sizes     []int // Services in the cluster
	samples   int   // new routes that are timed with each size
	powerOffs int   // number of nodes that are powered off
}

var quickBench, fullBench = benchAmounts{[]int{10, 1000}, 10, 3}, benchAmounts{[]int{10, 5000}, 30, 10}

const parallelCreates = 32 // number of concurrent creations

// bench measures announcements over BGP in a whole cluster.
type bench struct {
	*lab.Cluster
	lab.Progress
	benchAmounts
	bird, frr *lab.Router
	created   int // Services created by createServices
}

func runBench(ctx context.Context, o lab.Options, amounts benchAmounts) error {
	c, err := lab.Start(ctx, o)
	if err != nil {
		return err
	}
	b := &bench{Cluster: c, Progress: o.Progress, benchAmounts: amounts}
	if err := b.startRouters(ctx); err != nil {
		return err
	}
	var lines []string
	for i, size := range b.sizes {
		if i > 0 {
			// The kube-proxies of all nodes share one machine. With thousands of
			// Services they would use all of its CPU time.
			b.pauseProxies()
		}
		if err := b.Step(fmt.Sprintf("create Services, up to %d", size), func() error { return b.createServices(ctx, size) }); err != nil {
			return err
		}
		time.Sleep(3 * time.Second) // until the last reports are written
		more, err := b.measureNewRoutes(ctx, size)
		if err != nil {
			return err
		}
		lines = append(append(lines, more...), b.speakerCost(size))
		if i == 0 {
			for _, measure := range []func(context.Context) ([]string, error){b.measurePowerOffs, b.measurePlanned} {
				more, err := measure(ctx)
				if err != nil {
					return err
				}
				lines = append(lines, more...)
			}
		}
	}
	fmt.Println("\n" + strings.Join(lines, "\n"))
	return nil
}

func (b *bench) pauseProxies() {
	for _, p := range b.Proxies {
		p.Signal(syscall.SIGSTOP)
	}
}

func (b *bench) startRouters(ctx context.Context) (err error) {
	return b.Step("start two routers (BIRD, FRR)", func() error {
		if b.bird, err = b.Network.AddRouter("bird", 251); err != nil {
			return err
		}
		if b.frr, err = b.Network.AddRouter("frr", 252); err != nil {
			return err
		}
		if err := b.bird.StartBIRD(ctx, b.routerConfig(b.bird).BIRD()); err != nil {
			return err
		}
		if err := b.frr.StartFRR(ctx, b.routerConfig(b.frr).FRR()); err != nil {
			return err
		}
		if err := b.SetGateways(b.bird, b.frr); err != nil {
			return err
		}
		if err := b.Apply(ctx, benchObjects); err != nil {
			return err
		}
		for _, r := range []*lab.Router{b.bird, b.frr} {
			for _, n := range b.Nodes {
				if err := r.WaitSession(ctx, n.Addr.String(), "Established"); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// routerConfig returns the configuration of a router with a session with every node,
// and BFD every 50 ms.
func (b *bench) routerConfig(r *lab.Router) lab.BGP {
	neighbors := lab.NodeNeighbors(b.Nodes, 64512, func(n *lab.Neighbor, _ *lab.Host) { n.BFD = 50 * time.Millisecond })
	return lab.BGP{ASN: 64513, RouterID: r.Addr, Neighbors: neighbors}
}

func (b *bench) createService(ctx context.Context, name string, policy corev1.ServiceExternalTrafficPolicy) error {
	no := false
	_, err := b.API.CoreV1().Services("default").Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeLoadBalancer, ExternalTrafficPolicy: policy, AllocateLoadBalancerNodePorts: &no,
			Selector: map[string]string{"app": "influxdb"}, Ports: []corev1.ServicePort{{Port: 8086}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("create Service %s: %w", name, err)
	}
	return nil
}

// createServices creates Services up to the size, and waits until all are announced.
func (b *bench) createServices(ctx context.Context, size int) error {
	var group errgroup.Group
	group.SetLimit(parallelCreates)
	for ; b.created < size; b.created++ {
		name := fmt.Sprintf("s%05d", b.created)
		group.Go(func() error { return b.createService(ctx, name, corev1.ServiceExternalTrafficPolicyCluster) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return lab.Wait(ctx, "all Services are announced", func() error {
		list, err := b.API.CoreV1().Services("default").List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		without := 0
		for _, s := range list.Items {
			announced := slices.ContainsFunc(s.Status.Conditions, func(c metav1.Condition) bool {
				return c.Type == "fairlead.io/Announced" && c.Status == metav1.ConditionTrue
			})
			if s.Spec.Type == corev1.ServiceTypeLoadBalancer && !announced {
				without++
			}
		}
		if without > 0 {
			return fmt.Errorf("%d are not announced", without)
		}
		return nil
	})
}

// measureNewRoutes times single new Services, from the time that a watch of the API
// returns the address to the time that the route is in the kernel of the router.
func (b *bench) measureNewRoutes(ctx context.Context, size int) (lines []string, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watch, err := b.API.CoreV1().Services("default").Watch(ctx, metav1.ListOptions{FieldSelector: ""})
	if err != nil {
		return nil, fmt.Errorf("watch Services: %w", err)
	}
	defer watch.Stop()
	var mu sync.Mutex
	assigned := map[string]time.Time{} // by name
	addrs := map[string]netip.Addr{}
	go func() {
		for e := range watch.ResultChan() {
			s, ok := e.Object.(*corev1.Service)
			if !ok || len(s.Status.LoadBalancer.Ingress) == 0 {
				continue
			}
			mu.Lock()
			if _, known := assigned[s.Name]; !known {
				assigned[s.Name] = time.Now()
				addrs[s.Name], _ = netip.ParseAddr(s.Status.LoadBalancer.Ingress[0].IP)
			}
			mu.Unlock()
		}
	}()
	routed := map[*lab.Router]map[netip.Addr]time.Time{}
	for _, r := range []*lab.Router{b.bird, b.frr} {
		changes, err := r.WatchRoutes(ctx)
		if err != nil {
			return nil, err
		}
		seen := map[netip.Addr]time.Time{}
		routed[r] = seen
		go func() {
			for c := range changes {
				mu.Lock()
				if _, known := seen[c.Prefix.Addr()]; !known && len(c.Hops) > 0 {
					seen[c.Prefix.Addr()] = c.At
				}
				mu.Unlock()
			}
		}()
	}
	what := fmt.Sprintf("time %d new routes with %d Services", b.samples, size)
	err = b.Step(what, func() error {
		for i := range b.samples {
			name := fmt.Sprintf("new-%d-%d", size, i)
			if err := b.createService(ctx, name, corev1.ServiceExternalTrafficPolicyCluster); err != nil {
				return err
			}
			err := lab.Wait(ctx, "the route of "+name, func() error {
				mu.Lock()
				defer mu.Unlock()
				for _, seen := range routed {
					if _, ok := seen[addrs[name]]; !ok {
						return errors.New("the route is not in all kernels yet")
					}
				}
				return nil
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	mu.Lock()
	defer mu.Unlock()
	for _, r := range []*lab.Router{b.bird, b.frr} {
		var took []time.Duration
		for i := range b.samples {
			name := fmt.Sprintf("new-%d-%d", size, i)
			took = append(took, routed[r][addrs[name]].Sub(assigned[name]))
		}
		lines = append(lines, fmt.Sprintf("status written → first next hop in the kernel of %s, with %d Services: median %s, p90 %s",
			r.Name, size, quantile(took, .5), quantile(took, .9)))
	}
	return lines, nil
}

// waitAllNodes waits until both routers have all nodes as next hops of the Service, and
// returns its address.
func (b *bench) waitAllNodes(ctx context.Context, service string) (addr netip.Addr, err error) {
	if addr, err = b.WaitAnnounced(ctx, service); err != nil {
		return addr, err
	}
	var hops []netip.Addr
	for _, n := range b.Nodes {
		hops = append(hops, n.Addr)
	}
	for _, r := range []*lab.Router{b.bird, b.frr} {
		if err := r.WaitRoute(ctx, netip.PrefixFrom(addr, 32), hops...); err != nil {
			return addr, err
		}
	}
	time.Sleep(2 * time.Second) // for the slow start of BFD, and for kube-proxy
	return addr, nil
}

// speakerCost returns the CPU time and the memory of the speaker of the first node.
func (b *bench) speakerCost(size int) string {
	cpu, rss := b.Speakers[0].Usage()
	return fmt.Sprintf("speaker with %d Services: %s of CPU since its start, %d MB resident", size, cpu.Round(time.Millisecond), rss>>20)
}
