package failover

import (
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// allKinds are the disturbances: kill -9, power-off, SIGSTOP, graceful restarts,
// partitions of speakers, of the API and of both, filtered BFD, exclusions and forged
// claims.
var allKinds = []string{
	"kill", "power off", "start", "restart", "stop", "cut", "cut both ways", "mend", "filter", "cut off the API", "mend the API",
	"exclude", "include", "forge", "lose frames", "kill both",
}

// TestModel checks the laws under random disturbances.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		if violation := simulate(t, brokenRules{}, scenario{kinds: allKinds, minNodes: 2, skewed: true}); violation != "" {
			t.Fatal(violation)
		}
	})
}

// TestModelWithSlowInformers does the same while the nodes disagree on who is eligible.
func TestModelWithSlowInformers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := scenario{kinds: []string{"exclude", "include", "kill", "start", "restart", "forge"}, minNodes: 2, scattered: true}
		if violation := simulate(t, brokenRules{}, s); violation != "" {
			t.Fatal(violation)
		}
	})
}

// TestModelWithLies does the same while nodes report takeovers that did not happen. A report
// decides only which nodes observe each other: it moves nothing, and an owner that nobody
// observes is left to the API.
func TestModelWithLies(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := scenario{kinds: append(slices.Clone(allKinds), "lie", "lie", "stop lying"), minNodes: 3, skewed: true}
		if violation := simulate(t, brokenRules{}, s); violation != "" {
			t.Fatal(violation)
		}
	})
}

// scenario restricts the histories of a simulation.
type scenario struct {
	kinds    []string // of disturbances
	minNodes int
	// scattered: the nodes learn of changes of the API up to 60 ms one after another, and BFD
	// is not filtered.
	scattered bool
	firstSeed int
	skewed    bool // the nodes' clocks differ
}

// simulate returns the first violation of a law in one history, "" if there is none.
func simulate(t *rapid.T, broken brokenRules, s scenario) (violation string) {
	w := newWorld(t, broken, s)
	w.disturbed = w.now
	w.run(3 * time.Second)
	for range rapid.IntRange(1, 25).Draw(t, "disturbances") {
		w.disturb(s.kinds)
		w.run(time.Duration(rapid.SampledFrom([]int{0, 20, 100, 300, 1000, 3000, 8000, 35000}).Draw(t, "wait in ms")) * time.Millisecond)
		if w.violation != "" {
			return w.violation
		}
	}
	w.heal()
	w.run(100 * time.Second)
	owners := maps.Clone(w.owners)
	for range 3 {
		w.forge()
		w.run(3 * time.Second)
	}
	for _, addr := range w.addrs {
		if len(w.owners[addr]) != 1 {
			w.fail("%v has the owners %v after everything was healed", addr, w.owners[addr])
		}
		if !slices.Equal(owners[addr], w.owners[addr]) {
			w.fail("%v moved from %v to %v without a cause", addr, owners[addr], w.owners[addr])
		}
	}
	return w.violation
}

// check checks the laws that hold at every instant.
func (w *world) check() {
	if len(w.cut) > 0 || slices.ContainsFunc(w.nodes, func(n *node) bool { return n.apiCut }) {
		w.unsure = w.now
	}
	for _, addr := range w.addrs {
		var owners []string
		for _, n := range w.nodes {
			if n.running && !n.stopped && n.held[addr] && !n.hold {
				owners = append(owners, n.name)
			}
		}
		w.owners[addr] = owners
		if len(owners) < 2 || len(w.cut) > 0 {
			w.single[addr] = w.now
		}
		if len(owners) > 0 || !w.mustHaveOwner() {
			w.owned[addr] = w.now
		}
		gap := w.now.Sub(w.disturbed)
		switch {
		case w.now.Sub(w.owned[addr]) > apiTimeout+5*time.Second:
			w.fail("%v has no owner for longer than 45 s", addr)
		case len(owners) == 0 && w.promise.maxGap > 0 && gap > w.promise.maxGap:
			w.fail("%v has no owner %v after its owner was killed", addr, w.promise.maxGap)
		case len(owners) == 0 && w.promise.noGap:
			w.fail("%v has no owner although its last one left in order", addr)
		case len(owners) > 1 && w.promise.once && gap < onceTime:
			w.fail("%v has the owners %v after one of them stood still", addr, owners)
		case w.now.Sub(w.single[addr]) > w.maxOverlap():
			w.fail("%v has the owners %v for longer than %v", addr, owners, w.maxOverlap())
		}
		w.checkMoves(addr, owners)
		if len(owners) != 1 {
			delete(w.sole, addr)
		} else if w.sole[addr].node != owners[0] {
			w.sole[addr] = tenure{owners[0], w.now}
		}
	}
}

// maxOverlap returns the time for which an address may have two owners while no frames are
// lost. A node that returns within 2*LeaveTimeout of its end still counts as leaving.
func (w *world) maxOverlap() time.Duration {
	returned := func(n *node) bool { return n.running && w.now.Sub(n.upSince) < 2*LeaveTimeout+contestInterval }
	if slices.ContainsFunc(w.nodes, returned) {
		return 2*LeaveTimeout + contestInterval
	}
	return 1500 * time.Millisecond
}

// checkMoves checks that an address leaves an owner that runs and is eligible only to a
// node that may take it back.
func (w *world) checkMoves(addr netip.Addr, owners []string) {
	const sure = 2 * time.Second
	last := w.sole[addr]
	if last.node == "" || w.now.Sub(last.since) < sure || w.now.Sub(w.unsure) < sure {
		return
	}
	n := w.node(last.node)
	if !n.running || n.stopped || n.leaving || w.now.Sub(n.upSince) < sure || w.notReady[n.id] || w.excluded[n.id] {
		return
	}
	if len(owners) == 0 && !n.hold {
		w.fail("%v is not announced by %s any more", addr, n.name)
	}
	for _, owner := range owners {
		o := w.node(owner) // a node that stood still has the address already
		if o != n && !o.heldSince[addr].Before(last.since) && (w.never || w.now.Sub(o.upSince) < HoldDown) {
			w.fail("%v moved from %s to %s, which has been up for %v (failback Never: %v)", addr, n.name, owner, w.now.Sub(o.upSince), w.never)
		}
	}
}

// mustHaveOwner reports whether nothing but the nodes themselves keeps an address from
// being announced: frames are not lost, all nodes have contact to the API, one is eligible,
// and no speaker that the others have never observed is missing on a node that is Ready.
func (w *world) mustHaveOwner() bool {
	for _, n := range w.nodes {
		if n.apiCut || n.stopped {
			return false
		}
		if !n.running && !w.notReady[n.id] {
			return false
		}
	}
	return w.hasEligible() && len(w.cut) == 0
}

func (w *world) hasEligible() bool {
	return slices.ContainsFunc(w.nodes, func(n *node) bool {
		return n.running && !n.stopped && !n.leaving && !w.notReady[n.id] && !w.excluded[n.id]
	})
}

// isAnnounced reports whether each address has an owner.
func (w *world) isAnnounced() bool {
	return !slices.ContainsFunc(w.addrs, func(addr netip.Addr) bool { return len(w.owners[addr]) == 0 })
}

// ownsAll reports whether the node is the only owner of each address. Then every takeover from
// it is reported, and all nodes observe that it is gone.
func (w *world) ownsAll(n *node) bool {
	return !slices.ContainsFunc(w.addrs, func(addr netip.Addr) bool { return !slices.Equal(w.owners[addr], []string{n.name}) })
}

// isSettled reports whether each successor knows the owner that it observes.
func (w *world) isSettled() bool {
	for _, addr := range w.addrs {
		if since := w.sole[addr].since; w.now.Sub(since) < 2*time.Second {
			return false // it may not have a session with the owner yet
		}
	}
	for _, n := range w.nodes {
		// A speaker that does not run on a node that is Ready observes no other one.
		missing := !n.running && !w.notReady[n.id] && !n.noticed
		if missing || n.lies || n.isOld || n.stopped || n.leaving || n.running && w.now.Sub(n.upSince) < 10*time.Second {
			return false
		}
	}
	return w.now.Sub(w.disturbed) > 6*time.Second && len(w.cut) == 0
}

// maxGap returns the time for which an address has no owner if its owner is killed now, 0
// if it is not known.
//
// A node that is gone, but Ready, and that not all nodes have observed, is expected to take
// over first.
func (w *world) maxGap() time.Duration {
	gap, more := 300*time.Millisecond, takeoverWait+2*askTime
	if len(w.filtered) > 0 {
		gap, more = 3300*time.Millisecond, takeoverWait+2*askTime+pollInterval
	}
	if !w.isSettled() || !w.isAnnounced() {
		return 0
	}
	uninformed := slices.ContainsFunc(w.nodes, func(n *node) bool { return n.running && n.apiCut })
	for _, n := range w.nodes {
		if !n.running && (!w.notReady[n.id] || uninformed) {
			gap += more
		}
	}
	isNew := func(addr netip.Addr) bool { return w.now.Sub(w.sole[addr].since) < maxConfirmInterval }
	if slices.ContainsFunc(w.addrs, isNew) {
		gap += probeTime // its owner may not have confirmed it yet
	}
	return gap
}
