package e2e

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	lab "github.com/fairlead-io/fairlead/deploy/lab"
)

// echo answers UDP on every pod until the test ends.
func echo(t *testing.T, port int) {
	t.Helper()
	for _, pod := range cluster.Pods {
		err := pod.Do(func() error {
			conn, err := net.ListenPacket("udp", fmt.Sprintf(":%d", port))
			if err != nil {
				return err
			}
			t.Cleanup(func() { _ = conn.Close() })
			go func() {
				buffer := make([]byte, 1500)
				for {
					n, from, err := conn.ReadFrom(buffer)
					if err != nil {
						return
					}
					_, _ = conn.WriteTo(append([]byte(pod.Name+" "), buffer[:n]...), from)
				}
			}()
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// echoes waits until the address answers UDP.
func echoes(t *testing.T, from *lab.Host, addr netip.Addr, port uint16) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s answers UDP on port %d", addr, port), func() error {
		return from.Do(func() error {
			conn, err := net.Dial("udp", netip.AddrPortFrom(addr, port).String())
			if err != nil {
				return err
			}
			defer conn.Close()
			if err := conn.SetDeadline(time.Now().Add(time.Second)); err != nil {
				return err
			}
			if _, err := conn.Write([]byte("hello")); err != nil {
				return err
			}
			buffer := make([]byte, 1500)
			n, err := conn.Read(buffer)
			if err == nil && !strings.HasSuffix(string(buffer[:n]), " hello") {
				err = fmt.Errorf("it says %q", buffer[:n])
			}
			return err
		})
	})
}

// TestSharing: Services with one key share an address, over TCP and UDP, whatever
// their externalTrafficPolicy is if their backends are the same. One node answers
// for it, with endpoints of all; and who would clash is told with whom.
func TestSharing(t *testing.T) {
	echo(t, 5353)
	lanPool(t, "sharing", "10.13.242.112/30")
	key := annotated("fairlead.io/allow-shared-ip=site", "fairlead.io/address-pool=sharing")
	service(t, "share-web", key)
	addr := announced(t, "share-web")
	node := owner(t, addr, anyNode)
	stop := uninterrupted(t, cluster.Client, url(addr, 8086))
	service(t, "share-local", key, local, on(80))
	service(t, "share-udp", key, func(s *corev1.Service) {
		s.Spec.Ports = []corev1.ServicePort{{Name: "dns", Protocol: corev1.ProtocolUDP, Port: 5353}}
	})
	for _, name := range []string{"share-local", "share-udp"} {
		if got := announced(t, name); got != addr {
			t.Fatalf("%s has %s, want %s", name, got, addr)
		}
	}
	says(t, cluster.Client, url(addr, 80), "to "+cluster.Client.Addr.String())
	echoes(t, cluster.Client, addr, 5353)
	owner(t, addr, func(n int) bool { return n == node })
	shown(t, "sharing", ".status.ipv4.used", "1")
	shown(t, "sharing", ".status.services", "3")
	stop()

	// One of them is Local: the address goes where it has an endpoint.
	if err := cluster.SetPodReady(t.Context(), node, false); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cluster.SetPodReady(context.Background(), node, true) })
	owner(t, addr, func(n int) bool { return n != node })
	reach(t, cluster.Client, url(addr, 8086))
	says(t, cluster.Client, url(addr, 80), "to "+cluster.Client.Addr.String())
	if err := cluster.SetPodReady(t.Context(), node, true); err != nil {
		t.Fatal(err)
	}
	owner(t, addr, func(n int) bool { return n == node })

	wish := annotated("fairlead.io/load-balancer-ips=" + addr.String())
	service(t, "share-same-port", key, wish)
	contains(t, condition(t, "share-same-port", "Provisioned", "AddressTaken"), addr.String(), "default/share-web", "8086")
	event(t, "share-same-port", "AddressTaken")
	service(t, "share-no-key", wish, on(443))
	contains(t, condition(t, "share-no-key", "Provisioned", "AddressTaken"), addr.String(), "default/share-")
	service(t, "share-backends", key, wish, local, on(443), func(s *corev1.Service) { s.Spec.Selector = map[string]string{"app": "other"} })
	contains(t, condition(t, "share-backends", "Provisioned", "AddressTaken"), addr.String(), "default/share-")

	// The others stay when the first one goes, and whoever fits may follow.
	remove(t, "share-web")
	owner(t, addr, func(n int) bool { return n == node })
	says(t, cluster.Client, url(addr, 80), "to "+cluster.Client.Addr.String())
	if got := announced(t, "share-same-port"); got != addr {
		t.Errorf("it got %s, want %s", got, addr)
	}
	reach(t, cluster.Client, url(addr, 8086))
	keeps(t, "share-local", addr)
	keeps(t, "share-udp", addr)
}

// TestRenumber: a Service moves to another pool without a gap: both addresses
// answer until it is told that the old one may go.
func TestRenumber(t *testing.T) {
	lanPool(t, "old-net", "10.13.242.116/30")
	lanPool(t, "new-net", "10.13.242.120/30")
	service(t, "renumbered", from("old-net"), annotated("fairlead.io/renumber=hold"))
	before := announced(t, "renumbered")
	node := owner(t, before, anyNode)
	stop := uninterrupted(t, cluster.Client, url(before, 8086))
	update(t, "renumbered", from("new-net"))
	both := holds(t, "renumbered", 2)
	after := both[1]
	if both[0] != before || !netip.MustParsePrefix("10.13.242.120/30").Contains(after) {
		t.Fatalf("it has %v, want %s and one of the pool new-net", both, before)
	}
	contains(t, condition(t, "renumbered", "Provisioned", "Renumbering"), before.String(), after.String())
	owner(t, before, func(n int) bool { return n == node })
	stopAfter := uninterrupted(t, cluster.Client, url(after, 8086))
	there := owner(t, after, anyNode)
	contains(t, get(t, "renumbered").Annotations["fairlead.io/leaving"], before.String()+"=")

	// Nothing of this is in anybody's memory.
	restartAll(t)
	owner(t, before, func(n int) bool { return n == node })
	owner(t, after, func(n int) bool { return n == there })
	keeps(t, "renumbered", before, after)

	stop()
	update(t, "renumbered", func(s *corev1.Service) { delete(s.Annotations, "fairlead.io/renumber") })
	if got := announced(t, "renumbered"); got != after {
		t.Errorf("it has %s, want %s", got, after)
	}
	silent(t, before)
	owner(t, after, func(n int) bool { return n == there })
	condition(t, "renumbered", "Provisioned", "Assigned")
	if leaving := get(t, "renumbered").Annotations["fairlead.io/leaving"]; leaving != "" {
		t.Errorf("%s is still leaving", leaving)
	}
	stopAfter()
}

// TestRenumberDeadline: after the time that it was given, the old address goes by
// itself.
func TestRenumberDeadline(t *testing.T) {
	lanPool(t, "deadline", "10.13.242.124/30")
	service(t, "expiring", annotated("fairlead.io/load-balancer-ips=10.13.242.124", "fairlead.io/renumber=3s"))
	before, after := announced(t, "expiring"), netip.MustParseAddr("10.13.242.126")
	started, recorded := time.Now(), cluster.Record(t, "expiring")
	update(t, "expiring", annotated("fairlead.io/load-balancer-ips="+after.String()))
	want := []string{before.String(), before.String() + " " + after.String(), after.String()}
	if all := recorded(after.String()); !slices.Equal(all, want) {
		t.Errorf("it had %q, want %q", all, want)
	}
	if took := time.Since(started); took < 2*time.Second { // times in the record are whole seconds
		t.Errorf("%s was left after %s", before, took)
	}
	silent(t, before)
	reach(t, cluster.Client, url(after, 8086))
}

// TestDualStackLive: a live Service gets a second family and gives it back, and
// its first address is none the wiser.
func TestDualStackLive(t *testing.T) {
	routers(t)
	remote := cluster.Network.Remote
	families := func(policy corev1.IPFamilyPolicy) func(*corev1.Service) {
		return func(s *corev1.Service) { s.Spec.IPFamilyPolicy = &policy }
	}
	_, lower := routed(t, "in-front")
	_, first := routed(t, "two-faced", families(corev1.IPFamilyPolicySingleStack))
	remove(t, "in-front")
	if !lower.Less(first) {
		t.Fatalf("got %s, then %s: nothing would tempt the Service to move", lower, first)
	}
	stop := uninterrupted(t, remote, url(first, 8086))
	for range 2 {
		update(t, "two-faced", families(corev1.IPFamilyPolicyPreferDualStack))
		both := holds(t, "two-faced", 2)
		if both[0] != first || !both[1].Is6() {
			t.Fatalf("it has %v, want %s and an IPv6 address", both, first)
		}
		condition(t, "two-faced", "Provisioned", "Assigned")
		reach(t, remote, url(both[1], 8086))
		by(t, fabric.frr, both[1], 0, 1, 2)
		update(t, "two-faced", families(corev1.IPFamilyPolicySingleStack))
		if only := holds(t, "two-faced", 1); only[0] != first {
			t.Fatalf("it has %v, want %s", only, first)
		}
		by(t, fabric.frr, both[1])
	}
	stop()

	// What is only preferred may be missing.
	service(t, "preferring", from("lan"), families(corev1.IPFamilyPolicyPreferDualStack))
	announced(t, "preferring")
	contains(t, condition(t, "preferring", "Provisioned", "Assigned"), "IPv6")
}
