// Package failover decides which of several nodes announces an address on a segment, from
// what this node knows: the ranks of the eligible nodes by the API, and which of them still
// answer for their addresses. It is pure: the caller passes the time, the state of BFD
// sessions and the answers to questions by ARP or Neighbor Discovery, and gets the
// questions that are to be asked.
//
// A peer whose BFD session leaves Up is suspected, and so is one that has missed several
// polls in a row where no session is Up, because BFD is filtered. A suspected peer is
// asked for addresses that it announces; without an answer it is Gone. The kernel of a
// node does not answer for these addresses, so an answer proves that the speaker runs.
//
// A peer is asked for each of the addresses that it announces as far as this node knows, until
// it has answered for it. Only an address that a peer has answered for is announced without a
// probe when the peer is gone: another node may have the others.
//
// tracker.go has the Tracker of the peers and its inputs, advance.go its questions and
// what follows from the answers, decide.go the decision about one address. All of the
// state is in memory, and is built anew after a restart.
package failover

import (
	"maps"
	"net/netip"
	"slices"
	"time"
)

const (
	// sessionWait is the time from the creation of a session after which a peer is polled
	// until the session is Up, and returnWait that from the first answer of a peer that has
	// returned after which its claims are verified.
	sessionWait, returnWait = 3 * time.Second, time.Second

	// pollInterval is the time between two polls of a peer without a session that is Up,
	// missInterval that after a poll without an answer, and contestInterval that of a peer that
	// should announce addresses of this node.
	pollInterval, missInterval, contestInterval = time.Second, 800 * time.Millisecond, 500 * time.Millisecond

	// maxMisses is the number of polls in a row without an answer after which a peer that
	// has answered before is suspected.
	maxMisses = 3

	// takeoverWait is the shortest time within which the first successor of a peer that is
	// gone must answer for its addresses.
	takeoverWait = 50 * time.Millisecond

	// verifyInterval is the shortest time between two verifications of the claims of a peer.
	verifyInterval = 100 * time.Millisecond

	// retryInterval is the time after which a suspicion that could not be asked is asked again.
	retryInterval = 200 * time.Millisecond

	// maxSample is the number of addresses in a question about a peer, and maxAddresses that
	// in one about the addresses themselves.
	maxSample, maxAddresses = 3, 256

	// confirmInterval is the time between two questions for confirmations, while they are
	// answered. Otherwise it doubles from pollInterval to maxConfirmInterval.
	confirmInterval, maxConfirmInterval = 100 * time.Millisecond, 16 * time.Second
)

// Peer is another node on the segment of an interface of this node.
type Peer struct{ Interface, Node string }

// Target is why a peer is observed. The addresses are sorted by their importance: those
// that have been announced for the longest time first.
type Target struct {
	// Announces are the addresses that the peer announces, or must take over now, as far
	// as this node knows. This node is one of their successors.
	Announces []netip.Addr
	// Succeeds are the addresses that this node announces and the peer takes over first.
	Succeeds []netip.Addr
	// Outranks are the addresses that this node announces although the peer ranks higher:
	// it was gone, or has not taken them back yet.
	Outranks []netip.Addr
	// Timers are those of the BFD session with the peer, and LongestDetection is the longest
	// detection time of the addresses that it is for. They are set by Targets.Add.
	Timers           Timers
	LongestDetection time.Duration
}

// Session is the state of the BFD session with a peer.
type Session int

const (
	// Down: the session is not Up, or does not exist.
	Down Session = iota
	// Up: the session is Up.
	Up
	// AdminDown: the peer has signaled AdminDown. It leaves the segment.
	AdminDown
	// Ended: the peer does not need the session any more.
	Ended
)

// State is what is known about a peer.
type State int

const (
	// Unknown: no session was Up and no question was answered so far.
	Unknown State = iota
	// Live: the session is Up, or the last questions were answered.
	Live
	// Leaving: the peer has signaled AdminDown.
	Leaving
	// Gone: the peer was Live, or had to take over, and does not answer.
	Gone
)

// String returns the name of the state.
func (s State) String() string { return []string{"Unknown", "Live", "Leaving", "Gone"}[s] }

// Status is the state of a peer.
type Status struct {
	State State
	Since time.Time
	// Filtered is whether the peer answers questions although its session is not Up.
	Filtered bool
}

// Question asks a peer for addresses. Each is asked for by two unicast requests, 10 ms
// apart, and answers count until 10 ms after the last one.
type Question struct {
	ID uint64
	Peer
	Addresses []netip.Addr

	purpose purpose
}

// purpose is what follows from the answers.
type purpose int

const (
	suspicion    purpose = iota // without an answer the peer is gone
	poll                        // a miss or a proof of life
	confirmation                // each answer proves that the peer announces the address, as this node believes
	recheck                     // an answer proves that the peer has taken over addresses
	verification                // each answer proves that the peer announces the address
)

// Tracker observes peers. The zero value is ready for use. It must not be used
// concurrently.
type Tracker struct {
	peers    map[Peer]*peer
	open     map[uint64]Question
	lastID   uint64
	verified map[netip.Addr]Holder
	answered map[netip.Addr]Peer // of View; replaced when it changes
	stalled  bool                // answers are held back until the rechecks are done
}

// Holder is a peer that announces an address as well as this node.
type Holder struct {
	Peer
	// TookOver is whether the peer took the address over because this node did not respond.
	TookOver bool
}

// peer is an observed peer.
type peer struct {
	Target
	Status
	session    Session
	wasUp      bool // the session, since it was created
	created    time.Time
	answered   bool // a poll since it was created
	misses     int
	polled     time.Time // the last poll
	turn       int       // of the addresses that a poll asks for
	expected   []netip.Addr
	checkAt    time.Time // when the expected addresses are asked for
	confirm    confirmations
	claimed    map[netip.Addr]bool // to be verified
	verifiedAt time.Time           // the last verification, zero if it was for some of the claims only
	unverified int                 // verifications until it is known what it took over, because this node did not respond

	lastVerified netip.Addr // the next claims are from this address on
	due          map[purpose]bool
}

// confirmations are the addresses that a peer announces as this node believes, but for which
// it has not answered.
type confirmations struct {
	addrs []netip.Addr
	turn  int
	asked time.Time // last
	wait  time.Duration
}

func newPeer(now time.Time) *peer {
	return &peer{
		created: now, Status: Status{Since: now}, confirm: confirmations{asked: now},
		claimed: map[netip.Addr]bool{}, due: map[purpose]bool{},
	}
}

// Set replaces the peers that are observed. It must be called after each change of the
// View has led to another plan. Verified is that of the View on which the plan is based:
// what was verified later is left for the next plan.
func (t *Tracker) Set(now time.Time, targets map[Peer]Target, verified map[netip.Addr]Holder) {
	if t.peers == nil {
		t.peers, t.open, t.verified = map[Peer]*peer{}, map[uint64]Question{}, map[netip.Addr]Holder{}
		t.answered = map[netip.Addr]Peer{}
	}
	moved := t.movedAddresses(targets)
	for key := range t.peers {
		if _, keep := targets[key]; !keep {
			delete(t.peers, key)
		}
	}
	for key, target := range targets {
		p := t.peers[key]
		if p == nil {
			p = newPeer(now)
			t.peers[key] = p
		}
		p.Target = target
		if m := moved[key]; len(m.addrs) > 0 && p.State != Gone {
			p.expected, p.checkAt = m.addrs, now.Add(m.wait)
		} else if p.expected = intersect(p.expected, p.Announces); len(p.expected) == 0 {
			p.checkAt = time.Time{}
		}
	}
	t.setConfirmations()
	maps.DeleteFunc(t.verified, func(a netip.Addr, h Holder) bool { return verified[a] == h })
	t.endHold()
}

// setConfirmations forgets which peers have answered for addresses that no peer announces
// any more, and sets the addresses that the others must confirm.
func (t *Tracker) setConfirmations() {
	answered := make(map[netip.Addr]Peer, len(t.answered))
	for key, p := range t.peers {
		var addrs []netip.Addr
		for _, a := range p.Announces {
			holder, ok := t.answered[a]
			if ok {
				answered[a] = holder
			}
			if holder != key {
				addrs = append(addrs, a)
			}
		}
		if len(addrs) > len(p.confirm.addrs) {
			p.confirm.wait = min(p.confirm.wait, pollInterval)
		}
		p.confirm.addrs = addrs
	}
	t.answered = answered
}

// without returns the addresses that the peer has answered for and announced so far, but does
// not any more.
func (t *Tracker) without(key Peer, announces []netip.Addr) (addrs []netip.Addr) {
	p := t.peers[key]
	if slices.Equal(p.Announces, announces) {
		return nil
	}
	still := make(map[netip.Addr]bool, len(announces))
	for _, a := range announces {
		still[a] = true
	}
	for _, a := range p.Announces {
		if t.answered[a] == key && !still[a] {
			addrs = append(addrs, a)
		}
	}
	return addrs
}

// takeover is what a peer must answer for after a wait.
type takeover struct {
	addrs []netip.Addr
	wait  time.Duration
}

// movedAddresses returns the addresses that targets expect of another peer than before,
// because that one is gone, leaves, or is not eligible any more. The other peer may notice
// that one is gone later than this node: by its BFD session, or, where polls have shown it,
// by a poll that is almost an interval later. A peer that leaves signals it to all at once,
// and one that is not eligible goes on for LeaveTimeout.
func (t *Tracker) movedAddresses(targets map[Peer]Target) map[Peer]takeover {
	gone := map[netip.Addr]time.Duration{}
	for key, p := range t.peers {
		moved, wait := p.Announces, takeoverWait
		switch {
		case p.State == Gone:
			wait = max(wait, p.detectionSpread())
			if p.misses >= maxMisses {
				wait += pollInterval
			}
		case p.State != Leaving:
			moved, wait = t.without(key, targets[key].Announces), LeaveTimeout/2
		}
		for _, a := range moved {
			gone[a] = max(gone[a], wait)
		}
	}
	if len(gone) == 0 {
		return nil
	}
	moved := map[Peer]takeover{}
	for key, target := range targets {
		p, m := t.peers[key], takeover{}
		for _, a := range target.Announces {
			waits := p != nil && (p.State == Gone || t.answered[a] == key || slices.Contains(p.expected, a))
			if len(m.addrs) < maxSample && gone[a] > 0 && !waits {
				m.addrs, m.wait = append(m.addrs, a), max(m.wait, gone[a])
			}
		}
		moved[key] = m
	}
	return moved
}

// SessionChanged reports the state of the BFD session with a peer.
func (t *Tracker) SessionChanged(now time.Time, key Peer, s Session) (changed bool) {
	p := t.peers[key]
	if p == nil {
		return false
	}
	was := p.session
	p.session = s
	switch {
	case s == Up:
		p.misses, p.wasUp = 0, true
		changed = p.Filtered || p.State != Live
		if was != Up {
			t.forgetAnswers(key) // it may have been restarted, and have lost its addresses
		}
		p.Filtered = false
		p.set(now, Live)
	case s == AdminDown && p.State != Leaving:
		changed = true
		p.set(now, Leaving)
	case s == Ended && was == Up:
		t.askAgain(key)
	case s == Down && was == Up:
		p.due[suspicion] = true
		// The peer may have taken over. This node answers meanwhile: a peer that has not, because
		// only BFD packets are lost, asks at the same time.
		p.due[recheck] = p.due[recheck] || len(p.Succeeds) > 0
	}
	return changed
}

// SessionDeleted reports that this node has deleted its BFD session with a peer, because an
// address of one of the two has changed. The peer is polled until another session is Up.
func (t *Tracker) SessionDeleted(now time.Time, key Peer) {
	if p := t.peers[key]; p != nil {
		p.session, p.wasUp, p.created = Down, false, now
	}
}

// askAgain makes claims of the peer be verified again, because it may have yielded the
// addresses since it has answered.
func (t *Tracker) askAgain(key Peer) {
	p := t.peers[key]
	for a, h := range t.verified {
		if h == (Holder{Peer: key}) {
			delete(t.verified, a)
			p.claimed[a] = true
		}
	}
	for id, q := range t.open {
		if q.Peer == key && (q.purpose == verification || q.purpose == poll && len(p.Outranks) > 0) {
			delete(t.open, id)
			p.claim(q.Addresses)
		}
	}
	p.verifiedAt = time.Time{}
}

// claim makes claims of the peer be verified.
func (p *peer) claim(addrs []netip.Addr) {
	for _, a := range addrs {
		p.claimed[a] = true
	}
}

// Stalled reports that this process did not run for longer than the detection time: other
// nodes may have taken over its addresses. View returns that answers must be held back
// until they have been asked and, if they have taken over any, Set was called.
//
// What peers have answered before proves nothing any more: one may have failed, and another
// one taken over. The same is true of answers to open questions, which may have waited in a
// socket.
func (t *Tracker) Stalled() {
	t.answered = map[netip.Addr]Peer{}
	for id, q := range t.open {
		delete(t.open, id)
		switch p := t.peers[q.Peer]; {
		case p == nil:
		case q.purpose == verification:
			p.claim(q.Addresses)
		case q.purpose == suspicion:
			p.expected = intersect(q.Addresses, p.Announces)
			fallthrough
		default:
			p.due[q.purpose] = true
		}
	}
	t.setConfirmations()
	for _, p := range t.peers {
		if len(p.Succeeds)+len(p.Outranks) > 0 {
			p.due[recheck], t.stalled = true, true
		}
	}
}

// Claimed reports that a frame with the MAC of the peer claims addresses that this node
// announces. Frames can be forged, so the peer is asked.
func (t *Tracker) Claimed(now time.Time, key Peer, addrs ...netip.Addr) {
	p := t.peers[key]
	if p == nil {
		if t.peers == nil {
			return
		}
		p = newPeer(now)
		t.peers[key] = p // until the next Set
	}
	p.claim(addrs)
}

// View is the knowledge of a Tracker.
type View struct {
	Peers map[Peer]Status
	// Verified are the addresses of this node that a peer announces, too, until Set is called
	// with them.
	Verified map[netip.Addr]Holder
	// Answered are the addresses that peers announce, each with the peer that has answered
	// for it last. It must not be changed.
	Answered map[netip.Addr]Peer
	// HoldAnswers is whether this node must not answer for its addresses at the moment.
	HoldAnswers bool
}

// View returns what is known now.
func (t *Tracker) View() View {
	v := View{Peers: make(map[Peer]Status, len(t.peers)), Verified: maps.Clone(t.verified), Answered: t.answered, HoldAnswers: t.stalled}
	for key, p := range t.peers {
		v.Peers[key] = p.Status
	}
	return v
}

func (p *peer) set(now time.Time, s State) {
	if p.State != s {
		p.State, p.Since = s, now
	}
}

// awaitsSession reports whether the peer has returned, and its session is likely to be Up soon.
// The session shows whether the peer has contact with the API, which decides which of the two
// nodes keeps an address.
func (p *peer) awaitsSession(now time.Time) bool {
	return p.wasUp && p.session == Down && p.State == Live && now.Before(p.Since.Add(returnWait))
}

// isRechecking reports whether it is not known yet which addresses a peer has taken over.
func (t *Tracker) isRechecking() bool {
	for _, q := range t.open {
		if q.purpose == recheck {
			return true
		}
	}
	for _, p := range t.peers {
		if p.unverified > 0 || p.due[recheck] {
			return true
		}
	}
	return false
}
