package l2

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/mdlayher/arp"
	"github.com/mdlayher/ethernet"
	"github.com/mdlayher/packet"
	"golang.org/x/net/bpf"
)

// testSegment is what the contract needs of a network: to send a frame to the responder
// and to receive what the responder sends. It is a veth pair or simulated.
type testSegment interface {
	sendFrame(t *testing.T, frame []byte)
	// receiveFrame returns the next frame that the responder sends.
	receiveFrame(t *testing.T) []byte
}

func (c *vethPair) sendFrame(t *testing.T, frame []byte) {
	t.Helper()
	if _, err := c.tap.WriteTo(frame, &packet.Addr{HardwareAddr: frame[:6]}); err != nil {
		t.Fatal(err)
	}
}

func (c *vethPair) receiveFrame(t *testing.T) []byte {
	t.Helper()
	buf := make([]byte, 1500)
	if err := c.tap.SetReadDeadline(time.Now().Add(testTimeout)); err != nil {
		t.Fatal(err)
	}
	n, _, err := c.tap.ReadFrom(buf)
	if err != nil {
		t.Fatal(err)
	}
	return buf[:n]
}

// simulatedSegment is a socket and the network that it is connected to. Like the
// kernel, it runs the filter on received frames.
type simulatedSegment struct {
	in, out chan []byte
	closed  chan struct{}
	once    sync.Once
	mu      sync.Mutex
	filter  *bpf.VM
}

func newSimulatedSegment() *simulatedSegment {
	return &simulatedSegment{in: make(chan []byte, 100), out: make(chan []byte, 100), closed: make(chan struct{})}
}

func (s *simulatedSegment) SetBPF(raw []bpf.RawInstruction) error {
	program, ok := bpf.Disassemble(raw)
	if !ok {
		return errors.New("the filter does not disassemble")
	}
	for i, ins := range program {
		if _, isLength := ins.(bpf.LoadExtension); isLength {
			program[i] = bpf.LoadExtension{Num: bpf.ExtLen}
		}
	}
	vm, err := bpf.NewVM(program)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.filter = vm
	return err
}

func (s *simulatedSegment) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		select {
		case <-s.closed:
			return 0, nil, net.ErrClosed
		case frame := <-s.in:
			s.mu.Lock()
			n, err := s.filter.Run(frame)
			s.mu.Unlock()
			if err != nil || n > 0 {
				return copy(b, frame), nil, err
			}
		}
	}
}

func (s *simulatedSegment) WriteTo(b []byte, _ net.Addr) (int, error) {
	s.out <- slices.Clone(b)
	return len(b), nil
}

func (s *simulatedSegment) Close() error {
	s.once.Do(func() { close(s.closed) })
	return nil
}

func (s *simulatedSegment) LocalAddr() net.Addr              { return nil }
func (s *simulatedSegment) SetDeadline(time.Time) error      { return nil }
func (s *simulatedSegment) SetReadDeadline(time.Time) error  { return nil }
func (s *simulatedSegment) SetWriteDeadline(time.Time) error { return nil }

func (s *simulatedSegment) sendFrame(_ *testing.T, frame []byte) { s.in <- frame }

func (s *simulatedSegment) receiveFrame(t *testing.T) []byte {
	t.Helper()
	select {
	case f := <-s.out:
		return f
	case <-time.After(testTimeout):
		t.Fatal("no frame received")
		return nil
	}
}

// answersTo sends a frame and returns the unicast frames sent in response. It sends a
// second request, for an address that is held, and waits until that is answered.
func answersTo(t *testing.T, l testSegment, frame []byte, held netip.Addr) (all []string) {
	t.Helper()
	later, laterIP := net.HardwareAddr{2, 0, 0, 0, 0, 7}, netip.MustParseAddr("192.0.2.7")
	l.sendFrame(t, frame)
	l.sendFrame(t, encodeARP(arp.OperationRequest, later, laterIP, zeroMAC, held, ethernet.Broadcast))
	for {
		answer := l.receiveFrame(t)
		switch destination := net.HardwareAddr(answer[:6]); {
		case bytes.Equal(destination, later):
			return all
		case !bytes.Equal(destination, ethernet.Broadcast):
			all = append(all, decodeARP(t, answer))
		}
	}
}

var (
	clientMAC = net.HardwareAddr{2, 0, 0, 0, 0, 9}
	clientIP  = netip.MustParseAddr("192.0.2.9")
	otherMAC  = net.HardwareAddr{2, 0, 0, 0, 0, 8}
	zeroMAC   = net.HardwareAddr{0, 0, 0, 0, 0, 0}
)

// decodeARP returns a frame as "op SENDER MAC for TARGET MAC to DESTINATION".
func decodeARP(t *testing.T, b []byte) string {
	t.Helper()
	var eth ethernet.Frame
	var p arp.Packet
	if err := eth.UnmarshalBinary(b); err != nil {
		t.Fatal(err)
	}
	if err := p.UnmarshalBinary(eth.Payload); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d %s %s for %s %s to %s",
		p.Operation, p.SenderIP, p.SenderHardwareAddr, p.TargetIP, p.TargetHardwareAddr, eth.Destination)
}
