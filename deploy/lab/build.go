package lab

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

// Binaries is the folder with the programs that the lab runs: kube, the
// Kubernetes components; fairlead-controller, fairlead-speaker and fairlead;
// and a folder for each Tool that the system lacks.
type Binaries string

// binEnv names a folder with binaries that were built before, to run instead of
// building them: a run of several test programs builds them once.
const binEnv = "FAIRLEAD_LAB_BIN"

// environ makes a process and its children run these binaries.
func (b Binaries) environ() string { return binEnv + "=" + string(b) }

// Prepare returns the binaries, and fetches the tools that the system lacks. It
// runs outside of the sandbox, where the network is.
func Prepare(p Progress, tools ...Tool) (bin Binaries, err error) {
	if bin = Binaries(os.Getenv(binEnv)); bin == "" {
		if bin, err = buildAll(p); err != nil {
			return "", err
		}
	}
	return bin, bin.Fetch(p, append([]Tool{NFT}, tools...)...)
}

// buildAll builds all binaries from the repository into its folder .build, each
// time, so that nothing stale is ever run. Of several that build at the same
// time, the others wait.
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
	what := "build Kubernetes"
	if _, err := os.Stat(kube); err != nil {
		what += " (the first time takes some minutes)"
	}
	if err := p.Step(what, func() error { return goBuild(filepath.Join(root, "deploy/lab"), kube, "./cmd/kube") }); err != nil {
		return "", err
	}
	err = p.Step("build Fairlead", func() error {
		for _, command := range []string{"controller", "speaker"} {
			if err := goBuild(root, filepath.Join(string(bin), "fairlead-"+command), "./cmd/"+command); err != nil {
				return err
			}
		}
		return goBuild(root, filepath.Join(string(bin), "fairlead"), "./cmd/fairlead")
	})
	return bin, err
}

// lockFolder makes the folder this process's own until unlock.
func (b Binaries) lockFolder() (unlock func(), err error) {
	if err := os.MkdirAll(string(b), 0o755); err != nil {
		return nil, fmt.Errorf("make the folder for binaries: %w", err)
	}
	f, err := os.OpenFile(b.path("lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock the folder for binaries: %w", err)
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

// runBound runs a command that does not outlive this process.
func runBound(cmd *exec.Cmd) (output []byte, err error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	// The signal comes when the thread ends that started the command.
	err = onThread(func() error {
		output, err = cmd.CombinedOutput()
		return err
	})
	return output, err
}

func (b Binaries) path(name string) string { return filepath.Join(string(b), name) }
