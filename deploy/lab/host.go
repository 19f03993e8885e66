package lab

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Host is a machine of the lab: a network namespace.
type Host struct {
	Name  string
	Addr  netip.Addr // on the LAN, or in the pod network
	Addr6 netip.Addr // the paired IPv6 address

	env []string
	ns  int // descriptor of the namespace

	routes []netlink.Route // of eth0, while SetLink has set it down
	flows  atomic.Uint32   // number of calls of newFlow

	mu        sync.Mutex
	processes []*Process
}

// newHost creates a network namespace with a name, as ip-netns(8) does.
func newHost(name string, env []string) (*Host, error) {
	h := &Host{Name: name, env: env}
	path := filepath.Join(netnsDir, name)
	f, err := os.Create(path)
	if err != nil {
		return nil, fmt.Errorf("create host %s: %w", name, err)
	}
	_ = f.Close()
	err = onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		if err := unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, ""); err != nil {
			return err
		}
		h.ns, err = unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("create host %s: %w", name, err)
	}
	err = h.Do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	})
	if err != nil || !hasIPv6() {
		return h, err
	}
	// Addresses must be usable immediately, and must be kept while the link is down.
	return h, h.setSysctls("ipv6.conf.all.disable_ipv6=0", "ipv6.conf.default.disable_ipv6=0",
		"ipv6.conf.default.accept_dad=0", "ipv6.conf.default.accept_ra=0", "ipv6.conf.default.keep_addr_on_down=1",
		"ipv6.conf.all.keep_addr_on_down=1")
}

// onThread runs work on a thread that ends afterwards, so that changes of the thread
// by work have no further effect.
func onThread(work func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		result <- work()
	}()
	return <-result
}

// Do runs work in the network namespace of the host. Sockets that it opens stay in
// the namespace.
func (h *Host) Do(work func() error) error {
	return onThread(func() error {
		if err := unix.Setns(h.ns, unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter host %s: %w", h.Name, err)
		}
		return work()
	})
}

// enableForwarding enables IP forwarding on the host.
func (h *Host) enableForwarding() error {
	if hasIPv6() {
		if err := h.setSysctls("ipv6.conf.all.forwarding=1"); err != nil {
			return err
		}
	}
	return h.setSysctls("ipv4.ip_forward=1")
}

// setSysctls sets network parameters of the host, such as "ipv4.ip_forward=1".
func (h *Host) setSysctls(settings ...string) error {
	return h.Do(func() error {
		for _, s := range settings {
			name, value, _ := strings.Cut(s, "=")
			path := "/proc/sys/net/" + strings.ReplaceAll(name, ".", "/")
			if err := os.WriteFile(path, []byte(value), 0o644); err != nil {
				return fmt.Errorf("host %s: sysctl %s: %w", h.Name, s, err)
			}
		}
		return nil
	})
}

// Process is a program running on a Host.
type Process struct {
	Name string
	Log  string // path of its output

	cmd  *exec.Cmd
	done chan struct{}
	err  error // result of Wait, valid once done is closed
}

// Start starts a program on the host. Its output is written to a log file.
func (h *Host) Start(name, program string, env []string, args ...string) (*Process, error) {
	return h.startProcess(name, exec.Command(program, args...), env, func() error { return nil })
}

// startProcess starts the command after it has called before on the thread that the
// command inherits from.
func (h *Host) startProcess(name string, cmd *exec.Cmd, env []string, before func() error) (*Process, error) {
	p := &Process{Name: name, Log: filepath.Join(logDir, name+".log"), done: make(chan struct{})}
	out, err := os.OpenFile(p.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	defer out.Close()
	p.cmd = cmd
	p.cmd.Env = append(append([]string{}, h.env...), env...)
	p.cmd.Stdout, p.cmd.Stderr = out, out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	err = h.Do(func() error {
		if err := before(); err != nil {
			return err
		}
		return p.cmd.Start()
	})
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.processes = append(h.processes, p)
	return p, nil
}

// Signal sends a signal to the process.
func (p *Process) Signal(s syscall.Signal) { _ = p.cmd.Process.Signal(s) }

// Kill kills the process and waits until it has ended.
func (p *Process) Kill() {
	p.Signal(syscall.SIGKILL)
	<-p.done
}

// Stop sends SIGTERM to the process and waits until it has ended.
func (p *Process) Stop() error {
	p.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
		return p.err
	case <-time.After(WaitTimeout):
		p.Kill()
		return fmt.Errorf("%s did not stop within %s of SIGTERM", p.Name, WaitTimeout)
	}
}

// Usage returns the CPU time of the process so far and its resident memory in bytes;
// zero if it has ended.
func (p *Process) Usage() (cpu time.Duration, resident int64) {
	const ticks, page = 100, 4096 // per second, and bytes: of Linux on amd64 and arm64
	proc := fmt.Sprintf("/proc/%d/", p.cmd.Process.Pid)
	if stat, err := os.ReadFile(proc + "stat"); err == nil {
		_, rest, _ := strings.Cut(string(stat), ") ")
		if f := strings.Fields(rest); len(f) > 13 {
			user, _ := strconv.ParseInt(f[11], 10, 64)
			system, _ := strconv.ParseInt(f[12], 10, 64)
			cpu = time.Duration(user+system) * time.Second / ticks
		}
	}
	if statm, err := os.ReadFile(proc + "statm"); err == nil {
		if f := strings.Fields(string(statm)); len(f) > 1 {
			pages, _ := strconv.ParseInt(f[1], 10, 64)
			resident = pages * page
		}
	}
	return cpu, resident
}

// MoveToCgroup moves the process into the control group with the path.
func (p *Process) MoveToCgroup(path string) error {
	return os.WriteFile(filepath.Join(path, "cgroup.procs"), []byte(strconv.Itoa(p.cmd.Process.Pid)), 0)
}

// HasEnded reports whether the process has ended.
func (p *Process) HasEnded() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// Run runs a program on the host and returns its output.
func (h *Host) Run(ctx context.Context, program string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = h.env
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := h.Do(cmd.Start); err != nil {
		return "", fmt.Errorf("%s: %w", program, err)
	}
	if err := cmd.Wait(); err != nil {
		return out.String(), fmt.Errorf("%s %s: %w\n%s", filepath.Base(program), strings.Join(args, " "), err, out.String())
	}
	return out.String(), nil
}

// Get requests a URL from the host over a new connection.
func (h *Host) Get(ctx context.Context, url string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	return h.getURL(ctx, url)
}

// GetWithToken is Get with a bearer token, unless it is "". The server has the time to
// verify it.
func (h *Host) GetWithToken(ctx context.Context, url, token string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*requestTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", fmt.Errorf("get %s: %w", url, err)
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	return h.sendRequest(request)
}

// requestTimeout is long enough for a retransmission of the SYN.
const requestTimeout = 4 * time.Second

func (h *Host) getURL(ctx context.Context, url string) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", fmt.Errorf("get %s: %w", url, err)
	}
	return h.sendRequest(request)
}

// sendRequest sends a request from the host over a new connection. It does not verify
// certificates.
func (h *Host) sendRequest(request *http.Request) (string, error) {
	transport := &http.Transport{
		DisableKeepAlives: true,
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true},
		DialContext: func(ctx context.Context, network, address string) (conn net.Conn, err error) {
			err = h.Do(func() error {
				conn, err = (&net.Dialer{}).DialContext(ctx, network, address)
				return err
			})
			return conn, err
		},
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return "", fmt.Errorf("from %s: %w", h.Name, err)
	}
	defer response.Body.Close()
	target := strings.ToLower(request.Method) + " " + request.URL.String()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return "", fmt.Errorf("from %s: %s: %w", h.Name, target, err)
	}
	if response.StatusCode != http.StatusOK {
		return string(body), fmt.Errorf("from %s: %s: %s", h.Name, target, response.Status)
	}
	return strings.TrimSpace(string(body)), nil
}

// Serve serves HTTP on the host until the sandbox ends.
func (h *Host) Serve(address string, handler http.Handler) error {
	return h.Do(func() error {
		l, err := net.Listen("tcp", address)
		if err != nil {
			return fmt.Errorf("serve on %s %s: %w", h.Name, address, err)
		}
		go func() { _ = http.Serve(l, handler) }()
		return nil
	})
}

// MAC returns the MAC address of the host's eth0.
func (h *Host) MAC() (mac string) {
	_ = h.Do(func() error {
		ifi, err := net.InterfaceByName("eth0")
		if err == nil {
			mac = ifi.HardwareAddr.String()
		}
		return err
	})
	return mac
}

// SetLink sets the host's eth0 up or down. The kernel removes the routes of an
// interface that is down; SetLink adds those again that it did not create itself.
func (h *Host) SetLink(up bool) error {
	return h.Do(func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		if !up {
			if h.routes, err = netlink.RouteList(link, netlink.FAMILY_ALL); err != nil {
				return err
			}
			return netlink.LinkSetDown(link)
		}
		if err := netlink.LinkSetUp(link); err != nil {
			return err
		}
		for _, route := range h.routes {
			if route.Protocol == unix.RTPROT_KERNEL {
				continue
			}
			if err := netlink.RouteReplace(&route); err != nil {
				return err
			}
		}
		h.routes = nil
		return nil
	})
}

// ReadLog returns the log of the process, "" if it has none.
func (p *Process) ReadLog() string {
	b, _ := os.ReadFile(p.Log)
	return string(b)
}
