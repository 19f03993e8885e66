package guard

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var discardLog = slog.New(slog.DiscardHandler)

// testNetwork is a router with routes to the announced prefixes by the node, for
// which it is the default gateway, a client behind the router and a pod behind the
// node:
//
//	client eth0 -- down0 router up0 -- eth0 node pod0 -- eth0 pod
type testNetwork struct{ client, router, node, pod testHost }

var announcedPrefixes = []string{"203.0.113.1/32", "203.0.113.128/25", "10.0.0.0/8", "2001:db8:a::1/128", "2001:db8:b::/48", "fd00::/8"}

func newTestNetwork(t testing.TB) testNetwork {
	t.Helper()
	w := testNetwork{newHost(t), newHost(t), newHost(t), newHost(t)}
	w.router.setSysctls("ipv4/conf/all/rp_filter=0", "ipv4/conf/default/rp_filter=0") // or the filter would prevent loops
	w.client.connectTo("eth0", w.router, "down0")
	w.client.addAddresses("eth0", "198.51.100.9/24", "2001:db8:c::9/64")
	w.router.addAddresses("down0", "198.51.100.1/24", "2001:db8:c::1/64")
	w.client.addRoute("0.0.0.0/0", "198.51.100.1")
	w.client.addRoute("::/0", "2001:db8:c::1")
	w.router.connectTo("up0", w.node, "eth0")
	w.node.connectTo("pod0", w.pod, "eth0")
	w.router.addAddresses("up0", "10.1.0.1/24", "fd01::1/64")
	w.node.addAddresses("eth0", "10.1.0.2/24", "fd01::2/64")
	w.node.addAddresses("pod0", "10.244.1.1/24", "fd02::1/64")
	w.pod.addAddresses("eth0", "10.244.1.2/24", "fd02::2/64")
	w.node.addRoute("0.0.0.0/0", "10.1.0.1")
	w.node.addRoute("::/0", "fd01::1")
	w.pod.addRoute("0.0.0.0/0", "10.244.1.1")
	w.pod.addRoute("::/0", "fd02::1")
	for _, p := range announcedPrefixes {
		gateway := "10.1.0.2"
		if strings.Contains(p, ":") {
			gateway = "fd01::2"
		}
		w.router.addRoute(p, gateway)
	}
	return w
}

// waitForLinks waits until all links are up, which takes the kernel a second or two.
func (w testNetwork) waitForLinks() {
	w.client.t.Helper()
	for _, there := range []string{"10.244.1.2:1", "[fd02::2]:1"} {
		for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			_, err := w.client.getHTTP(there)
			if errors.Is(err, unix.ECONNREFUSED) {
				break // by the pod: all links are up
			}
			if time.Now().After(deadline) {
				w.client.t.Fatalf("the links did not come up: %v", err)
			}
		}
	}
}

func parsePrefixes(texts ...string) (all []netip.Prefix) {
	for _, text := range texts {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}

func (w testNetwork) setGuard(g *Guard, s State) {
	w.node.t.Helper()
	w.node.mustRun(func() error { return g.Set(w.node.t.Context(), s) })
}

// sendStray sends one packet that does not belong to a Service, and returns how many
// packets and ICMP errors were seen on the router's interface.
func (w testNetwork) sendStray(to string) (packets, icmpErrors int) {
	w.router.t.Helper()
	tap := w.router.tapInterface("up0")
	w.client.mustRun(func() error {
		conn, err := net.Dial("udp", net.JoinHostPort(to, "9"))
		if err != nil {
			return err
		}
		defer conn.Close()
		_, err = conn.Write([]byte("stray"))
		return err
	})
	return tap.countPackets(netip.MustParseAddr(to))
}

func TestStrayPacketsDoNotLoop(t *testing.T) {
	w := newTestNetwork(t)
	w.waitForLinks()
	g := New(discardLog)
	strays := []string{"203.0.113.1", "203.0.113.200", "10.9.9.9", "2001:db8:a::1", "2001:db8:b::9", "fd99::9"}
	for _, to := range strays {
		if n, _ := w.sendStray(to); n != loopedCount {
			t.Fatalf("without a guard one packet to %s was seen %d times, so the test cannot fail", to, n)
		}
	}
	w.setGuard(g, State{Prefixes: parsePrefixes(announcedPrefixes...)})
	for _, to := range strays {
		if n, errs := w.sendStray(to); n != 1 || errs != 1 {
			t.Errorf("one packet to %s was seen %d times, and %d ICMP errors, want 1 and 1", to, n, errs)
		}
	}
	w.node.mustRun(func() error { return g.Remove(t.Context()) })
	for _, to := range strays {
		if n, _ := w.sendStray(to); n != loopedCount {
			t.Errorf("after Remove one packet to %s was seen %d times", to, n)
		}
	}
}

// serveHTTP answers HTTP on the host with the client's address.
func (h testHost) serveHTTP(address string) {
	h.t.Helper()
	h.mustRun(func() error {
		l, err := net.Listen("tcp", address)
		if err != nil {
			return err
		}
		h.t.Cleanup(func() { _ = l.Close() })
		go func() {
			_ = http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.RemoteAddr) }))
		}()
		return nil
	})
}

// getHTTP sends an HTTP request from the host to the address.
func (h testHost) getHTTP(address string) (answer string, err error) {
	err = h.runIn(func() error {
		conn, err := net.DialTimeout("tcp", address, 3*time.Second)
		if err != nil {
			return err
		}
		defer conn.Close()
		if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
			return err
		}
		if _, err := io.WriteString(conn, "GET / HTTP/1.0\r\n\r\n"); err != nil {
			return err
		}
		b, err := io.ReadAll(conn)
		_, answer, _ = strings.Cut(string(b), "\r\n\r\n")
		return err
	})
	return answer, err
}

// TestTraffic checks that the guard does not affect traffic to Services, the node and
// its pods, with strict reverse path filters, host routes and aggregates that contain
// the addresses of router, node and pod.
func TestTraffic(t *testing.T) {
	w := newTestNetwork(t)
	w.waitForLinks()
	w.node.runNft(`
table inet services {
  chain in { type nat hook prerouting priority dstnat; jump vips; }
  chain out { type nat hook output priority -100; jump vips; }
  chain vips {
    ip daddr 203.0.113.1 tcp dport 80 dnat ip to 10.244.1.2:8080
    ip daddr 203.0.113.2 tcp dport 80 dnat ip to 10.244.1.2:8080
    ip daddr 203.0.113.3 tcp dport 80 dnat ip to 10.1.0.1:8080
    ip6 daddr 2001:db8:a::1 tcp dport 80 dnat ip6 to [fd02::2]:8080
  }
  chain post { type nat hook postrouting priority srcnat;
    ct status dnat ip daddr 10.1.0.1 masquerade
    ct status dnat ip saddr 10.244.1.2 ip daddr 10.244.1.2 masquerade
    ct status dnat ip6 saddr fd02::2 ip6 daddr fd02::2 masquerade
  }
}`)
	w.pod.serveHTTP(":8080")
	w.node.serveHTTP(":7070")
	w.router.serveHTTP(":8080") // also represents a pod of another node
	w.router.addRoute("203.0.113.2/32", "10.1.0.2")
	w.router.addRoute("203.0.113.3/32", "10.1.0.2")
	type path struct {
		from testHost
		to   string
		sees string
	}
	paths := []path{
		{w.client, "203.0.113.1:80", "198.51.100.9:"},
		{w.client, "203.0.113.2:80", "198.51.100.9:"},
		{w.client, "203.0.113.3:80", "10.1.0.2:"}, // masqueraded by the node
		{w.client, "[2001:db8:a::1]:80", "[2001:db8:c::9]:"},
		{w.router, "203.0.113.1:80", "10.1.0.1:"}, // its own address is in an aggregate
		{w.router, "203.0.113.3:80", "10.1.0.2:"},
		{w.router, "[2001:db8:a::1]:80", "[fd01::1]:"},
		{w.node, "203.0.113.1:80", "10."},
		{w.node, "[2001:db8:a::1]:80", "[fd0"},
		{w.pod, "203.0.113.1:80", "10."},
		{w.pod, "203.0.113.3:80", "10.1.0.2:"},
		{w.pod, "[2001:db8:a::1]:80", "[fd02::1]:"},
		{w.router, "10.244.1.2:8080", "10.1.0.1:"}, // routed pods
		{w.router, "[fd02::2]:8080", "[fd01::1]:"},
		{w.pod, "10.1.0.1:8080", "10.244.1.2:"},
		{w.router, "10.1.0.2:7070", "10.1.0.1:"}, // the node's own addresses
		{w.router, "10.244.1.1:7070", "10.1.0.1:"},
		{w.router, "[fd01::2]:7070", "[fd01::1]:"},
	}
	check := func(when string) {
		t.Helper()
		for _, p := range paths {
			if answer, err := p.from.getHTTP(p.to); err != nil || !strings.HasPrefix(answer, p.sees) {
				t.Errorf("%s, %s answers %q, %v; want %s", when, p.to, answer, err, p.sees)
			}
		}
	}
	check("without a guard")
	guarded := slices.Concat(announcedPrefixes,
		[]string{"203.0.113.0/24", "2001:db8:a::/47", "fd00::/7", "10.1.0.0/24", "10.1.0.128/25"})
	w.setGuard(New(discardLog), State{Prefixes: parsePrefixes(guarded...)})
	check("with a guard")
}
