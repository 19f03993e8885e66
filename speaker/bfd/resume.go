package bfd

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

const (
	// resumeTimeout is how long a new session waits for a packet of a peer that
	// considers it Up. Sessions with peers that send less often are not resumed.
	resumeTimeout = 1500 * time.Millisecond

	// pausePackets is the number of packets that signal a pause, because one may be
	// lost, and pauseInterval the time between two of them.
	pausePackets  = 3
	pauseInterval = 10 * time.Millisecond
)

// Identify sets the secret that discriminators of sessions that are added later are
// derived from: nothing but the secret distinguishes the packets of a peer from those
// of anyone who can forge its address. It must be the same after a restart, and is
// then the condition for the sessions to be resumed. Several Engines may have the same
// secret if their nodes differ. Without Identify, the secret is random, and sessions
// are not resumed.
func (e *Engine) Identify(node string, secret []byte) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.node, e.secret, e.resumable = node, slices.Clone(secret), true
}

// Pause prepares all sessions that are Up for another Engine that is identified by
// the same node and secret: it signals the largest Detect Mult, 255 (RFC 5880 section
// 4.1), so that the peers' sessions stay up for 255 intervals without packets, and
// returns. The caller then ends Run. The next Engine identifies the sessions by their
// discriminators, which are derived from secret, node and path; the peers do not
// notice the restart. Pause does not signal anything for sessions in other states,
// nor without Identify.
//
// It is for the restart of a process while the path keeps working.
func (e *Engine) Pause(ctx context.Context) {
	for range pausePackets {
		e.mu.Lock()
		for _, p := range e.sessions {
			if p.state == Up && e.resumable {
				p.profile.Multiplier, p.sendNow = math.MaxUint8, true
				e.schedule(p)
			}
		}
		e.wakeLocked()
		e.mu.Unlock()
		select {
		case <-ctx.Done():
			return
		case <-time.After(pauseInterval):
		}
	}
}

// newSession returns a session. If an earlier Engine may have paused it, the
// session first waits for a packet of a peer that considers it Up.
func (e *Engine) newSession(key Key, profile Profile, now time.Duration) *session {
	s := newSession(e.newDiscriminator(key), profile, now)
	if e.resumable {
		s.resumeUntil = now + resumeTimeout
	}
	return s
}

// newDiscriminator returns an unused discriminator, which depends on the secret, the
// node, the key and the sessions that were added before.
func (e *Engine) newDiscriminator(key Key) uint32 {
	for attempt := 0; ; attempt++ {
		h := hmac.New(sha256.New, e.secret)
		// Every release must derive the same value, therefore the fields are explicit.
		fmt.Fprintf(h, "%s|%s|%s|%s|%t|%d", e.node, key.Peer, key.Local, key.Interface, key.Multihop, attempt)
		if id := binary.BigEndian.Uint32(h.Sum(nil)); id != 0 && e.byDiscriminator[id] == nil {
			return id
		}
	}
}

// compareKeys orders keys.
func compareKeys(a, b Key) int {
	multihop := map[bool]int{true: 1}
	return cmp.Or(a.Peer.Compare(b.Peer), a.Local.Compare(b.Local), strings.Compare(a.Interface, b.Interface),
		multihop[a.Multihop]-multihop[b.Multihop])
}

// resumeUp continues a session that the peer considers Up. The timer values that
// the peer knows are unknown here, so a Poll Sequence advertises them again.
func (s *session) resumeUp(now time.Duration) {
	s.setState(Up, NoDiagnostic, now)
	if s.poll == pollIdle {
		s.poll, s.sendNow = pollSent, true
	}
}
