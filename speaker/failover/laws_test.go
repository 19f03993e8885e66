package failover

import (
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestModel checks the laws under random disturbances: kill -9, power-off, SIGSTOP,
// graceful restarts, partitions of speakers, of the API and of both, filtered BFD,
// exclusions and forged claims.
func TestModel(t *testing.T) { rapid.Check(t, checkModel) }

func checkModel(t *rapid.T) {
	w := newWorld(t)
	w.disturbed = w.now
	w.run(3 * time.Second)
	for range rapid.IntRange(1, 25).Draw(t, "disturbances") {
		w.disturb()
		w.run(time.Duration(rapid.SampledFrom([]int{0, 20, 100, 300, 1000, 3000, 8000, 35000}).Draw(t, "wait in ms")) * time.Millisecond)
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
}

// disturb does something that is not the nodes' own doing.
func (w *world) disturb() {
	n := rapid.SampledFrom(w.nodes).Draw(w.t, "node")
	o := rapid.SampledFrom(w.nodes).Draw(w.t, "other")
	pair := [2]int{n.id, o.id}
	switch what := rapid.SampledFrom([]string{
		"kill", "power off", "start", "restart", "stop", "cut", "cut both ways", "mend", "filter", "cut off the API", "mend the API",
		"exclude", "include", "forge", "lose frames",
	}).Draw(w.t, "disturbance"); what {
	case "kill", "power off":
		if n.running {
			fast := w.isSettled()
			w.begin("%s %s", what, n.name)
			n.running = false
			n.incarnation++
			w.fast = fast && slices.ContainsFunc(w.nodes, func(n *node) bool { return n.running && !w.notReady[n.id] && !w.excluded[n.id] })
			if what == "power off" {
				w.afterAPITimeout(n, func() bool { return !n.running })
			}
		}
	case "start":
		if !n.running {
			w.begin("start %s", n.name)
			w.start(n)
			w.setReady(n)
		}
	case "restart":
		if n.running && !n.stopped {
			w.begin("restart %s", n.name)
			down := time.Duration(rapid.SampledFrom([]int{50, 900, 5000}).Draw(w.t, "down in ms")) * time.Millisecond
			w.leave(n, func() { w.after(down, func() { w.begin("start %s", n.name); w.start(n); w.setReady(n) }) })
		}
	case "stop":
		if n.running && !n.stopped {
			d := time.Duration(rapid.SampledFrom([]int{50, 300, 2000, 60000}).Draw(w.t, "stopped for ms")) * time.Millisecond
			w.begin("stop %s for %v", n.name, d)
			w.pause(n, d)
		}
	case "cut", "cut both ways", "lose frames":
		if n != o {
			w.begin("%s %s to %s", what, n.name, o.name)
			w.cut[pair] = true
			if what == "cut both ways" {
				w.cut[[2]int{o.id, n.id}] = true
			}
			if what == "lose frames" {
				w.after(30*time.Millisecond, func() { delete(w.cut, pair); w.begin("no frames are lost") })
			}
		}
	case "mend":
		w.begin("mend")
		clear(w.cut)
	case "filter":
		if n != o {
			w.begin("filter %s %s", n.name, o.name)
			w.filtered[[2]int{min(n.id, o.id), max(n.id, o.id)}] = true
		}
	case "cut off the API":
		if !n.apiCut {
			w.begin("cut off the API %s", n.name)
			n.apiCut = true
			w.afterAPITimeout(n, func() bool { return n.apiCut })
		}
	case "mend the API":
		w.begin("mend the API")
		w.mendAPI()
	case "exclude", "include":
		w.begin("%s %s", what, n.name)
		w.excluded[n.id] = what == "exclude"
		w.changedAPI()
	case "forge":
		w.forge()
	}
}

func (w *world) begin(format string, args ...any) {
	w.disturbed, w.fast = w.now, false
	w.logf("-- "+format, args...)
}

// leave ends the speaker of a node as for a restart.
func (w *world) leave(n *node, then func()) {
	n.leaving = true
	incarnation := n.incarnation
	w.sync(n)
	deadline := w.now.Add(LeaveTimeout)
	var poll func()
	poll = func() {
		if n.incarnation != incarnation {
			return
		}
		if !n.stopped && (w.now.After(deadline) || !slices.Contains(slices.Collect(maps.Values(n.held)), true)) {
			w.begin("%s has ended", n.name)
			n.running = false
			n.incarnation++
			then()
			return
		}
		w.after(tick, poll)
	}
	w.after(tick, poll)
}

// pause stops the process of a speaker for a time.
func (w *world) pause(n *node, d time.Duration) {
	n.stopped, n.stoppedAt = true, w.now
	incarnation := n.incarnation
	w.after(d, func() {
		if n.incarnation != incarnation {
			return
		}
		w.begin("continue %s", n.name)
		n.stopped = false
		if w.now.Sub(n.stoppedAt) > detection/2 {
			n.upSince = w.now
			n.tracker.Stalled()
			n.hold = n.tracker.View().HoldAnswers
		}
		w.readAPI(n)
		w.advance(n)
		if !n.hold {
			w.sync(n)
		}
	})
}

// afterAPITimeout makes the node NotReady if it is still without contact then.
func (w *world) afterAPITimeout(n *node, still func() bool) {
	w.after(apiTimeout, func() {
		if still() && !w.notReady[n.id] {
			w.begin("%s is not ready", n.name)
			w.notReady[n.id] = true
			w.changedAPI()
		}
	})
}

func (w *world) setReady(n *node) {
	if !n.apiCut && w.notReady[n.id] {
		w.notReady[n.id] = false
		w.changedAPI()
	}
}

// changedAPI lets all nodes with contact to the API know.
func (w *world) changedAPI() {
	for _, n := range w.nodes {
		if n.running && !n.apiCut {
			w.after(syncDelay, func() { w.readAPI(n); w.sync(n) })
		}
	}
}

func (w *world) mendAPI() {
	for _, n := range w.nodes {
		n.apiCut = false
		if n.running {
			w.notReady[n.id] = false
		}
	}
	w.changedAPI()
}

// forge sends a claim with the MAC of another node.
func (w *world) forge() {
	addr := rapid.SampledFrom(w.addrs).Draw(w.t, "forged claim of")
	claimant := rapid.SampledFrom(w.nodes).Draw(w.t, "forged claimant")
	w.logf("-- forged claim of %s for %v", claimant.name, addr)
	for _, o := range w.nodes {
		if o != claimant && o.running && !o.stopped && o.held[addr] {
			o.tracker.Claimed(w.now, Peer{"eth0", claimant.name}, addr)
			w.advance(o)
		}
	}
}

// heal ends all disturbances.
func (w *world) heal() {
	w.begin("heal")
	clear(w.cut)
	clear(w.filtered)
	clear(w.excluded)
	for _, n := range w.nodes {
		if !n.running {
			w.start(n)
		}
	}
	w.mendAPI()
}

// check checks the laws that hold at every instant.
func (w *world) check() {
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
		if w.now.Sub(w.owned[addr]) > apiTimeout+5*time.Second {
			w.fail("%v has no owner for longer than 45 s", addr)
		}
		if len(owners) == 0 && w.fast && w.now.Sub(w.disturbed) > 400*time.Millisecond {
			w.fail("%v has no owner 400 ms after its owner was killed", addr)
		}
		if w.now.Sub(w.single[addr]) > 1500*time.Millisecond {
			w.fail("%v has the owners %v for longer than 1.5 s", addr, owners)
		}
	}
}

// mustHaveOwner reports whether nothing but the nodes themselves keeps an address from
// being announced: frames are not lost, all nodes have contact to the API, one is eligible,
// and no speaker that the others have never observed is missing on a node that is Ready.
func (w *world) mustHaveOwner() bool {
	eligible := false
	for _, n := range w.nodes {
		if n.apiCut || n.stopped {
			return false
		}
		if !n.running && !w.notReady[n.id] {
			return false
		}
		eligible = eligible || n.running && !w.notReady[n.id] && !w.excluded[n.id] && !n.leaving
	}
	return eligible && len(w.cut) == 0
}

// isSettled reports whether the next owner must notice the death of another one by BFD.
func (w *world) isSettled() bool {
	for _, n := range w.nodes {
		// A speaker that does not run on a node that is Ready observes no other one.
		missing := !n.running && !w.notReady[n.id]
		if missing || n.stopped || n.leaving || n.running && w.now.Sub(n.upSince) < 10*time.Second {
			return false
		}
	}
	return w.now.Sub(w.disturbed) > 6*time.Second && len(w.cut)+len(w.filtered) == 0
}
