package aws

import (
	"errors"
	"slices"
	"strings"
	"testing"

	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
	elbtypes "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"
	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// setClusterTag sets the cluster's tag of an object, or removes it.
func (a *account) setClusterTag(t *testing.T, id string, set bool) {
	t.Helper()
	switch {
	case strings.HasPrefix(id, "sg-"):
		a.setTag(t, id, tagCluster, map[bool]string{true: a.cluster}[set])
	case set:
		get(t, a.elb.AddTags, &elb.AddTagsInput{ResourceArns: []string{id}, Tags: []elbtypes.Tag{{Key: new(tagCluster), Value: &a.cluster}}})
	default:
		get(t, a.elb.RemoveTags, &elb.RemoveTagsInput{ResourceArns: []string{id}, TagKeys: []string{tagCluster}})
	}
}

// TestLostTag removes the cluster's tag of an object. It is not changed, by any process,
// and the targets of the target groups that have their tags follow the nodes. The
// deletion of the Service does not write before the tag is restored.
func TestLostTag(t *testing.T) {
	for kind, row := range map[string]struct {
		id      func(t *testing.T, a *account) string
		command string
		ports   []int32 // whose targets follow
	}{
		"load balancer": {
			func(t *testing.T, a *account) string { return *a.balancers(t)[0].LoadBalancerArn },
			"elbv2 add-tags --resource-arns",
			[]int32{80, 81},
		},
		"target group": {func(t *testing.T, a *account) string {
			groups := a.targetGroups(t)
			i := slices.IndexFunc(groups, func(g elbtypes.TargetGroup) bool { return *g.Port == 30081 })
			return *groups[i].TargetGroupArn
		}, "elbv2 add-tags --resource-arns", []int32{80}},
		"security group": {func(t *testing.T, a *account) string {
			groups, name := a.groups(t), a.newProvider(t).names.firstName("web-uid")
			for _, g := range groups {
				if *g.GroupName == name {
					return *g.GroupId
				}
			}
			t.Fatal("no security group")
			return ""
		}, "ec2 create-tags --resources", []int32{80, 81}},
	} {
		t.Run(kind, func(t *testing.T) {
			eachAccount(t, func(t *testing.T, a *account) {
				c, s := a.newProvider(t), newService("web", 80, 81)
				a.ensureService(t, c, s)
				id := row.id(t, a)
				a.setClusterTag(t, id, false)
				want := kind + " " + id + " does not have the tag fairlead.io/cluster=prod, so that it is neither changed nor deleted; " +
					"restore the tag: aws " + row.command + " " + id + " --tags Key=fairlead.io/cluster,Value=prod"
				requireRefusal := func(err error) {
					t.Helper()
					var refusal *v1alpha1.Refusal
					if !errors.As(err, &refusal) || refusal.Reason != v1alpha1.NameTaken || refusal.Message != want {
						t.Errorf("got %v, not %s", err, want)
					}
				}
				requireTargets := func(n int) {
					t.Helper()
					targets := a.trafficTargets(t, c.names.firstName(s.UID))
					for _, port := range row.ports {
						if len(targets[port]) != n {
							t.Errorf("port %d has the targets %v, not %d", port, targets[port], n)
						}
					}
				}
				c = a.newProvider(t)
				_, err := c.EnsureLoadBalancer(t.Context(), a.cluster, s, a.nodes[:2])
				requireRefusal(err)
				requireTargets(2)
				c = a.newProvider(t)
				updateTargets(t, a, c, s, a.nodes[:1])
				requireTargets(1)
				if r := c.Report(s); r.Ready {
					t.Errorf("the report is %+v", r)
				}
				a.reset()
				requireRefusal(c.EnsureLoadBalancerDeleted(t.Context(), a.cluster, s))
				if writes := a.writes(); len(writes) > 0 {
					t.Errorf("the deletion made %v", writes)
				}
				a.setClusterTag(t, id, true)
				deleteService(t, a, c, s)
				if left := a.leakedObjects(t); len(left) > 0 {
					t.Errorf("there remain %v", left)
				}
			})
		})
	}
}

// TestLostTags checks that one command restores the tags of all objects of an API.
func TestLostTags(t *testing.T) {
	eachAccount(t, func(t *testing.T, a *account) {
		c, s := a.newProvider(t), newService("web", 80)
		a.ensureService(t, c, s)
		balancer, group := *a.balancers(t)[0].LoadBalancerArn, *a.targetGroups(t)[0].TargetGroupArn
		a.setClusterTag(t, balancer, false)
		a.setClusterTag(t, group, false)
		err := a.newProvider(t).EnsureLoadBalancerDeleted(t.Context(), a.cluster, s)
		if err == nil || !strings.HasSuffix(err.Error(), "--resource-arns "+balancer+" "+group+" --tags Key=fairlead.io/cluster,Value=prod") {
			t.Errorf("got %v", err)
		}
	})
}

// TestForeignListener checks that a listener without the tags stays as it is, and that
// it is reported if the Service has its port, or if it has lost the cluster's tag.
func TestForeignListener(t *testing.T) {
	eachAccount(t, func(t *testing.T, a *account) {
		c, s := a.newProvider(t), newService("web", 80)
		a.ensureService(t, c, s)
		balancer := a.balancers(t)[0].LoadBalancerArn
		group := a.targetGroups(t)[0].TargetGroupArn
		own := *a.listeners(t, *balancer)[0].ListenerArn
		foreign := *get(t, a.elb.CreateListener, &elb.CreateListenerInput{
			LoadBalancerArn: balancer, Port: new(int32(443)), Protocol: elbtypes.ProtocolEnumTcp, DefaultActions: forwardTo(*group),
		}).Listeners[0].ListenerArn
		requireRefusal := func(s *corev1.Service, want string) {
			t.Helper()
			a.reset()
			var refusal *v1alpha1.Refusal
			_, err := a.newProvider(t).EnsureLoadBalancer(t.Context(), a.cluster, s, a.nodes)
			if !errors.As(err, &refusal) || refusal.Reason != v1alpha1.NameTaken || refusal.Message != want {
				t.Errorf("got %v, not %s", err, want)
			}
			if writes := a.writes(); len(writes) > 0 {
				t.Errorf("made %v", writes)
			}
		}
		a.reset()
		a.ensureService(t, a.newProvider(t), s)
		if writes := a.writes(); len(writes) > 0 {
			t.Errorf("beside a foreign listener: made %v", writes)
		}
		requireRefusal(newService("web", 80, 443),
			"listener "+foreign+" exists without the tags of this controller and is not changed: delete it")
		a.setClusterTag(t, own, false)
		requireRefusal(s, "listener "+own+" does not have the tag fairlead.io/cluster=prod, so that it is neither changed nor deleted; "+
			"restore the tag: aws elbv2 add-tags --resource-arns "+own+" --tags Key=fairlead.io/cluster,Value=prod")
		a.setClusterTag(t, own, true)
		a.ensureService(t, a.newProvider(t), s)
		deleteService(t, a, c, s)
		if left := a.leakedObjects(t); len(left) > 0 {
			t.Errorf("there remain %v", left)
		}
	})
}

// TestAllTagsLost checks that a deletion names the load balancer that has lost all of its
// tags: its target groups cannot be deleted.
func TestAllTagsLost(t *testing.T) {
	a := fakeAccount(t) // moto deletes target groups in use
	c, s := a.newProvider(t), newService("web", 80)
	a.ensureService(t, c, s)
	b := a.balancers(t)[0]
	var keys []string
	for _, tag := range get(t, a.elb.DescribeTags, &elb.DescribeTagsInput{ResourceArns: []string{*b.LoadBalancerArn}}).TagDescriptions[0].Tags {
		keys = append(keys, *tag.Key)
	}
	get(t, a.elb.RemoveTags, &elb.RemoveTagsInput{ResourceArns: []string{*b.LoadBalancerArn}, TagKeys: keys})
	for range 2 {
		err := a.newProvider(t).EnsureLoadBalancerDeleted(t.Context(), a.cluster, s)
		if err == nil || !strings.Contains(err.Error(), "load balancer "+*b.LoadBalancerArn) {
			t.Errorf("got %v", err)
		}
	}
}
