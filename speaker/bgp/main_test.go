package bgp

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/fairlead-io/fairlead/speaker/internal/netnstest"
)

func TestMain(m *testing.M) {
	os.Exit(netnstest.Run(m, func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	}))
}

// eventually waits until condition returns ""; it returns a description
// otherwise.
func eventually(t testing.TB, what func() string) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		missing := what()
		if missing == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not after a minute: %s", missing)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// testLogger returns a logger that prints if the test fails.
func testLogger(t testing.TB) *slog.Logger {
	if _, ok := t.(*testing.B); ok {
		return slog.New(slog.DiscardHandler)
	}
	return newTextLogger(t.Output())
}

func newTextLogger(w io.Writer) *slog.Logger {
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// runSpeaker runs a Speaker until the test or stop ends it.
func runSpeaker(t testing.TB, state Config) (s *Speaker, stop func()) {
	t.Helper()
	s = New(testLogger(t))
	s.connectWait = 2 * time.Second
	s.Set(state)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stopped := false
	stop = func() {
		t.Helper()
		if stopped {
			return
		}
		stopped = true
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(time.Minute):
			t.Error("Run did not end")
		}
	}
	t.Cleanup(stop)
	return s, stop
}

// statusOf returns the status of a peer.
func statusOf(t testing.TB, s *Speaker, name string) PeerStatus {
	t.Helper()
	for _, st := range s.Status() {
		if st.Name == name {
			return st
		}
	}
	t.Fatalf("no status of %s in %+v", name, s.Status())
	return PeerStatus{}
}

// awaitState waits for a peer to get to a state.
func awaitState(t testing.TB, s *Speaker, name string, state SessionState) PeerStatus {
	t.Helper()
	eventually(t, func() string {
		if st := statusOf(t, s, name); st.State != state {
			return fmt.Sprintf("%s is %s, not %s: %s", name, st.State, state, st.LastError)
		}
		return ""
	})
	return statusOf(t, s, name)
}

// awaitError waits for a peer's last error.
func awaitError(t testing.TB, s *Speaker, name, want string) PeerStatus {
	t.Helper()
	eventually(t, func() string {
		if st := statusOf(t, s, name); st.LastError != want {
			return fmt.Sprintf("%s has the error %q, not %q", name, st.LastError, want)
		}
		return ""
	})
	return statusOf(t, s, name)
}

// prefixes returns n prefixes of a family.
func prefixes(n int, v6 bool) []netip.Prefix {
	all := make([]netip.Prefix, n)
	for i := range all {
		if v6 {
			a := netip.MustParseAddr("2001:db8:5::").As16()
			a[13], a[14], a[15] = byte(i>>16), byte(i>>8), byte(i)
			all[i] = netip.PrefixFrom(netip.AddrFrom16(a), 128)
		} else {
			all[i] = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 32)
		}
	}
	return all
}

func routesTo(ps ...netip.Prefix) Routes {
	r := make(Routes, len(ps))
	for _, p := range ps {
		r[p] = Attributes{LocalPref: 100}
	}
	return r
}

func freeTCPPort(t testing.TB) uint16 {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).AddrPort().Port()
}
