package plan

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"go4.org/netipx"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/fairlead-io/fairlead/allocator"
	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/providers"
)

// buildRequest is what a Service asks of the pools: an address, or just to be left
// with those that it shows.
func (d *decision) buildRequest(svc *serviceState) (r allocator.Request, asks bool) {
	r = allocator.Request{Key: svc.key, Since: svc.CreationTimestamp.Time, Have: shownAddresses(svc.Service)}
	_, foreign := foreignIngress(svc.Service)
	onBareMetal := svc.choice.Verdict == providers.OnBareMetal
	if svc.choice.Verdict == providers.OnAWS && hasFinalizer(svc.Service, v1alpha1.FinalizerBareMetal) && svc.DeletionTimestamp == nil {
		r.Frozen = true // holds its addresses until the balancer answers
	} else if !onBareMetal || svc.DeletionTimestamp != nil || foreign {
		r.Role = allocator.Stranger
		return r, len(r.Have) > 0
	}
	if !hasProviderFinalizer(svc.Service) && len(r.Have) > 0 {
		r.Role = allocator.Adopter
	}
	r.Families = requestedFamilies(svc.Service)
	if svc.refusal = d.readRequest(svc, &r); svc.refusal.Reason == "" && onBareMetal && svc.choice.Reason != "" {
		svc.refusal = v1alpha1.Refusal{Reason: svc.choice.Reason, Message: svc.choice.Message}
	}
	if !onBareMetal {
		svc.refusal = v1alpha1.Refusal{}
		return r, len(r.Have) > 0
	}
	r.Frozen = svc.refusal.Reason != ""
	return r, true
}

// requestedFamilies are those of which a Service wants an address. Under
// PreferDualStack either will do.
func requestedFamilies(svc *corev1.Service) []allocator.Want {
	optional := svc.Spec.IPFamilyPolicy != nil && *svc.Spec.IPFamilyPolicy == corev1.IPFamilyPolicyPreferDualStack
	if !optional && len(svc.Spec.IPFamilies) == 1 {
		return singleFamily[svc.Spec.IPFamilies[0] == corev1.IPv6Protocol]
	}
	var families []allocator.Want
	for _, f := range svc.Spec.IPFamilies {
		w := allocator.Want{Family: allocator.IPv4, Optional: optional}
		if f == corev1.IPv6Protocol {
			w.Family = allocator.IPv6
		}
		families = append(families, w)
	}
	return families
}

// singleFamily are the wishes of Services of one family, by whether it is IPv6.
var singleFamily = map[bool][]allocator.Want{false: {{Family: allocator.IPv4}}, true: {{Family: allocator.IPv6}}}

// readRequest adds all that a Service asks for to its request, or says why nobody
// can know what that is.
func (d *decision) readRequest(svc *serviceState, r *allocator.Request) (why v1alpha1.Refusal) {
	r.Pools, r.Barred = d.poolSelections.selectPools(svc.Service)
	var unknown v1alpha1.Refusal
	if !d.poolSelections.knowsNamespace(svc.Namespace) {
		r.Pools, r.Barred = nil, nil
		unknown = v1alpha1.Refusal{Reason: v1alpha1.NoMatchingPool, Message: fmt.Sprintf("pools select namespaces by their labels, and those of Namespace %s are not known yet", svc.Namespace)}
	}
	if hasDefaultRequest(svc.Service) {
		return unknown
	}
	if why := cmp.Or(readSharing(svc, r), unknown); why.Reason != "" {
		return why
	}
	pool, why := annotationValue(svc.Service, v1alpha1.AddressPoolAnnotations)
	if why.Reason != "" {
		return why
	}
	if pool != "" {
		if len(validation.IsDNS1123Subdomain(pool)) > 0 {
			return v1alpha1.Refusal{Reason: v1alpha1.InvalidRequest, Message: fmt.Sprintf("%q, which is asked for, can be the name of no pool", truncateText(pool))}
		}
		r.Pinned = true
		if slices.Contains(r.Barred, pool) {
			r.Pools, r.Barred = nil, []string{pool}
		} else {
			r.Pools, r.Barred = []string{pool}, nil
		}
	}
	addrs, why := requestedAddrs(svc.Service, r.Families)
	if why.Reason != "" {
		return why
	}
	release, err := parseAddrs(svc.Annotations[v1alpha1.AnnotationRelease])
	if err != nil {
		return v1alpha1.Refusal{Reason: v1alpha1.InvalidRequest, Message: "annotation " + v1alpha1.AnnotationRelease + ": " + err.Error()}
	}
	for _, a := range addrs {
		if home := d.containingPool(a); pool != "" && home != "" && home != pool {
			return v1alpha1.Refusal{Reason: v1alpha1.ConflictingRequest, Message: fmt.Sprintf("%s is in pool %s, but the Service asks for pool %s: they contradict each other", a, home, pool)}
		}
		if slices.Contains(release, a) {
			return v1alpha1.Refusal{Reason: v1alpha1.ConflictingRequest, Message: fmt.Sprintf("%s is asked for by address, and annotation %s gives it up: they contradict each other", a, v1alpha1.AnnotationRelease)}
		}
	}
	renumber, err := parseRenumber(svc.Service)
	if err != nil {
		return v1alpha1.Refusal{Reason: v1alpha1.InvalidRequest, Message: err.Error()}
	}
	r.Addrs, r.Renumber = addrs, renumber != nil
	r.Release = append(release, d.expiredAddresses(svc, renumber, r)...)
	return v1alpha1.Refusal{}
}

// readSharing adds under which terms the Service shares its addresses.
func readSharing(svc *serviceState, r *allocator.Request) (why v1alpha1.Refusal) {
	key, why := annotationValue(svc.Service, v1alpha1.AllowSharedIPAnnotations)
	if len(key) > maxKeyLength {
		why = v1alpha1.Refusal{Reason: v1alpha1.InvalidRequest, Message: fmt.Sprintf("the key %q of shared addresses has more than %d bytes", truncateText(key), maxKeyLength)}
	}
	recorded := svc.Annotations[v1alpha1.AnnotationSharedAs]
	if why.Reason != "" {
		key = recordedSharingKey(recorded) // it keeps what it has
	}
	if key != "" {
		r.Share, svc.terms = sharingTerms(svc.Service, key)
	}
	r.Departed = svc.terms != recorded
	return why
}

// containingPool is the pool that contains the address, "" if none does.
func (d *decision) containingPool(a netip.Addr) string {
	for _, p := range d.config.Pools {
		if len(overlappingRanges(p.Ranges, netipx.IPRangeFrom(a, a))) > 0 {
			return p.Name
		}
	}
	return ""
}

// hasDefaultRequest reports whether the Service says nothing about its addresses, as
// most do.
func hasDefaultRequest(svc *corev1.Service) bool {
	for name := range svc.Annotations {
		ours := strings.HasPrefix(name, v1alpha1.GroupVersion.Group) && name != v1alpha1.AnnotationAllocatedFrom
		if ours || strings.HasPrefix(name, "metallb.") {
			return false
		}
	}
	return svc.Spec.LoadBalancerIP == ""
}

// annotationValue is the value of annotations that mean the same.
func annotationValue(svc *corev1.Service, names []string) (value string, why v1alpha1.Refusal) {
	said := ""
	for _, name := range names {
		v := svc.Annotations[name]
		switch {
		case v == "":
		case value == "":
			value, said = v, name
		case v != value:
			return "", v1alpha1.Refusal{Reason: v1alpha1.ConflictingRequest, Message: fmt.Sprintf("annotation %s is %q and annotation %s is %q: they contradict each other", said, truncateText(value), name, truncateText(v))}
		}
	}
	return value, v1alpha1.Refusal{}
}

// truncateText keeps what people wrote from filling a message.
func truncateText(text string) string {
	const enough = 200
	if len(text) > enough {
		return strings.ToValidUTF8(text[:enough], "") + "…"
	}
	return text
}

// maxAddrs is what one list of addresses may name. Nobody needs as many.
const maxAddrs = 100

// parseAddrs reads a comma-separated list.
func parseAddrs(text string) (addrs []netip.Addr, err error) {
	if text == "" {
		return nil, nil
	}
	for part := range strings.SplitSeq(text, ",") {
		if len(addrs) == maxAddrs {
			return nil, fmt.Errorf("more than %d addresses", maxAddrs)
		}
		a, err := config.ParseAddr(strings.TrimSpace(part))
		if err != nil {
			return nil, fmt.Errorf("%q is no IP address", truncateText(strings.TrimSpace(part)))
		}
		if !slices.Contains(addrs, a) {
			addrs = append(addrs, a)
		}
	}
	return addrs, nil
}

// requestedAddrs are the addresses that a Service asks for by name, at most one of
// each of its families. spec.loadBalancerIP has room for one only, so that it
// may repeat a part of what an annotation says.
func requestedAddrs(svc *corev1.Service, families []allocator.Want) (addrs []netip.Addr, why v1alpha1.Refusal) {
	invalid := func(field, format string, args ...any) v1alpha1.Refusal {
		return v1alpha1.Refusal{Reason: v1alpha1.InvalidRequest, Message: field + ": " + fmt.Sprintf(format, args...)}
	}
	said := ""
	read := func(field, text string) v1alpha1.Refusal {
		more, err := parseAddrs(text)
		if err != nil {
			return invalid(field, "%v", err)
		}
		slices.SortFunc(more, netip.Addr.Compare)
		if said == "" {
			addrs, said = more, field
		} else if field == fieldLoadBalancerIP && !slices.ContainsFunc(more, func(a netip.Addr) bool { return !slices.Contains(addrs, a) }) {
			return v1alpha1.Refusal{}
		} else if !slices.Equal(more, addrs) {
			return v1alpha1.Refusal{Reason: v1alpha1.ConflictingRequest, Message: fmt.Sprintf("%s is %q and %s is %q: they contradict each other", said, joinAddrs(addrs), field, joinAddrs(more))}
		}
		return v1alpha1.Refusal{}
	}
	for _, name := range v1alpha1.LoadBalancerIPsAnnotations {
		if text := svc.Annotations[name]; text != "" {
			if why := read("annotation "+name, text); why.Reason != "" {
				return nil, why
			}
		}
	}
	if text := svc.Spec.LoadBalancerIP; text != "" {
		if why := read(fieldLoadBalancerIP, text); why.Reason != "" {
			return nil, why
		}
	}
	for i, a := range addrs {
		f := allocator.FamilyOf(a)
		if !slices.ContainsFunc(families, func(w allocator.Want) bool { return w.Family == f }) {
			return nil, invalid(said, "%s is %s, but the Service's spec.ipFamilies has no %s", a, f, f)
		}
		if i > 0 && allocator.FamilyOf(addrs[i-1]) == f {
			return nil, invalid(said, "more than one %s address", f)
		}
	}
	return addrs, v1alpha1.Refusal{}
}

const fieldLoadBalancerIP = "spec.loadBalancerIP"

func joinAddrs(addrs []netip.Addr) string {
	text := ""
	for _, a := range addrs {
		text = joinComma(text, a.String())
	}
	return text
}

// maxKeyLength bounds what is written of a key into the record of its terms.
const maxKeyLength = 253

// sharingTerms are those under which a Service with a key shares its addresses, and
// how they are recorded.
func sharingTerms(svc *corev1.Service, key string) (t allocator.Terms, recorded string) {
	t = allocator.Terms{Key: key, Cluster: svc.Spec.ExternalTrafficPolicy != corev1.ServiceExternalTrafficPolicyLocal}
	if len(svc.Spec.Selector) > 0 {
		t.Backends = svc.Namespace + "/" + boundedText(labels.Set(svc.Spec.Selector).String())
	}
	ports := ""
	for _, p := range svc.Spec.Ports {
		t.Ports = append(t.Ports, allocator.Port{Protocol: string(cmp.Or(p.Protocol, corev1.ProtocolTCP)), Number: p.Port})
	}
	slices.SortFunc(t.Ports, func(a, b allocator.Port) int {
		return cmp.Or(cmp.Compare(a.Number, b.Number), cmp.Compare(a.Protocol, b.Protocol))
	})
	for _, p := range t.Ports {
		ports = joinComma(ports, fmt.Sprintf("%d/%s", p.Number, p.Protocol))
	}
	policy := "Local"
	if t.Cluster {
		policy = "Cluster"
	}
	return t, strings.Join([]string{policy, ports, t.Backends, key}, " ")
}

// boundedText is the text, or what stands for one that is too long for a record.
func boundedText(text string) string {
	const enough = 512
	if len(text) <= enough {
		return text
	}
	return fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(text)))
}

// recordedSharingKey is the key in recorded terms.
func recordedSharingKey(terms string) string {
	parts := strings.SplitN(terms, " ", 4)
	if key := parts[len(parts)-1]; len(key) <= maxKeyLength {
		return key
	}
	return "" // we have not written this
}

// shownAddresses are the addresses in the Service's status, with what is recorded about them.
func shownAddresses(svc *corev1.Service) []allocator.Have {
	ingress := svc.Status.LoadBalancer.Ingress
	if len(ingress) == 0 {
		return nil
	}
	have := make([]allocator.Have, 0, len(ingress))
	pools, leaving := config.ReadRecords(svc.Annotations[v1alpha1.AnnotationAllocatedFrom]), config.ReadRecords(svc.Annotations[v1alpha1.AnnotationLeaving])
	for _, in := range ingress {
		a, err := config.ParseAddr(in.IP)
		if err != nil {
			continue
		}
		h := allocator.Have{Addr: a}
		h.Pool, _ = pools.Of(a)
		_, h.Leaving = leaving.Of(a)
		have = append(have, h)
	}
	return have
}
