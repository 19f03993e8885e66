package lab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// Tool is a program that the lab runs and does not build itself.
type Tool struct {
	name    string // of the folder that it is unpacked into
	program string // that shows that it is there
	pkg     string // that has it, in Debian and Ubuntu
	pip     string // that has it, if the distribution does not: a Python package
	purpose string // it is for
}

// Tools that can be fetched.
var (
	NFT  = Tool{name: "tools", program: "nft", pkg: "nftables", purpose: "kube-proxy needs it"}
	BIRD = Tool{name: "bird", program: "bird", pkg: "bird2", purpose: "a router runs it"}
	FRR  = Tool{name: "frr", program: "zebra", pkg: "frr", purpose: "a router runs it"} // OpenBGPD, too, has a bgpd
	// OpenBGPD and ExaBGP are peers in tests of BGP.
	OpenBGPD = Tool{name: "openbgpd", program: "bgpctl", pkg: "openbgpd", purpose: "a test's BGP peer runs it"}
	ExaBGP   = Tool{name: "exabgp", program: "python3-exabgp", pkg: "python3-exabgp", purpose: "a test's BGP peer runs it"}

	Moto = Tool{name: "moto", program: "moto_server", pip: "moto[server]==5.2.1", purpose: "it emulates AWS"}
)

var fetchable = []Tool{NFT, BIRD, FRR, OpenBGPD, ExaBGP, Moto}

// sbin are folders that the system's programs may be in, though an ordinary
// user's PATH does not say so.
var sbin = []string{"/usr/sbin", "/sbin", "/usr/lib/frr"}

// findProgram is the path of a program: the system's, or one that was fetched.
func (b Binaries) findProgram(program string) (string, error) {
	if path, err := exec.LookPath(program); err == nil {
		return path, nil
	}
	for _, dir := range append(slices.Clone(sbin), b.programFolders()...) {
		if path, err := exec.LookPath(filepath.Join(dir, program)); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("find the program %s: %w", program, exec.ErrNotFound)
}

// programFolders are where the programs are that were fetched.
func (b Binaries) programFolders() (all []string) {
	for _, t := range fetchable {
		for _, dir := range []string{"usr/sbin", "usr/bin", "usr/lib/frr", "bin"} {
			all = append(all, b.path(filepath.Join(t.name, dir)))
		}
	}
	return all
}

// Fetch makes sure that the tools are there. It runs outside of the sandbox,
// where the network is. Without root nothing can be installed, so what the
// system lacks is unpacked beside our own binaries, with the libraries that it
// lacks as well.
func (b Binaries) Fetch(p Progress, tools ...Tool) error {
	missing := slices.DeleteFunc(slices.Clone(tools), func(t Tool) bool { _, err := b.findProgram(t.program); return err == nil })
	if len(missing) == 0 {
		return nil // the folder may be somebody else's
	}
	unlock, err := b.lockFolder()
	if err != nil {
		return err
	}
	defer unlock()
	for _, t := range missing {
		if err := b.fetchTool(p, t); err != nil {
			return err
		}
	}
	return nil
}

// fetchTool is Fetch while the folder is locked.
func (b Binaries) fetchTool(p Progress, t Tool) error {
	if _, err := b.findProgram(t.program); err == nil {
		return nil
	}
	return p.Step(fmt.Sprintf("fetch %s: %s", t.program, t.purpose), func() error {
		install := b.unpackPackage
		if t.pip != "" {
			install = b.installPython
		}
		if err := install(t); err != nil {
			return err
		}
		_, err := b.findProgram(t.program)
		return err
	})
}

// unpackPackage fetches a package of the distribution, and what it depends on.
func (b Binaries) unpackPackage(t Tool) error {
	if _, err := exec.LookPath("apt-get"); err != nil {
		return fmt.Errorf("%s: install the package %s", t.purpose, t.pkg)
	}
	part := b.path(t.name + ".part") // becomes the tool's folder when it is whole
	if err := errors.Join(os.RemoveAll(part), os.MkdirAll(part, 0o755)); err != nil {
		return fmt.Errorf("fetch %s: %w", t.pkg, err)
	}
	debs, err := b.downloadPackages(t.pkg)
	if err != nil {
		return fmt.Errorf("fetch %s: %w", t.pkg, err)
	}
	for _, deb := range debs {
		if err := runCommand("dpkg-deb", "-x", deb, part); err != nil {
			return fmt.Errorf("fetch %s: %w", t.pkg, err)
		}
	}
	if err := errors.Join(os.RemoveAll(b.path(t.name)), os.Rename(part, b.path(t.name))); err != nil {
		return fmt.Errorf("fetch %s: %w", t.pkg, err)
	}
	return nil
}

// installPython fetches a Python package into an environment of its own, which cannot
// be moved once it is made. pip installs a package after all that it depends on,
// so the program is not there before it can run.
func (b Binaries) installPython(t Tool) error {
	python, err := exec.LookPath("python3")
	if err != nil {
		return fmt.Errorf("%s: install the packages python3 and python3-venv, or have a %s on the PATH", t.purpose, t.program)
	}
	if exec.Command(python, "-c", "import ensurepip, venv").Run() != nil {
		return fmt.Errorf("%s: install the package python3-venv, or have a %s on the PATH", t.purpose, t.program)
	}
	if err := os.RemoveAll(b.path(t.name)); err != nil {
		return fmt.Errorf("fetch %s: %w", t.pip, err)
	}
	if err := runCommand(python, "-m", "venv", b.path(t.name)); err != nil {
		return fmt.Errorf("fetch %s: %w", t.pip, err)
	}
	if out, err := runBound(exec.Command(b.path(t.name+"/bin/pip"), "install", "--quiet", t.pip)); err != nil {
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		return fmt.Errorf("%s: pip install '%s', which needs PyPI or another index, or have a %s on the PATH: %w: %s",
			t.purpose, t.pip, t.program, err, lines[len(lines)-1])
	}
	return nil
}

// downloadPackages downloads a package and what it depends on that is not installed.
func (b Binaries) downloadPackages(pkg string) (debs []string, err error) {
	// A state of its own: apt's needs root, and may never have been updated.
	state := b.path("apt")
	archives := filepath.Join(state, "cache/archives")
	options := []string{
		"-qq", "-o", "Dir::State::lists=" + state + "/lists", "-o", "Dir::Cache=" + state + "/cache",
		"-o", "APT::Sandbox::User=", "-o", "Debug::NoLocking=1",
	}
	_, err = os.Stat(state)
	fresh := err == nil
	for {
		if !fresh {
			for _, dir := range []string{"lists/partial", "cache/archives/partial"} {
				if err := os.MkdirAll(filepath.Join(state, dir), 0o755); err != nil {
					return nil, err
				}
			}
			if err := runCommand("apt-get", append(options, "update")...); err != nil {
				_ = os.RemoveAll(state)
				return nil, err
			}
		}
		old, _ := filepath.Glob(filepath.Join(archives, "*.deb"))
		for _, deb := range old {
			_ = os.Remove(deb)
		}
		err := runCommand("apt-get", append(options, "-y", "--no-install-recommends", "--download-only", "install", pkg)...)
		if err == nil {
			return filepath.Glob(filepath.Join(archives, "*.deb"))
		}
		if !fresh {
			return nil, err
		}
		fresh = false // the lists may be old: packages move on
	}
}

// runCommand runs a command to its end, and returns an error with what it printed.
func runCommand(name string, args ...string) error {
	if out, err := runBound(exec.Command(name, args...)); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
	}
	return nil
}

// commandEnv is this process's, with the folders of the tools added.
func (b Binaries) commandEnv() []string {
	path := slices.Concat([]string{string(b), os.Getenv("PATH")}, sbin, b.programFolders())
	var libs []string
	for _, t := range fetchable {
		for _, pattern := range []string{"usr/lib/*-linux-gnu*", "lib/*-linux-gnu*", "usr/lib/*-linux-gnu*/frr"} {
			found, _ := filepath.Glob(b.path(filepath.Join(t.name, pattern)))
			libs = append(libs, found...)
		}
	}
	// Not twice: of two, some programs take the first.
	env := slices.DeleteFunc(os.Environ(), func(e string) bool { return strings.HasPrefix(e, "PATH=") })
	env = append(env, "PATH="+strings.Join(path, ":"))
	if len(libs) > 0 {
		env = append(env, "LD_LIBRARY_PATH="+strings.Join(libs, ":"))
	}
	return env
}
