package plan

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/speaker/l2"
)

// candidate is a node's part in a pool.
type candidate struct {
	*member
	selected   bool
	subnets    bool     // announces on links whose subnet contains the address
	interfaces []string // and on these
}

// candidates are all nodes' parts in the addresses of a pool; nil if no
// advertisement covers it.
func (d *decision) candidates(pool string) []candidate {
	if known, ok := d.pools[pool]; ok {
		return known
	}
	var all []candidate
	for _, ad := range d.Config.L2Advertisements {
		if !ad.Covers(pool) {
			continue
		}
		if all == nil {
			all = make([]candidate, len(d.nodes))
			for i, m := range d.nodes {
				all[i].member = m
			}
		}
		for i := range all {
			if ad.SelectsNode(all[i].labels) {
				all[i].selected = true
				all[i].subnets = all[i].subnets || len(ad.Interfaces) == 0
				all[i].interfaces = append(all[i].interfaces, ad.Interfaces...)
			}
		}
	}
	d.pools[pool] = all
	return all
}

// eligible is a node that may own the address, with the links it may use.
type eligible struct {
	*member
	whole bool // serves all Services that hold the address
	score uint64
	links []l2.Interface
}

// own returns each L2 owner's links, or why there is none. watch, if not nil,
// hears every node's standing, by name.
func (d *decision) own(h holding, watch func(Standing)) (claims map[string][]string, why v1alpha1.Refusal) {
	candidates := d.candidates(h.pool)
	if candidates == nil {
		return nil, v1alpha1.Refusal{Reason: v1alpha1.NoAdvertisement}
	}
	if h.addr.Is6() {
		return nil, v1alpha1.Refusal{Reason: v1alpha1.UnsupportedFamily, Message: "IPv6 addresses are not announced on links yet"}
	}
	standings, fit := d.standings[:0], d.fit[:0]
	defer func() { d.standings, d.fit = standings, fit }()
	for _, c := range candidates {
		r, links := c.judge(h)
		if r.Reason == "" {
			_, whole := h.serves(c.name)
			fit = append(fit, eligible{c.member, whole, score(c.seed, h.addr), links})
		}
		standings = append(standings, Standing{Node: c.name, Reason: r.Reason, Message: r.Message})
	}
	claims = map[string][]string{}
	if subnetsOnly(fit, h.addr) {
		// Subnets that contain one address are one segment.
		if len(fit) > 0 {
			owner := slices.MaxFunc(fit, rank)
			for _, l := range owner.links {
				claims[owner.name] = append(claims[owner.name], l.Name)
			}
		}
	} else {
		for _, segment := range segments(fit) {
			owner := slices.MaxFunc(segment, func(a, b seat) int { return rank(a.eligible, b.eligible) })
			for _, s := range segment {
				if s.member == owner.member {
					claims[owner.name] = append(claims[owner.name], s.link.Name)
				}
			}
		}
		for _, links := range claims {
			slices.Sort(links)
		}
	}
	if len(claims) == 0 {
		why = summarize(h.pool, standings)
	}
	for _, s := range standings {
		if watch == nil {
			break
		}
		if s.Owns = claims[s.Node]; s.Reason == "" && len(s.Owns) == 0 {
			s.Reason, s.Message = outranked(h, s.Node, fit)
		}
		watch(s)
	}
	return claims, why
}

// outranked says why a node that is eligible does not own the address.
func outranked(h holding, node string, fit []eligible) (v1alpha1.Reason, string) {
	if _, all := h.serves(node); !all && slices.ContainsFunc(fit, func(e eligible) bool { return e.whole }) {
		r := h.lacks(node)
		return r.Reason, r.Message
	}
	return v1alpha1.NotOwner, "could announce it, but another node ranks higher"
}

// judge says why the candidate may not own the address, or on which links it may.
// The order of the questions is that of summarize.
func (c candidate) judge(h holding) (v1alpha1.Refusal, []l2.Interface) {
	if !c.selected {
		return v1alpha1.Refusal{Reason: v1alpha1.NodeNotSelected, Message: "is selected by no L2Advertisement of the pool"}, nil
	}
	if c.refusal.Reason != "" {
		return c.refusal, nil
	}
	links := c.links
	fits := func(l l2.Interface) bool {
		return slices.Contains(c.interfaces, l.Name) || c.subnets && l.Contains(h.addr)
	}
	if slices.ContainsFunc(links, func(l l2.Interface) bool { return !fits(l) }) {
		links = nil
		for _, l := range c.links {
			if fits(l) {
				links = append(links, l)
			}
		}
	}
	if len(links) == 0 {
		var has []string
		for _, l := range c.links {
			for _, p := range l.Prefixes {
				has = append(has, l.Name+" "+p.Masked().String())
			}
		}
		switch {
		case len(c.links) == 0:
			return v1alpha1.Refusal{Reason: v1alpha1.NoInterface, Message: "has reported no links: does a speaker run there?"}, nil
		case !c.subnets:
			return v1alpha1.Refusal{Reason: v1alpha1.NoInterface, Message: "has no link named " + strings.Join(c.interfaces, ", ")}, nil
		}
		return v1alpha1.Refusal{Reason: v1alpha1.NoInterface, Message: "has only " + strings.Join(has, ", ")}, nil
	}
	if any, _ := h.serves(c.name); !any {
		return h.lacks(c.name), nil
	}
	return v1alpha1.Refusal{}, links
}

// rank orders nodes for one address; the last one owns it.
func rank(a, b eligible) int {
	switch {
	case a.whole && !b.whole:
		return 1
	case b.whole && !a.whole:
		return -1
	}
	return cmp.Or(cmp.Compare(a.score, b.score), strings.Compare(a.name, b.name))
}

// subnetsOnly reports whether every link has been chosen for its subnet.
func subnetsOnly(fit []eligible, addr netip.Addr) bool {
	return !slices.ContainsFunc(fit, func(e eligible) bool {
		return slices.ContainsFunc(e.links, func(l l2.Interface) bool { return !l.Contains(addr) })
	})
}

// seat is a link of an eligible node.
type seat struct {
	eligible
	link l2.Interface
}

// segments groups the links that may be on one LAN: those with a common name
// or a common subnet, and whatever these are connected to. Too large a group
// leaves a LAN without an owner, too small a one gives it two, and two nodes
// that answer for one address are worse.
func segments(fit []eligible) (groups [][]seat) {
	for _, e := range fit {
		for _, l := range e.links {
			joined := []seat{{e, l}}
			rest := groups[:0]
			for _, g := range groups {
				if slices.ContainsFunc(g, func(s seat) bool { return together(s.link, l) }) {
					joined = append(g, joined...)
				} else {
					rest = append(rest, g)
				}
			}
			groups = append(rest, joined)
		}
	}
	return groups
}

func together(a, b l2.Interface) bool {
	return a.Name == b.Name || slices.ContainsFunc(a.Prefixes, func(p netip.Prefix) bool {
		return slices.ContainsFunc(b.Prefixes, p.Overlaps)
	})
}

// score ranks nodes for an address (highest random weight, Thaler and
// Ravishankar 1998): removing a node moves only the addresses that it owned.
func score(seed uint64, addr netip.Addr) uint64 {
	b := addr.As16()
	h := seed
	for _, x := range b {
		h = (h ^ uint64(x)) * 0x100000001b3 // FNV-1a
	}
	// FNV spreads its last bytes badly over the high bits; finish as MurmurHash3 does.
	h = (h ^ h>>33) * 0xff51afd7ed558ccd
	h = (h ^ h>>33) * 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}
