package speaker

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-io/fairlead/config/fixture"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/speaker/bfd"
	"github.com/fairlead-io/fairlead/speaker/failover"
	"github.com/fairlead-io/fairlead/speaker/l2"
	"github.com/fairlead-io/fairlead/speaker/plan"
)

// TestTakenOver checks from which node an address is reported as taken over, by node c,
// which the nodes b and a outrank, and that the report stays the same as long as the
// address is there.
func TestTakenOver(t *testing.T) {
	addr, own, other := netip.MustParseAddr("192.0.2.10"), netip.MustParseAddr("192.0.2.20"), netip.MustParseAddr("192.0.2.30")
	excluded := fixture.Labelled(corev1.LabelNodeExcludeBalancers, "true")
	state := func(a, b failover.State, since int64, nodes ...*corev1.Node) observedState {
		key := func(node string) failover.Peer { return failover.Peer{Interface: "eth0", Node: node} }
		outranks := plan.Neighbor{Target: failover.Target{Outranks: []netip.Addr{addr}}}
		return observedState{
			now: time.Unix(since+1, 0), node: "c", nodes: append(nodes, node("b"), node("c")),
			claims: map[netip.Addr]l2.Claim{addr: {Interfaces: []string{"eth0"}}, own: {Interfaces: []string{"eth0"}}},
			plan: plan.Plan{
				Neighbors:    map[failover.Peer]plan.Neighbor{key("a"): outranks, key("b"): outranks},
				HigherRanked: map[netip.Addr][]string{addr: {"b", "a"}},
			},
			peers: map[failover.Peer]failover.Status{
				key("a"): {State: a, Since: time.Unix(since, 5)}, key("b"): {State: b, Since: time.Unix(since+10, 0)},
			},
		}
	}
	// reported returns the takeovers in the report, and checks those of the node's own address.
	reported := func(s v1alpha1.SpeakerStatus) string {
		var all []string
		for _, group := range s.Announcing {
			if group.TakenOver == nil {
				if !strings.Contains(fmt.Sprint(group.Addresses), own.String()) {
					t.Errorf("the node's own address is not reported as such: %+v", s.Announcing)
				}
				continue
			}
			var texts []string
			for _, t := range group.TakenOver {
				texts = append(texts, fmt.Sprint(t.Node, " ", t.Since.Unix(), " ", t.Message))
			}
			all = append(all, fmt.Sprint(strings.Join(texts, ", "), " ", group.Addresses))
		}
		return strings.Join(all, "; ")
	}
	byA := fmt.Sprintf("a 100 it did not answer for its addresses on eth0 [%s]", addr)
	for _, row := range []struct {
		name  string
		state observedState
		want  string
	}{
		{"gone", state(failover.Gone, failover.Live, 100, node("a")), byA},
		{
			"both gone", state(failover.Gone, failover.Gone, 100, node("a")),
			fmt.Sprintf("b 110 it did not answer for its addresses on eth0, a 100 it did not answer for its addresses on eth0 [%s]", addr),
		},
		{
			"left", state(failover.Leaving, failover.Live, 100, node("a")),
			fmt.Sprintf("a 100 it left the segment of eth0 [%s]", addr),
		},
		{
			"only the second one", state(failover.Live, failover.Gone, 100, node("a")),
			fmt.Sprintf("b 110 it did not answer for its addresses on eth0 [%s]", addr),
		},
		{"live: it is new, and will take the address later", state(failover.Live, failover.Live, 100, node("a")), ""},
		{"unknown", state(failover.Unknown, failover.Live, 100, node("a")), ""},
		{"excluded before: planned", state(failover.Gone, failover.Live, 100, node("a", excluded)), ""},
		{"not ready before", state(failover.Gone, failover.Live, 100, node("a", notReady)), ""},
		{"deleted", state(failover.Gone, failover.Live, 100), ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			if got := reported(speakerStatus(v1alpha1.SpeakerStatus{}, row.state)); got != row.want {
				t.Errorf("got %q, want %q", got, row.want)
			}
		})
	}

	first := speakerStatus(v1alpha1.SpeakerStatus{}, state(failover.Gone, failover.Live, 100, node("a")))
	for _, next := range []observedState{
		state(failover.Live, failover.Live, 200, node("a")), state(failover.Gone, failover.Live, 300, node("a")),
		state(failover.Gone, failover.Leaving, 300, node("a", notReady)),
	} {
		if got := speakerStatus(first, next); fmt.Sprint(reported(got)) != byA || !got.LastChangeTime.Equal(first.LastChangeTime) {
			t.Errorf("changed to %q at %v", reported(got), got.LastChangeTime)
		}
	}
	both := speakerStatus(v1alpha1.SpeakerStatus{}, state(failover.Gone, failover.Gone, 100, node("a")))
	excludedB := state(failover.Gone, failover.Gone, 300, node("a"))
	excludedB.plan.HigherRanked[addr] = []string{"a"}
	if got := speakerStatus(both, excludedB); reported(got) != reported(both) {
		t.Errorf("a node that is not eligible any more: changed to %q", reported(got))
	}
	back := state(failover.Live, failover.Live, 200, node("a"))
	delete(back.claims, addr)
	if got := speakerStatus(first, back); reported(got) != "" || got.LastChangeTime.Unix() != 201 {
		t.Errorf("taken back: %q, changed at %v", reported(got), got.LastChangeTime)
	}
	// Another address is taken over at another time.
	second := speakerStatus(first, state(failover.Gone, failover.Live, 300, node("a")))
	more := state(failover.Gone, failover.Live, 300, node("a"))
	for key, n := range more.plan.Neighbors {
		n.Outranks = append([]netip.Addr{other}, n.Outranks...)
		more.plan.Neighbors[key] = n
	}
	more.claims[other] = l2.Claim{Interfaces: []string{"eth0"}}
	want := byA + fmt.Sprintf("; a 300 it did not answer for its addresses on eth0 [%s]", other)
	if got := reported(speakerStatus(second, more)); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestNeighborReports checks what is reported about BFD with a neighbor.
func TestNeighborReports(t *testing.T) {
	n := announcing(neighborMAC, sessionOfB, "192.0.2.100")
	o := observedState{
		plan:  plan.Plan{Neighbors: map[failover.Peer]plan.Neighbor{neighborB: n}},
		peers: map[failover.Peer]failover.Status{neighborB: {State: failover.Live, Filtered: true}},
		paths: map[bfd.Key]bfd.Status{sessionOfB: {State: bfd.Down}},
	}
	if got := neighborReports(o)[0]; !got.Filtered || got.DetectionMilliseconds != 0 {
		t.Errorf("filtered: got %+v", got)
	}
	o.peers[neighborB] = failover.Status{State: failover.Live}
	o.paths[sessionOfB] = bfd.Status{State: bfd.Up, Detection: 450 * time.Millisecond}
	if got := neighborReports(o)[0]; got.Filtered || got.DetectionMilliseconds != 450 {
		t.Errorf("up: got %+v", got)
	}
}

func TestPeerReturns(t *testing.T) {
	var r peerReturns
	start := time.Unix(1000, 0)
	b, c := failover.Peer{Interface: "eth0", Node: "b"}, failover.Peer{Interface: "eth0", Node: "c"}
	for _, row := range []struct {
		name  string
		after time.Duration
		up    map[failover.Peer]bool
		again bool
		wait  time.Duration
	}{
		{"no session", 0, nil, false, 0},
		{"a session is Up", time.Second, map[failover.Peer]bool{b: false}, false, yieldTime},
		{"it goes down", 1500 * time.Millisecond, nil, false, yieldTime / 2},
		{"both may have yielded", 2 * time.Second, nil, true, 0},
		{"nothing has changed", 3 * time.Second, nil, false, 0},
		{"both are back soon", 4 * time.Second, map[failover.Peer]bool{b: true, c: false}, false, returnInterval - 2*time.Second},
		{"contact to the API alone", 5 * time.Second, map[failover.Peer]bool{b: false, c: true}, false, returnInterval - 3*time.Second},
		{"a second time", 2*time.Second + returnInterval, map[failover.Peer]bool{b: true, c: true}, true, 0},
	} {
		if again, wait := r.observe(row.up, start.Add(row.after)); again != row.again || wait != row.wait {
			t.Errorf("%s: %t, %s, want %t, %s", row.name, again, wait, row.again, row.wait)
		}
	}
}
