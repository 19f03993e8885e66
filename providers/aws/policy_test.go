package aws

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
)

// dependentActions are actions that the provider does not call, but that AWS
// requires for calls of others (Elastic Load Balancing, "API permissions"): for
// the first load balancer of an account, and for CreateLoadBalancer,
// CreateTargetGroup and RegisterTargets.
var dependentActions = []string{
	"iam:CreateServiceLinkedRole", "ec2:DescribeAccountAttributes", "ec2:DescribeAddresses",
	"ec2:DescribeInternetGateways", "ec2:DescribeVpcs", "ec2:GetSecurityGroupsForVpc",
}

// comparePolicy compares the shipped IAM policy with the calls of the providers
// under test: it must allow all of them, and nothing else if all tests have
// run.
func comparePolicy(all bool) error {
	content, err := os.ReadFile("../../deploy/aws-iam-policy.json")
	if err != nil {
		return err
	}
	var policy struct {
		Statement []struct {
			Sid       string
			Action    any
			Resource  any
			Condition map[string]map[string]any
		}
	}
	if err := json.Unmarshal(content, &policy); err != nil {
		return err
	}
	called := append(actionsSeen(), dependentActions...)
	var allowed []string
	for _, s := range policy.Statement {
		var actions []string
		switch a := s.Action.(type) {
		case string:
			actions = []string{a}
		case []any:
			for _, x := range a {
				actions = append(actions, x.(string))
			}
		}
		for _, a := range actions {
			_, name, _ := strings.Cut(a, ":")
			if s.Resource == "*" && s.Condition == nil && !strings.HasPrefix(name, "Describe") && !strings.HasPrefix(name, "Get") {
				return fmt.Errorf("the IAM policy allows %s on everything, in %s", a, s.Sid)
			}
		}
		allowed = append(allowed, actions...)
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
