package speaker

import (
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/speaker/l2"
)

// status is what the node's Speaker object says: what is announced, not what
// should be.
func status(version string, links []l2.Link, named []string, announced map[netip.Addr]l2.Claim, unannounced map[netip.Addr]Refusal) v1alpha1.SpeakerStatus {
	s := v1alpha1.SpeakerStatus{Version: version, AnnouncedAddresses: int64(len(announced))}
	for _, l := range links {
		if len(l.Prefixes) == 0 && !slices.Contains(named, l.Name) {
			continue // one end of a pod's pair, as a rule: nothing can be announced there
		}
		link := v1alpha1.Link{Name: l.Name}
		for _, p := range l.Prefixes {
			link.Addresses = append(link.Addresses, p.String())
		}
		s.Links = append(s.Links, link)
	}
	byLinks := map[string][]string{}
	for _, a := range slices.SortedFunc(maps.Keys(announced), netip.Addr.Compare) {
		key := strings.Join(announced[a].Links, ",")
		byLinks[key] = append(byLinks[key], a.String())
	}
	for _, key := range slices.Sorted(maps.Keys(byLinks)) {
		s.Announcing = append(s.Announcing, v1alpha1.Announcement{Interfaces: strings.Split(key, ","), Addresses: byLinks[key]})
	}
	byRefusal := map[Refusal][]string{}
	for _, a := range slices.SortedFunc(maps.Keys(unannounced), netip.Addr.Compare) {
		byRefusal[unannounced[a]] = append(byRefusal[unannounced[a]], a.String())
	}
	refusals := slices.SortedFunc(maps.Keys(byRefusal), func(a, b Refusal) int { return strings.Compare(a.Message, b.Message) })
	for _, r := range refusals {
		s.Unannounced = append(s.Unannounced, v1alpha1.Unannounced{Reason: r.Reason, Message: r.Message, Addresses: byRefusal[r]})
	}
	return s
}

// LinksOf reads back the links that a speaker reports.
func LinksOf(s *v1alpha1.Speaker) []l2.Link {
	var links []l2.Link
	for _, reported := range s.Status.Links {
		l := l2.Link{Name: reported.Name}
		for _, text := range reported.Addresses {
			if p, err := netip.ParsePrefix(text); err == nil {
				l.Prefixes = append(l.Prefixes, p)
			}
		}
		links = append(links, l)
	}
	return links
}

// common is what a node may count on of its own links. One that is not reported
// yet does not count: the other nodes cannot reckon with it, and would go on
// answering for what it would make this node's. One that is gone does not count
// either, whatever was reported.
func common(reported, live []l2.Link) []l2.Link {
	var links []l2.Link
	for _, l := range live {
		i := slices.IndexFunc(reported, func(r l2.Link) bool { return r.Name == l.Name })
		if i < 0 {
			continue
		}
		both := l2.Link{Name: l.Name}
		for _, p := range l.Prefixes {
			if slices.Contains(reported[i].Prefixes, p) {
				both.Prefixes = append(both.Prefixes, p)
			}
		}
		links = append(links, both)
	}
	return links
}

// announcedBefore reads back the addresses that the speaker announced when it
// last reported.
func announcedBefore(s *v1alpha1.Speaker) map[netip.Addr]bool {
	before := map[netip.Addr]bool{}
	if s == nil {
		return before
	}
	for _, group := range s.Status.Announcing {
		for _, text := range group.Addresses {
			if a, err := netip.ParseAddr(text); err == nil {
				before[a] = true
			}
		}
	}
	return before
}
