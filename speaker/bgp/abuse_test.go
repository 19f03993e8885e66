package bgp

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestErrors has peers fail in every way, and compares the errors for
// operators.
func TestErrors(t *testing.T) {
	note := func(code, subcode uint8, data ...byte) func(net.Conn) {
		return func(c net.Conn) {
			_, _ = c.Write(Notification{code, subcode, data}.encode())
			_, _ = io.Copy(io.Discard, c)
		}
	}
	sends := func(b []byte) func(net.Conn) {
		return func(c net.Conn) {
			_, _ = c.Write(b)
			_, _ = io.Copy(io.Discard, c)
		}
	}
	open := func(change func(*Peer)) func(net.Conn) { return sends(routerOpen(t, change)) }
	header := func(length uint16, kind uint8) []byte {
		h := bytes.Clone(keepalive)
		binary.BigEndian.PutUint16(h[16:], length)
		h[18] = kind
		return h
	}
	for _, row := range []struct {
		name string
		met  func(net.Conn)
		want string
	}{
		{"closes after our OPEN", func(c net.Conn) {
			_, _ = io.CopyN(io.Discard, c, 29)
			_ = c.Close()
		}, "the peer closed the connection after our OPEN without a NOTIFICATION (is this node one of its neighbors?)"},
		{"closes after its OPEN", func(c net.Conn) {
			_, _ = c.Write(routerOpen(t))
			_, _ = io.CopyN(io.Discard, c, 29)
			_ = c.(*net.TCPConn).CloseWrite()
			_, _ = io.Copy(io.Discard, c)
		}, "the peer closed the connection after its OPEN without a NOTIFICATION"},
		{
			"refuses our ASN", note(2, 2),
			"the peer sent a NOTIFICATION: OPEN message error: bad peer AS: it expects another AS number for this node",
		},
		{
			"refuses us", note(6, 5),
			"the peer sent a NOTIFICATION: Cease: connection rejected: this node is not among its neighbors, or it has too many of them",
		},
		{
			"is shut down", note(6, 2, append([]byte{11}, "maintenance"...)...),
			`the peer sent a NOTIFICATION: Cease: administrative shutdown ("maintenance")`,
		},
		{"is shut down with a lie about the length", note(6, 2, 200, 'x'), "the peer sent a NOTIFICATION: Cease: administrative shutdown"},
		{
			"has too many of our prefixes", note(6, 1, 0, 1, 1, 0, 0, 0, 100),
			"the peer sent a NOTIFICATION: Cease: maximum number of prefixes reached (at most 100): it accepts fewer prefixes than are advertised",
		},
		{"has a new kind of error", note(99, 7), "the peer sent a NOTIFICATION: error 99: subcode 7"},
		{"has another ASN", open(func(p *Peer) { p.LocalASN = 64999 }), "expected AS 64513, but the peer's OPEN has AS 64999"},
		{
			"has our router ID, externally", open(func(p *Peer) { p.RouterID = netip.MustParseAddr("0.0.0.0") }),
			"invalid router ID 0.0.0.0 of the peer",
		},
		{
			"has an impossible hold time", open(func(p *Peer) { p.HoldTime = 2 * time.Second }),
			"the peer's hold time is 2s, but must be 0 or at least 3s",
		},
		{"has another family", open(func(p *Peer) { p.IPv4 = false }), "the peer has none of the configured address families enabled: IPv4"},
		{"speaks BGP 3", sends(newMessage(msgOpen, []byte{3, 0, 1, 0, 90, 1, 1, 1, 1, 0})), "the peer has BGP version 3, not 4"},
		{
			"has a malformed OPEN", sends(newMessage(msgOpen, []byte{4, 0, 1, 0, 90, 1, 1, 1, 1, 3, 2, 9, 1})),
			"the peer's OPEN is malformed: truncated",
		},
		{"speaks HTTP", sends([]byte("HTTP/1.1 400 Bad Request\r\n\r\n")), "invalid BGP message from the peer: wrong marker"},
		{"sends too long a message", sends(header(4097, msgUpdate)), "the peer sent a message of type 2 with invalid length 4097"},
		{"sends too short a message", sends(header(18, msgOpen)), "the peer sent a message of type 1 with invalid length 18"},
		{"sends another kind of message", sends(header(19, 6)), "the peer sent a message of unknown type 6"},
		{"begins with an UPDATE", sends(newMessage(msgUpdate, []byte{0, 0, 0, 0})), "the peer sent a message of type 2 in OpenSent"},
		{
			"sends an UPDATE after its OPEN", sends(append(routerOpen(t), newMessage(msgUpdate, []byte{0, 0, 0, 0})...)),
			"the peer sent a message of type 2 in OpenConfirm",
		},
		{"sends nothing", sends(nil), "the peer accepted the connection but sent nothing for 300ms in OpenSent"},
		{
			"sends nothing after the session is established",
			sends(append(routerOpen(t, func(p *Peer) { p.HoldTime = 3 * time.Second }), keepalive...)),
			"hold timer expired: the peer sent nothing for 3s",
		},
		{
			"sends an OPEN in Established", sends(append(append(routerOpen(t), keepalive...), routerOpen(t)...)),
			"the peer sent an OPEN in Established",
		},
		{
			"sends garbage in Established", sends(append(append(routerOpen(t), keepalive...), strings.Repeat("garbage", 9)...)),
			"invalid BGP message from the peer: wrong marker",
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			r := newRouter(t, func(r *fakeRouter) { r.handle = row.met })
			s := New(testLogger(t))
			s.openWait = 300 * time.Millisecond
			if strings.HasPrefix(row.name, "speaks") { // nothing to wait for
				s.openWait = time.Minute
			}
			s.Set(Config{[]Peer{r.peer("tor", routesTo(prefixes(1, false)...))}})
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			go func() { _ = s.Run(ctx) }()
			st := awaitError(t, s, "tor", row.want)
			if st.LastErrorAt.IsZero() {
				t.Error("no time of the error")
			}
		})
	}
	t.Run("refuses the connection", func(t *testing.T) {
		t.Parallel()
		r := newRouter(t)
		p := r.peer("tor", nil)
		r.close()
		s, _ := runSpeaker(t, Config{[]Peer{p}})
		awaitError(
			t, s, "tor",
			fmt.Sprintf("connection refused by 127.0.0.9 port %d (is BGP running there, and is this node one of its neighbors?)", p.Port),
		)
	})
	t.Run("has a source that this node lacks", func(t *testing.T) {
		t.Parallel()
		r := newRouter(t)
		p := r.peer("tor", nil)
		p.Source = netip.MustParseAddr("192.0.2.99")
		s, _ := runSpeaker(t, Config{[]Peer{p}})
		awaitError(t, s, "tor", "this node does not have the source address 192.0.2.99")
	})
	t.Run("is on a link that this node lacks", func(t *testing.T) {
		t.Parallel()
		r := newRouter(t)
		p := r.peer("tor", nil)
		p.Address = netip.MustParseAddr("fe80::1%eth9")
		s, _ := runSpeaker(t, Config{[]Peer{p}})
		awaitError(t, s, "tor", `interface "eth9" not found on this node`)
	})
	t.Run("has no route", func(t *testing.T) {
		t.Parallel()
		r := newRouter(t)
		p := r.peer("tor", nil)
		p.Address = netip.MustParseAddr("198.51.100.1")
		s, _ := runSpeaker(t, Config{[]Peer{p}})
		awaitError(t, s, "tor", fmt.Sprintf("no route to 198.51.100.1 port %d from this node", p.Port))
	})
}

// TestNotificationAfterReset checks that a NOTIFICATION is read although the
// connection was reset and a write failed first.
func TestNotificationAfterReset(t *testing.T) {
	r := newRouter(t, func(r *fakeRouter) {
		r.handle = func(c net.Conn) {
			_, _ = c.Write(append(bytes.Clone(r.open), keepalive...))
			_, _ = c.Read(make([]byte, 10)) // and nothing more: a close is a reset
			_, _ = c.Write(Notification{codeCease, 8, nil}.encode())
			_ = c.Close()
		}
	})
	s, _ := runSpeaker(t, Config{[]Peer{r.peer("tor", routesTo(prefixes(2000, false)...))}})
	for range 5 {
		st := awaitError(t, s, "tor", "the peer sent a NOTIFICATION: Cease: out of resources")
		s.Reset("tor", "again", false)
		s.PathUp("tor")
		eventually(t, func() string {
			if statusOf(t, s, "tor").LastErrorAt.Equal(st.LastErrorAt) {
				return "no further attempt"
			}
			return ""
		})
		awaitError(t, s, "tor", "the peer sent a NOTIFICATION: Cease: out of resources")
	}
}

// TestBackoff counts the attempts to connect to a peer that ends every session.
func TestBackoff(t *testing.T) {
	var met atomic.Int32
	r := newRouter(t, func(r *fakeRouter) {
		r.handle = func(c net.Conn) {
			met.Add(1)
			_, _ = c.Write(append(append(bytes.Clone(r.open), keepalive...), Notification{codeCease, ceaseReset, nil}.encode()...))
			_, _ = io.Copy(io.Discard, c)
		}
	})
	p := r.peer("tor", nil)
	p.RetryTime = time.Minute
	s, _ := runSpeaker(t, Config{[]Peer{p}})
	time.Sleep(3 * time.Second)
	st := statusOf(t, s, "tor")
	// At 0, 0.2, 0.6, 1.4 and 3.0 s, each a quarter sooner at most.
	if n := met.Load(); n < 3 || n > 6 {
		t.Errorf("connected %d times in 3 s", n)
	}
	if st.Sessions < 2 || st.Lost < st.Sessions-1 {
		t.Errorf("status %+v", st)
	}
}

// TestUpdateFlood has a peer advertise a million prefixes, including the
// default route and those of the speaker, and request a route refresh a hundred
// thousand times.
func TestUpdateFlood(t *testing.T) {
	r, calm := newRouter(t), newRouter(t)
	want := routesTo(prefixes(10, false)...)
	s, _ := runSpeaker(t, Config{[]Peer{r.peer("loud", want), calm.peer("calm", want)}})
	awaitState(t, s, "loud", Established)
	awaitState(t, s, "calm", Established)
	r.awaitRoutes(want)

	const perUpdate, n = 1000, 1000
	update := []byte{0, 0, 0, 14, 0x40, 1, 1, 0, 0x40, 2, 0, 0x40, 3, 4, 127, 0, 0, 9}
	update = append(update, 0) // 0.0.0.0/0
	for i := range perUpdate - 1 {
		update = append(update, 24, 11, byte(i>>8), byte(i))
	}
	update = newMessage(msgUpdate, append(update, 32, 10, 0, 0, 0))
	var burst []byte
	for range 100 {
		burst = append(burst, update...)
		for range 10_000 / 100 {
			burst = append(burst, newMessage(msgRouteRefresh, []byte{0, 1, 0, 1})...)
		}
		burst = append(burst, keepalive...)
	}
	before := heap()
	for i := range n / 100 {
		r.sendMessage(burst)
		more := routesTo(prefixes(11+i, false)...)
		s.Set(Config{[]Peer{r.peer("loud", want), calm.peer("calm", more)}})
		calm.awaitRoutes(more)
	}
	eventually(t, func() string {
		if got := statusOf(t, s, "loud").IgnoredUpdates; got != n {
			return fmt.Sprintf("%d UPDATEs were ignored", got)
		}
		return ""
	})
	if grown := int64(heap()) - int64(before); grown > 8<<20 {
		t.Errorf("the heap grew by %d KiB", grown>>10)
	}
	for _, name := range []string{"loud", "calm"} {
		if st := statusOf(t, s, name); st.State != Established || st.Lost != 0 {
			t.Errorf("status %+v", st)
		}
	}
	r.mu.Lock()
	updates := r.updates
	r.mu.Unlock()
	if updates > 100 {
		t.Errorf("the router got %d UPDATEs for its ROUTE-REFRESHes", updates)
	}
	r.awaitRoutes(want)
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// TestRouteRefresh checks that a peer that requests a refresh gets all routes
// again.
func TestRouteRefresh(t *testing.T) {
	r := newRouter(t)
	want := routesTo(prefixes(10, false)...)
	s, _ := runSpeaker(t, Config{[]Peer{r.peer("tor", want)}})
	awaitState(t, s, "tor", Established)
	for range 2 {
		r.awaitRoutes(want)
		r.mu.Lock()
		clear(r.table)
		r.mu.Unlock()
		r.sendMessage(newMessage(msgRouteRefresh, []byte{0, 1, 0, 1}))
	}
	r.awaitRoutes(want)
}

// TestSlowReader has a peer that reads nothing while thousands of routes
// change. It checks that other peers are not affected, that nothing is queued,
// and that the last routes are the desired ones.
func TestSlowReader(t *testing.T) {
	hold := make(chan struct{})
	slow := newRouter(t, func(r *fakeRouter) {
		r.handle = func(c net.Conn) {
			_ = c.(*net.TCPConn).SetReadBuffer(64 << 10)
			_, _ = c.Write(append(bytes.Clone(r.open), keepalive...))
			<-hold
			r.open = []byte{} // sent already
			r.serveSession(c)
		}
	})
	other := newRouter(t)
	s, _ := runSpeaker(t, Config{[]Peer{slow.peer("slow", nil), other.peer("other", nil)}})
	awaitState(t, s, "slow", Established)
	awaitState(t, s, "other", Established)
	many := prefixes(20_000, false)
	med := uint32(0)
	change := func() Routes {
		med++
		routes := make(Routes, len(many))
		for _, p := range many {
			routes[p] = Attributes{MED: med, HasMED: true}
		}
		few := routesTo(prefixes(int(med), false)...)
		s.Set(Config{[]Peer{slow.peer("slow", routes), other.peer("other", few)}})
		other.awaitRoutes(few)
		return routes
	}
	for range 10 { // fill the buffers of the sockets
		change()
		time.Sleep(100 * time.Millisecond)
	}
	before := heap()
	var last Routes
	for range 10 {
		last = change()
		time.Sleep(250 * time.Millisecond)
	}
	grown := int64(heap()) - int64(before)
	t.Logf("the heap grew by %d MiB", grown>>20)
	if grown > 8<<20 {
		t.Errorf("the heap grew by %d MiB", grown>>20)
	}
	close(hold)
	slow.awaitRoutes(last)
	eventually(t, func() string {
		slow.mu.Lock()
		defer slow.mu.Unlock()
		for p, words := range slow.table {
			if !strings.Contains(words, fmt.Sprintf("{Med: %d}", med)) {
				return fmt.Sprintf("%s has %s", p, words)
			}
		}
		return ""
	})
	if st := statusOf(t, s, "slow"); st.Lost != 0 {
		t.Errorf("status %+v", st)
	}
}

// TestResetWaitsForPath counts the sessions with a peer whose BFD session has failed:
// none follows until BFD is Up, however often it fails meanwhile, or for pathWait.
func TestResetWaitsForPath(t *testing.T) {
	r := newRouter(t)
	established := func(s *Speaker, sessions int) {
		t.Helper()
		eventually(t, func() string {
			if st := statusOf(t, s, "tor"); st.State != Established || st.Sessions != sessions {
				return fmt.Sprintf("not session %d: %+v", sessions, st)
			}
			return ""
		})
	}
	s := New(testLogger(t))
	s.pathWait = time.Hour
	s.Set(Config{[]Peer{r.peer("tor", nil)}})
	ctx, cancel := context.WithCancel(t.Context())
	var run sync.WaitGroup
	defer run.Wait()
	defer cancel()
	run.Go(func() { _ = s.Run(ctx) })
	established(s, 1)
	for range 100 {
		s.Reset("tor", "BFD: down", false)
	}
	awaitState(t, s, "tor", Idle)
	time.Sleep(3 * minBackoff) // longer than the backoff after one failure
	if st := statusOf(t, s, "tor"); st.Sessions != 1 || st.Lost != 1 || st.State != Idle ||
		st.LastError != "reset: BFD: down (the next attempt waits for BFD, at most 1h0m0s)" {
		t.Errorf("%+v", st)
	}
	s.PathUp("tor")
	established(s, 2)

	// BFD never comes up again: the session does, and stays.
	bounded := New(testLogger(t))
	bounded.pathWait = time.Second
	bounded.Set(Config{[]Peer{r.peer("tor", nil)}})
	run.Go(func() { _ = bounded.Run(ctx) })
	established(bounded, 1)
	reset := time.Now()
	bounded.Reset("tor", "BFD: down", false)
	established(bounded, 2)
	if st := statusOf(t, bounded, "tor"); st.Since.Sub(reset) < bounded.pathWait {
		t.Errorf("did not wait for BFD: %+v", st)
	}
}

// TestPathFlaps counts the sessions with a peer whose BFD session fails and comes up
// all the time: they are as rare as with a peer that ends every session.
func TestPathFlaps(t *testing.T) {
	r := newRouter(t)
	p := r.peer("tor", nil)
	p.RetryTime = time.Minute
	s, _ := runSpeaker(t, Config{[]Peer{p}})
	for begun := time.Now(); time.Since(begun) < 3*time.Second; time.Sleep(5 * time.Millisecond) {
		if statusOf(t, s, "tor").State == Established {
			s.Reset("tor", "BFD: down", false)
		}
		s.PathUp("tor")
	}
	// At 0, 0.2, 0.6, 1.4 and 3.0 s, each a quarter sooner at most.
	if n := statusOf(t, s, "tor").Sessions; n < 2 || n > 6 {
		t.Errorf("%d sessions in 3 s", n)
	}
	eventually(t, func() string { // the failures do not keep it from being established
		if st := statusOf(t, s, "tor"); st.State != Established {
			return fmt.Sprintf("%+v", st)
		}
		return ""
	})
}
