package providertest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	cloudprovider "k8s.io/cloud-provider"
)

// toy is the smallest cloud that keeps the contract, unless it is broken.
type toy struct {
	*account
	broken string
	calls  map[types.UID]bool // what this process has served
}

type account struct {
	mu        sync.Mutex
	balancers map[types.UID]map[int32][]string
	writes    int
}

func (c toy) name(s *corev1.Service) string {
	if c.broken == "names" {
		return "web"
	}
	return strings.ReplaceAll(string(s.UID), "-", "")[:32]
}

func (c toy) status(s *corev1.Service) *corev1.LoadBalancerStatus {
	if c.broken == "status" {
		return &corev1.LoadBalancerStatus{Ingress: []corev1.LoadBalancerIngress{{IP: "192.0.2.1"}}}
	}
	return &corev1.LoadBalancerStatus{Ingress: []corev1.LoadBalancerIngress{{Hostname: c.name(s) + ".example.com"}}}
}

func (c toy) GetLoadBalancerName(_ context.Context, _ string, s *corev1.Service) string {
	return c.name(s)
}

func (c toy) GetLoadBalancer(_ context.Context, _ string, s *corev1.Service) (*corev1.LoadBalancerStatus, bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, exists := c.balancers[s.UID]
	switch {
	case c.broken == "elsewhere":
		return nil, false, fmt.Errorf("get: %w", cloudprovider.ImplementedElsewhere)
	case !exists:
		return nil, false, nil
	}
	return c.status(s), true, nil
}

func (c toy) EnsureLoadBalancer(
	ctx context.Context, _ string, s *corev1.Service, nodes []*corev1.Node,
) (*corev1.LoadBalancerStatus, error) {
	if ctx.Err() != nil && c.broken != "deaf" {
		return nil, ctx.Err()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.broken == "modifies" {
		s.Annotations["seen"] = "yes"
	}
	want := map[int32][]string{}
	for _, p := range s.Spec.Ports {
		for _, n := range nodes {
			if strings.HasPrefix(n.Spec.ProviderID, "toy://") || c.broken == "strange" {
				want[p.Port] = append(want[p.Port], fmt.Sprintf("%s:%d", n.Name, p.NodePort))
			}
		}
		if len(nodes) == 0 && c.broken != "empties" {
			want[p.Port] = c.balancers[s.UID][p.Port]
		}
	}
	if have, exists := c.balancers[s.UID]; !exists || fmt.Sprint(have) != fmt.Sprint(want) || c.broken == "busy" {
		c.writes++
		c.balancers[s.UID] = want
	}
	c.calls[s.UID] = true
	return c.status(s), nil
}

func (c toy) UpdateLoadBalancer(ctx context.Context, cluster string, s *corev1.Service, nodes []*corev1.Node) error {
	c.mu.Lock()
	_, exists := c.balancers[s.UID]
	c.mu.Unlock()
	if !exists && c.broken != "eager" {
		return nil
	}
	_, err := c.EnsureLoadBalancer(ctx, cluster, s, nodes)
	return err
}

func (c toy) EnsureLoadBalancerDeleted(ctx context.Context, _ string, s *corev1.Service) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.broken != "leaks" && (c.broken != "forgetful" || c.calls[s.UID]) {
		delete(c.balancers, s.UID)
	}
	return ctx.Err()
}

func toyCloud(broken string) func(t *testing.T) Cloud {
	return func(*testing.T) Cloud {
		a := &account{balancers: map[types.UID]map[int32][]string{}}
		process := func() cloudprovider.LoadBalancer { return toy{a, broken, map[types.UID]bool{}} }
		c := Cloud{LoadBalancer: process(), Restart: process, Writes: func() int { return a.writes }}
		for i := range 3 {
			n := &corev1.Node{}
			n.Name, n.Spec.ProviderID = fmt.Sprint("node-", i), fmt.Sprint("toy://", i)
			c.Nodes = append(c.Nodes, n)
		}
		c.Targets = func(_ *testing.T, s *corev1.Service) map[int32][]string { return a.balancers[s.UID] }
		c.Parts = func(_ *testing.T, s *corev1.Service) map[int32]string { return map[int32]string{80: string(s.UID)} }
		c.DeleteManually = func(_ *testing.T, s *corev1.Service) { delete(a.balancers, s.UID) }
		c.Remains = func(*testing.T) (all []string) {
			for uid := range a.balancers {
				all = append(all, string(uid))
			}
			return all
		}
		return c
	}
}

// TestToy runs the contract on a cloud that keeps it or, in a process of its
// own, on one that TestContract wants to see fail.
func TestToy(t *testing.T) {
	Run(t, toyCloud(os.Getenv("FAIRLEAD_BROKEN")))
}

// TestContract breaks the toy in one way after the other: the row that is
// about it fails.
func TestContract(t *testing.T) {
	for broken, row := range map[string]string{
		"names":     "names",
		"status":    "create",
		"elsewhere": "get of a Service that never had one",
		"deaf":      "cancelled",
		"modifies":  "create",
		"strange":   "nodes of another cloud",
		"empties":   "no nodes",
		"busy":      "ensure again",
		"eager":     "update of a Service without a balancer",
		"leaks":     "delete",
		"forgetful": "delete after a restart",
	} {
		t.Run(broken, func(t *testing.T) {
			cmd := exec.Command(os.Args[0], "-test.run=^TestToy$", "-test.v")
			cmd.Env = append(slices.Clone(os.Environ()), "FAIRLEAD_BROKEN="+broken)
			out, err := cmd.CombinedOutput()
			if failed := "--- FAIL: TestToy/" + strings.ReplaceAll(row, " ", "_") + " "; err == nil || !strings.Contains(string(out), failed) {
				t.Errorf("%q did not fail: %v\n%s", row, err, out)
			}
		})
	}
}
