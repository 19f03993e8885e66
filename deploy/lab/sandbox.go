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

// innerEnv is set for the first process of a sandbox.
const innerEnv = "FAIRLEAD_LAB_SANDBOX"

// Inside reports whether this process is the first one of a sandbox.
func Inside() bool { return os.Getenv(innerEnv) != "" }

// Enter runs this program again, with the same arguments, as the first process of a
// new sandbox, and returns its exit code. When either process ends for any reason,
// the other one ends as well, and with the inner one all processes, namespaces and
// files of the sandbox. A cluster in the sandbox runs the binaries of bin.
func Enter(bin Binaries) (exitCode int, err error) {
	return enterSandbox(func(int) error { return nil }, bin.environ())
}

// enterSandbox implements Enter. It calls started with the ID of the first process as
// soon as the process runs.
func enterSandbox(started func(pid int) error, env ...string) (exitCode int, err error) {
	// The inner process reads from the pipe, and ends when the outer one closes it.
	alive, here, err := os.Pipe()
	if err != nil {
		return 1, fmt.Errorf("create a pipe: %w", err)
	}
	defer here.Close()
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(append(os.Environ(), innerEnv+"=1"), env...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.ExtraFiles = []*os.File{alive} // descriptor 3
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC,
		Setpgid:    true, // the outer process forwards Ctrl-C once
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
		return 1, fmt.Errorf("create namespaces: %w\n%s", err, sandboxHelp)
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

const sandboxHelp = `The lab requires namespaces. For an ordinary user it requires user namespaces, which this system does not allow:
  Ubuntu:  sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0
  others:  sudo sysctl user.max_user_namespaces=10000   or   sudo sysctl kernel.unprivileged_userns_clone=1
Or run the same command as root.`

// setUpSandbox mounts the file systems of the sandbox. The first process must call it
// once.
func setUpSandbox() error {
	go func() {
		_, _ = io.Copy(io.Discard, os.NewFile(3, "alive"))
		if dir := os.Getenv(keptEnv); dir != "" {
			_ = os.RemoveAll(dir)
		}
		os.Exit(1) // the outer process has ended; the kernel kills all processes of the sandbox
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
			return fmt.Errorf("create the directories of the lab: %w", err)
		}
	}
	return nil
}

// Directories of the sandbox, on a tmpfs that is removed with it.
const (
	runDir   = "/run/fairlead-lab"
	netnsDir = "/run/netns"
	logDir   = runDir + "/log"
)

// Root returns the root directory of the repository that contains the current
// directory.
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
	return "", errors.New("find the repository: no go.mod of github.com/fairlead-io/fairlead in this directory or its parents")
}
