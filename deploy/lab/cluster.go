package lab

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Options configure the cluster to start.
type Options struct {
	Nodes     int
	AWS       int      // number of nodes that are instances of an emulated AWS
	Flags     []string // of the controllers, in addition to those of the manifest
	ProxyMode string   // of kube-proxy: iptables, or nftables, the default
	Progress  Progress
}

// Cluster is a running lab.
type Cluster struct {
	API     *kubernetes.Clientset
	Dynamic *dynamic.DynamicClient
	Nodes   []*Host
	Pods    []*Host // Pods[i] is behind Nodes[i]
	Client  *Host   // a machine on the LAN that is not a node
	Network *Network
	AWS     *AWS // nil if no node is an instance

	APIServer   *Process
	Controllers []*Process
	Speakers    []*Process
	Proxies     []*Process // kube-proxy of each node

	options      Options
	root         string // the repository
	bin          Binaries
	controlPlane *Host
	gateways     []netip.Addr    // default gateways of the nodes; none: the control plane
	podEnds      map[int]*podEnd // of the pods that are terminating or have ended, by node
}

// Start starts a cluster: control plane, nodes, a pod on each node, and a client,
// with Fairlead installed. The process must be the first one of a sandbox that Enter
// or EnterKept has created. Everything ends with the process.
func Start(ctx context.Context, o Options) (*Cluster, error) {
	root, err := Root()
	if err != nil {
		return nil, err
	}
	if err := setUpSandbox(); err != nil {
		return nil, err
	}
	c := &Cluster{options: o, root: root, bin: Binaries(os.Getenv(binEnv)), podEnds: map[int]*podEnd{}}
	err = o.Progress.Step(fmt.Sprintf("create the network: %d nodes, a pod on each, and a client on one LAN", o.Nodes), c.createNetwork)
	if err != nil {
		return nil, err
	}
	if err := o.Progress.Step("start etcd, kube-apiserver and kube-controller-manager",
		func() error { return c.startControlPlane(ctx) }); err != nil {
		return nil, err
	}
	if o.AWS > 0 {
		what := fmt.Sprintf("start an emulated AWS, with %d of the nodes in a VPC", o.AWS)
		if err := o.Progress.Step(what, func() error { return c.startAWS(ctx) }); err != nil {
			return nil, err
		}
	}
	if err := o.Progress.Step("start kube-proxy on every node", func() error { return c.startNodes(ctx) }); err != nil {
		return nil, err
	}
	return c, c.InstallFairlead(ctx)
}

func (c *Cluster) createNetwork() error {
	env := c.bin.commandEnv()
	ns, err := unix.Open("/proc/self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("find the sandbox's network: %w", err)
	}
	c.controlPlane = &Host{Name: "control-plane", Addr: controlPlaneAddr, env: env, ns: ns}
	bridge, err := createLAN()
	if err != nil {
		return err
	}
	c.Network = &Network{bin: c.bin, lan: bridge}
	addr := netip.MustParseAddr("10.13.242.10")
	for i := range c.options.Nodes {
		addr = addr.Next()
		node, err := newHost(fmt.Sprintf("node-%d", i+1), env)
		if err != nil {
			return err
		}
		pod, err := newHost(fmt.Sprintf("pod-%d", i+1), env)
		if err != nil {
			return err
		}
		if err := joinLAN(bridge, node, addr); err != nil {
			return err
		}
		if err := node.enableForwarding(); err != nil {
			return err
		}
		if err := addPod(node, pod, podAddr(i)); err != nil {
			return err
		}
		for _, port := range []string{":8086", ":80"} {
			if err := pod.Serve(port, echoHandler(pod.Name)); err != nil {
				return err
			}
		}
		if err := pod.EchoUDP(":8086"); err != nil {
			return err
		}
		c.Nodes, c.Pods = append(c.Nodes, node), append(c.Pods, pod)
	}
	for i, from := range c.Nodes {
		for j, to := range c.Nodes {
			if i != j {
				if err := routePods(from, to, netip.PrefixFrom(podAddr(j), 24).Masked()); err != nil {
					return err
				}
			}
		}
	}
	if c.Client, err = newHost("client", env); err != nil {
		return err
	}
	return joinLAN(bridge, c.Client, netip.MustParseAddr("10.13.242.100"))
}

// podAddr returns the address of the first pod on a node.
func podAddr(node int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 244, byte(node + 1), 2})
}

// nextPodAddr returns the address of the pod that follows the one with an address.
func nextPodAddr(addr netip.Addr) netip.Addr {
	b := addr.As4()
	b[3] = 2 + (b[3]-1)%250
	return netip.AddrFrom4(b)
}

func (c *Cluster) startControlPlane(ctx context.Context) error {
	if err := makeKeys(); err != nil {
		return err
	}
	tokens := "admin,admin,1,system:masters\nproxy,system:kube-proxy,2\n"
	if err := os.WriteFile(tokenFile, []byte(tokens), 0o600); err != nil {
		return fmt.Errorf("write tokens: %w", err)
	}
	kube := c.bin.path("kube")
	if _, err := c.controlPlane.Start("etcd", kube, nil, "etcd", "--data-dir", runDir+"/etcd"); err != nil {
		return err
	}
	if err := writeKubeconfig(adminConfig, "https://"+controlPlaneAddr.String()+":6443", "admin"); err != nil {
		return err
	}
	config, err := clientcmd.BuildConfigFromFlags("", adminConfig)
	if err != nil {
		return fmt.Errorf("configure the API client: %w", err)
	}
	config.QPS = -1
	if c.API, err = kubernetes.NewForConfig(config); err != nil {
		return fmt.Errorf("create API client: %w", err)
	}
	if c.Dynamic, err = dynamic.NewForConfig(config); err != nil {
		return fmt.Errorf("create API client: %w", err)
	}
	if err := c.StartAPIServer(ctx); err != nil {
		return err
	}
	_, err = c.controlPlane.Start("kube-controller-manager", kube, nil, "kube-controller-manager",
		"--kubeconfig="+adminConfig, "--leader-elect=false", "--secure-port=0",
		"--controllers=endpointslice-controller,endpointslice-mirroring-controller,garbage-collector-controller,namespace-controller,"+
			"clusterrole-aggregation-controller,validatingadmissionpolicy-status-controller")
	return err
}

// StartAPIServer starts kube-apiserver and waits until it is ready.
func (c *Cluster) StartAPIServer(ctx context.Context) (err error) {
	if err := os.WriteFile(auditPolicyFile, []byte(auditPolicy), 0o600); err != nil {
		return fmt.Errorf("write the audit policy: %w", err)
	}
	c.APIServer, err = c.controlPlane.Start("kube-apiserver", c.bin.path("kube"), nil, "kube-apiserver",
		"--etcd-servers=http://127.0.0.1:2379", "--service-cluster-ip-range="+svcPrefix,
		"--bind-address=0.0.0.0", "--advertise-address="+controlPlaneAddr.String(), "--secure-port=6443",
		"--tls-cert-file="+serverCert, "--tls-private-key-file="+serverKey, "--client-ca-file="+caCert,
		"--token-auth-file="+tokenFile, "--authorization-mode=RBAC",
		"--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file="+accountKey,
		"--service-account-signing-key-file="+accountKey,
		// The lab runs no service account controller.
		"--disable-admission-plugins=ServiceAccount",
		"--audit-policy-file="+auditPolicyFile, "--audit-log-path="+auditLog,
	)
	if err != nil {
		return err
	}
	return Wait(ctx, "kube-apiserver is ready", func() error {
		if c.APIServer.HasEnded() {
			return Permanent(fmt.Errorf("kube-apiserver ended: %w", c.APIServer.err))
		}
		return c.API.RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
	})
}

func (c *Cluster) startNodes(ctx context.Context) error {
	if err := writeKubeconfig(proxyConfig, "https://"+controlPlaneAddr.String()+":6443", "proxy"); err != nil {
		return err
	}
	for i := range c.Nodes {
		if err := c.createNode(ctx, i); err != nil {
			return err
		}
		if err := c.StartProxy(i); err != nil {
			return err
		}
		if err := c.CreatePod(ctx, i); err != nil {
			return err
		}
	}
	for _, node := range c.Nodes {
		err := Wait(ctx, "kube-proxy on "+node.Name+" is healthy", func() error {
			_, err := node.Get(ctx, "http://127.0.0.1:10256/healthz")
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

const proxyConfig = runDir + "/proxy.kubeconfig"

// StartProxy starts the kube-proxy of the i-th node, with additional flags. It replaces one
// that has ended.
func (c *Cluster) StartProxy(i int, flags ...string) error {
	node := c.Nodes[i]
	proxy, err := node.Start("kube-proxy-"+node.Name, c.bin.path("kube"), nil, append([]string{
		"kube-proxy", "--kubeconfig=" + proxyConfig, "--hostname-override=" + node.Name, "--proxy-mode=" + cmp.Or(c.options.ProxyMode, "nftables"),
		"--detect-local-mode=ClusterCIDR", "--cluster-cidr=" + podPrefix,
		"--conntrack-max-per-core=0", "--conntrack-min=0",
		"--conntrack-tcp-timeout-established=0s", "--conntrack-tcp-timeout-close-wait=0s",
	}, flags...)...)
	if err != nil {
		return err
	}
	c.Proxies = setProcess(c.Proxies, i, proxy)
	return nil
}

// createNode creates a ready Node, as the kubelet and the cloud would.
func (c *Cluster) createNode(ctx context.Context, i int) error {
	node := c.Nodes[i]
	object := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: node.Name, Labels: map[string]string{"kubernetes.io/hostname": node.Name}},
		Spec:       podRanges(i),
	}
	if i < c.options.AWS {
		zone, id, err := c.AWS.LaunchInstance(ctx, i)
		if err != nil {
			return err
		}
		setInstance(object, zone, id)
	}
	object, err := c.API.CoreV1().Nodes().Create(ctx, object, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("create node %s: %w", node.Name, err)
	}
	for _, addr := range node.addresses() {
		object.Status.Addresses = append(object.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: addr.String()})
	}
	object.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	if _, err := c.API.CoreV1().Nodes().UpdateStatus(ctx, object, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("set node %s ready: %w", node.Name, err)
	}
	return nil
}

// SetNodeReady sets the condition Ready of the i-th node, as the node lifecycle
// controller would.
func (c *Cluster) SetNodeReady(ctx context.Context, i int, ready bool) error {
	node, err := c.API.CoreV1().Nodes().Get(ctx, c.Nodes[i].Name, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("get node %s: %w", c.Nodes[i].Name, err)
	}
	status := corev1.ConditionUnknown
	if ready {
		status = corev1.ConditionTrue
	}
	node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: status}}
	if _, err := c.API.CoreV1().Nodes().UpdateStatus(ctx, node, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("set node %s ready=%t: %w", node.Name, ready, err)
	}
	return nil
}

// Kubectl runs kubectl as the administrator of the cluster.
func (c *Cluster) Kubectl(ctx context.Context, stdin string, args ...string) (string, error) {
	return c.runAsAdmin(ctx, stdin, c.bin.path("kube"), append([]string{"kubectl"}, args...)...)
}

// Fairlead runs the command line tool as the administrator of the cluster.
func (c *Cluster) Fairlead(ctx context.Context, args ...string) (string, error) {
	return c.runAsAdmin(ctx, "", c.bin.path("fairlead"), args...)
}

func (c *Cluster) runAsAdmin(ctx context.Context, stdin, program string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(c.controlPlane.env, "KUBECONFIG="+adminConfig)
	cmd.Stdin = strings.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s %s: %w\n%s", filepath.Base(program), strings.Join(args, " "), err, errs.String())
	}
	return out.String(), nil
}

// Apply applies the manifests by server-side apply.
func (c *Cluster) Apply(ctx context.Context, yaml string) error {
	_, err := c.Kubectl(ctx, yaml, "apply", "--server-side", "-f", "-")
	return err
}

// Resource returns a client of one of Fairlead's kinds, given its plural name.
func (c *Cluster) Resource(plural string) dynamic.ResourceInterface {
	return c.Dynamic.Resource(schema.GroupVersionResource{Group: "fairlead.io", Version: "v1alpha1", Resource: plural})
}

// ClientAs returns a client that impersonates a service account of Fairlead's
// namespace.
func (c *Cluster) ClientAs(account string) (*kubernetes.Clientset, error) {
	config, err := clientcmd.BuildConfigFromFlags("", adminConfig)
	if err != nil {
		return nil, fmt.Errorf("configure the API client: %w", err)
	}
	config.Impersonate = rest.ImpersonationConfig{UserName: "system:serviceaccount:" + namespace + ":" + account}
	return kubernetes.NewForConfig(config)
}

// ClientWithTokenOf returns a client with the token of a running pod.
func (c *Cluster) ClientWithTokenOf(pod string) (*dynamic.DynamicClient, error) {
	config, err := c.ConfigOfPod(pod)
	if err != nil {
		return nil, err
	}
	return dynamic.NewForConfig(config)
}

// KubeconfigOfPod returns the path of the kubeconfig file of a running pod.
func (c *Cluster) KubeconfigOfPod(pod string) string { return filepath.Join(runDir, pod+".kubeconfig") }

// ConfigOfPod returns the client configuration of a running pod, with its token.
func (c *Cluster) ConfigOfPod(pod string) (*rest.Config, error) {
	config, err := clientcmd.BuildConfigFromFlags("", c.KubeconfigOfPod(pod))
	if err != nil {
		return nil, fmt.Errorf("configure the API client: %w", err)
	}
	return config, nil
}

// Log returns the log of the Process with this name.
func Log(name string) string {
	b, _ := os.ReadFile(filepath.Join(logDir, name+".log"))
	return string(b)
}

// Logs returns the last lines of the logs of all processes, for the analysis of a
// failure.
func Logs(lines int) string {
	var b strings.Builder
	paths, _ := filepath.Glob(filepath.Join(logDir, "*.log"))
	for _, path := range paths {
		content, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		all := strings.Split(strings.TrimRight(string(content), "\n"), "\n")
		fmt.Fprintf(&b, "--- %s\n%s\n", filepath.Base(path), strings.Join(all[max(0, len(all)-lines):], "\n"))
	}
	return b.String()
}

func writeKubeconfig(path, server, token string) error {
	return writeKubeconfigWith(path, server, caCert, token)
}

func writeKubeconfigWith(path, server, ca, token string) error {
	content := fmt.Sprintf(`apiVersion: v1
kind: Config
clusters:
- name: lab
  cluster: {server: %q, certificate-authority: %q}
users:
- name: lab
  user: {token: %q}
contexts:
- name: lab
  context: {cluster: lab, user: lab}
current-context: lab
`, server, ca, token)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		return fmt.Errorf("write a kubeconfig: %w", err)
	}
	return nil
}
