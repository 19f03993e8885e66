package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"

	lab "github.com/fairlead-io/fairlead/deploy/lab"
)

func intOrString(name string) intstr.IntOrString { return intstr.FromString(name) }

// TestManifests validates all objects in deploy strictly with the API server.
func TestManifests(t *testing.T) {
	root, err := lab.Root()
	if err != nil {
		t.Fatal(err)
	}
	yaml, err := cluster.Kubectl(t.Context(), "", "kustomize", filepath.Join(root, "deploy"))
	if err != nil {
		t.Fatal(err)
	}
	onAWS, err := cluster.Kubectl(t.Context(), "", "kustomize", filepath.Join(root, "deploy", "aws"))
	if err != nil {
		t.Fatal(err)
	}
	out, err := cluster.Kubectl(t.Context(), yaml+"---\n"+onAWS, "apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-")
	if err != nil {
		t.Fatal(err)
	}
	contains(t, out, "deployment.apps/fairlead-controller", "poddisruptionbudget.policy/fairlead-controller",
		"clusterrole.rbac.authorization.k8s.io/fairlead-controller-aws", "daemonset.apps/fairlead-speaker", "ipaddresspools.fairlead.io",
		"validatingadmissionpolicybinding.admissionregistration.k8s.io/fairlead-records")
}

// TestPermissions checks the permissions of each program with the API server.
func TestPermissions(t *testing.T) {
	for _, row := range []struct {
		account, verb, group, resource string
		want                           bool
	}{
		{"fairlead-controller", "patch", "", "services/status", true},
		{"fairlead-controller", "watch", "", "services", true},
		{"fairlead-controller", "patch", "", "services", false}, // on bare metal
		{"fairlead-controller", "get", "apiextensions.k8s.io", "customresourcedefinitions", true},
		{"fairlead-controller", "list", "apiextensions.k8s.io", "customresourcedefinitions", false},
		{"fairlead-speaker", "get", "apiextensions.k8s.io", "customresourcedefinitions", true},
		{"fairlead-controller", "update", "", "services", false},
		{"fairlead-controller", "get", "", "secrets", false},
		{"fairlead-controller", "list", "", "secrets", false},
		{"fairlead-controller", "create", "", "secrets", false},
		{"fairlead-controller", "patch", "", "nodes", false},
		{"fairlead-controller", "delete", "", "nodes", false},
		{"fairlead-controller", "patch", "fairlead.io", "ipaddresspools/status", true},
		{"fairlead-controller", "update", "fairlead.io", "speakers/status", false},
		{"fairlead-controller", "patch", "fairlead.io", "speakers/status", false},
		{"fairlead-controller", "delete", "fairlead.io", "ipaddresspools", false},
		{"fairlead-speaker", "watch", "", "services", true},
		{"fairlead-speaker", "watch", "discovery.k8s.io", "endpointslices", true},
		{"fairlead-speaker", "create", "", "events", true},
		{"fairlead-speaker", "create", "fairlead.io", "speakers", true},
		{"fairlead-speaker", "update", "fairlead.io", "speakers/status", true},
		{"fairlead-speaker", "create", "fairlead.io", "l2nodes", true},
		{"fairlead-speaker", "watch", "fairlead.io", "l2nodes", true},
		{"fairlead-speaker", "update", "fairlead.io", "l2nodes/status", true},
		{"fairlead-speaker", "update", "fairlead.io", "l2nodes", false},
		{"fairlead-speaker", "delete", "fairlead.io", "l2nodes", false},
		{"fairlead-controller", "watch", "fairlead.io", "l2nodes", true},
		{"fairlead-controller", "update", "fairlead.io", "l2nodes/status", false},
		{"fairlead-speaker", "patch", "", "services", false},
		{"fairlead-speaker", "update", "", "services", false},
		{"fairlead-speaker", "patch", "", "services/status", false},
		{"fairlead-speaker", "update", "", "services/status", false},
		{"fairlead-speaker", "get", "", "secrets", false},
		{"fairlead-speaker", "watch", "", "secrets", false},
		{"fairlead-speaker", "create", "", "secrets", false},
		{"fairlead-speaker", "get", "apps", "daemonsets", false},
		{"fairlead-speaker", "patch", "fairlead.io", "bgppeers/status", false},
		{"fairlead-controller", "patch", "fairlead.io", "bgppeers/status", true},
		{"fairlead-controller", "patch", "fairlead.io", "bgpadvertisements/status", true},
		{"fairlead-controller", "patch", "fairlead.io", "bgppeers", false},
		{"fairlead-speaker", "get", "", "configmaps", false},
		{"fairlead-speaker", "delete", "fairlead.io", "speakers", false},
		{"fairlead-speaker", "patch", "fairlead.io", "ipaddresspools", false},
		{"fairlead-speaker", "patch", "", "nodes", false},
		{"fairlead-speaker", "create", "authentication.k8s.io", "tokenreviews", true},
		{"fairlead-speaker", "create", "authorization.k8s.io", "subjectaccessreviews", true},
		{"fairlead-speaker", "create", "", "serviceaccounts/token", false},
	} {
		t.Run(fmt.Sprintf("%s %s %s", row.account, row.verb, row.resource), func(t *testing.T) {
			api, err := cluster.ClientAs(row.account)
			if err != nil {
				t.Fatal(err)
			}
			resource, subresource, _ := strings.Cut(row.resource, "/")
			review, err := api.AuthorizationV1().SelfSubjectAccessReviews().Create(t.Context(), &authorizationv1.SelfSubjectAccessReview{
				Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &authorizationv1.ResourceAttributes{
					Namespace: "default", Verb: row.verb, Group: row.group, Resource: resource, Subresource: subresource,
				}},
			}, metav1.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if review.Status.Allowed != row.want {
				t.Errorf("allowed is %t, want %t", review.Status.Allowed, row.want)
			}
		})
	}
}

// TestSpeakerWritesOwnStatusOnly uses the token of a running speaker, as an attacker on
// its node could.
func TestSpeakerWritesOwnStatusOnly(t *testing.T) {
	thief, err := cluster.ClientWithTokenOf("fairlead-speaker-node-1")
	if err != nil {
		t.Fatal(err)
	}
	for _, plural := range []string{"speakers", "l2nodes"} {
		objects := thief.Resource(schema.GroupVersionResource{Group: "fairlead.io", Version: "v1alpha1", Resource: plural})
		eventually(t, "all speakers have written their "+plural, func() error {
			list, err := objects.List(t.Context(), metav1.ListOptions{})
			if err == nil && len(list.Items) < len(cluster.Nodes) {
				err = fmt.Errorf("%d have", len(list.Items))
			}
			return err
		})
		for name, allowed := range map[string]bool{"node-1": true, "node-2": false} {
			eventually(t, fmt.Sprintf("writing %s %s is allowed: %t", plural, name, allowed), func() error {
				o, err := objects.Get(t.Context(), name, metav1.GetOptions{})
				if err != nil {
					return err
				}
				_, err = objects.UpdateStatus(t.Context(), o, metav1.UpdateOptions{})
				return permitted(err, allowed)
			})
		}
		o := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "fairlead.io/v1alpha1", "kind": map[string]string{
			"speakers": "Speaker", "l2nodes": "L2Node",
		}[plural]}}
		o.SetName("node-9")
		_, err := objects.Create(t.Context(), o, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		if err := permitted(err, false); err != nil {
			t.Errorf("create one of %s for another node: %v", plural, err)
		}
	}
}

// permitted returns an error unless the policy of speakers has allowed a write, or has not.
func permitted(err error, want bool) error {
	if want {
		return err // a conflict is tried again
	}
	if err == nil || !strings.Contains(err.Error(), "a speaker writes only the Speaker and the L2Node of its own node") {
		return fmt.Errorf("got %v", err)
	}
	return nil
}

func pool(name string, entries ...string) string {
	var quoted []string
	for _, e := range entries {
		quoted = append(quoted, fmt.Sprintf("%q", e))
	}
	return fmt.Sprintf(
		"apiVersion: fairlead.io/v1alpha1\nkind: IPAddressPool\nmetadata: {name: %s}\nspec: {autoAssign: false, addresses: [%s]}\n",
		name, strings.Join(quoted, ", "),
	)
}

// TestSchema checks which objects the API server accepts by their schema.
func TestSchema(t *testing.T) {
	for _, good := range []string{
		"192.0.2.0/24", "192.0.2.1-192.0.2.9", "192.0.2.1 - 192.0.2.9", "192.0.2.7", "2001:db8::/64",
		"2001:db8::1-2001:db8::ffff", "2001:db8::1", "0:0:0:0:0:0:0:1/128",
	} {
		if _, err := cluster.Kubectl(t.Context(), pool("good", good), "apply", "--server-side", "--dry-run=server", "-f", "-"); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for bad, want := range map[string]string{
		"ten": "must be a CIDR", "192.0.2.0/33": "must be a valid CIDR", "192.0.2.300": "must be a valid CIDR", "": "at least 2 chars",
		"192.0.2.1-2001:db8::1": "the same family", "192.0.2.1-192.0.2.2-192.0.2.3": "must be a CIDR", "fe80::1%eth0": "must be a CIDR",
		"::ffff:192.0.2.1": "must be a valid CIDR", "192.0.2.0/24,192.0.3.0/24": "must be a CIDR", "１９２.0.2.1": "must be a CIDR",
	} {
		_, err := cluster.Kubectl(t.Context(), pool("bad", bad), "apply", "--server-side", "--dry-run=server", "-f", "-")
		if err == nil {
			t.Errorf("%q was accepted", bad)
			continue
		}
		contains(t, err.Error(), "addresses[0]", want)
	}
	_, err := cluster.Kubectl(t.Context(), pool("empty"), "apply", "--server-side", "--dry-run=server", "-f", "-")
	if err == nil {
		t.Error("a pool without addresses was accepted")
	}
}

// TestLargestPool creates the largest pool that the schema allows.
func TestLargestPool(t *testing.T) {
	var entries []string
	for i := range 1024 {
		// The longest form of an IPv6 range.
		entries = append(entries, fmt.Sprintf("2001:0db8:0000:%04x:0000:0000:0000:0001 - 2001:0db8:0000:%04x:0000:0000:0000:ffff", i, i))
	}
	apply(t, pool("largest", entries...))
	t.Cleanup(func() { deletePool(t, "largest") })
	ready(t, "ipaddresspools", "largest", "Ready")
	out, err := cluster.Kubectl(t.Context(), "", "get", "ipaddresspool", "largest", "-o", "jsonpath={.status.ipv6}")
	if err != nil {
		t.Fatal(err)
	}
	contains(t, out, fmt.Sprint(1024*0xffff))
	if _, err := cluster.Kubectl(t.Context(), pool("too-large", append(entries, "2001:db9::1")...), "apply", "--server-side",
		"--dry-run=server", "-f", "-"); err == nil {
		t.Error("a pool of 1025 entries was accepted")
	}
}

// TestBrokenEntries checks that problems that the schema cannot detect are in the
// status, and do not affect other entries.
func TestBrokenEntries(t *testing.T) {
	apply(t, pool("partly", "198.51.100.9-198.51.100.1", "198.51.100.77/24", "10.13.242.200/32", "203.0.113.0/28", "203.0.113.5"))
	t.Cleanup(func() { deletePool(t, "partly") })
	contains(t, ready(t, "ipaddresspools", "partly", "InvertedRange"),
		"spec.addresses[0]", "ends before it starts", `"198.51.100.1-198.51.100.9"`,
		"spec.addresses[1]", "host bits", `"198.51.100.0/24"`,
		"spec.addresses[2]", `overlaps the older IPAddressPool "lan"`,
		"; and 1 more") // spec.addresses[4] overlaps an earlier entry
	out, err := cluster.Kubectl(t.Context(), "", "get", "ipaddresspool", "partly")
	if err != nil {
		t.Fatal(err)
	}
	contains(t, out, "0/16", "False")

	apply(t, "apiVersion: fairlead.io/v1alpha1\nkind: L2Advertisement\nmetadata: {name: misspelt}\nspec: {ipAddressPools: [lann]}\n")
	t.Cleanup(func() {
		_, _ = cluster.Kubectl(t.Context(), "", "delete", "l2advertisement", "misspelt")
	})
	contains(t, ready(t, "l2advertisements", "misspelt", "UnknownPool"), "spec.ipAddressPools[0]", `"lann"`)
}

func TestExplain(t *testing.T) {
	service(t, "explained")
	addr := announced(t, "explained")
	out, err := cluster.Fairlead(t.Context(), "explain", "svc", "default/explained")
	if err != nil {
		t.Fatal(err)
	}
	contains(t, out, "bare metal", "pool lan: holds "+addr.String(), "answers on eth0", "NotOwner", "Provisioned", "Assigned", "Announced")
	if _, err := cluster.Fairlead(t.Context(), "explain", "svc", "default/absent"); err == nil ||
		!strings.Contains(err.Error(), "there is no Service default/absent") {
		t.Errorf("got %v", err)
	}
	if out, err = cluster.Fairlead(t.Context(), "version"); err != nil || !strings.HasPrefix(out, "fairlead ") {
		t.Errorf("got %q, %v", out, err)
	}
}
