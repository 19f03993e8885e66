package l2

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"slices"

	"github.com/mdlayher/ethernet"
	"github.com/mdlayher/ndp"
	"golang.org/x/net/bpf"
	"golang.org/x/net/ipv6"
)

// ndpFamily resolves IPv6 addresses (Neighbor Discovery, RFC 4861).
type ndpFamily struct{}

// Offsets in an Ethernet frame with a Neighbor Solicitation or Advertisement. A packet
// with extension headers does not pass the filter.
const (
	offsetIPv6       = 14
	offsetNextHeader = offsetIPv6 + 6 // followed by the hop limit
	offsetICMPv6     = offsetIPv6 + ipv6.HeaderLen
	offsetNDTarget   = offsetICMPv6 + 8
	lengthND         = offsetNDTarget + 16

	protocolICMPv6 = 58
	ndHopLimit     = 255 // of a packet that no router has forwarded (RFC 4861 section 7.1)
)

func (ndpFamily) String() string { return "Neighbor Discovery" }

func (ndpFamily) etherType() ethernet.EtherType { return ethernet.EtherTypeIPv6 }

func (ndpFamily) newFilter(ifindex int, addrs []netip.Addr) ([]bpf.RawInstruction, error) {
	return assembleFilter(len(addrs), slices.Concat(
		// Most IPv6 packets are no Neighbor Discovery: this check is the first.
		requireLength(lengthND),
		requireField(offsetNextHeader, 2, protocolICMPv6<<8|ndHopLimit),
		requireInterface(ifindex),
		[]bpf.Instruction{
			bpf.LoadAbsolute{Off: offsetICMPv6, Size: 2}, // type and code
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(ipv6.ICMPTypeNeighborSolicitation) << 8, SkipTrue: 2},
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(ipv6.ICMPTypeNeighborAdvertisement) << 8, SkipTrue: 1},
			bpf.RetConstant{Val: 0},
			bpf.LoadAbsolute{Off: offsetNDTarget + 12, Size: 4},
		},
		newBitmap(addrs).test(),
		[]bpf.Instruction{bpf.RetConstant{Val: 0}},
	))
}

// parse implements the validation of RFC 4861 sections 7.1.1 and 7.1.2.
func (ndpFamily) parse(mac net.HardwareAddr, frame []byte) (m message, ok bool) {
	var eth ethernet.Frame
	if eth.UnmarshalBinary(frame) != nil || eth.EtherType != ethernet.EtherTypeIPv6 || !isHost(eth.Source) {
		return m, false
	}
	h, err := ipv6.ParseHeader(eth.Payload)
	if err != nil || h.Version != 6 || h.NextHeader != protocolICMPv6 || h.HopLimit != ndHopLimit ||
		len(eth.Payload) < ipv6.HeaderLen+h.PayloadLen {
		return m, false
	}
	source, destination := mustAddr(h.Src), mustAddr(h.Dst)
	payload := eth.Payload[ipv6.HeaderLen : ipv6.HeaderLen+h.PayloadLen] // without the padding of a short frame
	if source.IsMulticast() || source.IsLoopback() || len(payload) < lengthND-offsetICMPv6 || payload[1] != 0 ||
		!validChecksum(source, destination, payload) {
		return m, false
	}
	target, options := mustAddr(payload[8:24]), payload[24:]
	m.sender, m.mac = source, eth.Source
	switch ipv6.ICMPType(payload[0]) {
	case ipv6.ICMPTypeNeighborSolicitation:
		sender, ok := linkLayerAddress(options, ndp.Source)
		group, err := ndp.SolicitedNodeMulticast(target)
		if !ok || err != nil || source.IsUnspecified() && (destination != group || sender != nil) {
			return m, false
		}
		if sender != nil {
			m.mac = sender
		}
		if isMulticast(eth.Destination) || bytes.Equal(eth.Destination, mac) {
			m.question = target
		}
	case ipv6.ICMPTypeNeighborAdvertisement:
		owner, ok := linkLayerAddress(options, ndp.Target)
		if solicited := payload[4]&0x40 != 0; !ok || destination.IsMulticast() && solicited || target.IsMulticast() {
			return m, false
		}
		if owner != nil {
			m.mac = owner
		}
		m.claim = target
	default:
		return m, false
	}
	return m, isHost(m.mac)
}

// linkLayerAddress returns the Ethernet address in the options of a message, nil if there
// is none. It returns false if the length of an option is not valid. The contents of
// other options are ignored, as RFC 4861 sections 7.1.1 and 7.1.2 require.
func linkLayerAddress(options []byte, d ndp.Direction) (mac net.HardwareAddr, ok bool) {
	for len(options) > 0 {
		if len(options) < 8 || options[1] == 0 || len(options) < int(options[1])*8 {
			return nil, false
		}
		if options[0] == byte(d) && options[1] == 1 && mac == nil {
			mac = options[2:8]
		}
		options = options[int(options[1])*8:]
	}
	return mac, true
}

// answer returns a Neighbor Advertisement. A probe (duplicate address detection) has no
// address to answer to, so that all nodes get its answer (RFC 4861 section 7.2.4).
func (ndpFamily) answer(mac net.HardwareAddr, m message) []byte {
	if m.sender.IsUnspecified() {
		return encodeAdvertisement(mac, m.question, allNodes, multicastMAC(allNodes), false)
	}
	return encodeAdvertisement(mac, m.question, m.sender, m.mac, true)
}

// announce returns an unsolicited Neighbor Advertisement (RFC 4861 section 7.2.6).
func (ndpFamily) announce(mac net.HardwareAddr, addr netip.Addr) [][]byte {
	return [][]byte{encodeAdvertisement(mac, addr, allNodes, multicastMAC(allNodes), false)}
}

// probe returns the Neighbor Solicitation of duplicate address detection (RFC 4862
// section 5.4.2).
func (f ndpFamily) probe(mac net.HardwareAddr, addr netip.Addr) []byte {
	return f.solicitation(mac, netip.IPv6Unspecified(), addr, multicastMAC(solicitedNodeGroup(addr)))
}

// solicitation returns a Neighbor Solicitation to the address, or from the unspecified
// address to its solicited-node group (RFC 4861 section 4.3). The group can be sent to the
// MAC of one host, too: that of the destination address is not validated (section 7.1.1).
func (ndpFamily) solicitation(mac net.HardwareAddr, sender, addr netip.Addr, to net.HardwareAddr) []byte {
	ns := &ndp.NeighborSolicitation{TargetAddress: addr}
	if sender.IsUnspecified() {
		return encodeND(mac, sender, solicitedNodeGroup(addr), to, ns)
	}
	ns.Options = []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Source, Addr: mac}}
	return encodeND(mac, sender, addr, to, ns)
}

// solicitedNodeGroup returns the group of a unicast address (RFC 4291 section 2.7.1).
func solicitedNodeGroup(addr netip.Addr) netip.Addr {
	group, err := ndp.SolicitedNodeMulticast(addr)
	if err != nil {
		panic("solicited-node group of " + addr.String() + ": " + err.Error())
	}
	return group
}

// newAnswerFilter passes Neighbor Advertisements to the MAC and to all nodes, which are
// the answers to solicitations from the unspecified address (RFC 4861 section 7.2.4).
func (ndpFamily) newAnswerFilter(ifindex int, mac net.HardwareAddr) ([]bpf.RawInstruction, error) {
	toAll := multicastMAC(allNodes)
	return assembleFilter(0, slices.Concat(
		requireLength(lengthND),
		requireField(offsetNextHeader, 2, protocolICMPv6<<8|ndHopLimit),
		requireInterface(ifindex),
		requireField(offsetICMPv6, 2, uint32(ipv6.ICMPTypeNeighborAdvertisement)<<8), // type and code
		[]bpf.Instruction{
			bpf.LoadAbsolute{Off: 0, Size: 4},
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: binary.BigEndian.Uint32(mac), SkipTrue: 2},
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: binary.BigEndian.Uint32(toAll), SkipTrue: 4},
			bpf.RetConstant{Val: 0},
			bpf.LoadAbsolute{Off: 4, Size: 2}, // of the MAC
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(binary.BigEndian.Uint16(mac[4:])), SkipTrue: 4},
			bpf.RetConstant{Val: 0},
			bpf.LoadAbsolute{Off: 4, Size: 2}, // of all nodes
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(binary.BigEndian.Uint16(toAll[4:])), SkipTrue: 1},
			bpf.RetConstant{Val: 0},
			bpf.RetConstant{Val: acceptAll},
		},
	))
}

// encodeAdvertisement returns a Neighbor Advertisement for the address with the Override
// flag.
func encodeAdvertisement(mac net.HardwareAddr, addr, to netip.Addr, toMAC net.HardwareAddr, solicited bool) []byte {
	return encodeND(mac, addr, to, toMAC, &ndp.NeighborAdvertisement{
		Solicited: solicited, Override: true, TargetAddress: addr,
		Options: []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Target, Addr: mac}},
	})
}

func encodeND(mac net.HardwareAddr, from, to netip.Addr, toMAC net.HardwareAddr, m ndp.Message) []byte {
	message, err := ndp.MarshalMessageChecksum(m, from, to)
	if err != nil {
		panic("Neighbor Discovery message: " + err.Error())
	}
	packet := make([]byte, 0, ipv6.HeaderLen+len(message))
	packet = append(packet, 6<<4, 0, 0, 0)
	packet = binary.BigEndian.AppendUint16(packet, uint16(len(message)))
	packet = append(packet, protocolICMPv6, ndHopLimit)
	packet = append(append(append(packet, from.AsSlice()...), to.AsSlice()...), message...)
	return mustMarshal(mac, toMAC, ethernet.EtherTypeIPv6, packet, nil)
}

// multicastMAC returns the Ethernet address of an IPv6 group (RFC 2464 section 7).
func multicastMAC(group netip.Addr) net.HardwareAddr {
	b := group.As16()
	return net.HardwareAddr{0x33, 0x33, b[12], b[13], b[14], b[15]}
}

// validChecksum verifies the checksum of an ICMPv6 message (RFC 8200 section 8.1).
func validChecksum(source, destination netip.Addr, message []byte) bool {
	sum := uint32(len(message)) + protocolICMPv6
	add := func(b []byte) {
		for ; len(b) > 1; b = b[2:] {
			sum += uint32(binary.BigEndian.Uint16(b))
		}
		if len(b) == 1 {
			sum += uint32(b[0]) << 8
		}
	}
	add(source.AsSlice())
	add(destination.AsSlice())
	add(message)
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return sum == 0xffff
}

// mustAddr returns an IPv6 address of 16 bytes.
func mustAddr(b []byte) netip.Addr { return netip.AddrFrom16([16]byte(b)) }
