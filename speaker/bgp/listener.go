package bgp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"
)

// listenerSet accepts the connections of passive peers. It has a listener for
// each address and port at which at least one of them is expected.
type listenerSet struct {
	log *slog.Logger

	mu   sync.Mutex
	open map[netip.AddrPort]*sharedListener
}

// sharedListener listens for the peers that are expected at one address and port.
type sharedListener struct {
	*net.TCPListener
	expected map[netip.Addr]expectedPeer
}

// expectedPeer is a passive peer with the channel for its connections.
type expectedPeer struct {
	Peer
	inbound chan net.Conn
}

// listenAddr returns the address and port at which a passive peer is expected.
func listenAddr(p Peer) netip.AddrPort {
	addr := p.Source
	if !addr.IsValid() && p.Address.Is4() {
		addr = netip.IPv4Unspecified()
	} else if !addr.IsValid() {
		addr = netip.IPv6Unspecified()
	}
	return netip.AddrPortFrom(addr, p.Port)
}

// addPeer starts accepting connections of a peer: they are sent to inbound, or closed
// while that is full. It may be called again for the same inbound.
func (s *listenerSet) addPeer(ctx context.Context, e expectedPeer) error {
	at := listenAddr(e.Peer)
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.open[at]
	if l == nil {
		listener, err := listenTCP(ctx, at)
		if errors.Is(err, syscall.EADDRINUSE) {
			return fmt.Errorf("listen for the peer: %s is in use (is another BGP speaker running on this node?)", at)
		}
		if err != nil {
			return fmt.Errorf("listen for the peer: %w", err)
		}
		l = &sharedListener{listener, make(map[netip.Addr]expectedPeer)}
		s.open[at] = l
		go s.acceptConns(l) // until the listener is closed
	}
	if other, ok := l.expected[e.Address]; ok && other.inbound != e.inbound {
		return fmt.Errorf("listen for the peer: BGPPeer %s has the same peer address and port", other.Name)
	}
	if e.Password != l.expected[e.Address].Password {
		if err := l.setPassword(e.Address, e.Password); err != nil {
			s.closeUnused(at, l)
			return fmt.Errorf("listen for the peer: %w", err)
		}
	}
	l.expected[e.Address] = e
	return nil
}

// removePeer stops accepting connections of a peer.
func (s *listenerSet) removePeer(e expectedPeer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := listenAddr(e.Peer)
	l := s.open[at]
	if l == nil || l.expected[e.Address].inbound != e.inbound {
		return
	}
	if l.expected[e.Address].Password != "" {
		if err := l.setPassword(e.Address, ""); err != nil {
			s.log.Warn("password of a removed peer not deleted from the listener", "peer", e.Name, "error", err)
		}
	}
	delete(l.expected, e.Address)
	s.closeUnused(at, l)
}

// closeUnused closes a listener at which no peer is expected.
func (s *listenerSet) closeUnused(at netip.AddrPort, l *sharedListener) {
	if len(l.expected) == 0 {
		_ = l.Close() // it stops accepting in any case
		delete(s.open, at)
	}
}

// setPassword sets the TCP MD5 password of a remote address.
func (l *sharedListener) setPassword(remote netip.Addr, password Secret) error {
	c, err := l.SyscallConn()
	if err != nil {
		return fmt.Errorf("access the listening socket: %w", err)
	}
	return setMD5(c, remote, password)
}

func (s *listenerSet) acceptConns(l *sharedListener) {
	for {
		conn, err := l.AcceptTCP()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // a lack of file descriptors, or a connection that has ended already
			time.Sleep(minBackoff)
			continue
		}
		s.dispatchConn(l, conn)
	}
}

// dispatchConn passes a connection to its peer. It closes connections that are not
// from an expected peer, or that arrive while another one is pending.
func (s *listenerSet) dispatchConn(l *sharedListener, conn *net.TCPConn) {
	remote := conn.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
	s.mu.Lock()
	e, ok := l.expected[remote]
	s.mu.Unlock()
	raw, err := conn.SyscallConn()
	if !ok || err != nil || setTTL(raw, e.Peer) != nil {
		_ = conn.Close() // rejected
		return
	}
	select {
	case e.inbound <- conn:
	default:
		_ = conn.Close() // rejected
	}
}
