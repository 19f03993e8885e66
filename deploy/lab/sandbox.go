package lab

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// innerEnv tells a process that it is the first one of a sandbox.
const innerEnv = "FAIRLEAD_LAB_SANDBOX"

// Inside reports whether this process is the first one of a sandbox.
func Inside() bool { return os.Getenv(innerEnv) != "" }

// Enter runs this program again, with the same arguments, as the first process
// of a new sandbox, and returns its exit code. When either of the two ends, for
// whatever reason, so does the other, and with the inner one every process,
// namespace and file of the sandbox. A cluster there runs the binaries of bin.
func Enter(bin Binaries) (exitCode int, err error) {
	return enterSandbox(func(int) error { return nil }, bin.environ())
}

// enterSandbox is Enter, which tells started the first process's ID as soon as it runs.
func enterSandbox(started func(pid int) error, env ...string) (exitCode int, err error) {
	// The inner process holds the reading end: it ends when the writer does.
	alive, here, err := os.Pipe()
	if err != nil {
		return 1, fmt.Errorf("make a pipe: %w", err)
	}
	defer here.Close()
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(append(os.Environ(), innerEnv+"=1"), env...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.ExtraFiles = []*os.File{alive} // descriptor 3
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC,
		Setpgid:    true, // Ctrl-C reaches the outer process, which passes it on once
	}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer signal.Stop(signals)
	if err := cmd.Start(); err != nil {
		return 1, fmt.Errorf("make namespaces: %w\n%s", err, sandboxHelp)
	}
	_ = alive.Close()
	if err := started(cmd.Process.Pid); err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return 1, err
	}
	go func() {
		for s := range signals {
			_ = cmd.Process.Signal(s)
		}
	}()
	err = cmd.Wait()
	var exited *exec.ExitError
	switch {
	case err == nil:
		return 0, nil
	case errors.As(err, &exited) && exited.Exited():
		return exited.ExitCode(), nil
	}
	return 1, fmt.Errorf("the sandbox ended: %w", err)
}

const sandboxHelp = `The lab needs namespaces. As an ordinary user it needs user namespaces, which this system does not allow:
  Ubuntu:  sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0
  others:  sudo sysctl user.max_user_namespaces=10000   or   sudo sysctl kernel.unprivileged_userns_clone=1
Or run the same command as root.`

// setUpSandbox makes the sandbox fit to live in. It runs once, as its first process.
func setUpSandbox() error {
	go func() {
		_, _ = io.Copy(io.Discard, os.NewFile(3, "alive"))
		if dir := os.Getenv(keptEnv); dir != "" {
			_ = os.RemoveAll(dir)
		}
		os.Exit(1) // the outer process is gone; the kernel ends the rest with us
	}()
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w\n%s", err, sandboxHelp)
	}
	for _, m := range []struct{ kind, target string }{{"proc", "/proc"}, {"sysfs", "/sys"}, {"tmpfs", "/run"}} {
		if err := unix.Mount(m.kind, m.target, m.kind, 0, ""); err != nil {
			return fmt.Errorf("mount %s on %s: %w\n%s", m.kind, m.target, err, sandboxHelp)
		}
	}
	for _, dir := range []string{runDir, netnsDir, logDir} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("make the lab's folders: %w", err)
		}
	}
	return nil
}

// Folders of the sandbox, on a tmpfs that ends with it.
const (
	runDir   = "/run/fairlead-lab"
	netnsDir = "/run/netns"
	logDir   = runDir + "/log"
)

// Root is the repository's root folder, found from the current one upwards.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find the repository: %w", err)
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		b, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && strings.HasPrefix(string(b), "module github.com/fairlead-io/fairlead\n") {
			return dir, nil
		}
	}
	return "", errors.New("find the repository: no go.mod of github.com/fairlead-io/fairlead in this folder or above")
}
