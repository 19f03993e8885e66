package aws

import (
	"testing"

	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
	corev1 "k8s.io/api/core/v1"
	cloudprovider "k8s.io/cloud-provider"

	"github.com/fairlead-io/fairlead/providers/providertest"
)

// contract is the account for the contract's test suite.
func (a *account) contract(t *testing.T) providertest.Cloud {
	t.Helper()
	c := a.newProvider(t)
	name := func(s *corev1.Service) string {
		return c.GetLoadBalancerName(t.Context(), providertest.Cluster, s)
	}
	return providertest.Cloud{
		LoadBalancer: c,
		Nodes:        a.nodes,
		Targets: func(t *testing.T, s *corev1.Service) map[int32][]string {
			return a.trafficTargets(t, name(s))
		},
		Parts: func(t *testing.T, s *corev1.Service) map[int32]string {
			all := map[int32]string{}
			for _, b := range a.balancers(t) {
				for _, l := range a.listeners(t, *b.LoadBalancerArn) {
					if *b.LoadBalancerName == name(s) {
						all[*l.Port] = *l.ListenerArn + " " + *l.DefaultActions[0].TargetGroupArn
					}
				}
			}
			return all
		},
		Remains: a.leakedObjects,
		DeleteManually: func(t *testing.T, s *corev1.Service) {
			for _, b := range a.balancers(t) {
				if *b.LoadBalancerName == name(s) {
					get(t, a.elb.DeleteLoadBalancer, &elb.DeleteLoadBalancerInput{LoadBalancerArn: b.LoadBalancerArn})
				}
			}
		},
		Writes:  func() int { return len(a.writes()) },
		Restart: func() cloudprovider.LoadBalancer { return a.newProvider(t) },
	}
}

func TestContract(t *testing.T) {
	eachKind(t, func(t *testing.T, account func(t *testing.T) *account) {
		providertest.Run(t, func(t *testing.T) providertest.Cloud { return account(t).contract(t) })
	})
}
