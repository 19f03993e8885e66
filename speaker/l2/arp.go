package l2

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"slices"

	"github.com/mdlayher/arp"
	"github.com/mdlayher/ethernet"
	"golang.org/x/net/bpf"
)

// arpFamily resolves IPv4 addresses (RFC 826, RFC 5227).
type arpFamily struct{}

// Offsets in an Ethernet frame with ARP for IPv4 (RFC 826).
const (
	offsetARPHeader    = 14 // hardware type, protocol type, lengths
	offsetARPOperation = 20
	offsetARPSender    = 28
	offsetARPTarget    = 38
	lengthARP          = 42
)

var zeroMAC = make(net.HardwareAddr, 6)

func (arpFamily) String() string { return "ARP" }

func (arpFamily) etherType() ethernet.EtherType { return ethernet.EtherTypeARP }

func (arpFamily) newFilter(ifindex int, addrs []netip.Addr) ([]bpf.RawInstruction, error) {
	set := newBitmap(addrs)
	request := slices.Concat(
		[]bpf.Instruction{bpf.LoadAbsolute{Off: offsetARPTarget, Size: 4}},
		set.test(),
	)
	return assembleFilter(len(addrs), slices.Concat(
		requireInterface(ifindex), requireLength(lengthARP),
		requireField(offsetARPHeader, 4, 1<<16|uint32(ethernet.EtherTypeIPv4)), // Ethernet and IPv4
		requireField(offsetARPHeader+4, 2, 6<<8|4),                             // the lengths of their addresses
		[]bpf.Instruction{
			bpf.LoadAbsolute{Off: offsetARPOperation, Size: 2},
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(arp.OperationReply), SkipTrue: 3},
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(arp.OperationRequest), SkipTrue: 1},
			bpf.RetConstant{Val: 0},
			bpf.Jump{Skip: 1},
			bpf.Jump{Skip: uint32(len(request))},
		},
		request,
		// A reply has no question, and neither has a request for another address.
		[]bpf.Instruction{bpf.LoadAbsolute{Off: offsetARPSender, Size: 4}},
		set.test(),
		[]bpf.Instruction{bpf.RetConstant{Val: 0}},
	))
}

// parse implements the checks of RFC 826 ("Packet Reception") and of the addresses.
func (arpFamily) parse(mac net.HardwareAddr, frame []byte) (m message, ok bool) {
	var eth ethernet.Frame
	var p arp.Packet
	if eth.UnmarshalBinary(frame) != nil || eth.EtherType != ethernet.EtherTypeARP || p.UnmarshalBinary(eth.Payload) != nil {
		return m, false
	}
	if p.HardwareType != 1 || p.ProtocolType != uint16(ethernet.EtherTypeIPv4) || len(p.SenderHardwareAddr) != 6 ||
		!isHost(p.SenderHardwareAddr) || !isHostOrUnspecified(p.SenderIP) {
		return m, false
	}
	m.sender, m.mac = p.SenderIP, p.SenderHardwareAddr
	if !p.SenderIP.IsUnspecified() {
		m.claim = p.SenderIP
	}
	toUs := bytes.Equal(eth.Destination, ethernet.Broadcast) || bytes.Equal(eth.Destination, mac)
	switch {
	case p.Operation == arp.OperationRequest && toUs && p.SenderIP != p.TargetIP: // otherwise it is an announcement
		m.question = p.TargetIP
	case p.Operation != arp.OperationRequest && p.Operation != arp.OperationReply:
		return m, false
	}
	return m, true
}

// isHostOrUnspecified reports whether an IPv4 address can be that of a sender.
func isHostOrUnspecified(a netip.Addr) bool {
	return !a.IsLoopback() && !a.IsMulticast() && a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

func (arpFamily) answer(mac net.HardwareAddr, m message) []byte {
	return encodeARP(arp.OperationReply, mac, m.question, m.mac, m.sender, m.mac)
}

// announce returns gratuitous ARP. A request updates the entries of all hosts. Some
// accept only replies; of these, Linux takes one as gratuitous ARP only if its target MAC
// is the sender's, and ignores others while its entry is younger than a second.
func (arpFamily) announce(mac net.HardwareAddr, addr netip.Addr) [][]byte {
	return [][]byte{
		encodeARP(arp.OperationRequest, mac, addr, zeroMAC, addr, ethernet.Broadcast),
		encodeARP(arp.OperationReply, mac, addr, mac, addr, ethernet.Broadcast),
	}
}

// probe returns an ARP Probe (RFC 5227 section 2.1.1).
func (f arpFamily) probe(mac net.HardwareAddr, addr netip.Addr) []byte {
	return f.solicitation(mac, netip.IPv4Unspecified(), addr, ethernet.Broadcast)
}

// solicitation returns an ARP request. By unicast it is the "unicast poll" of RFC 1122
// section 2.3.2.1.
func (arpFamily) solicitation(mac net.HardwareAddr, sender, addr netip.Addr, to net.HardwareAddr) []byte {
	return encodeARP(arp.OperationRequest, mac, sender, zeroMAC, addr, to)
}

// newAnswerFilter passes replies to the MAC.
func (arpFamily) newAnswerFilter(ifindex int, mac net.HardwareAddr) ([]bpf.RawInstruction, error) {
	return assembleFilter(0, slices.Concat(
		requireInterface(ifindex), requireLength(lengthARP),
		requireField(offsetARPOperation, 2, uint32(arp.OperationReply)),
		requireField(0, 4, binary.BigEndian.Uint32(mac)), requireField(4, 2, uint32(binary.BigEndian.Uint16(mac[4:]))),
		[]bpf.Instruction{bpf.RetConstant{Val: acceptAll}},
	))
}

// encodeARP returns an Ethernet frame with an ARP packet for IPv4.
func encodeARP(
	op arp.Operation, senderMAC net.HardwareAddr, sender netip.Addr, targetMAC net.HardwareAddr, target netip.Addr, to net.HardwareAddr,
) []byte {
	p, err := arp.NewPacket(op, senderMAC, sender, targetMAC, target)
	if err != nil {
		panic("ARP packet: " + err.Error())
	}
	payload, err := p.MarshalBinary()
	return mustMarshal(senderMAC, to, ethernet.EtherTypeARP, payload, err)
}
