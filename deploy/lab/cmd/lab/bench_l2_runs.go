package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	lab "github.com/fairlead-io/fairlead/deploy/lab"
)

// failure is a failure of a node that is measured.
type failure struct {
	name          string
	fail          func(node int) error
	recover       func(ctx context.Context, node int) error
	all           bool // the node has all addresses
	successor     bool // the first successor for the address that is announced last fails as well
	median, worst time.Duration
}

// powerOffNode disconnects a node and kills its speaker.
func (b *failoverBench) powerOffNode(node int) error {
	if err := b.Nodes[node].SetLink(false); err != nil {
		return err
	}
	b.Speakers[node].Kill()
	return nil
}

func (b *failoverBench) powerOnNode(ctx context.Context, node int) error {
	if err := b.Nodes[node].SetLink(true); err != nil {
		return err
	}
	if err := b.RestoreRoutes(node); err != nil {
		return err
	}
	return b.StartSpeaker(ctx, node)
}

// killSpeaker kills a speaker. Its node goes on forwarding the packets of clients that know
// its MAC.
func (b *failoverBench) killSpeaker(node int) error {
	b.Speakers[node].Signal(syscall.SIGKILL)
	return nil
}

// measureFailures repeats a failure, each time of a node with the most addresses.
func (b *failoverBench) measureFailures(ctx context.Context, f failure, family string, size int) error {
	var outages, takeovers, cpu []time.Duration
	addresses, missing, dropped := 0, 0, 0
	what := fmt.Sprintf("%s, %d %s", f.name, size, family)
	last := addressOf(family, size-1)
	err := b.Step(fmt.Sprintf("%s, %d times", what, b.runs), func() error {
		for range b.runs {
			if f.all {
				if err := b.moveAll(ctx); err != nil {
					return err
				}
			}
			if f.successor {
				if err := b.returnAddress(ctx, last); err != nil {
					return err
				}
			}
			r, err := b.failOnce(ctx, f)
			if err != nil {
				return err
			}
			outages, takeovers, cpu = append(outages, r.outage), append(takeovers, r.takeover), append(cpu, r.cpu)
			addresses, missing, dropped = addresses+r.addresses, missing+r.missing, dropped+r.dropped
		}
		return nil
	})
	b.table.add(what+": outage", outages, f.median, f.worst)
	b.table.add("  until the last address is announced", takeovers, 0, 0)
	b.note("%s: a takeover of %d addresses (mean), %s of CPU time of each other speaker (median)",
		what, addresses/max(1, len(cpu)), quantile(cpu, .5))
	if missing > 0 {
		b.note("%s: MISSED: %d addresses were not announced again, so that clients still send to the node", what, missing)
	}
	if dropped > 0 {
		b.note("%s: %d announcements were not recorded, so the times are upper bounds", what, dropped)
	}
	return err
}

// failureRun is the result of one failure.
type failureRun struct {
	// outage is the longest time without a response through the address that was announced
	// last, and takeover the time from the failure to its announcement.
	outage, takeover time.Duration
	cpu              time.Duration // of each of the other speakers
	addresses        int           // of the node
	missing          int           // addresses that no other node has announced
	dropped          int           // frames that were not recorded
}

// failOnce makes a node fail while a client sends requests to the address that is
// announced last, as a rule: the highest one of the node. If the other successor announces
// another one later, the difference is added.
func (b *failoverBench) failOnce(ctx context.Context, f failure) (r failureRun, err error) {
	if _, err := b.settle(ctx); err != nil {
		return r, err
	}
	if err := b.waitQuiet(ctx); err != nil {
		return r, err
	}
	owned, err := b.settle(ctx)
	if err != nil {
		return r, err
	}
	node, lost := 0, []netip.Addr(nil)
	for i, addrs := range owned {
		if len(addrs) > len(lost) {
			node, lost = i, addrs
		}
	}
	last := lost[len(lost)-1]
	stop := udpStream(last).Start(ctx, b.Client)
	time.Sleep(300 * time.Millisecond)
	if _, err := b.claims.Dropped(); err != nil {
		return r, err
	}
	failing := []int{node}
	if f.successor {
		successor, err := b.firstSuccessor(ctx, last, node)
		if err != nil {
			return r, err
		}
		failing = append(failing, successor)
	}
	before := b.speakersCPU()
	for _, node := range failing {
		before -= b.usageOf(node)
	}
	began := time.Now()
	for _, node := range failing {
		if err := f.fail(node); err != nil {
			return r, err
		}
	}
	if f.name == speakerKilled {
		// The client asks for the MAC, as any client does that has not done so recently.
		if err := b.Client.ForgetNeighbor(last); err != nil {
			return r, err
		}
	}
	at := b.waitTakenOver(lost, began)
	time.Sleep(200 * time.Millisecond)
	r.cpu = (b.speakersCPU() - before) / time.Duration(len(b.Nodes)-len(failing))
	report := stop()
	r.outage, r.addresses, r.missing = report.Silence, len(lost), len(lost)-len(at)
	for _, t := range at {
		r.takeover = max(r.takeover, t.Sub(began))
	}
	if t, ok := at[last]; ok {
		r.outage += r.takeover - t.Sub(began)
	}
	if r.dropped, err = b.claims.Dropped(); err != nil {
		return r, err
	}
	for _, node := range failing {
		err = errors.Join(err, f.recover(ctx, node))
	}
	return r, err
}

// returnAddress makes the node with the highest rank announce the address, so that the others
// are successors: a node from which an address was taken over is not a successor for it.
func (b *failoverBench) returnAddress(ctx context.Context, addr netip.Addr) error {
	for range b.Nodes {
		if _, err := b.settle(ctx); err != nil {
			return err
		}
		owner := b.ownerOf(addr)
		// An error says that it has none yet.
		if successors, _ := b.successors(ctx, addr, owner); len(successors) == len(b.Nodes)-1 {
			return nil
		}
		if err := b.exclude(ctx, "true", owner); err != nil {
			return err
		}
		if err := errors.Join(b.waitMoved(ctx, addr, owner), b.exclude(ctx, "false", owner)); err != nil {
			return err
		}
	}
	return nil
}

// successors returns the nodes that take the address over if the node with it fails, the first
// one first.
func (b *failoverBench) successors(ctx context.Context, addr netip.Addr, node int) ([]int, error) {
	family := "IPv4"
	if addr.Is6() {
		family = "IPv6"
	}
	return b.Successors(ctx, serviceName(family, indexOf(addr)), node)
}

// firstSuccessor returns the node that takes the address over if the node with it fails. It
// waits until the other nodes are candidates again.
func (b *failoverBench) firstSuccessor(ctx context.Context, addr netip.Addr, node int) (successor int, err error) {
	err = lab.Wait(ctx, fmt.Sprintf("all other nodes are successors of %s", b.Nodes[node].Name), func() error {
		all, err := b.successors(ctx, addr, node)
		if err != nil {
			return err
		}
		if len(all) != len(b.Nodes)-1 {
			return fmt.Errorf("%d are", len(all))
		}
		successor = all[0]
		return nil
	})
	return successor, err
}

// measureHealing measures for how long two nodes answer for an address after a partition of
// the LAN has healed. The client reaches both during the partition.
func (b *failoverBench) measureHealing(ctx context.Context, family string, size int) error {
	const goal = time.Second
	addr := addressOf(family, size-1)
	what := fmt.Sprintf("partition heals, %d %s: two nodes answer for", size, family)
	var took []time.Duration
	err := b.Step(fmt.Sprintf("partition heals, %d %s, %d times", size, family, b.runs), func() error {
		for range b.runs {
			d, err := b.healOnce(ctx, addr)
			if err != nil {
				return errors.Join(err, b.Reconnect(ctx))
			}
			took = append(took, d)
		}
		return nil
	})
	b.table.add(what, took, 0, goal)
	return err
}

// healOnce disconnects the owner of the address from the other nodes until another one
// announces it, too, and returns the time from the end of the partition to the last answer of
// the node that stops.
func (b *failoverBench) healOnce(ctx context.Context, addr netip.Addr) (took time.Duration, err error) {
	const (
		every   = 5 * time.Millisecond
		partial = time.Second     // how long both nodes announce the address before the partition heals
		after   = 3 * time.Second // how long answers are recorded afterwards
	)
	if _, err := b.settle(ctx); err != nil {
		return 0, err
	}
	node := b.ownerOf(addr)
	for i, other := range b.Nodes {
		if i != node {
			if err := errors.Join(b.Disconnect(ctx, b.Nodes[node], other), b.Disconnect(ctx, other, b.Nodes[node])); err != nil {
				return 0, err
			}
		}
	}
	if err := b.waitMoved(ctx, addr, node); err != nil {
		return 0, err
	}
	time.Sleep(partial)
	stop, err := b.Client.WatchAnswers(ctx, addr, every)
	if err != nil {
		return 0, err
	}
	time.Sleep(partial / 4)
	healed := time.Now()
	if err := b.Reconnect(ctx); err != nil {
		stop()
		return 0, err
	}
	if _, err := b.settle(ctx); err != nil {
		stop()
		return 0, err
	}
	time.Sleep(max(0, after-time.Since(healed)))
	answers := stop()
	both := map[string]bool{}
	for _, a := range answers {
		if a.MAC != answers[len(answers)-1].MAC {
			took = max(took, a.At.Sub(healed))
		}
		if a.At.Before(healed) {
			both[a.MAC] = true
		}
	}
	if len(both) != 2 {
		return 0, fmt.Errorf("%d nodes answered for %s during the partition, want 2", len(both), addr)
	}
	return took, nil
}

func (b *failoverBench) usageOf(node int) time.Duration {
	cpu, _ := b.Speakers[node].Usage()
	return cpu
}

// waitTakenOver waits until another node has announced each of the addresses since the
// given time, and returns when it did. Addresses that none has announced are missing.
func (b *failoverBench) waitTakenOver(addrs []netip.Addr, since time.Time) map[netip.Addr]time.Time {
	const timeout = 10 * time.Second
	for {
		time.Sleep(100 * time.Millisecond)
		at, claims := map[netip.Addr]time.Time{}, b.claims.Claims()
		for _, addr := range addrs {
			if claims[addr].At.After(since) {
				at[addr] = claims[addr].At
			}
		}
		if len(at) == len(addrs) || time.Since(since) > timeout {
			return at
		}
	}
}

// moveAll moves all addresses to the node with the most.
func (b *failoverBench) moveAll(ctx context.Context) error {
	owned, err := b.settle(ctx)
	if err != nil {
		return err
	}
	most := 0
	for i := range owned {
		if len(owned[i]) > len(owned[most]) {
			most = i
		}
	}
	others := slices.DeleteFunc([]int{0, 1, 2}, func(i int) bool { return i == most })
	if err := b.exclude(ctx, "true", others...); err != nil {
		return err
	}
	err = lab.Wait(ctx, "one node has all addresses", func() error {
		for i, node := range b.Nodes {
			s, err := b.Resource("speakers").Get(ctx, node.Name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			addrs, err := announcedBy(*s)
			if err != nil {
				return err
			}
			if want := map[bool]int{true: b.made}[i == most]; len(addrs) != want {
				return fmt.Errorf("%s announces %d addresses, want %d", node.Name, len(addrs), want)
			}
		}
		return nil
	})
	return errors.Join(err, b.exclude(ctx, "false", others...))
}

// exclude sets the label that excludes nodes from load balancers.
func (b *failoverBench) exclude(ctx context.Context, value string, nodes ...int) error {
	args := []string{"label", "--overwrite", "node"}
	for _, i := range nodes {
		args = append(args, b.Nodes[i].Name)
	}
	_, err := b.Kubectl(ctx, "", append(args, corev1.LabelNodeExcludeBalancers+"="+value)...)
	return err
}

// measureFiltered measures failures while the nodes drop BFD packets.
func (b *failoverBench) measureFiltered(ctx context.Context, family string) error {
	err := b.Step("drop UDP 3784 on all nodes, and restart the speakers", func() error {
		for i, node := range b.Nodes {
			rules := "table inet nobfd { chain input { type filter hook input priority 0; udp dport 3784 drop; }; }"
			if _, err := node.Run(ctx, "env", "nft", rules); err != nil {
				return err
			}
			if err := errors.Join(b.Speakers[i].Stop(), b.StartSpeaker(ctx, i)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	b.filtered = true
	err = b.measureFailures(ctx, failure{
		name: powerOff + ", UDP 3784 filtered", fail: b.powerOffNode, recover: b.powerOnNode, worst: 3500 * time.Millisecond,
	}, family, 1)
	b.filtered = false
	for _, node := range b.Nodes {
		if _, failed := node.Run(ctx, "env", "nft", "delete table inet nobfd"); failed != nil {
			return errors.Join(err, failed)
		}
	}
	return err
}
