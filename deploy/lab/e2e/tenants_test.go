package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	lab "github.com/fairlead-io/fairlead/deploy/lab"
)

const (
	allocatedFrom, leaving = "fairlead.io/allocated-from", "fairlead.io/leaving"

	// tenantNamespace is where the account of the tenant has the ClusterRole edit. Its
	// Services are not those of suite.Cluster, which are in the namespace default.
	tenantNamespace = "records"
	tenant          = "system:serviceaccount:" + tenantNamespace + ":deployer"

	// refusedRecord is in the message of the ValidatingAdmissionPolicy.
	refusedRecord = "must not be added or changed"
)

// tenants creates the namespace of the tenant, and grants its account the ClusterRole
// edit there. The Services in the namespace are deleted when the test ends.
func tenants(t *testing.T) {
	t.Helper()
	t.Cleanup(func() {
		_, err := cluster.Kubectl(context.Background(), "", "-n", tenantNamespace, "delete", "--timeout="+lab.WaitTimeout.String(),
			"svc", "--all")
		if err != nil {
			t.Error(err)
		}
	})
	apply(t, fmt.Sprintf(`apiVersion: v1
kind: Namespace
metadata: {name: %s}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: deployer, namespace: %[1]s}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: edit}
subjects: [{kind: ServiceAccount, name: deployer, namespace: %[1]s}]
---
# Some operators of applications grant this, too. The ClusterRole edit does not.
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: status, namespace: %[1]s}
rules: [{apiGroups: [""], resources: [services/status], verbs: [get, update, patch]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: status, namespace: %[1]s}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: status}
subjects: [{kind: ServiceAccount, name: deployer, namespace: %[1]s}]
`, tenantNamespace))
	eventually(t, "the tenant may update Services", func() error {
		_, err := cluster.Kubectl(t.Context(), "", "--as="+tenant, "-n", tenantNamespace, "auth", "can-i", "update", "services")
		return err
	})
}

// kubectlAs runs kubectl as the user, in the namespace of the tenant.
func kubectlAs(t *testing.T, user, stdin string, args ...string) error {
	t.Helper()
	_, err := cluster.Kubectl(t.Context(), stdin, append([]string{"--as=" + user, "-n", tenantNamespace}, args...)...)
	return err
}

// kubectlAsAdmin runs kubectl as the administrator, in the namespace of the tenant.
func kubectlAsAdmin(t *testing.T, stdin string, args ...string) error {
	t.Helper()
	_, err := cluster.Kubectl(t.Context(), stdin, append([]string{"-n", tenantNamespace}, args...)...)
	return err
}

// tenantService returns the manifest of a Service of the tenant.
func tenantService(name string, kind corev1.ServiceType, annotations ...string) string {
	values := map[string]string{}
	for _, a := range annotations {
		key, value, _ := strings.Cut(a, "=")
		values[key] = value
	}
	encoded, _ := json.Marshal(values)
	return fmt.Sprintf(`apiVersion: v1
kind: Service
metadata: {name: %s, namespace: %s, annotations: %s}
spec: {type: %s, selector: {app: influxdb}, ports: [{port: 8086}]}
`, name, tenantNamespace, encoded, kind)
}

// getTenant returns the current Service of the tenant.
func getTenant(t *testing.T, name string) *corev1.Service {
	t.Helper()
	s, err := cluster.API.CoreV1().Services(tenantNamespace).Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// waitTenant waits until the Service of the tenant is announced with the only address in
// its own record, and returns the record.
func waitTenant(t *testing.T, name string) (addr, record string) {
	t.Helper()
	eventually(t, name+" is announced and recorded", func() error {
		a, err := cluster.AnnouncedAddress(t.Context(), tenantNamespace, name)
		if err != nil {
			return err
		}
		s := getTenant(t, name)
		addr, record = a.String(), s.Annotations[allocatedFrom]
		if !strings.HasPrefix(record, addr+"=") || !strings.HasSuffix(record, ",uid="+string(s.UID)) {
			return fmt.Errorf("it has %s, recorded as %q", addr, record)
		}
		return nil
	})
	return addr, record
}

// mustBeRefused checks that the policy has refused the annotation, and that the message
// names it and what to use instead.
func mustBeRefused(t *testing.T, what, annotation string, err error) {
	t.Helper()
	if err == nil {
		t.Errorf("%s was accepted", what)
		return
	}
	contains(t, err.Error(), "fairlead-records", "forbidden", annotation+" "+refusedRecord,
		"fairlead.io/load-balancer-ips", "fairlead.io/address-pool")
}

func mustBeAccepted(t *testing.T, what string, err error) {
	t.Helper()
	if err != nil {
		t.Errorf("%s was not accepted: %v", what, err)
	}
}

// TestTenantsMayNotWriteRecords checks that an account that may not patch the status of
// pools can neither add nor change a record of a Service, by any request, but can drop
// and restore one.
func TestTenantsMayNotWriteRecords(t *testing.T) {
	tenants(t)
	as := func(stdin string, args ...string) error { return kubectlAs(t, tenant, stdin, args...) }
	mustBeAccepted(t, "a Service", as(tenantService("served", "LoadBalancer"), "create", "-f", "-"))
	_, record := waitTenant(t, "served")
	forged := record[:strings.Index(record, "=")] + "=other" + record[strings.Index(record, ",uid="):]
	mustBeAccepted(t, "a Service without annotations", as("", "create", "service", "clusterip", "plain", "--tcp=80"))

	for what, args := range map[string][]string{
		"a changed record":             {"annotate", "--overwrite", "svc", "served", allocatedFrom + "=" + forged},
		"a record without annotations": {"annotate", "svc", "plain", allocatedFrom + "=" + forged},
		"a record with the status":     {"patch", "svc", "served", "--subresource=status", "-p", recordPatch(forged, "")},
		"a record with the type":       {"patch", "svc", "plain", "-p", recordPatch(forged, "LoadBalancer")},
		"a record and an annotation":   {"annotate", "svc", "plain", allocatedFrom + "=" + forged, "example.com/other=1"},
	} {
		mustBeRefused(t, what, allocatedFrom, as("", args...))
	}
	mustBeRefused(t, "a leaving address", leaving, as("", "annotate", "svc", "served", leaving+"=10.13.242.193=2020-01-01T00:00:00Z"))
	mustBeRefused(t, "two records", allocatedFrom+" and "+leaving, as("", "annotate", "svc", "plain", allocatedFrom+"=x", leaving+"=x"))
	mustBeRefused(t, "a record by server-side apply", allocatedFrom,
		as(tenantService("served", "LoadBalancer", allocatedFrom+"="+forged), "apply", "--server-side", "--force-conflicts", "-f", "-"))
	mustBeRefused(t, "a record by replace", allocatedFrom,
		as(tenantService("plain", "ClusterIP", allocatedFrom+"="+forged), "replace", "-f", "-"))

	// The type changes without the record.
	mustBeAccepted(t, "the type", as("", "patch", "svc", "plain", "-p", `{"spec":{"type":"LoadBalancer"}}`))
	waitTenant(t, "plain")
	// All other updates are accepted, and the record stays.
	for what, args := range map[string][]string{
		"a label":                   {"label", "svc", "served", "--overwrite", "tier=web"},
		"another annotation":        {"annotate", "svc", "served", "example.com/other=1"},
		"a request":                 {"annotate", "svc", "served", "fairlead.io/address-pool=lan"},
		"the same record":           {"annotate", "--overwrite", "svc", "served", allocatedFrom + "=" + record},
		"a status":                  {"patch", "svc", "served", "--subresource=status", "-p", `{"metadata":{"labels":{"tier":"api"}}}`},
		"a port":                    {"patch", "svc", "served", "-p", `{"spec":{"ports":[{"port":8086,"name":"http"}]}}`},
		"a record that was dropped": {"annotate", "svc", "plain", allocatedFrom + "-"},
	} {
		mustBeAccepted(t, what, as("", args...))
	}
	if _, got := waitTenant(t, "served"); got != record {
		t.Errorf("the record is %q, want %q", got, record)
	}
	waitTenant(t, "plain") // the controller has recorded the address again
	mustBeAccepted(t, "a replaced Service", as(tenantService("served", "LoadBalancer"), "replace", "-f", "-"))
	if _, got := waitTenant(t, "served"); got != record {
		t.Errorf("after replace the record is %q, want %q", got, record)
	}
}

// recordPatch returns a patch of the record and, unless it is empty, of the type.
func recordPatch(record string, kind corev1.ServiceType) string {
	patch := map[string]any{"metadata": map[string]any{"annotations": map[string]string{allocatedFrom: record}}}
	if kind != "" {
		patch["spec"] = map[string]any{"type": kind}
	}
	encoded, _ := json.Marshal(patch)
	return string(encoded)
}

// TestRecordsAreRestored checks that a Service can be created with the record of a
// deleted one, by an administrator and by the tenant, and that a record that stays as
// it is does not obstruct updates.
func TestRecordsAreRestored(t *testing.T) {
	tenants(t)
	for i, create := range []func(yaml string) error{
		func(yaml string) error { return kubectlAsAdmin(t, yaml, "create", "-f", "-") },
		func(yaml string) error { return kubectlAs(t, tenant, yaml, "create", "-f", "-") },
		func(yaml string) error { return kubectlAs(t, tenant, yaml, "apply", "--server-side", "-f", "-") },
	} {
		name, addr := fmt.Sprintf("restored-%d", i), fmt.Sprintf("10.13.242.%d", 205+i)
		records := []string{allocatedFrom + "=" + addr + "=lan,uid=of-another-one", leaving + "=x"}
		mustBeAccepted(t, "a restored Service", create(tenantService(name, "LoadBalancer", records...)))
		waitTenant(t, name)
		// Fairlead does not change the Services of another implementation.
		name += "-elsewhere"
		foreign := strings.Replace(tenantService(name, "LoadBalancer", records...), "spec: {",
			"spec: {loadBalancerClass: example.com/other, ", 1)
		mustBeAccepted(t, "a restored Service", create(foreign))
		mustBeAccepted(t, "an update", kubectlAs(t, tenant, "", "label", "svc", name, "tier=web"))
		mustBeRefused(t, "a changed record", allocatedFrom,
			kubectlAs(t, tenant, "", "annotate", "--overwrite", "svc", name, allocatedFrom+"=y"))
	}
}

// TestRecordsByPermission checks that the policy permits updates of records to accounts
// that may patch the status of pools, wherever Fairlead is installed, and to no others.
func TestRecordsByPermission(t *testing.T) {
	tenants(t)
	t.Cleanup(func() {
		_, _ = cluster.Kubectl(context.Background(), "", "delete", "--ignore-not-found", "clusterrolebinding", "fairlead-elsewhere",
			"services-everywhere")
	})
	apply(t, `apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: fairlead-elsewhere}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: fairlead-controller}
subjects: [{kind: ServiceAccount, name: load-balancer, namespace: networking}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: services-everywhere}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: edit}
subjects:
- {kind: User, name: operator}
- {kind: ServiceAccount, name: load-balancer, namespace: networking}
`)
	mustBeAccepted(t, "a Service", kubectlAs(t, tenant, tenantService("written", "ClusterIP"), "create", "-f", "-"))
	const elsewhere = "system:serviceaccount:networking:load-balancer"
	for _, user := range []string{elsewhere, "operator"} {
		eventually(t, user+" may patch Services", func() error { return kubectlAs(t, user, "", "auth", "can-i", "patch", "services") })
	}
	patch := func(record string) []string {
		return []string{"patch", "svc", "written", "-p", recordPatch(record, "")}
	}
	mustBeRefused(t, "a record by an account for Services only", allocatedFrom, kubectlAs(t, "operator", "", patch("a")...))
	mustBeAccepted(t, "a record by a controller in another namespace", kubectlAs(t, elsewhere, "", patch("b")...))
	// As the controller does. kubectl patch would read the status first, and it may not.
	mustBeAccepted(t, "a record by a controller in another namespace, with the status", kubectlAs(t, elsewhere,
		"apiVersion: v1\nkind: Service\nmetadata: {name: written, annotations: {"+allocatedFrom+": c}}\n",
		"apply", "--server-side", "--force-conflicts", "--subresource=status", "-f", "-"))
	mustBeAccepted(t, "a record by an administrator", kubectlAsAdmin(t, "", patch("d")...))
}

// TestPoliciesAreValid checks that the API server has found no errors of types in the
// expressions of the policies.
func TestPoliciesAreValid(t *testing.T) {
	for _, name := range []string{"fairlead-records", "fairlead-speaker"} {
		eventually(t, "the policy "+name+" is checked", func() error {
			p, err := cluster.API.AdmissionregistrationV1().ValidatingAdmissionPolicies().Get(t.Context(), name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			if p.Status.TypeChecking == nil || p.Status.ObservedGeneration != p.Generation {
				return fmt.Errorf("its status is %+v", p.Status)
			}
			for _, w := range p.Status.TypeChecking.ExpressionWarnings {
				t.Errorf("%s: %s: %s", name, w.FieldRef, w.Warning)
			}
			return nil
		})
	}
}
