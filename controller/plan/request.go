package plan

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"iter"
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

// buildRequest is the request of a Service to the allocator: for addresses, or only
// to reserve those in its status. There is none if the Service requests no address
// and its status has none.
func (d *decision) buildRequest(svc *serviceState) (r allocator.Request, exists bool) {
	r = allocator.Request{Key: svc.key, Since: svc.CreationTimestamp.Time, Have: haveAddresses(svc.Service)}
	_, foreign := foreignIngress(svc.Service)
	onBareMetal := svc.choice.Verdict == providers.OnBareMetal
	assigned := slices.ContainsFunc(r.Have, func(h allocator.Have) bool { return h.Evidence != allocator.Shown })
	if svc.choice.Verdict == providers.OnAWS && svc.DeletionTimestamp == nil {
		// It moves to AWS (make before break): it holds its addresses until the
		// load balancer is ready. Without pools, it adopts none.
		r.Frozen = true
		if !assigned {
			return r, len(r.Have) > 0
		}
	} else if !onBareMetal || svc.DeletionTimestamp != nil || foreign {
		// Addresses in its status, which may be another controller's, must not be assigned
		// to other Services.
		r.Role = allocator.Stranger
		if svc.DeletionTimestamp != nil && svc.choice.Verdict != providers.NotOurs {
			r.Role = allocator.Deleted
		}
		r.Have = slices.DeleteFunc(r.Have, func(h allocator.Have) bool { return h.Evidence == allocator.Recorded })
		return r, len(r.Have) > 0
	}
	r.Prefer = copiedAddresses(svc.Service)
	r.Families = requestedFamilies(svc.Service)
	// The choice of the provider may carry a refusal of its own, such as an invalid
	// annotation: it is reported if the request itself is valid.
	if svc.refusal = d.readRequest(svc, &r); svc.refusal.Reason == "" && onBareMetal && svc.choice.Reason != "" {
		svc.refusal = v1alpha1.Refusal{Reason: svc.choice.Reason, Message: svc.choice.Message}
	}
	if !onBareMetal {
		// Its condition is about the load balancer, not about the addresses.
		svc.refusal = v1alpha1.Refusal{}
		return r, len(r.Have) > 0
	}
	// A refused Service keeps its addresses, and no new ones are assigned to it.
	r.Frozen = svc.refusal.Reason != ""
	return r, true
}

// requestedFamilies are the address families of which a Service requests an
// address. Under PreferDualStack one of either family is enough.
func requestedFamilies(svc *corev1.Service) []allocator.Want {
	optional := svc.Spec.IPFamilyPolicy != nil && *svc.Spec.IPFamilyPolicy == corev1.IPFamilyPolicyPreferDualStack
	// Without an allocation, since nearly every Service takes this branch.
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

// singleFamily are the requests of single-stack Services, by whether the family is
// IPv6. Most Services share one of the two slices.
var singleFamily = map[bool][]allocator.Want{false: {{Family: allocator.IPv4}}, true: {{Family: allocator.IPv6}}}

// readRequest adds to the request what the Service's annotations and spec ask for.
// It returns a Refusal if they are invalid, contradict each other, or cannot be
// decided yet; then no new addresses are assigned to the Service.
func (d *decision) readRequest(svc *serviceState, r *allocator.Request) (refusal v1alpha1.Refusal) {
	r.Pools, r.Barred = d.poolSelections.selectPools(svc.Service)
	var unknown v1alpha1.Refusal
	if !d.poolSelections.knowsNamespace(svc.Namespace) {
		r.Pools, r.Barred = nil, nil
		unknown = refusedFor(v1alpha1.NoMatchingPool,
			"pools select namespaces by label, and the labels of Namespace %s are not known yet", svc.Namespace)
	}
	if hasDefaultRequest(svc.Service) {
		return unknown
	}
	// The sharing key is read first: a refused Service goes on sharing what it has.
	if refusal := cmp.Or(readSharing(svc, r), unknown); refusal.Reason != "" {
		return refusal
	}
	pool, refusal := annotationValue(svc.Service, v1alpha1.AddressPoolAnnotations)
	if refusal.Reason != "" {
		return refusal
	}
	if pool != "" {
		r.Selected = r.Pools
		if len(validation.IsDNS1123Subdomain(pool)) > 0 {
			return refusedFor(v1alpha1.InvalidRequest, "invalid pool name %q: must be a DNS subdomain name", truncateText(pool))
		}
		r.Pinned = true
		// A pool that does not select the Service stays in the request, so that the
		// refusal names it.
		if slices.Contains(r.Barred, pool) {
			r.Pools, r.Barred = nil, []string{pool}
		} else {
			r.Pools, r.Barred = []string{pool}, nil
		}
	}
	addrs, refusal := requestedAddrs(svc.Service, r.Families)
	if refusal.Reason != "" {
		return refusal
	}
	release, err := parseAddrs(svc.Annotations[v1alpha1.AnnotationRelease])
	if err != nil {
		return refusedFor(v1alpha1.InvalidRequest, "annotation %s: %v", v1alpha1.AnnotationRelease, err)
	}
	for _, a := range addrs {
		// Neither the pool nor the address takes precedence over the other.
		if home := d.containingPool(a); pool != "" && home != "" && home != pool {
			return refusedFor(v1alpha1.ConflictingRequest,
				"%s is in pool %s, but the Service requests pool %s: they contradict each other", a, home, pool)
		}
		// It would be released and assigned again in every sync.
		if slices.Contains(release, a) {
			return refusedFor(v1alpha1.ConflictingRequest,
				"%s is requested by address, and annotation %s releases it: they contradict each other", a, v1alpha1.AnnotationRelease)
		}
	}
	renumber, err := parseRenumber(svc.Service)
	if err != nil {
		return refusedFor(v1alpha1.InvalidRequest, "%v", err)
	}
	if v := svc.Annotations[v1alpha1.AnnotationAnnounceDespiteConflict]; v != "" && v != "true" && v != "false" {
		return refusedFor(v1alpha1.InvalidRequest, `annotation %s: invalid value %q: must be "true" or "false"`,
			v1alpha1.AnnotationAnnounceDespiteConflict, truncateText(v))
	}
	r.Addrs, r.Renumber = addrs, renumber != nil
	r.Release = append(release, d.expiredAddresses(svc, renumber, r)...)
	return v1alpha1.Refusal{}
}

// refusedFor makes a Refusal with a formatted message.
func refusedFor(reason v1alpha1.Reason, format string, args ...any) v1alpha1.Refusal {
	return v1alpha1.Refusal{Reason: reason, Message: fmt.Sprintf(format, args...)}
}

// readSharing adds the terms under which the Service shares its addresses to the
// request. An invalid key is refused, and the recorded one stays in effect.
func readSharing(svc *serviceState, r *allocator.Request) (refusal v1alpha1.Refusal) {
	key, refusal := sharingKey(svc.Service)
	if len(key) > maxKeyLength {
		refusal = refusedFor(v1alpha1.InvalidRequest, "invalid sharing key %q: must be no more than %d bytes", truncateText(key), maxKeyLength)
	}
	recorded := recordedTerms(svc.Service)
	if refusal.Reason != "" {
		key = recordedSharingKey(recorded)
	}
	// Without a key the Service does not share, and the record is removed.
	if key != "" {
		r.Share, svc.terms = sharingTerms(svc.Service, key)
	}
	// Under other terms the Service may not share what it shared before.
	r.Departed = svc.terms != recorded
	return refusal
}

// containingPool is the name of the pool that contains the address, "" if none does.
func (d *decision) containingPool(a netip.Addr) string {
	for _, p := range d.config.Pools {
		if len(overlappingRanges(p.Ranges, netipx.IPRangeFrom(a, a))) > 0 {
			return p.Name
		}
	}
	return ""
}

// hasDefaultRequest reports whether the Service has no annotation or field that
// asks for a particular pool, address or treatment.
func hasDefaultRequest(svc *corev1.Service) bool {
	for name := range svc.Annotations {
		// The record of assigned addresses is on every Service and asks for nothing.
		ours := strings.HasPrefix(name, v1alpha1.GroupVersion.Group) && name != v1alpha1.AnnotationAllocatedFrom
		if ours || requestsOfOthers[name] {
			return false
		}
	}
	return svc.Spec.LoadBalancerIP == "" && recordedTerms(svc) == ""
}

// annotationValue is the value of annotations that are synonyms. It refuses
// synonyms with different values.
func annotationValue(svc *corev1.Service, names []string) (value string, refusal v1alpha1.Refusal) {
	first := "" // the annotation with the value
	for _, name := range names {
		v := svc.Annotations[name]
		switch {
		case v == "": // not set
		case value == "":
			value, first = v, name
		case v != value:
			return "", refusedFor(v1alpha1.ConflictingRequest, "annotation %s is %q and annotation %s is %q: they contradict each other",
				first, truncateText(value), name, truncateText(v))
		}
	}
	return value, v1alpha1.Refusal{}
}

// truncateText bounds a value of unlimited length that is quoted in a message.
func truncateText(text string) string {
	const maxLength = 200
	if len(text) > maxLength {
		return strings.ToValidUTF8(text[:maxLength], "") + "…"
	}
	return text
}

// maxAddrs limits the addresses of one list, and so the cost of a request.
const maxAddrs = 100

// parseAddrs parses a comma-separated list of addresses, and removes duplicates.
func parseAddrs(text string) (addrs []netip.Addr, err error) {
	if text == "" {
		return nil, nil
	}
	return collectAddrs(strings.SplitSeq(text, ","))
}

// collectAddrs parses the elements of a list of addresses, and removes duplicates.
func collectAddrs(parts iter.Seq[string]) (addrs []netip.Addr, err error) {
	for part := range parts {
		if len(addrs) == maxAddrs {
			return nil, fmt.Errorf("must not list more than %d addresses", maxAddrs)
		}
		a, err := config.ParseAddr(strings.TrimSpace(part))
		if err != nil {
			return nil, fmt.Errorf("invalid IP address %q", truncateText(strings.TrimSpace(part)))
		}
		if !slices.Contains(addrs, a) { // duplicates are valid
			addrs = append(addrs, a)
		}
	}
	return addrs, nil
}

// requestedAddrs are the addresses that a Service requests, at most one of each of
// its families. The annotations must agree. spec.loadBalancerIP has room for one
// address only, so that it may repeat a part of an annotation.
func requestedAddrs(svc *corev1.Service, families []allocator.Want) (addrs []netip.Addr, refusal v1alpha1.Refusal) {
	invalid := func(field, format string, args ...any) v1alpha1.Refusal {
		return refusedFor(v1alpha1.InvalidRequest, field+": "+format, args...)
	}
	first := "" // the field that addrs were read from
	read := func(field, text string, parse addressParser) v1alpha1.Refusal {
		more, err := parse(text)
		if err != nil {
			return invalid(field, "%v", err)
		}
		if len(more) == 0 {
			return v1alpha1.Refusal{} // an empty array requests nothing
		}
		// The order of a list has no meaning.
		slices.SortFunc(more, netip.Addr.Compare)
		added := func(a netip.Addr) bool { return !slices.Contains(addrs, a) }
		switch {
		// The first field that is set is the one that the others are compared with.
		case first == "":
			addrs, first = more, field
		case field == fieldLoadBalancerIP && !slices.ContainsFunc(more, added): // it repeats a part
		case !slices.Equal(more, addrs):
			return refusedFor(v1alpha1.ConflictingRequest, "%s is %q and %s is %q: they contradict each other",
				first, joinAddrs(addrs), field, joinAddrs(more))
		}
		return v1alpha1.Refusal{}
	}
	for _, name := range v1alpha1.LoadBalancerIPsAnnotations {
		if text := svc.Annotations[name]; text != "" {
			if refusal := read("annotation "+name, text, addressParserOf(name)); refusal.Reason != "" {
				return nil, refusal
			}
		}
	}
	if text := svc.Spec.LoadBalancerIP; text != "" {
		if refusal := read(fieldLoadBalancerIP, text, parseAddrs); refusal.Reason != "" {
			return nil, refusal
		}
	}
	// A Service has room for one address of each of its families.
	for i, a := range addrs {
		f := allocator.FamilyOf(a)
		if !slices.ContainsFunc(families, func(w allocator.Want) bool { return w.Family == f }) {
			return nil, invalid(first, "%s is an %s address, but spec.ipFamilies does not contain %s", a, f, f)
		}
		if i > 0 && allocator.FamilyOf(addrs[i-1]) == f { // they are sorted
			return nil, invalid(first, "must not list more than one %s address", f)
		}
	}
	return addrs, v1alpha1.Refusal{}
}

const fieldLoadBalancerIP = "spec.loadBalancerIP"

// joinAddrs formats addresses as a comma-separated list.
func joinAddrs(addrs []netip.Addr) string {
	text := ""
	for _, a := range addrs {
		text = joinComma(text, a.String())
	}
	return text
}

// maxKeyLength bounds a sharing key, which is written into the record of its terms.
const maxKeyLength = 253

// sharingTerms are the terms under which a Service with a sharing key shares its
// addresses, and their record: policy, ports, backends and key.
func sharingTerms(svc *corev1.Service, key string) (t allocator.Terms, recorded string) {
	t = allocator.Terms{Key: key, Cluster: svc.Spec.ExternalTrafficPolicy != corev1.ServiceExternalTrafficPolicyLocal}
	// Under the policy Local, only Services with the same endpoints may share.
	if len(svc.Spec.Selector) > 0 {
		t.Backends = svc.Namespace + "/" + boundedText(labels.Set(svc.Spec.Selector).String())
	}
	ports := ""
	for _, p := range svc.Spec.Ports {
		t.Ports = append(t.Ports, allocator.Port{Protocol: string(cmp.Or(p.Protocol, corev1.ProtocolTCP)), Number: p.Port})
	}
	// The record must not depend on the order of the ports.
	slices.SortFunc(t.Ports, allocator.Port.Compare)
	for _, p := range t.Ports {
		ports = joinComma(ports, fmt.Sprintf("%d/%s", p.Number, p.Protocol))
	}
	policy := "Local"
	if t.Cluster {
		policy = "Cluster"
	}
	return t, strings.Join([]string{policy, boundedText(ports), t.Backends, key}, " ")
}

// boundedText is the text, or its digest if it is too long for a record.
func boundedText(text string) string {
	const maxLength = 512
	if len(text) <= maxLength {
		return text
	}
	return fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(text)))
}

// recordedSharingKey is the sharing key in recorded terms.
func recordedSharingKey(terms string) string {
	parts := strings.SplitN(terms, " ", 4) // the key may contain spaces
	if key := parts[len(parts)-1]; len(key) <= maxKeyLength {
		return key
	}
	return "" // the controller never records such a key
}

// haveAddresses are the addresses in the Service's status and in its own record, with
// the evidence that they are assigned to it. An entry of the status that is not a
// canonical IP address is left out.
func haveAddresses(svc *corev1.Service) []allocator.Have {
	ingress, pools := svc.Status.LoadBalancer.Ingress, config.OwnAllocation(svc)
	if len(ingress)+len(pools) == 0 {
		return nil
	}
	have := make([]allocator.Have, 0, max(len(ingress), len(pools)))
	leaving := config.ReadRecords(svc.Annotations[v1alpha1.AnnotationLeaving])
	var last [2]netip.Addr // by family
	for _, in := range ingress {
		if a, err := config.ParseAddr(in.IP); err == nil {
			last[familyIndex(a)] = a
		}
	}
	add := func(a netip.Addr, pool string, e allocator.Evidence) {
		_, leaves := leaving.Of(a)
		// Without its record, an address that was replaced is known by its place: the
		// controller writes it before the new one.
		leaves = leaves || e == allocator.ShownByController && a != last[familyIndex(a)]
		have = append(have, allocator.Have{Addr: a, Pool: pool, Leaving: leaves, Evidence: e})
	}
	for _, in := range ingress {
		a, err := config.ParseAddr(in.IP)
		if err != nil {
			continue
		}
		if pool, recorded := pools.Of(a); recorded {
			add(a, pool, allocator.RecordedAndShown)
		} else if v1alpha1.OwnsIngress(svc) { // the record was dropped, as by kubectl replace
			add(a, "", allocator.ShownByController)
		} else {
			add(a, "", allocator.Shown)
		}
	}
	// The status was emptied or overwritten.
	for _, r := range pools {
		if !slices.ContainsFunc(have, func(h allocator.Have) bool { return h.Addr == r.Addr }) {
			add(r.Addr, r.Value, allocator.Recorded)
		}
	}
	return have
}

// copiedAddresses are the addresses in a record of another Service, at most one of
// each family: the Service is a copy of that one, or was restored from a backup.
func copiedAddresses(svc *corev1.Service) (addrs []netip.Addr) {
	records, own := config.ReadAllocation(svc)
	if own {
		return nil
	}
	for _, r := range records {
		if !slices.ContainsFunc(addrs, func(a netip.Addr) bool { return a.Is4() == r.Addr.Is4() }) {
			addrs = append(addrs, r.Addr)
		}
	}
	return addrs
}

// externalIPRequests are requests that only name the spec.externalIPs of Services.
func externalIPRequests(services []*corev1.Service) (requests []allocator.Request) {
	for _, svc := range services {
		if len(svc.Spec.ExternalIPs) == 0 {
			continue
		}
		r := allocator.Request{Key: KeyOf(svc), Role: allocator.ExternalIPs}
		for _, text := range svc.Spec.ExternalIPs {
			if a, err := config.ParseAddr(text); err == nil {
				r.Have = append(r.Have, allocator.Have{Addr: a})
			}
		}
		requests = append(requests, r)
	}
	return requests
}
