package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	lab "github.com/fairlead-io/fairlead/deploy/lab"
)

// failoverObjects: with Never, an address stays where a failure has moved it, so that the
// next failure need not wait for the hold-down.
const failoverObjects = `apiVersion: fairlead.io/v1alpha1
kind: IPAddressPool
metadata: {name: lan}
spec: {addresses: [10.80.0.0/18, "fd13:242::1:0/112"]}
---
apiVersion: fairlead.io/v1alpha1
kind: L2Advertisement
metadata: {name: lan}
spec: {failback: %s}
`

// failoverAmounts are the sizes and repetitions of the Layer 2 benchmarks.
type failoverAmounts struct {
	sizes4   []int         // IPv4 addresses
	sizes6   []int         // IPv6 addresses
	runs     int           // failures of each kind
	planned  int           // planned moves of each kind
	upgrades int           // of all speakers
	busy     time.Duration // for which CPU time is scarce
}

var (
	quickFailover = failoverAmounts{sizes4: []int{1, 1000}, sizes6: []int{1}, runs: 3, planned: 3, upgrades: 1, busy: 10 * time.Second}
	fullFailover  = failoverAmounts{sizes4: []int{1, 1000, 5000}, sizes6: []int{1, 1000, 5000}, runs: 20, planned: 20, upgrades: 20, busy: 10 * time.Minute}
)

const (
	// served is the number of Services of each size that have an endpoint. They have the
	// highest addresses, which a speaker announces last.
	served = 40

	udpPort = 8086

	powerOff, speakerKilled = "node power-off", "kill -9 of the speaker"
	twoPowerOff             = "power-off of a node and its first successor"
)

// failoverBench measures the failover of Layer 2 addresses in a cluster with three nodes.
// The client and the only endpoint of the Services are hosts on the LAN that are not nodes,
// so that the path of a request is through the announcing node and no other one.
type failoverBench struct {
	*lab.Cluster
	lab.Progress
	failoverAmounts
	claims   *lab.ClaimWatch
	nodeOf   map[string]int // by MAC
	backend  *lab.Host
	made     int // Services of the current size
	others   int // other Services
	filtered bool
	table    outageTable
	notes    []string
}

func runFailover(ctx context.Context, o lab.Options, amounts failoverAmounts) error {
	c, err := lab.Start(ctx, o)
	if err != nil {
		return err
	}
	b := &failoverBench{Cluster: c, Progress: o.Progress, failoverAmounts: amounts, nodeOf: map[string]int{}}
	defer func() { fmt.Println("\n" + b.table.String() + "\n" + strings.Join(b.notes, "\n")) }()
	if err := b.prepare(ctx); err != nil {
		return err
	}
	for _, size := range b.sizes4 {
		if err := b.measureSize(ctx, "IPv4", size); err != nil {
			return err
		}
	}
	if err := b.withoutProxies(func() error { return b.deleteServices(ctx) }); err != nil {
		return err
	}
	for _, size := range b.sizes6 {
		if err := b.measureSize(ctx, "IPv6", size); err != nil {
			return err
		}
	}
	return nil
}

// prepare adds the subnet of the addresses to the LAN, and the host that is the endpoint of
// all Services.
func (b *failoverBench) prepare(ctx context.Context) error {
	return b.Step("create a pool of the nodes' subnet, an L2Advertisement and an endpoint", func() (err error) {
		if b.backend, err = b.Network.AddHost("backend", 101); err != nil {
			return err
		}
		if err := b.backend.EchoUDP(fmt.Sprintf(":%d", udpPort)); err != nil {
			return err
		}
		for i, h := range append(slices.Clone(b.Nodes), b.Client) {
			if err := h.AddAddress(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 80, 63, byte(i + 1)}), 18)); err != nil {
				return err
			}
		}
		for i, node := range b.Nodes {
			b.nodeOf[node.MAC()] = i
		}
		if b.claims, err = b.Client.WatchClaims(ctx); err != nil {
			return err
		}
		return b.Apply(ctx, fmt.Sprintf(failoverObjects, "Never"))
	})
}

// measureSize measures the failures with a number of addresses of one family.
func (b *failoverBench) measureSize(ctx context.Context, family string, size int) error {
	if err := b.createServices(ctx, family, size); err != nil {
		return err
	}
	if err := b.measureRest(ctx, family, size); err != nil {
		return err
	}
	failures := []failure{
		{name: powerOff, fail: b.powerOffNode, recover: b.powerOnNode, median: 200 * time.Millisecond, worst: 350 * time.Millisecond},
		{name: speakerKilled, fail: b.killSpeaker, recover: b.StartSpeaker, median: 200 * time.Millisecond, worst: 350 * time.Millisecond},
	}
	if size < 5000 {
		failures = append(failures, failure{
			name: twoPowerOff, fail: b.powerOffNode, recover: b.powerOnNode, successor: true, worst: 500 * time.Millisecond,
		})
	}
	if size == 5000 {
		failures = append(failures, failure{
			name: powerOff + " with all", fail: b.powerOffNode, recover: b.powerOnNode, all: true, worst: time.Second,
		})
	}
	err := b.withoutProxies(func() error {
		for _, f := range failures {
			if err := b.measureFailures(ctx, f, family, size); err != nil {
				return err
			}
		}
		return b.measureHealing(ctx, family, size)
	})
	if err != nil {
		return err
	}
	switch size {
	case 1:
		return b.measureFiltered(ctx, family)
	case 1000:
		if err := b.measureMoves(ctx, family); err != nil || family == "IPv6" {
			return err
		}
		return b.measureScarceCPU(ctx)
	}
	return nil
}

// addressOf returns the address of the i-th Service.
func addressOf(family string, i int) netip.Addr {
	if family == "IPv6" {
		a := netip.MustParseAddr("fd13:242::1:0").As16()
		a[14], a[15] = byte((i+256)>>8), byte(i)
		return netip.AddrFrom16(a)
	}
	return netip.AddrFrom4([4]byte{10, 80, byte((i + 256) >> 8), byte(i)})
}

// indexOf returns the number of the Service with the address.
func indexOf(addr netip.Addr) int {
	b := addr.AsSlice()
	return int(b[len(b)-2])<<8 + int(b[len(b)-1]) - 256
}

// serviceName returns the name of the i-th Service.
func serviceName(family string, i int) string {
	return fmt.Sprintf("%s-%05d", strings.ToLower(family), i)
}

// createServices creates Services up to the size, waits until all are announced, and the
// last ones answer by way of each node. The speakers and kube-proxies do not run meanwhile:
// they would process each Service alone.
func (b *failoverBench) createServices(ctx context.Context, family string, size int) error {
	create := func() error {
		for _, p := range b.Speakers {
			p.Kill()
		}
		return b.withControllers(ctx, func() error {
			var group errgroup.Group
			group.SetLimit(parallelCreates)
			for ; b.made < size; b.made++ {
				i := b.made
				group.Go(func() error { return b.createServed(ctx, family, i, i >= size-served) })
			}
			if err := group.Wait(); err != nil {
				return err
			}
			return b.waitAssigned(ctx)
		})
	}
	start := func() error {
		for i := range b.Nodes {
			if err := b.StartSpeaker(ctx, i); err != nil {
				return err
			}
		}
		if _, err := b.settle(ctx); err != nil {
			return err
		}
		for _, node := range b.Nodes {
			for _, i := range []int{max(0, size-served), size - 1} {
				if err := b.waitServed(ctx, node, addressOf(family, i)); err != nil {
					return err
				}
			}
		}
		return nil
	}
	err := b.Step(fmt.Sprintf("create Services, up to %d with %s", size, family), func() error { return b.withoutProxies(create) })
	if err != nil {
		return err
	}
	return b.Step("start the speakers, and wait until all Services are announced and forwarded", start)
}

// withoutProxies stops the kube-proxies while do runs: the packets that they have a rule for
// are forwarded nevertheless.
func (b *failoverBench) withoutProxies(do func() error) error {
	for _, p := range b.Proxies {
		p.Signal(syscall.SIGSTOP)
		defer p.Signal(syscall.SIGCONT)
	}
	return do()
}

// withControllers runs the controllers while do runs. After a takeover they would write the
// status of each Service, for which nodes of their own have CPU time.
func (b *failoverBench) withControllers(ctx context.Context, do func() error) error {
	for i, p := range b.Controllers {
		if p.HasEnded() {
			if err := b.StartController(ctx, i); err != nil {
				return err
			}
		}
	}
	err := do()
	for _, p := range b.Controllers {
		err = errors.Join(err, p.Stop())
	}
	return err
}

// waitQuiet waits until the processes of the cluster are idle, as their CPU is that of the
// speakers.
func (b *failoverBench) waitQuiet(ctx context.Context) error {
	const interval, idle = time.Second, 300 * time.Millisecond
	usage := func() (sum time.Duration) {
		for _, p := range append(slices.Concat(b.Proxies, b.Speakers), b.APIServer) {
			cpu, _ := p.Usage()
			sum += cpu
		}
		return sum
	}
	return lab.Wait(ctx, "the cluster is idle", func() error {
		before := usage()
		time.Sleep(interval)
		if used := usage() - before; used > idle {
			return fmt.Errorf("its processes used %s of CPU time within %s", used, interval)
		}
		return nil
	})
}

// waitAssigned waits until all Services have an address.
func (b *failoverBench) waitAssigned(ctx context.Context) error {
	return lab.Wait(ctx, "all Services have an address", func() error {
		list, err := b.API.CoreV1().Services("default").List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		without := 0
		for _, s := range list.Items {
			if s.Spec.Type == corev1.ServiceTypeLoadBalancer && len(s.Status.LoadBalancer.Ingress) == 0 {
				without++
			}
		}
		if without > 0 {
			time.Sleep(time.Second)
			return fmt.Errorf("%d have none", without)
		}
		return nil
	})
}

// createServed creates the i-th Service and, if it is to be served, its endpoint.
func (b *failoverBench) createServed(ctx context.Context, family string, i int, isServed bool) error {
	no, name := false, serviceName(family, i)
	_, err := b.API.CoreV1().Services("default").Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Annotations: map[string]string{"fairlead.io/load-balancer-ips": addressOf(family, i).String()},
		},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeLoadBalancer, AllocateLoadBalancerNodePorts: &no,
			IPFamilies: []corev1.IPFamily{corev1.IPFamily(family)},
			Ports:      []corev1.ServicePort{{Port: udpPort, Protocol: corev1.ProtocolUDP}},
		},
	}, metav1.CreateOptions{})
	if err != nil || !isServed {
		return err
	}
	protocol, port, endpoint := corev1.ProtocolUDP, int32(udpPort), b.backend.Addr
	if family == "IPv6" {
		endpoint = b.backend.Addr6
	}
	_, err = b.API.DiscoveryV1().EndpointSlices("default").Create(ctx, &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: name}},
		AddressType: discoveryv1.AddressType(family),
		Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{endpoint.String()}}},
		Ports:       []discoveryv1.EndpointPort{{Port: &port, Protocol: &protocol}},
	}, metav1.CreateOptions{})
	return err
}

func (b *failoverBench) deleteServices(ctx context.Context) error {
	return b.Step(fmt.Sprintf("delete %d Services", b.made), func() error {
		var group errgroup.Group
		group.SetLimit(parallelCreates)
		for ; b.made > 0; b.made-- {
			name := serviceName("IPv4", b.made-1)
			group.Go(func() error { return b.API.CoreV1().Services("default").Delete(ctx, name, metav1.DeleteOptions{}) })
		}
		return group.Wait()
	})
}

// waitServed waits until the node forwards requests to the address.
func (b *failoverBench) waitServed(ctx context.Context, node *lab.Host, addr netip.Addr) error {
	return lab.Wait(ctx, fmt.Sprintf("%s forwards requests to %s", node.Name, addr), func() error {
		ctx, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
		defer cancel()
		report := udpStream(addr).Run(ctx, node)
		if report.Lost == report.Sent {
			return fmt.Errorf("no response: %v", report.Errors)
		}
		return nil
	})
}

func udpStream(addr netip.Addr) lab.RequestStream {
	return lab.RequestStream{URL: "udp://" + netip.AddrPortFrom(addr, udpPort).String(), Every: requestEvery}
}

// settle waits until each address is announced and, for 20 s at most, until each is
// announced by one node only and all nodes observe each node that announces one. It returns
// the addresses of each node, sorted, by the reports of the speakers.
func (b *failoverBench) settle(ctx context.Context) (owned [][]netip.Addr, err error) {
	began, timeout := time.Now(), 20*time.Second
	err = lab.Wait(ctx, "the nodes observe each other, and each address has one owner", func() error {
		time.Sleep(200 * time.Millisecond)
		all, err := b.Resource("speakers").List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		owned = make([][]netip.Addr, len(b.Nodes))
		observers, announced := map[string]int{}, 0
		for _, s := range all.Items {
			i := slices.IndexFunc(b.Nodes, func(n *lab.Host) bool { return n.Name == s.GetName() })
			if owned[i], err = announcedBy(s); err != nil {
				return err
			}
			announced += len(owned[i])
			neighbors, _, _ := unstructured.NestedSlice(s.Object, "status", "neighbors")
			for _, n := range neighbors {
				n := n.(map[string]any)
				if n["state"] == "Live" && (b.filtered || n["bfd"] == "Up") {
					observers[n["node"].(string)]++
				}
			}
		}
		want, isOver := b.made+b.others, time.Since(began) > timeout
		if announced < want || announced > want && !isOver {
			return fmt.Errorf("the Speakers report %d addresses, want %d", announced, want)
		}
		if announced > want {
			b.note("MISSED: the Speakers report %d addresses, want %d: two nodes announce the same one", announced, want)
		}
		for i, node := range b.Nodes {
			if len(owned[i]) == 0 || observers[node.Name] == len(b.Nodes)-1 {
				continue
			}
			if !isOver {
				return fmt.Errorf("%d nodes observe %s", observers[node.Name], node.Name)
			}
			b.note("MISSED: %d of the other nodes observe %s, which has %d of %d addresses",
				observers[node.Name], node.Name, len(owned[i]), announced)
		}
		return nil
	})
	return owned, err
}

// note adds a note, unless there is the same one.
func (b *failoverBench) note(format string, args ...any) {
	if text := fmt.Sprintf(format, args...); !slices.Contains(b.notes, text) {
		b.notes = append(b.notes, text)
	}
}

// announcedBy returns the addresses that a Speaker reports, sorted.
func announcedBy(speaker unstructured.Unstructured) (addrs []netip.Addr, err error) {
	announcing, _, _ := unstructured.NestedSlice(speaker.Object, "status", "announcing")
	for _, a := range announcing {
		ranges, _, _ := unstructured.NestedStringSlice(a.(map[string]any), "addresses")
		for _, r := range ranges {
			first, last, isRange := strings.Cut(r, "-")
			if !isRange {
				last = first
			}
			from, err := netip.ParseAddr(first)
			if err != nil {
				return nil, err
			}
			to, err := netip.ParseAddr(last)
			if err != nil {
				return nil, err
			}
			for ; from.Compare(to) <= 0; from = from.Next() {
				addrs = append(addrs, from)
			}
		}
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	return addrs, nil
}

// measureRest notes the memory and the CPU time of the speakers while nothing changes.
func (b *failoverBench) measureRest(ctx context.Context, family string, size int) error {
	const rest = 10 * time.Second
	return b.Step(fmt.Sprintf("measure the speakers at rest, for %s", rest), func() error {
		time.Sleep(5 * time.Second) // until all announcements are repeated
		if err := b.waitQuiet(ctx); err != nil {
			return err
		}
		before := b.speakersCPU()
		select {
		case <-time.After(rest):
		case <-ctx.Done():
			return ctx.Err()
		}
		used, resident := b.speakersCPU()-before, int64(0)
		for _, s := range b.Speakers {
			_, r := s.Usage()
			resident = max(resident, r)
		}
		b.note("speaker at rest with %d %s addresses: %d MB resident, %.1f %% of a core", size, family,
			resident>>20, 100*used.Seconds()/rest.Seconds()/float64(len(b.Speakers)))
		return nil
	})
}

// speakersCPU returns the CPU time of all speakers since their start.
func (b *failoverBench) speakersCPU() (sum time.Duration) {
	for _, s := range b.Speakers {
		cpu, _ := s.Usage()
		sum += cpu
	}
	return sum
}
