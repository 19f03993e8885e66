package config

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"

	"github.com/fairlead-io/fairlead/config/memo"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// Parser parses Objects like Parse, and caches the result until one of them
// changes. The zero value is ready for use. It must not be used concurrently.
type Parser struct {
	pools       memo.List[*v1alpha1.IPAddressPool]
	l2ads       memo.List[*v1alpha1.L2Advertisement]
	peers       memo.List[*v1alpha1.BGPPeer]
	bgpads      memo.List[*v1alpha1.BGPAdvertisement]
	profiles    memo.List[*v1alpha1.BFDProfile]
	communities memo.List[*v1alpha1.Community]
	parsed      memo.Value[State, parseResult]
}

// State identifies a result of a Parser: equal States of the same Parser mean equal
// results.
type State struct{ pools, l2ads, peers, bgpads, profiles, communities uint64 }

type parseResult struct {
	config   Config
	problems []Problem
}

// Parse returns what the function Parse returns. Callers share the result and
// must not change it.
func (p *Parser) Parse(o Objects) (Config, []Problem, State) {
	state := State{
		pools:       p.pools.Observe(o.Pools, memo.SameGeneration),
		l2ads:       p.l2ads.Observe(o.L2Advertisements, sameL2Advertisement),
		peers:       p.peers.Observe(o.BGPPeers, memo.SameGeneration),
		bgpads:      p.bgpads.Observe(o.BGPAdvertisements, sameBGPAdvertisement),
		profiles:    p.profiles.Observe(o.BFDProfiles, memo.SameGeneration),
		communities: p.communities.Observe(o.Communities, memo.SameGeneration),
	}
	result := p.parsed.Get(state, func() (r parseResult) {
		r.config, r.problems = Parse(o)
		r.problems = slices.Clip(r.problems)
		return r
	})
	return result.config, result.problems, state
}

func sameL2Advertisement(a, b *v1alpha1.L2Advertisement) bool {
	return memo.SameGeneration(a, b) && slices.Equal(a.Status.SelectedPools, b.Status.SelectedPools)
}

func sameBGPAdvertisement(a, b *v1alpha1.BGPAdvertisement) bool {
	return memo.SameGeneration(a, b) && slices.Equal(a.Status.SelectedPools, b.Status.SelectedPools)
}

// SameNode reports whether two versions of a Node are equal in everything that
// Fairlead's decisions depend on. Heartbeats are ignored.
func SameNode(a, b *corev1.Node) bool {
	return a.UID == b.UID && (a.DeletionTimestamp == nil) == (b.DeletionTimestamp == nil) &&
		maps.Equal(a.Labels, b.Labels) && NodeReady(a) == NodeReady(b) &&
		equality.Semantic.DeepEqual(a.Spec, b.Spec) && equality.Semantic.DeepEqual(a.Status.Addresses, b.Status.Addresses)
}
