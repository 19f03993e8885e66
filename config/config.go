// Package config turns what the user asked for, Fairlead's custom resources,
// into one immutable Config and a list of Problems. It keeps everything that is
// valid: a broken entry hurts only itself.
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

// Objects is every custom resource that Parse reads.
type Objects struct {
	Pools             []*v1alpha1.IPAddressPool
	L2Advertisements  []*v1alpha1.L2Advertisement
	BGPPeers          []*v1alpha1.BGPPeer
	BGPAdvertisements []*v1alpha1.BGPAdvertisement
	BFDProfiles       []*v1alpha1.BFDProfile
	Communities       []*v1alpha1.Community
}

// Config is the valid part of Objects. It is never changed once made.
type Config struct {
	// Pools in the order in which they are used: by priority, then those that
	// select Services, then by name.
	Pools []Pool
	// L2Advertisements by name.
	L2Advertisements []L2Advertisement
	// BGPPeers, oldest first: of two that clash, the first is used.
	BGPPeers []BGPPeer
	// BGPAdvertisements by name.
	BGPAdvertisements []BGPAdvertisement
}

// Pool is the usable part of an IPAddressPool.
type Pool struct {
	Name          string
	Ranges        []netipx.IPRange // sorted, disjoint, not adjacent
	AutoAssign    bool
	AvoidBuggyIPs bool
	Edges         []netip.Addr // that AvoidBuggyIPs avoids beside those that end in .0 and .255
	Priority      int32        // 0 is last
	Selection
	Terminating bool     // keeps what it gave, gives nothing more
	Overlaps    []string // older and younger pools that have some of its addresses, sorted
}

// Problem is one thing in one object that cannot be used, in words for the
// object's owner.
type Problem struct {
	Kind    string // "IPAddressPool"
	Name    string
	Field   string // "spec.addresses[3]"
	Reason  v1alpha1.Reason
	Message string // without object and field
}

// String names the object, the field and the reason.
func (p Problem) String() string {
	return fmt.Sprintf("%s %s: %s: %s", p.Kind, p.Name, p.Field, p.Message)
}

// maxMessage is what a condition's message may have, in bytes. The API server
// refuses a status with a longer one, and all that is written together with it.
const maxMessage = 32768

// Message is the text, cut where a condition has no room for it: people write
// names and selectors of any length.
func Message(text string) string {
	const cut = " … (cut)"
	if len(text) <= maxMessage {
		return text
	}
	return strings.ToValidUTF8(text[:maxMessage-len(cut)], "") + cut
}

// ReadyCondition is the condition Ready of an object with these problems, of which
// it names three. Its time is for the writer to set.
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

// Parse keeps every object, and every entry of an object, that is valid, and
// reports the rest. Equal input gives equal output, in whatever order it comes.
func Parse(objects Objects) (Config, []Problem) {
	var c Config
	var problems []Problem
	report := func(p ...Problem) { problems = append(problems, p...) }

	// A pool that is being deleted assigns no address any more, so that others take precedence.
	pools := byAge(objects.Pools)
	slices.SortStableFunc(pools, func(a, b *v1alpha1.IPAddressPool) int { return cmp.Compare(terminating(a), terminating(b)) })
	c.Pools = parsePools(pools, report)
	slices.SortFunc(c.Pools, func(a, b Pool) int {
		// Seen as unsigned, 0 - 1 is the largest number: no priority comes last.
		return cmp.Or(cmp.Compare(uint32(a.Priority)-1, uint32(b.Priority)-1), cmp.Compare(a.breadth(), b.breadth()), strings.Compare(a.Name, b.Name))
	})

	refs := newReferences(objects)
	for _, object := range byName(objects.L2Advertisements) {
		c.L2Advertisements = append(c.L2Advertisements, parseL2Advertisement(object, refs, report))
	}
	for _, object := range byAge(objects.BGPPeers) {
		c.BGPPeers = append(c.BGPPeers, parseBGPPeer(object, refs, report))
	}
	refs.communities = parseCommunities(byAge(objects.Communities), report)
	misfits := misfits{}
	for _, object := range byName(objects.BGPAdvertisements) {
		ad := parseBGPAdvertisement(object, refs, report)
		misfits.check(ad, c.Pools, report)
		checkAttributes(ad, c.BGPAdvertisements, report)
		c.BGPAdvertisements = append(c.BGPAdvertisements, ad)
	}
	return c, problems
}

// references are the objects that others refer to.
type references struct {
	pools       []*v1alpha1.IPAddressPool
	poolNames   map[string]bool
	peerNames   map[string]bool
	profiles    map[string]*v1alpha1.BFDProfile
	communities map[string]string // values by name
}

func newReferences(o Objects) references {
	refs := references{
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

// byAge sorts objects oldest first, so that the newcomer of a conflict is the
// one that is reported.
func byAge[T metav1.Object](objects []T) []T {
	return slices.SortedFunc(slices.Values(objects), func(a, b T) int {
		return cmp.Or(a.GetCreationTimestamp().Compare(b.GetCreationTimestamp().Time), strings.Compare(a.GetName(), b.GetName()))
	})
}

func terminating(p *v1alpha1.IPAddressPool) int {
	if p.DeletionTimestamp != nil {
		return 1
	}
	return 0
}

func byName[T metav1.Object](objects []T) []T {
	return slices.SortedFunc(slices.Values(objects), func(a, b T) int { return strings.Compare(a.GetName(), b.GetName()) })
}
