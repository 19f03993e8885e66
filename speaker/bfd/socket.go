package bfd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"math"
	"net"
	"net/netip"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// UDP ports: RFC 5881 section 4, RFC 5883 section 5.
	portSingleHop = 3784
	portMultihop  = 4784

	// Source ports: RFC 5881 section 4.
	firstSourcePort = 49152
	sourcePorts     = 65536 - firstSourcePort

	// maxTTL is the TTL of all packets sent, and of all packets received over one
	// hop (RFC 5881 section 5).
	maxTTL = 255

	// networkControl is the traffic class CS6.
	networkControl = 0xc0

	// receiveBuffer holds what arrives while the process is not scheduled: in
	// the kernel's accounting a packet takes just under 1 KiB.
	receiveBuffer = 2 << 20
)

// socketTransport is the transport over UDP sockets. Only wake may be called
// concurrently with the Engine's loop.
type socketTransport struct {
	wakeFD    int // an eventfd that makes wait return
	listeners []*sharedListener
	pollSet   []unix.PollFd
	current   int  // the listener that nextPacket reads
	hasRead   bool // whether nextPacket has read it in this round
	batch     packetBatch
}

// sharedListener receives on one port for one family. It is closed with its last
// user.
type sharedListener struct {
	fd       int
	v6       bool
	multihop bool
	users    int
}

// peerSocket sends to one peer.
type peerSocket struct {
	fd          int
	destination []byte // struct sockaddr_in, or sockaddr_in6
	transport   *socketTransport
	listener    *sharedListener
}

func newSocketTransport() (*socketTransport, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("open an eventfd: %w", err)
	}
	t := &socketTransport{wakeFD: fd}
	t.updatePollSet()
	return t, nil
}

func (t *socketTransport) close() {
	for _, l := range t.listeners {
		_ = unix.Close(l.fd)
	}
	_ = unix.Close(t.wakeFD)
}

// updatePollSet makes wait poll all current sockets.
func (t *socketTransport) updatePollSet() {
	t.pollSet = append(t.pollSet[:0], unix.PollFd{Fd: int32(t.wakeFD), Events: unix.POLLIN})
	for _, l := range t.listeners {
		t.pollSet = append(t.pollSet, unix.PollFd{Fd: int32(l.fd), Events: unix.POLLIN})
	}
}

func (t *socketTransport) wait(minimum, timeout time.Duration) {
	if !t.pollSockets(1, min(minimum, timeout)) && timeout > minimum {
		t.pollSockets(len(t.pollSet), timeout-minimum)
	}
}

// pollSockets waits for the first n of the sockets. It reports whether wake was
// called. A signal may make it return early, which costs one needless round.
func (t *socketTransport) pollSockets(n int, d time.Duration) bool {
	timeout := unix.NsecToTimespec(int64(max(d, 0)))
	t.pollSet[0].Revents = 0
	_, _ = unix.Ppoll(t.pollSet[:n], &timeout, nil)
	if t.pollSet[0].Revents == 0 {
		return false
	}
	var count [8]byte
	_, _ = unix.Read(t.wakeFD, count[:])
	return true
}

func (t *socketTransport) wake() {
	_, _ = unix.Write(t.wakeFD, []byte{7: 1}) // fails only if wait is about to return already
}

// nextPacket reads every socket, including those that wait did not find readable:
// packets may have arrived since.
func (t *socketTransport) nextPacket() (receivedPacket, bool) {
	for t.current < len(t.listeners) {
		if t.batch.returned < t.batch.received {
			return t.batch.next(), true
		}
		if t.batch.received == batchSize || !t.hasRead { // the socket may have more packets
			t.batch.readFrom(t.listeners[t.current])
			t.hasRead = true
			continue
		}
		t.current, t.hasRead, t.batch.received, t.batch.returned = t.current+1, false, 0, 0
	}
	t.current = 0
	return receivedPacket{}, false
}

// openSender opens a listener on the port that the peer sends to, and a socket to
// send from.
func (t *socketTransport) openSender(key Key, source netip.Addr) (packetSender, int, error) {
	ifIndex := 0
	if name := key.boundInterface(); name != "" {
		ifi, err := net.InterfaceByName(name)
		if err != nil {
			return nil, 0, fmt.Errorf("find interface %s: %w", name, err)
		}
		ifIndex = ifi.Index
	}
	l, err := t.acquireListener(key.Peer.Is6(), key.Multihop)
	if err != nil {
		return nil, 0, err
	}
	fd, err := openSource(key, source, ifIndex)
	if err != nil {
		t.releaseListener(l)
		return nil, 0, fmt.Errorf("open a socket to %s: %w", key.Peer, err)
	}
	return &peerSocket{fd: fd, destination: rawSocketAddress(key.Peer, l.port(), ifIndex), transport: t, listener: l}, ifIndex, nil
}

// send bypasses the Go scheduler with a raw system call, as packetBatch.readFrom
// does. The calls do not block, and the scheduler would take locks that threads
// without a raised priority may hold.
func (l *peerSocket) send(b []byte) error {
	_, _, err := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(l.fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)),
		unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, uintptr(unsafe.Pointer(&l.destination[0])), uintptr(len(l.destination)))
	if err != 0 {
		return fmt.Errorf("send BFD packet: %w", err)
	}
	return nil
}

func (l *peerSocket) close() {
	_ = unix.Close(l.fd)
	l.transport.releaseListener(l.listener)
}

func (l *sharedListener) port() int {
	if l.multihop {
		return portMultihop
	}
	return portSingleHop
}

// acquireListener returns the listener for a family and port, and opens it for its
// first user.
func (t *socketTransport) acquireListener(v6, multihop bool) (*sharedListener, error) {
	for _, l := range t.listeners {
		if l.v6 == v6 && l.multihop == multihop {
			l.users++
			return l, nil
		}
	}
	l := &sharedListener{v6: v6, multihop: multihop, users: 1}
	fd, err := openListener(l)
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return nil, fmt.Errorf("UDP port %d is in use by another process", l.port())
	case err != nil:
		return nil, fmt.Errorf("listen on UDP port %d: %w", l.port(), err)
	}
	l.fd = fd
	t.listeners = append(t.listeners, l)
	t.updatePollSet()
	return l, nil
}

func (t *socketTransport) releaseListener(l *sharedListener) {
	if l.users--; l.users > 0 {
		return
	}
	for i, o := range t.listeners {
		if o == l {
			t.listeners = append(t.listeners[:i], t.listeners[i+1:]...)
			break
		}
	}
	_ = unix.Close(l.fd)
	t.updatePollSet()
}

// socketOption is a socket option with an integer value.
type socketOption struct{ level, name, value int }

// openListener opens the socket of a listener.
func openListener(l *sharedListener) (int, error) {
	family, all := unix.AF_INET, netip.IPv4Unspecified()
	options := []socketOption{{unix.IPPROTO_IP, unix.IP_RECVTTL, 1}, {unix.IPPROTO_IP, unix.IP_PKTINFO, 1}}
	if l.v6 {
		family, all = unix.AF_INET6, netip.IPv6Unspecified()
		options = []socketOption{
			{unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1},
			{unix.IPPROTO_IPV6, unix.IPV6_RECVHOPLIMIT, 1},
			{unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1},
		}
	}
	fd, err := openSocket(family, options)
	if err != nil {
		return -1, err
	}
	// Exceeding the system's limit requires CAP_NET_ADMIN.
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer)
	}
	if err := unix.Bind(fd, socketAddress(all, l.port(), 0)); err != nil {
		_ = unix.Close(fd)
		return -1, os.NewSyscallError("bind", err)
	}
	return fd, nil
}

// openSource opens a socket that sends from the key's address, or the source if it has none, and
// from its interface.
func openSource(key Key, source netip.Addr, ifIndex int) (int, error) {
	family, local := unix.AF_INET, netip.IPv4Unspecified()
	options := []socketOption{{unix.IPPROTO_IP, unix.IP_TTL, maxTTL}, {unix.IPPROTO_IP, unix.IP_TOS, networkControl}}
	if key.Peer.Is6() {
		family, local = unix.AF_INET6, netip.IPv6Unspecified()
		options = []socketOption{
			{unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1},
			{unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, maxTTL},
			{unix.IPPROTO_IPV6, unix.IPV6_TCLASS, networkControl},
		}
	}
	switch {
	case key.Local.IsValid():
		local = key.Local
	case source.IsValid():
		local = source.WithZone("")
	}
	fd, err := openSocket(family, options)
	if err != nil {
		return -1, err
	}
	if ifIndex != 0 {
		if err := unix.BindToDevice(fd, key.boundInterface()); err != nil {
			_ = unix.Close(fd)
			return -1, os.NewSyscallError("bind to the interface", err)
		}
	}
	if err := bindSourcePort(fd, local, key, ifIndex); err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// bindSourcePort binds a source port that is unique to the session and the same
// after a restart, unless another process uses it (RFC 5881 section 4).
func bindSourcePort(fd int, local netip.Addr, key Key, ifIndex int) error {
	h := fnv.New32a()
	_, _ = fmt.Fprint(h, key)
	first := h.Sum32()
	for i := range uint32(sourcePorts) {
		port := firstSourcePort + int((first+i)%sourcePorts)
		err := unix.Bind(fd, socketAddress(local, port, ifIndex))
		if err == nil || !errors.Is(err, unix.EADDRINUSE) {
			return os.NewSyscallError("bind", err)
		}
	}
	return errors.New("all source ports are in use")
}

// openSocket opens a UDP socket with options.
func openSocket(family int, options []socketOption) (int, error) {
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	for _, o := range options {
		if err := unix.SetsockoptInt(fd, o.level, o.name, o.value); err != nil {
			_ = unix.Close(fd)
			return -1, os.NewSyscallError("setsockopt", err)
		}
	}
	return fd, nil
}

// socketAddress returns an address for bind(2). Link-local addresses need the
// interface.
func socketAddress(a netip.Addr, port, ifIndex int) unix.Sockaddr {
	if a.Is4() {
		return &unix.SockaddrInet4{Port: port, Addr: a.As4()}
	}
	s := &unix.SockaddrInet6{Port: port, Addr: a.As16()}
	if a.IsLinkLocalUnicast() && ifIndex >= 0 && ifIndex <= math.MaxUint32 {
		s.ZoneId = uint32(ifIndex)
	}
	return s
}

// rawSocketAddress returns the same address as struct sockaddr_in or sockaddr_in6.
func rawSocketAddress(a netip.Addr, port, ifIndex int) []byte {
	if a.Is4() {
		b := binary.NativeEndian.AppendUint16(nil, unix.AF_INET)
		b = binary.BigEndian.AppendUint16(b, uint16(port))
		return append(append(b, a.AsSlice()...), make([]byte, 8)...)
	}
	b := binary.NativeEndian.AppendUint16(nil, unix.AF_INET6)
	b = binary.BigEndian.AppendUint16(b, uint16(port))
	b = append(append(b, 0, 0, 0, 0), a.AsSlice()...)
	if !a.IsLinkLocalUnicast() {
		ifIndex = 0
	}
	return binary.NativeEndian.AppendUint32(b, uint32(ifIndex))
}
