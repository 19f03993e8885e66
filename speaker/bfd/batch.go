package bfd

import (
	"encoding/binary"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// batchSize is the number of packets that one system call reads at most.
const batchSize = 32

// packetBatch reads many packets in one system call and without allocating.
type packetBatch struct {
	multihop           bool // of the socket that it was filled from
	received, returned int
	headers            [batchSize]messageHeader
	vectors            [batchSize]unix.Iovec
	names              [batchSize][unix.SizeofSockaddrInet6]byte
	controls           [batchSize][128]byte
	payloads           [batchSize][128]byte
}

// messageHeader is struct mmsghdr of recvmmsg(2).
type messageHeader struct {
	unix.Msghdr
	length uint32
}

// readFrom reads packets that have arrived at a listener, at most batchSize.
func (b *packetBatch) readFrom(l *sharedListener) {
	b.multihop, b.received, b.returned = l.multihop, 0, 0
	for i := range b.headers {
		b.vectors[i].Base = &b.payloads[i][0]
		b.vectors[i].SetLen(len(b.payloads[i]))
		h := &b.headers[i]
		h.Name, h.Namelen = &b.names[i][0], uint32(len(b.names[i]))
		h.Iov, h.Control = &b.vectors[i], &b.controls[i][0]
		h.SetIovlen(1)
		h.SetControllen(len(b.controls[i]))
	}
	n, _, err := unix.RawSyscall6(unix.SYS_RECVMMSG, uintptr(l.fd), uintptr(unsafe.Pointer(&b.headers)), batchSize, unix.MSG_DONTWAIT, 0, 0)
	if err == 0 {
		b.received = int(n)
	}
}

// next returns the next packet of the batch. There must be one.
func (b *packetBatch) next() receivedPacket {
	i := b.returned
	b.returned++
	h, name := &b.headers[i], &b.names[i]
	a := receivedPacket{payload: b.payloads[i][:h.length]}
	a.multihop = b.multihop
	switch binary.NativeEndian.Uint16(name[:]) { // struct sockaddr_in, struct sockaddr_in6
	case unix.AF_INET:
		a.addr = netip.AddrFrom4([4]byte(name[4:8]))
	case unix.AF_INET6:
		a.addr = netip.AddrFrom16([16]byte(name[8:24]))
	}
	a.parseControl(b.controls[i][:h.Controllen])
	return a
}

// parseControl reads the control messages of a packet: struct in_pktinfo,
// struct in6_pktinfo, and the TTL as an int.
func (a *receivedPacket) parseControl(control []byte) {
	number := binary.NativeEndian.Uint32
	for len(control) > 0 {
		h, data, rest, err := unix.ParseOneSocketControlMessage(control)
		if err != nil {
			return
		}
		control = rest
		switch {
		case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_TTL && len(data) >= 4,
			h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_HOPLIMIT && len(data) >= 4:
			a.ttl = uint8(number(data))
		case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
			a.ifIndex, a.destination = int(number(data)), netip.AddrFrom4([4]byte(data[8:12]))
		case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
			a.destination, a.ifIndex = netip.AddrFrom16([16]byte(data[:16])), int(number(data[16:]))
		}
	}
}
