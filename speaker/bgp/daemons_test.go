package bgp

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/fairlead-io/fairlead/speaker/internal/netnstest"
)

// bird starts BIRD with the protocols, which it exports to the router's kernel.
func (l *testLab) bird(protocols string) (stop func()) {
	l.t.Helper()
	program := findProgram(l.t, "bird")
	conf := l.write("bird.conf", `router id 192.0.2.254;
protocol device {}
protocol direct { ipv4; ipv6; }
protocol kernel { ipv4 { import none; export all; }; }
protocol kernel { ipv6 { import none; export all; }; }
`+protocols)
	_, stop = l.startInRouter(program, "-f", "-c", conf, "-s", filepath.Join(l.dir, "bird.ctl"), "-P", filepath.Join(l.dir, "bird.pid"))
	eventually(l.t, func() string {
		if _, err := os.Stat(filepath.Join(l.dir, "bird.ctl")); err != nil {
			return err.Error()
		}
		return ""
	})
	return stop
}

// birdc asks BIRD.
func (l *testLab) birdc(command string) string {
	l.t.Helper()
	return l.runCommand(findProgram(l.t, "birdc"), append([]string{"-s", filepath.Join(l.dir, "bird.ctl")}, strings.Fields(command)...)...)
}

// frr starts zebra and bgpd.
func (l *testLab) frr(config string) (stop func()) {
	l.t.Helper()
	zebra := findProgram(l.t, "zebra")
	bgpd := filepath.Join(filepath.Dir(zebra), "bgpd") // not OpenBGPD's
	uid, gid := l.needsUser("frr")
	dir, err := os.MkdirTemp("", "frr") // short enough for a socket, and reachable for FRR's user
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { _ = os.RemoveAll(dir) })
	conf := filepath.Join(dir, "frr.conf")
	if err := os.WriteFile(conf, []byte(config), 0o644); err != nil {
		l.t.Fatal(err)
	}
	for _, path := range []string{dir, conf} {
		if err := os.Chown(path, uid, gid); err != nil {
			l.t.Fatal(err)
		}
	}
	l.dir = dir
	args := func(name string) []string {
		return []string{"-z", dir + "/zserv", "--vty_socket", dir, "-i", dir + "/" + name + ".pid", "-f", conf, "-P", "0", "--log", "stdout"}
	}
	_, stopZebra := l.startInRouter(zebra, args("zebra")...)
	eventually(l.t, func() string {
		if _, err := os.Stat(dir + "/zserv"); err != nil {
			return err.Error()
		}
		return ""
	})
	_, stopBgpd := l.startInRouter(bgpd, append(args("bgpd"), "-p", "179")...)
	return func() { stopBgpd(); stopZebra() }
}

// needsUser skips the test unless a daemon can drop its privileges to its user.
func (l *testLab) needsUser(name string) (uid, gid int) {
	l.t.Helper()
	users, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		l.t.Fatal(err)
	}
	if !strings.Contains(string(users), "4294967295") {
		netnstest.Skip(l.t, "the router drops privileges to the user %s, which takes root outside of a user namespace", name)
	}
	owner, err := user.Lookup(name)
	if err != nil {
		netnstest.Skip(l.t, "the router needs its user: %v", err)
	}
	uid, _ = strconv.Atoi(owner.Uid)
	gid, _ = strconv.Atoi(owner.Gid)
	return uid, gid
}

// openbgpd starts OpenBGPD, which does not install routes on Linux.
func (l *testLab) openbgpd(config string) {
	l.t.Helper()
	bgpctl := findProgram(l.t, "bgpctl")
	bgpd := filepath.Join(filepath.Dir(bgpctl), "bgpd") // not FRR's
	l.needsUser("_openbgpd")
	conf, socket := l.write("bgpd.conf", config), filepath.Join(l.dir, "bgpd.sock")
	if err := os.Chmod(conf, 0o600); err != nil { // it refuses others
		l.t.Fatal(err)
	}
	l.startInRouter(bgpd, "-d", "-f", conf)
	l.routes = func() map[string]string {
		out, err := exec.Command(bgpctl, "-j", "-s", socket, "show", "rib").Output()
		var shown struct {
			RIB []struct {
				Prefix string `json:"prefix"`
				Hop    string `json:"exit_nexthop"`
			} `json:"rib"`
		}
		if err != nil || json.Unmarshal(out, &shown) != nil {
			return map[string]string{"bgpctl": fmt.Sprintf("%v: %s", err, out)} // not up yet
		}
		all := make(map[string]string)
		for _, r := range shown.RIB {
			all[singleAddress(r.Prefix)] = r.Hop
		}
		return all
	}
}

func openbgpdConfig(l *testLab, asn int, local, neighbor, lines string) string {
	return fmt.Sprintf(`AS %d
router-id 192.0.2.254
fib-update no
nexthop qualify via default
listen on %s
socket "%s/bgpd.sock"
neighbor %s {
%s
announce IPv4 unicast
announce IPv6 unicast
}
allow from any
`, asn, local, l.dir, neighbor, lines)
}

// exabgp starts ExaBGP, which prints its routes.
func (l *testLab) exabgp(config string) {
	l.t.Helper()
	program := findProgram(l.t, "python3-exabgp")
	python := findProgram(l.t, "python3")
	library := filepath.Join(filepath.Dir(program), "../lib/python3/dist-packages")
	received := filepath.Join(l.dir, "received")
	conf := l.write("exabgp.conf", config)
	l.startInRouter("env", "exabgp.daemon.user=root", "exabgp.tcp.bind=192.0.2.254 2001:db8:1::fe", "exabgp.tcp.port=179",
		"exabgp.api.cli=false", "exabgp.api.ack=false", "exabgp.log.destination=stderr",
		"PYTHONPATH="+library, "OUTPUT="+received, python, program, conf)
	l.routes = func() map[string]string {
		out, _ := os.ReadFile(received) // none before the first line
		return exabgpRoutes(l.t, string(out))
	}
}

// exabgpRoutes parses the UPDATEs and session ends that ExaBGP prints.
func exabgpRoutes(t testing.TB, lines string) map[string]string {
	t.Helper()
	all := make(map[string]string)
	for line := range strings.Lines(lines) {
		if !strings.HasSuffix(line, "\n") {
			continue // not all of it is there yet
		}
		type nlri struct {
			NLRI string `json:"nlri"`
		}
		var event struct {
			Neighbor struct {
				State   string `json:"state"`
				Message struct {
					Update struct {
						Announce map[string]map[string][]nlri `json:"announce"`
						Withdraw map[string][]nlri            `json:"withdraw"`
					} `json:"update"`
				} `json:"message"`
			} `json:"neighbor"`
		}
		if err := json.Unmarshal([]byte(line), &event); err != nil {
			t.Errorf("read ExaBGP's output: %v: %s", err, line)
		}
		if event.Neighbor.State == "down" {
			clear(all)
		}
		update := event.Neighbor.Message.Update
		for _, hops := range update.Announce {
			for hop, prefixes := range hops {
				for _, p := range prefixes {
					if p.NLRI != "" {
						all[singleAddress(p.NLRI)] = hop
					}
				}
			}
		}
		for _, prefixes := range update.Withdraw {
			for _, p := range prefixes {
				delete(all, singleAddress(p.NLRI))
			}
		}
	}
	return all
}

func exabgpConfig(asn int, local, neighbor string, peer int, lines string) string {
	return fmt.Sprintf(`process received {
	run /bin/sh -c "cat >> $OUTPUT";
	encoder json;
}
neighbor %s {
	router-id 192.0.2.254;
	local-address %s;
	local-as %d;
	peer-as %d;
	passive true;
	%s
	family {
		ipv4 unicast;
		ipv6 unicast;
	}
	api {
		processes [ received ];
		neighbor-changes;
		receive {
			parsed;
			update;
		}
	}
}
`, neighbor, local, asn, peer, lines)
}

// singleAddress returns a prefix as ip(8) prints it: without the length of a
// single address.
func singleAddress(prefix string) string {
	return strings.TrimSuffix(strings.TrimSuffix(prefix, "/32"), "/128")
}
