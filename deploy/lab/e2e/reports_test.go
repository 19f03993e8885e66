package e2e

import (
	"fmt"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// TestReportBounds checks with the token of a running speaker, as an attacker on its node
// could use it, which reports the API server rejects, and that the largest one is
// accepted. Nothing is written.
func TestReportBounds(t *testing.T) {
	thief, err := cluster.ClientWithTokenOf("fairlead-speaker-node-1")
	if err != nil {
		t.Fatal(err)
	}
	speakers := thief.Resource(schema.GroupVersionResource{Group: "fairlead.io", Version: "v1alpha1", Resource: "speakers"})
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
		status map[string]any
		want   string // in the error; "" if the report is accepted
	}{
		{"the largest report", map[string]any{
			"interfaces": repeat(64, func(i int) any { return iface(fmt.Sprint("eth", i), "10.0.0.1/8", "2001:db8::1/48") }),
			"announcing": []any{group(5000), group(5000)},
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
		{"a long text", map[string]any{"sessions": []any{
			map[string]any{"peer": "tor", "state": "Idle", "lastError": strings.Repeat("x", 1025)},
		}}, "status.sessions[0].lastError"},
	} {
		t.Run(row.name, func(t *testing.T) {
			eventually(t, row.name, func() error {
				o, err := speakers.Get(t.Context(), "node-1", metav1.GetOptions{})
				if err != nil {
					return err
				}
				if err := unstructured.SetNestedField(o.Object, row.status, "status"); err != nil {
					return err
				}
				_, err = speakers.UpdateStatus(t.Context(), o, metav1.UpdateOptions{DryRun: []string{metav1.DryRunAll}})
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
