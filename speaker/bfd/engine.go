package bfd

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Key identifies a session by its path.
type Key struct {
	// Peer is the address of the other end. A link-local address has a zone.
	Peer netip.Addr
	// Local is the source address. If it is zero, the kernel selects one.
	Local netip.Addr
	// Interface is the only interface that a single-hop session uses. If it is "",
	// it is the one that the session goes Up on.
	Interface string
	// Multihop selects RFC 5883 (port 4784). Otherwise the session follows RFC
	// 5881 (port 3784) and accepts only packets with TTL 255 (RFC 5082).
	Multihop bool
}

// Profile is the configuration of a session.
type Profile struct {
	// Transmit is the DesiredMinTxInterval, Receive the RequiredMinRxInterval
	// (RFC 5880 section 6.8.1): from a millisecond to 71 minutes.
	Transmit, Receive time.Duration
	// Multiplier is the number of intervals without a packet after which the peer
	// declares this end down (DetectMult), at least 1.
	Multiplier uint8
	// MinTTL is the lowest accepted TTL of a multihop session's packets.
	MinTTL uint8
	// Passive sends no packet before the first one of the peer.
	Passive bool
	// PathDown signals that a path that continues this one has failed: while the
	// session is Up, its packets have the diagnostic Concatenated Path Down (RFC 5880
	// section 6.8.17). The states of both ends are not affected.
	PathDown bool
	// Source is the address that packets are sent from, of the peer's family, if the key has no
	// Local; without it the kernel selects one. It does not identify the session.
	Source netip.Addr
}

// Status is the observed state of a session.
type Status struct {
	State, RemoteState State
	// Diagnostic is why the session is not Up, RemoteDiagnostic the peer's view: in
	// Up, ConcatenatedPathDown is what the peer's Profile.PathDown signals.
	Diagnostic, RemoteDiagnostic Diagnostic
	// Since is when the session entered State.
	Since time.Time
	// Flaps counts how often the session left Up.
	Flaps int
	// Detection is the detection time (RFC 5880 section 6.8.4), 0 while no packets
	// arrive; Interval is the time between two packets sent, before jitter.
	Detection, Interval time.Duration
	// ControlPlaneIndependent is the peer's C bit: its session survives a restart
	// of its control plane (RFC 5882 section 4.3.2).
	ControlPlaneIndependent bool
	// Problem describes for an operator what keeps the session from working, or "".
	Problem string
}

// Engine runs a set of sessions. Its methods may be called concurrently; Run once
// at a time.
type Engine struct {
	log     *slog.Logger
	changed func(Key, Status)
	start   time.Time

	mu              sync.Mutex
	node            string // distinguishes the Engines that have the same secret
	secret          []byte // of the discriminators; random until Identify
	resumable       bool   // the secret is that of the next Engine, too
	sessions        map[Key]*runningSession
	byDiscriminator map[uint32]*runningSession // includes removed sessions that still send AdminDown
	queue           deadlineQueue
	byRemoteEnd     map[remoteEnd][]*runningSession // for packets without Your Discriminator; the most specific first
	changes         []stateChange
	buf             [packetLength]byte // the packet being sent
	transport       transport          // nil unless Run is running
	stopped         bool               // all sessions are in AdminDown, permanently
	adminDowns      []adminDownCall
}

// remoteEnd is the source of a packet.
type remoteEnd struct {
	addr     netip.Addr // without a zone
	multihop bool
}

// New returns an Engine without sessions. It calls changed after each change of a
// session's state, and in Up when the detection time changes, and when the RemoteDiagnostic
// becomes ConcatenatedPathDown or ceases to be, from one goroutine; changed must not block.
func New(log *slog.Logger, changed func(Key, Status)) *Engine {
	secret := make([]byte, sha256.Size)
	_, _ = rand.Read(secret) // never fails, by its documentation
	return &Engine{
		log: log, changed: changed, start: time.Now(), secret: secret,
		sessions:        make(map[Key]*runningSession),
		byDiscriminator: make(map[uint32]*runningSession),
		byRemoteEnd:     make(map[remoteEnd][]*runningSession),
	}
}

// Set sets the desired sessions. New sessions begin in Down. Sessions that are not
// desired signal AdminDown to their peers and are deleted. A changed profile is
// negotiated without leaving Up. Set omits sessions that can never work and
// returns an error for each; sessions that may work later run, with the cause in
// Status.Problem. After AdminDown of all sessions, Set has no effect.
func (e *Engine) Set(desired map[Key]Profile) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.stopped {
		return nil
	}
	now := e.elapsed()
	for key, p := range e.sessions {
		if _, ok := desired[key]; !ok {
			e.removeSession(p, now)
		}
	}
	var failures []error
	// In a fixed order, so that the next Engine derives the same discriminators.
	for _, key := range slices.SortedFunc(maps.Keys(desired), compareKeys) {
		profile := desired[key]
		if err := validateSession(key, profile); err != nil {
			failures = append(failures, err)
			continue
		}
		if p := e.sessions[key]; p == nil {
			e.addSession(key, profile, now)
		} else if p.profile != profile {
			if profile.Source != p.profile.Source && !key.Local.IsValid() {
				p.closeSender() // another one is opened at once
				p.retryAt = now
			}
			p.setProfile(profile)
			e.schedule(p)
		}
	}
	e.wakeLocked()
	return errors.Join(failures...)
}

// Status returns the observed state of the desired sessions.
func (e *Engine) Status() map[Key]Status {
	e.mu.Lock()
	defer e.mu.Unlock()
	all := make(map[Key]Status, len(e.sessions))
	for key, p := range e.sessions {
		all[key] = e.statusOf(p)
	}
	return all
}

// AdminDown sets all sessions to AdminDown permanently, and returns when they have
// signaled it to their peers, each that was Up in three packets within 0.1 s, or when
// ctx or Run ends. It is for a planned shutdown: the peers then do not consider the
// path failed (RFC 5882 section 3.2). Sessions that Set has removed and that still
// signal it are waited for, too.
func (e *Engine) AdminDown(ctx context.Context) { e.adminDown(ctx, nil) }

// AdminDownSessions is AdminDown for the sessions with the keys. They stay in AdminDown
// until a Set omits them. Keys without a session are ignored.
func (e *Engine) AdminDownSessions(ctx context.Context, keys []Key) {
	selected := make(map[Key]bool, len(keys))
	for _, key := range keys {
		selected[key] = true
	}
	e.adminDown(ctx, selected)
}

// adminDown implements AdminDown; nil selects all sessions.
func (e *Engine) adminDown(ctx context.Context, selected map[Key]bool) {
	e.mu.Lock()
	if e.transport == nil {
		e.mu.Unlock()
		return
	}
	e.stopped = e.stopped || selected == nil
	call := adminDownCall{done: make(chan struct{})}
	for _, p := range e.byDiscriminator {
		if selected == nil || selected[p.key] {
			p.setAdminDown(e.elapsed())
			e.recordChange(p)
			e.schedule(p)
			call.sessions = append(call.sessions, p)
		}
	}
	e.adminDowns = append(e.adminDowns, call)
	e.wakeLocked()
	e.mu.Unlock()
	select {
	case <-ctx.Done():
	case <-call.done:
	}
}

// adminDownCall is a call of AdminDown that waits.
type adminDownCall struct {
	sessions []*runningSession
	done     chan struct{} // closed when the sessions have sent their last packet
}

// validateSession returns an error for a session that can never work.
func validateSession(k Key, p Profile) error {
	const longest = math.MaxUint32 * time.Microsecond
	var problem string
	switch {
	case !k.Peer.IsValid() || k.Peer.Is4In6() || k.Peer.IsUnspecified() || k.Peer.IsMulticast():
		problem = "the peer must be a unicast address"
	case k.Local.IsValid() && (k.Local.Is4In6() || k.Local.Is4() != k.Peer.Is4()):
		problem = fmt.Sprintf("the source address %s must be of the same family as the peer", k.Local)
	case k.Peer.IsLinkLocalUnicast() && k.Peer.Is6() && (k.Multihop || k.boundInterface() == ""):
		problem = "a link-local peer requires a single-hop session with an interface"
	case k.Peer.Zone() != "" && k.Interface != "" && k.Peer.Zone() != k.Interface:
		problem = fmt.Sprintf("the zone of the peer must be %s", k.Interface)
	case p.Multiplier == 0:
		problem = "multiplier must be at least 1"
	case min(p.Transmit, p.Receive) < time.Millisecond || max(p.Transmit, p.Receive) > longest:
		problem = fmt.Sprintf("intervals must be from 1ms to %s", longest)
	default:
		return nil
	}
	return fmt.Errorf("invalid BFD session to %s: %s", k.Peer, problem)
}

// boundInterface returns the interface that the session is bound to, or "".
func (k Key) boundInterface() string {
	switch {
	case k.Multihop:
		return ""
	case k.Interface != "":
		return k.Interface
	}
	return k.Peer.Zone()
}

func (k Key) remoteEnd() remoteEnd { return remoteEnd{k.Peer.WithZone(""), k.Multihop} }

func (e *Engine) addSession(key Key, profile Profile, now time.Duration) {
	p := &runningSession{
		key: key, session: e.newSession(key, profile, now), reported: Down, queueIndex: -1,
		log: e.log.With("peer", key.Peer, "interface", key.Interface, "multihop", key.Multihop),
	}
	e.sessions[key], e.byDiscriminator[p.discriminator] = p, p
	all := append(e.byRemoteEnd[key.remoteEnd()], p)
	slices.SortFunc(all, func(a, b *runningSession) int { return b.key.specificity() - a.key.specificity() })
	e.byRemoteEnd[key.remoteEnd()] = all
	e.schedule(p)
}

// specificity orders sessions to the same peer: a packet without Your
// Discriminator belongs to the session with the most specific key.
func (k Key) specificity() (n int) {
	if k.boundInterface() != "" {
		n++
	}
	if k.Local.IsValid() {
		n += 2
	}
	return n
}

// removeSession makes the session signal AdminDown, without a diagnostic: this end does not
// need it any more. It is deleted afterwards.
func (e *Engine) removeSession(p *runningSession, now time.Duration) {
	delete(e.sessions, p.key)
	others := slices.DeleteFunc(e.byRemoteEnd[p.key.remoteEnd()], func(o *runningSession) bool { return o == p })
	if e.byRemoteEnd[p.key.remoteEnd()] = others; len(others) == 0 {
		delete(e.byRemoteEnd, p.key.remoteEnd())
	}
	p.removed = true
	p.setDownFor(now, NoDiagnostic)
	e.schedule(p)
}

func (e *Engine) statusOf(p *runningSession) Status {
	return Status{
		State: p.state, RemoteState: p.peer.state, Diagnostic: p.diagnostic, RemoteDiagnostic: p.peer.diagnostic,
		Since: e.start.Add(p.since), Flaps: p.flaps, Detection: p.detectionTime(), Interval: p.transmitInterval(),
		ControlPlaneIndependent: p.peer.controlPlaneIndependent, Problem: p.problem(),
	}
}
