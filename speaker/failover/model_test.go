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

	cut       map[[2]int]bool // frames from one node to another are lost
	filtered  map[[2]int]bool // BFD packets only; both directions
	notReady  map[int]bool    // by the API
	reported  map[string]map[string]bool
	excluded  map[int]bool
	never     bool // failback: Never
	scattered bool // the nodes learn of changes of the API at different times

	broken       brokenRules
	disturbances int
	promise      promise   // by the nodes until the next disturbance
	disturbed    time.Time // the last event that was not the nodes' own
	unsure       time.Time // when an owner may have had to be replaced although it ran: frames were lost, or the API changed
	owners       map[netip.Addr][]string
	owned        map[netip.Addr]time.Time // when an address had an owner, or could not have one
	single       map[netip.Addr]time.Time // when an address had at most one owner, or frames were lost
	sole         map[netip.Addr]tenure
	violation    string
	trace        []string
}

// promise is what the nodes keep to until the next disturbance.
type promise struct {
	maxGap      time.Duration // an address may be without an owner for this time, unless 0
	noGap, once bool          // an address has an owner, and not two, at every instant
	noMove      bool          // for onceTime, no node begins to announce an address
}

// tenure is the time for which a node has been the only owner of an address.
type tenure struct {
	node  string
	since time.Time
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
	asking      map[netip.Addr]int  // the serial number of a probe
	holder      map[netip.Addr]int  // nodes that have answered a probe
	rechecks    map[netip.Addr]bool // of the holder that are due
	heldSince   map[netip.Addr]time.Time
	believed    map[netip.Addr]string // the owner
	lapsed      map[netip.Addr]time.Time
	leaving     bool
	noticed     bool // by its successors, that it was killed, and by the others from their reports
	hold        bool

	syncing, syncRequested bool // a sync has begun, and has to be followed by another one

	skew   time.Duration // of its clock
	apiCut bool
	lies   bool    // it reports to have taken over from all others
	isOld  bool    // the view is that of a speaker before
	view   apiView // the last one with contact to the API

	sessions map[int]*bfdSession
	wakeAt   time.Time
}

type apiView struct {
	notReady, excluded map[int]bool
	gone               map[string]map[string]bool // nodes that are gone, by the node that reports it
}

type bfdSession struct {
	state     Session
	createdAt time.Time
	ended     bool // the peer has removed it, which is to be signaled
}

const verbose = false

const (
	detection  = 150 * time.Millisecond
	handshake  = 1100 * time.Millisecond
	askTime    = 20 * time.Millisecond
	probeTime  = 180 * time.Millisecond
	probes     = 2
	reprobe    = time.Second
	tick       = 10 * time.Millisecond
	syncDelay  = 2 * time.Millisecond
	syncTime   = 50 * time.Millisecond // of one that begins when a process continues
	apiTimeout = 40 * time.Second
	onceTime   = 5 * time.Second // for which promise.once and noMove hold
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

func newWorld(t *rapid.T, broken brokenRules, s scenario) *world {
	w := &world{
		t: t, broken: broken, now: time.Unix(1000, 0), cut: map[[2]int]bool{}, filtered: map[[2]int]bool{}, notReady: map[int]bool{},
		reported: map[string]map[string]bool{}, excluded: map[int]bool{}, owners: map[netip.Addr][]string{},
		single: map[netip.Addr]time.Time{}, owned: map[netip.Addr]time.Time{}, sole: map[netip.Addr]tenure{},
	}
	for i := range rapid.IntRange(s.minNodes, 4).Draw(t, "nodes") {
		n := &node{id: i, name: fmt.Sprintf("n%d", i)}
		if s.skewed {
			n.skew = time.Duration(rapid.SampledFrom([]int{0, -3600, 5, 86400}).Draw(t, "clock skew in s")) * time.Second
		}
		w.nodes = append(w.nodes, n)
	}
	for i := range rapid.IntRange(1, 3).Draw(t, "addresses") {
		w.addrs = append(w.addrs, netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)}))
	}
	w.never = rapid.Bool().Draw(t, "failback: Never")
	w.scattered = s.scattered
	if !s.scattered && rapid.IntRange(0, 3).Draw(t, "filter") == 0 {
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

// random returns a number below n that depends on the history only.
func (w *world) random(n uint64) uint64 {
	h := fnv.New64a()
	fmt.Fprint(h, w.now, w.serial)
	return h.Sum64() * 0x9e3779b97f4a7c15 >> 32 % n
}

func (w *world) logf(format string, args ...any) {
	w.trace = append(w.trace, fmt.Sprintf("%8.3f ", w.now.Sub(time.Unix(1000, 0)).Seconds())+fmt.Sprintf(format, args...))
}

// start starts the speaker of a node.
func (w *world) start(n *node) {
	w.forgetNoticed()
	n.incarnation++
	n.running, n.stopped, n.leaving, n.hold = true, false, false, false
	n.tracker, n.upSince, n.wakeAt = &Tracker{}, w.now, time.Time{}
	n.held, n.asking, n.holder = map[netip.Addr]bool{}, map[netip.Addr]int{}, map[netip.Addr]int{}
	n.rechecks = map[netip.Addr]bool{}
	n.believed, n.heldSince = map[netip.Addr]string{}, map[netip.Addr]time.Time{}
	n.lapsed, n.sessions = map[netip.Addr]time.Time{}, map[int]*bfdSession{}
	n.isOld, n.syncing, n.syncRequested = true, false, false
	w.readAPI(n)
	w.sync(n)
}

// forgetNoticed is called when a node begins to observe others: it has not noticed which of
// them were killed before.
func (w *world) forgetNoticed() {
	for _, n := range w.nodes {
		n.noticed = false
	}
}

func (w *world) readAPI(n *node) {
	if !n.apiCut {
		n.isOld = false
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

// runBFD sets the states of the sessions, once per tick.
func (w *world) runBFD() (changed bool) {
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
			case s.ended && s.state == Up:
				state = Ended
			case !works && s.state == Up:
				state = Down
			}
			s.ended = false
			if !works {
				s.createdAt = w.now.Add(-handshake / 2)
			}
			if state == s.state {
				continue
			}
			s.state, changed = state, true
			incarnation := n.incarnation
			delay := time.Duration(0)
			if state == Down {
				// It begins with the last packet, and one is sent every 50 ms.
				delay = detection - time.Duration(w.random(50))*time.Millisecond
			}
			w.after(delay, func() {
				if n.incarnation == incarnation && n.sessions[o.id] == s && s.state == state && !n.stopped {
					w.logf("%s: session with %s is %v", n.name, o.name, state)
					if n.tracker.SessionChanged(w.now.Add(n.skew), Peer{"eth0", o.name}, state) {
						w.sync(n)
						return
					}
					w.setHold(n)
					w.advance(n)
				}
			})
		}
	}
	return changed
}

// run advances the time and checks the laws at every tick. Time in which nothing happens is
// skipped.
func (w *world) run(d time.Duration) {
	idle := false
	for end := w.now.Add(d); w.now.Before(end) && w.violation == ""; {
		if idle {
			quiet := earlier(w.now.Add(10*tick), end)
			if len(w.events) > 0 {
				quiet = earlier(quiet, w.events[0].at.Add(-1))
			}
			if quiet.After(w.now) {
				w.now = quiet
				w.check()
			}
		}
		idle = !w.runBFD()
		next := w.now.Add(tick)
		for len(w.events) > 0 && !w.events[0].at.After(next) {
			e := heap.Pop(&w.events).(event)
			if e.at.After(w.now) {
				w.now = e.at
			}
			e.do()
			idle = false
		}
		w.now = next
		w.check()
	}
}

// fail records the first violation of a law.
func (w *world) fail(format string, args ...any) {
	if w.violation == "" {
		w.violation = fmt.Sprintf("%s\n%s", fmt.Sprintf(format, args...), strings.Join(w.trace, "\n"))
	}
}
