package bfd

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// manyKeys returns the keys of n sessions from one address to others, and the keys
// that the other ends use.
func manyKeys(n int) (one, others []Key) {
	for i := range n {
		peer := netip.AddrFrom4([4]byte{10, 0, byte(1 + i/250), byte(1 + i%250)})
		one = append(one, Key{Peer: peer})
		others = append(others, Key{Peer: netip.MustParseAddr("10.0.0.1"), Local: peer})
	}
	return one, others
}

// runPeer runs the other end of manySessions in a separate process.
func runPeer(sessions, every string) error {
	count, err := strconv.Atoi(sessions)
	if err != nil {
		return err
	}
	interval, err := time.ParseDuration(every)
	if err != nil {
		return err
	}
	e := New(slog.New(slog.DiscardHandler), func(Key, Status) {})
	_, others := manyKeys(count)
	if err := e.Set(uniformProfiles(others, interval)); err != nil {
		return err
	}
	return e.Run(context.Background())
}

func uniformProfiles(keys []Key, interval time.Duration) map[Key]Profile {
	all := make(map[Key]Profile, len(keys))
	for _, k := range keys {
		all[k] = Profile{Transmit: interval, Receive: interval, Multiplier: 3}
	}
	return all
}

// manySessions runs n sessions to another process and waits until all are up.
func manySessions(t testing.TB, n int, interval time.Duration) *runningEngine {
	t.Helper()
	cmd := commandInRole(rolePeer, strconv.Itoa(n), interval.String())
	cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWNET
	cmd.Stderr = os.Stderr
	startProcess(t, cmd)
	one, others := manyKeys(n)
	addrs := []string{"10.0.0.1/16"}
	for _, k := range others {
		addrs = append(addrs, k.Local.String()+"/16", "")
	}
	here := &node{os.Getpid()}
	connectNodes(t, "many0", here, &node{cmd.Process.Pid}, addrs...)
	t.Cleanup(func() { must(t, deleteInterface("many0")) })
	h := newRunningEngine(t, func(run func() error) error { return run() })
	h.setProfiles(t, uniformProfiles(one, interval))
	eventually(t, func() string { return fmt.Sprintf("not all of %d sessions came up: %+v", n, h.Status()) }, func() bool {
		up, _ := h.countSessions()
		return up == n
	})
	time.Sleep(time.Second) // the first packets wait for ARP and may arrive out of order
	return h
}

// countSessions returns how many sessions are Up, and how often any has left Up.
func (h *runningEngine) countSessions() (up, flaps int) {
	for _, s := range h.Status() {
		if s.State == Up {
			up++
		}
		flaps += s.Flaps
	}
	return up, flaps
}

func cpu(b testing.TB) time.Duration {
	var used unix.Rusage
	must(b, unix.Getrusage(unix.RUSAGE_SELF, &used))
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// BenchmarkSessions measures the cost of sessions with an interval of 100 ms.
func BenchmarkSessions(b *testing.B) {
	for _, n := range []int{1, 10, 100, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			h := manySessions(b, n, 100*ms)
			_, before := h.countSessions()
			used, begun := cpu(b), time.Now()
			var memory, now runtime.MemStats
			runtime.ReadMemStats(&memory)
			for b.Loop() {
				time.Sleep(time.Second)
			}
			runtime.ReadMemStats(&now)
			share := (cpu(b) - used).Seconds() / time.Since(begun).Seconds()
			b.ReportMetric(100*share, "%core")
			b.ReportMetric(1e6*share/float64(n), "µs/session/s")
			b.ReportMetric(float64(now.Mallocs-memory.Mallocs)/time.Since(begun).Seconds()/float64(n), "mallocs/session/s")
			if up, after := h.countSessions(); up < n || after > before {
				b.Errorf("%d of %d are up, with %d flaps", up, n, after-before)
			}
		})
	}
}

// TestBusyMachine checks that no session goes down while two other processes per
// core are busy. FAIRLEAD_BFD_BUSY sets the duration, 5s by default.
func TestBusyMachine(t *testing.T) {
	duration := 5 * time.Second
	if d, err := time.ParseDuration(os.Getenv("FAIRLEAD_BFD_BUSY")); err == nil {
		duration = d
	}
	h := manySessions(t, 10, 50*ms)
	_, before := h.countSessions()
	for range 2 * runtime.NumCPU() {
		startProcess(t, commandInRole(roleBurner))
	}
	time.Sleep(duration)
	if up, after := h.countSessions(); up < 10 || after > before {
		t.Errorf("%d of 10 sessions are up, with %d flaps", up, after-before)
	}
}
