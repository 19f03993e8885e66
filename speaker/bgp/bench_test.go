package bgp

import (
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// BenchmarkRoute measures the time from Set to the arrival of a route at a
// peer, among n others.
func BenchmarkRoute(b *testing.B) {
	for _, n := range []int{1, 1000, 10_000} {
		b.Run(fmt.Sprint("among ", n), func(b *testing.B) {
			r := newRouter(b)
			few := routesTo(prefixes(n, false)...)
			more := maps.Clone(few)
			extra := netip.MustParsePrefix("203.0.113.7/32")
			more[extra] = Attributes{}
			s, _ := runSpeaker(b, Config{[]Peer{r.peer("tor", few)}})
			r.awaitRoutes(few)
			var took []time.Duration
			for b.Loop() {
				started := time.Now()
				s.Set(Config{[]Peer{r.peer("tor", more)}})
				for !r.has(extra) {
					time.Sleep(10 * time.Microsecond)
				}
				took = append(took, time.Since(started))
				s.Set(Config{[]Peer{r.peer("tor", few)}})
				for r.has(extra) {
					time.Sleep(10 * time.Microsecond)
				}
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
		})
	}
}

func (r *fakeRouter) has(p netip.Prefix) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, ok := r.table[p]
	return ok
}

// BenchmarkSession measures the time from Run to the arrival of the last route
// at a peer.
func BenchmarkSession(b *testing.B) {
	for _, n := range []int{1, 1000} {
		b.Run(fmt.Sprint(n, " routes"), func(b *testing.B) {
			for b.Loop() {
				r := newRouter(b)
				want := routesTo(prefixes(n, false)...)
				_, stop := runSpeaker(b, Config{[]Peer{r.peer("tor", want)}})
				for len(want) > r.size() {
					time.Sleep(100 * time.Microsecond)
				}
				stop()
				r.close()
			}
		})
	}
}

func (r *fakeRouter) size() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.table)
}

// BenchmarkTable measures the time until BIRD has n routes, half of them IPv6,
// and a peer of the test the IPv4 ones: with new sessions, then for one more
// route, and then until BIRD has lost and received all. CPU and memory are
// those of the whole test, including its peer.
func BenchmarkTable(b *testing.B) {
	for _, n := range []int{1000, 10_000, 50_000} {
		b.Run(fmt.Sprint(n, " routes"), func(b *testing.B) {
			l := newLab(b)
			l.bird(strings.ReplaceAll(birdProtocol("local 192.0.2.254 as 64513; neighbor 192.0.2.1 as 64512;"), "kernel", "#"))
			until := func(n int) time.Duration {
				started := time.Now()
				for {
					output := l.birdc("show route protocol node count")
					if strings.Contains(output, fmt.Sprintf("Total: %d of", n)) || n == 0 && strings.Contains(output, "Total: 0 of") {
						return time.Since(started)
					}
					if time.Since(started) > time.Minute {
						b.Fatalf("BIRD has %s", output)
					}
					time.Sleep(5 * time.Millisecond)
				}
			}
			p := l.nodePeer()
			p.Routes = routesTo(append(prefixes(n/2, false), prefixes(n-n/2, true)...)...)
			for b.Loop() {
				own := newRouter(b)
				second := own.peer("own", p.Routes)
				before := cpuTime(b)
				s, stop := runSpeaker(b, Config{[]Peer{p, second}})
				took := until(n)
				for started := time.Now(); own.size() < n/2; took = max(took, time.Since(started)) {
					time.Sleep(time.Millisecond)
				}
				b.ReportMetric(took.Seconds(), "session-s")
				b.ReportMetric((cpuTime(b) - before).Seconds(), "cpu-s")
				b.ReportMetric(residentMB(b), "MB")

				extra := netip.MustParsePrefix("203.0.113.7/32")
				third := second
				third.Routes = maps.Clone(second.Routes)
				third.Routes[extra] = Attributes{}
				started := time.Now()
				s.Set(Config{[]Peer{p, third}})
				for !own.has(extra) {
					time.Sleep(10 * time.Microsecond)
				}
				b.ReportMetric(time.Since(started).Seconds()*1000, "one-more-ms")

				none := p
				none.Routes = nil
				s.Set(Config{[]Peer{none, third}})
				b.ReportMetric(until(0).Seconds(), "withdraw-s")
				s.Set(Config{[]Peer{p, third}})
				b.ReportMetric(until(n).Seconds(), "add-s")
				started = time.Now()
				stop()
				b.ReportMetric(time.Since(started).Seconds(), "stop-s")
				b.ReportMetric(until(0).Seconds(), "lost-s")
			}
		})
	}
}

// cpuTime returns the CPU time of this process.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// residentMB returns the resident memory of this process in MB.
func residentMB(b *testing.B) float64 {
	b.Helper()
	statm, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		b.Fatal(err)
	}
	var size, pages int
	if _, err := fmt.Sscan(string(statm), &size, &pages); err != nil {
		b.Fatal(err)
	}
	return float64(pages*os.Getpagesize()) / 1e6
}
