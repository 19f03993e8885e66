package bgp

import (
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/osrg/gobgp/v3/pkg/packet/bgp"
)

// fakeRouter is a peer that a test controls. It follows the protocol unless
// configured otherwise, and stores the routes that it receives.
type fakeRouter struct {
	t        testing.TB
	listener net.Listener
	// open is the OPEN that it sends; nil: nothing at all is sent.
	open []byte
	// met is called with each connection in place of the usual talk, if set.
	handle func(net.Conn)

	mu            sync.Mutex
	conns         []net.Conn
	opens         []Open
	table         map[netip.Prefix]string // attributes in words
	markers       int                     // End-of-RIBs
	updates       int
	withdrew      int
	notifications []Notification
	tasks         sync.WaitGroup
}

// routerOpen returns the OPEN of AS 64513 with all relevant capabilities.
func routerOpen(t testing.TB, change ...func(*Peer)) []byte {
	t.Helper()
	p := Peer{
		Session: Session{
			LocalASN: 64513, RouterID: netip.MustParseAddr("192.0.2.254"), IPv4: true, IPv6: true,
			HoldTime: 90 * time.Second, RestartTime: 120 * time.Second,
		},
		Transport: Transport{Address: netip.MustParseAddr("::1")}, // for the extended next hop
	}
	for _, c := range change {
		c(&p)
	}
	b, err := encodeOpen(p)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// newRouter listens on a loopback address.
func newRouter(t testing.TB, change ...func(*fakeRouter)) *fakeRouter {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.9:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &fakeRouter{t: t, listener: l, open: routerOpen(t), table: make(map[netip.Prefix]string)}
	for _, c := range change {
		c(r)
	}
	r.tasks.Go(r.serve)
	t.Cleanup(r.close)
	return r
}

func (r *fakeRouter) close() {
	_ = r.listener.Close()
	r.hangUp()
	r.tasks.Wait()
}

func (r *fakeRouter) hangUp() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.conns {
		_ = c.Close()
	}
	r.conns = nil
}

func (r *fakeRouter) addr() netip.AddrPort { return r.listener.Addr().(*net.TCPAddr).AddrPort() }

// peer returns the Peer with which a speaker reaches the router.
func (r *fakeRouter) peer(name string, routes Routes) Peer {
	return Peer{
		Name: name,
		Session: Session{
			LocalASN: 64512, PeerASN: 64513, RouterID: netip.MustParseAddr("192.0.2.10"),
			IPv4: true, HoldTime: 90 * time.Second,
		},
		Transport: Transport{Address: r.addr().Addr(), Port: r.addr().Port(), RetryTime: time.Second},
		Routes:    routes,
	}
}

func (r *fakeRouter) serve() {
	for {
		conn, err := r.listener.Accept()
		if err != nil {
			return
		}
		r.mu.Lock()
		r.conns = append(r.conns, conn)
		met := r.handle
		r.mu.Unlock()
		r.tasks.Go(func() {
			if met != nil {
				met(conn)
				return
			}
			r.serveSession(conn)
		})
	}
}

// serveSession runs a session that the speaker has connected.
func (r *fakeRouter) serveSession(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	w := newMessageConn(conn)
	r.mu.Lock()
	clear(r.table)
	open := r.open
	r.mu.Unlock()
	if open != nil && (w.writeMessage(open, false) != nil || w.writeMessage(keepalive, true) != nil) {
		return
	}
	for {
		kind, body, err := w.readMessage()
		if err != nil {
			return
		}
		switch kind {
		case msgOpen:
			o, err := decodeOpen(body)
			if err != nil {
				r.t.Errorf("decode the speaker's OPEN: %v", err)
			}
			r.mu.Lock()
			r.opens = append(r.opens, o)
			r.mu.Unlock()
		case msgKeepalive:
			if open != nil {
				_ = w.writeMessage(keepalive, true)
			}
		case msgUpdate:
			r.learnRoutes(body)
		case msgNotification:
			r.mu.Lock()
			r.notifications = append(r.notifications, decodeNotification(body))
			r.mu.Unlock()
		}
	}
}

// learnRoutes applies an UPDATE to the table.
func (r *fakeRouter) learnRoutes(body []byte) {
	u := &bgp.BGPUpdate{}
	if err := u.DecodeFromBytes(body); err != nil {
		r.t.Errorf("decode the speaker's UPDATE: %v", err)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if isEndOfRIB(body) {
		r.markers++
		return
	}
	r.updates++
	var words string
	var reached []bgp.AddrPrefixInterface
	forget := func(p string) {
		r.withdrew++
		delete(r.table, netip.MustParsePrefix(p))
	}
	for _, n := range u.WithdrawnRoutes {
		forget(n.String())
	}
	for _, n := range u.NLRI {
		reached = append(reached, n)
	}
	for _, a := range u.PathAttributes {
		switch a := a.(type) {
		case *bgp.PathAttributeMpReachNLRI:
			reached = append(reached, a.Value...)
			words += fmt.Sprintf("{Nexthop: %s}", a.Nexthop)
		case *bgp.PathAttributeMpUnreachNLRI:
			for _, n := range a.Value {
				forget(n.String())
			}
		default:
			words += a.String()
		}
	}
	for _, n := range reached {
		r.table[netip.MustParsePrefix(n.String())] = words
	}
}

// awaitRoutes waits until the table has exactly some prefixes.
func (r *fakeRouter) awaitRoutes(want Routes) {
	r.t.Helper()
	eventually(r.t, func() string {
		r.mu.Lock()
		defer r.mu.Unlock()
		if len(r.table) != len(want) {
			return fmt.Sprintf("the router knows %d routes, not %d", len(r.table), len(want))
		}
		for p := range want {
			if _, ok := r.table[p]; !ok {
				return fmt.Sprintf("the router does not know %s", p)
			}
		}
		return ""
	})
}

// sendMessage sends a message over the newest connection.
func (r *fakeRouter) sendMessage(message []byte) {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, err := r.conns[len(r.conns)-1].Write(message); err != nil {
		r.t.Error(err)
	}
}

// awaitNotification waits for a NOTIFICATION of the speaker, the last so far.
func (r *fakeRouter) awaitNotification(want string) {
	r.t.Helper()
	eventually(r.t, func() string {
		r.mu.Lock()
		defer r.mu.Unlock()
		if len(r.notifications) == 0 {
			return "the router has not received a NOTIFICATION"
		}
		if got := r.notifications[len(r.notifications)-1].String(); got != want {
			return fmt.Sprintf("the router received %q, not %q", got, want)
		}
		return ""
	})
}
