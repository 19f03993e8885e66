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
	firstSource = 49152
	sources     = 65536 - firstSource

	// maxTTL is that of all packets sent, and of all that come over one hop (RFC
	// 5881 section 5).
	maxTTL = 255

	// classControl is the traffic class of network control, CS6.
	classControl = 0xc0

	// receiveBuffer holds what arrives while the process is not scheduled: in
	// the kernel's accounting a packet takes just under 1 KiB.
	receiveBuffer = 2 << 20
)

// kernel is the wire made of sockets. Only wake may be called from elsewhere
// than the engine's loop.
type kernel struct {
	event     int // an eventfd that wakes wait
	listeners []*listener
	polled    []unix.PollFd
	turn      int  // whose packets receive takes
	asked     bool // and whether it has asked for them
	batch     batch
}

// listener receives on one port for one family. It is there while somebody uses it.
type listener struct {
	fd       int
	v6       bool
	multihop bool
	users    int
}

// line sends to one peer.
type line struct {
	fd       int
	to       []byte // struct sockaddr_in, or sockaddr_in6
	kernel   *kernel
	listener *listener
}

func newKernel() (*kernel, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("open an eventfd: %w", err)
	}
	k := &kernel{event: fd}
	k.watch()
	return k, nil
}

func (k *kernel) close() {
	for _, l := range k.listeners {
		_ = unix.Close(l.fd)
	}
	_ = unix.Close(k.event)
}

// watch makes wait look at all sockets there are.
func (k *kernel) watch() {
	k.polled = append(k.polled[:0], unix.PollFd{Fd: int32(k.event), Events: unix.POLLIN})
	for _, l := range k.listeners {
		k.polled = append(k.polled, unix.PollFd{Fd: int32(l.fd), Events: unix.POLLIN})
	}
}

func (k *kernel) wait(deaf, d time.Duration) {
	if !k.poll(1, min(deaf, d)) && d > deaf {
		k.poll(len(k.polled), d-deaf)
	}
}

// poll waits for the first n of the sockets. It reports whether it was woken. A
// signal ends it early, which costs no more than a look in vain.
func (k *kernel) poll(n int, d time.Duration) bool {
	timeout := unix.NsecToTimespec(int64(max(d, 0)))
	k.polled[0].Revents = 0
	_, _ = unix.Ppoll(k.polled[:n], &timeout, nil)
	if k.polled[0].Revents == 0 {
		return false
	}
	var count [8]byte
	_, _ = unix.Read(k.event, count[:])
	return true
}

func (k *kernel) wake() {
	_, _ = unix.Write(k.event, []byte{7: 1}) // fails only if it is due to wake already
}

// receive asks every socket, also those that wait did not find readable: much
// may have come since.
func (k *kernel) receive() (arrival, bool) {
	for k.turn < len(k.listeners) {
		if k.batch.taken < k.batch.n {
			return k.batch.take(), true
		}
		if k.batch.n == batchSize || !k.asked { // there may be more
			k.batch.fill(k.listeners[k.turn])
			k.asked = true
			continue
		}
		k.turn, k.asked, k.batch.n, k.batch.taken = k.turn+1, false, 0, 0
	}
	k.turn = 0
	return arrival{}, false
}

// open begins to listen where the peer will send to, and makes a socket to send from.
func (k *kernel) open(key Key) (sender, int, error) {
	link := 0
	if name := key.link(); name != "" {
		ifi, err := net.InterfaceByName(name)
		if err != nil {
			return nil, 0, fmt.Errorf("find the link %s: %w", name, err)
		}
		link = ifi.Index
	}
	l, err := k.listen(key.Peer.Is6(), key.Multihop)
	if err != nil {
		return nil, 0, err
	}
	fd, err := dial(key, link)
	if err != nil {
		k.release(l)
		return nil, 0, fmt.Errorf("open a socket to %s: %w", key.Peer, err)
	}
	return &line{fd: fd, to: rawSockaddr(key.Peer, l.port(), link), kernel: k, listener: l}, link, nil
}

// send does not tell the Go scheduler of the system call, and batch.fill does
// not either: they do not block, and to give up and regain the right to run Go
// takes locks that threads without a raised priority hold.
func (l *line) send(b []byte) error {
	_, _, err := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(l.fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)),
		unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, uintptr(unsafe.Pointer(&l.to[0])), uintptr(len(l.to)))
	if err != 0 {
		return fmt.Errorf("send to the peer: %w", err)
	}
	return nil
}

func (l *line) close() {
	_ = unix.Close(l.fd)
	l.kernel.release(l.listener)
}

func (l *listener) port() int {
	if l.multihop {
		return portMultihop
	}
	return portSingleHop
}

// listen returns the listener, and opens it for its first user.
func (k *kernel) listen(v6, multihop bool) (*listener, error) {
	for _, l := range k.listeners {
		if l.v6 == v6 && l.multihop == multihop {
			l.users++
			return l, nil
		}
	}
	l := &listener{v6: v6, multihop: multihop, users: 1}
	fd, err := bind(l)
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return nil, fmt.Errorf("listen on UDP port %d: %w (does another BFD daemon run on this node?)", l.port(), err)
	case err != nil:
		return nil, fmt.Errorf("listen on UDP port %d: %w", l.port(), err)
	}
	l.fd = fd
	k.listeners = append(k.listeners, l)
	k.watch()
	return l, nil
}

func (k *kernel) release(l *listener) {
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
	k.watch()
}

// option is a socket option with an integer value.
type option struct{ level, name, value int }

// bind opens the socket of a listener.
func bind(l *listener) (int, error) {
	family, all := unix.AF_INET, netip.IPv4Unspecified()
	options := []option{{unix.IPPROTO_IP, unix.IP_RECVTTL, 1}, {unix.IPPROTO_IP, unix.IP_PKTINFO, 1}}
	if l.v6 {
		family, all = unix.AF_INET6, netip.IPv6Unspecified()
		options = []option{
			{unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1},
			{unix.IPPROTO_IPV6, unix.IPV6_RECVHOPLIMIT, 1},
			{unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1},
		}
	}
	fd, err := socket(family, options)
	if err != nil {
		return -1, err
	}
	// Beyond the system's limit only with CAP_NET_ADMIN.
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer)
	}
	if err := unix.Bind(fd, sockaddr(all, l.port(), 0)); err != nil {
		_ = unix.Close(fd)
		return -1, os.NewSyscallError("bind", err)
	}
	return fd, nil
}

// dial opens a socket that sends from the key's address and link.
func dial(key Key, link int) (int, error) {
	family, local := unix.AF_INET, netip.IPv4Unspecified()
	options := []option{{unix.IPPROTO_IP, unix.IP_TTL, maxTTL}, {unix.IPPROTO_IP, unix.IP_TOS, classControl}}
	if key.Peer.Is6() {
		family, local = unix.AF_INET6, netip.IPv6Unspecified()
		options = []option{
			{unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1},
			{unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, maxTTL},
			{unix.IPPROTO_IPV6, unix.IPV6_TCLASS, classControl},
		}
	}
	if key.Local.IsValid() {
		local = key.Local
	}
	fd, err := socket(family, options)
	if err != nil {
		return -1, err
	}
	if link != 0 {
		if err := unix.BindToDevice(fd, key.link()); err != nil {
			_ = unix.Close(fd)
			return -1, os.NewSyscallError("bind to the link", err)
		}
	}
	if err := bindSource(fd, local, key, link); err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// bindSource takes a source port that is always the same for a session and its
// own, as far as others leave it free (RFC 5881 section 4).
func bindSource(fd int, local netip.Addr, key Key, link int) error {
	h := fnv.New32a()
	_, _ = fmt.Fprint(h, key)
	first := h.Sum32()
	for i := range uint32(sources) {
		port := firstSource + int((first+i)%sources)
		err := unix.Bind(fd, sockaddr(local, port, link))
		if err == nil || !errors.Is(err, unix.EADDRINUSE) {
			return os.NewSyscallError("bind", err)
		}
	}
	return errors.New("all source ports are taken")
}

// socket opens a UDP socket with options.
func socket(family int, options []option) (int, error) {
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
func sockaddr(a netip.Addr, port, link int) unix.Sockaddr {
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
func rawSockaddr(a netip.Addr, port, link int) []byte {
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
