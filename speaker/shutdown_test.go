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

// TestWhy: a speaker withdraws its routes only if it knows that it will not be
// back.
func TestWhy(t *testing.T) {
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
	there := answer(200, `{"kind":"DaemonSet","apiVersion":"apps/v1","metadata":{"name":"fairlead-speaker"}}`)
	cordoned := node("n", func(n *corev1.Node) { n.Spec.Unschedulable = true })
	for _, tt := range []struct {
		name    string
		node    *corev1.Node
		answers http.HandlerFunc
		want    string
		fresh   http.HandlerFunc // of the Node
	}{
		{"an upgrade", node("n"), there, "", nil},
		{"a cordoned node", cordoned, there, "the Node is cordoned", nil},
		{"an excluded node", node("n", labelled(corev1.LabelNodeExcludeBalancers, "")), there, "the Node has the label " + corev1.LabelNodeExcludeBalancers, nil},
		{"cordoned a moment ago", node("n"), there, "the Node is cordoned", answer(200, `{"kind":"Node","apiVersion":"v1","metadata":{"name":"n"},"spec":{"unschedulable":true}}`)},
		{"deleted a moment ago", node("n"), there, "the Node is gone", status(404, "NotFound")},
		{"no node", nil, there, "the Node is gone", nil},
		{"no DaemonSet", node("n"), status(404, "NotFound"), "Fairlead is being removed", nil},
		{"a DaemonSet that is being deleted", node("n"), answer(200, `{"kind":"DaemonSet","apiVersion":"apps/v1","metadata":{"name":"fairlead-speaker","deletionTimestamp":"2026-01-01T00:00:00Z"}}`), "Fairlead is being removed", nil},
		{"no account any more", node("n"), status(401, "Unauthorized"), "Fairlead is being removed", nil},
		{"no role any more", node("n"), status(403, "Forbidden"), "Fairlead is being removed", nil},
		{"an API server in trouble", node("n"), status(500, "InternalError"), "", nil},
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
				status(503, "ServiceUnavailable")(w, r) // then the cached one counts
			}))
			defer api.Close()
			client, err := kubernetes.NewForConfig(&rest.Config{Host: api.URL})
			if err != nil {
				t.Fatal(err)
			}
			e := exit{client: client, namespace: "fairlead-system"}
			if got := e.why(t.Context(), tt.node); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// TestDrained: an excluded node withdraws after a while, and at once if it was
// excluded before it announced anything.
func TestDrained(t *testing.T) {
	excluded := node("n", labelled(corev1.LabelNodeExcludeBalancers, ""))
	e := exit{drain: time.Hour, routing: true}
	if e.drained(node("n"), func() {}) || e.drained(excluded, func() {}) {
		t.Error("it withdraws without a word")
	}
	e.since = e.since.Add(-2 * time.Hour)
	if !e.drained(excluded, func() {}) {
		t.Error("it never withdraws")
	}
	if e.drained(node("n"), func() {}) || e.drained(excluded, func() {}) {
		t.Error("the second time it withdraws without a word")
	}
	e = exit{drain: time.Hour}
	if !e.drained(excluded, func() {}) {
		t.Error("it begins to announce although it is excluded")
	}
}
