// Package config parses Fairlead's custom resources into an immutable Config and a
// list of Problems. Everything that is valid is kept: an invalid entry does not
// affect the others.
package config

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"go4.org/netipx"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// Objects has the custom resources that Parse reads.
type Objects struct {
	Pools             []*v1alpha1.IPAddressPool
	L2Advertisements  []*v1alpha1.L2Advertisement
	BGPPeers          []*v1alpha1.BGPPeer
	BGPAdvertisements []*v1alpha1.BGPAdvertisement
	BFDProfiles       []*v1alpha1.BFDProfile
	Communities       []*v1alpha1.Community
}

// Config is the valid part of Objects. It is immutable.
type Config struct {
	// Pools in the order in which they are used: by priority, those that select
	// Services before the others, then by name.
	Pools []Pool
	// L2Advertisements by name.
	L2Advertisements []L2Advertisement
	// BGPPeers, oldest first: of two that conflict, the first is used.
	BGPPeers []BGPPeer
	// BGPAdvertisements by name.
	BGPAdvertisements []BGPAdvertisement
}

// Pool is the valid part of an IPAddressPool.
type Pool struct {
	Name          string
	Ranges        []netipx.IPRange // sorted, disjoint, not adjacent
	AutoAssign    bool
	AvoidBuggyIPs bool
	Edges         []netip.Addr // that AvoidBuggyIPs excludes in addition to those that end in .0 and .255
	Priority      int32        // 0 is the lowest
	Selection
	Terminating bool     // assigned addresses are kept, no new ones are assigned
	Overlaps    []string // pools that contain some of its addresses, sorted
}

// Problem is an invalid entry of an object.
type Problem struct {
	Kind    string // "IPAddressPool"
	Name    string
	Field   string // "spec.addresses[3]"
	Reason  v1alpha1.Reason
	Message string // does not repeat object and field
}

// String returns the object, the field and the message.
func (p Problem) String() string {
	return fmt.Sprintf("%s %s: %s: %s", p.Kind, p.Name, p.Field, p.Message)
}

// Advertised reports whether any advertisement covers the pool.
func (c *Config) Advertised(p *Pool) bool {
	return slices.ContainsFunc(c.L2Advertisements, func(ad L2Advertisement) bool { return ad.Covers(p.Name) }) ||
		slices.ContainsFunc(c.BGPAdvertisements, func(ad BGPAdvertisement) bool { return ad.Covers(p.Name) })
}

// maxMessage is the maximum length of a condition's message, in bytes. The API
// server rejects a status with a longer one.
const maxMessage = 32768

// Message truncates the text to the maximum length of a condition's message. It may
// contain names and selectors of any length.
func Message(text string) string {
	const suffix = " … (truncated)"
	if len(text) <= maxMessage {
		return text
	}
	return strings.ToValidUTF8(text[:maxMessage-len(suffix)], "") + suffix
}

// ReadyCondition returns the condition Ready of an object with these problems, of
// which it lists three. The caller sets lastTransitionTime.
func ReadyCondition(problems []Problem, whenReady string) metav1.Condition {
	if len(problems) == 0 {
		return metav1.Condition{
			Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue,
			Reason: string(v1alpha1.Ready), Message: whenReady,
		}
	}
	var lines []string
	for _, p := range problems {
		lines = append(lines, p.Field+": "+p.Message)
	}
	return metav1.Condition{
		Type: v1alpha1.ConditionReady, Status: metav1.ConditionFalse,
		Reason: string(problems[0].Reason), Message: Message(v1alpha1.Abbreviate(lines, "; ")),
	}
}

// Parse returns the objects without their invalid entries, which it reports. The
// result does not depend on the order of the objects.
func Parse(objects Objects) (Config, []Problem) {
	var c Config
	var problems []Problem
	report := func(p ...Problem) { problems = append(problems, p...) }

	// A pool that is being deleted no longer assigns addresses, so others take precedence.
	pools := byAge(objects.Pools)
	slices.SortStableFunc(pools, func(a, b *v1alpha1.IPAddressPool) int { return cmp.Compare(terminatingRank(a), terminatingRank(b)) })
	c.Pools = parsePools(pools, report)
	slices.SortFunc(c.Pools, func(a, b Pool) int {
		// As an unsigned number 0 - 1 is the largest: pools without a priority are last.
		return cmp.Or(cmp.Compare(uint32(a.Priority)-1, uint32(b.Priority)-1),
			cmp.Compare(a.selectionRank(), b.selectionRank()), strings.Compare(a.Name, b.Name))
	})

	refs := newReferences(objects)
	for _, object := range byName(objects.L2Advertisements) {
		c.L2Advertisements = append(c.L2Advertisements, parseL2Advertisement(object, refs, report))
	}
	for _, object := range byAge(objects.BGPPeers) {
		c.BGPPeers = append(c.BGPPeers, parseBGPPeer(object, refs, report))
	}
	refs.communities = parseCommunities(byAge(objects.Communities), report)
	aligned := alignmentCache{}
	for _, object := range byName(objects.BGPAdvertisements) {
		ad := parseBGPAdvertisement(object, refs, report)
		aligned.checkAlignment(ad, c.Pools, report)
		checkAttributes(ad, c.BGPAdvertisements, report)
		c.BGPAdvertisements = append(c.BGPAdvertisements, ad)
	}
	return c, problems
}

// objectReferences has the objects that others refer to.
type objectReferences struct {
	pools       []*v1alpha1.IPAddressPool
	poolNames   map[string]bool
	peerNames   map[string]bool
	profiles    map[string]*v1alpha1.BFDProfile
	communities map[string]string // values by name
}

func newReferences(o Objects) objectReferences {
	refs := objectReferences{
		pools: o.Pools, poolNames: make(map[string]bool, len(o.Pools)), peerNames: make(map[string]bool, len(o.BGPPeers)),
		profiles: make(map[string]*v1alpha1.BFDProfile, len(o.BFDProfiles)),
	}
	for _, p := range o.Pools {
		refs.poolNames[p.Name] = true
	}
	for _, p := range o.BGPPeers {
		refs.peerNames[p.Name] = true
	}
	for _, f := range o.BFDProfiles {
		refs.profiles[f.Name] = f
	}
	return refs
}

// byAge sorts the objects, oldest first, so that the younger object of a conflict is
// reported.
func byAge[T metav1.Object](objects []T) []T {
	return slices.SortedFunc(slices.Values(objects), func(a, b T) int {
		return cmp.Or(a.GetCreationTimestamp().Compare(b.GetCreationTimestamp().Time), strings.Compare(a.GetName(), b.GetName()))
	})
}

func terminatingRank(p *v1alpha1.IPAddressPool) int {
	if p.DeletionTimestamp != nil {
		return 1
	}
	return 0
}

func byName[T metav1.Object](objects []T) []T {
	return slices.SortedFunc(slices.Values(objects), func(a, b T) int { return strings.Compare(a.GetName(), b.GetName()) })
}
