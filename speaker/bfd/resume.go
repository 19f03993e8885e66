package bfd

import (
	"context"
	"fmt"
	"hash/fnv"
	"math"
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

// Pause prepares all sessions that are Up for another Engine with the same
// identity: it signals the largest Detect Mult, 255 (RFC 5880 section 4.1), so
// that the peers' sessions stay up for 255 intervals without packets, and returns.
// The caller then ends Run. The next Engine identifies the sessions by their
// discriminators, which are derived from identity and path; the peers do not
// notice the restart. Pause does not signal anything for sessions in other states.
//
// It is for the restart of a process while the path keeps working.
func (e *Engine) Pause(ctx context.Context) {
	for range pausePackets {
		e.mu.Lock()
		for _, p := range e.sessions {
			if p.state == Up {
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
	id := e.resumableDiscriminator(key)
	if id == 0 {
		return newSession(e.newDiscriminator(), profile, now)
	}
	s := newSession(id, profile, now)
	s.resumeUntil = now + resumeTimeout
	return s
}

// resumableDiscriminator returns the discriminator that every Engine of this
// identity derives from the key, or 0 if there is none or it is in use.
func (e *Engine) resumableDiscriminator(key Key) uint32 {
	if e.identity == "" {
		return 0
	}
	h := fnv.New32a()
	// Every release must derive the same value, therefore the fields are explicit.
	fmt.Fprintf(h, "%s|%s|%s|%s|%t", e.identity, key.Peer, key.Local, key.Interface, key.Multihop)
	if id := h.Sum32(); e.byDiscriminator[id] == nil {
		return id
	}
	return 0
}

// resumeUp continues a session that the peer considers Up. The timer values that
// the peer knows are unknown here, so a Poll Sequence advertises them again.
func (s *session) resumeUp(now time.Duration) {
	s.setState(Up, NoDiagnostic, now)
	if s.poll == pollIdle {
		s.poll, s.sendNow = pollSent, true
	}
}
