package config

import (
	"fmt"
	"reflect"
	"slices"
	"testing"
	"unicode/utf8"

	"go4.org/netipx"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-io/fairlead/config/fuzzed"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// bytesIn makes objects out of what the fuzzer makes up.
type bytesIn struct{ fuzzed.Bytes }

func (b *bytesIn) pool(i int) *v1alpha1.IPAddressPool {
	p := &v1alpha1.IPAddressPool{ObjectMeta: metav1.ObjectMeta{
		Name: fmt.Sprintf("p%d", i), CreationTimestamp: metav1.Unix(int64(1+b.Below(3)), 0),
	}}
	for n := b.Below(12); n > 0; n-- {
		entry := v1alpha1.AddressRange(b.Text("192.0.2.0/24", "192.0.2.128/25", "192.0.2.10-192.0.2.20", "192.0.2.20 - 192.0.2.10", "192.0.2.7",
			"0.0.0.0/0", "::/0", "192.0.2.0/33", "2001:db8::/129", "192.0.2.1/24",
			"::ffff:192.0.2.0/120", "::ffff:192.0.2.1", "fe80::1%eth0", "2001:db8::/64",
			"2001:db8::1-192.0.2.1", "203.0.113.0/24", "10.0.0.0/8", "255.255.255.254-255.255.255.255", "-", "/", "١٩٢.0.2.1", ""))
		p.Spec.Addresses = append(p.Spec.Addresses, entry)
		for again := b.Below(2) * b.Below(256); again > 0; again-- { // hundreds of them
			p.Spec.Addresses = append(p.Spec.Addresses, v1alpha1.AddressRange(fmt.Sprintf("198.51.%d.%d", b.Below(2), again)))
		}
	}
	p.Spec.AvoidBuggyIPs = b.Below(2) == 1
	if b.Below(2) == 1 {
		p.Spec.ServiceAllocation = &v1alpha1.ServiceAllocation{
			Priority: int32(b.Below(3)), Namespaces: []string{b.Text("ns", "", "日本")}[:b.Below(2)],
			NamespaceSelectors: []metav1.LabelSelector{b.selector(), b.selector()}[:b.Below(3)],
			ServiceSelectors:   []metav1.LabelSelector{b.selector(), b.selector()}[:b.Below(3)],
		}
	}
	if b.Below(4) == 1 {
		p.DeletionTimestamp = &metav1.Time{}
	}
	return p
}

func (b *bytesIn) selector() (s metav1.LabelSelector) {
	if b.Below(2) == 1 {
		s.MatchLabels = map[string]string{b.Text("app", "", "a/b/c"): b.Text("x", "", "not a label")}
	}
	if b.Below(2) == 1 {
		s.MatchExpressions = []metav1.LabelSelectorRequirement{{
			Key:      b.Text("app", ""),
			Operator: metav1.LabelSelectorOperator(b.Text("In", "NotIn", "Exists", "DoesNotExist", "Gt")),
			Values:   []string{b.Text("x")}[:b.Below(2)],
		}}
	}
	return s
}

// FuzzPools parses pools that anybody could write. Every entry is in use, or
// has a Problem; nobody hurts a pool that was there before.
func FuzzPools(f *testing.F) {
	for i := range 23 { // each of the entries above in one pool, twice
		f.Add([]byte{1, 1, 2, byte(i), 0, byte(i), 0, 1, 1, 1, byte(i), 1, 1, 1, 1, 1, byte(i), byte(i)})
	}
	f.Add([]byte{2, 1, 1, 0, 1, 255, 1, 1, 0, 1, 1, 15, 1, 255, 0, 0, 0, 1, 1, 1, 255, 1, 0})
	f.Add([]byte("\x03\x01\x0b\x16\x20unicode in an entry: ｱﾄﾞﾚｽ\x01\xff\x01\x01\x01"))
	f.Fuzz(func(t *testing.T, data []byte) {
		b := &bytesIn{fuzzed.Bytes{Rest: data}}
		bystander := pool("bystander", 0, "203.0.113.0/25", "2001:db8:1::/64")
		pools := []*v1alpha1.IPAddressPool{bystander}
		for i := range 1 + b.Below(4) {
			pools = append(pools, b.pool(i))
		}
		var before []*v1alpha1.IPAddressPool
		for _, p := range pools {
			before = append(before, p.DeepCopy())
		}
		c, problems := Parse(Objects{Pools: pools})
		if !reflect.DeepEqual(before, pools) {
			t.Fatal("Parse has changed the objects")
		}
		slices.Reverse(before)
		if again, problemsAgain := Parse(Objects{Pools: before}); !reflect.DeepEqual(c, again) || !reflect.DeepEqual(problems, problemsAgain) {
			t.Fatalf("in another order:\n%v %v\n%v %v", c, problems, again, problemsAgain)
		}
		for _, object := range pools {
			parsed := c.Pools[slices.IndexFunc(c.Pools, func(p Pool) bool { return p.Name == object.Name })]
			checkEntries(t, object, parsed, problems)
			about := slices.DeleteFunc(slices.Clone(problems), func(p Problem) bool { return p.Name != object.Name })
			if object == bystander && len(about) > 0 {
				t.Fatalf("the bystander: %v", about)
			}
			if ready := ReadyCondition(about, "in use"); len(ready.Message) > 32768 || !utf8.ValidString(ready.Message) || ready.Message == "" {
				t.Fatalf("no condition can say %q", ready.Message)
			}
			for _, other := range parsed.Overlaps {
				if o := c.Pools[slices.IndexFunc(c.Pools, func(p Pool) bool { return p.Name == other })]; !slices.Contains(o.Overlaps, object.Name) {
					t.Fatalf("%s overlaps %s, and not the other way round", object.Name, other)
				}
			}
		}
		for i, p := range c.Pools {
			for _, q := range c.Pools[:i] {
				for _, r := range p.Ranges {
					if slices.ContainsFunc(q.Ranges, r.Overlaps) {
						t.Fatalf("%s and %s have %s both", p.Name, q.Name, r)
					}
				}
			}
		}
	})
}

// checkEntries: an entry is in use, or has its Problem, and never both.
func checkEntries(t *testing.T, object *v1alpha1.IPAddressPool, parsed Pool, problems []Problem) {
	for i, entry := range object.Spec.Addresses {
		r, err := ParseRange(string(entry))
		inUse := err == nil && slices.ContainsFunc(parsed.Ranges, func(have netipx.IPRange) bool {
			return have.Contains(r.From()) && have.Contains(r.To())
		})
		first := slices.Index(object.Spec.Addresses, entry) == i
		told := slices.ContainsFunc(problems, func(p Problem) bool {
			return p.Name == object.Name && p.Field == fmt.Sprintf("spec.addresses[%d]", i) && p.Reason != "" && p.Message != ""
		})
		if !inUse && !told || err != nil && !told {
			t.Fatalf("%s: %q is not in use, and nobody says why", object.Name, entry)
		}
		if !first && !told {
			t.Fatalf("%s: %q is written twice, and nobody says so", object.Name, entry)
		}
		if inUse && (r.From().Is4In6() || r.From().Zone() != "") {
			t.Fatalf("%s: %q is in use as %s", object.Name, entry, r)
		}
	}
}
