package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	lab "github.com/fairlead-io/fairlead/deploy/lab"
)

// withdrawalDelay is the time after which a Service that has lost its last endpoint counts as
// one without endpoints.
const withdrawalDelay = 5 * time.Second

// scaled creates a Service without endpoints from the pool. Only the pod that scale labels is
// selected.
func scaled(t *testing.T, name, pool string) *corev1.Service {
	t.Helper()
	t.Cleanup(func() {
		if _, err := cluster.Kubectl(context.Background(), "", "label", "pod", cluster.Pods[1].Name, "scaled-"); err != nil {
			t.Error(err)
		}
	})
	return service(t, name, from(pool), func(s *corev1.Service) { s.Spec.Selector = map[string]string{"scaled": "yes"} })
}

// scale makes the Service have one endpoint, or none, and waits for its EndpointSlices.
func scale(t *testing.T, service string, up bool) {
	t.Helper()
	label := "scaled-"
	if up {
		label = "scaled=yes"
	}
	if _, err := cluster.Kubectl(t.Context(), "", "label", "--overwrite", "pod", cluster.Pods[1].Name, label); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the EndpointSlices are updated", func() error {
		list, err := cluster.API.DiscoveryV1().EndpointSlices("default").List(t.Context(),
			metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=" + service})
		if err != nil {
			return err
		}
		endpoints := 0
		for _, slice := range list.Items {
			endpoints += len(slice.Endpoints)
		}
		if (endpoints > 0) != up {
			return fmt.Errorf("they have %d endpoints", endpoints)
		}
		return nil
	})
}

// routeChanges returns the changes of the route to the address since the call.
func routeChanges(t *testing.T, r *lab.Router, addr netip.Addr) (changes func() []lab.RouteChange) {
	t.Helper()
	all, err := r.WatchRoutes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return func() (changes []lab.RouteChange) {
		for {
			select {
			case c := <-all:
				if c.Prefix.Addr() == addr {
					changes = append(changes, c)
				}
			default:
				return changes
			}
		}
	}
}

// TestWithoutEndpoints checks that the routes of a Service are withdrawn some time after its
// last endpoint, that a short restart of its only pod does not change a route, and that they
// are back with the first endpoint; and that a Service whose first endpoint is starting does
// not get a Warning.
func TestWithoutEndpoints(t *testing.T) {
	all := routers(t)
	svc := scaled(t, "scaled", "bgp")
	contains(t, condition(t, "scaled", "Announced", "NoEndpoints"), "no endpoint is ready or serving")
	event(t, "scaled", "NoEndpoints")
	scale(t, "scaled", true)
	addr := announced(t, "scaled")
	routedViaAll(t, addr, 0, 1, 2)
	reachAgain(t, cluster.Network.Remote, url(addr, svc.Spec.Ports[0].Port))
	events, err := cluster.API.CoreV1().Events("default").List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.name=scaled"})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range events.Items {
		if e.Type == corev1.EventTypeWarning {
			t.Errorf("the new Service has the Event %s: %s", e.Reason, e.Message)
		}
	}

	var changes []func() []lab.RouteChange
	eventually(t, "the pod is restarted in a short time", func() error {
		changes = nil
		for _, r := range all {
			changes = append(changes, routeChanges(t, r, addr))
		}
		began := time.Now()
		scale(t, "scaled", false)
		scale(t, "scaled", true)
		routedViaAll(t, addr, 0, 1, 2)
		if took := time.Since(began); took > withdrawalDelay/2 {
			return fmt.Errorf("it took %s", took)
		}
		return nil
	})
	reachAgain(t, cluster.Network.Remote, url(addr, svc.Spec.Ports[0].Port))
	removed := time.Now()
	scale(t, "scaled", false)
	routedViaAll(t, addr)
	condition(t, "scaled", "Announced", "NoEndpoints")
	for i, r := range all {
		seen := changes[i]()
		if len(seen) == 0 {
			t.Errorf("%s: no change of the route was seen", r.Name)
		}
		for _, c := range seen {
			if after := c.At.Sub(removed); after < withdrawalDelay {
				t.Errorf("%s: the next hops became %v, %s after the last endpoint was removed", r.Name, c.Hops, after)
			}
		}
	}
	out, err := cluster.Fairlead(t.Context(), "explain", "svc", "default/scaled")
	if err != nil {
		t.Fatal(err)
	}
	contains(t, out, "no node: NoEndpoints: no endpoint is ready or serving", "node-1  NoEndpoints", "node-3  NoEndpoints")
	contains(t, doctor(t), "Service default/scaled")

	scale(t, "scaled", true)
	routedViaAll(t, addr, 0, 1, 2)
	condition(t, "scaled", "Announced", "Announced")
	reachAgain(t, cluster.Network.Remote, url(addr, svc.Spec.Ports[0].Port))
}

// TestAnnouncedWithoutEndpoints checks that an address without endpoints stays announced on
// the LAN, and by BGP if the advertisement requests that, that the condition says so, and that
// connections are rejected, by the loop guard.
func TestAnnouncedWithoutEndpoints(t *testing.T) {
	routers(t)
	manifest(t, `apiVersion: fairlead.io/v1alpha1
kind: IPAddressPool
metadata: {name: kept}
spec: {addresses: [198.18.116.0/24], autoAssign: false}
---
apiVersion: fairlead.io/v1alpha1
kind: BGPAdvertisement
metadata: {name: kept}
spec: {ipAddressPools: [kept], peers: [bird, frr], withoutEndpoints: Advertise}
`)
	for name, client := range map[string]*lab.Host{"kept": cluster.Network.Remote, "lan": cluster.Client} {
		t.Run(name, func(t *testing.T) {
			svc := scaled(t, "empty-"+name, name)
			contains(t, condition(t, svc.Name, "Announced", "NoEndpoints"), "no endpoint is ready or serving")
			addr := announced(t, svc.Name)
			if name == "kept" {
				routedViaAll(t, addr, 0, 1, 2)
			} else {
				owner(t, addr, anyNode)
			}
			// The kernel sends one ICMP error a second, so that a connection may time out.
			eventually(t, "a connection is rejected", func() error {
				_, err := client.Get(t.Context(), url(addr, svc.Spec.Ports[0].Port))
				if err == nil {
					return errors.New("a request has succeeded")
				}
				if !strings.Contains(err.Error(), "no route to host") {
					return err
				}
				return nil
			})
			scale(t, svc.Name, true)
			condition(t, svc.Name, "Announced", "Announced")
			reachAgain(t, client, url(addr, svc.Spec.Ports[0].Port))
			scale(t, svc.Name, false)
			condition(t, svc.Name, "Announced", "NoEndpoints")
		})
	}
}
