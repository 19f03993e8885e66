package bfd

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Key names a session by its path.
type Key struct {
	// Peer is the address of the other end. A link-local one carries its zone.
	Peer netip.Addr
	// Local is the source address; zero is the kernel's choice.
	Local netip.Addr
	// Interface is the only link that a single-hop session uses; "" is any.
	Interface string
	// Multihop is RFC 5883 (port 4784) instead of RFC 5881 (port 3784, and only
	// packets that no router has passed on, RFC 5082).
	Multihop bool
}

// Profile is how a session is run.
type Profile struct {
	// Transmit is the DesiredMinTxInterval, Receive the RequiredMinRxInterval
	// (RFC 5880 section 6.8.1): from a millisecond to 71 minutes.
	Transmit, Receive time.Duration
	// Multiplier is how many packets the peer may miss before it takes this end
	// for gone (DetectMult), at least 1.
	Multiplier uint8
	// MinTTL of packets from the peer, if multihop.
	MinTTL uint8
	// Passive sends nothing until the peer has.
	Passive bool
}

// Status is how a session is doing.
type Status struct {
	State, RemoteState State
	// Diagnostic is why the session is not Up, RemoteDiagnostic the peer's view.
	Diagnostic, RemoteDiagnostic Diagnostic
	// Since is when the session entered State.
	Since time.Time
	// Flaps is how often the session left Up.
	Flaps int
	// Detection is the detection time (RFC 5880 section 6.8.4), 0 while the peer
	// is not heard; Interval that between two packets sent, before jitter.
	Detection, Interval time.Duration
	// ControlPlaneIndependent is the peer's C bit: its session survives a restart
	// of its control plane (RFC 5882 section 4.3.2).
	ControlPlaneIndependent bool
	// Problem is what hinders the session, in words for an operator; "" if nothing.
	Problem string
}

// Engine runs a set of sessions.
type Engine struct {
	log      *slog.Logger
	identity string // of this end, the same after a restart; "" resumes nothing
	changed  func(Key, Status)
	start    time.Time

	mu              sync.Mutex
	sessions        map[Key]*runningSession
	byDiscriminator map[uint32]*runningSession // by their discriminators, also those that say goodbye
	queue           deadlineQueue
	byRemoteEnd     map[remoteEnd][]*runningSession // for packets that name no discriminator; the choosiest first
	changes         []stateChange
	buf             [packetLength]byte // of the packet being sent
	transport       transport          // nil unless Run runs
	adminDownDone   chan struct{}      // closed when all have said AdminDown; nil unless AdminDown was called
}

// origin is where a packet comes from.
type remoteEnd struct {
	addr     netip.Addr // without a zone
	multihop bool
}

// New makes an Engine without sessions. It calls changed after each change of a
// session's state, from one goroutine; changed must not block. An Engine with
// the name of an earlier one, of this process or another, takes up the sessions
// that that one left by Pause; without a name it takes up none.
func New(log *slog.Logger, name string, changed func(Key, Status)) *Engine {
	return &Engine{
		log: log, identity: name, changed: changed, start: time.Now(),
		sessions: make(map[Key]*runningSession), byDiscriminator: make(map[uint32]*runningSession), byRemoteEnd: make(map[remoteEnd][]*runningSession),
	}
}

// Set makes want all the sessions there are. New ones begin in Down. Those no
// longer wanted tell their peers AdminDown and are forgotten. A changed profile
// is negotiated without leaving Up. What can never work is left out and named in
// the error; what may work later is run, and its status tells the Problem. After
// AdminDown, Set changes nothing.
func (e *Engine) Set(want map[Key]Profile) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.adminDownDone != nil {
		return nil
	}
	now := e.elapsed()
	for key, p := range e.sessions {
		if _, wanted := want[key]; !wanted {
			e.removeSession(p, now)
		}
	}
	var failures []error
	for key, profile := range want {
		if err := validateSession(key, profile); err != nil {
			failures = append(failures, err)
			continue
		}
		if p := e.sessions[key]; p == nil {
			e.addSession(key, profile, now)
		} else if p.profile != profile {
			p.setProfile(profile)
			e.schedule(p)
		}
	}
	e.wakeLocked()
	return errors.Join(failures...)
}

// Status is how the sessions are doing that the last Set wanted.
func (e *Engine) Status() map[Key]Status {
	e.mu.Lock()
	defer e.mu.Unlock()
	all := make(map[Key]Status, len(e.sessions))
	for key, p := range e.sessions {
		all[key] = e.statusOf(p)
	}
	return all
}

// AdminDown takes all sessions down and returns when the peers have been told,
// or when ctx or Run ends. It is for a planned exit: a peer told so does not
// take the path for broken (RFC 5882 section 3.2).
func (e *Engine) AdminDown(ctx context.Context) {
	e.mu.Lock()
	if e.transport == nil {
		e.mu.Unlock()
		return
	}
	if e.adminDownDone == nil {
		e.adminDownDone = make(chan struct{})
		for _, p := range e.sessions {
			p.setAdminDown(e.elapsed())
			e.recordChange(p)
			e.schedule(p)
		}
		e.wakeLocked()
	}
	parting := e.adminDownDone
	e.mu.Unlock()
	select {
	case <-ctx.Done():
	case <-parting:
	}
}

// check finds what can never work.
func validateSession(k Key, p Profile) error {
	const longest = math.MaxUint32 * time.Microsecond
	var what string
	switch {
	case !k.Peer.IsValid() || k.Peer.Is4In6() || k.Peer.IsUnspecified() || k.Peer.IsMulticast():
		what = "is no address of a peer"
	case k.Local.IsValid() && (k.Local.Is4In6() || k.Local.Is4() != k.Peer.Is4()):
		what = fmt.Sprintf("and %s are not of one family", k.Local)
	case k.Peer.IsLinkLocalUnicast() && k.Peer.Is6() && (k.Multihop || k.boundInterface() == ""):
		what = "is link-local, and needs a link"
	case k.Peer.Zone() != "" && k.Interface != "" && k.Peer.Zone() != k.Interface:
		what = fmt.Sprintf("is not on %s", k.Interface)
	case p.Multiplier == 0:
		what = "needs a multiplier of at least 1"
	case min(p.Transmit, p.Receive) < time.Millisecond || max(p.Transmit, p.Receive) > longest:
		what = fmt.Sprintf("needs intervals from 1ms to %s", longest)
	default:
		return nil
	}
	return fmt.Errorf("run a BFD session: %s %s", k.Peer, what)
}

// link is the name of the link that the session is bound to, "" if none.
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

// choosiness orders sessions to the same peer: a packet is for the one that
// says most about where it comes from.
func (k Key) specificity() (n int) {
	if k.boundInterface() != "" {
		n++
	}
	if k.Local.IsValid() {
		n += 2
	}
	return n
}

// newID is a discriminator that no session has, and that no stranger can guess.
func (e *Engine) newDiscriminator() uint32 {
	for {
		var b [4]byte
		_, _ = rand.Read(b[:]) // never fails, by its documentation
		if id := binary.BigEndian.Uint32(b[:]); id != 0 && e.byDiscriminator[id] == nil {
			return id
		}
	}
}

// leave makes the session say goodbye, and forgets it when it has.
func (e *Engine) removeSession(p *runningSession, now time.Duration) {
	delete(e.sessions, p.key)
	others := slices.DeleteFunc(e.byRemoteEnd[p.key.remoteEnd()], func(o *runningSession) bool { return o == p })
	if e.byRemoteEnd[p.key.remoteEnd()] = others; len(others) == 0 {
		delete(e.byRemoteEnd, p.key.remoteEnd())
	}
	p.removed = true
	p.setAdminDown(now)
	e.schedule(p)
}

func (e *Engine) statusOf(p *runningSession) Status {
	return Status{
		State: p.state, RemoteState: p.peer.state, Diagnostic: p.diagnostic, RemoteDiagnostic: p.peer.diagnostic,
		Since: e.start.Add(p.since), Flaps: p.flaps, Detection: p.detectionTime(), Interval: p.transmitInterval(),
		ControlPlaneIndependent: p.peer.controlPlaneIndependent, Problem: p.problem(),
	}
}
