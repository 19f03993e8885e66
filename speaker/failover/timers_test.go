package failover

import (
	"net/netip"
	"slices"
	"testing"
	"time"
)

const ms = time.Millisecond

// TestTimersOfTargets checks that the session with a node is as fast as the most demanding
// of the addresses that it is for, on both ends, and whatever their order.
func TestTimersOfTargets(t *testing.T) {
	slow, fast := Timers{300 * ms, 300 * ms, 3}, Timers{50 * ms, 50 * ms, 3}
	for _, tt := range []struct {
		name    string
		timers  []Timers
		want    Timers
		longest time.Duration
	}{
		{"one", []Timers{slow}, slow, 900 * ms},
		{"the shortest detection time", []Timers{slow, fast}, fast, 900 * ms},
		{"by the multiplier", []Timers{{100 * ms, 100 * ms, 9}, {200 * ms, 200 * ms, 3}}, Timers{200 * ms, 200 * ms, 3}, 900 * ms},
		{"by the longer interval", []Timers{{10 * ms, 400 * ms, 3}, {300 * ms, 90 * ms, 3}}, Timers{300 * ms, 90 * ms, 3}, 1200 * ms},
		{"equal, the shorter interval", []Timers{{100 * ms, 100 * ms, 3}, {50 * ms, 50 * ms, 6}}, Timers{50 * ms, 50 * ms, 6}, 300 * ms},
		{"equal, the shorter one to receive", []Timers{{100 * ms, 50 * ms, 3}, {100 * ms, 20 * ms, 3}}, Timers{100 * ms, 20 * ms, 3}, 300 * ms},
	} {
		for _, order := range []string{"forward", "backward"} {
			owner, successor := Targets{}, Targets{}
			for i, timers := range tt.timers {
				ranked := candidates(Live, Live, Live, Live)
				for j := range ranked {
					ranked[j].Timers = timers
				}
				for targets, self := range map[*Targets]string{&owner: "a", &successor: "c"} {
					address := Address{Self: self, Ranked: ranked, ScoreOf: func(string) uint64 { return 0 }, TookOver: noReport}
					targets.Add([]netip.Addr{addr1, addr2}[i], address, "a")
				}
			}
			for end, target := range map[string]Target{"owner": owner[Peer{"eth0", "c"}], "successor": successor[Peer{"eth0", "a"}]} {
				if target.Timers != tt.want || target.LongestDetection != tt.longest {
					t.Errorf("%s, %s, %s: %+v, longest %s, want %+v, %s", tt.name, order, end, target.Timers, target.LongestDetection, tt.want, tt.longest)
				}
			}
			slices.Reverse(tt.timers)
		}
	}
}
