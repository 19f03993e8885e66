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
	"github.com/mdlayher/ndp"
	"github.com/mdlayher/packet"
	"golang.org/x/net/bpf"
	"golang.org/x/net/ipv6"
)

var (
	clientMAC = net.HardwareAddr{2, 0, 0, 0, 0, 9}
	otherMAC  = net.HardwareAddr{2, 0, 0, 0, 0, 8}
)

// familyTest has what the tests of one family use.
type familyTest struct {
	family
	vip, other, client netip.Addr // in the subnet of vip0, which has the address own
	own                netip.Prefix
}

var familyTests = []familyTest{
	{
		arpFamily{},
		netip.MustParseAddr("192.0.2.77"), netip.MustParseAddr("192.0.2.78"), netip.MustParseAddr("192.0.2.9"),
		netip.MustParsePrefix("192.0.2.1/24"),
	},
	{
		ndpFamily{},
		netip.MustParseAddr("2001:db8::77"), netip.MustParseAddr("2001:db8::78"), netip.MustParseAddr("2001:db8::9"),
		netip.MustParsePrefix("2001:db8::1/64"),
	},
}

var vip = familyTests[0].vip

// testFamilies runs a test for each family.
func testFamilies(t *testing.T, test func(t *testing.T, f familyTest)) {
	for _, f := range familyTests {
		t.Run(f.String(), func(t *testing.T) { test(t, f) })
	}
}

// question returns the frame by which a host asks for the address; without a destination
// it is sent to all.
func (f familyTest) question(from net.HardwareAddr, sender, target netip.Addr, to net.HardwareAddr) []byte {
	if f.family == (arpFamily{}) {
		if to == nil {
			to = ethernet.Broadcast
		}
		return encodeARP(arp.OperationRequest, from, sender, zeroMAC, target, to)
	}
	group, err := ndp.SolicitedNodeMulticast(target)
	if err != nil {
		panic(err)
	}
	ns := &ndp.NeighborSolicitation{TargetAddress: target}
	if !sender.IsUnspecified() {
		ns.Options = []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Source, Addr: from}}
	}
	if to == nil {
		return encodeND(from, sender, group, multicastMAC(group), ns)
	}
	if sender.IsUnspecified() {
		return encodeND(from, sender, group, to, ns)
	}
	return encodeND(from, sender, target, to, ns)
}

// wantAnswer returns the answer of the MAC to a question, as describe returns it.
func (f familyTest) wantAnswer(mac net.HardwareAddr, addr, client netip.Addr, clientMAC net.HardwareAddr) string {
	switch {
	case f.family == (arpFamily{}):
		return fmt.Sprintf("reply %s is at %s, for %s %s, to %s", addr, mac, client, clientMAC, clientMAC)
	case client.IsUnspecified():
		return fmt.Sprintf("advertisement O %s is at %s, from %s to ff02::1, to 33:33:00:00:00:01", addr, mac, addr)
	}
	return fmt.Sprintf("advertisement SO %s is at %s, from %s to %s, to %s", addr, mac, addr, client, clientMAC)
}

// describe returns what a frame says.
func describe(t *testing.T, b []byte) string {
	t.Helper()
	var eth ethernet.Frame
	if err := eth.UnmarshalBinary(b); err != nil {
		t.Fatal(err)
	}
	if eth.EtherType == ethernet.EtherTypeARP {
		var p arp.Packet
		if err := p.UnmarshalBinary(eth.Payload); err != nil {
			t.Fatal(err)
		}
		operation := map[arp.Operation]string{arp.OperationRequest: "request", arp.OperationReply: "reply"}[p.Operation]
		return fmt.Sprintf("%s %s is at %s, for %s %s, to %s",
			operation, p.SenderIP, p.SenderHardwareAddr, p.TargetIP, p.TargetHardwareAddr, eth.Destination)
	}
	h, err := ipv6.ParseHeader(eth.Payload)
	if err != nil || h.NextHeader != protocolICMPv6 {
		return "another packet"
	}
	payload := eth.Payload[ipv6.HeaderLen:][:h.PayloadLen]
	message, err := ndp.ParseMessage(payload)
	if err != nil || h.HopLimit != ndHopLimit || !validChecksum(mustAddr(h.Src), mustAddr(h.Dst), payload) {
		return "an invalid packet"
	}
	switch m := message.(type) {
	case *ndp.NeighborSolicitation:
		return fmt.Sprintf("solicitation for %s, from %s to %s, to %s", m.TargetAddress, h.Src, h.Dst, eth.Destination)
	case *ndp.NeighborAdvertisement:
		flags := ""
		for flag, set := range map[string]bool{"R": m.Router, "S": m.Solicited} {
			if set {
				flags += flag
			}
		}
		if m.Override {
			flags += "O"
		}
		return fmt.Sprintf("advertisement %s %s is at %s, from %s to %s, to %s",
			flags, m.TargetAddress, m.Options[0].(*ndp.LinkLayerAddress).Addr, h.Src, h.Dst, eth.Destination)
	}
	return "another message"
}

// testSegment is what the contract needs of a network: to send a frame to the responder
// and to receive what the responder sends. It is a veth pair or simulated.
type testSegment interface {
	sendFrame(t testing.TB, frame []byte)
	// receiveFrame returns the next ARP packet, Neighbor Solicitation or Neighbor
	// Advertisement that the node sends.
	receiveFrame(t *testing.T) []byte
}

func (c *vethPair) sendFrame(t testing.TB, frame []byte) {
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
	for {
		n, _, err := c.tap.ReadFrom(buf)
		if err != nil {
			t.Fatal(err)
		}
		frame := buf[:n]
		// The kernel sends Neighbor Discovery, too, for the addresses of its own.
		isND := n >= lengthND && frame[offsetNextHeader] == protocolICMPv6 && (frame[offsetICMPv6] == 135 || frame[offsetICMPv6] == 136)
		if bytes.Equal(frame[12:14], []byte{0x08, 0x06}) || isND && frame[offsetNDTarget] == 0x20 && frame[offsetNDTarget+15] != 1 {
			return frame
		}
	}
}

// simulatedSegment is a socket and the network that it is connected to. Like the
// kernel, it runs the filter on received frames.
type simulatedSegment struct {
	in, out chan []byte
	closed  chan struct{}
	once    sync.Once
	mu      sync.Mutex
	filter  *bpf.VM
	ifindex int
}

// loopbackIndex is the index of lo in each network namespace. Groups are joined on it.
const loopbackIndex = 1

func newSimulatedSegment(ifindex int) *simulatedSegment {
	return &simulatedSegment{in: make(chan []byte, 100), out: make(chan []byte, 100), closed: make(chan struct{}), ifindex: ifindex}
}

func (s *simulatedSegment) SetBPF(raw []bpf.RawInstruction) error {
	program, ok := bpf.Disassemble(raw)
	if !ok {
		return errors.New("the filter does not disassemble")
	}
	vm, err := newVM(program, s.ifindex)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.filter = vm
	return err
}

// newVM returns a VM for a filter, in which all frames are for this host and received by
// one interface.
func newVM(program []bpf.Instruction, ifindex int) (*bpf.VM, error) {
	for i, ins := range program {
		switch ins {
		case bpf.LoadExtension{Num: bpf.ExtType}:
			program[i] = bpf.LoadConstant{Dst: bpf.RegA, Val: 0}
		case bpf.LoadExtension{Num: bpf.ExtInterfaceIndex}:
			program[i] = bpf.LoadConstant{Dst: bpf.RegA, Val: uint32(ifindex)}
		}
		if raw, isRaw := ins.(bpf.RawInstruction); isRaw {
			return nil, fmt.Errorf("instruction %d: %v", i, raw)
		}
	}
	return bpf.NewVM(program)
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

func (s *simulatedSegment) sendFrame(_ testing.TB, frame []byte) { s.in <- frame }

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

// answersTo sends a frame and returns what is sent before the answer to another question,
// for an address that is held, except announcements. The answer to a probe is one.
func (f familyTest) answersTo(t *testing.T, l testSegment, frame []byte, held netip.Addr) (all []string) {
	t.Helper()
	later, laterIP := net.HardwareAddr{2, 0, 0, 0, 0, 7}, f.own.Masked().Addr().Next().Next()
	l.sendFrame(t, frame)
	l.sendFrame(t, f.question(later, laterIP, held, nil))
	isProbe := bytes.Equal(frame, f.probe(clientMAC, f.vip))
	for {
		answer := l.receiveFrame(t)
		to := net.HardwareAddr(answer[:6])
		switch isAnnouncement := bytes.Equal(to, ethernet.Broadcast) || bytes.Equal(to, multicastMAC(allNodes)); {
		case bytes.Equal(to, later):
			return all
		case isProbe || !isAnnouncement:
			all = append(all, describe(t, answer))
		}
	}
}
