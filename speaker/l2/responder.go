package l2

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/mdlayher/packet"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
	"k8s.io/component-base/metrics"
)

// announceDelays are the waits between the announcements of an address. Hosts that lost
// the first one, for example because their switch port was not forwarding yet, get
// another.
var announceDelays = []time.Duration{0, time.Second, 3 * time.Second}

// announceInterval is the wait between the frames of the first announcement of an address.
const announceInterval = time.Millisecond

const (
	// probes is the number of probes before an address is announced, and probeInterval
	// the wait after each of them. RFC 5227 and RFC 4862 wait for seconds. On a LAN, a
	// host answers within a millisecond.
	probes        = 2
	probeInterval = 90 * time.Millisecond

	// answerTime is added to the wait after the last probe for each address that is probed
	// at the same time: one busy host may have to answer for all of them.
	answerTime = 500 * time.Microsecond

	// reprobeInterval is the first wait before an address that a host has is probed again, if
	// it is not withheld: the host is a node that is about to stop, for example. The waits
	// double up to recheckInterval.
	reprobeInterval = time.Second

	// recheckInterval is the first wait before a withheld address is probed again. The
	// waits double up to maxRecheckInterval.
	recheckInterval, maxRecheckInterval = 10 * time.Second, 160 * time.Second

	// recheckTimeout is the time for the answer.
	recheckTimeout = time.Second

	// receiveBuffer holds the frames that arrive while the process is not scheduled: in the
	// kernel's accounting a frame takes just under 1 KiB.
	receiveBuffer = 2 << 20
)

// mode is what a responder does with an address.
type mode int

const (
	announcing  mode = iota // answer for it and announce it
	probing                 // ask whether a host has it
	withholding             // the same from time to time, because a host has it
	defending               // announce it again, because a host has claimed it
)

// outgoing is a frame to send.
type outgoing struct {
	frame   []byte
	asserts netip.Addr            // invalid for a probe
	step    *task                 // whose step is repeated if the frame may not be sent, if any
	counter metrics.CounterMetric // of sent frames; nil for a probe
}

// socket is the part of packet.Conn that a responder uses.
type socket interface {
	net.PacketConn
	SetBPF([]bpf.RawInstruction) error
}

// listen opens a raw socket (CAP_NET_RAW) that receives nothing yet.
func listen(ifi *net.Interface, f family) (socket, error) {
	program, err := f.newFilter(ifi.Index, nil)
	if err != nil {
		return nil, err
	}
	return listenFiltered(ifi, f, program)
}

// listenFiltered opens a raw socket that receives what passes the filter.
func listenFiltered(ifi *net.Interface, f family, program []bpf.RawInstruction) (*packet.Conn, error) {
	conn, err := packet.Listen(ifi, packet.Raw, int(f.etherType()), &packet.Config{Filter: program})
	if errors.Is(err, os.ErrPermission) {
		return nil, fmt.Errorf("open %s socket: %w (the speaker needs the capability NET_RAW)", f, err)
	}
	if err != nil {
		return nil, fmt.Errorf("open %s socket: %w", f, err)
	}
	raw, err := conn.SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) {
			// To exceed the limit of the system needs CAP_NET_ADMIN.
			if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer) != nil {
				_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer)
			}
		})
	}
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("open %s socket: %w", f, err)
	}
	return conn, nil
}

// responder answers for the addresses of one family on one interface, over one socket.
type responder struct {
	family
	ifi       net.Interface
	conn      socket
	groups    *groups
	claimants *claimants
	hold      *hold
	log       *slog.Logger
	changed   func() // the socket has failed, or probes have ended
	cancel    context.CancelFunc
	running   sync.WaitGroup
	pushed    chan struct{} // the queue has a new task

	answered, announced metrics.CounterMetric // frames

	mu      sync.Mutex
	failed  bool // the socket must be replaced
	tasks   map[netip.Addr]*task
	probing int // number of the tasks with this mode
	queue   queue
}

// newResponder starts a responder without addresses. It calls changed when its socket
// fails, and when it has probed an address.
func newResponder(
	ctx context.Context, ifi *net.Interface, f family, conn socket, claimants *claimants, hold *hold, log *slog.Logger, changed func(),
) *responder {
	ctx, cancel := context.WithCancel(ctx)
	r := &responder{
		family: f, ifi: *ifi, conn: conn, groups: newGroups(ifi.Index, log), claimants: claimants, hold: hold,
		log: log, changed: changed,
		cancel: cancel, pushed: make(chan struct{}, 1), tasks: make(map[netip.Addr]*task),
		answered:  requestsAnswered.WithLabelValues(ifi.Name, familyLabel(f)),
		announced: announcementsSent.WithLabelValues(ifi.Name, familyLabel(f)),
	}
	r.running.Go(func() { r.receive(ctx) })
	r.running.Go(func() { r.runTasks(ctx) })
	r.running.Go(func() { r.groups.run(ctx) })
	return r
}

// isBoundTo reports whether the socket works and is bound to the interface with its
// current MAC.
func (r *responder) isBoundTo(ifi *net.Interface) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.failed && r.ifi.Index == ifi.Index && bytes.Equal(r.ifi.HardwareAddr, ifi.HardwareAddr)
}

// isCleared reports whether the address was probed and no host has answered.
func (r *responder) isCleared(addr netip.Addr) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := r.tasks[addr]
	return t != nil && t.cleared
}

// set replaces the addresses. It announces those that it has not announced before. It must
// not be called concurrently.
func (r *responder) set(desired map[netip.Addr]mode) error {
	r.mu.Lock()
	same := len(desired) == len(r.tasks)
	for addr := range desired {
		same = same && r.tasks[addr] != nil
	}
	r.mu.Unlock()
	if same {
		r.setTasks(desired)
		return nil
	}
	addrs := slices.Collect(maps.Keys(desired))
	program, err := r.newFilter(r.ifi.Index, addrs)
	if err != nil {
		return err
	}
	if err := r.conn.SetBPF(program); err != nil {
		return fmt.Errorf("attach %s filter: %w", r.family, err)
	}
	r.setTasks(desired)
	// Until their groups are joined, the addresses are resolved by their announcements,
	// which are sent to all nodes, as are answers to probes.
	r.groups.set(addrs)
	return nil
}

// setTasks replaces the tasks, apart from those that are the same as before. New ones are
// done in the order of their addresses.
func (r *responder) setTasks(desired map[netip.Addr]mode) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	var changed []netip.Addr
	r.probing = 0
	for addr, m := range desired {
		if m == probing {
			r.probing++
		}
		if t := r.tasks[addr]; t == nil || t.mode != m {
			changed = append(changed, addr)
		}
	}
	slices.SortFunc(changed, netip.Addr.Compare)
	for _, addr := range changed {
		if before := r.tasks[addr]; before != nil {
			before.removed = true
		}
		if desired[addr] == announcing {
			r.claimants.restart(addr)
		}
		t := &task{addr: addr, mode: desired[addr]}
		r.tasks[addr] = t
		r.queue.push(t, now, 0)
	}
	for addr, t := range r.tasks {
		if _, keep := desired[addr]; !keep {
			t.removed = true
			delete(r.tasks, addr)
		}
	}
	r.wake()
}

// wake makes runTasks look at the queue.
func (r *responder) wake() {
	select {
	case r.pushed <- struct{}{}:
	default:
	}
}

// closeAndWait closes the socket and waits for the goroutines.
func (r *responder) closeAndWait() {
	r.cancel()
	if err := r.conn.Close(); err != nil {
		r.log.Warn("closing the socket failed", "error", err)
	}
	r.running.Wait()
}

// receive answers questions and observes claims, until the responder is closed or the
// socket fails.
func (r *responder) receive(ctx context.Context) {
	buf := make([]byte, 1500)
	for {
		n, _, err := r.conn.ReadFrom(buf)
		if ctx.Err() != nil {
			return // closed
		}
		if err != nil {
			// The interface is down or gone; the next Set opens another socket.
			r.mu.Lock()
			r.failed = true
			r.mu.Unlock()
			r.log.Warn("socket failed", "error", err)
			r.changed()
			return
		}
		if answer := r.handle(ctx, buf[:n]); answer.frame != nil {
			r.send(ctx, answer)
		}
	}
}

// handle returns the answer to a frame, without one if there is none.
func (r *responder) handle(ctx context.Context, frame []byte) (answer outgoing) {
	m, ok := r.parse(r.ifi.HardwareAddr, frame)
	if !ok || bytes.Equal(m.mac, r.ifi.HardwareAddr) {
		return answer
	}
	r.mu.Lock()
	asked, claimed := r.tasks[m.question], r.tasks[m.claim]
	if claimed != nil && claimed.cleared {
		r.replace(claimed, 0, 0) // probe it again
		r.wake()
	}
	r.mu.Unlock()
	if claimed != nil && r.claimants.observe(r.ifi.Name, m.claim, m.mac, claimed.mode == announcing) {
		r.mu.Lock()
		r.queue.push(&task{addr: m.claim, mode: defending, claimant: m.mac.String()}, time.Now(), claimDelay)
		r.mu.Unlock()
		r.wake()
	}
	if asked == nil || asked.mode != announcing {
		return answer
	}
	return outgoing{frame: r.answer(r.ifi.HardwareAddr, m), asserts: m.question, counter: r.answered}
}

// runTasks does the steps that are due, until ctx ends.
func (r *responder) runTasks(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var allowed time.Time // when the rate limit allows the next batch
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.pushed:
		case <-timer.C:
		}
		if now := time.Now(); allowed.Before(now) {
			allowed = now
		}
		for ctx.Err() == nil {
			now := time.Now()
			frames, steps, wait := r.nextBatch(now)
			r.send(ctx, frames...)
			if steps == 0 {
				if wait > 0 {
					timer.Reset(wait)
				}
				break
			}
			// A busy node wakes up late. The next batches make up for it.
			if earliest := now.Add(-maxDelay); allowed.Before(earliest) {
				allowed = earliest
			}
			allowed = allowed.Add(time.Duration(steps) * sendInterval)
			select {
			case <-ctx.Done():
			case <-time.After(time.Until(allowed)):
			}
		}
	}
}

// nextBatch does the next steps of tasks that are due, and returns the frames to send.
// Without one that is due it returns the time until one is, 0 if there is none.
func (r *responder) nextBatch(now time.Time) (frames []outgoing, steps int, wait time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	anyChanged := false
	for ; steps < batchSize; steps++ {
		t, left := r.queue.pop(now)
		if t == nil {
			wait = left
			break
		}
		sent, next, changed := r.step(t, now)
		for _, frame := range sent {
			f := outgoing{frame: frame}
			switch t.mode {
			case announcing:
				f.asserts, f.step, f.counter = t.addr, t, r.announced
			case defending:
				f.asserts, f.counter = t.addr, r.announced
			}
			frames = append(frames, f)
		}
		if t.step++; next > 0 {
			r.queue.push(t, now, next)
		}
		anyChanged = anyChanged || changed
	}
	if anyChanged {
		defer r.changed()
	}
	return frames, steps, wait
}

// maySend reports whether a frame may be sent now: it is a probe, or the Announcer does not
// hold and the address is still announced. The step of a task that has announced it is
// repeated later if the Announcer holds.
func (r *responder) maySend(f outgoing) bool {
	if !f.asserts.IsValid() {
		return true
	}
	// In this order: what another node has taken over is removed before the hold ends.
	holds := r.hold.check()
	r.mu.Lock()
	defer r.mu.Unlock()
	if holds && f.step != nil && !f.step.removed {
		r.replace(f.step, f.step.step-1, postponeInterval)
	}
	t := r.tasks[f.asserts]
	return !holds && t != nil && t.mode == announcing
}

// replace replaces a task by one that continues with the step after the wait. The lock
// must be held.
func (r *responder) replace(t *task, step int, wait time.Duration) {
	t.removed = true
	again := &task{addr: t.addr, mode: t.mode, step: step, announced: t.announced}
	r.tasks[t.addr] = again
	r.queue.push(again, time.Now(), wait)
}

// reannounce announces the addresses that are announced from the first step on.
func (r *responder) reannounce(addrs []netip.Addr) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	for _, addr := range addrs {
		t := r.tasks[addr]
		if t == nil || t.mode != announcing || t.step == 0 || now.Sub(t.announced) < reannounceInterval {
			continue
		}
		r.replace(t, 0, 0)
	}
	select {
	case r.pushed <- struct{}{}:
	default:
	}
}

// step returns the frames of the task's next step, none if that only ends the wait for
// answers, the wait for the step after it, 0 if there is none, and whether the claims of the
// address have changed or no host has answered its probes.
func (r *responder) step(t *task, now time.Time) (frames [][]byte, next time.Duration, changed bool) {
	mac := r.ifi.HardwareAddr
	switch {
	case t.mode == announcing:
		frames, next = r.announceStep(t, now)
		return frames, next, false
	case t.mode == defending:
		current := r.tasks[t.addr]
		if current == nil || current.mode != announcing || r.claimants.isNode(t.claimant) {
			return nil, 0, false
		}
		return r.announce(mac, t.addr), 0, false
	case t.mode == probing:
		return r.probeStep(t, now)
	case t.step%2 == 0:
		t.probed = now
		return [][]byte{r.probe(mac, t.addr)}, recheckTimeout, false
	default:
		changed = r.claimants.forget(r.ifi.Name, t.addr, t.probed)
		return nil, min(recheckInterval<<min(t.step/2, 10), maxRecheckInterval), changed
	}
}

// announceStep is the step of an address that is announced: one frame, so that no address
// waits for the second frames of others.
func (r *responder) announceStep(t *task, now time.Time) (frames [][]byte, next time.Duration) {
	if t.step == 0 {
		t.announced = now
	}
	all := r.announce(r.ifi.HardwareAddr, t.addr)
	frames = all[:1]
	if t.step < len(all) {
		frames = all[t.step : t.step+1]
	}
	switch repetition := t.step + 2 - len(all); {
	case repetition <= 0:
		next = announceInterval
	case repetition < len(announceDelays):
		next = announceDelays[repetition]
	}
	return frames, next
}

// probeStep is the step of an address that is probed. After the last probe it forgets the
// claims from before the first one: their hosts may not have the address any more. As long
// as a host answers, the probes are repeated.
func (r *responder) probeStep(t *task, now time.Time) (frames [][]byte, next time.Duration, changed bool) {
	switch t.step % (probes + 1) {
	case 0:
		t.probed = now
	case probes:
		changed = r.claimants.forget(r.ifi.Name, t.addr, t.probed)
		if t.cleared = !r.claimants.has(t.addr); t.cleared {
			return nil, 0, true
		}
		return nil, min(reprobeInterval<<min(t.step/(probes+1), 10), recheckInterval), changed
	case probes - 1:
		next = time.Duration(r.probing-1) * answerTime
	}
	return [][]byte{r.probe(r.ifi.HardwareAddr, t.addr)}, next + probeInterval, false
}

// send sends the frames that may be sent when they are due. One that fails, for example
// because the queue of the interface is full, does not keep the others back.
func (r *responder) send(ctx context.Context, frames ...outgoing) {
	failed, firstErr := 0, error(nil)
	for _, f := range frames {
		if !r.maySend(f) {
			continue
		}
		if _, err := r.conn.WriteTo(f.frame, &packet.Addr{HardwareAddr: f.frame[:6]}); err != nil {
			failed, firstErr = failed+1, cmp.Or(firstErr, err)
		} else if f.counter != nil {
			f.counter.Inc()
		}
	}
	if failed > 0 && ctx.Err() == nil {
		r.log.Warn("sending failed", "frames", failed, "error", firstErr)
	}
}
