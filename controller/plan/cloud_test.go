package plan

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/fixture"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/providers"
)

const host = "lb.elb.example.com"

// onAWS is a Service with a load balancer that Fairlead has created.
func onAWS(s *corev1.Service) {
	s.Finalizers = []string{v1alpha1.FinalizerAWS, v1alpha1.FinalizerCleanup}
	s.Annotations[v1alpha1.AnnotationLoadBalancer] = v1alpha1.FormatLoadBalancer("prod", s.UID)
}

// tenantFinalizers adds all finalizers that Fairlead knows, as anyone who may update the
// Service can.
func tenantFinalizers(s *corev1.Service) {
	s.Finalizers = []string{v1alpha1.FinalizerAWS, v1alpha1.FinalizerBareMetal, v1alpha1.FinalizerCleanup}
}

// ownIngress makes the controller the only manager of the ingress.
func ownIngress(s *corev1.Service) { fixture.IngressManagedBy(v1alpha1.FieldManager)(s) }

func classed(class string) func(*corev1.Service) {
	return func(s *corev1.Service) { s.Spec.LoadBalancerClass = &class }
}

// The answers of a cloud.
var (
	pending = CloudOutcome{
		Action:  EnsureBalancer,
		Ingress: named(host),
		Report:  providers.Report{Reason: v1alpha1.Provisioning, Message: "AWS is making it"},
	}
	active = CloudOutcome{Action: EnsureBalancer, Ingress: named(host), Report: providers.Report{Ready: true, Message: "it answers"}}
	broke  = CloudOutcome{Action: EnsureBalancer, Ingress: named(host), Reason: v1alpha1.CloudFailed, Message: "create listener: boom"}
	quota  = CloudOutcome{Action: EnsureBalancer, Reason: v1alpha1.QuotaExceeded, Message: "50 balancers"}
	held   = CloudOutcome{Action: DeleteBalancer, Reason: v1alpha1.Deleting, Message: "its network interfaces are still there"}
	denied = CloudOutcome{Action: DeleteBalancer, Reason: v1alpha1.PermissionDenied, Message: "DeleteLoadBalancer"}
	gone   = CloudOutcome{Action: DeleteBalancer}
)

// providerScenario is a cluster in which one thing happens after the other.
type providerScenario struct {
	Snapshot
	last ServicePlan
}

// reconcile decides and writes, and returns the state of the first Service after that
// and the action of the cloud.
func (l *providerScenario) reconcile() string {
	plan := Decide(l.Snapshot)
	first := l.Services[0]
	for i, svc := range l.Services {
		if p, planned := plan.findService(KeyOf(svc)); planned && !p.Matches(svc) {
			l.Services[i] = p.Written(svc)
		}
	}
	l.last = plan.planOf(KeyOf(first))
	svc := l.Services[0]
	var out []string
	for _, in := range svc.Status.LoadBalancer.Ingress {
		out = append(out, cmp.Or(in.IP, in.Hostname))
	}
	short := map[string]string{v1alpha1.FinalizerAWS: "aws", v1alpha1.FinalizerBareMetal: "pool", v1alpha1.FinalizerCleanup: "std"}
	var finalizers []string
	for _, f := range svc.Finalizers {
		finalizers = append(finalizers, short[f])
	}
	slices.Sort(finalizers)
	out = append(out, "["+strings.Join(finalizers, " ")+"]")
	for _, c := range svc.Status.Conditions {
		out = append(out, fmt.Sprintf("%s=%s", strings.TrimPrefix(c.Type, "fairlead.io/"), c.Reason))
	}
	return strings.Join(append(out, [...]string{"", "ensure", "delete"}[plan.Cloud[first.UID].Action]), " ")
}

// The events of a life.
func (l *providerScenario) unchanged()                {}
func (l *providerScenario) setOutcome(o CloudOutcome) { l.Cloud = map[types.UID]CloudOutcome{"a": o} }
func (l *providerScenario) restart()                  { l.Cloud = nil }
func (l *providerScenario) requestProvider(provider string) {
	l.changeService(func(s *corev1.Service) {
		s.Annotations = map[string]string{
			v1alpha1.AnnotationProvider:      provider,
			v1alpha1.AnnotationAllocatedFrom: s.Annotations[v1alpha1.AnnotationAllocatedFrom],
			v1alpha1.AnnotationLoadBalancer:  s.Annotations[v1alpha1.AnnotationLoadBalancer],
		}
	})
}

func (l *providerScenario) changeService(f func(*corev1.Service)) {
	l.Services[0] = l.Services[0].DeepCopy()
	f(l.Services[0])
}

func (l *providerScenario) setAnnounced(addrs ...string) {
	l.Objects.L2Advertisements = onEth0
	l.setAnnouncing("rack", addrs...)
}

// clusterIP changes the type of a Service, as the API server does.
func clusterIP(s *corev1.Service) {
	s.Spec.Type, s.Spec.LoadBalancerClass, s.Status.LoadBalancer = corev1.ServiceTypeClusterIP, nil, corev1.LoadBalancerStatus{}
}

type scenarioStep struct {
	what string
	do   func(*providerScenario)
	want string
}

func outcomeIs(o CloudOutcome) func(*providerScenario) {
	return func(l *providerScenario) { l.setOutcome(o) }
}

func providerIs(provider string) func(*providerScenario) {
	return func(l *providerScenario) { l.requestProvider(provider) }
}

func serviceChange(f func(*corev1.Service)) func(*providerScenario) {
	return func(l *providerScenario) { l.changeService(f) }
}

func announcedAre(addrs ...string) func(*providerScenario) {
	return func(l *providerScenario) { l.setAnnounced(addrs...) }
}

func nodesAre(all ...*corev1.Node) func(l *providerScenario) {
	return func(l *providerScenario) { l.Nodes = all }
}

func policyIs(p providers.Policy) func(l *providerScenario) {
	return func(l *providerScenario) { l.Policy = p }
}

func TestProviderScenarios(t *testing.T) {
	rack, cloud := readyNode("rack"), awsNode("a1")
	for _, row := range []struct {
		name    string
		service *corev1.Service
		events  []scenarioStep
	}{
		{"created, broken, repaired, restarted, deleted", service("a"), []scenarioStep{
			{"seen", (*providerScenario).unchanged, "[aws std] Provisioned=Provisioning "},
			{"finalizer seen", (*providerScenario).unchanged, "[aws std] Provisioned=Provisioning ensure"},
			{"no quota", outcomeIs(quota), "[aws std] Provisioned=QuotaExceeded ensure"},
			{"restarted without a balancer", (*providerScenario).restart, "[aws std] Provisioned=QuotaExceeded ensure"},
			{"pending", outcomeIs(pending), host + " [aws std] Provisioned=Provisioning ensure"},
			{"active", outcomeIs(active), host + " [aws std] Provisioned=Assigned ensure"},
			{"restarted", (*providerScenario).restart, host + " [aws std] Provisioned=Assigned ensure"},
			{"failing", outcomeIs(broke), host + " [aws std] Provisioned=CloudFailed ensure"},
			{
				"failing after a restart", outcomeIs(CloudOutcome{Action: EnsureBalancer, Reason: v1alpha1.CloudFailed}),
				host + " [aws std] Provisioned=CloudFailed ensure",
			},
			{"its nodes gone", nodesAre(rack), host + " [aws std] Provisioned=CloudFailed ensure"},
			{"all nodes gone", nodesAre(), host + " [aws std] Provisioned=CloudFailed ensure"},
			{"repaired", outcomeIs(active), host + " [aws std] Provisioned=Assigned ensure"},
			{"deleted", serviceChange(deleting), host + " [aws std] Provisioned=Deleting delete"},
			{"restarted while deleted", (*providerScenario).restart, host + " [aws std] Provisioned=Deleting delete"},
			{"not gone", outcomeIs(held), host + " [aws std] Provisioned=Deleting delete"},
			{"may not", outcomeIs(denied), host + " [aws std] Provisioned=PermissionDenied delete"},
			{"gone", outcomeIs(gone), "[] delete"},
		}},
		{"deleted before it was seen", service("a", deleting), []scenarioStep{{"seen", (*providerScenario).unchanged, "[] "}}},
		{"by its class", service("a", classed(v1alpha1.ClassAWS)), []scenarioStep{
			{"seen on a rack", nodesAre(rack), "[aws] Provisioned=Provisioning "},
			{"active", outcomeIs(active), host + " [aws] Provisioned=Assigned ensure"},
			{"another type", serviceChange(clusterIP), "[aws] Provisioned=Deleting delete"},
			{"not gone", outcomeIs(held), "[aws] Provisioned=Deleting delete"},
			{"gone", outcomeIs(gone), "[] delete"},
		}},
		{"another's class", service("a", onAWS, showing(host)), []scenarioStep{
			{"another type", serviceChange(clusterIP), "[aws std] Provisioned=Deleting delete"},
			{"another's", serviceChange(func(s *corev1.Service) {
				classed("example.com/lb")(s)
				s.Spec.Type = corev1.ServiceTypeLoadBalancer
				showing("theirs.example.com")(s)
			}), "theirs.example.com [aws std] Provisioned=Deleting delete"},
		}},
		{"a type and back, before AWS has deleted everything", service("a", onAWS, showing(host)), []scenarioStep{
			{"another type", serviceChange(clusterIP), "[aws std] Provisioned=Deleting delete"},
			{"not gone", outcomeIs(held), "[aws std] Provisioned=Deleting delete"},
			{
				"and back", serviceChange(func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeLoadBalancer }),
				"[aws std] Provisioned=Deleting ensure",
			},
			{"the outcome of the deletion does not count", outcomeIs(gone), "[aws std] Provisioned=Deleting ensure"},
			{"active", outcomeIs(active), host + " [aws std] Provisioned=Assigned ensure"},
		}},
		{"another implementation's host name", service("a", showing("theirs.example.com")), []scenarioStep{
			{"seen", (*providerScenario).unchanged, "theirs.example.com [] Provisioned=ForeignStatus "},
			{"again", (*providerScenario).unchanged, "theirs.example.com [] Provisioned=ForeignStatus "},
			{"taken away", serviceChange(func(s *corev1.Service) { s.Status.LoadBalancer.Ingress = nil }), "[aws std] Provisioned=Provisioning "},
		}},
		{"another implementation's address", service("a", holding("203.0.113.1")), []scenarioStep{
			{"seen", (*providerScenario).unchanged, "203.0.113.1 [] Provisioned=ForeignStatus "},
		}},
		{"no longer configured", service("a", onAWS, showing(host)), []scenarioStep{
			{
				"restarted without the flag", policyIs(providers.Policy{Mode: providers.Auto, AWSLacks: "set it"}),
				host + " [aws std] Provisioned=CloudNotConfigured ",
			},
			{"deleted", serviceChange(deleting), host + " [aws std] Provisioned=CloudNotConfigured "},
		}},
		{"moved to bare metal by the flag, and deleted", service("a", onAWS, showing(host)), []scenarioStep{
			{"flag", func(l *providerScenario) {
				l.Policy = providers.Policy{Mode: providers.BareMetal, AWSLacks: "set it"}
				l.Nodes = []*corev1.Node{rack}
			}, host + " [aws std] Provisioned=CloudNotConfigured "},
			{"deleted", serviceChange(deleting), host + " [aws std] Provisioned=CloudNotConfigured "},
			{"configured", policyIs(providers.Policy{Mode: providers.BareMetal}), host + " [aws std] Provisioned=Deleting delete"},
			{"gone", outcomeIs(gone), "[] delete"},
		}},
		{"another --cluster-name", service("a", onAWS, showing(host)), []scenarioStep{
			{"flag", policyIs(providers.Policy{Mode: providers.Auto, Cluster: "test"}), host + " [aws std] Provisioned=ClusterNameChanged "},
			{"deleted", serviceChange(deleting), host + " [aws std] Provisioned=ClusterNameChanged "},
			{"corrected", policyIs(providers.Policy{Mode: providers.Auto, Cluster: "prod"}), host + " [aws std] Provisioned=Deleting delete"},
		}},
		{"a tenant's finalizers, without AWS", service("a", tenantFinalizers), []scenarioStep{
			{
				"seen", policyIs(providers.Policy{Mode: providers.BareMetal, AWSLacks: "set it"}),
				"192.0.2.0 [] Provisioned=Assigned Announced=NoSpeaker ",
			},
			{"added again", serviceChange(tenantFinalizers), "192.0.2.0 [] Provisioned=Assigned Announced=NoSpeaker "},
			{"and deleted", serviceChange(func(s *corev1.Service) { tenantFinalizers(s); deleting(s) }), "[] "},
		}},
		{"a tenant's finalizers on what is deleted", service("a", tenantFinalizers, deleting), []scenarioStep{
			{"seen", policyIs(providers.Policy{Mode: providers.BareMetal, AWSLacks: "set it"}), "[] "},
		}},
		{"a tenant's finalizers on what is deleted, with AWS", service("a", tenantFinalizers, deleting), []scenarioStep{
			{"seen", (*providerScenario).unchanged, "[] "},
		}},
		{"a tenant's finalizers on another type", service("a", tenantFinalizers, clusterIP), []scenarioStep{
			{"seen", (*providerScenario).unchanged, "[std] "},
		}},
		{"a tenant's finalizers on another controller's", service("a", tenantFinalizers, showing("theirs.example.com"), deleting), []scenarioStep{
			{"seen", policyIs(providers.Policy{Mode: providers.BareMetal}), "theirs.example.com [std] "},
		}},
		{"a restored record of another UID", service("a", onAWS, deleting, func(s *corev1.Service) { s.UID = "b" }), []scenarioStep{
			{"seen", policyIs(providers.Policy{Mode: providers.BareMetal, AWSLacks: "set it"}), "[] "},
		}},
		{"the record dropped", service("a", onAWS, showing(host), ownIngress), []scenarioStep{
			{"and the finalizer", serviceChange(func(s *corev1.Service) {
				s.Finalizers = nil
				delete(s.Annotations, v1alpha1.AnnotationLoadBalancer)
			}), host + " [aws std] Provisioned=Provisioning "},
			{"restored", (*providerScenario).unchanged, host + " [aws std] Provisioned=Provisioning ensure"},
			{"dropped and deleted", serviceChange(func(s *corev1.Service) {
				delete(s.Annotations, v1alpha1.AnnotationLoadBalancer)
				deleting(s)
			}), host + " [aws std] Provisioned=Deleting delete"},
		}},
		{"released by annotation", service("a", onAWS, showing(host)), []scenarioStep{
			{"asks", providerIs("none"), host + " [aws std] Provisioned=Deleting delete"},
			{"not gone", outcomeIs(held), host + " [aws std] Provisioned=Deleting delete"},
			{"gone", outcomeIs(gone), "[] delete"},
		}},
		{"released by annotation, from a pool", service("a", annotated(v1alpha1.AnnotationProvider, "bare-metal")), []scenarioStep{
			{"served", (*providerScenario).unchanged, "192.0.2.0 [] Provisioned=Assigned Announced=NoSpeaker "},
			{"asks", providerIs("none"), "[] "},
		}},
		{"the option of bare metal", service("a"), []scenarioStep{
			{
				"on", policyIs(providers.Policy{Mode: providers.BareMetal, CleanupFinalizer: true}),
				"192.0.2.0 [std] Provisioned=Assigned Announced=NoSpeaker ",
			},
			{"off", policyIs(providers.Policy{Mode: providers.BareMetal}), "192.0.2.0 [] Provisioned=Assigned Announced=NoSpeaker "},
			{
				"on again", policyIs(providers.Policy{Mode: providers.BareMetal, CleanupFinalizer: true}),
				"192.0.2.0 [std] Provisioned=Assigned Announced=NoSpeaker ",
			},
			{"deleted", serviceChange(deleting), "[] "},
		}},
		{"the option of bare metal, with a class", service("a", classed(v1alpha1.ClassBareMetal)), []scenarioStep{
			{
				"on", policyIs(providers.Policy{Mode: providers.BareMetal, CleanupFinalizer: true}),
				"192.0.2.0 [] Provisioned=Assigned Announced=NoSpeaker ",
			},
		}},
		{"not yet configured", service("a"), []scenarioStep{
			{"seen", policyIs(providers.Policy{Mode: providers.Auto, AWSLacks: "set it"}), "[] Provisioned=CloudNotConfigured "},
			{"restarted with the flag", policyIs(providers.Policy{Mode: providers.Auto}), "[aws std] Provisioned=Provisioning "},
		}},
		{"from a pool to AWS", service("a", annotated(v1alpha1.AnnotationProvider, "bare-metal")), []scenarioStep{
			{"served", announcedAre("192.0.2.0"), "192.0.2.0 [] Provisioned=Assigned Announced=Announced "},
			{"asks", providerIs("aws"), "192.0.2.0 [aws std] Provisioned=Provisioning Announced=Announced "},
			{"finalizer seen", (*providerScenario).unchanged, "192.0.2.0 [aws std] Provisioned=Provisioning Announced=Announced ensure"},
			{"no quota", outcomeIs(quota), "192.0.2.0 [aws std] Provisioned=QuotaExceeded Announced=Announced ensure"},
			{"restarted", (*providerScenario).restart, "192.0.2.0 [aws std] Provisioned=QuotaExceeded Announced=Announced ensure"},
			{
				"its pool is gone", func(l *providerScenario) { l.Objects.Pools = nil },
				"192.0.2.0 [aws std] Provisioned=QuotaExceeded Announced=Announced ensure",
			},
			{"pending", outcomeIs(pending), "192.0.2.0 [aws std] Provisioned=Provisioning Announced=Announced ensure"},
			{"active", outcomeIs(active), host + " [aws std] Provisioned=Assigned ensure"},
			{"for good", (*providerScenario).restart, host + " [aws std] Provisioned=Assigned ensure"},
		}},
		{"from a pool to AWS, the record dropped", service("a", annotated(v1alpha1.AnnotationProvider, "bare-metal")), []scenarioStep{
			{"served", announcedAre("192.0.2.0"), "192.0.2.0 [] Provisioned=Assigned Announced=Announced "},
			{"asks", providerIs("aws"), "192.0.2.0 [aws std] Provisioned=Provisioning Announced=Announced "},
			{"replaced", serviceChange(func(s *corev1.Service) {
				delete(s.Annotations, v1alpha1.AnnotationAllocatedFrom)
				ownIngress(s)
			}), "192.0.2.0 [aws std] Provisioned=Provisioning Announced=Announced ensure"},
			{"record restored", func(l *providerScenario) {
				if r := config.OwnAllocation(l.Services[0]); len(r) != 1 || r[0].Value != "p" {
					panic(fmt.Sprintf("the record is %v", r))
				}
			}, "192.0.2.0 [aws std] Provisioned=Provisioning Announced=Announced ensure"},
			{"replaced, and the address recorded for another Service", func(l *providerScenario) {
				serviceChange(func(s *corev1.Service) {
					delete(s.Annotations, v1alpha1.AnnotationAllocatedFrom)
					ownIngress(s)
				})(l)
				l.Services = append(l.Services, service("b", fixture.Recorded("192.0.2.0=p")))
			}, "[aws std] Provisioned=Provisioning ensure"},
		}},
		{"from a pool to AWS, and back again", service("a", annotated(v1alpha1.AnnotationProvider, "bare-metal")), []scenarioStep{
			{"served", announcedAre("192.0.2.0"), "192.0.2.0 [] Provisioned=Assigned Announced=Announced "},
			{"asks", providerIs("aws"), "192.0.2.0 [aws std] Provisioned=Provisioning Announced=Announced "},
			{"failing", outcomeIs(broke), "192.0.2.0 [aws std] Provisioned=CloudFailed Announced=Announced ensure"},
			{"thinks better of it", providerIs(""), "192.0.2.0 [aws] Provisioned=Assigned Announced=Announced delete"},
			{"gone", outcomeIs(gone), "192.0.2.0 [] Provisioned=Assigned Announced=Announced delete"},
		}},
		{"from AWS to a pool", service("a", onAWS, showing(host)), []scenarioStep{
			{"active", outcomeIs(active), host + " [aws std] Provisioned=Assigned ensure"},
			{"asks", providerIs("bare-metal"), host + " 192.0.2.0 [aws] Provisioned=Assigned Announced=NoSpeaker ensure"},
			{"restarted", (*providerScenario).restart, host + " 192.0.2.0 [aws] Provisioned=Assigned Announced=NoSpeaker ensure"},
			{"announced", announcedAre("192.0.2.0"), "192.0.2.0 [aws] Provisioned=Assigned Announced=Announced ensure"},
			{"host name gone", (*providerScenario).unchanged, "192.0.2.0 [aws] Provisioned=Assigned Announced=Announced delete"},
			{"no longer announced", announcedAre(), "192.0.2.0 [aws] Provisioned=Assigned Announced=NoSpeaker delete"},
			{"not gone", outcomeIs(held), "192.0.2.0 [aws] Provisioned=Assigned Announced=NoSpeaker delete"},
			{"gone", outcomeIs(gone), "192.0.2.0 [] Provisioned=Assigned Announced=NoSpeaker delete"},
		}},
		{"from AWS to a pool, and back again", service("a", onAWS, showing(host)), []scenarioStep{
			{"asks", providerIs("bare-metal"), host + " 192.0.2.0 [aws] Provisioned=Assigned Announced=NoSpeaker ensure"},
			{"thinks better of it", providerIs(""), host + " 192.0.2.0 [aws std] Provisioned=Assigned Announced=NoSpeaker ensure"},
			{"active", outcomeIs(active), host + " [aws std] Provisioned=Assigned ensure"},
		}},
		{"from AWS to no pool", service("a", onAWS, showing(host)), []scenarioStep{
			{"no pool", func(l *providerScenario) { l.Objects.Pools = nil }, host + " [aws std] Provisioned=Provisioning ensure"},
			{"asks", providerIs("bare-metal"), host + " [aws] Provisioned=NoMatchingPool Announced=NoAddress ensure"},
			{
				"a pool", func(l *providerScenario) { l.Objects.Pools = []*v1alpha1.IPAddressPool{pool("p", "192.0.2.0/28")} },
				host + " 192.0.2.0 [aws] Provisioned=Assigned Announced=NoSpeaker ensure",
			},
			{"deleted", serviceChange(deleting), host + " [aws] Provisioned=Deleting delete"},
			{"not gone", outcomeIs(held), host + " [aws] Provisioned=Deleting delete"},
			{"gone", outcomeIs(gone), "[] delete"},
		}},
		{"asks for nonsense", service("a", onAWS, showing(host)), []scenarioStep{
			{"asks", providerIs("AWS"), host + " [aws std] Provisioned=InvalidRequest ensure"},
			{"active", outcomeIs(active), host + " [aws std] Provisioned=InvalidRequest ensure"},
		}},
		{"asks for nonsense in a pool", service("a", finalized, holding("192.0.2.7"), fixture.Recorded("192.0.2.7=p")), []scenarioStep{
			{"asks", providerIs("AWS"), "192.0.2.7 [] Provisioned=InvalidRequest Announced=NoSpeaker "},
		}},
		{"SCTP", service("a", func(s *corev1.Service) {
			s.Spec.Ports = []corev1.ServicePort{{Port: 9, Protocol: corev1.ProtocolSCTP, NodePort: 30123}}
		}), []scenarioStep{
			{"no pool", func(l *providerScenario) { l.Objects.Pools = nil }, "[] Provisioned=CloudCannotServe "},
			{
				"a pool", func(l *providerScenario) { l.Objects.Pools = []*v1alpha1.IPAddressPool{pool("p", "192.0.2.0/28")} },
				"192.0.2.0 [] Provisioned=CloudCannotServe Announced=NoSpeaker ",
			},
			{"again", (*providerScenario).unchanged, "192.0.2.0 [] Provisioned=CloudCannotServe Announced=NoSpeaker "},
			{
				"no more", serviceChange(func(s *corev1.Service) { s.Spec.Ports[0].Protocol = corev1.ProtocolTCP }),
				"192.0.2.0 [] Provisioned=Assigned Announced=NoSpeaker ",
			},
		}},
		{"AWS by flag, and no node there", service("a"), []scenarioStep{
			{"no pool", func(l *providerScenario) {
				l.Policy.Mode, l.Nodes, l.Objects.Pools = providers.AWS, []*corev1.Node{rack}, nil
			}, "[] Provisioned=CloudCannotServe "},
			{"a node", nodesAre(rack, cloud), "[aws std] Provisioned=Provisioning "},
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			l := &providerScenario{Snapshot: Snapshot{
				Policy:  providers.Policy{Mode: providers.Auto},
				Objects: config.Objects{Pools: []*v1alpha1.IPAddressPool{pool("p", "192.0.2.0/28")}},
				Nodes:   []*corev1.Node{rack, cloud},
				Services: []*corev1.Service{
					row.service,
					service("z", classed(v1alpha1.ClassBareMetal), annotated(v1alpha1.AnnotationLoadBalancerIPs, "192.0.2.9")),
				},
			}}
			for _, e := range row.events {
				e.do(l)
				if got := l.reconcile(); got != e.want {
					t.Fatalf("%s:\ngot  %s\nwant %s", e.what, got, e.want)
				}
			}
			if len(l.Objects.Pools) > 0 && len(l.Services[1].Status.LoadBalancer.Ingress) != 1 {
				t.Error("the other Service, on bare metal, has no address")
			}
		})
	}
}

// TestCloudMessages: messages contain the details of the cloud's answer.
func TestCloudMessages(t *testing.T) {
	sctp := func(s *corev1.Service) { s.Spec.Ports = []corev1.ServicePort{{Port: 9, Protocol: corev1.ProtocolSCTP}} }
	for _, row := range []struct {
		name     string
		service  *corev1.Service
		cloud    CloudOutcome
		pools    bool
		messages []string
	}{
		{"an error", service("a", onAWS), broke, true, []string{"create listener: boom"}},
		{"a report", service("a", onAWS), active, true, []string{"it answers"}},
		{
			"annotations for pools", service("a", onAWS, annotated(v1alpha1.AnnotationLoadBalancerIPs, "192.0.2.1"), annotated("metallb.io/address-pool", "p")),
			active, true,
			[]string{"it answers; AWS chooses the addresses: no effect of annotation metallb.io/address-pool, fairlead.io/load-balancer-ips"},
		},
		{"deletion", service("a", onAWS, deleting), held, true, []string{"network interfaces"}},
		{"foreign", service("a", showing("x.example.com")), CloudOutcome{}, true, []string{"x.example.com", "no load balancer is created"}},
		{"fallback to a pool", service("a", sctp), CloudOutcome{}, true, []string{"192.0.2.0 from pool p", "AWS cannot serve it", "SCTP"}},
		{"fallback to nothing", service("a", sctp), CloudOutcome{}, false, []string{"AWS cannot serve it", "SCTP", "there is no IPAddressPool"}},
		{
			"leaving", service("a", onAWS, showing(host), annotated(v1alpha1.AnnotationProvider, "bare-metal")),
			CloudOutcome{},
			true,
			[]string{"192.0.2.0 from pool p", host + " is kept"},
		},
		{
			"left", service("a", onAWS, annotated(v1alpha1.AnnotationProvider, "bare-metal")), held, true,
			[]string{"being deleted: its network interfaces"},
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := Snapshot{
				Policy: providers.Policy{Mode: providers.Auto}, Nodes: []*corev1.Node{awsNode("a1")},
				Services: []*corev1.Service{row.service}, Cloud: map[types.UID]CloudOutcome{"a": row.cloud},
			}
			if row.pools {
				s.Objects.Pools = []*v1alpha1.IPAddressPool{pool("p", "192.0.2.0/28")}
			}
			message := Decide(s).planOf(key("a")).Conditions[0].Message
			for _, want := range row.messages {
				if !strings.Contains(message, want) {
					t.Errorf("%q does not contain %q", message, want)
				}
			}
		})
	}
}

// TestAddressShownOnAWS: an address in the status of a Service on AWS does not take it
// from the Service whose record has it.
func TestAddressShownOnAWS(t *testing.T) {
	s := testSnapshot(
		service("a", onAWS, holding("192.0.2.1")),
		service("b", fixture.Recorded("192.0.2.1=p"), annotated(v1alpha1.AnnotationProvider, "bare-metal")),
	)
	s.Policy, s.Nodes = providers.Policy{Mode: providers.Auto}, []*corev1.Node{awsNode("n1")}
	s.Objects.Pools = []*v1alpha1.IPAddressPool{pool("p", "192.0.2.0/29")}
	if got := Decide(s).planOf(key("b")).AllocatedFrom; got != "192.0.2.1=p,uid=b" {
		t.Errorf("b is assigned %s", got)
	}
}

func TestTargets(t *testing.T) {
	labelled := func(name, value string) *corev1.Node {
		n := awsNode(name)
		n.Labels = map[string]string{corev1.LabelNodeExcludeBalancers: value}
		return n
	}
	leaving, tainted, notReady, bare := awsNode("c"), awsNode("d"), awsNode("e"), readyNode("b")
	now := metav1.Now()
	leaving.DeletionTimestamp = &now
	tainted.Spec.Taints = []corev1.Taint{{Key: taintToBeDeleted}}
	notReady.Status.Conditions = nil
	var names []string
	all := []*corev1.Node{
		notReady, bare, leaving, tainted, awsNode("a"), labelled("f", ""),
		labelled("g", "true"), labelled("h", "false"), labelled("i", "maybe"),
	}
	for _, n := range TargetNodes(all) {
		names = append(names, n.Name)
	}
	if got := strings.Join(names, " "); got != "a b e h" {
		t.Errorf("targets %s", got)
	}
}

func TestSameTargets(t *testing.T) {
	was := []*corev1.Node{awsNode("a"), awsNode("b")}
	change := func(f func(*corev1.Node)) []*corev1.Node {
		n := awsNode("b")
		f(n)
		return []*corev1.Node{was[0], n}
	}
	for name, row := range map[string]struct {
		now  []*corev1.Node
		same bool
	}{
		"the same":      {change(func(*corev1.Node) {}), true},
		"not ready":     {change(func(n *corev1.Node) { n.Status.Conditions = nil }), true},
		"cordoned":      {change(func(n *corev1.Node) { n.Spec.Unschedulable = true }), true},
		"one less":      {was[:1], false},
		"none":          {nil, false},
		"another":       {change(func(n *corev1.Node) { n.Name = "c" }), false},
		"providerID":    {change(func(n *corev1.Node) { n.Spec.ProviderID = "aws:///z/i-9" }), false},
		"another label": {change(func(n *corev1.Node) { n.Labels = map[string]string{"x": "y"} }), false},
	} {
		if SameTargetNodes(was, row.now) != row.same {
			t.Errorf("%s: same is %t", name, !row.same)
		}
	}
}

func TestSameWork(t *testing.T) {
	was := CloudRequest{service("a", annotated("x", "y")), EnsureBalancer}
	change := func(do CloudAction, f func(*corev1.Service)) CloudRequest {
		return CloudRequest{service("a", annotated("x", "y"), f), do}
	}
	for name, row := range map[string]struct {
		now  CloudRequest
		same bool
	}{
		"the same":             {change(EnsureBalancer, func(*corev1.Service) {}), true},
		"a status":             {change(EnsureBalancer, showing(host)), true},
		"a label":              {change(EnsureBalancer, func(s *corev1.Service) { s.Labels = map[string]string{"x": "y"} }), true},
		"our annotation":       {change(EnsureBalancer, annotated(v1alpha1.AnnotationAllocatedFrom, "x")), true},
		"an annotation":        {change(EnsureBalancer, annotated("x", "z")), false},
		"one annotation more":  {change(EnsureBalancer, annotated("y", "z")), false},
		"one annotation less":  {change(EnsureBalancer, func(s *corev1.Service) { delete(s.Annotations, "x") }), false},
		"a port":               {change(EnsureBalancer, func(s *corev1.Service) { s.Spec.Ports = []corev1.ServicePort{{Port: 1}} }), false},
		"deletion":             {change(DeleteBalancer, func(*corev1.Service) {}), false},
		"another of that name": {change(EnsureBalancer, func(s *corev1.Service) { s.UID = "b" }), false},
	} {
		if SameCloudRequest(was, row.now) != row.same {
			t.Errorf("%s: same is %t", name, !row.same)
		}
	}
	deletion := CloudRequest{service("a"), DeleteBalancer}
	port := CloudRequest{service("a", func(s *corev1.Service) { s.Spec.Ports = []corev1.ServicePort{{Port: 1}} }), DeleteBalancer}
	if !SameCloudRequest(deletion, port) {
		t.Error("a deletion starts over when a port changes")
	}
	if SameCloudRequest(deletion, change(DeleteBalancer, annotated("x", "z"))) {
		t.Error("a deletion is not retried when an annotation changes, which may have protected the load balancer")
	}
}
