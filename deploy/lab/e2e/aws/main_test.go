// Package aws tests Fairlead from end to end on a hybrid cluster: two nodes are
// instances of an emulated AWS, one is a machine in a rack.
package aws

import (
	"testing"

	lab "github.com/fairlead-io/fairlead/deploy/lab"
	"github.com/fairlead-io/fairlead/deploy/lab/e2e/suite"
)

var cluster = &suite.Cluster{
	Options: lab.Options{Nodes: 3, AWS: 2},
	Tools:   []lab.Tool{lab.Moto},
	Basics: `apiVersion: fairlead.io/v1alpha1
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

func TestMain(m *testing.M) { cluster.Main(m) }
