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

// tellable says which of the plan's peers can be told of an address, and why
// none of some can.
func tellable(o outcome) (told func(i int, addr netip.Addr) bool, why func(peers []int) string) {
	status := make([]bgp.PeerStatus, len(o.plan.BGP))
	for i, p := range o.plan.BGP {
		status[i] = statusOf(o.sessions, p.Config.Name)
	}
	told = func(i int, addr netip.Addr) bool {
		s := status[i]
		return o.plan.BGP[i].Problem.Reason == "" && s.State == bgp.Established && (addr.Is4() && s.IPv4 || addr.Is6() && s.IPv6)
	}
	why = func(peers []int) string {
		var errors []string
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
			errors = append(errors, o.plan.BGP[i].Config.Name+": "+text)
		}
		return "no BGP session can carry it: " + v1alpha1.Abbreviate(errors, "; ")
	}
	return told, why
}

func statusOf(all []bgp.PeerStatus, peer string) bgp.PeerStatus {
	i, found := slices.BinarySearchFunc(all, peer, func(s bgp.PeerStatus, name string) int { return strings.Compare(s.Name, name) })
	if !found {
		return bgp.PeerStatus{Name: peer}
	}
	return all[i]
}

// sessionsOf reports each session. What changes with every attempt to connect is
// left out, or kept from before: a router that is off must not keep the API
// server busy.
func sessionsOf(before []v1alpha1.Session, o outcome) (sessions []v1alpha1.Session) {
	for _, p := range o.plan.BGP {
		st := statusOf(o.sessions, p.Config.Name)
		s := v1alpha1.Session{
			Peer: p.Config.Name, State: steady(st.State, p), Routes: int64(st.Routes), Lost: int64(st.Lost),
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
			s.Families = families(st)
			s.GracefulRestart = graceful(p, st)
		}
		i := slices.IndexFunc(before, func(b v1alpha1.Session) bool { return b.Peer == s.Peer })
		s.Since, s.LastErrorTime = timeOf(st.Since), timeOf(st.LastErrorAt)
		if i >= 0 && before[i].LastError == s.LastError && before[i].Lost == s.Lost && before[i].LastErrorTime != nil {
			s.LastErrorTime = before[i].LastErrorTime
		}
		if i >= 0 && before[i].State == s.State && s.State != bgp.Established.String() && before[i].Since != nil {
			s.Since = before[i].Since
		}
		if key, _, ok := path(p); ok && p.Problem.Reason == "" {
			s.BFD, s.BFDMessage = bfd.AdminDown.String(), "cannot be run with these addresses"
			if path, runs := o.paths[key]; runs {
				s.BFD, s.BFDMessage = pathOf(path)
			}
		}
		sessions = append(sessions, s)
	}
	slices.SortFunc(sessions, func(a, b v1alpha1.Session) int { return strings.Compare(a.Peer, b.Peer) })
	return sessions
}

// steady is the state without the steps of each attempt.
func steady(state bgp.SessionState, p plan.Peering) string {
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

func families(st bgp.PeerStatus) (names []string) {
	if st.IPv4 {
		names = append(names, "IPv4")
	}
	if st.IPv6 {
		names = append(names, "IPv6")
	}
	return names
}

func graceful(p plan.Peering, st bgp.PeerStatus) string {
	switch {
	case p.Peer.RestartTime == 0:
		return ""
	case !st.Remote.GracefulRestart:
		return "the router does not offer it: a restart of the speaker withdraws the routes for a moment"
	}
	return fmt.Sprintf("the router keeps the routes for %s", p.Peer.RestartTime)
}

func pathOf(s bfd.Status) (state, message string) {
	switch {
	case s.Problem != "":
		return s.State.String(), s.Problem
	case s.State == bfd.Up:
		return s.State.String(), fmt.Sprintf("a dead path is noticed within %s", s.Detection)
	case s.Diagnostic != 0:
		return s.State.String(), s.Diagnostic.String()
	}
	return s.State.String(), ""
}

func timeOf(t time.Time) *metav1.Time {
	if t.IsZero() {
		return nil
	}
	seconds := metav1.NewTime(t.Truncate(time.Second))
	return &seconds
}
