package plan

import "github.com/fairlead-io/fairlead/config/fixture"

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
