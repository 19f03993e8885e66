package aws

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"k8s.io/cloud-provider/api"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// creationWithoutTags is the creation in subnets without the tags of their roles. It
// is in the table for permissions that creation does not require otherwise.
const creationWithoutTags = "creation without role tags of subnets"

var update = flag.Bool("update", false, "write the generated tables of the docs")

// permissionSteps are the steps of the life of a Service, and those in which the other
// permissions are required.
func (a *account) permissionSteps(t *testing.T) []lifecycleStep {
	t.Helper()
	plain := newService("web", 80)
	annotate("attributes", attrCrossZone+"=true", "target-group-attributes", attrDelay+"=30", "connection-idle-timeout", "600")(plain)
	dual := plain.DeepCopy()
	annotate("ip-address-type", "dualstack")(dual)
	steps := a.lifecycleSteps(t)
	names := map[string]string{
		"create": "creation", "change": "change", "groups": "security groups, subnets", "replace": "replacement",
		"nodes": "nodes", "delete": "deletion",
	}
	steps = slices.DeleteFunc(steps, func(s lifecycleStep) bool { return names[s.name] == "" })
	for i := range steps {
		steps[i].name = names[steps[i].name]
		if remove := steps[i].do; steps[i].name == "nodes" {
			steps[i].do = func(t *testing.T, c *Cloud) error {
				if err := remove(t, c); err != nil {
					return err
				}
				a.addNode(t)
				return c.UpdateLoadBalancer(t.Context(), a.cluster, steps[i].before, a.nodes)
			}
		}
	}
	return append(
		steps,
		lifecycleStep{name: creationWithoutTags, do: func(t *testing.T, c *Cloud) error {
			for _, s := range a.subnets {
				a.setTag(t, s, "kubernetes.io/role/elb", "")
			}
			_, err := c.EnsureLoadBalancer(t.Context(), a.cluster, plain, a.nodes)
			return err
		}},
		lifecycleStep{name: "dual stack", before: plain, do: func(t *testing.T, c *Cloud) error {
			a.addIPv6()
			_, err := c.EnsureLoadBalancer(t.Context(), a.cluster, dual, a.nodes)
			return err
		}},
		lifecycleStep{name: "hourly comparison", before: plain, do: func(t *testing.T, c *Cloud) error {
			for range attributesEvery {
				c.elapse(c.options.Resync)
				if _, err := c.EnsureLoadBalancer(t.Context(), a.cluster, plain, a.nodes); err != nil {
					return err
				}
			}
			return nil
		}},
	)
}

// runDenied runs a step without a permission, and returns its calls and its error.
func runDenied(t *testing.T, step int, denied string) (calls []string, err error) {
	t.Helper()
	a := fakeAccount(t)
	s := a.permissionSteps(t)[step]
	c := a.newProvider(t)
	if s.before != nil {
		a.ensureService(t, c, s.before)
	}
	a.reset()
	a.fake.denied = map[string]bool{denied: true}
	for range 30 {
		var later *api.RetryError
		if err = s.do(t, c); !errors.As(err, &later) {
			break
		}
	}
	return a.calls(), err
}

// TestMissingPermissions denies each action of the IAM policy in each step. The
// Service must get the reason PermissionDenied with the name of the action, as the
// table of docs/aws-iam.md has it.
func TestMissingPermissions(t *testing.T) {
	var actions []string
	for _, s := range shippedPolicy() {
		actions = append(actions, s.Action...)
	}
	slices.Sort(actions)
	steps := fakeAccount(t).permissionSteps(t)
	table := []string{"|---|---|---|"}
	for _, action := range slices.Compact(actions) {
		// The fake does not make the calls that AWS makes itself. Without the network
		// interfaces, a deletion succeeds as well: they are part of a message only.
		if slices.Contains(dependentActions, action) || action == "ec2:DescribeNetworkInterfaces" {
			continue
		}
		var where, messages []string
		for i, s := range steps {
			calls, err := runDenied(t, i, action)
			_, operation, _ := strings.Cut(action, ":")
			var refusal *v1alpha1.Refusal
			switch {
			case err == nil && slices.Contains(calls, operation):
				t.Errorf("%s: %s is not reported, although it was called", s.name, action)
			case err == nil:
				continue
			case !errors.As(err, &refusal) || refusal.Reason != v1alpha1.PermissionDenied || !strings.Contains(refusal.Message, action):
				t.Errorf("%s without %s: got %v", s.name, action, err)
				continue
			}
			if s.name == creationWithoutTags && slices.Contains(where, "creation") {
				continue
			}
			parts := strings.SplitN(refusal.Message, ": ", 3)
			where = append(where, s.name)
			messages = append(messages, "`"+parts[0]+": "+parts[1]+"`")
		}
		if len(where) == 0 {
			t.Errorf("%s: no step requires it", action)
		}
		slices.Sort(messages)
		messages = slices.Compact(messages)
		table = append(table, fmt.Sprintf("| `%s` | %s | %s |", action, strings.Join(where, ", "), strings.Join(messages, ", ")))
	}
	compareDocsTable(t, "aws-iam.md", "missing permission", table)
}

// compareDocsTable compares the rows of a table in the docs, the line below the
// header included, with the generated ones, or writes them with -update.
func compareDocsTable(t *testing.T, page, header string, want []string) {
	t.Helper()
	path := "../../docs/" + page
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(content), "\n")
	from := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, "| "+header+" |") }) + 1
	if from == 0 {
		t.Fatalf("%s: no table with the header %q", path, header)
	}
	to := from
	for to < len(lines) && strings.HasPrefix(lines[to], "|") {
		to++
	}
	if slices.Equal(lines[from:to], want) {
		return
	}
	if !*update {
		t.Errorf("%s differs; if that is intended: go test ./providers/aws -run %s -update\n%s",
			path, t.Name(), textDifference(strings.Join(lines[from:to], "\n"), strings.Join(want, "\n")))
		return
	}
	lines = slices.Concat(lines[:from], want, lines[to:])
	if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")), 0o644); err != nil {
		t.Fatal(err)
	}
}
