package main

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"

	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/controller/plan"
	"github.com/fairlead-io/fairlead/speaker/l2"
	speakerplan "github.com/fairlead-io/fairlead/speaker/plan"
)

// inventory is every object that a decision can depend on, wherever it was read.
type inventory struct {
	config.Objects
	services   []*corev1.Service
	nodes      []*corev1.Node
	namespaces []*corev1.Namespace
	slices     []*discoveryv1.EndpointSlice
	cidrs      []*networkingv1.ServiceCIDR
	speakers   []*v1alpha1.Speaker
	at         map[string]int // of each object, its place among those of its kind
}

// scheme knows how the kinds of an inventory, and lists of them, are written.
var scheme = func() *runtime.Scheme {
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, discoveryv1.AddToScheme, networkingv1.AddToScheme, v1alpha1.AddToScheme} {
		utilruntime.Must(add(s))
	}
	return s
}()

// world is what decisions are made from.
type world struct {
	cluster plan.Snapshot
	nodes   speakerplan.Snapshot
}

// world is the inventory as the controller and the speakers see it at a time.
// The policy is still to be set.
func (i *inventory) world(now time.Time) world {
	w := world{
		cluster: plan.Snapshot{
			Now: now, Objects: i.Objects, Services: i.services, Nodes: i.nodes, Namespaces: i.namespaces,
			ServiceCIDRs: i.cidrs, Speakers: i.speakers,
		},
		nodes: speakerplan.Snapshot{Services: i.services, Nodes: i.nodes, Slices: i.slices, Links: map[string][]l2.Link{}},
	}
	w.nodes.Config, _ = config.Parse(i.Objects)
	for _, s := range i.speakers {
		w.nodes.Links[s.Name] = speakerplan.LinksOf(s)
	}
	return w
}

// put adds the object, in the place of one with its name, and reports whether
// the inventory has a place for its kind, and whether there was one.
func (i *inventory) put(o runtime.Object) (placed, replaced bool) {
	placed = true
	switch o := o.(type) {
	case *corev1.Service:
		i.services, replaced = put(i, i.services, "Service", o)
	case *corev1.Node:
		i.nodes, replaced = put(i, i.nodes, "Node", o)
	case *corev1.Namespace:
		i.namespaces, replaced = put(i, i.namespaces, "Namespace", o)
	case *discoveryv1.EndpointSlice:
		i.slices, replaced = put(i, i.slices, "EndpointSlice", o)
	case *networkingv1.ServiceCIDR:
		i.cidrs, replaced = put(i, i.cidrs, "ServiceCIDR", o)
	case *v1alpha1.Speaker:
		i.speakers, replaced = put(i, i.speakers, "Speaker", o)
	case *v1alpha1.IPAddressPool:
		i.Pools, replaced = put(i, i.Pools, "IPAddressPool", o)
	case *v1alpha1.L2Advertisement:
		i.L2Advertisements, replaced = put(i, i.L2Advertisements, "L2Advertisement", o)
	case *v1alpha1.BGPAdvertisement:
		i.BGPAdvertisements, replaced = put(i, i.BGPAdvertisements, "BGPAdvertisement", o)
	case *v1alpha1.BGPPeer:
		i.BGPPeers, replaced = put(i, i.BGPPeers, "BGPPeer", o)
	case *v1alpha1.BFDProfile:
		i.BFDProfiles, replaced = put(i, i.BFDProfiles, "BFDProfile", o)
	case *v1alpha1.Community:
		i.Communities, replaced = put(i, i.Communities, "Community", o)
	default:
		placed = false
	}
	return placed, replaced
}

func put[T metav1.Object](i *inventory, all []T, kind string, o T) (now []T, replaced bool) {
	key := kind + "/" + o.GetNamespace() + "/" + o.GetName()
	if at, known := i.at[key]; known {
		all[at] = o
		return all, true
	}
	if i.at == nil {
		i.at = make(map[string]int)
	}
	i.at[key] = len(all)
	return append(all, o), false
}

// objects are all of it, in an order that reads well.
func (i *inventory) objects() []runtime.Object {
	return slices.Concat(
		objectsOf(i.Pools), objectsOf(i.L2Advertisements), objectsOf(i.BGPAdvertisements), objectsOf(i.BGPPeers),
		objectsOf(i.BFDProfiles), objectsOf(i.Communities), objectsOf(i.speakers),
		objectsOf(i.nodes), objectsOf(i.cidrs), objectsOf(i.namespaces), objectsOf(i.services), objectsOf(i.slices),
	)
}

func objectsOf[T runtime.Object](all []T) []runtime.Object {
	out := make([]runtime.Object, len(all))
	for i, o := range all {
		out[i] = o
	}
	return out
}
