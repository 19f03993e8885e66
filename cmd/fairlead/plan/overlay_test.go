package plan

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-io/fairlead/cmd/fairlead/objects"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	controllerplan "github.com/fairlead-io/fairlead/controller/plan"
)

// TestOverlayFamilies checks that a Service of a manifest has the IP families that
// the API server would choose.
func TestOverlayFamilies(t *testing.T) {
	const v4, v6 = corev1.IPv4Protocol, corev1.IPv6Protocol
	const single, prefer = corev1.IPFamilyPolicySingleStack, corev1.IPFamilyPolicyPreferDualStack
	const require = corev1.IPFamilyPolicyRequireDualStack
	of := func(policy corev1.IPFamilyPolicy, families ...corev1.IPFamily) *corev1.Service {
		svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "a"}, Spec: corev1.ServiceSpec{IPFamilies: families}}
		if policy != "" {
			svc.Spec.IPFamilyPolicy = &policy
		}
		return svc
	}
	for _, row := range []struct {
		name      string
		file, had *corev1.Service
		cidrs     []string
		first     corev1.IPFamily
		policy    corev1.IPFamilyPolicy
		want      []corev1.IPFamily
	}{
		{"new", of(""), nil, nil, v4, single, []corev1.IPFamily{v4}},
		{"new, IPv6 cluster", of(""), nil, nil, v6, single, []corev1.IPFamily{v6}},
		{"new, asks for IPv6", of("", v6), nil, nil, v4, single, []corev1.IPFamily{v6}},
		{"new, asks for both", of("", v6, v4), nil, nil, v4, require, []corev1.IPFamily{v6, v4}},
		{"prefers, cluster has one", of(prefer), nil, []string{"10.96.0.0/16"}, v4, prefer, []corev1.IPFamily{v4}},
		{"prefers, cluster has both", of(prefer), nil, []string{"10.96.0.0/16", "fd00::/112"}, v4, prefer, []corev1.IPFamily{v4, v6}},
		{
			"prefers IPv6, cluster has both", of(prefer, v6), nil,
			[]string{"10.96.0.0/16", "fd00::/112"},
			v4, prefer,
			[]corev1.IPFamily{v6, v4},
		},
		{"stays", of(""), of(single, v6), nil, v4, single, []corev1.IPFamily{v6}},
		{"stays dual", of(""), of(require, v6, v4), nil, v4, require, []corev1.IPFamily{v6, v4}},
		{"upgrade", of(require), of(single, v4), []string{"10.96.0.0/16", "fd00::/112"}, v4, require, []corev1.IPFamily{v4, v6}},
		{"downgrade", of(single), of(require, v6, v4), nil, v4, single, []corev1.IPFamily{v6}},
	} {
		cluster := controllerplan.Snapshot{
			Services: []*corev1.Service{{
				ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "kubernetes"},
				Spec:       corev1.ServiceSpec{IPFamilies: []corev1.IPFamily{row.first}},
			}},
			ServiceCIDRs: []*networkingv1.ServiceCIDR{{Spec: networkingv1.ServiceCIDRSpec{CIDRs: row.cidrs}}},
		}
		if row.had != nil {
			cluster.Services = append(cluster.Services, row.had)
		}
		after, _ := overlayManifests(cluster, &objects.Collection{Services: []*corev1.Service{row.file}})
		got := after.Services[len(after.Services)-1]
		if *got.Spec.IPFamilyPolicy != row.policy || !slices.Equal(got.Spec.IPFamilies, row.want) {
			t.Errorf("%s: %s %v, want %s %v", row.name, *got.Spec.IPFamilyPolicy, got.Spec.IPFamilies, row.policy, row.want)
		}
	}
}

// TestOverlayAnnotations checks that annotations of other clients are kept, that
// annotations missing from the manifest are removed, and that a manifest cannot
// change the controller's records.
func TestOverlayAnnotations(t *testing.T) {
	const pool, recorded = v1alpha1.AnnotationAddressPool, v1alpha1.AnnotationAllocatedFrom
	const applied, asks = corev1.LastAppliedConfigAnnotation, `{"metadata":{"annotations":{"fairlead.io/address-pool":"a"}}}`
	for _, row := range []struct {
		name      string
		had, file map[string]string
		want      map[string]string
		note      string
	}{
		{"record stays", map[string]string{recorded: "192.0.2.1=a"}, nil, map[string]string{recorded: "192.0.2.1=a"}, ""},
		{
			"record in the manifest",
			map[string]string{recorded: "192.0.2.1=a"},
			map[string]string{recorded: "192.0.2.1=b"},
			map[string]string{recorded: "192.0.2.1=a"},
			"",
		},
		{"record of a new Service", nil, map[string]string{recorded: "192.0.2.1=b"}, map[string]string{}, ""},
		{"set", map[string]string{}, map[string]string{pool: "b"}, map[string]string{pool: "b"}, ""},
		{"changed", map[string]string{pool: "a"}, map[string]string{pool: "b"}, map[string]string{pool: "b"}, ""},
		{
			"taken out",
			map[string]string{pool: "a"},
			nil,
			map[string]string{},
			"has the annotation " + pool + ": a, which is not in the manifest",
		},
		{
			"applied, taken out",
			map[string]string{pool: "a", applied: asks},
			nil,
			map[string]string{applied: asks},
			"which is not in the manifest",
		},
		{"applied, set by hand", map[string]string{pool: "a", applied: `{}`}, nil, map[string]string{pool: "a", applied: `{}`}, ""},
		{"not read by the controller", map[string]string{"team": "a"}, nil, map[string]string{}, ""},
	} {
		svc := func(annotations map[string]string) *corev1.Service {
			return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "a", Annotations: annotations}}
		}
		had := svc(row.had)
		if row.had == nil {
			had = nil
		}
		file := svc(maps.Clone(row.file))
		notes := strings.Join(completeService(file, had, []corev1.IPFamily{corev1.IPv4Protocol}), "; ")
		if row.name == "applied, taken out" {
			delete(file.Annotations, applied) // kubectl writes it again
			delete(row.want, applied)
		}
		if !maps.Equal(file.Annotations, row.want) || !strings.Contains(notes, row.note) || (notes == "") != (row.note == "") {
			t.Errorf("%s: %v, %q; want %v, %q", row.name, file.Annotations, notes, row.want, row.note)
		}
	}
}

// TestOverlayAge checks that an existing object keeps its creation time and UID, and
// that a new object is the youngest, irrespective of the manifest.
func TestOverlayAge(t *testing.T) {
	now, old := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC), metav1.NewTime(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	older := metav1.NewTime(old.AddDate(-1, 0, 0))
	pool := func(name string, made metav1.Time, addresses v1alpha1.AddressRange) *v1alpha1.IPAddressPool {
		return &v1alpha1.IPAddressPool{
			ObjectMeta: metav1.ObjectMeta{
				Name: name, CreationTimestamp: made,
				UID: types.UID("from " + made.String()[:4]), Finalizers: []string{made.String()[:4]},
			},
			Spec: v1alpha1.IPAddressPoolSpec{Addresses: []v1alpha1.AddressRange{addresses}},
		}
	}
	cluster := controllerplan.Snapshot{Now: now}
	cluster.Objects.Pools = []*v1alpha1.IPAddressPool{pool("lan", old, "192.0.2.1"), pool("other", old, "192.0.2.2")}
	file := new(objects.Collection)
	file.Pools = []*v1alpha1.IPAddressPool{pool("lan", older, "192.0.2.9"), pool("new", older, "192.0.2.3")}
	after, _ := overlayManifests(cluster, file)
	if len(after.Objects.Pools) != 3 || len(cluster.Objects.Pools) != 2 || cluster.Objects.Pools[0].Spec.Addresses[0] != "192.0.2.1" {
		t.Fatalf("%d pools after, %d before", len(after.Objects.Pools), len(cluster.Objects.Pools))
	}
	lan, made := after.Objects.Pools[0], after.Objects.Pools[2]
	if lan.Spec.Addresses[0] != "192.0.2.9" || !lan.CreationTimestamp.Equal(&old) || lan.UID != "from 2026" || lan.Finalizers[0] != "2026" {
		t.Errorf("%+v", lan)
	}
	if !made.CreationTimestamp.Time.Equal(now) || !strings.HasPrefix(string(made.UID), "planned ") || len(made.Finalizers) > 0 {
		t.Errorf("%+v", made)
	}
}

// TestOverlayLabels checks that labels that the last kubectl apply has not set are
// kept.
func TestOverlayLabels(t *testing.T) {
	labelled := func(labels ...string) *corev1.Service {
		svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "a", Labels: map[string]string{}}}
		for _, l := range labels {
			svc.Labels[l] = "x"
		}
		return svc
	}
	applied := labelled("applied", "kept", "others")
	applied.Annotations = map[string]string{corev1.LastAppliedConfigAnnotation: `{"metadata":{"labels":{"applied":"x","kept":"x"}}}`}
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ns", Labels: map[string]string{"tier": "edge"}}}
	after, _ := overlayManifests(controllerplan.Snapshot{Services: []*corev1.Service{applied}}, &objects.Collection{
		Services: []*corev1.Service{labelled("kept", "new")}, Namespaces: []*corev1.Namespace{ns},
	})
	if got, want := slices.Sorted(maps.Keys(after.Services[0].Labels)), []string{"kept", "new", "others"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got, want := after.Namespaces[0].Labels, map[string]string{"tier": "edge", corev1.LabelMetadataName: "ns"}; !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
