package aws

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func reachable(t *testing.T, yes bool) {
	t.Helper()
	if err := cluster.AWS.SetReachable(context.Background(), yes); err != nil {
		t.Fatal(err)
	}
}

// TestOutage deletes one Service and creates another one during an outage of AWS.
func TestOutage(t *testing.T) {
	checkEmpty(t)
	service(t, "leaving")
	waitListeners(t, "leaving", []string{"TCP 8086"}, instance(t, "node-1"), instance(t, "node-2"))
	reachable(t, false)
	back := false
	t.Cleanup(func() {
		if !back {
			reachable(t, true)
		}
	})
	service(t, "coming")
	if err := cluster.API.CoreV1().Services("default").Delete(t.Context(), "leaving", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	condition(t, "leaving", "Provisioned", "CloudFailed")
	condition(t, "coming", "Provisioned", "CloudFailed")
	if s := get(t, "leaving"); !slices.Contains(s.Finalizers, "fairlead.io/aws") {
		t.Errorf("finalizers are %v", s.Finalizers)
	}
	reachable(t, true)
	back = true
	waitListeners(t, "coming", []string{"TCP 8086"}, instance(t, "node-1"), instance(t, "node-2"))
	cluster.Remove(t, "leaving")
	if all, err := cluster.AWS.Balancers(t.Context()); err != nil || len(all) != 1 {
		t.Errorf("AWS has the balancers %v, %v, want one", all, err)
	}
}

func TestBalancerDeletedByHand(t *testing.T) {
	checkEmpty(t)
	service(t, "again")
	was := balancer(t, "again")
	if err := cluster.AWS.Delete(t.Context(), was); err != nil {
		t.Fatal(err)
	}
	eventually(t, "there is another balancer", func() error {
		if now := balancer(t, "again"); now.ARN == was.ARN {
			return errors.New("it is the old one")
		}
		return nil
	})
	waitListeners(t, "again", []string{"TCP 8086"}, instance(t, "node-1"), instance(t, "node-2"))
}

// TestKilledWhileItCreates kills the controllers while they create resources, and
// checks that the restarted controllers create no duplicates.
func TestKilledWhileItCreates(t *testing.T) {
	checkEmpty(t)
	const services = 6
	var names []string
	for i := range services {
		names = append(names, fmt.Sprintf("burst-%d", i))
		service(t, names[i])
	}
	eventually(t, "AWS has created a resource", func() error {
		left, err := cluster.AWS.Leftovers(t.Context())
		if err == nil && !slices.ContainsFunc(left, func(s string) bool { return strings.HasPrefix(s, "target group") }) {
			err = fmt.Errorf("it has %v", left)
		}
		return err
	})
	for _, p := range cluster.Controllers {
		p.Kill()
	}
	cluster.StartControllers(t)
	for _, name := range names {
		waitListeners(t, name, []string{"TCP 8086"}, instance(t, "node-1"), instance(t, "node-2"))
	}
	left, err := cluster.AWS.Leftovers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"load balancer", "target group"} {
		n := 0
		for _, s := range left {
			if strings.HasPrefix(s, kind) {
				n++
			}
		}
		if n != services {
			t.Errorf("AWS has %d of %s, want %d:\n%s", n, kind, services, strings.Join(left, "\n"))
		}
	}
}
