package controller

import (
	"context"
	"errors"
	"fmt"
	"net"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/cache"

	"github.com/fairlead-io/fairlead/config"
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
	c := &Controller{parallel: 1}
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

// TestUnknownOutcome: Services are listed again only after a write that may have
// taken effect.
func TestUnknownOutcome(t *testing.T) {
	r := schema.GroupResource{Resource: "services"}
	for err, want := range map[error]bool{
		apierrors.NewConflict(r, "a", nil): false, apierrors.NewInvalid(schema.GroupKind{}, "a", nil): false,
		fmt.Errorf("apply: %w", apierrors.NewForbidden(r, "a", nil)): false, apierrors.NewTooManyRequestsError(""): false,
		apierrors.NewInternalError(errors.New("etcd")): true, apierrors.NewTimeoutError("", 1): true,
		context.DeadlineExceeded: true, &net.OpError{Op: "read"}: true,
	} {
		if got := unknownOutcome(err); got != want {
			t.Errorf("%v: got %v", err, got)
		}
	}
}
