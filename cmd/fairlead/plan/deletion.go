package plan

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
	controllerplan "github.com/fairlead-io/fairlead/controller/plan"
)

// Deletion identifies an object to delete.
type Deletion struct{ kind, namespace, name string }

// deletableKinds are the kinds that a Deletion may have.
var deletableKinds = []string{
	"BFDProfile", "BGPAdvertisement", "BGPPeer", "Community", "IPAddressPool", "L2Advertisement", "Node", "Service",
}

// ParseDeletion parses KIND/NAME or service/NAMESPACE/NAME. A Service without a
// namespace is in the given one. As in kubectl, the kind may be in lower case, in
// the plural, or svc.
func ParseDeletion(text, namespace string) (d Deletion, err error) {
	kind, name, _ := strings.Cut(text, "/")
	kind = strings.ToLower(kind)
	i := slices.IndexFunc(deletableKinds, func(k string) bool {
		// Without an API server the names of the resources follow from the kinds,
		// which is correct for all of deletableKinds.
		plural, singular := apimeta.UnsafeGuessKindToResource(schema.GroupVersionKind{Kind: k})
		return kind == singular.Resource || kind == plural.Resource || k == "Service" && kind == "svc"
	})
	if i < 0 {
		return d, fmt.Errorf("--delete=%q: must be KIND/NAME with one of the kinds %q", text, deletableKinds)
	}
	d = Deletion{kind: deletableKinds[i], name: name}
	if d.kind == "Service" {
		d.namespace = namespace
		if ns, name, both := strings.Cut(name, "/"); both {
			d.namespace, d.name = cmp.Or(ns, namespace), name
		}
	}
	// Only a Service has a namespace.
	if d.name == "" || strings.Contains(d.name, "/") {
		return d, fmt.Errorf("--delete=%q: must be KIND/NAME or service/NAMESPACE/NAME", text)
	}
	return d, nil
}

// deleteFrom returns the cluster after the deletion. A Service or pool with finalizers
// is terminating until these have been removed.
func (d Deletion) deleteFrom(s controllerplan.Snapshot) (controllerplan.Snapshot, error) {
	now := metav1.NewTime(s.Now)
	found := false
	switch d.kind {
	case "IPAddressPool":
		s.Objects.Pools, found = terminateObject(s.Objects.Pools, d, (*v1alpha1.IPAddressPool).DeepCopy, now)
	case "Service":
		s.Services, found = terminateObject(s.Services, d, (*corev1.Service).DeepCopy, now)
	case "L2Advertisement":
		s.Objects.L2Advertisements, found = removeObject(s.Objects.L2Advertisements, d)
	case "BGPAdvertisement":
		s.Objects.BGPAdvertisements, found = removeObject(s.Objects.BGPAdvertisements, d)
	case "BGPPeer":
		s.Objects.BGPPeers, found = removeObject(s.Objects.BGPPeers, d)
	case "BFDProfile":
		s.Objects.BFDProfiles, found = removeObject(s.Objects.BFDProfiles, d)
	case "Community":
		s.Objects.Communities, found = removeObject(s.Objects.Communities, d)
	case "Node":
		s.Nodes, found = removeObject(s.Nodes, d)
	}
	if !found {
		return s, fmt.Errorf("--delete: %s %q not found", d.kind, strings.TrimPrefix(d.namespace+"/"+d.name, "/"))
	}
	return s, nil
}

func (d Deletion) matches(o metav1.Object) bool {
	return o.GetNamespace() == d.namespace && o.GetName() == d.name
}

// terminateObject returns the objects with the deleted one replaced by a
// terminating copy, or without it if it has no finalizers.
func terminateObject[T metav1.Object](all []T, d Deletion, deepCopy func(T) T, now metav1.Time) (after []T, found bool) {
	i := slices.IndexFunc(all, func(o T) bool { return d.matches(o) })
	if i < 0 {
		return all, false
	}
	if len(all[i].GetFinalizers()) == 0 {
		return removeObject(all, d)
	}
	// The snapshot is also the state before the deletion, and must not change.
	after = slices.Clone(all)
	after[i] = deepCopy(after[i])
	after[i].SetDeletionTimestamp(&now)
	return after, true
}

// removeObject returns the objects without the deleted one.
func removeObject[T metav1.Object](all []T, d Deletion) (after []T, found bool) {
	after = slices.DeleteFunc(slices.Clone(all), func(o T) bool { return d.matches(o) })
	return after, len(after) < len(all)
}
