package lab_test

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	lab "github.com/fairlead-io/fairlead/deploy/lab"
)

// unprivilegedID is the ID of an ordinary user and group.
const unprivilegedID = 65534

// prepare builds the lab and its binaries, and returns the directory of the
// repository.
func prepare(t *testing.T, tools ...lab.Tool) (root string) {
	t.Helper()
	bin, err := lab.Prepare(lab.Progress{Out: io.Discard}, tools...)
	if err != nil {
		t.Fatal(err)
	}
	build := exec.Command("go", "build", "-o", filepath.Join(string(bin), "lab"), "./cmd/lab")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return filepath.Dir(string(bin))
}

// copyTree returns a copy of the files that the demo reads, for a user without access
// to the repository, with binaries that were built without the tools on the PATH.
func copyTree(t *testing.T) string {
	t.Helper()
	// The PATH of an ordinary user, without nft, iptables or conntrack.
	path := slices.DeleteFunc(filepath.SplitList(os.Getenv("PATH")), func(dir string) bool {
		_, err := os.Stat(filepath.Join(dir, "nft"))
		return err == nil || strings.HasSuffix(dir, "sbin")
	})
	t.Setenv("PATH", strings.Join(path, ":"))
	if nft, err := exec.LookPath("nft"); err == nil {
		t.Fatalf("%s is still on the PATH", nft)
	}
	root := prepare(t, lab.BIRD)
	dir, err := os.MkdirTemp("", "fairlead-tree-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, ".build"), 0o755); err != nil {
		t.Fatal(err)
	}
	parts := []string{
		"go.mod", "deploy/crds", "deploy/kustomization.yaml", "deploy/namespace.yaml", "deploy/controller.yaml", "deploy/speaker.yaml",
		"deploy/policy.yaml",
		".build/kube", ".build/lab", ".build/fairlead", ".build/fairlead-controller", ".build/fairlead-speaker",
	}
	for _, fetched := range []string{".build/tools", ".build/bird"} { // unless the system has them
		if _, err := os.Stat(filepath.Join(root, fetched)); err == nil {
			parts = append(parts, fetched)
		}
	}
	for _, part := range parts {
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(part)), 0o755); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("cp", "-rL", filepath.Join(root, part), filepath.Join(dir, part)).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	if out, err := exec.Command("chmod", "-R", "a+rX", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return dir
}

// demo returns the demo command, to run as an ordinary user.
func demo(dir string, out io.Writer, flags ...string) *exec.Cmd {
	bin := filepath.Join(dir, ".build")
	cmd := exec.Command(filepath.Join(bin, "lab"), append([]string{"demo"}, flags...)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "HOME="+dir, "FAIRLEAD_LAB_BIN="+bin)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if os.Geteuid() == 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: unprivilegedID, Gid: unprivilegedID}
	}
	return cmd
}

// leftovers returns the processes that run binaries of the tree, and the directory of
// a kept lab.
func leftovers(dir string) (found []string) {
	links, _ := filepath.Glob("/proc/[0-9]*/exe")
	for _, link := range links {
		if exe, err := os.Readlink(link); err == nil && strings.HasPrefix(exe, dir) {
			found = append(found, link+" "+exe)
		}
	}
	user := os.Geteuid()
	if user == 0 {
		user = unprivilegedID
	}
	kept, _ := filepath.Glob(filepath.Join(os.TempDir(), fmt.Sprintf("fairlead-lab-%d", user)))
	return append(found, kept...)
}

func nothingLeft(t *testing.T, dir string) {
	t.Helper()
	err := lab.Wait(t.Context(), "no process or file is left", func() error {
		if found := leftovers(dir); len(found) > 0 {
			return fmt.Errorf("left: %v", found)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// TestDemo runs the demo as an ordinary user without the tools that kube-proxy
// requires: twice in a row, interrupted, and after a kill.
func TestDemo(t *testing.T) {
	dir := copyTree(t)
	for range 2 {
		var out bytes.Buffer
		if err := demo(dir, &out).Run(); err != nil {
			t.Fatalf("%v\n%s", err, out.String())
		}
		for _, want := range []string{
			"influxdb   LoadBalancer", "10.13.242.236   8086:3", "pong from pod-", "curl http://10.13.242.13:3",
			"which is node-", "has taken 10.13.242.236 over: the client was without a response for",
			"Provisioned  True  Assigned", "Everything was removed",
		} {
			if !strings.Contains(out.String(), want) {
				t.Errorf("the output does not contain %q:\n%s", want, out.String())
			}
		}
		nothingLeft(t, dir)
	}
	for _, end := range []syscall.Signal{syscall.SIGINT, syscall.SIGKILL} {
		for _, after := range []time.Duration{300 * time.Millisecond, 2 * time.Second, 4 * time.Second} {
			var out bytes.Buffer
			cmd := demo(dir, &out, "--keep")
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(after)
			_ = cmd.Process.Signal(end)
			_ = cmd.Wait()
			nothingLeft(t, dir)
			if t.Failed() {
				t.Fatalf("%s after %s:\n%s", end, after, out.String())
			}
		}
	}
	var out bytes.Buffer
	if err := demo(dir, &out).Run(); err != nil {
		t.Errorf("after a kill: %v\n%s", err, out.String())
	}
}

// TestDemoOnAWS runs the demo with nodes that are instances of an emulated AWS.
func TestDemoOnAWS(t *testing.T) {
	cmd := exec.Command(filepath.Join(prepare(t, lab.Moto), ".build", "lab"), "demo", "--aws")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{
		"node-2   aws:///eu-central-1b/i-", "node-3   <none>", "-1.eu-central-1.elb.amazonaws.com   8086:3",
		"10.13.242.236", "\thealthy\n", "internet-facing Network Load Balancer fl-", "is left in AWS",
	} {
		if !strings.Contains(string(out), want) {
			t.Errorf("the output does not contain %q:\n%s", want, out)
		}
	}
}

// TestKeptLab uses a kept lab from outside of its sandbox, as a user would.
func TestKeptLab(t *testing.T) {
	dir := copyTree(t)
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	kept := demo(dir, out, "--keep", "--nodes", "2")
	if err := kept.Start(); err != nil {
		t.Fatal(err)
	}
	output := func() string {
		b, err := os.ReadFile(out.Name())
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	err = lab.Wait(t.Context(), "the lab is up", func() error {
		if !strings.Contains(output(), "runs until Ctrl-C") {
			return fmt.Errorf("the output is\n%s", output())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	as := func(env string, args ...string) string {
		t.Helper()
		cmd := exec.Command(filepath.Join(dir, ".build", args[0]), args[1:]...)
		cmd.Env = append(os.Environ(), env)
		cmd.SysProcAttr = kept.SysProcAttr
		b, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("%v: %v\n%s", args, err, b)
		}
		return string(b)
	}
	_, after, _ := strings.Cut(output(), "export ")
	kubeconfig, _, _ := strings.Cut(after, "\n")
	if got := as(kubeconfig, "kube", "kubectl", "get", "svc", "influxdb"); !strings.Contains(got, "10.13.242.236") {
		t.Errorf("kubectl printed %q", got)
	}
	if got := as(kubeconfig, "fairlead", "explain", "svc", "default/influxdb"); !strings.Contains(got, "answers on eth0") {
		t.Errorf("fairlead printed %q", got)
	}
	if got := as("", "lab", "exec", "client", "--", "cat", "/proc/net/arp"); !strings.Contains(got, "10.13.242.236") {
		t.Errorf("the neighbor table of the client is %q", got)
	}
	as("", "lab", "stop")
	if err := kept.Wait(); err != nil {
		t.Errorf("the lab ended with %v:\n%s", err, output())
	}
	nothingLeft(t, dir)
}
