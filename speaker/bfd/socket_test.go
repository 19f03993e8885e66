package bfd

import (
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestSockets runs two Engines with each kind of path, directly connected and over
// a router.
func TestSockets(t *testing.T) {
	a, b, router := newNode(t), newNode(t), newNode(t)
	connectNodes(t, "eth0", a, b, "192.0.2.1/24", "192.0.2.2/24", "2001:db8::1/64", "2001:db8::2/64")
	connectNodes(t, "eth1", a, router, "198.51.100.1/24", "198.51.100.254/24", "2001:db8:1::1/64", "2001:db8:1::fe/64")
	connectNodes(t, "eth2", b, router, "203.0.113.2/24", "203.0.113.254/24", "2001:db8:2::2/64", "2001:db8:2::fe/64")
	router.enableForwarding(t)
	a.addRoute(t, "203.0.113.0/24", "198.51.100.254")
	b.addRoute(t, "198.51.100.0/24", "203.0.113.254")
	a.addRoute(t, "2001:db8:2::/64", "2001:db8:1::fe")
	b.addRoute(t, "2001:db8:1::/64", "2001:db8:2::fe")
	llA, llB := a.linkLocal(t), b.linkLocal(t)
	addr := netip.MustParseAddr
	multihop := fastProfile
	multihop.MinTTL = 254
	strict := fastProfile
	strict.MinTTL = 255
	for _, test := range []struct {
		name    string
		a, b    Key
		profile Profile
		problem string
	}{
		{"IPv4", Key{Peer: addr("192.0.2.2")}, Key{Peer: addr("192.0.2.1")}, fastProfile, ""},
		{
			"IPv4 bound",
			Key{Peer: addr("192.0.2.2"), Local: addr("192.0.2.1"), Interface: "eth0"},
			Key{Peer: addr("192.0.2.1"), Interface: "eth0"},
			fastProfile, "",
		},
		{"IPv6", Key{Peer: addr("2001:db8::2")}, Key{Peer: addr("2001:db8::1"), Local: addr("2001:db8::2")}, fastProfile, ""},
		{"link-local", Key{Peer: llB}, Key{Peer: llA, Local: llB}, fastProfile, ""},
		{"multihop", Key{Peer: addr("203.0.113.2"), Multihop: true}, Key{Peer: addr("198.51.100.1"), Multihop: true}, multihop, ""},
		{"multihop IPv6", Key{Peer: addr("2001:db8:2::2"), Multihop: true}, Key{Peer: addr("2001:db8:1::1"), Multihop: true}, multihop, ""},
		{"not connected", Key{Peer: addr("203.0.113.2")}, Key{Peer: addr("198.51.100.1")}, fastProfile, "TTL 254 instead of 255"},
		{"IPv6, not connected", Key{Peer: addr("2001:db8:2::2")}, Key{Peer: addr("2001:db8:1::1")}, fastProfile, "TTL 254 instead of 255"},
		{
			"below the minimum",
			Key{Peer: addr("203.0.113.2"), Multihop: true},
			Key{Peer: addr("198.51.100.1"), Multihop: true},
			strict, "TTL 254, below the minimum of 255",
		},
		{"no such interface", Key{Peer: addr("192.0.2.2"), Interface: "eth7"}, Key{Peer: addr("192.0.2.1")}, fastProfile, "find interface eth7"},
		{
			"no such address",
			Key{Peer: addr("192.0.2.2"), Local: addr("192.0.2.7")},
			Key{Peer: addr("192.0.2.1")},
			fastProfile, "cannot assign requested address",
		},
		{"wrong interface", Key{Peer: addr("192.0.2.2")}, Key{Peer: addr("192.0.2.1"), Interface: "eth2"}, fastProfile, "-"},
	} {
		t.Run(test.name, func(t *testing.T) {
			ha, hb := a.newEngine(t), b.newEngine(t)
			ha.setProfiles(t, map[Key]Profile{test.a: test.profile})
			hb.setProfiles(t, map[Key]Profile{test.b: test.profile})
			switch test.problem {
			case "":
				ha.waitFor(t, test.a, Up)
				hb.waitFor(t, test.b, Up)
				failed := time.Now()
				hb.kill()
				s, at := ha.waitFor(t, test.a, Down)
				if s.Diagnostic != DetectionTimeExpired {
					t.Errorf("%+v", s)
				}
				t.Logf("detected after %s", at.Sub(failed).Round(ms))
			case "-":
				time.Sleep(300 * ms)
			default:
				eventually(t, func() string { return ha.Status()[test.a].Problem },
					func() bool { return strings.Contains(ha.Status()[test.a].Problem, test.problem) })
			}
			if s := ha.Status()[test.a]; s.State == Up {
				t.Errorf("%+v", s)
			}
		})
	}
}

// TestSource checks that packets are sent from the source of the profile, also after it has
// changed in a session that is Up: the peer has a session with that address only.
func TestSource(t *testing.T) {
	a, b := newNode(t), newNode(t)
	connectNodes(t, "eth0", a, b, "192.0.2.1/24", "192.0.2.2/24", "192.0.2.9/24", "192.0.2.8/24")
	ha, hb := a.newEngine(t), b.newEngine(t)
	key := Key{Peer: netip.MustParseAddr("192.0.2.2")}
	for _, source := range []string{"192.0.2.9", "192.0.2.1", "192.0.2.9"} {
		profile, theirs := fastProfile, Key{Peer: netip.MustParseAddr(source)}
		profile.Source = theirs.Peer
		ha.setProfiles(t, map[Key]Profile{key: profile})
		hb.setProfiles(t, map[Key]Profile{theirs: fastProfile})
		hb.waitFor(t, theirs, Up)
		ha.waitFor(t, key, Up)
	}
}

// TestPortInUse checks that Status.Problem says that another process has the port while
// it does, that sessions on other ports work meanwhile, and that a session survives the
// replacement of its interface.
func TestPortInUse(t *testing.T) {
	a, b := newNode(t), newNode(t)
	connectNodes(t, "eth0", a, b, "192.0.2.1/24", "192.0.2.2/24", "2001:db8::1/64", "2001:db8::2/64")
	var other int
	must(t, a.inNamespace(func() (err error) {
		if other, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0); err != nil {
			return err
		}
		return unix.Bind(other, &unix.SockaddrInet4{Port: portSingleHop})
	}))
	ha, hb := a.newEngine(t), b.newEngine(t)
	ka, kb := Key{Peer: netip.MustParseAddr("192.0.2.2")}, Key{Peer: netip.MustParseAddr("192.0.2.1")}
	a6, b6 := Key{Peer: netip.MustParseAddr("2001:db8::2")}, Key{Peer: netip.MustParseAddr("2001:db8::1")}
	multihop := fastProfile
	multihop.MinTTL = 254
	aHops, bHops := Key{Peer: ka.Peer, Multihop: true}, Key{Peer: kb.Peer, Multihop: true}
	ha.setProfiles(t, map[Key]Profile{ka: fastProfile, a6: fastProfile, aHops: multihop})
	hb.setProfiles(t, map[Key]Profile{kb: fastProfile, b6: fastProfile, bHops: multihop})
	problem := func() string { return ha.Status()[ka].Problem }
	eventually(t, problem, func() bool { return problem() == "UDP port 3784 is in use by another process" })
	for _, key := range []Key{a6, aHops} { // IPv6 has the port, and multihop has another
		if s, _ := ha.waitFor(t, key, Up); s.Problem != "" {
			t.Error(s.Problem)
		}
	}
	time.Sleep(2 * socketRetryInterval)
	if s := ha.Status()[ka]; s.State != Down || s.Problem != "UDP port 3784 is in use by another process" {
		t.Errorf("%+v", s)
	}
	must(t, syscall.Close(other))
	ha.waitFor(t, ka, Up)
	for _, key := range []Key{a6, aHops} {
		if s := ha.Status()[key]; s.State != Up || s.Flaps != 0 {
			t.Errorf("%+v", s)
		}
	}
	ha.setProfiles(t, map[Key]Profile{ka: fastProfile})
	hb.setProfiles(t, map[Key]Profile{kb: fastProfile})
	if problem() != "" {
		t.Error(problem())
	}
	// The interface is replaced by one with another index.
	a.setInterfaceDown(t, "eth0")
	if s, _ := ha.waitFor(t, ka, Down); s.Diagnostic != DetectionTimeExpired {
		t.Errorf("%+v", s)
	}
	eventually(t, problem, func() bool { return strings.Contains(problem(), "network is unreachable") })
	must(t, a.inNamespace(func() error { return deleteInterface("eth0") }))
	connectNodes(t, "eth0", a, b, "192.0.2.1/24", "192.0.2.2/24")
	ha.waitFor(t, ka, Up)
	// The port is free without sessions.
	ha.setProfiles(t, nil)
	eventually(t, func() string { return "the port is in use" }, func() bool {
		return a.inNamespace(func() error {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
			if err != nil {
				return err
			}
			defer func() { _ = unix.Close(fd) }()
			return unix.Bind(fd, &unix.SockaddrInet4{Port: portSingleHop})
		}) == nil
	})
}

// TestSourcePorts checks that source ports are in the range of RFC 5881 section 4
// and differ.
func TestSourcePorts(t *testing.T) {
	seen := map[int]bool{}
	for i := range 200 {
		fd, err := openSource(Key{Peer: netip.AddrFrom4([4]byte{127, 0, 0, byte(i)})}, netip.Addr{}, 0)
		must(t, err)
		defer func() { _ = unix.Close(fd) }()
		name, err := unix.Getsockname(fd)
		must(t, err)
		port := name.(*unix.SockaddrInet4).Port
		if port < 49152 || seen[port] {
			t.Errorf("port %d", port)
		}
		seen[port] = true
	}
}
