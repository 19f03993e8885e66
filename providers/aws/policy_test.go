package aws

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// dependentActions are actions that the provider does not call, but that AWS
// requires for calls of others (Elastic Load Balancing, "API permissions"): for
// the first load balancer of an account, and for CreateLoadBalancer,
// CreateTargetGroup and RegisterTargets.
var dependentActions = []string{
	"iam:CreateServiceLinkedRole", "ec2:DescribeAccountAttributes", "ec2:DescribeAddresses",
	"ec2:DescribeInternetGateways", "ec2:DescribeVpcs", "ec2:GetSecurityGroupsForVpc",
}

// unconditionedStatements allow writes that do not depend on the tag
// fairlead.io/cluster of the cluster, with the reason. Everything else must.
var unconditionedStatements = map[string]string{
	"MakeSecurityGroupsInAnyVPC": "the VPC is not an object of the cluster; the group itself needs the tag",
	"AdmitBalancersToTheNodes":   "the groups of the nodes have the tag of the cluster's installer",
	"LetBalancersExist":          "the role belongs to AWS, and exists once in an account",
}

// comparePolicy compares the shipped IAM policy with the calls of the providers
// under test: it must allow all of them, and nothing else if all tests have
// run.
func comparePolicy(all bool) error {
	called := append(actionsSeen(), dependentActions...)
	var allowed []string
	for _, s := range shippedPolicy() {
		allowed = append(allowed, s.Action...)
	}
	for _, a := range called {
		if !slices.Contains(allowed, a) {
			return fmt.Errorf("the IAM policy does not allow %s, which was called", a)
		}
	}
	for _, a := range allowed {
		if all && !slices.Contains(called, a) {
			return fmt.Errorf("the IAM policy allows %s, which no test has called", a)
		}
	}
	return nil
}

// isRead reports whether an action changes nothing.
func isReadAction(action string) bool {
	_, name, _ := strings.Cut(action, ":")
	return strings.HasPrefix(name, "Describe") || strings.HasPrefix(name, "Get")
}

// TestPolicyConditions checks that each statement of the IAM policy that allows a
// write depends on the tag of the cluster, of the request or of the resource.
func TestPolicyConditions(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range shippedPolicy() {
		seen[s.Sid] = true
		if s.Effect != "Allow" || s.Sid == "" {
			t.Errorf("%+v: must allow something, and have a Sid", s)
		}
		if !slices.ContainsFunc(s.Action, func(a string) bool { return !isReadAction(a) }) {
			continue
		}
		conditions := s.Condition["StringEquals"]
		tagged := slices.Equal(conditions["aws:RequestTag/"+tagCluster], stringList{"CLUSTER_NAME"}) ||
			slices.Equal(conditions["aws:ResourceTag/"+tagCluster], stringList{"CLUSTER_NAME"})
		if excepted := unconditionedStatements[s.Sid] != ""; tagged == excepted {
			t.Errorf("%s: depends on the tag: %t, is an exception: %t", s.Sid, tagged, excepted)
		}
	}
	for sid := range unconditionedStatements {
		if !seen[sid] {
			t.Errorf("the policy lacks %s", sid)
		}
	}
}

// creatingActions create objects that do not belong to an existing one.
var creatingActions = []string{
	"ec2:CreateSecurityGroup", "elasticloadbalancing:CreateLoadBalancer", "elasticloadbalancing:CreateTargetGroup",
}

// TestPolicyProtectsOthers checks that the policy does not allow changes of objects
// that lack the tag of the cluster, or have that of another one.
func TestPolicyProtectsOthers(t *testing.T) {
	allowed := func(r iamRequest) bool {
		return slices.ContainsFunc(shippedPolicy(), func(s iamStatement) bool { return s.allowedFor("prod", r) })
	}
	arns := map[string]string{
		"ec2": "arn:aws:ec2:eu-west-1:1:security-group/sg-1", "iam": "*", "elasticloadbalancing": "arn:aws:elasticloadbalancing:eu-west-1:1:x/1",
	}
	for _, s := range shippedPolicy() {
		for _, action := range s.Action {
			service, _, _ := strings.Cut(action, ":")
			for _, owner := range []string{"", "other", "prod"} {
				r := iamRequest{action: action, arn: arns[service], keys: map[string]string{"aws:RequestTag/" + tagCluster: "prod"}}
				if owner != "" {
					r.keys["aws:ResourceTag/"+tagCluster] = owner
				}
				// The tags of a load balancer are not among the documented condition keys of this
				// action, but its name is part of the ARN.
				if action == "elasticloadbalancing:CreateListener" {
					r.arn = "arn:aws:elasticloadbalancing:eu-west-1:1:loadbalancer/net/" + map[bool]string{true: "fl-", false: "web-"}[owner == "prod"] + "a/1"
				}
				// These create objects, which have the tags of the request only.
				creates := slices.Contains(creatingActions, action)
				if want := owner == "prod" || creates || isReadAction(action); service != "iam" && allowed(r) != want {
					t.Errorf("%s on an object of %q: allowed is %t", action, owner, !want)
				}
			}
		}
	}
}
