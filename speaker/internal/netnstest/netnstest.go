// Package netnstest runs a package's tests in a network namespace of their own,
// and skips tests that the machine cannot run. Only tests may import it.
package netnstest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
)

// insideEnv is set for the process that runs in the namespaces.
const insideEnv = "FAIRLEAD_NETNS_TEST"

// Run runs the tests in new network and mount namespaces, without root in a user
// namespace around them, and returns the code to exit with. It runs the test
// binary again for that; in the second process it calls setup first, if any.
func Run(m *testing.M, setup ...func() error) (code int) {
	if os.Getenv(insideEnv) != "" {
		for _, s := range setup {
			if err := s(); err != nil {
				fmt.Fprintf(os.Stderr, "set up the network namespace: %v\n", err)
				return 1
			}
		}
		return m.Run()
	}
	runtime.LockOSThread() // the process below ends with the thread that started it
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), insideEnv+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL,
		// A session of its own puts these tests into another scheduling group than
		// concurrent ones (sched(7), autogroups).
		Setsid: true,
	}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	err := cmd.Run()
	var exited *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exited):
		return exited.ExitCode()
	}
	fmt.Fprintf(os.Stderr, "these tests need a network namespace: %v\nAllow user namespaces, or run them as root.\n", err)
	return 1
}

// Skip skips a test that the machine cannot run, with the reason. With
// FAIRLEAD_NO_SKIP=1 the test fails instead.
func Skip(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv("FAIRLEAD_NO_SKIP") == "1" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}
