package controller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	cloudprovider "k8s.io/cloud-provider"
	cloudapi "k8s.io/cloud-provider/api"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/controller/plan"
	"github.com/fairlead-io/fairlead/providers"
)

// fakeCloud is a cloud with latency that records calls and returns the given errors.
type fakeCloud struct {
	cloudprovider.LoadBalancer
	latency time.Duration

	mu            sync.Mutex
	start         time.Time
	log           []string           // "0s ensure a 2"
	fail          map[string][]error // by "ensure a", what the next calls return
	report        providers.Report   // of every balancer
	busy          map[types.UID]bool // a call about the Service is running
	swept         []map[types.UID]bool
	maxConcurrent int // calls at the same time
	violation     string
}

func newFakeCloud() *fakeCloud {
	return &fakeCloud{
		latency: time.Second,
		start:   time.Now(),
		fail:    map[string][]error{},
		busy:    map[types.UID]bool{},
		report:  providers.Report{Ready: true},
	}
}

func (f *fakeCloud) call(ctx context.Context, what string, svc *corev1.Service, nodes []*corev1.Node) error {
	f.mu.Lock()
	if f.busy[svc.UID] {
		f.violation = fmt.Sprintf("two calls about %s at once", svc.Name)
	}
	f.busy[svc.UID] = true
	f.maxConcurrent = max(f.maxConcurrent, len(f.busy))
	key := what + " " + svc.Name
	f.log = append(f.log, fmt.Sprintf("%s %s %d", time.Since(f.start).Round(time.Second), key, len(nodes)))
	var err error
	if errs := f.fail[key]; len(errs) > 0 {
		err, f.fail[key] = errs[0], errs[1:]
	}
	f.mu.Unlock()
	select {
	case <-time.After(f.latency):
	case <-ctx.Done():
		err = ctx.Err()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.busy, svc.UID)
	return err
}

func (f *fakeCloud) EnsureLoadBalancer(
	ctx context.Context, _ string, svc *corev1.Service, nodes []*corev1.Node,
) (*corev1.LoadBalancerStatus, error) {
	if err := f.call(ctx, "ensure", svc, nodes); err != nil {
		return nil, err
	}
	return &corev1.LoadBalancerStatus{Ingress: named(host)}, nil
}

func (f *fakeCloud) UpdateLoadBalancer(ctx context.Context, _ string, svc *corev1.Service, nodes []*corev1.Node) error {
	return f.call(ctx, "update", svc, nodes)
}

func (f *fakeCloud) EnsureLoadBalancerDeleted(ctx context.Context, _ string, svc *corev1.Service) error {
	return f.call(ctx, "delete", svc, nil)
}

func (f *fakeCloud) Report(*corev1.Service) providers.Report {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.report
}

func (f *fakeCloud) SweepOrphans(_ context.Context, live map[types.UID]bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.swept = append(f.swept, live)
	return nil
}

// calls returns the calls since the last time it was called.
func (f *fakeCloud) calls() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	defer func() { f.log = nil }()
	return f.log
}

// balancerTest runs balancers with a fake cloud and the desired state of the test.
type balancerTest struct {
	*testing.T
	*fakeCloud
	balancers      *balancers
	desired        map[types.UID]plan.CloudRequest
	nodes          []*corev1.Node
	outcomeChanges int
}

// runBalancerTest runs the test with a virtual clock.
func runBalancerTest(t *testing.T, test func(*balancerTest)) {
	synctest.Test(t, func(t *testing.T) {
		r := &balancerTest{T: t, fakeCloud: newFakeCloud(), desired: map[types.UID]plan.CloudRequest{}, nodes: []*corev1.Node{awsNode("n1")}}
		r.balancers = newBalancers(
			Options{Cloud: r.fakeCloud, Cluster: "c", Parallel: 3, Resync: time.Hour, Log: slog.New(slog.DiscardHandler)},
			func() { r.outcomeChanges++ },
		)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { r.balancers.run(ctx); close(done) }()
		test(r)
		cancel()
		<-done
		if r.violation != "" {
			t.Error(r.violation)
		}
	})
}

// setDesired passes the desired state on, as a sync does.
func (r *balancerTest) setDesired() {
	live := map[types.UID]bool{}
	for uid := range r.desired {
		live[uid] = true
	}
	desired := map[types.UID]plan.CloudRequest{}
	for uid, w := range r.desired {
		desired[uid] = w
	}
	r.balancers.setDesired(desired, live, slices.Clone(r.nodes))
}

func (r *balancerTest) setAction(do plan.CloudAction, svc *corev1.Service) {
	r.desired[svc.UID] = plan.CloudRequest{Service: svc, Action: do}
	r.setDesired()
}

// expectCalls advances the clock, and compares the calls made.
func (r *balancerTest) expectCalls(d time.Duration, want ...string) {
	r.Helper()
	time.Sleep(d)
	synctest.Wait()
	got := r.calls()
	slices.Sort(got) // concurrent calls have no order
	slices.Sort(want)
	if !slices.Equal(got, want) {
		r.Fatalf("calls\n%q, want\n%q", got, want)
	}
}

func TestEnsureOnce(t *testing.T) {
	runBalancerTest(t, func(r *balancerTest) {
		r.setAction(plan.EnsureBalancer, service("a"))
		r.expectCalls(5*time.Second, "0s ensure a 1")
		if o := r.balancers.outcomes()["a"]; !o.Ready() || r.outcomeChanges != 1 {
			t.Errorf("outcome %+v, woken %d times", o, r.outcomeChanges)
		}
		for range 20 {
			r.setAction(plan.EnsureBalancer, service("a", showing(host)))
		}
		r.expectCalls(time.Minute)
		r.setAction(plan.EnsureBalancer, service("a", annotated("x", "y")))
		r.expectCalls(time.Second, "1m5s ensure a 1")
	})
}

func TestResync(t *testing.T) {
	runBalancerTest(t, func(r *balancerTest) {
		r.report.RequeueAfter = 7 * time.Second
		r.setAction(plan.EnsureBalancer, service("a"))
		r.expectCalls(2*time.Second, "0s ensure a 1")
		r.mu.Lock()
		r.report = providers.Report{Ready: true}
		r.mu.Unlock()
		r.expectCalls(10*time.Second, "8s ensure a 1")
		r.expectCalls(59 * time.Minute)
		time.Sleep(13 * time.Minute) // jitter
		synctest.Wait()
		if got := r.calls(); len(got) != 1 {
			t.Errorf("calls %q, want one resync", got)
		}
	})
}

// TestNodeUpdatesOfRefusedService: the nodes of a refused Service are updated, also
// after a failed update.
func TestNodeUpdatesOfRefusedService(t *testing.T) {
	runBalancerTest(t, func(r *balancerTest) {
		r.setAction(plan.EnsureBalancer, service("a"))
		r.expectCalls(time.Second, "0s ensure a 1")
		for range 20 {
			r.fail["ensure a"] = append(r.fail["ensure a"], &v1alpha1.Refusal{Reason: v1alpha1.InvalidRequest, Message: "no"})
		}
		r.setAction(plan.EnsureBalancer, service("a", annotated("x", "y")))
		time.Sleep(20 * time.Minute)
		synctest.Wait()
		r.calls()
		r.fail["update a"] = []error{errors.New("boom")}
		r.nodes = append(r.nodes, awsNode("n2"))
		r.setDesired()
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		updates := 0
		for _, call := range r.calls() {
			if strings.Contains(call, "update a 2") {
				updates++
			}
		}
		if updates != 2 {
			t.Errorf("%d updates, want one that fails and one that does not", updates)
		}
		if o := r.balancers.outcomes()["a"]; o.Reason != v1alpha1.InvalidRequest {
			t.Errorf("outcome %+v", o)
		}
	})
}

func TestBackoff(t *testing.T) {
	runBalancerTest(t, func(r *balancerTest) {
		boom := errors.New("boom")
		r.fail["ensure a"] = []error{
			boom, boom,
			&v1alpha1.Refusal{Reason: v1alpha1.QuotaExceeded, Message: "full"},
			boom,
			cloudapi.NewRetryError("wait", 3*time.Second),
		}
		r.setAction(plan.EnsureBalancer, service("a"))
		r.expectCalls(time.Second, "0s ensure a 1")
		if o := r.balancers.outcomes()["a"]; o.Reason != v1alpha1.CloudFailed || o.Message != "boom" {
			t.Errorf("outcome %+v", o)
		}
		// Changed nodes are updated at once and do not shorten the backoff.
		r.nodes = append(r.nodes, awsNode("n2"))
		r.setDesired()
		r.expectCalls(6*time.Second, "3s update a 2", "6s ensure a 2")
		r.expectCalls(10*time.Second, "17s ensure a 2")
		r.expectCalls(time.Second)
		if o := r.balancers.outcomes()["a"]; o.Reason != v1alpha1.QuotaExceeded || o.Message != "full" {
			t.Errorf("outcome %+v", o)
		}
		// A change of the Service resets the backoff.
		r.setAction(plan.EnsureBalancer, service("a", annotated("x", "y")))
		r.expectCalls(time.Second, "18s ensure a 2")
		r.expectCalls(6*time.Second, "24s ensure a 2")
		if o := r.balancers.outcomes()["a"]; o.Reason != v1alpha1.Provisioning || o.Message != "wait" {
			t.Errorf("outcome %+v", o)
		}
		r.expectCalls(4*time.Second, "28s ensure a 2")
		r.expectCalls(2 * time.Second)
		if o := r.balancers.outcomes()["a"]; !o.Ready() {
			t.Errorf("outcome %+v", o)
		}
	})
}

func TestFailuresKeepIngress(t *testing.T) {
	runBalancerTest(t, func(r *balancerTest) {
		r.setAction(plan.EnsureBalancer, service("a"))
		r.expectCalls(2*time.Second, "0s ensure a 1")
		r.mu.Lock()
		r.fail["ensure a"] = []error{cloudprovider.ImplementedElsewhere}
		r.mu.Unlock()
		r.setAction(plan.EnsureBalancer, service("a", annotated("x", "y")))
		r.expectCalls(2*time.Second, "2s ensure a 1")
		if o := r.balancers.outcomes()["a"]; o.Reason != v1alpha1.CloudCannotServe || len(o.Ingress) != 1 {
			t.Errorf("outcome %+v", o)
		}
	})
}

func TestCallTimeout(t *testing.T) {
	runBalancerTest(t, func(r *balancerTest) {
		r.latency = time.Hour
		r.setAction(plan.EnsureBalancer, service("a"))
		r.expectCalls(callTimeout+time.Second, "0s ensure a 1")
		if o := r.balancers.outcomes()["a"]; o.Reason != v1alpha1.CloudFailed {
			t.Errorf("outcome %+v", o)
		}
	})
}

func TestNodesAreCoalesced(t *testing.T) {
	runBalancerTest(t, func(r *balancerTest) {
		r.setAction(plan.EnsureBalancer, service("a"))
		r.setAction(plan.EnsureBalancer, service("b"))
		r.expectCalls(10*time.Second, "0s ensure a 1", "0s ensure b 1")
		for i := range 10 {
			r.nodes = append(r.nodes, awsNode(fmt.Sprint("m", i)))
			r.setDesired()
			time.Sleep(100 * time.Millisecond)
		}
		r.expectCalls(10*time.Second, "12s update a 11", "12s update b 11")
		r.nodes[0] = readyNode("n1") // another provider ID, and so another target
		r.setDesired()
		r.nodes = slices.Clone(r.nodes)
		r.nodes[1] = r.nodes[1].DeepCopy()
		r.nodes[1].Status.Conditions = nil // readiness is left to the health checks
		r.setDesired()
		r.expectCalls(10*time.Second, "23s update a 11", "23s update b 11")
		r.nodes = nil
		r.setDesired()
		r.expectCalls(10*time.Second, "33s update a 0", "33s update b 0")
		r.expectCalls(25 * time.Minute)
	})
}

func TestNodeChangesDoNotPostponeResync(t *testing.T) {
	runBalancerTest(t, func(r *balancerTest) {
		r.setAction(plan.EnsureBalancer, service("a"))
		ensured := 0
		for i := range 90 {
			r.nodes = []*corev1.Node{awsNode(fmt.Sprint("n", i))}
			r.setDesired()
			time.Sleep(time.Minute)
			for _, c := range r.calls() {
				if c[len(c)-10:] == "ensure a 1" {
					ensured++
				}
			}
		}
		if ensured != 2 {
			t.Errorf("ensured %d times in 90 minutes, with a resync every hour", ensured)
		}
	})
}

// TestUpdateIsReported: the report after an update of nodes becomes the outcome, and
// the call that it requests is made.
func TestUpdateIsReported(t *testing.T) {
	runBalancerTest(t, func(r *balancerTest) {
		r.setAction(plan.EnsureBalancer, service("a"))
		r.expectCalls(5*time.Second, "0s ensure a 1")
		r.mu.Lock()
		r.report = providers.Report{Ready: true, Message: "one is no target", RequeueAfter: time.Minute}
		r.mu.Unlock()
		r.nodes = append(r.nodes, awsNode("n2"))
		r.setDesired()
		r.expectCalls(5*time.Second, "7s update a 2")
		if o := r.balancers.outcomes()["a"]; o.Report.Message != "one is no target" || r.outcomeChanges != 2 {
			t.Errorf("outcome %+v, woken %d times", o, r.outcomeChanges)
		}
		r.expectCalls(time.Minute, "1m8s ensure a 2")
	})
}

// TestCloudWithoutReports: without reports, a load balancer with an ingress is ready.
func TestCloudWithoutReports(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cloud := struct{ cloudprovider.LoadBalancer }{newFakeCloud()}
		b := newBalancers(Options{Cloud: cloud, Parallel: 1, Resync: time.Hour}, func() {})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		b.setDesired(map[types.UID]plan.CloudRequest{"a": {Service: service("a"), Action: plan.EnsureBalancer}}, nil, nil)
		b.run(ctx)
		if o := b.outcomes()["a"]; !o.Ready() {
			t.Errorf("outcome %+v", o)
		}
	})
}

func TestUpdateThatFails(t *testing.T) {
	runBalancerTest(t, func(r *balancerTest) {
		r.setAction(plan.EnsureBalancer, service("a"))
		r.expectCalls(5*time.Second, "0s ensure a 1")
		r.mu.Lock()
		r.fail["update a"] = []error{errors.New("boom")}
		r.mu.Unlock()
		r.nodes = nil
		r.setDesired()
		r.expectCalls(5*time.Second, "7s update a 0", "8s ensure a 0")
		if o := r.balancers.outcomes()["a"]; !o.Ready() {
			t.Errorf("outcome %+v", o)
		}
	})
}

func TestDeletion(t *testing.T) {
	runBalancerTest(t, func(r *balancerTest) {
		r.fail["delete a"] = []error{cloudapi.NewRetryError("interfaces", 20*time.Second), errors.New("boom")}
		r.setAction(plan.EnsureBalancer, service("a"))
		time.Sleep(500 * time.Millisecond)
		r.setAction(plan.DeleteBalancer, service("a", deleting)) // while it is still being made
		r.expectCalls(3*time.Second, "0s ensure a 1", "1s delete a 0")
		if o := r.balancers.outcomes()["a"]; o.Deleted() || o.Reason != v1alpha1.Deleting || o.Message != "interfaces" {
			t.Errorf("outcome %+v", o)
		}
		r.expectCalls(20*time.Second, "22s delete a 0")
		// It is not known whether the targets followed the nodes.
		r.expectCalls(10*time.Second, "28s update a 1", "29s delete a 0")
		if o := r.balancers.outcomes()["a"]; !o.Deleted() {
			t.Errorf("outcome %+v", o)
		}
		r.nodes = nil
		r.setDesired()
		r.expectCalls(3 * time.Hour) // a deleted load balancer is not deleted again
		delete(r.desired, "a")
		r.setDesired()
		if len(r.balancers.outcomes()) != 0 {
			t.Error("the outcome is kept although the Service is gone")
		}
	})
}

// TestNodesOfRefusedDeletion: while a deletion is refused, the targets follow the
// nodes, and the deletion is retried when an annotation changes.
func TestNodesOfRefusedDeletion(t *testing.T) {
	runBalancerTest(t, func(r *balancerTest) {
		r.setAction(plan.EnsureBalancer, service("a"))
		r.expectCalls(2*time.Second, "0s ensure a 1")
		protected := &v1alpha1.Refusal{Reason: v1alpha1.PermissionDenied, Message: "protected"}
		r.fail["delete a"] = []error{protected, protected}
		r.setAction(plan.DeleteBalancer, service("a", deleting, annotated("x", "y")))
		r.expectCalls(2*time.Second, "2s delete a 0")
		r.nodes = append(r.nodes, awsNode("n2"))
		r.setDesired()
		r.expectCalls(3*time.Second, "6s update a 2")
		if o := r.balancers.outcomes()["a"]; o.Reason != v1alpha1.PermissionDenied || o.Message != "protected" {
			t.Errorf("outcome %+v", o)
		}
		r.expectCalls(3*time.Second, "8s delete a 0")
		r.setAction(plan.DeleteBalancer, service("a", deleting))
		r.expectCalls(2*time.Second, "10s delete a 0")
		r.nodes = nil
		r.setDesired()
		r.expectCalls(time.Hour)
	})
}

// TestFailedNodeUpdateInBackoff: an update of nodes that fails during the backoff of
// the Service is retried with a backoff of its own, without a call for the rest.
func TestFailedNodeUpdateInBackoff(t *testing.T) {
	runBalancerTest(t, func(r *balancerTest) {
		r.setAction(plan.EnsureBalancer, service("a"))
		r.expectCalls(2*time.Second, "0s ensure a 1")
		for range 5 {
			r.fail["ensure a"] = append(r.fail["ensure a"], errors.New("boom"))
		}
		r.setAction(plan.EnsureBalancer, service("a", annotated("x", "y")))
		// At 2, 8, 19, 40 and 81 s; the next one is after another 80 s.
		time.Sleep(81 * time.Second)
		synctest.Wait()
		r.calls()
		r.fail["update a"] = []error{errors.New("boom"), errors.New("boom")}
		r.nodes = append(r.nodes, awsNode("n2"))
		r.setDesired()
		r.expectCalls(60*time.Second, "1m25s update a 2", "1m31s update a 2", "1m42s update a 2")
	})
}

// TestFrequentEdits: the first edits of a failing Service reset its backoff. Later
// ones cause one call per period.
func TestFrequentEdits(t *testing.T) {
	runBalancerTest(t, func(r *balancerTest) {
		for range 1000 {
			r.fail["ensure a"] = append(r.fail["ensure a"], &v1alpha1.Refusal{Reason: v1alpha1.InvalidRequest, Message: "no"})
		}
		r.setAction(plan.EnsureBalancer, service("b"))
		edits := 0
		for range 600 {
			edits++
			r.setAction(plan.EnsureBalancer, service("a", annotated("x", fmt.Sprint(edits))))
			time.Sleep(time.Second)
		}
		synctest.Wait()
		if n := len(r.calls()); n > 40 {
			t.Errorf("%d calls for an edit every second in 10 minutes", n)
		}
		r.mu.Lock()
		delete(r.fail, "ensure a")
		r.mu.Unlock()
		r.setAction(plan.EnsureBalancer, service("a", annotated("x", "the last")))
		time.Sleep(editPeriod + 2*time.Second)
		synctest.Wait()
		if o := r.balancers.outcomes()["a"]; !o.Ready() {
			t.Errorf("the last edit was not used: outcome %+v", o)
		}
		time.Sleep(editBurst * editPeriod)
		synctest.Wait()
		r.calls()
		for range editBurst {
			edits++
			r.setAction(plan.EnsureBalancer, service("a", annotated("x", fmt.Sprint(edits))))
			time.Sleep(2 * time.Second)
			synctest.Wait()
			if n := len(r.calls()); n != 1 {
				t.Errorf("%d calls in the two seconds after an edit", n)
			}
		}
	})
}

// TestFailingCallsLeaveWorkers: retries that take long leave half of the workers to
// other Services.
func TestFailingCallsLeaveWorkers(t *testing.T) {
	runBalancerTest(t, func(r *balancerTest) {
		var bad []*corev1.Service
		for i := range 6 {
			bad = append(bad, service(fmt.Sprint("bad", i)))
		}
		r.failSlowly(bad...)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if n := len(r.calls()); n != 1 {
			t.Errorf("%d retries at once, with three workers", n)
		}
		r.setAction(plan.EnsureBalancer, service("good"))
		r.expectCalls(time.Second, "14s ensure good 1")
	})
}

// failSlowly makes calls that ensure the Services fail from now on, and all calls take long
// after the first ones.
func (r *balancerTest) failSlowly(services ...*corev1.Service) {
	for _, s := range services {
		r.mu.Lock()
		for range 1000 {
			r.fail["ensure "+s.Name] = append(r.fail["ensure "+s.Name], errors.New("boom"))
		}
		r.mu.Unlock()
		r.desired[s.UID] = plan.CloudRequest{Service: s, Action: plan.EnsureBalancer}
	}
	r.setDesired()
	time.Sleep(4 * time.Second)
	synctest.Wait()
	r.calls()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.latency = 50 * time.Second // of two in the time of a call
}

// TestEditsOfFailingServices: failing Services that are edited all the time leave workers to
// others.
func TestEditsOfFailingServices(t *testing.T) {
	runBalancerTest(t, func(r *balancerTest) {
		r.setAction(plan.EnsureBalancer, service("good"))
		bad := func(edit int) (all []*corev1.Service) {
			for i := range 10 {
				all = append(all, service(fmt.Sprint("bad", i), annotated("x", fmt.Sprint(edit))))
			}
			return all
		}
		r.failSlowly(bad(-1)...)
		for edit := range 60 {
			for _, s := range bad(edit) {
				r.desired[s.UID] = plan.CloudRequest{Service: s, Action: plan.EnsureBalancer}
			}
			if edit%5 == 0 {
				r.nodes = append(r.nodes, awsNode(fmt.Sprint("node", edit)))
			}
			r.calls()
			r.setDesired()
			time.Sleep(editPeriod)
			update := fmt.Sprintf("update good %d", len(r.nodes))
			if calls := r.calls(); edit%5 == 0 && !slices.ContainsFunc(calls, func(call string) bool { return strings.HasSuffix(call, update) }) {
				t.Errorf("the nodes of a Service were not updated within %v: %v", editPeriod, calls)
			}
		}
	})
}

// TestRetriesTakeTurns: a failed Service is called again although another one, which fails
// all the time, is edited all the time.
func TestRetriesTakeTurns(t *testing.T) {
	runBalancerTest(t, func(r *balancerTest) {
		r.fail["ensure good"] = []error{errors.New("boom")}
		r.setAction(plan.EnsureBalancer, service("good"))
		r.failSlowly(service("bad"))
		for edit := range 40 {
			r.setAction(plan.EnsureBalancer, service("bad", annotated("x", fmt.Sprint(edit))))
			time.Sleep(editPeriod)
		}
		synctest.Wait()
		all := r.calls()
		if o := r.balancers.outcomes()["good"]; !o.Ready() {
			t.Errorf("the outcome is %+v after %q", o, all)
		}
		if n := r.balancers.retries; n > 1 {
			t.Errorf("%d retries are counted", n)
		}
	})
}

// TestWaitingRetryIsReplaced: a Service that waits for its retry and whose desired action
// changes does not keep the worker of a retry.
func TestWaitingRetryIsReplaced(t *testing.T) {
	runBalancerTest(t, func(r *balancerTest) {
		r.failSlowly(service("bad"), service("worse"))
		time.Sleep(20 * time.Second) // one has the only worker for retries, the other one waits
		for _, name := range []string{"bad", "worse"} {
			r.setAction(plan.DeleteBalancer, service(name))
		}
		time.Sleep(3 * time.Minute)
		synctest.Wait()
		r.balancers.mu.Lock()
		defer r.balancers.mu.Unlock()
		if r.balancers.retries != 0 || len(r.balancers.waiting) > 0 {
			t.Errorf("%d retries, %d waiting", r.balancers.retries, len(r.balancers.waiting))
		}
	})
}

// TestDesiredActionChanges: an outcome is dropped if the desired action has changed
// during the call.
func TestDesiredActionChanges(t *testing.T) {
	runBalancerTest(t, func(r *balancerTest) {
		r.setAction(plan.DeleteBalancer, service("a"))
		time.Sleep(500 * time.Millisecond)
		r.setAction(plan.EnsureBalancer, service("a"))
		time.Sleep(time.Second)
		synctest.Wait()
		if o := r.balancers.outcomes()["a"]; o.Action != plan.NoAction {
			t.Errorf("outcome %+v", o)
		}
		r.expectCalls(5*time.Second, "0s delete a 0", "1s ensure a 1")
		r.setAction(plan.DeleteBalancer, service("a"))
		if r.balancers.outcomes()["a"].Deleted() {
			t.Error("gone before it was deleted again")
		}
		r.expectCalls(5*time.Second, "7s delete a 0")
	})
}

func TestParallelCalls(t *testing.T) {
	runBalancerTest(t, func(r *balancerTest) {
		for i := range 30 {
			s := service(fmt.Sprint("s", i))
			r.desired[s.UID] = plan.CloudRequest{Service: s, Action: plan.EnsureBalancer}
		}
		r.setDesired()
		time.Sleep(time.Minute)
		if n := len(r.calls()); n != 30 || r.maxConcurrent != 3 {
			t.Errorf("%d calls, %d at once", n, r.maxConcurrent)
		}
	})
}

func TestSweep(t *testing.T) {
	runBalancerTest(t, func(r *balancerTest) {
		time.Sleep(24 * time.Hour) // the cloud is not in use, and so is not called
		if len(r.swept) != 0 {
			t.Errorf("swept %d times", len(r.swept))
		}
		r.setAction(plan.EnsureBalancer, service("a"))
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		if n := len(r.swept); n < 4 || n > 7 || !r.swept[0]["a"] {
			t.Errorf("swept %d times: %v", n, r.swept)
		}
	})
}

// TestRunCancelsCalls: calls in flight are cancelled, and have returned before run
// returns.
func TestRunCancelsCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cloud := newFakeCloud()
		b := newBalancers(Options{Cloud: cloud, Parallel: 1, Resync: time.Hour}, func() {})
		ctx, cancel := context.WithCancel(t.Context())
		b.setDesired(map[types.UID]plan.CloudRequest{"a": {Service: service("a"), Action: plan.EnsureBalancer}}, nil, nil)
		time.AfterFunc(100*time.Millisecond, cancel)
		b.run(ctx)
		if len(cloud.busy) != 0 || len(cloud.calls()) != 1 || b.outcomes()["a"].Action != plan.NoAction {
			t.Errorf("busy %v, outcomes %v", cloud.busy, b.outcomes())
		}
	})
}
