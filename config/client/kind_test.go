package client

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

// fakeAPI serves IPAddressPools and their definition as an API server does.
type fakeAPI struct {
	mu         sync.Mutex
	listStatus int               // of lists and watches of pools
	crdStatus  int               // of the definition
	served     time.Time         // when it was first read as served
	listed     time.Time         // when the pools were listed
	deleting   bool              // the definition
	streams    bool              // lists over watches, as by default
	pools      []string          // names
	watches    []chan<- []string // of events: type and name
}

func (f *fakeAPI) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

func (f *fakeAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	w.Header().Set("Content-Type", "application/json")
	answer := func(code int, body any) {
		defer f.mu.Unlock()
		w.WriteHeader(code)
		if code != http.StatusOK {
			body = metav1.Status{Status: metav1.StatusFailure, Code: int32(code), Reason: map[int]metav1.StatusReason{
				http.StatusNotFound: metav1.StatusReasonNotFound, http.StatusForbidden: metav1.StatusReasonForbidden,
				http.StatusUnprocessableEntity: metav1.StatusReasonInvalid, http.StatusInternalServerError: metav1.StatusReasonInternalError,
			}[code]}
		}
		_ = json.NewEncoder(w).Encode(body)
	}
	pool := func(name string) map[string]any {
		return map[string]any{
			"apiVersion": "fairlead.io/v1alpha1", "kind": "IPAddressPool",
			"metadata": map[string]any{"name": name, "resourceVersion": "7"},
		}
	}
	switch {
	case r.URL.Path == "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/ipaddresspools.fairlead.io":
		crd := map[string]any{
			"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": map[string]any{"name": "ipaddresspools.fairlead.io"},
			"spec":   map[string]any{"versions": []any{map[string]any{"name": "v1alpha1", "served": true}}},
			"status": map[string]any{"conditions": []any{map[string]any{"type": "Established", "status": "True"}}},
		}
		if f.served.IsZero() && f.crdStatus == http.StatusOK {
			f.served = time.Now()
		}
		if f.deleting {
			crd["metadata"].(map[string]any)["deletionTimestamp"] = "2026-01-01T00:00:00Z"
		}
		answer(f.crdStatus, crd)
	case !strings.HasSuffix(r.URL.Path, "/ipaddresspools"):
		answer(http.StatusInternalServerError, nil)
	case f.listStatus != http.StatusOK:
		answer(f.listStatus, nil)
	case r.URL.Query().Get("sendInitialEvents") != "" && !f.streams:
		answer(http.StatusUnprocessableEntity, nil)
	case r.URL.Query().Get("watch") != "":
		events := make(chan []string)
		f.watches = append(f.watches, events)
		names := slices.Clone(f.pools)
		f.mu.Unlock()
		w.WriteHeader(http.StatusOK)
		send := func(kind string, object any) {
			_ = json.NewEncoder(w).Encode(map[string]any{"type": kind, "object": object})
			w.(http.Flusher).Flush()
		}
		if r.URL.Query().Get("sendInitialEvents") != "" {
			for _, name := range names {
				send("ADDED", pool(name))
			}
			end := pool("")
			end["metadata"].(map[string]any)["annotations"] = map[string]any{metav1.InitialEventsAnnotationKey: "true"}
			send("BOOKMARK", end)
		}
		w.(http.Flusher).Flush()
		for {
			select {
			case <-r.Context().Done():
				return
			case e, ok := <-events:
				if !ok {
					return
				}
				if e[0] == "ERROR" {
					send(e[0], metav1.Status{
						TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"},
						Status:   metav1.StatusFailure, Code: http.StatusGone, Reason: metav1.StatusReasonExpired,
					})
					return
				}
				send(e[0], pool(e[1]))
			}
		}
	default:
		f.listed = time.Now()
		items := []any{}
		for _, name := range f.pools {
			items = append(items, pool(name))
		}
		answer(http.StatusOK, map[string]any{
			"apiVersion": "fairlead.io/v1alpha1", "kind": "IPAddressPoolList",
			"metadata": map[string]any{"resourceVersion": "5"}, "items": items,
		})
	}
}

// watch waits for a watch and returns the channel of its events.
func (f *fakeAPI) watch(t *testing.T) (events chan<- []string) {
	t.Helper()
	eventually(t, "a watch", func() string {
		f.mu.Lock()
		defer f.mu.Unlock()
		if len(f.watches) == 0 {
			return "none"
		}
		events, f.watches = f.watches[0], f.watches[1:]
		return ""
	})
	return events
}

// eventually waits until check returns "".
func eventually(t *testing.T, what string, check func() string) {
	t.Helper()
	got := ""
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if got = check(); got == "" {
			return
		}
	}
	t.Fatalf("waiting for %s: %s", what, got)
}

// poolInformer runs the informer of IPAddressPools until the test ends.
func poolInformer(t *testing.T, api *fakeAPI) (i Informers) {
	t.Helper()
	before := [...]time.Duration{crdInterval, restoreDelay}
	crdInterval, restoreDelay = 20*time.Millisecond, 3*time.Second
	server := httptest.NewServer(api)
	c, err := New(&rest.Config{Host: server.URL, QPS: -1})
	if err != nil {
		t.Fatal(err)
	}
	i.Pools = addInformer(&i, c.Pools, slog.New(slog.DiscardHandler), func() {}, "")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		i.Pools.RunWithContext(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		server.CloseClientConnections()
		server.Close()
		crdInterval, restoreDelay = before[0], before[1]
	})
	return i
}

// hasPools waits until the informer has exactly these pools.
func hasPools(t *testing.T, i Informers, want ...string) {
	t.Helper()
	eventually(t, fmt.Sprintf("the pools %q", want), func() string {
		var got []string
		for _, p := range i.Pools.Objects() {
			got = append(got, p.Name)
		}
		slices.Sort(got)
		if fmt.Sprint(got) != fmt.Sprint(want) || !i.Pools.HasSynced() {
			return fmt.Sprintf("%q, synced %t", got, i.Pools.HasSynced())
		}
		return ""
	})
}

// TestMissingAtStart: a kind that is not installed has no objects until it is.
func TestMissingAtStart(t *testing.T) {
	for _, status := range []int{http.StatusNotFound, http.StatusForbidden} {
		api := &fakeAPI{listStatus: status, crdStatus: http.StatusNotFound, pools: []string{"a"}}
		i := poolInformer(t, api)
		hasPools(t, i)
		want := "CustomResourceDefinition ipaddresspools.fairlead.io: it is not installed"
		if got := i.NotReady(); len(got) != 1 || got[0] != want {
			t.Errorf("not ready: %q", got)
		}
		api.set(func() { api.crdStatus, api.listStatus = http.StatusOK, http.StatusOK })
		hasPools(t, i, "a")
		if got := i.NotReady(); len(got) > 0 || len(i.Missing()) > 0 {
			t.Errorf("not ready: %q, missing %v", got, i.Missing())
		}
		// The kind is watched as any other.
		api.watch(t) <- []string{"ADDED", "b"}
		eventually(t, "the added pool", func() string {
			if i.Pools.Get("b") == nil {
				return "none"
			}
			return ""
		})
	}
}

// TestUnprovenAbsence: without an answer that the kind is missing, its informer has
// not synced.
func TestUnprovenAbsence(t *testing.T) {
	for _, row := range []struct{ list, crd int }{
		{http.StatusNotFound, http.StatusOK},
		{http.StatusForbidden, http.StatusOK},
		{http.StatusNotFound, http.StatusForbidden},
		{http.StatusNotFound, http.StatusInternalServerError},
		{http.StatusInternalServerError, http.StatusNotFound},
	} {
		api := &fakeAPI{listStatus: row.list, crdStatus: row.crd}
		i := poolInformer(t, api)
		eventually(t, "the error", func() string {
			if got := strings.Join(i.NotReady(), "; "); !strings.Contains(got, "list ipaddresspools.fairlead.io: ") ||
				strings.Contains(got, "waiting") {
				return got
			}
			return ""
		})
		if i.Pools.HasSynced() || len(i.Missing()) > 0 {
			t.Errorf("%+v: synced %t, missing %v", row, i.Pools.HasSynced(), i.Missing())
		}
	}
}

// TestKindDeleted: objects that are deleted together with their kind are kept, also
// while the kind is restored. Other deletions take effect.
func TestKindDeleted(t *testing.T) {
	api := &fakeAPI{listStatus: http.StatusOK, crdStatus: http.StatusOK, pools: []string{"a", "b", "c"}}
	i := poolInformer(t, api)
	eventually(t, "the first list", func() string { return strings.Join(i.NotReady(), "; ") })
	events := api.watch(t)
	events <- []string{"DELETED", "a"}
	eventually(t, "the deletion", func() string {
		if i.Pools.Get("a") != nil {
			return "a exists"
		}
		return ""
	})
	api.set(func() { api.deleting = true })
	events <- []string{"DELETED", "b"}
	events <- []string{"DELETED", "c"}
	eventually(t, "the missing kind", func() string {
		if m := i.Missing(); len(m) != 1 || !m[0].Known || !strings.Contains(m[0].Message, "is being deleted") {
			return fmt.Sprint(m)
		}
		return ""
	})
	api.set(func() {
		api.deleting, api.crdStatus, api.listStatus, api.pools = false, http.StatusNotFound, http.StatusNotFound, nil
	})
	close(events)
	eventually(t, "the definition to be missing", func() string {
		if m := i.Missing(); len(m) != 1 || !strings.Contains(m[0].Message, "is not installed") {
			return fmt.Sprint(m)
		}
		return ""
	})
	if i.Pools.Get("b") == nil || i.Pools.Get("c") == nil || len(i.NotReady()) > 0 {
		t.Errorf("pools %v, not ready: %q", i.Pools.Objects(), i.NotReady())
	}
	// The definition is installed first, and then the objects.
	api.set(func() { api.crdStatus, api.listStatus, api.served = http.StatusOK, http.StatusOK, time.Time{} })
	api.set(func() { api.pools = []string{"b"} })
	eventually(t, "the restored pools", func() string {
		if i.Pools.Get("c") != nil {
			return "c exists"
		}
		return ""
	})
	api.set(func() {
		if d := api.listed.Sub(api.served); d < restoreDelay {
			t.Errorf("the pools were listed %s after their kind was served", d)
		}
	})
	if i.Pools.Get("b") == nil || len(i.Missing()) > 0 {
		t.Errorf("pools %v, missing %v", i.Pools.Objects(), i.Missing())
	}
}

// lists runs the test with lists and with lists over watches.
func lists(t *testing.T, test func(t *testing.T, streams bool)) {
	for _, streams := range []bool{false, true} {
		t.Run(fmt.Sprintf("over watches %t", streams), func(t *testing.T) { test(t, streams) })
	}
}

// restore ends the deletion of the definition, and installs it again with the pools.
func (f *fakeAPI) restore(t *testing.T, i Informers, pools ...string) {
	t.Helper()
	f.set(func() {
		f.deleting, f.crdStatus, f.listStatus, f.pools = false, http.StatusNotFound, http.StatusNotFound, pools
	})
	eventually(t, "the definition to be missing", func() string {
		f.set(func() {
			for _, w := range f.watches {
				close(w)
			}
			f.watches = nil
		})
		if m := i.Missing(); len(m) != 1 || !strings.Contains(m[0].Message, "is not installed") {
			return fmt.Sprint(m)
		}
		return ""
	})
	f.set(func() { f.crdStatus, f.listStatus = http.StatusOK, http.StatusOK })
	hasPools(t, i, pools...)
	if got := i.NotReady(); len(got) > 0 || len(i.Missing()) > 0 {
		t.Errorf("not ready: %q, missing %v", got, i.Missing())
	}
}

// TestKindBeingDeletedAtStart: while the definition is being deleted, as when an object
// has a finalizer, an informer that starts has the objects that are left, and is not
// ready: the others are unknown.
func TestKindBeingDeletedAtStart(t *testing.T) {
	lists(t, func(t *testing.T, streams bool) {
		api := &fakeAPI{listStatus: http.StatusOK, crdStatus: http.StatusOK, streams: streams, deleting: true, pools: []string{"left"}}
		i := poolInformer(t, api)
		hasPools(t, i, "left")
		want := "CustomResourceDefinition ipaddresspools.fairlead.io: it is being deleted"
		if got := i.NotReady(); len(got) != 1 || got[0] != want {
			t.Errorf("not ready: %q", got)
		}
		if m := i.Missing(); len(m) != 1 || m[0].Known {
			t.Errorf("missing %v", m)
		}
		api.restore(t, i, "left", "restored")
	})
}

// TestListWhileKindIsBeingDeleted: an informer with objects does not replace them by those
// that are left while the definition is being deleted.
func TestListWhileKindIsBeingDeleted(t *testing.T) {
	lists(t, func(t *testing.T, streams bool) {
		api := &fakeAPI{listStatus: http.StatusOK, crdStatus: http.StatusOK, streams: streams, pools: []string{"deleted", "left"}}
		i := poolInformer(t, api)
		hasPools(t, i, "deleted", "left")
		api.set(func() { api.deleting, api.pools = true, []string{"left"} })
		api.watch(t) <- []string{"ERROR"}
		eventually(t, "the missing kind", func() string {
			if m := i.Missing(); len(m) != 1 || !m[0].Known || !strings.Contains(m[0].Message, "is being deleted") {
				return fmt.Sprint(m)
			}
			return ""
		})
		api.set(func() { api.deleting, api.crdStatus, api.listStatus = false, http.StatusNotFound, http.StatusNotFound })
		eventually(t, "the definition to be missing", func() string {
			if m := i.Missing(); len(m) != 1 || !strings.Contains(m[0].Message, "is not installed") {
				return fmt.Sprint(m)
			}
			return ""
		})
		hasPools(t, i, "deleted", "left")
		if got := i.NotReady(); len(got) > 0 {
			t.Errorf("not ready: %q", got)
		}
		api.restore(t, i, "restored")
	})
}
