// Package suite contains the helpers of the end-to-end tests: a cluster that is started
// once for all tests of a package, and functions to create Services and to wait for
// conditions.
package suite

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	lab "github.com/fairlead-io/fairlead/deploy/lab"
)

// Cluster is shared by all tests of a package. Each test uses its own Services.
type Cluster struct {
	*lab.Cluster // runs once Main has started it

	Options       lab.Options // Nodes, AWS and Flags
	Tools         []lab.Tool  // that the tests use
	BaseManifests string      // manifests that are applied before the first test
}

// Main starts the cluster, runs the tests and exits.
func (c *Cluster) Main(m *testing.M) {
	code, err := c.runTests(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = 1
	}
	os.Exit(code)
}

func (c *Cluster) runTests(m *testing.M) (int, error) {
	o := c.Options
	o.Progress = lab.Progress{Out: os.Stdout}
	if !lab.Inside() {
		bin, err := lab.Prepare(o.Progress, c.Tools...)
		if err != nil {
			return 1, err
		}
		return lab.Enter(bin)
	}
	ctx := context.Background()
	var err error
	if c.Cluster, err = lab.Start(ctx, o); err != nil {
		fmt.Println(lab.Logs(20))
		return 1, err
	}
	if err := c.Apply(ctx, c.BaseManifests); err != nil {
		return 1, err
	}
	return m.Run(), nil
}

// Eventually waits until check succeeds.
func (c *Cluster) Eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	if err := lab.Wait(t.Context(), what, check); err != nil {
		t.Logf("logs:\n%s", lab.Logs(20))
		t.Fatal(err)
	}
}

// Service creates a Service, which is deleted when the test ends.
func (c *Cluster) Service(t *testing.T, name string, change ...func(*corev1.Service)) *corev1.Service {
	t.Helper()
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", Annotations: map[string]string{}},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeLoadBalancer, Selector: map[string]string{"app": "influxdb"},
			Ports: []corev1.ServicePort{{Name: "http", Port: 8086}},
		},
	}
	for _, c := range change {
		c(s)
	}
	created, err := c.API.CoreV1().Services("default").Create(t.Context(), s, metav1.CreateOptions{})
	if err != nil {
		t.Fatalf("create Service %s: %v", name, err)
	}
	t.Cleanup(func() { c.Remove(t, name) })
	return created
}

// Remove deletes a Service and waits until it no longer exists.
func (c *Cluster) Remove(t *testing.T, name string) {
	ctx := context.Background()
	services := c.API.CoreV1().Services("default")
	_ = services.Delete(ctx, name, metav1.DeleteOptions{})
	err := lab.Wait(ctx, "Service "+name+" is deleted", func() error {
		if s, err := services.Get(ctx, name, metav1.GetOptions{}); err == nil {
			return fmt.Errorf("it still exists, with finalizers %v", s.Finalizers)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// Get returns the current Service.
func (c *Cluster) Get(t *testing.T, name string) *corev1.Service {
	t.Helper()
	s, err := c.API.CoreV1().Services("default").Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Record records the versions of the Service. until waits for the first version with
// exactly these addresses and host names in its status, and returns the status of all
// versions so far, without repetitions.
func (c *Cluster) Record(t *testing.T, name string) (until func(last string) []string) {
	t.Helper()
	seen, err := c.API.CoreV1().Services("default").Watch(t.Context(), metav1.ListOptions{FieldSelector: "metadata.name=" + name})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(seen.Stop)
	return func(last string) (all []string) {
		t.Helper()
		timeout := time.After(lab.WaitTimeout)
		for {
			select {
			case e := <-seen.ResultChan():
				s, ok := e.Object.(*corev1.Service)
				if !ok {
					t.Fatalf("the watch ended with %+v after %q", e, all)
				}
				var ingress []string
				for _, in := range s.Status.LoadBalancer.Ingress {
					ingress = append(ingress, in.IP+in.Hostname)
				}
				if all = slices.Compact(append(all, strings.Join(ingress, " "))); all[len(all)-1] == last {
					return all
				}
			case <-timeout:
				t.Fatalf("the statuses of the Service were %q, but not %q", all, last)
			}
		}
	}
}

// StopControllers stops all replicas of the controller.
func (c *Cluster) StopControllers(t *testing.T) {
	t.Helper()
	for _, p := range c.Controllers {
		if err := p.Stop(); err != nil {
			t.Fatal(err)
		}
	}
}

// StartControllers starts all replicas again after they have ended.
func (c *Cluster) StartControllers(t *testing.T) {
	t.Helper()
	for i := range c.Controllers {
		if err := c.StartController(context.Background(), i); err != nil {
			t.Fatal(err)
		}
	}
}

// Update changes the current Service.
func (c *Cluster) Update(t *testing.T, name string, change func(*corev1.Service)) {
	t.Helper()
	c.Eventually(t, "Service "+name+" is updated", func() error {
		s := c.Get(t, name)
		change(s)
		_, err := c.API.CoreV1().Services("default").Update(t.Context(), s, metav1.UpdateOptions{})
		return err
	})
}

// Address waits until the Service is announced, and returns its address.
func (c *Cluster) Address(t *testing.T, name string) (addr netip.Addr) {
	t.Helper()
	c.Eventually(t, name+" is announced", func() (err error) {
		addr, err = c.AnnouncedAddress(t.Context(), "default", name)
		return err
	})
	return addr
}

// Condition waits until the Service's condition has the reason, and returns its message.
func (c *Cluster) Condition(t *testing.T, name, kind, reason string) (message string) {
	t.Helper()
	c.Eventually(t, fmt.Sprintf("%s has %s %s", name, kind, reason), func() error {
		s, err := c.API.CoreV1().Services("default").Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, c := range s.Status.Conditions {
			if c.Type == "fairlead.io/"+kind && c.Reason == reason {
				message = c.Message
				return nil
			}
		}
		return fmt.Errorf("conditions are %+v", s.Status.Conditions)
	})
	return message
}

// Event waits for an Event with the reason on the Service.
func (c *Cluster) Event(t *testing.T, name, reason string) {
	t.Helper()
	c.Eventually(t, "Service "+name+" has an Event "+reason, func() error {
		events, err := c.API.CoreV1().Events("default").List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.name=" + name})
		if err != nil {
			return err
		}
		var seen []string
		for _, e := range events.Items {
			if e.Reason == reason {
				return nil
			}
			seen = append(seen, e.Reason)
		}
		return fmt.Errorf("its Events are %v", seen)
	})
}

// MustApply applies manifests.
func (c *Cluster) MustApply(t *testing.T, yaml string) {
	t.Helper()
	if err := c.Apply(t.Context(), yaml); err != nil {
		t.Fatal(err)
	}
}

// Contains checks that the text contains all parts.
func Contains(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			t.Errorf("%q does not contain %q", text, p)
		}
	}
}
