package lab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"

	"golang.org/x/sys/unix"
)

// RunWith replaces this process by a command with the fetched tools on its PATH and
// with the users of FRR and OpenBGPD, for tests that run routers themselves. For root,
// the command has its own mount namespace. For an ordinary user the users cannot be
// added, so FRR and OpenBGPD cannot run.
func (b Binaries) RunWith(command []string) error {
	if len(command) == 0 {
		return errors.New("the arguments must be: with COMMAND …")
	}
	env := b.commandEnv()
	if os.Geteuid() == 0 {
		runtime.LockOSThread() // the mount namespace is that of the thread, which the command replaces
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("create a mount namespace: %w", err)
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return fmt.Errorf("make mounts private: %w", err)
		}
		dir, err := os.MkdirTemp(string(b), "users-")
		if err != nil {
			return fmt.Errorf("add the routers' users: %w", err)
		}
		if err := addRouterUsers(dir); err != nil {
			return err
		}
		_ = os.RemoveAll(dir) // the mounts keep the files
	}
	program, err := exec.LookPath(command[0])
	if err != nil {
		return fmt.Errorf("with: %w", err)
	}
	return unix.Exec(program, command, env)
}
