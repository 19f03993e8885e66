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

// bursts are the waits between the gratuitous frames for an address that was
// taken over: quickly at first, for the clients that lost the address's last
// owner, then for those that missed the first ones, then never again.
var bursts = []time.Duration{0, 100 * time.Millisecond, 400 * time.Millisecond, 1500 * time.Millisecond, 5 * time.Second}

// pace is the shortest time between two gratuitous announcements on a link, so
// that taking over thousands of addresses does not flood it.
const pace = 100 * time.Microsecond

// socket is the part of packet.Conn that a responder uses.
type socket interface {
	net.PacketConn
	SetBPF([]bpf.RawInstruction) error
}

// listen opens a raw ARP socket (CAP_NET_RAW) that hears requests for the addresses only.
func listen(ifi *net.Interface, addrs []netip.Addr) (socket, error) {
	program, err := filter(addrs)
	if err != nil {
		return nil, err
	}
	conn, err := packet.Listen(ifi, packet.Raw, int(ethernet.EtherTypeARP), &packet.Config{Filter: program})
	if errors.Is(err, os.ErrPermission) {
		return nil, fmt.Errorf("open an ARP socket: %w (the speaker needs the capability NET_RAW)", err)
	}
	if err != nil {
		return nil, fmt.Errorf("open an ARP socket: %w", err)
	}
	return conn, nil
}

// responder answers on one link, over one socket.
type responder struct {
	ifi    net.Interface
	conn   socket
	log    *slog.Logger
	failed func()
	cancel context.CancelFunc
	tasks  sync.WaitGroup
	wake   chan struct{} // there are new bursts

	mu     sync.Mutex
	dead   bool                   // the socket cannot be read any more
	addrs  map[netip.Addr]bool    // answered for
	bursts map[netip.Addr]*sequel // gratuitous frames still to come
}

// sequel is the rest of an address's burst.
type sequel struct {
	step int
	due  time.Time
}

// newResponder starts a responder that answers for nothing yet. It calls failed
// if its socket fails.
func newResponder(ctx context.Context, ifi *net.Interface, conn socket, log *slog.Logger, failed func()) *responder {
	ctx, cancel := context.WithCancel(ctx)
	r := &responder{
		ifi: *ifi, conn: conn, log: log, failed: failed, cancel: cancel, wake: make(chan struct{}, 1),
		addrs: make(map[netip.Addr]bool), bursts: make(map[netip.Addr]*sequel),
	}
	r.tasks.Go(func() { r.answer(ctx) })
	r.tasks.Go(func() { r.announce(ctx) })
	return r
}

func (r *responder) isOn(ifi *net.Interface) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.dead && r.ifi.Index == ifi.Index && bytes.Equal(r.ifi.HardwareAddr, ifi.HardwareAddr)
}

// set makes addrs all that is answered for, and announces those that are new.
func (r *responder) set(addrs []netip.Addr) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	wanted := make(map[netip.Addr]bool, len(addrs))
	same := len(addrs) == len(r.addrs)
	for _, a := range addrs {
		wanted[a] = true
		same = same && r.addrs[a]
	}
	if same {
		return nil
	}
	program, err := filter(addrs)
	if err != nil {
		return err
	}
	if err := r.conn.SetBPF(program); err != nil {
		return fmt.Errorf("attach the ARP filter: %w", err)
	}
	for a := range wanted {
		if !r.addrs[a] {
			r.bursts[a] = &sequel{due: time.Now()}
		}
	}
	for a := range r.bursts {
		if !wanted[a] {
			delete(r.bursts, a)
		}
	}
	r.addrs = wanted
	select {
	case r.wake <- struct{}{}:
	default:
	}
	return nil
}

func (r *responder) close() {
	r.cancel()
	if err := r.conn.Close(); err != nil {
		r.log.Warn("ARP socket did not close", "error", err)
	}
	r.tasks.Wait()
}

// answer serves requests until the responder is closed or the socket fails.
func (r *responder) answer(ctx context.Context) {
	buf := make([]byte, 1500)
	for {
		n, _, err := r.conn.ReadFrom(buf)
		if ctx.Err() != nil {
			return // closed
		}
		if err != nil {
			// The interface is down or gone; the next Set opens another socket.
			r.mu.Lock()
			r.dead = true
			r.mu.Unlock()
			r.log.Warn("ARP socket failed", "error", err)
			r.failed()
			return
		}
		if reply, to := r.reply(buf[:n]); reply != nil {
			if _, err := r.conn.WriteTo(reply, to); err != nil && ctx.Err() == nil {
				r.log.Warn("ARP reply was not sent", "error", err)
			}
		}
	}
}

// reply is the answer to a frame, nil if it deserves none (RFC 826, "Packet
// Reception").
func (r *responder) reply(b []byte) (frame []byte, to net.Addr) {
	var eth ethernet.Frame
	var request arp.Packet
	if eth.UnmarshalBinary(b) != nil || eth.EtherType != ethernet.EtherTypeARP || request.UnmarshalBinary(eth.Payload) != nil {
		return nil, nil
	}
	forUs := bytes.Equal(eth.Destination, ethernet.Broadcast) || bytes.Equal(eth.Destination, r.ifi.HardwareAddr)
	r.mu.Lock()
	owned := r.addrs[request.TargetIP]
	r.mu.Unlock()
	// A sender that names the address as its own does not ask for it.
	if !forUs || !owned || request.Operation != arp.OperationRequest || request.SenderIP == request.TargetIP || len(request.SenderHardwareAddr) != 6 {
		return nil, nil
	}
	return encode(arp.OperationReply, r.ifi.HardwareAddr, request.TargetIP, request.SenderHardwareAddr, request.SenderIP, request.SenderHardwareAddr),
		&packet.Addr{HardwareAddr: request.SenderHardwareAddr}
}

// announce sends the bursts that are due, until ctx ends.
func (r *responder) announce(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.wake:
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
			r.gratuitous(ctx, addr)
			select {
			case <-ctx.Done():
				return
			case <-time.After(pace):
			}
		}
	}
}

// nextBurst takes an address whose next announcement is due, or says how long
// to wait for one; 0 is for ever.
func (r *responder) nextBurst(now time.Time) (due netip.Addr, wait time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for a, s := range r.bursts {
		if left := s.due.Sub(now); left > 0 {
			if wait == 0 || left < wait {
				wait = left
			}
			continue
		}
		s.step++
		if s.step == len(bursts) {
			delete(r.bursts, a)
		} else {
			s.due = now.Add(bursts[s.step])
		}
		return a, 0
	}
	return netip.Addr{}, wait
}

// gratuitous announces the address in both forms that clients accept: Linux
// takes a reply as gratuitous only if it names its own MAC as the target, and
// ignores other replies while its entry is younger than a second.
func (r *responder) gratuitous(ctx context.Context, addr netip.Addr) {
	mac := r.ifi.HardwareAddr
	nobody := make(net.HardwareAddr, 6)
	for _, frame := range [][]byte{
		encode(arp.OperationRequest, mac, addr, nobody, addr, ethernet.Broadcast),
		encode(arp.OperationReply, mac, addr, mac, addr, ethernet.Broadcast),
	} {
		if _, err := r.conn.WriteTo(frame, &packet.Addr{HardwareAddr: ethernet.Broadcast}); err != nil && ctx.Err() == nil {
			r.log.Warn("gratuitous ARP was not sent", "address", addr, "error", err)
		}
	}
}

// encode makes an Ethernet frame with an ARP packet. It panics on addresses
// that are not IPv4 and Ethernet: callers have checked them.
func encode(op arp.Operation, senderMAC net.HardwareAddr, sender netip.Addr, targetMAC net.HardwareAddr, target netip.Addr, to net.HardwareAddr) []byte {
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
