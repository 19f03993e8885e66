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

// doors are where passive peers come in: one listener for each address and port
// that at least one of them is expected at, and none otherwise.
type doors struct {
	log *slog.Logger

	mu   sync.Mutex
	open map[netip.AddrPort]*door
}

type door struct {
	listener *net.TCPListener
	guests   map[netip.Addr]guest
}

// guest is a peer that is let in.
type guest struct {
	Peer
	visits chan net.Conn
}

// place is the door at which a peer is expected.
func place(p Peer) netip.AddrPort {
	at := p.Source
	if !at.IsValid() && p.Address.Is4() {
		at = netip.IPv4Unspecified()
	} else if !at.IsValid() {
		at = netip.IPv6Unspecified()
	}
	return netip.AddrPortFrom(at, p.Port)
}

// expect lets a peer in from now on: its connections are sent to visits, or
// closed while that is full. It may be called again for the same visits.
func (d *doors) expect(ctx context.Context, g guest) error {
	at := place(g.Peer)
	d.mu.Lock()
	defer d.mu.Unlock()
	o := d.open[at]
	if o == nil {
		l, err := listenTCP(ctx, at)
		if errors.Is(err, syscall.EADDRINUSE) {
			return fmt.Errorf("cannot wait for the peer: another program (another BGP speaker?) has port %s", at)
		}
		if err != nil {
			return fmt.Errorf("cannot wait for the peer: %w", err)
		}
		o = &door{l, make(map[netip.Addr]guest)}
		d.open[at] = o
		go d.accept(o) // until the listener is closed
	}
	if other, ok := o.guests[g.Address]; ok && other.visits != g.visits {
		return fmt.Errorf("cannot wait for the peer: BGPPeer %s waits for the same address at the same port", other.Name)
	}
	if g.Password != o.guests[g.Address].Password {
		if err := o.lock(g.Address, g.Password); err != nil {
			d.drop(at, o)
			return fmt.Errorf("cannot wait for the peer: %w", err)
		}
	}
	o.guests[g.Address] = g
	return nil
}

// forget lets a peer in no longer.
func (d *doors) forget(g guest) {
	d.mu.Lock()
	defer d.mu.Unlock()
	at := place(g.Peer)
	o := d.open[at]
	if o == nil || o.guests[g.Address].visits != g.visits {
		return
	}
	if o.guests[g.Address].Password != "" {
		if err := o.lock(g.Address, ""); err != nil {
			d.log.Warn("password of a removed peer stayed on the listener", "peer", g.Name, "error", err)
		}
	}
	delete(o.guests, g.Address)
	d.drop(at, o)
}

// drop closes a door that nobody is expected at.
func (d *doors) drop(at netip.AddrPort, o *door) {
	if len(o.guests) == 0 {
		_ = o.listener.Close() // it accepts nothing more in any case
		delete(d.open, at)
	}
}

// lock sets the password of a remote address.
func (o *door) lock(remote netip.Addr, password Secret) error {
	c, err := o.listener.SyscallConn()
	if err != nil {
		return fmt.Errorf("reach the listening socket: %w", err)
	}
	return setMD5(c, remote, password)
}

func (d *doors) accept(o *door) {
	for {
		conn, err := o.listener.AcceptTCP()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // a lack of file descriptors, or a connection that was gone at once
			time.Sleep(firstRetry)
			continue
		}
		d.receive(o, conn)
	}
}

// receive hands a connection to the peer that it is from. One that is from
// nobody, or comes while another waits, is closed.
func (d *doors) receive(o *door, conn *net.TCPConn) {
	remote := conn.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
	d.mu.Lock()
	g, known := o.guests[remote]
	d.mu.Unlock()
	raw, err := conn.SyscallConn()
	if !known || err != nil || setHops(raw, g.Peer) != nil {
		_ = conn.Close() // turned away
		return
	}
	select {
	case g.visits <- conn:
	default:
		_ = conn.Close() // turned away
	}
}
