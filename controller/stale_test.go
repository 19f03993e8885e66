package controller

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/providers"
)

// apiServer is an API server whose watches may lag behind by any number of
// changes. Writes are checked as by optimistic locking.
type apiServer struct {
	now     int // resource version
	objects map[types.NamespacedName]*corev1.Service
	history []change
}

type change struct {
	version int
	key     types.NamespacedName
	object  *corev1.Service // nil: deleted
}

func (s *apiServer) put(svc *corev1.Service) *corev1.Service {
	s.now++
	svc = svc.DeepCopy()
	svc.ResourceVersion = strconv.Itoa(s.now)
	if svc.DeletionTimestamp != nil && len(svc.Finalizers) == 0 {
		delete(s.objects, keyOf(svc))
		s.history = append(s.history, change{s.now, keyOf(svc), nil})
		return svc
	}
	s.objects[keyOf(svc)] = svc
	s.history = append(s.history, change{s.now, keyOf(svc), svc})
	return svc
}

// cached is the state as a watch at the version has seen it.
func (s *apiServer) cached(version int) (services []*corev1.Service) {
	state := map[types.NamespacedName]*corev1.Service{}
	for _, c := range s.history {
		if c.version > version {
			break
		}
		if c.object == nil {
			delete(state, c.key)
		} else {
			state[c.key] = c.object
		}
	}
	return slices.Collect(maps.Values(state))
}

// replica is a controller process: the real view and the real plan.
type replica struct {
	view   *view
	seen   int // version that its watch has brought
	unsure bool

	settled *settled
	passed  map[types.NamespacedName]string // the versions in its cache at the last pass
}

// laxity switches a safety rule off, to show that the simulation needs it.
type laxity struct{ noView, noFreshList, noDoubt, noTaken bool }

// simulate runs a random history and returns the first address that two
// Services held at the same time.
func simulate(t *rapid.T, lax laxity) (conflict string) {
	server := &apiServer{objects: map[types.NamespacedName]*corev1.Service{}}
	leader := &replica{view: &view{}, unsure: true}
	created := 0
	steps := rapid.IntRange(1, 60).Draw(t, "steps")
	for range steps {
		switch rapid.IntRange(0, 9).Draw(t, "step") {
		case 0, 1, 2: // a Service comes, sometimes older than the others (a restored backup)
			created++
			name := fmt.Sprintf("%c%d", 'a'+rapid.IntRange(0, 3).Draw(t, "age"), created)
			server.put(service(name))
		case 3: // a Service goes
			if keys := sortedKeys(server.objects); len(keys) > 0 {
				svc := server.objects[rapid.SampledFrom(keys).Draw(t, "deleted")].DeepCopy()
				deleting(svc)
				server.put(svc)
			}
		case 4: // the leader dies, and another one, whose watch may lag more, takes over
			leader = &replica{view: &view{}, seen: rapid.IntRange(0, server.now).Draw(t, "seen"), unsure: true}
		default: // the watch brings some changes, and the leader reconciles
			leader.seen = rapid.IntRange(leader.seen, server.now).Draw(t, "caught up to")
			leader.reconcile(t, server, lax)
		}
		owners := map[string]string{}
		for _, key := range sortedKeys(server.objects) {
			for _, in := range server.objects[key].Status.LoadBalancer.Ingress {
				if other := owners[in.IP]; other != "" {
					return fmt.Sprintf("%s belongs to %s and %s", in.IP, other, key)
				}
				owners[in.IP] = key.String()
			}
		}
	}
	return ""
}

func sortedKeys(m map[types.NamespacedName]*corev1.Service) []types.NamespacedName {
	return slices.SortedFunc(maps.Keys(m), func(a, b types.NamespacedName) int { return strings.Compare(a.Name, b.Name) })
}

// reconcile does what Controller.pass does.
func (r *replica) reconcile(t *rapid.T, server *apiServer, lax laxity) {
	cached := server.cached(r.seen)
	var changed []*corev1.Service
	for _, svc := range cached {
		if r.passed[keyOf(svc)] != svc.ResourceVersion {
			changed = append(changed, svc)
		}
	}
	r.passed = map[types.NamespacedName]string{}
	for _, svc := range cached {
		r.passed[keyOf(svc)] = svc.ResourceVersion
	}
	if r.settled != nil && !r.unsure && rapid.Bool().Draw(t, "quick") && r.quick(t, server, changed, lax) {
		return
	}
	if r.unsure && !lax.noFreshList {
		r.view.sawAll(slices.Collect(maps.Values(server.objects)), strconv.Itoa(server.now))
	}
	r.unsure = false
	services := cached
	if !lax.noView {
		services = r.view.over(services, strconv.Itoa(r.seen))
	}
	snapshot := Snapshot{
		Policy: providers.Policy{Mode: providers.BareMetal}, Services: services,
		Objects: config.Objects{Pools: []*v1alpha1.IPAddressPool{{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: v1alpha1.IPAddressPoolSpec{Addresses: []v1alpha1.AddressRange{"192.0.2.0/29"}}}}},
	}
	plan := Decide(snapshot)
	r.settled = settledBy(snapshot, plan)
	r.write(t, server, services, plan.Services, lax)
}

// quick does what Controller.quick does.
func (r *replica) quick(t *rapid.T, server *apiServer, changed []*corev1.Service, lax laxity) bool {
	var services []*corev1.Service
	for _, svc := range changed {
		if !lax.noView {
			svc = r.view.of(svc)
		}
		if svc == nil {
			return false
		}
		services = append(services, svc)
	}
	if lax.noTaken {
		r.settled.taken = nil
	}
	plans, ok := r.settled.decide(services, time.Time{})
	if ok {
		r.settled.gave(plans)
		r.write(t, server, services, plans, lax)
	}
	return ok
}

// write writes what differs from the plans, until something goes wrong.
func (r *replica) write(t *rapid.T, server *apiServer, services []*corev1.Service, plans map[types.NamespacedName]ServicePlan, lax laxity) {
	for _, key := range slices.SortedFunc(maps.Keys(plans), func(a, b types.NamespacedName) int { return strings.Compare(a.Name, b.Name) }) {
		p := plans[key]
		i := slices.IndexFunc(services, func(s *corev1.Service) bool { return keyOf(s) == key })
		current := server.objects[key]
		if p.matches(services[i]) || current == nil || current.ResourceVersion != services[i].ResourceVersion {
			continue // nothing to write, not found, or a conflict
		}
		switch rapid.IntRange(0, 9).Draw(t, "write") {
		case 0:
			return // killed between two writes
		case 1: // took effect, but the answer is lost
			server.put(written(current, p))
			r.unsure = !lax.noDoubt
		default:
			r.view.saw(server.put(written(current, p)))
		}
	}
}

// TestStaleCache: whatever the watch has not brought yet, no address is given
// to two Services.
func TestStaleCache(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		if conflict := simulate(t, laxity{}); conflict != "" {
			t.Fatal(conflict)
		}
	})
}

// TestStaleCacheNeedsItsRules: without any one of the safety rules the same
// simulation does give an address twice, so it would notice if one were lost.
func TestStaleCacheNeedsItsRules(t *testing.T) {
	for name, lax := range map[string]laxity{
		"own writes": {noView: true}, "fresh first list": {noFreshList: true}, "doubt after a lost answer": {noDoubt: true},
		"what others hold is taken": {noTaken: true},
	} {
		t.Run(name, func(t *testing.T) {
			for seed := range 2000 {
				conflict := rapid.Custom(func(t *rapid.T) string { return simulate(t, lax) }).Example(seed)
				if conflict != "" {
					t.Logf("run %d: %s", seed, conflict)
					return
				}
			}
			t.Error("no conflict in 2000 runs")
		})
	}
}
