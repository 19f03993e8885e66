package speaker

import (
	"net/netip"
	"sync"
	"time"

	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/speaker/bfd"
	"github.com/fairlead-io/fairlead/speaker/bgp"
	"github.com/fairlead-io/fairlead/speaker/failover"
)

// The metrics of occurrences.
var (
	syncTriggers = metrics.NewCounterVec(&metrics.CounterOpts{
		Name:           "fairlead_speaker_sync_triggers_total",
		Help:           "Requests for a sync, several of which may share one, by trigger: the kind of a changed object, or a part of the speaker.",
		StabilityLevel: metrics.ALPHA,
	}, []string{"trigger"})

	syncDuration = metrics.NewHistogram(&metrics.HistogramOpts{
		Name:           "fairlead_speaker_sync_duration_seconds",
		Help:           "Duration of syncs, including failed ones.",
		Buckets:        []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5},
		StabilityLevel: metrics.ALPHA,
	})

	syncFailures = metrics.NewCounter(&metrics.CounterOpts{
		Name:           "fairlead_speaker_sync_failures_total",
		Help:           "Syncs that failed, in whole or for some of the interfaces.",
		StabilityLevel: metrics.ALPHA,
	})

	conflictsStarted = metrics.NewCounterVec(&metrics.CounterOpts{
		Name:           "fairlead_speaker_address_conflicts_total",
		Help:           "Conflicts of addresses with other hosts that have started, by reason.",
		StabilityLevel: metrics.ALPHA,
	}, []string{"reason"})

	takeoverDuration = metrics.NewHistogramVec(&metrics.HistogramOpts{
		Name: "fairlead_speaker_takeover_duration_seconds",
		Help: "Time from the end of the BFD session with the previous owner, or from when it was found not to answer, until this node answers " +
			"for the address, one observation per address, by cause: failed (the owner did not answer) or left (it signaled AdminDown).",
		Buckets:        []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		StabilityLevel: metrics.ALPHA,
	}, []string{"cause"})

	bfdTransitions = metrics.NewCounterVec(&metrics.CounterOpts{
		Name:           "fairlead_speaker_bfd_session_transitions_total",
		Help:           "Transitions of BFD sessions, by role of the other end (bgp_peer, neighbor) and the state that was entered.",
		StabilityLevel: metrics.ALPHA,
	}, []string{"role", "state"})

	dataPathChecks = metrics.NewCounterVec(&metrics.CounterOpts{
		Name: "fairlead_speaker_data_path_checks_total",
		Help: "Completed checks of whether the data path of the node serves addresses, by check (proxy: the health check of kube-proxy, " +
			"service: that of Services) and outcome (ready: it answered, timeout: the addresses are announced without an answer).",
		StabilityLevel: metrics.ALPHA,
	}, []string{"check", "outcome"})
)

// The metrics that mirror state, which are computed when they are read.
var (
	contactAgeDesc = metrics.NewDesc("fairlead_speaker_api_contact_age_seconds", "Time since the API server last answered or sent an event.",
		nil, nil, metrics.ALPHA, "")
	addressesDesc = metrics.NewDesc("fairlead_speaker_addresses",
		"Addresses of Services that this node announces, is about to announce, or reports as not announced, by state and reason.",
		[]string{"state", "reason"}, nil, metrics.ALPHA, "")
	announcedDesc = metrics.NewDesc("fairlead_speaker_announced_addresses",
		"Addresses that this node announces, by protocol (l2, bgp). An address that is announced by both counts for both.",
		[]string{"protocol"}, nil, metrics.ALPHA, "")
	neighborsDesc = metrics.NewDesc("fairlead_speaker_neighbors", "Other nodes that this node observes on its segments, by state.",
		[]string{"state"}, nil, metrics.ALPHA, "")
	bfdSessionsDesc = metrics.NewDesc("fairlead_speaker_bfd_sessions", "BFD sessions, by role of the other end (bgp_peer, neighbor) and state.",
		[]string{"role", "state"}, nil, metrics.ALPHA, "")
	bgpStateDesc = metrics.NewDesc("fairlead_speaker_bgp_session_state", "1 for the state of the BGP session with the peer, 0 for the other states.",
		[]string{"peer", "state"}, nil, metrics.ALPHA, "")
	bgpEstablishedDesc = metrics.NewDesc("fairlead_speaker_bgp_sessions_established_total", "BGP sessions with the peer that were established.",
		[]string{"peer"}, nil, metrics.ALPHA, "")
	bgpLostDesc = metrics.NewDesc("fairlead_speaker_bgp_sessions_lost_total", "Established BGP sessions with the peer that have ended.",
		[]string{"peer"}, nil, metrics.ALPHA, "")
	bgpRoutesDesc = metrics.NewDesc("fairlead_speaker_bgp_routes", "Routes that are advertised to the peer.",
		[]string{"peer"}, nil, metrics.ALPHA, "")

	stateDescs = []*metrics.Desc{
		contactAgeDesc, addressesDesc, announcedDesc, neighborsDesc, bfdSessionsDesc, bgpStateDesc, bgpEstablishedDesc, bgpLostDesc, bgpRoutesDesc,
	}
)

var registerMetrics = sync.OnceFunc(func() {
	legacyregistry.MustRegister(syncTriggers, syncDuration, syncFailures, conflictsStarted, takeoverDuration, bfdTransitions, dataPathChecks)
	for _, check := range []string{"proxy", "service"} { // so that the first timeout is an increase
		dataPathChecks.WithLabelValues(check, "ready")
		dataPathChecks.WithLabelValues(check, "timeout")
	}
})

// stateCollector computes the metrics that mirror the state of a Speaker.
type stateCollector struct {
	metrics.BaseStableCollector
	lastContact func() time.Time
	state       func() (observedState, bool) // not before the first sync
}

// StateCollector returns the collector of the metrics that mirror the state of the Speaker.
// Only one can be registered in a process. The other metrics are registered by New.
func (s *Speaker) StateCollector() metrics.StableCollector {
	return &stateCollector{lastContact: s.lastContact, state: func() (observedState, bool) {
		last := s.lastState.Load()
		if last == nil {
			return observedState{}, false
		}
		o := *last
		o.sessions, o.paths = s.routing.sessions.Status(), s.routing.paths.Status()
		return o, true
	}}
}

// DescribeWithStability implements metrics.StableCollector.
func (c *stateCollector) DescribeWithStability(ch chan<- *metrics.Desc) {
	for _, d := range stateDescs {
		ch <- d
	}
}

// CollectWithStability implements metrics.StableCollector. It may be called concurrently
// with a sync.
func (c *stateCollector) CollectWithStability(ch chan<- metrics.Metric) {
	set := func(d *metrics.Desc, value float64, labels ...string) {
		ch <- metrics.NewLazyConstMetric(d, metrics.GaugeValue, value, labels...)
	}
	set(contactAgeDesc, time.Since(c.lastContact()).Seconds())
	o, ok := c.state()
	if !ok {
		return
	}
	collectAddresses(o, set)
	collectSessions(o, set)
	for _, p := range o.plan.BGP {
		s := peerStatus(o.sessions, p.Config.Name)
		ch <- metrics.NewLazyConstMetric(bgpEstablishedDesc, metrics.CounterValue, float64(s.Sessions), s.Name)
		ch <- metrics.NewLazyConstMetric(bgpLostDesc, metrics.CounterValue, float64(s.Lost), s.Name)
	}
}

// addressState is the state of an address on this node.
type addressState struct{ state, reason string }

// addressStates returns the state of each address that this node announces, is about to
// announce, or reports as not announced. to and refused are the results of carriedRoutes.
func addressStates(o observedState, to map[netip.Addr][]string, refused map[netip.Addr]v1alpha1.Refusal) map[netip.Addr]addressState {
	states := make(map[netip.Addr]addressState, len(o.plan.L2)+len(o.plan.Advertised))
	for addr, claim := range o.plan.L2 {
		if !claim.Withhold {
			states[addr] = addressState{state: "probing"}
		}
	}
	for addr := range o.plan.AwaitingDataPath {
		states[addr] = addressState{state: "awaiting_data_path"}
	}
	for _, refusals := range []map[netip.Addr]v1alpha1.Refusal{o.plan.Unannounced, refused} {
		for addr, refusal := range refusals {
			states[addr] = addressState{"unannounced", string(refusal.Reason)}
		}
	}
	announced := func(addr netip.Addr) {
		reason := v1alpha1.Announced
		if warning := o.plan.Warnings[addr]; warning.Reason != "" {
			reason = warning.Reason
		}
		states[addr] = addressState{"announced", string(reason)}
	}
	for addr := range to {
		announced(addr)
	}
	for addr := range o.claims {
		announced(addr)
	}
	return states
}

func collectAddresses(o observedState, set func(d *metrics.Desc, value float64, labels ...string)) {
	to, refused := carriedRoutes(o)
	counts := map[addressState]int{}
	for _, s := range addressStates(o, to, refused) {
		counts[s]++
	}
	for s, n := range counts {
		set(addressesDesc, float64(n), s.state, s.reason)
	}
	set(announcedDesc, float64(len(o.claims)), "l2")
	set(announcedDesc, float64(len(to)), "bgp")
}

func collectSessions(o observedState, set func(d *metrics.Desc, value float64, labels ...string)) {
	peers := map[failover.State]int{}
	for key := range o.plan.Neighbors {
		peers[o.peers[key].State]++
	}
	for _, s := range []failover.State{failover.Unknown, failover.Live, failover.Leaving, failover.Gone} {
		set(neighborsDesc, float64(peers[s]), s.String())
	}
	neighbors := map[bfd.Key]bool{}
	for key, n := range o.plan.Neighbors {
		neighbors[neighborKey(key, n)] = true
	}
	type session struct {
		isNeighbor bool
		state      bfd.State
	}
	sessions := map[session]int{}
	for key, path := range o.paths {
		sessions[session{neighbors[key], path.State}]++
	}
	for _, isNeighbor := range []bool{false, true} {
		for s := bfd.AdminDown; s <= bfd.Up; s++ {
			set(bfdSessionsDesc, float64(sessions[session{isNeighbor, s}]), bfdRole(isNeighbor), s.String())
		}
	}
	for _, p := range o.plan.BGP {
		status := peerStatus(o.sessions, p.Config.Name)
		for s := bgp.Idle; s <= bgp.Established; s++ {
			value := 0.
			if s == status.State {
				value = 1
			}
			set(bgpStateDesc, value, status.Name, s.String())
		}
		set(bgpRoutesDesc, float64(status.Routes), status.Name)
	}
}

// bfdRole returns the value of the label role.
func bfdRole(isNeighbor bool) string {
	if isNeighbor {
		return "neighbor"
	}
	return "bgp_peer"
}

func countTransition(isNeighbor bool, entered bfd.State) {
	bfdTransitions.WithLabelValues(bfdRole(isNeighbor), entered.String()).Inc()
}

// countDataPathCheck counts a completed check of kube-proxy's own health check, or of that
// of Services.
func countDataPathCheck(ofProxy, answered bool) {
	check, outcome := "service", "timeout"
	if ofProxy {
		check = "proxy"
	}
	if answered {
		outcome = "ready"
	}
	dataPathChecks.WithLabelValues(check, outcome).Inc()
}
