package plan

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/speaker/l2"
)

// localAnswer is an address of this node for which the kernel answers on an interface.
type localAnswer struct {
	l2.LocalAddress
	on *l2.Interface
}

// localAnswers returns the answers of the kernel by address, of the interfaces on which
// addresses can be announced.
func localAnswers(interfaces []l2.Interface) map[netip.Addr][]localAnswer {
	byAddr := map[netip.Addr][]localAnswer{}
	for i := range interfaces {
		if interfaces[i].VRF != "" {
			continue
		}
		for _, a := range interfaces[i].Answered {
			byAddr[a.Addr()] = append(byAddr[a.Addr()], localAnswer{a, &interfaces[i]})
		}
	}
	return byAddr
}

// answersOnSegment returns those of the answers for the address that are on the segment on
// which it is announced, whether or not an advertisement selects this node.
func (d *decision) answersOnSegment(h heldAddress, answers []localAnswer) (found []localAnswer) {
	for _, a := range answers {
		if slices.ContainsFunc(d.Config.L2Advertisements, func(ad config.L2Advertisement) bool {
			return ad.Covers(h.pool) && (slices.Contains(ad.Interfaces, a.on.Name) || len(ad.Interfaces) == 0 && a.on.Contains(h.addr))
		}) {
			found = append(found, a)
		}
	}
	return found
}

// addKernelWarnings adds the warning that the kernel of the node answers for addresses of
// Services, unless there is a more severe one about the address. The addresses have one
// message in common, so that the report stays small.
func (p *Plan) addKernelWarnings(node string, answers []localAnswer) {
	if len(answers) == 0 {
		return
	}
	slices.SortFunc(answers, func(a, b localAnswer) int {
		return cmp.Or(a.Prefix.Compare(b.Prefix), strings.Compare(a.Interface, b.Interface))
	})
	var addrs []netip.Addr
	var on, configuredOn, removals []string
	for _, a := range answers {
		addrs, on, configuredOn = append(addrs, a.Addr()), append(on, a.on.Name), append(configuredOn, a.Interface)
		removals = append(removals, fmt.Sprintf("ip addr del %s dev %s", a.Prefix, shellWord(a.Interface)))
	}
	addrs, removals = slices.Compact(addrs), slices.Compact(removals)
	names := func(all []string) string {
		slices.Sort(all)
		return v1alpha1.Abbreviate(slices.Compact(all), ", ")
	}
	subject, theyAre, them := addrs[0].String(), "it is", "it"
	if len(addrs) > 1 {
		subject, theyAre, them = fmt.Sprintf("%d addresses of Services", len(addrs)), "they are", "them"
	}
	warning := v1alpha1.Refusal{Reason: v1alpha1.KernelAnswers, Message: fmt.Sprintf(
		"the kernel of node %s answers for %s on %s, because %s configured on %s; remove %s: %s",
		node, subject, names(on), theyAre, names(configuredOn), them, v1alpha1.Abbreviate(removals, "; "))}
	for _, addr := range addrs {
		if p.Warnings[addr].Reason == "" {
			p.Warnings[addr] = warning
		}
	}
}

// shellWord quotes the name of an interface for a command line, if necessary: it may contain
// anything but slashes and white space.
func shellWord(name string) string {
	isPlain := func(r rune) bool {
		return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("._-:@", r)
	}
	if !strings.ContainsFunc(name, func(r rune) bool { return !isPlain(r) }) {
		return name
	}
	return "'" + strings.ReplaceAll(name, "'", `'\''`) + "'"
}
