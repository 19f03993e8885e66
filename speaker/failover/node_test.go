package failover

import (
	"maps"
	"net/netip"
	"slices"
	"time"
)

// The behaviour of the simulated nodes.

// address returns what the node knows about an address.
func (w *world) address(n *node, view View, addr netip.Addr) Address {
	a := Address{
		Self: n.name, Held: n.held[addr], Verified: view.Verified[addr], Expected: view.Answered[addr].Node, Fresh: !n.apiCut, Serves: true,
		TakesBack: !w.never && w.now.Sub(n.upSince) >= HoldDown,
		ScoreOf:   func(node string) uint64 { return score(node, addr) },
		PeerFresh: func(node string) (fresh, known bool) {
			o := w.node(node)
			if s := n.sessions[o.id]; s == nil || s.state != Up {
				return false, false
			}
			return !o.apiCut, true
		},
	}
	a.TookOver = func(reporter, node string) bool { return n.view.gone[reporter][node] }
	if id, ok := n.holder[addr]; ok {
		a.Holder = w.nodes[id].name
	}
	allNotReady := len(n.view.notReady) == len(w.nodes)
	for _, o := range w.nodes {
		key := Peer{"eth0", o.name}
		c := Candidate{Peer: key, Score: score(o.name, addr), Status: view.Peers[key]}
		switch {
		case o == n && n.leaving:
		case !n.view.excluded[o.id] && (!n.view.notReady[o.id] || allNotReady):
			a.Ranked = append(a.Ranked, c)
		case o != n:
			a.Others = append(a.Others, c)
		}
	}
	slices.SortFunc(a.Ranked, func(x, y Candidate) int { return -compareUint(x.Score, y.Score) })
	since, ok := n.lapsed[addr]
	a.Lapsed = ok && w.now.Sub(since) >= LeaveTimeout
	w.broken.apply(&a, w.never, w.now.Sub(n.upSince), n.believed[addr])
	return a
}

func compareUint(a, b uint64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// sync is the node's reaction to a change.
func (w *world) sync(n *node) {
	switch {
	case !n.running || n.stopped:
	case n.syncing:
		n.syncRequested = true
	default:
		w.applyPlan(n, n.tracker.View())
	}
}

// finishSync ends a sync that has begun now after a while.
func (w *world) finishSync(n *node, after time.Duration) {
	n.syncing = true
	view, incarnation := n.tracker.View(), n.incarnation
	w.after(after, func() {
		if n.incarnation != incarnation {
			return
		}
		n.syncing = false
		if n.stopped {
			return
		}
		if w.applyPlan(n, view); n.syncRequested {
			n.syncRequested = false
			w.sync(n)
		}
	})
}

// applyPlan applies the plan that follows from the view.
func (w *world) applyPlan(n *node, view View) {
	targets := Targets{}
	for _, addr := range w.addrs {
		a := w.address(n, view, addr)
		eligible := slices.ContainsFunc(a.Ranked, func(c Candidate) bool { return c.Node == n.name })
		if _, known := n.lapsed[addr]; eligible {
			delete(n.lapsed, addr)
		} else if !known {
			n.lapsed[addr] = w.now
			incarnation := n.incarnation
			w.after(LeaveTimeout, func() { w.syncIf(n, incarnation) })
		}
		a.Lapsed = (a.Lapsed || w.broken.lapsesAtOnce) && !eligible
		do, acting := a.Decide()
		was := n.held[addr]
		n.held[addr] = do == Keep || do == Announce
		if do != Ask {
			delete(n.asking, addr)
		}
		if do != Wait && do != Ask || n.held[addr] {
			delete(n.holder, addr)
		}
		if was && do == None && acting != "" && acting != n.name {
			n.holder[addr] = w.node(acting).id // it has answered
		}
		switch {
		case do == Ask && n.asking[addr] == 0:
			w.probe(n, addr)
		case do == Wait:
			w.recheckHolder(n, addr)
		}
		if n.held[addr] != was {
			if n.held[addr] && w.promise.noMove && w.now.Sub(w.disturbed) < onceTime {
				w.fail("%s announces %v although only BFD is filtered", n.name, addr)
			}
			n.heldSince[addr] = w.now
			w.logf("%s %v %v (acting %s, expected %q, verified %q)", n.name, addr,
				map[bool]string{true: "announces", false: "ends"}[n.held[addr]], acting, a.Expected, a.Verified.Node)
		}
		if n.held[addr] && (!was || a.Verified.Node != "") {
			w.announce(n, addr)
		}
		n.believed[addr] = acting
		targets.Add(addr, a, acting)
	}
	w.report(n, targets)
	w.setSessions(n, targets)
	w.broken.applyTargets(targets)
	verified := view.Verified
	if w.broken.ignoresLater {
		verified = n.tracker.View().Verified
	}
	n.tracker.Set(w.now.Add(n.skew), targets, verified)
	w.broken.applyTracker(n.tracker)
	w.setHold(n)
	if len(view.Verified) > 0 { // what the node yields may be its again later
		incarnation := n.incarnation
		w.after(syncDelay, func() { w.syncIf(n, incarnation) })
	}
	w.advance(n)
}

// report writes from which nodes the node has taken over, if that has changed.
func (w *world) report(n *node, targets Targets) {
	gone := map[string]bool{}
	for key, target := range targets {
		if len(target.Outranks) > 0 {
			gone[key.Node] = true
		}
	}
	for _, o := range w.nodes {
		if n.lies && o != n {
			gone[o.name] = true
		}
	}
	if n.apiCut || maps.Equal(gone, w.reported[n.name]) {
		return
	}
	w.reported[n.name] = gone
	w.changedAPI()
}

func (w *world) setHold(n *node) { n.hold = n.tracker.View().HoldAnswers && !w.broken.noHold }

func (w *world) syncIf(n *node, incarnation int) {
	if n.incarnation == incarnation {
		w.sync(n)
	}
}

// probe asks the segment for an address before its announcement.
func (w *world) probe(n *node, addr netip.Addr) {
	w.serial++
	serial, incarnation := w.serial, n.incarnation
	n.asking[addr] = serial
	delete(n.holder, addr)
	for i := range probes {
		w.after(probeTime*time.Duration(i)/probes, func() {
			if n.incarnation != incarnation || n.asking[addr] != serial || !n.running || n.stopped {
				return
			}
			for _, o := range w.nodes {
				if o != n && w.reaches(n, o) && w.reaches(o, n) && o.held[addr] && !o.hold && !w.broken.noHolder {
					n.holder[addr] = o.id
				}
			}
		})
	}
	w.after(probeTime, func() {
		if n.incarnation != incarnation || n.asking[addr] != serial {
			return
		}
		if n.stopped {
			delete(n.asking, addr)
			return
		}
		if _, answered := n.holder[addr]; answered {
			w.after(reprobe, func() {
				if n.incarnation == incarnation && n.asking[addr] == serial {
					w.probe(n, addr)
				}
			})
		} else {
			delete(n.asking, addr)
			n.held[addr], n.heldSince[addr] = true, w.now
			w.logf("%s %v announces (no answer)", n.name, addr)
			w.announce(n, addr)
		}
		w.sync(n)
	})
}

// recheckHolder asks again later whether the holder still has the address.
func (w *world) recheckHolder(n *node, addr netip.Addr) {
	incarnation := n.incarnation
	if left := HoldDown - w.now.Sub(n.upSince); left > 0 {
		w.after(left, func() { w.syncIf(n, incarnation) })
	}
	if n.rechecks[addr] {
		return
	}
	n.rechecks[addr] = true
	w.after(10*time.Second, func() {
		if n.incarnation != incarnation {
			return
		}
		delete(n.rechecks, addr)
		if id, ok := n.holder[addr]; ok && n.running && !n.stopped {
			o := w.nodes[id]
			if !w.reaches(n, o) || !w.reaches(o, n) || !o.held[addr] {
				delete(n.holder, addr)
			}
			w.sync(n)
		}
	})
}

// announce sends the unsolicited frames.
func (w *world) announce(n *node, addr netip.Addr) {
	w.claim(n, n, addr)
	for _, d := range []time.Duration{time.Second, 4 * time.Second} {
		incarnation := n.incarnation
		w.after(d, func() {
			if n.incarnation == incarnation && n.held[addr] && !n.stopped && n.running {
				w.claim(n, n, addr)
			}
		})
	}
}

// claim sends a frame that claims the address for a node.
func (w *world) claim(sender, claimant *node, addr netip.Addr) {
	for _, o := range w.nodes {
		w.after(time.Duration(w.random(3))*time.Millisecond, func() {
			if o != sender && o != claimant && w.reaches(sender, o) && o.held[addr] {
				w.receiveClaim(o, claimant, addr)
			}
		})
	}
}

// receiveClaim handles a claim for an address that the node announces.
func (w *world) receiveClaim(n, claimant *node, addr netip.Addr) {
	if w.broken.believesClaims {
		n.tracker.verify(Peer{"eth0", claimant.name}, []netip.Addr{addr}, false)
		w.sync(n)
		return
	}
	if !w.broken.noClaims {
		n.tracker.Claimed(w.now.Add(n.skew), Peer{"eth0", claimant.name}, addr)
	}
	w.advance(n)
}

// advance asks what the tracker wants to be asked.
func (w *world) advance(n *node) {
	questions, next := n.tracker.Advance(w.now.Add(n.skew))
	if !next.IsZero() {
		next = next.Add(-n.skew)
	}
	if verbose {
		w.logf("%s advance: next %v wakeAt %v", n.name, next.Sub(w.now), n.wakeAt.Sub(w.now))
	}
	incarnation := n.incarnation
	for _, q := range questions {
		o := w.node(q.Node)
		if verbose {
			w.logf("%s asks %s for %v (purpose %d)", n.name, q.Node, q.Addresses, q.purpose)
		}
		var answered []netip.Addr
		w.after(askTime/2, func() {
			for _, addr := range q.Addresses {
				if w.broken.loses(q) {
					break
				}
				if w.reaches(n, o) && !w.cut[[2]int{o.id, n.id}] && o.held[addr] && !o.hold {
					answered = append(answered, addr)
				}
			}
		})
		w.answer(n, incarnation, q, &answered)
	}
	if !next.IsZero() && (n.wakeAt.IsZero() || next.Before(n.wakeAt) || !n.wakeAt.After(w.now)) {
		n.wakeAt = next
		w.after(max(0, next.Sub(w.now)), func() {
			if n.incarnation == incarnation && n.wakeAt.Equal(next) && n.running && !n.stopped {
				n.wakeAt = time.Time{}
				w.advance(n)
			}
		})
	}
}

func (w *world) answer(n *node, incarnation int, q Question, answered *[]netip.Addr) {
	w.after(askTime, func() {
		if n.incarnation != incarnation || !n.running {
			return
		}
		if n.stopped { // it is read when the process continues
			w.answer(n, incarnation, q, answered)
			return
		}
		if verbose {
			w.logf("%s: %s has answered for %v", n.name, q.Node, *answered)
		}
		before := n.tracker.View()
		if n.tracker.Answered(w.now.Add(n.skew), q.ID, *answered) {
			if after := n.tracker.View().Peers[q.Peer]; before.Peers[q.Peer].State != after.State {
				w.logf("%s: %s is %v", n.name, q.Node, after.State)
			}
			w.sync(n)
			return
		}
		w.setHold(n)
		w.advance(n)
	})
}

// setSessions creates and deletes BFD sessions.
func (w *world) setSessions(n *node, targets Targets) {
	for id := range n.sessions {
		if _, keep := targets[Peer{"eth0", w.nodes[id].name}]; !keep {
			delete(n.sessions, id)
			if s := w.nodes[id].sessions[n.id]; s != nil && s.state == Up && w.reaches(n, w.nodes[id]) {
				s.ended = true
			}
		}
	}
	for key := range targets {
		if o := w.node(key.Node); n.sessions[o.id] == nil {
			n.sessions[o.id] = &bfdSession{createdAt: w.now}
		}
	}
}
