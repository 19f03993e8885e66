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

// Tool is a third-party program that the lab runs but does not build.
type Tool struct {
	name    string // of the directory that it is unpacked into
	program string // presence of this program shows that the tool is installed
	pkg     string // package of Debian and Ubuntu
	pip     string // Python package, if there is no package of the distribution
	purpose string // shown in progress lines and errors
	// links are the names of a multi-call program, for which the package has a script.
	links map[string][]string
}

// The tools that can be fetched.
var (
	NFT = Tool{name: "tools", program: "nft", pkg: "nftables", purpose: "required by kube-proxy"}
	// IPTables is required by kube-proxy in iptables mode.
	IPTables = Tool{
		name: "iptables", program: "iptables", pkg: "iptables", purpose: "required by kube-proxy in iptables mode",
		links: map[string][]string{"usr/sbin/xtables-nft-multi": {
			"iptables", "iptables-restore", "iptables-save", "ip6tables", "ip6tables-restore", "ip6tables-save",
		}},
	}

	BIRD = Tool{name: "bird", program: "bird", pkg: "bird2", purpose: "routing daemon of a router"}
	FRR  = Tool{name: "frr", program: "zebra", pkg: "frr", purpose: "routing daemon of a router"} // not bgpd, which OpenBGPD has as well
	// OpenBGPD and ExaBGP are peers in tests of BGP.
	OpenBGPD = Tool{name: "openbgpd", program: "bgpctl", pkg: "openbgpd", purpose: "BGP peer in tests"}
	ExaBGP   = Tool{name: "exabgp", program: "python3-exabgp", pkg: "python3-exabgp", purpose: "BGP peer in tests"}
	// Arping and NDisc6 resolve addresses in tests of ARP and Neighbor Discovery.
	Arping = Tool{name: "arping", program: "arping", pkg: "iputils-arping", purpose: "resolves IPv4 addresses in tests"}
	NDisc6 = Tool{name: "ndisc6", program: "ndisc6", pkg: "ndisc6", purpose: "resolves IPv6 addresses in tests"}

	// Prometheus scrapes the metrics in tests.
	Prometheus = Tool{name: "prometheus", program: "prometheus", pkg: "prometheus", purpose: "scrapes metrics in tests"}

	Moto = Tool{name: "moto", program: "moto_server", pip: "moto[server]==5.2.1", purpose: "emulates AWS"}
	// AWSCLI is required by deploy/aws-check.
	AWSCLI = Tool{name: "awscli", program: "aws", pip: "awscli==1.45.11", purpose: "calls AWS"}
)

var fetchable = []Tool{NFT, IPTables, BIRD, FRR, OpenBGPD, ExaBGP, Arping, NDisc6, Prometheus, Moto, AWSCLI}

// sbin are directories of system programs that may not be on the PATH of an
// ordinary user.
var sbin = []string{"/usr/sbin", "/sbin", "/usr/lib/frr"}

// findProgram returns the path of an installed or fetched program.
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

// programFolders returns the directories of fetched programs.
func (b Binaries) programFolders() (all []string) {
	for _, t := range fetchable {
		for _, dir := range []string{"usr/sbin", "usr/bin", "usr/lib/frr", "bin"} {
			all = append(all, b.path(filepath.Join(t.name, dir)))
		}
	}
	return all
}

// Fetch ensures that the tools are available. It must run outside of the sandbox,
// because it needs the network. Installing a package requires root, so missing tools
// are unpacked alongside the other binaries, with the libraries that are missing.
func (b Binaries) Fetch(p Progress, tools ...Tool) error {
	missing := slices.DeleteFunc(slices.Clone(tools), func(t Tool) bool { _, err := b.findProgram(t.program); return err == nil })
	if len(missing) == 0 {
		return nil // the directory may belong to another user
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

// fetchTool fetches one tool. The directory must be locked.
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

// unpackPackage fetches and unpacks a package of the distribution and its
// dependencies.
func (b Binaries) unpackPackage(t Tool) error {
	if _, err := exec.LookPath("apt-get"); err != nil {
		return fmt.Errorf("%s: install the package %s", t.purpose, t.pkg)
	}
	part := b.path(t.name + ".part") // renamed when it is complete
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
	for program, names := range t.links {
		for _, name := range names {
			if err := os.Symlink(filepath.Base(program), filepath.Join(part, filepath.Dir(program), name)); err != nil {
				return fmt.Errorf("fetch %s: %w", t.pkg, err)
			}
		}
	}
	if err := errors.Join(os.RemoveAll(b.path(t.name)), os.Rename(part, b.path(t.name))); err != nil {
		return fmt.Errorf("fetch %s: %w", t.pkg, err)
	}
	return nil
}

// installPython installs a Python package into a virtual environment, which cannot be
// moved after its creation. pip installs a package after its dependencies, so the
// program does not exist before it can run.
func (b Binaries) installPython(t Tool) error {
	python, err := exec.LookPath("python3")
	if err != nil {
		return fmt.Errorf("%s: install the packages python3 and python3-venv, or provide a %s on the PATH", t.purpose, t.program)
	}
	if exec.Command(python, "-c", "import ensurepip, venv").Run() != nil {
		return fmt.Errorf("%s: install the package python3-venv, or provide a %s on the PATH", t.purpose, t.program)
	}
	if err := os.RemoveAll(b.path(t.name)); err != nil {
		return fmt.Errorf("fetch %s: %w", t.pip, err)
	}
	if err := runCommand(python, "-m", "venv", b.path(t.name)); err != nil {
		return fmt.Errorf("fetch %s: %w", t.pip, err)
	}
	if out, err := runBound(exec.Command(b.path(t.name+"/bin/pip"), "install", "--quiet", t.pip)); err != nil {
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		return fmt.Errorf("%s: pip install '%s', which requires PyPI or another index, or provide a %s on the PATH: %w: %s",
			t.purpose, t.pip, t.program, err, lines[len(lines)-1])
	}
	return nil
}

// downloadPackages downloads a package and those of its dependencies that are not
// installed.
func (b Binaries) downloadPackages(pkg string) (debs []string, err error) {
	// A separate state directory: that of apt requires root and may be outdated.
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
		fresh = false // the package lists may be outdated
	}
}

// runCommand runs a command and waits for it. An error contains its output.
func runCommand(name string, args ...string) error {
	if out, err := runBound(exec.Command(name, args...)); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
	}
	return nil
}

// commandEnv returns the environment of this process with the directories of the
// tools added.
func (b Binaries) commandEnv() []string {
	path := slices.Concat([]string{string(b), os.Getenv("PATH")}, sbin, b.programFolders())
	var libs []string
	for _, t := range fetchable {
		for _, pattern := range []string{"usr/lib/*-linux-gnu*", "lib/*-linux-gnu*", "usr/lib/*-linux-gnu*/frr"} {
			found, _ := filepath.Glob(b.path(filepath.Join(t.name, pattern)))
			libs = append(libs, found...)
		}
	}
	// A duplicate must be removed, because some programs use the first value.
	env := slices.DeleteFunc(os.Environ(), func(e string) bool { return strings.HasPrefix(e, "PATH=") })
	env = append(env, "PATH="+strings.Join(path, ":"))
	if len(libs) > 0 {
		env = append(env, "LD_LIBRARY_PATH="+strings.Join(libs, ":"))
	}
	if extensions, _ := filepath.Glob(b.path(IPTables.name + "/usr/lib/*-linux-gnu*/xtables")); len(extensions) > 0 {
		env = append(env, "XTABLES_LIBDIR="+extensions[0])
	}
	return env
}
