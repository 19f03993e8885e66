package plan

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"github.com/fairlead-io/fairlead/allocator"
	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/providers"
)

// cloudSimulation is a cluster with a cloud: users, a lagging watch, leaders that die,
// and calls that fail halfway.
type cloudSimulation struct {
	*rapid.T
	server *simulatedAPIServer
	leader *simulatedController
	// The leader's view of the cloud, in memory.
	requests map[types.UID]CloudRequest
	outcomes map[types.UID]CloudOutcome
	// balancers are the load balancers in the cloud, whether or not known, and the name of
	// the cluster that they were created with.
	balancers map[types.UID]string

	nodes     []*corev1.Node
	pools     []*v1alpha1.IPAddressPool
	announces bool
	policy    providers.Policy
}

func (h *cloudSimulation) lead(seen int) {
	h.leader = &simulatedController{overlay: &Overlay{}, seen: seen, unsure: true}
	h.requests, h.outcomes = nil, map[types.UID]CloudOutcome{}
}

// changeByOwner does what the owner of a Service may do.
func (h *cloudSimulation) changeByOwner(svc *corev1.Service) {
	switch rapid.IntRange(0, 6).Draw(h.T, "the owner") {
	case 0:
		deleting(svc)
	case 1:
		clusterIP(svc)
	case 2:
		if svc.Spec.Type != corev1.ServiceTypeLoadBalancer {
			svc.Spec.Type = corev1.ServiceTypeLoadBalancer
			if rapid.Bool().Draw(h.T, "with a class") {
				classed(rapid.SampledFrom([]string{v1alpha1.ClassAWS, v1alpha1.ClassBareMetal, "example.com/lb"}).Draw(h.T, "class"))(svc)
			}
		}
	case 3:
		svc.Finalizers = append(slices.DeleteFunc(svc.Finalizers, isFinalizerAWS), v1alpha1.FinalizerAWS)
	default:
		svc.Annotations = maps.Clone(svc.Annotations)
		svc.Annotations[v1alpha1.AnnotationProvider] = rapid.SampledFrom([]string{"", "aws", "bare-metal", "none", "nonsense"}).Draw(h.T, "asks for")
	}
}

func isFinalizerAWS(f string) bool { return f == v1alpha1.FinalizerAWS }

func (h *cloudSimulation) snapshot() Snapshot {
	if h.leader.unsure {
		h.leader.overlay.ObserveList(slices.Collect(maps.Values(h.server.objects)), strconv.Itoa(h.server.now))
		h.leader.unsure = false
	}
	s := Snapshot{
		Policy: h.policy, Objects: config.Objects{Pools: h.pools, L2Advertisements: onEth0}, Nodes: h.nodes,
		Services: h.leader.overlay.Merge(h.server.cached(h.leader.seen), strconv.Itoa(h.leader.seen)),
		Cloud:    maps.Clone(h.outcomes),
	}
	slices.SortFunc(s.Services, func(a, b *corev1.Service) int { return strings.Compare(a.Name, b.Name) })
	if h.announces {
		var addrs []string
		for _, svc := range s.Services {
			for _, a := range haveAddresses(svc) {
				addrs = append(addrs, a.Addr.String())
			}
		}
		s.setAnnouncing("rack", addrs...)
	}
	return s
}

// reconcile runs one sync, and checks each write.
func (h *cloudSimulation) reconcile() {
	s := h.snapshot()
	plan := Decide(s)
	for uid, was := range h.requests {
		if now, ok := plan.Cloud[uid]; !ok || now.Action != was.Action {
			delete(h.outcomes, uid)
		}
	}
	h.requests = plan.Cloud
	chooser := providers.NewChooser(s.Policy, s.Nodes)
	for _, svc := range s.Services {
		p, planned := plan.findService(KeyOf(svc))
		current := h.server.objects[KeyOf(svc)]
		if !planned || p.Matches(svc) || current == nil || current.ResourceVersion != svc.ResourceVersion {
			continue
		}
		after := p.Written(svc)
		recorded := v1alpha1.HasOwnLoadBalancer(svc)
		kept := hasFinalizer(after, v1alpha1.FinalizerAWS) && v1alpha1.HasOwnLoadBalancer(after)
		if recorded && !kept && !s.Cloud[svc.UID].Deleted() {
			h.Fatalf("%s loses its finalizer or record before AWS has deleted everything", svc.Name)
		}
		if !recorded && !kept && hasFinalizer(after, v1alpha1.FinalizerAWS) {
			h.Fatalf("%s keeps a finalizer although nothing was created for it", svc.Name)
		}
		stays := svc.DeletionTimestamp == nil && chooser.Choose(svc).Verdict == providers.OnAWS && recorded
		if stays && len(svc.Status.LoadBalancer.Ingress) > 0 && len(after.Status.LoadBalancer.Ingress) == 0 {
			h.Fatalf("%s loses its ingress", svc.Name)
		}
		if svc.DeletionTimestamp != nil && chooser.Choose(svc).Verdict != providers.NotOurs && len(haveAddresses(after)) > 0 {
			h.Fatalf("%s is deleted and keeps %v", svc.Name, haveAddresses(after))
		}
		for _, a := range haveAddresses(after) {
			if stays && !slices.ContainsFunc(haveAddresses(svc), func(b allocator.Have) bool { return b.Addr == a.Addr }) {
				h.Fatalf("%s is on AWS and gets %s: %+v, then %+v", svc.Name, a.Addr, svc.Status, p)
			}
		}
		switch rapid.IntRange(0, 9).Draw(h.T, "write") {
		case 0:
			h.lead(rapid.IntRange(0, h.server.now).Draw(h.T, "seen")) // killed between two writes
			return
		case 1: // took effect, but the answer is lost
			h.server.put(after)
			h.leader.unsure = true
		default:
			h.leader.overlay.Observe(h.server.put(after))
		}
	}
}

// call makes one of the requested calls, which may fail halfway.
func (h *cloudSimulation) call() {
	if len(h.requests) == 0 || h.policy.AWSLacks != "" {
		return
	}
	uids := slices.Sorted(maps.Keys(h.requests))
	w := h.requests[rapid.SampledFrom(uids).Draw(h.T, "call about")]
	ends := rapid.IntRange(0, 3).Draw(h.T, "call ends")
	o := CloudOutcome{Action: w.Action, Ingress: h.outcomes[w.Service.UID].Ingress}
	switch {
	case w.Action == DeleteBalancer && h.outcomes[w.Service.UID].Deleted():
		return
	case w.Action == DeleteBalancer && ends == 0:
		o.Reason = v1alpha1.Deleting
	case w.Action == DeleteBalancer:
		if h.balancers[w.Service.UID] == h.policy.Cluster { // under another name it is not found
			delete(h.balancers, w.Service.UID)
		}
	case ends == 0: // a load balancer is created, and the call fails
		h.balancers[w.Service.UID] = h.policy.Cluster
		o.Reason = v1alpha1.CloudFailed
	default:
		h.balancers[w.Service.UID] = h.policy.Cluster
		o.Ingress, o.Report = named(host), providers.Report{Ready: ends > 1}
	}
	h.outcomes[w.Service.UID] = o
}

// TestHistoriesOnAWS: in every history, each load balancer belongs to a Service with
// the finalizer, no Service on AWS loses its ingress, and no deleted Service keeps an
// address of a pool until its load balancer is deleted.
func TestHistoriesOnAWS(t *testing.T) {
	for range 20 { // the rarest mistake so far took one history in a thousand
		rapid.Check(t, simulateHistory)
	}
}

func simulateHistory(t *rapid.T) {
	h := &cloudSimulation{
		T: t, server: &simulatedAPIServer{objects: map[types.NamespacedName]*corev1.Service{}}, balancers: map[types.UID]string{},
		policy: providers.Policy{Mode: providers.Auto, Cluster: "prod"},
		nodes:  []*corev1.Node{readyNode("rack"), awsNode("a1")}, pools: []*v1alpha1.IPAddressPool{pool("p", "192.0.2.0/29")},
	}
	h.lead(0)
	created := 0
	for range rapid.IntRange(1, 80).Draw(t, "steps") {
		switch rapid.IntRange(0, 11).Draw(t, "step") {
		case 0:
			created++
			h.server.put(service(fmt.Sprintf("a%d", created)))
		case 1, 2:
			if keys := sortedKeys(h.server.objects); len(keys) > 0 {
				svc := h.server.objects[rapid.SampledFrom(keys).Draw(t, "owned")].DeepCopy()
				h.changeByOwner(svc)
				h.server.put(svc)
			}
		case 3:
			h.nodes = rapid.SampledFrom([][]*corev1.Node{nil, {readyNode("rack")}, {readyNode("rack"), awsNode("a1")}}).Draw(t, "nodes")
			h.announces = rapid.Bool().Draw(t, "announces")
		case 4: // another leader, perhaps with other flags
			h.policy.Mode = rapid.SampledFrom(providers.Modes).Draw(t, "--provider")
			h.policy.Cluster = rapid.SampledFrom([]string{"prod", "prod", "test"}).Draw(t, "--cluster-name")
			h.policy.AWSLacks = rapid.SampledFrom([]string{"", "", "set it"}).Draw(t, "lacks")
			h.lead(rapid.IntRange(0, h.server.now).Draw(t, "seen"))
		case 5, 6, 7:
			h.call()
		default:
			h.leader.seen = rapid.IntRange(h.leader.seen, h.server.now).Draw(t, "caught up to")
			h.reconcile()
		}
		for uid := range h.balancers {
			owner := h.server.objects[key(string(uid))]
			if owner == nil || !hasFinalizer(owner, v1alpha1.FinalizerAWS) {
				t.Fatalf("the load balancer of %s is orphaned", uid)
			}
		}
	}
}
