package objects

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

const eventsPath = "/api/v1/namespaces/fairlead-system/events"

// everyKind returns the objects of a dump, and one of each kind that it lacks.
func everyKind(t *testing.T) *Collection {
	t.Helper()
	c, _, err := FromDumps([]string{"../testdata/docs/dump.yaml"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	named := metav1.ObjectMeta{Name: "only"}
	c.put(&v1alpha1.BGPAdvertisement{ObjectMeta: named})
	c.put(&v1alpha1.BGPPeer{ObjectMeta: named})
	c.put(&v1alpha1.BFDProfile{ObjectMeta: named})
	c.put(&v1alpha1.Community{ObjectMeta: named})
	c.put(&discoveryv1.EndpointSlice{ObjectMeta: named})
	c.put(&corev1.Event{ObjectMeta: named})
	return c
}

// listsByPath returns the lists of the objects as an API server serves them.
func listsByPath(t *testing.T, c *Collection) map[string]map[string]any {
	t.Helper()
	lists := map[string]map[string]any{}
	for _, o := range c.All() {
		kinds, _, err := Scheme.ObjectKinds(o)
		if err != nil {
			t.Fatal(err)
		}
		plural, _ := apimeta.UnsafeGuessKindToResource(kinds[0])
		path := "/apis/" + kinds[0].GroupVersion().String() + "/" + plural.Resource
		switch {
		case kinds[0].Kind == "Event":
			path = eventsPath
		case kinds[0].Group == "":
			path = "/api/v1/" + plural.Resource
		}
		if lists[path] == nil {
			lists[path] = map[string]any{
				"apiVersion": kinds[0].GroupVersion().String(), "kind": kinds[0].Kind + "List", "items": []any{},
			}
		}
		lists[path]["items"] = append(lists[path]["items"].([]any), o)
	}
	return lists
}

// TestFromCluster: every object of an API server is read, and what may not be
// listed, or is not served, is named.
func TestFromCluster(t *testing.T) {
	served := everyKind(t)
	lists := listsByPath(t, served)
	if len(lists) != 14 {
		t.Fatalf("the objects are of %d kinds, want 14", len(lists))
	}
	for _, row := range []struct {
		path  string
		code  int
		notes string // or the error
		lacks int
	}{
		{"", 0, "", 0},
		{"/api/v1/namespaces", http.StatusForbidden, "listing Namespaces is forbidden", 3},
		{"/apis/networking.k8s.io/v1/servicecidrs", http.StatusForbidden, "listing ServiceCIDRs is forbidden", 1},
		{"/apis/networking.k8s.io/v1/servicecidrs", http.StatusNotFound, "", 1},
		{"/apis/networking.k8s.io/v1/servicecidrs", http.StatusInternalServerError, "list ServiceCIDRs: ", -1},
		{eventsPath, http.StatusForbidden, "listing Events is forbidden: whether the controllers serve their metrics is unknown", 1},
		{"/api/v1/events", http.StatusForbidden, "listing Events is forbidden: since when nodes announce addresses is unknown", 0},
		{"/api/v1/nodes", http.StatusForbidden, "list Nodes: ", -1},
		{
			"/apis/fairlead.io/v1alpha1/communities", http.StatusNotFound,
			"CustomResourceDefinition communities.fairlead.io is not installed: Communities are unknown", 1,
		},
		{"/apis/fairlead.io/", http.StatusNotFound, "the CRDs of Fairlead are not installed", -1},
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			if r.URL.Path == row.path || strings.HasSuffix(row.path, "/") && strings.HasPrefix(r.URL.Path, row.path) {
				w.WriteHeader(row.code)
				_, _ = w.Write([]byte("{}"))
				return
			}
			if r.URL.Path == eventsPath {
				switch r.URL.Query().Get("fieldSelector") {
				case "involvedObject.kind=Pod,source=fairlead-controller":
				case "involvedObject.kind=Pod,source=fairlead-speaker":
					_ = json.NewEncoder(w).Encode(corev1.EventList{})
					return
				default:
					t.Errorf("Events are listed with the query %s", r.URL.RawQuery)
				}
			}
			if r.URL.Path == "/api/v1/events" && r.URL.Query().Get("fieldSelector") != "involvedObject.kind=Service,reason=Announcing" {
				t.Errorf("Events of Services are listed with the query %s", r.URL.RawQuery)
			}
			_ = json.NewEncoder(w).Encode(lists[r.URL.Path])
		}))
		have, notes, err := FromCluster(t.Context(), &rest.Config{Host: server.URL})
		server.Close()
		switch {
		case row.lacks < 0:
			if err == nil || !strings.Contains(err.Error(), row.notes) {
				t.Errorf("%s %d: %v", row.path, row.code, err)
			}
			continue
		case err != nil:
			t.Errorf("%s %d: %v", row.path, row.code, err)
			continue
		}
		if got := strings.Join(notes, "; "); !strings.Contains(got, row.notes) || (got == "") != (row.notes == "") {
			t.Errorf("%s %d: got notes %q, want %q", row.path, row.code, got, row.notes)
		}
		if got, want := len(have.All()), len(served.All())-row.lacks; got != want {
			t.Errorf("%s %d: %d objects were read, want %d", row.path, row.code, got, want)
		}
	}
}
