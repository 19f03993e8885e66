package l2

import (
	"bytes"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/mdlayher/packet"
	"golang.org/x/net/bpf"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

func BenchmarkAnswer(b *testing.B) {
	for _, f := range familyTests {
		b.Run(f.String(), func(b *testing.B) {
			mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
			r := &responder{family: f.family, ifi: net.Interface{HardwareAddr: mac}, tasks: map[netip.Addr]*task{f.vip: {addr: f.vip}}}
			frame := f.question(clientMAC, f.client, f.vip, nil)
			for b.Loop() {
				r.handle(b.Context(), frame)
			}
		})
	}
}

// BenchmarkTakeOver measures the announcement of addresses on a veth pair: the time until
// all have been announced once, the time that Set and Close take, the CPU time until then and in
// all, and the frames and the memory per address.
func BenchmarkTakeOver(b *testing.B) {
	for _, f := range familyTests {
		for _, n := range []int{1000, 5000, 20000} {
			b.Run(fmt.Sprintf("%s/%d", f, n), func(b *testing.B) { benchmarkTakeOver(b, f, n) })
		}
	}
}

func benchmarkTakeOver(b *testing.B, f familyTest, n int) {
	c := newVethPair(b, f.family)
	countAnnouncements(b, c.tap, f)
	claims := scatteredClaims(f, n, 1)
	perRound, inAll := len(f.announce(wireMAC, f.vip)), announceDelays[1]+announceDelays[2]
	var setDone, closeDone, last, cpuFirst, cpuAll time.Duration
	frames, memory := 0, int64(0)
	for b.Loop() {
		b.StopTimer()
		a := New(slog.New(slog.DiscardHandler), func() {})
		count := func() int {
			stats, err := c.tap.Stats() // counts dropped frames as well, and resets the count
			if err != nil {
				b.Fatal(err)
			}
			return int(stats.Packets)
		}
		count()
		heap, cpu, start := heapInUse(), cpuTime(b), time.Now()
		b.StartTimer()
		set := make(chan error)
		go func() {
			_, err := a.Set(b.Context(), claims)
			setDone += time.Since(start)
			set <- err
		}()
		round := 0
		for round < n*perRound {
			time.Sleep(time.Millisecond)
			if round += count(); time.Since(start) > testTimeout {
				b.Fatalf("%d frames within %s", round, testTimeout)
			}
		}
		last += time.Since(start)
		if err := <-set; err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		frames += round
		cpuFirst += cpuTime(b) - cpu
		// The rate limit delays the repetitions.
		time.Sleep(inAll + time.Duration(2*n)*sendInterval + time.Second)
		frames += count()
		cpuAll += cpuTime(b) - cpu
		memory += heapInUse() - heap
		closing := time.Now()
		a.Close()
		closeDone += time.Since(closing)
		b.StartTimer()
	}
	runs := float64(b.N)
	b.ReportMetric(last.Seconds()*1000/runs, "ms-first-frame-of-last")
	b.ReportMetric(setDone.Seconds()*1000/runs, "ms-Set")
	b.ReportMetric(closeDone.Seconds()*1000/runs, "ms-Close")
	b.ReportMetric(cpuFirst.Seconds()*1000/runs, "CPU-ms-first-round")
	b.ReportMetric(cpuAll.Seconds()*1000/runs, "CPU-ms-all")
	b.ReportMetric(float64(frames)/runs/float64(n), "frames/address")
	b.ReportMetric(float64(memory)/runs/float64(n)*1000/1024, "KiB/1000-addresses")
}

// countAnnouncements makes the tap receive only ARP and Neighbor Advertisements.
func countAnnouncements(b *testing.B, tap *packet.Conn, f familyTest) {
	if f.vip.Is4() {
		return
	}
	raw, err := bpf.Assemble(slices.Concat(
		requireField(offsetNextHeader, 1, protocolICMPv6), requireField(offsetICMPv6, 1, uint32(ipv6.ICMPTypeNeighborAdvertisement)),
		[]bpf.Instruction{bpf.RetConstant{Val: acceptAll}},
	))
	if err != nil {
		b.Fatal(err)
	}
	if err := tap.SetBPF(raw); err != nil {
		b.Fatal(err)
	}
}

// heapInUse returns the bytes of reachable objects.
func heapInUse() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// cpuTime returns the CPU time that the process has used, in user and kernel mode.
func cpuTime(b *testing.B) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkLatency measures the time of an answer on a veth pair, of the kernel and of
// an Announcer, for the same client with a raw socket.
func BenchmarkLatency(b *testing.B) {
	for _, f := range familyTests {
		for _, of := range []struct {
			name string
			addr netip.Addr
		}{{"kernel", f.own.Addr()}, {"Announcer", f.vip}} {
			b.Run(fmt.Sprintf("%s/%s", f, of.name), func(b *testing.B) {
				c := newVethPair(b, f.family)
				countAnnouncements(b, c.tap, f)
				a := New(slog.New(slog.DiscardHandler), func() {})
				defer a.Close()
				if _, err := a.Set(b.Context(), map[netip.Addr]Claim{f.vip: {Interfaces: []string{"vip0"}}}); err != nil {
					b.Fatal(err)
				}
				time.Sleep(announceDelays[1] + announceDelays[2] + 100*time.Millisecond) // the announcements are over
				question, buf := f.question(clientMAC, f.client, of.addr, nil), make([]byte, 1500)
				var took []time.Duration
				for b.Loop() {
					start := time.Now()
					c.sendFrame(b, question)
					for {
						if _, _, err := c.tap.ReadFrom(buf); err != nil {
							b.Fatal(err)
						}
						if bytes.Equal(buf[:6], clientMAC) {
							break
						}
					}
					took = append(took, time.Since(start))
				}
				slices.Sort(took)
				b.ReportMetric(float64(took[len(took)/2].Microseconds()), "µs-p50")
				b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "µs-p99")
			})
		}
	}
}
