package e2e

import (
	"fmt"
	neturl "net/url"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	lab "github.com/fairlead-io/fairlead/deploy/lab"
)

// TestReportBounds checks with the token of a running speaker, as an attacker on its node
// could use it, which reports the API server rejects, and that the largest one is
// accepted. Nothing is written.
func TestReportBounds(t *testing.T) {
	thief, err := cluster.ClientWithTokenOf("fairlead-speaker-node-1")
	if err != nil {
		t.Fatal(err)
	}
	repeat := func(n int, entry func(i int) any) (all []any) {
		for i := range n {
			all = append(all, entry(i))
		}
		return all
	}
	iface := func(name string, addrs ...any) map[string]any {
		return map[string]any{"name": name, "addresses": addrs}
	}
	group := func(n int) map[string]any {
		return map[string]any{
			"interfaces": []any{"eth0"},
			"addresses":  repeat(n, func(i int) any { return fmt.Sprintf("2001:db8::%x:0-2001:db8::%x:1", i, i) }),
		}
	}
	for _, row := range []struct {
		name   string
		status map[string]any // of an L2Node if it has interfaces, and of a Speaker otherwise
		want   string         // in the error; "" if the report is accepted
	}{
		{"the largest report", map[string]any{"announcing": []any{group(5000), group(5000)}}, ""},
		{"the most interfaces", map[string]any{
			"interfaces": repeat(64, func(i int) any { return iface(fmt.Sprint("eth", i), "10.0.0.1/8", "2001:db8::1/48") }),
		}, ""},
		{"all IPv4 addresses", map[string]any{"interfaces": []any{iface("eth0", "0.0.0.0/0")}}, "status.interfaces[0].addresses[0]"},
		{"a short IPv4 prefix", map[string]any{"interfaces": []any{iface("eth0", "10.0.0.1/7")}}, "status.interfaces[0].addresses[0]"},
		{"a short IPv6 prefix", map[string]any{"interfaces": []any{iface("eth0", "2001:db8::1/47")}}, "status.interfaces[0].addresses[0]"},
		{
			"a MAC of a group",
			map[string]any{"interfaces": []any{map[string]any{"name": "eth0", "macAddress": "01:00:5e:00:00:01"}}},
			"status.interfaces[0].macAddress",
		},
		{"a control character", map[string]any{"interfaces": []any{iface("\x1b[2J")}}, "status.interfaces[0].name"},
		{
			"many interfaces",
			map[string]any{"interfaces": repeat(65, func(i int) any { return iface(fmt.Sprint("eth", i)) })},
			"status.interfaces: Too many",
		},
		{"many subnets", map[string]any{"interfaces": repeat(2, func(i int) any {
			return iface(fmt.Sprint("eth", i), repeat(65, func(i int) any { return fmt.Sprintf("10.0.%d.1/24", i) })...)
		})}, "interfaces must have at most 128 addresses in total"},
		{
			"many addresses",
			map[string]any{"announcing": []any{group(5000), group(5001)}},
			"announcing, unannounced and warnings must have at most 10000 addresses and ranges in total",
		},
		{"a long version", map[string]any{"interfaces": []any{}, "version": strings.Repeat("x", 129)}, "status.version"},
		{"a long text", map[string]any{"sessions": []any{
			map[string]any{"peer": "tor", "state": "Idle", "lastError": strings.Repeat("x", 1025)},
		}}, "status.sessions[0].lastError"},
	} {
		t.Run(row.name, func(t *testing.T) {
			plural := "speakers"
			if row.status["interfaces"] != nil {
				plural = "l2nodes"
			}
			objects := thief.Resource(schema.GroupVersionResource{Group: "fairlead.io", Version: "v1alpha1", Resource: plural})
			eventually(t, row.name, func() error {
				o, err := objects.Get(t.Context(), "node-1", metav1.GetOptions{})
				if err != nil {
					return err
				}
				if err := unstructured.SetNestedField(o.Object, row.status, "status"); err != nil {
					return err
				}
				_, err = objects.UpdateStatus(t.Context(), o, metav1.UpdateOptions{DryRun: []string{metav1.DryRunAll}})
				if row.want == "" {
					return err // a conflict is tried again
				}
				if err == nil || !strings.Contains(err.Error(), row.want) {
					return fmt.Errorf("got %.500v", err)
				}
				return nil
			})
		})
	}
}

// TestSpeakersWatchOwnReport checks in the audit log of the API server that each speaker lists
// and watches the Speaker of its own node only, and that a watch with such a field selector
// has no events of other nodes.
func TestSpeakersWatchOwnReport(t *testing.T) {
	watched := map[string]bool{}
	eventually(t, "every speaker watches its Speaker", func() error {
		requests, err := lab.AuditedRequests()
		for _, r := range requests {
			if !strings.HasPrefix(r.UserAgent, "fairlead-speaker/") {
				continue // such as a test with a speaker's token
			}
			nodes := r.User.Extra["authentication.kubernetes.io/node-name"]
			uri, parseErr := neturl.ParseRequestURI(r.RequestURI)
			if parseErr != nil || len(nodes) != 1 {
				t.Fatalf("request %+v: %v", r, parseErr)
			}
			if got, want := uri.Query().Get("fieldSelector"), "metadata.name="+nodes[0]; got != want {
				t.Fatalf("%s %s: field selector %q, want %q", r.Verb, r.RequestURI, got, want)
			}
			watched[nodes[0]] = watched[nodes[0]] || r.Verb == "watch"
		}
		if err == nil && len(watched) < len(cluster.Nodes) {
			err = fmt.Errorf("%v do", watched)
		}
		return err
	})

	node1 := metav1.ListOptions{FieldSelector: "metadata.name=node-1"}
	list, err := cluster.Resource("speakers").List(t.Context(), node1)
	if err != nil {
		t.Fatal(err)
	}
	node1.ResourceVersion = list.GetResourceVersion()
	w, err := cluster.Resource("speakers").Watch(t.Context(), node1)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	for _, node := range []string{"node-2", "node-1"} { // the event of the second one shows that the first has none
		if _, err := cluster.Kubectl(t.Context(), "", "annotate", "speaker", node, "--overwrite", "touched=yes"); err != nil {
			t.Fatal(err)
		}
	}
	for e := range w.ResultChan() {
		o, ok := e.Object.(*unstructured.Unstructured)
		if !ok || o.GetName() != "node-1" {
			t.Fatalf("event %v", e)
		}
		if o.GetAnnotations()["touched"] == "yes" {
			break
		}
	}
}
