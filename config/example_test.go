package config_test

import (
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// A broken entry does not affect the others, and of two pools that overlap, the
// older one has the addresses.
func ExampleParse() {
	pool := func(name string, created int64, addresses ...v1alpha1.AddressRange) *v1alpha1.IPAddressPool {
		return &v1alpha1.IPAddressPool{
			ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.Unix(created, 0)},
			Spec:       v1alpha1.IPAddressPoolSpec{Addresses: addresses},
		}
	}
	c, problems := config.Parse(config.Objects{Pools: []*v1alpha1.IPAddressPool{
		pool("public", 1, "192.0.2.0/24", "198.51.100.7/24"),
		pool("spare", 2, "192.0.2.128/25", "203.0.113.0/24"),
	}})
	for _, p := range c.Pools {
		fmt.Println(p.Name, p.Ranges)
	}
	for _, p := range problems {
		fmt.Println(p)
	}
	// Output:
	// public [192.0.2.0-192.0.2.255]
	// spare [203.0.113.0-203.0.113.255]
	// IPAddressPool public: spec.addresses[1]: "198.51.100.7/24" has host bits set; did you mean "198.51.100.0/24", or "198.51.100.7/32"?
	// IPAddressPool spare: spec.addresses[0]: "192.0.2.128/25" overlaps the older IPAddressPool "public" with "192.0.2.0/24"
}
