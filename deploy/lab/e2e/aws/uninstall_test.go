package aws

import (
	"context"
	"path/filepath"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	lab "github.com/fairlead-io/fairlead/deploy/lab"
)

// TestUninstallListsBalancers checks that fairlead uninstall stops at load balancers
// before it changes anything, and deletes them on request.
func TestUninstallListsBalancers(t *testing.T) {
	checkEmpty(t)
	s := service(t, "costly")
	host := balancer(t, "costly").DNSName
	out, err := cluster.Fairlead(t.Context(), "uninstall", "--yes")
	if err == nil {
		t.Fatal("it ended without an error")
	}
	contains(t, out, "default/costly", host)
	contains(t, err.Error(), "load balancers in AWS: 1", "nothing was changed")
	if have := get(t, "costly").Annotations; have["fairlead.io/load-balancer"] == "" || have["fairlead.io/provider"] != "" {
		t.Errorf("the Service was changed: %v", have)
	}
	deployments := cluster.API.AppsV1().Deployments("fairlead-system")
	if _, err := deployments.Get(t.Context(), "fairlead-controller", metav1.GetOptions{}); err != nil {
		t.Fatal(err)
	}
	root, err := lab.Root()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := cluster.Kubectl(context.Background(), "", "apply", "--server-side", "-k", filepath.Join(root, "deploy")); err != nil {
			t.Error(err)
		}
	})
	// The programs run on, so that it ends after the deletion of the load balancer.
	_, err = cluster.Fairlead(t.Context(), "uninstall", "--yes", "--delete-load-balancers", "--timeout=30s")
	if err == nil {
		t.Fatal("it ended while the programs ran")
	}
	contains(t, err.Error(), "deleted the load balancer of Service default/costly", "wait for the end of Pod")
	waitReleased(t, "costly")
	waitEmpty(t)
	if now := get(t, "costly"); now.UID != s.UID {
		t.Error("it is another Service")
	}
}
