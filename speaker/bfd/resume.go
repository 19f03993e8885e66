package bfd

import (
	"context"
	"fmt"
	"hash/fnv"
	"math"
	"time"
)

const (
	// patience is how long a new session waits to hear a peer that takes it for
	// Up. A peer that runs slower than this is not resumed with.
	resumeTimeout = 1500 * time.Millisecond

	// pauses is how many packets announce a pause, and pausePace the time between
	// two of them: one may be lost.
	pausePackets  = 3
	pauseInterval = 10 * time.Millisecond
)

// Pause leaves all sessions that are Up to an Engine that will have the same
// name: it tells the peers the largest multiplier there is (RFC 5880 section
// 4.1), so that they take a silence of 255 intervals for no failure, and
// returns. The caller then ends Run. The next Engine finds the sessions by
// their discriminators, which follow from name and path; to the peer nothing
// has happened. The other sessions are just left.
//
// It is for the restart of a process on a path that goes on working.
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

// newSession makes a session that first listens whether the peer knows it, if
// an earlier Engine can have left it.
func (e *Engine) newSession(key Key, profile Profile, now time.Duration) *session {
	id := e.resumableDiscriminator(key)
	if id == 0 {
		return newSession(e.newDiscriminator(), profile, now)
	}
	s := newSession(id, profile, now)
	s.resumeUntil = now + resumeTimeout
	return s
}

// knownID is the discriminator that an Engine of this name gives to the key, 0
// if there is none to be had.
func (e *Engine) resumableDiscriminator(key Key) uint32 {
	if e.identity == "" {
		return 0
	}
	h := fnv.New32a()
	// Spelled out: the next release must come to the same.
	fmt.Fprintf(h, "%s|%s|%s|%s|%t", e.identity, key.Peer, key.Local, key.Interface, key.Multihop)
	if id := h.Sum32(); e.byDiscriminator[id] == nil {
		return id
	}
	return 0
}

// resume takes up a session that the peer takes for Up. What it was told of the
// timers is not known, so it is told again.
func (s *session) resumeUp(now time.Duration) {
	s.setState(Up, NoDiagnostic, now)
	if s.poll == pollIdle {
		s.poll, s.sendNow = pollSent, true
	}
}
