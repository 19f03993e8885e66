package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-io/fairlead/cmd/fairlead/objects"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/controller"
)

// overlay is the cluster with the file's objects in place of those there, or
// beside them, and what it took for granted in doing so.
func overlay(s controller.Snapshot, file *objects.Collection) (controller.Snapshot, []string) {
	var notes []string
	now := metav1.NewTime(s.Now)
	s.Objects.Pools = overlaid(s.Objects.Pools, file.Pools, now)
	s.Objects.L2Advertisements = overlaid(s.Objects.L2Advertisements, file.L2Advertisements, now)
	s.Objects.BGPAdvertisements = overlaid(s.Objects.BGPAdvertisements, file.BGPAdvertisements, now)
	s.Objects.BGPPeers = overlaid(s.Objects.BGPPeers, file.BGPPeers, now)
	s.Objects.BFDProfiles = overlaid(s.Objects.BFDProfiles, file.BFDProfiles, now)
	s.Objects.Communities = overlaid(s.Objects.Communities, file.Communities, now)
	for _, ns := range file.Namespaces { // as the API server does
		metav1.SetMetaDataLabel(&ns.ObjectMeta, corev1.LabelMetadataName, ns.Name)
	}
	s.Namespaces = overlaid(s.Namespaces, file.Namespaces, now)

	had := byKey(s.Services)
	families := familiesOf(s)
	for _, svc := range file.Services {
		notes = append(notes, completeService(svc, had[keyOf(svc)], families)...)
	}
	s.Services = overlaid(s.Services, file.Services, now)
	for _, n := range file.Nodes {
		i := slices.IndexFunc(s.Nodes, func(o *corev1.Node) bool { return o.Name == n.Name })
		if i >= 0 && len(n.Status.Conditions) == 0 && len(n.Status.Addresses) == 0 {
			n.Status = s.Nodes[i].Status // written by its kubelet, not by the file
		}
		if i >= 0 && n.Spec.ProviderID == "" {
			n.Spec.ProviderID = s.Nodes[i].Spec.ProviderID
		}
		if i >= 0 && len(n.Spec.PodCIDRs) == 0 {
			n.Spec.PodCIDR, n.Spec.PodCIDRs = s.Nodes[i].Spec.PodCIDR, s.Nodes[i].Spec.PodCIDRs
		}
	}
	s.Nodes = overlaid(s.Nodes, file.Nodes, now)
	return s, notes
}

// overlaid puts each object from a file in the place of the one with its name.
// What the API server writes into the metadata stays as it is there; an object
// that is not there yet is made now.
func overlaid[T metav1.Object](have, file []T, now metav1.Time) []T {
	all := slices.Clone(have)
	at := make(map[[2]string]int, len(all))
	for i, o := range all {
		at[[2]string{o.GetNamespace(), o.GetName()}] = i
	}
	for _, o := range file {
		i, there := at[[2]string{o.GetNamespace(), o.GetName()}]
		if !there {
			o.SetCreationTimestamp(now)
			o.SetDeletionTimestamp(nil)
			o.SetFinalizers(nil)
			o.SetUID("")
			all = append(all, o)
			continue
		}
		o.SetCreationTimestamp(all[i].GetCreationTimestamp())
		o.SetDeletionTimestamp(all[i].GetDeletionTimestamp())
		o.SetFinalizers(all[i].GetFinalizers())
		o.SetUID(all[i].GetUID())
		o.SetResourceVersion(all[i].GetResourceVersion())
		o.SetLabels(labelsKept(o, all[i]))
		all[i] = o
	}
	return all
}

// completeService adds to a Service from a file what the API server and the
// controllers write. had is the one that is there now, if any.
func completeService(svc, had *corev1.Service, families []corev1.IPFamily) (notes []string) {
	svc.Status = corev1.ServiceStatus{}
	for _, name := range v1alpha1.RecordAnnotations {
		delete(svc.Annotations, name)
	}
	if had != nil {
		svc.Status = *had.Status.DeepCopy()
		notes = keepAnnotations(svc, had)
		svc.Spec.IPFamilyPolicy = cmp.Or(svc.Spec.IPFamilyPolicy, had.Spec.IPFamilyPolicy)
	}
	svc.Spec.Type = cmp.Or(svc.Spec.Type, corev1.ServiceTypeClusterIP)
	if svc.Spec.Type != corev1.ServiceTypeClusterIP {
		svc.Spec.ExternalTrafficPolicy = cmp.Or(svc.Spec.ExternalTrafficPolicy, corev1.ServiceExternalTrafficPolicyCluster)
	}
	for i := range svc.Spec.Ports {
		p := &svc.Spec.Ports[i]
		p.Protocol = cmp.Or(p.Protocol, corev1.ProtocolTCP)
		if had == nil || p.NodePort != 0 {
			continue
		}
		for _, old := range had.Spec.Ports {
			if old.Port == p.Port && old.Protocol == p.Protocol {
				p.NodePort = old.NodePort
			}
		}
	}
	completeFamilies(svc, had, families)
	return notes
}

// completeFamilies does what the API server does where a Service leaves its
// families to it.
func completeFamilies(svc, had *corev1.Service, families []corev1.IPFamily) {
	single := corev1.IPFamilyPolicySingleStack
	if svc.Spec.IPFamilyPolicy == nil {
		svc.Spec.IPFamilyPolicy = &single
		if len(svc.Spec.IPFamilies) > 1 {
			required := corev1.IPFamilyPolicyRequireDualStack
			svc.Spec.IPFamilyPolicy = &required
		}
	}
	if len(svc.Spec.IPFamilies) == 0 && had != nil {
		svc.Spec.IPFamilies = slices.Clone(had.Spec.IPFamilies)
	}
	if len(svc.Spec.IPFamilies) == 0 {
		svc.Spec.IPFamilies = slices.Clone(families[:1])
	}
	switch {
	case *svc.Spec.IPFamilyPolicy == single:
		svc.Spec.IPFamilies = svc.Spec.IPFamilies[:1]
	case len(svc.Spec.IPFamilies) == 1:
		for _, f := range families {
			if f != svc.Spec.IPFamilies[0] {
				svc.Spec.IPFamilies = append(svc.Spec.IPFamilies, f)
			}
		}
	}
}

// familiesOf are the families that the cluster gives Services, the one that
// they get unasked first.
func familiesOf(s controller.Snapshot) []corev1.IPFamily {
	first := []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}
	both := false
	for _, svc := range s.Services {
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

// lastApplied is the metadata that the last kubectl apply has set.
func lastApplied(o metav1.Object) (metadata metav1.ObjectMeta, known bool) {
	var applied struct{ Metadata metav1.ObjectMeta }
	text, known := o.GetAnnotations()[corev1.LastAppliedConfigAnnotation]
	known = known && json.Unmarshal([]byte(text), &applied) == nil
	return applied.Metadata, known
}

// labelsKept are the labels after applying the file: others than the last
// kubectl apply has set are not in its hands.
func labelsKept(o, had metav1.Object) map[string]string {
	applied, _ := lastApplied(had)
	kept := maps.Clone(had.GetLabels())
	maps.DeleteFunc(kept, func(name, _ string) bool { _, byApply := applied.Labels[name]; return byApply })
	if kept == nil {
		return o.GetLabels()
	}
	maps.Copy(kept, o.GetLabels())
	return kept
}

// keepAnnotations keeps those that applying the file would keep: what the
// controller has recorded, and what others than the last kubectl apply have
// set. Where there was none, the file is taken to say all.
func keepAnnotations(svc, had *corev1.Service) (notes []string) {
	applied, wasApplied := lastApplied(had)
	for _, name := range slices.Sorted(maps.Keys(had.Annotations)) {
		value := had.Annotations[name]
		_, inFile := svc.Annotations[name]
		_, byApply := applied.Annotations[name]
		switch {
		case inFile:
		case slices.Contains(v1alpha1.RecordAnnotations[:], name) || wasApplied && !byApply:
			if svc.Annotations == nil {
				svc.Annotations = map[string]string{}
			}
			svc.Annotations[name] = value
		case slices.ContainsFunc(heard, func(prefix string) bool { return strings.HasPrefix(name, prefix) }):
			notes = append(notes, fmt.Sprintf("Service %s has the annotation %s: %s, which the file lacks: the plan is for without it", keyOf(svc), name, value))
		}
	}
	return notes
}

// heard are the prefixes of annotations that the controller may listen to.
var heard = []string{v1alpha1.GroupVersion.Group, "metallb.", "service.beta.kubernetes.io/aws-"}

// deletion is an object that is to be deleted.
type deletion struct{ kind, namespace, name string }

// deletable are the kinds of which the deletion can be planned.
var deletable = []string{"BFDProfile", "BGPAdvertisement", "BGPPeer", "Community", "IPAddressPool", "L2Advertisement", "Node", "Service"}

// parseDeletion reads KIND/NAME, and service/NAMESPACE/NAME. As with kubectl,
// the kind may be in small letters, in the plural, and short.
func parseDeletion(text string) (d deletion, err error) {
	kind, name, _ := strings.Cut(text, "/")
	kind = strings.ToLower(kind)
	i := slices.IndexFunc(deletable, func(k string) bool {
		k = strings.ToLower(k)
		return kind == k || kind == k+"s" || kind == strings.TrimSuffix(k, "y")+"ies" || k == "service" && kind == "svc"
	})
	if i < 0 {
		return d, fmt.Errorf("--delete=%q: must be KIND/NAME, with one of the kinds %q", text, deletable)
	}
	d = deletion{kind: deletable[i], name: name}
	if ns, name, both := strings.Cut(name, "/"); both && d.kind == "Service" {
		d.namespace, d.name = ns, name
	}
	if d.name == "" || strings.Contains(d.name, "/") {
		return d, fmt.Errorf("--delete=%q: must be KIND/NAME, or service/NAMESPACE/NAME", text)
	}
	return d, nil
}

// from is the cluster in which somebody has just deleted the object.
func (d deletion) from(s controller.Snapshot) (controller.Snapshot, error) {
	now := metav1.NewTime(s.Now)
	found := false
	switch d.kind {
	case "IPAddressPool":
		s.Objects.Pools, found = deleted(s.Objects.Pools, d, func(p *v1alpha1.IPAddressPool) *v1alpha1.IPAddressPool {
			p = p.DeepCopy()
			p.DeletionTimestamp = &now // it stays while Services hold its addresses
			return p
		})
	case "Service":
		s.Services, found = deleted(s.Services, d, func(svc *corev1.Service) *corev1.Service {
			svc = svc.DeepCopy()
			svc.DeletionTimestamp = &now // it stays until its finalizers are gone
			return svc
		})
	case "L2Advertisement":
		s.Objects.L2Advertisements, found = deleted(s.Objects.L2Advertisements, d, nil)
	case "BGPAdvertisement":
		s.Objects.BGPAdvertisements, found = deleted(s.Objects.BGPAdvertisements, d, nil)
	case "BGPPeer":
		s.Objects.BGPPeers, found = deleted(s.Objects.BGPPeers, d, nil)
	case "BFDProfile":
		s.Objects.BFDProfiles, found = deleted(s.Objects.BFDProfiles, d, nil)
	case "Community":
		s.Objects.Communities, found = deleted(s.Objects.Communities, d, nil)
	case "Node":
		s.Nodes, found = deleted(s.Nodes, d, nil)
	}
	if !found {
		return s, fmt.Errorf("--delete: there is no %s %q", d.kind, strings.TrimPrefix(d.namespace+"/"+d.name, "/"))
	}
	return s, nil
}

// deleted is all without the object, or with what is left of it for now.
func deleted[T metav1.Object](all []T, d deletion, left func(T) T) ([]T, bool) {
	i := slices.IndexFunc(all, func(o T) bool { return o.GetNamespace() == d.namespace && o.GetName() == d.name })
	if i < 0 {
		return all, false
	}
	all = slices.Clone(all)
	if left == nil {
		return slices.Delete(all, i, i+1), true
	}
	all[i] = left(all[i])
	return all, true
}
