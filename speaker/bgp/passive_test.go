package bgp

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"
)

// connectFrom makes the router connect to the speaker from a loopback address.
func (r *fakeRouter) connectFrom(from string, port uint16, password Secret) {
	r.t.Helper()
	p := Peer{Transport: Transport{
		Address: netip.MustParseAddr("127.0.0.1"), Port: port,
		Source: netip.MustParseAddr(from), Password: password,
	}}
	var conn net.Conn
	eventually(r.t, func() string {
		var err error
		if conn, err = dialPeer(r.t.Context(), p); err != nil {
			return err.Error()
		}
		return ""
	})
	r.mu.Lock()
	r.conns = append(r.conns, conn)
	r.mu.Unlock()
	r.tasks.Go(func() { r.serveSession(conn) })
}

func waitFor(r *fakeRouter, name, address string, port uint16) Peer {
	p := r.peer(name, routesTo(prefixes(3, false)...))
	p.Passive, p.Address, p.Port = true, netip.MustParseAddr(address), port
	return p
}

func TestPassive(t *testing.T) {
	port := freeTCPPort(t)
	one, two := newRouter(t), newRouter(t)
	state := Config{[]Peer{waitFor(one, "one", "127.0.1.1", port), waitFor(two, "two", "127.0.1.2", port)}}
	state.Peers[1].Password = "secret"
	s, _ := runSpeaker(t, state)
	awaitState(t, s, "one", Active)
	awaitState(t, s, "two", Active)
	one.connectFrom("127.0.1.1", port, "")
	two.connectFrom("127.0.1.2", port, "secret")
	awaitState(t, s, "one", Established)
	awaitState(t, s, "two", Established)
	one.awaitRoutes(state.Peers[0].Routes)
	two.awaitRoutes(state.Peers[1].Routes)

	// No other address is accepted, and none without the password.
	if c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
		if n, err := c.Read(make([]byte, 1)); err == nil || isTimeout(err) {
			t.Errorf("a stranger read %d bytes: %v", n, err)
		}
		_ = c.Close()
	}
	d := net.Dialer{Timeout: 300 * time.Millisecond, LocalAddr: &net.TCPAddr{IP: net.ParseIP("127.0.1.2")}}
	if c, err := d.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
		t.Error("connected without the password")
		_ = c.Close()
	}

	// A new password resets its own session only, and the old one opens no door.
	state = Config{[]Peer{state.Peers[0], state.Peers[1]}}
	state.Peers[1].Password = "new"
	s.Set(state)
	awaitState(t, s, "two", Active)
	two.connectFrom("127.0.1.2", port, "new")
	awaitState(t, s, "two", Established)
	if st := statusOf(t, s, "one"); st.Sessions != 1 || st.Lost != 0 {
		t.Errorf("status of the other %+v", st)
	}

	// The port is given back with the last passive peer.
	s.Set(Config{})
	eventually(t, func() string {
		l, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
		if err != nil {
			return err.Error()
		}
		_ = l.Close()
		return ""
	})
}

func TestPortTaken(t *testing.T) {
	l, err := net.Listen("tcp4", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).AddrPort().Port()
	r, other := newRouter(t), newRouter(t)
	s, _ := runSpeaker(t, Config{[]Peer{waitFor(r, "passive", "127.0.1.1", port), other.peer("other", nil)}})
	awaitError(t, s, "passive", fmt.Sprintf("listen for the peer: 0.0.0.0:%d is in use (is another BGP speaker running on this node?)", port))
	awaitState(t, s, "other", Established)
	_ = l.Close()
	awaitState(t, s, "passive", Active)
	r.connectFrom("127.0.1.1", port, "")
	awaitState(t, s, "passive", Established)
}

func TestTwoPeersAtOneAddress(t *testing.T) {
	port := freeTCPPort(t)
	r := newRouter(t)
	s, _ := runSpeaker(t, Config{[]Peer{waitFor(r, "one", "127.0.1.1", port)}})
	awaitState(t, s, "one", Active)
	s.Set(Config{[]Peer{waitFor(r, "one", "127.0.1.1", port), waitFor(r, "two", "127.0.1.1", port)}})
	awaitError(t, s, "two", "listen for the peer: BGPPeer one has the same peer address and port")
}

// TestPassiveReconnect checks that a restarted peer gets a new session at once
// if it has graceful restart, and that its connection is rejected otherwise
// while the session is established.
func TestPassiveReconnect(t *testing.T) {
	for _, graceful := range []bool{true, false} {
		t.Run(fmt.Sprint("graceful ", graceful), func(t *testing.T) {
			port := freeTCPPort(t)
			r := newRouter(t)
			p := waitFor(r, "tor", "127.0.1.1", port)
			if graceful {
				p.RestartTime = time.Minute
			}
			s, _ := runSpeaker(t, Config{[]Peer{p}})
			awaitState(t, s, "tor", Active)
			r.connectFrom("127.0.1.1", port, "")
			awaitState(t, s, "tor", Established)
			r.awaitRoutes(p.Routes)
			r.connectFrom("127.0.1.1", port, "")
			if !graceful {
				r.awaitNotification("Cease: connection collision resolution")
				if st := statusOf(t, s, "tor"); st.Sessions != 1 || st.Lost != 0 {
					t.Errorf("status %+v", st)
				}
				return
			}
			eventually(t, func() string {
				if st := statusOf(t, s, "tor"); st.Sessions != 2 || st.State != Established {
					return fmt.Sprintf("status %+v", st)
				}
				return ""
			})
			r.awaitRoutes(p.Routes)
			if st := statusOf(t, s, "tor"); st.LastError != "the peer reconnected" {
				t.Errorf("error %q", st.LastError)
			}
		})
	}
}
