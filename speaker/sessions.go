package speaker

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/speaker/bfd"
	"github.com/fairlead-io/fairlead/speaker/bgp"
	"github.com/fairlead-io/fairlead/speaker/plan"
)

// sessionCarriers returns a function that reports whether the session with the i-th
// peer of the plan carries routes to an address, and one that explains why none of
// some sessions does.
func sessionCarriers(o observedState) (carries func(i int, addr netip.Addr) bool, explain func(peers []int) string) {
	status := make([]bgp.PeerStatus, len(o.plan.BGP))
	for i, p := range o.plan.BGP {
		status[i] = peerStatus(o.sessions, p.Config.Name)
	}
	carries = func(i int, addr netip.Addr) bool {
		s := status[i]
		return o.plan.BGP[i].Problem.Reason == "" && s.State == bgp.Established && (addr.Is4() && s.IPv4 || addr.Is6() && s.IPv6)
	}
	explain = func(peers []int) string {
		var problems []string
		for _, i := range peers {
			text := status[i].LastError
			switch {
			case o.plan.BGP[i].Problem.Reason != "":
				text = o.plan.BGP[i].Problem.Message
			case status[i].State == bgp.Established:
				text = status[i].Withheld
			case text == "":
				text = "not established yet"
			}
			problems = append(problems, o.plan.BGP[i].Config.Name+": "+text)
		}
		return "no BGP session can carry it: " + v1alpha1.Abbreviate(problems, "; ")
	}
	return carries, explain
}

// carriedRoutes returns the peers to which each address is advertised over an established
// session. refused has the addresses that no session carries and that are not announced on
// interfaces either, with the reason.
func carriedRoutes(o observedState) (to map[netip.Addr][]string, refused map[netip.Addr]v1alpha1.Refusal) {
	to, refused = make(map[netip.Addr][]string, len(o.plan.Advertised)), map[netip.Addr]v1alpha1.Refusal{}
	carries, explain := sessionCarriers(o)
	for addr, peers := range o.plan.Advertised {
		var names []string
		for _, i := range peers {
			if carries(i, addr) {
				names = append(names, o.plan.BGP[i].Config.Name)
			}
		}
		if len(names) > 0 {
			to[addr] = names
		} else if _, onInterface := o.claims[addr]; !onInterface {
			refused[addr] = v1alpha1.Refusal{Reason: v1alpha1.NoSession, Message: explain(peers)}
		}
	}
	return to, refused
}

// peerStatus returns the status of the peer from all, which are sorted by name.
func peerStatus(all []bgp.PeerStatus, peer string) bgp.PeerStatus {
	i, found := slices.BinarySearchFunc(all, peer, func(s bgp.PeerStatus, name string) int {
		return strings.Compare(s.Name, name)
	})
	if !found {
		return bgp.PeerStatus{Name: peer}
	}
	return all[i]
}

// sessionReports returns the report for each session. What changes with every attempt
// to connect is omitted or kept from the last report, so that a router that is down
// does not cause a status update for each attempt.
func sessionReports(before []v1alpha1.Session, o observedState) (sessions []v1alpha1.Session) {
	for _, p := range o.plan.BGP {
		st := peerStatus(o.sessions, p.Config.Name)
		s := v1alpha1.Session{
			Peer: p.Config.Name, State: stableState(st.State, p), Routes: int64(st.Routes), Lost: int64(st.Lost),
			LastError: st.LastError, FailedAt: string(st.FailedAt), Withheld: st.Withheld, Pending: st.Pending,
			Problem: p.Problem.Message, ProblemReason: p.Problem.Reason,
		}
		if p.Peer.Address.IsValid() {
			s.RemoteAddress = netip.AddrPortFrom(p.Peer.Address, p.Peer.Port).String()
		}
		if st.State == bgp.Established {
			s.LocalAddress, s.RemoteAddress = st.LocalAddr.String(), st.RemoteAddr.String()
			s.RemoteASN, s.RemoteRouterID = int64(st.Remote.ASN), st.Remote.RouterID.String()
			s.HoldTime = int64(st.HoldTime / time.Second)
			s.Families = familyNames(st)
			for _, hop := range []netip.Addr{st.NextHopIPv4, st.NextHopIPv6} {
				if hop.IsValid() {
					s.NextHops = append(s.NextHops, hop.String())
				}
			}
			s.GracefulRestart = gracefulRestartMessage(p, st)
		}
		i := slices.IndexFunc(before, func(b v1alpha1.Session) bool { return b.Peer == s.Peer })
		s.Since, s.LastErrorTime = metaTime(st.Since), metaTime(st.LastErrorAt)
		if i >= 0 && before[i].LastError == s.LastError && before[i].Lost == s.Lost && before[i].LastErrorTime != nil {
			s.LastErrorTime = before[i].LastErrorTime
		}
		if i >= 0 && before[i].State == s.State && s.State != bgp.Established.String() && before[i].Since != nil {
			s.Since = before[i].Since
		}
		if key, _, ok := bfdPath(p); ok && p.Problem.Reason == "" {
			s.BFD, s.BFDMessage = bfd.AdminDown.String(), "not possible with these addresses"
			path, runs := o.paths[key]
			switch {
			case runs:
				s.BFD, s.BFDMessage = bfdReport(path)
				if o.identity.problem != "" {
					s.BFDMessage = strings.TrimPrefix(s.BFDMessage+"; a restart of the speaker ends the session: "+o.identity.problem, "; ")
				}
			case !o.identity.decided:
				s.BFD, s.BFDMessage = bfd.Down.String(), "waiting for "+o.identity.problem
			}
		}
		sessions = append(sessions, s)
	}
	slices.SortFunc(sessions, func(a, b v1alpha1.Session) int { return strings.Compare(a.Peer, b.Peer) })
	return sessions
}

// stableState returns the state without the transitions of each connection attempt.
func stableState(state bgp.SessionState, p plan.Peering) string {
	switch {
	case p.Problem.Reason != "":
		return bgp.Idle.String()
	case state == bgp.Established:
		return state.String()
	case p.Peer.Passive:
		return bgp.Active.String()
	}
	return bgp.Connect.String()
}

func familyNames(st bgp.PeerStatus) (names []string) {
	if st.IPv4 {
		names = append(names, "IPv4")
	}
	if st.IPv6 {
		names = append(names, "IPv6")
	}
	return names
}

// gracefulRestartMessage returns what a restart of the speaker does to the routes.
func gracefulRestartMessage(p plan.Peering, st bgp.PeerStatus) string {
	switch {
	case p.Peer.RestartTime == 0:
		return ""
	case !st.Remote.GracefulRestart:
		return "not supported by the router: restarting the speaker withdraws the routes temporarily"
	}
	return fmt.Sprintf("the router keeps the routes for %s", p.Peer.RestartTime)
}

// bfdReport returns the state of a BFD session and, if Up, its detection time or
// otherwise why it is not.
func bfdReport(s bfd.Status) (state, message string) {
	switch {
	case s.Problem != "":
		return s.State.String(), s.Problem
	case s.State == bfd.Up:
		return s.State.String(), fmt.Sprintf("a failed path is detected within %s", s.Detection)
	case s.Diagnostic != 0:
		return s.State.String(), s.Diagnostic.String()
	}
	return s.State.String(), ""
}

// metaTime returns t to the second, nil if it is zero.
func metaTime(t time.Time) *metav1.Time {
	if t.IsZero() {
		return nil
	}
	seconds := metav1.NewTime(t.Truncate(time.Second))
	return &seconds
}
