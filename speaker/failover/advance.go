package failover

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Advance returns the questions that are to be asked now, and the time of the next call;
// the zero time if only an input can make another one necessary.
func (t *Tracker) Advance(now time.Time) (questions []Question, next time.Time) {
	for _, key := range t.sortedPeers() {
		p := t.peers[key]
		p.schedule(now)
		for _, what := range []purpose{recheck, suspicion, verification, poll, confirmation} {
			if !p.due[what] || t.isAsking(key, what) || what == confirmation && t.isAsking(key, suspicion) {
				continue
			}
			delete(p.due, what)
			addrs := p.addresses(now, what)
			if what == suspicion {
				addrs = append(addrs, t.proofOfLife(key, addrs)...)
			}
			if len(addrs) > 0 {
				questions = append(questions, t.newQuestion(key, what, addrs))
			} else if what == suspicion && p.State != Leaving {
				p.set(now, Unknown) // nothing to ask for: nothing to take over
			}
		}
		next = earlier(next, p.nextDue(t.isAsking(key, verification)))
		if !t.isAsking(key, confirmation) && !t.isAsking(key, suspicion) {
			next = earlier(next, p.nextConfirmation())
		}
	}
	return questions, next
}

// proofOfLife returns another address that the peer may announce, if there is any: an answer
// for it proves that the peer works, even if it has not taken over the addresses of another node
// yet. An address that the peer has answered for is preferred, also if the last plan has another
// owner for it.
func (t *Tracker) proofOfLife(key Peer, asked []netip.Addr) []netip.Addr {
	announces := slices.DeleteFunc(slices.Clone(t.peers[key].Announces), func(a netip.Addr) bool { return slices.Contains(asked, a) })
	for _, a := range announces {
		if t.answered[a] == key {
			return []netip.Addr{a}
		}
	}
	var answered []netip.Addr
	for a, holder := range t.answered {
		if holder == key && !slices.Contains(asked, a) {
			answered = append(answered, a)
		}
	}
	if len(answered) > 0 {
		return []netip.Addr{slices.MinFunc(answered, netip.Addr.Compare)}
	}
	return announces[:min(len(announces), 1)]
}

// schedule marks what is due by the time.
func (p *peer) schedule(now time.Time) {
	if at := p.nextPoll(); !at.IsZero() && !now.Before(at) {
		p.due[poll] = true
		p.polled = now
	}
	if !p.checkAt.IsZero() && !now.Before(p.checkAt) {
		p.checkAt = time.Time{}
		p.due[suspicion] = true
	}
	if at := p.nextConfirmation(); !at.IsZero() && !now.Before(at) {
		p.due[confirmation] = true
	}
	p.due[verification] = len(p.claimed) > 0 && !now.Before(p.nextVerification())
}

// nextPoll returns when the peer is polled, the zero time if it is not.
func (p *peer) nextPoll() time.Time {
	switch {
	case len(p.Outranks) > 0:
		return p.polled.Add(contestInterval)
	case p.session == Up || len(p.Announces) == 0:
		return time.Time{}
	}
	at := p.polled.Add(pollInterval)
	if p.misses > 0 {
		at = p.polled.Add(missInterval)
	}
	if earliest := p.created.Add(sessionWait); at.Before(earliest) {
		return earliest
	}
	return at
}

// nextConfirmation returns when the peer is asked for confirmations, the zero time if it is
// not. What a peer announces that is gone, or leaves, must have been confirmed before.
func (p *peer) nextConfirmation() time.Time {
	if len(p.confirm.addrs) == 0 || p.State == Gone || p.State == Leaving {
		return time.Time{}
	}
	return p.confirm.asked.Add(p.confirm.wait)
}

// nextDue returns when schedule has something to do, the zero time if it has nothing.
// Claims wait until the last verification is answered.
func (p *peer) nextDue(verifying bool) time.Time {
	at := p.nextPoll()
	if len(p.claimed) > 0 && !verifying {
		at = earlier(at, p.nextVerification())
	}
	return earlier(at, p.checkAt)
}

// nextVerification returns when claims of the peer are verified.
func (p *peer) nextVerification() time.Time {
	at := p.verifiedAt.Add(verifyInterval)
	if expected := p.Since.Add(returnWait); p.awaitsSession(at) {
		return expected
	}
	return at
}

// earlier returns the earlier one of two times that are not zero.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// addresses returns the addresses that the peer is asked for.
func (p *peer) addresses(now time.Time, what purpose) []netip.Addr {
	switch what {
	case recheck:
		return slices.Concat(p.Succeeds[:min(len(p.Succeeds), maxSample)], p.Outranks[:min(len(p.Outranks), maxSample)])
	case confirmation:
		p.confirm.asked, p.confirm.wait = now, min(max(2*p.confirm.wait, pollInterval), maxConfirmInterval)
		return takeTurns(p.confirm.addrs, &p.confirm.turn, maxAddresses)
	case verification:
		return p.nextClaims(now)
	case suspicion:
		if expected := p.expected; len(expected) > 0 {
			p.expected = nil
			return expected
		}
		return slices.Clone(p.Announces[:min(len(p.Announces), maxSample)])
	}
	all := p.Outranks
	if len(all) == 0 {
		all = p.Announces
	}
	return takeTurns(all, &p.turn, maxSample)
}

// nextClaims returns the claims that are verified now: not too many, so that the answers
// are still true when all have arrived, and after those of the last question. The next ones
// follow at once.
func (p *peer) nextClaims(now time.Time) []netip.Addr {
	claimed := slices.SortedFunc(maps.Keys(p.claimed), netip.Addr.Compare)
	if p.verifiedAt = now; len(claimed) > maxAddresses {
		i, _ := slices.BinarySearchFunc(claimed, p.lastVerified, netip.Addr.Compare)
		claimed = slices.Concat(claimed[i:], claimed[:i])[:maxAddresses]
		p.verifiedAt = time.Time{}
		p.lastVerified = claimed[maxAddresses-1].Next()
	}
	for _, a := range claimed {
		delete(p.claimed, a)
	}
	return claimed
}

// takeTurns returns n of the addresses at most, each time the next ones.
func takeTurns(all []netip.Addr, turn *int, n int) (addrs []netip.Addr) {
	for range min(len(all), n) {
		addrs = append(addrs, all[*turn%len(all)])
		*turn++
	}
	return addrs
}

func (t *Tracker) newQuestion(key Peer, what purpose, addrs []netip.Addr) Question {
	t.lastID++
	q := Question{ID: t.lastID, Peer: key, Addresses: addrs, purpose: what}
	t.open[q.ID] = q
	return q
}

func (t *Tracker) isAsking(key Peer, what purpose) bool {
	for _, q := range t.open {
		if q.Peer == key && q.purpose == what {
			return true
		}
	}
	return false
}

// Answered reports which of the addresses of a question the peer has answered for. It
// reports whether the View has changed.
func (t *Tracker) Answered(now time.Time, id uint64, answered []netip.Addr) (changed bool) {
	q, ok := t.open[id]
	delete(t.open, id)
	p := t.peers[q.Peer]
	if !ok || p == nil {
		t.endHold()
		return ok && q.purpose == recheck // nothing is held back any more
	}
	before := p.Status
	defer t.endHold()
	if len(answered) > 0 {
		p.answered, p.misses = true, 0
		// A peer that answers long after it has left has returned.
		if p.session != AdminDown || now.Sub(p.Since) > 2*LeaveTimeout {
			if p.State == Gone || p.State == Leaving {
				t.forgetAnswers(q.Peer) // it may have lost its addresses
			}
			p.set(now, Live)
			// A confirmation may be answered before the session is Up for the first time.
			p.Filtered = p.session != Up && (p.Filtered || q.purpose != confirmation)
		}
	}
	t.recordAnswers(q, p, answered)
	switch q.purpose {
	case suspicion:
		if len(answered) == 0 && p.session != Up {
			if p.misses >= maxMisses {
				t.forgetAnswers(q.Peer) // another node may have noticed it seconds ago
			}
			p.set(now, Gone)
			p.Filtered = false
		}
	case poll:
		if len(answered) == 0 && p.session != Up && p.State == Live && p.answered {
			if p.misses++; p.misses >= maxMisses {
				p.due[suspicion] = true
			}
		}
		if contested := intersect(answered, p.Outranks); len(contested) > 0 {
			// It never stopped, or has taken some back: as a rule it announces the others, too.
			if !p.awaitsSession(now) {
				t.verify(q.Peer, contested, false)
				changed = true
			}
			t.Claimed(now, q.Peer, p.Outranks...)
		}
	case recheck:
		if len(answered) > 0 {
			own := slices.Concat(p.Succeeds, p.Outranks)
			t.verify(q.Peer, intersect(answered, own), true)
			t.Claimed(now, q.Peer, own...)
			if len(p.claimed) > 0 { // otherwise a plan has given all of them up
				p.unverified = 2 + len(p.claimed)/maxAddresses // one may be asked now
			}
		}
		changed = true
	case verification:
		if p.awaitsSession(now) {
			p.claim(answered)
			break
		}
		t.verify(q.Peer, answered, p.unverified > 0)
		changed = len(answered) > 0 || p.unverified > 0
		if p.unverified = max(p.unverified-1, 0); len(p.claimed) == 0 {
			p.unverified = 0
		}
	}
	return changed || before != p.Status
}

// Failed reports that a question could not be asked, which proves nothing about the peer: a
// suspicion is asked again after retryInterval, and claims are verified again. After a
// stall nothing is held back any more, because answers could not be sent either. It
// reports whether the View has changed.
func (t *Tracker) Failed(now time.Time, id uint64) (changed bool) {
	q, ok := t.open[id]
	delete(t.open, id)
	if p := t.peers[q.Peer]; ok && p != nil {
		switch q.purpose {
		case suspicion:
			p.expected, p.checkAt = intersect(q.Addresses, p.Announces), now.Add(retryInterval)
		case verification:
			p.claim(q.Addresses)
		}
	}
	t.endHold()
	return ok && q.purpose == recheck
}

// recordAnswers records the addresses that the peer has answered for. If the peer works, those
// that it was asked for and has not answered for count as not announced by it any more.
func (t *Tracker) recordAnswers(q Question, p *peer, answered []netip.Addr) {
	if len(answered) == 0 && p.session != Up {
		return
	}
	next := maps.Clone(t.answered)
	for _, a := range q.Addresses {
		if next[a] == q.Peer {
			delete(next, a)
		}
	}
	for _, a := range answered {
		next[a] = q.Peer
	}
	t.answered = next
	if len(answered) > 0 && len(p.confirm.addrs) > 0 {
		p.confirm.addrs = slices.DeleteFunc(p.confirm.addrs, func(a netip.Addr) bool { return next[a] == q.Peer })
		if q.purpose == confirmation {
			p.confirm.wait = confirmInterval
		}
	}
}

// forgetAnswers makes the peer be asked again for all addresses that it announces.
func (t *Tracker) forgetAnswers(key Peer) {
	t.answered = maps.Clone(t.answered)
	maps.DeleteFunc(t.answered, func(_ netip.Addr, holder Peer) bool { return holder == key })
	t.setConfirmations()
}

// endHold ends the hold of answers after the last recheck: at once if no peer has taken an
// address over, otherwise when the peers are set by a plan without these addresses.
func (t *Tracker) endHold() {
	if !t.stalled || t.isRechecking() {
		return
	}
	for _, h := range t.verified {
		if h.TookOver {
			return
		}
	}
	t.stalled = false
}

// verify records that the peer announces the addresses. One that it took over stays so.
func (t *Tracker) verify(key Peer, addrs []netip.Addr, tookOver bool) {
	for _, a := range addrs {
		if t.verified[a] != (Holder{key, true}) {
			t.verified[a] = Holder{key, tookOver}
		}
	}
}

func intersect(a, b []netip.Addr) []netip.Addr {
	return slices.DeleteFunc(slices.Clone(a), func(x netip.Addr) bool { return !slices.Contains(b, x) })
}

// sortedPeers returns the peers in a fixed order, so that equal inputs have equal results.
func (t *Tracker) sortedPeers() []Peer {
	return slices.SortedFunc(maps.Keys(t.peers), func(a, b Peer) int {
		return cmp.Or(strings.Compare(a.Node, b.Node), strings.Compare(a.Interface, b.Interface))
	})
}
