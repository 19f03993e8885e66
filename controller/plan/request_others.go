// This file reads the annotations with which other implementations request addresses.

package plan

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// requestsOfOthers are the annotations of other implementations that make a request.
var requestsOfOthers = annotationsOfOthers(
	v1alpha1.AddressPoolAnnotations, v1alpha1.LoadBalancerIPsAnnotations,
	v1alpha1.AllowSharedIPAnnotations, v1alpha1.NamespacedSharingAnnotations,
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

// namespacedKeyPrefix begins the sharing keys that apply within one namespace. No other
// key may begin with it: a Service in another namespace must not join.
const namespacedKeyPrefix = "namespace "

// sharingKey is the key of all annotations for sharing, which must agree. It is limited
// to the Service's namespace if only annotations with that meaning are set.
func sharingKey(svc *corev1.Service) (key string, refusal v1alpha1.Refusal) {
	key, refusal = annotationValue(svc, sharingAnnotations)
	if refusal.Reason != "" || key == "" {
		return "", refusal
	}
	if unlimited, _ := annotationValue(svc, v1alpha1.AllowSharedIPAnnotations); unlimited == "" {
		return namespacedKeyPrefix + svc.Namespace + ": " + key, v1alpha1.Refusal{}
	}
	if strings.HasPrefix(key, namespacedKeyPrefix) {
		return "", refusedFor(v1alpha1.InvalidRequest, "invalid sharing key %q: must not begin with %q", truncateText(key), namespacedKeyPrefix)
	}
	return key, v1alpha1.Refusal{}
}

var sharingAnnotations = slices.Concat(v1alpha1.AllowSharedIPAnnotations, v1alpha1.NamespacedSharingAnnotations)

// unsupportedAnnotations make a request that no annotation of Fairlead is equivalent
// to. The one that is the closest to it supersedes it.
var unsupportedAnnotations = []struct{ name, closest string }{
	{"projectcalico.org/ipv4pools", v1alpha1.AnnotationAddressPool},
	{"projectcalico.org/ipv6pools", v1alpha1.AnnotationAddressPool},
	{"lbipam.cilium.io/sharing-cross-namespace", v1alpha1.AnnotationAllowSharedIP},
	{"io.cilium/lb-ipam-sharing-cross-namespace", v1alpha1.AnnotationAllowSharedIP},
	{"purelb.io/multi-pool", ""},
}

// unsupportedMessage names the annotations of the Service whose requests have no
// effect, "" if there are none.
func unsupportedMessage(svc *corev1.Service) string {
	var all []string
	for _, a := range unsupportedAnnotations {
		if value := svc.Annotations[a.name]; value == "" || value == "false" || svc.Annotations[a.closest] != "" {
			continue
		}
		text := "annotation " + a.name + " is not supported"
		if a.closest != "" {
			text += ": use " + a.closest
		}
		all = append(all, text)
	}
	return strings.Join(all, "; ")
}

// poolOnlyMessage names the annotations with which the Service requests an address of a
// pool, which have no effect on AWS; "" if there are none.
func poolOnlyMessage(svc *corev1.Service) string {
	var names []string
	for _, name := range slices.Concat(v1alpha1.AddressPoolAnnotations, v1alpha1.LoadBalancerIPsAnnotations, sharingAnnotations) {
		if svc.Annotations[name] != "" {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return ""
	}
	return "AWS chooses the addresses: no effect of annotation " + strings.Join(names, ", ")
}
