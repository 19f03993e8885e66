package aws

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ec2"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
	elbtypes "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/cloud-provider/api"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// TestProtection checks that deletion protection applies if the Service requests
// it: nothing is written, and the targets follow the nodes. Without the annotation
// the load balancer is deleted.
func TestProtection(t *testing.T) {
	a := fakeAccount(t) // moto ignores deletion protection
	c, s := a.newProvider(t), newService("web", 80)
	annotate("attributes", "deletion_protection.enabled=true")(s)
	a.ensureService(t, c, s)
	a.reset()
	for _, process := range []string{"the same process", "a new process"} {
		var refusal *v1alpha1.Refusal
		err := c.EnsureLoadBalancerDeleted(t.Context(), a.cluster, s)
		if !errors.As(err, &refusal) || !strings.Contains(refusal.Message, "protected from deletion") {
			t.Fatalf("%s: got %v", process, err)
		}
		if writes := a.writes(); len(writes) > 0 {
			t.Errorf("%s: the refusal made the writes %v", process, writes)
		}
		a.addNode(t)
		a.reset()
		a.expectTargets(t, c, s)
		if calls := a.calls(); process == "the same process" && !slices.Equal(calls, []string{"DescribeInstances", "RegisterTargets"}) {
			t.Errorf("the update made the calls %v", calls)
		}
		c = a.newProvider(t)
		a.reset()
	}
	s.Annotations = nil
	deleteService(t, a, c, s)
	if left := a.leakedObjects(t); len(left) > 0 {
		t.Errorf("there remain %v", left)
	}
}

// expectTargets updates the targets of the Service's only target group, which must
// be all instances then.
func (a *account) expectTargets(t *testing.T, c *Cloud, s *corev1.Service) {
	t.Helper()
	updateTargets(t, a, c, s, a.nodes)
	if got := a.targets(t, *a.targetGroups(t)[0].TargetGroupArn); len(got) != len(a.nodes) {
		t.Errorf("the targets are %v, with %d nodes", got, len(a.nodes))
	}
}

// setProtection enables the deletion protection of the only load balancer, or
// disables it, as an administrator does.
func (a *account) setProtection(t *testing.T, value string) {
	t.Helper()
	get(t, a.elb.ModifyLoadBalancerAttributes, &elb.ModifyLoadBalancerAttributesInput{
		LoadBalancerArn: a.balancers(t)[0].LoadBalancerArn,
		Attributes:      []elbtypes.LoadBalancerAttribute{{Key: new(attrProtected), Value: new(value)}},
	})
}

// TestProtectionOfOthers checks that deletion protection that no annotation has set
// stays, that the refusal has what permits the deletion, and that the targets
// follow the nodes meanwhile.
func TestProtectionOfOthers(t *testing.T) {
	a := fakeAccount(t) // moto ignores deletion protection
	c, s := a.newProvider(t, func(o *Options) { o.DeleteOrphans = true }), newService("web", 80)
	a.ensureService(t, c, s)
	a.setProtection(t, "true")
	arn := *a.balancers(t)[0].LoadBalancerArn
	a.reset()
	var refusal *v1alpha1.Refusal
	err := c.EnsureLoadBalancerDeleted(t.Context(), a.cluster, s)
	if !errors.As(err, &refusal) || refusal.Reason != v1alpha1.PermissionDenied ||
		!strings.Contains(refusal.Message, "--load-balancer-arn "+arn+" --attributes Key=deletion_protection.enabled,Value=false") {
		t.Errorf("got %v", err)
	}
	if writes := a.writes(); !slices.Equal(writes, []string{"DeleteLoadBalancer"}) {
		t.Errorf("the writes are %v", writes)
	}
	a.addNode(t)
	a.expectTargets(t, c, s)
	for range 2 {
		err = c.SweepOrphans(t.Context(), nil)
		for id := range c.orphanedSince {
			c.orphanedSince[id] = c.orphanedSince[id].Add(-orphanAge)
		}
	}
	if slices.Contains(a.writes(), "ModifyLoadBalancerAttributes") || len(a.balancers(t)) != 1 || err == nil {
		t.Errorf("after the sweep with the error %v: %v", err, a.writes())
	}
	a.setProtection(t, "false")
	deleteService(t, a, c, s)
}

// TestDeletionNotPermitted checks that AWS's own message is reported if it does not
// permit a deletion for another cause than deletion protection.
func TestDeletionNotPermitted(t *testing.T) {
	a := fakeAccount(t)
	c, s := a.newProvider(t), newService("web", 80)
	a.ensureService(t, c, s)
	a.fail(fault{action: "DeleteLoadBalancer", kind: clientError("OperationNotPermitted")})
	var refusal *v1alpha1.Refusal
	err := c.EnsureLoadBalancerDeleted(t.Context(), a.cluster, s)
	if !errors.As(err, &refusal) || refusal.Reason != v1alpha1.PermissionDenied || strings.Contains(refusal.Message, "protect") {
		t.Errorf("got %v", err)
	}
	deleteService(t, a, c, s)
}

// TestUpdateDuringDeletion checks that nothing is registered for a Service whose
// load balancer is deleted.
func TestUpdateDuringDeletion(t *testing.T) {
	a := fakeAccount(t)
	a.fake.lingering = 100
	c, s := a.newProvider(t), newService("web", 80)
	a.ensureService(t, c, s)
	retryAfter(t, c.EnsureLoadBalancerDeleted(t.Context(), a.cluster, s))
	a.addNode(t)
	a.reset()
	updateTargets(t, a, c, s, a.nodes)
	if calls := a.calls(); len(calls) > 0 {
		t.Errorf("the calls are %v", calls)
	}
	// A new process has to read that there is no load balancer.
	updateTargets(t, a, a.newProvider(t), s, a.nodes)
	if writes := a.writes(); len(writes) > 0 {
		t.Errorf("the writes of a new process are %v", writes)
	}
}

// TestDeletionWaits checks that a deletion does not block while AWS uses
// objects, and is retried with backoff.
func TestDeletionWaits(t *testing.T) {
	a := fakeAccount(t)
	a.fake.lingering, a.fake.inUse = 3, 0
	c, s := a.newProvider(t), newService("web", 80)
	a.ensureService(t, c, s)
	var waits []time.Duration
	for {
		err := c.EnsureLoadBalancerDeleted(t.Context(), a.cluster, s)
		if err == nil {
			break
		}
		waits = append(waits, retryAfter(t, err))
		if !strings.Contains(err.Error(), "security group") || len(waits) > 20 {
			t.Fatalf("got %v", err)
		}
	}
	if len(waits) < 2 || waits[1] <= waits[0] {
		t.Errorf("waits are %v", waits)
	}
}

// retryAfter returns the delay of a RetryError.
func retryAfter(t *testing.T, err error) time.Duration {
	t.Helper()
	var retry *api.RetryError
	if !errors.As(err, &retry) {
		t.Fatalf("no RetryError: %v", err)
	}
	return retry.RetryAfter()
}

// TestSecurityGroupInUse checks that a deletion names, from the first retry, what uses a
// security group, with one more call for each retry.
func TestSecurityGroupInUse(t *testing.T) {
	eachAccount(t, func(t *testing.T, a *account) {
		if a.fake != nil {
			a.fake.lingering, a.fake.inUse = 0, 0
		}
		c, s := a.newProvider(t), newService("web", 80)
		a.ensureService(t, c, s)
		groups := a.groups(t)
		own := *groups[slices.IndexFunc(groups, func(g ec2types.SecurityGroup) bool { return *g.GroupName == c.names.firstName(s.UID) })].GroupId
		user := *get(t, a.ec2.RunInstances, &ec2.RunInstancesInput{
			ImageId: new("ami-12345678"), InstanceType: ec2types.InstanceTypeT3Micro, MinCount: new(int32(1)), MaxCount: new(int32(1)),
			SubnetId: &a.subnets[0], SecurityGroupIds: []string{own},
		}).Instances[0].InstanceId
		if a.fake == nil {
			// moto deletes groups that are in use.
			a.fail(fault{action: "DeleteSecurityGroup", times: forever, kind: clientError("DependencyViolation")})
		}
		for attempt := range 4 {
			err := c.EnsureLoadBalancerDeleted(t.Context(), a.cluster, s)
			retryAfter(t, err)
			want := "waiting for AWS to release security group " + own + ": still in use"
			if attempt > 0 {
				want += " by network interfaces: eni-"
			}
			if !strings.HasPrefix(err.Error(), want) || attempt > 0 && !strings.HasSuffix(err.Error(), "instance "+user+")") {
				t.Errorf("attempt %d: got %v, not %s… instance %s", attempt, err, want, user)
			}
			// Interfaces and rules are searched in turns, by one call.
			calls := a.callCounts()
			if n := len(calls); attempt > 0 && (calls[n-1] == "DeleteSecurityGroup" || calls[n-2] != "DeleteSecurityGroup") {
				t.Errorf("attempt %d made %v", attempt, calls)
			}
			if a.fake == nil {
				a.fail(fault{action: "DeleteSecurityGroup", times: forever, kind: clientError("DependencyViolation")})
			}
		}
		a.reset()
		a.terminate(t, user)
		deleteService(t, a, c, s)
	})
}

// TestSecurityGroupReferredTo checks that a deletion names the security groups with
// rules that refer to one of the Service, and the interfaces of the deleted load
// balancer. moto does not check either.
func TestSecurityGroupReferredTo(t *testing.T) {
	a := fakeAccount(t)
	a.fake.lingering, a.fake.inUse = 3, 0
	c, s := a.newProvider(t), newService("web", 80)
	a.ensureService(t, c, s)
	name := c.names.firstName(s.UID)
	own := a.fake.groups[slices.IndexFunc(a.fake.groups, func(g *fakeGroup) bool { return g.name == name })].id
	path := (*a.balancers(t)[0].LoadBalancerArn)[strings.Index(*a.balancers(t)[0].LoadBalancerArn, "net/"):]
	waiting := "waiting for AWS to release security group " + own + ": still in use"
	interfaces := " by network interfaces: eni-" + strings.TrimPrefix(own, "sg-") + " (ELB " + path + ", created by amazon-elb)"
	get(t, a.ec2.AuthorizeSecurityGroupIngress, &ec2.AuthorizeSecurityGroupIngressInput{
		GroupId: &a.nodeGroup, IpPermissions: permissionsOf([]securityRule{{"tcp", 9100, 9100, own}}),
	})
	rules := "rules of security groups: " + a.nodeGroup + " (nodes)"
	for i, want := range []string{waiting, waiting + interfaces, waiting + interfaces + "; " + rules} {
		if err := c.EnsureLoadBalancerDeleted(t.Context(), a.cluster, s); err == nil || err.Error() != want {
			t.Errorf("attempt %d: got %v, not %s", i, err, want)
		}
	}
	a.fake.group(own).lingering = 0
	for range 2 {
		if err := c.EnsureLoadBalancerDeleted(t.Context(), a.cluster, s); err == nil || !strings.HasSuffix(err.Error(), rules) {
			t.Errorf("got %v", err)
		}
	}
	get(t, a.ec2.RevokeSecurityGroupIngress, &ec2.RevokeSecurityGroupIngressInput{
		GroupId: &a.nodeGroup, IpPermissions: permissionsOf([]securityRule{{"tcp", 9100, 9100, own}}),
	})
	deleteService(t, a, c, s)
}

// TestBalancerInUse checks that the deletion of a load balancer that another
// AWS resource uses is retried, and that the error names the cause.
func TestBalancerInUse(t *testing.T) {
	a := fakeAccount(t)
	c, s := a.newProvider(t), newService("web", 80)
	a.ensureService(t, c, s)
	a.fail(fault{action: "DeleteLoadBalancer", times: forever, kind: clientError("ResourceInUse")})
	err := c.EnsureLoadBalancerDeleted(t.Context(), a.cluster, s)
	if retryAfter(t, err) < time.Second || !strings.Contains(err.Error(), "VPC endpoint") {
		t.Errorf("got %v", err)
	}
	a.reset()
	deleteService(t, a, c, s)
}

// TestTargetGroupInUse checks that the deletion names the foreign load balancer that
// uses a target group.
func TestTargetGroupInUse(t *testing.T) {
	eachAccount(t, func(t *testing.T, a *account) {
		c, s := a.newProvider(t), newService("web", 80)
		a.ensureService(t, c, s)
		get(t, a.elb.DeleteLoadBalancer, &elb.DeleteLoadBalancerInput{LoadBalancerArn: a.balancers(t)[0].LoadBalancerArn})
		foreign := get(t, a.elb.CreateLoadBalancer, &elb.CreateLoadBalancerInput{
			Name: new("foreign"), Type: elbtypes.LoadBalancerTypeEnumNetwork, Subnets: a.subnets[:1],
		}).LoadBalancers[0].LoadBalancerArn
		group := a.targetGroups(t)[0]
		get(t, a.elb.CreateListener, &elb.CreateListenerInput{
			LoadBalancerArn: foreign, Port: new(int32(80)), Protocol: elbtypes.ProtocolEnumTcp,
			DefaultActions: forwardTo(*group.TargetGroupArn),
		})
		err := a.newProvider(t).EnsureLoadBalancerDeleted(t.Context(), a.cluster, s)
		want := "waiting for AWS to release target group " + *group.TargetGroupName +
			", which a listener of load balancer " + *foreign + " uses: still in use"
		if retryAfter(t, err); err.Error() != want {
			t.Errorf("got %v, not %s", err, want)
		}
		get(t, a.elb.DeleteLoadBalancer, &elb.DeleteLoadBalancerInput{LoadBalancerArn: foreign})
		deleteService(t, a, a.newProvider(t), s)
	})
}

// TestSweep checks that orphans are counted, and deleted only if
// Options.DeleteOrphans is set and only after a delay.
func TestSweep(t *testing.T) {
	eachAccount(t, func(t *testing.T, a *account) {
		c, kept, lost := a.newProvider(t), newService("kept", 80), newService("lost", 80)
		a.ensureService(t, c, kept)
		world := a.world(t)
		a.ensureService(t, c, lost)
		live := map[types.UID]bool{kept.UID: true}
		for range 3 {
			if err := c.SweepOrphans(t.Context(), live); err != nil {
				t.Fatal(err)
			}
		}
		if n := len(a.balancers(t)); n != 2 {
			t.Fatalf("%d balancers after a dry run", n)
		}
		d := a.newProvider(t, func(o *Options) { o.DeleteOrphans = true })
		for range 20 {
			_ = d.SweepOrphans(t.Context(), live) // AWS releases objects late
			for id := range d.orphanedSince {
				d.orphanedSince[id] = d.orphanedSince[id].Add(-orphanAge)
			}
		}
		if got := a.world(t); got != world {
			t.Errorf("the world is\n%s\nand not\n%s", got, world)
		}
	})
}

// TestTwoClusters checks that two clusters in one account with Services of the
// same name are independent.
func TestTwoClusters(t *testing.T) {
	eachAccount(t, func(t *testing.T, a *account) {
		blue := a.newProvider(t)
		green := a.newProvider(t, func(o *Options) { o.Cluster = "green" })
		mine, theirs := newService("web", 80), newService("web", 80)
		theirs.UID = "another"
		for _, g := range []string{"kubernetes.io/cluster/green"} {
			a.setTag(t, a.nodeGroup, g, "owned")
			for _, s := range a.subnets {
				a.setTag(t, s, g, "owned")
			}
		}
		a.ensureService(t, blue, mine)
		before := a.world(t)
		a.ensureService(t, green, theirs)
		if n := len(a.balancers(t)); n != 2 {
			t.Fatalf("there are %d balancers", n)
		}
		if err := green.SweepOrphans(t.Context(), map[types.UID]bool{theirs.UID: true}); err != nil {
			t.Error(err)
		}
		deleteService(t, a, green, theirs)
		if got := a.world(t); got != before {
			t.Errorf("the world is\n%s\nand not\n%s", got, before)
		}
	})
}

// TestSuperfluousInUse checks that the report names what a change has left because others use
// it, and that attempts to delete it become rarer.
func TestSuperfluousInUse(t *testing.T) {
	a := fakeAccount(t) // moto deletes target groups in use
	c, s := a.newProvider(t), newService("web", 80, 81)
	a.ensureService(t, c, s)
	groups := a.targetGroups(t)
	i := slices.IndexFunc(groups, func(g elbtypes.TargetGroup) bool { return *g.Port == 30081 })
	get(t, a.elb.CreateListener, &elb.CreateListenerInput{
		LoadBalancerArn: a.balancers(t)[0].LoadBalancerArn, Port: new(int32(9000)), Protocol: elbtypes.ProtocolEnumTcp,
		DefaultActions: forwardTo(*groups[i].TargetGroupArn),
	})
	s = newService("web", 80)
	last := time.Duration(0)
	for range 3 {
		c.invalidateSync(s.UID)
		if _, err := c.EnsureLoadBalancer(t.Context(), a.cluster, s, a.nodes); err != nil {
			t.Fatal(err)
		}
		r := c.Report(s)
		if !r.Ready || !strings.Contains(r.Message, "; not deleted yet: target group "+*groups[i].TargetGroupName) || r.RequeueAfter <= last {
			t.Errorf("the report is %+v, after %v", r, last)
		}
		last = r.RequeueAfter
	}
}
