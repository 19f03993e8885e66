package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// frrDaemon runs FRR: zebra, which installs the routes, bgpd and bfdd. The programs of
// a distribution change to the user frr, a member of the group frrvty. In the sandbox
// this user has the ID of root, because other IDs may not be mapped.
type frrDaemon struct{}

func (f frrDaemon) start(ctx context.Context, r *Router, config string) (all []*Process, err error) {
	if err := addRouterUsers(runDir); err != nil {
		return nil, err
	}
	// Otherwise vtysh would use PAM, which a fetched FRR has no configuration for.
	if err := os.WriteFile(r.filePath("vtysh.conf"), []byte("username root nopassword\n"), 0o644); err != nil {
		return nil, fmt.Errorf("write FRR's configuration: %w", err)
	}
	for _, name := range []string{"zebra", "mgmtd", "bgpd", "bfdd"} {
		program, err := r.bin.findProgram(name)
		if err != nil && name == "mgmtd" {
			continue // new in FRR 9
		}
		if err != nil {
			return all, fmt.Errorf("%w; fetch it with Fetch(…, FRR)", err)
		}
		args := []string{
			"-z", r.filePath("zserv.api"), "--vty_socket", r.dir, "-i", r.filePath(name + ".pid"), "-f",
			r.filePath(name + ".conf"), "-P", "0",
		}
		if name == "bfdd" {
			args = append(args, "--bfdctl", r.filePath("bfdd.sock"))
		}
		p, err := r.Host.startProcess(name+"-"+r.Name, exec.Command(program, args...), nil, allowSetgroups)
		if err != nil {
			return all, err
		}
		all = append(all, p)
		if err := f.waitVTY(ctx, r, name, p); err != nil {
			return all, err
		}
	}
	return all, f.configure(ctx, r, config)
}

// waitVTY waits until the daemon listens for vtysh, which it does once it is up.
func (frrDaemon) waitVTY(ctx context.Context, r *Router, name string, p *Process) error {
	return Wait(ctx, name+" is up", func() error {
		if p.HasEnded() {
			b, _ := os.ReadFile(p.Log)
			return Permanent(fmt.Errorf("%s ended: %w\n%s", name, p.err, b))
		}
		_, err := os.Stat(r.filePath(name + ".vty"))
		return err
	})
}

func (f frrDaemon) configure(ctx context.Context, r *Router, config string) error {
	if err := os.WriteFile(r.filePath("frr.conf"), []byte(config), 0o644); err != nil {
		return fmt.Errorf("write FRR's configuration: %w", err)
	}
	out, err := f.vtysh(ctx, r, "-f", r.filePath("frr.conf"))
	if err == nil && strings.Contains(out, "%") { // "% Unknown command", "% Specify …"
		err = fmt.Errorf("vtysh printed\n%s\nconfiguration:\n%s", out, config)
	}
	if err != nil {
		return fmt.Errorf("configure FRR: %w", err)
	}
	return nil
}

func (f frrDaemon) show(ctx context.Context, r *Router, args ...string) (string, error) {
	return f.vtysh(ctx, r, "-c", strings.Join(args, " "))
}

func (frrDaemon) vtysh(ctx context.Context, r *Router, args ...string) (string, error) {
	program, err := r.bin.findProgram("vtysh")
	if err != nil {
		return "", err
	}
	return r.Run(ctx, program, append([]string{"--config_dir", r.dir, "--vty_socket", r.dir}, args...)...)
}

func (f frrDaemon) sessions(ctx context.Context, r *Router) (map[string]Session, error) {
	out, err := f.show(ctx, r, "show bgp neighbors json")
	if err != nil {
		return nil, err
	}
	var neighbors map[string]json.RawMessage
	if err := json.Unmarshal([]byte(out), &neighbors); err != nil {
		return nil, fmt.Errorf("read FRR's neighbors: %w\n%s", err, out)
	}
	all := make(map[string]Session)
	for address, raw := range neighbors {
		var n struct {
			BGPState    string
			PeerBFDInfo struct{ Status string }
		}
		if err := json.Unmarshal(raw, &n); err == nil && n.BGPState != "" {
			all[address] = Session{State: n.BGPState, BFD: n.PeerBFDInfo.Status}
		}
	}
	return all, nil
}

// addRouterUsers adds the users and groups of FRR and OpenBGPD, with the IDs of root,
// to the mount namespace. It writes the bind-mounted files to dir. OpenBGPD changes
// its root directory to the home directory of its user.
func addRouterUsers(dir string) error {
	for path, own := range map[string][]string{
		"/etc/passwd": {"frr:x:0:0:FRR:/:/bin/false", "_openbgpd:x:0:0:OpenBGPD:/:/bin/false"},
		"/etc/group":  {"frr:x:0:", "frrvty:x:0:frr"},
	} {
		b, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("add the routers' users: %w", err)
		}
		if strings.Contains("\n"+string(b), "\n"+own[0]+"\n") {
			continue // added for another router
		}
		lines := slices.DeleteFunc(strings.Split(strings.TrimSpace(string(b)), "\n"), func(line string) bool {
			name, _, _ := strings.Cut(line, ":")
			return slices.ContainsFunc(own, func(o string) bool { return strings.HasPrefix(o, name+":") })
		})
		copied := filepath.Join(dir, filepath.Base(path))
		if err := os.WriteFile(copied, []byte(strings.Join(append(lines, own...), "\n")+"\n"), 0o644); err != nil {
			return fmt.Errorf("add the routers' users: %w", err)
		}
		if err := unix.Mount(copied, path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("add the routers' users to %s: %w", path, err)
		}
	}
	return nil
}

// allowSetgroups makes setgroups(2) a successful no-op for the thread and the
// programs that it starts, if it is denied, as in the sandbox of an ordinary user.
// FRR requires it to start.
func allowSetgroups() error {
	b, err := os.ReadFile("/proc/self/setgroups")
	if err != nil || strings.TrimSpace(string(b)) != "deny" {
		return nil
	}
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0}, // seccomp_data.nr
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_SETGROUPS, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO}, // errno 0: success
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&prog)), 0, 0); err != nil {
		return fmt.Errorf("allow setgroups: %w", err)
	}
	return nil
}
