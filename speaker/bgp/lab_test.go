package bgp

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/fairlead-io/fairlead/speaker/internal/netnstest"
)

// testLab is a node, the network of this process, and a router, connected by an
// interface pair: 192.0.2.1 and .254, 2001:db8:1::1 and ::fe, fe80::1 and ::fe.
// The router's loopback interface has 203.0.113.254 and 2001:db8:ff::fe.
type testLab struct {
	t   testing.TB
	dir string
	pid int // of a process in the router's network
	// routes returns the routes that the router has, each prefix with its next
	// hop: those of BGP in its kernel, unless its daemon has them only itself.
	routes func() map[string]string
}

// findProgram searches for a program, also in directories that are usually not
// in PATH.
func findProgram(t testing.TB, name string) string {
	t.Helper()
	for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), "/usr/sbin", "/usr/lib/frr") {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path
		}
	}
	netnstest.Skip(t, "%s is not installed", name)
	return ""
}

func newLab(t testing.TB) *testLab {
	t.Helper()
	l := &testLab{t: t, dir: t.TempDir()}
	l.routes = l.kernelRoutes
	sleeper := exec.Command("sleep", "infinity")
	sleeper.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if err := sleeper.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = sleeper.Process.Kill()
		_ = sleeper.Wait()
	})
	l.pid = sleeper.Process.Pid
	here := func(command string) { l.runCommand("sh", "-ec", command) }
	// Addresses are usable at once, and are the ones that the tests know.
	here("for f in all default; do echo 0 > /proc/sys/net/ipv6/conf/$f/accept_dad; done")
	l.runInRouter("for f in all default; do echo 0 > /proc/sys/net/ipv6/conf/$f/accept_dad; done; ip link set lo up")
	if err := netlink.LinkAdd(&netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: "n0"}, PeerName: "r0", PeerNamespace: netlink.NsPid(l.pid),
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if n0, err := netlink.LinkByName("n0"); err == nil {
			_ = netlink.LinkDel(n0)
		}
	})
	here("ip link set n0 addrgenmode none up; ip addr add 192.0.2.1/24 dev n0; ip addr add 2001:db8:1::1/64 dev n0 nodad; " +
		"ip addr add fe80::1/64 dev n0 nodad;" +
		"ip route replace 203.0.113.254 via 192.0.2.254; ip route replace 2001:db8:ff::fe via 2001:db8:1::fe")
	l.runInRouter("ip link set r0 addrgenmode none up; ip addr add 192.0.2.254/24 dev r0; ip addr add 2001:db8:1::fe/64 dev r0 nodad; " +
		"ip addr add fe80::fe/64 dev r0 nodad;" +
		"ip addr add 203.0.113.254/32 dev lo; ip addr add 2001:db8:ff::fe/128 dev lo nodad")
	return l
}

// runCommand runs a command and returns what it prints.
func (l *testLab) runCommand(name string, args ...string) string {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		l.t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// runInRouter runs a shell command in the router's network.
func (l *testLab) runInRouter(command string) string {
	l.t.Helper()
	return l.runCommand("nsenter", "--net=/proc/"+strconv.Itoa(l.pid)+"/ns/net", "sh", "-ec", command)
}

// startInRouter runs a program in the router's network until the test ends or
// stop is called. output returns its output so far.
func (l *testLab) startInRouter(name string, args ...string) (output func() string, stop func()) {
	l.t.Helper()
	cmd := exec.Command("nsenter", append([]string{"--net=/proc/" + strconv.Itoa(l.pid) + "/ns/net", name}, args...)...)
	var out syncBuffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	var once sync.Once
	stop = func() {
		once.Do(func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			if l.t.Failed() {
				l.t.Logf("output of %s:\n%s", filepath.Base(name), out.String())
			}
		})
	}
	l.t.Cleanup(stop)
	return out.String, stop
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func (l *testLab) write(name, text string) string {
	l.t.Helper()
	path := filepath.Join(l.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		l.t.Fatal(err)
	}
	return path
}

// kernelRoutes are the BGP routes in the router's kernel.
func (l *testLab) kernelRoutes() map[string]string {
	l.t.Helper()
	all := make(map[string]string)
	for line := range strings.Lines(l.runInRouter("ip -o -4 route show; ip -o -6 route show")) {
		fields := strings.Fields(line)
		if !strings.Contains(line, "proto bird") && !strings.Contains(line, "proto bgp") {
			continue
		}
		for i, f := range fields {
			if f == "via" {
				all[fields[0]] = strings.TrimPrefix(fields[i+1]+" "+fields[min(i+2, len(fields)-1)], "inet6 ")
			}
		}
	}
	for prefix, hop := range all {
		all[prefix], _, _ = strings.Cut(hop, " ")
	}
	return all
}

// hasRoutes waits until the router has exactly some routes.
func (l *testLab) hasRoutes(want map[string]string) {
	l.t.Helper()
	eventually(l.t, func() string {
		if got := l.routes(); fmt.Sprint(got) != fmt.Sprint(want) {
			return fmt.Sprintf("the router has %v, not %v", got, want)
		}
		return ""
	})
}

// nodePeer returns the Peer with which the speaker reaches the router.
func (l *testLab) nodePeer(change ...func(*Peer)) Peer {
	p := Peer{
		Name: "tor",
		Session: Session{
			LocalASN: 64512, PeerASN: 64513, RouterID: netip.MustParseAddr("192.0.2.1"),
			IPv4: true, IPv6: true, HoldTime: 90 * time.Second,
		},
		Transport: Transport{Address: netip.MustParseAddr("192.0.2.254"), Port: 179, RetryTime: 2 * time.Second},
		Routes:    routesTo(netip.MustParsePrefix("198.51.100.7/32"), netip.MustParsePrefix("2001:db8:5::7/128")),
	}
	for _, c := range change {
		c(&p)
	}
	return p
}
