package aws

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func TestBalancer(t *testing.T) {
	checkEmpty(t)
	service(t, "web")
	one, two := instance(t, "node-1"), instance(t, "node-2")
	waitListeners(t, "web", []string{"TCP 8086"}, one, two)
	s := get(t, "web")
	if want := []string{"fairlead.io/aws", "service.kubernetes.io/load-balancer-cleanup"}; !slices.Equal(s.Finalizers, want) {
		t.Errorf("finalizers are %v, want %v", s.Finalizers, want)
	}
	out, err := cluster.Kubectl(t.Context(), "", "get", "svc", "web")
	if err != nil {
		t.Fatal(err)
	}
	contains(t, out, balancer(t, "web").DNSName, fmt.Sprintf("8086:%d/TCP", s.Spec.Ports[0].NodePort))

	update(t, "web", func(s *corev1.Service) {
		s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{
			Name: "dns", Port: 53, Protocol: corev1.ProtocolUDP,
			TargetPort: intstr.FromInt32(8086),
		})
	})
	waitListeners(t, "web", []string{"UDP 53", "TCP 8086"}, one, two)
	update(t, "web", func(s *corev1.Service) { s.Spec.Ports = s.Spec.Ports[1:] })
	waitListeners(t, "web", []string{"UDP 53"}, one, two)
	contains(t, condition(t, "web", "Provisioned", "Assigned"), "internet-facing Network Load Balancer", "eu-central-1")
}

func TestClasses(t *testing.T) {
	checkEmpty(t)
	service(t, "cloud", classed("fairlead.io/aws"))
	service(t, "rack", classed("fairlead.io/bare-metal"))
	waitListeners(t, "cloud", []string{"TCP 8086"}, instance(t, "node-1"), instance(t, "node-2"))
	addr := address(t, "rack")
	eventually(t, "the client reaches "+addr.String(), func() error {
		_, err := cluster.Client.Get(t.Context(), fmt.Sprintf("http://%s:8086/ping", addr))
		return err
	})
	for name, want := range map[string][]string{"cloud": {"fairlead.io/aws"}, "rack": nil} {
		if have := get(t, name).Finalizers; !slices.Equal(have, want) {
			t.Errorf("finalizers of %s are %v, want %v", name, have, want)
		}
	}
	if all, err := cluster.AWS.Balancers(t.Context()); err != nil || len(all) != 1 {
		t.Errorf("AWS has the balancers %v, %v, want one", all, err)
	}
}

func TestNodePortsAreGiven(t *testing.T) {
	checkEmpty(t)
	no := false
	service(t, "given", func(s *corev1.Service) {
		s.Spec.AllocateLoadBalancerNodePorts = &no
		s.Spec.Ports = []corev1.ServicePort{
			{Name: "a", Port: 80, TargetPort: intstr.FromString("http"), NodePort: 30123},
			{Name: "b", Port: 8086},
		}
	})
	waitListeners(t, "given", []string{"TCP 80", "TCP 8086"}, instance(t, "node-1"), instance(t, "node-2"))
	ports := get(t, "given").Spec.Ports
	if ports[0].NodePort != 30123 || ports[1].NodePort == 0 {
		t.Errorf("the node ports are %d and %d, want 30123 and another one", ports[0].NodePort, ports[1].NodePort)
	}
	for _, p := range ports {
		for _, node := range cluster.Nodes {
			eventually(t, fmt.Sprintf("%s answers on %d", node.Name, p.NodePort), func() error {
				_, err := cluster.Client.Get(t.Context(), fmt.Sprintf("http://%s:%d/ping", node.Addr, p.NodePort))
				return err
			})
		}
	}
	update(t, "given", annotated("fairlead.io/provider", "bare-metal"))
	address(t, "given")
	eventually(t, "the node port that was not requested is released", func() error {
		ports := get(t, "given").Spec.Ports
		if ports[0].NodePort != 30123 || ports[1].NodePort != 0 {
			return fmt.Errorf("the node ports are %d and %d", ports[0].NodePort, ports[1].NodePort)
		}
		return nil
	})
}

func TestWhatNoBalancerSpeaks(t *testing.T) {
	checkEmpty(t)
	sctp := func(s *corev1.Service) { s.Spec.Ports[0].Protocol = corev1.ProtocolSCTP }
	service(t, "signals", sctp)
	addr := address(t, "signals")
	contains(t, condition(t, "signals", "Provisioned", "CloudCannotServe"), addr.String()+" from pool lan", "SCTP")
	if have := get(t, "signals").Finalizers; len(have) > 0 {
		t.Errorf("finalizers are %v", have)
	}
	// A class is never overridden.
	service(t, "cloud-signals", sctp, classed("fairlead.io/aws"))
	contains(t, condition(t, "cloud-signals", "Provisioned", "CloudCannotServe"), "SCTP")
	if in := get(t, "cloud-signals").Status.LoadBalancer.Ingress; len(in) > 0 {
		t.Errorf("the ingress is %+v, want none", in)
	}
}

func TestTargetsFollowNodes(t *testing.T) {
	checkEmpty(t)
	service(t, "followed")
	one, two := instance(t, "node-1"), instance(t, "node-2")
	waitListeners(t, "followed", []string{"TCP 8086"}, one, two)
	three, err := cluster.JoinNode(t.Context(), "joined", 2)
	if err != nil {
		t.Fatal(err)
	}
	waitListeners(t, "followed", []string{"TCP 8086"}, one, two, three)
	for _, command := range []string{"label node node-2 node.kubernetes.io/exclude-from-external-load-balancers=", "delete node joined"} {
		if _, err := cluster.Kubectl(t.Context(), "", strings.Fields(command)...); err != nil {
			t.Fatal(err)
		}
	}
	waitListeners(t, "followed", []string{"TCP 8086"}, one)
	if _, err := cluster.Kubectl(t.Context(), "", "label", "node", "node-2",
		"node.kubernetes.io/exclude-from-external-load-balancers-"); err != nil {
		t.Fatal(err)
	}
	waitListeners(t, "followed", []string{"TCP 8086"}, one, two)
}

// TestAnotherType checks that the resources of a Service in AWS are deleted when its
// type is no longer LoadBalancer, whether the change is made while the controller runs
// or while it is stopped.
func TestAnotherType(t *testing.T) {
	for _, stopped := range []bool{false, true} {
		t.Run(fmt.Sprintf("controller stopped %t", stopped), func(t *testing.T) {
			checkEmpty(t)
			change := func(kind corev1.ServiceType) {
				if stopped {
					cluster.StopControllers(t)
				}
				update(t, "changed", func(s *corev1.Service) { s.Spec.Type = kind })
				if stopped {
					cluster.StartControllers(t)
				}
			}
			service(t, "changed")
			balancer(t, "changed")
			change(corev1.ServiceTypeClusterIP)
			waitReleased(t, "changed")
			waitEmpty(t)
			change(corev1.ServiceTypeLoadBalancer)
			waitListeners(t, "changed", []string{"TCP 8086"}, instance(t, "node-1"), instance(t, "node-2"))
		})
	}
}

func TestAnnotations(t *testing.T) {
	checkEmpty(t)
	const prefix = "service.beta.kubernetes.io/aws-load-balancer-"
	service(t, "noted", annotated(prefix+"shceme", "internal"))
	contains(t, condition(t, "noted", "Provisioned", "InvalidRequest"), prefix+"shceme")
	if left, err := cluster.AWS.Leftovers(t.Context()); err != nil || len(left) > 0 {
		t.Errorf("AWS has %v, %v, want nothing", left, err)
	}
	update(t, "noted", func(s *corev1.Service) { s.Annotations = map[string]string{prefix + "scheme": "internal"} })
	first := balancer(t, "noted")
	if first.Scheme != "internal" {
		t.Errorf("the scheme is %s", first.Scheme)
	}

	// A change that requires a replacement is pending until it is confirmed.
	update(t, "noted", annotated(prefix+"scheme", "internet-facing"))
	contains(t, condition(t, "noted", "Provisioned", "ReplacementRequired"), "fairlead.io/allow-replacement")
	if now := balancer(t, "noted"); now.ARN != first.ARN {
		t.Errorf("the balancer is %s, want still %s", now.ARN, first.ARN)
	}
	update(t, "noted", annotated("fairlead.io/allow-replacement", "true"))
	eventually(t, "the balancer is another one", func() error {
		if now := balancer(t, "noted"); now.Scheme != "internet-facing" {
			return fmt.Errorf("it is %+v", now)
		}
		all, err := cluster.AWS.Balancers(t.Context())
		if err == nil && len(all) > 1 {
			err = fmt.Errorf("there are %d", len(all))
		}
		return err
	})
}

// TestSwitch changes the provider of a Service from AWS to bare metal and back, while a
// client sends requests.
func TestSwitch(t *testing.T) {
	checkEmpty(t)
	service(t, "moved")
	balancer(t, "moved")
	recorded := cluster.Record(t, "moved")
	update(t, "moved", annotated("fairlead.io/provider", "bare-metal"))
	addr := address(t, "moved")
	eventually(t, "the load balancer is deleted", func() error {
		if s := get(t, "moved"); slices.Contains(s.Finalizers, "fairlead.io/aws") {
			return fmt.Errorf("finalizers are %v", s.Finalizers)
		}
		return nil
	})
	waitEmpty(t)
	update(t, "moved", annotated("fairlead.io/provider", "aws"))
	waitListeners(t, "moved", []string{"TCP 8086"}, instance(t, "node-1"), instance(t, "node-2"))
	eventually(t, "the address of the pool is released", func() error {
		if s := get(t, "moved"); s.Annotations["fairlead.io/allocated-from"] != "" {
			return fmt.Errorf("finalizers are %v, annotations %v", s.Finalizers, s.Annotations)
		}
		return nil
	})
	all := append(recorded(addr.String()), recorded(balancer(t, "moved").DNSName)...)
	if slices.Contains(all, "") {
		t.Errorf("the statuses were %q, want none to be empty", all)
	}
}
