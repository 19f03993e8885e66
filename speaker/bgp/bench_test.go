package bgp

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// BenchmarkRoute is the time from Set to a route's arrival at a peer, among n others.
func BenchmarkRoute(b *testing.B) {
	for _, n := range []int{1, 1000, 10_000} {
		b.Run(fmt.Sprint("among ", n), func(b *testing.B) {
			r := newRouter(b)
			few := routesTo(prefixes(n, false)...)
			more := maps.Clone(few)
			extra := netip.MustParsePrefix("203.0.113.7/32")
			more[extra] = Attributes{}
			s, _ := runSpeaker(b, State{[]Peer{r.peer("tor", few)}})
			r.knows(few)
			var took []time.Duration
			for b.Loop() {
				started := time.Now()
				s.Set(State{[]Peer{r.peer("tor", more)}})
				for !r.has(extra) {
					time.Sleep(10 * time.Microsecond)
				}
				took = append(took, time.Since(started))
				s.Set(State{[]Peer{r.peer("tor", few)}})
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

func (r *router) has(p netip.Prefix) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, ok := r.table[p]
	return ok
}

// BenchmarkSession is the time from Run to the last route at a peer.
func BenchmarkSession(b *testing.B) {
	for _, n := range []int{1, 1000} {
		b.Run(fmt.Sprint(n, " routes"), func(b *testing.B) {
			for b.Loop() {
				r := newRouter(b)
				want := routesTo(prefixes(n, false)...)
				_, stop := runSpeaker(b, State{[]Peer{r.peer("tor", want)}})
				for len(want) > r.size() {
					time.Sleep(100 * time.Microsecond)
				}
				stop()
				r.close()
			}
		})
	}
}

func (r *router) size() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.table)
}

// BenchmarkTable is the time for n routes to BIRD: with a new session, then
// added to one, then withdrawn. Half of them are IPv6.
func BenchmarkTable(b *testing.B) {
	for _, n := range []int{1000, 10_000, 50_000} {
		b.Run(fmt.Sprint(n, " routes"), func(b *testing.B) {
			l := newLab(b)
			l.bird(strings.ReplaceAll(birdProtocol("local 192.0.2.254 as 64513; neighbor 192.0.2.1 as 64512;"), "kernel", "#"))
			until := func(n int) time.Duration {
				started := time.Now()
				for {
					said := l.birdc("show route protocol node count")
					if strings.Contains(said, fmt.Sprintf("Total: %d of", n)) || n == 0 && strings.Contains(said, "Total: 0 of") {
						return time.Since(started)
					}
					if time.Since(started) > time.Minute {
						b.Fatalf("BIRD has %s", said)
					}
					time.Sleep(5 * time.Millisecond)
				}
			}
			p := l.node()
			p.Routes = routesTo(append(prefixes(n/2, false), prefixes(n-n/2, true)...)...)
			for b.Loop() {
				s, stop := runSpeaker(b, State{[]Peer{p}})
				b.ReportMetric(until(n).Seconds(), "session-s")
				none := p
				none.Routes = nil
				s.Set(State{[]Peer{none}})
				b.ReportMetric(until(0).Seconds(), "withdraw-s")
				s.Set(State{[]Peer{p}})
				b.ReportMetric(until(n).Seconds(), "add-s")
				started := time.Now()
				stop()
				b.ReportMetric(time.Since(started).Seconds(), "stop-s")
				b.ReportMetric(until(0).Seconds(), "lost-s")
			}
		})
	}
}
