package bfd

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// hurry gives the caller a thread of its own that runs before others, until the
// function that it returns is called. It is real-time scheduling if the process
// may have it (CAP_SYS_NICE), because nothing less helps against other
// applications: the kernel shares a busy core between them first and then looks
// at priorities within each (sched(7), cgroups(7)). Else it is the best
// priority, else all stays as it is.
func hurry() (undo func()) {
	runtime.LockOSThread()
	before, err := unix.SchedGetAttr(0, 0)
	if err != nil {
		return runtime.UnlockOSThread
	}
	realTime := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: 1}
	if unix.SchedSetAttr(0, &realTime, 0) != nil {
		nice := *before
		nice.Nice = -20
		_ = unix.SchedSetAttr(0, &nice, 0)
	}
	return func() {
		_ = unix.SchedSetAttr(0, before, 0)
		runtime.UnlockOSThread()
	}
}
