package aws

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
)

// comparePolicy compares the shipped IAM policy with what the providers under
// test have called: it must allow all of that, and, if all tests have run,
// nothing else.
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
	// Whoever makes the account's first balancer needs it; nobody calls it.
	called := append(actionsSeen(), "iam:CreateServiceLinkedRole")
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
			if s.Resource == "*" && s.Condition == nil && !strings.HasPrefix(name, "Describe") {
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
