package objects

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"k8s.io/client-go/rest"
)

// TestFromCluster: the objects of an API server are those of a dump of it, and
// what may not be listed, or is not served, is named.
func TestFromCluster(t *testing.T) {
	dump, _, err := FromDumps([]string{"../testdata/docs/dump.yaml"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	lists := map[string]map[string]any{}
	for _, o := range dump.All() {
		kinds, _, err := Scheme.ObjectKinds(o)
		if err != nil {
			t.Fatal(err)
		}
		path := "/apis/" + kinds[0].GroupVersion().String()
		if kinds[0].Group == "" {
			path = "/api/v1"
		}
		path += "/" + strings.ToLower(kinds[0].Kind) + "s"
		if lists[path] == nil {
			lists[path] = map[string]any{"apiVersion": kinds[0].GroupVersion().String(), "kind": kinds[0].Kind + "List", "items": []any{}}
		}
		lists[path]["items"] = append(lists[path]["items"].([]any), o)
	}
	for _, row := range []struct {
		path  string
		code  int
		notes string // or the error
		lacks int
	}{
		{"", 0, "", 0},
		{"/api/v1/namespaces", http.StatusForbidden, "may not list Namespaces", 3},
		{"/apis/networking.k8s.io/v1/servicecidrs", http.StatusForbidden, "may not list ServiceCIDRs", 1},
		{"/apis/networking.k8s.io/v1/servicecidrs", http.StatusNotFound, "", 1},
		{"/apis/networking.k8s.io/v1/servicecidrs", http.StatusInternalServerError, "list ServiceCIDRs: ", -1},
		{"/api/v1/nodes", http.StatusForbidden, "list Nodes: ", -1},
		{"/apis/fairlead.io/v1alpha1/ipaddresspools", http.StatusNotFound, "the CRDs of Fairlead are not installed", -1},
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			list := lists[r.URL.Path]
			switch {
			case r.URL.Path == row.path:
				w.WriteHeader(row.code)
				_, _ = w.Write([]byte("{}"))
				return
			case list == nil:
				list = map[string]any{"items": []any{}}
			}
			_ = json.NewEncoder(w).Encode(list)
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
		if said := strings.Join(notes, "; "); !strings.Contains(said, row.notes) || (said == "") != (row.notes == "") {
			t.Errorf("%s %d: it says %q", row.path, row.code, said)
		}
		if got, want := len(have.All()), len(dump.All())-row.lacks; got != want {
			t.Errorf("%s %d: %d objects were read, want %d", row.path, row.code, got, want)
		}
	}
}
