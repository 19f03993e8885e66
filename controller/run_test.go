package controller

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/client"
	"github.com/fairlead-io/fairlead/config/fixture"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/controller/plan"
	"github.com/fairlead-io/fairlead/providers"
)

// TestFullSyncAfterFailedIncremental: after a change that needs a full sync, no
// incremental sync is done before it.
func TestFullSyncAfterFailedIncremental(t *testing.T) {
	s := plan.Snapshot{
		Policy:   providers.Policy{Mode: providers.BareMetal},
		Objects:  config.Objects{Pools: []*v1alpha1.IPAddressPool{pool("p", "192.0.2.0/28")}},
		Services: []*corev1.Service{service("c", holding("192.0.2.0"), fixture.Recorded("192.0.2.0=p"))},
	}
	c := &Controller{parallel: 1, backoffs: newServiceBackoffs()}
	c.planner.Decide(s)
	c.services = cache.NewSharedIndexInformer(&cache.ListWatch{}, &corev1.Service{}, 0, nil)
	change := func(svc *corev1.Service) {
		t.Helper()
		svc.ResourceVersion = "1"
		if err := c.services.GetStore().Add(svc); err != nil {
			t.Fatal(err)
		}
		c.pending.add(plan.KeyOf(svc))
	}
	change(service("a", holding("192.0.2.1"))) // which may be adopted
	if done, err := c.syncIncrementally(t.Context()); done || err != nil {
		t.Fatalf("got %v, %v", done, err)
	}
	change(service("b"))
	if done, err := c.syncIncrementally(t.Context()); done || err != nil {
		t.Errorf("got %v, %v: 192.0.2.1 was free for it", done, err)
	}
}

// TestStalePools checks that a leader does not sync before its cache of pools has all
// that the API server has, except for statuses.
func TestStalePools(t *testing.T) {
	labelled := pool("p", "192.0.2.0/28")
	labelled.UID, labelled.Labels = "1", map[string]string{"tier": "edge"}
	other := labelled.DeepCopy()
	other.Labels = nil
	status := labelled.DeepCopy()
	status.ResourceVersion, status.Status.Services = "7", 3
	for _, tt := range []struct {
		name           string
		cached, stored []*v1alpha1.IPAddressPool
		stale          bool
	}{
		{"equal", []*v1alpha1.IPAddressPool{labelled}, []*v1alpha1.IPAddressPool{labelled}, false},
		{"another status", []*v1alpha1.IPAddressPool{labelled}, []*v1alpha1.IPAddressPool{status}, false},
		{"older labels", []*v1alpha1.IPAddressPool{other}, []*v1alpha1.IPAddressPool{labelled}, true},
		{"deleted", []*v1alpha1.IPAddressPool{other}, nil, true},
		{"created", nil, []*v1alpha1.IPAddressPool{labelled}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/apis/fairlead.io/v1alpha1/ipaddresspools" || r.URL.Query().Has("resourceVersion") {
					t.Errorf("got %s, want a quorum list of pools", r.URL)
				}
				list := v1alpha1.IPAddressPoolList{}
				list.APIVersion, list.Kind = v1alpha1.GroupVersion.String(), "IPAddressPoolList"
				for _, p := range tt.stored {
					list.Items = append(list.Items, *p)
				}
				w.Header().Set("Content-Type", "application/json")
				_ = json.NewEncoder(w).Encode(list)
			}))
			defer server.Close()
			fairlead, err := client.New(&rest.Config{Host: server.URL})
			if err != nil {
				t.Fatal(err)
			}
			c := &Controller{fairlead: fairlead, kinds: fairlead.Informers(slog.New(slog.DiscardHandler), func() {}, "")}
			for _, p := range tt.cached {
				if err := c.kinds.Pools.GetStore().Add(p); err != nil {
					t.Fatal(err)
				}
			}
			if err := c.checkPools(t.Context()); (err != nil) != tt.stale {
				t.Errorf("got %v", err)
			}
			if tt.stale {
				if err := c.syncFully(t.Context()); err == nil { // it would panic later
					t.Error("the first sync did not check the pools")
				}
			}
		})
	}
}

// TestUnknownOutcome lists which failed writes may have taken effect.
func TestUnknownOutcome(t *testing.T) {
	r := schema.GroupResource{Resource: "services"}
	notReached := apierrors.NewInternalError(errors.New(`failed calling webhook "x.example.com": failed to call webhook: connection refused`))
	busy := apierrors.NewServiceUnavailable("the server is currently unable to handle the request")
	busy.ErrStatus.Details = &metav1.StatusDetails{RetryAfterSeconds: 1}
	for err, want := range map[error]bool{
		apierrors.NewConflict(r, "a", nil): false, apierrors.NewInvalid(schema.GroupKind{}, "a", nil): false,
		fmt.Errorf("apply: %w", apierrors.NewForbidden(r, "a", nil)): false, apierrors.NewTooManyRequestsError(""): false,
		apierrors.NewInternalError(errors.New("etcd")): true, apierrors.NewTimeoutError("", 1): true,
		apierrors.NewServerTimeout(r, "patch", 1): true, apierrors.NewServiceUnavailable("upstream reset"): true,
		context.DeadlineExceeded: true, &net.OpError{Op: "read"}: true, io.ErrUnexpectedEOF: true,
		// The request was not sent, not accepted, or not stored.
		&url.Error{Op: "Patch", Err: &net.OpError{Op: "dial"}}: false, busy: false, fmt.Errorf("apply: %w", notReached): false,
		// A webhook was reached, but the text is in another message.
		apierrors.NewInternalError(errors.New("etcd: after failed calling webhook")): true,
	} {
		if got := unknownOutcome(err); got != want {
			t.Errorf("%v: got %v", err, got)
		}
	}
}

// TestStartWhileKindsAreBeingDeleted: a leader that starts while a finalizer delays the
// deletion of the CustomResourceDefinitions serves with the objects that are left.
func TestStartWhileKindsAreBeingDeleted(t *testing.T) {
	api := newAPIServer()
	api.deleted = &metav1.Time{Time: time.Now()}
	api.update(service("a"), func(*corev1.Service) {})
	server := httptest.NewServer(api)
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	runController(t, server.URL, nil)
	waitUntil(t, "the Service has an address", func() bool { return shownAddress(api.get("ns/a")) == "192.0.2.1" })
}
