package bfd

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// raisePriority locks the caller to a thread, and raises the thread's priority
// until restore is called: to real-time scheduling with CAP_SYS_NICE, otherwise
// to the best nice value, and not at all if that is not permitted either. Only
// real-time scheduling helps against other applications: the kernel divides a
// busy core among them first, and considers nice values within each (sched(7),
// cgroups(7)).
func raisePriority() (restore func()) {
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
