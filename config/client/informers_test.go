package client

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path"
	"strings"
	"sync"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// TestInformersOfOneNode checks that the informers of a node list and watch its own Speaker
// only, and all objects of the other kinds.
func TestInformersOfOneNode(t *testing.T) {
	var mu sync.Mutex
	selectors := map[string]map[string]int{} // requests by resource and field selector
	kinds := map[string]string{
		"ipaddresspools": "IPAddressPool", "l2advertisements": "L2Advertisement", "bgppeers": "BGPPeer", "bgpadvertisements": "BGPAdvertisement",
		"bfdprofiles": "BFDProfile", "communities": "Community", "speakers": "Speaker", "l2nodes": "L2Node",
	}
	watches := make(chan struct{}, 100)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		resource, query := path.Base(r.URL.Path), r.URL.Query()
		if strings.Contains(r.URL.Path, "/customresourcedefinitions/") {
			w.WriteHeader(http.StatusForbidden)
			_ = json.NewEncoder(w).Encode(metav1.Status{
				Status: metav1.StatusFailure, Code: http.StatusForbidden, Reason: metav1.StatusReasonForbidden,
			})
			return
		}
		mu.Lock()
		if selectors[resource] == nil {
			selectors[resource] = map[string]int{}
		}
		selectors[resource][query.Get("fieldSelector")]++
		mu.Unlock()
		switch {
		case query.Get("sendInitialEvents") != "":
			w.WriteHeader(http.StatusUnprocessableEntity)
			_ = json.NewEncoder(w).Encode(metav1.Status{
				Status: metav1.StatusFailure, Code: http.StatusUnprocessableEntity, Reason: metav1.StatusReasonInvalid,
			})
		case query.Get("watch") != "":
			w.(http.Flusher).Flush()
			watches <- struct{}{}
			<-r.Context().Done()
		default:
			_ = json.NewEncoder(w).Encode(map[string]any{
				"apiVersion": v1alpha1.GroupVersion.String(), "kind": kinds[resource] + "List",
				"metadata": map[string]any{"resourceVersion": "7"}, "items": []any{},
			})
		}
	}))
	t.Cleanup(server.Close)
	c, err := New(&rest.Config{Host: server.URL, QPS: -1})
	if err != nil {
		t.Fatal(err)
	}
	informers := c.Informers(slog.New(slog.DiscardHandler), func() {}, "node-1")
	for _, i := range informers.All() {
		var done sync.WaitGroup
		done.Go(func() { i.RunWithContext(t.Context()) })
		t.Cleanup(done.Wait)
		if !cache.WaitForCacheSync(t.Context().Done(), i.HasSynced) {
			t.Fatal("not synced")
		}
		<-watches
	}
	mu.Lock()
	defer mu.Unlock()
	if len(selectors) != len(kinds) {
		t.Errorf("requests for %d kinds", len(selectors))
	}
	for resource, bySelector := range selectors {
		want := ""
		if resource == "speakers" {
			want = "metadata.name=node-1"
		}
		if len(bySelector) != 1 || bySelector[want] < 2 { // a list and a watch
			t.Errorf("%s: requests by field selector: %v, want %q", resource, bySelector, want)
		}
	}
}
