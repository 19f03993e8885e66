package lab

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

// Binaries is the directory of the programs that the lab runs: kube, which contains
// the Kubernetes components; fairlead-controller, fairlead-speaker and fairlead; and
// a directory for each Tool that is not installed on the system.
type Binaries string

// binEnv names a directory of binaries to run instead of building them, so that
// several test programs can use the binaries of one build.
const binEnv = "FAIRLEAD_LAB_BIN"

// environ returns the environment variable that makes a process and its children run
// these binaries.
func (b Binaries) environ() string { return binEnv + "=" + string(b) }

// Prepare builds the binaries and fetches the tools that are not installed. It must
// run outside of the sandbox, because it needs the network.
func Prepare(p Progress, tools ...Tool) (bin Binaries, err error) {
	if bin = Binaries(os.Getenv(binEnv)); bin == "" {
		if bin, err = buildAll(p); err != nil {
			return "", err
		}
	}
	return bin, bin.Fetch(p, append([]Tool{NFT}, tools...)...)
}

// buildAll builds all binaries from the repository into its directory .build, on
// every call, so that no outdated binary is run. Concurrent builds wait for each
// other.
func buildAll(p Progress) (Binaries, error) {
	root, err := Root()
	if err != nil {
		return "", err
	}
	bin := Binaries(filepath.Join(root, ".build"))
	unlock, err := bin.lockFolder()
	if err != nil {
		return "", err
	}
	defer unlock()
	kube := filepath.Join(string(bin), "kube")
	if err := p.Step(buildStep("Kubernetes", kube), func() error { return goBuild(filepath.Join(root, "deploy/lab"), kube, "./cmd/kube") }); err != nil {
		return "", err
	}
	err = p.Step(buildStep("Fairlead", filepath.Join(string(bin), "fairlead")), func() error {
		for _, command := range []string{"controller", "speaker"} {
			if err := goBuild(root, filepath.Join(string(bin), "fairlead-"+command), "./cmd/"+command); err != nil {
				return err
			}
		}
		return goBuild(root, filepath.Join(string(bin), "fairlead"), "./cmd/fairlead")
	})
	return bin, err
}

// buildStep describes the step that builds a program of the name as the file out.
func buildStep(name, out string) string {
	if _, err := os.Stat(out); err != nil {
		return "build " + name + " (the first build takes some minutes)"
	}
	return "build " + name
}

// lockFolder acquires the exclusive lock of the directory until unlock is called.
func (b Binaries) lockFolder() (unlock func(), err error) {
	if err := os.MkdirAll(string(b), 0o755); err != nil {
		return nil, fmt.Errorf("create the directory of the binaries: %w", err)
	}
	f, err := os.OpenFile(b.path("lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock the directory of the binaries: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	return func() { _ = f.Close() }, nil
}

func goBuild(dir, out, pkg string) error {
	cmd := exec.Command("go", "build", "-o", out, pkg)
	cmd.Dir = dir
	if b, err := runBound(cmd); err != nil {
		return fmt.Errorf("go build %s: %w\n%s", pkg, err, b)
	}
	return nil
}

// runBound runs a command that is terminated when this process ends.
func runBound(cmd *exec.Cmd) (output []byte, err error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	// The kernel sends the signal when the thread that started the command ends.
	err = onThread(func() error {
		output, err = cmd.CombinedOutput()
		return err
	})
	return output, err
}

func (b Binaries) path(name string) string { return filepath.Join(string(b), name) }
