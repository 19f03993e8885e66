package e2e

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	lab "github.com/fairlead-io/fairlead/deploy/lab"
)

// reinstall installs Fairlead again after a test has removed it.
func reinstall(t *testing.T) {
	ctx := context.Background()
	if err := cluster.StopFairlead(ctx); err != nil {
		t.Error(err)
	}
	if err := cluster.InstallFairlead(ctx); err != nil {
		t.Error(err)
	}
	if err := cluster.Apply(ctx, basePools); err != nil {
		t.Error(err)
	}
}

// deleteWhole deletes an object with kubectl, which waits for the end of the deletion.
func deleteWhole(t *testing.T, args ...string) {
	t.Helper()
	if _, err := cluster.Kubectl(t.Context(), "", append([]string{"delete", "--timeout=60s"}, args...)...); err != nil {
		t.Error(err)
	}
}

// TestDeletionWithoutFairlead checks that a Service, a pool and a namespace can be
// deleted while no program of Fairlead runs.
func TestDeletionWithoutFairlead(t *testing.T) {
	apply(t, "apiVersion: v1\nkind: Namespace\nmetadata: {name: abandoned}\n"+
		"---\napiVersion: v1\nkind: Service\nmetadata: {name: inside, namespace: abandoned}\n"+
		"spec: {type: LoadBalancer, ports: [{port: 80}]}\n---\n"+pool("abandoned", "198.51.100.0/28"))
	service(t, "abandoned", func(s *corev1.Service) { s.Annotations["fairlead.io/address-pool"] = "abandoned" })
	condition(t, "abandoned", "Provisioned", "Assigned")
	ready(t, "ipaddresspools", "abandoned", "Ready")
	eventually(t, "the Service in the namespace has an address", func() error {
		s, err := cluster.API.CoreV1().Services("abandoned").Get(t.Context(), "inside", metav1.GetOptions{})
		if err == nil {
			_, err = lab.IngressAddress(s)
		}
		return err
	})
	t.Cleanup(func() { reinstall(t) })
	if err := cluster.StopFairlead(t.Context()); err != nil {
		t.Fatal(err)
	}
	deleteWhole(t, "svc", "abandoned")
	deleteWhole(t, "ipaddresspool", "abandoned")
	deleteWhole(t, "namespace", "abandoned")
}

// TestManifestsDeleted deletes the manifests while Services and pools exist, and checks
// that a new installation serves the Services with the same addresses.
func TestManifestsDeleted(t *testing.T) {
	service(t, "survivor")
	addr := announced(t, "survivor")
	root, err := lab.Root()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { reinstall(t) })
	deleted := make(chan error, 1)
	go func() {
		_, err := cluster.Kubectl(t.Context(), "", "delete", "--timeout=120s", "-k", filepath.Join(root, "deploy"))
		deleted <- err
	}()
	waitWorkloadsDeleted(t)
	if err := cluster.StopFairlead(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-deleted; err != nil {
		t.Fatal(err)
	}
	notAnnounced(t, addr)
	if in, err := lab.IngressAddress(get(t, "survivor")); err != nil || in != addr {
		t.Errorf("the status has %v, %v, want %s", in, err, addr)
	}
	reinstall(t)
	if again := announced(t, "survivor"); again != addr {
		t.Errorf("it has %s after the second installation, want %s", again, addr)
	}
}

// waitWorkloadsDeleted waits until the Deployment and the DaemonSet no longer exist.
func waitWorkloadsDeleted(t *testing.T) {
	t.Helper()
	eventually(t, "the workloads are deleted", func() error {
		_, err := cluster.API.AppsV1().Deployments("fairlead-system").Get(t.Context(), "fairlead-controller", metav1.GetOptions{})
		_, err2 := cluster.API.AppsV1().DaemonSets("fairlead-system").Get(t.Context(), "fairlead-speaker", metav1.GetOptions{})
		if !apierrors.IsNotFound(err) || !apierrors.IsNotFound(err2) {
			return fmt.Errorf("got %v, %v", err, err2)
		}
		return nil
	})
}

// TestUninstall removes Fairlead by the command, which is interrupted once, and installs
// it again.
func TestUninstall(t *testing.T) {
	for _, addresses := range []string{"keep", "release"} {
		t.Run(addresses, func(t *testing.T) {
			name := "uninstalled-" + addresses
			service(t, name)
			addr := announced(t, name)
			t.Cleanup(func() { reinstall(t) })
			before := get(t, name)
			uninstall := func(args ...string) (string, error) {
				return cluster.Fairlead(t.Context(), append([]string{"uninstall", "--addresses", addresses}, args...)...)
			}

			out, err := uninstall()
			if err != nil {
				t.Fatal(err)
			}
			contains(t, out, "default/"+name, "Deployment fairlead-system/fairlead-controller", "DaemonSet fairlead-system/fairlead-speaker",
				"CustomResourceDefinition ipaddresspools.fairlead.io", "ValidatingAdmissionPolicy fairlead-records", "Namespace fairlead-system")
			if _, err := cluster.API.AppsV1().Deployments("fairlead-system").Get(t.Context(), "fairlead-controller",
				metav1.GetOptions{}); err != nil {
				t.Fatalf("without --yes: %v", err)
			}

			// The programs run on: the command ends while it waits for them.
			_, err = uninstall("--yes", "--timeout=1s")
			if err == nil {
				t.Fatal("it ended while the programs ran")
			}
			contains(t, err.Error(), "wait for the end of Pod fairlead-system/fairlead-", "run the command again")
			if s := get(t, name); len(s.Annotations) != len(before.Annotations) || len(s.Status.Conditions) != len(before.Status.Conditions) {
				t.Errorf("the Service was changed before the controller had stopped: %v, %+v", s.Annotations, s.Status)
			}
			if err := cluster.StopFairlead(t.Context()); err != nil {
				t.Fatal(err)
			}
			if out, err := uninstall("--yes", "--timeout=60s"); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			checkUninstalled(t, name)
			s := get(t, name)
			in, err := lab.IngressAddress(s)
			if kept := err == nil && in == addr; kept != (addresses == "keep") {
				t.Errorf("the status has %+v", s.Status)
			}
			out, err = uninstall("--yes")
			if err != nil {
				t.Fatal(err)
			}
			contains(t, out, "Nothing of Fairlead is in the cluster.")

			reinstall(t)
			if again := announced(t, name); addresses == "keep" && again != addr {
				t.Errorf("it has %s after the second installation, want %s", again, addr)
			}
		})
	}
}

// checkUninstalled checks that nothing of Fairlead is left, except an address.
func checkUninstalled(t *testing.T, name string) {
	t.Helper()
	s := get(t, name)
	if len(s.Finalizers)+len(s.Status.Conditions)+len(s.Annotations) > 0 {
		t.Errorf("finalizers %v, annotations %v, conditions %+v", s.Finalizers, s.Annotations, s.Status.Conditions)
	}
	out, err := cluster.Kubectl(t.Context(), "", "get", "-A", "-o", "name", "namespaces,crds,clusterroles,clusterrolebindings,"+
		"rolebindings,validatingadmissionpolicies,validatingadmissionpolicybindings,deployments,daemonsets,leases")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(out) {
		if strings.Contains(line, "fairlead") {
			t.Errorf("still there: %s", line)
		}
	}
}

// TestUninstallRefused checks that the command changes nothing without permissions, and
// that it ends without an API server.
func TestUninstallRefused(t *testing.T) {
	service(t, "untouched")
	announced(t, "untouched")
	kubeconfig := cluster.KubeconfigOfPod("fairlead-speaker-node-1")
	for _, row := range []struct{ roles, want string }{
		{"", "forbidden"},
		{
			"apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: reader}\n" +
				"rules: [{apiGroups: ['*'], resources: ['*'], verbs: [get, list]}]\n---\n" +
				"apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRoleBinding\nmetadata: {name: reader}\n" +
				"roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: reader}\n" +
				"subjects: [{kind: ServiceAccount, name: fairlead-speaker, namespace: fairlead-system}]\n",
			"nothing was changed: the user must be allowed to: delete clusterrolebindings.rbac.authorization.k8s.io; ",
		},
	} {
		if row.roles != "" {
			apply(t, row.roles)
			t.Cleanup(func() {
				_, _ = cluster.Kubectl(context.Background(), "", "delete", "clusterrole,clusterrolebinding", "reader")
			})
		}
		eventually(t, "the command reports "+row.want, func() error {
			_, err := cluster.Fairlead(t.Context(), "uninstall", "--yes", "--kubeconfig", kubeconfig)
			switch {
			case err == nil:
				t.Fatal("it ended without an error")
			case !strings.Contains(err.Error(), row.want):
				return err
			}
			return nil
		})
	}
	if _, err := cluster.API.AppsV1().Deployments("fairlead-system").Get(t.Context(), "fairlead-controller", metav1.GetOptions{}); err != nil {
		t.Error(err)
	}
	cluster.APIServer.Kill()
	_, err := cluster.Fairlead(t.Context(), "uninstall", "--yes")
	if err == nil {
		err = errors.New("it ended without an error")
	}
	contains(t, err.Error(), "list Namespaces: ", "connect")
	if err := cluster.StartAPIServer(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "everything runs", func() error {
		_, err := cluster.AnnouncedAddress(t.Context(), "default", "untouched")
		return err
	})
}
