package dump

import (
	"bytes"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-io/fairlead/cmd/fairlead/objects"
	"github.com/fairlead-io/fairlead/config/fixture"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// TestRoundTrip checks that FromDumps reads the objects that Write has written.
func TestRoundTrip(t *testing.T) {
	first, notes, err := objects.FromDumps([]string{"../testdata/docs/dump.yaml"}, nil)
	if err != nil || len(notes) > 0 {
		t.Fatalf("%v, %q", err, notes)
	}
	var b bytes.Buffer
	if err := Write(&b, first); err != nil {
		t.Fatal(err)
	}
	second, _, err := objects.FromDumps([]string{"-"}, &b)
	if err != nil {
		t.Fatal(err)
	}
	want, got := first.All(), second.All()
	if len(want) < 10 || len(want) != len(got) {
		t.Fatalf("%d objects became %d", len(want), len(got))
	}
	for i := range want {
		if !equality.Semantic.DeepEqual(want[i], got[i]) {
			t.Errorf("%v\nbecame\n%v", want[i], got[i])
		}
	}
}

// TestManagedFields checks that a dump contains of a Service's managed fields only what
// the speakers' decision to announce its addresses depends on.
func TestManagedFields(t *testing.T) {
	svc := fixture.Service("s", fixture.WithIPs("192.0.2.7"), fixture.IngressManagedBy(v1alpha1.FieldManager))
	svc.ManagedFields = append(svc.ManagedFields, metav1.ManagedFieldsEntry{Manager: "kubectl"})
	var b bytes.Buffer
	if err := Write(&b, &objects.Collection{Services: []*corev1.Service{svc}}); err != nil {
		t.Fatal(err)
	}
	c, _, err := objects.FromDumps([]string{"-"}, &b)
	if err != nil {
		t.Fatal(err)
	}
	if got := c.Services[0]; !v1alpha1.OwnsIngress(got) || len(got.ManagedFields) != 1 || len(svc.ManagedFields) != 2 {
		t.Errorf("got %+v", got.ManagedFields)
	}
}

// TestOmitted checks that a dump contains neither managed fields nor images of nodes.
func TestOmitted(t *testing.T) {
	node := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "node-1", ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "cloud-node-controller"}}},
		Status:     corev1.NodeStatus{Images: []corev1.ContainerImage{{Names: []string{"nginx"}}}},
	}
	var b bytes.Buffer
	if err := Write(&b, &objects.Collection{Nodes: []*corev1.Node{node}}); err != nil {
		t.Fatal(err)
	}
	text := b.String()
	if !strings.Contains(text, "name: node-1") || strings.Contains(text, "cloud-node-controller") || strings.Contains(text, "nginx") {
		t.Errorf("got\n%s", text)
	}
	if len(node.ManagedFields) == 0 || len(node.Status.Images) == 0 {
		t.Error("the object was changed")
	}
}
