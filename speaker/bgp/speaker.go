package bgp

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

// Speaker keeps sessions with peers, and what they are told, at a wanted State.
type Speaker struct {
	log     *slog.Logger
	changed chan struct{}
	doors   *doors
	// For tests; see the constants.
	connectWait, openWait time.Duration

	mu       sync.Mutex
	sessions map[string]*session
	running  context.Context // Run's, nil before
	ended    bool            // Run will start nothing more
	tasks    sync.WaitGroup
	goodbye  *leave // after Shutdown
}

// New makes a Speaker. Nothing is dialed before Run and the first Set.
func New(log *slog.Logger) *Speaker {
	return &Speaker{
		log: log, changed: make(chan struct{}, 1), connectWait: connectWait, openWait: openWait,
		doors:    &doors{log: log, open: make(map[netip.AddrPort]*door)},
		sessions: make(map[string]*session),
	}
}

// Set makes a State all that is wanted, and returns at once. It may be called at
// any time, before Run too; the caller must not change the State's maps afterwards.
//
// Routes, their attributes and RetryTime change without touching a session. A
// hold or keepalive time waits for the next session; every other field of a
// peer takes a reset of that peer's session. A peer that is gone is told so
// (Cease, Peer De-configured), which withdraws its routes.
func (s *Speaker) Set(state State) {
	s.mu.Lock()
	defer s.mu.Unlock()
	wanted := make(map[string]bool, len(state.Peers))
	for _, p := range state.Peers {
		wanted[p.Name] = true
		if have := s.sessions[p.Name]; have != nil {
			have.set(p)
			continue
		}
		n := &session{
			log: s.log.With("peer", p.Name), doors: s.doors, poke: s.poke,
			connectWait: s.connectWait, openWait: s.openWait,
			wake: make(chan struct{}, 1), visits: make(chan net.Conn, 1),
			want: p, gone: s.goodbye, status: PeerStatus{Since: time.Now()},
		}
		s.sessions[p.Name] = n
		s.start(n)
	}
	for name, have := range s.sessions {
		if !wanted[name] {
			have.stop(&leave{note: &Notification{codeCease, ceaseDeconfigured, nil}, why: "the peer was removed", gone: true})
			delete(s.sessions, name)
			s.poke()
		}
	}
}

// start runs a session if Run does. The lock is held.
func (s *Speaker) start(n *session) {
	if s.running != nil && !s.ended && s.goodbye == nil {
		s.tasks.Go(func() { n.run(s.running) })
	}
}

// Run keeps the sessions until ctx ends. It then closes the connections without
// a NOTIFICATION, so that peers with graceful restart (RFC 4724) keep the
// routes for a speaker that comes back; Shutdown is for one that does not.
func (s *Speaker) Run(ctx context.Context) error {
	s.mu.Lock()
	s.running = ctx
	for _, n := range s.sessions {
		s.start(n)
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
// the reason (RFC 9003), and returns when every peer has it or ctx ends. The
// peers withdraw the routes at once. There are no sessions from then on.
func (s *Speaker) Shutdown(ctx context.Context, reason string) {
	l := &leave{note: &Notification{codeCease, ceaseShutdown, shutdownData(reason)}, why: "shut down: " + reason, gone: true}
	s.mu.Lock()
	s.goodbye = l
	for _, n := range s.sessions {
		n.stop(l)
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

// Reset ends the session with a peer now, because BFD found the path dead
// (Cease, BFD Down, RFC 9384), and begins another. Without one, or without such
// a peer, the next attempt is at once. With keep, a peer that has agreed to
// graceful restart is not told, so that it keeps the routes (RFC 5882 section
// 4.3.2.2).
func (s *Speaker) Reset(peer, reason string, keep bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.sessions[peer]; n != nil {
		n.stop(&leave{note: &Notification{codeCease, ceaseBFDDown, nil}, why: "reset: " + reason, anew: true, keep: keep})
	}
}

// Status is how all sessions are, by the peers' names.
func (s *Speaker) Status() []PeerStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]PeerStatus, 0, len(s.sessions))
	for _, n := range s.sessions {
		all = append(all, n.report())
	}
	slices.SortFunc(all, func(a, b PeerStatus) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// Changed gets a value when a status has changed since the last one was taken.
func (s *Speaker) Changed() <-chan struct{} { return s.changed }

func (s *Speaker) poke() {
	select {
	case s.changed <- struct{}{}:
	default: // one waits already
	}
}
