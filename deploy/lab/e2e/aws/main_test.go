// Package aws tests Fairlead end to end on a hybrid cluster: two nodes are instances of
// an emulated AWS, one is a bare-metal node.
package aws

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	lab "github.com/fairlead-io/fairlead/deploy/lab"
	"github.com/fairlead-io/fairlead/deploy/lab/e2e/suite"
)

var cluster = &suite.Cluster{
	Options: lab.Options{Nodes: 3, AWS: 2, Flags: []string{"--aws-resync=3s"}},
	Tools:   []lab.Tool{lab.Moto},
	BaseManifests: `apiVersion: fairlead.io/v1alpha1
kind: IPAddressPool
metadata: {name: lan}
spec: {addresses: [10.13.242.192/27]}
---
apiVersion: fairlead.io/v1alpha1
kind: L2Advertisement
metadata: {name: lan}
spec: {ipAddressPools: [lan]}
`,
}

var (
	eventually = cluster.Eventually
	service    = cluster.Service
	get        = cluster.Get
	update     = cluster.Update
	address    = cluster.Address
	condition  = cluster.Condition
	contains   = suite.Contains
)

func TestMain(m *testing.M) { cluster.Main(m) }

// checkEmpty checks at the end of the test, after the deletion of its Services, that no
// resources are left in AWS. It must be called first in a test.
func checkEmpty(t *testing.T) { t.Cleanup(func() { waitEmpty(t) }) }

// waitEmpty waits until AWS has the initial resources of the cluster only.
func waitEmpty(t *testing.T) {
	ctx := context.Background()
	err := lab.Wait(ctx, "nothing is left in AWS", func() error {
		left, err := cluster.AWS.Leftovers(ctx)
		if err == nil && len(left) > 0 {
			err = errors.New(strings.Join(left, ", "))
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// waitReleased waits until all fields of Fairlead are removed from the Service.
func waitReleased(t *testing.T, name string) {
	t.Helper()
	eventually(t, name+" is released", func() error {
		s := get(t, name)
		if len(s.Finalizers)+len(s.Status.Conditions)+len(s.Status.LoadBalancer.Ingress) > 0 {
			return fmt.Errorf("finalizers %v, status %+v", s.Finalizers, s.Status)
		}
		return nil
	})
}

func classed(class string) func(*corev1.Service) {
	return func(s *corev1.Service) { s.Spec.LoadBalancerClass = &class }
}

func annotated(key, value string) func(*corev1.Service) {
	return func(s *corev1.Service) { metav1.SetMetaDataAnnotation(&s.ObjectMeta, key, value) }
}

// balancer waits until the ingress of the Service is exactly one host name, and returns
// the load balancer with this name.
func balancer(t *testing.T, name string) (b lab.Balancer) {
	t.Helper()
	eventually(t, name+" has a balancer", func() error {
		ingress := get(t, name).Status.LoadBalancer.Ingress
		if len(ingress) != 1 || ingress[0].Hostname == "" || ingress[0].IP != "" {
			return fmt.Errorf("the ingress is %+v", ingress)
		}
		all, err := cluster.AWS.Balancers(t.Context())
		if err != nil {
			return err
		}
		all = slices.DeleteFunc(all, func(b lab.Balancer) bool { return b.DNSName != ingress[0].Hostname })
		if len(all) != 1 {
			return fmt.Errorf("%d balancers are called %s", len(all), ingress[0].Hostname)
		}
		b = all[0]
		return nil
	})
	return b
}

// instance returns the ID of the instance of a node, "" for a bare-metal node.
func instance(t *testing.T, node string) string {
	t.Helper()
	n, err := cluster.API.CoreV1().Nodes().Get(t.Context(), node, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return n.Spec.ProviderID[strings.LastIndexByte(n.Spec.ProviderID, '/')+1:]
}

// waitListeners waits until the load balancer of the Service has exactly these
// listeners ("TCP 80"), each with the instances as targets on the node port.
func waitListeners(t *testing.T, name string, listeners []string, instances ...string) {
	t.Helper()
	slices.Sort(instances)
	eventually(t, fmt.Sprintf("%s listens on %v with the targets %v", name, listeners, instances), func() error {
		var have []string
		for _, l := range balancer(t, name).Listeners {
			have = append(have, fmt.Sprintf("%s %d", l.Protocol, l.Port))
			port := slices.IndexFunc(get(t, name).Spec.Ports, func(p corev1.ServicePort) bool { return int(p.Port) == l.Port })
			if port < 0 {
				continue
			}
			var targets []string
			for _, target := range l.Targets {
				targets = append(targets, target.Instance)
				if want := int(get(t, name).Spec.Ports[port].NodePort); target.Port != want {
					return fmt.Errorf("the targets of listener %d are on port %d, want %d", l.Port, target.Port, want)
				}
			}
			if !slices.Equal(targets, instances) {
				return fmt.Errorf("the targets of listener %d are %v", l.Port, targets)
			}
		}
		if !slices.Equal(have, listeners) {
			return fmt.Errorf("the listeners are %v", have)
		}
		return nil
	})
}
