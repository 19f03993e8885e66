package failover

import (
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"
)

var (
	addr1, addr2 = netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	addr3        = netip.MustParseAddr("192.0.2.3")
	peerB, peerC = Peer{"eth0", "b"}, Peer{"eth0", "c"}
	start        = time.Unix(1000, 0)
)

// advanceTo returns the questions until a time, each answered by answer.
func advanceTo(tr *Tracker, from, to time.Time, answer func(Question) []netip.Addr) (asked []Question) {
	for now := from; ; {
		questions, next := tr.Advance(now)
		asked = append(asked, questions...)
		for _, q := range questions {
			tr.Answered(now, q.ID, answer(q))
		}
		if len(questions) > 0 {
			continue
		}
		if next.IsZero() || next.After(to) || !next.After(now) {
			return asked
		}
		now = next
	}
}

func answersAll(q Question) []netip.Addr   { return q.Addresses }
func answersNone(Question) []netip.Addr    { return nil }
func at(d time.Duration) time.Time         { return start.Add(d) }
func observe(target Target) *Tracker       { return observeAll(map[Peer]Target{peerB: target}) }
func announces(addrs ...netip.Addr) Target { return Target{Announces: addrs} }

func observeAll(targets map[Peer]Target) *Tracker {
	tr := &Tracker{}
	tr.Set(start, targets, tr.View().Verified)
	return tr
}

func TestTrackerStates(t *testing.T) {
	up := func(tr *Tracker) { tr.SessionChanged(at(time.Second), peerB, Up) }
	down := func(tr *Tracker) { tr.SessionChanged(at(2*time.Second), peerB, Down) }
	for _, tt := range []struct {
		name     string
		do       func(*Tracker)
		want     State
		filtered bool
	}{
		{"no input", func(*Tracker) {}, Unknown, false},
		{"never answered", func(tr *Tracker) { advanceTo(tr, start, at(20*time.Second), answersNone) }, Unknown, false},
		{"Up", up, Live, false},
		{"filtered", func(tr *Tracker) { advanceTo(tr, start, at(4*time.Second), answersAll) }, Live, true},
		{"suspicion not answered", func(tr *Tracker) {
			up(tr)
			down(tr)
			advanceTo(tr, at(2*time.Second), at(2*time.Second), answersNone)
		}, Gone, false},
		{"suspicion answered", func(tr *Tracker) {
			up(tr)
			down(tr)
			advanceTo(tr, at(2*time.Second), at(2*time.Second), answersAll)
		}, Live, true},
		{"suspicion not answered, but Up again", func(tr *Tracker) {
			up(tr)
			down(tr)
			q, _ := tr.Advance(at(2 * time.Second))
			up(tr)
			tr.Answered(at(3*time.Second), q[0].ID, nil)
		}, Live, false},
		{"not answered after the session was deleted", func(tr *Tracker) {
			up(tr)
			advanceTo(tr, at(time.Second), at(time.Second), answersAll)
			tr.SessionDeleted(at(2*time.Second), peerB)
			advanceTo(tr, at(2*time.Second), at(20*time.Second), answersNone)
		}, Gone, false},
		{"answered after the session was deleted", func(tr *Tracker) {
			up(tr)
			tr.SessionDeleted(at(2*time.Second), peerB)
			advanceTo(tr, at(2*time.Second), at(20*time.Second), answersAll)
		}, Live, true},
		{"suspicion failed", func(tr *Tracker) {
			up(tr)
			down(tr)
			q, _ := tr.Advance(at(2 * time.Second))
			tr.Failed(at(2*time.Second), q[0].ID)
		}, Live, false},
		{"suspicion asked again", func(tr *Tracker) {
			up(tr)
			down(tr)
			q, _ := tr.Advance(at(2 * time.Second))
			tr.Failed(at(2*time.Second), q[0].ID)
			advanceTo(tr, at(2*time.Second), at(2*time.Second+retryInterval), answersNone)
		}, Gone, false},
		{"two misses", func(tr *Tracker) {
			advanceTo(tr, start, at(3*time.Second), answersAll)
			advanceTo(tr, at(3*time.Second), at(5*time.Second), answersNone)
		}, Live, true},
		{"three misses", func(tr *Tracker) {
			advanceTo(tr, start, at(3*time.Second), answersAll)
			advanceTo(tr, at(3*time.Second), at(6*time.Second), answersNone)
		}, Gone, false},
		{"AdminDown", func(tr *Tracker) { up(tr); tr.SessionChanged(at(2*time.Second), peerB, AdminDown) }, Leaving, false},
		{"AdminDown, and answers for a while", func(tr *Tracker) {
			tr.SessionChanged(at(2*time.Second), peerB, AdminDown)
			advanceTo(tr, at(3*time.Second), at(3*time.Second), answersAll)
		}, Leaving, false},
		{"AdminDown, and returned", func(tr *Tracker) {
			tr.SessionChanged(at(2*time.Second), peerB, AdminDown)
			advanceTo(tr, at(5*time.Second), at(5*time.Second), answersAll)
		}, Live, true},
		{"AdminDown, and Up", func(tr *Tracker) { tr.SessionChanged(start, peerB, AdminDown); up(tr) }, Live, false},
	} {
		tr := observe(announces(addr1))
		tt.do(tr)
		if got := tr.View().Peers[peerB]; got.State != tt.want || got.Filtered != tt.filtered {
			t.Errorf("%s: got %+v, want state %v, filtered %v", tt.name, got, tt.want, tt.filtered)
		}
	}
}

// TestExpectedTakeover: the first successor of a peer that is gone is asked after 50 ms, or
// when it has noticed at the latest: by a slower session, or a poll later if polls have shown
// that. It is not gone if it answers for what it announced before, or has not to take over
// any more.
func TestExpectedTakeover(t *testing.T) {
	for _, tt := range []struct {
		name   string
		polled bool
		timers []Timers     // of the addresses that b announces
		before []netip.Addr // announced by c
		after  []netip.Addr
		answer []netip.Addr
		wait   time.Duration
		want   State
	}{
		{"by a session", false, nil, nil, []netip.Addr{addr1}, nil, takeoverWait, Gone},
		{"by polls", true, nil, nil, []netip.Addr{addr1}, nil, takeoverWait + pollInterval, Gone},
		{"by a fast session", false, []Timers{{10 * ms, 10 * ms, 3}}, nil, []netip.Addr{addr1}, nil, takeoverWait, Gone},
		{"by a slow session", false, []Timers{{100 * ms, 300 * ms, 3}}, nil, []netip.Addr{addr1}, nil, 300 * ms, Gone},
		{
			"by a session that is fast for another address", false,
			[]Timers{{300 * ms, 300 * ms, 3}, {50 * ms, 50 * ms, 3}, {100 * ms, 100 * ms, 3}},
			nil,
			[]netip.Addr{addr1},
			nil, 800 * ms, Gone,
		},
		{"by polls beside a slow session", true, []Timers{{300 * ms, 300 * ms, 3}}, nil, []netip.Addr{addr1}, nil, 300*ms + pollInterval, Gone},
		{"answered", false, nil, nil, []netip.Addr{addr1}, []netip.Addr{addr1}, takeoverWait, Live},
		{"not yet, but lives", false, nil, []netip.Addr{addr2}, []netip.Addr{addr1, addr2}, []netip.Addr{addr2}, takeoverWait, Live},
		{
			"not yet, but lives, and another node has one of its addresses", false, nil,
			[]netip.Addr{addr3, addr2},
			[]netip.Addr{addr1, addr3, addr2},
			[]netip.Addr{addr2},
			takeoverWait, Live,
		},
		{"not expected any more", false, nil, nil, nil, nil, 0, Unknown},
	} {
		gone := announces(addr1)
		for _, timers := range tt.timers {
			gone.addTimers(timers)
		}
		tr := observeAll(map[Peer]Target{peerB: gone, peerC: announces(tt.before...)})
		tr.peers[peerB].State = Gone
		for _, a := range intersect(tt.before, tt.answer) {
			tr.answered[a] = peerC
		}
		if tt.polled {
			tr.peers[peerB].misses = maxMisses
		}
		tr.Set(start, map[Peer]Target{peerB: gone, peerC: announces(append([]netip.Addr{addr1}, tt.before...)...)}, tr.View().Verified)
		tr.Set(start, map[Peer]Target{peerB: gone, peerC: announces(tt.after...)}, tr.View().Verified)
		q := advanceTo(tr, start, at(tt.wait-1), answersNone)
		if q = slices.DeleteFunc(q, func(q Question) bool { return q.purpose == confirmation }); len(q) > 0 {
			t.Errorf("%s: asked %v too early", tt.name, q)
		}
		advanceTo(tr, at(tt.wait), at(tt.wait), func(q Question) []netip.Addr { return intersect(tt.answer, q.Addresses) })
		if got := tr.View().Peers[peerC].State; got != tt.want {
			t.Errorf("%s: got %v, want %v", tt.name, got, tt.want)
		}
	}
}

// TestHoldAnswers: after a stall answers are held back until each peer that may have taken over,
// the successor or one that ranks higher, was asked and, if
// it has taken over, that is verified and Set was called with it.
func TestHoldAnswers(t *testing.T) {
	successor, better := Target{Succeeds: []netip.Addr{addr1}}, Target{Outranks: []netip.Addr{addr1}}
	for _, tt := range []struct {
		peer   Target
		answer func(Question) []netip.Addr
	}{{successor, answersAll}, {successor, answersNone}, {better, answersAll}, {better, answersNone}} {
		answer := tt.answer
		tr := observe(tt.peer)
		tr.Stalled()
		set := func(verified map[netip.Addr]Holder) { tr.Set(start, map[Peer]Target{peerB: tt.peer}, verified) }
		before := tr.View().Verified
		if set(before); !tr.View().HoldAnswers {
			t.Error("not held after a stall")
		}
		advanceTo(tr, start, at(time.Second), answer)
		v := tr.View()
		if taken := len(answer(Question{Addresses: []netip.Addr{addr1}})) > 0; v.Verified[addr1].TookOver != taken || v.HoldAnswers != taken {
			t.Errorf("got %+v, want taken over and held: %v", v, taken)
		}
		if set(before); !maps.Equal(tr.View().Verified, v.Verified) || tr.View().HoldAnswers != v.HoldAnswers {
			t.Errorf("got %+v after a plan from before, want %+v", tr.View(), v)
		}
		if set(v.Verified); len(tr.View().Verified) > 0 || tr.View().HoldAnswers {
			t.Error("held after Set")
		}
	}
	tr := observe(Target{Succeeds: []netip.Addr{addr1}})
	tr.Stalled()
	q, _ := tr.Advance(start)
	if !tr.Failed(start, q[0].ID) {
		t.Error("a recheck that failed changes nothing")
	}
	if tr.View().HoldAnswers {
		t.Error("held after a recheck that failed")
	}
}

// TestForgedClaims: each peer is asked at most every 100 ms however many frames claim
// addresses, and what it does not answer for is not verified.
func TestForgedClaims(t *testing.T) {
	tr := observe(Target{Succeeds: []netip.Addr{addr1, addr2}})
	asked := 0
	for ms := range 1000 {
		now := at(time.Duration(ms) * time.Millisecond)
		tr.Claimed(now, peerB, addr1, addr2)
		questions, _ := tr.Advance(now)
		for _, q := range questions {
			asked++
			tr.Answered(now, q.ID, []netip.Addr{addr2})
		}
	}
	if v := tr.View().Verified; asked != 10 || len(v) != 1 || !slices.Contains([]Holder{{peerB, false}}, v[addr2]) {
		t.Errorf("asked %d times, verified %v; want 10 times, and 192.0.2.2", asked, v)
	}
	var none Tracker
	none.Claimed(start, peerB, addr1) // before the first Set
	if q, _ := none.Advance(start); len(q) > 0 {
		t.Errorf("asked %v", q)
	}
}

// TestSessionEnded: a peer that has yielded addresses ends the session. What it answered
// before, or is being asked, is asked again.
func TestSessionEnded(t *testing.T) {
	for _, tt := range []struct {
		name     string
		answered bool // before the session ends
		again    func(Question) []netip.Addr
		want     bool
	}{
		{"answered, and yielded", true, answersNone, false},
		{"answered, and not yielded", true, answersAll, true},
		{"asked, and yielded", false, answersNone, false},
		{"asked, and not yielded", false, answersAll, true},
	} {
		tr := observe(Target{Outranks: []netip.Addr{addr1}})
		tr.SessionChanged(start, peerB, Up)
		advanceTo(tr, start, at(time.Second), answersNone) // polls
		tr.Claimed(at(time.Second), peerB, addr1)
		first, _ := tr.Advance(at(time.Second))
		if tt.answered {
			tr.Answered(at(time.Second), first[0].ID, answersAll(first[0]))
		}
		tr.SessionChanged(at(time.Second), peerB, Ended)
		tr.Answered(at(time.Second), first[0].ID, answersAll(first[0])) // too late
		if h, contested := tr.View().Verified[addr1]; contested {
			t.Errorf("%s: %v has the address before it is asked again", tt.name, h)
		}
		advanceTo(tr, at(time.Second), at(1100*time.Millisecond), tt.again)
		if _, contested := tr.View().Verified[addr1]; contested != tt.want {
			t.Errorf("%s: contested %v, want %v", tt.name, contested, tt.want)
		}
	}
}

// TestReturnedPeer checks that the claims of a peer that has returned are verified when its
// session is Up, which shows whether it has contact with the API, or after returnWait.
func TestReturnedPeer(t *testing.T) {
	gone := func(tr *Tracker) {
		tr.SessionChanged(at(time.Second), peerB, Down)
		advanceTo(tr, at(time.Second), at(3*time.Second), answersNone)
		if tr.View().Peers[peerB].State != Gone {
			t.Fatal("the peer is not gone")
		}
	}
	verified := func(tr *Tracker) bool { return tr.View().Verified[addr1] == Holder{Peer: peerB} }
	target := Target{Announces: []netip.Addr{addr2}, Outranks: []netip.Addr{addr1}}

	tr := observe(target)
	tr.SessionChanged(start, peerB, Up)
	gone(tr)
	tr.Claimed(at(3*time.Second), peerB, addr1)
	advanceTo(tr, at(3*time.Second), at(3900*time.Millisecond), answersAll)
	if tr.View().Peers[peerB].State != Live || verified(tr) {
		t.Errorf("before its session is Up: %+v", tr.View())
	}
	tr.SessionChanged(at(3900*time.Millisecond), peerB, Up)
	advanceTo(tr, at(3900*time.Millisecond), at(4*time.Second), answersAll)
	if !verified(tr) {
		t.Errorf("when its session is Up: %+v", tr.View())
	}

	tr = observe(target)
	tr.SessionChanged(start, peerB, Up)
	gone(tr)
	advanceTo(tr, at(3*time.Second), at(3*time.Second+contestInterval+returnWait), answersAll)
	if !verified(tr) {
		t.Errorf("its session is not Up: %+v", tr.View())
	}

	tr = observe(target) // a session was never Up
	advanceTo(tr, start, at(sessionWait), answersNone)
	advanceTo(tr, at(sessionWait), at(sessionWait+contestInterval), answersAll)
	if !verified(tr) {
		t.Errorf("without a session: %+v", tr.View())
	}
}
