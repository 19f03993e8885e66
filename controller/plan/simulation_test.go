package plan

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/providers"
)

// simulatedAPIServer is an API server with watches that lag behind by any number of
// changes. Writes are checked as by optimistic locking.
type simulatedAPIServer struct {
	now            int // resource version
	objects        map[types.NamespacedName]*corev1.Service
	history        []version
	pools          [][]*v1alpha1.IPAddressPool // all states, the newest last
	nodes          [][]*corev1.Node            // likewise
	advertisements []*v1alpha1.L2Advertisement
	selected       []selectedPools // all states of their status.selectedPools, the newest last
	violation      string          // the first thing that must not be
	// The managers of status.loadBalancer.ingress, and whether a controller of ours wrote
	// the ingress last, and evidence of that is left on the Service.
	managers  map[types.NamespacedName][]string
	authentic map[types.NamespacedName]bool
	// Addresses with a forged record, and in the status that another controller wrote; and
	// those that a controller has kept since because of that.
	stolen map[holder]bool
	// Services with a record that is forged since a controller wrote them last.
	forged map[types.NamespacedName]bool
	// What the controllers last wrote, whatever became of the annotations.
	written map[types.NamespacedName]ServicePlan
	// The terms of sharing by which the controllers last decided, written or not.
	terms    map[holder]string
	together map[[2]holder]bool // share an address, as their terms allowed
	inFlight []simulatedWrite   // of the leader
}

// holder is a Service with an address.
type holder struct {
	types.NamespacedName
	addr string
}

func newSimulatedAPIServer() *simulatedAPIServer {
	s := &simulatedAPIServer{
		objects: map[types.NamespacedName]*corev1.Service{}, written: map[types.NamespacedName]ServicePlan{},
		terms: map[holder]string{}, managers: map[types.NamespacedName][]string{},
		stolen: map[holder]bool{}, authentic: map[types.NamespacedName]bool{}, forged: map[types.NamespacedName]bool{},
		pools: [][]*v1alpha1.IPAddressPool{{tieredPool("p", "edge")}}, nodes: [][]*corev1.Node{nil}, selected: make([]selectedPools, 1),
	}
	s.pools[0][0].Spec.Addresses = []v1alpha1.AddressRange{"192.0.2.0/29"}
	return s
}

type version struct {
	version int
	key     types.NamespacedName
	object  *corev1.Service // nil: deleted
}

func (s *simulatedAPIServer) put(svc *corev1.Service) *corev1.Service {
	s.now++
	svc = svc.DeepCopy()
	svc.ResourceVersion = strconv.Itoa(s.now)
	if svc.DeletionTimestamp != nil && len(svc.Finalizers) == 0 {
		key := KeyOf(svc)
		delete(s.objects, key)
		delete(s.written, key)
		delete(s.managers, key)
		delete(s.authentic, key)
		delete(s.forged, key)
		s.dropStolen(key, nil)
		s.history = append(s.history, version{s.now, key, nil})
		return svc
	}
	// In the form that the controller's cache has.
	if svc.ManagedFields = nil; s.ownsIngress(svc) {
		svc.ManagedFields = ingressManagedFields(v1alpha1.FieldManager)
		v1alpha1.StripManagedFields(svc)
	}
	// Evidence that is forged later does not prove what was written before.
	if s.authentic[KeyOf(svc)] && !allRecorded(svc) && !v1alpha1.OwnsIngress(svc) {
		s.authentic[KeyOf(svc)] = false
	}
	s.dropStolen(KeyOf(svc), svc)
	s.objects[KeyOf(svc)] = svc
	s.history = append(s.history, version{s.now, KeyOf(svc), svc})
	return svc
}

// cached is the state as a watch at the version has seen it.
func (s *simulatedAPIServer) cached(version int) (services []*corev1.Service) {
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
	return sorted(state)
}

func sorted(services map[types.NamespacedName]*corev1.Service) (all []*corev1.Service) {
	for _, key := range sortedKeys(services) {
		all = append(all, services[key])
	}
	return all
}

// write is a controller's write, of which the laws are checked.
func (s *simulatedAPIServer) write(current *corev1.Service, p ServicePlan, v simulatedView, lax disabledRules) *corev1.Service {
	svc := s.apply(current, p)
	s.violation = cmp.Or(s.violation,
		s.lostAddress(current, svc, p, v), wrongAddress(current, svc, v), s.ignoredCopy(current, svc, v))
	s.written[KeyOf(current)] = p
	delete(s.forged, KeyOf(current))
	if lax.noPools {
		delete(svc.Annotations, v1alpha1.AnnotationAllocatedFrom)
	}
	if lax.noTerms {
		apimeta.RemoveStatusCondition(&svc.Status.Conditions, v1alpha1.ConditionShared)
	}
	return s.put(svc)
}

func currentTerms(svc *corev1.Service) (text string) {
	if key := svc.Annotations[v1alpha1.AnnotationAllowSharedIP]; key != "" {
		_, text = sharingTerms(svc, key)
	}
	return text
}

// sharedWrongly returns an address of two Services that may not share it by their
// terms at the time of the decision. If the owner changes the terms later, both keep
// the address until a controller has seen that.
func (s *simulatedAPIServer) sharedWrongly() string {
	owners, together := map[string][]types.NamespacedName{}, map[[2]holder]bool{}
	for _, key := range sortedKeys(s.objects) {
		if !s.authentic[key] {
			continue
		}
		for _, in := range s.objects[key].Status.LoadBalancer.Ingress {
			if in.IP == "" || s.stolen[holder{key, in.IP}] { // a host name is not an address
				continue
			}
			for _, other := range owners[in.IP] {
				pair := [2]holder{{other, in.IP}, {key, in.IP}}
				a, b := s.terms[pair[0]], s.terms[pair[1]]
				if !termsAllowSharing(a, b) && !s.together[pair] {
					return fmt.Sprintf("%s belongs to %s (%s) and %s (%s)", in.IP, other, a, key, b)
				}
				together[pair] = true
			}
			owners[in.IP] = append(owners[in.IP], key)
		}
	}
	s.together = together
	return ""
}

// termsAllowSharing reads two records of terms: policy, ports, backends, key.
func termsAllowSharing(a, b string) bool {
	x, y := strings.SplitN(a, " ", 4), strings.SplitN(b, " ", 4)
	if len(x) != 4 || len(y) != 4 || x[3] != y[3] {
		return false
	}
	for _, port := range strings.Split(x[1], ",") {
		if slices.Contains(strings.Split(y[1], ","), port) {
			return false
		}
	}
	return x[0] == "Cluster" && y[0] == "Cluster" || x[2] == y[2] && x[2] != ""
}

// simulatedController is a controller process: the real view and the real plan.
type simulatedController struct {
	overlay *Overlay
	planner Planner
	seen    int // version that its watch of Services has brought
	pools   int // how many changes of pools its other watch has brought
	nodes   int // likewise of nodes
	status  int // likewise of the statuses of advertisements
	unsure  bool
	// checkedPools: a sync has found its view of pools to be current.
	checkedPools bool
	// reliable: no write fails, and all syncs are full.
	reliable bool

	decidedVersions map[types.NamespacedName]string // the versions in its cache at the last pass
	decidedPools    int                             // the pools of the last pass over everything
	decidedNodes    int
	view            simulatedView                       // of the last pass
	altered         map[*corev1.Service]*corev1.Service // by disabled rules
	originals       map[*corev1.Service]*corev1.Service // of these
}

// disabledRules switches a safety rule off, to show that the simulation needs it.
type disabledRules struct {
	noOverlay, noFreshList, noUnknownOutcome, onlyReads, noLocking, noPools, noTerms, noHeldAddresses, noOrder, ignoresFailures bool
	noDeletedPools, noStatusLocking, noPoolCheck                                                                                bool
	rulesOfEvidence
}

// simulate runs a random history and returns the first thing that went wrong. With
// others, not only the owners of Services and the controllers write.
func simulate(t *rapid.T, lax disabledRules, others bool) (wrong string) {
	server := newSimulatedAPIServer()
	leader := &simulatedController{overlay: &Overlay{}, unsure: true}
	steps, kinds := rapid.IntRange(1, 60).Draw(t, "steps"), 12
	if others {
		kinds = 20
		if rapid.Bool().Draw(t, "advertised") {
			server.advertisements = []*v1alpha1.L2Advertisement{{ObjectMeta: metav1.ObjectMeta{Name: "all"}}}
			if rapid.Bool().Draw(t, "by label") {
				server.advertisements = selectingAdvertisements().L2Advertisements
			}
		}
	}
	for created := range steps {
		server.deliverSome(t, lax, false)
		switch rapid.IntRange(0, kinds).Draw(t, "step") {
		case 0, 1, 2: // a Service is created, sometimes older than the others (a restored backup)
			svc := service(fmt.Sprintf("%c%d", 'a'+rapid.IntRange(0, 3).Draw(t, "age"), created), serving("TCP", 80))
			changeServiceRequest(t, svc)
			server.put(svc)
		case 3, 4: // a Service is deleted, or its owner changes it
			if keys := sortedKeys(server.objects); len(keys) > 0 {
				svc := server.objects[rapid.SampledFrom(keys).Draw(t, "changed")].DeepCopy()
				if rapid.IntRange(0, 3).Draw(t, "goes") == 0 {
					deleting(svc)
				} else if Managed(svc) {
					changeServiceRequest(t, svc)
				}
				server.put(svc)
			}
		case 5, 6: // an administrator changes the pools
			server.pools = append(server.pools, changePools(t, server.pools[len(server.pools)-1], len(server.pools)))
		case 7: // the leader is killed; the next one may have staler caches
			server.deliverSome(t, lax, true)
			leader = &simulatedController{
				overlay: &Overlay{}, unsure: true,
				seen: rapid.IntRange(0, server.now).Draw(t, "seen"), pools: rapid.IntRange(0, len(server.pools)-1).Draw(t, "pools"),
			}
			leader.nodes = drawIndex(t, "nodes", 0, len(server.nodes)-1)
			leader.status = drawIndex(t, "status", 0, len(server.selected)-1)
		case 13, 14, 15, 16, 17, 18:
			server.disturb(t, created)
		case 19:
			if wrong := leader.reachFixedPoint(t, server, lax); wrong != "" {
				return wrong
			}
		default: // the watches bring some changes, and the leader reconciles
			leader.seen = rapid.IntRange(leader.seen, server.now).Draw(t, "caught up to")
			leader.pools = rapid.IntRange(leader.pools, len(server.pools)-1).Draw(t, "pools")
			leader.nodes = drawIndex(t, "nodes", leader.nodes, len(server.nodes)-1)
			leader.status = drawIndex(t, "status", leader.status, len(server.selected)-1)
			leader.reconcile(t, server, lax)
		}
		if wrong := server.sharedWrongly(); wrong != "" {
			return wrong
		}
		if server.violation != "" {
			return server.violation
		}
	}
	if others {
		return leader.reachFixedPoint(t, server, lax)
	}
	return ""
}

// drawIndex draws an index, unless there is only one.
func drawIndex(t *rapid.T, name string, low, high int) int {
	if low == high {
		return low
	}
	return rapid.IntRange(low, high).Draw(t, name)
}

// changeServiceRequest changes what a Service asks for.
func changeServiceRequest(t *rapid.T, svc *corev1.Service) {
	annotate := func(annotation string, values ...string) {
		if svc.Annotations[annotation] = rapid.SampledFrom(values).Draw(t, annotation); svc.Annotations[annotation] == "" {
			delete(svc.Annotations, annotation)
		}
	}
	addr := fmt.Sprintf("192.0.2.%d", rapid.IntRange(0, 9).Draw(t, "addr"))
	switch rapid.IntRange(0, 7).Draw(t, "request") {
	case 0, 1:
		annotate(v1alpha1.AnnotationAllowSharedIP, "k", "k", "l", "")
	case 2, 3:
		svc.Spec.Ports[0].Port = rapid.Int32Range(80, 82).Draw(t, "port")
	case 4:
		annotate(v1alpha1.AnnotationAddressPool, "p", "q", "")
	case 5:
		annotate(v1alpha1.AnnotationLoadBalancerIPs, addr, "")
	case 6:
		annotate(v1alpha1.AnnotationRenumber, "hold", "")
	case 7:
		annotate(v1alpha1.AnnotationRelease, addr, "")
	}
	if rapid.IntRange(0, 9).Draw(t, "policy") == 0 {
		local(rapid.SampledFrom([]string{"a", "b"}).Draw(t, "app"))(svc)
	}
}

// changePools returns the pools after one was created, changed or deleted. The number of
// the change makes the UID unique, as those of the API server are.
func changePools(t *rapid.T, pools []*v1alpha1.IPAddressPool, number int) []*v1alpha1.IPAddressPool {
	name := rapid.SampledFrom([]string{"p", "q"}).Draw(t, "pool")
	was := slices.IndexFunc(pools, func(p *v1alpha1.IPAddressPool) bool { return p.Name == name })
	p := tieredPool(name, rapid.SampledFrom([]string{"edge", "core"}).Draw(t, "tier"))
	p.CreationTimestamp = metav1.Unix(rapid.Int64Range(0, 3).Draw(t, "created"), 0)
	p.UID = types.UID(fmt.Sprintf("%d-%d", rapid.Uint64().Draw(t, "uid"), number))
	if was >= 0 {
		p = pools[was].DeepCopy()
		p.Generation++
		pools = slices.Delete(slices.Clone(pools), was, was+1)
	}
	ranges := []v1alpha1.AddressRange{"192.0.2.0/29", "192.0.2.0/30", "192.0.2.2-192.0.2.5", "192.0.2.4/30", "192.0.2.8/31"}
	switch rapid.IntRange(0, 7).Draw(t, "edit") {
	case 0:
		return pools // gone, whoever used it
	case 1:
		deleted := metav1.Unix(9, 0)
		p.DeletionTimestamp = &deleted
	case 2:
		auto := rapid.Bool().Draw(t, "auto")
		p.Spec.AutoAssign = &auto
	case 3:
		p.Spec.ServiceAllocation = &v1alpha1.ServiceAllocation{
			Priority:   rapid.Int32Range(0, 2).Draw(t, "priority"),
			Namespaces: rapid.SampledFrom([][]string{nil, {"ns"}, {"other"}}).Draw(t, "selects"),
		}
	case 4:
		p.Spec.AvoidBuggyIPs = !p.Spec.AvoidBuggyIPs
	case 5:
		p.Labels = map[string]string{"tier": map[string]string{"edge": "core", "core": "edge"}[p.Labels["tier"]]}
	default:
		p.Spec.Addresses = []v1alpha1.AddressRange{rapid.SampledFrom(ranges).Draw(t, "range")}
	}
	return append(pools, p)
}

func sortedKeys(m map[types.NamespacedName]*corev1.Service) []types.NamespacedName {
	return slices.SortedFunc(maps.Keys(m), func(a, b types.NamespacedName) int { return strings.Compare(a.Name, b.Name) })
}

// reconcile does what Controller.sync does.
func (r *simulatedController) reconcile(t *rapid.T, server *simulatedAPIServer, lax disabledRules) {
	cached := server.cached(r.seen)
	var changed []*corev1.Service
	for _, svc := range cached {
		if r.decidedVersions[KeyOf(svc)] != svc.ResourceVersion {
			changed = append(changed, svc)
		}
	}
	r.decidedVersions = map[types.NamespacedName]string{}
	for _, svc := range cached {
		r.decidedVersions[KeyOf(svc)] = svc.ResourceVersion
	}
	if r.planner.last != nil && r.decidedPools == r.pools && r.decidedNodes == r.nodes && !r.unsure && !r.reliable &&
		rapid.Bool().Draw(t, "quick") && r.reconcileChanged(t, server, changed, lax) {
		return
	}
	if !r.checkedPools && !lax.noPoolCheck {
		r.pools = len(server.pools) - 1 // the first sync waits for them
	}
	r.checkedPools = true
	if r.unsure && !lax.noFreshList {
		r.overlay.ObserveList(sorted(server.objects), strconv.Itoa(server.now))
	}
	r.unsure = false
	services := cached
	if !lax.noOverlay {
		services = r.overlay.Merge(services, strconv.Itoa(r.seen))
		slices.SortFunc(services, func(a, b *corev1.Service) int { return strings.Compare(a.Name, b.Name) })
	}
	r.view = newSimulatedView(server.pools[r.pools], server.nodes[r.nodes], services)
	snapshot := Snapshot{
		Policy:  providers.Policy{Mode: providers.BareMetal},
		Objects: config.Objects{Pools: server.pools[r.pools], L2Advertisements: server.seenAdvertisements(r.status, lax)},
		Nodes:   lax.seenNodes(server.nodes[r.nodes]),
	}
	for _, svc := range services {
		if svc = r.seenService(svc, lax); Managed(svc) {
			snapshot.Services = append(snapshot.Services, svc)
		} else {
			snapshot.Unmanaged = append(snapshot.Unmanaged, svc)
		}
	}
	plan := r.planner.Decide(snapshot)
	r.decidedPools, r.decidedNodes = r.pools, r.nodes
	if len(server.advertisements) > 0 {
		r.writeSelectedPools(server, plan.L2Advertisements[server.advertisements[0].Name].SelectedPools, lax)
	}
	r.write(t, server, plan.Services, lax)
}

// reconcileChanged does what Controller.incrementalSync does.
func (r *simulatedController) reconcileChanged(t *rapid.T, server *simulatedAPIServer, changed []*corev1.Service, lax disabledRules) bool {
	var services []*corev1.Service
	for _, svc := range changed {
		if !lax.noOverlay {
			svc = r.overlay.Newest(svc)
		}
		if svc == nil {
			return false
		}
		r.view = r.view.with(svc)
		services = append(services, r.seenService(svc, lax))
	}
	planner := &r.planner
	if lax.noHeldAddresses { // another planner, which knows none of the other Services
		snapshot := r.planner.last.Snapshot
		planner = &Planner{}
		planner.Decide(Snapshot{Policy: snapshot.Policy, Objects: snapshot.Objects})
	}
	plans, ok := planner.DecideChanged(services, time.Time{})
	if ok {
		r.write(t, server, plans, lax)
	}
	return ok
}
