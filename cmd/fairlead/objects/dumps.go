package objects

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// FromDumps reads the output of fairlead dump, or of kubectl get -o yaml or json;
// "-" is stdin. The last one of duplicate objects is used. The notes list the
// skipped kinds and the kinds that are missing from the dumps.
func FromDumps(paths []string, stdin io.Reader) (c *Collection, notes []string, err error) {
	d := decoder{into: new(Collection), skipped: map[string]int{}}
	for _, path := range paths {
		if err := d.readFile(path, stdin); err != nil {
			return nil, nil, fmt.Errorf("read a dump: %w", err)
		}
	}
	if len(d.skipped) > 0 {
		var kinds []string
		for _, kind := range slices.Sorted(maps.Keys(d.skipped)) {
			kinds = append(kinds, fmt.Sprintf("%s (%d)", kind, d.skipped[kind]))
		}
		notes = append(notes, "the dump contains objects of kinds that Fairlead does not use: "+strings.Join(kinds, ", "))
	}
	return d.into, append(notes, d.into.missingKinds()...), nil
}

// missingKinds returns notes on the kinds that are missing from a dump, and on the
// consequences.
func (c *Collection) missingKinds() (notes []string) {
	// Namespaces and EndpointSlices are missed only if an object that is present
	// depends on them.
	selects := slices.ContainsFunc(c.Pools, func(p *v1alpha1.IPAddressPool) bool {
		return p.Spec.ServiceAllocation != nil && len(p.Spec.ServiceAllocation.NamespaceSelectors) > 0
	})
	local := slices.ContainsFunc(c.Services, func(svc *corev1.Service) bool {
		return svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
	})
	for _, gap := range []struct {
		lacking bool
		text    string
	}{
		{len(c.Services) == 0, "no Services (kubectl get services -A)"},
		{len(c.Nodes) == 0, "no Nodes: the provider of Services without a class is undecided, no address can be announced, " +
			"and addresses of nodes are not reserved (kubectl get nodes)"},
		{len(c.Pools) == 0, "no IPAddressPools: no address can be assigned (kubectl get ipaddresspools)"},
		{len(c.L2Advertisements)+len(c.BGPAdvertisements) == 0, "no L2Advertisements and no BGPAdvertisements: no address is announced " +
			"(kubectl get l2advertisements,bgpadvertisements)"},
		{len(c.Speakers) == 0, "no Speakers: announcements and BGP sessions of nodes are unknown (kubectl get speakers)"},
		{len(c.L2Nodes) == 0, "no L2Nodes: interfaces of nodes are unknown, and no address can be announced on them " +
			"(kubectl get l2nodes)"},
		{local && len(c.EndpointSlices) == 0, "no EndpointSlices: Services with externalTrafficPolicy Local appear without endpoints, and all others with " +
			"endpoints (kubectl get endpointslices -A)"},
		{selects && len(c.Namespaces) == 0, "no Namespaces: new addresses from pools with namespaceSelectors are unknown " +
			"(kubectl get namespaces)"},
		{len(c.ServiceCIDRs) == 0, "no ServiceCIDRs: the ClusterIP ranges are not reserved " +
			"(kubectl get servicecidrs; requires Kubernetes 1.33)"},
	} {
		if gap.lacking {
			notes = append(notes, "the dump contains "+gap.text)
		}
	}
	return notes
}
