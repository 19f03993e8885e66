// Package e2e tests Fairlead from end to end: the shipped manifests and
// binaries on a real control plane, with a real data path, in one cluster that
// all tests share.
package e2e

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
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	lab "github.com/fairlead-io/fairlead/deploy/lab"
)

// cluster is shared by all tests; each uses Services of its own.
var cluster *lab.Cluster

// patience bounds every wait. It is no expectation: a busy machine is slow.
const patience = 60 * time.Second

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (int, error) {
	progress := lab.Progress{Out: os.Stdout}
	root, err := lab.Root()
	if err != nil {
		return 1, err
	}
	if !lab.Inside() {
		bin, err := lab.Build(root, progress)
		if err != nil {
			return 1, err
		}
		if err := bin.Fetch(progress, lab.BIRD, lab.FRR); err != nil {
			return 1, err
		}
		return lab.Enter("FAIRLEAD_LAB_BIN=" + string(bin))
	}
	ctx := context.Background()
	cluster, err = lab.Start(ctx, lab.Options{Nodes: 3, Root: root, Bin: lab.Binaries(os.Getenv("FAIRLEAD_LAB_BIN")), Progress: progress})
	if err != nil {
		fmt.Println(lab.Logs(20))
		return 1, err
	}
	if err := cluster.Install(ctx); err != nil {
		fmt.Println(lab.Logs(20))
		return 1, err
	}
	if err := cluster.Apply(ctx, basics); err != nil {
		return 1, err
	}
	return m.Run(), nil
}

// basics are the pools that the tests use: "lan" for all, the others by name.
const basics = `apiVersion: fairlead.io/v1alpha1
kind: IPAddressPool
metadata: {name: lan}
spec: {addresses: [10.13.242.192/27]}
---
apiVersion: fairlead.io/v1alpha1
kind: IPAddressPool
metadata: {name: many}
spec: {addresses: [10.20.0.0/16], autoAssign: false}
---
apiVersion: fairlead.io/v1alpha1
kind: L2Advertisement
metadata: {name: lan}
spec: {ipAddressPools: [lan]}
`

func eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	if err := lab.Wait(t.Context(), patience, what, check); err != nil {
		t.Logf("logs:\n%s", lab.Logs(20))
		t.Fatal(err)
	}
}

// service is a Service of the test's, which is deleted when the test ends.
func service(t *testing.T, name string, change ...func(*corev1.Service)) *corev1.Service {
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
	created, err := cluster.API.CoreV1().Services("default").Create(t.Context(), s, metav1.CreateOptions{})
	if err != nil {
		t.Fatalf("create Service %s: %v", name, err)
	}
	t.Cleanup(func() { remove(t, name) })
	return created
}

// remove deletes a Service and waits until it is gone.
func remove(t *testing.T, name string) {
	ctx := context.Background()
	services := cluster.API.CoreV1().Services("default")
	_ = services.Delete(ctx, name, metav1.DeleteOptions{})
	err := lab.Wait(ctx, patience, "Service "+name+" is gone", func() error {
		if s, err := services.Get(ctx, name, metav1.GetOptions{}); err == nil {
			return fmt.Errorf("it is still there, with finalizers %v", s.Finalizers)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func get(t *testing.T, name string) *corev1.Service {
	t.Helper()
	s, err := cluster.API.CoreV1().Services("default").Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// announced waits until the Service is announced, and returns its address.
func announced(t *testing.T, name string) (addr netip.Addr) {
	t.Helper()
	eventually(t, name+" is announced", func() (err error) {
		addr, err = cluster.Announced(t.Context(), "default", name)
		return err
	})
	return addr
}

// condition waits until the Service's condition has the reason, and returns its message.
func condition(t *testing.T, name, kind, reason string) (message string) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s has %s %s", name, kind, reason), func() error {
		s, err := cluster.API.CoreV1().Services("default").Get(t.Context(), name, metav1.GetOptions{})
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

// event waits for an Event with the reason on the Service.
func event(t *testing.T, name, reason string) {
	t.Helper()
	eventually(t, "Service "+name+" has an Event "+reason, func() error {
		events, err := cluster.API.CoreV1().Events("default").List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.name=" + name})
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

// reach waits until the URL answers the host.
func reach(t *testing.T, from *lab.Host, url string) (answer string) {
	t.Helper()
	eventually(t, from.Name+" reaches "+url, func() (err error) {
		answer, err = from.Get(t.Context(), url)
		return err
	})
	return answer
}

// says waits until the URL's answer says all this. For up to a second kube-proxy
// serves a new Service whose address was another one's by that one's rules.
func says(t *testing.T, from *lab.Host, url string, parts ...string) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s says %q to %s", url, parts, from.Name), func() error {
		answer, err := from.Get(t.Context(), url)
		if err != nil {
			return err
		}
		for _, p := range parts {
			if !strings.Contains(answer, p) {
				return fmt.Errorf("it says %q", answer)
			}
		}
		return nil
	})
}

func url(addr netip.Addr, port int32) string {
	return fmt.Sprintf("http://%s/ping", netip.AddrPortFrom(addr, uint16(port)))
}

// owner waits until exactly one node answers ARP for the address, and that it
// is one that may, and returns its index.
func owner(t *testing.T, addr netip.Addr, may func(node int) bool) (node int) {
	t.Helper()
	eventually(t, "one node answers for "+addr.String(), func() error {
		macs, err := cluster.Client.WhoHas(addr, 300*time.Millisecond)
		if err != nil {
			return err
		}
		if len(macs) != 1 {
			return fmt.Errorf("%d machines answer: %v", len(macs), macs)
		}
		node = slices.IndexFunc(cluster.Nodes, func(h *lab.Host) bool { return h.MAC() == macs[0] })
		if node < 0 || !may(node) {
			return fmt.Errorf("node %d answers, who should not", node+1)
		}
		return nil
	})
	return node
}

func anyNode(int) bool { return true }

// silent waits until nobody answers ARP for the address.
func silent(t *testing.T, addr netip.Addr) {
	t.Helper()
	eventually(t, "nobody answers for "+addr.String(), func() error {
		macs, err := cluster.Client.WhoHas(addr, 300*time.Millisecond)
		if err == nil && len(macs) > 0 {
			err = fmt.Errorf("%v answer", macs)
		}
		return err
	})
}

// update changes the live Service.
func update(t *testing.T, name string, change func(*corev1.Service)) {
	t.Helper()
	eventually(t, "Service "+name+" is updated", func() error {
		s := get(t, name)
		change(s)
		_, err := cluster.API.CoreV1().Services("default").Update(t.Context(), s, metav1.UpdateOptions{})
		return err
	})
}

// ready waits until the condition Ready of one of our objects has the reason.
func ready(t *testing.T, plural, name, reason string) (message string) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s %s is %s", plural, name, reason), func() error {
		o, err := cluster.Resource(plural).Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		conditions, _, err := unstructured.NestedSlice(o.Object, "status", "conditions")
		if err != nil {
			return err
		}
		for _, c := range conditions {
			if c := c.(map[string]any); c["type"] == "Ready" && c["reason"] == reason {
				message = c["message"].(string)
				return nil
			}
		}
		return fmt.Errorf("conditions are %v", conditions)
	})
	return message
}

func apply(t *testing.T, yaml string) {
	t.Helper()
	if err := cluster.Apply(t.Context(), yaml); err != nil {
		t.Fatal(err)
	}
}

func deletePool(t *testing.T, name string) {
	_, err := cluster.Kubectl(context.Background(), "", "delete", "--ignore-not-found", "--timeout=60s", "ipaddresspool", name)
	if err != nil {
		t.Error(err)
	}
}

func contains(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			t.Errorf("%q does not say %q", text, p)
		}
	}
}
