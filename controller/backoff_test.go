package controller

import (
	"errors"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/record"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// TestFailingWebhook: writes to a Service for which a webhook fails for a minute are
// retried with backoff. They delay no other Service, nor the retry of its failed write.
// All Services are not listed again.
func TestFailingWebhook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api, failing, tried := newAPIServer(), true, map[string]bool{}
		api.before = func(svc *corev1.Service, _ func()) error {
			once := !tried[svc.Name]
			tried[svc.Name] = true
			if svc.Name == "broken" && failing || once {
				return apierrors.NewInternalError(errors.New(`failed calling webhook "x.example.com": failed to call webhook: connection refused`))
			}
			return nil
		}
		recorder := runController(t, "http://api", api)
		synctest.Wait()
		time.Sleep(3 * time.Second)
		api.requests()
		api.update(service("broken"), func(*corev1.Service) {})
		for _, name := range []string{"b", "c", "d", "e", "f"} {
			api.update(service(name), func(*corev1.Service) {})
			time.Sleep(firstRetry)
			synctest.Wait()
			if shownAddress(api.get("ns/"+name)) == "" {
				t.Errorf("%s has no address", name)
			}
			time.Sleep(11*time.Second - firstRetry)
			api.update(service(name), func(svc *corev1.Service) { svc.Annotations = nil; svc.Spec.Ports = nil })
		}
		time.Sleep(5 * time.Second) // one minute since the first failure
		synctest.Wait()
		failing = false
		requests := api.requests()
		// At 0, 0.02, 0.06, 0.14 … 20.46 and 40.94 s.
		if n := count(requests, "patch ns/broken"); n != 12 {
			t.Errorf("%d writes to the Service that fails", n)
		}
		for _, name := range []string{"b", "c", "d", "e", "f"} {
			if n := count(requests, "patch ns/"+name); n != 3 { // failed, assigned, restored
				t.Errorf("%d writes to %s", n, name)
			}
		}
		if n := count(requests, "list"); n != 0 {
			t.Errorf("%d lists of all Services", n)
		}
		failures := 0
		for len(recorder.Events) > 0 {
			if e := <-recorder.Events; strings.Contains(e, "WriteFailed") {
				failures++
				if !strings.Contains(e, "apply the status of Service ns/broken: ") {
					t.Errorf("got Event %q", e)
				}
			}
		}
		if failures != 1 {
			t.Errorf("%d Events about the failure", failures)
		}
		time.Sleep(lastRetry)
		synctest.Wait()
		if shownAddress(api.get("ns/broken")) == "" {
			t.Error("the Service has no address after the webhook works again")
		}
	})
}

func count(log []string, entry string) (n int) {
	for _, e := range log {
		if e == entry {
			n++
		}
	}
	return n
}

// reverter is another writer, which reverts each write to the Service at once.
type reverter struct {
	*apiServer
	started time.Time
	stopped bool
	writes  []int    // by the controller, in seconds since the start
	shown   []string // the addresses that the controller wrote
}

// revertWrites starts to revert the writes to ns/a, by the change.
func revertWrites(api *apiServer, change func(*corev1.Service)) *reverter {
	r := &reverter{apiServer: api, started: time.Now()}
	api.after = func(written *corev1.Service) {
		if written.Name != "a" {
			return
		}
		r.writes, r.shown = append(r.writes, int(time.Since(r.started)/time.Second)), append(r.shown, shownAddress(written))
		if r.stopped {
			return
		}
		reverted := written.DeepCopy()
		reverted.Status, reverted.ManagedFields = corev1.ServiceStatus{}, ingressManager("other-lb")
		change(reverted)
		api.put(reverted)
	}
	return r
}

func (r *reverter) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stopped = true
}

// TestRevertingWriter: while another writer reverts each write, the time between two
// writes doubles from 1 s to 5 minutes. The Service is assigned the same address each
// time. One Event and the condition name the other field manager, until a write has stood
// for twice the backoff.
func TestRevertingWriter(t *testing.T) {
	for name, change := range map[string]func(*corev1.Service){
		"another load balancer": func(svc *corev1.Service) {
			svc.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "203.0.113.9"}}
		},
		"replace": func(svc *corev1.Service) { svc.Annotations, svc.Finalizers = nil, nil },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				api := newAPIServer()
				events := runController(t, "http://api", api)
				time.Sleep(time.Minute)
				r := revertWrites(api, change)
				api.update(service("a"), func(*corev1.Service) {})
				time.Sleep(time.Hour)
				synctest.Wait()
				want := []int{0, 1, 3, 7, 15, 31, 63, 127, 255, 511}
				for at := 811; at < 3600; at += 300 {
					want = append(want, at)
				}
				if !slices.Equal(r.writes, want) {
					t.Errorf("wrote at %d s", r.writes)
				}
				if slices.ContainsFunc(r.shown, func(a string) bool { return a != "192.0.2.1" }) {
					t.Errorf("assigned %s", r.shown)
				}
				if got := drainEvents(events); len(got) != 2 || !strings.Contains(got[0], "Assigned") ||
					!strings.Contains(got[1], `Warning Reverted field manager "other-lb" repeatedly reverts`) {
					t.Errorf("Events: %q", got)
				}
				// The write at 3811 s stands, and ends the backoff 600 s later.
				r.stop()
				time.Sleep(3811*time.Second + 10*time.Minute - time.Hour - time.Second)
				synctest.Wait()
				condition := apimeta.FindStatusCondition(api.get("ns/a").Status.Conditions, v1alpha1.ConditionProvisioned)
				if condition == nil || condition.Status != metav1.ConditionTrue || condition.Reason != string(v1alpha1.Reverted) ||
					!strings.Contains(condition.Message, `"other-lb"`) || !strings.Contains(condition.Message, "192.0.2.1 from pool p") {
					t.Errorf("before the end of the backoff: %v", condition)
				}
				time.Sleep(2 * time.Second)
				synctest.Wait()
				condition = apimeta.FindStatusCondition(api.get("ns/a").Status.Conditions, v1alpha1.ConditionProvisioned)
				if condition == nil || condition.Reason != string(v1alpha1.Assigned) || !slices.Equal(r.writes[len(want):], []int{3811, 4411}) {
					t.Errorf("after the end of the backoff: %v, wrote at %d s", condition, r.writes)
				}
			})
		})
	}
}

func drainEvents(events *record.FakeRecorder) (all []string) {
	for {
		select {
		case e := <-events.Events:
			all = append(all, e)
		default:
			return all
		}
	}
}

// TestRevertOnce: what is changed once, after the last write has stood, is restored at
// once, and is not reported. Nor is a request of the owner, however soon it follows.
func TestRevertOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPIServer()
		events := runController(t, "http://api", api)
		time.Sleep(time.Minute)
		r := revertWrites(api, nil)
		r.stopped = true
		api.update(service("a"), func(*corev1.Service) {})
		for range 3 {
			time.Sleep(2 * time.Second)
			api.update(service("a"), func(svc *corev1.Service) { svc.Status = corev1.ServiceStatus{} })
		}
		for _, addr := range []string{"192.0.2.5", "192.0.2.6", "192.0.2.7"} {
			synctest.Wait()
			api.update(service("a"), func(svc *corev1.Service) {
				svc.Annotations[v1alpha1.AnnotationLoadBalancerIPs] = addr
				svc.Status = corev1.ServiceStatus{}
			})
		}
		synctest.Wait()
		if want := []int{0, 2, 4, 6, 6, 6, 6}; !slices.Equal(r.writes, want) {
			t.Errorf("wrote at %d s: %s", r.writes, r.shown)
		}
		time.Sleep(time.Minute)
		for _, e := range drainEvents(events) {
			if strings.Contains(e, string(v1alpha1.Reverted)) {
				t.Error(e)
			}
		}
	})
}

// TestRevertedRequests: the backoff delays neither a new request of the owner, nor another
// Service that waits for an address which the other writer has put into the status.
func TestRevertedRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPIServer()
		runController(t, "http://api", api)
		time.Sleep(time.Minute)
		r := revertWrites(api, func(svc *corev1.Service) {
			svc.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "192.0.2.9"}}
		})
		api.update(service("a"), func(*corev1.Service) {})
		time.Sleep(600 * time.Second)
		api.update(service("b", annotated(v1alpha1.AnnotationLoadBalancerIPs, "192.0.2.9")), func(*corev1.Service) {})
		synctest.Wait()
		if addr := shownAddress(api.get("ns/b")); addr != "192.0.2.9" {
			t.Errorf("b shows %q", addr)
		}
		time.Sleep(10 * time.Second)
		api.update(service("a"), func(svc *corev1.Service) { svc.Annotations[v1alpha1.AnnotationLoadBalancerIPs] = "192.0.2.5" })
		time.Sleep(10 * time.Second)
		// An annotation alone, which changes with each revert, is not a new request.
		api.update(service("a"), func(svc *corev1.Service) { svc.Annotations["x"] = "y" })
		time.Sleep(200 * time.Second)
		synctest.Wait()
		if want := []int{511, 600, 610}; !slices.Equal(r.writes[9:], want) || r.shown[len(r.shown)-1] != "192.0.2.5" {
			t.Errorf("wrote at %d s: %s", r.writes, r.shown)
		}
	})
}

// TestLostAnswer: the address of a write of which the answer is lost stays reserved for
// the Service while the write may still take effect. All Services are not listed for it.
func TestLostAnswer(t *testing.T) {
	api := newAPIServer()
	var late []func()
	lost := 0
	api.before = func(svc *corev1.Service, apply func()) error {
		if svc.Name == "a" && lost < 8 {
			lost++
			late = append(late, apply) // in flight
			return errors.New("the connection is lost")
		}
		return nil
	}
	server := httptest.NewServer(api)
	t.Cleanup(server.Close)
	runController(t, server.URL, nil)
	waitUntil(t, "the cache is synced", func() bool { return slices.Contains(api.requests(), "list") })
	api.update(service("a"), func(*corev1.Service) {})
	waitUntil(t, "an answer is lost", func() bool { return count(api.requests(), "patch ns/a") > 0 })
	// It requests the first address of the pool, and precedes Services without a request.
	api.update(service("b", annotated(v1alpha1.AnnotationLoadBalancerIPs, "192.0.2.1")), func(*corev1.Service) {})
	waitUntil(t, "b is refused", func() bool {
		refused := apimeta.FindStatusCondition(api.get("ns/b").Status.Conditions, v1alpha1.ConditionProvisioned)
		return refused != nil && refused.Reason == string(v1alpha1.AddressTaken)
	})
	waitUntil(t, "a has its address", func() bool { return shownAddress(api.get("ns/a")) == "192.0.2.1" })
	for _, apply := range late {
		apply()
	}
	if addr := shownAddress(api.get("ns/b")); addr != "" {
		t.Errorf("b shows %s", addr)
	}
	if n := count(api.requests(), "list"); n != 0 {
		t.Errorf("%d lists of all Services", n)
	}
}
