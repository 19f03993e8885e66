package l2

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/mdlayher/arp"
	"github.com/mdlayher/ethernet"
	"github.com/mdlayher/packet"
	"golang.org/x/net/bpf"
)

// burstDelays are the waits between the gratuitous ARP frames for an address that
// was taken over: short at first, for clients of the previous owner, then longer,
// for clients that missed the first frames.
var burstDelays = []time.Duration{0, 100 * time.Millisecond, 400 * time.Millisecond, 1500 * time.Millisecond, 5 * time.Second}

// announceInterval is the shortest time between two gratuitous announcements on an
// interface: a rate limit, so that a takeover of thousands of addresses does not
// flood the segment.
const announceInterval = 100 * time.Microsecond

// arpSocket is the part of packet.Conn that a responder uses.
type arpSocket interface {
	net.PacketConn
	SetBPF([]bpf.RawInstruction) error
}

// listenARP opens a raw ARP socket (CAP_NET_RAW) that receives only requests for the
// addresses.
func listenARP(ifi *net.Interface, addrs []netip.Addr) (arpSocket, error) {
	program, err := newFilter(addrs)
	if err != nil {
		return nil, err
	}
	conn, err := packet.Listen(ifi, packet.Raw, int(ethernet.EtherTypeARP), &packet.Config{Filter: program})
	if errors.Is(err, os.ErrPermission) {
		return nil, fmt.Errorf("open ARP socket: %w (the speaker needs the capability NET_RAW)", err)
	}
	if err != nil {
		return nil, fmt.Errorf("open ARP socket: %w", err)
	}
	return conn, nil
}

// arpResponder answers ARP on one interface, over one socket.
type arpResponder struct {
	ifi           net.Interface
	conn          arpSocket
	log           *slog.Logger
	onFailure     func()
	cancel        context.CancelFunc
	tasks         sync.WaitGroup
	burstsChanged chan struct{} // pending has changed

	mu      sync.Mutex
	failed  bool                         // the socket must be replaced
	addrs   map[netip.Addr]bool          // answered for
	pending map[netip.Addr]*pendingBurst // gratuitous frames that are not sent yet
}

// pendingBurst is the rest of an address's burst of gratuitous frames.
type pendingBurst struct {
	step int
	due  time.Time
}

// newResponder starts a responder without addresses. It calls failed if its socket
// fails.
func newResponder(ctx context.Context, ifi *net.Interface, conn arpSocket, log *slog.Logger, failed func()) *arpResponder {
	ctx, cancel := context.WithCancel(ctx)
	r := &arpResponder{
		ifi: *ifi, conn: conn, log: log, onFailure: failed, cancel: cancel, burstsChanged: make(chan struct{}, 1),
		addrs: make(map[netip.Addr]bool), pending: make(map[netip.Addr]*pendingBurst),
	}
	r.tasks.Go(func() { r.answerRequests(ctx) })
	r.tasks.Go(func() { r.sendBursts(ctx) })
	return r
}

// isBoundTo reports whether the socket works and is bound to the interface with its
// current MAC.
func (r *arpResponder) isBoundTo(ifi *net.Interface) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.failed && r.ifi.Index == ifi.Index && bytes.Equal(r.ifi.HardwareAddr, ifi.HardwareAddr)
}

// setAddresses replaces the addresses that are answered for, and announces the new
// ones by gratuitous ARP.
func (r *arpResponder) setAddresses(addrs []netip.Addr) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	desired := make(map[netip.Addr]bool, len(addrs))
	same := len(addrs) == len(r.addrs)
	for _, a := range addrs {
		desired[a] = true
		same = same && r.addrs[a]
	}
	if same {
		return nil
	}
	program, err := newFilter(addrs)
	if err != nil {
		return err
	}
	if err := r.conn.SetBPF(program); err != nil {
		return fmt.Errorf("attach ARP filter: %w", err)
	}
	for a := range desired {
		if !r.addrs[a] {
			r.pending[a] = &pendingBurst{due: time.Now()}
		}
	}
	for a := range r.pending {
		if !desired[a] {
			delete(r.pending, a)
		}
	}
	r.addrs = desired
	select {
	case r.burstsChanged <- struct{}{}:
	default:
	}
	return nil
}

// closeAndWait closes the socket and waits for the goroutines.
func (r *arpResponder) closeAndWait() {
	r.cancel()
	if err := r.conn.Close(); err != nil {
		r.log.Warn("closing the ARP socket failed", "error", err)
	}
	r.tasks.Wait()
}

// answerRequests answers requests until the responder is closed or the socket fails.
func (r *arpResponder) answerRequests(ctx context.Context) {
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
			r.log.Warn("ARP socket failed", "error", err)
			r.onFailure()
			return
		}
		if reply, to := r.buildReply(buf[:n]); reply != nil {
			if _, err := r.conn.WriteTo(reply, to); err != nil && ctx.Err() == nil {
				r.log.Warn("sending an ARP reply failed", "error", err)
			}
		}
	}
}

// buildReply returns the reply to a frame and its destination, nil if the frame must
// not be answered (RFC 826, "Packet Reception").
func (r *arpResponder) buildReply(b []byte) (frame []byte, to net.Addr) {
	var eth ethernet.Frame
	var request arp.Packet
	if eth.UnmarshalBinary(b) != nil || eth.EtherType != ethernet.EtherTypeARP || request.UnmarshalBinary(eth.Payload) != nil {
		return nil, nil
	}
	forUs := bytes.Equal(eth.Destination, ethernet.Broadcast) || bytes.Equal(eth.Destination, r.ifi.HardwareAddr)
	r.mu.Lock()
	owned := r.addrs[request.TargetIP]
	r.mu.Unlock()
	// A request with the address as its sender is gratuitous ARP and is not answered.
	gratuitous := request.SenderIP == request.TargetIP
	if !forUs || !owned || gratuitous || request.Operation != arp.OperationRequest || len(request.SenderHardwareAddr) != 6 {
		return nil, nil
	}
	client := request.SenderHardwareAddr
	return encodeARP(arp.OperationReply, r.ifi.HardwareAddr, request.TargetIP, client, request.SenderIP, client),
		&packet.Addr{HardwareAddr: client}
}

// sendBursts sends the gratuitous frames that are due, until ctx ends.
func (r *arpResponder) sendBursts(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.burstsChanged:
		case <-timer.C:
		}
		for {
			addr, wait := r.nextBurst(time.Now())
			if !addr.IsValid() {
				if wait > 0 {
					timer.Reset(wait)
				}
				break
			}
			r.sendGratuitous(ctx, addr)
			select {
			case <-ctx.Done():
				return
			case <-time.After(announceInterval):
			}
		}
	}
}

// nextBurst returns an address with an announcement that is due and schedules its
// next one. Without such an address it returns the time until one is due, 0 if none
// is pending.
func (r *arpResponder) nextBurst(now time.Time) (due netip.Addr, wait time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for a, s := range r.pending {
		if left := s.due.Sub(now); left > 0 {
			if wait == 0 || left < wait {
				wait = left
			}
			continue
		}
		s.step++
		if s.step == len(burstDelays) {
			delete(r.pending, a)
		} else {
			s.due = now.Add(burstDelays[s.step])
		}
		return a, 0
	}
	return netip.Addr{}, wait
}

// sendGratuitous announces the address by gratuitous ARP, in both forms that clients
// accept. Linux treats a reply as gratuitous ARP only if its target MAC is the
// sender's, and ignores other replies while its entry is younger than a second.
func (r *arpResponder) sendGratuitous(ctx context.Context, addr netip.Addr) {
	mac := r.ifi.HardwareAddr
	zeroMAC := make(net.HardwareAddr, 6)
	for _, frame := range [][]byte{
		encodeARP(arp.OperationRequest, mac, addr, zeroMAC, addr, ethernet.Broadcast),
		encodeARP(arp.OperationReply, mac, addr, mac, addr, ethernet.Broadcast),
	} {
		if _, err := r.conn.WriteTo(frame, &packet.Addr{HardwareAddr: ethernet.Broadcast}); err != nil && ctx.Err() == nil {
			r.log.Warn("sending gratuitous ARP failed", "address", addr, "error", err)
		}
	}
}

// encodeARP returns an Ethernet frame with an ARP packet. It panics unless the
// addresses are IPv4 and Ethernet ones; callers have checked them.
func encodeARP(
	op arp.Operation, senderMAC net.HardwareAddr, sender netip.Addr, targetMAC net.HardwareAddr, target netip.Addr, to net.HardwareAddr,
) []byte {
	p, err := arp.NewPacket(op, senderMAC, sender, targetMAC, target)
	if err != nil {
		panic(fmt.Sprintf("ARP packet for %s at %s: %v", sender, senderMAC, err))
	}
	payload, err := p.MarshalBinary()
	if err != nil {
		panic(fmt.Sprintf("ARP packet for %s at %s: %v", sender, senderMAC, err))
	}
	frame := ethernet.Frame{Destination: to, Source: senderMAC, EtherType: ethernet.EtherTypeARP, Payload: payload}
	b, err := frame.MarshalBinary()
	if err != nil {
		panic(fmt.Sprintf("Ethernet frame for %s at %s: %v", sender, senderMAC, err))
	}
	return b
}
