package aws

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	elbapi "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"
	"golang.org/x/sync/singleflight"
	"k8s.io/apimachinery/pkg/types"
)

// fresh is how old the inventory may be for a look at one Service, at most:
// with many Services one list serves them all.
const fresh = 30 * time.Second

// inventory is what has our cluster's names: all balancers and target groups,
// listed by the page rather than asked for one by one, and kept up to date
// with our own writes.
type inventory struct {
	balancers listing[elb.LoadBalancer]
	groups    listing[elb.TargetGroup]
}

// forget makes the next look a new list: what has happened is not known.
func (i *inventory) forget() {
	i.balancers.forget()
	i.groups.forget()
}

func (i *inventory) put(b elb.LoadBalancer) { i.balancers.write(aws.ToString(b.LoadBalancerName), &b) }

func (i *inventory) putGroup(g elb.TargetGroup) { i.groups.write(aws.ToString(g.TargetGroupName), &g) }

// listing is one kind of object, by name.
type listing[V any] struct {
	flight singleflight.Group

	mu    sync.Mutex
	items map[string]V
	at    time.Time // when the list that items come from was begun
	ours  map[string]write[V]
}

// write is one of our own. A list that was begun before it knows less.
type write[V any] struct {
	item *V // nil is deleted
	at   time.Time
}

func (l *listing[V]) write(name string, item *V) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ours = put(l.ours, name, write[V]{item, time.Now()})
	l.apply(name, item)
}

func (l *listing[V]) apply(name string, item *V) {
	if item == nil {
		delete(l.items, name)
	} else {
		l.items = put(l.items, name, *item)
	}
}

func (l *listing[V]) forget() {
	l.flight.Forget("") // a list that is under way began too early
	l.mu.Lock()
	defer l.mu.Unlock()
	l.at = time.Time{}
}

// get gives what matches. If what is known is older than age, it is listed
// anew; all who want that at the same time share one list, or its failure.
func (l *listing[V]) get(ctx context.Context, age time.Duration, match func(name string) bool, list func(context.Context) (map[string]V, error)) (all []V, err error) {
	l.mu.Lock()
	old := time.Since(l.at) > age
	l.mu.Unlock()
	if old {
		err := once(ctx, &l.flight, "", func(ctx context.Context) error {
			begun := time.Now()
			found, err := list(ctx)
			if err == nil {
				l.store(found, begun)
			}
			return err
		})
		if err != nil {
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

func (l *listing[V]) store(found map[string]V, begun time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if begun.Before(l.at) {
		return // a later list was faster
	}
	l.items, l.at = found, begun
	for name, w := range l.ours {
		if w.at.Before(begun) {
			delete(l.ours, name)
		} else {
			l.apply(name, w.item)
		}
	}
}

// listBalancers gives the cluster's balancers that match.
func (c *Cloud) listBalancers(ctx context.Context, a *conn, match func(name string) bool) ([]elb.LoadBalancer, error) {
	return c.inventory.balancers.get(ctx, c.fresh, match, func(ctx context.Context) (map[string]elb.LoadBalancer, error) {
		found := map[string]elb.LoadBalancer{}
		pages := elbapi.NewDescribeLoadBalancersPaginator(a.elb, &elbapi.DescribeLoadBalancersInput{})
		for pages.HasMorePages() {
			page, err := pages.NextPage(ctx)
			if err != nil {
				return nil, explain(err)
			}
			for _, b := range page.LoadBalancers {
				if name := aws.ToString(b.LoadBalancerName); strings.HasPrefix(name, c.names.all()) {
					found[name] = b
				}
			}
		}
		return found, nil
	})
}

// listGroups gives the cluster's target groups that match.
func (c *Cloud) listGroups(ctx context.Context, a *conn, match func(name string) bool) ([]elb.TargetGroup, error) {
	return c.inventory.groups.get(ctx, c.fresh, match, func(ctx context.Context) (map[string]elb.TargetGroup, error) {
		found := map[string]elb.TargetGroup{}
		pages := elbapi.NewDescribeTargetGroupsPaginator(a.elb, &elbapi.DescribeTargetGroupsInput{})
		for pages.HasMorePages() {
			page, err := pages.NextPage(ctx)
			if err != nil {
				return nil, explain(err)
			}
			for _, g := range page.TargetGroups {
				if name := aws.ToString(g.TargetGroupName); strings.HasPrefix(name, c.names.all()) {
					found[name] = g
				}
			}
		}
		return found, nil
	})
}

// of matches the names of one Service.
func (c *Cloud) of(uid types.UID) func(string) bool {
	return func(name string) bool { return c.names.of(uid, name) }
}
