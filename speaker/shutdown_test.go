package speaker

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// TestWithdrawalReason checks that a speaker withdraws its routes only if it is certain
// that it is not being restarted.
func TestWithdrawalReason(t *testing.T) {
	answer := func(code int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(code)
			fmt.Fprint(w, body)
		}
	}
	status := func(code int, reason string) http.HandlerFunc {
		return answer(code, fmt.Sprintf(`{"kind":"Status","apiVersion":"v1","status":"Failure","reason":%q,"code":%d}`, reason, code))
	}
	found := answer(200, `{"kind":"DaemonSet","apiVersion":"apps/v1","metadata":{"name":"fairlead-speaker"}}`)
	deleting := answer(200, `{"kind":"DaemonSet","apiVersion":"apps/v1",
		"metadata":{"name":"fairlead-speaker","deletionTimestamp":"2026-01-01T00:00:00Z"}}`)
	cordoned := node("n", func(n *corev1.Node) { n.Spec.Unschedulable = true })
	for _, tt := range []struct {
		name    string
		node    *corev1.Node
		answers http.HandlerFunc
		want    string
		fresh   http.HandlerFunc // of the Node
	}{
		{"an upgrade", node("n"), found, "", nil},
		{"a cordoned node", cordoned, found, "the Node is cordoned", nil},
		{
			"an excluded node", node("n", labelled(corev1.LabelNodeExcludeBalancers, "")), found,
			"the Node has the label " + corev1.LabelNodeExcludeBalancers, nil,
		},
		{
			"cordoned a moment ago", node("n"), found, "the Node is cordoned",
			answer(200, `{"kind":"Node","apiVersion":"v1","metadata":{"name":"n"},"spec":{"unschedulable":true}}`),
		},
		{"deleted a moment ago", node("n"), found, "the Node was deleted", status(404, "NotFound")},
		{"no node", nil, found, "the Node was deleted", nil},
		{"no DaemonSet", node("n"), status(404, "NotFound"), "Fairlead is being removed", nil},
		{"a DaemonSet that is being deleted", node("n"), deleting, "Fairlead is being removed", nil},
		{"the ServiceAccount was removed", node("n"), status(401, "Unauthorized"), "Fairlead is being removed", nil},
		{"the Role was removed", node("n"), status(403, "Forbidden"), "Fairlead is being removed", nil},
		{"an API server that fails", node("n"), status(500, "InternalError"), "", nil},
		{"an API server that does not answer", node("n"), func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, "", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if !strings.Contains(r.URL.Path, "/nodes/") {
					tt.answers(w, r)
					return
				}
				if tt.fresh != nil {
					tt.fresh(w, r)
					return
				}
				status(503, "ServiceUnavailable")(w, r) // so that the cached Node counts
			}))
			defer api.Close()
			client, err := kubernetes.NewForConfig(&rest.Config{Host: api.URL})
			if err != nil {
				t.Fatal(err)
			}
			e := shutdownPolicy{client: client, namespace: "fairlead-system"}
			if got := e.withdrawalReason(t.Context(), tt.node); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// TestDrainComplete checks that an excluded node withdraws after the drain delay, and
// at once if it was excluded before it advertised anything.
func TestDrainComplete(t *testing.T) {
	excluded := node("n", labelled(corev1.LabelNodeExcludeBalancers, ""))
	e := shutdownPolicy{drainDelay: time.Hour, routesSet: true}
	if e.drainComplete(node("n"), func() {}) || e.drainComplete(excluded, func() {}) {
		t.Error("drained before the drain delay is over")
	}
	e.excludedSince = e.excludedSince.Add(-2 * time.Hour)
	if !e.drainComplete(excluded, func() {}) {
		t.Error("not drained after the drain delay")
	}
	if e.drainComplete(node("n"), func() {}) || e.drainComplete(excluded, func() {}) {
		t.Error("the second time drained before the drain delay is over")
	}
	e = shutdownPolicy{drainDelay: time.Hour}
	if !e.drainComplete(excluded, func() {}) {
		t.Error("not drained although excluded from the start")
	}
}
