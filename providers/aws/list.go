package aws

import (
	"context"
	"strings"
	"sync"
	"time"

	elbapi "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"
	"golang.org/x/sync/singleflight"
)

// maxListAge limits the age of a list for the sync of one Service, so that with
// many Services one list serves them all.
const maxListAge = 30 * time.Second

// listCache caches all objects of one kind with the prefix in their names. It
// lists them by the page instead of one by one, and applies our own writes.
// All methods may be called concurrently.
type listCache[V any] struct {
	prefix string
	maxAge time.Duration
	list   func(context.Context) ([]V, error)
	name   func(V) string

	flight singleflight.Group

	mu     sync.Mutex
	items  map[string]V // by name
	listed time.Time    // when the list of the items began
	writes map[string]ownWrite[V]
}

// ownWrite is a write of ours, which a list that began before it may lack.
type ownWrite[V any] struct {
	item *V // nil if it was deleted
	at   time.Time
}

// put caches an object that was created or changed.
func (l *listCache[V]) put(item V) { l.recordWrite(l.name(item), &item) }

// remove removes an object that was deleted.
func (l *listCache[V]) remove(name string) { l.recordWrite(name, nil) }

func (l *listCache[V]) recordWrite(name string, item *V) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.writes = put(l.writes, name, ownWrite[V]{item, time.Now()})
	l.applyWrite(name, item)
}

func (l *listCache[V]) applyWrite(name string, item *V) {
	if item == nil {
		delete(l.items, name)
	} else {
		l.items = put(l.items, name, *item)
	}
}

// invalidate makes the next get list again.
func (l *listCache[V]) invalidate() {
	l.flight.Forget("") // a list that is under way began too early
	l.mu.Lock()
	defer l.mu.Unlock()
	l.listed = time.Time{}
}

// match returns the objects with matching names. Callers that need a new list at
// the same time share one, or its failure.
func (l *listCache[V]) match(ctx context.Context, match func(name string) bool) (all []V, err error) {
	l.mu.Lock()
	// The age counts from the beginning of the list: what was created during it may
	// be missing.
	old := time.Since(l.listed) > l.maxAge
	l.mu.Unlock()
	if old {
		if err := callOnce(ctx, &l.flight, "", l.refresh); err != nil {
			return nil, err
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for name, v := range l.items {
		if match(name) {
			all = append(all, v)
		}
	}
	return all, nil
}

// refresh lists all objects, and applies our writes since the list began. A failure
// leaves the cached list as it is.
func (l *listCache[V]) refresh(ctx context.Context) error {
	begun := time.Now()
	found, err := l.list(ctx)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if begun.Before(l.listed) {
		return nil // a later list was faster
	}
	l.items, l.listed = map[string]V{}, begun
	for _, v := range found {
		// Elastic Load Balancing cannot filter its lists by a prefix, so the
		// objects of others in the account are dropped here.
		if name := l.name(v); strings.HasPrefix(name, l.prefix) {
			l.items[name] = v
		}
	}
	for name, w := range l.writes {
		// The list began after the write and contains its effect.
		if w.at.Before(begun) {
			delete(l.writes, name)
		} else {
			l.applyWrite(name, w.item)
		}
	}
	return nil
}

// invalidateLists makes the next sync list load balancers and target groups again.
func (c *Cloud) invalidateLists() {
	c.loadBalancers.invalidate()
	c.targetGroups.invalidate()
}

// retryIfGone runs a sync, and runs it once more if it fails because an object does
// not exist. The object may have been deleted since a cache has read it; otherwise
// an annotation names it, and the second run fails as well. again reports the second
// run.
func (c *Cloud) retryIfGone(run func(again bool) error) error {
	err := run(false)
	if !isGone(err) {
		return err
	}
	c.invalidateLists()
	c.instances.invalidate()
	c.subnets.invalidate()
	c.sharedGroup.invalidate()
	return run(true)
}

func (c *Cloud) listLoadBalancers(ctx context.Context) ([]elb.LoadBalancer, error) {
	pages := elbapi.NewDescribeLoadBalancersPaginator(c.elb, &elbapi.DescribeLoadBalancersInput{})
	return listAll(ctx, pages, func(p *elbapi.DescribeLoadBalancersOutput) []elb.LoadBalancer { return p.LoadBalancers })
}

func (c *Cloud) listTargetGroups(ctx context.Context) ([]elb.TargetGroup, error) {
	pages := elbapi.NewDescribeTargetGroupsPaginator(c.elb, &elbapi.DescribeTargetGroupsInput{})
	return listAll(ctx, pages, func(p *elbapi.DescribeTargetGroupsOutput) []elb.TargetGroup { return p.TargetGroups })
}
