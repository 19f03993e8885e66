package plan

import (
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-io/fairlead/config/fixture"
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
