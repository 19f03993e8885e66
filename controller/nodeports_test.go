package controller

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/util/workqueue"

	"github.com/fairlead-io/fairlead/controller/plan"
)

// nodePortsOf is "http:80/TCP=30086" and so on, of the Service on the API server.
func nodePortsOf(t *testing.T, client *fake.Clientset) string {
	t.Helper()
	svc, err := client.CoreV1().Services("ns").Get(t.Context(), "a", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, p := range svc.Spec.Ports {
		all = append(all, fmt.Sprintf("%s:%d/%s=%d", p.Name, p.Port, p.Protocol, p.NodePort))
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

// TestNodePortOwnership: new node ports are added to those allocated before, and a
// release keeps the user's own.
func TestNodePortOwnership(t *testing.T) {
	svc := service("a", withPorts("80/TCP", "443/TCP:30443", "53/TCP", "53/UDP"))
	for i := range svc.Spec.Ports {
		svc.Spec.Ports[i].Name = string(rune('p' + i))
	}
	client := fake.NewClientset()
	if _, err := client.CoreV1().Services("ns").Create(t.Context(), svc, metav1.CreateOptions{FieldManager: "user"}); err != nil {
		t.Fatal(err)
	}
	c := &Controller{client: client}
	for _, step := range []struct {
		plan plan.ServicePlan
		want string
	}{
		{
			plan.ServicePlan{NodePorts: []plan.NodePort{{Port: 80, Protocol: "TCP", NodePort: 30086}}},
			"p:80/TCP=30086 q:443/TCP=30443 r:53/TCP=0 s:53/UDP=0",
		},
		{
			plan.ServicePlan{NodePorts: []plan.NodePort{{Port: 53, Protocol: "TCP", NodePort: 30087}, {Port: 53, Protocol: "UDP", NodePort: 30087}}},
			"p:80/TCP=30086 q:443/TCP=30443 r:53/TCP=30087 s:53/UDP=30087",
		},
		{plan.ServicePlan{ReleasesNodePorts: true}, "p:80/TCP=0 q:443/TCP=30443 r:53/TCP=0 s:53/UDP=0"},
	} {
		if _, err := c.writeNodePorts(t.Context(), svc, step.plan); err != nil {
			t.Fatal(err)
		}
		if got := nodePortsOf(t, client); got != step.want {
			t.Errorf("after %+v:\n%s, want\n%s", step.plan, got, step.want)
		}
	}
	stale := svc.DeepCopy()
	stale.ResourceVersion = "1"
	planned := plan.ServicePlan{NodePorts: []plan.NodePort{{Port: 80, Protocol: "TCP", NodePort: 30086}}}
	if _, err := c.writeNodePorts(t.Context(), stale, planned); !apierrors.IsConflict(err) {
		t.Errorf("a Service that has changed since: %v", err)
	}
}

// TestRefusedNodePorts: a refusal that reveals the range or an allocated port leads
// to another choice at once, any other is an error.
func TestRefusedNodePorts(t *testing.T) {
	svc := service("a", withPorts("80/TCP"))
	client := fake.NewClientset(svc)
	var refusal error
	client.PrependReactor("patch", "services", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, &corev1.Service{}, refusal
	})
	invalid := func(detail string) error {
		path := field.NewPath("spec", "ports").Index(0).Child("nodePort")
		return apierrors.NewInvalid(schema.GroupKind{Kind: "Service"}, "a", field.ErrorList{field.Invalid(path, 30086, detail)})
	}
	for _, row := range []struct {
		name    string
		refusal error
		learned bool
		check   func(plan.PortRange) bool
	}{
		{"taken", invalid("provided port is already allocated"), true, func(r plan.PortRange) bool { return r.Taken[30086] }},
		{
			"another range", invalid("provided port is not in the valid range. The range of valid ports is 31000-31999"), true,
			func(r plan.PortRange) bool { return r.Low == 31000 && r.High == 31999 },
		},
		{"the range that is known", invalid("provided port is not in the valid range. The range of valid ports is 31000-31999"), false, nil},
		{"something else", invalid("is not nice"), false, nil},
		{"failed", errors.New("connection lost"), false, nil},
	} {
		c := &Controller{client: client, queue: workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[string]())}
		if row.name == "the range that is known" {
			c.nodePorts.inRange = plan.PortRange{Low: 31000, High: 31999}
		}
		refusal = row.refusal
		planned := plan.ServicePlan{NodePorts: []plan.NodePort{{Port: 80, Protocol: "TCP", NodePort: 30086}}}
		changed, err := c.writeNodePorts(t.Context(), svc, planned)
		if changed != row.learned || (err == nil) != row.learned || (c.queue.Len() == 1) != row.learned {
			t.Errorf("%s: learned is %t, %v, %d in the queue", row.name, changed, err, c.queue.Len())
		}
		if row.check != nil && !row.check(c.nodePorts.current()) {
			t.Errorf("%s: %+v", row.name, c.nodePorts.current())
		}
		c.queue.ShutDown()
	}
}

func TestRefusedNodePortsAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n nodePortRange
		n.learnFromRefusal("Invalid value: 30086: provided port is already allocated")
		time.Sleep(4 * time.Minute)
		n.learnFromRefusal("Invalid value: 30087: provided port is already allocated")
		time.Sleep(2 * time.Minute)
		if r := n.current(); r.Taken[30086] || !r.Taken[30087] {
			t.Errorf("taken %v", r.Taken)
		}
	})
}
