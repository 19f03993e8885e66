package lab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"

	"golang.org/x/sys/unix"
)

// RunWith runs a command in place of this process, with the tools that were fetched
// on its PATH and the users of FRR and OpenBGPD known, for tests that run routers
// themselves. As root only the mounts are the command's own; an ordinary user's
// command gets neither user, and so neither router.
func (b Binaries) RunWith(command []string) error {
	if len(command) == 0 {
		return errors.New("with: which command?")
	}
	env := b.commandEnv()
	if os.Geteuid() == 0 {
		runtime.LockOSThread() // mounts are the thread's, and the command is run in its place
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("make mounts of our own: %w", err)
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
