package failover

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// candidates returns the nodes a, b, …, best first, in the states.
func candidates(states ...State) (ranked []Candidate) {
	for i, s := range states {
		name := string(rune('a' + i))
		ranked = append(ranked, Candidate{Peer: Peer{"eth0", name}, Score: uint64(100 - i), Status: Status{State: s}})
	}
	return ranked
}

func noReport(string, string) bool { return false }

func unknownFresh(string) (fresh, known bool) { return false, false }

func knownFresh(fresh bool) func(string) (bool, bool) {
	return func(string) (bool, bool) { return fresh, true }
}

func TestDecide(t *testing.T) {
	from := func(node string, tookOver bool) Holder { return Holder{Peer{"eth0", node}, tookOver} }
	held := func(verified Holder) func(*Address) { return func(a *Address) { a.Held, a.Verified = true, verified } }
	for _, tt := range []struct {
		name   string
		self   string
		states []State // of a, b, …
		change func(*Address)
		do     Action
		acting string
	}{
		{"best, nothing known", "a", []State{Unknown, Live}, nil, Ask, "a"},
		{"not the best", "b", []State{Live, Unknown}, nil, None, "a"},
		{"the better one is gone", "b", []State{Gone, Unknown}, func(a *Address) { a.Expected = "a" }, Announce, "b"},
		{"the better one is gone, but has never answered", "b", []State{Gone, Unknown}, nil, Ask, "b"},
		{"the better one leaves", "b", []State{Leaving, Unknown}, func(a *Address) { a.Expected = "a" }, Announce, "b"},
		{"the better one is gone, and had it not", "b", []State{Gone, Unknown, Live}, func(a *Address) { a.Expected = "c" }, Ask, "b"},
		{"two are gone", "c", []State{Gone, Gone, Unknown}, func(a *Address) { a.Expected = "b" }, Announce, "c"},
		{"one of two is gone", "c", []State{Gone, Live, Unknown}, nil, None, "b"},
		{"reported as gone, like this node before a restart", "b", []State{Live, Unknown, Live}, func(a *Address) {
			a.TookOver = func(reporter, _ string) bool { return reporter == "c" }
		}, None, "c"},
		{"reported as gone, by a node that has not taken over from this one", "b", []State{Live, Unknown, Live}, func(a *Address) {
			a.TookOver = func(reporter, node string) bool { return reporter == "c" && node == "a" }
		}, None, "a"},
		{"reported as gone", "c", []State{Live, Live, Unknown}, func(a *Address) {
			a.TookOver = func(reporter, node string) bool { return reporter == "b" && node == "a" }
		}, None, "b"},
		{"the owner is not eligible any more", "a", []State{Unknown, Live}, func(a *Address) { a.Expected = "z" }, Announce, "a"},
		{"not eligible", "z", []State{Live}, nil, None, "a"},
		{"none is eligible", "z", nil, nil, None, ""},

		{"another one has it", "a", []State{Unknown, Live}, func(a *Address) { a.Holder = "b" }, Wait, "b"},
		{"taken back", "a", []State{Unknown, Live}, func(a *Address) { a.Holder, a.Expected, a.TakesBack = "b", "b", true }, Announce, "a"},
		{"not asked yet", "a", []State{Unknown, Live}, func(a *Address) { a.Holder, a.TakesBack = "b", true }, Ask, "a"},
		{"one that is not eligible has it, and may not know", "a", []State{Unknown, Live}, func(a *Address) {
			a.Others = []Candidate{{Peer: Peer{"eth0", "z"}, Status: Status{State: Live}}}
			a.Holder, a.ScoreOf = "z", func(node string) uint64 { return map[string]uint64{"z": 1}[node] }
		}, Ask, "a"},
		{"does not serve it, and another one has it", "a", []State{Unknown, Live}, func(a *Address) {
			a.Holder, a.Expected, a.TakesBack, a.Serves = "b", "b", true, false
		}, Wait, "b"},
		{"does not serve it, and the owner is not eligible any more", "a", []State{Unknown, Live}, func(a *Address) {
			a.Others = []Candidate{{Peer: Peer{"eth0", "z"}, Status: Status{State: Live}}}
			a.Expected, a.Serves = "z", false
		}, Wait, "z"},
		{"does not serve it, and it is late", "a", []State{Unknown, Live}, func(a *Address) {
			a.Expected, a.Serves, a.Late = "b", false, true
		}, Ask, "a"},
		{"does not serve it, it is late, and another one has it", "a", []State{Unknown, Live}, func(a *Address) {
			a.Holder, a.Expected, a.Serves, a.Late, a.TakesBack = "b", "b", false, true, true
		}, Wait, "b"},
		{"serves it, and the owner is not eligible any more", "a", []State{Unknown, Live}, func(a *Address) {
			a.Others = []Candidate{{Peer: Peer{"eth0", "z"}, Status: Status{State: Live}}}
			a.Expected = "z"
		}, Announce, "a"},
		{"does not serve it, and the owner is gone", "b", []State{Gone, Unknown}, func(a *Address) {
			a.Expected, a.Serves = "a", false
		}, Announce, "b"},
		{"does not serve it, and nothing is known", "a", []State{Unknown, Live}, func(a *Address) { a.Serves = false }, Ask, "a"},
		{"a stale node takes nothing back", "a", []State{Unknown, Live}, func(a *Address) {
			a.Holder, a.TakesBack, a.Fresh, a.PeerFresh = "b", true, false, knownFresh(true)
		}, Wait, "b"},
		{"the holder is gone", "a", []State{Unknown, Gone}, func(a *Address) { a.Holder, a.Expected = "b", "b" }, Announce, "a"},
		{"the holder is gone, and had stopped before", "a", []State{Unknown, Gone}, func(a *Address) { a.Holder = "b" }, Ask, "a"},

		{"kept", "b", []State{Live, Unknown}, func(a *Address) { a.Held = true }, Keep, "b"},
		{"kept against a lower rank", "a", []State{Unknown, Live}, held(from("b", false)), Keep, "a"},
		{"yielded to a higher rank", "b", []State{Live, Unknown}, held(from("a", false)), None, "a"},
		{"yielded to a takeover", "a", []State{Unknown, Live}, held(from("b", true)), None, "b"},
		{"not yielded to a leaving one", "b", []State{Leaving, Unknown}, held(from("a", false)), Keep, "b"},
		{"not yielded to one that leaves and is not eligible", "a", []State{Unknown}, func(a *Address) {
			a.Held, a.Verified, a.ScoreOf = true, from("z", false), func(node string) uint64 { return map[string]uint64{"z": 1}[node] }
			a.Others = []Candidate{{Peer: Peer{"eth0", "z"}, Status: Status{State: Leaving}}}
		}, Keep, "a"},
		{"stale: yielded", "a", []State{Unknown, Live}, func(a *Address) {
			a.Held, a.Verified, a.Fresh, a.PeerFresh = true, from("b", false), false, knownFresh(true)
		}, None, "b"},
		{"the other is stale: kept", "b", []State{Live, Unknown}, func(a *Address) {
			a.Held, a.Verified, a.PeerFresh = true, from("a", false), knownFresh(false)
		}, Keep, "b"},
		{"not eligible: goes on", "z", []State{Live}, func(a *Address) { a.Held = true }, Keep, "z"},
		{"not eligible, and taken over", "z", []State{Live}, held(from("a", false)), None, "a"},
		{"not eligible, and lapsed", "z", []State{Live}, func(a *Address) { a.Held, a.Lapsed = true, true }, None, "a"},
	} {
		a := Address{
			Self: tt.self, Ranked: candidates(tt.states...), Fresh: true, Serves: true, PeerFresh: unknownFresh,
			TookOver: noReport,
			ScoreOf:  func(node string) uint64 { return 100 - uint64(node[0]-'a') },
		}
		if tt.change != nil {
			tt.change(&a)
		}
		if do, acting := a.Decide(); do != tt.do || acting != tt.acting {
			t.Errorf("%s: got %v %q, want %v %q", tt.name, do, acting, tt.do, tt.acting)
		}
	}
}

// TestTargetsOfTakeover: nodes that the acting node reports to have taken over from do not
// count as its successors, because they may be gone. The report may be about other addresses,
// so the successors observe them, too.
func TestTargetsOfTakeover(t *testing.T) {
	addr := netip.MustParseAddr("192.0.2.1")
	for self, want := range map[string]bool{"a": true, "d": true, "e": true, "f": false} {
		targets := Targets{}
		targets.Add(addr, Address{
			Self: self, Ranked: candidates(make([]State, 6)...), ScoreOf: func(string) uint64 { return 0 },
			TookOver: func(reporter, node string) bool { return reporter == "c" && node < "c" },
		}, "c")
		for _, peer := range []Peer{peerC, peerB} {
			if got := slices.Contains(targets[peer].Announces, addr); got != (want && peer.Node != self && (self > "c" || peer == peerC)) {
				t.Errorf("%s observes %s: %v", self, peer.Node, got)
			}
		}
	}
}

// TestTargetsOfExpected: a node that has answered for an address is observed until another one
// announces it, so that this node takes over at once if it fails meanwhile.
func TestTargetsOfExpected(t *testing.T) {
	addr := netip.MustParseAddr("192.0.2.1")
	other := Candidate{Peer: Peer{"eth0", "x"}, Score: 200}
	for _, tt := range []struct {
		name, self, expected, acting string
		held                         bool
		want, announces              bool
	}{
		{"this node asks the segment", "a", "b", "a", false, true, true},
		{"this node announces", "a", "b", "a", true, true, false},
		{"another one must take over from a node that is not eligible", "b", "x", "a", false, true, false},
		{"another one must take over, and nothing is known", "b", "", "a", false, false, false},
	} {
		targets := Targets{}
		targets.Add(addr, Address{
			Self: tt.self, Ranked: candidates(Unknown, Live), Others: []Candidate{other}, Expected: tt.expected, Held: tt.held, Serves: true,
			ScoreOf: func(string) uint64 { return 0 }, PeerFresh: unknownFresh, TookOver: noReport,
		}, tt.acting)
		expected := Peer{"eth0", cmp.Or(tt.expected, other.Node)}
		target, got := targets[expected]
		if announces := slices.Contains(target.Announces, addr); got != tt.want || announces != tt.announces {
			t.Errorf("%s: observed %v, announces %v; want %v, %v", tt.name, got, announces, tt.want, tt.announces)
		}
	}
}

// TestTargets: the owner observes its two successors, and they observe it. All others
// observe no one. Nodes that are gone do not count, but are observed by those that they
// outrank, so that their return is noticed.
func TestTargets(t *testing.T) {
	addr := netip.MustParseAddr("192.0.2.1")
	for _, tt := range []struct {
		states string // of the nodes a, b, ...
		acting string
		others State // of a node that ranks higher by its score, but is not eligible
		want   map[string]string
	}{
		{"LLLLLL", "a", Unknown, map[string]string{"a": "b succeeds, c", "b": "a announces", "c": "a announces", "d": "", "f": ""}},
		{"LLL", "c", Unknown, map[string]string{"a": "c announces", "b": "c announces", "c": "a outranks succeeds, b outranks"}},
		{"GLLL", "b", Unknown, map[string]string{"b": "a outranks, c succeeds, d", "c": "a announces, b announces", "d": "a announces, b announces"}},
		{"LGLL", "a", Unknown, map[string]string{"a": "b, c succeeds, d", "c": "a announces, b announces"}},
		{"LLGG", "a", Unknown, map[string]string{"a": "b succeeds, c, d", "b": "a announces, c, d"}},
		{"LL", "a", Gone, map[string]string{"a": "b succeeds, z outranks", "b": "a announces"}},
		{"LL", "z", Live, map[string]string{"a": "z announces", "b": "z announces"}},
	} {
		states := make([]State, len(tt.states))
		for i, s := range tt.states {
			states[i] = map[rune]State{'L': Live, 'G': Gone}[s]
		}
		other := Candidate{Peer: Peer{Interface: "eth0", Node: "z"}, Score: 1000, Status: Status{State: tt.others}}
		for self, want := range tt.want {
			a := Address{Self: self, Ranked: candidates(states...), ScoreOf: func(string) uint64 { return 0 }, TookOver: noReport}
			if tt.others != Unknown {
				a.Others = []Candidate{other}
			}
			targets := Targets{}
			targets.Add(addr, a, tt.acting)
			var got []string
			for _, c := range append(a.Ranked, a.Others...) {
				target, ok := targets[c.Peer]
				if !ok {
					continue
				}
				why := c.Node
				for _, w := range []struct {
					name  string
					addrs []netip.Addr
				}{{"announces", target.Announces}, {"outranks", target.Outranks}, {"succeeds", target.Succeeds}} {
					if slices.Contains(w.addrs, addr) {
						why += " " + w.name
					}
				}
				got = append(got, why)
			}
			if got := strings.Join(got, ", "); got != want {
				t.Errorf("%s, announced by %s: %s observes %q, want %q", tt.states, tt.acting, self, got, want)
			}
		}
	}
}

// TestNextHoldDown: a node that fails again soon after it took addresses back waits longer.
func TestNextHoldDown(t *testing.T) {
	const s = time.Second
	var got []time.Duration
	last := time.Duration(0)
	for _, up := range []time.Duration{1000 * time.Hour, 40 * s, 70 * s, 10 * s, 130 * s, 300 * s, 300 * s, 500 * s, 3600 * s, 10 * s} {
		last = NextHoldDown(last, up)
		got = append(got, last/s)
	}
	if want := []time.Duration{30, 60, 120, 120, 240, 480, 480, 480, 30, 30}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
