package speaker

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/speaker/bfd"
	"github.com/fairlead-io/fairlead/speaker/bgp"
	"github.com/fairlead-io/fairlead/speaker/l2"
	"github.com/fairlead-io/fairlead/speaker/plan"
)

// outcome is what a speaker has achieved.
type outcome struct {
	version  string
	config   config.Config
	links    []l2.Interface
	claims   map[netip.Addr]l2.Claim // in force
	plan     plan.Plan
	sessions []bgp.PeerStatus
	paths    map[bfd.Key]bfd.Status
}

// status is what the node's Speaker object says: what is announced, not what
// should be. before is what it said until now.
func status(before v1alpha1.SpeakerStatus, o outcome) v1alpha1.SpeakerStatus {
	s := v1alpha1.SpeakerStatus{Version: o.version, Interfaces: reportedInterfaces(o)}
	unannounced := maps.Clone(o.plan.Unannounced)
	announced := map[string]v1alpha1.Announcement{}
	addrs := map[string][]netip.Addr{}
	count := map[netip.Addr]bool{}
	announce := func(a v1alpha1.Announcement, addr netip.Addr) {
		key := strings.Join(a.Interfaces, ",") + " " + strings.Join(a.Peers, ",")
		announced[key], addrs[key], count[addr] = a, append(addrs[key], addr), true
	}
	for addr, claim := range o.claims {
		announce(v1alpha1.Announcement{Interfaces: claim.Interfaces}, addr)
	}
	told, why := tellable(o)
	for addr, peers := range o.plan.Advertised {
		var to []string
		for _, i := range peers {
			if told(i, addr) {
				to = append(to, o.plan.BGP[i].Config.Name)
			}
		}
		if len(to) > 0 {
			announce(v1alpha1.Announcement{Peers: to}, addr)
		} else if _, onInterface := o.claims[addr]; !onInterface {
			unannounced[addr] = v1alpha1.Refusal{Reason: v1alpha1.NoSession, Message: why(peers)}
		}
	}
	for _, key := range slices.Sorted(maps.Keys(announced)) {
		a := announced[key]
		a.Addresses = ranges(addrs[key])
		s.Announcing = append(s.Announcing, a)
	}
	s.AnnouncedAddresses = int64(len(count))

	byRefusal := map[v1alpha1.Refusal][]netip.Addr{}
	for a, refusal := range unannounced {
		byRefusal[refusal] = append(byRefusal[refusal], a)
	}
	refusals := slices.SortedFunc(maps.Keys(byRefusal), func(a, b v1alpha1.Refusal) int {
		return cmp.Or(strings.Compare(string(a.Reason), string(b.Reason)), strings.Compare(a.Message, b.Message))
	})
	for _, r := range refusals {
		s.Unannounced = append(s.Unannounced, v1alpha1.Unannounced{Reason: r.Reason, Message: r.Message, Addresses: ranges(byRefusal[r])})
	}
	s.Sessions = sessionsOf(before.Sessions, o)
	if len(s.Sessions) > 0 {
		up := 0
		for _, session := range s.Sessions {
			if session.State == bgp.Established.String() {
				up++
			}
		}
		s.SessionSummary = fmt.Sprintf("%d/%d", up, len(s.Sessions))
	}
	return s
}

func reportedInterfaces(o outcome) (links []v1alpha1.Interface) {
	var named []string
	for _, ad := range o.config.L2Advertisements {
		named = append(named, ad.Interfaces...)
	}
	for _, l := range o.links {
		if len(l.Prefixes) == 0 && !slices.Contains(named, l.Name) {
			continue // one end of a pod's pair, as a rule: nothing can be announced there
		}
		link := v1alpha1.Interface{Name: l.Name}
		for _, p := range l.Prefixes {
			link.Addresses = append(link.Addresses, p.String())
		}
		links = append(links, link)
	}
	return links
}

// ranges writes addresses as people do, runs of them as "first-last": what is
// announced by BGP is, as a rule, most of a pool.
func ranges(addrs []netip.Addr) (texts []string) {
	slices.SortFunc(addrs, netip.Addr.Compare)
	for i := 0; i < len(addrs); {
		j := i + 1
		for j < len(addrs) && addrs[j-1].Next() == addrs[j] {
			j++
		}
		if j-i == 1 {
			texts = append(texts, addrs[i].String())
		} else {
			texts = append(texts, addrs[i].String()+"-"+addrs[j-1].String())
		}
		i = j
	}
	return texts
}

// common is what a node may count on of its own links. One that is not reported
// yet does not count: the other nodes cannot reckon with it, and would go on
// answering for what it would make this node's. One that is gone does not count
// either, whatever was reported.
func common(reported, live []l2.Interface) []l2.Interface {
	var links []l2.Interface
	for _, l := range live {
		i := slices.IndexFunc(reported, func(r l2.Interface) bool { return r.Name == l.Name })
		if i < 0 {
			continue
		}
		both := l2.Interface{Name: l.Name}
		for _, p := range l.Prefixes {
			if slices.Contains(reported[i].Prefixes, p) {
				both.Prefixes = append(both.Prefixes, p)
			}
		}
		links = append(links, both)
	}
	return links
}

// announcedBefore reads back the addresses that the speaker answered for on
// links when it last reported.
func announcedBefore(s *v1alpha1.Speaker) map[netip.Addr]bool {
	before := map[netip.Addr]bool{}
	if s == nil {
		return before
	}
	for _, group := range s.Status.Announcing {
		if len(group.Interfaces) == 0 {
			continue
		}
		for _, text := range group.Addresses {
			for a := range config.AddressesOf(text) {
				before[a] = true
			}
		}
	}
	return before
}
