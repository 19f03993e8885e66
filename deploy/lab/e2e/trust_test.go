package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	lab "github.com/fairlead-io/fairlead/deploy/lab"
)

const recordAnnotation = "fairlead.io/allocated-from"

// patchStatus writes status.loadBalancer.ingress of the Service as another controller
// would.
func patchStatus(t *testing.T, name, ingress string) {
	t.Helper()
	patch := fmt.Sprintf(`{"status":{"loadBalancer":{"ingress":%s}}}`, ingress)
	if _, err := cluster.Kubectl(t.Context(), "", "patch", "svc", name, "--subresource=status", "--type=merge", "-p", patch); err != nil {
		t.Fatal(err)
	}
}

// waitHeld waits until the Service has the address in its status and, from the pool, in
// its own record.
func waitHeld(t *testing.T, name string, addr netip.Addr, pool string) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s has %s of pool %s", name, addr, pool), func() error {
		s := get(t, name)
		want := fmt.Sprintf("%s=%s,uid=%s", addr, pool, s.UID)
		if got, err := lab.IngressAddress(s); err != nil || got != addr || s.Annotations[recordAnnotation] != want {
			return fmt.Errorf("its status is %+v (%v), its record %q", s.Status.LoadBalancer, err, s.Annotations[recordAnnotation])
		}
		return nil
	})
}

// TestStatusOverwritten checks that a Service gets its recorded address back, whatever
// another controller writes to its status, and that no other Service loses one by that.
func TestStatusOverwritten(t *testing.T) {
	lanPool(t, "written", "10.13.242.112/29")
	service(t, "bystander", from("written"), annotated("fairlead.io/load-balancer-ips=10.13.242.118"))
	bystander := announced(t, "bystander")
	// A Service of its own for each: repeated writes would be corrected with backoff.
	for _, ingress := range []string{
		`null`, `[]`,
		`[{"ip":"FREE"}]`,
		`[{"ip":"` + bystander.String() + `"}]`,
		`[{"ip":"` + cluster.Nodes[0].Addr.String() + `"}]`,
		`[{"ip":"203.0.113.9"}]`,
		`[{"hostname":"lb.example.com"}]`,
		`[{"ip":"OWN"},{"ip":"10.13.242.117"}]`,
	} {
		service(t, "first", from("written"))
		first := announced(t, "first")
		service(t, "overwritten", from("written"))
		addr := announced(t, "overwritten")
		remove(t, "first") // the lowest address is free: it would be assigned to a new Service
		patchStatus(t, "overwritten", strings.NewReplacer("FREE", first.String(), "OWN", addr.String()).Replace(ingress))
		waitHeld(t, "overwritten", addr, "written")
		waitHeld(t, "bystander", bystander, "written")
		reach(t, cluster.Client, url(addr, 8086))
		remove(t, "overwritten")
	}
}

// TestReplaced checks that a Service from which a tool has dropped all annotations and
// finalizers keeps its address, and that its announcement is not interrupted.
func TestReplaced(t *testing.T) {
	lanPool(t, "replaced", "10.13.242.120/29")
	service(t, "replaced", from("replaced"))
	addr := announced(t, "replaced")
	replace := func(emptied bool) {
		t.Helper()
		s := get(t, "replaced")
		s.Annotations, s.Finalizers = map[string]string{"fairlead.io/address-pool": "replaced"}, nil
		if s.ResourceVersion = ""; emptied {
			s.ManagedFields = []metav1.ManagedFieldsEntry{{}}
		} else {
			s.ManagedFields = nil // as in a manifest
		}
		s.APIVersion, s.Kind = "v1", "Service"
		manifest, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := cluster.Kubectl(t.Context(), string(manifest), "replace", "-f", "-"); err != nil {
			t.Fatal(err)
		}
	}
	stop := uninterrupted(t, cluster.Client, url(addr, 8086))
	replace(false)
	waitHeld(t, "replaced", addr, "replaced")
	stop()
	// Out of its pool, only the managed fields show that the address was assigned.
	apply(t, pool("replaced", "10.13.242.124/30"))
	condition(t, "replaced", "Provisioned", "OutOfPool")
	replace(false)
	waitHeld(t, "replaced", addr, "replaced")
	reachAgain(t, cluster.Client, url(addr, 8086))
	apply(t, pool("replaced", "10.13.242.120/29"))
	condition(t, "replaced", "Provisioned", "Assigned")
	replace(true) // the address is in a pool that selects the Service
	waitHeld(t, "replaced", addr, "replaced")
}

// TestRestored checks that Services that are created anew from a backup, in another
// order and without their status, get their addresses again.
func TestRestored(t *testing.T) {
	lanPool(t, "backup", "10.13.242.128/28")
	names := []string{"backup-a", "backup-b", "backup-c", "backup-d"}
	addrs := map[string]netip.Addr{}
	var backup []*corev1.Service
	for _, name := range names {
		service(t, name, from("backup"))
		addrs[name] = announced(t, name)
		backup = append(backup, get(t, name))
	}
	for _, name := range names {
		remove(t, name)
	}
	slices.Reverse(backup)
	for _, s := range backup {
		service(t, s.Name, func(restored *corev1.Service) {
			restored.Annotations, restored.Finalizers = s.Annotations, s.Finalizers
		})
		waitHeld(t, s.Name, addrs[s.Name], "backup")
	}
	// A copy does not take the address of its original, and is served.
	service(t, "backup-copy", func(s *corev1.Service) { s.Annotations = backup[0].Annotations })
	if got := announced(t, "backup-copy"); got == addrs[backup[0].Name] {
		t.Errorf("the copy has %s of its original", got)
	}
	waitHeld(t, backup[0].Name, addrs[backup[0].Name], "backup")
}

// TestPoolRenamed checks that a pool can be renamed, and deleted and applied again, while
// its address is in use: the announcement continues, and new Services are served.
func TestPoolRenamed(t *testing.T) {
	lanPool(t, "old-name", "10.13.242.104/30")
	t.Cleanup(func() {
		_, _ = cluster.Kubectl(context.Background(), "", "delete", "l2advertisement", "new-name")
		deletePool(t, "new-name")
	})
	service(t, "renamed", annotated("fairlead.io/load-balancer-ips=10.13.242.105"))
	addr := announced(t, "renamed")
	waitHeld(t, "renamed", addr, "old-name")
	stop := uninterrupted(t, cluster.Client, url(addr, 8086))

	deletePool(t, "old-name")
	condition(t, "renamed", "Provisioned", "OutOfPool")
	apply(t, pool("old-name", "10.13.242.104/30"))
	condition(t, "renamed", "Provisioned", "Assigned")
	service(t, "newcomer", from("old-name"))
	announced(t, "newcomer")
	remove(t, "newcomer")

	apply(t, pool("new-name", "10.13.242.104/30")+`---
apiVersion: fairlead.io/v1alpha1
kind: L2Advertisement
metadata: {name: new-name}
spec: {ipAddressPools: [new-name]}
`)
	deletePool(t, "old-name")
	waitHeld(t, "renamed", addr, "new-name")
	waitAddresses(t, "renamed", 1)
	stop()
}

// TestNodeJoinsOnHeldAddress checks that an address is withdrawn while a node has it, and
// that the Service keeps it.
func TestNodeJoinsOnHeldAddress(t *testing.T) {
	lanPool(t, "joined", "10.13.242.108/30")
	service(t, "joined", from("joined"))
	addr := announced(t, "joined")
	name := cluster.Nodes[2].Name
	setAddresses := func(addrs ...string) {
		t.Helper()
		var list []corev1.NodeAddress
		for _, a := range addrs {
			list = append(list, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a})
		}
		patch, err := json.Marshal(map[string]any{"status": map[string]any{"addresses": append(list, corev1.NodeAddress{Type: corev1.NodeHostName, Address: name})}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := cluster.Kubectl(context.Background(), "", "patch", "node", name, "--subresource=status", "--type=merge", "-p", string(patch)); err != nil {
			t.Fatal(err)
		}
	}
	own := cluster.Nodes[2].Addr.String()
	t.Cleanup(func() { setAddresses(own) })
	setAddresses(own, addr.String())
	contains(t, condition(t, "joined", "Announced", "NodeAddress"), addr.String(), name)
	notAnnounced(t, addr)
	waitHeld(t, "joined", addr, "joined")
	if out := doctor(t); !strings.Contains(out, "BROKEN") || !strings.Contains(out, "NodeAddress") {
		t.Errorf("doctor does not report it:\n%s", out)
	}
	// A compromised node can withdraw four addresses of a family, and not a fifth.
	setAddresses(own, "203.0.113.1", "203.0.113.2", "203.0.113.3", addr.String())
	waitAddresses(t, "joined", 1)
}

// TestExternalIPs checks that an address in spec.externalIPs of another Service is
// assigned last, and reported if it is held.
func TestExternalIPs(t *testing.T) {
	lanPool(t, "external", "10.13.242.102/31")
	service(t, "lists-external", func(s *corev1.Service) {
		s.Spec.Type, s.Spec.ExternalIPs = corev1.ServiceTypeClusterIP, []string{"10.13.242.102"}
	})
	service(t, "avoids", from("external"))
	if got := announced(t, "avoids"); got.String() != "10.13.242.103" {
		t.Errorf("got %s, which is an external IP", got)
	}
	service(t, "last", from("external"))
	if got := announced(t, "last"); got.String() != "10.13.242.102" {
		t.Errorf("got %s: external IPs have exhausted the pool", got)
	}
	contains(t, condition(t, "last", "Provisioned", "Assigned"), "10.13.242.102 is also in spec.externalIPs of Service default/lists-external")
}
