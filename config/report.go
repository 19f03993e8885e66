package config

import (
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"go4.org/netipx"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// BoundReport returns the status of a Speaker within the bounds of its schema, and the
// number of entries that it left out. Speakers apply it to what they write. Readers
// apply it again, because the schema may be an older one, and a compromised node
// writes what it likes: it examines at most the bounded number of entries, whatever
// the size of the status, and texts for people contain only printable characters. It
// does not modify the status, and the result shares memory with it. Entries of lists of
// addresses are not parsed: see ReportedRange.
func BoundReport(s v1alpha1.SpeakerStatus) (bounded v1alpha1.SpeakerStatus, omitted int) {
	r := reportBounds{addresses: v1alpha1.MaxReportedAddresses}
	for _, word := range []*string{&s.Version, &s.InterfaceSummary, &s.NeighborSummary, &s.SessionSummary} {
		*word = PrintableText(*word, v1alpha1.MaxReportedWord)
	}
	s.DataPath = PrintableText(s.DataPath, v1alpha1.MaxReportedMessage)
	s.AnnouncedAddresses, s.Omitted = max(0, s.AnnouncedAddresses), max(0, s.Omitted)
	s.Announcing = boundList(&r, s.Announcing, v1alpha1.MaxReportedGroups, r.boundAnnouncement)
	s.Unannounced = boundList(&r, s.Unannounced, v1alpha1.MaxReportedGroups, r.boundUnannounced)
	s.Warnings = boundList(&r, s.Warnings, v1alpha1.MaxReportedGroups, r.boundWarning)
	s.Sessions = boundList(&r, s.Sessions, v1alpha1.MaxReportedSessions, r.boundSession)
	s.Neighbors = boundList(&r, s.Neighbors, v1alpha1.MaxReportedSessions, func(n v1alpha1.Neighbor) (v1alpha1.Neighbor, bool) {
		n.State, n.BFD = PrintableText(n.State, v1alpha1.MaxReportedWord), PrintableText(n.BFD, v1alpha1.MaxReportedWord)
		n.Node, n.Message = PrintableText(n.Node, v1alpha1.MaxReportedName), PrintableText(n.Message, v1alpha1.MaxReportedMessage)
		n.DetectionMilliseconds = max(0, n.DetectionMilliseconds)
		return n, isInterfaceName(n.Interface) || r.reject()
	})
	return s, r.omitted
}

// BoundInterfaces returns the interfaces of an L2Node within the bounds of its schema, with
// their valid addresses, and the number of entries that it left out. Writers and readers
// apply it as they apply BoundReport.
func BoundInterfaces(all []v1alpha1.Interface) (bounded []v1alpha1.Interface, omitted int) {
	var r reportBounds
	addresses := v1alpha1.MaxReportedSubnets
	bounded = boundList(&r, all, v1alpha1.MaxReportedInterfaces, func(i v1alpha1.Interface) (v1alpha1.Interface, bool) {
		examined := i.Addresses[:min(len(i.Addresses), addresses)]
		r.omitted += len(i.Addresses) - len(examined)
		addresses -= len(examined)
		invalid := func(text string) bool { _, ok := ReportedSubnet(text); return !ok }
		if i.Addresses = examined; slices.ContainsFunc(examined, invalid) {
			i.Addresses = slices.DeleteFunc(slices.Clone(examined), invalid)
			r.omitted += len(examined) - len(i.Addresses)
		}
		if i.MACAddress != "" && !isHostMAC(i.MACAddress) {
			i.MACAddress = ""
			r.omitted++
		}
		return i, isInterfaceName(i.Name) && (i.VRF == "" || isInterfaceName(i.VRF)) || r.reject()
	})
	return bounded, r.omitted
}

// reportBounds counts what is left of the bounds for a whole report.
type reportBounds struct {
	addresses int // in groups, that are still permitted
	omitted   int
}

// reject counts an entry that is left out. It returns false.
func (r *reportBounds) reject() bool {
	r.omitted++
	return false
}

// boundList returns at most limit entries, those that bound accepts as it returns them.
func boundList[T any](r *reportBounds, all []T, limit int, bound func(T) (T, bool)) (bounded []T) {
	if len(all) == 0 {
		return nil
	}
	examined := all[:min(len(all), limit)]
	r.omitted += len(all) - len(examined)
	bounded = make([]T, 0, len(examined))
	for _, entry := range examined {
		if entry, ok := bound(entry); ok {
			bounded = append(bounded, entry)
		}
	}
	return bounded
}

// boundAddresses returns the entries that are still permitted.
func (r *reportBounds) boundAddresses(all []string) []string {
	bounded := all[:min(len(all), r.addresses)]
	r.addresses -= len(bounded)
	r.omitted += len(all) - len(bounded)
	return bounded
}

func (r *reportBounds) boundAnnouncement(a v1alpha1.Announcement) (v1alpha1.Announcement, bool) {
	word := func(limit int) func(string) (string, bool) {
		return func(text string) (string, bool) { return text, text == PrintableText(text, limit) || r.reject() }
	}
	a.Interfaces = boundList(r, a.Interfaces, v1alpha1.MaxReportedInterfaces, word(v1alpha1.MaxInterfaceName))
	a.Peers = boundList(r, a.Peers, v1alpha1.MaxReportedSessions, word(v1alpha1.MaxReportedName))
	if len(a.Interfaces)+len(a.Peers) == 0 {
		return a, r.reject()
	}
	a.TakenOver = boundList(r, a.TakenOver, v1alpha1.MaxTakeovers, func(t v1alpha1.Takeover) (v1alpha1.Takeover, bool) {
		t.Node, t.Message = PrintableText(t.Node, v1alpha1.MaxReportedName), PrintableText(t.Message, v1alpha1.MaxReportedMessage)
		return t, true
	})
	a.Addresses = r.boundAddresses(a.Addresses)
	return a, len(a.Addresses) > 0
}

// unannouncedReasons are the reasons that a speaker reports for an address that is not
// announced. Each is a label of a metric, so that a report must not add others.
var unannouncedReasons = []v1alpha1.Reason{
	v1alpha1.NodeAddress, v1alpha1.NoAdvertisement, v1alpha1.NoEligibleNode, v1alpha1.NoEndpoints, v1alpha1.NoInterface,
	v1alpha1.NoPeer, v1alpha1.NoSession, v1alpha1.AnnounceFailed, v1alpha1.AddressConflict,
}

// warningReasons are the reasons that a speaker reports for an announced address that
// clients may not reach, or that may not move when its owner fails.
var warningReasons = []v1alpha1.Reason{v1alpha1.AddressConflict, v1alpha1.ProxyARP, v1alpha1.KernelAnswers, v1alpha1.NoEndpoints}

func (r *reportBounds) boundUnannounced(u v1alpha1.AddressReason) (v1alpha1.AddressReason, bool) {
	return r.boundReason(u, unannouncedReasons)
}

func (r *reportBounds) boundWarning(w v1alpha1.AddressReason) (v1alpha1.AddressReason, bool) {
	return r.boundReason(w, warningReasons)
}

func (r *reportBounds) boundReason(u v1alpha1.AddressReason, permitted []v1alpha1.Reason) (v1alpha1.AddressReason, bool) {
	if !slices.Contains(permitted, u.Reason) {
		return u, r.reject()
	}
	u.Message, u.Addresses = PrintableText(u.Message, v1alpha1.MaxReportedMessage), r.boundAddresses(u.Addresses)
	return u, len(u.Addresses) > 0
}

func (r *reportBounds) boundSession(s v1alpha1.Session) (v1alpha1.Session, bool) {
	const maxFields = 64
	for _, word := range []*string{&s.State, &s.LocalAddress, &s.RemoteAddress, &s.RemoteRouterID, &s.FailedAt, &s.BFD} {
		*word = PrintableText(*word, v1alpha1.MaxReportedWord)
	}
	for _, text := range []*string{&s.GracefulRestart, &s.Withheld, &s.LastError, &s.Problem, &s.BFDMessage} {
		*text = PrintableText(*text, v1alpha1.MaxReportedMessage)
	}
	for _, count := range []*int64{&s.RemoteASN, &s.HoldTime, &s.Routes, &s.Lost} {
		*count = max(0, *count)
	}
	words := func(text string) (string, bool) { return PrintableText(text, v1alpha1.MaxReportedWord), true }
	for _, list := range []*[]string{&s.Families, &s.NextHops, &s.Pending} {
		*list = boundList(r, *list, maxFields, words)
	}
	if !isReason(s.ProblemReason) {
		s.ProblemReason = "" // the API server would refuse it in a condition of the peer
	}
	return s, s.Peer == PrintableText(s.Peer, v1alpha1.MaxReportedName) || r.reject()
}

// isReason reports whether the text is a valid reason of a condition, as all Reasons are.
func isReason(r v1alpha1.Reason) bool {
	letter := func(r rune) bool { return 'A' <= r && r <= 'Z' || 'a' <= r && r <= 'z' }
	return r != "" && len(r) <= v1alpha1.MaxReportedWord && !strings.ContainsFunc(string(r), func(r rune) bool { return !letter(r) })
}

// isInterfaceName reports whether the kernel accepts the name of an interface, and
// all of its characters can be printed.
func isInterfaceName(name string) bool {
	printable := func(r rune) bool { return '!' <= r && r <= '~' && r != '/' }
	return name != "" && len(name) <= v1alpha1.MaxInterfaceName && !strings.ContainsFunc(name, func(r rune) bool { return !printable(r) })
}

// hostMAC is the MAC of an interface as net.HardwareAddr formats it: six bytes, of which the
// first does not have the bit of groups (IEEE 802). The schema has the same pattern.
var hostMAC = regexp.MustCompile(`^[0-9a-f][02468ace](:[0-9a-f]{2}){5}$`)

func isHostMAC(text string) bool {
	return len(text) == len("00:00:00:00:00:00") && hostMAC.MatchString(text)
}

// PrintableText returns the text with a "?" in place of each character that is not
// printable, such as those that control a terminal or reverse the direction of text,
// and truncates it to limit bytes.
func PrintableText(text string, limit int) string {
	const suffix = "…"
	if len(text) > limit {
		end := limit - len(suffix)
		for end > 0 && !utf8.RuneStart(text[end]) {
			end--
		}
		text = text[:end] + suffix
	}
	if strings.IndexFunc(text, isUnprintable) < 0 {
		return text
	}
	return strings.Map(func(r rune) rune {
		if isUnprintable(r) {
			return '?'
		}
		return r
	}, text)
}

func isUnprintable(r rune) bool { return !unicode.IsPrint(r) || r == utf8.RuneError }

// ReportedSubnet parses an address of an interface in an L2Node. Its subnet is
// the segment that the node claims to be connected to. A prefix that is too short for a
// LAN is not valid: "0.0.0.0/0" would make the node a candidate for all addresses.
func ReportedSubnet(text string) (p netip.Prefix, ok bool) {
	if len(text) > v1alpha1.MaxReportedRange {
		return netip.Prefix{}, false
	}
	p, err := netip.ParsePrefix(text)
	shortest := v1alpha1.MinPrefixLength4
	if p.Addr().Is6() {
		shortest = v1alpha1.MinPrefixLength6
	}
	return p, err == nil && !p.Addr().Is4In6() && p.Bits() >= shortest
}

// ReportedRange parses an entry of a speaker's report: an address or "first-last".
// Callers must not expand the range, which may contain any number of addresses.
func ReportedRange(text string) (r netipx.IPRange, ok bool) {
	if len(text) > v1alpha1.MaxReportedRange {
		return netipx.IPRange{}, false
	}
	r, err := parseRange(text)
	return r, err == nil
}
