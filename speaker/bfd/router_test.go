package bfd

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-io/fairlead/speaker/internal/netnstest"
)

// peerDaemon is another implementation in a node.
type peerDaemon interface {
	name() string
	// start starts the daemon with the given peers, all with one interval and a
	// multiplier of 3; configure changes them. With shut, all sessions are AdminDown.
	start(t testing.TB, n *node, peers []Key)
	configure(t testing.TB, interval time.Duration, shut bool)
	// sessionState returns whether the session is up. ups changes with each up event.
	sessionState(t testing.TB, peer netip.Addr) (up bool, ups string)
	// statusAfterShutdown is the status of the peers after its sessions were shut down.
	statusAfterShutdown() Status
	kill()
}

// findPrograms returns the paths of programs that are installed, or that the lab has
// downloaded.
func findPrograms(t testing.TB, programs ...string) (paths []string) {
	t.Helper()
	dirs := append(filepath.SplitList(os.Getenv("PATH")), "/usr/sbin", "/sbin", "/usr/lib/frr")
	for _, of := range []string{"bird", "frr"} {
		for _, dir := range []string{"usr/sbin", "usr/bin", "usr/lib/frr"} {
			dirs = append(dirs, filepath.Join("../../.build", of, dir))
		}
	}
next:
	for _, program := range programs {
		for _, dir := range dirs {
			path, err := exec.LookPath(filepath.Join(dir, program))
			if err == nil {
				path, err = filepath.Abs(path)
				must(t, err)
				paths = append(paths, path)
				continue next
			}
		}
		netnstest.Skip(t, "%s is not installed", program)
	}
	return paths
}

// daemon runs the programs of an implementation in a node.
type daemon struct {
	node    *node
	dir     string
	running []*exec.Cmd
}

func (d *daemon) command(args ...string) *exec.Cmd {
	return exec.Command("nsenter", append([]string{fmt.Sprintf("--net=/proc/%d/ns/net", d.node.pid)}, args...)...)
}

func (d *daemon) startProgram(t testing.TB, args ...string) {
	t.Helper()
	cmd := d.command(args...)
	cmd.SysProcAttr = commandInRole("").SysProcAttr
	if testing.Verbose() {
		cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	}
	startProcess(t, cmd)
	d.running = append(d.running, cmd)
}

func (d *daemon) kill() {
	for _, cmd := range d.running {
		_ = cmd.Process.Kill()
	}
}

func (d *daemon) output(t testing.TB, args ...string) string {
	t.Helper()
	out, err := d.command(args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v\n%s", args, err, out)
	}
	return string(out)
}

func (d *daemon) write(t testing.TB, name, content string) string {
	t.Helper()
	path := filepath.Join(d.dir, name)
	must(t, os.WriteFile(path, []byte(content), 0o644))
	return path
}

// bird is BIRD 2.
type bird struct {
	daemon
	peers []Key
	tools []string
	since map[netip.Addr]time.Time // of each session's state
}

func (*bird) name() string { return "BIRD" }

// statusAfterShutdown: BIRD stops sending when its protocol is disabled.
func (*bird) statusAfterShutdown() Status {
	return Status{Diagnostic: DetectionTimeExpired, RemoteState: Down}
}

func (b *bird) start(t testing.TB, n *node, peers []Key) {
	b.tools = findPrograms(t, "bird", "birdc")
	b.daemon, b.peers, b.since = daemon{node: n, dir: t.TempDir()}, peers, make(map[netip.Addr]time.Time)
	conf := b.config(t, 100*ms, false)
	b.startProgram(t, b.tools[0], "-f", "-c", conf, "-s", filepath.Join(b.dir, "ctl"))
	eventually(t, func() string { return "BIRD does not answer" }, func() bool {
		return b.command(b.tools[1], "-s", filepath.Join(b.dir, "ctl"), "show", "status").Run() == nil
	})
}

func (b *bird) config(t testing.TB, interval time.Duration, shut bool) string {
	var neighbors strings.Builder
	for _, k := range b.peers {
		switch {
		case k.Multihop:
			fmt.Fprintf(&neighbors, "  neighbor %s local %s multihop on;\n", k.Peer, k.Local)
		case k.Peer.Zone() != "":
			fmt.Fprintf(&neighbors, "  neighbor %s dev \"eth0\";\n", k.Peer.WithZone(""))
		default:
			fmt.Fprintf(&neighbors, "  neighbor %s;\n", k.Peer)
		}
	}
	disabled := map[bool]string{true: "yes", false: "no"}[shut]
	timers := fmt.Sprintf("{ min rx interval %d ms; min tx interval %d ms; multiplier 3; };", interval.Milliseconds(), interval.Milliseconds())
	return b.write(t, "bird.conf", fmt.Sprintf("router id 192.0.2.2;\nprotocol device { scan time 1; }\n"+
		"protocol bfd b {\n  disabled %s;\n  interface \"eth0\" %s\n  multihop %s\n%s}\n",
		disabled, timers, timers, neighbors.String()))
}

func (b *bird) configure(t testing.TB, interval time.Duration, shut bool) {
	b.config(t, interval, shut)
	b.output(t, b.tools[1], "-s", filepath.Join(b.dir, "ctl"), "configure")
}

func (b *bird) sessionState(t testing.TB, peer netip.Addr) (bool, string) {
	out := b.output(t, b.tools[1], "-s", filepath.Join(b.dir, "ctl"), "show", "bfd", "sessions")
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) > 3 && f[0] == peer.WithZone("").String() {
			at, err := time.Parse("15:04:05.000", f[3])
			must(t, err)
			// BIRD computes the time from the current one, and it varies by some
			// milliseconds. A flap takes longer than the detection time.
			if at.Sub(b.since[peer]).Abs() > 50*ms {
				b.since[peer] = at
			}
			return f[2] == "Up", b.since[peer].Format("15:04:05.000")
		}
	}
	return false, ""
}

// frr is FRR: zebra for the interfaces, and bfdd.
type frr struct {
	daemon
	peers []Key
	tools []string
}

func (*frr) name() string { return "FRR" }

func (*frr) statusAfterShutdown() Status {
	return Status{Diagnostic: NeighborSignaledDown, RemoteState: AdminDown}
}

func (f *frr) start(t testing.TB, n *node, peers []Key) {
	f.tools = findPrograms(t, "zebra", "bfdd", "vtysh")
	owner, err := user.Lookup("frr")
	if os.Geteuid() != 0 || err != nil {
		netnstest.Skip(t, "FRR needs root and the user frr")
	}
	if status, _ := os.ReadFile("/proc/self/uid_map"); len(strings.Fields(string(status))) == 3 && strings.Fields(string(status))[2] == "1" {
		netnstest.Skip(t, "FRR needs root outside of user namespaces")
	}
	dir, err := os.MkdirTemp("", "frr")
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	uid, err1 := strconv.Atoi(owner.Uid)
	gid, err2 := strconv.Atoi(owner.Gid)
	must(t, errors.Join(err1, err2, os.Chown(dir, uid, gid)))
	f.daemon, f.peers = daemon{node: n, dir: dir}, peers
	f.write(t, "vtysh.conf", "username root nopassword\n")
	for _, path := range f.tools[:2] {
		name := filepath.Base(path)
		args := []string{
			path, "-z", dir + "/zserv.api", "--vty_socket", dir, "-P", "0",
			"-i", dir + "/" + name + ".pid", "-f", f.write(t, name+".conf", ""),
		}
		if name == "bfdd" {
			args = append(args, "--bfdctl", dir+"/bfdd.sock")
		}
		f.startProgram(t, args...)
		eventually(t, func() string { return name + " does not answer" }, func() bool {
			_, err := os.Stat(filepath.Join(dir, name+".vty"))
			return err == nil
		})
	}
	f.configure(t, 100*ms, false)
}

func (f *frr) vtysh(t testing.TB, args ...string) string {
	t.Helper()
	return f.output(t, append([]string{f.tools[2], "--config_dir", f.dir, "--vty_socket", f.dir}, args...)...)
}

func (f *frr) configure(t testing.TB, interval time.Duration, shut bool) {
	conf := "bfd\n"
	for _, k := range f.peers {
		conf += " peer " + k.Peer.WithZone("").String()
		if k.Multihop {
			conf += " multihop"
		}
		if k.Local.IsValid() {
			conf += " local-address " + k.Local.WithZone("").String()
		}
		if !k.Multihop {
			conf += " interface eth0"
		}
		no := "no "
		if shut {
			no = ""
		}
		conf += fmt.Sprintf("\n  transmit-interval %d\n  receive-interval %d\n  detect-multiplier 3\n  %sshutdown\n exit\n",
			interval.Milliseconds(), interval.Milliseconds(), no)
	}
	if out := f.vtysh(t, "-f", f.write(t, "frr.conf", conf)); strings.Contains(out, "%") {
		t.Fatalf("%s\n%s", conf, out)
	}
}

func (f *frr) sessionState(t testing.TB, peer netip.Addr) (bool, string) {
	var peers, counters []struct {
		Peer   string
		Status string
		Ups    int `json:"session-up"`
	}
	must(t, json.Unmarshal([]byte(f.vtysh(t, "-c", "show bfd peers json")), &peers))
	must(t, json.Unmarshal([]byte(f.vtysh(t, "-c", "show bfd peers counters json")), &counters))
	for i, p := range peers {
		if p.Peer == peer.WithZone("").String() && i < len(counters) {
			for _, c := range counters {
				if c.Peer == p.Peer {
					return p.Status == "up", strconv.Itoa(c.Ups)
				}
			}
		}
	}
	return false, ""
}
