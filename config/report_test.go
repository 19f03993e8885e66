package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"unicode"

	"k8s.io/apimachinery/pkg/api/equality"

	"github.com/fairlead-io/fairlead/config/fuzzed"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// repeated returns n entries.
func repeated[T any](n int, entry func(i int) T) (all []T) {
	for i := range n {
		all = append(all, entry(i))
	}
	return all
}

func reportedInterface(name string, addresses ...string) v1alpha1.Interface {
	return v1alpha1.Interface{Name: name, Addresses: addresses}
}

// TestBoundReport checks what remains of hostile reports.
func TestBoundReport(t *testing.T) {
	const escape = "\x1b[2Jok\u202e\n\xff"
	groups := func(n, addresses int) []v1alpha1.Announcement {
		return repeated(n, func(int) v1alpha1.Announcement {
			return v1alpha1.Announcement{
				Interfaces: []string{"eth0"}, Addresses: repeated(addresses, func(int) string { return "0.0.0.0-255.255.255.255" }),
			}
		})
	}
	for _, row := range []struct {
		name    string
		report  v1alpha1.SpeakerStatus
		omitted int
		ok      func(s v1alpha1.SpeakerStatus) bool
	}{
		{
			"many groups",
			v1alpha1.SpeakerStatus{Announcing: groups(1000, 1)},
			1000 - v1alpha1.MaxReportedGroups,
			func(s v1alpha1.SpeakerStatus) bool { return len(s.Announcing) == v1alpha1.MaxReportedGroups },
		},
		{
			"many addresses",
			v1alpha1.SpeakerStatus{Announcing: groups(2, 9000)},
			18_000 - v1alpha1.MaxReportedAddresses,
			func(s v1alpha1.SpeakerStatus) bool {
				return len(s.Announcing[0].Addresses)+len(s.Announcing[1].Addresses) == 10_000
			},
		},
		{
			"groups of nothing, and announced nowhere",
			v1alpha1.SpeakerStatus{Announcing: []v1alpha1.Announcement{{Interfaces: []string{"eth0"}}, {Addresses: []string{"192.0.2.1"}}}},
			1,
			func(s v1alpha1.SpeakerStatus) bool { return len(s.Announcing) == 0 },
		},
		{
			"names of a group",
			v1alpha1.SpeakerStatus{Announcing: []v1alpha1.Announcement{{
				Interfaces: []string{"eth0", escape}, Peers: []string{escape, strings.Repeat("a", 254), "tor"}, Addresses: []string{"192.0.2.1"},
			}}},
			3, func(s v1alpha1.SpeakerStatus) bool {
				return len(s.Announcing[0].Interfaces) == 1 && len(s.Announcing[0].Peers) == 1
			},
		},
		{
			"reasons that speakers do not have",
			v1alpha1.SpeakerStatus{Unannounced: []v1alpha1.AddressReason{
				{Reason: "Invented", Addresses: []string{"192.0.2.1"}},
				{Reason: v1alpha1.Announced, Addresses: []string{"192.0.2.1"}},
				{Reason: v1alpha1.NoSession, Message: escape, Addresses: []string{"192.0.2.1"}},
			}},
			2, func(s v1alpha1.SpeakerStatus) bool {
				return len(s.Unannounced) == 1 && s.Unannounced[0].Message == "?[2Jok???"
			},
		},
		{
			"reasons that warnings do not have",
			v1alpha1.SpeakerStatus{Warnings: []v1alpha1.AddressReason{
				{Reason: v1alpha1.NoSession, Addresses: []string{"192.0.2.1"}},
				{Reason: v1alpha1.AddressConflict, Message: escape, Addresses: repeated(v1alpha1.MaxReportedAddresses+1, func(int) string { return "192.0.2.1" })},
			}},
			2, func(s v1alpha1.SpeakerStatus) bool {
				return len(s.Warnings) == 1 && s.Warnings[0].Message == "?[2Jok???" && len(s.Warnings[0].Addresses) == v1alpha1.MaxReportedAddresses
			},
		},
		{
			"texts and counts of a session",
			v1alpha1.SpeakerStatus{Version: escape, AnnouncedAddresses: -1, Omitted: -1, Sessions: []v1alpha1.Session{{
				Peer: "tor", State: escape, LastError: strings.Repeat("x", 1<<20), ProblemReason: "not a reason", Routes: -1, Lost: -1,
				Pending: repeated(100, func(int) string { return escape }),
			}, {Peer: escape}}},
			36 + 1, func(s v1alpha1.SpeakerStatus) bool {
				session := s.Sessions[0]
				return s.Version == "?[2Jok???" && s.AnnouncedAddresses == 0 && s.Omitted == 0 && session.State == s.Version &&
					len(session.LastError) == v1alpha1.MaxReportedMessage && session.ProblemReason == "" && session.Routes == 0 && session.Lost == 0 &&
					len(session.Pending) == 64 && session.Pending[0] == s.Version && len(s.Sessions) == 1
			},
		},
		{
			"many sessions",
			v1alpha1.SpeakerStatus{Sessions: repeated(1000, func(i int) v1alpha1.Session { return v1alpha1.Session{Peer: fmt.Sprint(i)} })},
			1000 - v1alpha1.MaxReportedSessions, func(s v1alpha1.SpeakerStatus) bool { return len(s.Sessions) == v1alpha1.MaxReportedSessions },
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			before := row.report.DeepCopy()
			got, omitted := BoundReport(row.report)
			if omitted != row.omitted || !row.ok(got) {
				t.Errorf("omitted %d, want %d; got %.2000s", omitted, row.omitted, fmt.Sprintf("%+v", got))
			}
			if !equality.Semantic.DeepEqual(*before, row.report) {
				t.Error("the report was modified")
			}
		})
	}
}

// TestBoundInterfaces checks what remains of hostile L2Nodes.
func TestBoundInterfaces(t *testing.T) {
	const escape = "\x1b[2Jok\u202e\n\xff"
	for _, row := range []struct {
		name       string
		interfaces []v1alpha1.Interface
		omitted    int
		ok         func(all []v1alpha1.Interface) bool
	}{
		{
			"prefix lengths",
			[]v1alpha1.Interface{reportedInterface("eth0",
				"0.0.0.0/0", "128.0.0.0/1", "10.0.0.1/7", "10.0.0.1/8", "::/0", "2001:db8::1/47", "2001:db8::1/48", "::ffff:192.0.2.1/104", "x")},
			7, func(all []v1alpha1.Interface) bool {
				return fmt.Sprint(all[0].Addresses) == "[10.0.0.1/8 2001:db8::1/48]"
			},
		},
		{
			"1 MB of subnets of one interface",
			[]v1alpha1.Interface{
				reportedInterface("eth0", repeated(70_000, func(i int) string { return fmt.Sprintf("10.%d.%d.0/24", i>>8&0xff, i&0xff) })...),
				reportedInterface("eth1", "192.0.2.1/24"),
			},
			70_000 - v1alpha1.MaxReportedSubnets + 1,
			func(all []v1alpha1.Interface) bool {
				return len(all[0].Addresses) == v1alpha1.MaxReportedSubnets && len(all[1].Addresses) == 0
			},
		},
		{
			"many interfaces",
			repeated(1000, func(i int) v1alpha1.Interface { return reportedInterface(fmt.Sprint("eth", i)) }),
			1000 - v1alpha1.MaxReportedInterfaces,
			func(all []v1alpha1.Interface) bool { return len(all) == v1alpha1.MaxReportedInterfaces },
		},
		{
			"names of interfaces",
			[]v1alpha1.Interface{
				reportedInterface(""), reportedInterface("a/b"), reportedInterface("a b"), reportedInterface("\x1b[2J"),
				reportedInterface("sixteen-letters-"), reportedInterface("fifteen-letters"), reportedInterface("eth0.100"),
			},
			5, func(all []v1alpha1.Interface) bool { return len(all) == 2 },
		},
		{
			"MACs",
			[]v1alpha1.Interface{
				{Name: "a", MACAddress: "02:00:00:00:00:01"},
				{Name: "b", MACAddress: "02:00:00:00:00:0A"},
				{Name: "c", MACAddress: "01:00:5e:00:00:01"},
				{Name: "d", MACAddress: "02-00-00-00-00-01"},
				{Name: "e", MACAddress: "02:00:00:00:00:00:00:01"},
				{Name: "f", MACAddress: escape},
			},
			5, func(all []v1alpha1.Interface) bool {
				return len(all) == 6 && all[0].MACAddress != "" &&
					!slices.ContainsFunc(all[1:], func(i v1alpha1.Interface) bool { return i.MACAddress != "" })
			},
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			before := (&v1alpha1.L2NodeStatus{Interfaces: row.interfaces}).DeepCopy()
			got, omitted := BoundInterfaces(row.interfaces)
			if omitted != row.omitted || !row.ok(got) {
				t.Errorf("omitted %d, want %d; got %.2000s", omitted, row.omitted, fmt.Sprintf("%+v", got))
			}
			if !equality.Semantic.DeepEqual(before.Interfaces, row.interfaces) {
				t.Error("the interfaces were modified")
			}
		})
	}
}

// TestReportCost checks that the cost of a hostile report does not depend on its size.
func TestReportCost(t *testing.T) {
	subnets := repeated(100, func(int) string { return "0.0.0.0/0" })
	of := func(n int) float64 {
		s := v1alpha1.SpeakerStatus{Announcing: repeated(n, func(int) v1alpha1.Announcement {
			return v1alpha1.Announcement{Interfaces: []string{"eth0"}, Addresses: []string{"0.0.0.0-255.255.255.255"}}
		})}
		interfaces := repeated(n, func(int) v1alpha1.Interface { return reportedInterface("eth0", subnets...) })
		return testing.AllocsPerRun(3, func() { BoundReport(s); BoundInterfaces(interfaces) })
	}
	if a, b := of(300), of(6000); b > a {
		t.Errorf("%v allocations for 300 entries, %v for 6,000", a, b)
	}
}

// FuzzBoundReport checks that what is returned is within all bounds, printable, and
// returned unchanged if it is bounded again.
func FuzzBoundReport(f *testing.F) {
	f.Add([]byte("\x01\x02\x03\x00\x01\x00\x02eth0\x001.2.3.4/5"))
	f.Add([]byte(strings.Repeat("\x02\x01\x07\x1b[2J\xff", 40)))
	f.Fuzz(func(t *testing.T, data []byte) {
		b := fuzzed.Bytes{Rest: data}
		texts := func() []string {
			return repeated(b.Below(5), func(int) string {
				return b.Text("eth0", "192.0.2.1/24", "0.0.0.0/0", "192.0.2.1-192.0.2.9", "::-ffff::", strings.Repeat("ü", 2000))
			})
		}
		var s v1alpha1.SpeakerStatus
		var interfaces []v1alpha1.Interface
		for range b.Below(4) {
			interfaces = append(interfaces, reportedInterface(b.Text("eth0"), texts()...))
			s.Announcing = append(s.Announcing, v1alpha1.Announcement{Interfaces: texts(), Peers: texts(), Addresses: texts()})
			s.Unannounced = append(s.Unannounced, v1alpha1.AddressReason{
				Reason: v1alpha1.Reason(b.Text("NoInterface")), Message: b.Text(strings.Repeat("ü", 600)), Addresses: texts(),
			})
			s.Sessions = append(s.Sessions, v1alpha1.Session{
				Peer: b.Text("tor"), State: b.Text("Idle"), LastError: b.Text(strings.Repeat("\xff", 5000)),
				ProblemReason: v1alpha1.Reason(b.Text("NoRouter")), Pending: texts(),
			})
		}
		got, omitted := BoundReport(s)
		again, more := BoundReport(got)
		if more != 0 || omitted < 0 || !equality.Semantic.DeepEqual(got, again) {
			t.Fatalf("bounded again, %d entries are omitted: %+v and %+v", more, got, again)
		}
		bounded, _ := BoundInterfaces(interfaces)
		if same, more := BoundInterfaces(bounded); more != 0 || !equality.Semantic.DeepEqual(bounded, same) {
			t.Fatalf("bounded again, %d entries are omitted: %+v and %+v", more, bounded, same)
		}
		for _, i := range bounded {
			for _, text := range i.Addresses {
				p := netip.MustParsePrefix(text)
				if p.Bits() < v1alpha1.MinPrefixLength4 || p.Addr().Is6() && p.Bits() < v1alpha1.MinPrefixLength6 {
					t.Fatalf("interface %q has %s", i.Name, text)
				}
			}
		}
		for _, group := range got.Announcing {
			for _, text := range group.Addresses {
				if r, ok := ReportedRange(text); ok && (!r.IsValid() || len(text) > v1alpha1.MaxReportedRange) {
					t.Fatalf("range %q is %s", text, r)
				}
			}
		}
		for _, session := range got.Sessions {
			for _, text := range append(session.Pending, session.Peer, session.State, session.LastError) {
				if strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) || len(text) > v1alpha1.MaxReportedMessage {
					t.Fatalf("%q is not printable, or too long", text)
				}
			}
		}
	})
}
