package aws

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/cloud-provider/api"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// lifecycleStep is an operation of a controller on a Service, with the state
// before it.
type lifecycleStep struct {
	name   string
	before *corev1.Service // nil for nothing
	do     func(t *testing.T, c *Cloud) error
	last   *corev1.Service // what to delete in the end
}

// lifecycleSteps are the steps in the life of a Service, with all changes that
// are made in place.
func (a *account) lifecycleSteps(t *testing.T) []lifecycleStep {
	t.Helper()
	before, after := newService("web", 80, 443, 25), newService("web", 80, 443, 8080)
	first, second, third := a.certificate(t, "a.example.com"), a.certificate(t, "b.example.com"), a.certificate(t, "c.example.com")
	before.Annotations = map[string]string{
		prefix + "ssl-cert":                 first + "," + second,
		prefix + "ssl-ports":                "443",
		prefix + "attributes":               "load_balancing.cross_zone.enabled=true",
		prefix + "target-group-attributes":  "deregistration_delay.timeout_seconds=30",
		prefix + "additional-resource-tags": "team=a",
	}
	after.Annotations = map[string]string{
		prefix + "ssl-cert":                          first + "," + third,
		prefix + "ssl-ports":                         "443",
		prefix + "attributes":                        "deletion_protection.enabled=false",
		prefix + "target-group-attributes":           "proxy_protocol_v2.enabled=true",
		prefix + "additional-resource-tags":          "stage=b",
		prefix + "healthcheck-interval":              "20",
		prefix + "listener-attributes.TCP-80":        "tcp.idle_timeout.seconds=400",
		corev1.AnnotationLoadBalancerSourceRangesKey: "192.0.2.0/24",
	}
	after.Spec.Ports[0].NodePort = 31999
	given, replaced, protected := before.DeepCopy(), before.DeepCopy(), before.DeepCopy()
	protected.Annotations[prefix+"attributes"] = attrProtected + "=true"
	given.Annotations[prefix+"security-groups"] = a.nodeGroup
	given.Annotations[prefix+"subnets"] = strings.Join(a.subnets[:2], ",")
	replaced.Annotations[prefix+"scheme"] = "internal"
	replaced.Annotations[v1alpha1.AnnotationAllowReplacement] = "true"
	many, others, fewer := newService("web", 80), newService("web", 80), newService("web", 80)
	many.Spec.LoadBalancerSourceRanges = sourceRanges(60, 9)
	others.Spec.LoadBalancerSourceRanges = append(sourceRanges(40, 8), sourceRanges(20, 9)...)
	fewer.Spec.LoadBalancerSourceRanges = sourceRanges(5, 9)
	ensure := func(s *corev1.Service) func(t *testing.T, c *Cloud) error {
		return func(t *testing.T, c *Cloud) error {
			_, err := c.EnsureLoadBalancer(t.Context(), a.cluster, s, a.nodes)
			return err
		}
	}
	return []lifecycleStep{
		{name: "create", do: ensure(before), last: before},
		{name: "change", before: before, do: ensure(after), last: after},
		{name: "create with many ranges", do: ensure(many), last: many},
		{name: "other ranges", before: many, do: ensure(others), last: others},
		{name: "narrower ranges", before: newService("web", 80), do: ensure(fewer), last: fewer},
		{name: "rules of the nodes", before: fewer, last: fewer, do: func(t *testing.T, c *Cloud) error {
			if c.sharedGroup.lastID() != "" { // otherwise it is a new process, which checks them
				a.revokeNodeRules(t)
				c.elapse(c.options.Resync)
			}
			return ensure(fewer)(t, c)
		}},
		{name: "groups", before: before, last: given, do: func(t *testing.T, c *Cloud) error {
			err := ensure(given)(t, c)
			if err == nil && len(c.lastSyncOf(given.UID).left) > 0 {
				return api.NewRetryError("the old groups are still there", 0)
			}
			return err
		}},
		{name: "replace", before: before, last: replaced, do: func(t *testing.T, c *Cloud) error {
			c.gracePeriod = 0
			replaced.Status.LoadBalancer = corev1.LoadBalancerStatus{}
			status, err := c.EnsureLoadBalancer(t.Context(), a.cluster, replaced, a.nodes)
			if err == nil {
				replaced.Status.LoadBalancer = *status // as the controller writes it
				c.invalidateSync(replaced.UID)
				_, err = c.EnsureLoadBalancer(t.Context(), a.cluster, replaced, a.nodes)
			}
			if err == nil && len(a.balancers(t)) > 1 {
				return api.NewRetryError("both are there", 0)
			}
			return err
		}},
		{name: "nodes", before: before, last: before, do: func(t *testing.T, c *Cloud) error {
			return c.UpdateLoadBalancer(t.Context(), a.cluster, before, a.nodes[1:])
		}},
		{name: "delete without protection", before: protected, last: before, do: func(t *testing.T, c *Cloud) error {
			return c.EnsureLoadBalancerDeleted(t.Context(), a.cluster, before)
		}},
		{name: "delete", before: before, last: before, do: func(t *testing.T, c *Cloud) error {
			return c.EnsureLoadBalancerDeleted(t.Context(), a.cluster, before)
		}},
	}
}

// retryUntilDone retries as a controller does. The first failure ends the
// faults.
func (a *account) retryUntilDone(t *testing.T, c *Cloud, do func(t *testing.T, c *Cloud) error) {
	t.Helper()
	var err error
	for range 30 {
		if err = do(t, c); err == nil {
			return
		}
		if later := (*api.RetryError)(nil); !errors.As(err, &later) {
			a.reset()
		}
	}
	t.Fatalf("still: %v", err)
}

// runStep runs a step under a fault, and returns the calls and the world after
// it. Then it deletes everything. With killed, another process continues after
// the first failure.
func (a *account) runStep(t *testing.T, s lifecycleStep, f *fault, killed bool) (calls []string, world string) {
	t.Helper()
	c := a.newProvider(t)
	if s.before != nil {
		a.retryUntilDone(t, c, func(t *testing.T, c *Cloud) error {
			_, err := c.EnsureLoadBalancer(t.Context(), a.cluster, s.before, a.nodes)
			return err
		})
	}
	a.reset()
	if f != nil {
		a.fail(*f)
	}
	if killed {
		if err := s.do(t, c); err == nil && f.after < len(a.calls())-1 {
			t.Error("the process did not notice that it was dead")
		}
		a.reset()
		c = a.newProvider(t)
	}
	a.retryUntilDone(t, c, s.do)
	calls, world = a.calls(), mergeOwnGroups(a.world(t))
	a.reset()
	a.retryUntilDone(t, a.newProvider(t), func(t *testing.T, c *Cloud) error {
		return c.EnsureLoadBalancerDeleted(t.Context(), a.cluster, s.last)
	})
	if left := a.leakedObjects(t); len(left) > 0 {
		t.Errorf("after deletion there remain %v", left)
	}
	return calls, world
}

// faultsOf returns the faults of an action, once and for as long as the SDK
// retries. Where calls are slow, it omits faults that a provider cannot
// distinguish.
func (a *account) faultsOf(action string) (all []fault) {
	all = []fault{
		{kind: clientError("AccessDenied")},
		{kind: throttle, times: maxAttempts},
		{kind: lostAnswer},
	}
	if a.fake != nil {
		all = append(
			all, fault{kind: lostAnswer, times: maxAttempts}, fault{kind: serverError(500), times: maxAttempts},
			fault{kind: unreached, times: maxAttempts},
		)
	}
	for i := range all {
		all[i].action = action
	}
	return all
}

// TestFaults fails every call of every step in every way, with moto the first one of each
// action, and kills the process after every call: in the end the world is the same as without faults,
// and empty after deletion.
func TestFaults(t *testing.T) {
	eachKind(t, func(t *testing.T, account func(t *testing.T) *account) {
		for i, s := range account(t).lifecycleSteps(t) {
			t.Run(s.name, func(t *testing.T) {
				t.Parallel()
				a := account(t)
				if a.fake != nil {
					a.fake.inUse = 0 // otherwise the remaining objects depend on the faults
				}
				s := a.lifecycleSteps(t)[i]
				calls, world := a.runStep(t, s, nil, false)
				check := func(name string, f fault, killed bool) {
					good := t.Run(name, func(t *testing.T) {
						if _, have := a.runStep(t, s, &f, killed); have != world {
							t.Errorf("the world differs:\n%s", textDifference(world, have))
						}
					})
					if !good { // remaining objects would be affected by the next fault
						t.FailNow()
					}
				}
				made := map[string]int{}
				for _, action := range calls {
					n := made[action]
					made[action]++
					if n > 0 && a.fake == nil {
						continue // it takes too long
					}
					for _, f := range a.faultsOf(action) {
						f.after = n
						check(fmt.Sprintf("%s %d/%s×%d", action, n+1, f.kind.name, max(f.times, 1)), f, false)
					}
				}
				for n := range calls {
					check(fmt.Sprintf("killed after %d", n), fault{after: n, times: forever, kind: unreached}, true)
				}
			})
		}
	})
}

// textDifference returns the lines that are in one of two texts only.
func textDifference(want, have string) string {
	var out []string
	a, b := strings.Split(want, "\n"), strings.Split(have, "\n")
	for _, line := range a {
		if !slices.Contains(b, line) {
			out = append(out, "- "+line)
		}
	}
	for _, line := range b {
		if !slices.Contains(a, line) {
			out = append(out, "+ "+line)
		}
	}
	return strings.Join(out, "\n")
}
