package lab

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// InstallFairlead applies the manifests in deploy and starts the binaries with the
// flags and as the service accounts of the manifests.
func (c *Cluster) InstallFairlead(ctx context.Context) error {
	folders := []string{filepath.Join(c.root, "deploy")}
	if c.AWS != nil {
		folders = append(folders, filepath.Join(c.root, "deploy", "aws"))
	}
	err := c.options.Progress.Step("apply the manifests of Fairlead", func() error {
		for _, deploy := range folders {
			if _, err := c.Kubectl(ctx, "", "apply", "--server-side", "-k", deploy); err != nil {
				return err
			}
		}
		_, err := c.Kubectl(ctx, "", "wait", "--for=condition=Established", "--timeout="+WaitTimeout.String(), "crd",
			"ipaddresspools.fairlead.io", "l2advertisements.fairlead.io", "bgppeers.fairlead.io", "bgpadvertisements.fairlead.io",
			"bfdprofiles.fairlead.io", "communities.fairlead.io", "speakers.fairlead.io", "l2nodes.fairlead.io")
		return err
	})
	if err != nil {
		return err
	}
	return c.options.Progress.Step("start two controllers and a speaker on every node", func() error {
		for i := range min(2, len(c.Nodes)) {
			if err := c.StartController(ctx, i); err != nil {
				return err
			}
		}
		for i := range c.Nodes {
			if err := c.StartSpeaker(ctx, i); err != nil {
				return err
			}
		}
		return Wait(ctx, "every speaker has reported", func() error {
			list, err := c.Resource("speakers").List(ctx, metav1.ListOptions{})
			if err == nil && len(list.Items) < len(c.Nodes) {
				err = fmt.Errorf("%d of %d have reported", len(list.Items), len(c.Nodes))
			}
			return err
		})
	})
}

const namespace = "fairlead-system"

// StartController starts the i-th replica of the controller on the i-th node.
func (c *Cluster) StartController(ctx context.Context, i int) error {
	deployment, err := c.API.AppsV1().Deployments(namespace).Get(ctx, "fairlead-controller", metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("read the controller's manifest: %w", err)
	}
	spec := deployment.Spec.Template.Spec
	c.configureController(&spec.Containers[0])
	p, err := c.startPod(ctx, c.Nodes[i], fmt.Sprintf("fairlead-controller-%d", i+1), spec)
	if err != nil {
		return err
	}
	c.Controllers = setProcess(c.Controllers, i, p)
	return nil
}

// StartSpeaker starts the speaker of the i-th node.
func (c *Cluster) StartSpeaker(ctx context.Context, i int) error {
	daemonSet, err := c.API.AppsV1().DaemonSets(namespace).Get(ctx, "fairlead-speaker", metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("read the speaker's manifest: %w", err)
	}
	p, err := c.startPod(ctx, c.Nodes[i], "fairlead-speaker-"+c.Nodes[i].Name, daemonSet.Spec.Template.Spec)
	if err != nil {
		return err
	}
	c.Speakers = setProcess(c.Speakers, i, p)
	return nil
}

// StopFairlead stops all controllers and speakers and deletes their pods, as the
// kubelets do when the workloads are deleted.
func (c *Cluster) StopFairlead(ctx context.Context) error {
	for _, p := range append(append([]*Process{}, c.Controllers...), c.Speakers...) {
		if err := p.Stop(); err != nil {
			return err
		}
	}
	now := int64(0)
	return c.API.CoreV1().Pods(namespace).DeleteCollection(ctx, metav1.DeleteOptions{GracePeriodSeconds: &now}, metav1.ListOptions{})
}

// setProcess sets the i-th element, and extends the list if necessary.
func setProcess(all []*Process, i int, p *Process) []*Process {
	for len(all) <= i {
		all = append(all, nil)
	}
	all[i] = p
	return all
}

// startPod starts the program of a pod on a node according to the manifest: with
// its arguments and environment, only its capabilities, and a token of its service
// account that is bound to the pod.
func (c *Cluster) startPod(ctx context.Context, node *Host, name string, spec corev1.PodSpec) (*Process, error) {
	spec.NodeName = node.Name
	pods := c.API.CoreV1().Pods(namespace)
	pod, err := pods.Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		pod, err = pods.Create(ctx, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app.kubernetes.io/name": spec.ServiceAccountName}}, Spec: spec,
		}, metav1.CreateOptions{})
	}
	if err != nil {
		return nil, fmt.Errorf("create pod %s: %w", name, err)
	}
	expires := int64((24 * time.Hour).Seconds())
	token, err := c.API.CoreV1().ServiceAccounts(namespace).CreateToken(ctx, spec.ServiceAccountName,
		&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
			ExpirationSeconds: &expires,
			BoundObjectRef:    &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: name, UID: pod.UID},
		}}, metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("create token of %s: %w", name, err)
	}
	config := filepath.Join(runDir, name+".kubeconfig")
	if err := writeKubeconfig(config, "https://"+controlPlaneAddr.String()+":6443", token.Status.Token); err != nil {
		return nil, err
	}
	container := spec.Containers[0]
	var env []string
	for _, e := range container.Env {
		value := e.Value
		if e.ValueFrom != nil && e.ValueFrom.ResourceFieldRef != nil {
			value = fmt.Sprint(container.Resources.Limits.Memory().Value())
		}
		if e.ValueFrom != nil && e.ValueFrom.FieldRef != nil {
			value = map[string]string{
				"spec.nodeName": node.Name, "metadata.namespace": namespace, "metadata.name": name, "metadata.uid": string(pod.UID),
			}[e.ValueFrom.FieldRef.FieldPath]
		}
		env = append(env, e.Name+"="+value)
	}
	setpriv, err := exec.LookPath("setpriv")
	if err != nil {
		return nil, fmt.Errorf("start %s with the capabilities of its manifest: %w; install the package util-linux", name, err)
	}
	capabilities := "-all"
	if s := container.SecurityContext; s != nil && s.Capabilities != nil {
		for _, add := range s.Capabilities.Add {
			capabilities += ",+" + strings.ToLower(string(add))
		}
	}
	args := []string{
		"--bounding-set=" + capabilities, "--no-new-privs", c.bin.path("fairlead-" + container.Name), "--kubeconfig=" + config,
		"--health-socket=" + healthSocket(name),
	}
	if container.Name == "controller" { // in a pod, the framework uses the service account of the pod
		args = append(args, "--authentication-kubeconfig="+config, "--authorization-kubeconfig="+config)
	}
	return node.Start(name, setpriv, env, append(args, container.Args...)...)
}

// healthSocket is the path of the pod's socket, which is in a volume of the pod. All
// hosts of the lab share one file system.
func healthSocket(pod string) string { return filepath.Join(runDir, pod+".sock") }

// Probe runs the probe of a container, as the kubelet would, and returns its output. It
// returns an error if the probe failed.
func (c *Cluster) Probe(ctx context.Context, pod string, probe *corev1.Probe) (string, error) {
	command := probe.Exec.Command
	return c.runAsAdmin(ctx, "", c.bin.path(filepath.Base(command[0])), append(command[1:], "--health-socket="+healthSocket(pod))...)
}
