package aws

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/ec2"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

func TestParseProviderID(t *testing.T) {
	for text, want := range map[string]string{
		"aws:///eu-west-1a/i-0123456789abcdef0":   "eu-west-1a i-0123456789abcdef0",
		"aws:////i-0123456789abcdef0":             " i-0123456789abcdef0",
		"i-0123456789abcdef0":                     " i-0123456789abcdef0",
		"aws:///us-east-1-bos-1a/i-01234567":      "us-east-1-bos-1a i-01234567",
		"aws:///eu-west-1a/fargate-ip-10-0-0-1.x": "none",
		"eks-hybrid:///eu-west-1/prod/mi-0123456": "none",
		"aws:///eu-west-1a/x/i-0123456789abcdef0": "none",
		"aws:///eu-west-1a/I-0123456789ABCDEF0":   "none",
		"gce://project/zone/i-01234567":           "none",
		"kind://docker/kind/kind-worker":          "none",
		"aws:///":                                 "none",
		"":                                        "none",
	} {
		got := "none"
		if zone, instance, ok := parseProviderID(text); ok {
			got = zone + " " + instance
		}
		if got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}

func TestNodesRegion(t *testing.T) {
	for providerID, want := range map[string]string{
		"aws:///eu-west-1a/i-01234567":       "eu-west-1",
		"aws:///us-gov-east-1b/i-01234567":   "us-gov-east-1",
		"aws:///us-east-1-bos-1a/i-01234567": "us-east-1",
		"aws:////i-01234567":                 "from-label",
		"kind://docker/kind/a":               "",
	} {
		n := &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{corev1.LabelTopologyRegion: "from-label"}},
			Spec:       corev1.NodeSpec{ProviderID: providerID},
		}
		if got := nodesRegion([]*corev1.Node{{}, n}); got != want {
			t.Errorf("%s: got %q, want %q", providerID, got, want)
		}
	}
}

// TestPlanMoves checks that the registered targets become the desired ones,
// with at least one registered at any time, and never more than the limit
// unless there would be none.
func TestPlanMoves(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ids := rapid.SliceOfDistinct(rapid.StringMatching(`[a-h]`), func(s string) string { return s })
		most := rapid.IntRange(1, 8).Draw(t, "most")
		have, want := ids.Draw(t, "have"), ids.Draw(t, "want")
		have, want = have[:min(len(have), most)], want[:min(len(want), most)]
		if len(want) == 0 {
			return // the caller never passes an empty list
		}
		first, remove, rest := planMoves(have, want, most)
		then := append(slices.Clone(have), first...)
		kept := slices.ContainsFunc(have, func(id string) bool { return slices.Contains(want, id) })
		if len(then) > most && (kept || len(have) < most) {
			t.Fatalf("%d targets, of at most %d", len(then), most)
		}
		then = slices.DeleteFunc(then, func(id string) bool { return slices.Contains(remove, id) })
		if len(then) == 0 {
			t.Fatal("there is none for a moment")
		}
		then = append(then, rest...)
		slices.Sort(then)
		slices.Sort(want)
		if !slices.Equal(then, want) {
			t.Fatalf("%v, not %v", then, want)
		}
	})
}

// TestUnusableNodes checks that nodes that cannot be targets do not affect
// others.
func TestUnusableNodes(t *testing.T) {
	eachAccount(t, func(t *testing.T, a *account) {
		node := func(name, providerID string) *corev1.Node {
			n := a.nodes[0].DeepCopy()
			n.Name, n.Spec.ProviderID = name, providerID
			return n
		}
		c, s := a.newProvider(t), newService("web", 80)
		a.terminate(t, a.instances[2])
		elsewhere, otherVPC := a.nodeInOtherVPC(t)
		nodes := append([]*corev1.Node{
			elsewhere,
			node("fargate", "aws:///eu-west-1a/fargate-ip-10-0-0-7.eu-west-1.compute.internal"), node("rack", ""),
			node("gone", "aws:///eu-west-1a/i-0fffffffffffffff1"),
		}, a.nodes...)
		if _, err := c.EnsureLoadBalancer(t.Context(), a.cluster, s, nodes); err != nil {
			t.Fatal(err)
		}
		if got := a.trafficTargets(t, c.names.firstName(s.UID))[80]; len(got) != 2 {
			t.Errorf("targets are %v", got)
		}
		want := "; not registered: elsewhere (instance in VPC " + otherVPC + ", the load balancer is in " + a.vpc + "), " +
			"node-2 (instance is terminated), gone (instance not found)"
		if r := c.Report(s); !strings.HasSuffix(r.Message, want) || r.RequeueAfter == 0 {
			t.Errorf("the report is %+v, without %s", r, want)
		}
	})
}

// TestNoTargets checks that the refusal of a Service without targets has the cause for
// each node.
func TestNoTargets(t *testing.T) {
	eachAccount(t, func(t *testing.T, a *account) {
		terminated := a.nodes[0]
		a.terminate(t, a.instances[0])
		elsewhere, vpc := a.nodeInOtherVPC(t)
		for _, row := range []struct {
			nodes   []*corev1.Node
			labels  string
			message string
		}{
			{nil, "", "no node is an instance: spec.providerID of a Node must be aws:///ZONE/INSTANCE"},
			{a.nodes, "pool=front", "annotation " + prefix + "target-node-labels: selects no node that is an instance"},
			{
				[]*corev1.Node{terminated, elsewhere}, "", "no node can be a target: elsewhere (instance in VPC " + vpc +
					", the load balancer is in " + a.vpc + "), node-0 (instance is terminated)",
			},
		} {
			c, s := a.newProvider(t, func(o *Options) { o.VPC = a.vpc }), newService("web", 80)
			if row.labels != "" {
				annotate("target-node-labels", row.labels)(s)
			}
			var refusal *v1alpha1.Refusal
			_, err := c.EnsureLoadBalancer(t.Context(), a.cluster, s, row.nodes)
			if !errors.As(err, &refusal) || refusal.Reason != v1alpha1.NoTargets || refusal.Message != row.message {
				t.Errorf("got %v, not %s", err, row.message)
			}
		}
		if writes := a.writes(); len(writes) > 0 {
			t.Errorf("made %v", writes)
		}
	})
}

// nodeInOtherVPC starts an instance in another VPC, and returns its node.
func (a *account) nodeInOtherVPC(t *testing.T) (node *corev1.Node, vpc string) {
	t.Helper()
	vpc = *get(t, a.ec2.CreateVpc, &ec2.CreateVpcInput{CidrBlock: new("10.9.0.0/16")}).Vpc.VpcId
	subnet := get(t, a.ec2.CreateSubnet, &ec2.CreateSubnetInput{
		VpcId: &vpc, AvailabilityZone: &zones[0], CidrBlock: new("10.9.0.0/24"),
	}).Subnet
	id := *get(t, a.ec2.RunInstances, &ec2.RunInstancesInput{
		ImageId: new("ami-12345678"), InstanceType: ec2types.InstanceTypeT3Micro, MinCount: new(int32(1)), MaxCount: new(int32(1)),
		SubnetId: subnet.SubnetId,
	}).Instances[0].InstanceId
	node = &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "elsewhere"}}
	node.Spec.ProviderID = "aws:///" + zones[0] + "/" + id
	return node, vpc
}

// TestRefusedTargets checks that a target that has ended since it was looked up
// does not affect others, although AWS fails the whole call. moto accepts such
// targets.
func TestRefusedTargets(t *testing.T) {
	a := fakeAccount(t)
	c, s := a.newProvider(t), newService("web", 80)
	a.ensureService(t, c, newService("other", 80)) // caches all instances
	a.terminate(t, a.instances[1])
	if _, err := c.EnsureLoadBalancer(t.Context(), a.cluster, s, a.nodes); err != nil {
		t.Fatal(err)
	}
	if got := a.trafficTargets(t, c.names.firstName(s.UID))[80]; len(got) != 2 {
		t.Errorf("targets are %v", got)
	}
	if r := c.Report(s); !strings.HasSuffix(r.Message, "; not registered: node-1 (instance refused by AWS)") {
		t.Errorf("the report is %+v", r)
	}
}

// TestInstanceKnownLater checks that a node whose instance AWS does not know
// yet becomes a target in a later sync, although the cluster has not changed.
func TestInstanceKnownLater(t *testing.T) {
	a := fakeAccount(t)
	late := a.fake.instances[2]
	a.fake.instances = a.fake.instances[:2]
	c, s := a.newProvider(t), newService("web", 80)
	a.ensureService(t, c, s)
	if r := c.Report(s); !strings.Contains(r.Message, a.nodes[2].Name) || r.RequeueAfter == 0 {
		t.Errorf("the report is %+v", r)
	}
	a.fake.instances = append(a.fake.instances, late)
	for id, i := range c.instances.byID {
		i.seen = i.seen.Add(-maxUnusableAge)
		c.instances.byID[id] = i
	}
	a.ensureService(t, c, s)
	if got := a.trafficTargets(t, c.names.firstName(s.UID))[80]; len(got) != 3 {
		t.Errorf("targets are %v", got)
	}
	if r := c.Report(s); r.RequeueAfter != 0 || strings.Contains(r.Message, "not registered") {
		t.Errorf("the report is %+v", r)
	}
}

// TestAllTargetsRefused checks that the old targets stay if AWS accepts none of
// the new ones.
func TestAllTargetsRefused(t *testing.T) {
	a := fakeAccount(t)
	c, s := a.newProvider(t), newService("web", 80)
	a.ensureService(t, c, s)
	a.addNode(t)
	a.fail(fault{action: "RegisterTargets", times: forever, kind: clientError("InvalidTarget")})
	updateTargets(t, a, c, s, a.nodes[3:])
	if got := a.trafficTargets(t, c.names.firstName(s.UID))[80]; len(got) != 3 {
		t.Errorf("targets are %v", got)
	}
	if r := c.Report(s); !strings.Contains(r.Message, a.nodes[3].Name) {
		t.Errorf("the report is %+v", r)
	}
}

// TestNoUsableNode checks that the report has a reason when the last targets
// stay because no node can be one.
func TestNoUsableNode(t *testing.T) {
	a := fakeAccount(t)
	c, s := a.newProvider(t), newService("web", 80)
	a.ensureService(t, c, s)
	updateTargets(t, a, c, s, nil)
	if r := c.Report(s); !r.Ready || r.Reason != v1alpha1.NoTargets || !strings.Contains(r.Message, "3 targets") {
		t.Errorf("the report is %+v", r)
	}
	updateTargets(t, a, c, s, a.nodes)
	if r := c.Report(s); r.Reason != v1alpha1.Assigned {
		t.Errorf("the report is %+v", r)
	}
}

// TestFailedUpdateKeepsLastSync checks that an update of targets that fails after its
// first calls does not change the stored sync, which is shared with its readers.
func TestFailedUpdateKeepsLastSync(t *testing.T) {
	a := fakeAccount(t)
	c, s := a.newProvider(t), newService("web", 80, 81)
	a.ensureService(t, c, s)
	stored := func() (instances [][]string) {
		for _, g := range c.lastSyncOf(s.UID).groups {
			instances = append(instances, slices.Clone(g.instances))
		}
		return instances
	}
	before := stored()
	a.fail(fault{action: "DeregisterTargets", after: 1, times: forever, kind: clientError("AccessDenied")})
	if err := c.UpdateLoadBalancer(t.Context(), a.cluster, s, a.nodes[1:]); err == nil {
		t.Fatal("the update has not failed")
	}
	if after := stored(); !reflect.DeepEqual(before, after) {
		t.Errorf("the stored sync has %q, had %q", after, before)
	}
	a.reset()
	updateTargets(t, a, c, s, a.nodes[1:])
	for port, targets := range a.trafficTargets(t, c.names.firstName(s.UID)) {
		if len(targets) != 2 {
			t.Errorf("targets of port %d are %v", port, targets)
		}
	}
}
