package bgp

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

// Speaker keeps the sessions with peers, and the routes advertised to them, at a
// desired Config. Its methods may be called concurrently; Run once.
type Speaker struct {
	log       *slog.Logger
	changed   chan struct{}
	listeners *listenerSet
	// For tests; see the constants.
	connectWait, openWait, pathWait time.Duration

	mu       sync.Mutex
	sessions map[string]*peerSession
	runCtx   context.Context // Run's, nil before
	ended    bool            // Run does not start sessions any more
	tasks    sync.WaitGroup
	shutdown *sessionEnd // after Shutdown
}

// New returns a Speaker. It connects to no peer before Run and the first Set.
func New(log *slog.Logger) *Speaker {
	return &Speaker{
		log: log, changed: make(chan struct{}, 1), connectWait: connectWait, openWait: openWait, pathWait: pathWait,
		listeners: &listenerSet{log: log, open: make(map[netip.AddrPort]*sharedListener)},
		sessions:  make(map[string]*peerSession),
	}
}

// Set sets the desired Config, and returns at once. It may be called before Run
// too. The caller must not change the Config's maps afterwards.
//
// Routes, their attributes and RetryTime change within a session. A hold or
// keepalive time waits for the next session; a change of any other field of a
// peer resets that peer's session. The session of a peer that is not in the Config
// ends with a Cease, Peer De-configured, upon which the peer withdraws the routes.
func (s *Speaker) Set(state Config) {
	s.mu.Lock()
	defer s.mu.Unlock()
	desired := make(map[string]bool, len(state.Peers))
	for _, p := range state.Peers {
		desired[p.Name] = true
		if existing := s.sessions[p.Name]; existing != nil {
			existing.setDesired(p)
			continue
		}
		n := &peerSession{
			log: s.log.With("peer", p.Name), listeners: s.listeners, notify: s.notifyChanged,
			connectWait: s.connectWait, openWait: s.openWait, pathWait: s.pathWait,
			wake: make(chan struct{}, 1), inbound: make(chan net.Conn, 1),
			desired: p, final: s.shutdown, status: PeerStatus{Since: time.Now()},
		}
		s.sessions[p.Name] = n
		s.startSession(n)
	}
	for name, existing := range s.sessions {
		if !desired[name] {
			existing.endSession(&sessionEnd{
				notification: &Notification{codeCease, ceaseDeconfigured, nil},
				reason:       "the peer was removed", final: true,
			})
			delete(s.sessions, name)
			s.notifyChanged()
		}
	}
}

// startSession runs a session if Run is running. The caller holds the lock.
func (s *Speaker) startSession(n *peerSession) {
	if s.runCtx != nil && !s.ended && s.shutdown == nil {
		s.tasks.Go(func() { n.runLoop(s.runCtx) })
	}
}

// Run keeps the sessions until ctx ends. It then closes the connections without
// a NOTIFICATION, so that peers with graceful restart (RFC 4724) preserve the
// routes for the next process; Shutdown is for a speaker that does not restart.
func (s *Speaker) Run(ctx context.Context) error {
	s.mu.Lock()
	s.runCtx = ctx
	for _, n := range s.sessions {
		s.startSession(n)
	}
	s.mu.Unlock()
	<-ctx.Done()
	s.mu.Lock()
	s.ended = true
	s.mu.Unlock()
	s.tasks.Wait()
	return nil
}

// Shutdown ends all sessions with a Cease, Administrative Shutdown, that carries
// the reason (RFC 9003), upon which the peers withdraw the routes. It returns when
// they have received it or ctx ends. The Speaker has no sessions afterwards.
func (s *Speaker) Shutdown(ctx context.Context, reason string) {
	end := &sessionEnd{
		notification: &Notification{codeCease, ceaseShutdown, shutdownData(reason)},
		reason:       "shut down: " + reason, final: true,
	}
	s.mu.Lock()
	s.shutdown = end
	for _, n := range s.sessions {
		n.endSession(end)
	}
	s.mu.Unlock()
	flushed := make(chan struct{})
	go func() {
		s.tasks.Wait()
		close(flushed)
	}()
	select {
	case <-flushed:
	case <-ctx.Done():
	}
}

// Reset ends the session with a peer because BFD has detected a failure of the
// path (Cease, BFD Down, RFC 9384). The next attempt begins after the backoff of a
// failed one, and not before PathUp or the end of 30 s: if BFD flaps or its packets are
// dropped, sessions must not follow each other at its rate. With keepRoutes, a peer
// that has agreed to graceful restart gets no NOTIFICATION, so that it preserves the
// routes (RFC 5882 section 4.3.2.2).
func (s *Speaker) Reset(peer, reason string, keepRoutes bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.sessions[peer]; n != nil {
		n.resetPath(&sessionEnd{
			notification: &Notification{codeCease, ceaseBFDDown, nil},
			reason:       fmt.Sprintf("reset: %s (the next attempt waits for BFD, at most %s)", reason, s.pathWait),
			keepRoutes:   keepRoutes,
		})
	}
}

// PathUp reports that BFD is Up on the path to a peer. It has an effect only after
// Reset.
func (s *Speaker) PathUp(peer string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.sessions[peer]; n != nil {
		n.pathUp()
	}
}

// Status returns the status of each session, in the order of the peers' names.
func (s *Speaker) Status() []PeerStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]PeerStatus, 0, len(s.sessions))
	for _, n := range s.sessions {
		all = append(all, n.peerStatus())
	}
	slices.SortFunc(all, func(a, b PeerStatus) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// StatusChanges returns a channel that has a value when a status has changed since the
// last value was received.
func (s *Speaker) StatusChanges() <-chan struct{} { return s.changed }

func (s *Speaker) notifyChanged() {
	select {
	case s.changed <- struct{}{}:
	default: // a value is pending already
	}
}
