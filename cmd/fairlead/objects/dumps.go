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

// FromDumps reads the files that fairlead dump, or kubectl get -o yaml or json,
// have written; "-" is stdin. Of an object that is there twice the last one
// counts. The notes say which kinds were skipped and what the dumps lack.
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
		notes = append(notes, "nothing depends on these objects of the dump: "+strings.Join(kinds, ", "))
	}
	return d.into, append(notes, d.into.missingKinds()...), nil
}

// missingKinds returns what a dump lacks, and the consequences.
func (c *Collection) missingKinds() (notes []string) {
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
		{len(c.Services) == 0, "no Services: there is nothing to decide about (kubectl get services -A)"},
		{len(c.Nodes) == 0, "no Nodes: which provider serves Services without a class is undecided, no node can announce anything, " +
			"and addresses of nodes are not known to be reserved (kubectl get nodes)"},
		{len(c.Pools) == 0, "no IPAddressPools: no Service can get an address (kubectl get ipaddresspools)"},
		{len(c.L2Advertisements)+len(c.BGPAdvertisements) == 0, "no L2Advertisements and no BGPAdvertisements: nothing is announced " +
			"(kubectl get l2advertisements,bgpadvertisements)"},
		{len(c.Speakers) == 0, "no Speakers: what nodes announce and how their BGP sessions are is not known (kubectl get speakers)"},
		{local && len(c.EndpointSlices) == 0, "no EndpointSlices: Services with externalTrafficPolicy Local seem to have no endpoints " +
			"(kubectl get endpointslices -A)"},
		{selects && len(c.Namespaces) == 0, "no Namespaces, whose labels some pools select: what Services would newly get is not known " +
			"(kubectl get namespaces)"},
		{len(c.ServiceCIDRs) == 0, "no ServiceCIDRs: addresses of ClusterIPs are not known to be reserved " +
			"(kubectl get servicecidrs; Kubernetes before 1.33 has none)"},
	} {
		if gap.lacking {
			notes = append(notes, "the dump holds "+gap.text)
		}
	}
	return notes
}
