package aws

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/ec2"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	corev1 "k8s.io/api/core/v1"
	"pgregory.net/rapid"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// sourceRanges returns n ranges within a /16.
func sourceRanges(n, second int) (ranges []string) {
	for i := range n {
		ranges = append(ranges, fmt.Sprintf("10.%d.%d.0/24", second, i))
	}
	return ranges
}

// admittedSources returns the sources of clients that load balancers admit.
func (f *fakeAWS) admittedSources() map[string]bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	sources := map[string]bool{}
	for _, b := range f.balancers {
		for _, id := range b.SecurityGroups {
			for _, r := range f.group(id).rules {
				if r.protocol == "tcp" {
					sources[r.source] = true
				}
			}
		}
	}
	return sources
}

func TestRulesToRevokeFirst(t *testing.T) {
	rule := func(port int32, source string) securityRule { return securityRule{"tcp", port, port, source} }
	all, ten, inTen, other := rule(80, "0.0.0.0/0"), rule(80, "10.0.0.0/8"), rule(80, "10.1.0.0/16"), rule(80, "192.0.2.0/24")
	icmp := securityRule{"icmp", 3, 4, "0.0.0.0/0"}
	observed := []securityRule{icmp, ten, other, rule(443, "10.1.0.0/16")}
	for _, row := range []struct {
		name             string
		desired, applied []securityRule
		balancer         bool
		want             []securityRule
	}{
		{"no load balancer", []securityRule{icmp, inTen}, []securityRule{icmp, ten}, false, []securityRule{ten, other, observed[3]}},
		{"applied rules stay", []securityRule{icmp, inTen}, []securityRule{icmp, ten}, true, []securityRule{other, observed[3]}},
		{"overlapping rules may be the applied ones", []securityRule{icmp, inTen}, nil, true, []securityRule{other}},
		{"as does a wider source", []securityRule{icmp, all}, nil, true, nil},
	} {
		if got := rulesToRevokeFirst(observed, row.desired, row.applied, row.balancer); !slices.Equal(got, row.want) {
			t.Errorf("%s: got %v, want %v", row.name, got, row.want)
		}
	}
}

// TestRefusedCreation checks that the rules of a creation that was refused, or that
// a process did not complete, are found by the next sync: it changes only what
// differs, and the group never has the rules of both.
func TestRefusedCreation(t *testing.T) {
	for _, row := range []struct {
		name          string
		before, after []string
		newProcess    bool
		writes        string // to security groups, by the successful sync
	}{
		{"unchanged", sourceRanges(60, 9), sourceRanges(60, 9), false, ""},
		{"unchanged, new process", sourceRanges(60, 9), sourceRanges(60, 9), true, "CreateSecurityGroup"},
		{"narrowed", nil, []string{"10.0.0.0/8"}, false, "RevokeSecurityGroupIngress AuthorizeSecurityGroupIngress"},
		{
			"narrowed, new process", nil,
			[]string{"10.0.0.0/8"},
			true,
			"CreateSecurityGroup RevokeSecurityGroupIngress AuthorizeSecurityGroupIngress",
		},
		{"others", sourceRanges(59, 9), sourceRanges(41, 8), false, "RevokeSecurityGroupIngress AuthorizeSecurityGroupIngress"},
	} {
		t.Run(row.name, func(t *testing.T) {
			eachKind(t, func(t *testing.T, account func(t *testing.T) *account) {
				fresh, a := account(t), account(t)
				s := newService("web", 80)
				s.Spec.LoadBalancerSourceRanges = row.after
				fresh.ensureService(t, fresh.newProvider(t), s)
				c := a.newProvider(t)
				s.Spec.LoadBalancerSourceRanges = row.before
				a.fail(fault{action: "CreateTargetGroup", kind: clientError("AccessDenied")})
				if _, err := c.EnsureLoadBalancer(t.Context(), a.cluster, s, a.nodes); err == nil {
					t.Fatal("not refused")
				}
				if row.newProcess {
					c = a.newProvider(t)
				}
				a.reset()
				s.Spec.LoadBalancerSourceRanges = row.after
				a.ensureService(t, c, s)
				writes := slices.DeleteFunc(a.writes(), func(action string) bool { return !strings.Contains(action, "SecurityGroup") })
				if got := strings.Join(writes, " "); got != row.writes {
					t.Errorf("writes are %s, not %s", got, row.writes)
				}
				if got, want := a.world(t), fresh.world(t); got != want {
					t.Errorf("the world differs:\n%s", textDifference(want, got))
				}
			})
		})
	}
}

// TestNarrowedRanges checks that narrower ranges take effect although a later step is
// refused, and that no new rule is authorized before the ranges of a refused change
// are revoked. moto has no access to the rules between two calls.
func TestNarrowedRanges(t *testing.T) {
	a := fakeAccount(t)
	c, s := a.newProvider(t), newService("web", 80)
	a.ensureService(t, c, s)
	s.Spec.LoadBalancerSourceRanges = []string{"10.0.0.0/8"}
	s.Spec.Ports = newService("web", 80, 443).Spec.Ports
	a.fail(fault{action: "CreateTargetGroup", kind: clientError("TooManyTargetGroups")})
	var refusal *v1alpha1.Refusal
	if _, err := c.EnsureLoadBalancer(t.Context(), a.cluster, s, a.nodes); !errors.As(err, &refusal) {
		t.Fatalf("got %v", err)
	}
	if got := slices.Collect(maps.Keys(a.fake.admittedSources())); !slices.Equal(got, s.Spec.LoadBalancerSourceRanges) {
		t.Errorf("%v are admitted", got)
	}
}

// TestPartOfRulesExists checks that one rule that exists, or does not, costs two more
// calls and not one for each rule.
func TestPartOfRulesExists(t *testing.T) {
	eachAccount(t, func(t *testing.T, a *account) {
		c := a.newProvider(t)
		if err := c.connect(t.Context()); err != nil {
			t.Fatal(err)
		}
		var rules []securityRule
		for i := range int32(rulesPerGroup) {
			rules = append(rules, securityRule{"tcp", i + 1, i + 1, "10.0.0.0/8"})
		}
		in := &ec2.AuthorizeSecurityGroupIngressInput{GroupId: &a.nodeGroup, IpPermissions: permissionsOf(rules[:1])}
		get(t, a.ec2.AuthorizeSecurityGroupIngress, in)
		if err := c.authorizeIngress(t.Context(), a.nodeGroup, rules); err != nil {
			t.Fatal(err)
		}
		if calls := a.callCounts(); len(calls) != 3 || len(a.groups(t)[0].IpPermissions) != rulesPerGroup {
			t.Errorf("calls are %v", calls)
		}
		out := &ec2.RevokeSecurityGroupIngressInput{GroupId: &a.nodeGroup, IpPermissions: permissionsOf(rules[:1])}
		get(t, a.ec2.RevokeSecurityGroupIngress, out)
		if err := c.revokeIngress(t.Context(), a.nodeGroup, rules); err != nil {
			t.Fatal(err)
		}
		if calls := a.callCounts(); len(calls) > 3 || len(a.groups(t)[0].IpPermissions) != 0 {
			t.Errorf("calls are %v", calls)
		}
	})
}

// TestFirstGroupIsDeletedLast checks that a deletion that fails leaves the first
// group, by which the next process finds the others.
func TestFirstGroupIsDeletedLast(t *testing.T) {
	a := fakeAccount(t)
	a.fake.lingering, a.fake.inUse = 0, 0
	c, s := a.newProvider(t), newService("web", 80)
	s.Spec.LoadBalancerSourceRanges = sourceRanges(150, 9)
	a.ensureService(t, c, s)
	first := c.names.securityGroup(s.UID, 0)
	a.fail(fault{action: "DeleteSecurityGroup", kind: clientError("DependencyViolation")})
	if err := c.EnsureLoadBalancerDeleted(t.Context(), a.cluster, s); err == nil {
		t.Fatal("deleted groups in use")
	}
	a.reset()
	if !slices.ContainsFunc(a.groups(t), func(g ec2types.SecurityGroup) bool { return *g.GroupName == first }) {
		t.Error("the first group was deleted before the others")
	}
	s.Spec.LoadBalancerSourceRanges = nil
	a.ensureService(t, a.newProvider(t), s)
	if n := len(a.groups(t)); n != 3 {
		t.Errorf("%d groups, not those of the nodes, the shared one and one of the Service", n)
	}
	deleteService(t, a, a.newProvider(t), s)
}

// rangeHistory is a random history of one Service, with faults.
type rangeHistory struct {
	*account
	t       *testing.T
	c       *Cloud
	svc     *corev1.Service
	applied map[string]bool // sources of the last successful sync
	// attempted are the sources of syncs since then. unknown: the process has not
	// made a successful sync of what exists.
	attempted map[string]bool
	unknown   bool
	failure   string // that a call has shown
}

// current returns the sources that the Service requests.
func (h *rangeHistory) current() map[string]bool {
	sources := map[string]bool{}
	for _, source := range h.svc.Spec.LoadBalancerSourceRanges {
		sources[source] = true
	}
	if len(sources) == 0 {
		sources["0.0.0.0/0"] = true
	}
	return sources
}

// check is called after each call of a sync: a load balancer admits only sources of
// the applied or the current ranges, and only of the latter as soon as something else
// than a security group changes. It does not apply before the first change. A process
// that has not made a successful sync may authorize rules while overlapping ones of a
// change that failed exist.
func (h *rangeHistory) check(action string) {
	current := h.current()
	isGroup := strings.Contains(action, "SecurityGroup") || action == "CreateTags" || action == "DeleteTags"
	if strings.HasPrefix(action, "Describe") || action == "RevokeSecurityGroupIngress" || h.failure != "" {
		return
	}
	for source := range h.fake.admittedSources() {
		overlapping := slices.ContainsFunc(slices.Collect(maps.Keys(current)), func(x string) bool { return overlaps(x, source) })
		allowed := current[source] || isGroup && (h.applied[source] || h.unknown && h.attempted[source] && overlapping)
		if !allowed && (isGroup || len(h.fake.balancers) > 0) {
			h.failure = fmt.Sprintf("%s is admitted after %s; applied %v", source, action, slices.Sorted(maps.Keys(h.applied)))
		}
	}
}

// sync syncs once under a fault.
func (h *rangeHistory) sync(f *fault, killed bool) error {
	maps.Copy(h.attempted, h.current())
	h.reset()
	if f != nil {
		h.fail(*f)
	}
	h.fake.onCall = h.check
	_, err := h.c.EnsureLoadBalancer(h.t.Context(), h.cluster, h.svc, h.nodes)
	// Also if nothing was written. A new process does not know what was applied before the
	// annotation.
	if _, invalid := h.svc.Annotations[prefix+"unknown"]; f == nil && !(invalid && h.unknown) {
		h.check("SecurityGroups of a sync")
	}
	h.fake.onCall = nil
	h.reset()
	if err == nil {
		h.applied, h.attempted, h.unknown = h.current(), map[string]bool{}, false
	}
	if killed {
		h.c, h.unknown = h.newProvider(h.t), true
		maps.Copy(h.attempted, h.applied)
	}
	return err
}

// mergeOwnGroups returns a world in which the groups of each Service are one: over
// which of them rules are distributed depends on the history.
func mergeOwnGroups(world string) string {
	number := regexp.MustCompile(`(fl-[a-z0-9]{7}-[a-z0-9]{10})-[234]\b`)
	blocks := map[string][]string{}
	header := ""
	for line := range strings.Lines(number.ReplaceAllString(world, "$1")) {
		if !strings.HasPrefix(line, " ") {
			header = line
			blocks[header] = append(blocks[header], "")
		} else if !strings.HasPrefix(line, "  group ") || !slices.Contains(blocks[header], line) {
			blocks[header] = append(blocks[header], line)
		}
	}
	var out strings.Builder
	for _, header := range slices.Sorted(maps.Keys(blocks)) {
		out.WriteString(header + strings.Join(sorted(blocks[header]), ""))
	}
	return out.String()
}

// TestRangeHistories checks random histories of edits, refusals, faults, kills and
// deletions: see rangeHistory.check, and after each successful sync the world is that
// of a new account. moto has no access to the rules between two calls.
func TestRangeHistories(t *testing.T) {
	worlds := map[string]string{}
	fresh := func(s *corev1.Service) string {
		key := fmt.Sprint(s.Spec.LoadBalancerSourceRanges, s.Spec.Ports, s.Annotations)
		if worlds[key] == "" {
			a := fakeAccount(t)
			a.fake.lingering, a.fake.inUse = 0, 0
			a.ensureService(t, a.newProvider(t), s)
			worlds[key] = mergeOwnGroups(a.world(t))
		}
		return worlds[key]
	}
	actions := []string{
		"", "CreateSecurityGroup", "AuthorizeSecurityGroupIngress", "RevokeSecurityGroupIngress", "DeleteSecurityGroup",
		"SetSecurityGroups", "DescribeSecurityGroups", "CreateTargetGroup", "CreateLoadBalancer", "CreateListener",
	}
	kinds := []fault{
		{kind: clientError("AccessDenied")}, {kind: throttle, times: maxAttempts}, {kind: lostAnswer}, {kind: lostAnswer, times: maxAttempts},
	}
	rapid.Check(t, func(rt *rapid.T) {
		a := fakeAccount(t)
		a.fake.lingering, a.fake.inUse = 0, 0
		quota := a.fake.quota
		h := &rangeHistory{account: a, t: t, c: a.newProvider(t), svc: newService("web", 80), attempted: map[string]bool{}, unknown: true}
		drawFault := func() (f *fault, killed bool) {
			killed = rapid.IntRange(0, 3).Draw(rt, "killed") == 0
			one := rapid.SampledFrom(kinds).Draw(rt, "fault")
			one.action = rapid.SampledFrom(actions).Draw(rt, "action")
			one.after = rapid.IntRange(0, 2).Draw(rt, "after")
			if killed {
				one = fault{kind: unreached, times: forever, after: rapid.IntRange(0, 20).Draw(rt, "calls")}
			}
			return &one, killed
		}
		synced := func(err error) {
			if h.failure != "" {
				rt.Fatal(h.failure)
			}
			if err != nil {
				return
			}
			if got, want := mergeOwnGroups(a.world(t)), fresh(h.svc); got != want {
				rt.Fatalf("the world differs:\n%s", textDifference(want, got))
			}
		}
		for range rapid.IntRange(2, 7).Draw(rt, "steps") {
			h.svc.Spec.LoadBalancerSourceRanges = rapid.SampledFrom([][]string{
				nil,
				{"10.0.0.0/8"},
				{"10.1.0.0/16", "192.0.2.0/24"},
				{"192.0.2.0/24"},
				sourceRanges(59, 1), sourceRanges(70, 2), sourceRanges(60, 1)[20:],
			}).Draw(rt, "ranges")
			h.svc.Spec.Ports = newService("web", []int32{80, 443}[:rapid.IntRange(1, 2).Draw(rt, "ports")]...).Spec.Ports
			// The Service may be refused before anything is read, and before the first write.
			delete(h.svc.Annotations, prefix+"subnets")
			delete(h.svc.Annotations, prefix+"unknown")
			switch rapid.IntRange(0, 7).Draw(rt, "refused") {
			case 0:
				annotate("subnets", "subnet-none")(h.svc)
			case 1:
				annotate("unknown", "")(h.svc)
			}
			a.fake.quota.balancers = rapid.SampledFrom([]int{quota.balancers, 0}).Draw(rt, "quota")
			if rapid.IntRange(0, 4).Draw(rt, "delete") == 0 {
				f, killed := drawFault()
				a.fail(*f)
				err := h.c.EnsureLoadBalancerDeleted(t.Context(), a.cluster, h.svc)
				a.reset()
				if h.unknown = true; killed {
					h.c = a.newProvider(t)
				}
				maps.Copy(h.attempted, h.applied)
				if err == nil && len(a.fake.balancers) > 0 {
					rt.Fatal("the load balancer was not deleted")
				}
			}
			if f, killed := drawFault(); rapid.Bool().Draw(rt, "faulty") {
				synced(h.sync(f, killed))
			} else {
				synced(h.sync(nil, false))
			}
		}
		a.fake.quota = quota
		h.svc.Annotations = nil
		err := h.sync(nil, false)
		if synced(err); err != nil {
			rt.Fatal(err)
		}
	})
}

// TestLeftRulesOfDetachedGroup checks that rules of a group are revoked before the load
// balancer gets the group.
func TestLeftRulesOfDetachedGroup(t *testing.T) {
	a := fakeAccount(t)
	given := *get(t, a.ec2.CreateSecurityGroup, &ec2.CreateSecurityGroupInput{
		GroupName: new("given"), Description: new("x"), VpcId: &a.vpc,
	}).GroupId
	c, s := a.newProvider(t), newService("web", 80)
	annotate("security-groups", given)(s)
	a.ensureService(t, c, s)
	s.Annotations = nil
	a.fail(fault{action: "SetSecurityGroups", kind: clientError("AccessDenied")})
	if _, err := c.EnsureLoadBalancer(t.Context(), a.cluster, s, a.nodes); err == nil {
		t.Fatal("the call did not fail")
	}
	a.reset()
	s.Spec.LoadBalancerSourceRanges = []string{"10.0.0.0/8"}
	a.fake.onCall = func(action string) {
		if a.fake.admittedSources()["0.0.0.0/0"] && action == "SetSecurityGroups" {
			t.Error("0.0.0.0/0 is admitted")
		}
	}
	a.ensureService(t, c, s)
	a.fake.onCall = nil
}

// denySharedGroup makes the calls fail that check the groups of the nodes, for all Services.
func (a *account) denySharedGroup() {
	denied := clientError("AccessDenied")
	a.fake.failCall = func(ctx context.Context, action string) *faultKind {
		if action == "DescribeSecurityGroups" && flowOf(ctx) == "" {
			return &denied
		}
		return nil
	}
}

// TestNarrowedWhileRefused checks that narrower ranges take effect although the Service is
// refused before the first write, or the security groups of the nodes cannot be checked.
func TestNarrowedWhileRefused(t *testing.T) {
	narrow := []string{"10.0.0.0/8"}
	for name, refuse := range map[string]func(a *account, c *Cloud, s *corev1.Service){
		"invalid annotation": func(_ *account, _ *Cloud, s *corev1.Service) { annotate("unknown", "")(s) },
		"unknown subnet":     func(_ *account, _ *Cloud, s *corev1.Service) { annotate("subnets", "subnet-none")(s) },
		"groups of the nodes": func(a *account, c *Cloud, s *corev1.Service) {
			c.elapse(c.options.Resync)
			a.denySharedGroup()
		},
	} {
		t.Run(name, func(t *testing.T) {
			a := fakeAccount(t) // moto has no quota of target groups
			c, s := a.newProvider(t), newService("web", 80)
			s.Spec.LoadBalancerSourceRanges = narrow
			a.ensureService(t, c, s)
			wide := newService("web", 80, 443)
			a.fail(fault{action: "CreateTargetGroup", kind: clientError("TooManyTargetGroups")})
			if _, err := c.EnsureLoadBalancer(t.Context(), a.cluster, wide, a.nodes); err == nil || !a.fake.admittedSources()["0.0.0.0/0"] {
				t.Fatalf("got %v, admitted %v", err, a.fake.admittedSources())
			}
			a.reset()
			refuse(a, c, s)
			if _, err := c.EnsureLoadBalancer(t.Context(), a.cluster, s, a.nodes); err == nil {
				t.Error("the Service is not refused")
			}
			if admitted := a.fake.admittedSources(); len(admitted) != 1 || !admitted[narrow[0]] {
				t.Errorf("admitted are %v", admitted)
			}
		})
	}
}

// TestNarrowedBeforeGroupsOfNodes checks that a narrower range of an applied state takes effect
// although the security groups of the nodes cannot be checked.
func TestNarrowedBeforeGroupsOfNodes(t *testing.T) {
	a := fakeAccount(t)
	c, s := a.newProvider(t), newService("web", 80)
	a.ensureService(t, c, s)
	c.elapse(c.options.Resync)
	a.denySharedGroup()
	s.Spec.LoadBalancerSourceRanges = []string{"10.0.0.0/8"}
	if _, err := c.EnsureLoadBalancer(t.Context(), a.cluster, s, a.nodes); err == nil {
		t.Error("the Service is not refused")
	}
	if admitted := a.fake.admittedSources(); len(admitted) != 1 || !admitted["10.0.0.0/8"] {
		t.Errorf("admitted are %v", admitted)
	}
}

// TestNarrowedDuringReplacement checks that the load balancer that is being replaced does not
// admit ranges that are not desired any more.
func TestNarrowedDuringReplacement(t *testing.T) {
	a := fakeAccount(t)
	c, s := a.newProvider(t), newService("web", 80)
	s.Spec.LoadBalancerSourceRanges = sourceRanges(150, 1)
	a.ensureService(t, c, s)
	s.Spec.LoadBalancerSourceRanges = []string{"10.0.0.0/8"}
	annotate("scheme", "internal")(s)
	s.Annotations[v1alpha1.AnnotationAllowReplacement] = "true"
	if _, err := c.EnsureLoadBalancer(t.Context(), a.cluster, s, a.nodes); err != nil || len(a.balancers(t)) != 2 {
		t.Fatalf("%d load balancers, %v", len(a.balancers(t)), err)
	}
	if admitted := a.fake.admittedSources(); len(admitted) != 1 || !admitted["10.0.0.0/8"] {
		t.Errorf("admitted are %d sources", len(admitted))
	}
}
