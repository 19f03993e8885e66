package plan

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-io/fairlead/config/fixture"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

var (
	pool      = fixture.Pool
	service   = fixture.Service
	key       = fixture.Key
	annotated = fixture.Annotated
	holding   = fixture.WithIPs
	showing   = fixture.WithHosts
	named     = fixture.Ingress
	withPorts = fixture.WithPorts
	deleting  = fixture.Deleting
	readyNode = fixture.Node
	awsNode   = fixture.AWSNode
)

// onEth0 is an advertisement of all pools on the interface eth0 of all nodes.
var onEth0 = []*v1alpha1.L2Advertisement{{
	ObjectMeta: metav1.ObjectMeta{Name: "eth0"}, Spec: v1alpha1.L2AdvertisementSpec{Interfaces: []string{"eth0"}},
}}

// setAnnouncing replaces all reports by that of a node that announces the addresses on
// eth0.
func (s *Snapshot) setAnnouncing(node string, addrs ...string) {
	speaker := &v1alpha1.Speaker{ObjectMeta: metav1.ObjectMeta{Name: node}}
	speaker.Status.Announcing = []v1alpha1.Announcement{{Interfaces: []string{"eth0"}, Addresses: addrs}}
	s.Speakers = []*v1alpha1.Speaker{speaker}
	s.L2Nodes = []*v1alpha1.L2Node{fixture.L2Node(node, v1alpha1.Interface{Name: "eth0"})}
}

// findService returns the desired state of a Service, and whether the plan has one.
func (p Plan) findService(key types.NamespacedName) (ServicePlan, bool) {
	for _, s := range p.Services {
		if KeyOf(s.Service) == key {
			return *s.Plan, true
		}
	}
	return ServicePlan{}, false
}

// planOf returns the desired state of a Service, the zero value if there is none.
func (p Plan) planOf(key types.NamespacedName) ServicePlan {
	s, _ := p.findService(key)
	return s
}
