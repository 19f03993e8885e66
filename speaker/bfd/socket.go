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

	// maxTTL is that of all packets sent, and of all that come over one hop (RFC
	// 5881 section 5).
	maxTTL = 255

	// classControl is the traffic class of network control, CS6.
	networkControl = 0xc0

	// receiveBuffer holds what arrives while the process is not scheduled: in
	// the kernel's accounting a packet takes just under 1 KiB.
	receiveBuffer = 2 << 20
)

// kernel is the wire made of sockets. Only wake may be called from elsewhere
// than the engine's loop.
type socketTransport struct {
	wakeFD    int // an eventfd that wakes wait
	listeners []*sharedListener
	pollSet   []unix.PollFd
	current   int  // whose packets receive takes
	hasRead   bool // and whether it has asked for them
	batch     packetBatch
}

// listener receives on one port for one family. It is there while somebody uses it.
type sharedListener struct {
	fd       int
	v6       bool
	multihop bool
	users    int
}

// line sends to one peer.
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
	k := &socketTransport{wakeFD: fd}
	k.updatePollSet()
	return k, nil
}

func (k *socketTransport) close() {
	for _, l := range k.listeners {
		_ = unix.Close(l.fd)
	}
	_ = unix.Close(k.wakeFD)
}

// watch makes wait look at all sockets there are.
func (k *socketTransport) updatePollSet() {
	k.pollSet = append(k.pollSet[:0], unix.PollFd{Fd: int32(k.wakeFD), Events: unix.POLLIN})
	for _, l := range k.listeners {
		k.pollSet = append(k.pollSet, unix.PollFd{Fd: int32(l.fd), Events: unix.POLLIN})
	}
}

func (k *socketTransport) wait(deaf, d time.Duration) {
	if !k.pollSockets(1, min(deaf, d)) && d > deaf {
		k.pollSockets(len(k.pollSet), d-deaf)
	}
}

// poll waits for the first n of the sockets. It reports whether it was woken. A
// signal ends it early, which costs no more than a look in vain.
func (k *socketTransport) pollSockets(n int, d time.Duration) bool {
	timeout := unix.NsecToTimespec(int64(max(d, 0)))
	k.pollSet[0].Revents = 0
	_, _ = unix.Ppoll(k.pollSet[:n], &timeout, nil)
	if k.pollSet[0].Revents == 0 {
		return false
	}
	var count [8]byte
	_, _ = unix.Read(k.wakeFD, count[:])
	return true
}

func (k *socketTransport) wake() {
	_, _ = unix.Write(k.wakeFD, []byte{7: 1}) // fails only if it is due to wake already
}

// receive asks every socket, also those that wait did not find readable: much
// may have come since.
func (k *socketTransport) nextPacket() (receivedPacket, bool) {
	for k.current < len(k.listeners) {
		if k.batch.returned < k.batch.received {
			return k.batch.next(), true
		}
		if k.batch.received == batchSize || !k.hasRead { // there may be more
			k.batch.readFrom(k.listeners[k.current])
			k.hasRead = true
			continue
		}
		k.current, k.hasRead, k.batch.received, k.batch.returned = k.current+1, false, 0, 0
	}
	k.current = 0
	return receivedPacket{}, false
}

// open begins to listen where the peer will send to, and makes a socket to send from.
func (k *socketTransport) openSender(key Key) (packetSender, int, error) {
	link := 0
	if name := key.boundInterface(); name != "" {
		ifi, err := net.InterfaceByName(name)
		if err != nil {
			return nil, 0, fmt.Errorf("find the link %s: %w", name, err)
		}
		link = ifi.Index
	}
	l, err := k.acquireListener(key.Peer.Is6(), key.Multihop)
	if err != nil {
		return nil, 0, err
	}
	fd, err := openSource(key, link)
	if err != nil {
		k.releaseListener(l)
		return nil, 0, fmt.Errorf("open a socket to %s: %w", key.Peer, err)
	}
	return &peerSocket{fd: fd, destination: rawSocketAddress(key.Peer, l.port(), link), transport: k, listener: l}, link, nil
}

// send does not tell the Go scheduler of the system call, and batch.fill does
// not either: they do not block, and to give up and regain the right to run Go
// takes locks that threads without a raised priority hold.
func (l *peerSocket) send(b []byte) error {
	_, _, err := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(l.fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)),
		unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, uintptr(unsafe.Pointer(&l.destination[0])), uintptr(len(l.destination)))
	if err != 0 {
		return fmt.Errorf("send to the peer: %w", err)
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

// listen returns the listener, and opens it for its first user.
func (k *socketTransport) acquireListener(v6, multihop bool) (*sharedListener, error) {
	for _, l := range k.listeners {
		if l.v6 == v6 && l.multihop == multihop {
			l.users++
			return l, nil
		}
	}
	l := &sharedListener{v6: v6, multihop: multihop, users: 1}
	fd, err := openListener(l)
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return nil, fmt.Errorf("listen on UDP port %d: %w (does another BFD daemon run on this node?)", l.port(), err)
	case err != nil:
		return nil, fmt.Errorf("listen on UDP port %d: %w", l.port(), err)
	}
	l.fd = fd
	k.listeners = append(k.listeners, l)
	k.updatePollSet()
	return l, nil
}

func (k *socketTransport) releaseListener(l *sharedListener) {
	if l.users--; l.users > 0 {
		return
	}
	for i, o := range k.listeners {
		if o == l {
			k.listeners = append(k.listeners[:i], k.listeners[i+1:]...)
			break
		}
	}
	_ = unix.Close(l.fd)
	k.updatePollSet()
}

// option is a socket option with an integer value.
type socketOption struct{ level, name, value int }

// bind opens the socket of a listener.
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
	// Beyond the system's limit only with CAP_NET_ADMIN.
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer)
	}
	if err := unix.Bind(fd, socketAddress(all, l.port(), 0)); err != nil {
		_ = unix.Close(fd)
		return -1, os.NewSyscallError("bind", err)
	}
	return fd, nil
}

// dial opens a socket that sends from the key's address and link.
func openSource(key Key, link int) (int, error) {
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
	if key.Local.IsValid() {
		local = key.Local
	}
	fd, err := openSocket(family, options)
	if err != nil {
		return -1, err
	}
	if link != 0 {
		if err := unix.BindToDevice(fd, key.boundInterface()); err != nil {
			_ = unix.Close(fd)
			return -1, os.NewSyscallError("bind to the link", err)
		}
	}
	if err := bindSourcePort(fd, local, key, link); err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// bindSource takes a source port that is always the same for a session and its
// own, as far as others leave it free (RFC 5881 section 4).
func bindSourcePort(fd int, local netip.Addr, key Key, link int) error {
	h := fnv.New32a()
	_, _ = fmt.Fprint(h, key)
	first := h.Sum32()
	for i := range uint32(sourcePorts) {
		port := firstSourcePort + int((first+i)%sourcePorts)
		err := unix.Bind(fd, socketAddress(local, port, link))
		if err == nil || !errors.Is(err, unix.EADDRINUSE) {
			return os.NewSyscallError("bind", err)
		}
	}
	return errors.New("all source ports are taken")
}

// socket opens a UDP socket with options.
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

// sockaddr is an address for the kernel. The link matters to link-local ones.
func socketAddress(a netip.Addr, port, link int) unix.Sockaddr {
	if a.Is4() {
		return &unix.SockaddrInet4{Port: port, Addr: a.As4()}
	}
	s := &unix.SockaddrInet6{Port: port, Addr: a.As16()}
	if a.IsLinkLocalUnicast() && link >= 0 && link <= math.MaxUint32 {
		s.ZoneId = uint32(link)
	}
	return s
}

// rawSockaddr is the same as the kernel has it.
func rawSocketAddress(a netip.Addr, port, link int) []byte {
	if a.Is4() {
		b := binary.NativeEndian.AppendUint16(nil, unix.AF_INET)
		b = binary.BigEndian.AppendUint16(b, uint16(port))
		return append(append(b, a.AsSlice()...), make([]byte, 8)...)
	}
	b := binary.NativeEndian.AppendUint16(nil, unix.AF_INET6)
	b = binary.BigEndian.AppendUint16(b, uint16(port))
	b = append(append(b, 0, 0, 0, 0), a.AsSlice()...)
	if !a.IsLinkLocalUnicast() {
		link = 0
	}
	return binary.NativeEndian.AppendUint32(b, uint32(link))
}
