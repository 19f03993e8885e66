package lab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// Binaries is the folder with the programs that the lab runs: kube, the
// Kubernetes components; fairlead-controller, fairlead-speaker and fairlead;
// and, where the system has no nft, tools/ with one.
type Binaries string

// Build builds all binaries from the repository at root into its folder
// .build, each time, so that nothing stale is ever run. Of several that build at
// the same time, the others wait.
func Build(root string, p Progress) (Binaries, error) {
	bin := Binaries(filepath.Join(root, ".build"))
	unlock, err := bin.lock()
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
	if err != nil {
		return "", err
	}
	return bin, bin.fetchTools(p)
}

// lock makes the folder this process's own until unlock.
func (b Binaries) lock() (unlock func(), err error) {
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
	if b, err := together(cmd); err != nil {
		return fmt.Errorf("go build %s: %w\n%s", pkg, err, b)
	}
	return nil
}

// together runs a command that does not outlive this process.
func together(cmd *exec.Cmd) (output []byte, err error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	// The signal comes when the thread ends that started the command.
	err = onThread(func() error {
		output, err = cmd.CombinedOutput()
		return err
	})
	return output, err
}

// nftPackages are Debian's and Ubuntu's nftables with the libraries that a
// minimal system lacks. The one with the t is Ubuntu's name of its sibling.
var nftPackages = []string{"nftables", "libnftables1", "libnftnl11", "libmnl0", "libjansson4", "libgmp10", "libxtables12", "libedit2", "libbsd0", "libmd0", "libtinfo6"}

// fetchTools makes sure that there is an nft, which kube-proxy calls. Without
// root nothing can be installed, so the package is unpacked beside our own
// binaries.
func (b Binaries) fetchTools(p Progress) error {
	if _, err := exec.LookPath("nft"); err == nil {
		return nil
	}
	tools := b.path("tools")
	if _, err := os.Stat(tools); err == nil {
		return nil
	}
	dir := tools + ".part" // becomes tools when it is whole
	return p.Step("fetch nft, which kube-proxy needs", func() error {
		if _, err := exec.LookPath("apt-get"); err != nil {
			return errors.New("kube-proxy needs the program nft: install the package nftables")
		}
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("fetch nft: %w", err)
		}
		state := filepath.Join(dir, "apt")
		for _, sub := range []string{"lists/partial", "cache/archives/partial"} {
			if err := os.MkdirAll(filepath.Join(state, sub), 0o755); err != nil {
				return fmt.Errorf("fetch nft: %w", err)
			}
		}
		// A state of its own: apt's needs root, and may never have been updated.
		options := []string{
			"-qq", "-o", "Dir::State::lists=" + state + "/lists", "-o", "Dir::Cache=" + state + "/cache",
			"-o", "APT::Sandbox::User=", "-o", "Debug::NoLocking=1",
		}
		run := func(name string, args ...string) error {
			cmd := exec.Command(name, args...)
			cmd.Dir = state
			if out, err := together(cmd); err != nil {
				return fmt.Errorf("fetch nft: %s %s: %w\n%s", name, strings.Join(args, " "), err, out)
			}
			return nil
		}
		if err := run("apt-get", append(options, "update")...); err != nil {
			return err
		}
		for _, pkg := range nftPackages {
			if err := run("apt-get", append(options, "download", pkg)...); err != nil && (pkg == "nftables" || pkg == "libnftables1") {
				return err
			}
		}
		debs, err := filepath.Glob(filepath.Join(state, "*.deb"))
		if err != nil {
			return fmt.Errorf("fetch nft: %w", err)
		}
		for _, deb := range debs {
			if err := run("dpkg-deb", "-x", deb, dir); err != nil {
				return err
			}
		}
		if err := os.RemoveAll(state); err != nil {
			return fmt.Errorf("fetch nft: %w", err)
		}
		return os.Rename(dir, tools)
	})
}

// environment is this process's, with the tools' folders added.
func (b Binaries) environment() []string {
	tools := filepath.Join(string(b), "tools")
	env := append(os.Environ(), "PATH="+string(b)+":"+os.Getenv("PATH")+":"+tools+"/usr/sbin")
	libs, err := filepath.Glob(filepath.Join(tools, "usr/lib/*-linux-gnu*"))
	more, err2 := filepath.Glob(filepath.Join(tools, "lib/*-linux-gnu*"))
	if libs = append(libs, more...); err == nil && err2 == nil && len(libs) > 0 {
		env = append(env, "LD_LIBRARY_PATH="+strings.Join(libs, ":"))
	}
	return env
}

func (b Binaries) path(name string) string { return filepath.Join(string(b), name) }
