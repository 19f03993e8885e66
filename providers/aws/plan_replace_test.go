package aws

import (
	"slices"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"
	"pgregory.net/rapid"
)

func TestPick(t *testing.T) {
	balancer := func(scheme elb.LoadBalancerSchemeEnum, second bool) existingBalancer {
		name := "first"
		if second {
			name = "second"
		}
		return existingBalancer{&elb.LoadBalancer{LoadBalancerName: aws.String(name), Scheme: scheme, SecurityGroups: []string{"sg-1"}}, "", second}
	}
	public, internal := elb.LoadBalancerSchemeEnumInternetFacing, elb.LoadBalancerSchemeEnumInternal
	for _, row := range []struct {
		name    string
		have    []existingBalancer
		allowed bool
		want    string // current, old, the name of a new one
	}{
		{"none", nil, false, "none none first"},
		{"the wanted one", []existingBalancer{balancer(internal, false)}, false, "first none first"},
		{"the wanted one by the second name", []existingBalancer{balancer(internal, true)}, false, "second none second"},
		{"another, and nobody allows it", []existingBalancer{balancer(public, false)}, false, "refused"},
		{"another", []existingBalancer{balancer(public, false)}, true, "none first second"},
		{"another by the second name", []existingBalancer{balancer(public, true)}, true, "none second first"},
		{"a replacement on its way", []existingBalancer{balancer(public, false), balancer(internal, true)}, true, "second first second"},
		{"the same, and the permission has gone", []existingBalancer{balancer(public, false), balancer(internal, true)}, false, "second first second"},
		{"not wanted any more", []existingBalancer{balancer(internal, false), balancer(public, true)}, true, "first second first"},
		{"neither is wanted", []existingBalancer{balancer(public, false), balancer(public, true)}, true, "refused"},
	} {
		t.Run(row.name, func(t *testing.T) {
			c, refusal := selectBalancer(stack{Scheme: internal, Replaceable: row.allowed}, row.have)
			name := func(b *elb.LoadBalancer) string {
				if b == nil {
					return "none"
				}
				return *b.LoadBalancerName
			}
			got := name(c.current) + " " + name(c.old) + " first"
			if c.second {
				got = name(c.current) + " " + name(c.old) + " second"
			}
			if refusal != nil {
				got = "refused"
			}
			if got != row.want {
				t.Errorf("got %s, want %s", got, row.want)
			}
		})
	}
}

// TestMoves: what was there becomes what is wanted, never none on the way, and
// never more than there is room for unless that would mean none.
func TestMoves(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ids := rapid.SliceOfDistinct(rapid.StringMatching(`[a-h]`), func(s string) string { return s })
		most := rapid.IntRange(1, 8).Draw(t, "most")
		have, want := ids.Draw(t, "have"), ids.Draw(t, "want")
		have, want = have[:min(len(have), most)], want[:min(len(want), most)]
		if len(want) == 0 {
			return // nobody asks for none
		}
		first, remove, rest := planMoves(have, want, most)
		then := append(slices.Clone(have), first...)
		kept := slices.ContainsFunc(have, func(id string) bool { return slices.Contains(want, id) })
		if len(then) > most && (kept || len(have) < most) {
			t.Fatalf("%d targets, of at most %d", len(then), most)
		}
		then = slices.DeleteFunc(then, func(id string) bool { return slices.Contains(remove, id) })
		if len(then) == 0 {
			t.Fatal("there is none for a moment")
		}
		then = append(then, rest...)
		slices.Sort(then)
		slices.Sort(want)
		if !slices.Equal(then, want) {
			t.Fatalf("%v, not %v", then, want)
		}
	})
}

// TestPlaceRules: each wanted rule is in one group, none moves, and no group
// has more than it holds.
func TestPlaceRules(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		one := rapid.Custom(func(t *rapid.T) rule { return rule{"tcp", rapid.Int32Range(1, 300).Draw(t, "port"), 0, "0.0.0.0/0"} })
		all := rapid.SliceOfNDistinct(one, 0, rulesPerGroup*maxGroups, func(r rule) rule { return r })
		before, want := all.Draw(t, "before"), all.Draw(t, "want")
		have := placeRules(before, make([][]rule, maxGroups))
		placed := placeRules(want, have)
		var flat []rule
		for i, rules := range placed {
			if len(rules) > rulesPerGroup {
				t.Fatalf("%d rules in a group", len(rules))
			}
			for _, r := range rules {
				for j := range have {
					if j != i && slices.Contains(have[j], r) {
						t.Fatalf("%s moved from group %d to %d", r, j, i)
					}
				}
			}
			flat = append(flat, rules...)
		}
		slices.SortFunc(flat, compareRules)
		slices.SortFunc(want, compareRules)
		if !slices.Equal(flat, want) {
			t.Fatalf("%v, not %v", flat, want)
		}
	})
}
