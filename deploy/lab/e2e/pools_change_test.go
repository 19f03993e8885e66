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

// echo runs a UDP echo server on every pod until the test ends.
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

// echoes waits until the UDP echo server at the address responds.
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
				err = fmt.Errorf("the response is %q", buffer[:n])
			}
			return err
		})
	})
}

// TestSharing checks that Services with the same key share an address, over TCP and
// UDP, and with different externalTrafficPolicies if their backends are the same. One
// node with endpoints of all Services announces it. The condition of a conflicting
// Service names the other Service.
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
	respondsWith(t, cluster.Client, url(addr, 80), "to "+cluster.Client.Addr.String())
	echoes(t, cluster.Client, addr, 5353)
	owner(t, addr, func(n int) bool { return n == node })
	waitPoolField(t, "sharing", ".status.ipv4.used", "1")
	waitPoolField(t, "sharing", ".status.services", "3")
	stop()

	// One Service becomes Local: the owner must have one of its endpoints.
	if err := cluster.SetPodReady(t.Context(), node, false); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cluster.SetPodReady(context.Background(), node, true) })
	owner(t, addr, func(n int) bool { return n != node })
	reach(t, cluster.Client, url(addr, 8086))
	respondsWith(t, cluster.Client, url(addr, 80), "to "+cluster.Client.Addr.String())
	if err := cluster.SetPodReady(t.Context(), node, true); err != nil {
		t.Fatal(err)
	}
	owner(t, addr, func(n int) bool { return n == node })

	requested := annotated("fairlead.io/load-balancer-ips=" + addr.String())
	service(t, "share-same-port", key, requested)
	contains(t, condition(t, "share-same-port", "Provisioned", "AddressTaken"), addr.String(), "default/share-web", "8086")
	event(t, "share-same-port", "AddressTaken")
	service(t, "share-no-key", requested, on(443))
	contains(t, condition(t, "share-no-key", "Provisioned", "AddressTaken"), addr.String(), "default/share-")
	service(t, "share-backends", key, requested, local, on(443),
		func(s *corev1.Service) { s.Spec.Selector = map[string]string{"app": "other"} })
	contains(t, condition(t, "share-backends", "Provisioned", "AddressTaken"), addr.String(), "default/share-")

	// The others keep the address when the first one is deleted, and other Services can
	// be assigned it.
	remove(t, "share-web")
	owner(t, addr, func(n int) bool { return n == node })
	respondsWith(t, cluster.Client, url(addr, 80), "to "+cluster.Client.Addr.String())
	if got := announced(t, "share-same-port"); got != addr {
		t.Errorf("it was assigned %s, want %s", got, addr)
	}
	reach(t, cluster.Client, url(addr, 8086))
	checkAddresses(t, "share-local", addr)
	checkAddresses(t, "share-udp", addr)
}

// TestRenumber checks that a Service is reassigned to another pool without an
// interruption: both addresses are announced until the annotation is removed.
func TestRenumber(t *testing.T) {
	lanPool(t, "old-net", "10.13.242.116/30")
	lanPool(t, "new-net", "10.13.242.120/30")
	service(t, "renumbered", from("old-net"), annotated("fairlead.io/renumber=hold"))
	before := announced(t, "renumbered")
	node := owner(t, before, anyNode)
	stop := uninterrupted(t, cluster.Client, url(before, 8086))
	update(t, "renumbered", from("new-net"))
	both := waitAddresses(t, "renumbered", 2)
	after := both[1]
	if both[0] != before || !netip.MustParsePrefix("10.13.242.120/30").Contains(after) {
		t.Fatalf("it has %v, want %s and one of the pool new-net", both, before)
	}
	contains(t, condition(t, "renumbered", "Provisioned", "Renumbering"), before.String(), after.String())
	owner(t, before, func(n int) bool { return n == node })
	stopAfter := uninterrupted(t, cluster.Client, url(after, 8086))
	there := owner(t, after, anyNode)
	contains(t, get(t, "renumbered").Annotations["fairlead.io/leaving"], before.String()+"=")

	// The state is in the API only, so it survives restarts.
	restartAll(t)
	owner(t, before, func(n int) bool { return n == node })
	owner(t, after, func(n int) bool { return n == there })
	checkAddresses(t, "renumbered", before, after)

	stop()
	update(t, "renumbered", func(s *corev1.Service) { delete(s.Annotations, "fairlead.io/renumber") })
	if got := announced(t, "renumbered"); got != after {
		t.Errorf("it has %s, want %s", got, after)
	}
	notAnnounced(t, before)
	owner(t, after, func(n int) bool { return n == there })
	condition(t, "renumbered", "Provisioned", "Assigned")
	if leaving := get(t, "renumbered").Annotations["fairlead.io/leaving"]; leaving != "" {
		t.Errorf("%s is still leaving", leaving)
	}
	stopAfter()
}

// TestRenumberDeadline checks that the old address is released at the deadline.
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
		t.Errorf("%s was released after %s", before, took)
	}
	notAnnounced(t, before)
	reach(t, cluster.Client, url(after, 8086))
}

// TestDualStackLive checks that adding and removing an IP family of a Service does not
// change its first address.
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
		t.Fatalf("got %s, then %s: there is no free lower address", lower, first)
	}
	stop := uninterrupted(t, remote, url(first, 8086))
	for range 2 {
		update(t, "two-faced", families(corev1.IPFamilyPolicyPreferDualStack))
		both := waitAddresses(t, "two-faced", 2)
		if both[0] != first || !both[1].Is6() {
			t.Fatalf("it has %v, want %s and an IPv6 address", both, first)
		}
		condition(t, "two-faced", "Provisioned", "Assigned")
		reach(t, remote, url(both[1], 8086))
		routedVia(t, fabric.frr, both[1], 0, 1, 2)
		update(t, "two-faced", families(corev1.IPFamilyPolicySingleStack))
		if only := waitAddresses(t, "two-faced", 1); only[0] != first {
			t.Fatalf("it has %v, want %s", only, first)
		}
		routedVia(t, fabric.frr, both[1])
	}
	stop()

	// An unavailable preferred family is not an error.
	service(t, "preferring", from("lan"), families(corev1.IPFamilyPolicyPreferDualStack))
	announced(t, "preferring")
	contains(t, condition(t, "preferring", "Provisioned", "Assigned"), "IPv6")
}
