package failover

import (
	"net/netip"
	"slices"
	"testing"
	"time"
)

// TestConfirmations: a successor asks the owner for all addresses once, for 256 at a time,
// and again after each start of the session. At rest it asks nothing.
func TestConfirmations(t *testing.T) {
	var addrs []netip.Addr
	for i := range 5000 {
		addrs = append(addrs, netip.AddrFrom4([4]byte{198, 18, byte(i / 250), byte(i%250 + 1)}))
	}
	tr := observe(announces(addrs...))
	now := start
	confirm := func() {
		t.Helper()
		tr.SessionChanged(now, peerB, Up)
		asked := advanceTo(tr, now, now.Add(time.Hour), answersAll)
		total := 0
		for _, q := range asked {
			if q.purpose != confirmation || len(q.Addresses) > 256 {
				t.Errorf("asked for %d addresses, purpose %d", len(q.Addresses), q.purpose)
			}
			total += len(q.Addresses)
		}
		if len(asked) != 20 || total != len(addrs) {
			t.Errorf("%d questions for %d addresses, want 20 for %d", len(asked), total, len(addrs))
		}
		now = now.Add(time.Hour)
		tr.Set(now, map[Peer]Target{peerB: announces(addrs...)}, tr.View().Verified)
		if questions, next := tr.Advance(now); len(questions) > 0 || !next.IsZero() {
			t.Errorf("%d questions at rest, the next at %v", len(questions), next)
		}
		if got := tr.View().Answered; len(got) != len(addrs) || got[addrs[0]] != peerB {
			t.Errorf("%d addresses answered by %v", len(got), got[addrs[0]])
		}
	}
	confirm()
	tr.SessionChanged(now, peerB, Down)
	advanceTo(tr, now, now, answersAll)
	confirm()

	// A peer that does not answer is asked less and less often, until there is a new address.
	tr = observe(announces(addr1))
	tr.SessionChanged(start, peerB, Up)
	if asked := advanceTo(tr, start, at(31*time.Second), answersNone); len(asked) != 6 { // after 0, 1, 3, 7, 15 and 31 s
		t.Errorf("asked %d times in 31 s, want 6", len(asked))
	}
	if asked := advanceTo(tr, at(32*time.Second), at(46*time.Second), answersNone); len(asked) > 0 {
		t.Errorf("asked %v within 16 s", asked)
	}
	tr.Set(at(46*time.Second), map[Peer]Target{peerB: announces(addr1, addr2)}, tr.View().Verified)
	asked := advanceTo(tr, at(46*time.Second), at(46*time.Second), answersNone)
	if len(asked) != 1 || !slices.Contains(asked[0].Addresses, addr2) {
		t.Errorf("asked %v after an address was added", asked)
	}
}

// TestTakeoverOfNewAddress: the successor of an owner that has never answered for an address
// asks the segment, and one whose owner has announces it at once.
func TestTakeoverOfNewAddress(t *testing.T) {
	for want, answer := range map[Action]func(Question) []netip.Addr{Ask: answersNone, Announce: answersAll} {
		tr := observe(announces(addr1))
		tr.SessionChanged(start, peerB, Up)
		advanceTo(tr, start, start, answer)
		tr.SessionChanged(at(time.Second), peerB, Down)
		advanceTo(tr, at(time.Second), at(time.Second), answersNone)
		view := tr.View()
		a := Address{
			Self:   "c",
			Ranked: []Candidate{{Peer: peerB, Score: 2, Status: view.Peers[peerB]}, {Peer: peerC, Score: 1}},
			Fresh:  true, Expected: view.Answered[addr1].Node, TookOver: noReport, PeerFresh: unknownFresh,
		}
		if do, acting := a.Decide(); do != want || acting != "c" {
			t.Errorf("got %v and %q, want %v and c", do, acting, want)
		}
	}
}

// TestForgottenAnswers: what a peer has answered for counts only until it may have lost it.
func TestForgottenAnswers(t *testing.T) {
	for _, tt := range []struct {
		name string
		do   func(*Tracker)
		want bool
	}{
		{"at rest", func(*Tracker) {}, true},
		{"another plan", func(tr *Tracker) { tr.Set(start, map[Peer]Target{peerB: announces(addr1, addr2)}, tr.View().Verified) }, true},
		{"moved to another peer", func(tr *Tracker) { tr.Set(start, map[Peer]Target{peerC: announces(addr1)}, tr.View().Verified) }, true},
		{"moved to this node", func(tr *Tracker) {
			tr.Set(start, map[Peer]Target{peerB: {Succeeds: []netip.Addr{addr1}}}, tr.View().Verified)
		}, false},
		{"after a stall", func(tr *Tracker) { tr.Stalled() }, false},
		{"after a stall, with an answer to a question of before", func(tr *Tracker) {
			tr.peers[peerB].due[poll] = true
			questions, _ := tr.Advance(start)
			tr.Stalled()
			for _, q := range questions {
				tr.Answered(at(time.Minute), q.ID, q.Addresses)
			}
		}, false},
		{"another session", func(tr *Tracker) {
			tr.SessionChanged(start, peerB, Down)
			tr.SessionChanged(start, peerB, Up)
		}, false},
		{"gone", func(tr *Tracker) {
			tr.SessionChanged(start, peerB, Down)
			advanceTo(tr, start, start, answersNone)
		}, true},
		{"leaving", func(tr *Tracker) { tr.SessionChanged(start, peerB, AdminDown) }, true},
		{"without a session, another address not answered", func(tr *Tracker) {
			tr.Set(start, map[Peer]Target{peerB: announces(addr1, addr2)}, tr.View().Verified)
			advanceTo(tr, at(time.Second), at(time.Second), answersNone)
		}, true},
		{"not answered, although the session is Up", func(tr *Tracker) {
			tr.peers[peerB].due[suspicion] = true
			advanceTo(tr, start, start, answersNone)
		}, false},
	} {
		tr := observe(announces(addr1))
		tr.SessionChanged(start, peerB, Up)
		advanceTo(tr, start, start, answersAll)
		tt.do(tr)
		if _, got := tr.View().Answered[addr1]; got != tt.want {
			t.Errorf("%s: known %v, want %v", tt.name, got, tt.want)
		}
	}
}

// TestExpectedHandover: the first successor of a peer that leaves is asked after 50 ms, and
// that of one that is not eligible any more after half of the time for which it goes on. It is
// not if it is not known that the peer announced the address.
func TestExpectedHandover(t *testing.T) {
	for _, tt := range []struct {
		name   string
		before func(*Tracker)
		wait   time.Duration
		want   State
	}{
		{"leaves", func(tr *Tracker) { tr.SessionChanged(start, peerB, AdminDown) }, takeoverWait, Gone},
		{"is not eligible", func(tr *Tracker) { advanceTo(tr, start, start, answersAll) }, LeaveTimeout / 2, Gone},
		{"is not eligible, and has never answered", func(*Tracker) {}, LeaveTimeout, Unknown},
	} {
		tr := observe(announces(addr1))
		tr.SessionChanged(start, peerB, Up)
		tt.before(tr)
		tr.Set(start, map[Peer]Target{peerC: announces(addr1)}, tr.View().Verified)
		isSuspicion := func(q Question) bool { return q.purpose == suspicion }
		if q := advanceTo(tr, start, at(tt.wait-1), answersNone); slices.ContainsFunc(q, isSuspicion) {
			t.Errorf("%s: asked %v too early", tt.name, q)
		}
		advanceTo(tr, at(tt.wait), at(tt.wait), answersNone)
		if got := tr.View().Peers[peerC].State; got != tt.want {
			t.Errorf("%s: the successor is %v, want %v", tt.name, got, tt.want)
		}
	}
}

// TestClaimsOfManyAddresses: claims are verified for 256 addresses at a time, in turns, one
// question after another, because an answer is evidence for a short time only. Answers that
// are held back are held until the last one.
func TestClaimsOfManyAddresses(t *testing.T) {
	var addrs []netip.Addr
	for i := range 1000 {
		addrs = append(addrs, netip.AddrFrom4([4]byte{198, 18, byte(i / 250), byte(i%250 + 1)}))
	}
	tr := observe(Target{Succeeds: addrs})
	tr.Stalled()
	asked := advanceTo(tr, start, start, func(q Question) []netip.Addr {
		if len(q.Addresses) > 256 {
			t.Errorf("asked for %d addresses at once", len(q.Addresses))
		}
		if q.purpose == verification {
			tr.Claimed(start, peerB, addrs[:100]...) // again and again
			if !tr.View().HoldAnswers {
				t.Error("answers are not held although some addresses are not verified")
			}
		}
		return q.Addresses
	})
	verified := tr.View().Verified
	if len(asked) < 5 || len(asked) > 6 || len(verified) != len(addrs) {
		t.Errorf("%d addresses verified by %d questions at once, want all by 5 or 6", len(verified), len(asked))
	}
	for _, a := range addrs {
		if h := verified[a]; !h.TookOver {
			t.Fatalf("%s is not known to be taken over", a)
		}
	}
}

// TestHoldWithoutAddresses: the hold after a stall ends although the addresses were given up
// while the peer was asked.
func TestHoldWithoutAddresses(t *testing.T) {
	tr := observe(Target{Succeeds: []netip.Addr{addr1}})
	tr.Stalled()
	questions, _ := tr.Advance(start)
	if len(questions) != 1 || !tr.View().HoldAnswers {
		t.Fatalf("asked %v, holds %v", questions, tr.View().HoldAnswers)
	}
	tr.Set(start, map[Peer]Target{peerB: {}}, tr.View().Verified)
	tr.Answered(at(time.Millisecond), questions[0].ID, questions[0].Addresses)
	tr.Set(at(time.Millisecond), map[Peer]Target{peerB: {}}, tr.View().Verified)
	if tr.View().HoldAnswers {
		t.Error("answers are held for ever")
	}
}
