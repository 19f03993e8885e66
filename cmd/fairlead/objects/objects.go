// Package objects reads the Kubernetes objects that Fairlead's decisions depend
// on, and builds the snapshots that the controller and the speakers decide from.
//
//   - FromCluster lists the objects from an API server (cluster.go).
//   - FromDumps reads the output of fairlead dump or kubectl get (dumps.go).
//     Unknown fields are ignored, and kinds that no decision depends on are
//     skipped.
//   - FromManifests reads manifests that are to be applied (manifests.go). They
//     are decoded strictly and validated against the schemas of the CRDs that the
//     program was built with (schema.go).
//
// FromCluster and FromDumps also return notes: sentences on objects that could not
// be read, and on the consequences. The package prints nothing. It keeps the parsed
// schemas in memory; they are constants of the program.
package objects

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"

	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// Collection holds all objects that a decision can depend on. The zero value is
// empty and ready for use.
type Collection struct {
	config.Objects
	Services       []*corev1.Service
	Nodes          []*corev1.Node
	Namespaces     []*corev1.Namespace
	EndpointSlices []*discoveryv1.EndpointSlice
	ServiceCIDRs   []*networkingv1.ServiceCIDR
	Speakers       []*v1alpha1.Speaker
	L2Nodes        []*v1alpha1.L2Node
	Events         []*corev1.Event // about Fairlead's Pods, and announcements of Services
	// MissingCRDs are the names of the CustomResourceDefinitions of Fairlead that the
	// cluster lacks.
	MissingCRDs []string
	// indices are the indices of the objects in the lists above.
	indices map[objectID]int
}

// objectID identifies an object in a Collection.
type objectID struct{ kind, namespace, name string }

// Scheme contains the kinds of a Collection, and their list kinds.
var Scheme = func() *runtime.Scheme {
	s := runtime.NewScheme()
	kinds := runtime.NewSchemeBuilder(corev1.AddToScheme, discoveryv1.AddToScheme, networkingv1.AddToScheme, v1alpha1.AddToScheme)
	utilruntime.Must(kinds.AddToScheme(s))
	return s
}()

// put adds the object, or replaces the object of the same kind and name. It reports
// whether a Collection holds objects of the kind, and whether an object was
// replaced.
func (c *Collection) put(o runtime.Object) (held, replaced bool) {
	held = true
	switch o := o.(type) {
	case *corev1.Service:
		replaced = putObject(c, &c.Services, "Service", o)
	case *corev1.Node:
		replaced = putObject(c, &c.Nodes, "Node", o)
	case *corev1.Namespace:
		replaced = putObject(c, &c.Namespaces, "Namespace", o)
	case *discoveryv1.EndpointSlice:
		replaced = putObject(c, &c.EndpointSlices, "EndpointSlice", o)
	case *networkingv1.ServiceCIDR:
		replaced = putObject(c, &c.ServiceCIDRs, "ServiceCIDR", o)
	case *corev1.Event:
		replaced = putObject(c, &c.Events, "Event", o)
	case *v1alpha1.Speaker:
		replaced = putObject(c, &c.Speakers, "Speaker", o)
	case *v1alpha1.L2Node:
		replaced = putObject(c, &c.L2Nodes, "L2Node", o)
	case *v1alpha1.IPAddressPool:
		replaced = putObject(c, &c.Pools, "IPAddressPool", o)
	case *v1alpha1.L2Advertisement:
		replaced = putObject(c, &c.L2Advertisements, "L2Advertisement", o)
	case *v1alpha1.BGPAdvertisement:
		replaced = putObject(c, &c.BGPAdvertisements, "BGPAdvertisement", o)
	case *v1alpha1.BGPPeer:
		replaced = putObject(c, &c.BGPPeers, "BGPPeer", o)
	case *v1alpha1.BFDProfile:
		replaced = putObject(c, &c.BFDProfiles, "BFDProfile", o)
	case *v1alpha1.Community:
		replaced = putObject(c, &c.Communities, "Community", o)
	default:
		held = false
	}
	return held, replaced
}

// putObject keeps the place of an object that it replaces, so that the order of the
// lists is the one of their first occurrence.
func putObject[T metav1.Object](c *Collection, all *[]T, kind string, o T) (replaced bool) {
	id := objectID{kind, o.GetNamespace(), o.GetName()}
	if i, known := c.indices[id]; known {
		(*all)[i] = o
		return true
	}
	if c.indices == nil {
		c.indices = make(map[objectID]int)
	}
	c.indices[id] = len(*all)
	*all = append(*all, o)
	return false
}

// All returns all objects, grouped by kind: Fairlead's configuration first,
// EndpointSlices and Events last.
func (c *Collection) All() []runtime.Object {
	return slices.Concat(
		runtimeObjects(c.Pools), runtimeObjects(c.L2Advertisements), runtimeObjects(c.BGPAdvertisements), runtimeObjects(c.BGPPeers),
		runtimeObjects(c.BFDProfiles), runtimeObjects(c.Communities), runtimeObjects(c.Speakers), runtimeObjects(c.L2Nodes),
		runtimeObjects(c.Nodes), runtimeObjects(c.ServiceCIDRs), runtimeObjects(c.Namespaces), runtimeObjects(c.Services),
		runtimeObjects(c.EndpointSlices), runtimeObjects(c.Events),
	)
}

func runtimeObjects[T runtime.Object](all []T) []runtime.Object {
	out := make([]runtime.Object, len(all))
	for i, o := range all {
		out[i] = o
	}
	return out
}
