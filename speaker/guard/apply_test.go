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

// ours is what the guard has in the node's kernel, as text.
func (w world) ours() (all []string) {
	w.node.t.Helper()
	w.node.do(func() error {
		k := kernel{Handle: &netlink.Handle{}, have: tables{map[netip.Prefix]action{}, map[rule]bool{}}}
		for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
			if err := k.read(family); err != nil {
				return err
			}
		}
		c := diff(tables{}, k.have)
		for _, r := range c.addRoutes {
			all = append(all, fmt.Sprintf("%d %s", r.do, r.to))
		}
		for _, r := range c.addRules {
			all = append(all, fmt.Sprintf("%s v6=%t", r.link, r.v6))
		}
		return nil
	})
	return all
}

func (w world) has(want ...string) {
	w.node.t.Helper()
	if have := w.ours(); strings.Join(have, ", ") != strings.Join(want, ", ") {
		w.node.t.Errorf("have %q, want %q", have, want)
	}
}

// TestLeftovers: a new process takes over what a killed one left.
func TestLeftovers(t *testing.T) {
	w := newWorld(t)
	w.set(New(quiet), State{Prefixes: prefixes("203.0.113.1/32", "203.0.113.2/32", "2001:db8::/32"), Interfaces: []string{"pod0"}})
	w.has("2 203.0.113.1/32", "2 203.0.113.2/32", "2 2001:db8::/32", "eth0 v6=false", "eth0 v6=true", "pod0 v6=false", "pod0 v6=true")
	g := New(quiet)
	w.set(g, State{Prefixes: prefixes("203.0.113.2/32", "10.0.0.0/8")})
	w.has("1 10.1.0.0/24", "1 10.244.1.0/24", "2 10.0.0.0/8", "2 203.0.113.2/32", "eth0 v6=false")
	// A route that lets pass becomes one that refuses, and back.
	w.set(g, State{Prefixes: prefixes("10.0.0.0/8", "fd00::/8", "fd02::/64")})
	w.node.route("10.5.0.7/32", "10.1.0.1")
	w.node.route("fd05::7/128", "fd01::1")
	w.set(g, State{Prefixes: prefixes("10.0.0.0/8", "fd05::/16")})
	w.has("1 10.1.0.0/24", "1 10.5.0.7/32", "1 10.244.1.0/24", "1 fd05::7/128", "2 10.0.0.0/8", "2 fd05::/16", "eth0 v6=false", "eth0 v6=true")
	w.set(g, State{Prefixes: prefixes("10.0.0.0/8", "10.5.0.7/32", "fd05::/16", "fd05::7/128")})
	w.has("1 10.1.0.0/24", "1 10.244.1.0/24", "2 10.0.0.0/8", "2 10.5.0.7/32", "2 fd05::/16", "2 fd05::7/128", "eth0 v6=false", "eth0 v6=true")
	w.set(g, State{Prefixes: prefixes("10.0.0.0/8", "fd05::/16")})
	w.has("1 10.1.0.0/24", "1 10.5.0.7/32", "1 10.244.1.0/24", "1 fd05::7/128", "2 10.0.0.0/8", "2 fd05::/16", "eth0 v6=false", "eth0 v6=true")
	w.node.do(func() error { return New(quiet).Remove(t.Context()) })
	w.has()
}

// TestForeign: rules and routes that share some, but not all of our numbers are
// somebody else's.
func TestForeign(t *testing.T) {
	w := newWorld(t)
	list := func() (all string) {
		w.node.do(func() error {
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
					continue // comes when it likes
				}
				all += fmt.Sprintf("%s table %d protocol %d type %d\n", r.Dst, r.Table, r.Protocol, r.Type)
			}
			return err
		})
		return all
	}
	w.node.do(func() error {
		for _, change := range []func(*netlink.Rule){
			func(r *netlink.Rule) { r.Protocol = 4 },
			func(r *netlink.Rule) { r.Table = 100 },
			func(r *netlink.Rule) { r.Priority-- },
		} {
			r := rule{link: "eth0"}.netlink()
			change(r)
			if err := netlink.RuleAdd(r); err != nil {
				return err
			}
		}
		for _, change := range []func(*netlink.Route){
			func(r *netlink.Route) { r.Protocol = 4 },
			func(r *netlink.Route) { r.Table = 100 },
			func(r *netlink.Route) { r.Type = unix.RTN_BLACKHOLE; r.Dst = ipNet(prefixes("203.0.113.2/32")[0]) },
		} {
			r := route{prefixes("203.0.113.1/32")[0], refuse}.netlink()
			change(r)
			if err := netlink.RouteAdd(r); err != nil {
				return err
			}
		}
		return nil
	})
	before := list()
	g := New(quiet)
	w.set(g, State{Prefixes: prefixes("203.0.113.3/32", "2001:db8::/32")})
	if list() == before {
		t.Error("nothing was set")
	}
	w.set(g, State{})
	if after := list(); after != before {
		t.Errorf("after an empty Set:\n%s\nbefore:\n%s", after, before)
	}
	w.set(g, State{Prefixes: prefixes("203.0.113.3/32", "2001:db8::/32")})
	w.node.do(func() error { return g.Remove(t.Context()) })
	if after := list(); after != before {
		t.Errorf("after Remove:\n%s\nbefore:\n%s", after, before)
	}
	// What somebody else has in our place stays, and is reported.
	err := w.node.try(func() error { return g.Set(t.Context(), State{Prefixes: prefixes("203.0.113.1/32", "203.0.113.9/32")}) })
	if !errors.Is(err, unix.EEXIST) || !strings.Contains(err.Error(), "add route to 203.0.113.1/32") {
		t.Errorf("the error is %v", err)
	}
	w.has("2 203.0.113.9/32", "eth0 v6=false")
}

func TestLinks(t *testing.T) {
	w := newWorld(t)
	g := New(quiet)
	p := prefixes("203.0.113.1/32")
	zone := netip.MustParseAddr("fe80::1%pod0")
	for _, tt := range []struct {
		state State
		want  string
		err   string
	}{
		{State{Prefixes: p}, "eth0", ""},
		{State{Prefixes: p, Toward: []netip.Addr{netip.MustParseAddr("10.244.1.2")}}, "eth0 pod0", ""},
		{State{Prefixes: p, Toward: []netip.Addr{netip.MustParseAddr("fd02::2")}}, "eth0 pod0", ""},
		{State{Prefixes: p, Toward: []netip.Addr{zone}}, "eth0 pod0", ""},
		{State{Prefixes: p, Toward: []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("10.1.0.2")}}, "eth0", ""},
		{State{Prefixes: p, Interfaces: []string{"pod0", "eth0"}}, "eth0 pod0", ""},
		{State{Prefixes: p, Interfaces: []string{"pod0", "eth7"}}, "eth0 pod0", "guard link eth7"},
		{State{Prefixes: p, Interfaces: []string{"lo"}}, "eth0", "guard link lo: it is the loopback"},
		{State{Interfaces: []string{"pod0"}}, "", ""},
	} {
		err := w.node.try(func() error { return g.Set(t.Context(), tt.state) })
		if (tt.err == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%+v: the error is %v, want %q", tt.state, err, tt.err)
		}
		var want []string
		if len(tt.state.Prefixes) > 0 {
			want = []string{"2 203.0.113.1/32"}
		}
		for link := range strings.FieldsSeq(tt.want) {
			want = append(want, link+" v6=false")
		}
		w.has(want...)
	}
}

// TestMultipath: all links of a default route or toward a peer are guarded.
func TestMultipath(t *testing.T) {
	w := newWorld(t)
	w.node.do(func() error {
		return netlink.RouteAdd(&netlink.Route{Dst: ipNet(prefixes("192.0.2.9/32")[0]), MultiPath: []*netlink.NexthopInfo{
			{Gw: net.ParseIP("10.1.0.1")}, {Gw: net.ParseIP("10.244.1.2")},
		}})
	})
	w.set(New(quiet), State{Prefixes: prefixes("203.0.113.1/32"), Toward: []netip.Addr{netip.MustParseAddr("192.0.2.9")}})
	w.has("2 203.0.113.1/32", "eth0 v6=false", "pod0 v6=false")
}

// TestRecheck: what others took away comes back, though not at once.
func TestRecheck(t *testing.T) {
	w := newWorld(t)
	g := New(quiet)
	s := State{Prefixes: prefixes("203.0.113.1/32", "2001:db8::1/128")}
	w.set(g, s)
	all := w.ours()
	take := func() {
		w.node.do(func() error {
			if err := netlink.RuleDel(rule{link: "eth0"}.netlink()); err != nil {
				return err
			}
			return netlink.RouteDel(route{s.Prefixes[1], refuse}.netlink())
		})
	}
	take()
	w.set(g, s)
	w.has("2 203.0.113.1/32", "eth0 v6=true") // not looked at yet
	g.checked = g.checked.Add(-recheckAfter)
	w.set(g, s)
	w.has(all...)
	take()
	w.set(g, State{Prefixes: append(s.Prefixes, prefixes("203.0.113.2/32")...)}) // another state: at once
	w.has("2 203.0.113.1/32", "2 203.0.113.2/32", "2 2001:db8::1/128", "eth0 v6=false", "eth0 v6=true")
	w.node.do(func() error { return g.Remove(t.Context()) })
	w.set(g, s) // the same as once, but Remove came in between
	w.has(all...)
}

func TestWithoutPermission(t *testing.T) {
	w := newWorld(t)
	err := w.node.try(func() error {
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		if err := unix.Capset(&header, &none[0]); err != nil { // of this thread only
			return err
		}
		return New(quiet).Set(t.Context(), State{Prefixes: prefixes("203.0.113.1/32", "203.0.113.2/32")})
	})
	if !errors.Is(err, unix.EPERM) || strings.Count(err.Error(), "CAP_NET_ADMIN") != 1 {
		t.Errorf("the error is %v", err)
	}
}
