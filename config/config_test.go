package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

func pool(name string, age int64, entries ...v1alpha1.AddressRange) *v1alpha1.IPAddressPool {
	return &v1alpha1.IPAddressPool{
		ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.Unix(age, 0)},
		Spec:       v1alpha1.IPAddressPoolSpec{Addresses: entries},
	}
}

func TestParseRange(t *testing.T) {
	for entry, want := range map[string]string{
		"192.0.2.0/24":                  "192.0.2.0-192.0.2.255",
		"192.0.2.7":                     "192.0.2.7-192.0.2.7",
		"192.0.2.7/32":                  "192.0.2.7-192.0.2.7",
		"192.0.2.1-192.0.2.9":           "192.0.2.1-192.0.2.9",
		"192.0.2.1 -  192.0.2.9":        "192.0.2.1-192.0.2.9",
		"2001:db8::/126":                "2001:db8::-2001:db8::3",
		"2001:DB8::1-2001:db8:0:0::F":   "2001:db8::1-2001:db8::f",
		"10.0.0.0/8":                    "10.0.0.0-10.255.255.255",
		"ten":                           "InvalidAddress",
		"":                              "InvalidAddress",
		"192.0.2.0/33":                  "InvalidAddress",
		"192.0.2.256":                   "InvalidAddress",
		"192.0.2.1-":                    "InvalidAddress",
		"192.0.2.1-192.0.2.2-192.0.2.3": "InvalidAddress",
		"192.0.2.1-2001:db8::1":         "InvalidAddress",
		"2001:db8::1%eth0":              "InvalidAddress",
		"::ffff:192.0.2.1":              "InvalidAddress",
		"::ffff:192.0.2.0/120":          "InvalidAddress",
		"0.0.0.0/0":                     "InvalidAddress",
		"::/0":                          "InvalidAddress",
		"127.0.0.1":                     "InvalidAddress",
		"224.0.0.1":                     "InvalidAddress",
		"fe80::1":                       "InvalidAddress",
		"192.0.2.7/24":                  "HostBitsSet",
		"2001:db8::1/64":                "HostBitsSet",
		"192.0.2.9-192.0.2.1":           "InvertedRange",
	} {
		r, err := ParseRange(entry)
		got := r.String()
		if err != nil {
			got = string(err.(*InvalidRangeError).Reason)
			if !strings.Contains(err.Error(), entry) {
				t.Errorf("%q: the error %q does not name it", entry, err)
			}
		}
		if got != want {
			t.Errorf("%q: got %s, want %s (%v)", entry, got, want, err)
		}
	}
}

// TestParseKeepsWhatIsValid also pins the words that users see.
func TestParseKeepsWhatIsValid(t *testing.T) {
	c, problems := Parse(Objects{Pools: []*v1alpha1.IPAddressPool{
		pool("young", 2, "192.0.2.128/25", "198.51.100.0/24", "203.0.113.9-203.0.113.1"),
		pool("old", 1, "192.0.2.0/24", "192.0.2.7", "10.0.0.1/8"),
	}})
	var got []string
	for _, p := range problems {
		got = append(got, fmt.Sprintf("%s [%s]", p, p.Reason))
	}
	want := []string{
		`IPAddressPool old: spec.addresses[1]: "192.0.2.7" overlaps an earlier entry "192.0.2.0/24" [OverlappingAddresses]`,
		`IPAddressPool old: spec.addresses[2]: "10.0.0.1/8" has host bits set; did you mean "10.0.0.0/8", or "10.0.0.1/32"? [HostBitsSet]`,
		`IPAddressPool young: spec.addresses[0]: "192.0.2.128/25" overlaps the older IPAddressPool "old" ` +
			`with "192.0.2.0/24" [OverlappingAddresses]`,
		`IPAddressPool young: spec.addresses[2]: "203.0.113.9-203.0.113.1" ends before it starts; ` +
			`did you mean "203.0.113.1-203.0.113.9"? [InvertedRange]`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	ranges := map[string]string{}
	for _, p := range c.Pools {
		ranges[p.Name] = fmt.Sprint(p.Ranges)
	}
	if want := map[string]string{
		"old": "[192.0.2.0-192.0.2.255]", "young": "[198.51.100.0-198.51.100.255]",
	}; !reflect.DeepEqual(ranges, want) {
		t.Errorf("got %v, want %v", ranges, want)
	}
}

// TestDeletedPoolYields: what a pool that is being deleted contains can be put
// into another one, although that is younger.
func TestDeletedPoolYields(t *testing.T) {
	deleted := pool("old", 1, "192.0.2.0/24", "198.51.100.0/24")
	now := metav1.Now()
	deleted.DeletionTimestamp = &now
	c, problems := Parse(Objects{Pools: []*v1alpha1.IPAddressPool{deleted, pool("new", 2, "192.0.2.0/25")}})
	ranges := map[string]string{}
	for _, p := range c.Pools {
		ranges[p.Name] = fmt.Sprint(p.Ranges, p.Overlaps)
	}
	if want := map[string]string{
		"new": "[192.0.2.0-192.0.2.127] [old]", "old": "[198.51.100.0-198.51.100.255] [new]",
	}; !reflect.DeepEqual(ranges, want) {
		t.Errorf("got %v, want %v", ranges, want)
	}
	last := problems[len(problems)-1].String()
	if want := `IPAddressPool old: spec.addresses[0]: "192.0.2.0/24" overlaps IPAddressPool "new" with "192.0.2.0/25"`; last != want {
		t.Errorf("got %s, want %s", last, want)
	}
}

// TestOverlaps: pools overlap whether their entries are used or not.
func TestOverlaps(t *testing.T) {
	c, _ := Parse(Objects{Pools: []*v1alpha1.IPAddressPool{
		pool("a", 1, "192.0.2.1-192.0.2.2"), pool("d", 1, "192.0.2.12"), pool("e", 1, "192.0.2.13"),
		pool("b", 2, "192.0.2.1-192.0.2.10"), pool("c", 3, "192.0.2.5-192.0.2.12"),
	}})
	got := map[string]string{}
	for _, p := range c.Pools {
		got[p.Name] = strings.Join(p.Overlaps, " ")
	}
	if want := map[string]string{"a": "b", "b": "a c", "c": "b d", "d": "c", "e": ""}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// TestOverlapsOfMany: pools of the largest size that overlap everywhere.
func TestOverlapsOfMany(t *testing.T) {
	var o Objects
	for i := range 10 {
		var entries []v1alpha1.AddressRange
		for j := range 1024 {
			entries = append(entries, v1alpha1.AddressRange(fmt.Sprintf("10.%d.%d.%d/31", i, j/64, j%64*4)))
		}
		o.Pools = append(o.Pools, pool(fmt.Sprintf("p%d", i), 1, entries...))
	}
	o.Pools = append(o.Pools, pool("all", 2, slices.Repeat([]v1alpha1.AddressRange{"10.0.0.0/8"}, 1024)...))
	c, problems := Parse(o)
	if len(problems) != 1024 {
		t.Errorf("%d problems", len(problems))
	}
	for _, p := range c.Pools {
		if want := map[bool]int{false: 1, true: 10}[p.Name == "all"]; len(p.Overlaps) != want {
			t.Errorf("%s overlaps %v", p.Name, p.Overlaps)
		}
	}
}

func TestPoolOrder(t *testing.T) {
	priority := func(p *v1alpha1.IPAddressPool, n int32) *v1alpha1.IPAddressPool {
		p.Spec.ServiceAllocation = &v1alpha1.ServiceAllocation{Priority: n}
		return p
	}
	c, _ := Parse(Objects{Pools: []*v1alpha1.IPAddressPool{
		pool("none", 1), priority(pool("zero", 1), 0), priority(pool("b", 1), 5), priority(pool("a", 1), 5), priority(pool("first", 1), 1),
	}})
	var got []string
	for _, p := range c.Pools {
		got = append(got, p.Name)
	}
	if want := []string{"first", "a", "b", "none", "zero"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestL2Advertisement(t *testing.T) {
	labelled := pool("labelled", 1, "192.0.2.0/24")
	labelled.Labels = map[string]string{"tier": "edge"}
	bad := metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "x", Operator: "Near"}}}
	ad := func(name string, spec v1alpha1.L2AdvertisementSpec) *v1alpha1.L2Advertisement {
		return &v1alpha1.L2Advertisement{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: spec}
	}
	edge := []metav1.LabelSelector{{MatchLabels: map[string]string{"tier": "edge"}}}
	c, problems := Parse(Objects{
		Pools: []*v1alpha1.IPAddressPool{labelled, pool("plain", 1, "198.51.100.0/24")},
		L2Advertisements: []*v1alpha1.L2Advertisement{
			ad("all", v1alpha1.L2AdvertisementSpec{}),
			ad("by-label", v1alpha1.L2AdvertisementSpec{IPAddressPoolSelectors: edge, NodeSelectors: edge}),
			ad("by-name", v1alpha1.L2AdvertisementSpec{IPAddressPools: []string{"plain", "absent"}}),
			ad("broken", v1alpha1.L2AdvertisementSpec{
				NodeSelectors: []metav1.LabelSelector{bad}, IPAddressPoolSelectors: []metav1.LabelSelector{bad},
				NodeWeights: []v1alpha1.NodeWeight{{NodeSelector: edge[0], Weight: 3}, {NodeSelector: bad, Weight: 7}, {NodeSelector: edge[0]}},
			}),
		},
	})
	covers := map[string][]string{}
	nodes := map[string][]bool{}
	for _, a := range c.L2Advertisements {
		for _, p := range []string{"labelled", "plain", "absent", ""} {
			if a.Covers(p) {
				covers[a.Name] = append(covers[a.Name], p)
			}
		}
		nodes[a.Name] = []bool{a.SelectsNode(nil), a.SelectsNode(labels.Set{"tier": "edge"})}
	}
	if want := map[string][]string{
		"all": {"labelled", "plain", "absent", ""}, "by-label": {"labelled"}, "by-name": {"plain", "absent"},
	}; !reflect.DeepEqual(covers, want) {
		t.Errorf("covers %v, want %v", covers, want)
	}
	// A selector that cannot be read selects nothing, rather than everything.
	if want := map[string][]bool{
		"all": {true, true}, "by-label": {false, true}, "by-name": {true, true}, "broken": {false, false},
	}; !reflect.DeepEqual(nodes, want) {
		t.Errorf("selects %v, want %v", nodes, want)
	}
	broken := c.L2Advertisements[slices.IndexFunc(c.L2Advertisements, func(a L2Advertisement) bool { return a.Name == "broken" })]
	if w := broken.NodeWeight(labels.Set{"tier": "edge"}); w != 3 {
		t.Errorf("the weight is %d, want the largest one of valid entries", w)
	}
	if w := broken.NodeWeight(nil); w != -1 {
		t.Errorf("a node that no entry selects has the weight %d", w)
	}
	var got []string
	for _, p := range problems {
		got = append(got, fmt.Sprintf("%s %s %s", p.Name, p.Field, p.Reason))
	}
	if want := []string{
		"broken spec.ipAddressPoolSelectors[0] InvalidSelector", "broken spec.nodeSelectors[0] InvalidSelector",
		"broken spec.nodeWeights[1].nodeSelector InvalidSelector",
		"by-name spec.ipAddressPools[1] UnknownPool",
	}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// TestDeletedPoolStaysSelected checks that an advertisement with label selectors covers
// the deleted pools of its status, and that a pool that exists is selected by its labels
// alone.
func TestDeletedPoolStaysSelected(t *testing.T) {
	edge := []metav1.LabelSelector{{MatchLabels: map[string]string{"tier": "edge"}}}
	bad := []metav1.LabelSelector{{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "x", Operator: "Near"}}}}
	labelled, other := pool("labelled", 1), pool("other", 1)
	labelled.Labels, other.Labels = map[string]string{"tier": "edge"}, map[string]string{"tier": "core"}
	for _, tt := range []struct {
		name                        string
		names                       []string
		selectors                   []metav1.LabelSelector
		status                      []string
		pools, selected, deleted    []string
		coversDeleted, coversOthers bool
	}{
		{
			"deleted", nil, edge,
			[]string{"labelled", "gone"},
			[]string{"gone", "labelled"},
			[]string{"labelled"},
			[]string{"gone"},
			true, false,
		},
		{"created again with other labels", nil, edge, []string{"other"}, []string{"labelled"}, []string{"labelled"}, nil, false, false},
		{"not in the status yet", nil, edge, nil, []string{"labelled"}, []string{"labelled"}, nil, false, false},
		{"names", []string{"other"}, nil, []string{"gone"}, []string{"other"}, nil, nil, false, true},
		{
			"names and selectors",
			[]string{"other"},
			edge,
			[]string{"gone", "gone"},
			[]string{"gone", "labelled", "other"},
			[]string{"labelled"},
			[]string{"gone"},
			true, true,
		},
		{"all pools", nil, nil, []string{"gone"}, nil, nil, nil, true, true},
		{"invalid selector", nil, bad, []string{"gone", "labelled"}, []string{"gone"}, nil, []string{"gone"}, true, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l2, bgp := &v1alpha1.L2Advertisement{}, &v1alpha1.BGPAdvertisement{}
			l2.Spec.IPAddressPools, l2.Spec.IPAddressPoolSelectors, l2.Status.SelectedPools = tt.names, tt.selectors, tt.status
			bgp.Spec.IPAddressPools, bgp.Spec.IPAddressPoolSelectors, bgp.Status.SelectedPools = tt.names, tt.selectors, tt.status
			c, _ := Parse(Objects{
				Pools:            []*v1alpha1.IPAddressPool{labelled, other},
				L2Advertisements: []*v1alpha1.L2Advertisement{l2}, BGPAdvertisements: []*v1alpha1.BGPAdvertisement{bgp},
			})
			for _, s := range []Scope{c.L2Advertisements[0].Scope, c.BGPAdvertisements[0].Scope} {
				if !slices.Equal(s.Pools, tt.pools) || !slices.Equal(s.SelectedPools, tt.selected) || !slices.Equal(s.DeletedPools, tt.deleted) ||
					s.Covers("gone") != tt.coversDeleted || s.Covers("other") != tt.coversOthers {
					t.Errorf("got %+v", s)
				}
			}
		})
	}
}

// TestParserReadsSelectedPools checks that a Parser parses again when only
// status.selectedPools has changed, and not when another field of the status has.
func TestParserReadsSelectedPools(t *testing.T) {
	edge := []metav1.LabelSelector{{MatchLabels: map[string]string{"tier": "edge"}}}
	l2, bgp := &v1alpha1.L2Advertisement{}, &v1alpha1.BGPAdvertisement{}
	l2.Spec.IPAddressPoolSelectors, bgp.Spec.IPAddressPoolSelectors = edge, edge
	o := Objects{L2Advertisements: []*v1alpha1.L2Advertisement{l2}, BGPAdvertisements: []*v1alpha1.BGPAdvertisement{bgp}}
	var p Parser
	covered := func() (l2, bgp bool, state State) {
		c, _, state := p.Parse(o)
		return c.L2Advertisements[0].Covers("gone"), c.BGPAdvertisements[0].Covers("gone"), state
	}
	if l2, bgp, _ := covered(); l2 || bgp {
		t.Error("an empty status covers a pool")
	}
	l2, bgp = l2.DeepCopy(), bgp.DeepCopy()
	l2.Status.SelectedPools = []string{"gone"}
	o.L2Advertisements[0] = l2
	if l2, bgp, _ := covered(); !l2 || bgp {
		t.Errorf("got %v, %v after a change of the L2Advertisement", l2, bgp)
	}
	bgp.Status.SelectedPools = []string{"gone"}
	o.BGPAdvertisements[0] = bgp
	_, both, state := covered()
	if !both {
		t.Error("the change of the BGPAdvertisement was not read")
	}
	l2, bgp = l2.DeepCopy(), bgp.DeepCopy()
	l2.Status.Nodes, bgp.Status.Nodes = 3, 3
	o.L2Advertisements[0], o.BGPAdvertisements[0] = l2, bgp
	if _, _, same := covered(); same != state {
		t.Error("a count in the status invalidated the configuration")
	}
}

func TestReadyCondition(t *testing.T) {
	var problems []Problem
	for i := range 30 {
		problems = append(problems, Problem{Field: fmt.Sprintf("f%d", i), Reason: v1alpha1.InvalidAddress, Message: "bad"})
	}
	c := ReadyCondition(problems, "")
	if c.Status != metav1.ConditionFalse || c.Reason != "InvalidAddress" || c.Message != "f0: bad; f1: bad; f2: bad; and 27 more" {
		t.Errorf("got %+v", c)
	}
}

// FuzzParseRange: nothing panics, and what is accepted is a valid range of
// plain addresses of one family.
func FuzzParseRange(f *testing.F) {
	for _, s := range []string{
		"192.0.2.0/24", "192.0.2.1-192.0.2.9", "::1", "2001:db8::/64", "-", "/", "a-b", "0.0.0.0/0", "::ffff:1.2.3.4/96",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseRange(s)
		if err == nil && (!r.IsValid() || r.From().Is4In6() || r.From().Zone() != "") {
			t.Errorf("%q: %v", s, r)
		}
		c, _ := Parse(Objects{Pools: []*v1alpha1.IPAddressPool{pool("p", 1, v1alpha1.AddressRange(s), "192.0.2.0/24")}})
		if len(c.Pools[0].Ranges) == 0 {
			t.Errorf("%q: the other entry is lost", s)
		}
	})
}

func TestMessage(t *testing.T) {
	long := strings.Repeat("ü", 20000)
	if got := Message(long); len(got) > 32768 || !utf8.ValidString(got) || !strings.HasSuffix(got, "ü … (truncated)") {
		t.Errorf("got %d bytes, valid: %v", len(got), utf8.ValidString(got))
	}
	if got := Message("short"); got != "short" {
		t.Errorf("got %q", got)
	}
}
