package failover

import (
	"cmp"
	"net/netip"
	"slices"
	"time"
)

const (
	// HoldDown is the time that a node has to be up before it takes back addresses that
	// another node has taken over.
	HoldDown = 30 * time.Second

	// MaxHoldDown is the longest such time, of a node that recovers and fails again and again.
	MaxHoldDown = 16 * HoldDown

	// LeaveTimeout is the time for which a node that is not eligible any more goes on
	// answering, unless another node announces the address earlier.
	LeaveTimeout = time.Second
)

// NextHoldDown returns how long a node that recovers now leaves its addresses to the nodes
// that have taken them over: up is the time since the last recovery, and last what followed
// from that one. If the node has failed soon after it took addresses back, the time doubles.
func NextHoldDown(last, up time.Duration) time.Duration {
	switch {
	case up < last:
		return last // it has not taken any back
	case up < 4*last:
		return min(2*last, MaxHoldDown)
	}
	return HoldDown
}

// Candidate is an eligible node on the segment of an address.
type Candidate struct {
	Peer          // Interface is this node's on the segment
	Score  uint64 // of the node for the address; it does not depend on the state of the cluster
	Status Status // of the peer; that of this node is not used
	Timers Timers // of a BFD session between the two nodes for the address
}

// IsGone reports whether the peer does not announce addresses any more, or not for long.
func (s Status) IsGone() bool { return s.State == Gone || s.State == Leaving }

func (c Candidate) isGone() bool { return c.Status.IsGone() }

// Address is what this node knows about an address on a segment.
type Address struct {
	Self string
	// Ranked are the eligible nodes, best first.
	Ranked []Candidate
	// Others are the nodes on the segment that are not Ready, excluded, or without ready
	// endpoints. They may not know that yet, have lost contact with the API server only, or
	// leave the address to another node only when that one announces it.
	Others []Candidate
	// Held is whether this node announces the address.
	Held bool
	// Lapsed is whether this node has not been eligible for LeaveTimeout, or is disconnected
	// from the segment.
	Lapsed bool
	// Verified is a peer that announces the address as well as this node, if Node is set.
	Verified Holder
	// Holder is a node that answered when this node asked for the address before its
	// announcement, "" if none has.
	Holder string
	// Expected is the node that has answered for the address last, "" if this node has not
	// asked it. The owner by the API, or one with a session that is Up, need not announce
	// the address: another node may have taken it over.
	Expected string
	// Serves is whether this node's data path serves the address. Until it does, this node
	// leaves the address to a node that has it. Once it is Late, it asks the segment which node
	// that is: the one that has answered before may have stopped.
	Serves, Late bool
	// TakesBack is whether this node may take addresses back: it has been up for its hold-down,
	// and the advertisement permits it.
	TakesBack bool
	// Fresh is whether this node has contact with the API. PeerFresh returns the same of a
	// peer, known only while the session with it is Up.
	Fresh     bool
	PeerFresh func(node string) (fresh, known bool)
	// TookOver returns whether a node reports through the API that it announces addresses
	// of another one. The report decides only which nodes this one observes.
	TookOver func(reporter, node string) bool
	// ScoreOf returns the score of any node.
	ScoreOf func(node string) uint64
}

// Action is what this node does with an address.
type Action int

const (
	// None: another node announces it, or none can.
	None Action = iota
	// Keep: go on answering.
	Keep
	// Announce: announce it at once, because the node that has answered for it is gone or
	// not eligible.
	Announce
	// Ask: ask the segment first whether another node has it.
	Ask
	// Wait: another node has it, and keeps it for now, or until this node serves it.
	Wait
)

// Decide returns what this node does, and which node announces the address as a result, ""
// if none does.
func (a Address) Decide() (do Action, acting string) {
	rank := slices.IndexFunc(a.Ranked, func(c Candidate) bool { return c.Node == a.Self })
	best := ""
	for i, c := range a.Ranked {
		if i == rank || !c.isGone() {
			best = c.Node
			break
		}
	}
	if a.Held {
		other := a.Verified
		isLeaving := func(c Candidate) bool { return c.Node == other.Node && c.Status.State == Leaving }
		leaving := slices.ContainsFunc(a.Ranked, isLeaving) || slices.ContainsFunc(a.Others, isLeaving)
		switch {
		case other.Node != "" && (rank < 0 || !leaving && (other.TookOver || !a.prevails(other.Node))):
			return None, other.Node
		case rank < 0 && a.Lapsed:
			return None, best
		}
		return Keep, a.Self
	}
	if best != a.Self {
		return None, a.reportedOwner(best)
	}
	if a.Holder != "" && a.Holder != a.Self {
		// One that is gone, or that this node has not asked since, may have stopped before, and
		// another node may have the address.
		live, eligible := a.isLive(a.Holder)
		switch prevails := a.prevails(a.Holder); {
		case live && (!a.Serves || eligible && (!a.TakesBack || !prevails)):
			return Wait, a.Holder
		case live && prevails && a.Expected == a.Holder:
			return Announce, a.Self
		case live && !prevails:
			return Ask, a.Self // the holder stops soon, unless it has lost contact with the API
		}
	}
	if a.Expected != "" && a.Expected != a.Self {
		switch live, eligible := a.isLive(a.Expected); {
		case !live || a.Serves && !eligible && a.prevails(a.Expected):
			return Announce, a.Self
		case !a.Serves && !a.Late:
			return Wait, a.Expected
		}
	}
	return Ask, a.Self
}

// isLive reports whether a node is on the segment and not gone, and whether it is eligible.
func (a Address) isLive(node string) (live, eligible bool) {
	is := func(c Candidate) bool { return c.Node == node }
	if i := slices.IndexFunc(a.Ranked, is); i >= 0 {
		return !a.Ranked[i].isGone(), true
	}
	i := slices.IndexFunc(a.Others, is)
	return i >= 0 && !a.Others[i].isGone(), false
}

// reportedOwner returns the next eligible node that reports to have taken over from all the
// better ones, this node included, or best if there is none. This node may not have observed
// them, or have been restarted since.
func (a Address) reportedOwner(best string) string {
	for i, c := range a.Ranked {
		remains := func(better Candidate) bool {
			return (better.Node == a.Self || !better.isGone()) && !a.TookOver(c.Node, better.Node)
		}
		if i > 0 && c.Node != a.Self && !c.isGone() && !slices.ContainsFunc(a.Ranked[:i], remains) {
			return c.Node
		}
	}
	return best
}

// prevails reports whether this node keeps an address that the other one announces, too.
// Both nodes must come to opposite results. With contact to the API, both know the same
// ranks sooner or later. Without it, what a node knows may be old: the other one keeps the
// address. If that is not known, or true of both, the score decides, which depends on
// nothing else.
func (a Address) prevails(other string) bool {
	fresh, known := a.PeerFresh(other)
	switch {
	case known && fresh && a.Fresh:
		rank := func(node string) int {
			i := slices.IndexFunc(a.Ranked, func(c Candidate) bool { return c.Node == node })
			if i < 0 {
				return len(a.Ranked)
			}
			return i
		}
		return rank(a.Self) < rank(other)
	case known && fresh != a.Fresh:
		return a.Fresh
	}
	return cmp.Or(cmp.Compare(a.ScoreOf(a.Self), a.ScoreOf(other)), cmp.Compare(a.Self, other)) > 0
}

// Targets are the peers that are to be observed.
type Targets map[Peer]Target

// Add adds the peers for an address that the acting node announces.
func (t Targets) Add(addr netip.Addr, a Address, acting string) {
	isAsking := false
	if acting == a.Self && (a.Expected != "" || a.Holder != "") {
		do, _ := a.Decide()
		isAsking = do == Ask // and if the node that has it fails meanwhile, announces at once
	}
	for _, c := range slices.Concat(a.Others, a.Ranked) {
		if isAsking && (c.Node == a.Expected || c.Node == a.Holder) && c.Node != a.Self {
			t.observe(c, func(target *Target) { target.Announces = append(target.Announces, addr) })
		}
	}
	for _, c := range a.Others {
		switch {
		case acting == c.Node:
			t.observe(c, func(target *Target) { target.Announces = append(target.Announces, addr) })
		case acting == a.Self && c.Score > a.ScoreOf(a.Self):
			t.observe(c, func(target *Target) { target.Outranks = append(target.Outranks, addr) })
		case acting != a.Self && a.Expected == c.Node:
			t.observe(c, func(*Target) {}) // until the acting node has taken over
		}
	}
	if acting != a.Self && !a.succeeds(acting) {
		return
	}
	successors := 0
	var reported []Candidate // as gone by the acting node, for some of their addresses at least
	rank := slices.IndexFunc(a.Ranked, func(c Candidate) bool { return c.Node == a.Self })
	for i, c := range a.Ranked {
		outranks := i <= rank
		switch {
		case c.Node == acting:
			continue
		case outranks && acting == a.Self:
			t.observe(c, func(target *Target) { target.Outranks = append(target.Outranks, addr) })
		case outranks && c.isGone():
			// It is asked from time to time, so that its return is noticed.
			t.observe(c, func(target *Target) { target.Announces = append(target.Announces, addr) })
		case acting != a.Self && c.Node != a.Self && a.TookOver(acting, c.Node):
			// It may be gone, and then does not observe the acting node.
			reported = append(reported, c)
			continue
		}
		if c.isGone() {
			t.observe(c, func(*Target) {})
			continue
		}
		if successors++; successors > MaxSuccessors {
			continue
		}
		switch {
		case acting == a.Self && successors == 1:
			t.observe(c, func(target *Target) { target.Succeeds = append(target.Succeeds, addr) })
		case acting == a.Self:
			t.observe(c, func(*Target) {})
		case c.Node == a.Self:
			if owner := slices.IndexFunc(a.Ranked, func(c Candidate) bool { return c.Node == acting }); owner >= 0 {
				reported = append(reported, a.Ranked[owner])
			}
			for _, c := range reported {
				t.observe(c, func(target *Target) { target.Announces = append(target.Announces, addr) })
			}
		}
	}
}

// MaxSuccessors is the number of nodes that observe the acting node of an address.
const MaxSuccessors = 2

func (t Targets) observe(c Candidate, add func(*Target)) {
	target := t[c.Peer]
	add(&target)
	target.addTimers(c.Timers)
	t[c.Peer] = target
}

// succeeds reports whether this node is among the first live successors of the acting node,
// which observe it.
func (a Address) succeeds(acting string) bool {
	successors := 0
	for _, c := range a.Ranked {
		switch {
		case c.Node == acting:
		case c.Node == a.Self:
			return true
		case c.isGone() || a.TookOver(acting, c.Node):
		default:
			if successors++; successors == MaxSuccessors {
				return false
			}
		}
	}
	return false
}
