// This file applies manifests as the API server and kubectl apply would: fields
// that others write stay, and unset fields get their defaults.

package plan

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-io/fairlead/cmd/fairlead/objects"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	controllerplan "github.com/fairlead-io/fairlead/controller/plan"
)

// overlayManifests returns the cluster after the manifests have been applied, and
// notes on assumptions. A manifest replaces the object of its kind and name, or is
// added. overlayManifests completes the manifests in place.
func overlayManifests(s controllerplan.Snapshot, manifests *objects.Collection) (controllerplan.Snapshot, []string) {
	var notes []string
	now := metav1.NewTime(s.Now)
	s.Objects.Pools = overlayObjects(s.Objects.Pools, manifests.Pools, now)
	// The status is a subresource, which apply does not write.
	for _, ad := range manifests.L2Advertisements {
		ad.Status = objectNamed(s.Objects.L2Advertisements, ad.Name).Status
	}
	for _, ad := range manifests.BGPAdvertisements {
		ad.Status = objectNamed(s.Objects.BGPAdvertisements, ad.Name).Status
	}
	s.Objects.L2Advertisements = overlayObjects(s.Objects.L2Advertisements, manifests.L2Advertisements, now)
	s.Objects.BGPAdvertisements = overlayObjects(s.Objects.BGPAdvertisements, manifests.BGPAdvertisements, now)
	s.Objects.BGPPeers = overlayObjects(s.Objects.BGPPeers, manifests.BGPPeers, now)
	s.Objects.BFDProfiles = overlayObjects(s.Objects.BFDProfiles, manifests.BFDProfiles, now)
	s.Objects.Communities = overlayObjects(s.Objects.Communities, manifests.Communities, now)
	for _, ns := range manifests.Namespaces { // the API server sets this label
		metav1.SetMetaDataLabel(&ns.ObjectMeta, corev1.LabelMetadataName, ns.Name)
	}
	s.Namespaces = overlayObjects(s.Namespaces, manifests.Namespaces, now)

	existing := servicesByKey(s.Services)
	families := clusterFamilies(s)
	for _, svc := range manifests.Services {
		notes = append(notes, completeService(svc, existing[keyOf(svc)], families)...)
	}
	s.Services = overlayObjects(s.Services, manifests.Services, now)
	for _, n := range manifests.Nodes {
		if i := slices.IndexFunc(s.Nodes, func(o *corev1.Node) bool { return o.Name == n.Name }); i >= 0 {
			completeNode(n, s.Nodes[i])
		}
	}
	s.Nodes = overlayObjects(s.Nodes, manifests.Nodes, now)
	return s, notes
}

// overlayObjects returns the observed objects with each manifest in place of the
// object of its name. Metadata that the API server writes is kept; the creation time
// of an object that does not exist yet is now.
func overlayObjects[T metav1.Object](observed, manifests []T, now metav1.Time) []T {
	all := slices.Clone(observed)
	indices := make(map[types.NamespacedName]int, len(all))
	for i, o := range all {
		indices[keyOf(o)] = i
	}
	for _, o := range manifests {
		i, exists := indices[keyOf(o)]
		if !exists {
			o.SetCreationTimestamp(now)
			o.SetDeletionTimestamp(nil)
			o.SetFinalizers(nil)
			o.SetUID(types.UID("planned " + keyOf(o).String())) // records of addresses require one
			all = append(all, o)
			continue
		}
		o.SetCreationTimestamp(all[i].GetCreationTimestamp())
		// An object that is terminating stays so: a manifest cannot undo its
		// deletion.
		o.SetDeletionTimestamp(all[i].GetDeletionTimestamp())
		o.SetFinalizers(all[i].GetFinalizers())
		o.SetUID(all[i].GetUID())
		o.SetResourceVersion(all[i].GetResourceVersion())
		o.SetLabels(appliedLabels(o, all[i]))
		all[i] = o
	}
	return all
}

// objectNamed returns the object with the name, or an empty one.
func objectNamed[T any, P interface {
	*T
	metav1.Object
}](all []P, name string) P {
	if i := slices.IndexFunc(all, func(o P) bool { return o.GetName() == name }); i >= 0 {
		return all[i]
	}
	return new(T)
}

// completeNode adds the fields that the kubelet and the cloud write to a Node of a
// manifest.
func completeNode(n, existing *corev1.Node) {
	if len(n.Status.Conditions) == 0 && len(n.Status.Addresses) == 0 {
		n.Status = existing.Status
	}
	n.Spec.ProviderID = cmp.Or(n.Spec.ProviderID, existing.Spec.ProviderID)
	if len(n.Spec.PodCIDRs) == 0 {
		n.Spec.PodCIDR, n.Spec.PodCIDRs = existing.Spec.PodCIDR, existing.Spec.PodCIDRs
	}
}

// completeService adds the fields that the API server and the controllers write to a
// Service of a manifest. The existing Service may be nil.
func completeService(svc, existing *corev1.Service, families []corev1.IPFamily) (notes []string) {
	// The status is a subresource, which apply does not write.
	svc.Status = corev1.ServiceStatus{}
	for _, name := range v1alpha1.RecordAnnotations {
		delete(svc.Annotations, name)
	}
	if existing != nil {
		svc.Status = *existing.Status.DeepCopy()
		notes = applyAnnotations(svc, existing)
		svc.Spec.IPFamilyPolicy = cmp.Or(svc.Spec.IPFamilyPolicy, existing.Spec.IPFamilyPolicy)
	}
	svc.Spec.Type = cmp.Or(svc.Spec.Type, corev1.ServiceTypeClusterIP)
	// The API server sets the default of the policy only where the type allows the
	// field.
	if svc.Spec.Type != corev1.ServiceTypeClusterIP {
		svc.Spec.ExternalTrafficPolicy = cmp.Or(svc.Spec.ExternalTrafficPolicy, corev1.ServiceExternalTrafficPolicyCluster)
	}
	for i := range svc.Spec.Ports {
		p := &svc.Spec.Ports[i]
		p.Protocol = cmp.Or(p.Protocol, corev1.ProtocolTCP)
		// An allocated node port is kept when the manifest does not name it, as by
		// the API server.
		if existing == nil || p.NodePort != 0 {
			continue
		}
		for _, old := range existing.Spec.Ports {
			if old.Port == p.Port && old.Protocol == p.Protocol {
				p.NodePort = old.NodePort
			}
		}
	}
	completeFamilies(svc, existing, families)
	return notes
}

// completeFamilies sets unset IP families as the API server does.
func completeFamilies(svc, existing *corev1.Service, families []corev1.IPFamily) {
	single := corev1.IPFamilyPolicySingleStack
	if svc.Spec.IPFamilyPolicy == nil {
		svc.Spec.IPFamilyPolicy = &single
		if len(svc.Spec.IPFamilies) > 1 {
			required := corev1.IPFamilyPolicyRequireDualStack
			svc.Spec.IPFamilyPolicy = &required
		}
	}
	if len(svc.Spec.IPFamilies) == 0 && existing != nil {
		svc.Spec.IPFamilies = slices.Clone(existing.Spec.IPFamilies)
	}
	if len(svc.Spec.IPFamilies) == 0 {
		svc.Spec.IPFamilies = slices.Clone(families[:1])
	}
	switch {
	// A dual-stack Service that becomes SingleStack keeps its first family.
	case *svc.Spec.IPFamilyPolicy == single:
		svc.Spec.IPFamilies = svc.Spec.IPFamilies[:1]
	// The other families of the cluster are added behind the requested one. A
	// cluster with one family adds none.
	case len(svc.Spec.IPFamilies) == 1:
		for _, f := range families {
			if f != svc.Spec.IPFamilies[0] {
				svc.Spec.IPFamilies = append(svc.Spec.IPFamilies, f)
			}
		}
	}
}

// clusterFamilies returns the IP families of the cluster, the default one first.
func clusterFamilies(s controllerplan.Snapshot) []corev1.IPFamily {
	first := []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}
	both := false
	for _, svc := range s.Services {
		// The Service of the API server has the default family of the cluster.
		if svc.Namespace == "default" && svc.Name == "kubernetes" && slices.Equal(svc.Spec.IPFamilies, first[1:]) {
			slices.Reverse(first)
		}
		both = both || len(svc.Spec.IPFamilies) > 1
	}
	for _, c := range s.ServiceCIDRs {
		both = both || len(c.Spec.CIDRs) > 1
	}
	if both {
		return first
	}
	return first[:1]
}

// lastApplied returns the metadata that the last kubectl apply has set, if it was
// used.
func lastApplied(o metav1.Object) (metadata metav1.ObjectMeta, known bool) {
	var applied struct{ Metadata metav1.ObjectMeta }
	text, known := o.GetAnnotations()[corev1.LastAppliedConfigAnnotation]
	known = known && json.Unmarshal([]byte(text), &applied) == nil
	return applied.Metadata, known
}

// appliedLabels returns the labels after the manifest has been applied. kubectl apply
// removes only labels that its last run has set.
func appliedLabels(manifest, existing metav1.Object) map[string]string {
	applied, _ := lastApplied(existing)
	kept := maps.Clone(existing.GetLabels())
	maps.DeleteFunc(kept, func(name, _ string) bool { _, byApply := applied.Labels[name]; return byApply })
	if kept == nil {
		return manifest.GetLabels()
	}
	maps.Copy(kept, manifest.GetLabels())
	return kept
}

// applyAnnotations adds the annotations that are kept when the manifest is applied:
// the controller's records, and those that the last kubectl apply has not set. If
// kubectl apply was not used, the manifest is assumed to be complete.
func applyAnnotations(svc, existing *corev1.Service) (notes []string) {
	applied, wasApplied := lastApplied(existing)
	for _, name := range slices.Sorted(maps.Keys(existing.Annotations)) {
		value := existing.Annotations[name]
		_, inManifest := svc.Annotations[name]
		_, byApply := applied.Annotations[name]
		switch {
		case inManifest:
		// kubectl apply removes only annotations that its last run has set.
		case slices.Contains(v1alpha1.RecordAnnotations[:], name) || wasApplied && !byApply:
			if svc.Annotations == nil {
				svc.Annotations = map[string]string{}
			}
			svc.Annotations[name] = value
		// The controller reads the annotation, so its removal changes the result: a
		// note makes it visible.
		case slices.ContainsFunc(annotationPrefixes, func(prefix string) bool { return strings.HasPrefix(name, prefix) }):
			notes = append(notes, fmt.Sprintf("Service %s has the annotation %s: %s, which is not in the manifest; "+
				"the plan assumes that it is removed",
				keyOf(svc), name, value))
		}
	}
	return notes
}

// annotationPrefixes are the prefixes of the annotations that the controller reads.
var annotationPrefixes = []string{v1alpha1.GroupVersion.Group, "metallb.", "service.beta.kubernetes.io/aws-"}
