package bfd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/fairlead-io/fairlead/speaker/internal/netnstest"
)

// The roles of this binary when it executes itself.
const (
	roleEnv    = "FAIRLEAD_BFD_ROLE" // empty: it runs the tests
	roleHolder = "holder"            // keeps a network namespace until its parent ends
	roleBurner = "burner"            // keeps a core busy
	rolePeer   = "peer"              // the other end of many sessions
)

// init keeps the main thread for the main goroutine. The main thread must not run
// node.inNamespace, because it cannot end, and /proc/PID/ns/net is its namespace.
func init() { runtime.LockOSThread() }

// TestMain runs the tests, or one of the roles.
func TestMain(m *testing.M) {
	switch os.Getenv(roleEnv) {
	case roleHolder:
		_, _ = io.Copy(io.Discard, os.Stdin)
		return
	case rolePeer:
		fmt.Fprintln(os.Stderr, runPeer(os.Args[1], os.Args[2]))
		os.Exit(1)
	case roleBurner:
		for n := uint64(1); n != 0; n *= 3 { // it stays odd
		}
	}
	os.Exit(netnstest.Run(m))
}

// commandInRole returns a command that runs this binary in a role. The process is
// killed with its parent. It has its own session, so that the kernel schedules it
// as another application (sched(7), autogroups).
func commandInRole(role string, args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), roleEnv+"="+role)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setsid: true}
	return cmd
}

// forkThread runs functions on a thread that lasts as long as the tests: a child
// process is killed with the thread that started it, and inNamespace ends threads.
var forkThread = sync.OnceValue(func() chan<- func() {
	c := make(chan func())
	go func() {
		runtime.LockOSThread()
		for f := range c {
			f()
		}
	}()
	return c
})

// startProcess starts a process and kills it at the end of the test.
func startProcess(t testing.TB, cmd *exec.Cmd) {
	t.Helper()
	done := make(chan error)
	forkThread() <- func() { done <- cmd.Start() }
	must(t, <-done)
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually waits for a condition, and returns how long it took.
func eventually(t testing.TB, what func() string, condition func() bool) time.Duration {
	t.Helper()
	begun := time.Now()
	for !condition() {
		if time.Since(begun) > 30*time.Second {
			t.Fatal(what())
		}
		time.Sleep(ms / 2)
	}
	return time.Since(begun)
}

// node is a network namespace.
type node struct{ pid int }

func newNode(t testing.TB) *node {
	t.Helper()
	cmd := commandInRole(roleHolder)
	cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWNET
	_, err := cmd.StdinPipe()
	must(t, err)
	startProcess(t, cmd)
	n := &node{cmd.Process.Pid}
	must(t, n.inNamespace(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		for _, setting := range []string{"ipv6/conf/default/accept_dad", "ipv6/conf/all/accept_dad"} {
			if err := os.WriteFile("/proc/sys/net/"+setting, []byte("0"), 0); err != nil {
				return err // with duplicate address detection, addresses are unusable for a second
			}
		}
		return netlink.LinkSetUp(lo)
	}))
	return n
}

// inNamespace runs f on a thread in the node's namespace.
func (n *node) inNamespace(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends here
		fd, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", n.pid))
		if err == nil {
			err = unix.Setns(int(fd.Fd()), unix.CLONE_NEWNET)
			_ = fd.Close()
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

// connectNodes connects a and b by a pair of interfaces with the given name, and
// adds addresses such as "192.0.2.1/24" alternately to a and b; "" is no address.
func connectNodes(t testing.TB, name string, a, b *node, addrs ...string) {
	t.Helper()
	veth := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: name, Namespace: netlink.NsPid(a.pid)},
		PeerName:  name, PeerNamespace: netlink.NsPid(b.pid),
	}
	must(t, netlink.LinkAdd(veth))
	for i, n := range []*node{a, b} {
		must(t, n.inNamespace(func() error {
			link, err := netlink.LinkByName(name)
			if err != nil {
				return err
			}
			for j := i; j < len(addrs); j += 2 {
				if addrs[j] == "" {
					continue
				}
				addr, err := netlink.ParseAddr(addrs[j])
				if err != nil {
					return err
				}
				if err := netlink.AddrAdd(link, addr); err != nil {
					return fmt.Errorf("add %s: %w", addrs[j], err)
				}
			}
			return netlink.LinkSetUp(link)
		}))
	}
}

// addRoute adds a route to a prefix via a gateway.
func (n *node) addRoute(t testing.TB, prefix, via string) {
	t.Helper()
	must(t, n.inNamespace(func() error {
		to, err := netlink.ParseIPNet(prefix)
		if err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{Dst: to, Gw: netip.MustParseAddr(via).AsSlice()})
	}))
}

func (n *node) setInterfaceDown(t testing.TB, name string) {
	t.Helper()
	must(t, n.inNamespace(func() error {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		return netlink.LinkSetDown(link)
	}))
}

// enableForwarding makes the node a router.
func (n *node) enableForwarding(t testing.TB) {
	t.Helper()
	must(t, n.inNamespace(func() error {
		return errors.Join(os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0),
			os.WriteFile("/proc/sys/net/ipv6/conf/all/forwarding", []byte("1"), 0))
	}))
}

func deleteInterface(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.LinkDel(link)
}

// linkLocal returns the link-local address of the node's interface eth0.
func (n *node) linkLocal(t testing.TB) (found netip.Addr) {
	t.Helper()
	eventually(t, func() string { return "no link-local address" }, func() bool {
		must(t, n.inNamespace(func() error {
			link, err := netlink.LinkByName("eth0")
			if err != nil {
				return err
			}
			addrs, err := netlink.AddrList(link, netlink.FAMILY_V6)
			for _, a := range addrs {
				if ip, ok := netip.AddrFromSlice(a.IP); ok && ip.IsLinkLocalUnicast() {
					found = ip.WithZone("eth0")
				}
			}
			return err
		}))
		return found.IsValid()
	})
	return found
}

// runningEngine is an Engine that runs in a node.
type runningEngine struct {
	*Engine
	kill func() // returns when it has stopped

	mu      sync.Mutex
	changes map[Key][]timedStatus
}

func (n *node) newEngine(t testing.TB) *runningEngine {
	t.Helper()
	return newRunningEngine(t, n.inNamespace)
}

// newRunningEngine runs an Engine by means of within, which runs a function in a
// namespace.
func newRunningEngine(t testing.TB, within func(func() error) error) *runningEngine {
	t.Helper()
	h := &runningEngine{changes: make(map[Key][]timedStatus)}
	log := slog.New(slog.DiscardHandler)
	if testing.Verbose() {
		log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	h.Engine = New(log, func(k Key, s Status) {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.changes[k] = append(h.changes[k], timedStatus{time.Now(), s})
	})
	ctx, cancel := context.WithCancel(context.Background())
	stopped := make(chan error, 1)
	go func() { stopped <- within(func() error { return h.Run(ctx) }) }()
	h.kill = sync.OnceFunc(func() {
		cancel()
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(h.kill)
	return h
}

func (h *runningEngine) setProfiles(t testing.TB, sessions map[Key]Profile) {
	t.Helper()
	must(t, h.Set(sessions))
}

// waitFor waits until a session has the state, and returns its status and when it
// entered the state.
func (h *runningEngine) waitFor(t testing.TB, k Key, want State) (Status, time.Time) {
	t.Helper()
	eventually(t, func() string { return fmt.Sprintf("%v is not %s: %+v", k, want, h.Status()[k]) },
		func() bool { return h.Status()[k].State == want })
	s := h.Status()[k]
	return s, s.Since
}
