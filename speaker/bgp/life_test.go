package bgp

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestRunEndsSilently checks that a speaker that is replaced sends nothing to
// its peers.
func TestRunEndsSilently(t *testing.T) {
	r := newRouter(t)
	want := routesTo(prefixes(3, false)...)
	s, stop := runSpeaker(t, Config{[]Peer{r.peer("tor", want)}})
	awaitState(t, s, "tor", Established)
	r.awaitRoutes(want)
	stop()
	r.close()
	if len(r.notifications) != 0 || r.withdrew != 0 {
		t.Errorf("the router received %v and %d withdrawals", r.notifications, r.withdrew)
	}
}

// TestShutdown checks that every peer has received the reason when Shutdown
// returns, and that the speaker does not connect again.
func TestShutdown(t *testing.T) {
	rs := []*fakeRouter{newRouter(t), newRouter(t), newRouter(t)}
	var state Config
	for i, r := range rs {
		state.Peers = append(state.Peers, r.peer(fmt.Sprint("tor", i), routesTo(prefixes(100, false)...)))
	}
	s, _ := runSpeaker(t, state)
	for i := range rs {
		awaitState(t, s, fmt.Sprint("tor", i), Established)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	s.Shutdown(ctx, "node is being drained")
	for _, r := range rs {
		r.awaitNotification(`Cease: administrative shutdown ("node is being drained")`)
	}
	s.Set(state)
	time.Sleep(500 * time.Millisecond)
	for _, st := range s.Status() {
		if st.State != Idle || st.Sessions != 1 || st.LastError != "shut down: node is being drained" {
			t.Errorf("status %+v", st)
		}
	}
}

// TestShutdownText checks the limit of 255 bytes and whole characters (RFC
// 9003).
func TestShutdownText(t *testing.T) {
	long := shutdownData(strings.Repeat("ä", 200))
	if len(long) != 255 || long[0] != 254 || shutdownText(long) != strings.Repeat("ä", 127) {
		t.Errorf("%d bytes: %q", len(long), long)
	}
}

// TestNoLeaks counts goroutines and sockets after sessions of all kinds.
func TestNoLeaks(t *testing.T) {
	before, sockets := countGoroutines(), openFiles(t)
	t.Run("sessions", func(t *testing.T) {
		r, closed, resetting := newRouter(t), newRouter(t), newRouter(t, func(r *fakeRouter) {
			r.handle = func(c net.Conn) { _ = c.Close() }
		})
		gone := closed.peer("closed", nil)
		closed.close()
		passive := r.peer("passive", nil)
		passive.Passive, passive.Port = true, freeTCPPort(t)
		s, stop := runSpeaker(
			t, Config{[]Peer{r.peer("tor", routesTo(prefixes(100, false)...)), gone, resetting.peer("resetting", nil), passive}},
		)
		for i := range 5 {
			awaitState(t, s, "tor", Established)
			s.Reset("tor", "again", false)
			s.PathUp("tor")
			eventually(t, func() string {
				if statusOf(t, s, "tor").Sessions != i+2 {
					return "no new session"
				}
				return ""
			})
		}
		stop()
	})
	eventually(t, func() string {
		var left []string
		for g, n := range countGoroutines() {
			if n > before[g] {
				left = append(left, fmt.Sprintf("%d × %s", n-before[g], g))
			}
		}
		if n := openFiles(t) - sockets; n > 0 {
			left = append(left, fmt.Sprintf("%d more files", n))
		}
		return strings.Join(left, "\n")
	})
}

// countGoroutines counts the goroutines by the function in which they started.
func countGoroutines() map[string]int {
	buf := make([]byte, 4<<20)
	counts := make(map[string]int)
	for g := range strings.SplitSeq(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		lines := strings.Split(strings.TrimSpace(g), "\n")
		if len(lines) > 2 {
			began, _, _ := strings.Cut(lines[len(lines)-2], " in goroutine ")
			counts[began]++
		}
	}
	return counts
}

func openFiles(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, f := range all {
		if to, err := os.Readlink("/proc/self/fd/" + f.Name()); err == nil && strings.HasPrefix(to, "socket:") {
			n++
		}
	}
	return n
}

// TestManyPeers establishes many sessions at once.
func TestManyPeers(t *testing.T) {
	var state Config
	var rs []*fakeRouter
	for i := range 30 {
		r := newRouter(t)
		rs = append(rs, r)
		state.Peers = append(state.Peers, r.peer(fmt.Sprint("tor", i), routesTo(prefixes(i, false)...)))
	}
	s, _ := runSpeaker(t, state)
	for i, r := range rs {
		awaitState(t, s, fmt.Sprint("tor", i), Established)
		r.awaitRoutes(state.Peers[i].Routes)
	}
}

// TestRoutesConverge checks that the router finally has the last desired
// routes, whatever is set in whatever order, and however often the session
// ends.
func TestRoutesConverge(t *testing.T) {
	r := newRouter(t)
	all := append(prefixes(40, false), prefixes(40, true)...)
	p := r.peer("tor", nil)
	p.IPv6 = true
	p.Source = netip.MustParseAddr("127.0.0.1")
	s, _ := runSpeaker(t, Config{[]Peer{p}})
	rapid.Check(t, func(t *rapid.T) {
		for range rapid.IntRange(1, 5).Draw(t, "sets") {
			p.Routes = make(Routes)
			for _, prefix := range all {
				if rapid.Bool().Draw(t, "desired") {
					p.Routes[prefix] = Attributes{MED: uint32(rapid.IntRange(0, 2).Draw(t, "MED")), HasMED: true}
				}
			}
			s.Set(Config{[]Peer{p}})
			if rapid.IntRange(0, 9).Draw(t, "break") == 0 {
				s.Reset("tor", "test", false)
				s.PathUp("tor")
			}
		}
		want := maps.Clone(p.Routes)
		maps.DeleteFunc(want, func(p netip.Prefix, _ Attributes) bool { return p.Addr().Is6() }) // no next hop on lo
		deadline := time.Now().Add(20 * time.Second)
		for {
			wrong := r.differs(want)
			if wrong == "" {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("not after 20 s: %s", wrong)
			}
			time.Sleep(time.Millisecond)
		}
	})
	eventually(t, func() string { // the last session may be new
		if st := statusOf(t, s, "tor"); st.Withheld != "IPv6: no next hop: the interface of 127.0.0.1 does not have an IPv6 address" {
			return fmt.Sprintf("withheld %q", st.Withheld)
		}
		return ""
	})
}

func (r *fakeRouter) differs(want Routes) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	for p, a := range want {
		if !strings.Contains(r.table[p], fmt.Sprintf("{Med: %d}", a.MED)) {
			return fmt.Sprintf("%s is %q, not %d", p, r.table[p], a.MED)
		}
	}
	for p := range r.table {
		if _, ok := want[p]; !ok {
			return p.String() + " is still there"
		}
	}
	return ""
}
