package l2

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mdlayher/packet"
)

// announcerEnv is the address that a process announces on vip0 instead of running tests.
const announcerEnv = "FAIRLEAD_L2_ANNOUNCE"

const testStallThreshold = 200 * time.Millisecond

// runAnnouncer announces the address until the input ends. It writes a line when it has
// stalled, and ends the hold for each line that it reads.
func runAnnouncer(addr string) error {
	a := New(slog.New(slog.DiscardHandler), func() {})
	defer a.Close()
	a.SetStallThreshold(testStallThreshold, func() { a.HoldAnswers(true); fmt.Println("stalled") })
	if _, err := a.Set(context.Background(), map[netip.Addr]Claim{netip.MustParseAddr(addr): {Interfaces: []string{"vip0"}}}); err != nil {
		return err
	}
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		a.HoldAnswers(false)
	}
	return nil
}

// TestStall stops a process with an Announcer, which is asked every millisecond, and
// checks that between its continuation and the end of the hold nothing is sent, neither
// answers nor announcements that have become due meanwhile.
func TestStall(t *testing.T) {
	testFamilies(t, func(t *testing.T, f familyTest) {
		c := newVethPair(t, f.family)
		sent := countFrames(t, c, f)
		done := make(chan struct{})
		asking := make(chan struct{})
		go func() {
			defer close(asking)
			question := f.question(clientMAC, f.client, f.vip, nil)
			for ticker := time.NewTicker(time.Millisecond); ; {
				select {
				case <-done:
					return
				case <-ticker.C:
					_, _ = c.tap.WriteTo(question, &packet.Addr{HardwareAddr: question[:6]})
				}
			}
		}()
		defer func() { close(done); <-asking }()

		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), announcerEnv+"="+f.vip.String())
		cmd.Stderr = os.Stderr
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() {
			_ = in.Close()
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}()
		stalls := make(chan string, 100)
		go func() {
			for lines := bufio.NewScanner(out); lines.Scan(); {
				stalls <- lines.Text()
			}
		}()
		for _, pause := range []time.Duration{300 * time.Millisecond, 2 * time.Second} {
			before := sent.Load()
			eventually(t, "it answers", func() bool { return sent.Load() > before+10 })
			if err := cmd.Process.Signal(syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			eventually(t, "it is stopped", func() bool { return isStopped(t, cmd.Process.Pid) })
			eventually(t, "what it has sent is counted", func() bool {
				before = sent.Load()
				time.Sleep(200 * time.Millisecond)
				return sent.Load() == before
			})
			time.Sleep(pause)
			if err := cmd.Process.Signal(syscall.SIGCONT); err != nil {
				t.Fatal(err)
			}
			select {
			case <-stalls:
			case <-time.After(testTimeout):
				t.Fatal("the stall was not reported")
			}
			time.Sleep(3 * testStallThreshold)
			// One may have been on its way to the kernel when the process was stopped.
			if n := sent.Load() - before; n > 1 {
				t.Errorf("stopped for %s: %d frames were sent before the end of the hold", pause, n)
			} else if n == 1 {
				t.Logf("stopped for %s: a frame was sent that was in flight", pause)
			}
			if len(stalls) > 0 {
				t.Errorf("stopped for %s: reported %d times", pause, 1+len(stalls))
			}
			if _, err := io.WriteString(in, "release\n"); err != nil {
				t.Fatal(err)
			}
		}
		before := sent.Load()
		eventually(t, "it answers again", func() bool { return sent.Load() > before })
	})
}

// countFrames counts the frames that vip0 sends for the address.
func countFrames(t *testing.T, c *vethPair, f familyTest) *atomic.Int64 {
	t.Helper()
	tap, err := packet.Listen(c.lan, packet.Raw, int(f.etherType()), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tap.Close() })
	var count atomic.Int64
	go func() {
		buf := make([]byte, 1500)
		for {
			n, _, err := tap.ReadFrom(buf)
			if err != nil {
				return
			}
			if addr, ok := f.announcedAddr(buf[:n]); ok && addr == f.vip && bytes.Equal(buf[6:12], c.speaker.HardwareAddr) {
				count.Add(1)
			}
		}
	}()
	return &count
}

// isStopped reports whether all threads of a process are stopped.
func isStopped(t *testing.T, pid int) bool {
	t.Helper()
	all, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil || len(all) == 0 {
		t.Fatalf("threads %v: %v", all, err)
	}
	for _, path := range all {
		if stat, err := os.ReadFile(path); err != nil || !strings.Contains(string(stat), ") T ") {
			return false
		}
	}
	return true
}

// TestHoldAnswers checks that neither answers nor announcements are sent while the
// Announcer holds, that probes are, that claims are observed, and that announcements
// follow.
func TestHoldAnswers(t *testing.T) {
	testFamilies(t, func(t *testing.T, f familyTest) {
		synctest.Test(t, func(t *testing.T) {
			r, s := newSimulatedResponder(t, f.family, wireMAC, func() {})
			defer r.closeAndWait()
			a := &Announcer{hold: hold{}}
			r.hold = &a.hold // no goroutine has used it yet
			first := f.announce(wireMAC, f.vip)
			a.HoldAnswers(true)
			if err := r.set(map[netip.Addr]mode{f.vip: announcing, f.other: probing}); err != nil {
				t.Fatal(err)
			}
			s.sendFrame(t, f.question(clientMAC, f.client, f.vip, nil))
			s.sendFrame(t, f.announce(otherMAC, f.vip)[0]) // a claim
			time.Sleep(time.Minute)
			synctest.Wait()
			for range probes {
				if got, want := describe(t, <-s.out), describe(t, f.probe(wireMAC, f.other)); got != want {
					t.Errorf("sent %s, want %s", got, want)
				}
			}
			if len(s.out) > 0 {
				t.Errorf("sent %s during the hold", describe(t, <-s.out))
			}
			if !r.claimants.has(f.vip) {
				t.Error("the claim was not observed")
			}
			a.HoldAnswers(false)
			want := len(first) + len(announceDelays) - 1
			time.Sleep(2 * postponeInterval)
			synctest.Wait()
			if len(s.out) != len(first) || !bytes.Equal(<-s.out, first[0]) {
				t.Errorf("%d frames after the hold, want the %d of the first announcement", len(s.out), len(first))
			}
			time.Sleep(time.Minute)
			synctest.Wait()
			if len(s.out) != want-1 {
				t.Errorf("%d frames in total, want %d", len(s.out)+1, want)
			}
			for len(s.out) > 0 {
				<-s.out
			}
			s.sendFrame(t, f.question(clientMAC, f.client, f.vip, nil))
			synctest.Wait()
			if len(s.out) != 1 {
				t.Errorf("%d answers after the hold", len(s.out))
			}
		})
	})
}

// TestReannounce checks that an announced address is announced from the start again, once
// a second, and that no other one is.
func TestReannounce(t *testing.T) {
	testFamilies(t, func(t *testing.T, f familyTest) {
		synctest.Test(t, func(t *testing.T) {
			r, s := newSimulatedResponder(t, f.family, wireMAC, func() {})
			defer r.closeAndWait()
			a := &Announcer{responders: map[socketKey]*responder{{"vip0", f.family}: r}}
			if err := r.set(map[netip.Addr]mode{f.vip: announcing, f.other: withholding}); err != nil {
				t.Fatal(err)
			}
			all := len(f.announce(wireMAC, f.vip)) + len(announceDelays) - 1
			frames := func() (n int) {
				synctest.Wait()
				for len(s.out) > 0 {
					if describe(t, <-s.out) != describe(t, f.probe(wireMAC, f.other)) {
						n++
					}
				}
				return n
			}
			first := len(f.announce(wireMAC, f.vip))
			addrs := []netip.Addr{f.vip, f.other, f.client}
			a.Reannounce(addrs) // while the first announcement is due
			time.Sleep(10 * time.Millisecond)
			if n := frames(); n != first {
				t.Errorf("%d frames at first, want %d", n, first)
			}
			a.Reannounce(addrs)
			time.Sleep(time.Minute)
			if n := frames(); n != all-first {
				t.Errorf("%d frames within a second, want the %d repetitions only", n, all-first)
			}
			for range 3 {
				a.Reannounce(addrs)
				time.Sleep(10 * time.Millisecond)
				if n := frames(); n != first {
					t.Errorf("%d frames at once, want %d", n, first)
				}
				for range 5 {
					a.Reannounce(addrs)
				}
				time.Sleep(reannounceInterval * 9 / 10)
				if n := frames(); n != 0 {
					t.Errorf("%d frames within a second", n)
				}
				time.Sleep(reannounceInterval / 2)
				if n := frames(); n != 1 {
					t.Errorf("%d frames in the second after it, want the first repetition", n)
				}
			}
			time.Sleep(time.Minute)
			if n := frames(); n != 1 {
				t.Errorf("%d frames later, want the last repetition", n)
			}
		})
	})
}

// TestStallBeforeSetStallThreshold checks that a stall is not missed because the threshold
// is set, to the same or another value, before anything else has run.
func TestStallBeforeSetStallThreshold(t *testing.T) {
	const threshold = time.Minute
	for _, next := range []time.Duration{threshold, threshold / 2, 10 * threshold, 0} {
		a := New(slog.New(slog.DiscardHandler), func() {})
		var stalls atomic.Int32
		set := func(d time.Duration) { a.SetStallThreshold(d, func() { a.HoldAnswers(true); stalls.Add(1) }) }
		set(threshold)
		if set(next); stalls.Load() != 0 {
			t.Errorf("%s: a stall without one", next)
		}
		set(threshold)
		a.hold.mu.Lock()
		a.hold.lastRun -= 2 * threshold
		a.hold.mu.Unlock()
		set(next)
		if holds := a.hold.check(); stalls.Load() != 1 || !holds {
			t.Errorf("%s: %d stalls, holds %v, want 1 and true", next, stalls.Load(), holds)
		}
		a.Close()
	}
}

// TestHoldDuringStall checks that the Announcer holds until the function of SetStallThreshold
// has returned, also if the hold is ended by a concurrent call.
func TestHoldDuringStall(t *testing.T) {
	const threshold = time.Minute
	for _, holdsOn := range []bool{false, true} {
		a := New(slog.New(slog.DiscardHandler), func() {})
		a.SetStallThreshold(threshold, func() {
			a.HoldAnswers(false)
			if !a.hold.check() {
				t.Error("the hold has ended before the function has returned")
			}
			a.HoldAnswers(holdsOn)
		})
		a.hold.mu.Lock()
		a.hold.lastRun -= 2 * threshold
		a.hold.mu.Unlock()
		if !a.hold.check() {
			t.Error("the stall was not noticed")
		}
		if got := a.hold.check(); got != holdsOn {
			t.Errorf("holds %v after the function has set %v", got, holdsOn)
		}
		a.Close()
	}
}

// TestRemovedBeforeSend checks that a frame which was made while an address was announced is
// not sent after it has been removed, or while the Announcer holds.
func TestRemovedBeforeSend(t *testing.T) {
	testFamilies(t, func(t *testing.T, f familyTest) {
		synctest.Test(t, func(t *testing.T) {
			r, s := newSimulatedResponder(t, f.family, wireMAC, func() {})
			defer r.closeAndWait()
			a := &Announcer{hold: hold{}}
			r.hold = &a.hold // no goroutine has used it yet
			frames := func() (n int) {
				for synctest.Wait(); len(s.out) > 0; n++ {
					<-s.out
				}
				return n
			}
			if err := r.set(map[netip.Addr]mode{f.vip: announcing}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
			frames()
			answer := r.handle(t.Context(), f.question(clientMAC, f.client, f.vip, nil))
			if r.send(t.Context(), answer); frames() != 1 {
				t.Error("the answer was not sent")
			}
			a.HoldAnswers(true)
			if r.send(t.Context(), answer); frames() != 0 {
				t.Error("the answer was sent during the hold")
			}
			for _, desired := range []map[netip.Addr]mode{{f.vip: withholding}, {}} {
				if err := r.set(desired); err != nil {
					t.Fatal(err)
				}
				a.HoldAnswers(false)
				frames()
				if r.send(t.Context(), answer); frames() != 0 {
					t.Errorf("the answer was sent after set(%v)", desired)
				}
			}
		})
	})
}
