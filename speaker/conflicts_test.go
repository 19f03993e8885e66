package speaker

import (
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"

	"github.com/fairlead-io/fairlead/config/client"
	"github.com/fairlead-io/fairlead/config/fixture"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/speaker/internal/netnstest"
	"github.com/fairlead-io/fairlead/speaker/l2"
	"github.com/fairlead-io/fairlead/speaker/plan"
)

func TestMain(m *testing.M) {
	os.Exit(netnstest.Run(m, func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	}))
}

// newVethSpeaker returns the speaker of node n, whose interface vip0 has the address 192.0.2.1/24.
// The kernel is also the host behind the other end, lan0. A Service has the address 192.0.2.7.
func newVethSpeaker(t *testing.T) (s *Speaker, events *record.FakeRecorder, lan0 netlink.Link) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "vip0"}, PeerName: "lan0"}))
	vip0, err := netlink.LinkByName("vip0")
	must(err)
	t.Cleanup(func() { _ = netlink.LinkDel(vip0) })
	lan0, err = netlink.LinkByName("lan0")
	must(err)
	own, err := netlink.ParseAddr("192.0.2.1/24")
	must(err)
	must(netlink.AddrAdd(vip0, own))
	must(netlink.LinkSetUp(vip0))
	must(netlink.LinkSetUp(lan0))

	fairlead, err := client.New(&rest.Config{})
	must(err)
	events = record.NewFakeRecorder(10)
	s, err = New(Options{
		Node: "n", Namespace: "fairlead-system", Client: fake.NewClientset(), Fairlead: fairlead, Events: events,
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	must(err)
	t.Cleanup(s.announcer.Close)
	must(s.services.GetStore().Add(service("s", "192.0.2.7", "p")))
	must(s.nodes.GetStore().Add(node("n")))
	must(s.kinds.Pools.GetStore().Add(fixture.Pool("p", "192.0.2.0/25")))
	must(s.kinds.L2Advertisements.GetStore().Add(&v1alpha1.L2Advertisement{ObjectMeta: metav1.ObjectMeta{Name: "all"}}))
	must(s.kinds.L2Nodes.GetStore().Add(fixture.L2Node("n", v1alpha1.Interface{Name: "vip0", Addresses: []string{"192.0.2.1/24"}})))
	return s, events, lan0
}

// changeAddr adds an address to an interface, or deletes it.
func changeAddr(t *testing.T, change func(netlink.Link, *netlink.Addr) error, iface, text string) {
	t.Helper()
	l, err := netlink.LinkByName(iface)
	if err != nil {
		t.Fatal(err)
	}
	addr, err := netlink.ParseAddr(text)
	if err != nil {
		t.Fatal(err)
	}
	if err := change(l, addr); err != nil {
		t.Fatal(err)
	}
}

// awaitReport syncs until the desired report of the speaker meets the condition.
func awaitReport(t *testing.T, s *Speaker, what string, condition func(v1alpha1.SpeakerStatus) bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; {
		s.nextSync = noResync
		if err := s.syncOnce(t.Context()); err != nil {
			t.Fatal(err)
		}
		if condition(*s.speakerReport.desired) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("no %s: %+v", what, s.speakerReport.desired)
		}
		select {
		case <-s.syncRequested:
		case <-time.After(min(s.nextSync, time.Second)):
		}
	}
}

// TestConflictOnTheWire checks that a speaker does not announce an address that another
// host has, reports and records that, and announces the address when the host has removed
// it. The host is the kernel behind the other end of a veth pair.
func TestConflictOnTheWire(t *testing.T) {
	s, events, lan0 := newVethSpeaker(t)
	changeAddr(t, netlink.AddrAdd, "lo", "192.0.2.7/32") // the kernel answers for it on every interface
	await := func(what string, condition func(v1alpha1.SpeakerStatus) bool) {
		t.Helper()
		awaitReport(t, s, what, condition)
	}
	mac := lan0.Attrs().HardwareAddr.String()
	await("conflict", func(report v1alpha1.SpeakerStatus) bool {
		return len(report.Unannounced) == 1 && report.Unannounced[0].Reason == v1alpha1.AddressConflict &&
			strings.Contains(report.Unannounced[0].Message, "MAC "+mac+" seen on vip0 of node n") && len(report.Announcing) == 0
	})
	// Neither the address nor the control address is guarded.
	if len(s.routing.guardState.Prefixes) > 0 {
		t.Errorf("guarded: %v", s.routing.guardState.Prefixes)
	}
	await("Event", func(v1alpha1.SpeakerStatus) bool { return len(events.Events) > 0 })
	if e := <-events.Events; !strings.HasPrefix(e, "Warning AddressConflict 192.0.2.7: another host has the address") {
		t.Errorf("Event %q", e)
	}
	changeAddr(t, netlink.AddrDel, "lo", "192.0.2.7/32")
	await("announcement", func(report v1alpha1.SpeakerStatus) bool {
		return len(report.Unannounced) == 0 && len(report.Announcing) == 1 && slices.Equal(report.Announcing[0].Addresses, []string{"192.0.2.7"})
	})
	if e := <-events.Events; !strings.HasPrefix(e, "Normal Announcing") || len(events.Events) > 0 {
		t.Errorf("Event %q, and %d more", e, len(events.Events))
	}
	if want := netip.MustParsePrefix("192.0.2.7/32"); !slices.Equal(s.routing.guardState.Prefixes, []netip.Prefix{want}) {
		t.Errorf("guarded: %v", s.routing.guardState.Prefixes)
	}
}

// TestKernelWarning checks that a speaker that announces an address reports that the kernel of
// its node answers for it, until the address or the sysctl has changed, and that it announces
// the address nevertheless.
func TestKernelWarning(t *testing.T) {
	s, events, _ := newVethSpeaker(t)
	setARPIgnore := func(iface, value string) {
		t.Helper()
		if err := os.WriteFile("/proc/sys/net/ipv4/conf/"+iface+"/arp_ignore", []byte(value), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	setARPIgnore("lan0", "8") // there is no other host
	if err := s.slices.GetStore().Add(fixture.EndpointSlice("s", "n ready")); err != nil {
		t.Fatal(err)
	}
	announced := func(warnings ...v1alpha1.AddressReason) func(v1alpha1.SpeakerStatus) bool {
		return func(report v1alpha1.SpeakerStatus) bool {
			return len(report.Announcing) == 1 && len(report.Unannounced) == 0 && reflect.DeepEqual(report.Warnings, warnings)
		}
	}
	kernelAnswers := announced(v1alpha1.AddressReason{
		Reason: v1alpha1.KernelAnswers,
		Message: "the kernel of node n answers for 192.0.2.7 on vip0, because it is configured on lo; " +
			"remove it: ip addr del 192.0.2.7/32 dev lo",
		Addresses: []string{"192.0.2.7"},
	})
	awaitReport(t, s, "announcement", announced())
	if s.nextSync <= sysctlInterval {
		t.Errorf("the next sync is due in %s without a warning", s.nextSync)
	}
	changeAddr(t, netlink.AddrAdd, "lo", "192.0.2.7/32")
	awaitReport(t, s, "warning", kernelAnswers)
	if s.nextSync > sysctlInterval {
		t.Errorf("the next sync is due in %s, and changes of sysctls cause none", s.nextSync)
	}
	setARPIgnore("vip0", "1")
	awaitReport(t, s, "end of the warning", announced())
	setARPIgnore("vip0", "0")
	awaitReport(t, s, "second warning", kernelAnswers)
	changeAddr(t, netlink.AddrDel, "lo", "192.0.2.7/32")
	awaitReport(t, s, "end of the second warning", announced())
	if e := <-events.Events; !strings.HasPrefix(e, "Normal Announcing") || len(events.Events) > 0 {
		t.Errorf("Event %q, and %d more", e, len(events.Events))
	}
}

// TestConflictLog checks that a conflict is recorded once, and not if it is over at once.
func TestConflictLog(t *testing.T) {
	events := record.NewFakeRecorder(10)
	s := &Speaker{events: events, log: slog.New(slog.DiscardHandler)}
	addr := netip.MustParseAddr("192.0.2.7")
	withReason := func(reason v1alpha1.Reason) plan.Plan {
		p := plan.Plan{Services: map[netip.Addr]*corev1.Service{addr: service("s", addr.String(), "p")}}
		p.L2 = map[netip.Addr]l2.Claim{addr: {Interfaces: []string{"eth0"}}}
		if reason != "" {
			p.Warnings = map[netip.Addr]v1alpha1.Refusal{addr: {Reason: reason, Message: "why"}}
		}
		return p
	}
	start := time.Unix(1000, 0)
	for i, step := range []struct {
		reason v1alpha1.Reason
		after  time.Duration
		wait   time.Duration
		events int
	}{
		{v1alpha1.AddressConflict, 0, conflictDelay, 0},
		{v1alpha1.ProxyARP, time.Second, conflictDelay, 0},
		{v1alpha1.ProxyARP, 2 * time.Second, conflictDelay - time.Second, 0},
		{v1alpha1.ProxyARP, 3 * time.Second, 0, 1},
		{v1alpha1.ProxyARP, time.Hour, 0, 1},
		{"", 2 * time.Hour, 0, 1},
		{v1alpha1.AddressConflict, 3 * time.Hour, conflictDelay, 1},
		{v1alpha1.AddressConflict, 4 * time.Hour, 0, 2},
		{v1alpha1.NoEndpoints, 5 * time.Hour, 0, 2},
		{v1alpha1.NoEndpoints, 6 * time.Hour, 0, 2},
		{v1alpha1.KernelAnswers, 7 * time.Hour, 0, 2},
		{v1alpha1.KernelAnswers, 8 * time.Hour, 0, 2},
	} {
		if wait := s.conflicts.record(s, withReason(step.reason), start.Add(step.after)); wait != step.wait || len(events.Events) != step.events {
			t.Errorf("step %d: wait %s, %d Events", i, wait, len(events.Events))
		}
	}
}

// TestApplyAnnounced checks that an address that the Announcer failed to announce is
// unannounced, and that addresses that are being probed or withheld are not.
func TestApplyAnnounced(t *testing.T) {
	held, other := netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("192.0.2.8")
	apply := func(c l2.Claim, err error) plan.Plan {
		c.Interfaces = []string{"eth0"}
		p := plan.Plan{L2: map[netip.Addr]l2.Claim{held: c, other: c}, Unannounced: map[netip.Addr]v1alpha1.Refusal{}}
		(&Speaker{node: "n"}).applyAnnounced(p, map[netip.Addr]l2.Claim{held: {Interfaces: c.Interfaces}}, err)
		return p
	}
	if p := apply(l2.Claim{Probe: true}, nil); p.L2[held].Probe || !p.L2[other].Probe || len(p.Unannounced) > 0 {
		t.Errorf("probed: %+v", p)
	}
	p := apply(l2.Claim{Probe: true}, errors.Join(errors.New("a"), errors.New("b")))
	want := v1alpha1.Refusal{Reason: v1alpha1.AnnounceFailed, Message: "node n cannot announce it: a; b"}
	if len(p.Unannounced) != 1 || p.Unannounced[other] != want {
		t.Errorf("failed: %+v", p.Unannounced)
	}
	if p := apply(l2.Claim{Withhold: true}, errors.New("a")); len(p.Unannounced) > 0 {
		t.Errorf("withheld: %+v", p.Unannounced)
	}
}
