package guard

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// guardState returns the guard's routes and rules in the node's kernel, as text.
func (w testNetwork) guardState() (all []string) {
	w.node.t.Helper()
	w.node.mustRun(func() error {
		k := kernelState{Handle: &netlink.Handle{}, observed: guardTables{map[netip.Prefix]routeAction{}, map[interfaceRule]bool{}}}
		for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
			if err := k.readFamily(family); err != nil {
				return err
			}
		}
		c := diffTables(guardTables{}, k.observed)
		for _, r := range c.addRoutes {
			all = append(all, fmt.Sprintf("%d %s", r.action, r.dst))
		}
		for _, r := range c.addRules {
			all = append(all, fmt.Sprintf("%s v6=%t", r.iface, r.v6))
		}
		return nil
	})
	return all
}

func (w testNetwork) expectGuardState(want ...string) {
	w.node.t.Helper()
	if observed := w.guardState(); strings.Join(observed, ", ") != strings.Join(want, ", ") {
		w.node.t.Errorf("have %q, want %q", observed, want)
	}
}

// TestLeftovers checks that a new process adopts what a killed one left.
func TestLeftovers(t *testing.T) {
	w := newTestNetwork(t)
	w.setGuard(New(discardLog), State{
		Prefixes: parsePrefixes("203.0.113.1/32", "203.0.113.2/32", "2001:db8::/32"), Interfaces: []string{"pod0"},
	})
	w.expectGuardState("2 203.0.113.1/32", "2 203.0.113.2/32", "2 2001:db8::/32",
		"eth0 v6=false", "eth0 v6=true", "pod0 v6=false", "pod0 v6=true")
	g := New(discardLog)
	w.setGuard(g, State{Prefixes: parsePrefixes("203.0.113.2/32", "10.0.0.0/8")})
	w.expectGuardState("1 10.1.0.0/24", "1 10.244.1.0/24", "2 10.0.0.0/8", "2 203.0.113.2/32", "eth0 v6=false")
	// A throw route becomes an unreachable one, and vice versa.
	w.setGuard(g, State{Prefixes: parsePrefixes("10.0.0.0/8", "fd00::/8", "fd02::/64")})
	w.node.addRoute("10.5.0.7/32", "10.1.0.1")
	w.node.addRoute("fd05::7/128", "fd01::1")
	w.setGuard(g, State{Prefixes: parsePrefixes("10.0.0.0/8", "fd05::/16")})
	w.expectGuardState("1 10.1.0.0/24", "1 10.5.0.7/32", "1 10.244.1.0/24", "1 fd05::7/128",
		"2 10.0.0.0/8", "2 fd05::/16", "eth0 v6=false", "eth0 v6=true")
	w.setGuard(g, State{Prefixes: parsePrefixes("10.0.0.0/8", "10.5.0.7/32", "fd05::/16", "fd05::7/128")})
	w.expectGuardState("1 10.1.0.0/24", "1 10.244.1.0/24",
		"2 10.0.0.0/8", "2 10.5.0.7/32", "2 fd05::/16", "2 fd05::7/128", "eth0 v6=false", "eth0 v6=true")
	w.setGuard(g, State{Prefixes: parsePrefixes("10.0.0.0/8", "fd05::/16")})
	w.expectGuardState("1 10.1.0.0/24", "1 10.5.0.7/32", "1 10.244.1.0/24", "1 fd05::7/128",
		"2 10.0.0.0/8", "2 fd05::/16", "eth0 v6=false", "eth0 v6=true")
	w.node.mustRun(func() error { return New(discardLog).Remove(t.Context()) })
	w.expectGuardState()
}

// TestForeign checks that rules and routes with some, but not all of the guard's
// numbers are left alone.
func TestForeign(t *testing.T) {
	w := newTestNetwork(t)
	list := func() (all string) {
		w.node.mustRun(func() error {
			for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
				rules, err := netlink.RuleList(family)
				if err != nil {
					return err
				}
				for _, r := range rules {
					all += fmt.Sprintf("%s iif %s protocol %d\n", r, r.IifName, r.Protocol)
				}
			}
			routes, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, allTables, netlink.RT_FILTER_TABLE)
			for _, r := range routes {
				if r.Protocol == unix.RTPROT_KERNEL {
					continue // added and removed by the kernel at any time
				}
				all += fmt.Sprintf("%s table %d protocol %d type %d\n", r.Dst, r.Table, r.Protocol, r.Type)
			}
			return err
		})
		return all
	}
	w.node.mustRun(func() error {
		for _, change := range []func(*netlink.Rule){
			func(r *netlink.Rule) { r.Protocol = 4 },
			func(r *netlink.Rule) { r.Table = 100 },
			func(r *netlink.Rule) { r.Priority-- },
		} {
			r := interfaceRule{iface: "eth0"}.toNetlink()
			change(r)
			if err := netlink.RuleAdd(r); err != nil {
				return err
			}
		}
		for _, change := range []func(*netlink.Route){
			func(r *netlink.Route) { r.Protocol = 4 },
			func(r *netlink.Route) { r.Table = 100 },
			func(r *netlink.Route) { r.Type = unix.RTN_BLACKHOLE; r.Dst = ipNet(parsePrefixes("203.0.113.2/32")[0]) },
		} {
			r := tableRoute{parsePrefixes("203.0.113.1/32")[0], actionUnreachable}.toNetlink()
			change(r)
			if err := netlink.RouteAdd(r); err != nil {
				return err
			}
		}
		return nil
	})
	before := list()
	g := New(discardLog)
	w.setGuard(g, State{Prefixes: parsePrefixes("203.0.113.3/32", "2001:db8::/32")})
	if list() == before {
		t.Error("nothing was set")
	}
	w.setGuard(g, State{})
	if after := list(); after != before {
		t.Errorf("after an empty Set:\n%s\nbefore:\n%s", after, before)
	}
	w.setGuard(g, State{Prefixes: parsePrefixes("203.0.113.3/32", "2001:db8::/32")})
	w.node.mustRun(func() error { return g.Remove(t.Context()) })
	if after := list(); after != before {
		t.Errorf("after Remove:\n%s\nbefore:\n%s", after, before)
	}
	// A foreign route to the same destination stays and is reported.
	err := w.node.runIn(func() error {
		return g.Set(t.Context(), State{Prefixes: parsePrefixes("203.0.113.1/32", "203.0.113.9/32")})
	})
	if !errors.Is(err, unix.EEXIST) || !strings.Contains(err.Error(), "add route to 203.0.113.1/32") {
		t.Errorf("the error is %v", err)
	}
	w.expectGuardState("2 203.0.113.9/32", "eth0 v6=false")
}

func TestInterfaces(t *testing.T) {
	w := newTestNetwork(t)
	g := New(discardLog)
	p := parsePrefixes("203.0.113.1/32")
	zone := netip.MustParseAddr("fe80::1%pod0")
	for _, tt := range []struct {
		state State
		want  string
		err   string
	}{
		{State{Prefixes: p}, "eth0", ""},
		{State{Prefixes: p, Peers: []netip.Addr{netip.MustParseAddr("10.244.1.2")}}, "eth0 pod0", ""},
		{State{Prefixes: p, Peers: []netip.Addr{netip.MustParseAddr("fd02::2")}}, "eth0 pod0", ""},
		{State{Prefixes: p, Peers: []netip.Addr{zone}}, "eth0 pod0", ""},
		{State{Prefixes: p, Peers: []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("10.1.0.2")}}, "eth0", ""},
		{State{Prefixes: p, Interfaces: []string{"pod0", "eth0"}}, "eth0 pod0", ""},
		{State{Prefixes: p, Interfaces: []string{"pod0", "eth7"}}, "eth0 pod0", "guard interface eth7"},
		{State{Prefixes: p, Interfaces: []string{"lo"}}, "eth0", "guard interface lo: must not be the loopback"},
		{State{Interfaces: []string{"pod0"}}, "", ""},
	} {
		err := w.node.runIn(func() error { return g.Set(t.Context(), tt.state) })
		if (tt.err == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%+v: the error is %v, want %q", tt.state, err, tt.err)
		}
		var want []string
		if len(tt.state.Prefixes) > 0 {
			want = []string{"2 203.0.113.1/32"}
		}
		for iface := range strings.FieldsSeq(tt.want) {
			want = append(want, iface+" v6=false")
		}
		w.expectGuardState(want...)
	}
}

// TestMultipath checks that all interfaces of a default route or of the route to a
// peer are guarded.
func TestMultipath(t *testing.T) {
	w := newTestNetwork(t)
	w.node.mustRun(func() error {
		return netlink.RouteAdd(&netlink.Route{Dst: ipNet(parsePrefixes("192.0.2.9/32")[0]), MultiPath: []*netlink.NexthopInfo{
			{Gw: net.ParseIP("10.1.0.1")}, {Gw: net.ParseIP("10.244.1.2")},
		}})
	})
	w.setGuard(New(discardLog), State{Prefixes: parsePrefixes("203.0.113.1/32"), Peers: []netip.Addr{netip.MustParseAddr("192.0.2.9")}})
	w.expectGuardState("2 203.0.113.1/32", "eth0 v6=false", "pod0 v6=false")
}

// TestRecheck checks that what other programs removed is restored, after the recheck
// interval or when the state changes.
func TestRecheck(t *testing.T) {
	w := newTestNetwork(t)
	g := New(discardLog)
	s := State{Prefixes: parsePrefixes("203.0.113.1/32", "2001:db8::1/128")}
	w.setGuard(g, s)
	all := w.guardState()
	removeSome := func() {
		w.node.mustRun(func() error {
			if err := netlink.RuleDel(interfaceRule{iface: "eth0"}.toNetlink()); err != nil {
				return err
			}
			return netlink.RouteDel(tableRoute{s.Prefixes[1], actionUnreachable}.toNetlink())
		})
	}
	removeSome()
	w.setGuard(g, s)
	w.expectGuardState("2 203.0.113.1/32", "eth0 v6=true") // not rechecked yet
	g.checkedAt = g.checkedAt.Add(-recheckInterval)
	w.setGuard(g, s)
	w.expectGuardState(all...)
	removeSome()
	w.setGuard(g, State{Prefixes: append(s.Prefixes, parsePrefixes("203.0.113.2/32")...)}) // another state: at once
	w.expectGuardState("2 203.0.113.1/32", "2 203.0.113.2/32", "2 2001:db8::1/128", "eth0 v6=false", "eth0 v6=true")
	w.node.mustRun(func() error { return g.Remove(t.Context()) })
	w.setGuard(g, s) // the same state, after a Remove
	w.expectGuardState(all...)
}

func TestWithoutPermission(t *testing.T) {
	w := newTestNetwork(t)
	err := w.node.runIn(func() error {
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		if err := unix.Capset(&header, &none[0]); err != nil { // of this thread only
			return err
		}
		return New(discardLog).Set(t.Context(), State{Prefixes: parsePrefixes("203.0.113.1/32", "203.0.113.2/32")})
	})
	if !errors.Is(err, unix.EPERM) || strings.Count(err.Error(), "CAP_NET_ADMIN") != 1 {
		t.Errorf("the error is %v", err)
	}
}
