package controller

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"

	"github.com/fairlead-io/fairlead/controller/plan"
)

// The keys of the queue: whatever happens, the next pass over everything sees
// it. A quick pass looks first at the few Services that have changed.
const everything, some = "everything", "some"

const (
	// afterwards is when everything is looked at after a quick pass, or after
	// news that matter to nobody's address, most of which are the controller's own.
	afterwards = time.Second

	// fewest is the number of changed Services from which on a quick pass is none.
	fewest = 1000

	// share of the time is what passes over everything may take, one in so many:
	// while much happens, the API server can use the rest.
	share = 5
)

// news are the Services that have changed since the last pass.
type news struct {
	mu       sync.Mutex
	services map[types.NamespacedName]bool
	other    bool // something else has changed that decides who gets what
}

func (n *news) changed(key types.NamespacedName) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.services == nil {
		n.services = map[types.NamespacedName]bool{}
	}
	n.services[key] = true
}

func (n *news) changedElse() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.other = true
}

// forget begins anew, before everything is looked at.
func (n *news) forget() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.services, n.other = nil, false
}

// take are the changed Services, and forgets them. It is not ok if there are
// too many, or if they are not all.
func (n *news) take() (keys []types.NamespacedName, ok bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.other || len(n.services) >= fewest {
		return nil, false
	}
	for key := range n.services {
		keys = append(keys, key)
	}
	n.services = nil
	return keys, true
}

// pace keeps passes over everything from taking all the time there is.
type pace struct {
	mu   sync.Mutex
	next time.Time
}

// passed says how long a pass has decided.
func (p *pace) passed(began time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.next = time.Now().Add((share - 1) * time.Since(began))
}

func (p *pace) wait() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Until(p.next)
}

// wake has everything looked at.
func (c *Controller) wake() { c.queue.AddAfter(everything, c.pace.wait()) }

// handler wakes the controller when the informer has news.
func (c *Controller) handler(of cache.SharedIndexInformer) cache.ResourceEventHandler {
	wake := func(any) { c.wake() }
	switch of {
	case c.services:
		changed := func(o any) {
			c.news.changed(plan.KeyOf(o.(*corev1.Service)))
			c.queue.Add(some)
		}
		// What a deleted one held stays taken until everything is looked at.
		return cache.ResourceEventHandlerFuncs{AddFunc: changed, UpdateFunc: func(_, o any) { changed(o) }, DeleteFunc: wake}
	case c.speakers.SharedIndexInformer: // they say what is announced, which gives nobody anything
		return cache.ResourceEventHandlerFuncs{AddFunc: wake, UpdateFunc: func(_, o any) { wake(o) }, DeleteFunc: wake}
	}
	changed := func(any) {
		c.news.changedElse()
		c.wake()
	}
	return cache.ResourceEventHandlerFuncs{AddFunc: changed, DeleteFunc: changed, UpdateFunc: func(was, is any) {
		if plan.AffectsAllocation(was.(metav1.Object), is.(metav1.Object)) {
			changed(is)
			return
		}
		c.queue.AddAfter(everything, afterwards)
	}}
}

// pass makes one pass, and sees to it that a failed one is made again.
func (c *Controller) pass(ctx context.Context, key string) {
	var err error
	if key == some {
		quick := false
		if quick, err = c.quick(ctx); !quick {
			c.wake()
			return
		}
		c.queue.AddAfter(everything, afterwards)
	} else {
		err = c.reconcile(ctx)
	}
	if err != nil {
		if !apierrors.IsConflict(err) {
			c.log.Warn("writes failed, will be tried again", "error", err)
		}
		c.queue.AddRateLimited(everything)
		return
	}
	c.queue.Forget(everything)
	if !c.passed && key == everything {
		c.passed = true
		c.log.Info("first pass done")
	}
}

// quick decides about the changed Services only, if that will do.
func (c *Controller) quick(ctx context.Context) (done bool, err error) {
	if c.settled == nil || c.unsure.Load() {
		return false, nil
	}
	keys, ok := c.news.take()
	if !ok {
		return false, nil
	}
	defer func() {
		if !done {
			c.news.changedElse() // they are not known by what is settled
		}
	}()
	var services []*corev1.Service
	for _, key := range keys {
		cached, exists, err := c.services.GetStore().GetByKey(key.String())
		if err != nil || !exists {
			return false, nil
		}
		svc := c.ownWrites.newest(cached.(*corev1.Service))
		if svc == nil {
			return false, nil
		}
		services = append(services, svc)
	}
	planned, ok := c.settled.Decide(services, time.Now())
	if !ok {
		return false, nil
	}
	c.settled.Record(services, planned)
	w := c.newWrites(ctx)
	c.writeServices(w, slices.DeleteFunc(planned, func(p plan.Planned) bool { return p.Plan.Matches(p.Service) }))
	return true, w.wait()
}

// writeServices writes the changes, as many as one sync may; for the others it
// asks for another sync. If a round fails, the rounds after it, which may depend
// on it, are left for the next sync.
func (c *Controller) writeServices(w *writes, changes []plan.Planned) {
	rounds, all := plan.Rounds(after(changes, c.writtenUpTo))
	c.writtenUpTo = types.NamespacedName{}
	if !all {
		last := rounds[len(rounds)-1]
		c.writtenUpTo = plan.KeyOf(last[len(last)-1].Service)
		c.queue.Add(everything)
	}
	for i, round := range rounds {
		if i > 0 && w.wait() != nil {
			return
		}
		for _, change := range round {
			w.do(func(ctx context.Context) error { return c.writeService(ctx, change.Service, *change.Plan) })
		}
	}
}

// after sorts changes by key and begins with the first one after the key, so that
// a sync goes on where the one before it reached its limit: Services whose writes
// fail do not keep the others from being written.
func after(changes []plan.Planned, key types.NamespacedName) []plan.Planned {
	compare := func(c plan.Planned, key types.NamespacedName) int {
		return cmp.Or(strings.Compare(c.Service.Namespace, key.Namespace), strings.Compare(c.Service.Name, key.Name))
	}
	slices.SortFunc(changes, func(a, b plan.Planned) int { return compare(a, plan.KeyOf(b.Service)) })
	i, found := slices.BinarySearchFunc(changes, key, compare)
	if found {
		i++
	}
	return slices.Concat(changes[i:], changes[:i])
}

// writes are those of one pass. What has begun is finished even if ctx ends.
type writes struct {
	ctx      context.Context
	c        *Controller
	group    errgroup.Group
	mu       sync.Mutex
	failures []error
}

func (c *Controller) newWrites(ctx context.Context) *writes {
	w := &writes{ctx: ctx, c: c}
	w.group.SetLimit(c.parallel)
	return w
}

func (w *writes) do(write func(context.Context) error) {
	if w.ctx.Err() != nil {
		return
	}
	w.group.Go(func() error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(w.ctx), writeTimeout)
		defer cancel()
		if err := write(ctx); err != nil && !apierrors.IsNotFound(err) {
			if leavesOpen(err) {
				w.c.unsure.Store(true)
			}
			w.mu.Lock()
			defer w.mu.Unlock()
			w.failures = append(w.failures, err)
		}
		return nil
	})
}

// leavesOpen reports whether the write may have taken effect all the same.
func leavesOpen(err error) bool {
	var answer apierrors.APIStatus
	return !errors.As(err, &answer) || answer.Status().Code >= http.StatusInternalServerError
}

// wait waits for all of them, and returns what went wrong.
func (w *writes) wait() error {
	if err := w.group.Wait(); err != nil {
		return err
	}
	if len(w.failures) == 0 {
		return nil
	}
	// A conflict is routine; what is not comes first.
	first := max(0, slices.IndexFunc(w.failures, func(err error) bool { return !apierrors.IsConflict(err) }))
	if others := len(w.failures) - 1; others > 0 {
		return fmt.Errorf("%w (and %d more)", w.failures[first], others)
	}
	return w.failures[first]
}
