package l2

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/fairlead-io/fairlead/speaker/internal/netlinkdump"
)

const (
	// askTimeout is the time for an answer to one question: on a LAN, a host answers
	// within a millisecond. askAttempts is the number of questions for an address.
	askTimeout  = 10 * time.Millisecond
	askAttempts = 2

	// askIdleTimeout is the time after which a socket that is not used is closed. Each
	// IPv6 packet that the interface receives costs a run of its filter.
	askIdleTimeout = time.Minute
)

// Asker asks single hosts by unicast whether they answer for addresses: by ARP requests
// (RFC 826; RFC 1122 section 2.3.2.1) and Neighbor Solicitations (RFC 4861 section 7.3.1).
// It has one socket for each interface and family in use, which needs CAP_NET_RAW. All
// methods may be called concurrently.
type Asker struct {
	timeout, idleTimeout time.Duration

	mu      sync.Mutex
	closed  bool
	sockets map[socketKey]*askSocket
	running sync.WaitGroup // receives on the sockets
}

// NewAsker returns an Asker without sockets.
func NewAsker() *Asker {
	return &Asker{timeout: askTimeout, idleTimeout: askIdleTimeout, sockets: make(map[socketKey]*askSocket)}
}

// Ask asks the host with the MAC on the interface for each of the addresses, and again
// for those that it does not answer for within 10 ms. It returns the addresses, sorted,
// for which that MAC has answered within 10 ms of the last question: an ARP reply with the
// address and the MAC as sender (RFC 826), or a valid Neighbor Advertisement for the
// address with that link-layer address (RFC 4861 section 7.1.2). It returns as soon as
// all are answered for. The questions of an interface and family are sent at a rate of
// 10,000 a second; those for at most 6 addresses are not delayed by others.
//
// The sender is an IPv4 address of the interface, in the subnet of the question's if there
// is one, or its IPv6 link-local address, otherwise the unspecified address, as in a probe
// (RFC 5227 section 2.1.1, RFC 4862 section 5.4.2). It is never one of the addresses that
// are asked for, because that would claim it.
//
// With an error, which names the interface, the addresses that are not returned may be
// answered for: the interface is missing, down or was replaced, a question could not be
// sent, or ctx or the Asker ended.
func (a *Asker) Ask(ctx context.Context, iface string, mac net.HardwareAddr, addrs []netip.Addr) (answered []netip.Addr, err error) {
	if len(mac) != 6 || isMulticast(mac) {
		return nil, fmt.Errorf("ask on %s: invalid unicast MAC %q", iface, mac)
	}
	byFamily := make(map[family][]netip.Addr)
	for _, addr := range addrs {
		if !addr.IsValid() || addr.Is4In6() || addr.Zone() != "" || addr.IsUnspecified() || addr.IsMulticast() {
			return nil, fmt.Errorf("ask %s on %s: invalid unicast address %q", mac, iface, addr)
		}
		byFamily[familyOf(addr)] = append(byFamily[familyOf(addr)], addr)
	}
	var calls sync.WaitGroup
	var mu sync.Mutex
	for f, addrs := range byFamily {
		calls.Go(func() {
			got, failure := a.askFamily(ctx, socketKey{iface, f}, mac, addrs)
			mu.Lock()
			defer mu.Unlock()
			answered = append(answered, got...)
			if failure != nil {
				err = errors.Join(err, fmt.Errorf("ask %s on %s by %s: %w", mac, iface, f, failure))
			}
		})
	}
	calls.Wait()
	slices.SortFunc(answered, netip.Addr.Compare)
	return answered, err
}

// askFamily asks for addresses of one family.
func (a *Asker) askFamily(ctx context.Context, key socketKey, mac net.HardwareAddr, addrs []netip.Addr) ([]netip.Addr, error) {
	ifi, err := runningInterface(key.iface)
	if err != nil {
		return nil, err
	}
	own, err := senderAddrs(ifi, key.family, addrs)
	if err != nil {
		return nil, err
	}
	s, err := a.acquireSocket(ifi, key)
	if err != nil {
		return nil, err
	}
	defer a.releaseSocket(key, s)
	q := newInquiry(mac, addrs)
	err = s.ask(ctx, q, own, a.timeout)
	s.mu.Lock()
	answered, isComplete := q.answered, len(q.tasks) == 0
	s.mu.Unlock()
	if err == nil && !isComplete {
		// Without a carrier the kernel drops frames without an error.
		if now, failure := runningInterface(key.iface); failure != nil {
			err = failure
		} else if !s.isBoundTo(now) {
			err = errInterfaceReplaced
		}
	}
	return answered, err
}

var errInterfaceReplaced = errors.New("the interface was replaced or got another MAC")

// runningInterface returns an Ethernet interface that is up and has a carrier.
func runningInterface(name string) (*net.Interface, error) {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return nil, fmt.Errorf("find the interface: %w", err)
	}
	l := link.Attrs()
	if l.Flags&net.FlagUp == 0 || l.RawFlags&unix.IFF_LOWER_UP == 0 || len(l.HardwareAddr) != 6 {
		return nil, errors.New("the interface is down, or not an Ethernet interface")
	}
	return &net.Interface{Index: l.Index, Name: name, HardwareAddr: l.HardwareAddr}, nil
}

// senderAddrs returns the addresses of the interface that a question can be sent from,
// with their prefixes: IPv4 addresses, or usable IPv6 link-local ones. The addresses of
// other interfaces are not: the host that is asked would record them with this MAC.
func senderAddrs(ifi *net.Interface, f family, asked []netip.Addr) (own []netip.Prefix, err error) {
	version := netlink.FAMILY_V4
	if f == (ndpFamily{}) {
		version = netlink.FAMILY_V6
	}
	link := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: ifi.Index}}
	all, err := netlinkdump.Repeat(func() ([]netlink.Addr, error) { return netlink.AddrList(link, version) })
	if err != nil {
		return nil, fmt.Errorf("list the addresses of the interface: %w", err)
	}
	for _, a := range all {
		addr, _ := netip.AddrFromSlice(a.IP)
		addr = addr.Unmap()
		ones, _ := a.Mask.Size()
		usable := addr.Is4() && isHostOrUnspecified(addr) ||
			addr.Is6() && addr.IsLinkLocalUnicast() && a.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) == 0
		if usable && !slices.Contains(asked, addr) {
			own = append(own, netip.PrefixFrom(addr, ones))
		}
	}
	return own, nil
}

// selectSender returns the sender of a question for the address.
func selectSender(own []netip.Prefix, addr netip.Addr) netip.Addr {
	for _, p := range own {
		if p.Contains(addr) {
			return p.Addr()
		}
	}
	switch {
	case len(own) > 0:
		return own[0].Addr()
	case addr.Is4():
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

// acquireSocket returns the socket of the interface, and opens it for its first user.
func (a *Asker) acquireSocket(ifi *net.Interface, key socketKey) (*askSocket, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return nil, net.ErrClosed
	}
	s := a.sockets[key]
	if s != nil && !s.isBoundTo(ifi) {
		s.close(errInterfaceReplaced)
		delete(a.sockets, key)
		s = nil
	}
	if s == nil {
		var err error
		if s, err = openAskSocket(ifi, key.family); err != nil {
			return nil, err
		}
		a.sockets[key] = s
		a.running.Go(s.receive)
	}
	s.users++
	return s, nil
}

// releaseSocket closes the socket later if it is not used any more.
func (a *Asker) releaseSocket(key socketKey, s *askSocket) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if s.users--; s.users > 0 || a.sockets[key] != s {
		return
	}
	s.releasedAt = time.Now()
	if s.idle != nil {
		s.idle.Stop()
	}
	s.idle = time.AfterFunc(a.idleTimeout, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.sockets[key] == s && s.users == 0 && time.Since(s.releasedAt) >= a.idleTimeout {
			s.close(net.ErrClosed)
			delete(a.sockets, key)
		}
	})
}

// Close closes all sockets, and makes calls of Ask fail. When it returns, all goroutines
// of the Asker have ended.
func (a *Asker) Close() {
	a.mu.Lock()
	a.closed = true
	for key, s := range a.sockets {
		s.close(net.ErrClosed)
		delete(a.sockets, key)
	}
	a.mu.Unlock()
	a.running.Wait()
}

// inquiry is what one call of Ask asks on one socket. It is guarded by the socket's lock.
type inquiry struct {
	mac      net.HardwareAddr
	tasks    map[netip.Addr]*task // of the addresses that are not answered for
	queue    queue
	answered []netip.Addr
	err      error         // why it ended without all answers
	done     chan struct{} // closed when it has ended, other than by a timeout
	hasEnded bool
}

func newInquiry(mac net.HardwareAddr, addrs []netip.Addr) *inquiry {
	q := &inquiry{mac: mac, tasks: make(map[netip.Addr]*task, len(addrs)), done: make(chan struct{})}
	for _, addr := range addrs {
		if q.tasks[addr] == nil {
			q.tasks[addr] = &task{addr: addr}
			q.queue.push(q.tasks[addr], time.Time{}, 0)
		}
	}
	return q
}

// receiveAnswer records that the MAC has answered for the address.
func (q *inquiry) receiveAnswer(mac net.HardwareAddr, addr netip.Addr) {
	t := q.tasks[addr]
	if t == nil || t.step == 0 || !bytes.Equal(mac, q.mac) {
		return
	}
	t.removed = true
	delete(q.tasks, addr)
	if q.answered = append(q.answered, addr); len(q.tasks) == 0 {
		q.end(nil)
	}
}

func (q *inquiry) end(err error) {
	if !q.hasEnded {
		q.hasEnded, q.err = true, err
		close(q.done)
	}
}
