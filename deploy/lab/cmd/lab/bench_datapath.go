package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	lab "github.com/fairlead-io/fairlead/deploy/lab"
)

// dataPathObjects are the pools of dataPathServices, in addition to benchObjects.
const dataPathObjects = `apiVersion: fairlead.io/v1alpha1
kind: IPAddressPool
metadata: {name: lan}
spec: {addresses: [10.13.242.192/27, "fd13:242::1:0/112"], autoAssign: false}
---
apiVersion: fairlead.io/v1alpha1
kind: L2Advertisement
metadata: {name: lan}
spec: {ipAddressPools: [lan]}
---
apiVersion: fairlead.io/v1alpha1
kind: IPAddressPool
metadata: {name: routed}
spec: {addresses: [198.18.113.0/24, "2001:db8:113::/120"], autoAssign: false}
---
apiVersion: fairlead.io/v1alpha1
kind: BGPAdvertisement
metadata: {name: bench}
spec: {ipAddressPools: [routed]}
`

// removalDelay is how long a node runs after its taint.
const removalDelay = 10 * time.Second

// dataPathBench counts the requests that are lost when pods, nodes, policies and speakers
// change: on the LAN and over BGP, with IPv4 and IPv6.
type dataPathBench struct {
	*bench
	streams []dataPathStream
	rows    []string
}

// dataPathStream are the requests to one address.
type dataPathStream struct {
	lab.RequestStream
	addr netip.Addr
	from *lab.Host
}

// runDataPath runs the scenarios with kube-proxy in a mode: nftables or iptables.
func runDataPath(ctx context.Context, o lab.Options, mode string) error {
	o.ProxyMode = mode
	c, err := lab.Start(ctx, o)
	if err != nil {
		return err
	}
	b := &dataPathBench{bench: &bench{Cluster: c, Progress: o.Progress}}
	if err := b.startRouters(ctx); err != nil {
		return err
	}
	if err := b.Apply(ctx, dataPathObjects); err != nil {
		return err
	}
	for _, pool := range []string{"lan", "routed"} {
		if err := b.createDualStack(ctx, pool); err != nil {
			return err
		}
	}
	defer func() {
		fmt.Println("\n" + alignColumns("kube-proxy in "+mode+" mode: lost of all requests\tLAN, IPv4\tLAN, IPv6\tBGP, IPv4\tBGP, IPv6", b.rows))
	}()
	local, cluster := corev1.ServiceExternalTrafficPolicyLocal, corev1.ServiceExternalTrafficPolicyCluster
	for _, s := range []struct {
		name   string
		policy corev1.ServiceExternalTrafficPolicy
		do     func(ctx context.Context) error
	}{
		{"rolling update of 3 pods", local, b.rollingUpdate},
		{"rolling update of 3 pods", cluster, b.rollingUpdate},
		{"switch to Local and back", cluster, b.switchPolicy},
		{"drain of a node with its pod", local, b.drain},
		{"scale 3 to 1 to 3", local, b.scale},
		{"autoscaler taint, then power-off", local, b.removeNode},
		{"autoscaler taint, then power-off", cluster, b.removeNode},
		{"rolling upgrade of the speakers", local, b.upgradeSpeakers},
		{"rolling upgrade of the speakers", cluster, b.upgradeSpeakers},
	} {
		if err := b.measure(ctx, fmt.Sprintf("%s (%s)", s.name, s.policy), s.policy, s.do); err != nil {
			return err
		}
	}
	return nil
}

// createDualStack creates a Service with an address of each family from the pool, and adds
// the streams to them: by UDP on the LAN, which retransmits nothing, and by a TCP connection
// for each request over BGP, so that all nodes receive requests.
func (b *dataPathBench) createDualStack(ctx context.Context, pool string) error {
	dualStack := corev1.IPFamilyPolicyRequireDualStack
	_, err := b.API.CoreV1().Services("default").Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: pool, Annotations: map[string]string{"fairlead.io/address-pool": pool}},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeLoadBalancer, IPFamilyPolicy: &dualStack,
			IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol},
			Selector:   map[string]string{"app": "influxdb"}, Ports: []corev1.ServicePort{
				{Name: "tcp", Port: 8086, Protocol: corev1.ProtocolTCP}, {Name: "udp", Port: 8086, Protocol: corev1.ProtocolUDP},
			},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	var svc *corev1.Service
	err = lab.Wait(ctx, pool+" is announced", func() (err error) {
		svc, err = b.API.CoreV1().Services("default").Get(ctx, pool, metav1.GetOptions{})
		if err == nil && !apimeta.IsStatusConditionTrue(svc.Status.Conditions, "fairlead.io/Announced") {
			err = errors.New("it is not")
		}
		return err
	})
	if err != nil {
		return err
	}
	for _, in := range svc.Status.LoadBalancer.Ingress {
		addr, err := netip.ParseAddr(in.IP)
		if err != nil {
			return fmt.Errorf("address of Service %s: %w", pool, err)
		}
		s := dataPathStream{udpStream(addr), addr, b.Client}
		s.NewFlows = true
		if pool == "routed" {
			s.from = b.Network.Remote
			s.RequestStream = lab.RequestStream{
				URL: "http://" + netip.AddrPortFrom(addr, 8086).String() + "/ping", Every: requestEvery,
			}
		}
		b.streams = append(b.streams, s)
	}
	return nil
}

// measure runs a scenario once while all streams send requests.
func (b *dataPathBench) measure(
	ctx context.Context, name string, policy corev1.ServiceExternalTrafficPolicy, do func(context.Context) error,
) error {
	row := name
	err := b.Step(name, func() error {
		if err := b.setPolicy(ctx, policy); err != nil {
			return err
		}
		if err := b.waitStable(ctx); err != nil {
			return err
		}
		var stops []func() lab.StreamReport
		for _, s := range b.streams {
			stops = append(stops, s.Start(ctx, s.from))
		}
		time.Sleep(300 * time.Millisecond)
		err := do(ctx)
		time.Sleep(time.Second)
		for _, stop := range stops {
			report := stop()
			lost := fmt.Sprintf("%d of %d", report.Lost, report.Sent)
			if causes := report.Causes(); causes != "" {
				lost += " (" + causes + ")"
			}
			row += "\t" + lost
		}
		return err
	})
	b.rows = append(b.rows, row)
	return err
}

// waitSessions waits until the owners of the addresses on the LAN are observed, and all nodes
// have their BGP sessions.
func (b *dataPathBench) waitSessions(ctx context.Context) error {
	for _, s := range b.streams[:2] {
		var owner int
		err := lab.Wait(ctx, "one node answers for "+s.addr.String(), func() error {
			macs, err := b.Client.Resolve(s.addr, 100*time.Millisecond)
			if err != nil || len(macs) != 1 {
				return fmt.Errorf("%v answer: %w", macs, err)
			}
			owner = slices.IndexFunc(b.Nodes, func(n *lab.Host) bool { return n.MAC() == macs[0] })
			return nil
		})
		if err != nil {
			return err
		}
		if err := b.WaitObserved(ctx, owner); err != nil {
			return err
		}
	}
	for _, n := range b.Nodes {
		for _, r := range []*lab.Router{b.bird, b.frr} {
			if err := r.WaitSession(ctx, n.Addr.String(), "Established"); err != nil {
				return err
			}
		}
	}
	return nil
}

// waitStable waits until the sessions are up, and no request is lost.
func (b *dataPathBench) waitStable(ctx context.Context) error {
	if err := b.waitSessions(ctx); err != nil {
		return err
	}
	time.Sleep(3 * time.Second) // routes, and the rules of kube-proxy, which it replaces once a second
	return lab.Wait(ctx, "no request is lost", func() error {
		for _, s := range b.streams {
			stop := s.Start(ctx, s.from)
			time.Sleep(300 * time.Millisecond)
			if report := stop(); report.Lost > 0 || report.Sent == 0 {
				return fmt.Errorf("%s: %s", s.URL, report)
			}
		}
		return nil
	})
}

func (b *dataPathBench) setPolicy(ctx context.Context, policy corev1.ServiceExternalTrafficPolicy) error {
	patch := fmt.Sprintf(`{"spec":{"externalTrafficPolicy":%q}}`, policy)
	for _, name := range []string{"lan", "routed"} {
		if _, err := b.API.CoreV1().Services("default").Patch(ctx, name, types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
			return err
		}
	}
	return nil
}

// terminate ends the pod of a node: it serves for a while after SIGTERM.
func (b *dataPathBench) terminate(ctx context.Context, node int) error {
	if err := b.TerminatePod(ctx, node, lab.ServesOn); err != nil {
		return err
	}
	return b.DeletePod(ctx, node)
}

func (b *dataPathBench) rollingUpdate(ctx context.Context) error {
	for i := range b.Nodes {
		if err := errors.Join(b.terminate(ctx, i), b.CreatePod(ctx, i)); err != nil {
			return err
		}
		time.Sleep(2 * time.Second)
	}
	return nil
}

func (b *dataPathBench) switchPolicy(ctx context.Context) error {
	for range 3 {
		for _, policy := range []corev1.ServiceExternalTrafficPolicy{corev1.ServiceExternalTrafficPolicyLocal, corev1.ServiceExternalTrafficPolicyCluster} {
			if err := b.setPolicy(ctx, policy); err != nil {
				return err
			}
			time.Sleep(3 * time.Second)
		}
	}
	return nil
}

// drain drains each node and ends its speaker, as a shutdown does.
func (b *dataPathBench) drain(ctx context.Context) error {
	for i, n := range b.Nodes {
		if _, err := b.Kubectl(ctx, "", "cordon", n.Name); err != nil {
			return err
		}
		err := errors.Join(b.terminate(ctx, i), b.Speakers[i].Stop())
		time.Sleep(2 * time.Second)
		_, failed := b.Kubectl(ctx, "", "uncordon", n.Name)
		if err := errors.Join(err, failed, b.StartSpeaker(ctx, i), b.CreatePod(ctx, i), b.waitSessions(ctx)); err != nil {
			return err
		}
		time.Sleep(2 * time.Second)
	}
	return nil
}

func (b *dataPathBench) scale(ctx context.Context) error {
	for i := range 2 {
		if err := b.TerminatePod(ctx, i, lab.ServesOn); err != nil {
			return err
		}
	}
	for i := range 2 {
		if err := b.DeletePod(ctx, i); err != nil {
			return err
		}
	}
	time.Sleep(2 * time.Second)
	for i := range 2 {
		if err := b.CreatePod(ctx, i); err != nil {
			return err
		}
	}
	time.Sleep(3 * time.Second)
	return nil
}

// removeNode removes the first node as an autoscaler does, and adds it again.
func (b *dataPathBench) removeNode(ctx context.Context) error {
	const taint = "ToBeDeletedByClusterAutoscaler"
	name := b.Nodes[0].Name
	if _, err := b.Kubectl(ctx, "", "taint", "node", name, taint+":NoSchedule"); err != nil {
		return err
	}
	if err := b.terminate(ctx, 0); err != nil {
		return err
	}
	time.Sleep(removalDelay - lab.ServesOn)
	if err := b.Nodes[0].SetLink(false); err != nil {
		return err
	}
	b.Speakers[0].Kill()
	time.Sleep(3 * time.Second)
	if err := errors.Join(b.Nodes[0].SetLink(true), b.RestoreRoutes(0), b.StartSpeaker(ctx, 0), b.CreatePod(ctx, 0)); err != nil {
		return err
	}
	time.Sleep(3 * time.Second)
	_, err := b.Kubectl(ctx, "", "taint", "node", name, taint+"-")
	return err
}

func (b *dataPathBench) upgradeSpeakers(ctx context.Context) error {
	for i := range b.Nodes {
		if err := errors.Join(b.Speakers[i].Stop(), b.StartSpeaker(ctx, i), b.waitSessions(ctx)); err != nil {
			return err
		}
		time.Sleep(time.Second)
	}
	return nil
}
