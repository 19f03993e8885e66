package failover

import (
	"maps"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// brokenRules are the rules that a simulated world does not keep.
type brokenRules struct {
	noAnswers      bool // a suspected peer is taken for gone whether or not it answers
	noPolls        bool // peers are not polled where no session is Up
	noOutranks     bool // peers that rank higher are not asked whether they announce, too
	noClaims       bool // claims are ignored
	believesClaims bool // claims are not verified
	noHold         bool // a node that stood still answers at once
	ignoresLater   bool // it answers after the next sync, whatever is verified meanwhile
	noTakeover     bool // it does not yield to the node that took over
	noExpectation  bool // it is not checked that the first successor takes over
	noHolder       bool // a node announces although another one has answered its probe
	noExpected     bool // a successor asks the segment although the node that has answered is gone
	believes       bool // that the owner by the plan announces the address, without an answer
	noHoldDown     bool // addresses are taken back at once
	ignoresNever   bool
	bothKeep       bool
	bothYield      bool
	neverStale     bool // a node without contact to the API keeps what it has
	lapsesAtOnce   bool // a node that is not eligible any more stops to answer at once
	leavesAtOnce   bool // a speaker ends without leaving
	noReports      bool // the peers that others report as gone are not used
}

// apply changes what a node knows about an address.
func (b brokenRules) apply(a *Address, never bool, up time.Duration, believed string) {
	if b.noTakeover {
		a.Verified.TookOver = false
	}
	if b.noExpected {
		a.Expected = ""
	}
	if b.believes {
		a.Expected = believed
	}
	if b.noHoldDown {
		a.TakesBack = !never
	}
	if b.ignoresNever {
		a.TakesBack = up >= HoldDown
	}
	known := func(fresh bool) func(string) (bool, bool) { return func(string) (bool, bool) { return fresh, true } }
	switch {
	case b.bothKeep:
		a.Fresh, a.PeerFresh = true, known(false)
	case b.bothYield:
		a.Fresh, a.PeerFresh = false, known(true)
	case b.neverStale:
		a.Fresh, a.PeerFresh = true, known(true)
	}
	if b.noReports {
		a.TookOver = func(string, string) bool { return false }
	}
}

func (b brokenRules) applyTargets(targets map[Peer]Target) {
	if b.noOutranks {
		for key, target := range maps.Clone(targets) {
			target.Outranks = nil
			targets[key] = target
		}
	}
}

func (b brokenRules) applyTracker(t *Tracker) {
	for _, p := range t.peers {
		if b.noExpectation {
			p.expected, p.checkAt = nil, time.Time{}
		}
		if b.noPolls {
			p.polled = time.Unix(1<<40, 0)
		}
	}
}

// loses reports whether the answers to a question are lost.
func (b brokenRules) loses(q Question) bool {
	return q.purpose == suspicion && b.noAnswers
}

// TestModelNeedsItsRules: without any one of the rules a law is violated, so that the model
// detects if one is lost.
func TestModelNeedsItsRules(t *testing.T) {
	for name, tt := range map[string]struct {
		broken brokenRules
		scenario
	}{
		"suspected peers are asked":                   {brokenRules{noAnswers: true}, histories(2, "filter")},
		"peers without a session are polled":          {brokenRules{noPolls: true}, histories(2, "filter", "kill", "start")},
		"peers that outrank the owner are polled":     {brokenRules{noOutranks: true}, histories(2, allKinds...)},
		"claims are heard":                            {brokenRules{noClaims: true}, histories(2, allKinds...)},
		"claims are verified":                         {brokenRules{believesClaims: true}, histories(2, "forge", "kill", "start")},
		"answers are held back after a stall":         {brokenRules{noHold: true}, histories(2, "stop")},
		"a node that stood still yields":              {brokenRules{noTakeover: true}, histories(2, "stop")},
		"what is verified during a sync is kept":      {brokenRules{ignoresLater: true}, histories(2, "stop")},
		"the second successor checks the first":       {brokenRules{noExpectation: true}, histories(3, "kill both", "start")},
		"a recovered node asks":                       {brokenRules{noHolder: true}, histories(2, "kill", "start")},
		"a successor does not ask":                    {brokenRules{noExpected: true}, histories(2, "kill", "start")},
		"the owner must have answered":                {brokenRules{believes: true}, histories(3, "kill", "start")},
		"hold-down":                                   {brokenRules{noHoldDown: true}, histories(2, "kill", "start")},
		"failback Never":                              {brokenRules{ignoresNever: true}, histories(2, "kill", "start")},
		"one of two owners keeps the address":         {brokenRules{bothYield: true}, scenario{kinds: allKinds, minNodes: 2, firstSeed: 500}},
		"one of two owners yields":                    {brokenRules{bothKeep: true}, histories(2, allKinds...)},
		"a node without contact to the API yields":    {brokenRules{neverStale: true}, histories(2, allKinds...)},
		"a node that is not eligible goes on":         {brokenRules{lapsesAtOnce: true}, scenario{[]string{"exclude", "include"}, 2, true, 0, false}},
		"a speaker leaves before it ends":             {brokenRules{leavesAtOnce: true}, histories(2, "restart")},
		"nodes observe the owner that others observe": {brokenRules{noReports: true}, scenario{[]string{"kill", "start", "forge"}, 4, false, 13300, false}},
	} {
		t.Run(name, func(t *testing.T) { needRule(t, tt.broken, tt.scenario) })
	}
}

func histories(minNodes int, kinds ...string) scenario {
	return scenario{kinds: kinds, minNodes: minNodes}
}

// needRule fails if no history with the broken rule violates a law. The histories that do are
// rare with some rules: the first ones are left out to save time.
func needRule(t *testing.T, broken brokenRules, s scenario) {
	for seed := s.firstSeed; seed < s.firstSeed+2000; seed++ {
		violation := rapid.Custom(func(t *rapid.T) string { return simulate(t, broken, s) }).Example(seed)
		if violation != "" {
			t.Logf("run %d: %s", seed, violation)
			return
		}
	}
	t.Error("no violation in 2000 runs")
}
