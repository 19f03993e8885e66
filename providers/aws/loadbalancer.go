package aws

import (
	"context"
	"errors"
	"maps"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	cloudprovider "k8s.io/cloud-provider"
	"k8s.io/cloud-provider/api"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/providers"
)

const (
	// askAgain is when to look whether AWS has finished a balancer, which takes
	// it one to three minutes.
	askAgain = time.Minute
	// everyNth verification compares attributes, too.
	everyNth = 6
	// grace is how long a replaced balancer stays after the Service has shown
	// the new name: clients know the old one's addresses for a minute (AWS's
	// DNS), and others copy the name more slowly.
	grace = 5 * time.Minute
	// letGo is when to look whether AWS has let go of what it used; longer each time.
	letGo = 10 * time.Second
)

// GetLoadBalancerName is the name of the Service's balancer
// (cloudprovider.LoadBalancer).
func (c *Cloud) GetLoadBalancerName(_ context.Context, _ string, svc *corev1.Service) string {
	return c.names.service(svc.UID)
}

// GetLoadBalancer finds the Service's balancer (cloudprovider.LoadBalancer).
func (c *Cloud) GetLoadBalancer(ctx context.Context, _ string, svc *corev1.Service) (*corev1.LoadBalancerStatus, bool, error) {
	a, err := c.connect(ctx)
	if err != nil {
		return nil, false, err
	}
	found, err := c.listBalancers(ctx, a, c.of(svc.UID))
	if err != nil || len(found) == 0 {
		return nil, false, err
	}
	return statusOf(found[0]), true, nil
}

func statusOf(b elb.LoadBalancer) *corev1.LoadBalancerStatus {
	return &corev1.LoadBalancerStatus{Ingress: []corev1.LoadBalancerIngress{{Hostname: strings.ToLower(aws.ToString(b.DNSName))}}}
}

// EnsureLoadBalancer makes the Service's balancer what it shall be. It does
// not wait for AWS to finish it; Report says how far it is. For an unchanged
// Service it calls nobody until the next comparison is due
// (cloudprovider.LoadBalancer).
//
// A *v1alpha1.Refusal needs somebody to act; other errors are worth another
// try.
func (c *Cloud) EnsureLoadBalancer(ctx context.Context, _ string, svc *corev1.Service, nodes []*corev1.Node) (*corev1.LoadBalancerStatus, error) {
	if providers.Elsewhere(svc) != "" {
		return nil, cloudprovider.ImplementedElsewhere
	}
	defer c.locks.lock(svc.UID)()
	want, refusal := planStack(svc, c.settings)
	if refusal != nil {
		return nil, refusal
	}
	a, err := c.connect(ctx)
	if err != nil {
		return nil, err
	}
	chosen := targets(nodes, want.NodeLabels)
	digest := want.digest(chosen)
	m := c.remembered(svc.UID)
	if m != nil && m.digest == digest && time.Now().Before(m.due) && !m.unfinished {
		if !m.report.Ready {
			if m, err = c.finished(ctx, a, svc.UID, m); err != nil {
				return nil, refused(err)
			}
		}
		if m != nil && len(m.lost) > 0 {
			w := &work{Cloud: c, conn: a, svc: svc, memory: m.clone()}
			if err := w.update(ctx); err != nil {
				c.forget(svc.UID)
				return nil, refused(err)
			}
			c.remember(svc.UID, w.memory)
		}
		if m != nil {
			return m.status.DeepCopy(), nil
		}
		m = c.remembered(svc.UID)
	}
	w := &work{Cloud: c, conn: a, svc: svc, want: want, memory: &memory{digest: digest, chosen: chosen, labels: want.NodeLabels, backend: want.Backend}}
	if m != nil {
		w.memory.looks, w.memory.bad, w.memory.shown = m.looks+1, maps.Clone(m.bad), m.shown
		w.deep = w.memory.looks%everyNth == 0
		w.light, w.before = m.digest == digest && !m.unfinished && !w.deep, m.tags
	}
	if err := w.ensure(ctx); err != nil {
		c.forget(svc.UID)
		return nil, refused(err)
	}
	// A little early, so that whoever calls at that pace finds it due.
	w.memory.due = time.Now().Add(c.options.Resync - c.options.Resync/10)
	c.remember(svc.UID, w.memory)
	return w.memory.status.DeepCopy(), nil
}

// finished looks whether AWS has finished the balancer, and returns what is
// known then; nil if something is wrong with it.
func (c *Cloud) finished(ctx context.Context, a *conn, uid types.UID, m *memory) (*memory, error) {
	found, err := c.listBalancers(ctx, a, c.of(uid))
	if err != nil || len(found) != 1 {
		return nil, err
	}
	switch stateOf(found[0]) {
	case elb.LoadBalancerStateEnumProvisioning:
		return m, nil
	case elb.LoadBalancerStateEnumActive, elb.LoadBalancerStateEnumActiveImpaired:
		w := &work{Cloud: c, conn: a, memory: m.clone()}
		w.report(found[0])
		c.remember(uid, w.memory)
		return w.memory, nil
	}
	return nil, nil
}

func stateOf(b elb.LoadBalancer) elb.LoadBalancerStateEnum {
	if b.State == nil || b.State.Code == "" {
		return elb.LoadBalancerStateEnumActive
	}
	return b.State.Code
}

// answers reports whether AWS has finished the balancer.
func answers(b elb.LoadBalancer) bool {
	state := stateOf(b)
	return state == elb.LoadBalancerStateEnumActive || state == elb.LoadBalancerStateEnumActiveImpaired
}

// Report says what is known of the Service's balancer (providers.Reporter).
func (c *Cloud) Report(svc *corev1.Service) providers.Report {
	if m := c.remembered(svc.UID); m != nil {
		return m.report
	}
	return providers.Report{Reason: v1alpha1.Provisioning, Message: "nothing is known yet"}
}

// UpdateLoadBalancer makes the nodes the targets of the Service's balancer, and
// changes nothing else (cloudprovider.LoadBalancer).
func (c *Cloud) UpdateLoadBalancer(ctx context.Context, cluster string, svc *corev1.Service, nodes []*corev1.Node) error {
	defer c.locks.lock(svc.UID)()
	a, err := c.connect(ctx)
	if err != nil {
		return err
	}
	w := &work{Cloud: c, conn: a, svc: svc}
	if m := c.remembered(svc.UID); m != nil {
		w.memory = m.clone()
	} else if exists, err := w.recall(ctx); err != nil || !exists {
		return refused(err)
	}
	before, chosen := w.memory.chosen, targets(nodes, w.memory.labels)
	w.memory.chosen = chosen
	if err := w.update(ctx); err != nil {
		c.forget(svc.UID)
		return refused(err)
	}
	if want, refusal := planStack(svc, c.settings); refusal == nil && w.memory.digest == want.digest(before) {
		w.memory.digest = want.digest(chosen)
	}
	c.remember(svc.UID, w.memory)
	return nil
}

// EnsureLoadBalancerDeleted removes everything that was made for the Service,
// whether or not its balancer is still there. While AWS has not let go of
// something it returns an *api.RetryError, and is to be called again
// (cloudprovider.LoadBalancer).
func (c *Cloud) EnsureLoadBalancerDeleted(ctx context.Context, _ string, svc *corev1.Service) error {
	defer c.locks.lock(svc.UID)()
	a, err := c.connect(ctx)
	if err != nil {
		return err
	}
	waits := 0
	if m := c.remembered(svc.UID); m != nil {
		waits = m.waits
	}
	err = c.delete(ctx, a, svc)
	switch {
	case errors.Is(err, errInUse):
		// Its interfaces keep a deleted balancer's security groups for minutes.
		c.remember(svc.UID, &memory{waits: waits + 1})
		return api.NewRetryError("AWS has not let go of "+err.Error(), letGo<<min(waits, 3))
	case err != nil:
		c.inventory.forget()
	}
	c.remember(svc.UID, nil)
	return refused(err)
}
