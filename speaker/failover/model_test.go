package failover

import (
	"container/heap"
	"fmt"
	"hash/fnv"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"pgregory.net/rapid"
)

// world simulates a segment with nodes, an API and BFD, in virtual time. The nodes run the
// Tracker and the decisions of this package; the rest is modelled.
type world struct {
	t      *rapid.T
	now    time.Time
	nodes  []*node
	addrs  []netip.Addr
	events eventQueue
	serial int

	cut      map[[2]int]bool // frames from one node to another are lost
	filtered map[[2]int]bool // BFD packets only; both directions
	notReady map[int]bool    // by the API
	reported map[string]map[string]bool
	excluded map[int]bool
	never    bool // failback: Never

	fast      bool      // the successor of a killed owner must announce within 400 ms
	disturbed time.Time // the last event that was not the nodes' own
	owners    map[netip.Addr][]string
	owned     map[netip.Addr]time.Time // when an address had an owner, or could not have one
	single    map[netip.Addr]time.Time // when an address had at most one owner, or frames were lost
	trace     []string
}

// node is a simulated node.
type node struct {
	id   int
	name string

	running     bool // its speaker
	stopped     bool // SIGSTOP
	stoppedAt   time.Time
	tracker     *Tracker
	incarnation int
	upSince     time.Time
	held        map[netip.Addr]bool
	asking      map[netip.Addr]int // the serial number of a probe
	holder      map[netip.Addr]int // nodes that have answered a probe
	expected    map[netip.Addr]string
	lapsed      map[netip.Addr]time.Time
	leaving     bool
	hold        bool

	apiCut bool
	view   apiView // the last one with contact to the API

	sessions map[int]*bfdSession
	lastRun  time.Time
	wakeAt   time.Time
}

type apiView struct {
	notReady, excluded map[int]bool
	gone               map[string]map[string]bool // nodes that are gone, by the node that reports it
}

type bfdSession struct {
	state     Session
	createdAt time.Time
}

const verbose = false

const (
	detection  = 150 * time.Millisecond
	handshake  = 1100 * time.Millisecond
	askTime    = 20 * time.Millisecond
	probeTime  = 180 * time.Millisecond
	tick       = 10 * time.Millisecond
	syncDelay  = 2 * time.Millisecond
	apiTimeout = 40 * time.Second
)

type event struct {
	at     time.Time
	serial int
	do     func()
}

type eventQueue []event

func (q eventQueue) Len() int { return len(q) }
func (q eventQueue) Less(i, j int) bool {
	return q[i].at.Before(q[j].at) || q[i].at.Equal(q[j].at) && q[i].serial < q[j].serial
}
func (q eventQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *eventQueue) Push(x any)   { *q = append(*q, x.(event)) }
func (q *eventQueue) Pop() any {
	last := (*q)[len(*q)-1]
	*q = (*q)[:len(*q)-1]
	return last
}

func (w *world) after(d time.Duration, do func()) {
	w.serial++
	heap.Push(&w.events, event{w.now.Add(d), w.serial, do})
}

func newWorld(t *rapid.T) *world {
	w := &world{
		t: t, now: time.Unix(1000, 0), cut: map[[2]int]bool{}, filtered: map[[2]int]bool{}, notReady: map[int]bool{}, reported: map[string]map[string]bool{},
		excluded: map[int]bool{}, owners: map[netip.Addr][]string{}, single: map[netip.Addr]time.Time{}, owned: map[netip.Addr]time.Time{},
	}
	for i := range rapid.IntRange(2, 4).Draw(t, "nodes") {
		w.nodes = append(w.nodes, &node{id: i, name: fmt.Sprintf("n%d", i)})
	}
	for i := range rapid.IntRange(1, 3).Draw(t, "addresses") {
		w.addrs = append(w.addrs, netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)}))
	}
	w.never = rapid.Bool().Draw(t, "failback: Never")
	if rapid.IntRange(0, 3).Draw(t, "filter") == 0 {
		for i := range w.nodes {
			for j := range i {
				w.filtered[[2]int{j, i}] = true
			}
		}
	}
	for _, addr := range w.addrs {
		w.owned[addr], w.single[addr] = w.now, w.now
	}
	for _, n := range w.nodes {
		w.start(n)
	}
	return w
}

func (w *world) logf(format string, args ...any) {
	w.trace = append(w.trace, fmt.Sprintf("%8.3f ", w.now.Sub(time.Unix(1000, 0)).Seconds())+fmt.Sprintf(format, args...))
}

// start starts the speaker of a node.
func (w *world) start(n *node) {
	n.incarnation++
	n.running, n.stopped, n.leaving, n.hold = true, false, false, false
	n.tracker, n.upSince, n.lastRun = &Tracker{}, w.now, w.now
	n.held, n.asking, n.holder = map[netip.Addr]bool{}, map[netip.Addr]int{}, map[netip.Addr]int{}
	n.expected, n.lapsed, n.sessions = map[netip.Addr]string{}, map[netip.Addr]time.Time{}, map[int]*bfdSession{}
	w.readAPI(n)
	w.sync(n)
}

func (w *world) readAPI(n *node) {
	if !n.apiCut {
		n.view = apiView{cloneSet(w.notReady), cloneSet(w.excluded), maps.Clone(w.reported)}
	}
}

func cloneSet(m map[int]bool) map[int]bool {
	c := map[int]bool{}
	for k, v := range m {
		if v {
			c[k] = true
		}
	}
	return c
}

func score(node string, addr netip.Addr) uint64 {
	h := fnv.New64a()
	fmt.Fprint(h, node, addr)
	return h.Sum64() * 0x9e3779b97f4a7c15
}

// reaches reports whether frames of one node reach the other one, and that one handles them.
func (w *world) reaches(from, to *node) bool {
	return !w.cut[[2]int{from.id, to.id}] && to.running && !to.stopped
}

func (w *world) node(name string) *node {
	return w.nodes[slices.IndexFunc(w.nodes, func(n *node) bool { return n.name == name })]
}

// address returns what the node knows about an address.
func (w *world) address(n *node, view View, addr netip.Addr) Address {
	a := Address{
		Self: n.name, Held: n.held[addr], Verified: view.Verified[addr], Expected: n.expected[addr], Fresh: !n.apiCut,
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
	a.ReportsGone = func(reporter, node string) bool { return n.view.gone[reporter][node] }
	if id, ok := n.holder[addr]; ok {
		a.Holder = w.nodes[id].name
	}
	allNotReady := len(n.view.notReady) == len(w.nodes)
	for _, o := range w.nodes {
		if n.view.excluded[o.id] || n.view.notReady[o.id] && !allNotReady || o == n && n.leaving {
			continue
		}
		key := Peer{"eth0", o.name}
		a.Ranked = append(a.Ranked, Candidate{Peer: key, Score: score(o.name, addr), Status: view.Peers[key]})
	}
	slices.SortFunc(a.Ranked, func(x, y Candidate) int { return -compareUint(x.Score, y.Score) })
	since, ok := n.lapsed[addr]
	a.Lapsed = ok && w.now.Sub(since) >= LeaveTimeout
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
	if !n.running || n.stopped {
		return
	}
	view := n.tracker.View()
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
		a.Lapsed = a.Lapsed && !eligible
		do, acting := a.Decide()
		was := n.held[addr]
		n.held[addr] = do == Keep || do == Announce
		if do != Ask {
			delete(n.asking, addr)
		}
		if do != Wait && do != Ask || n.held[addr] {
			delete(n.holder, addr)
		}
		switch {
		case do == Ask && n.asking[addr] == 0:
			w.probe(n, addr)
		case do == Wait:
			w.recheckHolder(n, addr)
		}
		if n.held[addr] != was {
			w.logf("%s %v %v (acting %s)", n.name, addr, map[bool]string{true: "announces", false: "ends"}[n.held[addr]], acting)
		}
		if n.held[addr] && (!was || a.Verified.Node != "") {
			w.announce(n, addr)
		}
		if acting != "" {
			n.expected[addr] = acting
		}
		targets.Add(addr, a, acting)
	}
	w.report(n)
	w.setSessions(n, targets)
	n.tracker.Set(w.now, targets)
	n.hold = n.tracker.View().HoldAnswers
	w.advance(n)
}

// report writes which nodes are gone, if that has changed.
func (w *world) report(n *node) {
	gone := map[string]bool{}
	for key, s := range n.tracker.View().Peers {
		if s.State == Gone || s.State == Leaving {
			gone[key.Node] = true
		}
	}
	if n.apiCut || maps.Equal(gone, w.reported[n.name]) {
		return
	}
	w.reported[n.name] = gone
	w.changedAPI()
}

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
	w.after(probeTime/2, func() {
		if n.incarnation != incarnation || n.asking[addr] != serial || !n.running || n.stopped {
			return
		}
		for _, o := range w.nodes {
			if o != n && w.reaches(n, o) && w.reaches(o, n) && o.held[addr] && !o.hold {
				n.holder[addr] = o.id
			}
		}
	})
	w.after(probeTime, func() {
		if n.incarnation != incarnation || n.asking[addr] != serial {
			return
		}
		if n.stopped {
			delete(n.asking, addr)
			return
		}
		delete(n.asking, addr)
		if _, answered := n.holder[addr]; !answered {
			n.expected[addr] = n.name // no host has it
			n.held[addr] = true
			w.logf("%s %v announces (no answer)", n.name, addr)
			w.announce(n, addr)
		}
		w.sync(n)
	})
}

// recheckHolder asks again later whether the holder still has the address.
func (w *world) recheckHolder(n *node, addr netip.Addr) {
	incarnation := n.incarnation
	w.after(10*time.Second, func() {
		if id, ok := n.holder[addr]; ok && n.incarnation == incarnation && n.running && !n.stopped {
			o := w.nodes[id]
			if !w.reaches(n, o) || !w.reaches(o, n) || !o.held[addr] {
				delete(n.holder, addr)
			}
			w.sync(n)
		}
	})
	if left := HoldDown - w.now.Sub(n.upSince); left > 0 {
		w.after(left, func() { w.syncIf(n, incarnation) })
	}
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
		if o != sender && o != claimant && w.reaches(sender, o) && o.held[addr] {
			o.tracker.Claimed(w.now, Peer{"eth0", claimant.name}, addr)
			w.advance(o)
		}
	}
}

// advance asks what the tracker wants to be asked.
func (w *world) advance(n *node) {
	questions, next := n.tracker.Advance(w.now)
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
		if n.tracker.Answered(w.now, q.ID, *answered) {
			if after := n.tracker.View().Peers[q.Peer]; before.Peers[q.Peer].State != after.State {
				w.logf("%s: %s is %v", n.name, q.Node, after.State)
			}
			w.sync(n)
			return
		}
		w.advance(n)
	})
}

// setSessions creates and deletes BFD sessions.
func (w *world) setSessions(n *node, targets Targets) {
	for id := range n.sessions {
		if _, keep := targets[Peer{"eth0", w.nodes[id].name}]; !keep {
			delete(n.sessions, id)
		}
	}
	for key := range targets {
		if o := w.node(key.Node); n.sessions[o.id] == nil {
			n.sessions[o.id] = &bfdSession{createdAt: w.now}
		}
	}
}

// runBFD sets the states of the sessions, once per tick.
func (w *world) runBFD() {
	for _, n := range w.nodes {
		if !n.running || n.stopped {
			continue
		}
		for _, o := range w.nodes {
			s := n.sessions[o.id]
			if s == nil {
				continue
			}
			theirs := o.sessions[n.id]
			works := w.reaches(o, n) && w.reaches(n, o) && o.running && !o.stopped && theirs != nil &&
				!w.filtered[[2]int{min(n.id, o.id), max(n.id, o.id)}]
			state := s.state
			switch {
			case o.running && o.leaving && !w.cut[[2]int{o.id, n.id}] && s.state == Up:
				state = AdminDown
			case works && s.state != Up && !o.leaving && !n.leaving && w.now.Sub(s.createdAt) > handshake && w.now.Sub(theirs.createdAt) > handshake:
				state = Up
			case !works && s.state == Up:
				state = Down
			}
			if !works {
				s.createdAt = w.now.Add(-handshake / 2)
			}
			if state == s.state {
				continue
			}
			s.state = state
			incarnation := n.incarnation
			delay := time.Duration(0)
			if state == Down {
				delay = detection
			}
			w.after(delay, func() {
				if n.incarnation == incarnation && n.sessions[o.id] == s && s.state == state && !n.stopped {
					w.logf("%s: session with %s is %v", n.name, o.name, state)
					if n.tracker.SessionChanged(w.now, Peer{"eth0", o.name}, state) {
						w.sync(n)
						return
					}
					n.hold = n.tracker.View().HoldAnswers
					w.advance(n)
				}
			})
		}
	}
}

// run advances the time and checks the laws at every tick.
func (w *world) run(d time.Duration) {
	for end := w.now.Add(d); w.now.Before(end); {
		w.runBFD()
		next := w.now.Add(tick)
		for len(w.events) > 0 && !w.events[0].at.After(next) {
			e := heap.Pop(&w.events).(event)
			if e.at.After(w.now) {
				w.now = e.at
			}
			e.do()
		}
		w.now = next
		w.check()
	}
}

func (w *world) fail(format string, args ...any) {
	w.t.Fatalf("%s\n%s", fmt.Sprintf(format, args...), strings.Join(w.trace, "\n"))
}
