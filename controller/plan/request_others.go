// This file reads the annotations with which other implementations request addresses.

package plan

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// requestsOfOthers are the annotations of other implementations that make a request.
var requestsOfOthers = annotationsOfOthers(
	v1alpha1.AddressPoolAnnotations, v1alpha1.LoadBalancerIPsAnnotations,
	v1alpha1.AllowSharedIPAnnotations,
)

func annotationsOfOthers(synonyms ...[]string) map[string]bool {
	names := map[string]bool{}
	for _, name := range slices.Concat(synonyms...) {
		if !strings.HasPrefix(name, v1alpha1.GroupVersion.Group) {
			names[name] = true
		}
	}
	return names
}

// addressParser parses the value of an annotation, and removes duplicates.
type addressParser func(text string) ([]netip.Addr, error)

// addressParserOf returns the parser of an annotation that requests addresses.
func addressParserOf(annotation string) addressParser {
	switch annotation {
	case v1alpha1.AnnotationKubeVIPAddresses:
		return parseKubeVIPAddrs
	case v1alpha1.AnnotationCalicoAddresses:
		return parseCalicoAddrs
	}
	return parseAddrs
}

// parseKubeVIPAddrs parses a list in which the unspecified address requests one by DHCP.
func parseKubeVIPAddrs(text string) ([]netip.Addr, error) {
	addrs, err := parseAddrs(text)
	if i := slices.IndexFunc(addrs, netip.Addr.IsUnspecified); i >= 0 {
		return nil, fmt.Errorf("%s requests an address by DHCP, which is not supported; addresses are assigned from pools", addrs[i])
	}
	return addrs, err
}

// parseCalicoAddrs parses a JSON array. An empty one requests nothing.
func parseCalicoAddrs(text string) ([]netip.Addr, error) {
	var list []string
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		return nil, errors.New(`must be a JSON array of IP addresses, such as ["192.0.2.1"]`)
	}
	return collectAddrs(slices.Values(list))
}
