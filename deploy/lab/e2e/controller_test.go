package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	lab "github.com/fairlead-io/fairlead/deploy/lab"
)

// leader returns the index of the controller that holds the lease.
func leader(t *testing.T, not string) (index int, identity string) {
	t.Helper()
	eventually(t, "a controller leads", func() error {
		lease, err := cluster.API.CoordinationV1().Leases("fairlead-system").Get(t.Context(), "fairlead-controller", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if lease.Spec.HolderIdentity == nil || *lease.Spec.HolderIdentity == "" || *lease.Spec.HolderIdentity == not {
			return fmt.Errorf("the lease is not held by another one than %q", not)
		}
		identity = *lease.Spec.HolderIdentity
		return nil
	})
	for i, p := range cluster.Controllers {
		if strings.Contains(p.ReadLog(), identity) {
			return i, identity
		}
	}
	t.Fatalf("no controller is known as %s", identity)
	return 0, ""
}

func TestLeaderHandsOver(t *testing.T) {
	i, identity := leader(t, "")
	leases, err := cluster.API.CoordinationV1().Leases("fairlead-system").Watch(t.Context(),
		metav1.ListOptions{FieldSelector: "metadata.name=fairlead-controller"})
	if err != nil {
		t.Fatal(err)
	}
	defer leases.Stop()
	if err := cluster.Controllers[i].Stop(); err != nil {
		t.Fatalf("the leader did not stop cleanly: %v", err)
	}
	_, next := leader(t, identity)
	released := false
	for e := range leases.ResultChan() {
		holder := e.Object.(*coordinationv1.Lease).Spec.HolderIdentity
		if released = released || holder == nil || *holder == ""; holder != nil && *holder == next {
			break
		}
	}
	if !released {
		t.Errorf("%s leads because the lease has run out: %s did not release it", next, identity)
	}
	if err := cluster.StartController(context.Background(), i); err != nil {
		t.Fatal(err)
	}
	service(t, "after-handover")
	announced(t, "after-handover")
}

// TestContainerRestart checks that a container that was killed and started again leads at
// once, with the lease of its Pod, and does not wait until it expires.
func TestContainerRestart(t *testing.T) {
	i, identity := leader(t, "")
	lease := func() coordinationv1.LeaseSpec {
		l, err := cluster.API.CoordinationV1().Leases("fairlead-system").Get(t.Context(), "fairlead-controller", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return l.Spec
	}
	before := lease()
	for other, p := range cluster.Controllers {
		if other == i {
			continue
		}
		if err := p.Stop(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := cluster.StartController(context.Background(), other); err != nil {
				t.Fatal(err)
			}
		})
	}
	cluster.Controllers[i].Kill()
	if err := cluster.StartController(t.Context(), i); err != nil {
		t.Fatal(err)
	}
	service(t, "after-kill")
	announced(t, "after-kill")
	after := lease()
	if *after.HolderIdentity != identity || *after.LeaseTransitions != *before.LeaseTransitions || !after.AcquireTime.Equal(before.AcquireTime) {
		t.Errorf("the lease was %+v and is %+v", before, after)
	}
}

func TestControllerRestartMovesAndWritesNothing(t *testing.T) {
	var names []string
	for i := range 5 {
		names = append(names, fmt.Sprintf("steady-%d", i))
		service(t, names[i])
	}
	before := map[string]*corev1.Service{}
	for _, n := range names {
		announced(t, n)
	}
	for _, n := range names {
		before[n] = get(t, n)
	}
	cluster.StopControllers(t)
	cluster.StartControllers(t)
	service(t, "newcomer")
	announced(t, "newcomer")
	for _, n := range names {
		if after := get(t, n); after.ResourceVersion != before[n].ResourceVersion {
			t.Errorf("%s was written to:\n%+v\n%+v", n, before[n].Status, after.Status)
		}
	}
}

// TestSpeakerRestart checks that another node announces an address while the speaker of the
// owner does not run, that the owner takes it back, and that the Service keeps it.
func TestSpeakerRestart(t *testing.T) {
	addrs := failoverAddresses(t)
	for i, addr := range addrs {
		node := owner(t, addr, anyNode)
		observed(t, node)
		if err := cluster.Speakers[node].Stop(); err != nil {
			t.Errorf("the speaker did not stop cleanly: %v", err)
		}
		owner(t, addr, func(n int) bool { return n != node })
		startSpeaker(t, node)
		owner(t, addr, func(n int) bool { return n == node })
		reach(t, cluster.Client, url(addr, 8086))
		if got := announced(t, failoverServices[i]); got != addr {
			t.Errorf("%s has %s after the restart, want %s", failoverServices[i], got, addr)
		}
	}
}

// TestAPIServerGone checks that addresses stay announced during an outage of the API
// server, that synchronization continues afterwards, and that each speaker has logged
// one line at the beginning and one at the end.
func TestAPIServerGone(t *testing.T) {
	service(t, "outage")
	addr := announced(t, "outage")
	node := owner(t, addr, anyNode)
	reach(t, cluster.Client, url(addr, 8086))
	var before []int
	for _, p := range cluster.Speakers {
		before = append(before, len(p.ReadLog()))
	}
	cluster.APIServer.Kill()
	for range 10 {
		owner(t, addr, func(n int) bool { return n == node })
		reach(t, cluster.Client, url(addr, 8086))
	}
	if err := cluster.StartAPIServer(t.Context()); err != nil {
		t.Fatal(err)
	}
	const begins, ends = "API server unreachable", "API server reachable again"
	for i, p := range cluster.Speakers {
		var log string
		eventually(t, p.Name+" has logged the end", func() error {
			if log = p.ReadLog()[before[i]:]; !strings.Contains(log, ends) {
				return errors.New("no line")
			}
			return nil
		})
		_, during, _ := strings.Cut(log, begins)
		during, _, _ = strings.Cut(during, ends)
		// Afterwards the API server denies requests until it has read the roles.
		failures := strings.Count(during, "level=WARN") + strings.Count(during, "level=ERROR")
		if strings.Count(log, begins) != 1 || strings.Count(log, ends) != 1 || failures > 0 {
			t.Errorf("%s logged:\n%s", p.Name, log)
		}
	}
	service(t, "after-outage")
	eventually(t, "after-outage is announced", func() error {
		_, err := cluster.AnnouncedAddress(t.Context(), "default", "after-outage")
		return err
	})
	owner(t, addr, func(n int) bool { return n == node })
}

func TestControllerKilledInABurst(t *testing.T) {
	const burst = 200
	name := func(i int) string { return fmt.Sprintf("burst-%03d", i) }
	t.Cleanup(func() {
		for i := range burst {
			_ = cluster.API.CoreV1().Services("default").Delete(context.Background(), name(i), metav1.DeleteOptions{})
		}
		eventuallyGone(t, burst)
	})
	var creators sync.WaitGroup
	for w := range 4 {
		creators.Go(func() {
			for i := w; i < burst; i += 4 {
				_, err := cluster.API.CoreV1().Services("default").Create(context.Background(), &corev1.Service{
					ObjectMeta: metav1.ObjectMeta{
						Name: name(i), Labels: map[string]string{"burst": ""},
						Annotations: map[string]string{"fairlead.io/address-pool": "many"},
					},
					Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, Ports: []corev1.ServicePort{{Port: 80}}},
				}, metav1.CreateOptions{})
				if err != nil {
					t.Errorf("create %s: %v", name(i), err)
				}
			}
		})
	}
	assigned := func() (addrs map[netip.Addr][]string, total int) {
		addrs = map[netip.Addr][]string{}
		list, err := cluster.API.CoreV1().Services("default").List(t.Context(), metav1.ListOptions{LabelSelector: "burst"})
		if err != nil {
			t.Error(err)
			return addrs, 0
		}
		for _, s := range list.Items {
			if a, err := lab.IngressAddress(&s); err == nil {
				addrs[a] = append(addrs[a], s.Name)
				total++
			}
		}
		return addrs, total
	}
	eventually(t, "some have an address", func() error {
		if _, n := assigned(); n < 20 {
			return fmt.Errorf("%d have an address", n)
		}
		return nil
	})
	for _, p := range cluster.Controllers {
		p.Signal(syscall.SIGKILL)
	}
	_, atDeath := assigned()
	for i := range cluster.Controllers {
		cluster.Controllers[i].Kill()
	}
	creators.Wait()
	cluster.StartControllers(t)
	eventually(t, "all are served", func() error {
		addrs, n := assigned()
		for a, names := range addrs {
			if len(names) > 1 {
				return lab.Permanent(fmt.Errorf("%s belongs to %v", a, names))
			}
		}
		if n < burst {
			return fmt.Errorf("%d of %d have an address", n, burst)
		}
		return nil
	})
	t.Logf("%d of %d had an address when the controllers were killed", atDeath, burst)
}

func eventuallyGone(t *testing.T, burst int) {
	err := lab.Wait(context.Background(), "the burst is gone", func() error {
		list, err := cluster.API.CoreV1().Services("default").List(context.Background(), metav1.ListOptions{LabelSelector: "burst"})
		if err == nil && len(list.Items) > 0 {
			err = fmt.Errorf("%d of %d are left", len(list.Items), burst)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}
