package aws

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/ec2"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// TestOptions checks that invalid options are rejected by name, and missing
// ones when they are needed.
func TestOptions(t *testing.T) {
	for text, o := range map[string]Options{
		"scheme":       {Scheme: "public"},
		"health probe": {HealthProbe: "none"},
	} {
		if _, err := New(o); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%+v: got %v", o, err)
		}
	}
	a := fakeAccount(t)
	for flag, change := range map[string]func(*Options){
		"--cluster-name": func(o *Options) { o.Cluster = "" },
		"--aws-region":   func(o *Options) { o.Nodes = nil },
	} {
		var refusal *v1alpha1.Refusal
		_, err := a.newProvider(t, change).EnsureLoadBalancer(t.Context(), a.cluster, newService("web", 80), a.nodes)
		if !errors.As(err, &refusal) || refusal.Reason != v1alpha1.CloudNotConfigured || !strings.Contains(refusal.Message, flag) {
			t.Errorf("%s: got %v", flag, err)
		}
	}
	_, err := a.newProvider(t).EnsureLoadBalancer(t.Context(), a.cluster, newService("web", 80), nil)
	var refusal *v1alpha1.Refusal
	if !errors.As(err, &refusal) || refusal.Reason != v1alpha1.NoTargets {
		t.Errorf("without nodes: got %v", err)
	}
}

// TestMetadata checks that instance metadata is the last source of the region.
func TestMetadata(t *testing.T) {
	asked := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		switch {
		case r.Method == http.MethodPut:
			w.Header().Set("X-Aws-Ec2-Metadata-Token-Ttl-Seconds", "60")
			fmt.Fprint(w, "token")
		case strings.HasSuffix(r.URL.Path, "/instance-identity/document"):
			fmt.Fprint(w, `{"region": "eu-north-1"}`)
		default:
			http.NotFound(w, r)
		}
	}))
	defer server.Close()
	t.Setenv("AWS_EC2_METADATA_DISABLED", "false")
	t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", server.URL)
	a := fakeAccount(t)
	for _, row := range []struct {
		name, environment, want string
		change                  func(*Options)
		asks                    bool
	}{
		{"flag", "eu-south-1", "eu-west-3", func(o *Options) { o.Region = "eu-west-3" }, false},
		{"environment", "eu-south-1", "eu-south-1", func(*Options) {}, false},
		{"nodes", "", "eu-west-1", func(*Options) {}, false},
		{"metadata", "", "eu-north-1", func(o *Options) { o.Nodes = nil }, true},
	} {
		t.Run(row.name, func(t *testing.T) {
			asked = 0
			t.Setenv("AWS_REGION", row.environment)
			c := a.newProvider(t, row.change, func(o *Options) { o.Load = o.Load[:1] })
			if err := c.connect(t.Context()); err != nil { // it calls only the metadata service
				t.Fatal(err)
			}
			if got := c.apiClients.region; got != row.want || (asked > 0) != row.asks {
				t.Errorf("the region is %s, after %d requests", got, asked)
			}
		})
	}
}

// TestOutage checks that syncs that need the same list share one failed call,
// instead of waiting for each other's retries.
func TestOutage(t *testing.T) {
	a := fakeAccount(t)
	c := a.newProvider(t)
	a.fail(fault{action: "DescribeLoadBalancers", times: forever, kind: unreached})
	const services = 50
	failed := make(chan error, services)
	for i := range services {
		go func() {
			_, err := c.EnsureLoadBalancer(t.Context(), a.cluster, newService(fmt.Sprint("web-", i), 80), a.nodes)
			failed <- err
		}()
	}
	for range services {
		if err := <-failed; err == nil {
			t.Error("made in an outage")
		}
	}
	if n := len(a.calls()); n > services {
		t.Errorf("%d attempts for %d Services", n, services)
	}
}

// TestQuotas checks that exceeded quotas become reasons, and that the Service
// is served when the quota allows it again.
func TestQuotas(t *testing.T) {
	for name, limit := range map[string]func(*fakeQuota){
		"balancers":     func(q *fakeQuota) { q.balancers = 0 },
		"target groups": func(q *fakeQuota) { q.targetGroups = 1 },
		"listeners":     func(q *fakeQuota) { q.listeners = 1 },
		"targets":       func(q *fakeQuota) { q.targets = 2 },
		"groups":        func(q *fakeQuota) { q.groups = 2 },
		"rules":         func(q *fakeQuota) { q.rules = 1 },
	} {
		t.Run(name, func(t *testing.T) {
			a := fakeAccount(t)
			c, s := a.newProvider(t), newService("web", 80, 443)
			usual := a.fake.quota
			limit(&a.fake.quota)
			var refusal *v1alpha1.Refusal
			_, err := c.EnsureLoadBalancer(t.Context(), a.cluster, s, a.nodes)
			if !errors.As(err, &refusal) || refusal.Reason != v1alpha1.QuotaExceeded {
				t.Fatalf("got %v", err)
			}
			a.fake.quota = usual
			a.ensureService(t, c, s)
			deleteService(t, a, c, s)
			if left := a.leakedObjects(t); len(left) > 0 {
				t.Errorf("there remain %v", left)
			}
		})
	}
}

// TestCancelledWait checks that a wait for the rate limit ends with the
// context.
func TestCancelledWait(t *testing.T) {
	a := fakeAccount(t)
	c := a.newProvider(t)
	if err := c.connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := callAPI(ctx, c.ec2.DescribeSubnets, &ec2.DescribeSubnetsInput{}); err == nil {
		t.Error("a cancelled call succeeded")
	}
	if calls := a.calls(); len(calls) > 0 {
		t.Errorf("called %v", calls)
	}
}
