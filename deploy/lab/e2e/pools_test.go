package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	lab "github.com/fairlead-io/fairlead/deploy/lab"
)

// lanPool creates a pool of addresses on the LAN that must be requested by name, and
// its L2Advertisement. Both are deleted when the test ends.
func lanPool(t *testing.T, name string, entries ...string) {
	t.Helper()
	t.Cleanup(func() {
		_, _ = cluster.Kubectl(context.Background(), "", "delete", "l2advertisement", name)
		deletePool(t, name)
	})
	apply(t, pool(name, entries...)+fmt.Sprintf(`---
apiVersion: fairlead.io/v1alpha1
kind: L2Advertisement
metadata: {name: %s}
spec: {ipAddressPools: [%[1]s]}
`, name))
}

// annotated sets annotations, "NAME=VALUE".
func annotated(each ...string) func(*corev1.Service) {
	return func(s *corev1.Service) {
		for _, a := range each {
			name, value, _ := strings.Cut(a, "=")
			if s.Annotations == nil {
				s.Annotations = map[string]string{}
			}
			s.Annotations[name] = value
		}
	}
}

func from(pool string) func(*corev1.Service) { return annotated("fairlead.io/address-pool=" + pool) }

// waitAddresses waits until the Service is announced with the number of addresses, and
// returns them in the order of its status.
func waitAddresses(t *testing.T, name string, count int) (addrs []netip.Addr) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s is announced with %d addresses", name, count), func() error {
		s := get(t, name)
		addrs = nil
		for _, in := range s.Status.LoadBalancer.Ingress {
			addrs = append(addrs, netip.MustParseAddr(in.IP))
		}
		announced := slices.ContainsFunc(s.Status.Conditions, func(c metav1.Condition) bool {
			return c.Type == "fairlead.io/Announced" && c.Status == metav1.ConditionTrue &&
				!slices.ContainsFunc(addrs, func(a netip.Addr) bool { return !strings.Contains(c.Message, a.String()) })
		})
		if len(addrs) != count || !announced {
			return fmt.Errorf("it has %v, and its conditions are %+v", addrs, s.Status.Conditions)
		}
		return nil
	})
	return addrs
}

// checkAddresses checks that the status of the Service has exactly these addresses.
func checkAddresses(t *testing.T, name string, want ...netip.Addr) {
	t.Helper()
	var have []netip.Addr
	for _, in := range get(t, name).Status.LoadBalancer.Ingress {
		have = append(have, netip.MustParseAddr(in.IP))
	}
	if !slices.Equal(have, want) {
		t.Errorf("%s has %v, want %v", name, have, want)
	}
}

// uninterrupted sends requests to the URL until stop is called, which fails if any
// request was lost.
func uninterrupted(t *testing.T, from *lab.Host, target string) (stop func()) {
	t.Helper()
	reachAgain(t, from, target)
	stream := lab.RequestStream{URL: target, Every: 20 * time.Millisecond, Timeout: lostAfter}.Start(t.Context(), from)
	return func() {
		t.Helper()
		report := stream()
		t.Logf("%s: %s", target, report)
		if report.Lost > 0 || report.Sent == 0 {
			t.Errorf("%s was interrupted: %s", target, report)
		}
	}
}

// waitPoolField waits until the field of the pool has the value.
func waitPoolField(t *testing.T, pool, field, want string) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s of pool %s is %s", field, pool, want), func() error {
		out, err := cluster.Kubectl(t.Context(), "", "get", "ipaddresspool", pool, "-o", "jsonpath={"+field+"}")
		if err == nil && out != want {
			err = fmt.Errorf("it is %q", out)
		}
		return err
	})
}

// restartAll kills every speaker and every controller, and starts them again.
func restartAll(t *testing.T) {
	t.Helper()
	for _, p := range slices.Concat(cluster.Speakers, cluster.Controllers) {
		p.Kill()
	}
	for i := range cluster.Speakers {
		if err := cluster.StartSpeaker(context.Background(), i); err != nil {
			t.Fatal(err)
		}
	}
	cluster.StartControllers(t)
}

// TestPoolShrunkStaysAnnounced checks that an address that is no longer in its pool,
// and an address from a deleted pool, stay assigned and announced by the same
// node, also after a restart of all controllers and speakers.
func TestPoolShrunkStaysAnnounced(t *testing.T) {
	lanPool(t, "shrinking", "10.13.242.104/30")
	service(t, "outside", from("shrinking"))
	addr := announced(t, "outside")
	service(t, "inside", from("shrinking"), annotated("fairlead.io/load-balancer-ips=10.13.242.107"))
	inside := announced(t, "inside")
	node, other := owner(t, addr, anyNode), owner(t, inside, anyNode)
	stop := uninterrupted(t, cluster.Client, url(addr, 8086))
	still := func() {
		t.Helper()
		owner(t, addr, func(n int) bool { return n == node })
		owner(t, inside, func(n int) bool { return n == other })
		checkAddresses(t, "outside", addr)
		checkAddresses(t, "inside", inside)
		condition(t, "outside", "Announced", "Announced")
	}

	apply(t, pool("shrinking", "10.13.242.107"))
	contains(t, condition(t, "outside", "Provisioned", "OutOfPool"), addr.String(), "shrinking")
	condition(t, "inside", "Provisioned", "Assigned")
	waitPoolField(t, "shrinking", ".status.outOfPool", "1")
	waitPoolField(t, "shrinking", ".status.services", "2")
	still()
	restartAll(t)
	still()
	condition(t, "outside", "Provisioned", "OutOfPool")

	deletePool(t, "shrinking")
	contains(t, condition(t, "inside", "Provisioned", "OutOfPool"), "pool shrinking does not exist any more")
	service(t, "too-late", from("shrinking"))
	condition(t, "too-late", "Provisioned", "NoMatchingPool")
	still()
	restartAll(t)
	still()
	stop()

	remove(t, "outside")
	notAnnounced(t, addr)
}

// TestPoolShrunkKeepsRoutes checks that an address outside of the shrunk pool has a
// route of its own, if the pool is advertised as an aggregate, that the addresses stay
// advertised when the pool that was selected by its label is deleted, and that no
// request is lost.
func TestPoolShrunkKeepsRoutes(t *testing.T) {
	routers := routers(t)
	edge := func(entry string) string {
		return strings.Replace(pool("edge", entry), "{name: edge}", "{name: edge, labels: {tier: edge}}", 1)
	}
	t.Cleanup(func() {
		_, _ = cluster.Kubectl(context.Background(), "", "delete", "bgpadvertisement", "edge")
		deletePool(t, "edge")
	})
	apply(t, edge("198.18.114.0/24")+`---
apiVersion: fairlead.io/v1alpha1
kind: BGPAdvertisement
metadata: {name: edge}
spec: {ipAddressPoolSelectors: [{matchLabels: {tier: edge}}], peers: [bird, frr], aggregationLength: 25}
`)
	routed := func(prefix string, nodes ...int) {
		t.Helper()
		var hops []netip.Addr
		for _, n := range nodes {
			hops = append(hops, cluster.Nodes[n].Addr)
		}
		for _, r := range routers {
			if err := r.WaitRoute(t.Context(), netip.MustParsePrefix(prefix), hops...); err != nil {
				t.Fatalf("%v\nlogs:\n%s", err, lab.Logs(20))
			}
		}
	}
	service(t, "cut-off", from("edge"), annotated("fairlead.io/load-balancer-ips=198.18.114.5"))
	service(t, "inner", from("edge"), annotated("fairlead.io/load-balancer-ips=198.18.114.200"))
	routed("198.18.114.0/25", 0, 1, 2)
	routed("198.18.114.128/25", 0, 1, 2)
	// The controller removes what another writer has added to the status.
	_, err := cluster.Kubectl(t.Context(), "", "patch", "bgpadvertisement", "edge", "--subresource=status", "--type=merge",
		"-p", `{"status":{"selectedPools":["another","edge"]}}`)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "only the pool edge is selected", func() error {
		out, err := cluster.Kubectl(t.Context(), "", "get", "bgpadvertisement", "edge", "-o", "jsonpath={.status.selectedPools}")
		if err == nil && out != `["edge"]` {
			err = fmt.Errorf("status.selectedPools is %s", out)
		}
		return err
	})
	remote := cluster.Network.Remote
	cutOff, inner := url(netip.MustParseAddr("198.18.114.5"), 8086), url(netip.MustParseAddr("198.18.114.200"), 8086)
	changing, unchanged := stream(t, cutOff), uninterrupted(t, remote, inner)
	apply(t, edge("198.18.114.128/25"))
	condition(t, "cut-off", "Provisioned", "OutOfPool")
	routed("198.18.114.5/32", 0, 1, 2)
	routed("198.18.114.0/25")
	routed("198.18.114.128/25", 0, 1, 2)
	unchanged()
	// The nodes advertise the longer prefix one after the other.
	checkLosses(t, changing(), len(cluster.Nodes)*len(routers))

	stops := []func(){uninterrupted(t, remote, cutOff)}
	changing = stream(t, inner)
	deletePool(t, "edge")
	contains(t, condition(t, "inner", "Provisioned", "OutOfPool"), "does not exist any more")
	routed("198.18.114.200/32", 0, 1, 2) // without its pool there is no aggregate
	routed("198.18.114.128/25")
	checkLosses(t, changing(), len(cluster.Nodes)*len(routers))
	stops = append(stops, uninterrupted(t, remote, inner))
	for i, p := range cluster.Speakers { // all at once, as an upgrade in a hurry does
		if err := p.Stop(); err != nil {
			t.Errorf("the speaker ended with %v", err)
		}
		if err := cluster.StartSpeaker(context.Background(), i); err != nil {
			t.Fatal(err)
		}
	}
	for _, r := range routers {
		for _, n := range cluster.Nodes {
			if err := r.WaitSession(t.Context(), n.Addr.String(), "Established"); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, stop := range stops {
		stop()
	}
	routed("198.18.114.5/32", 0, 1, 2)
	routed("198.18.114.200/32", 0, 1, 2)
	condition(t, "cut-off", "Announced", "Announced")
}

// TestRelease checks that the annotation release makes a Service release its address
// permanently.
func TestRelease(t *testing.T) {
	lanPool(t, "released", "10.13.242.108/31")
	service(t, "moved-on", from("released"))
	addr := announced(t, "moved-on")
	update(t, "moved-on", annotated("fairlead.io/release="+addr.String()))
	var next netip.Addr
	eventually(t, "another address is assigned", func() (err error) {
		if next, err = cluster.AnnouncedAddress(t.Context(), "default", "moved-on"); err == nil && next == addr {
			err = fmt.Errorf("it still has %s", addr)
		}
		return err
	})
	notAnnounced(t, addr)
	reach(t, cluster.Client, url(next, 8086))
	// Another Service can be assigned it.
	service(t, "heir", from("released"))
	if got := announced(t, "heir"); got != addr {
		t.Errorf("the other Service was assigned %s, want %s", got, addr)
	}
	// The Service is not assigned it again, even if no other address is free.
	remove(t, "heir")
	update(t, "moved-on", annotated("fairlead.io/release="+addr.String()+","+next.String()))
	condition(t, "moved-on", "Provisioned", "PoolExhausted")
	notAnnounced(t, next)
	checkAddresses(t, "moved-on")
}

// TestPoolColumns checks the printer columns of pools.
func TestPoolColumns(t *testing.T) {
	lanPool(t, "printed", "10.13.242.110/31", "fd13:242::1:0/112")
	service(t, "counted", from("printed"))
	announced(t, "counted")
	waitPoolField(t, "printed", ".status.ipv4.usage", "1/2")
	waitPoolField(t, "printed", `.status.conditions[?(@.type=="Advertised")].status`, "True")
	out, err := cluster.Kubectl(t.Context(), "", "get", "ipaddresspools")
	if err != nil {
		t.Fatal(err)
	}
	header, row := []string(nil), []string(nil)
	for line := range strings.Lines(out) {
		cells := between.Split(strings.TrimSpace(line), -1)
		switch cells[0] {
		case "NAME":
			header = cells
		case "printed":
			row = cells[:len(cells)-1] // less its age
		}
	}
	if want := []string{"NAME", "ADDRESSES", "USED/TOTAL V4", "USED/TOTAL V6", "AUTO", "ADVERTISED", "AGE"}; !slices.Equal(header, want) {
		t.Errorf("the header is %q, want %q", header, want)
	}
	if want := []string{"printed", `["10.13.242.110/31","fd13:242::1:0/112"]`, "1/2", "0/65536", "false", "True"}; !slices.Equal(row,
		want) {
		t.Errorf("the row is %q, want %q", row, want)
	}
}

// between matches the separator of table columns.
var between = regexp.MustCompile(" {2,}")
