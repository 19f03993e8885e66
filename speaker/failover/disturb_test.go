package failover

import (
	"maps"
	"slices"
	"time"

	"pgregory.net/rapid"
)

// disturb does something that is not the nodes' own doing.
func (w *world) disturb(kinds []string) {
	n := rapid.SampledFrom(w.nodes).Draw(w.t, "node")
	o := rapid.SampledFrom(w.nodes).Draw(w.t, "other")
	pair := [2]int{n.id, o.id}
	switch what := rapid.SampledFrom(kinds).Draw(w.t, "disturbance"); what {
	case "kill", "power off":
		if n.running {
			maxGap, hasAll := w.maxGap(), w.ownsAll(n)
			w.begin("%s %s", what, n.name)
			w.kill(n)
			if w.hasEligible() {
				w.promise.maxGap, n.noticed = maxGap, maxGap > 0 && hasAll
			}
			if what == "power off" {
				w.afterAPITimeout(n, func() bool { return !n.running })
			}
		}
	case "kill both":
		if n.running && o.running && n != o {
			maxGap := w.maxGap()
			w.begin("kill %s and %s", n.name, o.name)
			w.kill(n)
			w.kill(o)
			if w.hasEligible() {
				w.promise.maxGap = maxGap
			}
			if w.promise.maxGap > 0 && len(w.filtered) > 0 {
				w.promise.maxGap += pollInterval // until the first successor is known to be gone, too
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
			settled := w.isSettled() && len(w.filtered) == 0
			w.begin("restart %s", n.name)
			n.leaving = true
			w.promise.noGap = settled && w.hasEligible() && w.isAnnounced()
			down := time.Duration(rapid.SampledFrom([]int{50, 900, 5000}).Draw(w.t, "down in ms")) * time.Millisecond
			w.leave(n, func() { w.after(down, func() { w.begin("start %s", n.name); w.start(n); w.setReady(n) }) })
		}
	case "stop":
		if n.running && !n.stopped {
			d := time.Duration(rapid.SampledFrom([]int{50, 300, 2000, 60000}).Draw(w.t, "stopped for ms")) * time.Millisecond
			settled := w.isSettled()
			w.begin("stop %s for %v", n.name, d)
			w.pause(n, d, settled)
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
			settled := w.isSettled()
			w.begin("filter %s %s", n.name, o.name)
			w.filtered[[2]int{min(n.id, o.id), max(n.id, o.id)}] = true
			w.promise.noMove = settled && !w.takesBack(0)
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
		// Without a session the successor waits for the holder, and without the API it does
		// not know.
		settled := w.isSettled() && len(w.filtered) == 0 && !slices.ContainsFunc(w.nodes, func(n *node) bool { return n.apiCut })
		w.begin("%s %s", what, n.name)
		w.excluded[n.id] = what == "exclude"
		w.promise.noGap = settled && w.hasEligible() && w.isAnnounced()
		w.forgetNoticed()
		w.unsure = w.now
		w.changedAPI()
	case "forge":
		w.forge()
	case "lie", "stop lying":
		if lies := what == "lie"; n.lies != lies {
			w.begin("%s %s", n.name, what)
			n.lies = lies
			w.sync(n)
		}
	}
}

func (w *world) begin(format string, args ...any) {
	w.disturbed, w.promise = w.now, promise{}
	w.disturbances++
	w.logf("-- "+format, args...)
}

func (w *world) kill(n *node) {
	n.running = false
	n.incarnation++
}

// leave ends the speaker of a node as for a restart.
func (w *world) leave(n *node, then func()) {
	n.leaving = true
	if w.broken.leavesAtOnce {
		w.kill(n)
		then()
		return
	}
	incarnation := n.incarnation
	w.sync(n)
	deadline := w.now.Add(LeaveTimeout)
	var poll func()
	poll = func() {
		if n.incarnation != incarnation {
			return
		}
		if !n.stopped && (w.now.After(deadline) || !slices.Contains(slices.Collect(maps.Values(n.held)), true)) {
			w.logf("%s has ended", n.name)
			w.disturbed = w.now
			w.kill(n)
			then()
			return
		}
		w.after(tick, poll)
	}
	w.after(tick, poll)
}

// pause stops the process of a speaker for a time.
func (w *world) pause(n *node, d time.Duration, settled bool) {
	n.stopped, n.stoppedAt = true, w.now
	count := w.disturbances
	incarnation := n.incarnation
	w.after(d, func() {
		if n.incarnation != incarnation {
			return
		}
		settled = settled && count == w.disturbances && !slices.ContainsFunc(w.nodes, func(n *node) bool { return n.leaving })
		w.begin("continue %s", n.name)
		w.promise.once = settled && len(w.cut) == 0 && d > detection && !w.takesBack(d) // otherwise it does not ask
		n.stopped = false
		if w.now.Sub(n.stoppedAt) > detection/2 {
			n.upSince = w.now
			n.tracker.Stalled()
			w.setHold(n)
		}
		w.readAPI(n)
		w.advance(n)
		if n.hold {
			w.finishSync(n, syncTime)
		} else {
			w.sync(n)
		}
	})
}

// takesBack reports whether a node may have taken addresses back within the time until now, or
// may do so soon. It announces them before the other node ends.
func (w *world) takesBack(before time.Duration) bool {
	return slices.ContainsFunc(w.nodes, func(n *node) bool {
		left := HoldDown - w.now.Sub(n.upSince)
		return left >= -before && left < onceTime
	})
}

// afterAPITimeout makes the node NotReady if it is still without contact then.
func (w *world) afterAPITimeout(n *node, still func() bool) {
	w.after(apiTimeout, func() {
		if still() && !w.notReady[n.id] {
			w.begin("%s is not ready", n.name)
			w.notReady[n.id] = true
			w.unsure = w.now
			w.changedAPI()
		}
	})
}

func (w *world) setReady(n *node) {
	if !n.apiCut && w.notReady[n.id] {
		w.notReady[n.id] = false
		w.unsure = w.now
		w.changedAPI()
	}
}

// changedAPI lets all nodes with contact to the API know.
func (w *world) changedAPI() {
	for _, n := range w.nodes {
		if n.running && !n.apiCut {
			w.after(w.syncDelay(n), func() { w.readAPI(n); w.sync(n) })
		}
	}
}

// syncDelay returns when a node knows of a change of the API.
func (w *world) syncDelay(n *node) time.Duration {
	if w.scattered {
		return syncDelay * time.Duration(1+10*n.id)
	}
	return syncDelay
}

func (w *world) mendAPI() {
	w.unsure = w.now
	for _, n := range w.nodes {
		n.apiCut, n.lies = false, false
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
			w.receiveClaim(o, claimant, addr)
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
