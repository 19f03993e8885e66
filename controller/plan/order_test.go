package plan

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/fixture"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/providers"
)

// planFor is the plan for an address of the Service, perhaps with terms of sharing:
// ".1/k".
func planFor(name, text string) ServicePlan {
	if text == "0" {
		return ServicePlan{}
	}
	p := ServicePlan{
		Serves:     true,
		Conditions: []metav1.Condition{newCondition(v1alpha1.ConditionProvisioned, metav1.ConditionTrue, v1alpha1.Assigned, "")},
	}
	if addr, terms, _ := strings.Cut(text, "/"); addr != "-" {
		p.Ingress, p.AllocatedFrom, p.SharedAs = []corev1.LoadBalancerIngress{{IP: "192.0.2" + addr}}, "192.0.2"+addr+"=p,uid="+name, terms
		p.Conditions = p.withSharedCondition(p.Conditions...)
	}
	return p
}

func TestRounds(t *testing.T) {
	for _, row := range []struct {
		name string
		// NAME SHOWN PLANNED: an address, perhaps with terms; "-" is none, "0" releases the
		// Service; "!" must be released.
		services []string
		want     [][]string
	}{
		{"nothing moves", []string{"a - .1", "b .2 .2", "c - .3"}, [][]string{{"a .1", "c .3"}}},
		{"released, then assigned", []string{"a - .1", "b .1 .2", "c - .3"}, [][]string{{"b .2", "c .3"}, {"a .1"}}},
		{"one after the other", []string{"a .1 .2", "b .2 .3", "c .3 -"}, [][]string{{"c -"}, {"b .3"}, {"a .2"}}},
		{"a cycle: the Service that must release does so", []string{"a .1 .2", "b !.2 .1", "c - .3"}, [][]string{{"c .3"}, {"a .1", "b -"}}},
		{"a Service that waits for a cycle keeps its address", []string{"a !.1 .2", "b !.2 .1", "c .3 .2"}, [][]string{{"a -", "b -", "c .3"}}},
		{"the Service is released, then its address is assigned", []string{"a - .1", "b .1 0", "c - .3"}, [][]string{{"b -", "c .3"}, {"a .1"}}},
		{"new terms, then shared by them", []string{"a - .1/k", "z .1/k .1/l"}, [][]string{{"z .1"}, {"a .1"}}},
	} {
		t.Run(row.name, func(t *testing.T) {
			var changes []PlannedService
			for _, text := range row.services {
				var name, shown, planned string
				if _, err := fmt.Sscan(text, &name, &shown, &planned); err != nil {
					t.Fatal(err)
				}
				was, releases := strings.CutPrefix(shown, "!")
				svc := planFor(name, was).Written(service(name))
				p := planFor(name, planned)
				if releases {
					p.Releases = ingressAddrs(svc.Status.LoadBalancer.Ingress)
				}
				if !p.Matches(svc) {
					changes = append(changes, PlannedService{svc, &p})
				}
			}
			var got [][]string
			rounds, all := Rounds(changes, nil)
			if !all {
				t.Error("these are not all")
			}
			for _, round := range rounds {
				var names []string
				for _, c := range round {
					addr := "-"
					if len(c.Plan.Ingress) > 0 {
						addr = c.Plan.Ingress[0].IP[len("192.0.2"):]
					}
					if recorded := c.Plan.AllocatedFrom != ""; recorded != (addr != "-") {
						t.Errorf("%s: recorded is %q", c.Service.Name, c.Plan.AllocatedFrom)
					}
					names = append(names, c.Service.Name+" "+addr)
				}
				got = append(got, names)
			}
			if !slices.EqualFunc(got, row.want, slices.Equal) {
				t.Errorf("got %q, want %q", got, row.want)
			}
		})
	}
}

// TestRoundsAreBounded: one sync writes a bounded number of Services in a bounded
// number of rounds, and the syncs after it write the rest.
func TestRoundsAreBounded(t *testing.T) {
	chain := func(n int) (changes []PlannedService) { // each is to get what the next one shows
		addr := func(i int) string { return fmt.Sprintf("10.0.%d.%d", i/250, i%250) }
		for i := range n {
			p := ServicePlan{Serves: true, Ingress: []corev1.LoadBalancerIngress{{IP: addr(i + 1)}}}
			changes = append(changes, PlannedService{fixture.Assigned(fmt.Sprintf("s%04d", i), addr(i), "p"), &p})
		}
		return changes
	}
	burst := func(n int) (changes []PlannedService) {
		for i := range n {
			changes = append(changes, PlannedService{service(fmt.Sprintf("s%04d", i)), &ServicePlan{Serves: true}})
		}
		return changes
	}
	for _, row := range []struct {
		name          string
		changes       []PlannedService
		rounds, total int
		all           bool
	}{
		{"a chain that fits", chain(5), 5, 5, true},
		{"a chain", chain(100), maxRounds, maxRounds, false},
		{"a burst that fits", burst(maxChanges), 1, maxChanges, true},
		{"a burst", burst(maxChanges + 1), 1, maxChanges, false},
		{"a chain in a burst", append(chain(100), burst(maxChanges-3)...), 3, maxChanges, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			rounds, all := Rounds(row.changes, nil)
			if total := len(slices.Concat(rounds...)); len(rounds) != row.rounds || total != row.total || all != row.all {
				t.Errorf("%d changes in %d rounds, all: %t", total, len(rounds), all)
			}
		})
	}
}

// TestDeletedServiceReleases: a Service with a record of the address of one that is
// being deleted shows the address after the other one does not show it any more, even if
// the deletion waits for a load balancer.
func TestDeletedServiceReleases(t *testing.T) {
	for name, change := range map[string]func(*corev1.Service){
		"on bare metal":                    func(*corev1.Service) {},
		"moved from AWS":                   onAWS,
		"moved from AWS, still shows both": func(s *corev1.Service) { onAWS(s); showing(host)(s) },
	} {
		t.Run(name, func(t *testing.T) {
			leaving := annotated(v1alpha1.AnnotationLeaving, "192.0.2.0=2030-01-01T00:00:00Z")
			b := fixture.Assigned("b", "192.0.2.0", "p", leaving, change, deleting)
			s := testSnapshot(b, service("a", fixture.Recorded("192.0.2.0=p")))
			s.Policy.Cluster, s.Objects.Pools = "prod", []*v1alpha1.IPAddressPool{pool("p", "192.0.2.0/32")}
			hosts, onAWS := hostIngress(b), v1alpha1.HasOwnLoadBalancer(b)
			rounds, _ := Rounds(Decide(s).Changes, nil)
			if len(rounds) != 2 || KeyOf(rounds[0][0].Service) != key("b") || KeyOf(rounds[1][0].Service) != key("a") {
				t.Fatalf("b is not written before a: %+v", rounds)
			}
			s.Services = allWritten(s.Services, slices.Concat(rounds...))
			if a := s.shownState(t, "a"); a != "192.0.2.0 Assigned" {
				t.Errorf("a shows %s", a)
			}
			b = s.service("b")
			shown, leaves := b.Status.LoadBalancer.Ingress, b.Annotations[v1alpha1.AnnotationLeaving]
			if !slices.EqualFunc(shown, hosts, sameIngress) || len(config.OwnAllocation(b)) > 0 || leaves != "" {
				t.Errorf("b keeps %+v, %v", shown, b.Annotations)
			}
			if v1alpha1.HasOwnLoadBalancer(b) != onAWS || hasFinalizer(b, v1alpha1.FinalizerAWS) != onAWS {
				t.Errorf("got %v, %v", b.Finalizers, b.Annotations)
			}
		})
	}
}

// TestBalancerReleases: a Service with a record of an address that another controller wrote
// into the status of a Service on AWS, or with a status that proves it, shows the address
// after the other one does not show it any more, even without an outcome of AWS.
func TestBalancerReleases(t *testing.T) {
	for name, evidence := range map[string]func(*corev1.Service){
		"record": fixture.Recorded("192.0.2.0=p"),
		"status": func(s *corev1.Service) { holding("192.0.2.0")(s); ownIngress(s) },
	} {
		t.Run(name, func(t *testing.T) {
			b := service("b", onAWS, showing(host), func(s *corev1.Service) {
				s.Status.LoadBalancer.Ingress = append(s.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: "192.0.2.0"})
			})
			s := testSnapshot(b, service("a", annotated(v1alpha1.AnnotationProvider, "bare-metal"), evidence))
			s.Policy = providers.Policy{Mode: providers.AWS, Cluster: "prod"}
			s.Nodes = append(s.Nodes, awsNode("n2"))
			rounds, _ := Rounds(Decide(s).Changes, nil)
			if len(rounds) != 2 || KeyOf(rounds[0][0].Service) != key("b") || KeyOf(rounds[1][0].Service) != key("a") {
				t.Fatalf("b is not written before a: %+v", rounds)
			}
			s.Services = allWritten(s.Services, slices.Concat(rounds...))
			if a := s.shownState(t, "a"); a != "192.0.2.0 Assigned" {
				t.Errorf("a shows %s", a)
			}
			if shown := s.service("b").Status.LoadBalancer.Ingress; !slices.EqualFunc(shown, named(host), sameIngress) {
				t.Errorf("b shows %+v", shown)
			}
		})
	}
}

// TestSwappedStatuses: two Services with a record each, of which another controller has
// swapped the statuses, are assigned the recorded addresses again.
func TestSwappedStatuses(t *testing.T) {
	s := testSnapshot(
		service("a", finalized, holding("192.0.2.2"), fixture.Recorded("192.0.2.1=p")),
		service("b", finalized, holding("192.0.2.1"), fixture.Recorded("192.0.2.2=p")),
	)
	s.Objects.Pools = []*v1alpha1.IPAddressPool{pool("p", "192.0.2.0/29")}
	for range 2 {
		rounds, _ := Rounds(Decide(s).Changes, nil)
		s.Services = allWritten(s.Services, slices.Concat(rounds...))
	}
	if a, b := s.shownState(t, "a"), s.shownState(t, "b"); a != "192.0.2.1 Assigned" || b != "192.0.2.2 Assigned" {
		t.Errorf("a shows %s, b %s", a, b)
	}
}

// TestAdoptedAfterRelease: an address in a status without a record is adopted after the
// Service that was assigned it does not show it any more, whoever manages the status.
func TestAdoptedAfterRelease(t *testing.T) {
	for _, manager := range []string{"other-controller", v1alpha1.FieldManager} {
		s := testSnapshot(
			service("a", holding("192.0.2.1")),
			service("b", finalized, holding("192.0.2.1"), fixture.Recorded("192.0.2.1=p"), annotated(v1alpha1.AnnotationRelease, "192.0.2.1")),
		)
		s.Services[0].ManagedFields = ingressManagedFields(manager)
		s.Objects.Pools = []*v1alpha1.IPAddressPool{pool("p", "192.0.2.0/29")}
		rounds, _ := Rounds(Decide(s).Changes, nil)
		if len(rounds) != 2 || KeyOf(rounds[0][0].Service) != key("b") || KeyOf(rounds[1][0].Service) != key("a") {
			t.Errorf("%s: b is not written before a: %+v", manager, rounds)
		}
		// A Service does not wait for itself when it starts to share what it shows.
		annotated(v1alpha1.AnnotationAllowSharedIP, "k")(s.Services[0])
		s.Services = s.Services[:1]
		rounds, _ = Rounds(Decide(s).Changes, nil)
		if len(rounds) != 1 || rounds[0][0].Plan.AllocatedFrom == "" {
			t.Errorf("%s: a is not adopted: %+v", manager, rounds)
		}
	}
}

// TestFallbackReleases: a Service that neither AWS nor a pool can serve shows no
// address after another one is assigned its own.
func TestFallbackReleases(t *testing.T) {
	class := v1alpha1.ClassBareMetal
	s := testSnapshot(service("a", serving("SCTP", 9), holding("192.0.2.0")))
	s.Policy, s.Nodes = providers.Policy{Mode: providers.AWS}, []*corev1.Node{awsNode("n1")}
	s.Objects.Pools = []*v1alpha1.IPAddressPool{pool("p", "192.0.2.0/32")}
	if got := s.shownState(t, "a"); got != "192.0.2.0 CloudCannotServe" {
		t.Fatalf("got %s", got)
	}
	s.Services = append(s.Services, service("b", func(s *corev1.Service) { s.Spec.LoadBalancerClass = &class }))
	s.annotate("a", v1alpha1.AnnotationRelease, "192.0.2.0")
	if rounds, _ := Rounds(Decide(s).Changes, nil); len(rounds) != 2 || KeyOf(rounds[0][0].Service) != key("a") {
		t.Errorf("a is not written before b: %+v", rounds)
	}
	if a, b := s.shownState(t, "a"), s.shownState(t, "b"); a != "CloudCannotServe" || b != "192.0.2.0 Assigned" {
		t.Errorf("a shows %s, b %s", a, b)
	}
}

// TestRoundsWithDeferred: a deferred change is not written. What it releases is not
// assigned to another Service, which keeps what it has, and all others are written.
func TestRoundsWithDeferred(t *testing.T) {
	change := func(name, shown, planned string) PlannedService {
		p := planFor(name, planned)
		return PlannedService{planFor(name, shown).Written(service(name)), &p}
	}
	deferred := change("b", ".1", ".2")
	rounds, all := Rounds([]PlannedService{change("a", ".4", ".1"), change("c", "-", ".3"), change("d", "-", ".4")}, []PlannedService{deferred})
	var got []string
	for i, round := range rounds {
		for _, c := range round {
			got = append(got, fmt.Sprint(i, c.Service.Name, c.Plan.Ingress, c.Plan.Conditions[0].Reason))
		}
	}
	if !all || len(got) != 3 || !strings.HasPrefix(got[0], "0c") || !strings.Contains(got[1], "AddressTaken") || !strings.Contains(got[2], "AddressTaken") {
		t.Errorf("got %q", got)
	}
	// A failed write blocks what waits for it, and nothing else.
	unreleased := Unreleased{}
	unreleased.Add(deferred)
	if a, c := change("a", "-", ".1"), change("c", "-", ".2"); !unreleased.Block(a) || unreleased.Block(c) ||
		!maps.Equal(AwaitedReleases([]PlannedService{c, a, deferred}), map[types.NamespacedName]bool{key("b"): true}) {
		t.Error("only the address .1 is not released")
	}
}

// TestManyIngressEntries: the cost of a status that another controller has filled with
// addresses, also under the controller's field manager, is linear in their number.
func TestManyIngressEntries(t *testing.T) {
	const entries = 100_000 // as many as fit into an object
	fill := func(svc *corev1.Service, first string) {
		ingress := []corev1.LoadBalancerIngress{{IP: first}}
		for i := range entries {
			ingress = append(ingress, corev1.LoadBalancerIngress{IP: fmt.Sprintf("10.1.%d.%d", i>>8&0xff, i&0xff)})
		}
		svc.Status.LoadBalancer.Ingress = ingress
	}
	// Each shows the address of the other, so that interim plans are made.
	s := testSnapshot(fixture.Assigned("a", "192.0.2.1", "p"), fixture.Assigned("b", "192.0.2.2", "p"), service("c"))
	fill(s.Services[0], "192.0.2.2")
	fill(s.Services[1], "192.0.2.1")
	fill(s.Services[2], "192.0.2.3")
	s.Services[2].ManagedFields = ingressManagedFields(v1alpha1.FieldManager)
	started := time.Now()
	rounds, all := Rounds(Decide(s).Changes, nil)
	if took := time.Since(started); took > 15*time.Second {
		t.Errorf("it took %s", took)
	}
	if len(rounds) == 0 || !all {
		t.Errorf("%d rounds, all: %t", len(rounds), all)
	}
}
