package speaker

import (
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"

	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/speaker/bfd"
	"github.com/fairlead-io/fairlead/speaker/bgp"
	"github.com/fairlead-io/fairlead/speaker/failover"
	"github.com/fairlead-io/fairlead/speaker/l2"
	"github.com/fairlead-io/fairlead/speaker/plan"
)

// metricValues are the metrics of the speaker that are not zero, a line each: of
// histograms the number and the sum of the observations.
func metricValues(t *testing.T, g metrics.Gatherer) (lines []string) {
	t.Helper()
	families, err := g.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		name, ours := strings.CutPrefix(f.GetName(), "fairlead_speaker_")
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() { // sorted by name
				labels = append(labels, l.GetValue())
			}
			line := fmt.Sprintf("%s{%s} %g", name, strings.Join(labels, ","), m.GetGauge().GetValue()+m.GetCounter().GetValue())
			if h := m.GetHistogram(); h != nil {
				line = fmt.Sprintf("%s{%s} %d %g", name, strings.Join(labels, ","), h.GetSampleCount(), h.GetSampleSum())
			}
			if ours && !strings.HasSuffix(line, " 0") {
				lines = append(lines, line)
			}
		}
	}
	return lines
}

// TestStateMetrics checks the metrics that mirror the state of the last sync.
func TestStateMetrics(t *testing.T) {
	addr := func(last byte) netip.Addr { return netip.AddrFrom4([4]byte{192, 0, 2, last}) }
	on := l2.Claim{Interfaces: []string{"eth0"}}
	refused := func(reason v1alpha1.Reason) v1alpha1.Refusal {
		return v1alpha1.Refusal{Reason: reason, Message: "message"}
	}
	peering := func(name string) plan.Peering {
		return plan.Peering{Config: config.BGPPeer{Name: name}, Peer: bgp.Peer{Name: name}}
	}
	other := announcing(neighborMAC, sessionOfB, "192.0.2.100")
	routerPath := bfd.Key{Peer: netip.MustParseAddr("192.0.2.254"), Interface: "eth0"}
	o := observedState{
		node:   "a",
		claims: map[netip.Addr]l2.Claim{addr(1): on, addr(2): on, addr(3): on},
		plan: plan.Plan{
			L2: map[netip.Addr]l2.Claim{
				addr(1): on, addr(2): on, addr(3): on, addr(4): {Interfaces: on.Interfaces, Probe: true},
				addr(5): {Interfaces: on.Interfaces, Withhold: true}, addr(6): {Interfaces: on.Interfaces, Defer: true},
				addr(200): {Interfaces: on.Interfaces, Withhold: true}, // a control address
			},
			Warnings:         map[netip.Addr]v1alpha1.Refusal{addr(3): refused(v1alpha1.ProxyARP)},
			AwaitingDataPath: map[netip.Addr][]uint16{addr(6): nil, addr(9): nil},
			Unannounced:      map[netip.Addr]v1alpha1.Refusal{addr(5): refused(v1alpha1.AddressConflict), addr(7): refused(v1alpha1.NoEligibleNode)},
			Advertised:       map[netip.Addr][]int{addr(2): {0}, addr(8): {1}, addr(10): {0, 1}},
			BGP:              []plan.Peering{peering("established"), peering("failed")},
			Neighbors:        map[failover.Peer]plan.Neighbor{neighborB: other, {Interface: "eth0", Node: "gone"}: {}},
		},
		peers: map[failover.Peer]failover.Status{neighborB: {State: failover.Live}, {Interface: "eth0", Node: "gone"}: {State: failover.Gone}},
		paths: map[bfd.Key]bfd.Status{sessionOfB: {State: bfd.Up}, routerPath: {State: bfd.Down}},
		sessions: []bgp.PeerStatus{
			{Name: "established", State: bgp.Established, IPv4: true, Sessions: 3, Lost: 2, Routes: 7},
			{Name: "failed", State: bgp.Active, Lost: 1, Sessions: 1},
		},
	}
	synced := false
	registry := metrics.NewKubeRegistry()
	registry.CustomMustRegister(&stateCollector{
		lastContact: func() time.Time { return time.Now().Add(-time.Hour) }, state: func() (observedState, bool) { return o, synced },
	})
	const contact = "api_contact_age_seconds{} 360"
	if got := metricValues(t, registry); len(got) != 1 || !strings.HasPrefix(got[0], contact) {
		t.Errorf("before the first sync: %q", got)
	}
	synced = true
	want := []string{
		"addresses{AddressConflict,unannounced} 1", "addresses{Announced,announced} 3", "addresses{NoEligibleNode,unannounced} 1",
		"addresses{NoSession,unannounced} 1", "addresses{ProxyARP,announced} 1", "addresses{,awaiting_data_path} 2", "addresses{,probing} 1",
		"announced_addresses{bgp} 2", "announced_addresses{l2} 3",
		"bfd_sessions{bgp_peer,Down} 1", "bfd_sessions{neighbor,Up} 1",
		"bgp_routes{established} 7", "bgp_session_state{established,Established} 1", "bgp_session_state{failed,Active} 1",
		"bgp_sessions_established_total{established} 3", "bgp_sessions_established_total{failed} 1",
		"bgp_sessions_lost_total{established} 2", "bgp_sessions_lost_total{failed} 1",
		"neighbors{Gone} 1", "neighbors{Live} 1",
	}
	got := slices.DeleteFunc(metricValues(t, registry), func(line string) bool { return strings.HasPrefix(line, contact) })
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// named returns the values of the metrics with the name.
func named(t *testing.T, name string) (lines []string) {
	t.Helper()
	for _, line := range metricValues(t, legacyregistry.DefaultGatherer) {
		if strings.HasPrefix(line, name+"{") {
			lines = append(lines, line)
		}
	}
	return lines
}

// TestTakeoverMetrics checks which takeovers are counted, and from when to when they last.
func TestTakeoverMetrics(t *testing.T) {
	registerMetrics()
	addr, own := netip.MustParseAddr("192.0.2.10"), netip.MustParseAddr("192.0.2.20")
	key := func(node string) failover.Peer { return failover.Peer{Interface: "eth0", Node: node} }
	state := func(a, b failover.Status, nodes ...*corev1.Node) observedState {
		session := announcing(neighborMAC, sessionOfB, "192.0.2.100")
		session.Outranks = []netip.Addr{addr, own}
		return observedState{
			now: time.Unix(100, 0), node: "c", nodes: append(nodes, node("b"), node("c")),
			claims: map[netip.Addr]l2.Claim{addr: {Interfaces: []string{"eth0"}}, own: {Interfaces: []string{"eth0"}}},
			plan: plan.Plan{
				Neighbors: map[failover.Peer]plan.Neighbor{
					key("a"): {Target: failover.Target{Outranks: []netip.Addr{addr, own}}}, key("b"): session,
				},
				HigherRanked: map[netip.Addr][]string{addr: {"a", "b"}},
			},
			peers: map[failover.Peer]failover.Status{key("a"): a, key("b"): b},
			paths: map[bfd.Key]bfd.Status{sessionOfB: {State: bfd.Down, Since: time.Unix(90, 0), Flaps: 1}},
		}
	}
	status := func(s failover.State, since int64) failover.Status {
		return failover.Status{State: s, Since: time.Unix(since, 0)}
	}
	gone, live := failover.Gone, failover.Live
	filtered := status(gone, 98)
	filtered.Filtered = true
	for _, row := range []struct {
		name   string
		state  observedState
		before map[netip.Addr]bool
		want   string
	}{
		{"gone", state(status(gone, 96), status(live, 0), node("a")), nil, "{failed} 1 4"},
		{"left", state(status(failover.Leaving, 99), status(live, 0), node("a")), nil, "{left} 1 1"},
		{"since the BFD session went down", state(status(live, 0), status(gone, 98), node("a")), nil, "{failed} 1 10"},
		{"BFD is filtered", state(status(live, 0), filtered, node("a")), nil, "{failed} 1 2"},
		{"two gone: the last one was the owner", state(status(gone, 50), filtered, node("a")), nil, "{failed} 1 2"},
		{"announced already", state(status(gone, 96), status(live, 0), node("a")), map[netip.Addr]bool{addr: true}, ""},
		{"live", state(status(live, 0), status(live, 0), node("a")), nil, ""},
		{"unknown", state(status(failover.Unknown, 0), status(live, 0), node("a")), nil, ""},
		{"not ready: by the API", state(status(gone, 96), status(live, 0), node("a", notReady)), nil, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			takeoverDuration.Reset()
			observeTakeovers(row.state, row.before)
			got := strings.Join(named(t, "takeover_duration_seconds"), "; ")
			if want := strings.Repeat("takeover_duration_seconds", min(len(row.want), 1)) + row.want; got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}

// TestOccurrences checks the counters of transitions of BFD sessions and of the data path.
func TestOccurrences(t *testing.T) {
	registerMetrics()
	bfdTransitions.Reset()
	r := newRouting(slog.New(slog.DiscardHandler), false, func() {})
	r.neighborChanged = func(key bfd.Key, _ bfd.Status) bool { return key == sessionOfB }
	router := bfd.Key{Peer: netip.MustParseAddr("192.0.2.254")}
	for _, s := range []bfd.State{bfd.Init, bfd.Up, bfd.Up, bfd.Down, bfd.Up} { // the second Up is a change of another field
		r.pathChanged(sessionOfB, bfd.Status{State: s})
		r.pathChanged(router, bfd.Status{State: min(s, bfd.Init)})
	}
	want := []string{
		"bfd_session_transitions_total{bgp_peer,Down} 1", "bfd_session_transitions_total{bgp_peer,Init} 2",
		"bfd_session_transitions_total{neighbor,Down} 1", "bfd_session_transitions_total{neighbor,Init} 1",
		"bfd_session_transitions_total{neighbor,Up} 2",
	}
	if got := named(t, "bfd_session_transitions_total"); !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}

	dataPathChecks.Reset()
	health := newHealthCheck(t)
	health.healthy.Store(true)
	g := newDataPathGate(slog.New(slog.DiscardHandler), func() {})
	g.port = health.port()
	addr := netip.MustParseAddr("203.0.113.5")
	g.Set(t.Context(), "a", nil, plan.Plan{AwaitingDataPath: map[netip.Addr][]uint16{addr: nil}})
	waitUntilReady(t, g, addr)
	if got := named(t, "data_path_checks_total"); !slices.Equal(got, []string{"data_path_checks_total{proxy,ready} 1"}) {
		t.Errorf("got %q", got)
	}
}
