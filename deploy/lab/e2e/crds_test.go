package e2e

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	lab "github.com/fairlead-io/fairlead/deploy/lab"
)

// deleteCRDs deletes the definitions of kinds. All definitions and the base pools are
// restored when the test ends.
func deleteCRDs(t *testing.T, plurals ...string) {
	t.Helper()
	t.Cleanup(func() { restoreCRDs(t) })
	args := []string{"delete", "--timeout=" + lab.WaitTimeout.String(), "crd"}
	for _, p := range plurals {
		args = append(args, p+".fairlead.io")
	}
	if _, err := cluster.Kubectl(t.Context(), "", args...); err != nil {
		t.Fatal(err)
	}
}

// restoreCRDs installs all definitions and then the base pools.
func restoreCRDs(t *testing.T) {
	t.Helper()
	root, err := lab.Root()
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	if _, err := cluster.Kubectl(ctx, "", "apply", "--server-side", "-f", filepath.Join(root, "deploy", "crds")); err != nil {
		t.Error(err)
	}
	if err := lab.Wait(ctx, "the base pools are applied", func() error { return cluster.Apply(ctx, basePools) }); err != nil {
		t.Error(err)
	}
}

// probes returns the probes of the manifests, by the name of the container.
func probes(t *testing.T) map[string]corev1.Container {
	t.Helper()
	d, err := cluster.API.AppsV1().Deployments("fairlead-system").Get(t.Context(), "fairlead-controller", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ds, err := cluster.API.AppsV1().DaemonSets("fairlead-system").Get(t.Context(), "fairlead-speaker", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return map[string]corev1.Container{
		"controller": d.Spec.Template.Spec.Containers[0], "speaker": ds.Spec.Template.Spec.Containers[0],
	}
}

// waitReadiness waits until the readiness probe of the pod succeeds or fails with a
// response that contains all parts. The liveness probe must succeed.
func waitReadiness(t *testing.T, pod, container string, ready bool, parts ...string) {
	t.Helper()
	manifest := probes(t)[container]
	eventually(t, fmt.Sprintf("%s is ready: %t", pod, ready), func() error {
		if _, err := cluster.Probe(t.Context(), pod, manifest.LivenessProbe); err != nil {
			return err
		}
		out, err := cluster.Probe(t.Context(), pod, manifest.ReadinessProbe)
		if (err == nil) != ready {
			return fmt.Errorf("got %q, %v", out, err)
		}
		for _, p := range parts {
			if !strings.Contains(out, p) {
				return fmt.Errorf("got %q, want %q", out, p)
			}
		}
		return nil
	})
}

// TestKindMissingAtStart: without the CRD of one kind, the programs start and serve with
// the others, their pods are not ready, and the kind is used as soon as it is installed.
func TestKindMissingAtStart(t *testing.T) {
	const crd = "CustomResourceDefinition bgppeers.fairlead.io: it is not installed"
	deleteCRDs(t, "bgppeers")
	cluster.StopControllers(t)
	for i, p := range cluster.Speakers {
		if err := p.Stop(); err != nil {
			t.Fatal(err)
		}
		if err := cluster.StartSpeaker(context.Background(), i); err != nil {
			t.Fatal(err)
		}
	}
	cluster.StartControllers(t)
	service(t, "without-peers")
	addr := announced(t, "without-peers")
	owner(t, addr, anyNode)
	waitReadiness(t, "fairlead-controller-1", "controller", false, crd)
	waitReadiness(t, "fairlead-controller-2", "controller", false, crd)
	waitReadiness(t, "fairlead-speaker-node-1", "speaker", false, crd)
	out, err := cluster.Fairlead(t.Context(), "doctor")
	if err == nil {
		t.Error("doctor found nothing")
	}
	contains(t, out, "bgppeers.fairlead.io", "KindMissing")

	restoreCRDs(t)
	for pod, container := range map[string]string{
		"fairlead-controller-1": "controller", "fairlead-controller-2": "controller", "fairlead-speaker-node-1": "speaker",
	} {
		waitReadiness(t, pod, container, true)
		if n := strings.Count(lab.Log(pod), "is missing"); n > 2 { // when it was deleted, and at the start
			t.Errorf("%s has logged the missing kind %d times", pod, n)
		}
	}
	apply(t, `apiVersion: fairlead.io/v1alpha1
kind: BGPPeer
metadata: {name: late}
spec: {myASN: 64512, peerASN: 64513, peerAddress: 10.13.242.250}
`)
	t.Cleanup(func() { _, _ = cluster.Kubectl(context.Background(), "", "delete", "bgppeer", "late") })
	eventually(t, "the controller and a speaker use the peer", func() error {
		out, err := cluster.Kubectl(t.Context(), "", "get", "bgppeers,speakers", "-o", "jsonpath={.items[*].status}")
		if err == nil && (!strings.Contains(out, "SessionDown") || !strings.Contains(out, `"peer":"late"`)) {
			err = fmt.Errorf("got %s", out)
		}
		return err
	})
}

// TestKindsDeleted: when CRDs are deleted in a running cluster, addresses stay assigned
// and announced, also while the CRDs and the objects are restored.
func TestKindsDeleted(t *testing.T) {
	service(t, "without-kinds")
	addr := announced(t, "without-kinds")
	node := owner(t, addr, anyNode)
	for i := range cluster.Nodes { // its caches must be synced
		waitReadiness(t, fmt.Sprintf("fairlead-speaker-node-%d", i+1), "speaker", true)
	}
	stop := uninterrupted(t, cluster.Client, url(addr, 8086))
	deleteCRDs(t, "ipaddresspools", "l2advertisements", "speakers", "l2nodes")
	for _, crd := range []string{"ipaddresspools", "l2advertisements", "speakers", "l2nodes"} {
		want := "warning: CustomResourceDefinition " + crd + ".fairlead.io: it is not installed; its last known objects are in use"
		for i := range cluster.Nodes {
			waitReadiness(t, fmt.Sprintf("fairlead-speaker-node-%d", i+1), "speaker", true, want)
		}
		waitReadiness(t, "fairlead-controller-1", "controller", true, want)
	}
	// A sync with the last known objects. Nodes cannot report until their kind is served.
	service(t, "without-kinds-later")
	condition(t, "without-kinds-later", "Provisioned", "Assigned")
	later, err := lab.IngressAddress(get(t, "without-kinds-later"))
	if err != nil {
		t.Fatal(err)
	}
	owner(t, later, anyNode)
	owner(t, addr, func(n int) bool { return n == node })

	restoreCRDs(t)
	ready(t, "ipaddresspools", "lan", "Ready")
	eventually(t, "all speakers have reported again, and no kind is missing", func() error {
		for _, plural := range []string{"speakers", "l2nodes"} {
			list, err := cluster.Resource(plural).List(t.Context(), metav1.ListOptions{})
			if err == nil && len(list.Items) < len(cluster.Nodes) {
				err = fmt.Errorf("there are %d %s", len(list.Items), plural)
			}
			if err != nil {
				return err
			}
		}
		out, err := cluster.Probe(t.Context(), "fairlead-speaker-node-1", probes(t)["speaker"].ReadinessProbe)
		if err == nil && strings.Contains(out, "warning") {
			err = fmt.Errorf("got %q", out)
		}
		return err
	})
	owner(t, addr, func(n int) bool { return n == node })
	waitReported(t, "without-kinds", addr, node)
	stop()
	if got := announced(t, "without-kinds"); got != addr {
		t.Errorf("it has %s, want %s", got, addr)
	}
}
