package controller

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	ktesting "k8s.io/client-go/testing"
	componentbaseconfig "k8s.io/component-base/config"

	"github.com/fairlead-io/fairlead/config/fixture"
)

// election is the configuration of the manifests.
func election() componentbaseconfig.LeaderElectionConfiguration {
	return componentbaseconfig.LeaderElectionConfiguration{
		LeaderElect: true, ResourceLock: "leases", ResourceNamespace: "fairlead-system", ResourceName: "fairlead-controller",
		LeaseDuration: metav1.Duration{Duration: LeaseDuration}, RenewDeadline: metav1.Duration{Duration: RenewDeadline},
		RetryPeriod: metav1.Duration{Duration: RetryPeriod},
	}
}

// leases are the leases of a cluster, whose writes can fail and are counted.
type leases struct {
	*fake.Clientset
	mu     sync.Mutex
	fails  bool
	writes []time.Time // that succeeded
}

func newLeases(holder string) *leases {
	l := &leases{}
	now := metav1.NewMicroTime(time.Now())
	l.Clientset = fake.NewClientset(&coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Namespace: "fairlead-system", Name: "fairlead-controller"},
		Spec: coordinationv1.LeaseSpec{
			HolderIdentity: &holder, LeaseDurationSeconds: new(int32(LeaseDuration / time.Second)), RenewTime: &now, AcquireTime: &now,
		},
	})
	l.PrependReactor("*", "leases", func(a ktesting.Action) (bool, runtime.Object, error) {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.fails {
			return true, nil, errors.New("no connection")
		}
		if a.GetVerb() != "get" {
			l.writes = append(l.writes, time.Now())
		}
		return false, nil, nil
	})
	return l
}

func (l *leases) fail(fails bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fails = fails
}

// renewals returns the number of writes since the last call, and the time of the last one.
func (l *leases) renewals() (n int, last time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, last = len(l.writes), l.writes[len(l.writes)-1]
	l.writes = l.writes[:0]
	return n, last
}

// TestElection checks when a process leads beside the lease of another one that has ended.
func TestElection(t *testing.T) {
	for _, row := range []struct {
		name, holder string
		least, most  time.Duration
	}{
		{"the same Pod", "a", 0, 0},
		{"no holder", "", 0, 0},
		{"another Pod", "b", LeaseDuration, LeaseDuration + 2*RetryPeriod + RetryPeriod/5}, // leaderelection.JitterFactor
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l, ctx := newLeases(row.holder), t.Context()
				ctx, cancel := context.WithCancel(ctx)
				began, leads := time.Now(), time.Duration(0)
				err := RunElected(ctx, l, election(), "a", func(context.Context) {
					leads = time.Since(began)
					cancel()
				})
				if err != nil || leads < row.least || leads > row.most {
					t.Errorf("leads after %v, with the error %v", leads, err)
				}
				lease, err := l.CoordinationV1().Leases("fairlead-system").Get(context.WithoutCancel(ctx), "fairlead-controller", metav1.GetOptions{})
				if err != nil || *lease.Spec.HolderIdentity != "" {
					t.Errorf("the lease is not released: %v, %v", lease, err)
				}
			})
		})
	}
}

// TestLostLease checks that the lease is renewed every two seconds, that work ends before
// another process can lead, and that it begins again in the same process.
func TestLostLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLeases("")
		ctx, cancel := context.WithCancel(t.Context())
		terms := make(chan context.Context)
		var ended sync.WaitGroup
		ended.Go(func() {
			if err := RunElected(ctx, l, election(), "a", func(term context.Context) {
				terms <- term
				<-term.Done()
			}); err != nil {
				t.Error(err)
			}
		})
		term := <-terms
		l.renewals()
		time.Sleep(time.Minute + time.Second)
		if n, _ := l.renewals(); n != 30 {
			t.Errorf("%d renewals in a minute", n)
		}
		time.Sleep(4 * time.Second)
		l.fail(true)
		_, renewed := l.renewals()
		<-term.Done()
		if held := time.Since(renewed); held > RenewDeadline || held+writeTimeout >= LeaseDuration {
			t.Errorf("a write can begin %v after the last renewal", held)
		}
		time.Sleep(time.Minute)
		l.fail(false)
		began := time.Now()
		<-terms
		if took := time.Since(began); took > 3*RetryPeriod {
			t.Errorf("leads again after %v", took)
		}
		cancel()
		ended.Wait()
	})
}

// TestValidateElection checks that flags which would let two leaders write are refused.
func TestValidateElection(t *testing.T) {
	if err := ValidateElection(election()); err != nil {
		t.Error(err)
	}
	long := election()
	long.RenewDeadline.Duration = LeaseDuration - time.Second
	if err := ValidateElection(long); err == nil || !strings.HasPrefix(err.Error(), "--leader-elect-lease-duration: 6s must be at least 1.8s longer") {
		t.Errorf("got %v", err)
	}
	long.LeaderElect = false
	if err := ValidateElection(long); err != nil {
		t.Error(err)
	}
}

// TestSecondTerm checks that a controller that leads again does not rely on what it knew
// when another one led.
func TestSecondTerm(t *testing.T) {
	api := newAPIServer()
	api.update(service("a"), func(*corev1.Service) {})
	server := httptest.NewServer(http.HandlerFunc(api.ServeHTTP))
	c, factory, _ := connectController(t, server.URL, nil)
	watching, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { c.Watch(watching) })
	factory.Start(watching.Done())
	t.Cleanup(func() {
		stop()
		server.CloseClientConnections()
		running.Wait()
		factory.Shutdown()
		server.Close()
	})
	lead := func() (end func()) {
		ctx, cancel := context.WithCancel(t.Context())
		var term sync.WaitGroup
		term.Go(func() { c.Run(ctx) })
		return func() { cancel(); term.Wait() }
	}
	has := func(key, addr string) func() bool { return func() bool { return shownAddress(api.get(key)) == addr } }
	end := lead()
	waitUntil(t, "a has an address", has("ns/a", "192.0.2.1"))
	end()
	api.requests()
	// Another leader assigns the next address.
	api.update(service("b", holding("192.0.2.2"), fixture.Recorded("192.0.2.2=p")), func(svc *corev1.Service) {})
	api.update(service("c"), func(*corev1.Service) {})
	end = lead()
	waitUntil(t, "c has an address", has("ns/c", "192.0.2.3"))
	end()
	if r := api.requests(); !slices.Contains(r, "list") {
		t.Errorf("the Services were not listed: %v", r)
	}
}
