package plan_test

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/fixture"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/controller/plan"
	"github.com/fairlead-io/fairlead/providers"
)

// Three Services request an address, and the pool has two. An address that is
// requested by name is assigned first, then the oldest Service is served. When the
// plan has been written, nothing is left to write.
func ExampleDecide() {
	snapshot := plan.Snapshot{
		Policy:  providers.Policy{Mode: providers.BareMetal},
		Objects: config.Objects{Pools: []*v1alpha1.IPAddressPool{fixture.Pool("lan", "192.0.2.10-192.0.2.11")}},
		Services: []*corev1.Service{
			fixture.Service("api"),
			fixture.Service("mail", fixture.Annotated(v1alpha1.AnnotationLoadBalancerIPs, "192.0.2.10")),
			fixture.Service("web"),
		},
	}
	desired := plan.Decide(snapshot)
	for i, change := range desired.Changes { // oldest first
		provisioned := change.Plan.Conditions[0]
		fmt.Println(change.Service.Name, provisioned.Reason+":", provisioned.Message)
		snapshot.Services[i] = change.Plan.Written(change.Service)
	}
	fmt.Println("pool lan:", desired.Pools["lan"].IPv4.Usage)
	fmt.Println("changes in the next sync:", len(plan.Decide(snapshot).Changes))
	// Output:
	// api Assigned: 192.0.2.11 from pool lan
	// mail Assigned: 192.0.2.10 from pool lan
	// web PoolExhausted: pool lan has no free IPv4 address
	// pool lan: 2/2
	// changes in the next sync: 0
}
