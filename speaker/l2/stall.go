package l2

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// postponeInterval is the wait before an announcement that is held is due again.
const postponeInterval = 10 * time.Millisecond

// hold decides whether the responders of an Announcer may send frames that assert an
// address, and detects that the process did not run for a while: it was stopped, had no
// CPU time, or the machine was suspended. The zero value permits all. It may be used
// concurrently.
type hold struct {
	mu        sync.Mutex
	isSet     bool          // by HoldAnswers
	stalls    int           // whose calls of stalled have not returned
	threshold time.Duration // 0: stalls are not detected
	stalled   func()
	lastRun   time.Duration // when the process last ran, by CLOCK_BOOTTIME
	stop      func()        // ends the goroutine that checks, and waits for it
}

// HoldAnswers sets whether the Announcer holds: until it is called with false, questions
// are not answered, claims of other hosts are not answered by announcements, and
// announcements are postponed. Probes and the observation of claims go on. It does not
// wait for a concurrent Set.
func (a *Announcer) HoldAnswers(hold bool) {
	a.hold.mu.Lock()
	defer a.hold.mu.Unlock()
	a.hold.isSet = hold
}

// SetStallThreshold makes the Announcer hold, as by HoldAnswers, when the process did not
// run for longer than d, because another node may have taken the addresses over. It then
// calls stalled, once for each time, from one of several goroutines, and holds until that
// returns. Nothing that asserts an address is sent in between, except a frame that was
// passed to the kernel at the moment at which the process was stopped. To go on holding,
// stalled calls HoldAnswers, whatever a concurrent call has set before. It must not block
// and must not call other methods of the Announcer.
//
// Time is that of CLOCK_BOOTTIME, which like CLOCK_MONOTONIC cannot be set, and includes
// the time for which the machine was suspended. A virtual machine whose clocks stop with
// it does not notice. 0 disables the detection, as does Close.
func (a *Announcer) SetStallThreshold(d time.Duration, stalled func()) {
	a.stallMu.Lock()
	defer a.stallMu.Unlock()
	h := &a.hold
	h.check() // a stall until now is one by the threshold before
	h.mu.Lock()
	stop, same := h.stop, d == h.threshold
	h.stalled = stalled
	if !same {
		h.threshold, h.stop, h.lastRun = d, nil, bootTime()
	}
	h.mu.Unlock()
	if same {
		return
	}
	if stop != nil {
		stop()
	}
	if d <= 0 {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		ticker := time.NewTicker(max(d/4, time.Millisecond))
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
				h.check()
			}
		}
	})
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stop = func() { cancel(); running.Wait() }
}

// check detects a stall, and reports whether frames that assert an address must not be
// sent. It must be called immediately before one is.
func (h *hold) check() (holds bool) {
	h.mu.Lock()
	isStall := false
	if h.threshold > 0 {
		now := bootTime()
		isStall = now-h.lastRun > h.threshold
		h.lastRun = now
	}
	if isStall {
		h.stalls++
	}
	holds, stalled := h.isSet || h.stalls > 0, h.stalled
	h.mu.Unlock()
	if isStall {
		stalled()
		h.mu.Lock()
		h.stalls--
		h.mu.Unlock()
	}
	return holds
}

// bootTime returns the time since the machine was started.
func bootTime() time.Duration {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		panic("clock_gettime: " + err.Error()) // never fails, by its documentation
	}
	return time.Duration(now.Nano())
}
