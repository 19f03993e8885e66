package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// keptEnv names the directory that a kept lab shares with its user.
const keptEnv = "FAIRLEAD_LAB_KEPT"

// keptFolder returns the directory of the kept lab. Each user can keep one lab at a
// time.
func keptFolder() string {
	return filepath.Join(os.TempDir(), "fairlead-lab-"+strconv.Itoa(os.Getuid()))
}

// keptLab identifies the running process of the kept lab.
type keptLab struct {
	PID   int    // of the first process of the sandbox, in the user's PID namespace
	Since string // start time of the process, because PIDs are reused
}

// writeKeptLab writes the keptLab of the process to the directory of the kept lab.
func writeKeptLab(pid int) error {
	b, err := json.Marshal(keptLab{PID: pid, Since: startTime(pid)})
	if err == nil {
		err = os.WriteFile(filepath.Join(keptFolder(), "lab.json"), b, 0o600)
	}
	if err != nil {
		return fmt.Errorf("write the directory of the lab: %w", err)
	}
	return nil
}

// startTime returns the start time of a process in clock ticks since boot
// (proc_pid_stat(5), field 22); "" if there is no such process.
func startTime(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	// The second field, the name in parentheses, may contain spaces.
	_, rest, _ := strings.Cut(string(b[max(0, bytes.LastIndexByte(b, ')')):]), " ")
	if fields := strings.Fields(rest); len(fields) > 19 {
		return fields[19]
	}
	return ""
}

// EnterKept is Enter for a kept lab, which the user can access from outside of the
// sandbox until it ends.
func EnterKept(bin Binaries) (int, error) {
	dir := keptFolder()
	// A signal before Enter handles signals must not leave the directory behind.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	if _, err := readKeptLab(); err == nil {
		return 1, errors.New("another lab is running; stop it with `.build/lab stop`")
	}
	if err := os.RemoveAll(dir); err != nil { // left by a killed lab
		return 1, fmt.Errorf("clean up after an earlier lab: %w", err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return 1, fmt.Errorf("create the directory of the lab: %w", err)
	}
	defer os.RemoveAll(dir)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 1, fmt.Errorf("listen for kubectl: %w", err)
	}
	defer listener.Close()
	go relayConnections(listener, func() (net.Conn, error) { return net.Dial("unix", filepath.Join(dir, "apiserver.sock")) })
	return enterSandbox(writeKeptLab, bin.environ(), keptEnv+"="+dir, "FAIRLEAD_LAB_SERVER=https://"+listener.Addr().String())
}

// relayConnections forwards each accepted connection to a new connection from dial.
func relayConnections(l net.Listener, dial func() (net.Conn, error)) {
	for {
		from, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer from.Close()
			to, err := dial()
			if err != nil {
				return
			}
			defer to.Close()
			go func() {
				_, _ = io.Copy(to, from)
				_ = to.(interface{ CloseWrite() error }).CloseWrite()
			}()
			_, _ = io.Copy(from, to)
		}()
	}
}

// Keep makes the API server accessible from outside of the sandbox, prints how to use
// the lab, and waits until ctx ends.
func Keep(ctx context.Context, c *Cluster) error {
	dir, server := os.Getenv(keptEnv), os.Getenv("FAIRLEAD_LAB_SERVER")
	defer os.RemoveAll(dir)
	listener, err := net.Listen("unix", filepath.Join(dir, "apiserver.sock"))
	if err != nil {
		return fmt.Errorf("make the lab accessible: %w", err)
	}
	defer listener.Close()
	go relayConnections(listener, func() (net.Conn, error) { return net.Dial("tcp", controlPlaneAddr.String()+":6443") })

	kubeconfig := filepath.Join(dir, "kubeconfig")
	ca, err := os.ReadFile(caCert)
	if err != nil {
		return fmt.Errorf("make the lab accessible: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "ca.crt"), ca, 0o600); err != nil {
		return fmt.Errorf("make the lab accessible: %w", err)
	}
	if err := writeKubeconfigWith(kubeconfig, server, filepath.Join(dir, "ca.crt"), "admin"); err != nil {
		return err
	}
	bin := c.bin
	fmt.Printf(`
The cluster runs until Ctrl-C. In another terminal:

  export KUBECONFIG=%s
  kubectl get svc                      (or %s kubectl get svc)
  %s explain svc default/influxdb

  %s exec client -- curl -s http://10.13.242.236:8086/ping
  %s exec node-1 -- ip addr            on any machine: client, node-1, pod-1, control-plane
  %s exec client -- sh                 a shell on a machine
  %s stop                              or Ctrl-C here

Logs: %s exec client -- ls %s
`, kubeconfig, bin.path("kube"), bin.path("fairlead"),
		bin.path("lab"), bin.path("lab"), bin.path("lab"), bin.path("lab"), bin.path("lab"), logDir)
	if c.AWS != nil {
		fmt.Printf(`
The emulated AWS, with the command line of AWS:

  %s exec aws -- aws elbv2 describe-load-balancers
`, bin.path("lab"))
	}
	<-ctx.Done()
	fmt.Println("\nThe lab has stopped and was removed.")
	return nil
}

// readKeptLab returns the running kept lab.
func readKeptLab() (d keptLab, err error) {
	b, err := os.ReadFile(filepath.Join(keptFolder(), "lab.json"))
	if err == nil {
		err = json.Unmarshal(b, &d)
	}
	if err != nil || d.Since == "" || startTime(d.PID) != d.Since {
		return d, errors.New("no lab is running; start one with `make lab`")
	}
	return d, nil
}

// Exec replaces this process by a command on a machine of the kept lab.
func Exec(args []string) error {
	if len(args) > 1 && args[1] == "--" {
		args = append(args[:1:1], args[2:]...)
	}
	if len(args) < 2 {
		return errors.New("the arguments must be: exec HOST -- COMMAND …")
	}
	d, err := readKeptLab()
	if err != nil {
		return err
	}
	nsenter, err := exec.LookPath("nsenter")
	if err != nil {
		return fmt.Errorf("enter the lab: %w; install the package util-linux", err)
	}
	enter := []string{"nsenter", "--target", strconv.Itoa(d.PID), "--mount", "--pid", "--net"}
	if os.Geteuid() != 0 {
		enter = append(enter, "--user", "--preserve-credentials")
	}
	if args[0] != "control-plane" {
		path := filepath.Join(netnsDir, args[0])
		if _, err := os.Stat(fmt.Sprintf("/proc/%d/root%s", d.PID, path)); err != nil {
			return fmt.Errorf("machine %q not found", args[0])
		}
		enter = append(enter, "--", nsenter, "--net="+path)
	}
	env := os.Environ()
	if args[0] == awsName {
		for name, value := range awsEnv() {
			env = append(env, name+"="+value)
		}
		env = append(env, "AWS_REGION="+Region, "AWS_DEFAULT_REGION="+Region)
	}
	return syscall.Exec(nsenter, append(append(enter, "--"), args[1:]...), env)
}

// Stop stops the kept lab.
func Stop() error {
	d, err := readKeptLab()
	if err != nil {
		return err
	}
	if err := syscall.Kill(d.PID, syscall.SIGTERM); err != nil {
		return fmt.Errorf("stop the lab: %w", err)
	}
	return nil
}

// AnnouncedAddress returns the address of the Service if its condition Announced is
// True, and an error otherwise.
func (c *Cluster) AnnouncedAddress(ctx context.Context, namespace, name string) (netip.Addr, error) {
	svc, err := c.API.CoreV1().Services(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return netip.Addr{}, fmt.Errorf("get Service %s/%s: %w", namespace, name, err)
	}
	for _, condition := range svc.Status.Conditions {
		if condition.Type == "fairlead.io/Announced" && condition.Status == metav1.ConditionTrue {
			return IngressAddress(svc)
		}
	}
	return netip.Addr{}, fmt.Errorf("the Service is not announced: %+v", svc.Status.Conditions)
}

// WaitAnnounced waits until the Service in the default namespace is announced, and
// returns its address.
func (c *Cluster) WaitAnnounced(ctx context.Context, name string) (addr netip.Addr, err error) {
	err = Wait(ctx, "the address of Service "+name+" is announced", func() (err error) {
		addr, err = c.AnnouncedAddress(ctx, "default", name)
		return err
	})
	return addr, err
}

// IngressAddress returns the only address in the status of the Service.
func IngressAddress(svc *corev1.Service) (netip.Addr, error) {
	if len(svc.Status.LoadBalancer.Ingress) != 1 {
		return netip.Addr{}, fmt.Errorf("the status has %d addresses, want 1", len(svc.Status.LoadBalancer.Ingress))
	}
	return netip.ParseAddr(svc.Status.LoadBalancer.Ingress[0].IP)
}
