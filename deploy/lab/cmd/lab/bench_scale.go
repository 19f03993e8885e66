package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	lab "github.com/fairlead-io/fairlead/deploy/lab"
)

// scaleAmounts are the sizes and repetitions of the controller benchmarks.
type scaleAmounts struct {
	half     int // Services of a burst, and at a restart
	changes  int // timed single changes of each kind
	restarts int
}

var quickScale, fullScale = scaleAmounts{1000, 20, 2}, scaleAmounts{5000, 60, 5}

// pendingServices is the number of Services that request a missing pool.
func (a scaleAmounts) pendingServices() int { return a.half / 5 }

const (
	// inFlight is the number of concurrent writes, the same as in the controller.
	inFlight = 16

	controllerPod = "fairlead-controller-1"
)

// scaleBench measures the controller against a loop of the same plain API calls. Both
// have the same token, client settings, patches and concurrency, and share one machine
// with kube-apiserver.
type scaleBench struct {
	*lab.Cluster
	lab.Progress
	scaleAmounts
	bare     *kubernetes.Clientset // with the controller's token and settings
	statuses *statusWatch
	// model is a Service as written by the controller. Plain patches have the same
	// content, except names and addresses.
	model    *corev1.Service
	assigned int // addresses assigned by plain patches
	table    resultTable
	notes    []string
}

func runScale(ctx context.Context, o lab.Options, amounts scaleAmounts) error {
	o.Nodes = 1
	c, err := lab.Start(ctx, o)
	if err != nil {
		return err
	}
	s := &scaleBench{Cluster: c, Progress: o.Progress, scaleAmounts: amounts}
	for _, p := range slices.Concat(c.Speakers, c.Proxies) {
		p.Kill() // they share the machine and are not measured
	}
	for _, measure := range []func(context.Context) error{s.createModel, s.measureCreation, s.measureSingle, s.measurePending} {
		if err := measure(ctx); err != nil {
			return err
		}
	}
	fmt.Println("\n" + s.table.String() + "\n" + strings.Join(s.notes, "\n"))
	return nil
}

// createModel creates a pool and the Service that is the model of all patches.
func (s *scaleBench) createModel(ctx context.Context) error {
	return s.Step("create a pool, and a Service as the model of all patches", func() error {
		config, err := s.ConfigOfPod(controllerPod)
		if err != nil {
			return err
		}
		config.QPS, config.DisableCompression = -1, true
		config.ContentType = runtime.ContentTypeProtobuf
		if s.bare, err = kubernetes.NewForConfig(config); err != nil {
			return fmt.Errorf("make an API client: %w", err)
		}
		if s.statuses, err = watchStatuses(ctx, s.API); err != nil {
			return err
		}
		if err := s.makePool(ctx, "bench", "10.80.0.0/16"); err != nil {
			return err
		}
		if _, err := s.createService(ctx, newService("model")); err != nil {
			return err
		}
		if err := s.statuses.waitCount(ctx, 1, "bench"); err != nil {
			return err
		}
		s.model, err = s.API.CoreV1().Services("default").Get(ctx, "model", metav1.GetOptions{})
		return err
	})
}

// newService returns a Service without endpoints and node ports, which only the
// controller processes.
func newService(name string, change ...func(*corev1.Service)) *corev1.Service {
	no := false
	svc := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeLoadBalancer, AllocateLoadBalancerNodePorts: &no,
			Ports: []corev1.ServicePort{{Port: 8086}},
		},
	}
	for _, c := range change {
		c(svc)
	}
	return svc
}

// otherClass sets the class of another implementation.
func otherClass(svc *corev1.Service) {
	class := otherGroup + "/bare"
	svc.Spec.LoadBalancerClass = &class
}

// otherGroup has the length of Fairlead's group, so that patches have equal sizes.
const fairleadGroup, otherGroup = "fairlead.io", "elsewher.io"

func fromPool(pool string) func(*corev1.Service) {
	return func(svc *corev1.Service) { svc.Annotations = map[string]string{"fairlead.io/address-pool": pool} }
}

func (s *scaleBench) createService(ctx context.Context, svc *corev1.Service) (*corev1.Service, error) {
	made, err := s.API.CoreV1().Services("default").Create(ctx, svc, metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("create Service %s: %w", svc.Name, err)
	}
	return made, nil
}

// statusPatch returns the patch that the controller would apply to the Service, with the
// next address from the pool.
func (s *scaleBench) statusPatch(svc *corev1.Service, pool, prefix string) []byte {
	s.assigned++
	n := s.assigned
	old := s.model.Status.LoadBalancer.Ingress[0].IP
	addr := fmt.Sprintf("%s.%d.%d", prefix, n/256, n%256)
	annotation := "fairlead.io/allocated-from"
	body, err := json.Marshal(map[string]any{
		"apiVersion": "v1", "kind": "Service",
		"metadata": map[string]any{
			"name": svc.Name, "uid": svc.UID, "resourceVersion": svc.ResourceVersion,
			"finalizers":  s.model.Finalizers,
			"annotations": map[string]string{annotation: addr + "=" + pool + ",uid=" + string(svc.UID)},
		},
		"status": map[string]any{"loadBalancer": s.model.Status.LoadBalancer, "conditions": s.model.Status.Conditions},
	})
	if err != nil {
		panic(err) // the values were decoded from JSON
	}
	text := strings.ReplaceAll(string(body), old, addr)
	text = strings.ReplaceAll(text, "from pool bench", "from pool "+pool)
	if svc.Spec.LoadBalancerClass != nil {
		text = strings.ReplaceAll(text, fairleadGroup, otherGroup)
	}
	return []byte(text)
}

func (s *scaleBench) applyStatus(ctx context.Context, name string, patch []byte) error {
	force := true
	options := metav1.PatchOptions{FieldManager: "fairlead-controller", Force: &force}
	if _, err := s.bare.CoreV1().Services("default").Patch(ctx, name, types.ApplyPatchType, patch, options, "status"); err != nil {
		return fmt.Errorf("apply Service %s: %w", name, err)
	}
	return nil
}

// startController starts the controller and waits for its first sync.
func (s *scaleBench) startController(ctx context.Context) (ready startTimes, err error) {
	ready.started = time.Now()
	if err := s.StartController(ctx, 0); err != nil {
		return ready, err
	}
	// The log contains the lines of earlier starts as well.
	ready.started = ready.started.Truncate(time.Microsecond)
	err = lab.Wait(ctx, "the first sync of the controller is done", func() error {
		log := s.Controllers[0].Log
		if ready.leads, err = loggedAt(log, "Successfully acquired lease", ready.started); err != nil {
			return err
		}
		ready.done, err = loggedAt(log, "first sync completed", ready.started)
		return err
	})
	return ready, err
}

// startTimes are the times at which a controller reached the steps of its start.
type startTimes struct{ started, leads, done time.Time }

// loggedAt returns the time of the first log line with the text that is not before the
// given time.
func loggedAt(path, text string, after time.Time) (time.Time, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return time.Time{}, err
	}
	for line := range strings.Lines(string(content)) {
		if !strings.Contains(line, text) || len(line) < 21 {
			continue
		}
		// I0102 15:04:05.000000, in local time
		at, err := time.ParseInLocation("20060102 15:04:05.000000", after.Format("2006")+line[1:21], time.Local)
		if err == nil && !at.Before(after) {
			return at, nil
		}
	}
	return time.Time{}, fmt.Errorf("%s does not contain %q yet", path, text)
}

// stopController stops the controller with SIGTERM, as in an upgrade.
func (s *scaleBench) stopController() error { return s.Controllers[0].Stop() }
