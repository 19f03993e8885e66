package speaker

import (
	"bytes"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/speaker/bfd"
	"github.com/fairlead-io/fairlead/speaker/bgp"
	"github.com/fairlead-io/fairlead/speaker/l2"
	"github.com/fairlead-io/fairlead/speaker/plan"
)

const testKey = "0123456789abcdef0123456789abcdef"

func bfdSecret(key string) *corev1.Secret {
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: v1alpha1.BFDSecret},
		Data:       map[string][]byte{v1alpha1.BFDSecretKey: []byte(key), "other": []byte("x")},
	}
}

// bfdPeering is a session with 127.0.0.1 and BFD.
func bfdPeering(port uint16) plan.Peering {
	return plan.Peering{
		Config: config.BGPPeer{Name: "tor", BFD: &config.BFDProfile{Transmit: time.Second, Receive: time.Second, Multiplier: 3}},
		Peer: bgp.Peer{
			Name:      "tor",
			Session:   bgp.Session{LocalASN: 64512, PeerASN: 64513, RouterID: netip.MustParseAddr("192.0.2.1"), IPv4: true},
			Transport: bgp.Transport{Address: netip.MustParseAddr("127.0.0.1"), Port: port, Hops: 1, RetryTime: time.Second},
		},
	}
}

// TestBFDIdentity checks that BFD, but not BGP, waits for a valid key for a limited
// time, and that the reason is logged and in the report.
func TestBFDIdentity(t *testing.T) {
	const missing = `Secret "fairlead-bfd" not found in Fairlead's namespace: the controller creates it`
	const short = `Secret "fairlead-bfd": data[key] must have at least 32 bytes, but has 5`
	type step struct {
		secret  *corev1.Secret
		waited  time.Duration
		wait    time.Duration
		runs    bool
		message string
	}
	for name, steps := range map[string][]step{
		"present": {{bfdSecret(testKey), 0, 0, true, ""}, {nil, time.Minute, 0, true, ""}},
		"late":    {{nil, 0, identityWait, false, "waiting for " + missing}, {bfdSecret(testKey), time.Second, 0, true, ""}},
		"short": {
			{bfdSecret("short"), time.Second, identityWait - time.Second, false, "waiting for " + short},
			{bfdSecret("short"), identityWait, 0, true, "a restart of the speaker ends the session: " + short},
			{bfdSecret(testKey), time.Minute, 0, true, "a restart of the speaker ends the session: " + short}, // too late
		},
		"missing": {{nil, identityWait, 0, true, "a restart of the speaker ends the session: " + missing}},
	} {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			r := newRouting(slog.New(slog.NewTextHandler(&log, nil)), false, func() {})
			p := plan.Plan{BGP: []plan.Peering{bfdPeering(179)}}
			for i, s := range steps {
				if wait := r.identifyPaths("node-1", s.secret, s.waited); wait != s.wait {
					t.Errorf("step %d: waits %s", i, wait)
				}
				r.Set(p)
				if runs := len(r.paths.Status()) == 1; runs != s.runs || len(r.sessions.Status()) != 1 {
					t.Errorf("step %d: %v, %v", i, r.paths.Status(), r.sessions.Status())
				}
				reports := sessionReports(nil, observedState{plan: p, paths: r.paths.Status(), identity: r.identity})
				if reports[0].BFD != bfd.Down.String() || reports[0].BFDMessage != s.message {
					t.Errorf("step %d: %q %q", i, reports[0].BFD, reports[0].BFDMessage)
				}
			}
			warned := strings.Contains(log.String(), "BFD sessions cannot be resumed after a restart")
			if degraded := r.identity.problem != ""; warned != degraded || strings.Contains(log.String(), testKey) {
				t.Errorf("log: %s", log.String())
			}
		})
	}
}

// TestNeighborSessionsAwaitIdentity checks that the sessions with other speakers have the
// discriminators of the key, too: none begins before the key is there.
func TestNeighborSessionsAwaitIdentity(t *testing.T) {
	r := newRouting(slog.New(slog.DiscardHandler), false, func() {})
	for i, secret := range []*corev1.Secret{nil, bfdSecret(testKey)} {
		r.identifyPaths("node-1", secret, 0)
		r.setNeighborPaths(map[bfd.Key]bfd.Profile{sessionOfB: {Transmit: 50 * time.Millisecond, Receive: 50 * time.Millisecond, Multiplier: 3}})
		if sessions := r.paths.Status(); len(sessions) != i {
			t.Errorf("step %d: %v", i, sessions)
		}
	}
}

// TestSecretsAreStripped checks that speakers keep nothing of Secrets that they do not
// read.
func TestSecretsAreStripped(t *testing.T) {
	other := bfdSecret(testKey)
	other.Name = "other"
	for _, s := range []*corev1.Secret{bfdSecret(testKey), other} {
		o, err := stripObject(s)
		if err != nil {
			t.Fatal(err)
		}
		want := 0
		if s.Name == v1alpha1.BFDSecret {
			want = 1
		}
		if data := o.(*corev1.Secret).Data; len(data) != want || len(data[v1alpha1.BFDSecretKey]) != want*len(testKey) {
			t.Errorf("%s: %d keys", s.Name, len(data))
		}
	}
}

// TestRetainInterfaces checks that a neighbor stays one while its interface is down or
// without an address, and not if the interface has another subnet.
func TestRetainInterfaces(t *testing.T) {
	var k lastKnownFacts
	up := []l2.Interface{newInterface("eth0", "192.0.2.10/24"), newInterface("eth1", "10.0.0.1/8")}
	for i, step := range []struct {
		iface      string // in the plan
		interfaces []l2.Interface
		want       string
	}{
		{"", up, ""},
		{"eth0", up, "eth0"},
		{"", up[1:], "eth0"},
		{"", []l2.Interface{newInterface("eth0", "2001:db8::1/64")}, "eth0"},
		{"", []l2.Interface{newInterface("eth0", "198.51.100.1/24")}, ""},
		{"eth1", up, "eth1"},
		{"", nil, "eth1"},
	} {
		p := []plan.Peering{{Interface: step.iface, Multihop: step.iface == "", Peer: bgp.Peer{
			Transport: bgp.Transport{Address: netip.MustParseAddr("192.0.2.1")},
		}}}
		multihop := slices.Clone(p)
		multihop[0].Config.EBGPMultiHop, multihop[0].Interface, multihop[0].Multihop = true, "", true
		k.retainInterfaces(p, step.interfaces)
		if p[0].Interface != step.want || p[0].Multihop != (step.want == "") {
			t.Errorf("step %d: %q, multihop %t", i, p[0].Interface, p[0].Multihop)
		}
		if k.retainInterfaces(multihop, step.interfaces); multihop[0].Interface != "" || !multihop[0].Multihop {
			t.Errorf("step %d: %+v", i, multihop)
		}
	}
}

// TestPathFailure checks that a session whose path has failed is reset, that the report
// has the reason, and that it is established again when the path is Up, not before.
func TestPathFailure(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).AddrPort().Port()
	_ = l.Close()
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	router := bgp.New(log)
	peer := bfdPeering(port).Peer
	peer.LocalASN, peer.PeerASN, peer.RouterID, peer.Passive = 64513, 64512, netip.MustParseAddr("192.0.2.2"), true
	router.Set(bgp.Config{Peers: []bgp.Peer{peer}})
	go func() { _ = router.Run(t.Context()) }()

	r := newRouting(log, false, func() {})
	r.identity.decided = true
	p := plan.Plan{BGP: []plan.Peering{bfdPeering(port)}}
	r.Set(p)
	go func() { _ = r.sessions.Run(t.Context()) }()
	await := func(condition func(bgp.PeerStatus) bool) {
		t.Helper()
		for begun := time.Now(); !condition(r.sessions.Status()[0]); time.Sleep(5 * time.Millisecond) {
			if time.Since(begun) > 20*time.Second {
				t.Fatalf("%+v", r.sessions.Status())
			}
		}
	}
	established := func(n int) func(bgp.PeerStatus) bool {
		return func(s bgp.PeerStatus) bool { return s.State == bgp.Established && s.Sessions == n }
	}
	await(established(1))
	key, _, _ := bfdPath(p.BGP[0])
	failed := bfd.Status{State: bfd.Down, Diagnostic: bfd.DetectionTimeExpired, RemoteState: bfd.Down}
	r.pathChanged(key, bfd.Status{State: bfd.Up})
	r.pathChanged(key, failed)
	await(func(s bgp.PeerStatus) bool { return s.State == bgp.Idle })
	time.Sleep(time.Second) // longer than the backoff after one failure
	report := sessionReports(nil, observedState{plan: p, sessions: r.sessions.Status(), paths: r.paths.Status(), identity: r.identity})[0]
	const reason = "reset: BFD: control detection time expired (the next attempt waits for BFD, at most 30s)"
	if report.LastError != reason || report.Lost != 1 || r.sessions.Status()[0].Sessions != 1 {
		t.Errorf("%+v", report)
	}
	r.pathChanged(key, bfd.Status{State: bfd.Up})
	await(established(2))
	// A router that restarts BFD on a working path does not end the session.
	r.pathChanged(key, bfd.Status{State: bfd.Down, Diagnostic: bfd.NeighborSignaledDown, RemoteState: bfd.Down})
	r.pathChanged(key, bfd.Status{State: bfd.Up})
	r.pathChanged(key, failed)
	await(func(s bgp.PeerStatus) bool { return s.Lost == 2 })
	if s := fmt.Sprint(r.sessions.Status()[0].Sessions); s != "2" {
		t.Errorf("%s sessions", s)
	}
}
