package aws

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	elbapi "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"
	"k8s.io/apimachinery/pkg/types"
)

// fresh is how old the inventory may be for a look at one Service, at most:
// with many Services one list serves them all.
const fresh = 30 * time.Second

// inventory is what has our cluster's names: all balancers and target groups,
// listed by the page rather than asked for one by one, and kept up to date
// with our own writes.
type inventory struct {
	mu          sync.Mutex // held while listing: who wants the same waits for it
	balancers   map[string]elb.LoadBalancer
	groups      map[string]elb.TargetGroup
	balancersAt time.Time
	groupsAt    time.Time
}

// forget makes the next look a new list: what has happened is not known.
func (i *inventory) forget() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.balancersAt, i.groupsAt = time.Time{}, time.Time{}
}

func (i *inventory) change(do func()) {
	i.mu.Lock()
	defer i.mu.Unlock()
	do()
}

func (i *inventory) put(b elb.LoadBalancer) {
	i.change(func() { i.balancers = put(i.balancers, aws.ToString(b.LoadBalancerName), b) })
}

func (i *inventory) putGroup(g elb.TargetGroup) {
	i.change(func() { i.groups = put(i.groups, aws.ToString(g.TargetGroupName), g) })
}

func put[K comparable, V any](m map[K]V, k K, v V) map[K]V {
	if m == nil {
		m = map[K]V{}
	}
	m[k] = v
	return m
}

// listBalancers gives the balancers that match, and lists them before if what
// is known is too old.
func (c *Cloud) listBalancers(ctx context.Context, a *conn, match func(name string) bool) (all []elb.LoadBalancer, err error) {
	i := &c.inventory
	i.mu.Lock()
	defer i.mu.Unlock()
	if time.Since(i.balancersAt) > c.fresh {
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
		i.balancers, i.balancersAt = found, time.Now()
	}
	for name, b := range i.balancers {
		if match(name) {
			all = append(all, b)
		}
	}
	return all, nil
}

// listGroups is listBalancers for target groups.
func (c *Cloud) listGroups(ctx context.Context, a *conn, match func(name string) bool) (all []elb.TargetGroup, err error) {
	i := &c.inventory
	i.mu.Lock()
	defer i.mu.Unlock()
	if time.Since(i.groupsAt) > c.fresh {
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
		i.groups, i.groupsAt = found, time.Now()
	}
	for name, g := range i.groups {
		if match(name) {
			all = append(all, g)
		}
	}
	return all, nil
}

// of matches the names of one Service.
func (c *Cloud) of(uid types.UID) func(string) bool {
	return func(name string) bool { return c.names.of(uid, name) }
}
