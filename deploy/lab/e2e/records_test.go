package e2e

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	lab "github.com/fairlead-io/fairlead/deploy/lab"
)

// removePolicy deletes the policy for records until the test ends, as in a cluster in
// which it was not installed.
func removePolicy(t *testing.T) {
	t.Helper()
	root, err := lab.Root()
	if err != nil {
		t.Fatal(err)
	}
	mustBeAccepted(t, "a Service", kubectlAs(t, tenant, tenantService("probe", "ClusterIP"), "create", "-f", "-"))
	probe := func(ctx context.Context) error {
		_, err := cluster.Kubectl(ctx, "", "--as="+tenant, "-n", tenantNamespace, "annotate", "--dry-run=server", "svc", "probe",
			allocatedFrom+"=x")
		return err
	}
	t.Cleanup(func() {
		ctx := context.Background()
		if _, err := cluster.Kubectl(ctx, "", "apply", "--server-side", "-f", filepath.Join(root, "deploy", "policy.yaml")); err != nil {
			t.Error(err)
		}
		err := lab.Wait(ctx, "the policy is in force again", func() error {
			if err := probe(ctx); err == nil || !strings.Contains(err.Error(), refusedRecord) {
				return fmt.Errorf("got %v", err)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
	if _, err := cluster.Kubectl(t.Context(), "", "delete", "-f", filepath.Join(root, "deploy", "policy.yaml")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the policy is not in force", func() error { return probe(t.Context()) })
}

// TestForgedRecords checks that without the policy a forged record assigns neither an
// address of a pool that does not select the Service nor one that another Service
// holds, and that no router learns the Service's address through such a pool, not even
// until the record is corrected.
func TestForgedRecords(t *testing.T) {
	routers := routers(t)
	t.Cleanup(func() {
		ctx := context.Background()
		_, _ = cluster.Kubectl(ctx, "", "delete", "--ignore-not-found", "bgpadvertisement", "public")
		deletePool(t, "public")
	})
	tenants(t)
	apply(t, `apiVersion: fairlead.io/v1alpha1
kind: IPAddressPool
metadata: {name: public}
spec:
  addresses: [198.18.115.0/24]
  serviceAllocation: {namespaces: [default]}
---
apiVersion: fairlead.io/v1alpha1
kind: BGPAdvertisement
metadata: {name: public}
spec: {ipAddressPools: [public], peers: [bird, frr]}
`)
	const public, marker = "198.18.115.7", "198.18.115.200"
	service(t, "victim", annotated("fairlead.io/address-pool=lan"))
	victim := announced(t, "victim").String()
	removePolicy(t)
	var learnt []func(last string) []string
	for _, r := range routers {
		learnt = append(learnt, learntBy(t, r))
	}

	// A Service of its own for each: repeated writes would be corrected with backoff.
	wrong := []string{public, victim}
	forger := func(t *testing.T, name string) (addr, record, uid string) {
		t.Helper()
		mustBeAccepted(t, "a Service", kubectlAs(t, tenant, tenantService(name, "LoadBalancer"), "create", "-f", "-"))
		addr, record = waitTenant(t, name)
		wrong = append(wrong, addr)
		return addr, record, record[strings.Index(record, ",uid="):]
	}
	for i, forged := range []string{
		"ADDR=public,UID", "ADDR=public,uid=of-another-one", "ADDR=missing,UID", "x,UID",
		public + "=public,UID", public + "=lan,UID", victim + "=lan,UID", victim + "=public,UID",
		"ADDR=public," + public + "=public," + victim + "=lan,UID",
	} {
		t.Run(forged, func(t *testing.T) {
			name := fmt.Sprintf("forger-%d", i)
			addr, record, uid := forger(t, name)
			forged := strings.NewReplacer("ADDR", addr, ",UID", uid).Replace(forged)
			mustBeAccepted(t, forged, kubectlAs(t, tenant, "", "annotate", "--overwrite", "svc", name, allocatedFrom+"="+forged))
			eventually(t, "the record "+forged+" is corrected", func() error {
				if s := getTenant(t, name); s.Annotations[allocatedFrom] != record || !hasOnly(s, addr) {
					return fmt.Errorf("the status is %+v, the record %q", s.Status.LoadBalancer, s.Annotations[allocatedFrom])
				}
				return nil
			})
		})
	}
	t.Run("leaving", func(t *testing.T) {
		addr, _, _ := forger(t, "forger")
		mustBeAccepted(t, "a leaving address", kubectlAs(t, tenant, "", "annotate", "svc", "forger", "fairlead.io/renumber=hold",
			leaving+"="+victim+"=2020-01-01T00:00:00Z,"+public+"=2020-01-01T00:00:00Z"))
		eventually(t, "the leaving addresses are removed", func() error {
			if s := getTenant(t, "forger"); s.Annotations[leaving] != "" || !hasOnly(s, addr) {
				return fmt.Errorf("the status is %+v, the annotations %v", s.Status.LoadBalancer, s.Annotations)
			}
			return nil
		})
	})

	// A record from before the Service had an address.
	for name, claimed := range map[string]string{"claims-public": public, "claims-held": victim} {
		t.Run(name, func(t *testing.T) {
			mustBeAccepted(t, "a Service", kubectlAs(t, tenant, tenantService(name, "ClusterIP"), "create", "-f", "-"))
			patch := recordPatch(claimed+"=lan,uid="+string(getTenant(t, name).UID), "LoadBalancer")
			mustBeAccepted(t, "a record with the type", kubectlAs(t, tenant, "", "patch", "svc", name, "-p", patch))
			if got, _ := waitTenant(t, name); got == claimed {
				t.Errorf("it was assigned %s", got)
			}
		})
	}

	// The routers learn a route that was advertised after all the others.
	service(t, "last", annotated("fairlead.io/load-balancer-ips="+marker))
	for i, learnt := range learnt {
		prefixes := learnt(marker + "/32")
		for _, wrong := range wrong {
			if slices.Contains(prefixes, wrong+"/32") {
				t.Errorf("%s learnt a route to %s", routers[i].Name, wrong)
			}
		}
	}
	if got := announced(t, "victim").String(); got != victim {
		t.Errorf("the victim has %s, want %s", got, victim)
	}
}

// hasOnly reports whether the address is the only one in the status of the Service.
func hasOnly(s *corev1.Service, addr string) bool {
	return len(s.Status.LoadBalancer.Ingress) == 1 && s.Status.LoadBalancer.Ingress[0].IP == addr
}

// learntBy records the routes that the router learns. until waits for the prefix and
// returns the prefixes of all routes so far.
func learntBy(t *testing.T, r *lab.Router) (until func(last string) []string) {
	t.Helper()
	changes, err := r.WatchRoutes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return func(last string) (prefixes []string) {
		t.Helper()
		eventually(t, r.Name+" learns a route to "+last, func() error {
			for {
				select {
				case change, ok := <-changes:
					if !ok {
						return lab.Permanent(fmt.Errorf("the watch of the routes has ended"))
					}
					if prefixes = append(prefixes, change.Prefix.String()); slices.Contains(prefixes, last) {
						return nil
					}
				default:
					return fmt.Errorf("it has learnt %v", prefixes)
				}
			}
		})
		return prefixes
	}
}
